"""One transcript against one server, step by step.

Neighbours: `transcripts` has the steps, `sockets` and `client.network` carry them, `streams` and
`matching` judge what comes; `suite` runs many transcripts.
Invariant: a step either went as it is written, or raises `Mismatch`; nothing is tried twice.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final, Self

import anyio
import msgspec

from dispatch.client.dial import Address
from dispatch.client.exchange import Reply, Request, read_all
from dispatch.client.network import NetworkHttp
from dispatch.conformance.matching import Mismatch, Names, shown
from dispatch.conformance.sockets import Socket
from dispatch.conformance.streams import Expectation
from dispatch.conformance.transcripts import (
    AnyStep,
    Close,
    Closed,
    Connect,
    Exchange,
    Expect,
    Json,
    Send,
    Told,
)

# A step that takes longer has failed; the slowest waits for a turn that ends at once, and the
# repeat of a seal comes a second after it.
STEP_SECONDS: Final = 20.0


class Went(msgspec.Struct, frozen=True):
    """What came in a step: the reply, or the frames, each run of text as one."""

    reply: Json = None
    frames: list[Json] = []


class Replay:
    """The connections and names of one transcript; leave it with `async with`."""

    def __init__(self, address: Address, *, exact: bool = False) -> None:
        """`exact`: fields that are not written are a mismatch too."""
        self.names = Names(lambda: uuid.uuid4().hex, exact=exact)
        self._address = address
        self._http = NetworkHttp(address)
        self._sockets: dict[str, Socket] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def step(self, step: AnyStep, seconds: float = STEP_SECONDS) -> Went:
        """Carry it out; raises `Mismatch`, or `DispatchError` if there is no way to the server."""
        waiting: list[Expectation] = []
        try:
            with anyio.fail_after(seconds):
                return await self._carry_out(step, waiting)
        except TimeoutError as error:
            missing = waiting[0].missing if waiting else "an answer"
            raise Mismatch("the wait", missing, f"nothing within {seconds:g} s") from error

    async def _carry_out(self, step: AnyStep, waiting: list[Expectation]) -> Went:
        match step:
            case Exchange():
                return await self._exchange(step, waiting)
            case Connect(on=name):
                path = self.names.fill(step.path)
                socket = await Socket.open(self._address, step, path)
                self._stack.push_async_callback(socket.close)
                self._sockets[name] = socket
            case Send(on=name):
                await self._socket(name).send(step, self.names)
            case Expect(on=name, frames=frames):
                expectation = self._expect(frames, waiting)
                while not expectation.is_met:
                    expectation.take(await self._socket(name).next())
                return Went(frames=expectation.taken)
            case Told(on=name, frames=frames):
                return Went(frames=await self._told(self._socket(name), frames, waiting))
            case Close(on=name, code=code):
                await self._socket(name).close(code)
            case Closed(on=name, code=code):
                self.names.match(code, await self._socket(name).closed(), "close code")
        return Went()

    async def _told(
        self, socket: Socket, frames: list[Json], waiting: list[Expectation]
    ) -> list[Json]:
        taken = []
        for frame in frames:
            self._expect([frame], waiting)
            while True:
                branch, broadcast = self.names.branch(), await socket.next_broadcast()
                try:
                    branch.match(frame, broadcast)
                except Mismatch:
                    # About another conversation, or gathered with what is waited for.
                    continue
                break
            self.names.adopt(branch)
            taken.append(broadcast)
        return taken

    async def _exchange(self, step: Exchange, waiting: list[Expectation]) -> Went:
        asked = step.request
        headers = {name: self.names.fill(text) for name, text in asked.headers.items()}
        content: bytes | None = None
        if asked.text is not msgspec.UNSET:
            content = self.names.fill(asked.text).encode()
        elif asked.body is not msgspec.UNSET:
            content = msgspec.json.encode(self.names.fill(asked.body))
        if content is not None:
            headers.setdefault("Content-Type", "application/json")
        request = Request(
            asked.method,
            self.names.fill(asked.path),
            headers | self._address.headers(),
            content,
            STEP_SECONDS,
        )
        async with await self._http.open(request) as reply:
            self.names.match(step.status, reply.status, "status")
            for name, text in step.headers.items():
                self.names.match(text, reply.header(name), name)
            if isinstance(step.frames, list):
                return await self._stream(_events(reply, self.names), step, step.frames, waiting)
            if isinstance(step.lines, list):
                return await self._stream(_lines(reply), step, step.lines, waiting)
            came = _decoded(await read_all(reply))
            self.names.match(step.reply, came)
            return Went(reply=came)

    async def _stream(
        self,
        stream: AsyncIterator[Json],
        step: Exchange,
        frames: list[Json],
        waiting: list[Expectation],
    ) -> Went:
        expectation = self._expect(frames, waiting)
        async for frame in stream:
            expectation.take(frame)
            if step.leave and expectation.is_met:
                break
        if not expectation.is_met:
            raise Mismatch("the stream", expectation.missing, "its end")
        return Went(frames=expectation.taken)

    def _expect(self, frames: list[Json], waiting: list[Expectation]) -> Expectation:
        waiting[:] = [Expectation(self.names, frames)]
        return waiting[0]

    def _socket(self, name: str) -> Socket:
        if name not in self._sockets:
            raise Mismatch("the transcript", "a connection that was opened", name)
        return self._sockets[name]


def _decoded(text: bytes) -> Json:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise Mismatch("the body", "JSON", shown(text.decode(errors="replace"))) from error


async def _text_lines(reply: Reply) -> AsyncIterator[bytes]:
    rest = b""
    while piece := await reply.piece():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r")
    if rest:
        yield rest


async def _lines(reply: Reply) -> AsyncIterator[Json]:
    async for line in _text_lines(reply):
        yield _decoded(line)


async def _events(reply: Reply, names: Names) -> AsyncIterator[Json]:
    """Server-sent events: `id`, where there is one, and `data`; ids grow."""
    if not (reply.header("Content-Type") or "").startswith("text/event-stream"):
        raise Mismatch("Content-Type", "text/event-stream", str(reply.header("Content-Type")))
    frame: dict[str, Json] = {}
    last = 0
    async for line in _text_lines(reply):
        name, _, value = line.decode().partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            if not value.isdecimal() or int(value) <= last:
                raise Mismatch("id", f"a number over {last}", value)
            frame["id"] = last = int(value)
            names.values["last"] = value
        elif name == "data":
            frame["data"] = _decoded(value.encode())
        elif not line and "data" in frame:
            yield frame
            frame = {}
