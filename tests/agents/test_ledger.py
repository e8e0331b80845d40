"""The ledger: which processes are proven ours, and what is done about those left behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import msgspec
import pytest

from dispatch.agents import ledger as module
from dispatch.agents.ledger import (
    MARK,
    Member,
    ProcessLedger,
    Record,
    find_members,
    new_record,
    new_token,
)

GUARD_SECONDS = 20.0

# Random, as the real ones: two runs of these tests on one machine leave each other alone.
A, B, *MORE = sorted(new_token() for _ in range(8))

SLEEP = [sys.executable, "-I", "-S", "-c", "import time; print('on', flush=True); time.sleep(3600)"]
# Starts a grandchild in the same session, tells its number, and ends.
LEAVES_ONE = [
    *SLEEP[:4],
    "import os, time\nif os.fork() == 0: print(os.getpid(), flush=True); time.sleep(60)",
]


class Children:
    """Starts processes, and ends them after the test whatever happened."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[str]] = []

    def start(self, command: list[str], token: str | None = None, **options: object):
        """The process once it has written a line, and that line."""
        environment = dict(os.environ) | ({MARK: token} if token else {})
        options = {"start_new_session": True} | options
        child = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, text=True, **options
        )
        self._started.append(child)
        return child, child.stdout.readline().strip()

    def end(self) -> None:
        for child in self._started:
            with child:
                child.kill()


@pytest.fixture
def children() -> Iterator[Children]:
    started = Children()
    yield started
    started.end()


@pytest.fixture
def ledger(tmp_path: Path) -> ProcessLedger:
    return ProcessLedger(tmp_path / "processes")


def files(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "processes").iterdir())


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


# ---------------------------------------------------------------- who is ours


def test_a_recorded_process_is_its_own_member(children: Children) -> None:
    child, _ = children.start(SLEEP, A)
    record = new_record(A, child.pid)
    assert find_members([record]) == {A: [Member(child.pid, record.started)]}


def test_a_process_is_ours_by_its_session_without_the_token(children: Children) -> None:
    child, _ = children.start(SLEEP)
    record = new_record(A, child.pid)
    assert [member.pid for member in find_members([record])[A]] == [child.pid]


def test_a_grandchild_is_ours_after_its_parent_has_ended(children: Children) -> None:
    child, line = children.start(LEAVES_ONE, A)
    record = new_record(A, child.pid)
    child.wait()
    (member,) = find_members([record])[A]
    assert member.pid == int(line)
    member.signal(signal.SIGKILL)


def test_the_zombie_of_a_parent_proves_its_session(children: Children) -> None:
    child, line = children.start(LEAVES_ONE)
    record = new_record(A, child.pid)
    # Not waited for, as it is between a program's exit and its end.
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    (member,) = find_members([record])[A]
    assert member.pid == int(line)
    member.signal(signal.SIGKILL)


def test_a_session_nothing_proves_is_nobodys(children: Children) -> None:
    child, line = children.start(LEAVES_ONE)
    record = new_record(A, child.pid)
    child.wait()
    try:
        assert find_members([record]) == {}
    finally:
        os.kill(int(line), signal.SIGKILL)


def test_a_number_that_was_used_again_is_not_ours(children: Children) -> None:
    child, _ = children.start(SLEEP)
    real = new_record(A, child.pid)
    earlier = msgspec.structs.replace(real, started=real.started - 1)
    later = msgspec.structs.replace(real, started=real.started + 1)
    assert find_members([earlier]) == {}
    assert find_members([later]) == {}


def test_two_records_have_their_own_members(children: Children) -> None:
    pids = {}
    for token in (A, B):
        pids[token] = children.start(SLEEP, token)[0].pid
    records = [new_record(token, pid) for token, pid in pids.items()]
    found = find_members(records)
    assert {token: [m.pid for m in members] for token, members in found.items()} == {
        token: [pid] for token, pid in pids.items()
    }


def test_a_name_full_of_brackets_does_not_confuse(children: Children, tmp_path: Path) -> None:
    program = tmp_path / ") Z 1 (x"
    program.symlink_to(sys.executable)
    child, _ = children.start([str(program), *SLEEP[1:]], A)
    assert find_members([new_record(A, child.pid)])


def test_a_member_is_not_signalled_once_its_number_is_somebody_elses(children: Children) -> None:
    child, _ = children.start(SLEEP)
    record = new_record(A, child.pid)
    Member(child.pid, record.started - 1).signal(signal.SIGKILL)
    assert is_alive(child.pid)
    Member(child.pid, record.started).signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    Member(child.pid, record.started).signal(signal.SIGKILL)


def test_a_system_without_handles_is_signalled_by_number(children: Children, monkeypatch) -> None:
    def refused(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "pidfd_open", refused)
    child, _ = children.start(SLEEP)
    record = new_record(A, child.pid)
    Member(child.pid, record.started).signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL


# ---------------------------------------------------------------- the record


async def test_a_record_is_a_file_until_it_is_removed(
    ledger: ProcessLedger, tmp_path: Path
) -> None:
    record = Record(A, 1, 2, "boot")
    await ledger.add(record)
    assert files(tmp_path) == [f"{A}.json"]
    assert (tmp_path / "processes").stat().st_mode & 0o077 == 0
    for _ in range(2):
        await ledger.remove(record)
    assert files(tmp_path) == []


async def test_those_who_ask_at_once_share_one_look(
    ledger: ProcessLedger, children: Children, monkeypatch
) -> None:
    looks = []

    def counted(records):
        looks.append(len(records))
        return find_members(records)

    monkeypatch.setattr(module, "find_members", counted)
    child, _ = children.start(SLEEP, A)
    records = [new_record(token, child.pid) for token in (A, B, *MORE)]
    found = {}

    async def ask(record: Record) -> None:
        found[record.token] = [member.pid for member in await ledger.members(record)]

    async with anyio.create_task_group() as tasks:
        for record in records:
            tasks.start_soon(ask, record)
    assert sum(looks) == len(records)
    assert len(looks) <= 2
    assert found[A] == [child.pid]
    assert len(found) == len(records)


# ---------------------------------------------------------------- leftovers


async def test_leftovers_are_ended_and_forgotten(
    ledger: ProcessLedger, children: Children, tmp_path: Path
) -> None:
    child, line = children.start(LEAVES_ONE, A)
    await ledger.add(new_record(A, child.pid))
    child.wait()
    alone, _ = children.start(SLEEP, A)
    await ledger.add(new_record(B, alone.pid))
    with anyio.fail_after(GUARD_SECONDS):
        assert await ledger.end_leftovers() == 2
    assert files(tmp_path) == []
    assert not is_alive(int(line))
    assert alone.wait() == -signal.SIGKILL
    assert await ledger.end_leftovers() == 0


async def test_a_process_we_did_not_start_is_left_alone(
    ledger: ProcessLedger, children: Children, tmp_path: Path
) -> None:
    innocent, _ = children.start(SLEEP)
    real = new_record(A, innocent.pid)
    await ledger.add(msgspec.structs.replace(real, started=real.started - 1))
    await ledger.add(msgspec.structs.replace(real, token=B, boot="another boot"))
    assert await ledger.end_leftovers() == 0
    assert files(tmp_path) == []
    assert is_alive(innocent.pid)


async def test_a_torn_or_foreign_record_is_dropped(ledger: ProcessLedger, tmp_path: Path) -> None:
    directory = tmp_path / "processes"
    directory.mkdir()
    (directory / f"{A}.json").write_bytes(b"")
    (directory / f"{B}.json").write_bytes(b'{"token":"bbb')
    outside = tmp_path / "outside.json"
    outside.write_text("kept")
    foreign = Record(
        "../outside", 1, 1, Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    )
    (directory / f"{MORE[0]}.json").write_bytes(msgspec.json.encode(foreign))
    assert await ledger.end_leftovers() == 0
    assert files(tmp_path) == []
    assert outside.read_text() == "kept"


async def test_without_a_directory_there_are_no_leftovers(tmp_path: Path) -> None:
    assert await ProcessLedger(tmp_path / "none").end_leftovers() == 0


async def test_what_cannot_be_ended_keeps_its_record_and_the_daemon_starts(
    ledger: ProcessLedger, children: Children, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(module, "_LEFTOVER_SECONDS_MAX", 0.1)
    monkeypatch.setattr(Member, "signal", lambda *_: None)
    child, _ = children.start(SLEEP, A)
    await ledger.add(new_record(A, child.pid))
    with anyio.fail_after(GUARD_SECONDS):
        await ledger.end_leftovers()
    assert files(tmp_path) == [f"{A}.json"]
    assert is_alive(child.pid)
