"""The durable store: held to the port by the suite that holds every store, and its own habits."""

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from dispatch.core.identity import ConversationId
from dispatch.errors import Refused, StorageBusy, StorageFailed
from dispatch.storage.port import Batch
from dispatch.storage.sqlite import SqliteStore, backup_file
from tests.contract.store import StoreContract
from tests.contract.store_rows import ACCOUNT, conversation, events, query, turn
from tests.contract.store_shelf import Shelf


class SqliteShelf:
    """Stores on one data directory."""

    def __init__(self, data: Path) -> None:
        self.data = data

    def build(self) -> SqliteStore:
        return SqliteStore(self.data)

    async def take_over(self) -> None:
        # The lock keeps every honest daemon out; this is what one on another machine would do.
        with closing(sqlite3.connect(self.data / "dispatch.db")) as connection, connection:
            connection.execute("UPDATE meta SET incarnation = incarnation + 1")

    def restore(self, backup: Path) -> Shelf:
        data = self.data.with_name("restored")
        data.mkdir()
        shutil.copy(backup, data / "dispatch.db")
        return SqliteShelf(data)


class TestSqliteStore(StoreContract):
    @pytest.fixture
    def shelf(self, tmp_path: Path) -> Shelf:
        return SqliteShelf(tmp_path / "data")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


async def begin(data: Path) -> str:
    """Make a store with one conversation in it; the generation."""
    store = SqliteStore(data)
    opened = await store.open()
    await store.commit(Batch(conversations=[conversation()], turns=[turn(2)]))
    await store.close()
    return opened.generation


# The directory


async def test_the_directory_and_its_files_are_the_owners_alone(data: Path) -> None:
    store = SqliteStore(data / "made" / "on the way?#%")
    await store.open()
    try:
        inside = data / "made" / "on the way?#%"
        assert stat.S_IMODE(inside.stat().st_mode) == 0o700
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in inside.iterdir()}
        assert set(modes) == {"dispatch.db", "dispatch.db-wal", "dispatch.db-shm", "dispatch.lock"}
        assert set(modes.values()) == {0o600}
    finally:
        await store.close()


async def test_a_clean_close_leaves_one_file_without_a_log(data: Path) -> None:
    await begin(data)
    assert sorted(path.name for path in data.iterdir()) == ["dispatch.db", "dispatch.lock"]


async def test_a_second_store_is_refused_at_once_and_the_first_goes_on(data: Path) -> None:
    first, second = SqliteStore(data), SqliteStore(data)
    await first.open()
    try:
        with pytest.raises(StorageBusy, match=f"process {os.getpid()}"):
            await second.open()
        await second.close()
        await first.commit(Batch(conversations=[conversation()]))
    finally:
        await first.close()
    await second.open()
    await second.close()


SECOND_DAEMON = """
import asyncio, sys
from pathlib import Path
from dispatch.errors import StorageBusy
from dispatch.storage.sqlite import SqliteStore
async def main():
    store = SqliteStore(Path(sys.argv[1]))
    try:
        await store.open()
    except StorageBusy as error:
        print("busy:", error)
    else:
        print("opened")
        await store.close()
asyncio.run(main())
"""


async def test_another_process_is_refused_with_a_message_that_says_what_to_do(data: Path) -> None:
    def second() -> str:
        command = [sys.executable, "-c", SECOND_DAEMON, str(data)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    store = SqliteStore(data)
    await store.open()
    try:
        said = await anyio.to_thread.run_sync(second)
    finally:
        await store.close()
    assert said.startswith("busy:")
    assert str(data) in said
    assert f"process {os.getpid()}" in said
    assert "--data" in said
    assert await anyio.to_thread.run_sync(second) == "opened\n"


async def test_a_failed_opening_gives_the_directory_back(data: Path) -> None:
    await begin(data)
    whole = (data / "dispatch.db").read_bytes()
    (data / "dispatch.db").write_bytes(b"")
    store = SqliteStore(data)
    with pytest.raises(Exception, match="empty"):
        await store.open()
    (data / "dispatch.db").write_bytes(whole)
    await store.open()
    await store.close()


async def test_opening_twice_is_refused_and_harms_nothing(data: Path) -> None:
    store = SqliteStore(data)
    await store.open()
    try:
        with pytest.raises(StorageFailed, match="already"):
            await store.open()
        await store.commit(Batch(conversations=[conversation()]))
    finally:
        await store.close()


async def test_a_file_half_made_by_a_killed_start_is_swept_away(data: Path) -> None:
    data.mkdir()
    (data / ".dispatch.db.abc.partial").write_bytes(b"")
    (data / ".dispatch.db.abc.partial-journal").write_bytes(b"x")
    await begin(data)
    assert sorted(path.name for path in data.iterdir()) == ["dispatch.db", "dispatch.lock"]


# The history's name


async def test_the_generation_comes_from_the_source_given(data: Path) -> None:
    store = SqliteStore(data, mint=lambda: "fixed123")
    assert (await store.open()).generation == "fixed123"
    await store.close()


async def generation_of(data: Path) -> str:
    store = SqliteStore(data)
    opened = await store.open()
    assert await store.conversation(ACCOUNT, ConversationId("c1")) is not None
    await store.close()
    return opened.generation


async def test_a_directory_that_was_moved_keeps_its_generation(data: Path) -> None:
    generation = await begin(data)
    moved = data.rename(data.with_name("moved"))
    assert await generation_of(moved) == generation


async def test_a_directory_that_was_copied_has_a_new_generation_once(data: Path) -> None:
    generation = await begin(data)
    copied = data.with_name("copied")
    shutil.copytree(data, copied)
    again = await generation_of(copied)
    assert again != generation
    assert await generation_of(copied) == again
    assert await generation_of(data) == generation


async def test_a_file_put_back_in_place_has_a_new_generation(data: Path) -> None:
    """Nothing in the file tells it from the original, not even its inode: the lock file does."""
    generation = await begin(data)
    old = (data / "dispatch.db").read_bytes()
    assert await generation_of(data) == generation
    with (data / "dispatch.db").open("r+b") as file:
        file.write(old)
        file.truncate()
    again = await generation_of(data)
    assert again != generation
    assert await generation_of(data) == again


async def test_a_backup_put_back_in_place_has_a_new_generation(data: Path, tmp_path: Path) -> None:
    """Neither its inode nor its incarnation tells it from the file it replaces: its mark does."""
    store = SqliteStore(data)
    first = await store.open()
    await store.commit(Batch(conversations=[conversation()]))
    await store.backup(tmp_path / "backup")
    await store.close()
    (data / "dispatch.db").write_bytes((tmp_path / "backup").read_bytes())
    again = await generation_of(data)
    assert again != first.generation
    assert await generation_of(data) == again


async def test_a_backup_put_over_a_crashed_store_does_not_read_its_log(
    data: Path, tmp_path: Path
) -> None:
    store = SqliteStore(data)
    await store.open()
    await store.commit(Batch(conversations=[conversation(title="in the backup")]))
    await store.backup(tmp_path / "backup")
    for number in range(50):
        await store.commit(Batch(conversations=[conversation(title=f"after it {number}")]))
    crashed = tmp_path / "crashed"
    shutil.copytree(data, crashed)
    await store.close()
    assert (crashed / "dispatch.db-wal").stat().st_size > 0
    shutil.copy(tmp_path / "backup", crashed / "dispatch.db")
    restored = SqliteStore(crashed)
    await restored.open()
    try:
        row = await restored.conversation(ACCOUNT, ConversationId("c1"))
        assert row is not None
        assert row.title == "in the backup"
        await restored.commit(Batch(conversations=[conversation(2)]))
        # The old log is kept for whoever wants to look.
        assert (crashed / "dispatch.db-wal.replaced-1").stat().st_size > 0
        # From here on the log is this file's own, and killing it again loses nothing.
        killed = tmp_path / "killed"
        shutil.copytree(crashed, killed)
    finally:
        await restored.close()
    again = SqliteStore(killed)
    await again.open()
    try:
        assert [row.key for row in await again.conversations(query())] == [2, 1]
        assert not (killed / "dispatch.db-wal.replaced-2").exists()
    finally:
        await again.close()


# Backups


async def test_a_backup_made_while_commits_go_on_holds_whole_batches(
    data: Path, tmp_path: Path
) -> None:
    store = SqliteStore(data)
    await store.open()
    await store.commit(Batch(conversations=[conversation()], turns=[turn(2)]))
    done = anyio.Event()
    written = 0

    async def write() -> None:
        nonlocal written
        while not done.is_set():
            first = 1 + 5 * written
            await store.commit(Batch(events=events(1, 2, first, 5)))
            written += 1

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(write)
            for number in range(3):
                before = written
                await store.backup(tmp_path / f"backup {number}")
                with closing(sqlite3.connect(tmp_path / f"backup {number}")) as copy:
                    (count,) = copy.execute("SELECT count(*) FROM event").fetchone()
                    assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                assert count % 5 == 0
                assert count >= before * 5
            done.set()
    finally:
        await store.close()


async def test_a_backup_never_goes_into_the_data_directory(data: Path, tmp_path: Path) -> None:
    generation = await begin(data)
    link = tmp_path / "link"
    link.symlink_to(data)
    for target in (data / "dispatch.db", data / "copy", link / "dispatch.db"):
        store = SqliteStore(data)
        await store.open()
        with pytest.raises(Refused, match="another place"):
            await store.backup(target)
        await store.close()
        with pytest.raises(Refused, match="another place"):
            backup_file(data, target)
    assert await generation_of(data) == generation


async def test_a_directory_is_copied_without_a_store_also_while_one_is_open(
    data: Path, tmp_path: Path
) -> None:
    store = SqliteStore(data)
    first = await store.open()
    await store.commit(Batch(conversations=[conversation()]))
    try:
        backup_file(data, tmp_path / "open")
        await store.commit(Batch(conversations=[conversation(2)]))
    finally:
        await store.close()
    backup_file(data, tmp_path / "closed")
    for name, keys in (("open", [1]), ("closed", [2, 1])):
        shelf = tmp_path / f"from {name}"
        shelf.mkdir()
        (tmp_path / name).rename(shelf / "dispatch.db")
        restored = SqliteStore(shelf)
        assert (await restored.open()).generation != first.generation
        assert [row.key for row in await restored.conversations(query())] == keys
        await restored.close()


def test_copying_a_directory_without_a_database_fails_by_name(data: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match=r"dispatch\.db does not exist"):
        backup_file(data, tmp_path / "copy")
    assert not data.exists()
    assert not (tmp_path / "copy").exists()
