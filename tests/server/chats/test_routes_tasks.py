"""Messages, tasks, and what a user has read: every rule of the contract, over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import anyio.lowlevel
import msgspec
import pytest

from dispatch.settings import GroupsSettings, StorageSettings
from tests.server.acting import GUARD_SECONDS, Stage, settings, staged
from tests.server.chats.chatting import Person, shortly


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


async def until_begun(ann: Person, session: str, text: str = "so far; ") -> None:
    """Return once the answer has begun to be shown."""
    with anyio.fail_after(GUARD_SECONDS):
        while True:
            messages = (await ann.detail(session))["messages"]
            if any(m["status"] == "streaming" and m["content"] == text for m in messages):
                return


async def until_quiet(ann: Person, session: str) -> None:
    """Return once no task is open."""
    with anyio.fail_after(GUARD_SECONDS):
        while await ann.ask("GET", f"/{session}/pending-task"):
            await anyio.lowlevel.checkpoint()


# -- sending


async def test_the_reply_to_a_send_comes_before_the_answer(ann: Person, stage: Stage) -> None:
    session = await ann.create()
    sent = await ann.send(session, "hold")
    assert sent["message"] == {
        "id": sent["message_id"],
        "chat_session_id": session,
        "role": "user",
        "content": "hold",
        "task_id": sent["task_id"],
        "created_at": sent["created_at"],
        "seq": 1,
        "status": "complete",
        "failure_reason": None,
        "elapsed_ms": None,
        "client_message_id": None,
    }
    assert sent["queued"] is False
    assert "response" not in sent
    stage.actor.release("hold")
    await until_quiet(ann, session)


async def test_a_send_may_wait_for_the_answer(ann: Person) -> None:
    session = await ann.create()
    answer = await ann.say(session, "hello")
    assert answer["role"] == "assistant"
    assert answer["content"] == "hello"
    assert answer["status"] == "complete"
    assert answer["elapsed_ms"] >= 0


async def test_a_wait_that_is_over_leaves_the_task_alone(ann: Person, stage: Stage) -> None:
    session = await ann.create()
    sent = await ann.send(session, "hold", "?wait=0.05")
    assert sent["response"] is None
    assert (await ann.ask("GET", f"/{session}/pending-task"))["task_id"] == sent["task_id"]
    stage.actor.release("hold")
    await until_quiet(ann, session)
    assert await ann.contents(session) == [("user", "hold"), ("assistant", "so far; released")]


async def test_three_messages_in_a_burst_are_answered_in_order(ann: Person, stage: Stage) -> None:
    session = await ann.create()
    async with ann.events() as events:
        sent = [await ann.send(session, text) for text in ("hold", "two", "three")]
        assert [s["queued"] for s in sent] == [False, True, True]
        pending = await ann.ask("GET", f"/{session}/pending-task")
        assert (pending["task_id"], pending["status"]) == (sent[0]["task_id"], "running")
        assert [t["task_id"] for t in pending["queued_tasks"]] == [s["task_id"] for s in sent[1:]]
        stage.actor.release("hold")
        await events.until_idle()
    assert events.names[2:] == [
        "user: hold",
        "typing true",
        "user: two",
        "user: three",
        "assistant: so far; released",
        "assistant: two",
        "assistant: three",
        "typing false",
    ]
    rows = (await ann.detail(session))["messages"]
    assert [row["seq"] for row in rows] == [1, 2, 3, 4, 5, 6] or {r["seq"] for r in rows} == {
        *range(1, 7)
    }
    assert await ann.ask("GET", f"/{session}/pending-task") == {}


async def test_blank_content_is_refused(ann: Person) -> None:
    session = await ann.create()
    for body in ({"content": "  "}, {}, {"content": None}):
        assert await ann.refused("POST", f"/{session}/messages", body) == (400, "CONTENT_REQUIRED")
    assert await ann.contents(session) == []


async def test_unknown_keys_are_refused_by_name(ann: Person) -> None:
    session = await ann.create()
    reply = await ann.ask(
        "POST", f"/{session}/messages", {"content": "x", "model": "m"}, status=400
    )
    assert reply["error"] == "Invalid request body"
    assert reply["details"] == ["model: unknown key"]
    assert await ann.contents(session) == []


async def test_camel_case_is_understood(ann: Person) -> None:
    session = (await ann.ask("POST", "", {"agentKey": "actor"}, status=201))["id"]
    sent = await ann.ask(
        "POST", f"/{session}/messages", {"text": "hi", "clientMessageId": "k"}, status=201
    )
    assert sent["message"]["client_message_id"] == "k"
    await until_quiet(ann, session)
    read = await ann.ask("POST", f"/{session}/read", {"upToSeq": 2})
    assert read["last_read_seq"] == 2


async def test_the_same_message_twice_is_one(ann: Person, stage: Stage) -> None:
    session = await ann.create()
    await ann.send(session, "hold")
    first = await ann.send(session, "more", client_message_id="k")
    body = {"content": "more", "client_message_id": "k"}
    again = await ann.ask("POST", f"/{session}/messages", body)
    assert again == {**first, "duplicate": True}
    assert first["queued"] is True
    stage.actor.release("hold")
    await until_quiet(ann, session)
    assert again == await ann.ask("POST", f"/{session}/messages", body)
    assert [role for role, _ in await ann.contents(session)].count("user") == 2
    later = await ann.ask("POST", f"/{session}/messages?wait=5", body)
    assert later["response"]["content"] == "more"


async def test_a_repeat_knows_who_was_ahead_when_it_came(ann: Person, stage: Stage) -> None:
    session = await ann.create()
    await ann.send(session, "hold 1")
    await ann.send(session, "hold 2")
    async with ann.events() as events:
        stage.actor.release("hold 1")
        await events.until("chat_message", role="assistant")
        third = await ann.send(session, "third", client_message_id="k")
        assert third["queued"] is True
        stage.actor.release("hold 2")
        await events.until_idle()
    body = {"content": "third", "client_message_id": "k"}
    assert await ann.ask("POST", f"/{session}/messages", body) == {**third, "duplicate": True}


async def test_two_devices_send_the_same_at_once(ann: Person) -> None:
    session = await ann.create()
    replies = []

    async def send() -> None:
        body = {"content": "hi", "client_message_id": "k"}
        reply = await ann.http.post(f"/v1/chat/{session}/messages", json=body)
        replies.append((reply.status_code, reply.json()["task_id"]))

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(send)
    assert sorted(status for status, _ in replies) == [200, 200, 200, 201]
    assert len({task for _, task in replies}) == 1
    await until_quiet(ann, session)
    assert len(await ann.contents(session)) == 2


async def test_the_same_id_with_another_content_is_a_conflict(ann: Person) -> None:
    session = await ann.create()
    await ann.send(session, "one", client_message_id="k")
    body = {"content": "two", "client_message_id": "k"}
    assert await ann.refused("POST", f"/{session}/messages", body) == (409, "CONFLICT")


async def test_a_repeat_is_answered_though_the_session_is_archived(ann: Person) -> None:
    session = await ann.create()
    first = await ann.send(session, "one", client_message_id="k")
    await until_quiet(ann, session)
    await ann.ask("DELETE", f"/{session}")
    body = {"content": "one", "client_message_id": "k"}
    assert await ann.ask("POST", f"/{session}/messages", body) == {**first, "duplicate": True}
    assert await ann.refused("POST", f"/{session}/messages", {"content": "two"}) == (
        409,
        "SESSION_ARCHIVED",
    )


async def test_a_native_send_is_a_task_too(ann: Person, stage: Stage) -> None:
    session = await ann.create()
    async with ann.events() as events:
        await stage.say(session, "from elsewhere")
        await events.until_idle()
    assert events.names[2:] == [
        "user: from elsewhere",
        "typing true",
        "assistant: from elsewhere",
        "typing false",
    ]
    await ann.ask("DELETE", f"/{session}")
    reply = await stage.http.post("/chat", json={"conversationId": session, "message": "no"})
    assert (reply.status_code, reply.json()["code"]) == (409, "archived")


async def test_what_is_steered_in_is_a_row_of_the_running_task(ann: Person, stage: Stage) -> None:
    session = await ann.create()
    sent = await ann.send(session, "listen")
    await until_begun(ann, session, "listening; ")
    body = {"conversationId": session, "message": "aside", "onBusy": "steer"}
    assert (await stage.http.post("/chat", json=body)).status_code == 200
    await until_quiet(ann, session)
    rows = (await ann.detail(session))["messages"]
    assert [(r["role"], r["content"], r["task_id"]) for r in rows] == [
        ("user", "listen", sent["task_id"]),
        ("assistant", "listening; heard", sent["task_id"]),
        ("user", "aside", sent["task_id"]),
    ]


async def test_what_was_steered_in_too_late_becomes_a_task(ann: Person, stage: Stage) -> None:
    session = await ann.create()
    async with ann.events() as events:
        await ann.send(session, "hold")
        await until_begun(ann, session)
        body = {"conversationId": session, "message": "late", "onBusy": "steer"}
        async with stage.http.stream("POST", "/chat", json=body) as reply:
            assert reply.status_code == 200
            stage.actor.release("hold")
            await events.until_idle()
    assert events.names[2:] == [
        "user: hold",
        "typing true",
        "user: late",
        "assistant: so far; released",
        "assistant: late",
        "typing false",
    ]


async def test_closing_the_conversation_ends_all_that_waits(ann: Person, stage: Stage) -> None:
    session = await ann.create()
    async with ann.events() as events:
        await ann.send(session, "hold")
        await until_begun(ann, session)
        await ann.send(session, "queued")
        body = {"conversationId": session, "message": "steered", "onBusy": "steer"}
        async with stage.http.stream("POST", "/chat", json=body):
            assert (await stage.http.post(f"/conversations/{session}/close")).status_code == 200
        await events.until_idle()
    assert events.names[4:] == [
        "user: queued",
        "user: steered",
        "assistant: cancelled",
        "task_cancelled",
        "assistant: cancelled",
        "task_cancelled",
        "typing false",
    ]
    assert await ann.ask("GET", f"/{session}/pending-task") == {}
    await ann.say(session, "again")


async def test_an_agent_that_fails_leaves_a_failed_row(ann: Person) -> None:
    session = await ann.create()
    async with ann.events() as events:
        await ann.send(session, "fail")
        await events.until_idle()
    assert [shortly(frame) for frame in events.frames[2:]] == [
        "user: fail",
        "typing true",
        "assistant: failed",
        "task_failed",
        "typing false",
    ]
    row = (await ann.detail(session))["messages"][1]
    assert row["status"] == "failed"
    assert row["failure_reason"]
    assert "secret" not in row["failure_reason"]
    assert events.frames[-2]["data"]["failure_reason"] == row["failure_reason"]
    assert (await ann.in_list(session))["unread_count"] == 1


async def test_an_agent_that_says_nothing_leaves_no_response(ann: Person, stage: Stage) -> None:
    session = await ann.create()
    answer = await ann.say(session, "flood 0")
    assert (answer["status"], answer["content"], answer["seq"]) == ("no_response", "", 2)
    assert (await ann.in_list(session))["unread_count"] == 1


async def test_a_session_waits_for_a_global_slot(tmp_path: Path) -> None:
    chosen = msgspec.structs.replace(settings(tmp_path), groups=GroupsSettings(runs_max=1))
    async with staged(chosen) as stage:
        ann = Person(stage.http)
        first, second = await ann.create(), await ann.create()
        await ann.send(first, "hold")
        async with ann.events() as events:
            sent = await ann.send(second, "hi")
            assert sent["queued"] is False
            typing = await events.until("chat_typing", chat_session_id=second)
            assert typing["data"]["phase"] == "queued"
            assert (await ann.ask("GET", f"/{second}/pending-task"))["status"] == "queued"
            stage.actor.release("hold")
            await events.until("chat_typing", chat_session_id=second, typing=False)
        assert await ann.contents(second) == [("user", "hi"), ("assistant", "hi")]


async def test_no_more_tasks_run_at_once_than_there_are_slots(tmp_path: Path) -> None:
    chosen = msgspec.structs.replace(settings(tmp_path), groups=GroupsSettings(runs_max=2))
    async with staged(chosen) as stage:
        ann = Person(stage.http)
        sessions = [await ann.create() for _ in range(6)]
        async with anyio.create_task_group() as tasks:
            for session in sessions:
                tasks.start_soon(ann.send, session, "hold")
        states = [(await ann.ask("GET", f"/{s}/pending-task"))["status"] for s in sessions]
        assert sorted(states) == ["queued"] * 4 + ["running"] * 2
        stage.actor.release("hold")
        for session in sessions:
            await until_quiet(ann, session)
        assert not stage.daemon.services.slots.is_full


# -- reading


async def test_reading_moves_the_cursor_and_tells_the_other_devices(ann: Person) -> None:
    session = await ann.create()
    for text in ("a", "b", "c"):
        await ann.say(session, text)
    async with ann.events() as events:
        read = await ann.ask("POST", f"/{session}/read", {"up_to_seq": 2})
        assert read == {"chat_session_id": session, "last_read_seq": 2, "unread_count": 2}
        told = await events.until("chat_session_read")
        assert told["data"] == read
    back = await ann.ask("POST", f"/{session}/read", {"up_to_seq": 1})
    assert back == read
    beyond = await ann.ask("POST", f"/{session}/read", {"up_to_seq": 900})
    assert beyond == {"chat_session_id": session, "last_read_seq": 6, "unread_count": 0}
    assert (await ann.detail(session))["last_read_seq"] == 6
    assert (await ann.listed())["unread_total"] == 0


async def test_an_answer_that_is_being_said_is_not_swallowed(ann: Person, stage: Stage) -> None:
    session = await ann.create()
    await ann.send(session, "hold")
    await until_begun(ann, session)
    read = await ann.ask("POST", f"/{session}/read")
    assert (read["last_read_seq"], read["unread_count"]) == (1, 0)
    stage.actor.release("hold")
    await until_quiet(ann, session)
    item = await ann.in_list(session)
    assert (item["unread_count"], item["has_unread"]) == (1, True)


async def test_an_answer_that_lands_while_one_reads_stays_unread(ann: Person) -> None:
    session = await ann.create()
    await ann.say(session, "a")
    seen = (await ann.detail(session))["messages"][-1]["seq"]
    await ann.say(session, "b")
    read = await ann.ask("POST", f"/{session}/read", {"up_to_seq": seen})
    assert (read["last_read_seq"], read["unread_count"]) == (2, 1)


async def test_two_devices_read_at_once(ann: Person) -> None:
    session = await ann.create()
    for text in ("a", "b", "c"):
        await ann.say(session, text)
    async with anyio.create_task_group() as tasks:
        for seq in (2, 6, 4, 2):
            tasks.start_soon(ann.ask, "POST", f"/{session}/read", {"up_to_seq": seq})
    detail = await ann.detail(session)
    assert (detail["last_read_seq"], detail["unread_count"]) == (6, 0)
    await ann.say(session, "d")
    assert (await ann.detail(session))["unread_count"] == 1


# -- archive, restore, purge


async def test_an_answer_that_comes_after_archiving_counts_when_restored(
    ann: Person, stage: Stage
) -> None:
    session = await ann.create()
    await ann.send(session, "hold")
    await until_begun(ann, session)
    archived = await ann.ask("DELETE", f"/{session}")
    assert archived["status"] == "archived"
    assert archived["archived_at"] is not None
    assert await ann.ask("DELETE", f"/{session}") == archived
    stage.actor.release("hold")
    await until_quiet(ann, session)
    assert (await ann.listed())["sessions"] == []
    item = await ann.in_list(session, "?status=archived")
    assert (item["status"], item["unread_count"]) == ("archived", 0)
    assert (await ann.listed("?status=all"))["unread_total"] == 0
    read = await ann.ask("POST", f"/{session}/read")
    assert (read["last_read_seq"], read["unread_count"]) == (0, 0)
    restored = await ann.ask("POST", f"/{session}/restore")
    assert (restored["status"], restored["archived_at"]) == ("active", None)
    assert (await ann.in_list(session))["unread_count"] == 1
    assert (await ann.detail(session))["messages"][-1]["content"] == "so far; released"


async def test_an_archived_session_may_be_cancelled(ann: Person, stage: Stage) -> None:
    session = await ann.create()
    sent = await ann.send(session, "hold")
    await until_begun(ann, session)
    await ann.ask("DELETE", f"/{session}")
    reply = await ann.ask("POST", f"/{session}/cancel")
    assert reply == {"task_id": sent["task_id"], "status": "cancelled"}


async def test_a_purge_ends_what_runs_and_what_waits(ann: Person, stage: Stage) -> None:
    session = await ann.create()
    replies: list[str] = []

    async def wait(text: str) -> None:
        reply = await ann.send(session, text, "?wait=10")
        replies.append(reply["response"]["status"])

    async with ann.events() as events:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, "hold")
            await until_begun(ann, session)
            tasks.start_soon(wait, "two")
            await events.until("chat_message", content="two")
            await ann.ask("DELETE", f"/{session}?purge=true")
        await events.until("chat_session_deleted")
    assert replies == ["cancelled", "cancelled"]
    assert events.names[4:] == [
        "user: two",
        "assistant: cancelled",
        "task_cancelled",
        "assistant: cancelled",
        "task_cancelled",
        "typing false",
        "session_deleted",
    ]
    assert events.frames[5]["data"]["content"] == ""
    assert events.frames[7]["data"]["content"] == "so far; "
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
        assert await ann.refused(method, f"/{session}{path}", body) == (404, "SESSION_NOT_FOUND")
    assert (await ann.listed("?status=all"))["sessions"] == []
    reply = await stage.http.get(f"/conversations/{session}")
    assert reply.status_code == 410


async def test_deleting_the_conversation_is_a_purge(ann: Person, stage: Stage) -> None:
    session = await ann.create()
    await ann.say(session, "hi")
    async with ann.events() as events:
        assert (await stage.http.delete(f"/conversations/{session}")).status_code == 200
        await events.until("chat_session_deleted")
    assert await ann.refused("GET", f"/{session}") == (404, "SESSION_NOT_FOUND")


# -- cancelling


async def test_an_idle_session_has_nothing_to_cancel(ann: Person) -> None:
    session = await ann.create()
    assert await ann.ask("POST", f"/{session}/cancel") == {"task_id": None, "status": "idle"}
    assert await ann.refused("POST", f"/{session}/cancel", {"task_id": "t-0"}) == (
        404,
        "TASK_NOT_FOUND",
    )


async def test_a_running_task_is_cancelled_in_the_middle(ann: Person, stage: Stage) -> None:
    session = await ann.create()
    async with ann.events() as events:
        sent = await ann.send(session, "hold")
        await until_begun(ann, session)
        reply = await ann.ask("POST", f"/{session}/cancel")
        assert reply == {"task_id": sent["task_id"], "status": "cancelled"}
        await events.until_idle()
    assert events.names[4:] == ["assistant: cancelled", "task_cancelled", "typing false"]
    rows = (await ann.detail(session))["messages"]
    assert [(r["content"], r["status"]) for r in rows] == [
        ("hold", "complete"),
        ("so far; ", "cancelled"),
    ]
    again = await ann.ask("POST", f"/{session}/cancel", {"task_id": sent["task_id"]})
    assert again == reply
    assert (await ann.in_list(session))["unread_count"] == 1


async def test_a_task_is_cancelled_before_it_begins(ann: Person, stage: Stage) -> None:
    session = await ann.create()
    first = await ann.send(session, "hold")
    second = await ann.send(session, "two")
    third = await ann.send(session, "three")
    async with ann.events() as events:
        reply = await ann.ask("POST", f"/{session}/cancel", {"task_id": third["task_id"]})
        assert reply == {"task_id": third["task_id"], "status": "cancelled"}
        await events.until("chat_task_cancelled", task_id=third["task_id"])
        reply = await ann.ask("POST", f"/{session}/cancel")
        assert reply["task_id"] == first["task_id"]
        await events.until_idle()
    assert "typing true" not in events.names
    rows = (await ann.detail(session))["messages"]
    by_task = {r["task_id"]: r["status"] for r in rows if r["role"] == "assistant"}
    assert by_task == {
        first["task_id"]: "cancelled",
        second["task_id"]: "complete",
        third["task_id"]: "cancelled",
    }
    assert [r["content"] for r in rows if r["role"] == "user"] == ["hold", "two", "three"]


async def test_a_task_that_is_over_keeps_its_status(ann: Person) -> None:
    session = await ann.create()
    answer = await ann.say(session, "hi")
    reply = await ann.ask("POST", f"/{session}/cancel", {"task_id": answer["task_id"]})
    assert reply == {"task_id": answer["task_id"], "status": "complete"}


async def test_cancelling_at_completion_has_one_outcome(ann: Person, stage: Stage) -> None:
    session = await ann.create()
    for number in range(10):
        async with ann.events() as events:
            sent = await ann.send(session, f"text {number}")
            reply = await ann.ask("POST", f"/{session}/cancel", {"task_id": sent["task_id"]})
            await events.until_idle()
        (row,) = [
            r
            for r in (await ann.detail(session))["messages"]
            if r["task_id"] == sent["task_id"] and r["role"] == "assistant"
        ]
        assert row["status"] == reply["status"]
        assert len([n for n in events.names if n.startswith("assistant")]) == 1


# -- requests


async def test_a_question_of_the_agent_is_told(ann: Person, stage: Stage) -> None:
    session = await ann.create()
    async with ann.events() as events:
        sent = await ann.send(session, "ask")
        asked = await events.until("chat_request")
        assert asked["data"]["task_id"] == sent["task_id"]
        assert asked["data"]["request"]["title"] == "May I?"
        assert (await ann.detail(session))["requests"] == [asked["data"]["request"]]
        path = f"/conversations/{session}/requests/r-1"
        reply = await stage.http.post(path, json={"approved": True, "optionId": "y"})
        assert reply.status_code == 200
        closed = await events.until("chat_request_closed")
        assert closed["data"]["outcome"] == "answered"
        await events.until_idle()
    detail = await ann.detail(session)
    assert detail["requests"] == []
    assert detail["messages"][-1]["content"] == "told: y"
