"""Rows that are measured from inside: the storage port alone, and the journal above it.

Neighbours: `alone` runs this as a process of its own on the server's core and reads the JSON it
prints; `dispatch.storage.port` is what is measured, FULL sync as by default. It also fills the
data directory that the kill -9 row starts from.
Invariant: what is timed is acknowledged work: a turn counts once its seal is durable.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec

from dispatch.core.content import Text, encode_line
from dispatch.core.events import TextDelta, encode_event
from dispatch.core.identity import LOCAL, ConversationId, TurnId
from dispatch.runtime.clock import SystemClock
from dispatch.runtime.feed import Feeds
from dispatch.runtime.journal import Journal, Outbox
from dispatch.storage.keys import ConversationKey, TurnKey
from dispatch.storage.port import (
    Batch,
    ConversationRecord,
    EventRecord,
    Opened,
    Store,
    TurnRecord,
    TurnSeal,
)
from dispatch.storage.sqlite import SqliteStore

IN_FLIGHT: Final = 32
CHUNKS: Final = 40
# A line of a terminal: what a step says between two tool calls.
CHUNK_TEXT_BYTES: Final = 64
EVENT_BYTES: Final = 200
# As many as there are milliseconds in a long run: prepared outside the time taken.
SEALS_MAX: Final = 100_000
PREPARE_ROWS: Final = 2_000
FILLED_CONVERSATIONS: Final = 10_000
FILLED_TURNS: Final = 2
FILLED_EVENTS: Final = 8

_CHUNK_BYTES: Final = encode_line("assistant", Text("x" * CHUNK_TEXT_BYTES)) * CHUNKS
_METRICS: Final = b'{"usage":{"inputTokens":100,"outputTokens":400},"durationMs":1200.0}'

Figures = dict[str, float]


def conversation_record(number: int, opened: Opened) -> ConversationRecord:
    """A conversation under the name that the generator would give it."""
    now_ms = time.time_ns() // 1_000_000
    return ConversationRecord(
        key=ConversationKey(opened.next_key + number),
        account=LOCAL.account,
        id=ConversationId(f"c{number:05d}"),
        session=f"s-{number}",
        user=LOCAL.user,
        created_at_ms=now_ms,
        active_at_ms=now_ms,
        title="A conversation of the benchmark",
        last_message="What is it about?",
        epoch=opened.incarnation,
    )


def turn_record(key: int, conversation: ConversationKey) -> TurnRecord:
    """A turn that runs."""
    now_ms = time.time_ns() // 1_000_000
    return TurnRecord(
        key=TurnKey(key),
        conversation=conversation,
        id=TurnId(f"t-{key:020d}"),
        state="running",
        ordinal=key,
        user=LOCAL.user,
        body=b'{"message":"What is it about?"}',
        created_at_ms=now_ms,
        started_at_ms=now_ms,
        first_offset=1,
    )


def seal(turn: TurnKey, first_seq: int, last_offset: int) -> TurnSeal:
    """Its end, with forty chunks."""
    now_ms = time.time_ns() // 1_000_000
    return TurnSeal(
        turn, "completed", now_ms, first_seq, CHUNKS, _CHUNK_BYTES, last_offset, _METRICS
    )


class Gathering:
    """A journal reduced to its idea: while one commit runs, the next batch gathers."""

    def __init__(self, store: Store) -> None:
        """Nothing waits."""
        self._store = store
        self._batch = Batch()
        self._waiting: list[asyncio.Future[None]] = []
        self._work = asyncio.Event()
        self.commits = 0

    def add(self, fill: Callable[[Batch], None]) -> asyncio.Future[None]:
        """Put rows into the next commit; the future is done once they are durable."""
        fill(self._batch)
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._work.set()
        return waiter

    async def run(self) -> None:
        """Commit until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            batch, self._batch = self._batch, Batch()
            waiting, self._waiting = self._waiting, []
            await self._store.commit(batch)
            self.commits += 1
            for waiter in waiting:
                waiter.set_result(None)


async def _in_flight(seconds: float, work: Callable[[int], Awaitable[bool]]) -> tuple[int, float]:
    """Thirty-two at it for so long: how many were done, and the median time of one in ms."""
    done, taken = 0, []
    deadline = time.perf_counter() + seconds

    async def producer(number: int) -> None:
        nonlocal done
        while (began := time.perf_counter()) < deadline:
            if not await work(number):
                return
            done += 1
            taken.append(time.perf_counter() - began)

    async with asyncio.TaskGroup() as tasks:
        for number in range(IN_FLIGHT):
            tasks.create_task(producer(number))
    return done, statistics.median(taken) * 1000


async def seals(store: Store, opened: Opened, seconds: float) -> Figures:
    """Seals of turns that run already: compare-and-set, forty chunks, the conversation's row."""
    records = [conversation_record(number, opened) for number in range(IN_FLIGHT)]
    first = opened.next_key + IN_FLIGHT
    await store.commit(Batch(conversations=records))
    for start in range(0, SEALS_MAX, PREPARE_ROWS):
        numbers = range(start, start + PREPARE_ROWS)
        turns = [turn_record(first + n, records[n % IN_FLIGHT].key) for n in numbers]
        await store.commit(Batch(turns=turns))
    gathering = Gathering(store)
    next_of = [first + number for number in range(IN_FLIGHT)]

    async def one(number: int) -> bool:
        key, record = next_of[number], records[number]
        if key >= first + SEALS_MAX:
            return False
        next_of[number] += IN_FLIGHT
        record.last_seq += CHUNKS
        record.last_offset += CHUNKS

        def fill(batch: Batch) -> None:
            batch.seals.append(seal(TurnKey(key), record.last_seq - CHUNKS + 1, record.last_offset))
            batch.conversations.append(msgspec.structs.replace(record))

        await gathering.add(fill)
        return True

    return await _timed(gathering, one, seconds, "seals")


async def turns(store: Store, opened: Opened, seconds: float) -> Figures:
    """Whole turns: a row that runs in one commit, its seal with forty chunks in a later one."""
    records = [conversation_record(number, opened) for number in range(IN_FLIGHT)]
    await store.commit(Batch(conversations=records))
    gathering = Gathering(store)
    keys = iter(range(opened.next_key + IN_FLIGHT, sys.maxsize))

    async def one(number: int) -> bool:
        turn, record = turn_record(next(keys), records[number].key), records[number]

        def begin(batch: Batch) -> None:
            batch.turns.append(turn)
            batch.conversations.append(msgspec.structs.replace(record))

        await gathering.add(begin)
        record.last_seq += CHUNKS
        record.last_offset += CHUNKS

        def end(batch: Batch) -> None:
            batch.seals.append(seal(turn.key, record.last_seq - CHUNKS + 1, record.last_offset))
            batch.conversations.append(msgspec.structs.replace(record))

        await gathering.add(end)
        return True

    return await _timed(gathering, one, seconds, "turns")


async def _timed(
    gathering: Gathering, one: Callable[[int], Awaitable[bool]], seconds: float, what: str
) -> Figures:
    runner = asyncio.create_task(gathering.run())
    began, cpu = time.perf_counter(), time.process_time()
    done, median_ms = await _in_flight(seconds, one)
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    runner.cancel()
    return {
        f"{what}_per_s": done / took,
        f"{what}_p50_ms": median_ms,
        "commits": gathering.commits,
        "cpu_us": cpu / done * 1e6,
    }


async def journal(store: Store, opened: Opened, seconds: float) -> Figures:
    """Events through the journal: thirty-two conversations, one event of each in flight."""
    feeds = Feeds(events_max=1000, bytes_max=1 << 20, bytes_total_max=1 << 26)
    writer = Journal(
        store, feeds, SystemClock(), next_position=opened.next_position, delta_bytes_max=65536
    )
    records = [conversation_record(number, opened) for number in range(IN_FLIGHT)]
    first = opened.next_key + IN_FLIGHT
    running = [turn_record(first + n, record.key) for n, record in enumerate(records)]
    await store.commit(Batch(conversations=records, turns=running))
    outboxes = [Outbox(writer, r.key, feeds.new_feed(r.id, 0)) for r in records]
    payload = encode_event(TextDelta("x" * EVENT_BYTES))

    async def one(number: int) -> bool:
        outbox, turn = outboxes[number], running[number]
        outbox.event(turn.key, turn.id, payload)
        await outbox.drained()
        return True

    runner = asyncio.create_task(writer.run())
    began, cpu = time.perf_counter(), time.process_time()
    done, median_ms = await _in_flight(seconds, one)
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    runner.cancel()
    commits = writer.statistics().commits
    return {
        "events_per_s": done / took,
        "events_p50_ms": median_ms,
        "events_per_commit": done / commits,
        "cpu_us": cpu / done * 1e6,
    }


async def fill(store: Store, opened: Opened, _seconds: float) -> Figures:
    """Ten thousand conversations with sealed turns and their journaled events."""
    payload = encode_event(TextDelta("x" * EVENT_BYTES))
    first, position = opened.next_key + FILLED_CONVERSATIONS, opened.next_position
    step = 250
    for start in range(0, FILLED_CONVERSATIONS, step):
        batch = Batch()
        for number in range(start, start + step):
            record = conversation_record(number, opened)
            record.last_seq = FILLED_TURNS * CHUNKS
            record.last_offset = FILLED_TURNS * FILLED_EVENTS
            batch.conversations.append(record)
            for nth in range(FILLED_TURNS):
                turn = turn_record(first + number * FILLED_TURNS + nth, record.key)
                turn.first_offset = nth * FILLED_EVENTS + 1
                batch.turns.append(turn)
                for index in range(FILLED_EVENTS):
                    offset = turn.first_offset + index
                    event = EventRecord(position, record.key, turn.key, offset, payload)
                    batch.events.append(event)
                    position += 1
                batch.seals.append(seal(turn.key, nth * CHUNKS + 1, (nth + 1) * FILLED_EVENTS))
        await store.commit(batch)
    return {"conversations": FILLED_CONVERSATIONS}


WORK: Final = {"seals": seals, "turns": turns, "journal": journal, "fill": fill}


async def main(what: str, data: Path, seconds: float) -> None:
    """Do one and print its figures."""
    store = SqliteStore(data)
    opened = await store.open()
    try:
        print(json.dumps(await WORK[what](store, opened, seconds)))
    finally:
        await store.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])))
