"""The live timelines: one each, loaded once, let go when nobody needs them, gone when deleted."""

import asyncio

import pytest

from dispatch.core.identity import LOCAL
from dispatch.errors import Gone, NotFound
from dispatch.protocol.groups.requests import GroupCreate
from dispatch.runtime.timelines import Timelines
from dispatch.settings import Limits
from dispatch.storage.memory import MemoryStore
from dispatch.storage.memory_disk import MemoryDisk
from dispatch.testing import FOR_EVER, SequentialIds, YieldingStore, broker_on
from tests.runtime.groups.room import group_on, named, speakers


async def test_whoever_asks_at_once_gets_the_same_one() -> None:
    disk, ids = MemoryDisk(), SequentialIds()
    async with group_on(speakers("ann"), store=MemoryStore(disk), ids=ids) as room:
        name = (LOCAL.account, "group", room.id)
    store = YieldingStore(MemoryStore(disk))
    async with broker_on(store, agents=speakers("ann"), ids=ids) as broker:
        timelines = broker.groups.timelines
        found = await asyncio.gather(*(timelines.load(name) for _ in range(4)))  # type: ignore[arg-type]
        assert len({id(timeline) for timeline in found}) == 1
        assert found[0].users == 4
        for timeline in found:
            timelines.release(timeline)
        assert timelines.find(name) is found[0]  # type: ignore[arg-type]


async def test_one_that_never_was_is_not_found() -> None:
    async with broker_on(MemoryStore(), agents=speakers("ann")) as broker:
        with pytest.raises(NotFound):
            async with broker.groups.timelines.group(LOCAL.account, "none"):
                pass


async def test_the_one_that_rested_longest_leaves_memory_and_comes_back_as_it_was() -> None:
    limits = Limits(conversations_warm_max=1)
    async with broker_on(MemoryStore(), agents=speakers("ann"), limits=limits) as broker:
        groups, timelines = broker.groups.groups, broker.groups.timelines
        made = [await groups.create(LOCAL, GroupCreate(members=("ann",))) for _ in range(3)]
        assert len(broker.conversations) == 1
        assert len(timelines._live) <= 2
        assert [(await groups.view(LOCAL, view.id)) for view in made] == made
        assert sorted(view.id for view in await groups.list(LOCAL)) == [view.id for view in made]


async def test_one_with_an_open_reply_stays_however_many_there_are() -> None:
    limits = Limits(conversations_warm_max=1)
    ann = named("x", FOR_EVER, name="ann")
    async with group_on([ann, *speakers("bob")], limits=limits, members=["ann"]) as room:
        await room.send()
        await ann.asked()
        for _ in range(4):
            await room.broker.groups.groups.create(LOCAL, GroupCreate(members=("bob",)))
        name = (LOCAL.account, "group", room.id)
        assert room.broker.groups.timelines.find(name) is room.timeline  # type: ignore[arg-type]
        await room.stop()


async def test_a_deleted_one_is_found_by_nobody_and_its_ring_is_given_back() -> None:
    async with group_on(speakers("ann")) as room:
        await room.send()
        await room.settled()
        feeds, timelines = room.broker.services.feeds, room.broker.groups.timelines
        await room.broker.groups.groups.delete(LOCAL, room.id)
        assert timelines.find((LOCAL.account, "group", room.id)) is None
        with pytest.raises(Gone):
            await timelines.load((LOCAL.account, "group", room.id))
        held = feeds._bytes_total
    assert held > 0
    assert feeds._bytes_total == 0


async def test_start_up_ends_what_no_turn_will_ever_end() -> None:
    disk, ids = MemoryDisk(), SequentialIds()
    async with group_on([named(FOR_EVER, name="ann")], store=MemoryStore(disk), ids=ids) as room:
        await room.send()
        name = room.id
    async with group_on(speakers("ann"), store=MemoryStore(disk), group=name, ids=ids) as room:
        await room.broker.groups.timelines.recover(lambda *_: False)
        assert await room.outcomes() == [("ann", "interrupted")]
        await room.check(is_whole=False)


async def test_replies_whose_turns_are_no_more_are_missing() -> None:
    async with group_on([named(FOR_EVER, name="ann")]) as room:
        await room.send("one")
        await room.send("two")
        timelines: Timelines = room.broker.groups.timelines
        await timelines.recover(lambda *_: False)
        codes = [event["error"]["code"] for event in await room.events() if "error" in event]
        assert codes == ["session_missing"] * 2
