"""Migrations: forward only, one transaction each, a copy first, and killed at any point.

The scripts here are made up; those that are released are `dispatch/storage/schema/`.
"""

import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from dispatch.core.identity import ConversationId
from dispatch.errors import StorageFailed, StorageFull
from dispatch.storage.check import verify
from dispatch.storage.port import Batch
from dispatch.storage.sqlite import SqliteStore
from dispatch.storage.sqlite_schema import Migration, migrations
from tests.contract.store_rows import ACCOUNT, conversation

SECOND = Migration(
    2,
    """
    BEGIN IMMEDIATE;
    CREATE TABLE flavour (name TEXT NOT NULL) STRICT;
    INSERT INTO flavour VALUES ('salt');
    ALTER TABLE meta ADD COLUMN flavour TEXT;
    PRAGMA user_version = 2;
    COMMIT;
    """,
)
THIRD = Migration(
    3,
    """
    BEGIN IMMEDIATE;
    INSERT INTO flavour VALUES ('pepper');
    PRAGMA user_version = 3;
    COMMIT;
    """,
)
FAILS_HALF_WAY = Migration(
    3,
    """
    BEGIN IMMEDIATE;
    DELETE FROM flavour;
    INSERT INTO nowhere VALUES (1);
    PRAGMA user_version = 3;
    COMMIT;
    """,
)


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    """A directory of the first version, with something in it."""
    data = tmp_path / "data"
    store = SqliteStore(data, scripts=migrations()[:1])
    await store.open()
    await store.commit(Batch(conversations=[conversation()]))
    await store.close()
    return data


def read(path: Path, statement: str) -> list[object]:
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute(statement)]


def version(data: Path) -> object:
    return read(data / "dispatch.db", "PRAGMA user_version")[0]


async def open_and_close(data: Path, *scripts: Migration) -> None:
    store = SqliteStore(data, scripts=[*migrations()[:1], *scripts])
    await store.open()
    try:
        assert await store.conversation(ACCOUNT, ConversationId("c1")) == conversation()
    finally:
        await store.close()


def test_the_released_scripts_are_numbered_from_one_without_a_gap_and_are_one_transaction() -> None:
    scripts = migrations()
    assert [script.version for script in scripts] == list(range(1, len(scripts) + 1))
    for number, script in scripts:
        assert len(re.findall(r"^BEGIN IMMEDIATE;$", script, re.MULTILINE)) == 1
        assert script.endswith(f"PRAGMA user_version = {number};\nCOMMIT;\n")


def test_every_script_is_part_of_the_package() -> None:
    folder = Path(sys.modules["dispatch.storage"].__file__ or "").parent / "schema"
    assert len(migrations()) == len(list(folder.glob("[0-9][0-9][0-9]-*.sql")))
    assert len(migrations()) == len(list(folder.iterdir()))


async def test_an_old_directory_is_brought_to_the_newest_version_step_by_step(data: Path) -> None:
    generation = read(data / "dispatch.db", "SELECT generation FROM meta")
    await open_and_close(data, SECOND, THIRD)
    assert version(data) == 3
    assert read(data / "dispatch.db", "SELECT name FROM flavour") == ["salt", "pepper"]
    assert read(data / "dispatch.db", "SELECT generation FROM meta") == generation
    await open_and_close(data, SECOND, THIRD)
    assert read(data / "dispatch.db", "SELECT name FROM flavour") == ["salt", "pepper"]


async def test_the_old_version_is_copied_before_anything_is_changed(
    data: Path, tmp_path: Path
) -> None:
    await open_and_close(data, SECOND)
    copy = data / "dispatch.db.before-2"
    restored = tmp_path / "restored"
    restored.mkdir()
    shutil.copy(copy, restored / "dispatch.db")
    assert version(restored) == 1
    await open_and_close(restored)
    assert verify(restored) == []


async def test_a_new_directory_is_made_at_the_newest_version_without_a_copy(tmp_path: Path) -> None:
    data = tmp_path / "new"
    store = SqliteStore(data, scripts=[*migrations()[:1], SECOND, THIRD])
    await store.open()
    await store.close()
    assert version(data) == 3
    assert sorted(path.name for path in data.iterdir()) == ["dispatch.db", "dispatch.lock"]


async def test_a_migration_that_fails_half_way_leaves_the_version_before_it(data: Path) -> None:
    store = SqliteStore(data, scripts=[*migrations()[:1], SECOND, FAILS_HALF_WAY])
    for _ in range(2):
        with pytest.raises(StorageFailed, match="nowhere"):
            await store.open()
        await store.close()
        assert version(data) == 2
        assert read(data / "dispatch.db", "SELECT name FROM flavour") == ["salt"]
    await open_and_close(data, SECOND)
    await open_and_close(data, SECOND, THIRD)


async def test_a_migration_that_does_not_end_at_its_number_is_refused(data: Path) -> None:
    forgets = Migration(2, "BEGIN IMMEDIATE; CREATE TABLE x (y ANY) STRICT; COMMIT;")
    with pytest.raises(StorageFailed, match="migration 2 left the schema at 1"):
        await SqliteStore(data, scripts=[*migrations()[:1], forgets]).open()


async def test_without_room_for_the_copy_nothing_is_migrated(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dispatch.storage.sqlite_directory.tempfile.mkstemp", full)
    with pytest.raises(StorageFull, match="before-2"):
        await SqliteStore(data, scripts=[*migrations()[:1], SECOND]).open()
    monkeypatch.undo()
    assert version(data) == 1
    await open_and_close(data)


async def test_an_older_dispatch_refuses_a_newer_directory_and_leaves_it(data: Path) -> None:
    await open_and_close(data, SECOND)
    before = (data / "dispatch.db").read_bytes()
    store = SqliteStore(data, scripts=migrations()[:1])
    with pytest.raises(StorageFailed, match=r"newer dispatch \(its schema is 2.*up to 1\)"):
        await store.open()
    assert (data / "dispatch.db").read_bytes() == before


KILLED_AT = """
import asyncio, os, signal, sqlite3, sys
from pathlib import Path
from dispatch.storage import sqlite_schema
from dispatch.storage.sqlite import SqliteStore
from tests.storage.test_sqlite_upgrade import SECOND, THIRD

steps = int(sys.argv[2])
apply = sqlite_schema._apply

def die(*_):
    global steps
    steps -= 1
    if steps == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return 0

def watched(connection, migration):
    # Called every few instructions of SQLite's machine: inside statements, between them, at COMMIT.
    connection.set_progress_handler(die, 5)
    apply(connection, migration)

sqlite_schema._apply = watched
store = SqliteStore(Path(sys.argv[1]), scripts=[*sqlite_schema.migrations()[:1], SECOND, THIRD])
asyncio.run(store.open())
os._exit(0)
"""


@pytest.mark.slow
async def test_a_migration_killed_anywhere_is_whole_or_absent(data: Path, tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    seen = set()
    for steps in (1, 3, 9, 20, 40, 60, 80, 100, 150, 10**9):
        copy = tmp_path / f"killed after {steps}"
        shutil.copytree(data, copy)
        child = subprocess.run(
            [sys.executable, "-c", KILLED_AT, str(copy), str(steps)], cwd=root, check=False
        )
        assert child.returncode in (0, -signal.SIGKILL)
        reached = version(copy)
        seen.add(reached)
        tables = read(copy / "dispatch.db", "SELECT name FROM sqlite_schema WHERE name = 'flavour'")
        assert tables == ([] if reached == 1 else ["flavour"])
        # Whatever it left is taken up and finished.
        store = SqliteStore(copy, scripts=[*migrations()[:1], SECOND, THIRD])
        await store.open()
        await store.close()
        assert version(copy) == 3
        assert read(copy / "dispatch.db", "SELECT name FROM flavour") == ["salt", "pepper"]
        assert read(copy / "dispatch.db", "PRAGMA integrity_check") == ["ok"]
    assert {1, 3} <= seen
