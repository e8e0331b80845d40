"""HTTP/1.1 with bounds on the head, and the hand-over of an upgrade to a `WebSocket`.

Neighbours: uvicorn's httptools protocol serves the requests; `listener` makes one of these for each
accepted connection; `gate` judges an upgrade exactly as it judges a request.
uvicorn waits for ever for a head, accepts one of any size, and drops what arrives right behind an
upgrade's head; all three are mended here.
Invariant: at the hand-over every reference to and from this object is cut, so that an idle
WebSocket does not keep the HTTP connection it once was.
"""

from __future__ import annotations

import asyncio
import weakref
from typing import Final, cast

import httptools
import structlog
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from dispatch.errors import DispatchError, PeerError, TooMany
from dispatch.server.answer import Answer, answer, refusal
from dispatch.server.credential import Credential, KeyWanted
from dispatch.server.edge import Edge
from dispatch.server.handshake import Handshake, HandshakeRefused, switch
from dispatch.server.head import Head
from dispatch.server.offers import dialects_of, offers_of
from dispatch.server.sockets import untie
from dispatch.server.tap import EXTENSION, Tap
from dispatch.server.websocket import WebSocket

log = structlog.get_logger()

# One line of a head, as most servers have it: a URL or a header over it is no honest client's.
LINE_BYTES_MAX: Final = 8 * 1024

# Requests that wait behind one that is being answered: each is held as a whole, and a quarter of a
# megabyte of the network holds thousands of them.
PIPELINED_MAX: Final = 64


class Http1(HttpToolsProtocol):
    """One connection that speaks HTTP, until it upgrades or ends."""

    def __init__(self, edge: Edge) -> None:
        """Made by the loop for an accepted connection."""
        super().__init__(edge.config, edge.state, {}, edge.loop)
        self._edge = edge
        # From the end of a message to the end of the next one's head.
        self._reading_head = True
        self._head_begun = False
        # Bytes of the network that were spent on the present head: a bound on what trickles in.
        self._head_bytes_fed = 0
        # Bytes of its headers: the exact bound, but known only header by header.
        self._header_bytes = 0
        self._messages = 0
        # What has come, and how much of it had come when the body's deadline last passed.
        self._bytes_received = 0
        self._bytes_seen = -1
        # What waited in the transport when writing was paused.
        self._bytes_stalled = 0
        self._problem: Answer | None = None
        self._refused = False
        # Whoever writes the body of the present response by itself.
        self.tap: Tap | None = None

    # What the transport calls.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a head, if there is room for one more."""
        super().connection_made(transport)
        if self._edge.is_full:
            self._refuse(refusal(TooMany("too many connections", retry_after_ms=5000)))
        else:
            self._edge.heads.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget everything, and leave no cycle for the garbage collector."""
        edge = self._edge
        for deadlines in (edge.heads, edge.bodies, edge.stalled, edge.lingering):
            deadlines.discard(self)
        if self.tap is not None:
            self.tap.close()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        # Requests that were pipelined and never begun hold this object, which holds them.
        for cycle, _ in self.pipeline:
            cycle.on_response = _nothing
        self.pipeline.clear()
        self.cycle = None  # type: ignore[assignment]
        untie(self.transport)
        if edge.sockets.emptied is not None and edge.is_empty:
            edge.sockets.emptied.set()

    def data_received(self, data: bytes) -> None:
        """Bytes of the network, cut anywhere."""
        if self._refused:
            return
        self._unset_keepalive_if_required()
        self._bytes_received += len(data)
        behind = b""
        if self._reading_head:
            room = self._edge.limits.head_bytes_max - self._head_bytes_fed
            if len(data) > room:
                # Only if this much was a whole head does the rest follow.
                data, behind = data[:room], data[room:]
        messages = self._messages
        if not self._feed(data, behind):
            return
        if self._reading_head and messages == self._messages:
            if behind:
                self._refuse(self._too_large())
                return
            self._head_bytes_fed += len(data)
            self._edge.heads.add(self)
        elif self._head_begun:
            self._edge.heads.add(self)
        if behind:
            self.data_received(behind)

    def pause_writing(self) -> None:
        """The peer reads more slowly than it is written to; it may, but not stop altogether."""
        super().pause_writing()
        self._bytes_stalled = self.transport.get_write_buffer_size()
        self._edge.stalled.add(self)
        if self.tap is not None:
            self.tap.pause()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._edge.stalled.discard(self)
        super().resume_writing()

    # What the parser calls.

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        # Weak: the scope is this object's, too.
        self.scope["extensions"] = {EXTENSION: weakref.ref(self)}  # type: ignore[dict-item]
        self._edge.date()
        self._head_begun = True
        self._header_bytes = 0
        if len(self.pipeline) >= PIPELINED_MAX and self._problem is None:
            text = f"more than {PIPELINED_MAX} requests wait on this connection"
            self._problem = refusal(TooMany(text, retry_after_ms=1000))

    def on_url(self, url: bytes) -> None:
        """A piece of the request's target."""
        super().on_url(url)
        if len(self.url) > LINE_BYTES_MAX:
            self._problem = answer(414, "too_large", f"the URL is over {LINE_BYTES_MAX} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        """One whole header."""
        limits = self._edge.limits
        # With the colon, the space and the end of the line.
        size = len(name) + len(value) + 4
        self._header_bytes += size
        if size > LINE_BYTES_MAX or self._header_bytes > limits.head_bytes_max - len(self.url):
            self._problem = self._problem or self._too_large()
        elif len(self.headers) >= limits.headers_max:
            text = f"more than {limits.headers_max} headers"
            self._problem = self._problem or answer(431, "too_large", text)
        else:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole: start the request, unless it is refused or an upgrade."""
        self._reading_head = self._head_begun = False
        self._edge.heads.discard(self)
        self._edge.bodies.add(self)
        if self._problem is None:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self._problem is None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole; the next bytes are another's head."""
        if self._problem is None:
            super().on_message_complete()
        self._edge.bodies.discard(self)
        self._messages += 1
        self._reading_head = True
        self._head_bytes_fed = 0

    def _feed(self, data: bytes, behind: bytes) -> bool:
        """Parse; False if the connection is no longer this object's to read."""
        while data:
            upgrade_at: int | None = None
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as stop:
                upgrade_at = stop.args[0]
            except httptools.HttpParserError:
                self._problem = self._problem or refusal(PeerError("this is not HTTP/1.1"))
            if self._problem is not None:
                self._refuse(self._problem)
                return False
            if upgrade_at is None:
                return True
            if self._should_upgrade():
                self._upgrade(data[upgrade_at:] + behind)
                return False
            # An upgrade to something else is ignored, as HTTP allows (RFC 9110, 7.8).
            data = data[upgrade_at:]
        return True

    # Refusing.

    def send_400_response(self, msg: str) -> None:
        """uvicorn's own refusals, in the shape of ours."""
        self._refuse(refusal(PeerError(msg)))

    def head_late(self) -> None:
        """The head was not whole in time."""
        if self._is_responding():
            # When the response ends, keep-alive has a time of its own.
            return
        if self._head_bytes_fed:
            seconds = self._edge.limits.head_seconds_max
            self._refuse(answer(408, "invalid", f"no whole request within {seconds:g} seconds"))
        else:
            # A browser that connected in advance: an answer to nothing would confuse it.
            self.cut()

    def body_late(self) -> None:
        """A body is not whole; whoever sends it may be slow, but not stop."""
        if self._bytes_received == self._bytes_seen and not self.flow.read_paused:
            self.cut()
        else:
            self._bytes_seen = self._bytes_received
            self._edge.bodies.add(self)

    def still_stalled(self) -> None:
        """What was written has not drained; if none of it has, nobody reads."""
        waiting = self.transport.get_write_buffer_size()
        if waiting >= self._bytes_stalled:
            log.info("http.stalled")
            self.cut()
        else:
            self._bytes_stalled = waiting
            self._edge.stalled.add(self)

    def cut(self) -> None:
        """End the connection without a word."""
        self.transport.abort()

    def _is_responding(self) -> bool:
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return cycle is not None and not cycle.response_complete

    def _too_large(self) -> Answer:
        text = f"a header is over {LINE_BYTES_MAX} bytes, or the head over head_bytes_max"
        return answer(431, "too_large", text)

    def _refuse(self, reply: Answer) -> None:
        """Answer with an error, and be done with the connection."""
        edge = self._edge
        edge.refused += 1
        edge.heads.discard(self)
        edge.bodies.discard(self)
        self._refused = True
        if self._is_responding():
            # In the middle of another response an answer would be a lie.
            self.cut()
            return
        edge.date()
        lines = [STATUS_LINE[reply.status]]
        for name, value in (*edge.state.default_headers, *reply.headers, (b"connection", b"close")):
            lines += [name, b": ", value, b"\r\n"]
        self.transport.write(b"".join([*lines, b"\r\n", reply.body]))
        # Closing with unread bytes would reset the connection before the answer is read.
        if self.transport.can_write_eof():
            self.transport.write_eof()
        edge.lingering.add(self)

    # Upgrading.

    def _upgrade(self, behind: bytes) -> None:
        """Judge the upgrade; `behind` is what came with its head."""
        if self._is_responding():
            self._refuse(refusal(PeerError("an upgrade cannot be pipelined")))
            return
        edge = self._edge
        try:
            head = self._head()
            key = edge.handshakes.accept_key(head, self.scope["http_version"])
            credential = edge.keeper.admit(head)
            self._hand_over(head, key, credential, behind)
        except KeyWanted:
            # Nothing more is read meanwhile, so `behind` stays all there is.
            self.transport.pause_reading()
            edge.fetch_keys_then(lambda: self._upgrade_again(behind))
        except HandshakeRefused as refused:
            self._refuse(refused.reply)
        except DispatchError as error:
            self._refuse(refusal(error))

    def _upgrade_again(self, behind: bytes) -> None:
        """The keys were fetched, or cannot be had."""
        if not self.transport.is_closing():
            self.transport.resume_reading()
            self._upgrade(behind)

    def _head(self) -> Head:
        client, scheme = self._edge.forwarded(
            self.client[0] if self.client else "", self.scheme or "http", self.headers
        )
        try:
            target = httptools.parse_url(self.url)
        except httptools.HttpParserInvalidURLError as error:
            raise PeerError("the URL is malformed") from error
        return Head(
            method=self.scope["method"],
            path=(target.path or b"/").decode("latin-1"),
            query=(target.query or b"").decode("latin-1"),
            headers=self.headers,
            scheme=scheme,
            client=client,
            server=self.server[0] if self.server else "",
            upgrade=True,
        )

    def _hand_over(
        self, head: Head, key: str, credential: Credential | None, behind: bytes
    ) -> None:
        """From here on the transport talks to a `WebSocket`."""
        edge = self._edge
        waiting = len(edge.sockets.unauthenticated)
        if credential is None and waiting >= edge.limits.connections_unauthenticated_max:
            raise TooMany("too many connections wait to name themselves", retry_after_ms=5000)
        subprotocol = edge.welcome.choose(head.path, dialects_of(offers_of(head)))
        receiver = edge.welcome.accept(Handshake(head, subprotocol, credential))
        websocket = WebSocket(edge.sockets, self.transport, head, subprotocol)
        if credential is None:
            edge.sockets.unauthenticated.add(websocket)
        self.connections.discard(self)
        edge.bodies.discard(self)
        # The parser holds this object's methods, and this object the parser.
        self.parser = None  # type: ignore[assignment]
        websocket.begin(receiver, switch(key, subprotocol), behind)


def _nothing() -> None:
    """What a request that was never begun has to do when it ends."""
