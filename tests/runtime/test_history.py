"""Reading what is kept: any window of seqs, what fell out of the ring, what an agent is told."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatch.agents.port import AgentFailure
from dispatch.core.content import ErrorChunk, StoredLine, Text, ToolCallChunk, ToolResultChunk
from dispatch.core.events import ReasoningDelta, StepComplete, TextDelta, ToolCall, ToolResult
from dispatch.core.identity import LOCAL, ConversationId
from dispatch.runtime.history import delta_kind
from dispatch.settings import Limits
from dispatch.storage.keys import ConversationKey, TurnKey
from dispatch.storage.memory import MemoryStore
from dispatch.storage.port import EventRecord
from dispatch.testing import FOR_EVER, Harness, ScriptedAgent, Step, broker_on

NOTHING = msgspec.Raw(b"{}")


@asynccontextmanager
async def told(
    *turns: tuple[str, list[Step]], limits: Limits | None = None
) -> AsyncIterator[tuple[Harness, ConversationKey]]:
    """A conversation in which these turns were run, one after the other."""
    scripts = dict(turns)
    agent = ScriptedAgent(script=lambda request: scripts[request.message])
    async with broker_on(MemoryStore(), agents=[agent], limits=limits) as broker:
        for message, _ in turns:
            await broker.send(message)
            await broker.until_idle()
        record = await broker.catalog.record(LOCAL, ConversationId("c1"))
        assert record is not None
        yield broker, record.key


def turns_of(sizes: list[int]) -> list[tuple[str, list[Step]]]:
    """Turns with so many chunks of the agent's each, beside the message."""
    made: list[tuple[str, list[Step]]] = []
    for number, size in enumerate(sizes):
        steps: list[Step] = []
        for chunk in range(size):
            steps += [f"turn {number} chunk {chunk}", StepComplete()]
        made.append((f"message {number}", steps))
    return made


def seqs(chunks: list[bytes]) -> list[int]:
    return [msgspec.json.decode(chunk)["seq"] for chunk in chunks]


async def test_any_window_of_seqs_is_the_same_cut_of_the_whole() -> None:
    async with told(*turns_of([0, 3, 1, 5, 2])) as (broker, key):
        whole = [c async for page in broker.history.pages(key, since=0, before=None)
                 for c in page.chunks]  # fmt: skip
        last = len(whole)
        assert seqs(whole) == list(range(1, last + 1))
        for since in range(last + 2):
            for before in [None, *range(1, last + 3)]:
                found: list[bytes] = []
                last_seqs = []
                async for page in broker.history.pages(key, since=since, before=before):
                    found += page.chunks
                    last_seqs.append(page.last_seq)
                end = last if before is None else min(before - 1, last)
                assert found == whole[since:end]
                if found:
                    assert last_seqs[-1] == end


async def test_many_turns_come_page_by_page_without_a_seam() -> None:
    async with told(*turns_of([1] * 150)) as (broker, key):
        pages = [page async for page in broker.history.pages(key, since=0, before=None)]
        assert len(pages) > 1
        chunks = [chunk for page in pages for chunk in page.chunks]
        assert seqs(chunks) == list(range(1, 301))
        assert [page.last_seq for page in pages] == [seqs(page.chunks)[-1] for page in pages]


async def test_a_turn_that_runs_is_no_history() -> None:
    async with told(*turns_of([1]), ("before", ["said"])) as (broker, key):
        agent = broker.services.agents["scripted"]
        assert isinstance(agent, ScriptedAgent)
        agent._script = ["said", FOR_EVER]
        async with broker.watching() as watcher:
            await broker.send("later")
            await watcher.until_kind("text-delta")
            pages = [page async for page in broker.history.pages(key, since=4, before=None)]
            assert pages == []


async def test_entries_from_the_journal_are_those_that_were_shown() -> None:
    async with told(*turns_of([2, 3])) as (broker, key), broker.watching(after=0) as watcher:
        assert await broker.history.events(key, 0) == watcher.entries
        assert await broker.history.events(key, 4, 3) == watcher.entries[4:7]
        assert await broker.history.events(key, watcher.offsets[-1]) == []


async def test_where_the_next_entry_was_pruned_there_is_nothing() -> None:
    async with told(*turns_of([2, 3])) as (broker, key):
        head = broker.live().feed.head
        await broker.store.prune(2**62, 3)
        assert await broker.history.events(key, 0) == []
        assert await broker.history.events(key, 2) == []
        assert [entry.offset for entry in await broker.history.events(key, 3)] == list(
            range(4, head + 1)
        )


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (b'{"type":"text-delta","delta":"x"}', "text-delta"),
        (b'{"type":"reasoning-delta","delta":"x"}', "reasoning-delta"),
        (b'{"type":"turn-start"}', ""),
        (b'{"type":"error","message":"text-delta"}', ""),
    ],
)
def test_a_stored_event_says_which_run_it_may_be_merged_into(payload: bytes, kind: str) -> None:
    record = EventRecord(1, ConversationKey(1), TurnKey(1), 1, payload)
    assert delta_kind(record) == kind


async def test_the_last_answer_is_the_newest_turns_text() -> None:
    call = ToolCall("k", "read", NOTHING)
    turns: tuple[tuple[str, list[Step]], ...] = (
        ("one", ["first"]),
        ("two", ["a", ReasoningDelta("hm"), call, "b"]),
    )
    async with told(*turns) as (broker, key):
        async with broker.history.held_text(key, 99) as (text, turn):
            assert text == "ab"
        async with broker.history.held_text(key, 2) as (text, _):
            assert text == "first"
        last = await broker.history.last_sealed(key)
        assert last is not None
        assert last == (turn, broker.services.clock.now_ms())
        async with broker.history.held_text(ConversationKey(999), 99) as nothing:
            assert nothing == ("", None)
        assert await broker.history.last_sealed(ConversationKey(999)) is None


# -- what an agent is told ---------------------------------------------------------------------


async def context(broker: Harness) -> list[StoredLine]:
    async with broker.conversations.using(LOCAL, ConversationId("c1")) as live:
        return await broker.history.context(live)


async def test_an_agent_is_told_the_turns_before_its_own_oldest_first() -> None:
    seen: list[list[StoredLine]] = []

    async def look(request: Any, emit: Any) -> None:
        seen.append(await request.history())
        await emit(TextDelta(f"answer {len(seen)}"))

    async with told(("one", [look]), ("two", [look]), ("three", [look])):
        pass
    assert seen[0] == []
    assert [(line.role, line.chunk) for line in seen[2]] == [
        ("user", Text("one")),
        ("assistant", Text("answer 1")),
        ("user", Text("two")),
        ("assistant", Text("answer 2")),
    ]


@given(st.data())
def test_history_is_the_newest_turns_that_fit_and_never_a_part_of_one(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=6))
    bytes_max = data.draw(st.integers(1, 1_500))

    async def main() -> None:
        limits = Limits(history_bytes_max=bytes_max)
        async with told(*turns_of(sizes), limits=limits) as (broker, key):
            turns = await broker.store.sealed_turns(key, limit=100)
            whole = await broker.lines()
            fits, room = 0, bytes_max
            for turn in reversed(turns):
                if turn.bytes_total > room:
                    break
                room -= turn.bytes_total
                fits += turn.chunk_count
            assert await context(broker) == whole[len(whole) - fits :]

    anyio.run(main)


async def test_an_agent_is_told_which_turn_it_follows() -> None:
    """The newest that is in its history: one that only failed is not."""
    script: dict[str, list[Step]] = {
        "first": ["said"],
        "fails": [AgentFailure("no")],
        "fails late": ["so far", AgentFailure("no")],
        "last": [],
    }
    agent = ScriptedAgent(script=lambda request: script[request.message])
    async with broker_on(MemoryStore(), agents=[agent]) as broker:
        previous = []
        for message in script:
            await broker.send(message)
            await broker.until_idle()
            previous.append(await agent.requests[-1].previous_turn())
    turns = [request.turn_id for request in agent.requests]
    # Asked after each of them was sealed, so it follows itself unless it only failed.
    assert previous == [turns[0], turns[0], turns[2], turns[3]]
    assert {request.account for request in agent.requests} == {LOCAL.account}


async def test_a_turn_that_only_failed_is_left_out() -> None:
    turns: tuple[tuple[str, list[Step]], ...] = (
        ("fails", [AgentFailure("asleep")]),
        ("fails late", ["so far", AgentFailure("asleep")]),
        ("works", ["ok"]),
    )
    async with told(*turns) as (broker, _):
        chunks = [line.chunk for line in await context(broker)]
        assert Text("fails") not in chunks
        assert Text("so far") in chunks
        assert ErrorChunk("asleep", "agent_failed") in chunks
        assert chunks[-1] == Text("ok")


async def test_an_open_tool_call_gets_a_result_that_says_so() -> None:
    call, closed = ToolCall("k1", "read", NOTHING, "s1"), ToolCall("k2", "read", NOTHING, "s1")
    turns: tuple[tuple[str, list[Step]], ...] = (
        ("calls", [call, closed, ToolResult("k2", "read", "fine", False, "s1")]),
    )
    async with told(*turns) as (broker, _):
        lines = await context(broker)
        calls = [line.chunk for line in lines if isinstance(line.chunk, ToolCallChunk)]
        results = [line.chunk for line in lines if isinstance(line.chunk, ToolResultChunk)]
        assert sorted(c.tool_call_id for c in calls) == sorted(r.tool_call_id for r in results)
        assert {r.tool_call_id: r.is_error for r in results} == {"k1": True, "k2": False}
