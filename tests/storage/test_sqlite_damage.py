"""What the durable store does with damaged files: say so, name them, and leave them as they are."""

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from dispatch.errors import (
    DispatchError,
    StorageCorrupt,
    StorageFailed,
)
from dispatch.storage.keys import ConversationKey, TurnKey
from dispatch.storage.port import Batch
from dispatch.storage.sqlite import SqliteStore
from tests.contract.store_rows import events
from tests.storage.filled import fill, integrity, opened


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


async def make(data: Path) -> None:
    async with opened(SqliteStore(data)) as store:
        await fill(store)
        for number in range(200):
            payload = b"x" * 1_000
            await store.commit(
                Batch(events=[e._replace(payload=payload) for e in events(1, 2, 4 + number, 1)])
            )


def contents(data: Path) -> dict[str, bytes]:
    """What must not change: everything but the lock and the log's index."""
    left_out = {"dispatch.lock", "dispatch.db-shm"}
    found = {path.name: path.read_bytes() for path in data.iterdir() if path.name not in left_out}
    if found.get("dispatch.db-wal") == b"":
        # Whoever only reads may leave an empty one.
        del found["dispatch.db-wal"]
    return found


async def assert_not_opened(
    data: Path, said: str, error: type[DispatchError] = StorageCorrupt
) -> None:
    before = contents(data)
    for _ in range(2):
        store = SqliteStore(data)
        with pytest.raises(error, match=said) as caught:
            await store.open()
        await store.close()
        assert str(data) in caught.value.message
        assert contents(data) == before


async def test_an_empty_file_is_damage_and_not_a_beginning(data: Path) -> None:
    await make(data)
    (data / "dispatch.db").write_bytes(b"")
    await assert_not_opened(data, "is empty")


async def test_an_empty_file_beside_its_log_is_left_as_it_is(data: Path) -> None:
    await crash(data)
    (data / "dispatch.db").write_bytes(b"")
    await assert_not_opened(data, "is empty")


async def test_a_log_without_its_database_is_not_begun_anew(data: Path) -> None:
    await crash(data)
    (data / "dispatch.db").unlink()
    await assert_not_opened(data, "is missing")


@pytest.mark.parametrize("header", [b"garbage", b"garbage" * 1_000, b"SQLite format 3\0"])
async def test_a_file_that_does_not_begin_like_a_database_is_left_as_it_is(
    data: Path, header: bytes
) -> None:
    data.mkdir()
    (data / "dispatch.db").write_bytes(header)
    await assert_not_opened(data, "not a database")


async def test_a_damaged_header_is_found(data: Path) -> None:
    await make(data)
    with (data / "dispatch.db").open("r+b") as file:
        file.write(os.urandom(16))
    await assert_not_opened(data, "beginning is damaged")


async def test_another_programs_database_is_left_as_it_is(data: Path) -> None:
    data.mkdir()
    with closing(sqlite3.connect(data / "dispatch.db")) as connection:
        connection.execute("CREATE TABLE notes (text TEXT)")
    await assert_not_opened(data, "another program")


async def test_a_newer_database_is_refused_and_left_as_it_is(data: Path) -> None:
    await make(data)
    with closing(sqlite3.connect(data / "dispatch.db")) as connection:
        connection.execute("PRAGMA user_version = 99")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    await assert_not_opened(data, "newer dispatch", StorageFailed)


async def crash(data: Path) -> None:
    """A directory as a killed process leaves it: with a log, and not marked as closed."""
    alive = data.with_name("alive")
    async with opened(SqliteStore(alive)) as store:
        await fill(store)
        for number in range(200):
            await store.commit(Batch(events=events(1, 2, 4 + number, 1)))
        shutil.copytree(alive, data)
    (data / "dispatch.db-shm").unlink()


async def test_a_crash_loses_nothing(data: Path) -> None:
    await crash(data)
    async with opened(SqliteStore(data)) as store:
        assert len(await store.events(ConversationKey(1), 0, 1_000)) == 203


async def test_a_log_cut_anywhere_loses_whole_commits_from_its_end_alone(data: Path) -> None:
    await crash(data)
    log = (data / "dispatch.db-wal").read_bytes()
    main = (data / "dispatch.db").read_bytes()
    found: list[int] = []
    for cut in range(0, len(log), len(log) // 40):
        for suffix in ("-shm", ""):
            (data / f"dispatch.db{suffix}").unlink(missing_ok=True)
        (data / "dispatch.db").write_bytes(main)
        (data / "dispatch.db-wal").write_bytes(log[:cut])
        async with opened(SqliteStore(data)) as store:
            shown = await store.events(ConversationKey(1), 0, 1_000)
            assert [event.offset for event in shown] == list(range(1, len(shown) + 1))
            found.append(len(shown))
        assert integrity(data) == "ok"
    assert found == sorted(found)


def spoil(data: Path) -> None:
    """Overwrite the middle of the file: neither where every table begins nor what came last."""
    path = data / "dispatch.db"
    size = path.stat().st_size
    with path.open("r+b") as file:
        for page in range(50, size // 4096 - 20, 2):
            file.seek(page * 4096)
            file.write(os.urandom(4096))


async def test_damage_in_the_middle_is_found_after_a_crash(data: Path) -> None:
    await make(data)
    with closing(sqlite3.connect(data / "dispatch.db", isolation_level=None)) as connection:
        connection.execute("UPDATE meta SET clean = 0")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    spoil(data)
    await assert_not_opened(data, "restore the last backup")


async def test_damage_met_while_reading_is_an_error_of_ours_and_others_are_still_served(
    data: Path,
) -> None:
    await make(data)
    spoil(data)
    async with opened(SqliteStore(data)) as store:
        with pytest.raises(StorageCorrupt, match=r"dispatch\.db.*backup"):
            await store.chunk_bytes([TurnKey(3)])
        assert await store.read_cursor(ConversationKey(1), "ann") == 0
