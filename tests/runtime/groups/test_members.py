"""Who is in a group: added, removed, renamed, lost behind its back, and unknown to the settings."""

import asyncio

import pytest

from dispatch.core.group import Group
from dispatch.core.identity import LOCAL
from dispatch.errors import StorageFull
from dispatch.protocol.groups.refusals import FamiliarNotFound, LastMember, ProvisionFailed
from dispatch.protocol.groups.requests import GroupCreate
from dispatch.storage.memory import MemoryStore
from dispatch.storage.memory_disk import MemoryDisk
from dispatch.testing import (
    FOR_EVER,
    FaultyStore,
    Gate,
    HeldStore,
    ScriptedAgent,
    SequentialIds,
    YieldingStore,
    broker_on,
)
from tests.runtime.groups.room import Room, group_on, named, speakers


def members(room: Room) -> list[str]:
    return [member.agent for member in room.timeline.group.members]


def group(room: Room) -> Group:
    return room.timeline.group


async def test_members_are_in_the_order_given_and_each_once() -> None:
    async with group_on(speakers("ann", "bob"), members=["bob", "ann", "bob"]) as room:
        assert members(room) == ["bob", "ann"]
        assert len({room.child("ann"), room.child("bob")}) == 2
        for agent in ("ann", "bob"):
            record = await room.broker.catalog.record(LOCAL, room.child(agent))
            assert record is not None
            assert record.session == group(room).session
        assert room.shown() == []


async def test_a_group_of_one_is_a_group() -> None:
    async with group_on(speakers("ann")) as room:
        await room.send()
        await room.settled()
        assert await room.texts() == [("user", "hi"), ("ann", "ann: hi")]
        await room.check()


async def test_an_unknown_agent_cannot_be_a_member() -> None:
    async with group_on(speakers("ann")) as room:
        with pytest.raises(FamiliarNotFound, match=r"^no agent is called 'zoe'$"):
            await room.broker.groups.groups.create(LOCAL, GroupCreate(members=("ann", "zoe")))
        with pytest.raises(FamiliarNotFound):
            await room.patch(add=("zoe",))
        assert len(await room.broker.groups.groups.list(LOCAL)) == 1


async def test_a_group_that_the_disk_refuses_was_never_made() -> None:
    store = FaultyStore(MemoryStore())
    async with group_on(speakers("ann"), store=store) as room:
        store.fail(StorageFull("full"))
        with pytest.raises(ProvisionFailed):
            await room.broker.groups.groups.create(LOCAL, GroupCreate(members=("ann",)))
        assert [view.id for view in await room.broker.groups.groups.list(LOCAL)] == [room.id]
        assert len(room.broker.groups.timelines._live) == 1


async def test_a_group_whose_maker_left_and_that_the_disk_refused_is_not_remembered() -> None:
    store = FaultyStore(YieldingStore(MemoryStore()))
    async with group_on(speakers("ann"), store=store) as room:
        store.fail(StorageFull("full"))
        wanted = GroupCreate(members=("ann",))
        making = asyncio.ensure_future(room.broker.groups.groups.create(LOCAL, wanted))
        await asyncio.sleep(0)
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)
        await room.broker.services.journal.idle()
        assert len(room.broker.groups.timelines._live) == 1
        assert len(room.broker.conversations) == 1


async def test_a_title_follows_the_members_until_one_is_given() -> None:
    async with group_on(speakers("ann", "bob", "cy"), members=["ann"]) as room:
        assert group(room).shown_title == "ann"
        await room.patch(add=("bob",))
        assert room.timeline.record.title == "ann & bob"
        await room.patch(add=("cy",))
        assert room.timeline.record.title == "ann, bob +1"
        await room.patch(title="Friends")
        await room.patch(remove=("bob",))
        assert room.timeline.record.title == "Friends"
        shown = [frame["group"]["title"] for frame in room.payloads()]
        assert shown == ["ann & bob", "ann, bob +1", "Friends", "Friends"]
        assert {frame["seq"] for frame in room.payloads()} == {None}
        await room.check()


async def test_a_change_that_changes_nothing_is_told_to_nobody() -> None:
    async with group_on(speakers("ann", "bob"), title="T") as room:
        before = room.timeline.record
        await room.patch(add=("ann",))
        await room.patch(remove=("zoe",))
        await room.patch(members=("ann", "bob", "ann"))
        await room.patch(title="T")
        assert room.shown() == []
        assert room.timeline.record == before


async def test_members_may_be_given_in_another_order() -> None:
    async with group_on(speakers("ann", "bob")) as room:
        before = {agent: room.child(agent) for agent in members(room)}
        await room.patch(members=("bob", "ann"))
        assert members(room) == ["bob", "ann"]
        assert {agent: room.child(agent) for agent in members(room)} == before
        assert group(room).former == ()


@pytest.mark.parametrize("fields", [{"remove": ("ann", "bob")}, {"members": ()}])
async def test_the_last_member_stays(fields: dict[str, tuple[str, ...]]) -> None:
    async with group_on(speakers("ann", "bob")) as room:
        with pytest.raises(LastMember):
            await room.patch(**fields)
        assert members(room) == ["ann", "bob"]


async def test_who_is_added_answers_from_the_next_message_on() -> None:
    gate = Gate()
    bob = speakers("bob")[0]
    async with group_on([named(gate, "a", name="ann"), bob], members=["ann"]) as room:
        await room.send("one")
        await room.patch(add=("bob",))
        gate.open()
        await room.settled()
        assert bob.messages == []
        await room.send("two")
        await room.settled()
        assert bob.messages == ["two"]
        await room.check()


async def test_who_is_removed_ends_first_and_its_past_stays() -> None:
    async with group_on([named("so ", FOR_EVER, name="ann"), *speakers("bob")]) as room:
        await room.send("one")
        while len(await room.outcomes()) < 2:
            await room.timeline.kept()
        await room.send("two")
        child = room.child("ann")
        view = await room.patch(remove=("ann",))
        assert [run.pending for run in view.runs if "ann" in run.pending] == []
        await room.settled()
        ann = [
            (e["outcome"], e["text"]) for e in await room.events() if e.get("familiarId") == "ann"
        ]
        assert sorted(ann) == [("removed", ""), ("removed", "so ")]
        kinds = [(f["kind"], f.get("outcome")) for f in room.payloads()]
        last_removed = max(i for i, kind in enumerate(kinds) if kind == ("done", "removed"))
        assert last_removed < kinds.index(("group_updated", None))
        record = await room.broker.catalog.record(LOCAL, child)
        assert record is not None
        assert record.status == "closed"
        (former,) = group(room).former
        assert (former.agent, former.conversation) == ("ann", child)
        await room.check()


async def test_removed_runs_are_no_error_of_the_group() -> None:
    ann = named(FOR_EVER, name="ann")
    async with group_on([ann, *speakers("bob")]) as room:
        await room.send("one", targets=("ann",))
        await room.patch(remove=("ann",))
        last = [f for f in room.payloads() if f.get("scope") == "group"][-1]
        assert (last["isError"], last["results"]["removed"]) == (False, 1)


async def test_who_comes_back_gets_a_new_conversation() -> None:
    async with group_on(speakers("ann", "bob")) as room:
        await room.send("one")
        await room.settled()
        old = room.child("bob")
        await room.patch(remove=("bob",))
        await room.patch(add=("bob",))
        assert room.child("bob") != old
        await room.send("two")
        await room.settled()
        sessions = [e["sessionId"] for e in await room.events() if e.get("familiarId") == "bob"]
        assert sessions == [old, room.child("bob")]
        await room.check()


async def test_a_message_on_its_way_when_its_target_is_removed_ends_removed() -> None:
    store = HeldStore(MemoryStore())
    async with group_on([named(FOR_EVER, name="ann"), *speakers("bob")], store=store) as room:
        store.hold()
        sending = asyncio.ensure_future(room.send("one"))
        await store.reached()
        patching = asyncio.ensure_future(room.patch(remove=("ann",)))
        for _ in range(10):
            await asyncio.sleep(0)
        store.release()
        await asyncio.gather(sending, patching)
        await room.settled()
        assert sorted(await room.outcomes()) == [("ann", "removed"), ("bob", "completed")]
        await room.check()


async def test_a_removal_whose_request_is_gone_ends_the_message_that_was_on_its_way_too() -> None:
    store = HeldStore(MemoryStore())
    async with group_on([named(FOR_EVER, name="ann"), *speakers("bob")], store=store) as room:
        store.hold()
        sending = asyncio.ensure_future(room.send("one", targets=("ann",)))
        await store.reached()
        patching = asyncio.ensure_future(room.patch(remove=("ann",)))
        for _ in range(10):
            await asyncio.sleep(0)
        patching.cancel()
        await asyncio.gather(patching, return_exceptions=True)
        store.release()
        await sending
        await room.settled()
        assert await room.outcomes() == [("ann", "removed")]
        await room.check()


@pytest.mark.parametrize("steps", range(0, 40, 2))
async def test_a_removal_whose_request_is_cancelled_is_carried_out_or_never_was(
    steps: int,
) -> None:
    store = YieldingStore(YieldingStore(MemoryStore()))
    async with group_on([named(FOR_EVER, name="ann"), *speakers("bob")], store=store) as room:
        await room.send("one", targets=("ann",))
        patching = asyncio.ensure_future(room.patch(remove=("ann",)))
        for _ in range(steps):
            await asyncio.sleep(0)
        patching.cancel()
        await asyncio.gather(patching, return_exceptions=True)
        if patching.cancelled() and steps == 0:
            await room.stop()
            assert members(room) == ["ann", "bob"]
        else:
            while members(room) != ["bob"]:
                await room.timeline.kept()
            await room.settled()
            assert await room.outcomes() == [("ann", "removed")]
        await room.check()


async def test_an_agent_that_the_settings_no_longer_have_fails_alone() -> None:
    disk, ids = MemoryDisk(), SequentialIds()
    async with group_on(speakers("ann", "bob"), store=MemoryStore(disk), ids=ids) as room:
        name = room.id
    ann: list[ScriptedAgent] = speakers("ann")
    async with group_on(ann, store=MemoryStore(disk), group=name, ids=ids) as room:
        await room.send("one")
        await room.settled()
        assert sorted(await room.outcomes()) == [("ann", "completed"), ("bob", "error")]
        (error,) = [f for f in room.payloads() if f["kind"] == "error"]
        assert error["code"] == "spawn_failed"
        await room.patch(remove=("bob",))
        await room.check()


async def test_groups_are_listed_newest_activity_first() -> None:
    async with broker_on(MemoryStore(), agents=speakers("ann")) as broker:
        groups = broker.groups.groups
        made = [await groups.create(LOCAL, GroupCreate(members=("ann",))) for _ in range(3)]
        broker.services.clock.advance(1)  # type: ignore[attr-defined]
        async with broker.groups.timelines.group(LOCAL.account, made[0].id) as timeline:
            room = Room(broker, timeline)
            await room.send()
            await room.settled()
        listed = [view.id for view in await groups.list(LOCAL)]
        assert listed == [made[0].id, made[2].id, made[1].id]
