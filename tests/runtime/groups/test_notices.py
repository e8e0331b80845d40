"""What an account is told of its groups: once for each change, once it is durable, not before."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from dispatch.core.identity import LOCAL, ConversationId
from dispatch.core.notices import AnyNotice, GroupChangedNotice, GroupDeletedNotice
from dispatch.core.replay import Entry
from dispatch.errors import StorageFull
from dispatch.protocol.groups.refusals import ProvisionFailed
from dispatch.protocol.groups.requests import GroupAdopt, GroupCreate, GroupPatch, GroupSend
from dispatch.storage.memory import MemoryStore
from dispatch.testing import FaultyStore, Harness, HeldStore, broker_on
from dispatch.testing.harness import guard
from tests.runtime.groups.room import group_on, speakers


class Listener:
    """A connection that asked for its account's notices; `told` is what they said of groups."""

    def __init__(self, broker: Harness) -> None:
        self.account, self.user = LOCAL.account, LOCAL.user
        self.outgoing = b""
        self.told: list[tuple[str, str]] = []
        broker.services.feeds.listen(self, account=True)

    @property
    def encoding(self) -> "Listener":
        return self

    def entries(self, conversation: ConversationId, entries: Sequence[Entry]) -> bytes:
        return b""

    def notice(self, notice: AnyNotice) -> bytes:
        match notice:
            case GroupChangedNotice(view=view):
                self.told.append((view.id, view.group.shown_title))
            case GroupDeletedNotice(group=group):
                self.told.append((group, "deleted"))
        return b""

    def write(self, data: bytes) -> None:
        pass


async def unheard_until_durable(
    store: HeldStore, listener: Listener, change: Coroutine[Any, Any, object]
) -> list[tuple[str, str]]:
    """Carry a change out; what is told of it, which is nothing while the disk has not got it."""
    before = len(listener.told)
    store.hold()
    with guard():
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(change)
            await store.reached()
            assert len(listener.told) == before
            store.release()
    return listener.told[before:]


async def test_a_change_is_told_once_it_is_durable_and_not_before() -> None:
    store = HeldStore(MemoryStore())
    async with broker_on(store, agents=speakers("ann", "bob")) as broker:
        listener, groups = Listener(broker), broker.groups.groups
        making = groups.create(LOCAL, GroupCreate(members=("ann",)))
        ((group, title),) = await unheard_until_durable(store, listener, making)
        assert title == "ann"
        for wanted in (GroupPatch(title="Kitchen"), GroupPatch(add=("bob",))):
            change = groups.patch(LOCAL, group, wanted)
            told = await unheard_until_durable(store, listener, change)
            assert told == [(group, "Kitchen")]
        told = await unheard_until_durable(store, listener, groups.delete(LOCAL, group))
        assert told == [(group, "deleted")]


async def test_conversations_that_become_a_group_are_told_once_that_is_durable() -> None:
    store = HeldStore(MemoryStore())
    async with broker_on(store, agents=speakers("ann")) as broker:
        listener = Listener(broker)
        await broker.catalog.open(LOCAL, ConversationId("c"))
        wanted = GroupAdopt(sessions=(("ann", ConversationId("c")),), client_group_id="mine")
        adopting = broker.groups.adopting.adopt(LOCAL, wanted)
        assert await unheard_until_durable(store, listener, adopting) == [("mine", "ann")]
        await broker.groups.adopting.adopt(LOCAL, wanted)
        assert listener.told == [("mine", "ann")]


async def test_what_the_disk_refuses_is_told_to_nobody() -> None:
    store = FaultyStore(MemoryStore())
    async with group_on(speakers("ann", "bob"), members=["ann"], store=store) as room:
        listener, groups = Listener(room.broker), room.broker.groups.groups
        store.fail(StorageFull("full"))
        with pytest.raises(ProvisionFailed):
            await groups.create(LOCAL, GroupCreate(members=("ann",)))
        for change in (
            room.patch(title="T"),
            room.patch(add=("bob",)),
            groups.delete(LOCAL, room.id),
        ):
            store.fail(StorageFull("full"))
            with pytest.raises(StorageFull):
                await change
        assert listener.told == []
        await room.patch(add=("bob",))
        assert listener.told == [(room.id, "ann & bob")]


async def test_a_group_that_is_read_again_is_no_news() -> None:
    store = MemoryStore()
    async with group_on(speakers("ann"), store=store) as room:
        group = room.id
    async with broker_on(store, agents=speakers("ann")) as broker:
        listener = Listener(broker)
        await broker.groups.sends.send(LOCAL, group, GroupSend(text="hi"))
        await broker.until_idle()
        assert listener.told == []
