"""Ending runs of groups, running ones, queued ones and those whose message is still to come."""

import asyncio

import pytest

from dispatch.core.identity import LOCAL, AccountId, Principal, UserId
from dispatch.storage.memory import MemoryStore
from dispatch.testing import FOR_EVER, HeldStore, ManualClock, ScriptedAgent, YieldingStore
from tests.runtime.groups.room import LateStore, Room, group_on, named, speakers

QUARTER_SECONDS = 15 * 60


def silent(*names: str) -> list[ScriptedAgent]:
    return [named("so ", FOR_EVER, name=name) for name in names]


async def begun(room: Room, *names: str) -> None:
    """Return once these members have said something."""
    for name in names:
        agent = room.broker.services.agents[name]
        assert isinstance(agent, ScriptedAgent)
        await agent.asked()
    while len(await room.outcomes()) < len(names):
        await room.timeline.kept()


async def test_a_stop_of_all_ends_what_runs_and_what_waits_in_one_order() -> None:
    async with group_on(silent("ann", "bob")) as room:
        await room.send("one")
        await begun(room, "ann", "bob")
        await room.send("two")
        await room.send("three")
        stopped = await room.stop()
        assert stopped.agents == ["ann", "bob"] * 3
        assert not stopped.is_remembered
        assert await room.outcomes() == [
            (name, "cancelled") for name in ["ann", "bob", "ann", "bob", "ann", "bob"]
        ]
        waited = [(e["replyTo"], e["familiarId"]) for e in await room.events() if e["seq"] > 5]
        assert waited == [(4, "ann"), (4, "bob"), (5, "ann"), (5, "bob")]
        texts = [text for who, text in await room.texts() if who == "ann"]
        assert texts == ["so ", "", ""]
        assert [f["results"]["cancelled"] for f in room.payloads() if f.get("scope")] == [2, 2, 2]
        await room.check()


async def test_queued_runs_end_before_or_with_the_running_ones() -> None:
    store = HeldStore(MemoryStore())
    async with group_on(silent("ann"), store=store) as room:
        await room.send("one")
        await begun(room, "ann")
        await room.send("two")
        before = len(store.batches)
        await room.stop()
        ended = [[row.reply_to for row in batch.rows] for batch in store.batches[before:]]
        assert ended[0][0] == 3
        assert room.broker.services.agents["ann"].messages == ["one"]  # type: ignore[attr-defined]


async def test_a_stop_of_one_member_leaves_the_others() -> None:
    async with group_on(silent("ann", "bob")) as room:
        await room.send("one")
        await begun(room, "ann", "bob")
        assert (await room.stop(agent="bob")).agents == ["bob"]
        assert sorted(await room.outcomes()) == [("ann", "open"), ("bob", "cancelled")]
        assert (await room.stop()).agents == ["ann"]
        await room.check()


async def test_a_stop_of_one_message_leaves_the_others() -> None:
    async with group_on(silent("ann")) as room:
        first = await room.send("one")
        second = await room.send("two")
        assert (await room.stop(reply_to=second.seq)).agents == ["ann"]
        (run,) = (await room.page()).view.runs
        assert run.user_seq == first.seq
        await room.stop(reply_to=first.seq)
        await room.check()


async def test_a_stop_of_a_run_ends_that_one() -> None:
    async with group_on(silent("ann", "bob")) as room:
        await room.send("one")
        await begun(room, "ann", "bob")
        runs = {e["familiarId"]: e["runId"] for e in await room.events() if e["seq"] > 1}
        assert (await room.stop(run_id=runs["bob"])).agents == ["bob"]
        again = await room.stop(run_id=runs["bob"])
        assert (again.agents, again.is_remembered) == ([], False)
        await room.stop()
        await room.check()


async def test_a_stop_by_the_clients_id_ends_every_run_of_that_message() -> None:
    async with group_on(silent("ann", "bob")) as room:
        await room.send("one", client_message_id="m1")
        await room.send("two", client_message_id="m2")
        assert (await room.stop(run_id="m2")).agents == ["ann", "bob"]
        assert (await room.stop(run_id="m1", agent="bob")).agents == ["bob"]
        assert (await room.stop()).agents == ["ann"]
        await room.check()


async def test_a_stop_that_is_ahead_of_its_message_wins() -> None:
    async with group_on(silent("ann", "bob")) as room:
        stopped = await room.stop(run_id="m")
        assert (stopped.agents, stopped.is_remembered) == ([], True)
        await room.send("other")
        await room.send("one", client_message_id="m", targets=("ann",))
        await room.stop(reply_to=1)
        await room.settled()
        assert {outcome for _, outcome in await room.outcomes()} == {"cancelled"}
        for agent in room.broker.services.agents.values():
            assert isinstance(agent, ScriptedAgent)
            assert "one" not in agent.messages
        await room.check()


async def test_a_stop_ahead_that_names_a_member_ends_that_one() -> None:
    async with group_on([*silent("ann"), *speakers("bob")]) as room:
        assert (await room.stop(run_id="m", agent="ann")).is_remembered
        await room.send("one", client_message_id="m")
        await room.settled()
        assert sorted(await room.outcomes()) == [("ann", "cancelled"), ("bob", "completed")]
        await room.check()


async def test_a_stop_ahead_is_forgotten_after_a_while() -> None:
    clock = ManualClock()
    async with group_on(speakers("ann"), clock=clock) as room:
        await room.stop(run_id="m")
        clock.advance(QUARTER_SECONDS)
        await room.send("one", client_message_id="m")
        await room.settled()
        assert await room.outcomes() == [("ann", "completed")]


async def test_a_stop_ahead_is_about_its_own_users_message() -> None:
    other = Principal(AccountId("local"), UserId("other"))
    async with group_on(speakers("ann")) as room:
        await Room(room.broker, room.timeline, other).stop(run_id="m")
        await room.send("one", client_message_id="m")
        await room.settled()
        assert await room.outcomes() == [("ann", "completed")]


async def test_a_stop_of_a_message_that_was_answered_is_not_remembered() -> None:
    async with group_on(speakers("ann")) as room:
        await room.send("one", client_message_id="m")
        await room.settled()
        stopped = await room.stop(run_id="m")
        assert (stopped.agents, stopped.is_remembered) == ([], False)
        assert await room.outcomes() == [("ann", "completed")]


@pytest.mark.parametrize("steps", range(30))
async def test_a_stop_is_never_missed_by_the_message_that_it_meets_on_its_way(steps: int) -> None:
    store = YieldingStore(YieldingStore(MemoryStore()))
    async with group_on(silent("ann", "bob"), store=store) as room:
        first = [room.send("one", client_message_id="m"), room.stop(run_id="m")]
        if steps % 2:
            first.reverse()
        one = asyncio.ensure_future(first[0])
        for _ in range(steps // 2):
            await asyncio.sleep(0)
        await asyncio.gather(one, first[1])
        await room.settled()
        assert await room.outcomes() == [("ann", "cancelled"), ("bob", "cancelled")]
        await room.check()


async def test_a_stop_that_found_nothing_wins_over_a_message_that_came_meanwhile() -> None:
    store = LateStore(MemoryStore())
    async with group_on(silent("ann"), store=store) as room:
        store.hold("row_by_client_key")
        stopping = asyncio.ensure_future(room.stop(run_id="m"))
        await store.reached()
        await room.send("one", client_message_id="m")
        store.release()
        await stopping
        await room.settled()
        assert await room.outcomes() == [("ann", "cancelled")]


async def test_a_native_stop_of_a_run_is_a_cancellation() -> None:
    async with group_on(silent("ann")) as room:
        await room.send("one")
        await begun(room, "ann")
        assert await room.broker.stop(room.child("ann")) is not None
        await room.settled()
        assert await room.outcomes() == [("ann", "cancelled")]
        await room.check()


async def test_a_native_cancel_of_a_queued_run_is_one_too() -> None:
    async with group_on(silent("ann")) as room:
        await room.send("one")
        await room.send("two")
        live = room.broker.live(room.child("ann"))
        (waiting,) = live.state.queue
        assert await room.broker.broker.cancel(LOCAL, room.child("ann"), waiting.turn)
        assert ("ann", "cancelled") in await room.outcomes()
        await room.stop()
        await room.check()


async def test_a_member_that_was_closed_is_cancelled_and_answers_the_next_message() -> None:
    ann = ScriptedAgent(script=lambda r: ["x"] if r.message == "three" else [FOR_EVER], name="ann")
    async with group_on([ann]) as room:
        await room.send("one")
        await ann.asked()
        await room.send("two")
        await room.broker.broker.close(LOCAL, room.child("ann"))
        await room.settled()
        assert await room.outcomes() == [("ann", "cancelled")] * 2
        await room.send("three")
        await room.settled()
        assert (await room.outcomes())[-1] == ("ann", "completed")
        await room.check()
