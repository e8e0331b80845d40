"""RFC 6455 by raw bytes, in memory and over real sockets; and what a connection promises its owner.

The table below is run twice: through a transport in memory, whole and byte by byte, and through a
listener. A case that leaves the connection open proves it by a ping.
"""

import asyncio
import contextlib
import gc
import socket
import weakref
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from dispatch.errors import CloseCode
from dispatch.server.handshake import Handshake
from dispatch.server.sockets import CLOSE_SECONDS, PARSERS_IDLE_MAX
from dispatch.server.websocket import frame_text
from dispatch.settings import Limits
from tests.server.wire import (
    BINARY,
    CLOSE,
    CONT,
    GUARD_SECONDS,
    PING,
    PONG,
    TEXT,
    Frame,
    Recorder,
    Server,
    Wire,
    closing,
    frames,
    masked,
    serving,
    until,
    upgrade,
)

FRAME_BYTES_MAX = 70_000
FRAGMENTS_MAX = 8
LIMITS = Limits(frame_bytes_max=FRAME_BYTES_MAX, frame_fragments_max=FRAGMENTS_MAX)


class Case(NamedTuple):
    """What is sent, which messages arrive, which frames come back, and how it ends."""

    name: str
    sent: bytes
    messages: Sequence[bytes] = ()
    # None: the connection stays open.
    closed: int | None = None
    pongs: Sequence[bytes] = ()


def text(payload: bytes, *, fin: bool = True) -> bytes:
    return masked(TEXT, payload, fin=fin)


def more(payload: bytes, *, fin: bool = False) -> bytes:
    return masked(CONT, payload, fin=fin)


EURO = "€".encode()

LENGTHS = [
    Case(f"a text of {size} bytes is delivered", text(b"x" * size), [b"x" * size])
    for size in (0, 1, 125, 126, 127, 128, 65535, 65536, FRAME_BYTES_MAX)
]
TOO_BIG = [
    Case("one byte too many", text(b"x" * (FRAME_BYTES_MAX + 1)), closed=1009),
    Case("a control frame's worth too many", text(b"x" * (FRAME_BYTES_MAX + 126)), closed=1009),
    Case(
        "a claim of 2^40 bytes", masked(TEXT, length=b"\x7f" + (1 << 40).to_bytes(8)), closed=1009
    ),
    Case(
        "a claim of 2^63 bytes", masked(TEXT, length=b"\x7f" + (1 << 63).to_bytes(8)), closed=1009
    ),
    Case(
        "fragments that add up to one byte too many",
        text(b"x" * FRAME_BYTES_MAX, fin=False) + more(b"x", fin=True),
        closed=1009,
    ),
    Case(
        "more fragments than allowed",
        text(b"", fin=False) + more(b"") * (FRAGMENTS_MAX - 1) + more(b"", fin=True),
        closed=1009,
    ),
]
FRAGMENTS = [
    Case("two fragments", text(b"ab", fin=False) + more(b"cd", fin=True), [b"abcd"]),
    Case(
        "as many fragments as allowed",
        text(b"a", fin=False) + more(b"b") * (FRAGMENTS_MAX - 2) + more(b"c", fin=True),
        [b"a" + b"b" * (FRAGMENTS_MAX - 2) + b"c"],
    ),
    Case("empty fragments", text(b"", fin=False) + more(b"") + more(b"", fin=True), [b""]),
    Case(
        "a ping between fragments of a full message",
        text(b"x" * FRAME_BYTES_MAX, fin=False) + masked(PING, b"p" * 125) + more(b"", fin=True),
        [b"x" * FRAME_BYTES_MAX],
        pongs=[b"p" * 125],
    ),
    Case(
        "a pong between fragments",
        text(b"a", fin=False) + masked(PONG) + more(b"b", fin=True),
        [b"ab"],
    ),
    Case(
        "two fragmented messages", (text(b"a", fin=False) + more(b"b", fin=True)) * 2, [b"ab"] * 2
    ),
    Case("a continuation of nothing", more(b"a", fin=True), closed=1002),
    Case("an unfinished continuation of nothing", more(b"a"), closed=1002),
    Case("a continuation after a whole message", text(b"a") + more(b"b", fin=True), [b"a"], 1002),
    Case("a text within a text", text(b"a", fin=False) + text(b"b"), closed=1002),
    Case("a binary within a text", text(b"a", fin=False) + masked(BINARY), closed=1002),
    Case(
        "a close within a text", text(b"a", fin=False) + masked(CLOSE, closing(1000)), closed=1002
    ),
]
UTF8 = [
    Case("several alphabets", text("κόσμε ελλ €😀".encode()), ["κόσμε ελλ €😀".encode()]),
    Case("a NUL", text(b"a\0b"), [b"a\0b"]),
    Case("a byte order mark", text(b"\xef\xbb\xbfa"), [b"\xef\xbb\xbfa"]),
    Case("a noncharacter", text("\uffff".encode()), ["\uffff".encode()]),
    Case("a character cut in two", text(EURO[:1], fin=False) + more(EURO[1:], fin=True), [EURO]),
    *(
        Case(f"invalid UTF-8 {payload.hex()}", text(payload), closed=1007)
        for payload in (
            b"\x80",
            b"\xc0\x80",
            b"\xe2\x82",
            b"\xed\xa0\x80",
            b"\xf4\x90\x80\x80",
            b"\xff",
            b"good \xfe bad",
        )
    ),
    Case(
        "invalid in the second fragment",
        text(EURO, fin=False) + more(b"\xff", fin=True),
        closed=1007,
    ),
    Case("a good text, then a bad one", text(b"good") + text(b"\xff"), [b"good"], 1007),
    Case("a bad text, then a good one", text(b"\xff") + text(b"good"), closed=1007),
]
OPCODES = [
    Case("a binary message", masked(BINARY, b"{}"), closed=1003),
    Case("an empty binary message", masked(BINARY), closed=1003),
    Case("a fragmented binary message", masked(BINARY, b"{", fin=False), closed=1003),
    *(Case(f"opcode {code:x}", masked(code, b"x"), closed=1002) for code in (3, 4, 5, 6, 7)),
    *(Case(f"opcode {code:x}", masked(code, b"x"), closed=1002) for code in range(11, 16)),
    *(
        Case(f"reserved bits {rsv:03b}", masked(TEXT, b"x", rsv=rsv), closed=1002)
        for rsv in (1, 2, 4, 7)
    ),
    Case("a reserved bit on a ping", masked(PING, rsv=4), closed=1002),
    Case("an unmasked text", masked(TEXT, b"x", mask=None), closed=1002),
    Case("an unmasked ping", masked(PING, mask=None), closed=1002),
    Case("a mask of zeros", masked(TEXT, b"x", mask=bytes(4)), [b"x"]),
]
CONTROL = [
    Case("an empty ping", masked(PING), pongs=[b""]),
    Case("a ping of 125 bytes", masked(PING, b"p" * 125), pongs=[b"p" * 125]),
    Case("a ping that is no text", masked(PING, b"\xff\x00"), pongs=[b"\xff\x00"]),
    Case(
        "pings in a row",
        b"".join(masked(PING, b"%d" % i) for i in range(5)),
        pongs=[b"%d" % i for i in range(5)],
    ),
    Case("a ping of 126 bytes", masked(PING, b"p" * 126), closed=1002),
    Case("a fragmented ping", masked(PING, b"p", fin=False), closed=1002),
    Case("an unasked pong", masked(PONG, b"p")),
    Case("a pong of 126 bytes", masked(PONG, b"p" * 126), closed=1002),
    Case(
        "a text, a ping, a text",
        text(b"a") + masked(PING, b"p") + text(b"b"),
        [b"a", b"b"],
        pongs=[b"p"],
    ),
]
CLOSES = [
    *(
        Case(f"close {code} is echoed", masked(CLOSE, closing(code, b"bye")), closed=code)
        for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 3000, 3999, 4000, 4999)
    ),
    *(
        Case(f"close {code} is no code", masked(CLOSE, closing(code)), closed=1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
    ),
    Case("a close of one byte", masked(CLOSE, b"\x03"), closed=1002),
    Case("the longest reason", masked(CLOSE, closing(1000, b"r" * 123)), closed=1000),
    Case("a reason too long", masked(CLOSE, closing(1000, b"r" * 124)), closed=1002),
    Case("a reason that is no text", masked(CLOSE, closing(1000, b"\xff")), closed=1007),
    Case("a fragmented close", masked(CLOSE, closing(1000), fin=False), closed=1002),
    Case("a text, then a close", text(b"a") + masked(CLOSE, closing(1000)), [b"a"], 1000),
    Case("a close, then a text", masked(CLOSE, closing(1000)) + text(b"a"), closed=1000),
    Case("a close, then a ping", masked(CLOSE, closing(1000)) + masked(PING), closed=1000),
    Case("two closes", masked(CLOSE, closing(1000)) * 2, closed=1000),
]  # fmt: skip

TABLE = [*LENGTHS, *TOO_BIG, *FRAGMENTS, *UTF8, *OPCODES, *CONTROL, *CLOSES]

EVERY_CASE = pytest.mark.parametrize("case", TABLE, ids=lambda case: case.name)


def check(case: Case, messages: list[bytes], sent: list[Frame]) -> None:
    assert messages == list(case.messages)
    assert [frame.payload for frame in sent if frame.opcode == PONG] == list(case.pongs)
    closes = [frame.code for frame in sent if frame.opcode == CLOSE]
    assert closes == ([] if case.closed is None else [case.closed])


# ---------------------------------------------------------------- the table


@EVERY_CASE
def test_a_connection_in_memory_keeps_the_rfc(case: Case) -> None:
    wire = Wire(LIMITS)
    wire.feed(case.sent)
    wire.loop.run()
    check(case, wire.recorder.messages, wire.transport.frames)
    assert wire.websocket.is_open == (case.closed is None)
    assert wire.recorder.calls == ["opened"] + ["lost"] * (case.closed is not None)


@EVERY_CASE
def test_it_makes_no_difference_where_the_network_cuts(case: Case) -> None:
    wire = Wire(LIMITS)
    # Byte by byte around the heads, in lumps where nothing but payload is left.
    step = 1 if len(case.sent) < 1000 else 777
    for start in range(0, len(case.sent), step):
        wire.feed(case.sent[start : start + step])
    wire.loop.run()
    check(case, wire.recorder.messages, wire.transport.frames)


@pytest.fixture(scope="module")
async def server():
    async with serving(LIMITS) as server:
        yield server


@EVERY_CASE
async def test_a_connection_over_a_socket_keeps_the_rfc(case: Case, server: Server) -> None:
    async with await server.upgraded() as raw:
        recorder = server.recorders[-1]
        sent = []
        if case.closed is None:
            raw.send(case.sent + masked(PING, b"the end"))
            while not sent or sent[-1].payload != b"the end":
                sent.append(await raw.frame())
            sent.pop()
        else:
            raw.send(case.sent)
            sent = frames(await raw.rest())
        check(case, recorder.messages, sent)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 70000])
def test_a_text_frame_is_framed_once_for_everybody(size: int) -> None:
    payload = b"x" * size
    assert frames(frame_text(payload)) == [Frame(True, TEXT, payload)]


# ---------------------------------------------------------------- any fragmentation


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[bytes], list[bytes], bytes]:
    """Messages, the pings among their fragments, and the client's bytes for all of it."""
    messages, pings, stream = [], [], b""
    for message in draw(st.lists(st.text(max_size=300), max_size=6)):
        payload = message.encode()
        messages.append(payload)
        cuts = draw(st.lists(st.integers(0, len(payload)), max_size=FRAGMENTS_MAX - 1))
        edges = [0, *sorted(cuts), len(payload)]
        pieces = [payload[a:b] for a, b in pairwise(edges)]
        for place, piece in enumerate(pieces):
            if draw(st.booleans()):
                pings.append(draw(st.binary(max_size=125)))
                stream += masked(PING, pings[-1], mask=draw(st.binary(min_size=4, max_size=4)))
            stream += masked(
                TEXT if place == 0 else CONT,
                piece,
                fin=place == len(pieces) - 1,
                mask=draw(st.binary(min_size=4, max_size=4)),
            )
    return messages, pings, stream


@given(conversations(), st.data())
def test_any_fragmentation_cut_anywhere_gives_the_same_messages(
    conversation: tuple[list[bytes], list[bytes], bytes], data: st.DataObject
) -> None:
    messages, pings, stream = conversation
    wire = Wire(LIMITS)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=20))
    edges = [0, *sorted(cuts), len(stream)]
    for a, b in pairwise(edges):
        if a < b:
            wire.feed(stream[a:b])
    assert wire.recorder.messages == messages
    assert [frame.payload for frame in wire.transport.frames] == pings
    assert wire.websocket.is_open


@given(st.binary(max_size=400), st.integers(1, 50))
def test_no_bytes_can_break_a_connection_worse_than_closing_it(noise: bytes, step: int) -> None:
    wire = Wire(LIMITS)
    for start in range(0, len(noise), step):
        wire.feed(noise[start : start + step])
    wire.loop.advance(CLOSE_SECONDS + 1)
    wire.websocket.abort()
    wire.loop.run()
    assert wire.recorder.calls == ["opened", "lost"]
    assert len(wire.close_codes) <= 1
    assert not wire.sockets.open


# ---------------------------------------------------------------- limits


def test_a_flood_of_tiny_frames_is_closed_long_before_it_is_read() -> None:
    wire = Wire(Limits(frames_per_second_max=100, frames_burst_max=200))
    wire.feed(text(b"x") * 30_000)
    assert wire.close_codes == [CloseCode.POLICY]
    assert len(wire.recorder.messages) <= 200


def test_a_flood_of_pings_is_closed_too() -> None:
    wire = Wire(Limits(frames_per_second_max=100, frames_burst_max=200))
    wire.feed(masked(PING) * 30_000)
    assert wire.close_codes == [CloseCode.POLICY]
    # A slice of the stream is parsed, and its pings answered, before it is counted.
    assert len(wire.transport.frames) < 2000


def test_frames_at_the_permitted_rate_go_on_for_ever() -> None:
    wire = Wire(Limits(frames_per_second_max=100, frames_burst_max=200))
    for _ in range(50):
        wire.feed(text(b"x") * 100)
        wire.loop.now += 1
    assert len(wire.recorder.messages) == 5000


def test_pings_of_a_peer_that_does_not_read_are_answered_once_it_does() -> None:
    wire = Wire(Limits(write_buffer_bytes_max=1000))
    wire.transport.stuck = True
    wire.websocket.write(frame_text(b"x" * 2000))
    for number in range(500):
        wire.feed(masked(PING, b"%d" % number))
    assert len(wire.transport.frames) == 1
    wire.transport.drain()
    assert wire.transport.frames[1:] == [Frame(True, PONG, b"499")]


# ---------------------------------------------------------------- what the owner is promised


def test_the_first_frame_leaves_in_one_piece_with_the_handshake() -> None:
    wire = Wire(recorder=Recorder(greeting=frame_text(b"{}")))
    assert wire.transport.written == [b"" + frame_text(b"{}")]


def test_headers_are_there_until_opened_returns_and_cost_nothing_after() -> None:
    wire = Wire()
    assert wire.recorder.headers_seen == [(b"host", b"localhost")]
    assert wire.websocket.headers == ()
    assert (wire.websocket.path, wire.websocket.query) == ("/ws", "heal=0")


def test_a_connection_may_be_closed_from_within_opened() -> None:
    class Unwelcoming(Recorder):
        def opened(self, websocket):
            super().opened(websocket)
            websocket.close(CloseCode.DRAINING, "going")
            websocket.write(frame_text(b"too late"))

    wire = Wire(recorder=Unwelcoming())
    wire.feed(text(b"ignored"))
    wire.loop.run()
    assert wire.close_codes == [CloseCode.DRAINING]
    assert wire.recorder.calls == ["opened", "lost"]
    assert wire.recorder.messages == []


def test_paused_and_resumed_follow_the_transports_buffer() -> None:
    wire = Wire(Limits(write_buffer_bytes_max=1000))
    wire.transport.stuck = True
    wire.websocket.write(frame_text(b"x" * 900))
    assert wire.websocket.writable
    wire.websocket.write(frame_text(b"x" * 900))
    assert not wire.websocket.writable
    assert wire.websocket.bytes_waiting > 1800
    wire.transport.drain()
    assert wire.websocket.writable
    assert wire.recorder.calls == ["opened", "paused", "resumed"]


def test_closing_sends_one_frame_and_is_over_when_the_peer_answers() -> None:
    wire = Wire()
    wire.websocket.close(CloseCode.STALLED, "r" * 500)
    wire.websocket.close(CloseCode.NORMAL, "again")
    wire.websocket.write(frame_text(b"too late"))
    assert not wire.websocket.is_open
    (frame,) = wire.transport.frames
    assert (frame.code, len(frame.payload)) == (CloseCode.STALLED, 125)
    assert not wire.transport.closed
    wire.feed(text(b"on its way") + masked(CLOSE, frame.payload))
    assert wire.transport.closed
    assert wire.recorder.messages == []


def test_a_long_reason_is_cut_between_characters() -> None:
    wire = Wire()
    wire.websocket.close(CloseCode.POLICY, "€" * 100)
    assert wire.transport.frames[0].payload[2:].decode() == "€" * 41


def test_lost_is_not_called_from_within_close() -> None:
    wire = Wire()
    wire.websocket.close(CloseCode.DRAINING)
    assert wire.recorder.calls == ["opened"]
    wire.loop.run()
    assert wire.recorder.calls == ["opened", "lost"]


def test_a_peer_that_does_not_answer_a_close_is_cut() -> None:
    wire = Wire()
    wire.websocket.close(CloseCode.DRAINING)
    wire.loop.advance(CLOSE_SECONDS - 0.2)
    assert not wire.transport.aborted
    wire.loop.advance(0.5)
    assert wire.transport.aborted
    assert wire.recorder.calls == ["opened", "lost"]


def test_a_peer_that_does_not_read_is_cut_at_once() -> None:
    wire = Wire(Limits(write_buffer_bytes_max=100))
    wire.transport.stuck = True
    wire.websocket.write(frame_text(b"x" * 200))
    wire.websocket.close(CloseCode.STALLED)
    assert wire.transport.aborted
    wire.loop.run()
    assert wire.recorder.calls == ["opened", "paused", "lost"]
    assert wire.websocket.bytes_waiting == 0


def test_a_peer_that_broke_a_rule_gets_a_moment_to_read_why() -> None:
    wire = Wire()
    wire.feed(masked(3))
    assert wire.transport.half_closed
    assert not wire.transport.closed
    wire.feed(text(b"more") * 1000)
    wire.loop.advance(CLOSE_SECONDS + 0.5)
    assert wire.transport.aborted
    assert wire.recorder.messages == []


@pytest.mark.parametrize("behind", [b"", masked(CLOSE, closing(1000)), masked(3)])
def test_a_message_may_close_the_connection_and_the_next_is_not_delivered(behind: bytes) -> None:
    def close(websocket, payload):
        websocket.close(4502, "enough")
        recorder.calls.append("closed")

    recorder = Recorder(on_message=close)
    wire = Wire(recorder=recorder)
    wire.feed(text(b"one") + text(b"two") + behind)
    wire.loop.run()
    assert recorder.messages == [b"one"]
    assert recorder.calls == ["opened", "closed", "lost"]
    assert len(wire.close_codes) == 1
    wire.loop.advance(CLOSE_SECONDS + 1)
    assert not wire.sockets.open


@pytest.mark.parametrize("goodbye", ["a close", "an end"])
def test_who_leaves_without_reading_what_was_written_is_not_waited_for(goodbye: str) -> None:
    wire = Wire()
    wire.transport.stuck = wire.transport.keeps_closing = True
    wire.websocket.write(frame_text(b"unread"))
    if goodbye == "a close":
        wire.feed(masked(CLOSE, closing(1000)))
    else:
        wire.websocket.eof_received()
        wire.transport.close()
    wire.loop.run()
    assert wire.transport.closed
    assert wire.sockets.open
    wire.loop.advance(CLOSE_SECONDS + 0.5)
    assert wire.transport.aborted
    assert not wire.sockets.open


@pytest.mark.parametrize("end", ["eof", "abort", "reset", "close"])
def test_lost_is_called_once_however_it_ends(end: str) -> None:
    wire = Wire()
    match end:
        case "eof":
            wire.websocket.eof_received()
            wire.transport.close()
        case "abort":
            wire.websocket.abort()
            wire.websocket.abort()
        case "reset":
            wire.websocket.connection_lost(ConnectionResetError())
        case "close":
            wire.feed(masked(CLOSE, closing(1000)))
    wire.loop.advance(CLOSE_SECONDS + 1)
    assert wire.recorder.calls == ["opened", "lost"]
    assert not wire.websocket.is_open
    assert not wire.sockets.open
    assert wire.loop.timers == 0


def test_an_unanswered_ping_is_noticed_until_anything_is_heard() -> None:
    wire = Wire()
    wire.websocket.ping(1.0)
    wire.websocket.ping(2.0)
    assert wire.websocket.unanswered_since == 1.0
    assert wire.transport.frames == [Frame(True, PING, b"")] * 2
    wire.loop.now += 3
    wire.feed(masked(PONG))
    assert wire.websocket.unanswered_since is None
    assert wire.websocket.last_pong == wire.loop.now
    wire.websocket.ping(5.0)
    wire.feed(text(b"half of a large message", fin=False)[:9])
    assert wire.websocket.unanswered_since is None


def test_a_peer_that_does_not_read_is_not_asked_for_a_pong() -> None:
    wire = Wire(Limits(write_buffer_bytes_max=100))
    wire.transport.stuck = True
    wire.websocket.write(frame_text(b"x" * 200))
    wire.websocket.ping(1.0)
    assert wire.websocket.unanswered_since is None


def test_who_does_not_name_itself_in_time_is_closed_and_who_does_is_not() -> None:
    for named in (False, True):
        wire = Wire(Limits(auth_seconds_max=3))
        wire.sockets.unauthenticated.add(wire.websocket)
        wire.loop.advance(2)
        if named:
            wire.websocket.authenticated()
        wire.loop.advance(2)
        assert wire.close_codes == ([] if named else [CloseCode.UNAUTHORIZED])
        assert wire.websocket.is_open == named


def test_the_peer_is_the_other_end_of_the_socket() -> None:
    assert Wire().websocket.peer == "192.0.2.1"


# ---------------------------------------------------------------- parsers are shared


def idle(wire: Wire) -> int:
    return len(wire.sockets._parsers)


@pytest.mark.parametrize(
    ("received", "at_rest"),
    [
        (text(b"whole"), True),
        (text(b"whole") + text(b"half")[:1], False),
        (text(b"half")[:2], False),
        (text(b"half")[:6], False),
        (text(b"half")[:7], False),
        (text(b"x" * 200)[:3], False),
        (text(b"first of two", fin=False), False),
        (text(b"first", fin=False) + masked(PING), False),
        (masked(PING), True),
    ],
)
def test_a_parser_goes_back_only_between_messages(received: bytes, at_rest: bool) -> None:
    wire = Wire()
    wire.feed(received)
    assert idle(wire) == at_rest


def test_a_parser_that_served_one_connection_serves_another() -> None:
    one, two = Wire(), Wire()
    two.sockets._parsers = one.sockets._parsers
    for number in range(20):
        one.feed(text(b"one %d" % number))
        two.feed(text(b"tw", fin=False))
        one.feed(masked(PING, b"1"))
        two.feed(more(b"o", fin=True))
    assert one.recorder.messages == [b"one %d" % number for number in range(20)]
    assert two.recorder.messages == [b"two"] * 20
    assert 1 <= idle(one) <= 2


def test_no_more_parsers_are_kept_than_are_of_use() -> None:
    wires = [Wire() for _ in range(PARSERS_IDLE_MAX + 10)]
    for wire in wires:
        wire.sockets = wire.websocket._sockets = wires[0].sockets
        wire.feed(text(b"half")[:3])
    for wire in wires:
        wire.feed(text(b"half")[3:])
        assert wire.recorder.messages == [b"half"]
    assert idle(wires[0]) == PARSERS_IDLE_MAX


# ---------------------------------------------------------------- nothing is left


HALF_USED: list[weakref.ref] = []


class Plain:
    """A client without a transport: asyncio's are cycles, and would hide what the server's do."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.loop = asyncio.get_running_loop()

    async def say(self, data: bytes) -> bytes:
        await self.loop.sock_sendall(self.socket, data)
        return await self.loop.sock_recv(self.socket, 65536)

    async def connect(self) -> None:
        await self.loop.sock_connect(self.socket, ("127.0.0.1", self.server.listener.port))

    async def upgrade(self) -> None:
        assert b" 101 " in await self.say(upgrade(self.server.authority))

    async def tell(self, data: bytes) -> None:
        await self.loop.sock_sendall(self.socket, data)
        await until(lambda: self.server.recorders[-1].websocket._parser is not None)
        # A collector would finalise a suspended generator without counting it as garbage.
        HALF_USED.append(weakref.ref(self.server.recorders[-1].websocket._parser))


async def open_and_end(server: Server, how: str) -> None:
    client = Plain(server)
    await client.connect()
    request = f"GET /health HTTP/1.1\r\nHost: {server.authority}\r\n\r\n".encode()
    match how:
        case "a close":
            await client.upgrade()
            await client.say(masked(CLOSE, closing(1000)))
        case "half a frame":
            await client.upgrade()
            await client.tell(text(b"half")[:3])
        case "half a message":
            await client.upgrade()
            await client.tell(text(b"half", fin=False))
        case "a broken rule":
            await client.upgrade()
            await client.say(masked(3))
        case "an abort of ours":
            await client.upgrade()
            server.recorders[-1].websocket.abort()
        case "an end without a word":
            await client.upgrade()
        case "a request, then an upgrade":
            await client.say(request)
            await client.upgrade()
        case "a request":
            await client.say(request)
        case "requests that were pipelined":
            await client.say(request * 5)
        case "a refused upgrade":
            await client.say(upgrade("evil.example"))
        case "a bad handshake":
            await client.say(upgrade(server.authority, version="12"))
        case "a bad request":
            await client.say(b"nonsense\r\n\r\n")
    client.socket.close()
    await until(lambda: server.listener.statistics().websockets == 0)
    await until(lambda: server.listener.statistics().http == 0)


@pytest.mark.parametrize(
    "how",
    [
        "a close",
        "half a frame",
        "half a message",
        "a broken rule",
        "an abort of ours",
        "an end without a word",
        "a request, then an upgrade",
        "a request",
        "requests that were pipelined",
        "a refused upgrade",
        "a bad handshake",
        "a bad request",
    ],
)
async def test_after_this_nothing_is_left_for_the_garbage_collector(how: str) -> None:
    async with serving() as server:
        # The first of a kind fills caches.
        await open_and_end(server, how)
        server.recorders.clear()
        server.handshakes.clear()
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for _ in range(5):
                await open_and_end(server, how)
            references = [weakref.ref(r.websocket) for r in server.recorders if r.websocket]
            server.recorders.clear()
            server.handshakes.clear()
            await anyio.lowlevel.checkpoint()
            references += HALF_USED
            HALF_USED.clear()
            assert [reference() for reference in references] == [None] * len(references)
            gc.collect()
            assert [type(thing).__name__ for thing in gc.garbage] == []
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()


# ---------------------------------------------------------------- another implementation


def echo(handshake: Handshake) -> Recorder:
    return Recorder(on_message=lambda websocket, payload: websocket.write(frame_text(payload)))


async def test_the_websockets_client_talks_with_us() -> None:
    async with serving(LIMITS, recorder=echo) as server:
        url = server.listener.url.replace("http", "ws") + "/ws?heal=0"
        async with connect(url, compression="deflate", max_size=None) as client:
            assert client.protocol.extensions == []
            for message in ("", "short", "x" * 70_000, "€" * 1000):
                await client.send(message)
                assert await client.recv() == message
            await client.send(["three ", "frag", "ments"])
            assert await client.recv() == "three fragments"
            with anyio.fail_after(GUARD_SECONDS):
                await (await client.ping(b"are you there?"))
        assert client.close_code == 1000
        assert server.recorders[0].calls == ["opened", "lost"]


@pytest.mark.parametrize(
    ("message", "code"), [("x" * (FRAME_BYTES_MAX + 1), 1009), (b"binary", 1003)]
)
async def test_the_websockets_client_sees_why_it_was_closed(message: str, code: int) -> None:
    async with serving(LIMITS) as server:
        async with connect(server.listener.url.replace("http", "ws")) as client:
            # Far more is on its way than the server reads: the close frame must survive that.
            with anyio.fail_after(GUARD_SECONDS):
                with contextlib.suppress(ConnectionClosed):
                    for _ in range(50):
                        await client.send(message)
                await client.wait_closed()
        assert client.close_code == code


async def test_the_websockets_client_gets_our_close_and_its_reason() -> None:
    async with serving() as server:
        async with connect(server.listener.url.replace("http", "ws")) as client:
            server.recorders[0].websocket.close(CloseCode.RESYNC, "resume")
            with pytest.raises(ConnectionClosed):
                await client.recv()
        assert (client.close_code, client.close_reason) == (CloseCode.RESYNC, "resume")
        await asyncio.wait_for(server.recorders[0].gone.wait(), GUARD_SECONDS)
