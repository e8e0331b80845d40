"""The end of a group: its runs first, then itself, then its conversations, and never again."""

import asyncio
from typing import Literal

import anyio
import pytest
from anyio.lowlevel import checkpoint

from dispatch.core.identity import LOCAL, ConversationId
from dispatch.errors import Gone, NotFound, StorageFull
from dispatch.protocol.groups.requests import GroupAdopt
from dispatch.storage.memory import MemoryStore
from dispatch.storage.memory_disk import MemoryDisk
from dispatch.testing import (
    FOR_EVER,
    FaultyStore,
    HeldStore,
    SequentialIds,
    YieldingStore,
    broker_on,
)
from dispatch.testing.audit import audit
from tests.runtime.groups.room import Room, group_on, named, speakers


async def delete(room: Room, sessions: Literal["keep", "delete"] | None = None):  # type: ignore[no-untyped-def]
    return await room.broker.groups.groups.delete(LOCAL, room.id, sessions)


async def is_gone(room: Room, conversation: ConversationId) -> bool:
    try:
        await room.broker.catalog.record(LOCAL, conversation)
    except Gone:
        return True
    return False


async def test_a_deleted_group_ends_its_runs_then_its_messages_then_itself() -> None:
    async with group_on([named("so ", FOR_EVER, name="ann"), *speakers("bob")]) as room:
        await room.send("one")
        while len(await room.outcomes()) < 2:
            await room.timeline.kept()
        await room.send("two", targets=("ann",))
        children = [str(room.child(agent)) for agent in ("ann", "bob")]
        deleted = await delete(room)
        assert deleted == (True, children, [])
        ends = [
            (f.get("familiarId"), f.get("outcome"), f["kind"])
            for f in room.payloads()
            if f["kind"] in ("done", "group_deleted")
        ]
        assert sorted(map(str, ends[1:-1])) == sorted(
            map(str, [("ann", "cancelled", "done")] * 2 + [(None, None, "done")] * 2)
        )
        assert ends[-1] == (None, None, "group_deleted")
        assert await audit(room.broker.store) == []


async def test_a_deleted_group_is_gone_for_every_verb_and_for_ever() -> None:
    disk = MemoryDisk()
    async with group_on(speakers("ann"), store=MemoryStore(disk)) as room:
        name = room.id
        await delete(room)
        again = await delete(room)
        assert again == (False, [], [])
        for verb in (room.send(), room.stop(), room.patch(title="T")):
            with pytest.raises(Gone):
                await verb
        with pytest.raises(Gone):
            await room.broker.groups.groups.view(LOCAL, name)
        assert await room.broker.groups.groups.list(LOCAL) == []
    async with broker_on(MemoryStore(disk), agents=speakers("ann")) as broker:
        with pytest.raises(Gone):
            await broker.groups.groups.view(LOCAL, name)
        assert await broker.groups.groups.delete(LOCAL, name) == (False, [], [])


async def test_a_group_that_never_was_is_not_found() -> None:
    async with broker_on(MemoryStore(), agents=speakers("ann")) as broker:
        with pytest.raises(NotFound):
            await broker.groups.groups.delete(LOCAL, "g-none")


@pytest.mark.parametrize("sessions", [None, "keep", "delete"])
async def test_provisioned_conversations_go_and_adopted_ones_stay_unless_told(
    sessions: Literal["keep", "delete"] | None,
) -> None:
    async with broker_on(MemoryStore(), agents=speakers("ann", "bob")) as broker:
        await broker.send("direct", "c1", model="ann")
        await broker.until_idle()
        wanted = GroupAdopt(sessions=(("ann", ConversationId("c1")),))
        view, _ = await broker.groups.adopting.adopt(LOCAL, wanted)
        async with broker.groups.timelines.group(LOCAL.account, view.id) as timeline:
            room = Room(broker, timeline)
            await room.patch(add=("bob",))
            made = room.child("bob")
            deleted = await delete(room, sessions)
        kept = {None: ["c1"], "keep": ["c1", made], "delete": []}[sessions]
        gone = {None: [made], "keep": [], "delete": ["c1", made]}[sessions]
        assert deleted == (True, gone, kept)
        for conversation in gone:
            with pytest.raises(Gone):
                await broker.catalog.record(LOCAL, ConversationId(conversation))
        for conversation in kept:
            await broker.send("again", conversation)
        await broker.until_idle()
        if kept:
            wanted = GroupAdopt(sessions=(("ann", ConversationId("c1")),))
            _, is_new = await broker.groups.adopting.adopt(LOCAL, wanted)
            assert is_new
        assert await audit(broker.store) == []


async def test_conversations_of_former_members_go_with_the_group() -> None:
    async with group_on(speakers("ann", "bob")) as room:
        former = str(room.child("bob"))
        await room.patch(remove=("bob",))
        assert former in (await delete(room)).deleted


async def test_a_conversation_that_went_before_is_neither_deleted_nor_kept() -> None:
    async with group_on(speakers("ann", "bob")) as room:
        await room.broker.catalog.delete(LOCAL, room.child("bob"))
        deleted = await delete(room, "keep")
        assert deleted == (True, [], [str(room.child("ann"))])


async def test_a_message_on_its_way_is_ended_before_its_group() -> None:
    store = HeldStore(MemoryStore())
    ann = named("x", FOR_EVER, name="ann")
    async with group_on([ann], store=store) as room:
        store.hold()
        sending = asyncio.ensure_future(room.send("one"))
        await store.reached()
        for _ in range(5):
            await asyncio.sleep(0)
        deleting = asyncio.ensure_future(delete(room))
        for _ in range(5):
            await asyncio.sleep(0)
        store.release()
        await asyncio.gather(sending, deleting)
        assert [f["kind"] for f in room.payloads()][-3:] == ["done", "done", "group_deleted"]
        assert await room.broker.store.open_timelines() == []


@pytest.mark.parametrize("steps", range(40))
async def test_a_message_that_meets_the_deletion_leaves_nothing_open(steps: int) -> None:
    store = YieldingStore(YieldingStore(MemoryStore()))
    async with group_on([named("x", FOR_EVER, name="ann"), *speakers("bob")], store=store) as room:
        first = [room.send("one"), delete(room)]
        if steps % 2:
            first.reverse()
        one = asyncio.ensure_future(first[0])
        for _ in range(steps // 2):
            await asyncio.sleep(0)
        told = await asyncio.gather(one, first[1], return_exceptions=True)
        assert all(isinstance(each, Gone | tuple) for each in told)
        await room.broker.until_idle()
        assert room.timeline.replies == {}
        assert room.payloads()[-1]["kind"] == "group_deleted"
        assert await room.broker.store.open_timelines() == []
        assert await audit(store) == []


async def test_a_deletion_whose_caller_leaves_takes_the_conversations_along() -> None:
    store = HeldStore(MemoryStore())
    async with group_on(speakers("ann", "bob"), store=store) as room:
        children = [room.child("ann"), room.child("bob")]
        store.hold()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(delete, room)
            await store.reached()
            tasks.cancel_scope.cancel()
            store.release()
        for child in children:
            while not await is_gone(room, child):
                await checkpoint()


async def test_a_group_that_the_disk_does_not_let_go_goes_on() -> None:
    store = FaultyStore(MemoryStore())
    async with group_on(speakers("ann"), store=store) as room:
        store.fail(StorageFull("full"))
        with pytest.raises(StorageFull):
            await delete(room)
        while room.broker.services.journal.trouble is not None:
            await asyncio.sleep(0)
        await room.send("one")
        await room.settled()
        await room.check()


async def test_what_is_killed_between_the_group_and_its_children_leaves_plain_conversations() -> (
    None
):
    disk, ids = MemoryDisk(), SequentialIds()
    inner = MemoryStore(disk)
    store = HeldStore(inner)
    async with broker_on(store, agents=speakers("ann"), ids=ids) as broker:
        await broker.send("direct", "c1")
        await broker.until_idle()
        wanted = GroupAdopt(sessions=(("ann", ConversationId("c1")),))
        view, _ = await broker.groups.adopting.adopt(LOCAL, wanted)
        store.hold(behind=True)
        deleting = asyncio.ensure_future(broker.groups.groups.delete(LOCAL, view.id))
        await store.reached()
        deleting.cancel()
        await asyncio.gather(deleting, return_exceptions=True)
    async with broker_on(MemoryStore(disk), agents=speakers("ann"), ids=ids) as broker:
        with pytest.raises(Gone):
            await broker.groups.groups.view(LOCAL, view.id)
        await broker.send("again", "c1")
        await broker.until_idle()
        _, is_new = await broker.groups.adopting.adopt(LOCAL, wanted)
        assert is_new
        assert await audit(broker.store) == []
