"""One live conversation: what it stages, what a seal writes, and where a newcomer begins."""

import anyio
import msgspec
import pytest
from anyio.lowlevel import checkpoint

from dispatch.core.events import Done, StepComplete, TextDelta, TokenUsage, Usage
from dispatch.core.identity import LOCAL, ConversationId
from dispatch.core.turn import Metrics
from dispatch.runtime.shape import Details, decode_details, encode_details, take_back
from dispatch.settings import Limits
from dispatch.storage.memory import MemoryStore
from dispatch.storage.memory_disk import MemoryDisk
from dispatch.testing import (
    FOR_EVER,
    Gate,
    HeldStore,
    ManualClock,
    ScriptedAgent,
    SequentialIds,
    Step,
    broker_on,
)
from dispatch.testing.audit import audit

C1 = ConversationId("c1")


@pytest.mark.parametrize("is_one_run", [True, False])
async def test_the_seal_of_a_long_turn_writes_little_for_the_rest_is_staged(
    is_one_run: bool,
) -> None:
    store = HeldStore(MemoryStore())
    limits = Limits(staged_bytes_max=10_000)
    step: list[Step] = ["x" * 1_000] if is_one_run else ["x" * 1_000, StepComplete()]
    agent = ScriptedAgent(*step * 200)
    async with broker_on(store, agents=[agent], limits=limits) as broker:
        await broker.send("hi")
        await broker.until_idle()
        (seal,) = [seal for batch in store.batches for seal in batch.seals]
        pieces = [piece for batch in store.batches for piece in batch.pieces]
        assert len(seal.chunks) <= 11_500
        assert max(len(piece.data) for piece in pieces) <= 11_500
        assert sum(len(piece.data) for piece in pieces) + len(seal.chunks) > 200_000
        assert len(await broker.lines()) == (2 if is_one_run else 201)
        assert await audit(store) == []


async def test_a_newcomer_begins_with_the_running_turns_first_event() -> None:
    gate = Gate()
    async with broker_on(MemoryStore(), agents=[ScriptedAgent("a", gate)]) as broker:
        await broker.send("one")
        await gate.reached()
        gate.open()
        await broker.until_idle()
        agent = broker.services.agents["scripted"]
        assert isinstance(agent, ScriptedAgent)
        async with broker.watching() as idle:
            assert idle.entries == []
            agent._script = ["b", FOR_EVER]
            await broker.send("two")
            await idle.until_kind("text-delta")
            async with broker.watching() as late:
                assert late.entries == idle.entries
                assert late.kinds[0] == "user-message"


async def test_a_newcomer_sees_nothing_of_a_start_that_is_on_its_way() -> None:
    store = HeldStore(MemoryStore())
    async with broker_on(store, agents=[ScriptedAgent("a")]) as broker:
        await broker.send("one")
        await broker.until_idle()
        head = broker.live().feed.head
        store.hold()
        async with broker.watching() as watcher, anyio.create_task_group() as tasks:
            tasks.start_soon(broker.send, "two")
            await store.reached()
            assert broker.live().in_flight_offset == head
            async with broker.watching() as late:
                assert late.entries == []
            store.release()
            await watcher.until_sealed()


async def test_a_done_says_how_long_it_took_and_what_it_cost() -> None:
    clock = ManualClock()
    gate = Gate()
    agent = ScriptedAgent(Usage(TokenUsage(1, 2)), Usage(TokenUsage(3, 4)), gate)
    async with broker_on(MemoryStore(), agents=[agent], clock=clock) as broker:
        async with broker.watching() as watcher:
            await broker.send("hi")
            await gate.reached()
            clock.advance(1.5)
            clock.jump(-3_600)
            gate.open()
            await watcher.until_sealed()
            done = watcher.events[-2]
            assert done == Done("stop", duration_ms=1_500.0, usage=TokenUsage(4, 6))
        (kept,) = await broker.store.metrics(broker.live().record.key)
        decoded = msgspec.json.decode(kept.metrics, type=Metrics)
        assert (decoded.usage, decoded.duration_ms) == (TokenUsage(4, 6), 1_500.0)


async def test_the_first_text_is_timed_once_it_is_durable() -> None:
    clock = ManualClock()
    seconds: list[float] = []
    gate = Gate()
    agent = ScriptedAgent(gate, TextDelta("a"), "b")
    async with broker_on(MemoryStore(), agents=[agent], clock=clock) as broker:
        broker.services.first_delta = seconds.append
        await broker.send("hi")
        await gate.reached()
        clock.advance(0.25)
        gate.open()
        await broker.until_idle()
    assert seconds == [0.25]


async def test_the_row_follows_the_turns() -> None:
    clock = ManualClock()
    async with broker_on(MemoryStore(), agents=[ScriptedAgent("ok")], clock=clock) as broker:
        began = clock.now_ms()
        await broker.send("hi " * 100)
        clock.advance(1)
        await broker.until_idle()
        record = await broker.catalog.record(LOCAL, C1)
        assert record is not None
        assert (record.status, record.last_seq, record.last_offset) == ("idle", 2, 5)
        assert record.created_at_ms == began
        assert record.last_message == ("hi " * 100)[:200]
        assert record.epoch == 1


@pytest.mark.parametrize("verb", ["set_title", "close", "queue"])
async def test_what_is_written_right_behind_the_seal_takes_nothing_back(verb: str) -> None:
    disk, ids = MemoryDisk(), SequentialIds()
    store = HeldStore(MemoryStore(disk))
    agent = ScriptedAgent(script=lambda r: ["said", FOR_EVER] if r.message == "one" else ["ok"])
    verbs = {
        "set_title": lambda: broker.catalog.set_title(LOCAL, C1, "named"),
        "close": lambda: broker.broker.close(LOCAL, C1),
        "queue": lambda: broker.send("two", on_busy="queue"),
    }
    async with broker_on(store, agents=[agent], ids=ids) as broker:
        async with broker.watching() as watcher:
            await broker.send("one")
            await watcher.until_kind("text-delta")
        store.hold()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(broker.stop)
            tasks.start_soon(verbs[verb])
            await store.reached()
            store.release()
            while not any(batch.seals for batch in store.batches):
                await checkpoint()
            # Killed before the conversation's next row could put it right.
            store.hold()
            tasks.cancel_scope.cancel()
    (row,) = disk.conversations.values()
    assert row.last_seq == 2
    async with broker_on(MemoryStore(disk), agents=[agent], ids=ids) as broker:
        await broker.until_idle()
        await broker.send("three")
        await broker.until_idle()
        assert await audit(broker.store) == []


# -- the shape of a conversation ---------------------------------------------------------------


def test_details_are_the_same_when_they_are_read_back() -> None:
    details = Details(model="a/b", reasoning_effort="low", cwd="/x", title_is_given=True)
    assert decode_details(encode_details(details)) == details
    assert decode_details(b"{}") == Details()


async def test_taking_back_leaves_what_somebody_else_has_changed_since() -> None:
    async with broker_on(MemoryStore()) as broker, broker.watching():
        live = broker.live()
        before = live.shape()
        live.record.title, live.record.status = "mine", "active"
        live.details = Details(model="mine", cwd="/mine")
        after = live.shape()
        live.record.title = "theirs"
        live.details = msgspec.structs.replace(live.details, cwd="/theirs")
        undone = take_back(live.record, live.details, before, after)
        assert (live.record.title, live.record.status) == ("theirs", "idle")
        assert undone == Details(cwd="/theirs")
