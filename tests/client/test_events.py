"""Event streams of the client: bytes to frames, and one stream out of many connections."""

from collections.abc import Iterator
from contextlib import aclosing
from itertools import pairwise

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from hypothesis import given
from hypothesis import strategies as st

from dispatch.client import CannotConnect, HttpApi, Options
from dispatch.client.dial import Address
from dispatch.client.events import Event, EventLines, Place, Wish, follow_events
from dispatch.client.frames import Reconnecting
from dispatch.errors import NotFound, PeerError, Unavailable
from tests.client.answering import HttpServer, running
from tests.client.eventing import sse


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with running() as server:
        yield server


STREAM = b": hb\n\n" + sse((1, {"a": "\u00e9"}), (None, {"b": 1})) + b"id: 7\r\ndata: {}\r\n\r\n"


def fed(*pieces: bytes) -> list[Event]:
    lines = EventLines()
    return [event for piece in pieces for event in lines.feed(piece)]


@given(st.lists(st.integers(0, len(STREAM))))
def test_events_are_the_same_however_the_bytes_are_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[a:b] for a, b in pairwise(edges)]
    assert fed(*pieces) == [Event(1, {"a": "\u00e9"}), Event(None, {"b": 1}), Event(7, {})]


def test_an_event_of_several_lines_is_one() -> None:
    assert fed(b'data: {"a":\ndata: 1}\n\n') == [Event(None, {"a": 1})]


@pytest.mark.parametrize("data", [b"data: nonsense\n\n", b"data: [1]\n\n"])
def test_an_event_that_is_no_object_is_told(data: bytes) -> None:
    with pytest.raises(PeerError, match="makes no sense"):
        fed(data)


async def taken(
    http: HttpApi, wish: Wish, place: Place | None = None, last: object = "last"
) -> list[object]:
    """Everything up to the frame that says it is the last."""
    found: list[object] = []
    events = follow_events(http, wish, place or Place(), lambda frame: frame.get("n") == last)
    async with aclosing(events) as stream:
        async for event in stream:
            found.append(event.reason if isinstance(event, Reconnecting) else event.frame["n"])
    return found


GET = Wish("GET", "/stream")
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


async def test_a_stream_that_ends_goes_on_behind_its_last_id(server: HttpServer) -> None:
    server.answers = [
        (200, sse((3, {"n": 1}), (5, {"n": 2}))),
        (0, None),
        # What the daemon repeats was seen.
        (200, sse((5, {"n": 2}), (9, {"n": "last"}))),
    ]
    found = await taken(server.api(), GET)
    ended, lost = "the daemon ended the stream", f"the connection to {server.url} was lost"
    assert found == [1, 2, ended, lost, "last"]
    assert server.cursors == [None, "5", "5"]


async def test_a_stream_begins_where_it_is_told_to(server: HttpServer) -> None:
    server.answers = [(200, sse((3, {"n": 1}), (4, {"n": "last"})))]
    assert await taken(server.api("t0ken"), GET, Place(3)) == ["last"]
    assert server.cursors == ["3"]
    assert server.seen == [("GET", "/stream", None, "Bearer t0ken")]


async def test_a_post_is_repeated_as_it_is_and_its_frames_are_not(server: HttpServer) -> None:
    server.answers = [
        (0, None),
        (200, sse((1, {"n": 1}), (2, {"n": 2}))),
        (200, sse((1, {"n": 1}), (2, {"n": 2}), (3, {"n": "last"}))),
    ]
    found = await taken(server.api(), Wish("POST", "/send", {"id": "x"}))
    assert [n for n in found if n in (1, 2, "last")] == [1, 2, "last"]
    assert [body for _, _, body, _ in server.seen] == [{"id": "x"}] * 3
    assert server.cursors == [None] * 3


async def test_a_first_get_that_finds_nobody_is_told_at_once(server: HttpServer) -> None:
    server.answers = [(0, None)]
    with pytest.raises(CannotConnect):
        await taken(server.api(), GET)
    assert len(server.seen) == 1


async def test_a_daemon_that_restarts_is_waited_for(server: HttpServer) -> None:
    server.answers = [
        (200, sse((1, {"n": 1}))),
        (503, {"error": "draining", "code": "unavailable", "retryAfterMs": 1}),
        (502, b"<html>"),
        (200, sse((2, {"n": "last"}))),
    ]
    found = await taken(server.api(), GET)
    assert found[0] == 1
    assert found[2] == "draining"
    assert found[-1] == "last"


async def test_patience_ends(server: HttpServer) -> None:
    options = Options(backoff_seconds=0, patience_seconds=0, reply_seconds=5)
    http = HttpApi(Address.parse(server.url), options)
    server.answers = [(200, sse((1, {"n": 1}))), (200, b"")]
    with pytest.raises(CannotConnect, match="ended the stream"):
        await taken(http, GET)
    server.answers = [(503, {"error": "draining", "code": "unavailable"})]
    with pytest.raises(Unavailable):
        await taken(http, GET)


async def test_what_will_not_change_is_not_tried_again(server: HttpServer) -> None:
    server.answers = [
        (200, sse((1, {"n": 1}))),
        (404, {"ok": False, "error": "group not found", "code": "group_not_found"}),
    ]
    with pytest.raises(NotFound, match="group not found") as raised:
        await taken(server.api(), GET)
    assert raised.value.code == "group_not_found"


async def test_what_is_no_event_stream_is_told_and_not_asked_for_again(server: HttpServer) -> None:
    server.answers = [(200, b"<html>welcome</html>")]
    with pytest.raises(PeerError, match="no event stream"):
        await taken(server.api(), GET)
    assert len(server.seen) == 1


async def test_who_leaves_a_silent_stream_ends_it(server: HttpServer) -> None:
    """The thread that waits for the next byte is woken, or the program could not end."""
    gone = anyio.Event()

    async def say_once(peer: SocketStream) -> None:
        async with peer:
            await peer.receive()
            await peer.send(HEAD + sse((1, {"n": 1})))
            with pytest.raises(anyio.EndOfStream):
                await peer.receive()
            gone.set()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)
    http = HttpApi(Address.parse(f"http://127.0.0.1:{port}"))
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, say_once)
        with anyio.fail_after(5):
            async with aclosing(follow_events(http, GET, Place())) as events:
                await anext(events)
                with anyio.move_on_after(0.01) as scope:
                    await anext(events)
                assert scope.cancelled_caught
            await gone.wait()
        tasks.cancel_scope.cancel()
