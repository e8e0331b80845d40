"""Chat sessions in the client, against a server that answers as a test says."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

import pytest
from msgspec import UNSET

from dispatch.client import CannotConnect, ChatApi
from dispatch.client.events import Frame
from dispatch.client.frames import Reconnecting
from dispatch.errors import NotFound, Unavailable
from tests.client.answering import HttpServer, running
from tests.client.eventing import AT, detail, message, sent, session, sse, told


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with running() as server:
        yield server


def asked(server: HttpServer) -> list[tuple[str, str, object]]:
    return [(method, path, body) for method, path, body, _ in server.seen]


async def test_what_is_asked_once_is_asked_as_the_page_says(server: HttpServer) -> None:
    last = {"content": "hi", "role": "user", "created_at": AT, "failure_reason": None}
    item = session(unread_count=2, has_unread=True, last_message=last, agent_typing=True)
    server.answers = [
        (200, {"sessions": [item], "unread_total": 2, "next_cursor": "1.2", "cursor": 9}),
        (201, session()),
        (200, detail(message(1, "hi"), message(2, "ho"), mood="good")),
        (200, {"chat_session_id": "c-1", "last_read_seq": 2, "unread_count": 0}),
        (200, {"task_id": None, "status": "idle"}),
        (200, session(title="New")),
        (200, session(status="archived", archived_at=AT)),
        (200, session()),
        (200, {"id": "c-1", "purged": True}),
    ]
    chats = ChatApi(server.api())
    listed = await chats.list("all", limit=1, cursor="3.4")
    assert (listed.sessions[0].unread_count, listed.next_cursor) == (2, "1.2")
    assert (await chats.create("echo", "My chat")).title == "My chat"
    shown = await chats.get("a/b", limit=2, before_seq=9)
    assert [m.content for m in shown.messages] == ["hi", "ho"]
    assert (await chats.read("c-1", 2)).unread_count == 0
    assert (await chats.cancel("c-1", "t-1")).status == "idle"
    assert (await chats.rename("c-1", "New")).title == "New"
    assert (await chats.archive("c-1")).status == "archived"
    assert (await chats.restore("c-1")).archived_at is None
    assert (await chats.purge("c-1")).purged
    assert asked(server) == [
        ("GET", "/v1/chat?status=all&limit=1&cursor=3.4", None),
        ("POST", "/v1/chat", {"agent_key": "echo", "title": "My chat"}),
        ("GET", "/v1/chat/a%2Fb?limit=2&before_seq=9", None),
        ("POST", "/v1/chat/c-1/read", {"up_to_seq": 2}),
        ("POST", "/v1/chat/c-1/cancel", {"task_id": "t-1"}),
        ("PATCH", "/v1/chat/c-1", {"title": "New"}),
        ("DELETE", "/v1/chat/c-1", None),
        ("POST", "/v1/chat/c-1/restore", None),
        ("DELETE", "/v1/chat/c-1?purge=true", None),
    ]


async def test_a_send_without_waiting_is_answered_at_once(server: HttpServer) -> None:
    server.answers = [(201, sent(queued=True))]
    told = await ChatApi(server.api()).send("c-1", "hi", client_message_id="mine")
    assert told.queued
    assert told.response is UNSET
    body = {"content": "hi", "client_message_id": "mine"}
    assert asked(server) == [("POST", "/v1/chat/c-1/messages", body)]


async def test_a_send_waits_in_pieces_until_the_answer_is_there(server: HttpServer) -> None:
    answer = message(2, "ho")
    server.answers = [
        (201, sent(response=None)),
        (0, None),
        (503, {"error": "draining", "code": "AGENT_UNAVAILABLE"}),
        (200, sent(response=answer, duplicate=True)),
    ]
    told = await ChatApi(server.api()).send("c-1", "hi", wait_seconds=3600)
    assert told.response is not UNSET
    assert told.response is not None
    assert told.response.content == "ho"
    assert {path for _, path, _ in asked(server)} == {"/v1/chat/c-1/messages?wait=25.000"}
    keys = [body["client_message_id"] for _, _, body in asked(server)]  # type: ignore[index]
    assert len(keys) == 4
    assert len(set(keys)) == 1


async def test_a_send_stops_waiting_when_its_time_is_over(server: HttpServer) -> None:
    server.answers = [(201, sent(response=None))]
    told = await ChatApi(server.api()).send("c-1", "hi", wait_seconds=5)
    assert told.response is None
    assert asked(server)[0][1].startswith("/v1/chat/c-1/messages?wait=")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((404, {"error": "gone", "code": "SESSION_NOT_FOUND"}), NotFound),
        ((503, {"error": "not there", "code": "AGENT_UNAVAILABLE"}), Unavailable),
    ],
)
async def test_a_send_that_was_never_taken_is_refused_at_once(
    server: HttpServer, answer: tuple[int, object], kind: type[Exception]
) -> None:
    server.answers = [answer]
    with pytest.raises(kind) as raised:
        await ChatApi(server.api()).send("c-1", "hi")
    assert raised.value.code in ("SESSION_NOT_FOUND", "AGENT_UNAVAILABLE")  # type: ignore[attr-defined]


async def watched(server: HttpServer, *words: str, **fields: object) -> list[object]:
    """The events that a watcher is shown until the server has no more to say."""
    found: list[object] = []
    server.answers.append((404, {"error": "over", "code": "SESSION_NOT_FOUND"}))
    watcher = ChatApi(server.api()).watch(*words, **fields)  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        await take(watcher, found)
    return found


async def take(watcher: AsyncGenerator[Frame | Reconnecting, None], found: list[object]) -> None:
    async with aclosing(watcher) as items:
        async for item in items:
            if not isinstance(item, Reconnecting):
                found.append(item["event"])


def connected(cursor: int) -> tuple[None, dict[str, object]]:
    return None, {"event": "connected", "data": {"cursor": cursor}}


async def test_a_watcher_goes_on_behind_the_last_id(server: HttpServer) -> None:
    first, second = told("chat_message", message(1, "a"), 16), told("chat_typing", {}, 32)
    delta = told("chat_message_delta", {"text": "x", "offset": 0})
    server.answers = [
        (200, sse(connected(8), first, delta)),
        (200, sse(connected(16), first, second)),
    ]
    found = await watched(server, "c-1", deltas=True)
    assert found == ["connected", "chat_message", "chat_message_delta", "connected", "chat_typing"]
    assert server.cursors == [None, "16", "32"]
    assert asked(server)[0][1] == "/v1/chat/c-1/events?deltas=1"


async def test_a_watcher_who_saw_nothing_yet_goes_on_from_where_it_was_connected(
    server: HttpServer,
) -> None:
    server.answers = [(200, sse(connected(8)))]
    assert await watched(server) == ["connected"]
    assert server.cursors == [None, "8"]
    assert asked(server)[0][1] == "/v1/chat/events"


async def test_after_a_resync_a_watcher_goes_on_from_the_newest(server: HttpServer) -> None:
    resync = (None, {"event": "resync_required", "data": {"cursor": 64}})
    server.answers = [(200, sse(connected(64), resync, told("chat_message", {}, 80)))]
    found = await watched(server, after=4000)
    assert found == ["connected", "resync_required", "chat_message"]
    assert server.cursors == ["4000", "80"]


async def test_a_first_connection_that_fails_is_told(server: HttpServer) -> None:
    server.answers = [(0, None)]
    with pytest.raises(CannotConnect):
        await anext(ChatApi(server.api()).watch())
