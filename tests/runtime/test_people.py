"""Forgetting a person in a running broker: every place it can be cut short, and company."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from anyio import wait_all_tasks_blocked

from dispatch.agents.port import TurnRequest
from dispatch.core.identity import LOCAL, SEND, WATCH, ConversationId, Principal, UserId
from dispatch.errors import Forbidden, NotFound, StorageFull
from dispatch.protocol.groups.requests import GroupCreate, GroupSend
from dispatch.protocol.sessions.requests import Create, Message
from dispatch.runtime.ahp.clients import Clients
from dispatch.runtime.people.catalog import Forgotten, Removed, Stayed
from dispatch.storage.check import verify
from dispatch.storage.memory import MemoryStore
from dispatch.storage.memory_disk import MemoryDisk
from dispatch.storage.people import SpokenTurn
from dispatch.storage.port import Batch, Store
from dispatch.storage.sqlite import SqliteStore
from dispatch.testing import (
    FOR_EVER,
    FaultyStore,
    Harness,
    HeldStore,
    ScriptedAgent,
    Step,
    StoreWrapper,
    broker_on,
)
from dispatch.testing.audit import audit

ANN = Principal(LOCAL.account, UserId("ann"), frozenset({WATCH, SEND}))
MUCH = 2**31 - 1
# What is done about her while everything below is as `fill` leaves it.
FORGOTTEN = Forgotten(
    turns_ended=6,
    removed=Removed(conversations=2, chat_sessions=1, read_cursors=1, waiting_messages=1),
    stayed=Stayed(conversations=0, groups=0, messages=3),
)


def agents() -> list[ScriptedAgent]:
    """Two that answer at once, or never where they are told to hold, or half where to talk."""

    def script(request: TurnRequest) -> list[Step]:
        match request.message.split()[0]:
            case "hold":
                return [FOR_EVER]
            case "talk":
                return ["so far", FOR_EVER]
            case _:
                return ["ok"]

    return [ScriptedAgent(script=script, name=name) for name in ("first", "second")]


async def fill(broker: Harness) -> None:
    """Of ann's: two conversations, a chat session, a read mark, and in conversations of others a
    turn that runs and one that waits, in a group two of each; one more of somebody else waits.
    """
    for name in ("hers-1", "hers-2"):
        await broker.send("hello", name, principal=ANN)
    session = await broker.chats.chats.create(ANN, Create(agent_key="first"))
    await broker.chats.sends.send(ANN, session.id, Message(content="private"), None)
    await broker.send("hello", "his")
    await broker.send("hello", "lent")
    await broker.until_idle()
    await broker.catalog.read(ANN, ConversationId("his"), 1)
    await broker.send("hold", "his")
    await broker.send("ann waits", "his", principal=ANN, on_busy="queue")
    await broker.send("he waits", "his", on_busy="queue")
    await broker.send("hold lent", "lent", principal=ANN)
    group = await broker.groups.groups.create(LOCAL, GroupCreate(members=("first", "second")))
    for text in ("hold in the group", "next in the group"):
        await broker.groups.sends.send(ANN, group.id, GroupSend(text=text))


async def turns_of_hers(store: Store) -> list[SpokenTurn]:
    page = await store.spoken_by(ANN.account, ANN.user, after=0, keys_max=MUCH, bytes_max=MUCH)
    return page.turns


async def check_nothing_is_half(store: Store) -> None:
    """What is there of hers is whole."""
    for record in await store.begun_by(ANN.account, ANN.user, after=0, limit=100):
        turns = await store.sealed_turns(record.key, limit=100)
        assert sum(turn.chunk_count for turn in turns) == record.last_seq == 2
    assert await audit(store, is_at_rest=False) == []


async def check_she_is_forgotten(store: Store) -> None:
    assert await store.begun_by(ANN.account, ANN.user, after=0, limit=100) == []
    assert await store.read_marks(ANN.account, ANN.user, after=0, limit=100) == []
    assert {turn.state for turn in await turns_of_hers(store)} <= {"sealed"}
    assert await audit(store, is_at_rest=False) == []


class Cut(StoreWrapper):
    """Whoever comes with the n-th commit after `arm` waits for ever, in front of it or behind."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.reached = asyncio.Event()
        self._left: int | None = None
        self._is_behind = False

    def arm(self, commits: int, *, is_behind: bool) -> None:
        self._left, self._is_behind = commits, is_behind

    async def commit(self, batch: Batch) -> None:
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                if self._is_behind:
                    await super().commit(batch)
                self.reached.set()
                await asyncio.Event().wait()
        await super().commit(batch)


async def is_cut_short(broker: Harness, store: Cut) -> bool:
    """Forget until the store holds it up, or it is done."""
    done = asyncio.Event()

    async def forget() -> None:
        await broker.verbs.people.forget(LOCAL, ANN.user)
        done.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(forget)
        waits = [asyncio.ensure_future(event.wait()) for event in (done, store.reached)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        tasks.cancel_scope.cancel()
    return store.reached.is_set()


@pytest.mark.parametrize("is_behind", [False, True])
async def test_wherever_it_is_killed_nothing_is_half_and_the_same_again_does_the_rest(
    is_behind: bool,
) -> None:
    for commits in count():
        disk = MemoryDisk()
        store = Cut(MemoryStore(disk))
        async with broker_on(store, agents=agents()) as broker:
            await fill(broker)
            store.arm(commits, is_behind=is_behind)
            was_cut = await is_cut_short(broker, store)
        async with broker_on(MemoryStore(disk), agents=agents()) as broker:
            await check_nothing_is_half(broker.store)
            await broker.verbs.people.forget(LOCAL, ANN.user)
            await check_she_is_forgotten(broker.store)
        if not was_cut:
            # It was done before: there are so many places, and each was tried.
            assert commits > 6
            return


async def test_the_data_keeps_every_promise_behind_it(tmp_path: Path) -> None:
    async with broker_on(SqliteStore(tmp_path), agents=agents()) as broker:
        await fill(broker)
        assert await broker.verbs.people.forget(LOCAL, ANN.user) == FORGOTTEN
        await check_she_is_forgotten(broker.store)
        assert sorted(live.record.id for live in broker.conversations if live.current) == ["his"]
        (waiting,) = broker.live("his").queued.values()
        assert waiting.user == "local"
        assert broker.accounts.backlog.bytes_of(LOCAL.account) == len(waiting.body)
        await broker.stop("his")
        await broker.until_idle()
        assert await broker.texts("his") == [
            *(("user", "hello"), ("assistant", "ok"), ("user", "hold")),
            *(("user", "he waits"), ("assistant", "ok")),
        ]
    assert verify(tmp_path) == []


async def test_two_that_forget_the_same_person_do_it_once(tmp_path: Path) -> None:
    async with broker_on(MemoryStore(), agents=agents()) as broker:
        await fill(broker)
        told: list[Forgotten] = []

        async def forget() -> None:
            told.append(await broker.verbs.people.forget(LOCAL, ANN.user))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(forget)
            tasks.start_soon(forget)
        await check_she_is_forgotten(broker.store)
        removed = [one.removed for one in told]
        assert sum(one.conversations for one in removed) == FORGOTTEN.removed.conversations
        assert sum(one.chat_sessions for one in removed) == FORGOTTEN.removed.chat_sessions
        assert {one.stayed for one in told} == {FORGOTTEN.stayed}


async def test_a_turn_that_begins_behind_a_forgotten_one_is_not_hers_to_lose() -> None:
    async with broker_on(MemoryStore(), agents=agents()) as broker:
        await broker.send("hello", "lent")
        await broker.until_idle()
        await broker.send("hold", "lent", principal=ANN)
        await broker.send("he waits", "lent", on_busy="queue")
        told = await broker.verbs.people.forget(LOCAL, ANN.user)
        await broker.until_idle()
        assert told.turns_ended == 1
        assert (await broker.texts("lent"))[-2:] == [("user", "he waits"), ("assistant", "ok")]


async def test_what_a_person_begins_afterwards_is_kept() -> None:
    async with broker_on(MemoryStore(), agents=agents()) as broker:
        await broker.send("hello", "hers-1", principal=ANN)
        await broker.until_idle()
        await broker.verbs.people.forget(LOCAL, ANN.user)
        await broker.send("here again", "hers-2", principal=ANN)
        await broker.until_idle()
        assert await broker.texts("hers-2") == [("user", "here again"), ("assistant", "ok")]


async def test_the_right_is_asked_for_before_anything_is_read_or_changed() -> None:
    async with broker_on(MemoryStore(), agents=agents()) as broker:
        with pytest.raises(Forbidden):
            await broker.verbs.people.forget(ANN, ANN.user)
        with pytest.raises(Forbidden):
            broker.verbs.people.belongings(ANN, ANN.user)


# -- what else happens at the same time


async def when_all_wait(act: Callable[[], object]) -> None:
    """Do it once nothing else can be done."""
    await wait_all_tasks_blocked()
    act()


async def test_who_asked_may_leave_and_it_is_carried_out() -> None:
    store = HeldStore(MemoryStore())
    async with broker_on(store, agents=agents()) as broker:
        await fill(broker)
        store.hold()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(broker.verbs.people.forget, LOCAL, ANN.user)
            await store.reached()
            tasks.cancel_scope.cancel()
        store.release()
        while await store.begun_by(ANN.account, ANN.user, after=0, limit=1):
            await anyio.lowlevel.checkpoint()


async def test_a_conversation_that_is_on_its_way_to_the_disk_is_found_there() -> None:
    store = HeldStore(MemoryStore())
    async with (
        broker_on(store, agents=agents()) as broker,
        anyio.create_task_group() as tasks,
    ):
        store.hold()
        tasks.start_soon(partial(broker.send, "hello", "hers", principal=ANN))
        await store.reached()
        tasks.start_soon(when_all_wait, store.release)
        told = await broker.verbs.people.forget(LOCAL, ANN.user)
        assert told.removed.conversations == 1
        await check_she_is_forgotten(store)


class HoldsDeletions(StoreWrapper):
    """Keeps a deletion waiting in front of the disk."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.reached = asyncio.Event()
        self.release = asyncio.Event()

    async def commit(self, batch: Batch) -> None:
        if batch.deletions:
            self.reached.set()
            await self.release.wait()
        await super().commit(batch)


async def test_a_message_in_a_conversation_that_somebody_deletes_just_now_goes_with_it() -> None:
    store = HoldsDeletions()
    async with (
        broker_on(store, agents=agents()) as broker,
        anyio.create_task_group() as tasks,
    ):
        await broker.send("hold", "his")
        await broker.send("ann waits", "his", principal=ANN, on_busy="queue")
        tasks.start_soon(broker.catalog.delete, LOCAL, ConversationId("his"))
        await store.reached.wait()
        tasks.start_soon(when_all_wait, store.release.set)
        told = await broker.verbs.people.forget(LOCAL, ANN.user)
        assert (told.turns_ended, told.removed.waiting_messages) == (0, 0)
        await check_she_is_forgotten(store)


async def test_a_message_that_waits_for_a_seal_is_hers_and_begins_and_ends() -> None:
    store = HeldStore(MemoryStore())
    async with (
        broker_on(store, agents=agents()) as broker,
        anyio.create_task_group() as tasks,
    ):
        await broker.send("hold", "his")
        store.hold()
        tasks.start_soon(broker.stop, "his")
        await store.reached()
        tasks.start_soon(partial(broker.send, "hold on", "his", principal=ANN))
        await wait_all_tasks_blocked()
        assert [one.user for one in broker.live("his").held] == ["ann"]
        tasks.start_soon(when_all_wait, store.release)
        told = await broker.verbs.people.forget(LOCAL, ANN.user)
        assert (told.turns_ended, told.stayed.messages) == (1, 1)
        await broker.until_idle()
        assert [turn.state for turn in await turns_of_hers(store)] == ["sealed"]


async def test_a_disk_that_is_full_already_refuses_it_before_anything_is_ended() -> None:
    store = FaultyStore(MemoryStore())
    async with broker_on(store, agents=agents()) as broker:
        await fill(broker)
        await broker.send("hold", "hers-1", principal=ANN)
        store.break_down(StorageFull("no room"))
        with pytest.raises(StorageFull):
            await broker.send("one more", "his", on_busy="queue")
        with pytest.raises(StorageFull):
            await broker.verbs.people.forget(LOCAL, ANN.user)
        for name in ("hers-1", "lent"):
            live = broker.live(name)
            assert live.current is not None
            assert not live.state.ending
        store.repair()
        await broker.services.journal.idle()
        assert await broker.verbs.people.forget(LOCAL, ANN.user) == FORGOTTEN


# -- what is hers


async def test_what_a_group_left_behind_when_it_was_killed_is_hers_again() -> None:
    disk = MemoryDisk()
    store = Cut(MemoryStore(disk))
    async with broker_on(store, agents=agents()) as broker:
        group = await broker.groups.groups.create(ANN, GroupCreate(members=("first", "second")))
        told = await broker.verbs.people.forget(LOCAL, ANN.user)
        assert (told.removed.conversations, told.stayed) == (0, Stayed(2, 1, 0))
        # The group goes with the first commit, its conversations with those behind it.
        store.arm(1, is_behind=False)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(broker.groups.groups.delete, LOCAL, group.id)
            await store.reached.wait()
            tasks.cancel_scope.cancel()
    async with broker_on(MemoryStore(disk), agents=agents()) as broker:
        told = await broker.verbs.people.forget(LOCAL, ANN.user)
        assert (told.removed.conversations, told.stayed) == (2, Stayed(0, 0, 0))


async def test_what_is_begun_behind_the_question_is_not_in_the_answer() -> None:
    async with broker_on(MemoryStore(), agents=agents()) as broker:
        await broker.send("hello", "hers-1", principal=ANN)
        await broker.until_idle()
        person = broker.verbs.people.belongings(LOCAL, ANN.user)
        await broker.send("hello", "hers-2", principal=ANN)
        await broker.until_idle()
        assert [begun.record.id async for begun in person.begun()] == ["hers-1"]


async def test_of_a_chat_session_only_what_is_over_is_handed_out() -> None:
    async with broker_on(MemoryStore(), agents=agents()) as broker:
        session = await broker.chats.chats.create(ANN, Create(agent_key="first"))
        await broker.chats.sends.send(ANN, session.id, Message(content="talk"), None)
        live = broker.live(session.id, ANN)
        while live.current is None or not live.current.has_text:
            await broker.services.journal.idle()
            await anyio.lowlevel.checkpoint()
        await live.written()
        person = broker.verbs.people.belongings(LOCAL, ANN.user)
        found = await broker.store.timeline(LOCAL.account, "chat", session.id)
        assert found is not None
        assert len(await broker.store.rows(found.key, limit=9)) == 2
        assert [row.text async for row in person.messages(found)] == ["talk"]


async def test_the_names_of_her_clients_go_and_are_given_to_nobody() -> None:
    async with broker_on(MemoryStore(MemoryDisk()), agents=agents()) as broker:
        clients = Clients(broker.services)
        await clients.meet(ANN, "window", ["1.0.0"])
        await clients.meet(LOCAL, "terminal", ["0.7.0"])
        await broker.verbs.people.forget(LOCAL, ANN.user)
        with pytest.raises(NotFound):
            await clients.known(ANN, "window")
        with pytest.raises(Forbidden):
            await clients.meet(LOCAL, "window", ["1.0.0"])
        assert (await clients.known(LOCAL, "terminal")).offer == "0.7.0"
