"""Migrations: forward only, one transaction each, a copy first, and killed at any point.

The scripts here are made up, and come after those that are released, `dispatch/storage/schema/`.
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
from dispatch.storage import sqlite_schema
from dispatch.storage.check import verify
from dispatch.storage.port import Batch
from dispatch.storage.sqlite import SqliteStore
from dispatch.storage.sqlite_schema import Migration, migrations
from tests.contract.store_rows import ACCOUNT, ANN, conversation, timeline, told

RELEASED = migrations()
LAST = RELEASED[-1].version
# Without a truncation: there are no turns that it could have left behind.
ROW = conversation(superseded=b"[]")

NEXT = Migration(
    LAST + 1,
    f"""
    BEGIN IMMEDIATE;
    CREATE TABLE flavour (name TEXT NOT NULL) STRICT;
    INSERT INTO flavour VALUES ('salt');
    ALTER TABLE meta ADD COLUMN flavour TEXT;
    PRAGMA user_version = {LAST + 1};
    COMMIT;
    """,
)
AFTER_NEXT = Migration(
    LAST + 2,
    f"""
    BEGIN IMMEDIATE;
    INSERT INTO flavour VALUES ('pepper');
    PRAGMA user_version = {LAST + 2};
    COMMIT;
    """,
)
FAILS_HALF_WAY = Migration(
    LAST + 2,
    f"""
    BEGIN IMMEDIATE;
    DELETE FROM flavour;
    INSERT INTO nowhere VALUES (1);
    PRAGMA user_version = {LAST + 2};
    COMMIT;
    """,
)


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    """A directory of the last version that is released, with something in it."""
    data = tmp_path / "data"
    store = SqliteStore(data, scripts=RELEASED)
    await store.open()
    await store.commit(Batch(conversations=[ROW]))
    await store.close()
    return data


def read(path: Path, statement: str) -> list[object]:
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute(statement)]


def version(data: Path) -> object:
    return read(data / "dispatch.db", "PRAGMA user_version")[0]


async def open_and_close(data: Path, *scripts: Migration) -> None:
    store = SqliteStore(data, scripts=[*RELEASED, *scripts])
    await store.open()
    try:
        assert await store.conversation(ACCOUNT, ConversationId("c1")) == ROW
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
    await open_and_close(data, NEXT, AFTER_NEXT)
    assert version(data) == LAST + 2
    assert read(data / "dispatch.db", "SELECT name FROM flavour") == ["salt", "pepper"]
    assert read(data / "dispatch.db", "SELECT generation FROM meta") == generation
    await open_and_close(data, NEXT, AFTER_NEXT)
    assert read(data / "dispatch.db", "SELECT name FROM flavour") == ["salt", "pepper"]


async def test_the_old_version_is_copied_before_anything_is_changed(
    data: Path, tmp_path: Path
) -> None:
    await open_and_close(data, NEXT)
    copy = data / f"dispatch.db.before-{LAST + 1}"
    restored = tmp_path / "restored"
    restored.mkdir()
    shutil.copy(copy, restored / "dispatch.db")
    assert version(restored) == LAST
    await open_and_close(restored)
    assert verify(restored) == []


async def test_a_new_directory_is_made_at_the_newest_version_without_a_copy(tmp_path: Path) -> None:
    data = tmp_path / "new"
    store = SqliteStore(data, scripts=[*RELEASED, NEXT, AFTER_NEXT])
    await store.open()
    await store.close()
    assert version(data) == LAST + 2
    assert sorted(path.name for path in data.iterdir()) == ["dispatch.db", "dispatch.lock"]


async def test_a_migration_that_fails_half_way_leaves_the_version_before_it(data: Path) -> None:
    store = SqliteStore(data, scripts=[*RELEASED, NEXT, FAILS_HALF_WAY])
    for _ in range(2):
        with pytest.raises(StorageFailed, match="nowhere"):
            await store.open()
        await store.close()
        assert version(data) == LAST + 1
        assert read(data / "dispatch.db", "SELECT name FROM flavour") == ["salt"]
    await open_and_close(data, NEXT)
    await open_and_close(data, NEXT, AFTER_NEXT)


async def test_a_migration_that_does_not_end_at_its_number_is_refused(data: Path) -> None:
    forgets = Migration(LAST + 1, "BEGIN IMMEDIATE; CREATE TABLE x (y ANY) STRICT; COMMIT;")
    with pytest.raises(StorageFailed, match=f"migration {LAST + 1} left the schema at {LAST}"):
        await SqliteStore(data, scripts=[*RELEASED, forgets]).open()


async def test_without_room_for_the_copy_nothing_is_migrated(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dispatch.storage.sqlite_directory.tempfile.mkstemp", full)
    with pytest.raises(StorageFull, match=f"before-{LAST + 1}"):
        await SqliteStore(data, scripts=[*RELEASED, NEXT]).open()
    monkeypatch.undo()
    assert version(data) == LAST
    await open_and_close(data)


async def test_an_older_dispatch_refuses_a_newer_directory_and_leaves_it(data: Path) -> None:
    await open_and_close(data, NEXT)
    before = (data / "dispatch.db").read_bytes()
    store = SqliteStore(data, scripts=RELEASED)
    with pytest.raises(
        StorageFailed, match=rf"newer dispatch \(its schema is {LAST + 1}.*up to {LAST}\)"
    ):
        await store.open()
    assert (data / "dispatch.db").read_bytes() == before


def said(*words: str) -> str:
    """Chunks as they are kept, as SQL."""
    lines = [f'"role":"user","chunk":{{"type":"text","text":"{word}"}}\n' for word in words]
    return f"x'{''.join(lines).encode().hex()}'"


FIRST_ROWS = f"""
INSERT INTO conversation (
    key, account, id, session, workspace, status, visibility, user, created_at_ms, active_at_ms,
    last_seq, last_offset, epoch, title, last_message, details
) VALUES (
    1, 'acme', 'c1', 's1', 'default', 'idle', 'account', 'ann', 1, 2, 3, 0, 1, 'Title', '', x'7b7d'
);
INSERT INTO cursor (conversation, user, seq) VALUES (1, 'ann', 3);
INSERT INTO turn (
    key, conversation, id, state, ordinal, user, created_at_ms, started_at_ms, sealed_at_ms,
    outcome, first_seq, chunk_count, retained, client_key, digest, acceptance, metrics, chunks, body
) VALUES (
    2, 1, 't2', 'sealed', 2, 'ann', 1, 1, 2, 'completed', 1, 3, 0, 'k2', x'01', x'02', x'7b7d',
    {said("a", "b")}, x'03'
), (
    3, 1, 't3', 'queued', 3, 'ann', 1, NULL, NULL, NULL, NULL, 0, 0, NULL, x'', x'', x'', x'', x'04'
);
INSERT INTO piece (turn, ordinal, first_index, data) VALUES (
    2, 0, 0, {said("0")}
);
"""


async def test_a_directory_of_the_first_schema_keeps_what_is_in_it_and_takes_timelines(
    tmp_path: Path,
) -> None:
    data = tmp_path / "first"
    data.mkdir()
    path = data / "dispatch.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        sqlite_schema.create(connection, RELEASED[:1])
        connection.executescript(FIRST_ROWS)
    assert version(data) == 1
    store = SqliteStore(data)
    opened = await store.open()
    try:
        found = await store.conversation(ACCOUNT, ConversationId("c1"))
        assert found is not None
        assert (found.key, found.title, found.last_seq) == (1, "Title", 3)
        assert await store.read_cursor(found.key, ANN) == 3
        assert opened.next_key == 4
        (sealed,) = await store.sealed_turns(found.key, limit=9)
        assert (sealed.id, sealed.seqs, sealed.resumes) == ("t2", range(1, 4), None)
        (chunks,) = await store.chunk_bytes([sealed.key])
        assert [line[-3:-2] for line in chunks.split(b"\n")[:-1]] == [b"0", b"a", b"b"]
        (queued,) = await store.unsealed_of(found.key)
        assert (queued.id, queued.body) == ("t3", b"\x04")
        repeated = await store.turn_by_client_key("k2")
        assert repeated is not None
        assert (repeated[1].digest, repeated[1].acceptance) == (b"\x01", b"\x02")
        await store.commit(Batch(timelines=[timeline(41)], timeline_events=[told(5, 41)]))
        assert await store.stream_head("stream 41") == 5
        assert (await store.log("stream 41", 0, 9)).floor == 0
    finally:
        await store.close()
    assert version(data) == LAST
    assert version_of_copy(data) == 1
    assert [found for found in verify(data) if found.startswith("conversation")] == []


def version_of_copy(data: Path) -> object:
    return read(data / "dispatch.db.before-2", "PRAGMA user_version")[0]


KILLED_AT = """
import asyncio, os, signal, sqlite3, sys
from pathlib import Path
from dispatch.storage import sqlite_schema
from dispatch.storage.sqlite import SqliteStore
from tests.storage.test_sqlite_upgrade import NEXT, AFTER_NEXT

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
store = SqliteStore(Path(sys.argv[1]), scripts=[*sqlite_schema.migrations(), NEXT, AFTER_NEXT])
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
        assert tables == ([] if reached == LAST else ["flavour"])
        # Whatever it left is taken up and finished.
        store = SqliteStore(copy, scripts=[*RELEASED, NEXT, AFTER_NEXT])
        await store.open()
        await store.close()
        assert version(copy) == LAST + 2
        assert read(copy / "dispatch.db", "SELECT name FROM flavour") == ["salt", "pepper"]
        assert read(copy / "dispatch.db", "PRAGMA integrity_check") == ["ok"]
    assert {LAST, LAST + 2} <= seen
