"""Chat sessions of a real daemon: over HTTP and WebSocket, across kill -9 and restarts."""

from __future__ import annotations

from typing import Any

import anyio
import httpx

from dispatch.compose import verify
from tests.e2e.agents import config
from tests.e2e.conftest import StartDaemon
from tests.e2e.process import DaemonProcess
from tests.e2e.wire import v1_wire
from tests.protocol.replies import http_client
from tests.server.chats.chatting import Person


def client(daemon: DaemonProcess) -> httpx.AsyncClient:
    return http_client(daemon.url, timeout=20.0)


async def test_a_session_from_the_first_word_to_the_list(daemon: DaemonProcess) -> None:
    async with client(daemon) as http:
        ann = Person(http)
        session = await ann.create("echo")
        async with ann.events("/events?deltas=1") as events:
            sent = await ann.send(session, "hello there")
            await events.until_idle()
        rows = (await ann.detail(session))["messages"]
        assert [(r["role"], r["status"], r["seq"]) for r in rows] == [
            ("user", "complete", 1),
            ("assistant", "complete", 2),
        ]
        deltas = [f["data"] for f in events.frames if f["event"] == "chat_message_delta"]
        assert "".join(d["text"] for d in deltas) == rows[1]["content"]
        assert {r["task_id"] for r in rows} == {sent["task_id"]}
        item = await ann.in_list(session)
        assert (item["unread_count"], item["agent_typing"]) == (1, False)
        assert item["last_message"]["content"] == rows[1]["content"]
        read = await ann.ask("POST", f"/{session}/read", {"up_to_seq": 2})
        assert read["unread_count"] == 0


async def test_after_a_kill_the_running_task_is_failed_and_the_queue_runs(
    start_daemon: StartDaemon,
) -> None:
    daemon = await start_daemon(config("endless", "counter"))
    async with client(daemon) as http:
        ann = Person(http)
        session = await ann.create("endless")
        other = await ann.create("endless")
        async with ann.events("/events?deltas=1") as events:
            first = await ann.send(session, "go")
            second = await ann.send(session, "again")
            await events.until("chat_message", content="again")
            await events.until("chat_message_delta")
            await events.until("chat_message_delta")
            shown = "".join(
                f["data"]["text"] for f in events.frames if f["event"] == "chat_message_delta"
            )
            cursor = max(i for i in events.ids if i)
            await daemon.kill()
    assert verify(daemon.data) == []
    await daemon.start()
    async with client(daemon) as http:
        ann = Person(http)
        async with ann.events(last_event_id=cursor) as events:
            await events.until("chat_task_failed", task_id=first["task_id"])
            assert events.names[1:] == ["assistant: failed", "task_failed"]
            ids = [i for i in events.ids if i]
            assert ids == sorted(ids)
            assert ids[0] > cursor
            # The queued task runs, and the agent types on: the period did not end.
            pending = await ann.ask("GET", f"/{session}/pending-task")
            assert (pending["task_id"], pending["status"]) == (second["task_id"], "running")
            await ann.ask("POST", f"/{session}/cancel")
            await events.until_idle()
            assert events.names.count("typing false") == 1
            assert "typing true" not in events.names
        rows = (await ann.detail(session))["messages"]
        failed = next(r for r in rows if r["status"] == "failed")
        assert failed["failure_reason"] == "interrupted"
        assert failed["content"].startswith(shown)
        assert (await ann.in_list(session))["unread_count"] == 2
        assert (await ann.in_list(other))["unread_count"] == 0
    assert verify(daemon.data) == []


async def test_after_a_kill_an_idle_session_types_no_more(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(config("endless"))
    async with client(daemon) as http:
        ann = Person(http)
        session = await ann.create("endless")
        async with ann.events("/events?deltas=1") as events:
            await ann.send(session, "go")
            await events.until("chat_message_delta")
            cursor = max(i for i in events.ids if i)
            await daemon.kill()
    await daemon.start()
    async with client(daemon) as http:
        ann = Person(http)
        detail = await ann.detail(session)
        assert (detail["agent_typing"], detail["pending"]) == (False, None)
        async with ann.events(last_event_id=cursor) as events:
            await events.until_idle()
        assert events.names[1:] == ["assistant: failed", "task_failed", "typing false"]


async def test_a_repeat_after_a_restart_is_told_the_same(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon()
    body: dict[str, Any] = {"content": "hi", "client_message_id": "k"}
    async with client(daemon) as http:
        ann = Person(http)
        session = await ann.create("echo")
        first = await ann.send(session, "hi", "?wait=10", client_message_id="k")
        rows = (await ann.detail(session))["messages"]
        listed = await ann.listed()
    await daemon.stop()
    await daemon.start()
    async with client(daemon) as http:
        ann = Person(http)
        again = await ann.ask("POST", f"/{session}/messages?wait=1", body)
        assert again == {**first, "duplicate": True}
        assert (await ann.detail(session))["messages"] == rows
        assert await ann.listed() == listed
        answer = await ann.say(session, "more")
        assert answer["seq"] == 4


async def test_a_purged_session_stays_so_after_a_restart(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon()
    async with client(daemon) as http:
        ann = Person(http)
        session = await ann.create("echo")
        await ann.say(session, "hi")
        await ann.ask("DELETE", f"/{session}?purge=true")
    await daemon.stop()
    assert verify(daemon.data) == []
    await daemon.start()
    async with client(daemon) as http:
        ann = Person(http)
        assert await ann.refused("GET", f"/{session}") == (404, "SESSION_NOT_FOUND")
        shown = [f["event"] for f in await ann.history()]
        assert shown == ["chat_session_deleted"]


async def test_a_websocket_is_told_what_the_stream_is(daemon: DaemonProcess) -> None:
    async with client(daemon) as http, v1_wire(daemon.url) as wire:
        ann = Person(http)
        await wire.send(type="chats.subscribe", deltas=True)
        begun = await wire.next()
        assert (begun["type"], begun["event"]) == ("chats.event", "connected")
        session = await ann.create("echo")
        async with ann.events("/events?deltas=1", last_event_id=0) as events:
            await ann.send(session, "hello there")
            await events.until_idle()
            told = []
            while not told or told[-1].get("id") != events.ids[-1]:
                told.append(await wire.next())
        kept = [frame for frame in told if "id" in frame]
        assert [{k: v for k, v in f.items() if k != "type"} for f in kept] == [
            frame for frame in events.frames if "id" in frame
        ]
        assert [f["data"]["text"] for f in told if f["event"] == "chat_message_delta"]
        # From the middle, and only that.
        await wire.send(type="chats.subscribe", lastEventId=kept[1]["id"])
        assert (await wire.next())["data"] == {"cursor": kept[1]["id"]}
        assert [await wire.next() for _ in kept[2:]] == kept[2:]
        await wire.send(type="chats.unsubscribe")
        await ann.say(session, "unheard")
        await wire.send(type="ping")
        assert (await wire.next())["type"] == "pong"
        await wire.send(type="chats.subscribe", deltas="yes", ref=7)
        error = await wire.next()
        assert (error["type"], error["code"], error["ref"]) == ("chat.error", "invalid", 7)
        await wire.send(type="chats.shout")
        assert (await wire.next())["type"] == "error"


async def test_kills_under_running_sessions_leave_them_whole(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(config("counter"))
    sessions: list[str] = []
    cursor = 0
    for cycle in range(5):
        async with client(daemon) as http:
            ann = Person(http)
            while len(sessions) < 3:
                sessions.append(await ann.create("counter"))
            for session in sessions:
                for number in (3, 200, 5):
                    await ann.send(
                        session, f"count to {number}", client_message_id=f"{cycle}-{number}"
                    )
            await anyio.sleep(cycle * PAUSE_SECONDS)
            await daemon.kill()
        assert verify(daemon.data) == []
        await daemon.start()
    async with client(daemon) as http:
        ann = Person(http)
        for session in sessions:
            while await ann.ask("GET", f"/{session}/pending-task"):
                await anyio.sleep(PAUSE_SECONDS)
            rows = (await ann.detail(session, "?limit=200"))["messages"]
            assert [row["seq"] for row in rows] == list(range(1, 31))
            replies = [row for row in rows if row["role"] == "assistant"]
            assert len({row["task_id"] for row in replies}) == 15
            assert {row["status"] for row in replies} <= {"complete", "failed"}
            assert (await ann.in_list(session))["unread_count"] == 15
        frames = await ann.history(cursor)
    ids = [frame["id"] for frame in frames]
    assert ids == sorted(set(ids))
    for session in sessions:
        told = [f for f in frames if f["sessionId"] == session]
        rows_told = [f["data"]["id"] for f in told if f["event"] == "chat_message"]
        assert len(rows_told) == len(set(rows_told)) == 30
        typing = [f["data"]["typing"] for f in told if f["event"] == "chat_typing"]
        assert typing == [True, False] * (len(typing) // 2)


PAUSE_SECONDS = 0.03
