"""What runs inside the daemon under measurement: agents whose words come from the generator.

Neighbours: `dispatched` writes the configuration that names these functions; `generator` publishes
to the port that is opened here, so that a published payload takes the whole road: agent, journal
(FULL sync), feed, watchers. The port speaks just enough WebSocket for wsload's publisher, because
how an agent gets its words is no part of what is measured; its cost is charged to the daemon.
Invariant: what was published to a conversation is said in its turn, in order and exactly once.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import socket
import struct
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, cast

import anyio

from dispatch.agents.port import TurnRequest
from dispatch.core.events import TextDelta
from scripts.benchmark import probe

try:
    from websockets.speedups import apply_mask
except ImportError:
    from websockets.utils import apply_mask

# A published payload begins with the conversation's name as wsload writes it: c00000.
NAME_CHARACTERS: Final = 6
# What a generator may be ahead of its agent: more is an error of the measurement.
WAITING_MAX: Final = 1_000_000
FILLER: Final = "lorem ipsum dolor sit amet "
_ACCEPT_SUFFIX: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_SHORT_ANSWER: Final = ("A short answer", " of three", " deltas.")


class Mailbox:
    """Payloads of one conversation on their way to its agent."""

    __slots__ = ("_arrived", "_texts")

    def __init__(self) -> None:
        """Begin empty."""
        self._texts: list[str] = []
        self._arrived: asyncio.Future[None] | None = None

    def put(self, text: str) -> None:
        """One more."""
        if len(self._texts) >= WAITING_MAX:
            raise RuntimeError("the generator is too far ahead of the agent")
        self._texts.append(text)
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    async def take(self) -> list[str]:
        """All that wait, at least one."""
        while not self._texts:
            self._arrived = asyncio.get_running_loop().create_future()
            await self._arrived
        texts, self._texts = self._texts, []
        return texts


_mailboxes: dict[str, Mailbox] = {}


def mailbox(conversation: str) -> Mailbox:
    """A conversation's mailbox; whoever is first makes it."""
    box = _mailboxes.get(conversation)
    if box is None:
        box = _mailboxes[conversation] = Mailbox()
    return box


async def stream(request: TurnRequest) -> AsyncIterator[TextDelta]:
    """Says what is published to its conversation, a delta a payload, until it is stopped."""
    box = mailbox(request.conversation_id)
    while True:
        for text in await box.take():
            yield TextDelta(text)


async def burst(request: TurnRequest) -> AsyncIterator[TextDelta]:
    """`COUNT BYTES PAUSE_US`: so many deltas of the generator's form, as fast as it may."""
    count, size, pause_us = (int(word) for word in request.message.split())
    head = f'{{"type":"delta","conv":"{request.conversation_id}","turn":"t1","seq":"'
    # 8 digits, 16 digits, and the punctuation below.
    room = max(0, size - len(head) - len('00000000","ts":"0000000000000000","text":""}'))
    tail = f'","text":"{(FILLER * (room // len(FILLER) + 1))[:room]}"}}'
    for number in range(count):
        yield TextDelta(f'{head}{number:08d}","ts":"{time.monotonic_ns():016d}{tail}')
        if pause_us:
            await anyio.sleep(pause_us / 1e6)


async def short(request: TurnRequest) -> AsyncIterator[TextDelta]:
    """A whole answer at once."""
    for text in _SHORT_ANSWER:
        yield TextDelta(text)


async def tokens(request: TurnRequest) -> AsyncIterator[TextDelta]:
    """`COUNT RATE`: so many tokens, so many a second; a member of a group."""
    count, rate = (int(word) for word in request.message.split())
    began = time.monotonic()
    for number in range(count):
        yield TextDelta("token ")
        await anyio.sleep(max(0.0, began + (number + 1) / rate - time.monotonic()))


class Peer(asyncio.Protocol):
    """A publisher (a WebSocket whose frames are `NAME PAYLOAD`) or a questioner (lines)."""

    def __init__(self) -> None:
        """Nothing is known of it yet."""
        self._transport: asyncio.WriteTransport | None = None
        self._rest = b""
        self._publishes = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A connection of this machine."""
        self._transport = cast("asyncio.WriteTransport", transport)
        connected = transport.get_extra_info("socket")
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        """Frames, lines, or the head of a handshake."""
        data = self._rest + data
        if self._publishes:
            self._rest = self._frames(data)
        elif data.startswith(b"GET "):
            self._rest = self._handshake(data)
        else:
            *lines, self._rest = data.split(b"\n")
            for line in lines:
                self._write(probe.answer(line.decode().strip()))

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _handshake(self, data: bytes) -> bytes:
        head, separator, rest = data.partition(b"\r\n\r\n")
        if not separator:
            return data
        keys = [
            line.partition(b":")[2].strip()
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"sec-websocket-key:")
        ]
        accept = base64.b64encode(hashlib.sha1(keys[0] + _ACCEPT_SUFFIX).digest())
        # The generator waits for the same greeting on every connection.
        hello = b'{"type":"hello"}'
        self._write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n\r\n\x81%c%b" % (accept, len(hello), hello)
        )
        self._publishes = True
        return self._frames(rest)

    def _frames(self, data: bytes) -> bytes:
        """Deliver whole frames, all of them masked text; what is left of the last one."""
        position, end_of_data = 0, len(data)
        while end_of_data - position >= 6:
            size, start = data[position + 1] & 0x7F, position + 6
            if size == 126:
                if end_of_data - position < 8:
                    break
                (size,) = struct.unpack_from("!H", data, position + 2)
                start = position + 8
            end = start + size
            if end > end_of_data:
                break
            if data[position] & 0x0F == 1:
                text = apply_mask(data[start:end], data[start - 4 : start]).decode()
                mailbox(text[:NAME_CHARACTERS]).put(text[NAME_CHARACTERS:])
            position = end
        return data[position:]


def _open_port(told_in: Path) -> asyncio.Task[asyncio.Server]:
    """Listen on a free port of the loopback, and say in a file which one it is."""
    listener = socket.create_server(("127.0.0.1", 0))
    loop = asyncio.get_running_loop()
    task = loop.create_task(loop.create_server(Peer, sock=listener))
    beside = told_in.with_suffix(".new")
    beside.write_text(str(listener.getsockname()[1]))
    beside.replace(told_in)
    return task


# The daemon imports this module while it starts, inside its loop; whoever else does has no port.
if (_path := os.environ.get("BENCH_PORT_FILE")) is not None:
    _port = _open_port(Path(_path))
