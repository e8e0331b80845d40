"""The event streams of chat sessions: what is replayed, what is live, and who sees it."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import anyio.lowlevel
import msgspec
import pytest

from dispatch.core.identity import LOCAL
from dispatch.runtime.chats import presence
from dispatch.runtime.chats.streams import stream_name
from dispatch.runtime.retention import prune_events
from dispatch.server.chats import events as chat_events
from dispatch.settings import AuthSettings, AuthToken, RetentionSettings, StorageSettings
from tests.server.acting import GUARD_SECONDS, Stage, settings, staged
from tests.server.chats.chatting import Object, Person


@pytest.fixture(params=["memory", "sqlite"])
async def stage(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    chosen = msgspec.structs.replace(
        settings(tmp_path), storage=StorageSettings(kind=request.param)
    )
    async with staged(chosen) as stage:
        yield stage


@pytest.fixture
def ann(stage: Stage) -> Person:
    return Person(stage.http)


def token(user: str, account: str = "acme") -> AuthToken:
    digest = hashlib.sha256(f"secret-of-{user}".encode()).hexdigest()
    return AuthToken(sha256=digest, account=account, user=user)


def person(stage: Stage, user: str) -> Person:
    return Person(stage.http, {"authorization": f"Bearer secret-of-{user}"})


# -- the stream


async def test_the_first_frame_says_where_the_stream_begins(ann: Person) -> None:
    session = await ann.create()
    async with ann.events() as events:
        assert events.reply.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert events.reply.headers["cache-control"] == "no-cache, no-transform"
        assert events.reply.headers["x-accel-buffering"] == "no"
        cursor = (await ann.detail(session))["cursor"]
        assert events.frames == [{"event": "connected", "data": {"cursor": cursor}}]


async def test_an_event_names_itself_inside(ann: Person) -> None:
    async with ann.events() as events:
        session = await ann.create(title="Plans", workspace_id="w")
        created = await events.until("chat_session_created")
    assert created["sessionId"] == session
    assert created["data"] == {
        "id": session,
        "workspace_id": "w",
        "agent_key": "actor",
        "creator_id": "local",
        "title": "Plans",
        "status": "active",
        "created_at": created["data"]["created_at"],
        "updated_at": created["data"]["created_at"],
        "next_seq": 1,
        "last_read_seq": 0,
        "archived_at": None,
    }
    assert created["timestamp"].endswith("Z")
    assert created["id"] % 16 == 0


async def test_a_stream_that_was_cut_goes_on_without_loss(ann: Person, stage: Stage) -> None:
    session = await ann.create()
    async with ann.events() as whole:
        await ann.say(session, "one")
        await whole.until_idle()
        half = whole.frames[3]["id"]
        await ann.say(session, "two")
        await whole.until_idle()
        async with ann.events(last_event_id=half) as resumed:
            assert resumed.frames[0]["data"] == {"cursor": half}
            await ann.say(session, "three")
            for _ in range(2):
                await whole.until("chat_typing")
            while not resumed.ids[-1] or resumed.ids[-1] < (whole.ids[-1] or 0):
                await resumed.next()
    at = whole.ids.index(half)
    assert resumed.frames[1:] == whole.frames[at + 1 :]
    assert sorted(i for i in resumed.ids if i) == [i for i in resumed.ids if i]


async def test_what_is_replayed_from_the_log_is_what_was_shown(ann: Person, stage: Stage) -> None:
    session = await ann.create()
    async with ann.events() as live:
        for text in ("one", "fail", "flood 0"):
            await ann.say(session, text)
            await live.until_idle()
        await ann.ask("POST", f"/{session}/read")
        await ann.ask("PATCH", f"/{session}", {"title": "other"})
        await ann.ask("DELETE", f"/{session}")
        await ann.ask("POST", f"/{session}/restore")
        await live.until("chat_session_restored")
    # Nobody followed in between: the ring is gone.
    replayed = await ann.history(live.frames[0]["data"]["cursor"])
    assert replayed == live.frames[1:]


async def test_the_header_beats_the_query(ann: Person) -> None:
    session = await ann.create()
    await ann.say(session, "one")
    newest = (await ann.detail(session))["cursor"]
    async with ann.events("/events?last_event_id=0", last_event_id=newest) as events:
        assert events.frames[0]["data"] == {"cursor": newest}
    async with ann.events("/events?last_event_id=0") as events:
        assert events.frames[0]["data"] == {"cursor": 0}
        assert (await events.next())["event"] == "chat_session_created"


@pytest.mark.parametrize("asked", ["what", "-5", "999999999999"])
async def test_an_unknown_id_asks_for_a_new_start(ann: Person, asked: str) -> None:
    session = await ann.create()
    newest = (await ann.detail(session))["cursor"]
    async with ann.events(last_event_id=asked) as events:
        assert events.frames[0]["data"] == {"cursor": newest}
        assert await events.next() == {"event": "resync_required", "data": {"cursor": newest}}
        await ann.say(session, "one")
        await events.until_idle()
    assert events.names[2:] == [
        "session_updated",
        "user: one",
        "typing true",
        "assistant: one",
        "typing false",
    ]


async def test_what_was_pruned_asks_for_a_new_start(ann: Person, stage: Stage) -> None:
    session = await ann.create()
    await ann.say(session, "one")
    clock = stage.daemon.services.clock
    written_ms = clock.now_ms()
    while clock.now_ms() == written_ms:
        pass
    assert await prune_events(stage.daemon.services, RetentionSettings(events_seconds=0)) > 0
    newest = (await ann.detail(session))["cursor"]
    async with ann.events(last_event_id=1) as events:
        assert events.frames[0]["data"] == {"cursor": newest}
        assert await events.next() == {"event": "resync_required", "data": {"cursor": newest}}
    async with ann.events(last_event_id=newest) as events:
        await ann.say(session, "two")
        await events.until_idle()
        assert "resync_required" not in events.names


async def test_text_comes_as_it_is_said_for_those_who_ask(ann: Person, stage: Stage) -> None:
    session = await ann.create()
    async with ann.events("/events?deltas=1") as told, ann.events() as plain:
        await ann.send(session, "hold")
        first = await told.until("chat_message_delta")
        stage.actor.release("hold")
        await told.until_idle()
        await plain.until_idle()
    deltas = [f["data"] for f in told.frames if f["event"] == "chat_message_delta"]
    assert [(d["text"], d["offset"]) for d in deltas] == [("so far; ", 0), ("released", 8)]
    assert "id" not in first
    row = next(f["data"] for f in told.frames if f["data"].get("role") == "assistant")
    assert "".join(d["text"] for d in deltas) == row["content"]
    assert {d["message_id"] for d in deltas} == {row["id"]}
    assert "message_delta" not in plain.names
    assert [f for f in told.frames[1:] if "id" in f] == plain.frames[1:]


async def test_text_that_was_shown_to_others_is_not_told_again(ann: Person, stage: Stage) -> None:
    session = await ann.create()
    async with ann.events("/events?deltas=1") as first:
        await ann.send(session, "hold")
        await first.until("chat_message_delta")
        async with ann.events("/events?deltas=1") as second:
            stage.actor.release("hold")
            await second.until_idle()
    deltas = [f["data"] for f in second.frames if f["event"] == "chat_message_delta"]
    assert [(d["text"], d["offset"]) for d in deltas] == [("released", 8)]
    assert second.names[-2:] == ["assistant: so far; released", "typing false"]


async def test_a_device_that_joins_in_the_middle_has_the_whole_text(
    ann: Person, stage: Stage
) -> None:
    session = await ann.create()
    await ann.send(session, "hold")
    with anyio.fail_after(GUARD_SECONDS):
        while len((await ann.detail(session))["messages"]) < 2:
            await anyio.lowlevel.checkpoint()
    async with ann.events("/events?deltas=1") as events:
        detail = await ann.detail(session)
        assert detail["messages"][1]["status"] == "streaming"
        assert detail["agent_typing"] is True
        content = detail["messages"][1]["content"]
        stage.actor.release("hold")
        await events.until_idle()
    for frame in events.frames:
        if frame["event"] == "chat_message_delta":
            assert frame["data"]["offset"] == len(content)
            content += frame["data"]["text"]
    assert content == "so far; released"


async def test_a_session_has_a_stream_of_its_own(ann: Person) -> None:
    one, other = await ann.create(), await ann.create()
    async with ann.events(f"/{one}/events") as events:
        await ann.say(other, "there")
        await ann.say(one, "here")
        await events.until_idle()
        assert {f["sessionId"] for f in events.frames[1:]} == {one}
        assert events.names[2:] == ["user: here", "typing true", "assistant: here", "typing false"]
    async with ann.events(f"/{other}/events", last_event_id=0) as events:
        await events.until_idle()
        assert {f["sessionId"] for f in events.frames[1:]} == {other}


async def test_a_quiet_stream_shows_that_it_lives(
    ann: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_events, "HEARTBEAT_SECONDS", 0.01)
    async with ann.http.stream("GET", "/v1/chat/events") as reply:
        with anyio.fail_after(GUARD_SECONDS):
            async for line in reply.aiter_lines():
                if line == ": hb":
                    return
    raise AssertionError("no heartbeat")


async def test_a_daemon_that_goes_says_so_last(ann: Person, stage: Stage) -> None:
    session = await ann.create()
    async with ann.events() as events:
        await ann.send(session, "hold")
        await events.until("chat_typing")
        await stage.daemon.drain(0)
        await events.until("shutdown")
        assert events.names[-4:] == [
            "assistant: failed",
            "task_failed",
            "typing false",
            "shutdown",
        ]
        with pytest.raises(AssertionError, match="ended"):
            await events.next()


async def test_line_ends_inside_of_data_are_escaped(ann: Person) -> None:
    session = await ann.create()
    text = "a\u2028b\u2029c\u0085d\ne\r"
    async with ann.events() as events:
        await ann.send(session, text)
        told = await events.until("chat_message", role="assistant")
    assert told["data"]["content"] == text


async def test_a_stream_that_nobody_follows_holds_nothing(ann: Person, stage: Stage) -> None:
    session = await ann.create()
    before = stage.daemon.services.feeds.statistics().ring_bytes
    async with ann.events() as events:
        await ann.say(session, "one")
        await events.until_idle()
    chats = stage.daemon.connections.chats
    assert chats is not None
    name = stream_name(LOCAL.account, LOCAL.user)
    with anyio.fail_after(GUARD_SECONDS):
        while chats.streams.is_followed(name):
            await anyio.lowlevel.checkpoint()
    live = stage.live(session)
    held = stage.daemon.services.feeds.statistics().ring_bytes - before
    assert held == live.feed.ring.bytes_held


# -- typing


async def test_who_types_is_shown_and_forgotten(
    ann: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "TYPING_SECONDS", 0.02)
    session = await ann.create()
    cursor = (await ann.detail(session))["cursor"]
    async with ann.events() as events:
        await ann.ask("POST", f"/{session}/typing", {"typing": True, "device_id": "d"})
        begun = await events.until("chat_typing", by="user")
        assert begun["data"] == {
            "chat_session_id": session,
            "by": "user",
            "typing": True,
            "phase": None,
            "device_id": "d",
        }
        assert "id" not in begun
        ended = await events.until("chat_typing", by="user")
        assert (ended["data"]["typing"], ended["data"]["device_id"]) == (False, "d")
    assert (await ann.detail(session))["cursor"] == cursor


async def test_a_send_ends_the_typing(ann: Person) -> None:
    session = await ann.create()
    async with ann.events() as events:
        await ann.ask("POST", f"/{session}/typing", {"typing": True})
        await ann.send(session, "here")
        told = [await events.until("chat_typing", by="user") for _ in range(2)]
    assert [frame["data"]["typing"] for frame in told] == [True, False]


# -- snapshots


async def test_polling_ends_where_streaming_does(ann: Person, stage: Stage) -> None:
    session = await ann.create()
    snapshot = await ann.detail(session)
    async with ann.events(last_event_id=snapshot["cursor"]) as events:
        for text in ("one", "fail", "flood 0"):
            await ann.say(session, text)
        await ann.ask("POST", f"/{session}/read", {"up_to_seq": 3})
        await events.until("chat_session_read")
    rows: dict[str, Object] = {m["id"]: m for m in snapshot["messages"]}
    state = {"unread": snapshot["unread_count"], "typing": snapshot["agent_typing"]}
    for frame in events.frames[1:]:
        data = frame["data"]
        match frame["event"]:
            case "chat_message":
                assert data["id"] not in rows
                rows[data["id"]] = data
            case "chat_typing":
                state["typing"] = data["typing"]
            case "chat_session_read":
                state["unread"] = data["unread_count"]
            case "chat_session_updated":
                state["title"] = data["title"]
    polled = await ann.detail(session)
    assert sorted(rows.values(), key=lambda row: row["seq"]) == polled["messages"]
    assert state == {
        "unread": polled["unread_count"],
        "typing": polled["agent_typing"],
        "title": polled["title"],
    }


async def test_the_list_goes_on_from_where_it_was_read(ann: Person) -> None:
    session = await ann.create()
    await ann.say(session, "one")
    listed = await ann.listed()
    async with ann.events(last_event_id=listed["cursor"]) as events:
        await ann.send(session, "two")
        assert (await events.next())["data"]["content"] == "two"


# -- who sees what


async def test_nobody_else_comes_near_a_session(tmp_path: Path) -> None:
    auth = AuthSettings(tokens=(token("ann"), token("bob"), token("eve", "other")))
    async with staged(settings(tmp_path, auth=auth)) as stage:
        ann, bob, eve = (person(stage, name) for name in ("ann", "bob", "eve"))
        async with bob.events() as of_bob, eve.events() as of_eve:
            session = await ann.create()
            await ann.say(session, "secret")
            own, foreign = await bob.create(), await eve.create()
            await of_bob.until("chat_session_created")
            await of_eve.until("chat_session_created")
        assert {f["sessionId"] for f in of_bob.frames[1:]} == {own}
        assert {f["sessionId"] for f in of_eve.frames[1:]} == {foreign}
        assert [s["id"] for s in (await bob.listed())["sessions"]] == [own]
        before = await ann.detail(session)
        for method, path, body in (
            ("GET", "", None),
            ("POST", "/messages", {"content": "x"}),
            ("PATCH", "", {"title": "t"}),
            ("DELETE", "", None),
            ("DELETE", "?purge=true", None),
            ("POST", "/restore", None),
            ("POST", "/read", None),
            ("POST", "/typing", {"typing": True}),
            ("GET", "/pending-task", None),
            ("POST", "/cancel", None),
            ("GET", "/events", None),
        ):
            assert await bob.refused(method, f"/{session}{path}", body) == (403, "FORBIDDEN")
            refused = await eve.refused(method, f"/{session}{path}", body)
            assert refused == (404, "SESSION_NOT_FOUND")
        assert await ann.detail(session) == before
        async with bob.events(last_event_id=0) as replayed:
            assert (await replayed.next())["sessionId"] == own
