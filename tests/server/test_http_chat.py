"""Routes that start turns and answer agents."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from dispatch.core.identity import LOCAL, ConversationId
from dispatch.runtime.retention import prune_events
from dispatch.settings import Limits, RetentionSettings
from dispatch.storage.memory import MemoryStore
from dispatch.storage.port import Batch
from tests.server.acting import (
    GUARD_SECONDS,
    Stage,
    lines,
    settings,
    staged,
    texts,
    types,
)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(settings(tmp_path)) as stage:
        yield stage


async def until_let_go(stage: Stage, conversation: str) -> None:
    """Return once nobody uses a conversation any more."""
    with anyio.fail_after(GUARD_SECONDS):
        while True:
            live = stage.daemon.conversations.peek(LOCAL, ConversationId(conversation))
            if live is None or live.users == 0:
                assert live is None or not (live.seal_watchers or live.queue_watchers)
                return
            await anyio.lowlevel.checkpoint()


async def until_idle(stage: Stage, conversation: str) -> None:
    """Return once no turn runs and none waits."""
    with anyio.fail_after(GUARD_SECONDS):
        while stage.live(conversation).state.is_busy:
            await anyio.lowlevel.checkpoint()


async def queued(stage: Stage, conversation: str, count: int = 1) -> list[dict[str, Any]]:
    """The queue, once it is so long."""
    with anyio.fail_after(GUARD_SECONDS):
        while len(stage.live(conversation).state.queue) < count:
            await anyio.lowlevel.checkpoint()
    reply = await stage.http.delete(f"/conversations/{conversation}/queue/none")
    waiting: list[dict[str, Any]] = reply.json()["queue"]
    return waiting


async def pruned(stage: Stage) -> None:
    """Forget the events of the sealed turns of `c`, in the ring and in the journal."""
    clock = stage.daemon.services.clock
    sealed_ms = clock.now_ms()
    while clock.now_ms() == sealed_ms:
        pass
    stage.live("c").feed.ring.clear()
    assert await prune_events(stage.daemon.services, RetentionSettings(events_seconds=0)) > 0


async def into(found: list[list[dict[str, Any]]], stage: Stage, body: dict[str, Any]) -> None:
    reply = await stage.http.post("/chat", json=body)
    assert reply.status_code == 200, reply.text
    found.append(lines(reply.text))


# -- POST /chat


async def test_chat_streams_the_turn_through_its_seal(stage: Stage) -> None:
    reply = await stage.http.post("/chat", json={"conversationId": "c", "message": "work"})
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/x-ndjson"
    assert reply.headers["x-conversation-id"] == "c"
    events = lines(reply.text)
    assert types(events) == [
        "user-message",
        "turn-start",
        "reasoning-delta",
        "tool-call",
        "usage",
        "step-complete",
        "tool-output",
        "tool-result",
        "text-delta",
        "done",
        "turn-sealed",
    ]
    (turn,) = {event["turnId"] for event in events}
    assert {event["conversationId"] for event in events} == {"c"}
    assert events[3] == {
        "type": "tool-call",
        "conversationId": "c",
        "turnId": turn,
        "stepId": f"{turn}#0",
        "toolCallId": "call-1",
        "toolName": "dig",
        "input": {"depth": 3},
    }


async def test_chat_without_an_id_mints_one(stage: Stage) -> None:
    reply = await stage.http.post("/chat", json={"message": "hi"})
    minted = reply.headers["x-conversation-id"]
    assert {event["conversationId"] for event in lines(reply.text)} == {minted}
    assert texts(await stage.chunks(minted)) == ["hi", "hi"]


async def test_chat_trims_its_message(stage: Stage) -> None:
    events = await stage.say("c", " \n hi there\t ")
    assert events[0]["text"] == "hi there"


async def test_chat_takes_the_fields_of_a_send(stage: Stage) -> None:
    await stage.say(
        "c",
        "hi",
        model="plain",
        reasoningEffort="low",
        workspaceId="w",
        computerId="k",
        images=[{"url": "https://example.com/a.png"}],
        clientMessageId=None,
        unheard="of",
    )
    details = stage.live("c").details
    assert (details.model, details.reasoning_effort) == ("plain", "low")
    assert stage.live("c").record.workspace == "w"
    assert (await stage.chunks("c"))["chunks"][1]["chunk"]["url"] == "https://example.com/a.png"


REQUIRED = "Field 'message' is required and must be a non-empty string"


@pytest.mark.parametrize("message", [None, "", "  \n\t", 7, ["hi"], {"text": "hi"}, True])
async def test_chat_refuses_a_message_that_is_blank_or_no_text(stage: Stage, message: Any) -> None:
    reply = await stage.http.post("/chat", json={"message": message})
    assert (reply.status_code, reply.json()) == (400, {"error": REQUIRED, "code": "invalid"})


async def test_chat_refuses_a_body_without_a_message(stage: Stage) -> None:
    reply = await stage.http.post("/chat", json={"conversationId": "c"})
    assert (reply.status_code, reply.json()["error"]) == (400, REQUIRED)


@pytest.mark.parametrize(
    "field",
    [
        "conversationId",
        "model",
        "cwd",
        "reasoningEffort",
        "workspaceId",
        "computerId",
        "clientMessageId",
        "onBusy",
    ],
)
async def test_chat_refuses_a_field_that_must_be_a_string(stage: Stage, field: str) -> None:
    for value in (7, True, ["x"], {"x": 1}):
        reply = await stage.http.post("/chat", json={"message": "hi", field: value})
        assert reply.status_code == 400
        assert reply.json() == {"error": f"Field '{field}' must be a string", "code": "invalid"}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"images": "x"}, "Field 'images' must be an array"),
        (
            {"images": [{}]},
            "POST /chat: each image must have a non-empty string 'url'",
        ),
        (
            {"images": [{"url": "file:///etc/passwd"}]},
            "POST /chat: an image's 'url' must be a data, http or https URL",
        ),
        (
            {"reasoningEffort": "extreme"},
            'POST /chat: invalid reasoningEffort "extreme" — must be one of: '
            "low, medium, high, xhigh, max",
        ),
        (
            {"onBusy": "wait"},
            'POST /chat: invalid onBusy "wait" — must be one of: reject, queue, steer, interrupt',
        ),
        (
            {"conversationId": "a b"},
            "POST /chat: malformed `conversationId`: expected 1 to 128 of A-Z a-z 0-9 . _ : -",
        ),
        (
            {"conversationId": ""},
            "POST /chat requires a non-empty string `conversationId`",
        ),
        ({"model": ""}, "POST /chat: `model` must be a non-empty string"),
        (
            {"clientMessageId": "x" * 129},
            "POST /chat: `clientMessageId` must be at most 128 characters",
        ),
        ({"cwd": "/"}, "'cwd' is not allowed: agent \"actor\" has no cwd_roots"),
    ],
)
async def test_chat_refuses_a_field_that_cannot_be(
    stage: Stage, fields: dict[str, Any], text: str
) -> None:
    reply = await stage.http.post("/chat", json={"message": "hi", **fields})
    assert (reply.status_code, reply.json()) == (400, {"error": text, "code": "invalid"})


async def test_chat_on_a_busy_conversation_is_one_error_line_and_no_history(stage: Stage) -> None:
    async with stage.held("c") as reading:
        reply = await stage.http.post("/chat", json={"conversationId": "c", "message": "me too"})
        stage.actor.release("hold")
        running = (await reading.until("turn-sealed"))["turnId"]
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/x-ndjson"
    assert reply.headers["x-conversation-id"] == "c"
    (event,) = lines(reply.text)
    turn = event.pop("turnId")
    assert event == {
        "type": "error",
        "message": "a turn is already generating for this conversation",
        "code": "busy",
        "conversationId": "c",
    }
    assert turn != running
    assert texts(await stage.chunks("c")) == ["hold", "so far; released"]


async def test_an_agent_that_fails_is_an_error_in_the_stream(stage: Stage) -> None:
    for fields, code in [({}, "agent_failed"), ({"model": "nobody/x"}, "unknown_agent")]:
        events = await stage.say("c", "fail", **fields)
        assert types(events) == ["user-message", "turn-start", "error", "done", "turn-sealed"]
        assert events[2]["code"] == code
        assert "secret" not in str(events)


async def test_lines_hold_no_separator_that_some_readers_split_at(stage: Stage) -> None:
    body = {"conversationId": "c", "message": "a\u0085b\u2028c\u2029d"}
    reply = await stage.http.post("/chat", json=body)
    assert len(reply.text.splitlines()) == len(lines(reply.text))
    assert lines(reply.text)[0]["text"] == body["message"]


async def test_a_client_that_leaves_does_not_stop_the_turn(stage: Stage) -> None:
    async with stage.held("c"):
        pass
    with anyio.fail_after(GUARD_SECONDS):
        while stage.live("c").seal_watchers:
            await anyio.lowlevel.checkpoint()
        assert stage.live("c").current is not None
        stage.actor.release("hold")
        reply = await stage.http.get("/conversations/c/last")
    assert reply.json()["content"] == "so far; released"
    await until_let_go(stage, "c")


async def test_a_stream_that_ended_leaves_nothing_behind(stage: Stage) -> None:
    await stage.say("c", "hi")
    await until_let_go(stage, "c")


async def test_a_send_in_reaction_to_the_seal_is_accepted(stage: Stage) -> None:
    for number in range(50):
        events = await stage.say("c", f"n{number}")
        assert events[-1]["type"] == "turn-sealed", events
        latest = (await stage.chunks("c", "?limit=1"))["chunks"]
        assert latest[0]["chunk"]["text"] == f"n{number}"


async def test_events_that_left_the_ring_come_from_the_journal(tmp_path: Path) -> None:
    limits = Limits(ring_events_max=8, catch_up_bytes_max=1)
    async with staged(settings(tmp_path, limits=limits)) as stage:
        events = await stage.say("c", "flood 200")
        deltas = [event["delta"] for event in events if event["type"] == "text-delta"]
        assert "".join(deltas) == "x" * 8192 * 200
        assert types(events)[-2:] == ["done", "turn-sealed"]
        assert types(events).count("turn-start") == 1


async def test_too_many_sends_are_429_with_a_time_to_come_back(tmp_path: Path) -> None:
    limits = Limits(sends_burst_max=1, sends_per_second_max=1)
    async with staged(settings(tmp_path, limits=limits)) as stage:
        await stage.say("c", "one")
        for path, body in [
            ("/chat", {"message": "two"}),
            ("/conversations/c/queue", {"text": "x"}),
        ]:
            reply = await stage.http.post(path, json=body)
            assert (reply.status_code, reply.json()["code"]) == (429, "rate_limited")
            assert reply.headers["retry-after"] == "1"


async def test_too_many_running_turns_are_429(tmp_path: Path) -> None:
    limits = Limits(turns_running_max=1)
    async with staged(settings(tmp_path, limits=limits)) as stage, stage.held("c"):
        reply = await stage.http.post("/chat", json={"message": "two"})
        assert (reply.status_code, reply.json()["code"]) == (429, "too_many")
        stage.actor.release("hold")


async def test_a_draining_daemon_takes_no_send(stage: Stage) -> None:
    stage.daemon.services.is_draining = True
    for path, body in [("/chat", {"message": "x"}), ("/conversations/c/queue", {"text": "x"})]:
        reply = await stage.http.post(path, json=body)
        assert (reply.status_code, reply.json()["code"]) == (503, "unavailable")
        assert reply.headers["retry-after"] == "1"


# -- the same message again


async def test_a_repeat_gets_the_same_turn_and_runs_nothing(stage: Stage) -> None:
    first = await stage.say("c", "once", clientMessageId="m-1")
    await stage.say("c", "between")
    assert await stage.say("c", "once", clientMessageId="m-1") == first
    assert texts(await stage.chunks("c")) == ["once", "once", "between", "between"]


async def test_a_repeat_joins_the_running_turn_from_its_first_event(stage: Stage) -> None:
    fields = {"clientMessageId": "m-1"}
    async with stage.held("c", **fields) as first, stage.held("c", **fields) as second:
        assert second.events == first.events
        stage.actor.release("hold")
        assert await first.rest() == await second.rest()


async def test_a_repeat_without_an_id_finds_the_conversation_that_was_minted(stage: Stage) -> None:
    body = {"message": "once", "clientMessageId": "m-1"}
    first = await stage.http.post("/chat", json=body)
    second = await stage.http.post("/chat", json=body)
    assert second.headers["x-conversation-id"] == first.headers["x-conversation-id"]
    assert second.text == first.text


async def test_the_same_id_with_other_words_is_409(stage: Stage) -> None:
    await stage.say("c", "once", clientMessageId="m-1")
    body = {"conversationId": "c", "message": "other", "clientMessageId": "m-1"}
    reply = await stage.http.post("/chat", json=body)
    assert (reply.status_code, reply.json()["code"]) == (409, "conflict")


async def test_a_repeat_after_pruning_says_that_only_the_history_is_left(stage: Stage) -> None:
    await stage.say("c", "once", clientMessageId="m-1")
    await pruned(stage)
    (event,) = await stage.say("c", "once", clientMessageId="m-1")
    assert (event["type"], event["code"]) == ("error", "pruned")


async def test_a_repeat_of_a_cancelled_message_says_so(stage: Stage) -> None:
    async with stage.held("c"):
        path = "/conversations/c/queue"
        body = {"text": "later", "clientMessageId": "m-1"}
        queue_id = (await stage.http.post(path, json=body)).json()["queueId"]
        await stage.http.delete(f"{path}/{queue_id}")
        (event,) = await stage.say("c", "later", clientMessageId="m-1")
        assert (event["type"], event["code"], event["turnId"]) == ("error", "cancelled", queue_id)
        stage.actor.release("hold")


async def test_a_repeat_after_a_restart_is_read_from_the_journal(tmp_path: Path) -> None:
    store = MemoryStore()
    async with staged(settings(tmp_path), store) as stage:
        first = await stage.say("c", "once", clientMessageId="m-1")
    async with staged(settings(tmp_path), store) as stage:
        assert await stage.say("c", "once", clientMessageId="m-1") == first


async def test_a_repeat_of_a_queued_message_waits_past_what_was_pruned(stage: Stage) -> None:
    found: list[list[dict[str, Any]]] = []
    later = {"text": "later", "clientMessageId": "m-1"}
    with anyio.fail_after(GUARD_SECONDS):
        async with stage.held("c") as ended:
            await stage.http.post("/conversations/c/queue", json=later)
            async with stage.held("c", "hold on", onBusy="interrupt") as reading:
                await ended.rest()
                await pruned(stage)
                async with anyio.create_task_group() as tasks:
                    body = {"conversationId": "c", "message": "later", "clientMessageId": "m-1"}
                    tasks.start_soon(into, found, stage, body)
                    while len(stage.live("c").queue_watchers) < 2:
                        await anyio.lowlevel.checkpoint()
                    stage.actor.release("hold on")
                    await reading.rest()
    (events,) = found
    assert types(events) == ["user-message", "turn-start", "text-delta", "done", "turn-sealed"]
    assert events[0]["text"] == "later"


# -- on a busy conversation


async def test_a_queued_message_is_streamed_when_its_turn_comes(stage: Stage) -> None:
    found: list[list[dict[str, Any]]] = []
    with anyio.fail_after(GUARD_SECONDS):
        async with stage.held("c") as reading, anyio.create_task_group() as tasks:
            body = {"conversationId": "c", "message": "next", "onBusy": "queue"}
            tasks.start_soon(into, found, stage, body)
            (waiting,) = await queued(stage, "c")
            stage.actor.release("hold")
            await reading.rest()
    (events,) = found
    assert types(events) == ["user-message", "turn-start", "text-delta", "done", "turn-sealed"]
    assert {event["turnId"] for event in events} == {waiting["id"]}
    await until_let_go(stage, "c")


async def test_a_queued_message_on_an_idle_conversation_starts(stage: Stage) -> None:
    events = await stage.say("c", "now", onBusy="queue")
    assert types(events)[0] == "user-message"
    assert types(events)[-1] == "turn-sealed"


async def test_queued_messages_are_streamed_each_to_its_sender(stage: Stage) -> None:
    found: list[list[dict[str, Any]]] = []
    with anyio.fail_after(GUARD_SECONDS):
        async with stage.held("c"), anyio.create_task_group() as tasks:
            for number in range(5):
                body = {"conversationId": "c", "message": f"n{number}", "onBusy": "queue"}
                tasks.start_soon(into, found, stage, body)
                await queued(stage, "c", number + 1)
            stage.actor.release("hold")
    assert [events[0]["text"] for events in found] == [f"n{number}" for number in range(5)]
    assert all(types(events)[-1] == "turn-sealed" for events in found)
    assert all(len({event["turnId"] for event in events}) == 1 for events in found)


@pytest.mark.parametrize(
    ("how", "code"), [("cancel", "cancelled"), ("close", "cancelled"), ("delete", "gone")]
)
async def test_a_stream_whose_turn_never_comes_ends_with_the_reason(
    stage: Stage, how: str, code: str
) -> None:
    found: list[list[dict[str, Any]]] = []
    with anyio.fail_after(GUARD_SECONDS):
        async with stage.held("c"), anyio.create_task_group() as tasks:
            body = {"conversationId": "c", "message": "never", "onBusy": "queue"}
            tasks.start_soon(into, found, stage, body)
            (waiting,) = await queued(stage, "c")
            match how:
                case "cancel":
                    await stage.http.delete(f"/conversations/c/queue/{waiting['id']}")
                case "close":
                    await stage.http.post("/conversations/c/close")
                case "delete":
                    await stage.http.delete("/conversations/c")
            stage.actor.release("hold")
    ((event,),) = found
    assert (event["type"], event["code"], event["turnId"]) == ("error", code, waiting["id"])
    await until_let_go(stage, "c")


async def test_a_queued_stream_ends_when_the_daemon_drains(stage: Stage) -> None:
    found: list[list[dict[str, Any]]] = []
    with anyio.fail_after(GUARD_SECONDS):
        async with stage.held("c") as reading, anyio.create_task_group() as tasks:
            body = {"conversationId": "c", "message": "later", "onBusy": "queue"}
            tasks.start_soon(into, found, stage, body)
            await queued(stage, "c")
            await stage.daemon.broker.drain(0)
            events = await reading.rest()
    assert events[-2]["reason"] == "interrupted"
    ((event,),) = found
    assert (event["type"], event["code"]) == ("error", "unavailable")
    await until_let_go(stage, "c")


async def test_a_client_that_leaves_while_it_waits_does_not_cancel_its_message(
    stage: Stage,
) -> None:
    body = {"conversationId": "c", "message": "later", "onBusy": "queue"}
    async with stage.held("c"):
        async with stage.http.stream("POST", "/chat", json=body):
            await queued(stage, "c")
        assert len(await queued(stage, "c")) == 1
        stage.actor.release("hold")
    await until_idle(stage, "c")
    await until_let_go(stage, "c")
    assert texts(await stage.chunks("c"))[2:] == ["later", "later"]


async def test_a_steer_is_streamed_the_turn_it_went_into(stage: Stage) -> None:
    async with stage.held("c", "listen") as reading:
        body = {"conversationId": "c", "message": "left", "onBusy": "steer"}
        reply = await stage.http.post("/chat", json=body)
        events = await reading.rest()
    found = lines(reply.text)
    # Old clients know no `steering`: the text is a message of the user.
    assert types(found) == ["user-message", "text-delta", "done", "turn-sealed"]
    assert found[0]["text"] == "left"
    assert found == events[-4:]
    await until_let_go(stage, "c")


async def test_a_steer_that_was_not_taken_is_streamed_as_its_own_turn(stage: Stage) -> None:
    found: list[list[dict[str, Any]]] = []
    with anyio.fail_after(GUARD_SECONDS):
        async with stage.held("c", "deaf") as reading, anyio.create_task_group() as tasks:
            body = {"conversationId": "c", "message": "hear me", "onBusy": "steer"}
            tasks.start_soon(into, found, stage, body)
            while not stage.live("c").state.steers:
                await anyio.lowlevel.checkpoint()
            (waiting,) = stage.live("c").state.steers
            stage.actor.release("deaf")
            running = (await reading.until("turn-sealed"))["turnId"]
    (events,) = found
    own = [event for event in events if event["turnId"] == waiting.turn]
    assert {event["turnId"] for event in events} == {running, waiting.turn}
    assert types(own) == ["user-message", "turn-start", "text-delta", "done", "turn-sealed"]
    assert events[-1] == own[-1]


async def test_a_repeat_of_a_steer_joins_the_turn_it_waits_for(stage: Stage) -> None:
    body = {"conversationId": "c", "message": "hear", "onBusy": "steer", "clientMessageId": "m-1"}
    found: list[list[dict[str, Any]]] = []
    with anyio.fail_after(GUARD_SECONDS):
        async with stage.held("c", "deaf"), anyio.create_task_group() as tasks:
            for count in (2, 3):
                tasks.start_soon(into, found, stage, body)
                while len(stage.live("c").seal_watchers) < count:
                    await anyio.lowlevel.checkpoint()
            stage.actor.release("deaf")
    first, second = found
    assert first == second
    assert types(first).count("turn-sealed") == 2


async def test_an_interrupt_ends_the_running_turn_and_goes_ahead_of_the_queue(
    stage: Stage,
) -> None:
    async with stage.held("c") as reading:
        await stage.http.post("/conversations/c/queue", json={"text": "patient"})
        events = await stage.say("c", "urgent", onBusy="interrupt")
        ended = await reading.rest()
    assert ended[-2]["reason"] == "aborted"
    assert events[0]["text"] == "urgent"
    assert types(events)[-1] == "turn-sealed"
    await until_idle(stage, "c")
    said = [text for text in texts(await stage.chunks("c")) if text != "so far; "]
    assert said == ["hold", "urgent", "urgent", "patient", "patient"]


# -- the queue


async def test_the_queue_starts_an_idle_conversation(stage: Stage) -> None:
    reply = await stage.http.post(
        "/conversations/c/queue", json={"text": " go ", "workspaceId": "w"}
    )
    told = reply.json()
    assert (told["conversationId"], told["startedTurn"], told["queue"]) == ("c", True, [])
    assert (await stage.http.get("/conversations/c/last")).json() == {
        "conversationId": "c",
        "content": " go ",
        "turnId": told["turnId"],
    }
    assert stage.live("c").record.workspace == "w"


async def test_the_queue_is_in_order_and_can_be_cancelled_from(stage: Stage) -> None:
    path = "/conversations/c/queue"
    async with stage.held("c") as reading:
        replies = [(await stage.http.post(path, json={"text": t})).json() for t in ("a", "b", "c")]
        assert [reply["startedTurn"] for reply in replies] == [False] * 3
        queue = replies[-1]["queue"]
        assert [entry["text"] for entry in queue] == ["a", "b", "c"]
        assert [entry["id"] for entry in queue] == [reply["queueId"] for reply in replies]
        assert all(entry["queuedAt"] > 0 for entry in queue)
        gone = queue[1]["id"]
        reply = (await stage.http.delete(f"{path}/{gone}")).json()
        assert reply == {"conversationId": "c", "cancelled": True, "queue": [queue[0], queue[2]]}
        reply = (await stage.http.delete(f"{path}/{gone}")).json()
        assert (reply["cancelled"], len(reply["queue"])) == (False, 2)
        stage.actor.release("hold")
        await reading.rest()
    await until_idle(stage, "c")
    assert texts(await stage.chunks("c"))[2:] == ["a", "a", "c", "c"]


async def test_cancelling_in_an_unknown_conversation_cancels_nothing(stage: Stage) -> None:
    reply = await stage.http.delete("/conversations/never/queue/t-1")
    assert reply.json() == {"conversationId": "never", "cancelled": False, "queue": []}


@pytest.mark.parametrize("text", [None, "", "  \n", 7, ["x"]])
async def test_the_queue_refuses_a_blank_text(stage: Stage, text: Any) -> None:
    reply = await stage.http.post("/conversations/c/queue", json={"text": text})
    assert (reply.status_code, reply.json()) == (
        400,
        {"error": "Field 'text' is required and must be a non-empty string", "code": "invalid"},
    )


async def test_the_queue_refuses_a_workspace_that_is_no_string(stage: Stage) -> None:
    body = {"text": "x", "workspaceId": 7}
    reply = await stage.http.post("/conversations/c/queue", json=body)
    assert reply.json()["error"] == "Field 'workspaceId' must be a string"


async def test_the_queue_takes_a_message_once(stage: Stage) -> None:
    body = {"text": "once", "clientMessageId": "m-1"}
    path = "/conversations/c/queue"
    async with stage.held("c"):
        first = (await stage.http.post(path, json=body)).json()
        again = (await stage.http.post(path, json=body)).json()
        assert again == {**first, "duplicate": True}
        stage.actor.release("hold")


async def test_the_queue_has_a_bound(tmp_path: Path) -> None:
    limits = Limits(queue_turns_max=1)
    path = "/conversations/c/queue"
    async with staged(settings(tmp_path, limits=limits)) as stage, stage.held("c"):
        assert (await stage.http.post(path, json={"text": "a"})).status_code == 200
        reply = await stage.http.post(path, json={"text": "b"})
        assert (reply.status_code, reply.json()["code"]) == (429, "too_many")
        assert reply.headers["retry-after"] == "1"
        stage.actor.release("hold")


# -- requests


async def test_a_request_is_answered_once(stage: Stage) -> None:
    found: list[list[dict[str, Any]]] = []
    path = "/conversations/c/requests/r-1"
    with anyio.fail_after(GUARD_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(into, found, stage, {"conversationId": "c", "message": "ask"})
            await until_asked(stage)
            reply = await stage.http.post(path, json={"approved": True, "optionId": "y"})
            assert (reply.status_code, reply.json()) == (
                200,
                {"conversationId": "c", "requestId": "r-1", "outcome": "answered"},
            )
    (events,) = found
    assert "told: y" in [event.get("delta") for event in events]
    reply = await stage.http.post(path, json={"approved": True})
    assert (reply.status_code, reply.json()["code"]) == (409, "closed")


@pytest.mark.parametrize(
    "answer",
    [
        {"approved": False, "optionId": "y"},
        {"approved": True, "optionId": "n"},
        {"optionId": "z"},
    ],
)
async def test_an_answer_that_contradicts_itself_leaves_the_request_open(
    stage: Stage, answer: dict[str, Any]
) -> None:
    found: list[list[dict[str, Any]]] = []
    path = "/conversations/c/requests/r-1"
    with anyio.fail_after(GUARD_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(into, found, stage, {"conversationId": "c", "message": "ask"})
            await until_asked(stage)
            reply = await stage.http.post(path, json=answer)
            assert (reply.status_code, reply.json()["code"]) == (400, "invalid")
            reply = await stage.http.post(path, json={"approved": False, "optionId": "n"})
            assert reply.status_code == 200
    (events,) = found
    assert [event["delta"] for event in events if "delta" in event] == ["told: n"]


async def until_asked(stage: Stage) -> None:
    """Return once the turn of `c` has an open request."""
    while True:
        live = stage.daemon.conversations.peek(LOCAL, ConversationId("c"))
        running = None if live is None else live.state.running
        if running is not None and running.open_requests:
            return
        await anyio.lowlevel.checkpoint()


async def test_a_request_that_nobody_asked_is_closed(stage: Stage) -> None:
    for name in ("c", "never"):
        reply = await stage.http.post(f"/conversations/{name}/requests/r-9", json={})
        assert (reply.status_code, reply.json()["code"]) == (409, "closed")


async def test_an_answer_has_the_shape_of_an_answer(stage: Stage) -> None:
    for bad in ({"approved": "yes"}, {"action": "maybe"}, {"answers": []}, {"optionId": 7}):
        reply = await stage.http.post("/conversations/c/requests/r-1", json=bad)
        assert (reply.status_code, reply.json()["code"]) == (400, "invalid")


# -- the end of a daemon


class Gated(MemoryStore):
    """The start of a queued turn waits at the gate, and a little longer."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = anyio.Event()

    async def commit(self, batch: Batch) -> None:
        if any(change.to_state == "running" for change in batch.changes):
            await self.gate.wait()
            for _ in range(50):
                await anyio.lowlevel.checkpoint()
        await super().commit(batch)


async def test_a_queued_turn_that_begins_while_the_daemon_ends_is_sealed_by_the_next(
    tmp_path: Path,
) -> None:
    store = Gated()
    async with staged(settings(tmp_path), store) as stage, stage.held("c", model="plain") as first:
        await stage.http.post("/conversations/c/queue", json={"text": "next"})
        async with stage.held("d"):
            stage.plain.release("hold")
            await first.rest()
            # Its agent is cancelled when the daemon ends, and with it every other.
            stage.actor.on_cancelled = store.gate.set
    async with staged(settings(tmp_path), store) as stage:
        chunks = [chunk["chunk"] for chunk in (await stage.chunks("c"))["chunks"]]
    assert [chunk.get("text") for chunk in chunks[:-1]] == ["hold", "so far; released", "next"]
    assert chunks[-1]["code"] == "interrupted"
