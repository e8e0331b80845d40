"""Coming back: what was missed is told in order, also by a daemon that was started anew."""

from pathlib import Path

import pytest

from dispatch.settings import Limits
from dispatch.storage.memory import MemoryStore
from dispatch.storage.memory_disk import MemoryDisk
from dispatch.testing.scripted import FOR_EVER, Gate, ScriptedAgent
from tests.server.ahp.peer import (
    ROOT,
    Peer,
    Refused,
    daemon_of,
    peer_of,
    pending,
    turn_started,
)

VERSIONS = ["0.5.1", "0.7.0", "0.9.0", "1.0.0"]


async def come_back(old: Peer, new: Peer) -> dict[str, object]:
    """The client goes on over another connection, from what it has folded."""
    new.states = dict(old.states)
    result = await new.reconnect(old.seq, *old.states)
    new.take_reconnected(result, old.seq)
    return result


@pytest.mark.parametrize("version", VERSIONS)
async def test_what_was_missed_is_replayed_and_folds_to_what_others_have(
    tmp_path: Path, version: str
) -> None:
    gate = Gate()
    agent = ScriptedAgent("one ", gate, "two")
    async with daemon_of(tmp_path, agent) as daemon, peer_of(daemon, "stays") as bob:
        async with peer_of(daemon, "leaves", version=version) as ann:
            session, chat = await ann.make_session()
            await bob.subscribe(session)
            await bob.subscribe(chat)
            await ann.accepted(chat, turn_started("first"))
            await ann.until_type("chat/responsePart")
        await bob.until_type("chat/responsePart")
        await bob.accepted(chat, pending("queued", "second"))
        gate.open()
        await bob.until_type("chat/turnComplete")
        async with peer_of(daemon, "leaves", version=version, hello=False) as back:
            result = await come_back(ann, back)
            assert result["type"] == "replay"
            assert [one["serverSeq"] for one in result["actions"]] == sorted(
                one["serverSeq"] for one in result["actions"]
            )
            await back.check()
            while back.states[chat].get("activeTurn") or len(back.states[chat]["turns"]) < 2:
                await back.receive()
            await back.check()


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_daemon_that_was_killed_replays_what_was_missed(
    tmp_path: Path, version: str
) -> None:
    disk = MemoryDisk()
    agent = ScriptedAgent("one ", FOR_EVER)
    async with (
        daemon_of(tmp_path, agent, store=MemoryStore(disk)) as daemon,
        peer_of(daemon, version=version) as ann,
    ):
        session, chat = await ann.make_session()
        await ann.accepted(chat, turn_started("first"))
        await ann.until_type("chat/responsePart")
        await ann.accepted(chat, pending("queued", "second"))
        await ann.accepted(session, {"type": "session/titleChanged", "title": "Ours"})
    # What the daemon did when it ended is not told to who had gone before.
    second = ScriptedAgent("anew")
    async with (
        daemon_of(tmp_path, second, store=MemoryStore(disk)) as daemon,
        peer_of(daemon, version=version, hello=False) as back,
    ):
        result = await come_back(ann, back)
        assert result["type"] == "replay"
        assert result["missing"] == []
        while len(back.states[chat]["turns"]) < 2:
            await back.receive()
        assert second.messages == ["second"]
        texts = [turn["message"]["text"] for turn in back.states[chat]["turns"]]
        assert texts == ["first", "second"]
        assert back.states[session]["title"] == "Ours"
        await back.check()


async def test_nothing_missed_is_an_empty_replay_and_what_comes_follows(tmp_path: Path) -> None:
    async with daemon_of(tmp_path, ScriptedAgent("ok")) as daemon:
        async with peer_of(daemon) as ann:
            _, chat = await ann.make_session()
        async with peer_of(daemon, hello=False) as back:
            result = await come_back(ann, back)
            assert result == {"type": "replay", "actions": [], "missing": [ROOT][:0]}
            await back.dispatch(chat, turn_started("hello"))
            await back.until_type("chat/turnComplete")
            await back.check()


async def test_a_client_that_is_ahead_gets_snapshots(tmp_path: Path) -> None:
    async with daemon_of(tmp_path, ScriptedAgent("ok")) as daemon:
        async with peer_of(daemon) as ann:
            session, chat = await ann.make_session()
        async with peer_of(daemon, hello=False) as back:
            result = await back.reconnect(ann.seq + 1_000_000, session, chat)
            assert result["type"] == "snapshot"
            assert {one["resource"] for one in result["snapshots"]} == {session, chat}


async def test_too_much_to_replay_is_a_snapshot(tmp_path: Path) -> None:
    limits = Limits(ahp_replay_events_max=3)
    async with daemon_of(tmp_path, ScriptedAgent("ok"), limits=limits) as daemon:
        async with peer_of(daemon) as ann:
            _, chat = await ann.make_session()
        async with peer_of(daemon, "other") as bob:
            await bob.subscribe(chat)
            await bob.dispatch(chat, turn_started("hello"))
            await bob.until_type("chat/turnComplete")
        async with peer_of(daemon, hello=False) as back:
            result = await come_back(ann, back)
            assert result["type"] == "snapshot"
            await back.check()


async def test_an_unknown_client_is_not_found_and_may_say_hello_instead(tmp_path: Path) -> None:
    async with (
        daemon_of(tmp_path, ScriptedAgent("ok")) as daemon,
        peer_of(daemon, "nobody", hello=False) as ann,
    ):
        with pytest.raises(Refused) as refused:
            await ann.reconnect(0, ROOT)
        assert refused.value.code == -32008
        assert (await ann.initialize(ROOT))["protocolVersion"] == "0.9.0"


async def test_a_channel_that_is_gone_is_missing(tmp_path: Path) -> None:
    async with daemon_of(tmp_path, ScriptedAgent("ok")) as daemon:
        async with peer_of(daemon) as ann:
            session, chat = await ann.make_session()
        async with peer_of(daemon, "other") as bob:
            await bob.call("disposeSession", channel=session)
        async with peer_of(daemon, hello=False) as back:
            result = await come_back(ann, back)
            assert result["missing"] == [session, chat]


async def test_a_refusal_that_went_with_its_line_is_told_in_its_place(tmp_path: Path) -> None:
    gate = Gate()
    async with daemon_of(tmp_path, ScriptedAgent("a", gate)) as daemon:
        async with peer_of(daemon) as ann:
            _, chat = await ann.make_session()
            await ann.accepted(chat, turn_started("first"))
            seq = ann.seq
            refused = await ann.act(chat, turn_started("second", "t2"))
            accepted = await ann.accepted(chat, pending("queued", "third"))
        async with peer_of(daemon, hello=False) as back:
            result = await back.reconnect(seq, chat)
            mine = [one for one in result["actions"] if "origin" in one]
            assert mine == [refused, accepted]
            gate.open()


async def test_a_refusal_at_the_number_that_was_seen_last_is_told(tmp_path: Path) -> None:
    async with daemon_of(tmp_path, ScriptedAgent("ok")) as daemon:
        async with peer_of(daemon) as ann:
            _, chat = await ann.make_session()
            stop = {"type": "chat/turnCancelled", "turnId": "t1", "duration": 1}
            seen, lost = [await ann.act(chat, stop) for _ in range(2)]
            # Nothing happened in between, so both are of the same moment.
            assert lost["serverSeq"] == seen["serverSeq"]
        async with peer_of(daemon, hello=False) as back:
            result = await back.reconnect(seen["serverSeq"], chat)
            assert lost in result["actions"]
