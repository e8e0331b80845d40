"""Groups in the client, against a server that answers as a test says."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

import pytest

from dispatch.client import GroupApi
from dispatch.client.events import Frame
from dispatch.client.frames import Reconnecting
from dispatch.errors import Gone, NotFound, PeerError
from dispatch.protocol.groups.schema import GroupSnapshot
from tests.client.answering import HttpServer, running
from tests.client.eventing import chunk, done, group, group_done, page, row, sse, user

Item = GroupSnapshot | Frame | Reconnecting


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with running() as server:
        yield server


async def all_of(items: AsyncGenerator[object, None]) -> list[object]:
    async with aclosing(items) as stream:
        return [item async for item in stream]


def asked(server: HttpServer) -> list[tuple[str, str, object]]:
    return [(method, path, body) for method, path, body, _ in server.seen]


async def test_what_is_asked_once_is_asked_as_the_page_says(server: HttpServer) -> None:
    stopped = {"ok": True, "stopped": ["opus"], "queued": False}
    deleted = {"ok": True, "deleted": True, "sessionsDeleted": ["c-1"], "sessionsKept": []}
    server.answers = [
        (200, {"ok": True, "groups": [group(mood="good")]}),
        (201, group()),
        (200, page(user(1, "hi"))),
        (200, stopped),
        (200, stopped),
        (200, deleted),
    ]
    groups = GroupApi(server.api())
    [listed] = await groups.list()
    assert listed.member_session_ids == {"opus": "c-1", "codex": "c-2"}
    assert (await groups.create(["opus", "codex"], "Two")).id == "g-1"
    assert (await groups.get("a/b", after_seq=2, limit=5)).events[0].text == "hi"
    assert (await groups.stop("g-1")).stopped == ("opus",)
    await groups.stop("g-1", familiar="opus", reply_to=1, run_id="x")
    assert (await groups.delete("g-1", "keep")).sessions_deleted == ("c-1",)
    assert asked(server) == [
        ("GET", "/api/groups", None),
        ("POST", "/api/groups", {"memberFamiliarIds": ["opus", "codex"], "title": "Two"}),
        ("GET", "/api/groups/a%2Fb?afterSeq=2&limit=5", None),
        ("POST", "/api/groups/g-1/stop", {}),
        ("POST", "/api/groups/g-1/stop", {"familiarId": "opus", "replyTo": 1, "runId": "x"}),
        ("DELETE", "/api/groups/g-1?sessions=keep", None),
    ]


async def test_a_send_shows_frames_with_their_ids_up_to_the_end_of_the_group(
    server: HttpServer,
) -> None:
    first, last = chunk(2, "opus", "he"), group_done(completed=1)
    server.answers = [(200, sse((16, first), (32, done(2, "opus", "he")), (48, last), (64, {})))]
    frames = await all_of(GroupApi(server.api()).send("g-1", "hi", to=["opus"], on_busy="reject"))
    assert frames == [
        {**first, "frameId": 16},
        {**done(2, "opus", "he"), "frameId": 32},
        {**last, "frameId": 48},
    ]
    [(method, path, body)] = asked(server)
    assert (method, path) == ("POST", "/api/groups/g-1/send")
    assert isinstance(body, dict)
    assert len(body.pop("clientMessageId")) == 36
    assert body == {"text": "hi", "targetFamiliarIds": ["opus"], "onBusy": "reject"}


async def test_a_send_whose_line_is_lost_is_repeated_under_its_id(server: HttpServer) -> None:
    frames = [(16, chunk(2, "opus", "he")), (32, chunk(2, "opus", "llo")), (48, group_done())]
    server.answers = [(0, None), (200, sse(*frames[:1])), (200, sse(*frames))]
    sending = GroupApi(server.api()).send("g-1", "hi", client_message_id="mine")
    found = await all_of(sending)
    shown = [item["frameId"] for item in found if isinstance(item, dict)]
    assert shown == [16, 32, 48]
    assert sum(isinstance(item, Reconnecting) for item in found) == 2
    assert {body["clientMessageId"] for _, _, body in asked(server)} == {"mine"}  # type: ignore[index]


async def test_a_refused_send_raises_what_the_daemon_says(server: HttpServer) -> None:
    refusal = {"ok": False, "error": "group deleted", "code": "group_deleted"}
    server.answers = [(410, refusal)]
    with pytest.raises(Gone, match="group deleted") as raised:
        await all_of(GroupApi(server.api()).send("g-1", "hi"))
    assert raised.value.code == "group_deleted"


async def watched(server: HttpServer, **fields: object) -> list[object]:
    """What a watcher is shown until the group is deleted."""
    found: list[object] = []
    watcher = GroupApi(server.api()).watch("g-1", **fields)  # type: ignore[arg-type]
    with pytest.raises(Gone):
        await _take(watcher, found)
    return found


async def _take(watcher: AsyncGenerator[Item, None], found: list[object]) -> None:
    async with aclosing(watcher) as items:
        async for item in items:
            found.append(_short(item))


def _short(item: Item) -> object:
    match item:
        case GroupSnapshot():
            return [event.seq for event in item.events]
        case Reconnecting():
            return "reconnecting"
        case _:
            return item["frameId"]


DELETED = {"kind": "group_deleted", "groupId": "g-1", "seq": None}


async def test_a_watcher_begins_with_what_is_open_and_follows_from_there(
    server: HttpServer,
) -> None:
    server.answers = [
        (200, page(settledSeq=5)),
        (200, page(row(7, "opus", "so far", streaming=True), settledSeq=5, cursor=80)),
        (200, sse((96, chunk(7, "opus", "...")))),
        (200, sse((96, chunk(7, "opus", "...")), (112, DELETED))),
    ]
    assert await watched(server) == [[7], 96, "reconnecting", 112]
    assert [path for _, path, _ in asked(server)] == [
        "/api/groups/g-1?limit=1",
        "/api/groups/g-1?afterSeq=5",
        "/api/groups/g-1/stream",
        "/api/groups/g-1/stream",
    ]
    assert server.cursors == [None, None, "80", "96"]


async def test_history_is_all_rows(server: HttpServer) -> None:
    server.answers = [
        (200, page(user(1, "hi"), row(2, "opus", "ho"), cursor=80)),
        (200, sse((96, DELETED))),
    ]
    assert await watched(server, history=True) == [[1, 2], 96]
    assert asked(server)[0][1] == "/api/groups/g-1?afterSeq=0"


async def test_frames_that_are_gone_are_replaced_by_a_snapshot(server: HttpServer) -> None:
    gap = {"kind": "progress", "id": "resume-gap", "groupId": "g-1", "seq": None, "cursor": 200}
    server.answers = [
        (200, sse((None, gap), (192, chunk(3, "opus", "in it")), (224, chunk(3, "opus", "new")))),
        (200, page(row(3, "opus", "in it", streaming=True), cursor=208)),
        (200, sse((240, DELETED))),
    ]
    # The third connection is the watcher's second: the snapshot was read beside the first.
    assert await watched(server, after=48) == [[3], 224, "reconnecting", 240]
    assert server.cursors == ["48", None, "224"]


async def test_data_that_was_put_back_does_not_leave_a_watcher_without_a_place(
    server: HttpServer,
) -> None:
    gap = {"kind": "progress", "id": "resume-gap", "groupId": "g-1", "seq": None, "cursor": 32}
    no_cursor = page(settledSeq=2)
    del no_cursor["cursor"]
    server.answers = [
        (200, page(settledSeq=5)),
        (200, page(settledSeq=5, cursor=800)),
        (200, sse((None, gap), (48, DELETED))),
        (200, no_cursor),
        (200, page(settledSeq=2, cursor=32)),
    ]
    assert await watched(server) == [[], [], 48]
    assert [path for _, path, _ in asked(server)][3:] == [
        "/api/groups/g-1?afterSeq=5",
        "/api/groups/g-1?afterSeq=2",
    ]


async def test_a_daemon_that_names_no_place_is_told(server: HttpServer) -> None:
    no_cursor = page()
    del no_cursor["cursor"]
    server.answers = [(200, no_cursor)] * 4
    with pytest.raises(PeerError, match="from where to follow"):
        await all_of(GroupApi(server.api()).watch("g-1"))


async def test_a_group_that_is_not_there_is_told_at_once(server: HttpServer) -> None:
    server.answers = [(404, {"ok": False, "error": "group not found", "code": "group_not_found"})]
    with pytest.raises(NotFound):
        await all_of(GroupApi(server.api()).watch("g-1"))
