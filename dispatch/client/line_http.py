"""HTTP over any `Transport`: one request a line, read with httptools as it comes.

Neighbours: `http` and `events` ask through it where a client was given a transport; `network` is
the same over the operating system's sockets.
Invariant: what waits to be read here is bounded: beyond `WAITING_BYTES_MAX` the line is paused.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Self, cast
from urllib.parse import urlsplit

import anyio
import httptools

from dispatch.client.dial import Address
from dispatch.client.exchange import Request
from dispatch.client.failures import CannotConnect, ConnectionLost, reason_of
from dispatch.client.transport import Transport

# More is a reply that nobody reads: it waits on the other side.
WAITING_BYTES_MAX: Final = 256 * 1024


class LineHttp:
    """A `Carrier` over a transport."""

    def __init__(self, address: Address, transport: Transport) -> None:
        """Nothing is opened before something is asked."""
        self._place = address.http
        self._host = urlsplit(address.http).netloc
        self._prefix = urlsplit(address.http).path
        self._transport = transport

    async def open(self, request: Request) -> LineReply:
        """See `exchange.Carrier`."""
        try:
            with anyio.fail_after(request.patience_seconds):
                reply = await self._transport.open_line(
                    lambda: LineReply(self._place, request.patience_seconds)
                )
        except TimeoutError as error:
            raise CannotConnect(f"no answer from {self._place}") from error
        except OSError as error:
            raise CannotConnect(f"cannot connect to {self._place}: {reason_of(error)}") from error
        try:
            reply.ask(self._head(request) + (request.content or b""))
            await reply.headed()
        finally:
            if not reply.is_headed:
                # Whatever went wrong, cancellation included: nobody else knows this line.
                reply.cut()
        return reply

    def _head(self, request: Request) -> bytes:
        headers = {"Host": self._host, "Connection": "close", **request.headers}
        if request.content is not None or request.method != "GET":
            headers["Content-Length"] = str(len(request.content or b""))
        lines = [f"{request.method} {self._prefix}{request.path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


class LineReply(asyncio.Protocol):
    """A `Reply`, and the protocol that its line calls."""

    def __init__(self, place: str, patience_seconds: float) -> None:
        """Made by the transport."""
        self._place = place
        self._patience_seconds = patience_seconds
        self._line: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._pieces: list[bytes] = []
        self._bytes_waiting = 0
        self.is_headed = False
        self._is_whole = False
        self._is_lost = False
        self._news = asyncio.Event()
        self.status = 0

    # What the carrier and its caller call.

    def ask(self, data: bytes) -> None:
        """Send the request."""
        self._line.write(data)

    async def headed(self) -> None:
        """Return once the head is there."""
        while not self.is_headed:
            await self._more()

    def header(self, name: str) -> str | None:
        """See `exchange.Reply`."""
        return self._headers.get(name.lower())

    async def piece(self) -> bytes:
        """See `exchange.Reply`."""
        while not self._pieces and not self._is_whole:
            await self._more()
        piece = b"".join(self._pieces)
        self._pieces.clear()
        self._bytes_waiting = 0
        if not self._is_whole and not self._is_lost:
            self._line.resume_reading()
        return piece

    def cut(self) -> None:
        """Be done with the line, whatever still comes."""
        self._line.abort()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cut()

    async def _more(self) -> None:
        if self._is_lost:
            raise ConnectionLost(f"the connection to {self._place} was lost")
        self._news.clear()
        try:
            with anyio.fail_after(self._patience_seconds):
                await self._news.wait()
        except TimeoutError as error:
            raise ConnectionLost(f"no answer from {self._place}") from error

    # What the line calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The line is open."""
        self._line = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Bytes of the reply, cut anywhere."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._is_lost = True
            self.cut()
        if self._bytes_waiting > WAITING_BYTES_MAX:
            self._line.pause_reading()
        self._news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """The line is over; a body without a length of its own ends with it."""
        self._is_lost = True
        self._news.set()

    # What the parser calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        """One whole header."""
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self.status = self._parser.get_status_code()
        self.is_headed = True

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._pieces.append(body)
        self._bytes_waiting += len(body)

    def on_message_complete(self) -> None:
        """The reply is whole."""
        self._is_whole = True
