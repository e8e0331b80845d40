"""After a kill: what ran is sealed with all it said, what waited runs, and nothing runs twice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
import pytest

from dispatch.core.content import ErrorChunk
from dispatch.core.events import (
    AgentEvent,
    Done,
    ErrorEvent,
    ReasoningDelta,
    Request,
    RequestClosed,
    StepComplete,
    TextDelta,
    ToolCall,
    ToolResult,
    decode_event,
)
from dispatch.core.identity import LOCAL, ConversationId
from dispatch.core.replay import Entry
from dispatch.settings import Limits
from dispatch.storage.memory import MemoryStore
from dispatch.storage.memory_disk import MemoryDisk
from dispatch.storage.port import Batch
from dispatch.testing import (
    FOR_EVER,
    Gate,
    Harness,
    HeldStore,
    ScriptedAgent,
    SequentialIds,
    broker_on,
)
from dispatch.testing.audit import audit

C1 = ConversationId("c1")
INTERRUPTED = ErrorChunk("the turn was interrupted: the daemon ended", "interrupted")


async def events_after(broker: Harness, offset: int) -> list[Entry]:
    """What was shown of `c1` after an offset."""
    record = await broker.catalog.record(LOCAL, C1)
    assert record is not None
    return await broker.history.events(record.key, offset)


class Machine:
    """A disk that outlives its daemons, and ids that none of them uses twice."""

    def __init__(self) -> None:
        self.disk = MemoryDisk()
        self.ids = SequentialIds()

    @asynccontextmanager
    async def daemon(self, *agents: ScriptedAgent, **options: Any) -> AsyncIterator[Harness]:
        """Runs until the body is left, and is then killed."""
        store = MemoryStore(self.disk)
        async with broker_on(store, agents=agents, ids=self.ids, **options) as broker:
            yield broker

    async def problems(self) -> list[str]:
        store = MemoryStore(self.disk)
        await store.open()
        return await audit(store)

    async def kinds(self, conversation: str = "c1") -> list[str]:
        """The types of everything that was ever shown."""
        store = MemoryStore(self.disk)
        await store.open()
        record = await store.conversation(LOCAL.account, ConversationId(conversation))
        assert record is not None
        records = await store.events(record.key, 0, 1_000_000)
        events = [decode_event(record.payload) for record in records]
        return [str(type(event).__struct_config__.tag) for event in events]


async def test_what_ran_is_sealed_as_interrupted_with_everything_it_had_said() -> None:
    machine = Machine()
    gate = Gate()
    call = ToolCall("k1", "read", msgspec.Raw(b"{}"), "s1")
    said = ["one ", ReasoningDelta("hm"), StepComplete("s1"), call, "two", gate]
    agent = ScriptedAgent(*said)
    async with machine.daemon(agent) as broker:
        await broker.send("hi")
        await gate.reached()
        await broker.services.journal.idle()
        shown = broker.live().feed.head
    async with machine.daemon(agent) as broker:
        lines = await broker.lines()
        assert [(line.role, type(line.chunk).__name__) for line in lines] == [
            ("user", "Text"),
            ("assistant", "Text"),
            ("assistant", "Thinking"),
            ("assistant", "ToolCallChunk"),
            ("assistant", "Text"),
            ("tool", "ToolResultChunk"),
            ("assistant", "ErrorChunk"),
        ]
        assert lines[-1].chunk == INTERRUPTED
        record = await broker.catalog.record(LOCAL, C1)
        assert record is not None
        assert (record.status, record.last_seq) == ("idle", 7)
        assert record.last_offset == shown + 4
        assert broker.accounts.running_total == 0
    assert agent.messages == ["hi"]
    assert (await machine.kinds())[-4:] == ["tool-result", "error", "done", "turn-sealed"]
    assert await machine.problems() == []


async def test_the_seal_is_durable_before_the_broker_is_said_to_run() -> None:
    machine = Machine()
    async with machine.daemon(ScriptedAgent(FOR_EVER)) as broker:
        for number in range(20):
            await broker.send("hi", f"c{number}")
    async with machine.daemon(ScriptedAgent(FOR_EVER)) as broker:
        assert await broker.store.unsealed() == []
        assert await audit(broker.store) == []


async def test_what_waited_runs_in_its_order_and_what_ran_does_not_run_again() -> None:
    machine = Machine()
    first = ScriptedAgent(FOR_EVER, steer=True)
    async with machine.daemon(first) as broker:
        await broker.send("ran")
        await broker.send("queued", on_busy="queue")
        await broker.send("steered", on_busy="steer")
        await broker.send("queued too", on_busy="queue")
    second = ScriptedAgent("ok")
    async with machine.daemon(second) as broker:
        await broker.until_idle()
    assert first.messages == ["ran"]
    assert second.messages == ["queued", "steered", "queued too"]
    assert await machine.problems() == []


async def test_a_turn_that_waited_while_nothing_ran_runs() -> None:
    machine = Machine()
    async with machine.daemon(ScriptedAgent(FOR_EVER)) as broker:
        await broker.send("ran")
        await broker.send("queued", on_busy="queue")
        await broker.broker.drain(0)
    agent = ScriptedAgent("ok")
    async with machine.daemon(agent) as broker:
        await broker.until_idle()
    assert agent.messages == ["queued"]
    assert await machine.problems() == []


async def test_who_watches_goes_on_from_the_offset_before_the_kill() -> None:
    machine = Machine()
    gate = Gate()
    daemon = machine.daemon(ScriptedAgent("one ", gate))
    async with daemon as broker, broker.watching() as before:
        await broker.send("hi")
        await gate.reached()
        await before.until_kind("text-delta")
        last = before.offsets[-1]
    async with machine.daemon(ScriptedAgent("ok")) as broker:
        entries = await events_after(broker, last)
        assert [entry.offset for entry in entries] == [last + 1, last + 2, last + 3]
        async with broker.watching(after=last + 3) as after:
            await broker.send("again")
            await after.until_sealed()
        assert after.offsets[0] == last + 4
    assert await machine.problems() == []


async def test_open_requests_are_cancelled() -> None:
    machine = Machine()
    ask = Request("r1", "approval", "May I?")
    daemon = machine.daemon(ScriptedAgent(ask, FOR_EVER))
    async with daemon as broker, broker.watching() as watcher:
        await broker.send("hi")
        await watcher.until_kind("request")
    async with machine.daemon(ScriptedAgent("ok")) as broker:
        entries = await events_after(broker, 0)
        events = [decode_event(entry.payload) for entry in entries]
        assert RequestClosed("r1", "cancelled") in events
    assert await machine.problems() == []


@pytest.mark.parametrize("staged_bytes_max", [50, 1_000_000])
async def test_what_was_staged_is_neither_lost_nor_doubled(staged_bytes_max: int) -> None:
    machine = Machine()
    limits = Limits(staged_bytes_max=staged_bytes_max, delta_bytes_max=200)
    words = [f"word{n} " for n in range(200)]
    gate = Gate()
    script: list[Any] = []
    for number, word in enumerate(words):
        script += [word] if number % 7 else [word, StepComplete()]
    async with machine.daemon(ScriptedAgent(*script, gate), limits=limits) as broker:
        await broker.send("hi")
        await gate.reached()
        await broker.services.journal.idle()
        pieces = broker.store._kept.pieces  # type: ignore[attr-defined]
        assert bool(pieces) == (staged_bytes_max == 50)
    async with machine.daemon(ScriptedAgent("ok"), limits=limits) as broker:
        texts = await broker.texts()
        assert "".join(text for role, text in texts if role == "assistant") == "".join(words)
    assert await machine.problems() == []


async def test_a_conversation_that_was_closed_while_its_turn_ran_stays_closed() -> None:
    machine = Machine()
    async with machine.daemon(ScriptedAgent(FOR_EVER)) as broker:
        await broker.send("hi")
        record = msgspec.structs.replace(broker.live().record, status="closed", last_offset=2)
        await broker.store.commit(Batch(conversations=[record]))
    async with machine.daemon(ScriptedAgent("ok")) as broker:
        closed = await broker.catalog.record(LOCAL, C1)
        assert closed is not None
        assert closed.status == "closed"
        await broker.catalog.set_title(LOCAL, C1, "still closed")
        closed = await broker.catalog.record(LOCAL, C1)
        assert closed is not None
        assert closed.status == "closed"
    assert await machine.problems() == []


async def test_a_takeover_can_itself_be_killed_at_its_commit() -> None:
    machine = Machine()
    agent = ScriptedAgent(FOR_EVER)
    async with machine.daemon(agent) as broker:
        for number in range(3):
            await broker.send("ran", f"c{number}")
            await broker.send("queued", f"c{number}", on_busy="queue")
    for _ in range(3):
        store = HeldStore(MemoryStore(machine.disk))
        store.hold()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_run_until_cancelled, store, machine.ids)
            await store.reached()
            tasks.cancel_scope.cancel()
    last = ScriptedAgent("ok")
    async with machine.daemon(last) as broker:
        await broker.until_idle()
    assert agent.messages == ["ran"] * 3
    assert last.messages == ["queued"] * 3
    assert await machine.problems() == []


async def _run_until_cancelled(store: HeldStore, ids: SequentialIds) -> None:
    async with broker_on(store, agents=[ScriptedAgent("never")], ids=ids):
        await asyncio.Event().wait()


KINDS: list[AgentEvent] = [
    TextDelta("x"),
    ToolCall("k1", "read", msgspec.Raw(b"{}")),
    ToolResult("k1", "read", "ok", False),
    StepComplete(),
    ErrorEvent("oh"),
    Request("r1", "approval", "May I?"),
]


@pytest.mark.parametrize("kills", [1, 2, 5])
async def test_however_often_it_is_killed_nothing_shown_is_lost(kills: int) -> None:
    machine = Machine()
    shown: list[tuple[int, bytes]] = []
    for number in range(kills):
        gate = Gate()
        agent = ScriptedAgent(*KINDS, gate)
        async with machine.daemon(agent) as broker, broker.watching() as watcher:
            await broker.send(f"turn {number}")
            await gate.reached()
            await watcher.until_kind("request")
            shown += [(entry.offset, entry.payload) for entry in watcher.entries]
    async with machine.daemon(ScriptedAgent("ok")) as broker:
        entries = await events_after(broker, 0)
        stored = {entry.offset: entry.payload for entry in entries}
        assert all(stored[offset] == payload for offset, payload in shown)
    assert await machine.problems() == []


async def test_an_agent_never_gets_a_prompt_whose_start_was_not_durable() -> None:
    machine = Machine()
    agent = ScriptedAgent("ok")
    store = HeldStore(MemoryStore(machine.disk))
    async with broker_on(store, agents=[agent], ids=machine.ids) as broker:
        store.hold()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: broker.send("hi"))
            await store.reached()
            tasks.cancel_scope.cancel()
    assert agent.requests == []
    async with machine.daemon(agent) as broker:
        await broker.until_idle()
        assert await broker.lines() == []
    assert agent.requests == []


async def test_a_first_start_on_an_empty_disk_recovers_nothing() -> None:
    machine = Machine()
    async with machine.daemon(ScriptedAgent("ok")) as broker:
        assert len(broker.conversations) == 0
        assert broker.services.opened.incarnation == 1
    async with machine.daemon(ScriptedAgent("ok")) as broker:
        assert broker.services.opened.incarnation == 2


async def test_the_done_of_an_interrupted_turn_says_so() -> None:
    machine = Machine()
    async with machine.daemon(ScriptedAgent(FOR_EVER)) as broker:
        await broker.send("hi")
    async with machine.daemon(ScriptedAgent("ok")) as broker:
        entries = await events_after(broker, 0)
        done = decode_event(entries[-2].payload)
        assert isinstance(done, Done)
        assert done.reason == "interrupted"
        record = await broker.catalog.record(LOCAL, C1)
        assert record is not None
        (turn,) = await broker.store.sealed_turns(record.key, limit=10)
        assert turn.outcome == "interrupted"
