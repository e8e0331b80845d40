"""How many runs go on at once, and who waits for what."""

import pytest

from dispatch.core.identity import LOCAL, TurnId
from dispatch.errors import Busy
from dispatch.runtime.slots import Slots
from dispatch.storage.keys import ConversationKey
from dispatch.testing import FOR_EVER, Gate, ScriptedAgent
from tests.runtime.groups.room import another, group_on, named, speakers


def test_who_waits_is_served_in_the_order_of_asking() -> None:
    slots, served = Slots(1), []

    def ask(turn: str, conversation: int) -> bool:
        def again() -> None:
            if ask(turn, conversation):
                served.append(turn)

        return slots.take(TurnId(turn), ConversationKey(conversation), again)

    assert ask("a", 1)
    assert ask("a", 1)
    assert not ask("b", 2)
    assert not ask("c", 3)
    assert not ask("b", 2)
    slots.give_back(TurnId("a"))
    assert served == ["b"]
    slots.give_back(TurnId("b"))
    slots.give_back(TurnId("b"))
    assert served == ["b", "c"]


def test_who_has_nothing_to_run_any_more_lets_the_next_go() -> None:
    slots, served = Slots(1), []
    assert slots.take(TurnId("a"), ConversationKey(1), lambda: None)
    assert not slots.take(TurnId("b"), ConversationKey(2), lambda: None)

    def again() -> None:
        served.append(slots.take(TurnId("c"), ConversationKey(3), again))

    assert not slots.take(TurnId("c"), ConversationKey(3), again)
    slots.give_back(TurnId("a"))
    assert served == [True]


def test_what_runs_already_is_counted() -> None:
    slots = Slots(1)
    slots.hold(TurnId("a"))
    assert not slots.take(TurnId("b"), ConversationKey(2), lambda: None)


async def test_no_more_runs_than_the_bound_go_on_at_once() -> None:
    gates = {name: Gate() for name in ("ann", "bob", "cy")}
    agents = [named(gate, name, name=name) for name, gate in gates.items()]
    async with group_on(agents, runs_max=2) as room:
        await room.send()
        await gates["ann"].reached()
        await gates["bob"].reached()
        await room.broker.services.journal.idle()
        assert agents[2].requests == []
        gates["bob"].open()
        await gates["cy"].reached()
        gates["ann"].open()
        gates["cy"].open()
        await room.settled()
        assert room.broker.services.slots._running == set()
        await room.check()


async def test_queued_runs_hold_no_slot_and_keep_their_order() -> None:
    gate = Gate()
    ann = ScriptedAgent(script=lambda r: [gate, r.message], name="ann")
    agents = [ann, *speakers("bob")]
    async with group_on(agents, runs_max=2) as room:
        for text in ("one", "two", "three"):
            await room.send(text, targets=("ann",))
        await room.send("four", targets=("bob",))
        while ("bob", "completed") not in await room.outcomes():
            await room.timeline.kept()
        gate.open()
        await room.settled()
        assert ann.messages == ["one", "two", "three"]
        await room.check()


async def test_two_groups_share_the_bound() -> None:
    ann = named(FOR_EVER, name="ann")
    async with group_on([ann, *speakers("bob")], runs_max=1) as room:
        await room.send(targets=("ann",))
        await ann.asked()
        async with another(room, "bob") as other:
            await other.send()
            await room.broker.services.journal.idle()
            assert len(other.timeline.replies) == 1
            await room.stop()
            await other.settled()
            assert await other.outcomes() == [("bob", "completed")]


async def test_a_native_send_to_a_child_that_waits_for_a_slot_is_busy() -> None:
    ann = named(FOR_EVER, name="ann")
    async with group_on([ann, *speakers("bob")], runs_max=1) as room:
        await room.send(targets=("ann",))
        await ann.asked()
        await room.send(targets=("bob",))
        with pytest.raises(Busy):
            await room.broker.send("direct", room.child("bob"))
        queued = await room.broker.send("direct", room.child("bob"), on_busy="queue")
        assert queued.place == "queued"
        await room.stop()
        await room.broker.until_idle()
        await room.check()


async def test_when_the_run_that_waited_is_stopped_the_child_is_free() -> None:
    ann = named(FOR_EVER, name="ann")
    async with group_on([ann, *speakers("bob")], runs_max=1) as room:
        await room.send(targets=("ann",))
        await ann.asked()
        await room.send(targets=("bob",))
        await room.stop(agent="bob")
        accepted = await room.broker.send("direct", room.child("bob"))
        assert accepted.place == "started"
        await room.send("again", targets=("bob",))
        await room.stop(agent="ann")
        await room.settled()
        await room.broker.until_idle()
        assert await room.outcomes() == [
            ("bob", "cancelled"),
            ("ann", "cancelled"),
            ("bob", "completed"),
        ]
        await room.check()


async def test_a_native_turn_needs_no_slot_and_a_run_waits_behind_it() -> None:
    gate = Gate()
    ann = ScriptedAgent(script=lambda r: [gate, r.message], name="ann")
    async with group_on([ann], runs_max=1) as room:
        await room.broker.send("direct", room.child("ann"))
        await gate.reached()
        await room.send("grouped")
        await room.broker.services.journal.idle()
        assert ann.messages == ["direct"]
        assert room.broker.services.slots._running == set()
        gate.open()
        await room.settled()
        assert await room.texts() == [("user", "grouped"), ("ann", "grouped")]
        assert "direct" not in str(room.payloads())
        await room.check()


async def test_a_native_send_while_a_run_goes_on_is_busy_and_not_in_the_timeline() -> None:
    gate = Gate()
    ann = ScriptedAgent(script=lambda r: [gate, r.message], name="ann")
    async with group_on([ann]) as room:
        await room.send("grouped")
        await gate.reached()
        with pytest.raises(Busy):
            await room.broker.send("direct", room.child("ann"))
        gate.open()
        await room.settled()
        await room.broker.send("direct", room.child("ann"))
        await room.broker.until_idle()
        assert await room.texts() == [("user", "grouped"), ("ann", "grouped")]
        assert "direct" not in str(await room.replayed())
        await room.check()


async def test_an_interrupting_native_send_cancels_the_run() -> None:
    ann = ScriptedAgent(
        script=lambda r: [FOR_EVER] if r.message == "grouped" else ["ok"], name="ann"
    )
    async with group_on([ann]) as room:
        await room.send("grouped")
        await ann.asked()
        await room.broker.send("direct", room.child("ann"), on_busy="interrupt")
        await room.broker.until_idle()
        assert await room.outcomes() == [("ann", "cancelled")]
        assert await room.broker.stop(room.child("ann")) is None
        await room.check()


async def test_a_deleted_child_that_waited_for_a_slot_does_not_hold_up_others() -> None:
    ann = named(FOR_EVER, name="ann")
    async with group_on([ann, *speakers("bob", "cy")], runs_max=1) as room:
        await room.send(targets=("ann",))
        await ann.asked()
        await room.send(targets=("bob",))
        await room.send(targets=("cy",))
        await room.broker.catalog.delete(LOCAL, room.child("bob"))
        await room.stop(agent="ann")
        await room.settled()
        assert await room.outcomes() == [
            ("bob", "error"),
            ("ann", "cancelled"),
            ("cy", "completed"),
        ]
        await room.check(is_pruned=True)
