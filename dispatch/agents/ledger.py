"""Which processes are ours, proven, and the record of them that outlives the daemon.

Neighbours: `process` records each process before its program begins and asks here whether anything
of it still lives; `compose` calls `end_leftovers` at start-up, once the data directory is locked.
Every process of ours carries a random token in its environment, which its descendants inherit
unless they clean it, and begins a session of its own.
Invariant: nothing is signalled unless that token, or a session that is proven to be ours, is found
on it at that moment: a number that was used again is never enough.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import anyio
import msgspec
from anyio.to_thread import run_sync

MARK: Final = "DISPATCH_PROCESS"
"""The environment variable that holds the token."""

# SIGKILL takes effect in milliseconds; only a process stuck in the kernel takes longer, and waiting
# for that one would keep the daemon from starting.
_LEFTOVER_SECONDS_MAX: Final = 5.0
_LEFTOVER_POLL_SECONDS: Final = 0.01

_PROC: Final = Path("/proc")
_MARK_PREFIX: Final = f"{MARK}=".encode()


class Record(msgspec.Struct, frozen=True):
    """One process that was started. `started` is in clock ticks since the boot `boot`."""

    token: str
    pid: int
    started: int
    boot: str


class Member(NamedTuple):
    """A live process that belongs to a record."""

    pid: int
    started: int

    def signal(self, number: signal.Signals) -> None:
        """Signal it unless it is gone, even if its number was used again in the meantime."""
        if sys.platform != "linux":
            return
        handle = None
        try:
            # The handle stands for the process that is checked next, whatever happens to its
            # number. Without the call (a sandbox) a gap of microseconds is left.
            with suppress(OSError):
                handle = os.pidfd_open(self.pid)
            now = _read_stat(self.pid)
            if now is None or now.started != self.started:
                return
            if handle is None:
                os.kill(self.pid, number)
            else:
                signal.pidfd_send_signal(handle, number)
        except OSError:
            # Gone since, or it became somebody else's by a set-user-ID program.
            return
        finally:
            if handle is not None:
                os.close(handle)


class _Stat(NamedTuple):
    zombie: bool
    session: int
    started: int


def members_are_known() -> bool:
    """Whether this system says enough about its processes (Linux with /proc does)."""
    return sys.platform == "linux" and (_PROC / "self/stat").exists()


def new_token() -> str:
    """A token nobody else has."""
    return secrets.token_hex(16)


def new_record(token: str, pid: int) -> Record:
    """The record of a child that was just started and not yet waited for."""
    stat = _read_stat(pid)
    return Record(token, pid, stat.started if stat else 0, _boot())


def find_members(records: Collection[Record]) -> dict[str, list[Member]]:
    """The live processes of each token, in one pass over all processes; zombies are not alive.

    A session is ours if the process that opened it is the recorded one, or if a member of it
    carries the token: sessions are only ever inherited. That finds those who cleaned their
    environment; the token finds those who opened a session of their own.
    """
    by_token = {record.token: record for record in records}
    by_pid = {record.pid: record for record in records}
    oldest = min((record.started for record in records), default=0)
    sessions: dict[int, str] = {}
    alive: list[tuple[Member, int, str | None]] = []
    for pid in _pids():
        stat = _read_stat(pid)
        if stat is None or stat.started < oldest:
            # Older than everything looked for: the cheap way past most of the machine.
            continue
        recorded = by_pid.get(pid)
        if recorded is not None and recorded.started == stat.started:
            sessions[stat.session] = recorded.token
        if stat.zombie:
            continue
        token = _read_token(pid)
        token = token if token in by_token else None
        if token is not None:
            sessions[stat.session] = token
        alive.append((Member(pid, stat.started), stat.session, token))
    found: dict[str, list[Member]] = {}
    for member, session, token in alive:
        owner = token or sessions.get(session)
        if owner is not None and member.started >= by_token[owner].started:
            found.setdefault(owner, []).append(member)
    return found


class ProcessLedger:
    """One file per live agent process in a directory of the daemon's own.

    `starting` is held by who starts a process.
    """

    def __init__(self, directory: Path) -> None:
        """Use `directory`; it is made when it is needed."""
        self._directory = directory
        self._asked: dict[str, Record] = {}
        self._found: dict[str, list[Member]] = {}
        self._looking = anyio.Lock()
        self.starting = anyio.Lock()

    async def add(self, record: Record) -> None:
        """Write the record down. Not synced: it need not outlive the machine's own end."""
        await run_sync(self._write, record)

    async def remove(self, record: Record) -> None:
        """Forget a process of which nothing lives any more."""
        # An answer that came after its asker's deadline was never taken.
        self._found.pop(record.token, None)
        await run_sync(self._unlink, record.token)

    async def members(self, record: Record) -> list[Member]:
        """What lives of a process, itself included.

        Those who ask while somebody looks share the next look, so that a thousand turns that end
        at once do not read /proc a thousand times.
        """
        self._asked[record.token] = record
        async with self._looking:
            if record.token in self._asked:
                asked, self._asked = self._asked, {}
                found = await run_sync(find_members, asked.values())
                self._found.update({token: found.get(token, []) for token in asked})
        return self._found.pop(record.token, [])

    async def end_leftovers(self) -> int:
        """End what earlier daemons left behind; how many processes that were.

        For the one daemon that holds the data directory, before it starts anything. What could
        not be ended keeps its record.
        """
        records = await run_sync(self._read)
        ended: set[Member] = set()
        with anyio.move_on_after(_LEFTOVER_SECONDS_MAX):
            while records:
                alive = await run_sync(find_members, records)
                for record in [r for r in records if r.token not in alive]:
                    await run_sync(self._unlink, record.token)
                records = [r for r in records if r.token in alive]
                for member in (m for members in alive.values() for m in members):
                    member.signal(signal.SIGKILL)
                    ended.add(member)
                if records:
                    await anyio.sleep(_LEFTOVER_POLL_SECONDS)
        return len(ended)

    def _write(self, record: Record) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path(record.token).write_bytes(msgspec.json.encode(record))

    def _read(self) -> list[Record]:
        records = []
        boot = _boot()
        for path in self._directory.glob("*.json"):
            try:
                record = msgspec.json.decode(path.read_bytes(), type=Record)
            except (OSError, msgspec.MsgspecError):
                # Torn: the daemon died while writing it, so the program was never let go.
                record = None
            if record is None or record.boot != boot or path != self._path(record.token):
                path.unlink(missing_ok=True)
            else:
                records.append(record)
        return records

    def _unlink(self, token: str) -> None:
        self._path(token).unlink(missing_ok=True)

    def _path(self, token: str) -> Path:
        return self._directory / f"{token}.json"


def _pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir(_PROC) if name.isdigit()]
    except OSError:
        return []


def _read_stat(pid: int) -> _Stat | None:
    content = _read(f"/proc/{pid}/stat", 4096)
    # The name in brackets may hold anything, brackets included; what follows is plain fields.
    fields = content[content.rfind(b")") + 2 :].split()
    if len(fields) < 20:
        return None
    return _Stat(fields[0] in b"ZXx", int(fields[3]), int(fields[19]))


def _read_token(pid: int) -> str | None:
    # An environment and its arguments together are at most a few megabytes (ARG_MAX).
    for variable in _read(f"/proc/{pid}/environ", 8 * 1024 * 1024).split(b"\0"):
        if variable.startswith(_MARK_PREFIX):
            return variable.removeprefix(_MARK_PREFIX).decode("ascii", "replace")
    return None


def _boot() -> str:
    return _read("/proc/sys/kernel/random/boot_id", 64).decode("ascii", "replace").strip()


def _read(path: str, bytes_max: int) -> bytes:
    """A small file of /proc, or nothing if its process is gone or not ours to look at."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        content = bytearray()
        while len(content) < bytes_max and (piece := os.read(descriptor, 65536)):
            content += piece
        return bytes(content)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
