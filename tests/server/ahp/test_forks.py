"""Forks: from its first moment a fork is what it is read as, whoever looks and whenever."""

from __future__ import annotations

from pathlib import Path

from dispatch.agents.port import AgentFailure
from dispatch.core.events import Request, RequestOption
from dispatch.settings import Limits
from dispatch.testing.scripted import FOR_EVER, ScriptedAgent
from tests.server.ahp.peer import (
    Peer,
    daemon_of,
    is_read_the_same,
    peer_of,
    turn_started,
)

FORK = "ahp-chat:/fork"
QUESTION = Request("r1", "approval", "May I?", options=(RequestOption("yes", "Yes", "allow"),))


async def forked(ann: Peer, session: str, chat: str, turn_id: str) -> None:
    source = {"kind": "fork", "chat": chat, "turnId": turn_id}
    await ann.call("createChat", channel=session, chat=FORK, source=source)
    await ann.subscribe(FORK)


async def test_a_fork_of_a_turn_that_asked_shows_what_is_kept_of_it(tmp_path: Path) -> None:
    async with (
        daemon_of(tmp_path, ScriptedAgent("ok ", QUESTION, FOR_EVER)) as daemon,
        peer_of(daemon) as ann,
    ):
        session, chat = await ann.make_session()
        await ann.dispatch(chat, turn_started("hello"))
        await ann.until_type("chat/inputRequested")
        await ann.accepted(chat, {"type": "chat/turnCancelled", "turnId": "t1", "duration": 1})
        await forked(ann, session, chat, "t1")
        await is_read_the_same(daemon, ann)


async def test_a_fork_of_a_turn_that_failed_has_not_failed_itself(tmp_path: Path) -> None:
    async with (
        daemon_of(tmp_path, ScriptedAgent("half", AgentFailure("no", "x"))) as daemon,
        peer_of(daemon) as ann,
    ):
        session, chat = await ann.make_session()
        await ann.dispatch(chat, turn_started("hello"))
        await ann.until_type("chat/error")
        await forked(ann, session, chat, "t1")
        assert ann.states[FORK]["turns"][0]["state"] == "error"
        await is_read_the_same(daemon, ann)


async def test_a_fork_of_many_turns_shows_the_newest_and_where_the_others_are(
    tmp_path: Path,
) -> None:
    async with (
        daemon_of(tmp_path, ScriptedAgent("ok"), limits=Limits(ahp_turns_max=2)) as daemon,
        peer_of(daemon) as ann,
    ):
        session, chat = await ann.make_session()
        for number in range(5):
            await ann.dispatch(chat, turn_started("hello", f"t{number}"))
            await ann.until_type("chat/turnComplete")
        await forked(ann, session, chat, "t3")
        assert [turn["id"] for turn in ann.states[FORK]["turns"]] == ["t2", "t3"]
        # The source has been told more than it would be read with.
        await ann.notify("unsubscribe", channel=chat)
        del ann.states[chat]
        await is_read_the_same(daemon, ann)
        await ann.subscribe(FORK)
        await ann.call("fetchTurns", channel=FORK, cursor=ann.states[FORK]["turnsNextCursor"])
        found = [turn["id"] for turn in ann.states[FORK]["turns"]]
        assert found == ["t0", "t1", "t2", "t3"]
