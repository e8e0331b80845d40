"""A failed turn that goes on: under its own name for everybody, whoever resumes it."""

from pathlib import Path

import pytest

from dispatch.agents.port import TurnRequest
from dispatch.settings import Limits
from dispatch.storage.memory import MemoryStore
from dispatch.storage.memory_disk import MemoryDisk
from dispatch.testing.scripted import Gate, ScriptedAgent, Step
from tests.protocol.replies import http_client
from tests.server.ahp.peer import ROOT, Peer, daemon_of, is_read_the_same, peer_of, turn_started

RESUME = {"type": "chat/turnResume", "turnId": "t1"}


def failing(times: int) -> ScriptedAgent:
    """An agent that fails so often in the middle of an answer, and then gives the rest."""
    left = times

    def script(_request: TurnRequest) -> list[Step]:
        nonlocal left
        left -= 1
        return ["half ", ValueError("broken")] if left >= 0 else ["rest"]

    return ScriptedAgent(script=script)


def texts(peer: Peer, chat: str, place: int = 0) -> list[str]:
    parts = peer.states[chat]["turns"][place]["responseParts"]
    return [part["content"] for part in parts if part["kind"] == "markdown"]


@pytest.mark.parametrize("version", ["0.5.1", "0.7.0", "1.0.0"])
async def test_a_failed_turn_goes_on_under_its_own_name(tmp_path: Path, version: str) -> None:
    async with (
        daemon_of(tmp_path, failing(2)) as daemon,
        peer_of(daemon, "c1") as ann,
        peer_of(daemon, "c2", version=version) as bob,
    ):
        _, chat = await ann.make_session()
        await bob.subscribe(chat)
        await ann.dispatch(chat, turn_started("hello"))
        await ann.until_type("chat/error")
        await ann.accepted(chat, RESUME)
        await ann.until_type("chat/error")
        await ann.accepted(chat, RESUME)
        await ann.until_type("chat/turnComplete")
        await bob.until_type("chat/turnComplete")
        assert texts(bob, chat) == ["half ", "half ", "rest"]
        for peer in (ann, bob):
            (turn,) = peer.states[chat]["turns"]
            assert (turn["id"], turn["state"]) == ("t1", "complete")
            await peer.check()
        assert "cannot be resumed" in await ann.refused(chat, RESUME)
        await ann.dispatch(chat, turn_started("more", "t2"))
        assert [turn["id"] for turn in await ann.until_turns(chat, 2)] == ["t1", "t2"]
        await ann.check()


async def test_a_turn_that_was_resumed_is_one_turn_when_it_is_read_back(tmp_path: Path) -> None:
    disk = MemoryDisk()
    async with (
        daemon_of(tmp_path, failing(1), store=MemoryStore(disk)) as daemon,
        peer_of(daemon) as ann,
    ):
        session, chat = await ann.make_session()
        await ann.dispatch(chat, turn_started("hello"))
        await ann.until_type("chat/error")
        seq, states = ann.seq, dict(ann.states)
        await ann.accepted(chat, RESUME)
        await ann.until_type("chat/turnComplete")
        await ann.call("ping")
        last = dict(ann.states)
    for events_max in (10_000, 1):
        async with (
            daemon_of(
                tmp_path,
                failing(0),
                store=MemoryStore(disk),
                limits=Limits(ahp_events_max=events_max),
            ) as daemon,
            peer_of(daemon, hello=False) as back,
        ):
            back.states = dict(states)
            back.take_reconnected(await back.reconnect(seq, session, chat), seq)
            assert texts(back, chat) == ["half ", "rest"]
            assert back.states == last
            shown = await back.subscribe(chat)
            assert shown == last[chat]


async def test_a_turn_that_is_resumed_natively_goes_on_here(tmp_path: Path) -> None:
    agent = failing(1)
    async with daemon_of(tmp_path, agent) as daemon, peer_of(daemon) as ann:
        _, chat = await ann.make_session()
        await ann.dispatch(chat, turn_started("hello"))
        await ann.until_type("chat/error")
        first = agent.requests[0]
        async with http_client(daemon.url) as http:
            reply = await http.post(
                f"/conversations/{first.conversation_id}/resume", json={"turnId": first.turn_id}
            )
        assert reply.status_code in (200, 201, 202), reply.text
        resumed = await ann.until_type("chat/turnResume")
        assert "origin" not in resumed
        await ann.until_type("chat/turnComplete")
        assert texts(ann, chat) == ["half ", "rest"]
        await ann.check()


async def test_a_chat_is_as_old_as_a_turn_that_was_resumed_also_once_that_is_truncated(
    tmp_path: Path,
) -> None:
    async with daemon_of(tmp_path, failing(9)) as daemon, peer_of(daemon) as ann:
        _, chat = await ann.make_session()
        await ann.dispatch(chat, turn_started("hello"))
        await ann.until_type("chat/error")
        for _ in range(2):
            await ann.accepted(chat, RESUME)
            await ann.until_type("chat/error")
        await ann.accepted(chat, {"type": "chat/truncated"})
        await is_read_the_same(daemon, ann)


async def test_who_comes_back_after_a_turn_was_resumed_is_told_how_old_the_chat_is(
    tmp_path: Path,
) -> None:
    gate = Gate()
    steps: list[list[Step]] = [["half ", gate, ValueError("broken")], [ValueError("again")]]
    agent = ScriptedAgent(script=lambda _: steps.pop(0))
    async with daemon_of(tmp_path, agent) as daemon, peer_of(daemon, "c1") as ann:
        session, chat = await ann.make_session()
        async with peer_of(daemon, "c2") as bob:
            await bob.subscribe(session)
            await ann.dispatch(chat, turn_started("hello"))
            await ann.until_type("chat/responsePart")
            # Longer than what resumes it: the chat's time goes back when that fails at once.
            await ann.check()
            gate.open()
            await ann.until_type("chat/error")
            # Behind its end, so that who comes back is not told of the turn again.
            await ann.accepted(session, {"type": "session/titleChanged", "title": "Ours"})
            await bob.until(lambda one: one["action"].get("title") == "Ours")
        await ann.accepted(chat, RESUME)
        await ann.until_type("chat/error")
        async with peer_of(daemon, "c2", hello=False) as back:
            result = await back.reconnect(bob.seq, session)
            assert result["type"] == "replay"
            back.states = dict(bob.states)
            del back.states[ROOT]
            back.take_reconnected(result, bob.seq)
            await back.check()


async def test_a_fork_of_a_turn_that_was_resumed_has_all_of_it(tmp_path: Path) -> None:
    async with daemon_of(tmp_path, failing(1)) as daemon, peer_of(daemon) as ann:
        session, chat = await ann.make_session()
        await ann.dispatch(chat, turn_started("hello"))
        await ann.until_type("chat/error")
        await ann.accepted(chat, RESUME)
        await ann.until_type("chat/turnComplete")
        fork, source = "ahp-chat:/f", {"kind": "fork", "chat": chat, "turnId": "t1"}
        await ann.call("createChat", channel=session, chat=fork, source=source)
        await ann.subscribe(fork)
        assert texts(ann, fork) == ["half ", "rest"]
        await ann.check()
