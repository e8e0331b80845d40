"""What the durable store says and keeps when the disk, the file or another process fails it.

Each failure is a real one: a full file system, a lock of another process, bytes that are damaged.
"""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from dispatch.core.identity import ConversationId
from dispatch.errors import (
    DispatchError,
    StorageBusy,
    StorageFailed,
    StorageFull,
    StorageLocked,
)
from dispatch.storage.keys import ConversationKey, TurnKey
from dispatch.storage.port import Batch, CursorRecord, Piece, TurnChange, TurnCopy
from dispatch.storage.sqlite import SqliteStore
from tests.contract.store_rows import ACCOUNT, conversation, events, everything, seal, turn
from tests.storage.filled import LARGE, fill, integrity, opened

WRITES = {
    "conversation": Batch(conversations=[conversation(4, details=LARGE)]),
    "turn": Batch(turns=[turn(12, body=LARGE)]),
    "change": Batch(changes=[TurnChange(TurnKey(5), "queued", "cancelled")]),
    "event": Batch(events=[events(1, 2, 4, 1)[0]._replace(payload=LARGE)]),
    "events": Batch(events=[e._replace(payload=LARGE) for e in events(1, 2, 4, 40)]),
    "piece": Batch(pieces=[Piece(TurnKey(2), 1, 1, LARGE)]),
    "seal": Batch(seals=[seal(2)._replace(chunks=LARGE)]),
    "copy": Batch(copies=[TurnCopy(TurnKey(3), TurnKey(12), ConversationKey(2), 1)]),
    "cursor": Batch(
        cursors=[CursorRecord(ConversationKey(1), f"user {i}" * 200, 1) for i in range(100)]
    ),
    "deletion": Batch(deletions=[ConversationKey(1)]),
}
"""One batch of each kind, large enough to need new pages where its kind can."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


async def assert_refused(store: SqliteStore, batch: Batch, error: type[DispatchError]) -> None:
    """The batch fails with this error, and nothing that can be read has changed."""
    before = await everything(store)
    with pytest.raises(error) as caught:
        await store.commit(batch)
    assert caught.value.__cause__ is not None
    assert "dispatch.db" in caught.value.message
    assert await everything(store) == before


# A full disk


class PageLimit:
    """Lets the database grow no further; the portable way to a full disk."""

    def __init__(self) -> None:
        self.is_full = False

    def __call__(self, connection: sqlite3.Connection) -> None:
        if self.is_full:
            connection.execute("PRAGMA max_page_count = 1")
        else:
            connection.execute("PRAGMA max_page_count = 1073741823")


@pytest.mark.parametrize("kind", sorted(WRITES.keys() - {"change", "deletion"}))
async def test_a_write_that_finds_no_page_leaves_nothing_and_succeeds_when_there_is_one(
    data: Path, kind: str
) -> None:
    limit = PageLimit()
    async with opened(SqliteStore(data, before_write=limit)) as store:
        await fill(store)
        limit.is_full = True
        await assert_refused(store, WRITES[kind], StorageFull)
        limit.is_full = False
        await store.commit(WRITES[kind])


@contextmanager
def small_disk(folder: Path, *options: str) -> Iterator[Path]:
    """A file system of two megabytes, where this machine lets us have one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", ",".join(("size=2m", *options)), "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs a file system of its own (mount tmpfs): {error}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill_up(folder: Path) -> Path:
    """A file that takes all the space there is."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while file.write(b"\0" * size):
                    pass
            except OSError:
                continue
    return ballast


def empty_log(connection: sqlite3.Connection) -> None:
    """So that the next commit needs space of its own, however small it is."""
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


@pytest.mark.parametrize("kind", sorted(WRITES))
async def test_a_full_disk_refuses_every_kind_of_write_and_loses_nothing(
    tmp_path: Path, kind: str
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        async with opened(SqliteStore(disk / "data", before_write=empty_log)) as store:
            await fill(store)
            await store.prune(0, 1)
            ballast = fill_up(disk)
            await assert_refused(store, WRITES[kind], StorageFull)
            ballast.unlink()
            kept = WRITES[kind]
            if kind == "events":
                # All of them would not fit on this disk even when it is empty.
                kept = Batch(events=kept.events[:2])
            await store.commit(kept)
        assert integrity(disk / "data") == "ok"


async def test_a_full_disk_refuses_pruning_and_a_backup_and_keeps_reading(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        async with opened(SqliteStore(tmp_path / "data", before_write=empty_log)) as store:
            await fill(store)
            ballast = fill_up(disk)
            before = await everything(store)
            with pytest.raises(StorageFull, match="backup"):
                await store.backup(disk / "backup")
            assert [path.name for path in disk.iterdir()] == ["ballast"]
            assert await everything(store) == before
            ballast.unlink()
            await store.backup(disk / "backup")


async def test_a_store_is_closed_and_opened_again_around_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        async with opened(SqliteStore(disk / "data")) as store:
            await fill(store)
            ballast = fill_up(disk)
            before = await everything(store)
        ballast.unlink()
        async with opened(SqliteStore(disk / "data")) as store:
            assert await everything(store) == before


async def test_a_start_on_a_full_disk_says_so_and_can_be_repeated(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        (disk / "data").mkdir()
        ballast = fill_up(disk)
        with pytest.raises(StorageFull):
            await SqliteStore(disk / "data").open()
        ballast.unlink()
        async with opened(SqliteStore(disk / "data")) as store:
            await fill(store)


# Another process


HOLD_THE_LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.readline()
connection.execute("ROLLBACK")
print("released", flush=True)
"""


@contextmanager
def other_process(program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("kind", sorted(WRITES))
async def test_a_lock_that_outlasts_the_wait_refuses_every_kind_of_write(
    data: Path, kind: str
) -> None:
    async with opened(SqliteStore(data, busy_seconds=0.01)) as store:
        await fill(store)
        with other_process(HOLD_THE_LOCK, str(data / "dispatch.db")) as holder:
            assert holder.stdin is not None
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            await assert_refused(store, WRITES[kind], StorageLocked)
            with pytest.raises(StorageLocked):
                await store.prune(0, 1)
            holder.stdin.write("\n")
            holder.stdin.flush()
            assert holder.stdout.readline() == "released\n"
        await store.commit(WRITES[kind])


async def test_a_lock_that_is_given_back_in_time_is_only_waited_for(data: Path) -> None:
    async with opened(SqliteStore(data, busy_seconds=30.0)) as store:
        await fill(store)
        with other_process(HOLD_THE_LOCK, str(data / "dispatch.db")) as holder:
            assert holder.stdin is not None
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            async with anyio.create_task_group() as group:
                group.start_soon(store.commit, WRITES["event"])
                await anyio.lowlevel.checkpoint()
                holder.stdin.write("\n")
                holder.stdin.flush()


async def test_a_start_under_somebody_elses_lock_says_so(data: Path) -> None:
    async with opened(SqliteStore(data)) as store:
        await fill(store)
    with other_process(HOLD_THE_LOCK, str(data / "dispatch.db")) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StorageLocked):
            await SqliteStore(data, busy_seconds=0.01).open()
    async with opened(SqliteStore(data)) as store:
        assert await store.conversation(ACCOUNT, ConversationId("c1")) is not None


# The operating system


async def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for data in (tmp_path / "file", tmp_path / "file" / "below"):
        store = SqliteStore(data)
        with pytest.raises(StorageFailed, match=str(data)):
            await store.open()
        await store.close()


async def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        async with opened(SqliteStore(disk / "data")) as store:
            await fill(store)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        store = SqliteStore(disk / "data")
        with pytest.raises(StorageFailed, match=r"disk/data.*[Rr]ead-only"):
            await store.open()
        await store.close()


async def test_after_a_write_that_the_disk_failed_nothing_more_is_written(data: Path) -> None:
    """What the page cache holds then is not known to be what the disk holds."""
    fails = False

    def fail(connection: sqlite3.Connection) -> None:
        if fails:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            raise error

    async with opened(SqliteStore(data, before_write=fail)) as store:
        await fill(store)
        fails = True
        await assert_refused(store, WRITES["event"], StorageFailed)
        fails = False
        with pytest.raises(StorageFailed, match="earlier write"):
            await store.commit(WRITES["event"])
        assert len(await store.events(ConversationKey(1), 0, 9)) == 3


async def test_a_value_of_the_wrong_kind_is_refused_whole(data: Path) -> None:
    async with opened(SqliteStore(data)) as store:
        await fill(store)
        wrong = events(1, 2, 4, 1)[0]._replace(payload="text")  # type: ignore[arg-type]
        await assert_refused(store, Batch(events=[wrong]), StorageFailed)
        await store.commit(WRITES["event"])


async def test_a_second_opener_harms_nothing_that_is_under_way(data: Path) -> None:
    async with opened(SqliteStore(data)) as store:
        await fill(store)
        before = await everything(store)
        with pytest.raises(StorageBusy):
            await SqliteStore(data).open()
        assert await everything(store) == before
