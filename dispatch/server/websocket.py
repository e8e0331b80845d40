"""One upgraded connection as data: no task, no queue, a few hundred bytes while it idles.

Neighbours: `listener` hands a socket over right behind its request's head; `connection` is the
`Receiver`. websockets' sans-IO `ServerProtocol` reads the frames; what is written is framed once
(`frame_text`) and shared by everyone it goes to. A parser is borrowed only while a frame or a
message is incomplete, so ten thousand idle connections share a handful.
Invariant: `lost` is called exactly once, soon after the connection stops being open for whatever
reason, and nothing is written or delivered after it stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol, cast

from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, SEND_EOF

from dispatch.errors import CLOSE_REASONS, CloseCode
from dispatch.server.head import Head
from dispatch.server.sockets import Parser, Sockets, at_rest, end, untie

# The parser sees a chunk of the network in slices of this size: a quarter of a megabyte of
# six-byte frames would otherwise be parsed whole before the rate limit is asked once.
_SLICE_BYTES: Final = 4096

_PING: Final = b"\x89\x00"

# What a close frame, being a control frame of 125 bytes at most, leaves beside its code.
_REASON_BYTES_MAX: Final = 123

# The heads of short frames, which are nearly all.
_SHORT: Final = tuple(bytes((0x81, size)) for size in range(126))

_OPENING, _OPEN, _CLOSING, _CLOSED = range(4)


def frame_text(payload: bytes) -> bytes:
    """The bytes of one whole text message from a server, the same for every subscriber."""
    size = len(payload)
    if size < 126:
        return _SHORT[size] + payload
    if size < 65536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


class Receiver(Protocol):
    """Who a connection's messages are for. Nothing in here may wait."""

    def opened(self, websocket: WebSocket) -> None:
        """The first call; what it writes leaves in one piece with the handshake's answer."""

    def received(self, payload: bytes) -> None:
        """One whole text message, checked to be UTF-8."""

    def paused(self) -> None:
        """More than `write_buffer_bytes_max` waits in the transport: write no more."""

    def resumed(self) -> None:
        """The transport's buffer has drained to a quarter of that."""

    def lost(self) -> None:
        """The last call: the connection is closed or closing; drop everything."""


class WebSocket(asyncio.Protocol):
    """A connection that speaks RFC 6455; the transport calls the lower half of its methods."""

    __slots__ = (
        "__weakref__",
        "_first",
        "_fragments",
        "_frames_due",
        "_owed_pong",
        "_parser",
        "_receiver",
        "_sockets",
        "_state",
        "_transport",
        "bytes_behind",
        "headers",
        "last_pong",
        "path",
        "query",
        "subprotocol",
        "unanswered_since",
        "writable",
    )

    def __init__(
        self, sockets: Sockets, transport: asyncio.Transport, head: Head, subprotocol: str | None
    ) -> None:
        """Opening: `begin` makes it live."""
        self.path = head.path
        self.query = head.query
        # Only until `opened` returns: a browser's headers are more than all the rest in here.
        self.headers: Sequence[tuple[bytes, bytes]] = head.headers
        self.subprotocol = subprotocol
        # False between `paused` and `resumed`; what was written all the same in between.
        self.writable = True
        self.bytes_behind = 0
        self.last_pong = sockets.loop.time()
        # When the ping was sent that nothing has been heard since; None while all is well.
        self.unanswered_since: float | None = None
        self._sockets = sockets
        self._transport = transport
        self._receiver: Receiver | None = None
        self._parser: Parser | None = None
        self._state = _OPENING
        # What is written before the handshake's answer has left.
        self._first: list[bytes] | None = []
        self._fragments: list[bytes] | None = None
        # When the frames received so far would be due at the permitted rate.
        self._frames_due = 0.0
        self._owed_pong = b""

    # What the owner of the connection calls.

    def begin(self, receiver: Receiver, response: bytes, behind: bytes = b"") -> None:
        """Take the transport over; `behind` is what arrived right behind the request's head."""
        transport, limits = self._transport, self._sockets.limits
        high = limits.write_buffer_bytes_max
        transport.set_write_buffer_limits(high=high, low=high // 4)
        transport.set_protocol(self)
        self._sockets.open.add(self)
        self._receiver = receiver
        self._first = first = [response]
        receiver.opened(self)
        self.headers = ()
        self._first = None
        if self._state == _OPENING:
            self._state = _OPEN
        transport.write(b"".join(first))
        if behind:
            self.data_received(behind)

    @property
    def is_open(self) -> bool:
        """Whether a write would still be sent."""
        return self._state <= _OPEN

    @property
    def peer(self) -> str:
        """The address at the other end of the socket, which may be a proxy's."""
        name = self._transport.get_extra_info("peername")
        return str(name[0]) if isinstance(name, tuple) else ""

    @property
    def bytes_waiting(self) -> int:
        """What the transport still holds back because the peer does not read."""
        return 0 if self._state == _CLOSED else self._transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        """Send bytes that are framed already; nothing once the connection is closing."""
        if self._state == _OPEN:
            if not self.writable:
                self.bytes_behind += len(data)
            self._transport.write(data)
        elif self._state == _OPENING and self._first is not None:
            self._first.append(data)

    def ping(self, now: float) -> None:
        """Ask for a sign of life. A peer that does not even drain is another rule's business."""
        if self._state == _OPEN and self.writable:
            self._transport.write(_PING)
            if self.unanswered_since is None:
                self.unanswered_since = now

    def authenticated(self) -> None:
        """The peer has named itself: it is no longer closed for not having done so."""
        self._sockets.unauthenticated.discard(self)

    def close(self, code: int, reason: str = "") -> None:
        """Send a close frame; the socket follows when the peer answers, or soon if it does not."""
        if self._state >= _CLOSING:
            return
        self._state = _CLOSING
        if not self.writable:
            # The close frame would wait behind what the peer does not read.
            self.abort()
            return
        parser = self._borrow()
        if parser.state is OPEN:
            text = reason.encode()[:_REASON_BYTES_MAX].decode(errors="ignore")
            parser.send_close(code, text)
        self._flush(parser)
        self._sockets.closing.add(self)
        # Not from within: the caller may be walking over its connections.
        self._sockets.loop.call_soon(self._leave)

    def abort(self) -> None:
        """Cut the connection without a word."""
        if self._state != _CLOSED:
            self._state = _CLOSING
            self._transport.abort()

    # What the transport calls.

    def data_received(self, data: bytes) -> None:
        """Bytes of the network, cut anywhere."""
        # Any byte proves the peer alive: its pong may be stuck behind a large message of its own.
        self.unanswered_since = None
        if len(data) <= _SLICE_BYTES:
            self._feed(data)
            return
        for start in range(0, len(data), _SLICE_BYTES):
            self._feed(data[start : start + _SLICE_BYTES])

    def eof_received(self) -> None:
        """The peer will say no more; returning nothing makes the transport close."""
        self._state = max(self._state, _CLOSING)
        self._sockets.closing.add(self)
        self._leave()

    def pause_writing(self) -> None:
        """The peer reads more slowly than it is written to."""
        self.writable = False
        self.bytes_behind = 0
        if self._receiver is not None:
            self._receiver.paused()

    def resume_writing(self) -> None:
        """It has caught up."""
        self.writable = True
        if self._owed_pong:
            self.write(self._owed_pong)
            self._owed_pong = b""
        if self._receiver is not None:
            self._receiver.resumed()

    def connection_lost(self, exc: Exception | None) -> None:
        """TCP is over: forget everything, and leave no cycle for the garbage collector."""
        self._state = _CLOSED
        self._leave()
        self._sockets.gone(self)
        if self._parser is not None:
            end(self._parser)
            self._parser = None
        self._fragments = None
        untie(self._transport)

    # Reading.

    def _borrow(self) -> Parser:
        if self._parser is None:
            self._parser = self._sockets.take_parser()
        return self._parser

    def _feed(self, data: bytes) -> None:
        parser = self._borrow()
        if parser.eof_sent:
            # Failed: what still comes is read only so that the close frame survives.
            return
        parser.receive_data(data)
        if parser.events:
            self._take(parser, cast("list[Frame]", parser.events_received()))
        if parser.writes:
            self._flush(parser)
        if self._state == _OPEN and self._fragments is None and at_rest(parser):
            self._parser = None
            self._sockets.give_parser(parser)

    def _take(self, parser: Parser, frames: list[Frame]) -> None:
        if self._state != _OPEN:
            return
        sockets = self._sockets
        now = sockets.loop.time()
        due = max(self._frames_due, now) + len(frames) * sockets.seconds_per_frame
        if due > now + sockets.burst_seconds:
            self._fail(parser, CloseCode.POLICY, "more frames a second than frames_per_second_max")
            return
        self._frames_due = due
        for frame in frames:
            match frame.opcode:
                case Opcode.TEXT if frame.fin:
                    self._message(parser, cast("bytes", frame.data))
                case Opcode.TEXT:
                    self._fragments = [cast("bytes", frame.data)]
                case Opcode.CONT:
                    self._continue(parser, frame)
                case Opcode.BINARY:
                    self._fail(
                        parser, CloseCode.UNSUPPORTED_DATA, "only text messages are understood"
                    )
                case Opcode.PONG:
                    self.last_pong = now
                case _:
                    # The parser has answered a ping, and a close frame, among its writes.
                    pass
            if self._state != _OPEN:
                return

    def _continue(self, parser: Parser, frame: Frame) -> None:
        # The parser has refused a continuation of nothing.
        fragments = self._fragments if self._fragments is not None else []
        fragments.append(cast("bytes", frame.data))
        if len(fragments) > self._sockets.limits.frame_fragments_max:
            self._fail(parser, CloseCode.TOO_BIG, "more fragments than frame_fragments_max")
        elif frame.fin:
            self._fragments = None
            self._message(parser, b"".join(fragments))

    def _message(self, parser: Parser, payload: bytes) -> None:
        if len(payload) > self._sockets.limits.frame_bytes_max:
            self._fail(parser, CloseCode.TOO_BIG, CLOSE_REASONS[CloseCode.TOO_BIG])
            return
        if not payload.isascii():
            try:
                payload.decode()
            except UnicodeDecodeError:
                reason = CLOSE_REASONS[CloseCode.INVALID_DATA]
                self._fail(parser, CloseCode.INVALID_DATA, reason)
                return
        if self._receiver is not None:
            self._receiver.received(payload)

    # Ending.

    def _fail(self, parser: Parser, code: int, reason: str) -> None:
        """The peer broke a rule: one close frame, and not a byte more is listened to."""
        parser.fail(code, reason)
        self._flush(parser)

    def _flush(self, parser: Parser) -> None:
        """Send what the parser wants sent: pongs, and the close frame that ends it all."""
        writes = parser.data_to_send()
        if not writes:
            return
        ended = writes[-1] == SEND_EOF
        if self.writable:
            self._send(b"".join(writes))
        elif parser.state is OPEN:
            # Pongs to a peer that does not read: the last one answers all (RFC 6455, 5.5.3).
            self._owed_pong = writes[-1]
        else:
            self.abort()
        if ended:
            self._finish(parser)

    def _send(self, data: bytes) -> None:
        if self._first is not None:
            self._first.append(data)
        elif self._state != _CLOSED:
            self._transport.write(data)

    def _finish(self, parser: Parser) -> None:
        transport = self._transport
        self._state = max(self._state, _CLOSING)
        # Later: this may be the owner's own `close`, in the middle of a message.
        self._sockets.loop.call_soon(self._leave)
        # The last bytes may wait for a peer that does not read them.
        self._sockets.closing.add(self)
        if parser.parser_exc is None and parser.close_rcvd is not None:
            transport.close()
        elif transport.can_write_eof():
            # Closing a socket with unread bytes resets it, and the peer might never see why. So
            # only our half is closed; the peer gets a moment to close the other.
            transport.write_eof()

    def _leave(self) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.lost()
