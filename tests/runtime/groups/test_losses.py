"""Members whose conversation was deleted behind the group's back: missing once, then renewed."""

import asyncio

import pytest

from dispatch.core.identity import LOCAL
from dispatch.settings import Limits
from dispatch.storage.memory import MemoryStore
from dispatch.testing import FOR_EVER, Gate, HeldStore, YieldingStore
from tests.runtime.groups.room import LateStore, group_on, named, speakers


async def test_a_member_whose_conversation_was_deleted_is_missing_once() -> None:
    async with group_on(speakers("ann", "bob")) as room:
        lost = room.child("ann")
        await room.broker.catalog.delete(LOCAL, lost)
        await room.send("one")
        await room.settled()
        assert sorted(await room.texts()) == [("ann", ""), ("bob", "bob: one"), ("user", "one")]
        (done,) = [
            f for f in room.payloads() if f["kind"] == "done" and f.get("familiarId") == "ann"
        ]
        assert (done["outcome"], done["error"]["code"]) == ("error", "session_missing")
        assert room.child("ann") != lost
        await room.send("two")
        await room.settled()
        assert (await room.outcomes())[-1][1] == (await room.outcomes())[-2][1] == "completed"
        await room.check()


async def test_when_all_conversations_are_gone_the_message_still_gets_its_last_word() -> None:
    async with group_on(speakers("ann", "bob")) as room:
        for agent in ("ann", "bob"):
            await room.broker.catalog.delete(LOCAL, room.child(agent))
        await room.send("one")
        assert await room.outcomes() == [("ann", "error"), ("bob", "error")]
        (last,) = [f for f in room.payloads() if f.get("scope") == "group"]
        assert (last["isError"], last["results"]["error"]) == (True, 2)
        await room.send("two")
        await room.settled()
        assert [outcome for _, outcome in (await room.outcomes())[2:]] == ["completed"] * 2
        await room.check()


async def test_a_conversation_that_is_deleted_mid_run_ends_its_runs_as_missing() -> None:
    gate = Gate()
    ann = named("so ", FOR_EVER, name="ann")
    async with group_on([ann, named(gate, "b", name="bob")]) as room:
        await room.send("one")
        await ann.asked()
        await room.send("two", targets=("ann",))
        await room.broker.catalog.delete(LOCAL, room.child("ann"))
        gate.open()
        await room.settled()
        rows = {
            (e["familiarId"], e["replyTo"]): e
            for e in await room.events()
            if e["seq"] > 1 and "familiarId" in e
        }
        codes = [row["error"]["code"] for (who, _), row in rows.items() if who == "ann"]
        assert codes == ["session_missing"] * 2
        assert rows["bob", 1]["outcome"] == "completed"
        await room.check(is_pruned=True)


async def test_two_messages_that_find_a_conversation_gone_renew_it_once() -> None:
    store = HeldStore(MemoryStore())
    async with group_on(speakers("ann"), store=store) as room:
        await room.broker.catalog.delete(LOCAL, room.child("ann"))
        store.hold()
        sends = [asyncio.ensure_future(room.send(text)) for text in ("one", "two")]
        await store.reached()
        for _ in range(10):
            await asyncio.sleep(0)
        store.release()
        await asyncio.gather(*sends)
        await room.settled()
        disk = room.broker.conversations
        assert [live.record.id for live in disk] == [room.child("ann")]
        await room.send("three")
        await room.settled()
        assert (await room.outcomes())[-1] == ("ann", "completed")
        await room.check()


async def test_a_rename_does_not_undo_a_renewal_that_it_meets() -> None:
    store = HeldStore(MemoryStore())
    async with group_on(speakers("ann", "bob"), store=store) as room:
        lost = room.child("ann")
        await room.broker.catalog.delete(LOCAL, lost)
        store.hold()
        sending = asyncio.ensure_future(room.send("one"))
        await store.reached()
        patching = asyncio.ensure_future(room.patch(title="T"))
        for _ in range(10):
            await asyncio.sleep(0)
        store.release()
        await asyncio.gather(sending, patching)
        await room.settled()
        assert room.child("ann") != lost
        assert room.timeline.record.title == "T"
        await room.check()


@pytest.mark.parametrize("steps", range(30))
async def test_a_message_that_meets_the_deletion_of_a_child_ends_either_way(steps: int) -> None:
    store = YieldingStore(YieldingStore(MemoryStore()))
    async with group_on(speakers("ann", "bob"), store=store) as room:
        child = room.child("ann")
        first = [room.send("one"), room.broker.catalog.delete(LOCAL, child)]
        if steps % 2:
            first.reverse()
        one = asyncio.ensure_future(first[0])
        for _ in range(steps // 2):
            await asyncio.sleep(0)
        await asyncio.gather(one, first[1])
        await room.settled()
        outcomes = dict(await room.outcomes())
        assert outcomes["bob"] == "completed"
        assert outcomes["ann"] in ("error", "completed")
        await room.send("two")
        await room.settled()
        await room.send("three")
        await room.settled()
        assert [o for _, o in (await room.outcomes())[-2:]] == ["completed"] * 2
        await room.check(is_pruned=await room.is_gap(16))


async def test_a_stop_that_meets_the_deletion_of_a_child_ends_its_queued_runs() -> None:
    store = HeldStore(MemoryStore())
    async with group_on([named(FOR_EVER, name="ann"), *speakers("bob")], store=store) as room:
        await room.send("one")
        await room.send("two", targets=("ann",))
        live = room.broker.live(room.child("ann"))
        assert live.current is not None
        deleting = asyncio.ensure_future(room.broker.catalog.delete(LOCAL, room.child("ann")))
        await live.current.sealed.wait()
        store.hold(behind=True)
        await store.reached()
        stopping = asyncio.ensure_future(room.stop())
        for _ in range(5):
            await asyncio.sleep(0)
        store.release()
        await asyncio.gather(deleting, stopping)
        await room.settled()
        ann = [outcome for who, outcome in await room.outcomes() if who == "ann"]
        assert ann == ["error", "cancelled"]
        await room.check(is_pruned=True)


async def test_a_child_that_goes_while_another_is_looked_up_is_missing() -> None:
    store = LateStore(MemoryStore())
    limits = Limits(conversations_warm_max=1)
    async with group_on(speakers("ann", "bob"), store=store, limits=limits) as room:
        child = room.child("ann")
        async with room.broker.conversations.using(LOCAL, child):
            await room.broker.send("elsewhere", "c9")
            await room.broker.until_idle()
            assert room.broker.conversations.find(LOCAL.account, room.child("bob")) is None
            store.hold("conversation")
            sending = asyncio.ensure_future(room.send("one"))
            await store.reached()
            await room.broker.catalog.delete(LOCAL, child)
            store.release()
            await sending
        await room.settled()
        assert sorted(await room.outcomes()) == [("ann", "error"), ("bob", "completed")]
        assert room.child("ann") != child
        await room.check(is_pruned=True)
