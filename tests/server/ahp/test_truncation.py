"""Turns that are taken back over AHP: what is behind one is gone, for everybody and for agents."""

from pathlib import Path

import pytest

from dispatch.storage.memory import MemoryStore
from dispatch.storage.memory_disk import MemoryDisk
from dispatch.testing.scripted import FOR_EVER, ScriptedAgent
from tests.protocol.replies import http_client
from tests.server.ahp.peer import Peer, daemon_of, peer_of, turn_started


def cut(after: str | None) -> dict[str, str]:
    return {"type": "chat/truncated"} | ({} if after is None else {"turnId": after})


async def say(peer: Peer, chat: str, *texts: str) -> None:
    for text in texts:
        before = len(peer.states[chat]["turns"])
        await peer.dispatch(chat, turn_started(text, text))
        await peer.until_turns(chat, before + 1)


def ids(peer: Peer, chat: str) -> list[str]:
    return [turn["id"] for turn in peer.states[chat]["turns"]]


@pytest.mark.parametrize("version", ["0.5.1", "0.7.0", "0.9.0"])
async def test_what_is_behind_a_turn_is_gone_and_the_chat_goes_on(
    tmp_path: Path, version: str
) -> None:
    agent = ScriptedAgent("ok")
    async with daemon_of(tmp_path, agent) as daemon, peer_of(daemon, version=version) as ann:
        _, chat = await ann.make_session()
        await say(ann, chat, "one", "two", "three")
        await ann.accepted(chat, cut("one"))
        assert ids(ann, chat) == ["one"]
        await ann.check()
        await say(ann, chat, "four")
        history = await agent.requests[-1].history()
        said = [line.chunk.text for line in history if line.role == "user"]  # type: ignore[union-attr]
        assert said == ["one", "four"]
        assert "No such turn" in await ann.refused(chat, cut("three"))
        await ann.accepted(chat, cut(None))
        assert ids(ann, chat) == []
        await ann.check()


async def test_a_turn_that_runs_is_ended_and_is_gone_too(tmp_path: Path) -> None:
    agent = ScriptedAgent(
        script=lambda request: ["a", FOR_EVER] if request.message == "long" else ["ok"]
    )
    async with (
        daemon_of(tmp_path, agent) as daemon,
        peer_of(daemon, "c1") as ann,
        peer_of(daemon, "c2", version="0.5.1") as bob,
    ):
        _, chat = await ann.make_session()
        await bob.subscribe(chat)
        await say(ann, chat, "one")
        await ann.accepted(chat, turn_started("long", "long"))
        echo = await ann.accepted(chat, cut("one"))
        assert echo["action"] == cut("one")
        await bob.until_type("chat/truncated")
        for peer in (ann, bob):
            assert ids(peer, chat) == ["one"]
            assert "activeTurn" not in peer.states[chat]
            await peer.check()


async def test_a_chat_that_was_cut_is_read_back_and_replayed_as_it_was_folded(
    tmp_path: Path,
) -> None:
    disk = MemoryDisk()
    failing = ScriptedAgent(
        script=lambda request: [ValueError("no")] if request.message == "two" else ["ok"]
    )
    async with daemon_of(tmp_path, failing, store=MemoryStore(disk)) as daemon:
        async with peer_of(daemon) as ann:
            _, chat = await ann.make_session()
            await say(ann, chat, "one", "two", "three")
        async with peer_of(daemon, "other") as bob:
            await bob.subscribe(chat)
            await bob.accepted(chat, cut("two"))
            await say(bob, chat, "four")
            await bob.accepted(chat, cut("two"))
    async with (
        daemon_of(tmp_path, failing, store=MemoryStore(disk)) as daemon,
        peer_of(daemon, hello=False) as back,
    ):
        back.states = dict(ann.states)
        result = await back.reconnect(ann.seq, *ann.states)
        assert result["type"] == "replay"
        back.take_reconnected(result, ann.seq)
        assert ids(back, chat) == ["one", "two"]
        await back.check()


async def test_a_native_truncation_is_one_here(tmp_path: Path) -> None:
    agent = ScriptedAgent("ok")
    async with daemon_of(tmp_path, agent) as daemon, peer_of(daemon) as ann:
        _, chat = await ann.make_session()
        await say(ann, chat, "one", "two")
        first = agent.requests[0]
        async with http_client(daemon.url) as http:
            path = f"/conversations/{first.conversation_id}/truncate"
            reply = await http.post(path, json={"afterTurn": first.turn_id})
        assert reply.status_code == 200, reply.text
        assert (await ann.until_type("chat/truncated"))["action"] == cut("one")
        await ann.check()


async def test_a_truncation_that_is_sent_again_is_done_once(tmp_path: Path) -> None:
    async with daemon_of(tmp_path, ScriptedAgent("ok")) as daemon, peer_of(daemon) as ann:
        _, chat = await ann.make_session()
        await say(ann, chat, "one", "two")
        seq = await ann.dispatch(chat, cut("one"))
        await ann.echo(seq)
        await say(ann, chat, "three")
        await ann.dispatch(chat, cut("one"), client_seq=seq)
        assert "already" in (await ann.echo(seq))["rejectionReason"]
        assert ids(ann, chat) == ["one", "three"]
        await ann.check()
