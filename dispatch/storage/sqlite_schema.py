"""The schema and what is done once at each opening: make, migrate, check, take over.

Neighbours: `schema/NNN-claim.sql` are the migrations; `sqlite` calls these in the writer's thread,
in this order. A migration is a script with its own transaction that ends at its number.
Invariant: an existing database is copied before it is migrated, a newer one is refused, and a
history that was copied or set back is opened under a new generation.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Final, NamedTuple

from dispatch.errors import StorageCorrupt, StorageFailed
from dispatch.storage.generation import MintGeneration
from dispatch.storage.port import Opened
from dispatch.storage.sqlite_connection import transaction, translate
from dispatch.storage.sqlite_directory import published

# `quick_check` reads the whole file; beyond this it would hold the start up for too long.
QUICK_CHECK_BYTES_MAX: Final = 256 * 1024 * 1024


class Migration(NamedTuple):
    """One script. It begins and commits its own transaction and sets `user_version`."""

    version: int
    script: str


def migrations() -> tuple[Migration, ...]:
    """The scripts of this version of dispatch, in order."""
    folder = resources.files("dispatch.storage").joinpath("schema")
    return tuple(
        Migration(int(file.name.partition("-")[0]), file.read_text("utf-8"))
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
        if file.name.endswith(".sql")
    )


def create(connection: sqlite3.Connection, scripts: Sequence[Migration]) -> None:
    """Fill an empty file: every migration, and the row that `take_over` will fill in."""
    for migration in scripts:
        _apply(connection, migration)
    connection.execute(INSERT_META)


def is_untouched_backup(connection: sqlite3.Connection) -> bool:
    """Whether the main file, read without its log, is a copy that was never opened."""
    try:
        return bool(connection.execute("SELECT backup FROM meta").fetchone() == (1,))
    except sqlite3.DatabaseError:
        # Half of a checkpoint may be in the main file; with its log it is whole.
        return False


def inspect(connection: sqlite3.Connection, database: Path, scripts: Sequence[Migration]) -> None:
    """Refuse what this version cannot read, and after an unclean end look for damage, if quick.

    Raises `StorageFailed` for a database of a newer dispatch, `StorageCorrupt`.
    """
    version, newest = _version(connection), scripts[-1].version
    if version > newest:
        raise StorageFailed(
            f"{database} was written by a newer dispatch (its schema is {version}, this one knows "
            f"up to {newest}): start that version, or restore a backup made before it"
        )
    if connection.execute("SELECT clean FROM meta").fetchone() == (1,) or (
        database.stat().st_size > QUICK_CHECK_BYTES_MAX
    ):
        return
    found = [text for (text,) in connection.execute("PRAGMA quick_check(5)")]
    if found != ["ok"]:
        raise StorageCorrupt(
            f"{database} is damaged: {'; '.join(found)}. It is left as it is. Keep a copy of the "
            "whole directory, and restore the last backup"
        )


def migrate(
    connection: sqlite3.Connection, database: Path, scripts: Sequence[Migration]
) -> Path | None:
    """Bring an existing database to the last version, a copy first; where the copy is.

    Each script is one transaction: a failure leaves the version before it.
    """
    version = _version(connection)
    due = [migration for migration in scripts if migration.version > version]
    if not due:
        return None
    aside = database.with_name(f"{database.name}.before-{due[0].version}")
    copy(connection, aside)
    for migration in due:
        _apply(connection, migration)
    return aside


def _apply(connection: sqlite3.Connection, migration: Migration) -> None:
    try:
        connection.executescript(migration.script)
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    if (version := _version(connection)) != migration.version:
        raise StorageFailed(f"migration {migration.version} left the schema at {version}")


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def take_over(
    connection: sqlite3.Connection, database: Path, last_incarnation: int, mint: MintGeneration
) -> Opened:
    """Raise the incarnation, and begin a new generation if the file is a copy or was set back.

    `last_incarnation` is what the lock file remembers: a database that is behind it was put back
    from a copy that SQLite cannot tell from the original.
    """
    # Some file systems use all 64 bits, and SQLite's integers are signed.
    inode = database.stat().st_ino & (2**63 - 1)
    with transaction(connection):
        row = connection.execute(
            "SELECT generation, incarnation, inode, backup FROM meta"
        ).fetchone()
        if row is None:
            raise StorageCorrupt("the database does not say which history it holds (meta is empty)")
        generation, incarnation, recorded_inode, is_backup = row
        if is_backup or recorded_inode != inode or incarnation < last_incarnation:
            generation = mint()
        incarnation = max(incarnation, last_incarnation) + 1
        raise_floors(connection)
        connection.execute(RAISE_POSITION)
        connection.execute(UPDATE_META, (generation, incarnation, inode))
        next_position, next_key = connection.execute(
            "SELECT next_position, next_key FROM meta"
        ).fetchone()
    if is_backup:
        # Gone from the main file itself before anything else is in the log: a flag there means
        # that the log beside it belongs to another file.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return Opened(generation, incarnation, next_position, next_key)


def mark_clean(connection: sqlite3.Connection, incarnation: int) -> None:
    """The last write of an incarnation, so that the next start need not look for damage."""
    connection.execute("UPDATE meta SET clean = 1 WHERE incarnation = ?", (incarnation,))


def raise_floors(connection: sqlite3.Connection) -> None:
    """Before rows go away: remember that their positions and keys are used up."""
    connection.execute(RAISE_FLOORS)


def copy(connection: sqlite3.Connection, target: Path) -> None:
    """A consistent, checked copy of the database that knows that it is one, under `target`.

    Raises the storage errors of the port; what is missing or damaged there is the copy's.
    """
    try:
        with (
            published(target) as temporary,
            contextlib.closing(sqlite3.connect(temporary, isolation_level=None)) as destination,
        ):
            connection.backup(destination)
            # The header was copied too; a copy is one file, without a log.
            destination.execute("PRAGMA journal_mode = DELETE")
            destination.execute("UPDATE meta SET backup = 1, clean = 1")
            found = destination.execute("PRAGMA integrity_check(1)").fetchone()
            if found != ("ok",):
                raise StorageCorrupt(f"the copy of the database is damaged: {found[0]}")
    except sqlite3.Error as error:
        raise translate(error, target) from error


INSERT_META: Final = """
INSERT INTO meta (id, generation, incarnation, next_position, next_key, inode, backup, clean)
VALUES (1, '', 0, 1, 1, 0, 0, 1)
"""

UPDATE_META: Final = """
UPDATE meta SET generation = ?, incarnation = ?, inode = ?, backup = 0, clean = 0
"""

RAISE_FLOORS: Final = """
UPDATE meta SET
    next_position = max(
        next_position,
        (SELECT coalesce(max(position), 0) + 1 FROM event),
        (SELECT coalesce(max(position), 0) + 1 FROM timeline_event)
    ),
    next_key = max(
        next_key,
        (SELECT coalesce(max(key), 0) + 1 FROM conversation),
        (SELECT coalesce(max(key), 0) + 1 FROM turn),
        (SELECT coalesce(max(key), 0) + 1 FROM timeline),
        (SELECT coalesce(max(key), 0) + 1 FROM timeline_row)
    )
"""

# Walks over every timeline, so at an opening alone: a tombstone keeps its last position.
RAISE_POSITION: Final = """
UPDATE meta SET
    next_position = max(
        next_position, (SELECT coalesce(max(last_position), 0) + 1 FROM timeline)
    )
"""
