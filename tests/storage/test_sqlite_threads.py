"""How the durable store writes and reads: its settings, its threads, and its statements' plans."""

import asyncio
import re
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import aiosqlite
import anyio
import pytest

from dispatch.storage import (
    sqlite_batch,
    sqlite_people,
    sqlite_prune,
    sqlite_rows,
    sqlite_timeline_batch,
    sqlite_timeline_log,
    sqlite_timelines,
)
from dispatch.storage.keys import ConversationKey, TurnKey
from dispatch.storage.port import Batch, CursorRecord
from dispatch.storage.sqlite import SqliteStore
from tests.contract.store_rows import ANN, conversation, events, seal, turn


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


async def pragma(data: Path, name: str, **options: object) -> object:
    found: list[object] = []

    def look(connection: sqlite3.Connection) -> None:
        found.append(connection.execute(f"PRAGMA {name}").fetchone()[0])

    store = SqliteStore(data, before_write=look, **options)  # type: ignore[arg-type]
    await store.open()
    await store.commit(Batch(conversations=[conversation()]))
    await store.close()
    return found[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("journal_mode", "wal"),
        ("synchronous", 2),
        ("fullfsync", 1),
        ("busy_timeout", 5_000),
        ("journal_size_limit", 64 * 1024 * 1024),
        ("mmap_size", 0),
        ("trusted_schema", 0),
        ("cell_size_check", 1),
        ("application_id", int.from_bytes(b"DSPC", "big")),
        ("user_version", 4),
    ],
)
async def test_the_writer_is_set_to_lose_nothing(data: Path, name: str, value: object) -> None:
    assert await pragma(data, name) == value


@pytest.mark.parametrize(("setting", "value"), [("full", 2), ("normal", 1), ("off", 0)])
async def test_the_promise_is_relaxed_only_by_whoever_asks(
    data: Path, setting: str, value: int
) -> None:
    assert await pragma(data, "synchronous", synchronous=setting) == value


async def test_a_batch_is_one_hop_to_the_writers_thread(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteStore(data)
    await store.open()
    hops = 0
    execute = aiosqlite.Connection._execute

    async def counted(*args: object) -> object:
        nonlocal hops
        hops += 1
        return await execute(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(aiosqlite.Connection, "_execute", counted)
    await store.commit(
        Batch(
            conversations=[conversation()],
            turns=[turn(2)],
            events=events(1, 2, 1, 100),
            seals=[seal(2)],
            cursors=[CursorRecord(ConversationKey(1), ANN, 1)],
        )
    )
    assert hops == 1
    await store.chunk_bytes([TurnKey(2)])
    assert hops == 2
    monkeypatch.undo()
    await store.close()


class Gate:
    """Holds the writer's thread before its next transaction."""

    def __init__(self) -> None:
        self.is_shut = False
        self.reached = threading.Event()
        self.opened = threading.Event()

    def __call__(self, connection: sqlite3.Connection) -> None:
        if self.is_shut:
            self.reached.set()
            assert self.opened.wait(30)


async def test_a_commit_under_way_is_seen_by_nobody_and_keeps_nobody_from_reading(
    data: Path,
) -> None:
    gate = Gate()
    store = SqliteStore(data, before_write=gate)
    await store.open()
    await store.commit(Batch(conversations=[conversation()], turns=[turn(2)]))
    gate.is_shut = True
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(store.commit, Batch(events=events(1, 2, 1, 3)))
            await anyio.to_thread.run_sync(gate.reached.wait, 30)
            assert await store.events(ConversationKey(1), 0, 9) == []
            gate.opened.set()
        assert len(await store.events(ConversationKey(1), 0, 9)) == 3
    finally:
        gate.opened.set()
        await store.close()


async def test_a_caller_that_is_cancelled_leaves_and_its_batch_is_written(data: Path) -> None:
    gate = Gate()
    store = SqliteStore(data, before_write=gate)
    await store.open()
    await store.commit(Batch(conversations=[conversation()], turns=[turn(2)]))
    gate.is_shut = True
    try:
        caller = asyncio.ensure_future(store.commit(Batch(events=events(1, 2, 1, 3))))
        await anyio.to_thread.run_sync(gate.reached.wait, 30)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        gate.opened.set()
        await store.commit(Batch(events=events(1, 2, 4, 1)))
        assert len(await store.events(ConversationKey(1), 0, 9)) == 4
    finally:
        gate.opened.set()
        await store.close()


async def test_closing_waits_for_what_was_handed_in_and_leaves_no_thread(data: Path) -> None:
    before = threading.active_count()
    gate = Gate()
    store = SqliteStore(data, before_write=gate)
    await store.open()
    await store.commit(Batch(conversations=[conversation()], turns=[turn(2)]))
    gate.is_shut = True
    async with anyio.create_task_group() as group:
        group.start_soon(store.commit, Batch(events=events(1, 2, 1, 3)))
        await anyio.to_thread.run_sync(gate.reached.wait, 30)
        group.start_soon(store.close)
        await anyio.lowlevel.checkpoint()
        gate.opened.set()
    # Worker threads of anyio stay for a while; the store's own are gone.
    names = [thread.name for thread in threading.enumerate() if "worker" in thread.name.lower()]
    assert threading.active_count() - len(names) <= before
    again = SqliteStore(data)
    await again.open()
    assert len(await again.events(ConversationKey(1), 0, 9)) == 3
    await again.close()


def plan(data: Path, statement: str) -> str:
    with closing(sqlite3.connect(data / "dispatch.db")) as connection:
        connection.create_function("mentions", 3, sqlite_rows.mentions)
        filled = re.sub(r"\?\d*|:\w+", "1", statement)
        return "\n".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {filled}"))


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (sqlite_rows.SELECT_CONVERSATION, "conversation_id"),
        (sqlite_rows.LIST_CONVERSATIONS, "conversation_active"),
        (sqlite_rows.SELECT_IDLE, "conversation_active"),
        (sqlite_rows.SELECT_UNSEALED, "turn_unsealed"),
        (sqlite_rows.SELECT_UNSEALED_OF, "turn_unsealed"),
        (sqlite_rows.SELECT_BY_CLIENT_KEY, "turn_client_key"),
        (sqlite_rows.SELECT_TURN, "turn_id"),
        (sqlite_rows.SELECT_NEWEST, "turn_history"),
        (sqlite_rows.SELECT_OLDEST, "turn_history"),
        (sqlite_rows.SELECT_METRICS, "turn_history"),
        (sqlite_rows.SELECT_PIECES, "piece_ordinal"),
        (sqlite_rows.SELECT_STAGED, "piece_ordinal"),
        (sqlite_rows.SELECT_EVENTS, "event_offset"),
        (sqlite_rows.SELECT_EVENTS_OF, "event_offset"),
        (sqlite_prune.SELECT_RETAINED, "turn_retained"),
        (sqlite_prune.LAST_DUE, "event_offset"),
        (sqlite_prune.DELETE_EVENTS, "event_offset"),
        (sqlite_prune.LAST_OLD, "timeline_event_at"),
        (sqlite_prune.DELETE_OLD, "timeline_event_at"),
        (sqlite_timelines.SELECT_TIMELINE, "timeline_id"),
        (sqlite_timelines.SELECT_BY_ALIAS, "timeline_alias"),
        (sqlite_timelines.LIST_ALL, "timeline_active"),
        (sqlite_timelines.LIST_OWN, "timeline_own"),
        (sqlite_timelines.SUM_UNREAD, "COVERING INDEX timeline_unread"),
        (sqlite_timelines.COUNT_UNREAD_OF, "timeline_row_seq"),
        (sqlite_timelines.SELECT_OLDEST_ROWS, "timeline_row_seq"),
        (sqlite_timelines.SELECT_NEWEST_ROWS, "timeline_row_seq"),
        (sqlite_timelines.SELECT_OPEN, "timeline_row_open"),
        (sqlite_timelines.SELECT_OPEN_OF, "timeline_row_open"),
        (sqlite_timelines.SELECT_ROW_BY_CLIENT_KEY, "timeline_row_client_key"),
        (sqlite_timelines.SELECT_REPLIES_TO, "timeline_row_reply_to"),
        (sqlite_timelines.SELECT_ROW_OF_TURN, "timeline_row_turn_id"),
        (sqlite_timeline_log.SELECT_STREAM, "timeline_event_stream"),
        (sqlite_timeline_log.SELECT_STREAM_OF, "timeline_event_timeline"),
        (sqlite_timeline_log.SELECT_TELLERS, "timeline_row_log"),
        (sqlite_timeline_log.SELECT_TOLD, "event_offset"),
        (sqlite_timeline_log.SELECT_ROWS, "INTEGER PRIMARY KEY"),
        (sqlite_timeline_log.SELECT_HEAD, "timeline_event_stream"),
        (sqlite_people.SELECT_BEGUN, "conversation USING INTEGER PRIMARY KEY"),
        (sqlite_people.SELECT_MARKS, "PRIMARY KEY (subject>?)"),
        (sqlite_people.SELECT_SPOKEN_TURNS, "t USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
        (sqlite_people.SELECT_SPOKEN_ROWS, "r USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
        (sqlite_people.REMOVE_TURN, "timeline_row_turn"),
        (sqlite_timeline_batch.COUNT_UNREAD, "COVERING INDEX timeline_row_ended"),
        (sqlite_batch.RAISE_TIMELINES, "timeline_row_turn"),
        (sqlite_batch.SEAL_TURN, "INTEGER PRIMARY KEY"),
    ],
)
async def test_no_statement_walks_over_a_whole_table(
    data: Path, statement: str, index: str
) -> None:
    store = SqliteStore(data)
    await store.open()
    await store.close()
    found = plan(data, statement)
    assert index in found
    for line in found.splitlines():
        walks = line.startswith("SCAN ") and "USING" not in line
        small = any(name in line for name in ("json_each", "CONSTANT ROW", "accounts"))
        assert not walks or small, found


@pytest.mark.parametrize("statement", [sqlite_timelines.LIST_ALL, sqlite_timelines.LIST_OWN])
async def test_a_page_of_timelines_is_never_sorted(data: Path, statement: str) -> None:
    store = SqliteStore(data)
    await store.open()
    await store.close()
    assert "TEMP B-TREE" not in plan(data, statement)
