"""The durable store: one SQLite file, one connection that writes, a few that read.

Neighbours: `port` says what each method promises; `sqlite_directory` takes the directory,
`sqlite_schema` opens the database, `sqlite_batch` writes, `sqlite_rows` reads, timelines
`sqlite_timeline_reads` and people `sqlite_people`. Runs on asyncio.
Invariant: `commit` is one hop to the writer's thread and one transaction there; when it returns
the disk has it (`synchronous` full), and no `sqlite3.Error` ever leaves this module.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Literal, TypeVar

from anyio import to_thread

from dispatch.core.identity import AccountId, ConversationId, TurnId, UserId
from dispatch.errors import DispatchError, StorageFailed
from dispatch.storage import sqlite_batch, sqlite_prune, sqlite_rows, sqlite_schema
from dispatch.storage.generation import MintGeneration, mint_generation
from dispatch.storage.keys import ConversationKey, SubjectKey, TurnKey
from dispatch.storage.port import (
    Batch,
    ConversationQuery,
    ConversationRecord,
    EventRecord,
    Opened,
    SealedTurn,
    TurnMetrics,
    TurnRecord,
)
from dispatch.storage.sqlite_connection import (
    Connection,
    Synchronous,
    configure_reader,
    configure_writer,
    open_to_read,
    translate,
)
from dispatch.storage.sqlite_directory import DataDirectory, LockRecord, published
from dispatch.storage.sqlite_people import SqlitePeopleReads
from dispatch.storage.sqlite_schema import Migration
from dispatch.storage.sqlite_timeline_reads import SqliteTimelineReads

Result = TypeVar("Result")

# Two cores are usual; a third reader would only wait for the interpreter's lock.
READERS: Final = 2


class SqliteStore(SqliteTimelineReads, SqlitePeopleReads):
    """The store in a data directory. Implements `port.Store`; errors are the port's.

    `synchronous`: what a power loss may take (`full`: nothing). `busy_seconds`: how long to wait
    for another process that holds the database's lock. `mint`: where generations come from.
    `scripts`: the migrations. `before_write` is called in the writer's thread before each
    transaction; tests hold, fail or starve a write with it.
    """

    def __init__(
        self,
        data: Path,
        *,
        synchronous: Synchronous = "full",
        busy_seconds: float = 5.0,
        mint: MintGeneration = mint_generation,
        scripts: Sequence[Migration] | None = None,
        before_write: Callable[[sqlite3.Connection], None] | None = None,
    ) -> None:
        """Name the directory; `open` touches it."""
        self._directory = DataDirectory(data)
        self._synchronous: Synchronous = synchronous
        self._busy_seconds = busy_seconds
        self._mint = mint
        self._scripts = sqlite_schema.migrations() if scripts is None else tuple(scripts)
        self._before_write = before_write
        self._writer: Connection | None = None
        self._readers: list[Connection] = []
        self._incarnation = 0

    async def open(self) -> Opened:
        """Take the directory, make or migrate the database, and raise the incarnation.

        Raises `StorageBusy` at once when another process has the directory.
        """
        if self._writer is not None:
            raise StorageFailed(f"{self._directory.path} is open already")
        opened = False
        try:
            last = await to_thread.run_sync(self._directory.take)
            result = await self._open(last)
            opened = True
            return result
        finally:
            if not opened:
                await self.close()

    async def _open(self, last: LockRecord) -> Opened:
        directory = self._directory
        exists = await to_thread.run_sync(directory.examine)
        if not exists:
            await self._create()
        else:
            await self._inspect()
        self._writer = await Connection.open(directory.database, "rw", self._busy_seconds)
        result = await self._writer.run(partial(self._take_over, last=last))
        self._incarnation = result.incarnation
        await to_thread.run_sync(directory.record, result.incarnation)
        for _ in range(READERS):
            reader = await Connection.open(directory.database, "ro", self._busy_seconds)
            self._readers.append(reader)
            await reader.run(_prepare_reader)
        return result

    async def _create(self) -> None:
        with published(self._directory.database) as temporary:
            connection = await Connection.open(temporary, "rw", self._busy_seconds)
            try:
                await connection.run(partial(sqlite_schema.create, scripts=self._scripts))
            finally:
                await connection.close()

    async def _inspect(self) -> None:
        # Before anything may write: also closing the last writing connection moves the log.
        database = self._directory.database
        if self._directory.has_log():
            async with self._borrowed("immutable") as connection:
                is_untouched_backup = await connection.run(sqlite_schema.is_untouched_backup)
            if is_untouched_backup:
                # The log of the database that the backup was put over: its pages would be read
                # as the backup's.
                await to_thread.run_sync(self._directory.set_log_aside)
        async with self._borrowed("ro") as connection:
            await connection.run(configure_reader)
            await connection.run(
                partial(sqlite_schema.inspect, database=database, scripts=self._scripts)
            )

    @contextlib.asynccontextmanager
    async def _borrowed(self, access: Literal["ro", "immutable"]) -> AsyncIterator[Connection]:
        connection = await Connection.open(self._directory.database, access, self._busy_seconds)
        try:
            yield connection
        finally:
            await connection.close()

    def _take_over(self, connection: sqlite3.Connection, last: LockRecord) -> Opened:
        database = self._directory.database
        configure_writer(connection, self._synchronous)
        sqlite_schema.migrate(connection, database, self._scripts)
        return sqlite_schema.take_over(connection, database, last.incarnation, self._mint)

    async def close(self) -> None:
        """Let go, after everything that was handed in; idempotent, also after a failed `open`."""
        readers, self._readers = self._readers, []
        writer, self._writer = self._writer, None
        try:
            async with contextlib.AsyncExitStack() as stack:
                if writer is not None:
                    stack.push_async_callback(writer.close)
                for reader in readers:
                    stack.push_async_callback(reader.close)
                if writer is not None and self._incarnation:
                    # A full or failing disk is no reason not to close: the next start checks.
                    with contextlib.suppress(DispatchError):
                        await writer.run(
                            partial(sqlite_schema.mark_clean, incarnation=self._incarnation)
                        )
        finally:
            self._incarnation = 0
            self._directory.release()

    async def commit(self, batch: Batch) -> None:
        """One transaction. A cancelled caller leaves; what was handed in is written all the same.

        Raises `Fenced` and `Conflict`, and the storage errors: after `StorageFull` and
        `StorageLocked` nothing was written and the same batch may be tried again.
        """
        rows = sqlite_batch.prepare(batch)
        if any(rows):
            await self._write(partial(sqlite_batch.write, rows=rows, incarnation=self._incarnation))

    async def prune(self, sealed_before_ms: int, rows_max: int) -> int:
        """Remove old events, then move the log into the file as far as no reader is in the way."""
        removed = await self._write(
            partial(
                sqlite_prune.prune,
                incarnation=self._incarnation,
                sealed_before_ms=sealed_before_ms,
                rows_max=rows_max,
            )
        )
        if removed < rows_max:
            # Nothing left to do: an idle moment, and better now than inside somebody's commit.
            await self._write(_checkpoint)
        return removed

    async def backup(self, target: Path) -> None:
        """A consistent, checked copy; commits go on meanwhile.

        Raises the storage errors about the target; none of them is about the store itself.
        """
        if self._writer is None:
            raise StorageFailed(f"{self._directory.path} is not open")
        await to_thread.run_sync(self._directory.check_outside, target)
        async with self._borrowed("ro") as connection:
            await connection.run(configure_reader)
            await connection.run(partial(sqlite_schema.copy, target=target))

    async def _write(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        writer = self._writer
        if writer is None:
            raise StorageFailed(f"{self._directory.path} is not open")
        if self._before_write is None:
            return await writer.run(work)
        return await writer.run(partial(_after, self._before_write, work))

    async def _read(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        if not self._readers:
            raise StorageFailed(f"{self._directory.path} is not open")
        return await min(self._readers, key=_waiting).run(work)

    async def conversation(
        self, account: AccountId, conversation_id: ConversationId
    ) -> ConversationRecord | None:
        """One row, tombstones included."""
        return await self._read(
            partial(sqlite_rows.conversation, account=account, conversation_id=conversation_id)
        )

    async def conversations(self, query: ConversationQuery) -> list[ConversationRecord]:
        """One page, without tombstones."""
        return await self._read(partial(sqlite_rows.conversations, query=query))

    async def conversations_of(
        self, account: AccountId, session: str, limit: int
    ) -> list[ConversationRecord]:
        """The conversations of one session, without tombstones, the oldest first."""
        return await self._read(
            partial(sqlite_rows.conversations_of, account=account, session=session, limit=limit)
        )

    async def idle_since(self, active_before_ms: int) -> list[ConversationRecord]:
        """Some conversations to forget, the longest idle first."""
        return await self._read(partial(sqlite_rows.idle_since, active_before_ms=active_before_ms))

    async def unsealed(self) -> list[tuple[ConversationRecord, list[TurnRecord]]]:
        """Every conversation with queued, steering or running turns."""
        return await self._read(sqlite_rows.unsealed)

    async def unsealed_of(self, conversation: ConversationKey) -> list[TurnRecord]:
        """Those of one conversation."""
        return await self._read(partial(sqlite_rows.unsealed_of, key=conversation))

    async def turn_by_client_key(
        self, client_key: str
    ) -> tuple[ConversationRecord, TurnRecord] | None:
        """The turn that was accepted under a client's id, `chunks` left empty."""
        return await self._read(partial(sqlite_rows.turn_by_client_key, client_key=client_key))

    async def turn(self, conversation: ConversationKey, turn_id: TurnId) -> TurnRecord | None:
        """One turn of a conversation, `chunks` left empty."""
        return await self._read(partial(sqlite_rows.turn, key=conversation, turn_id=turn_id))

    async def sealed_turns(
        self,
        conversation: ConversationKey,
        *,
        since_seq: int = 0,
        before_seq: int | None = None,
        newest_first: bool = False,
        limit: int,
    ) -> list[SealedTurn]:
        """Sealed turns that have a chunk between the two, by first seq."""
        return await self._read(
            partial(
                sqlite_rows.sealed_turns,
                key=conversation,
                bounds=(since_seq, before_seq),
                limit=limit,
                newest_first=newest_first,
            )
        )

    async def chunk_bytes(self, turns: Sequence[TurnKey]) -> list[bytes]:
        """The whole chunk bytes of turns, in the order asked for."""
        return await self._read(partial(sqlite_rows.chunk_bytes, turns=tuple(turns)))

    async def metrics(self, conversation: ConversationKey) -> list[TurnMetrics]:
        """The metrics of every sealed turn, by first seq."""
        return await self._read(partial(sqlite_rows.metrics, key=conversation))

    async def events(
        self,
        conversation: ConversationKey,
        after_offset: int,
        limit: int,
        *,
        bytes_max: int | None = None,
    ) -> list[EventRecord]:
        """Up to `limit` events with a larger offset, ascending, up to about `bytes_max`."""
        return await self._read(
            partial(
                sqlite_rows.events,
                key=conversation,
                after_offset=after_offset,
                limit=limit,
                bytes_max=bytes_max,
            )
        )

    async def events_of(
        self, turns: Sequence[TurnKey]
    ) -> dict[TurnKey, tuple[int, list[EventRecord]]]:
        """For each turn the bytes staged in its pieces, and all its events, ascending."""
        return await self._read(partial(sqlite_rows.events_of, turns=tuple(turns)))

    async def turn_ids(self, turns: Sequence[TurnKey]) -> dict[TurnKey, TurnId]:
        """The ids of turns by key."""
        return await self._read(partial(sqlite_rows.turn_ids, turns=tuple(turns)))

    async def read_cursor(self, subject: SubjectKey, user: UserId) -> int:
        """How far a user has read; 0 when never."""
        return await self._read(partial(sqlite_rows.read_cursor, key=subject, user=user))


def backup_file(data: Path, target: Path) -> None:
    """What `SqliteStore.backup` does, without a store: also while a daemon has the directory.

    Raises the storage errors of the port.
    """
    directory = DataDirectory(data)
    directory.check_outside(target)
    if not directory.database.exists():
        raise StorageFailed(f"{directory.database} does not exist: nothing to copy")
    try:
        with contextlib.closing(open_to_read(directory.database)) as connection:
            sqlite_schema.copy(connection, target)
    except sqlite3.Error as error:
        raise translate(error, directory.database) from error


def _waiting(connection: Connection) -> int:
    return connection.pending


def _prepare_reader(connection: sqlite3.Connection) -> None:
    configure_reader(connection)
    connection.create_function("mentions", 3, sqlite_rows.mentions, deterministic=True)


def _checkpoint(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def _after(
    first: Callable[[sqlite3.Connection], None],
    work: Callable[[sqlite3.Connection], Result],
    connection: sqlite3.Connection,
) -> Result:
    first(connection)
    return work(connection)
