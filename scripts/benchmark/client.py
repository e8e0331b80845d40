"""A WebSocket client of a few lines, and a crowd of them that only reads.

Neighbours: `dispatched` starts turns with it, `alone` measures with it where the generator's C is
not needed or not there. It blocks, because a wake-up through an event loop would be measured too.
Invariant: a wait is under a deadline.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import struct
import time
from typing import Any, Final

WAIT_SECONDS_MAX: Final = 30.0
_MASK: Final = b"\x00\x00\x00\x00"
# A handful at a time: the listener's backlog is the bound.
_AT_ONCE: Final = 64
_READ_BYTES: Final = 256 * 1024


def handshake(port: int, path: str) -> bytes:
    """The head of an upgrade to `dispatch.v1`."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: dispatch.v1\r\n\r\n"
    ).encode()


def masked(payload: bytes) -> bytes:
    """One text frame from a client; a mask of zeros is legal and leaves the payload readable."""
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", 0x81, 0x80 | size) + _MASK + payload
    if size < 65536:
        return struct.pack("!BBH", 0x81, 0xFE, size) + _MASK + payload
    return struct.pack("!BBQ", 0x81, 0xFF, size) + _MASK + payload


class Client:
    """One connection, blocking."""

    def __init__(self, port: int, path: str = "/ws") -> None:
        """Connect and shake hands."""
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS_MAX)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()
        self._socket.sendall(handshake(port, path))
        while b"\r\n\r\n" not in self._buffer:
            self._receive()
        head, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        if b" 101 " not in head.split(b"\r\n", 1)[0]:
            raise ConnectionError(head[:200].decode(errors="replace"))
        self._buffer = bytearray(rest)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cut it."""
        self._socket.close()

    def send(self, **frame: Any) -> None:
        """One JSON frame."""
        self.send_text(json.dumps(frame).encode())

    def send_text(self, payload: bytes) -> None:
        """One text frame."""
        self._socket.sendall(masked(payload))

    def next(self) -> bytes:
        """The next text."""
        while True:
            frame = self._frame()
            if frame is None:
                self._receive()
                continue
            opcode, payload = frame
            if opcode == 1:
                return payload
            if opcode == 8:
                raise ConnectionError(f"closed by the server: {payload[2:].decode()}")
            if opcode == 9:
                self._socket.sendall(b"\x8a\x80" + _MASK)

    def until(self, words: bytes) -> bytes:
        """The next text that contains these."""
        while words not in (text := self.next()):
            if b'"chat.error"' in text:
                raise ConnectionError(text.decode())
        return text

    def _receive(self) -> None:
        data = self._socket.recv(_READ_BYTES)
        if not data:
            raise ConnectionError("the server hung up")
        self._buffer += data

    def _frame(self) -> tuple[int, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        size, start = buffer[1] & 0x7F, 2
        if size == 126:
            size, start = int.from_bytes(buffer[2:4], "big"), 4
        elif size == 127:
            size, start = int.from_bytes(buffer[2:10], "big"), 10
        if len(buffer) < start + size:
            return None
        opcode, payload = buffer[0] & 0x0F, bytes(buffer[start : start + size])
        del buffer[: start + size]
        return opcode, payload


class Questions:
    """Asks the daemon's agent port about its objects and its collector."""

    def __init__(self, port: int) -> None:
        """Connect to the port that `agents` opened."""
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS_MAX)
        self._file = self._socket.makefile("rb")

    def ask(self, question: str) -> dict[str, Any]:
        """One question, one answer."""
        self._socket.sendall(question.encode() + b"\n")
        answer: dict[str, Any] = json.loads(self._file.readline())
        return answer

    def close(self) -> None:
        """Hang up."""
        self._file.close()
        self._socket.close()


class Publisher:
    """Publishes payloads to the agents' port, as the generator would."""

    def __init__(self, port: int) -> None:
        """Connect; the agents' port greets like the daemon."""
        self._client = Client(port)
        self._client.next()

    def publish(self, conversation: str, payload: str) -> None:
        """One delta for one conversation."""
        self._client.send_text((conversation + payload).encode())

    def close(self) -> None:
        """Hang up."""
        self._client.close()


class Crowd:
    """Many connections that have subscribed and then only read."""

    def __init__(self, port: int) -> None:
        """Nobody yet."""
        self._port = port
        self._selector = selectors.DefaultSelector()
        self._open: list[socket.socket] = []
        self.bytes_read = 0

    def __len__(self) -> int:
        return len(self._open)

    def join(self, count: int, conversations: list[str]) -> None:
        """So many more, spread over the conversations; returns once all are answered."""
        done = 0
        while done < count:
            batch = [self._dial() for _ in range(min(_AT_ONCE, count - done))]
            for connection in batch:
                self._await(connection, b'"hello"')
            for number, connection in enumerate(batch, done):
                if conversations:
                    name = conversations[number % len(conversations)]
                    wish = {"type": "chat.subscribe", "conversationId": name}
                    connection.sendall(masked(json.dumps(wish).encode()))
            for connection in batch:
                if conversations:
                    self._await(connection, b'"chat.subscribed"')
                connection.setblocking(False)
                self._selector.register(connection, selectors.EVENT_READ)
            self._open += batch
            done += len(batch)

    def drain(self, seconds: float) -> None:
        """Read what comes, for so long."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                self._read(key.fileobj)

    def leave(self) -> None:
        """Everybody goes, without a word."""
        for connection in self._open:
            self._selector.unregister(connection)
            connection.close()
        self._open.clear()

    def close(self) -> None:
        """Everybody goes, and nobody comes again."""
        self.leave()
        self._selector.close()

    def _dial(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self._port), timeout=WAIT_SECONDS_MAX)
        connection.sendall(handshake(self._port, "/ws"))
        return connection

    def _await(self, connection: socket.socket, words: bytes) -> None:
        seen = b""
        while words not in seen:
            data = connection.recv(_READ_BYTES)
            if not data:
                raise ConnectionError(f"hung up before {words!r}: {seen[-200:]!r}")
            seen += data

    def _read(self, connection: Any) -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(connection.fileno(), _READ_BYTES)
            if not data:
                raise ConnectionError("the server hung up on one of the crowd")
            self.bytes_read += len(data)
