"""The data directory: who has it, and whether what lies there may be opened.

Neighbours: `sqlite` takes a directory before it opens anything in it; `sqlite_schema` makes the
database under a temporary name here. Only names, bytes and locks; no SQL.
Invariant: nothing that exists is ever overwritten, and a file named `dispatch.db` was whole when it
got that name, so an empty one is damage and not a beginning.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from dispatch.errors import Refused, StorageBusy, StorageCorrupt, StorageFailed, StorageFull

DATABASE: Final = "dispatch.db"
LOCK: Final = "dispatch.lock"
APPLICATION_ID: Final = 0x44535043

_MAGIC: Final = b"SQLite format 3\0"
_HEADER_BYTES: Final = 100
_APPLICATION_ID_AT: Final = 68
# Padded with blanks, so that a shorter record leaves nothing of a longer one.
_LOCK_BYTES: Final = 100
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class LockRecord(msgspec.Struct, frozen=True):
    """What the lock file says of its last holder."""

    pid: int = 0
    incarnation: int = 0


class DataDirectory:
    """The directory of one store, and its lock while it is taken."""

    __slots__ = ("_lock", "database", "path")

    def __init__(self, path: Path) -> None:
        """Name it; nothing is touched yet."""
        self.path = path
        self.database = path / DATABASE
        self._lock: int | None = None

    @property
    def log(self) -> Path:
        """SQLite's write-ahead log beside the database."""
        return self.database.with_name(DATABASE + "-wal")

    def take(self) -> LockRecord:
        """Make the directory if need be and lock it for this process's life.

        Raises `StorageBusy` at once if another daemon has it, `StorageFailed`, `StorageFull`.
        """
        with refusals(self.path):
            if not self.path.is_dir():
                self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
                sync_directory(self.path.parent)
            lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                last = self._hold(lock)
                # What a process that was killed while it made a database or a copy left behind.
                for partial in self.path.glob(f".{DATABASE}*.partial*"):
                    partial.unlink(missing_ok=True)
                return last
            finally:
                if self._lock is None:
                    os.close(lock)

    def _hold(self, lock: int) -> LockRecord:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StorageBusy(
                f"{self.path} is in use by another dispatch (process {_last_holder(lock).pid}): "
                "stop that one, or give this one another --data directory"
            ) from error
        self._lock = lock
        return _last_holder(lock)

    def record(self, incarnation: int) -> None:
        """Leave our process id for the next one's message, and how far the counter has come."""
        if self._lock is not None:
            with refusals(self.path / LOCK):
                text = msgspec.json.encode(LockRecord(os.getpid(), incarnation))
                os.pwrite(self._lock, text.ljust(_LOCK_BYTES), 0)

    def release(self) -> None:
        """Give the lock back; idempotent."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def examine(self) -> bool:
        """Whether there is a database of ours; False when it is yet to be made.

        Raises `StorageCorrupt` for everything that SQLite would replace or misread in silence.
        To be called before this process opens the file: closing a second descriptor of it would
        give up SQLite's own locks.
        """
        with refusals(self.database):
            try:
                with self.database.open("rb") as file:
                    header = file.read(_HEADER_BYTES)
            except FileNotFoundError:
                if self.has_log():
                    raise StorageCorrupt(
                        f"{self.database} is missing, but its log {self.log.name} is there: put "
                        "the database back, or move the log away to begin anew"
                    ) from None
                return False
        _check_header(self.database, header)
        return True

    def check_outside(self, target: Path) -> None:
        """Raise `Refused` for a copy in the directory itself, where it could replace the original
        and would be lost with it.
        """
        with refusals(target):
            if target.absolute().parent.resolve() == self.path.resolve():
                raise Refused(f"{target} is in the data directory: give a backup another place")

    def has_log(self) -> bool:
        """Whether a log with something in it lies beside the database."""
        try:
            return self.log.stat().st_size > 0
        except FileNotFoundError:
            return False

    def set_log_aside(self) -> Path:
        """Rename a log that belongs to another file than the one it lies beside; its new name."""
        for number in range(1, 1000):
            aside = self.log.with_name(f"{self.log.name}.replaced-{number}")
            if not aside.exists():
                break
        with refusals(self.log):
            self.log.rename(aside)
            # Its index; SQLite makes a new one.
            self.database.with_name(DATABASE + "-shm").unlink(missing_ok=True)
            sync_directory(self.path)
        return aside


@contextlib.contextmanager
def refusals(path: Path) -> Iterator[None]:
    """What the operating system refuses, as the port's errors with the file's name."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull(f"{path}: no space left on the disk") from error
        raise StorageFailed(f"{path}: {error.strerror or error}") from error


@contextlib.contextmanager
def published(target: Path) -> Iterator[Path]:
    """A private temporary file beside `target` that takes its name once the block is through.

    The bytes are on the disk before the name is. Raises `StorageFailed` and `StorageFull`.
    """
    with refusals(target):
        descriptor, name = tempfile.mkstemp(".partial", f".{target.name}.", target.parent)
        os.close(descriptor)
        temporary = Path(name)
        try:
            yield temporary
            sync_file(temporary)
            temporary.replace(target)
            sync_directory(target.parent)
        finally:
            for suffix in ("", "-journal", "-wal", "-shm"):
                temporary.with_name(temporary.name + suffix).unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Have the disk hold what was written to a file. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Have the disk hold the names in a directory. Raises OSError."""
    sync_file(path)


def _last_holder(lock: int) -> LockRecord:
    text = os.pread(lock, _LOCK_BYTES, 0).strip()
    try:
        return msgspec.json.decode(text, type=LockRecord) if text else LockRecord()
    except msgspec.MsgspecError:
        # Torn by a power loss; what it says only ever helps.
        return LockRecord()


def _check_header(path: Path, header: bytes) -> None:
    if not header:
        raise StorageCorrupt(
            f"{path} is empty: something cut it. It is left as it is; restore the last backup over "
            "it, or move it away to begin anew"
        )
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        raise StorageCorrupt(
            f"{path} is not a database, or its beginning is damaged. It is left as it is; restore "
            "the last backup over it"
        )
    (application_id,) = struct.unpack_from(">I", header, _APPLICATION_ID_AT)
    if application_id != APPLICATION_ID:
        raise StorageCorrupt(
            f"{path} is another program's database (application id {application_id:#x}). It is "
            "left as it is; give dispatch another --data directory"
        )
