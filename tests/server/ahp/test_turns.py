"""Turns over AHP: started, streamed, queued, steered, stopped, and the same as everywhere else."""

from pathlib import Path

import msgspec
import pytest

from dispatch.core.events import Steering
from dispatch.testing.scripted import FOR_EVER, Gate, ScriptedAgent
from tests.server.ahp.peer import (
    daemon_of,
    native_of,
    native_until,
    peer_of,
    pending,
    turn_started,
)


async def test_a_turn_is_streamed_and_folds_to_what_a_snapshot_says(tmp_path: Path) -> None:
    async with daemon_of(tmp_path, ScriptedAgent("one ", "two")) as daemon, peer_of(daemon) as ann:
        _, chat = await ann.make_session()
        await ann.dispatch(chat, turn_started("hello"))
        await ann.until_type("chat/turnComplete")
        (turn,) = ann.states[chat]["turns"]
        assert turn["id"] == "t1"
        assert turn["message"]["text"] == "hello"
        assert "".join(part["content"] for part in turn["responseParts"]) == "one two"
        await ann.check()


async def test_the_echo_of_a_turn_names_who_dispatched_it(tmp_path: Path) -> None:
    async with (
        daemon_of(tmp_path, ScriptedAgent("ok")) as daemon,
        peer_of(daemon, "c1") as ann,
        peer_of(daemon, "c2") as bob,
    ):
        _, chat = await ann.make_session()
        await bob.subscribe(chat)
        seq = await ann.dispatch(chat, turn_started("hello"))
        for one in (ann, bob):
            started = await one.until_type("chat/turnStarted")
            assert started["origin"] == {"clientId": "c1", "clientSeq": seq}
            await one.until_type("chat/turnComplete")
            assert "origin" not in one.actions[-1]
        assert ann.states[chat] == bob.states[chat]


async def test_a_native_client_sees_the_turn_of_an_ahp_client_and_stops_it(tmp_path: Path) -> None:
    agent = ScriptedAgent("working", FOR_EVER)
    async with (
        daemon_of(tmp_path, agent) as daemon,
        peer_of(daemon) as ann,
        native_of(daemon) as native,
    ):
        _, chat = await ann.make_session()
        await ann.dispatch(chat, turn_started("hello"))
        await ann.until_type("chat/responsePart")
        conversation = (await agent.asked()).conversation_id
        for frame in (
            {"type": "chat.subscribe", "conversationId": conversation},
            {"type": "chat.stop", "conversationId": conversation},
        ):
            await native.send(msgspec.json.encode(frame).decode())
        await native_until(native, '"chat.stopped"')
        cancelled = await ann.until_type("chat/turnCancelled")
        assert "origin" not in cancelled
        await ann.check()


async def test_a_turn_started_natively_is_a_turn_here_and_is_stopped_from_here(
    tmp_path: Path,
) -> None:
    agent = ScriptedAgent("working", FOR_EVER)
    async with (
        daemon_of(tmp_path, agent) as daemon,
        peer_of(daemon) as ann,
        native_of(daemon) as native,
    ):
        frame = {"type": "chat.send", "message": "from a browser"}
        await native.send(msgspec.json.encode(frame).decode())
        await agent.asked()
        (item,) = (await ann.call("listSessions", channel="ahp-root://"))["items"]
        assert item["status"] == 8
        state = await ann.subscribe(item["resource"])
        chat = state["defaultChat"]
        running = (await ann.subscribe(chat))["activeTurn"]
        assert running["message"]["text"] == "from a browser"
        stop = {"type": "chat/turnCancelled", "turnId": running["id"], "duration": 0}
        echo = await ann.accepted(chat, stop)
        assert echo["action"]["type"] == "chat/turnCancelled"
        await native_until(native, '"aborted"')
        await ann.check()


async def test_a_turn_is_refused_while_another_runs(tmp_path: Path) -> None:
    async with (
        daemon_of(tmp_path, ScriptedAgent("a", FOR_EVER)) as daemon,
        peer_of(daemon, "c1") as ann,
        peer_of(daemon, "c2") as bob,
    ):
        _, chat = await ann.make_session()
        await bob.subscribe(chat)
        await ann.accepted(chat, turn_started("first", "t1"))
        await bob.until_type("chat/turnStarted")
        assert "running" in await bob.refused(chat, turn_started("second", "t2"))
        assert bob.states[chat]["activeTurn"]["id"] == "t1"
        await bob.check()


async def test_a_turn_that_is_sent_twice_runs_once(tmp_path: Path) -> None:
    agent = ScriptedAgent("ok")
    async with daemon_of(tmp_path, agent) as daemon, peer_of(daemon) as ann:
        _, chat = await ann.make_session()
        await ann.dispatch(chat, turn_started("hello"), client_seq=7)
        await ann.dispatch(chat, turn_started("hello"), client_seq=7)
        await ann.until_type("chat/turnComplete")
        await ann.dispatch(chat, turn_started("hello"), client_seq=7)
        assert "rejectionReason" in await ann.echo(7)
        assert agent.messages == ["hello"]
        assert len(ann.states[chat]["turns"]) == 1
        await ann.check()


@pytest.mark.parametrize("kind", ["queued", "steering"])
async def test_a_message_that_waits_for_nothing_is_a_turn(tmp_path: Path, kind: str) -> None:
    async with daemon_of(tmp_path, ScriptedAgent("ok")) as daemon, peer_of(daemon) as ann:
        _, chat = await ann.make_session()
        await ann.accepted(chat, pending(kind, "go on"))
        await ann.until_type("chat/turnComplete")
        state = ann.states[chat]
        assert state["turns"][0]["message"]["text"] == "go on"
        assert "queuedMessages" not in state
        assert "steeringMessage" not in state
        await ann.check()


async def test_queued_messages_run_in_order_after_the_turn(tmp_path: Path) -> None:
    gate = Gate()
    agent = ScriptedAgent(gate, "ok")
    async with daemon_of(tmp_path, agent) as daemon, peer_of(daemon) as ann:
        _, chat = await ann.make_session()
        await ann.accepted(chat, turn_started("first"))
        await ann.accepted(chat, pending("queued", "second", "p2"))
        await ann.accepted(chat, pending("queued", "third", "p3"))
        assert [one["id"] for one in ann.states[chat]["queuedMessages"]] == ["p2", "p3"]
        await ann.check()
        gate.open()
        for _ in range(3):
            await ann.until_type("chat/turnComplete")
        assert agent.messages == ["first", "second", "third"]
        texts = [turn["message"]["text"] for turn in ann.states[chat]["turns"]]
        assert texts == ["first", "second", "third"]
        await ann.check()


async def test_a_queued_message_is_taken_back(tmp_path: Path) -> None:
    gate = Gate()
    agent = ScriptedAgent(gate, "ok")
    async with daemon_of(tmp_path, agent) as daemon, peer_of(daemon) as ann:
        _, chat = await ann.make_session()
        await ann.accepted(chat, turn_started("first"))
        await ann.accepted(chat, pending("queued", "second"))
        removed = {"type": "chat/pendingMessageRemoved", "kind": "queued", "id": "p1"}
        echo = await ann.accepted(chat, removed)
        assert echo["action"] == removed
        assert "No such message" in await ann.refused(chat, removed)
        gate.open()
        await ann.until_type("chat/turnComplete")
        assert agent.messages == ["first"]
        await ann.check()


async def test_steering_that_is_taken_is_shown_in_the_turn(tmp_path: Path) -> None:
    reached = Gate()

    async def take(request: object, emit: object) -> None:
        steer = await request.inbox.receive()  # type: ignore[attr-defined]
        await emit(Steering(steer.text))  # type: ignore[operator]

    agent = ScriptedAgent("a", take, reached, "b", steer=True)
    async with daemon_of(tmp_path, agent) as daemon, peer_of(daemon) as ann:
        _, chat = await ann.make_session()
        await ann.accepted(chat, turn_started("first"))
        await ann.accepted(chat, pending("steering", "to the left"))
        await ann.until_type("chat/pendingMessageRemoved")
        reached.open()
        await ann.until_type("chat/turnComplete")
        parts = ann.states[chat]["turns"][0]["responseParts"]
        assert [part["content"] for part in parts] == ["a", "to the left", "b"]
        assert "steeringMessage" not in ann.states[chat]
        await ann.check()


async def test_steering_that_comes_too_late_is_a_turn(tmp_path: Path) -> None:
    gate = Gate()
    agent = ScriptedAgent("a", gate, steer=True)
    async with daemon_of(tmp_path, agent) as daemon, peer_of(daemon) as ann:
        _, chat = await ann.make_session()
        await ann.accepted(chat, turn_started("first"))
        await ann.accepted(chat, pending("steering", "too late"))
        assert ann.states[chat]["steeringMessage"]["id"] == "p1"
        gate.open()
        await ann.until_type("chat/turnComplete")
        await ann.until_type("chat/turnComplete")
        assert agent.messages == ["first", "too late"]
        state = ann.states[chat]
        assert "steeringMessage" not in state
        assert "queuedMessages" not in state
        await ann.check()


async def test_cancelling_what_does_not_run_is_refused(tmp_path: Path) -> None:
    async with daemon_of(tmp_path, ScriptedAgent("ok")) as daemon, peer_of(daemon) as ann:
        _, chat = await ann.make_session()
        stop = {"type": "chat/turnCancelled", "turnId": "t1", "duration": 0}
        assert "not running" in await ann.refused(chat, stop)
        await ann.dispatch(chat, turn_started("hello"))
        await ann.until_type("chat/turnComplete")
        assert "not running" in await ann.refused(chat, stop)


async def test_a_failed_turn_ends_with_an_error_part(tmp_path: Path) -> None:
    agent = ScriptedAgent("half", ValueError("broken"))
    async with daemon_of(tmp_path, agent) as daemon, peer_of(daemon) as ann:
        _, chat = await ann.make_session()
        await ann.dispatch(chat, turn_started("hello"))
        await ann.until_type("chat/error")
        (turn,) = ann.states[chat]["turns"]
        assert turn["state"] == "error"
        assert turn["responseParts"][-1]["kind"] == "error"
        await ann.check()


async def test_an_agent_that_takes_no_steering_gets_it_as_the_next_message(tmp_path: Path) -> None:
    gate = Gate()
    agent = ScriptedAgent("a", gate)
    async with daemon_of(tmp_path, agent) as daemon, peer_of(daemon) as ann:
        _, chat = await ann.make_session()
        await ann.accepted(chat, turn_started("first"))
        await ann.accepted(chat, pending("steering", "next"))
        state = ann.states[chat]
        assert "steeringMessage" not in state
        assert [one["id"] for one in state["queuedMessages"]] == ["p1"]
        gate.open()
        turns = await ann.until_turns(chat, 2)
        assert [turn["message"]["text"] for turn in turns] == ["first", "next"]
        await ann.check()


async def test_a_message_that_waits_is_changed_and_goes_to_the_end(tmp_path: Path) -> None:
    gate = Gate()
    agent = ScriptedAgent("a", gate)
    async with daemon_of(tmp_path, agent) as daemon, peer_of(daemon) as ann:
        _, chat = await ann.make_session()
        await ann.accepted(chat, turn_started("first"))
        await ann.accepted(chat, pending("queued", "second", "p2"))
        await ann.accepted(chat, pending("queued", "third", "p3"))
        await ann.accepted(chat, pending("queued", "changed", "p2"))
        queue = ann.states[chat]["queuedMessages"]
        assert [one["message"]["text"] for one in queue] == ["third", "changed"]
        assert "waits already" in await ann.refused(chat, pending("queued", "third", "p3"))
        await ann.check()
        gate.open()
        await ann.until_turns(chat, 3)
        assert agent.messages == ["first", "third", "changed"]


async def test_a_native_message_that_waits_is_shown_and_taken_back_from_here(
    tmp_path: Path,
) -> None:
    gate = Gate()
    agent = ScriptedAgent("a", gate)
    async with (
        daemon_of(tmp_path, agent) as daemon,
        peer_of(daemon) as ann,
        native_of(daemon) as native,
    ):
        _, chat = await ann.make_session()
        await ann.accepted(chat, turn_started("first"))
        conversation = (await agent.asked()).conversation_id
        frame = {
            "type": "chat.send",
            "conversationId": conversation,
            "message": "from a browser",
            "onBusy": "queue",
        }
        await native.send(msgspec.json.encode(frame).decode())
        waiting = (await ann.until_type("chat/pendingMessageSet"))["action"]
        assert waiting["message"]["text"] == "from a browser"
        removed = {"type": "chat/pendingMessageRemoved", "kind": "queued", "id": waiting["id"]}
        await ann.accepted(chat, removed)
        gate.open()
        await ann.until_turns(chat)
        assert agent.messages == ["first"]
        await ann.check()


async def test_a_chat_that_a_message_refers_to_is_told_to_its_agent_as_it_is_then(
    tmp_path: Path,
) -> None:
    agent = ScriptedAgent("forty-two")
    async with daemon_of(tmp_path, agent) as daemon, peer_of(daemon) as ann:
        session, chat = await ann.make_session()
        await ann.dispatch(chat, turn_started("the question"))
        await ann.until_turns(chat)
        other = "ahp-chat:/other"
        await ann.call("createChat", channel=session, chat=other)
        await ann.subscribe(other)
        attached = {"type": "chat", "label": "Before", "resource": chat}
        asks = turn_started("and now?", "t2")
        asks["message"]["attachments"] = [attached]
        await ann.dispatch(other, asks)
        (turn,) = await ann.until_turns(other)
        assert turn["message"]["attachments"] == [attached]
        told = agent.messages[-1]
        assert "the question" in told
        assert "forty-two" in told
        assert told.endswith("and now?")
        asks = turn_started("and now?", "t3")
        asks["message"]["attachments"] = [{**attached, "endTurn": "t9"}]
        assert "not finished" in await ann.refused(other, asks)
        await ann.check()


@pytest.mark.parametrize("version", ["0.5.1", "0.7.0", "0.9.0"])
async def test_the_queue_is_put_in_another_order_for_everybody(
    tmp_path: Path, version: str
) -> None:
    gate = Gate()
    agent = ScriptedAgent("a", gate)
    async with (
        daemon_of(tmp_path, agent) as daemon,
        peer_of(daemon, "c1", version=version) as ann,
        peer_of(daemon, "c2") as bob,
    ):
        _, chat = await ann.make_session()
        await bob.subscribe(chat)
        await ann.accepted(chat, turn_started("first"))
        for name in ("two", "three", "four"):
            await ann.accepted(chat, pending("queued", name, name))
        order = {"type": "chat/queuedMessagesReordered", "order": ["four", "gone", "two"]}
        await ann.accepted(chat, order)
        await bob.until_type("chat/queuedMessagesReordered")
        for peer in (ann, bob):
            queue = [one["id"] for one in peer.states[chat]["queuedMessages"]]
            assert queue == ["four", "two", "three"]
            await peer.check()
        await ann.accepted(chat, order)
        gate.open()
        await ann.until_turns(chat, 4)
        assert agent.messages == ["first", "four", "two", "three"]
        await ann.check()
