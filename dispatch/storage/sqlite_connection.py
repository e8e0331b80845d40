"""One connection to an SQLite file: work runs in its thread, errors leave as ours.

Neighbours: `sqlite` keeps one writer and a few readers; `sqlite_schema` and `sqlite_batch` are the
functions that run there. `translate` is the door where `sqlite3.Error` becomes a published code.
Invariant: what was handed to `run` is executed wholly and in order, whatever becomes of the caller.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal, TypeVar

import aiosqlite

from dispatch.errors import (
    Conflict,
    DispatchError,
    Fenced,
    StorageCorrupt,
    StorageFailed,
    StorageFull,
    StorageLocked,
)

Synchronous = Literal["full", "normal", "off"]
Result = TypeVar("Result")

_SYNCHRONOUS: Final = {
    "full": "PRAGMA synchronous = FULL",
    "normal": "PRAGMA synchronous = NORMAL",
    "off": "PRAGMA synchronous = OFF",
}
# Every statement of the adapter stays prepared.
_STATEMENTS_MAX: Final = 128
_PRIMARY_CODE: Final = 0xFF


class Connection:
    """An open database file and the thread that owns it."""

    __slots__ = ("_link", "_writes", "failed", "path", "pending")

    def __init__(self, link: aiosqlite.Connection, path: Path, *, writes: bool) -> None:
        """Wrap an open connection; `open` is how to get one."""
        self._link = link
        self._writes = writes
        self.path = path
        self.pending = 0
        # A write that the disk failed leaves it unknown what is in the file and what in its cache.
        self.failed = False

    @classmethod
    async def open(
        cls, path: Path, access: Literal["rw", "ro", "immutable"], busy_seconds: float
    ) -> Connection:
        """Open a file; `immutable` reads the main file alone, without its log.

        Raises the storage errors of the port.
        """
        link = aiosqlite.connect(
            _uri(path, "immutable=1" if access == "immutable" else f"mode={access}"),
            uri=True,
            isolation_level=None,
            timeout=busy_seconds,
            cached_statements=_STATEMENTS_MAX,
        )
        try:
            await link
        except sqlite3.Error as error:
            raise translate(error, path) from error
        return cls(link, path, writes=access == "rw")

    async def run(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Run `work` in the connection's thread: one hop, however many statements.

        A cancelled caller leaves at once; the thread goes on to the end of `work` all the same.
        """
        if self.failed:
            raise StorageFailed(f"{self.path}: an earlier write failed and left its state unknown")
        connection = self._link._conn

        def execute() -> Result:
            # A plain function, because aiosqlite logs what it executes, with all its arguments.
            return work(connection)

        self.pending += 1
        try:
            # The public API of aiosqlite costs a hop to the thread and back for each statement,
            # some 100 µs; a batch is thirty statements. This is the one place that goes past it.
            return await self._link._execute(execute)  # type: ignore[no-untyped-call,no-any-return]
        except sqlite3.Error as error:
            translated = translate(error, self.path)
            if self._writes and isinstance(translated, StorageFailed):
                self.failed = _code(error) & _PRIMARY_CODE == sqlite3.SQLITE_IOERR
            raise translated from error
        finally:
            self.pending -= 1

    async def close(self) -> None:
        """After everything that was handed to `run`. Raises the storage errors of the port."""
        try:
            await self._link.close()
        except sqlite3.Error as error:
            raise translate(error, self.path) from error


def open_to_read(path: Path, busy_seconds: float = 5.0) -> sqlite3.Connection:
    """A connection for a program that is no daemon: it waits for nothing but the disk.

    Raises sqlite3.Error.
    """
    connection = sqlite3.connect(
        _uri(path, "mode=ro"), uri=True, isolation_level=None, timeout=busy_seconds
    )
    configure_reader(connection)
    return connection


def configure_writer(connection: sqlite3.Connection, synchronous: Synchronous) -> None:
    """What the writing connection is set to; it alone moves the log into the file."""
    _distrust(connection)
    if connection.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
        raise StorageFailed("the file system cannot hold a write-ahead log (is it a network disk?)")
    connection.execute(_SYNCHRONOUS[synchronous])
    # macOS answers an ordinary fsync before the disk has anything.
    connection.execute("PRAGMA fullfsync = ON")
    connection.execute("PRAGMA checkpoint_fullfsync = ON")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    connection.execute("PRAGMA wal_autocheckpoint = 1000")
    connection.execute("PRAGMA cache_size = -16384")
    # Wipes what is deleted wherever that costs no page of its own.
    connection.execute("PRAGMA secure_delete = FAST")


def configure_reader(connection: sqlite3.Connection) -> None:
    """What a reading connection is set to."""
    _distrust(connection)
    connection.execute("PRAGMA query_only = ON")
    # Two connections that checkpoint can damage the file (SQLite 3.7.0 to 3.51.2).
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("PRAGMA cache_size = -8192")


def _uri(path: Path, query: str) -> str:
    # A name alone would be created where it does not exist.
    return f"{path.absolute().as_uri()}?{query}"


def _distrust(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    # A damaged page read through a map ends the process; read through a call it is an error.
    connection.execute("PRAGMA mmap_size = 0")
    connection.execute("PRAGMA temp_store = MEMORY")


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of the block, or nothing of it. The lock is taken before anything is read."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


@contextlib.contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """Several reads of one state: that of the outermost of these blocks."""
    is_outermost = not connection.in_transaction
    if is_outermost:
        connection.execute("BEGIN")
    try:
        yield
    finally:
        if is_outermost and connection.in_transaction:
            connection.execute("COMMIT")


def require_match(
    connection: sqlite3.Connection, statement: str, rows: Sequence[Sequence[object]], what: str
) -> None:
    """Run a statement for each row; raises `Fenced` unless each has changed a row of the table."""
    if rows and connection.executemany(statement, rows).rowcount != len(rows):
        raise Fenced(f"{what} is not what the batch was decided on")


def translate(error: sqlite3.Error, path: Path) -> DispatchError:
    """The published error for one of SQLite's, with the file it is about."""
    code = _code(error)
    if code == sqlite3.SQLITE_IOERR_SHMSIZE:
        # The log's index could not grow: the disk is full before anything was written.
        return StorageFull(f"{path}: no space left on the disk")
    match code & _PRIMARY_CODE:
        case sqlite3.SQLITE_FULL:
            return StorageFull(f"{path}: no space left on the disk")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StorageLocked(f"{path}: another process holds the database's lock")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return StorageCorrupt(
                f"{path}: {error}. It is left as it is. Stop the daemon, keep a copy of the whole "
                f"directory, and restore the last backup over {path.name}"
            )
        case sqlite3.SQLITE_CONSTRAINT:
            return _violated(error, path)
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return StorageFailed(
                f"{path}: {error}. The daemon's user needs to read and write the directory"
            )
        case _:
            return StorageFailed(f"{path}: {error}")


def _violated(error: sqlite3.Error, path: Path) -> DispatchError:
    text = str(error)
    if "turn.client_key" in text or "timeline_row.client_key" in text:
        return Conflict("this client id was used before")
    if "conversation.account" in text:
        return Conflict("this conversation id was used before")
    if "timeline.account" in text:
        return Conflict("this id or alias of a timeline was used before")
    if _code(error) in _TAKEN:
        return Fenced(f"{path}: somebody else wrote here ({error})")
    if _code(error) == sqlite3.SQLITE_CONSTRAINT_NOTNULL and "event.conversation" in text:
        # What the statement looks up for a turn that is gone, or for another incarnation.
        return Fenced(f"{path}: an event of a turn that is not there, or no longer ours")
    return StorageFailed(f"{path}: {error}")


# A key, position, offset or ordinal of ours is taken: the batch was decided on a state that is no
# longer the store's.
_TAKEN: Final = frozenset(
    {
        sqlite3.SQLITE_CONSTRAINT_UNIQUE,
        sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
        sqlite3.SQLITE_CONSTRAINT_ROWID,
    }
)


def _code(error: sqlite3.Error) -> int:
    # Errors of the module itself (a closed connection, a wrong number of values) carry none.
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code
