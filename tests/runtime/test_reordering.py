"""The queue in another order: durable, and of those alone that still wait."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from dispatch.core.identity import LOCAL, WATCH, ConversationId, Principal, TurnId, UserId
from dispatch.errors import Forbidden, InTimeline, StorageFull
from dispatch.storage.memory import MemoryStore
from dispatch.storage.port import Store
from dispatch.testing import (
    FaultyStore,
    Gate,
    Harness,
    ScriptedAgent,
    SequentialIds,
    broker_on,
)
from dispatch.testing.audit import audit

C1 = ConversationId("c1")


@asynccontextmanager
async def waiting(
    store: Store, ids: SequentialIds | None = None
) -> AsyncIterator[tuple[Harness, Gate, list[TurnId]]]:
    """A turn that runs, and three messages behind it."""
    gate = Gate()
    agent = ScriptedAgent(script=lambda r: [gate] if r.message == "first" else ["ok"])
    async with broker_on(store, agents=[agent], ids=ids or SequentialIds()) as broker:
        await broker.send("first")
        await gate.reached()
        turns = [(await broker.send(text, on_busy="queue")).turn for text in ("a", "b", "c")]
        yield broker, gate, turns


async def asked(broker: Harness) -> list[str]:
    await broker.until_idle()
    return [text for role, text in await broker.texts() if role == "user"]


async def test_messages_run_in_the_order_that_was_asked_for() -> None:
    store = MemoryStore()
    async with waiting(store) as (broker, gate, (a, b, c)):
        assert await broker.broker.reorder(LOCAL, C1, [c, a]) == [c, a, b]
        gate.open()
        assert await asked(broker) == ["first", "c", "a", "b"]
        assert await audit(store) == []


async def test_who_comes_later_is_behind_them() -> None:
    async with waiting(MemoryStore()) as (broker, gate, (_, b, c)):
        await broker.broker.reorder(LOCAL, C1, [c, b])
        await broker.send("d", on_busy="queue")
        gate.open()
        assert await asked(broker) == ["first", "c", "b", "a", "d"]


async def test_what_does_not_wait_is_passed_over() -> None:
    async with waiting(MemoryStore()) as (broker, gate, (a, b, c)):
        running = broker.live().current
        assert running is not None
        await broker.broker.cancel(LOCAL, C1, b)
        wanted = [TurnId("t-none"), running.id, b, c, c, a]
        assert await broker.broker.reorder(LOCAL, C1, wanted) == [c, a]
        assert await broker.broker.reorder(LOCAL, C1, []) == [c, a]
        gate.open()
        assert await asked(broker) == ["first", "c", "a"]


async def test_the_order_outlives_the_daemon() -> None:
    store, ids = MemoryStore(), SequentialIds()
    async with waiting(store, ids) as (broker, _, (_, b, c)):
        await broker.broker.reorder(LOCAL, C1, [c, b])
    async with broker_on(store, agents=[ScriptedAgent("ok")], ids=ids) as broker:
        assert await asked(broker) == ["first", "c", "b", "a"]
        assert await audit(store) == []


async def test_who_shows_the_queue_is_told_once_it_is_durable() -> None:
    async with waiting(MemoryStore()) as (broker, gate, (a, _, c)):
        told: list[list[str]] = []
        live = broker.live()
        live.queue_watchers[lambda live: told.append([w.text for w in live.state.queue])] = None
        await broker.broker.reorder(LOCAL, C1, [c])
        assert told == [["c", "a", "b"]]
        # So it is already: nothing to be written or told.
        await broker.broker.reorder(LOCAL, C1, [c, a])
        assert len(told) == 1
        live.queue_watchers.clear()
        gate.open()
        await broker.until_idle()


async def test_a_full_disk_leaves_the_order_as_it_was() -> None:
    store = FaultyStore(MemoryStore())
    async with waiting(store) as (broker, gate, (_, _, c)):
        store.fail(StorageFull("no room"))
        with pytest.raises(StorageFull):
            await broker.broker.reorder(LOCAL, C1, [c])
        gate.open()
        assert await asked(broker) == ["first", "a", "b", "c"]


async def test_to_reorder_is_to_send_and_a_timeline_has_an_order_of_its_own() -> None:
    reader = Principal(LOCAL.account, UserId("ann"), frozenset({WATCH}))
    async with waiting(MemoryStore()) as (broker, gate, (_, _, c)):
        with pytest.raises(Forbidden):
            await broker.broker.reorder(reader, C1, [c])
        live = broker.live()
        before, live.details = live.details, type(live.details)(timeline=("group", "g1"))
        with pytest.raises(InTimeline):
            await broker.broker.reorder(LOCAL, C1, [c])
        live.details = before
        gate.open()
        await broker.until_idle()
