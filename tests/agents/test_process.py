"""The process of one turn: the gate, the leash, its pipes, and a daemon that is killed."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from dispatch.agents import process as module
from dispatch.agents.ledger import ProcessLedger, Record
from dispatch.agents.port import AgentFailure
from dispatch.agents.process import AgentProcess, Beside, Launch, leash, running
from tests.contract.agent import GUARD_SECONDS, nothing_left

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def ledger(tmp_path: Path) -> ProcessLedger:
    return ProcessLedger(tmp_path / "processes")


@pytest.fixture(params=["setpriv", "python"])
def _any_leash(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Once with what util-linux has, once as where it is missing."""
    leash.cache_clear()
    if request.param == "python":
        monkeypatch.setattr(module.shutil, "which", lambda _: None)
    elif "setpriv" not in "".join(leash()):
        pytest.skip("no setpriv that sets the parent-death signal")
    yield
    leash.cache_clear()


def launch(*command: str, cwd: Path = ROOT) -> Launch:
    return Launch(command=command, cwd=cwd, environment={"PATH": os.environ["PATH"]})


def program(source: str) -> Launch:
    head = "import os, signal, sys, time\n"
    return launch(sys.executable, "-I", "-S", "-c", head + textwrap.dedent(source))


async def read_line(process: AgentProcess) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        line += await process.read()
    return line


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


async def until_gone(pid: int) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        while is_alive(pid):
            await anyio.lowlevel.checkpoint()


# ---------------------------------------------------------------- the gate


@pytest.mark.usefixtures("_any_leash")
async def test_a_program_runs_with_its_arguments_and_input_untouched(ledger) -> None:
    source = "sys.stdout.write(sys.stdin.readline() + repr(sys.argv[1:]) + chr(10))"
    started = program(source)
    started = launch(*started.command, "a b", "$HOME", "")
    with nothing_left():
        async with running(started, ledger, 5) as process, Beside(process.watch):
            assert await process.write(b"first line\n")
            assert await process.wait_exit(0) is False
            assert await process.read() + await process.read() == (
                b"first line\n['a b', '$HOME', '']\n"
            )
            assert await process.wait_exit(GUARD_SECONDS)
    assert process.returncode == 0


class SlowLedger(ProcessLedger):
    """A ledger whose disk does not answer."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.asked = anyio.Event()

    async def add(self, record: Record) -> None:
        self.asked.set()
        await anyio.sleep_forever()


@pytest.mark.usefixtures("_any_leash")
async def test_a_program_does_nothing_before_it_is_recorded(tmp_path: Path) -> None:
    ledger = SlowLedger(tmp_path / "processes")
    marker = tmp_path / "ran"

    async def start() -> None:
        async with running(launch("/usr/bin/touch", str(marker)), ledger, 5):
            pytest.fail("not recorded")

    with nothing_left(), anyio.fail_after(GUARD_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(start)
            await ledger.asked.wait()
            tasks.cancel_scope.cancel()
    assert not marker.exists()


async def test_a_program_that_cannot_be_recorded_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "processes").write_text("a file where the directory should be")
    marker = tmp_path / "ran"
    ledger = ProcessLedger(tmp_path / "processes")
    with nothing_left(), pytest.raises(AgentFailure, match="cannot record") as failure:
        async with running(launch("/usr/bin/touch", str(marker)), ledger, 5):
            pytest.fail("not recorded")
    assert failure.value.code == "spawn_failed"
    assert not marker.exists()


def test_a_program_is_not_run_for_a_daemon_that_is_gone(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    gate = ["/bin/sh", "-c", module._GATE, "sh"]
    run = ["/usr/bin/touch", str(marker)]
    another_parent = [*gate, str(os.getpid() + 1), *run]
    assert subprocess.run(another_parent, input=b"\n", check=False).returncode == 125
    no_go = [*gate, str(os.getpid()), *run]
    assert subprocess.run(no_go, input=b"", check=False).returncode == 125
    assert not marker.exists()
    assert subprocess.run(no_go, input=b"\n", check=False).returncode == 0
    assert marker.exists()


async def test_out_of_descriptors_is_told_as_a_program_that_cannot_start(ledger) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")), hard))
    try:
        with pytest.raises(AgentFailure) as failure:
            async with running(launch("/bin/true"), ledger, 5):
                pytest.fail("started")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert failure.value.code == "spawn_failed"


# ---------------------------------------------------------------- pipes and ends


async def test_writing_to_a_program_that_closed_its_stdin_says_so(ledger) -> None:
    source = "os.close(0); print('closed', flush=True); time.sleep(3600)"
    with nothing_left(), anyio.fail_after(GUARD_SECONDS):
        async with running(program(source), ledger, 5) as process, Beside(process.watch):
            assert await read_line(process) == b"closed\n"
            assert await process.write(b"anything") is False


async def test_a_program_leads_a_session_of_its_own(ledger) -> None:
    source = "print(os.getpid(), os.getpgid(0), os.getsid(0), flush=True)"
    async with running(program(source), ledger, 5) as process, Beside(process.watch):
        assert (await read_line(process)).split() == [str(process.pid).encode()] * 3


async def test_a_program_that_exited_is_read_to_its_last_byte(ledger) -> None:
    started = program("print('x' * 60_000)")
    async with running(started, ledger, 5) as process, Beside(process.watch):
        await process.exited.wait()
        assert len(await read_line(process)) == 60_001
        assert await process.read() == b""


async def test_a_system_without_handles_asks_until_the_program_has_exited(
    ledger, monkeypatch
) -> None:
    def refused(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "pidfd_open", refused)
    with nothing_left():
        started = program("print('x'); sys.exit(4)")
        async with running(started, ledger, 5) as process, Beside(process.watch):
            assert await read_line(process) == b"x\n"
            assert await process.wait_exit(GUARD_SECONDS)
    assert process.returncode == 4
    with nothing_left():
        async with running(program("time.sleep(3600)"), ledger, 5) as process:
            pass
    assert process.returncode == -signal.SIGTERM


async def test_a_system_that_does_not_show_its_processes_ends_the_group(
    ledger, monkeypatch
) -> None:
    monkeypatch.setattr(module, "members_are_known", lambda: False)
    source = """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        pid = os.fork()
        if pid: print(pid, flush=True)
        else: time.sleep(3600)
    """
    async with running(program(source), ledger, 0.1) as process, Beside(process.watch):
        pid = int(await read_line(process))
    await until_gone(pid)


async def test_a_process_that_cannot_be_ended_keeps_its_record(
    ledger, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(module, "_KILL_SECONDS_MAX", 0.1)
    monkeypatch.setattr(AgentProcess, "_signal_group", lambda *_: None)
    started = program("time.sleep(3600)")
    with anyio.fail_after(GUARD_SECONDS):
        async with running(started, ledger, 0) as process:
            pass
    assert process.returncode is None
    assert len(list((tmp_path / "processes").iterdir())) == 1
    process._popen.kill()
    process._popen.wait()


@contextmanager
def daemon_of(tmp_path: Path, source: str) -> Iterator[subprocess.Popen[str]]:
    """A daemon in small: one turn of a command agent, whose texts it prints."""
    daemon = f"""
        import sys, anyio
        from pathlib import Path
        from dispatch.agents.command import CommandAgent
        from dispatch.agents.ledger import ProcessLedger
        from tests.contract.agent import turn

        async def emit(event):
            print(event.delta, flush=True)

        agent = CommandAgent.from_options(
            "tested",
            {{"command": [sys.executable, "-I", "-S", "-c", {source!r}]}},
            ledger=ProcessLedger(Path({str(tmp_path / "processes")!r})),
            line_bytes_max=65536,
        )
        anyio.run(agent.run, turn(), emit)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(daemon)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            yield child
        finally:
            child.kill()


HARD_TO_END = """
import json, os, signal, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
def text(delta): print(json.dumps({"type": "text-delta", "delta": delta}), flush=True)
text(str(os.getpid()))
read, write = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        os.setsid()
    os.write(write, b"%d\\n" % os.getpid())
    time.sleep(60)
    os._exit(0)
pids = b""
while pids.count(b"\\n") < 2: pids += os.read(read, 100)
for pid in pids.split(): text(pid.decode())
time.sleep(60)
"""


@pytest.mark.usefixtures("_any_leash")
async def test_a_killed_daemons_program_dies_at_once_and_the_rest_at_the_next_start(
    ledger, tmp_path: Path
) -> None:
    with daemon_of(tmp_path, HARD_TO_END) as daemon:
        leader, *others = [int(daemon.stdout.readline()) for _ in range(3)]
        assert all(is_alive(pid) for pid in (leader, *others))
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()
    # The parent-death signal reaches the program itself, which ignores every other sign.
    await until_gone(leader)
    assert all(is_alive(pid) for pid in others)
    with anyio.fail_after(GUARD_SECONDS):
        assert await ledger.end_leftovers() == 2
    assert not any(is_alive(pid) for pid in others)
    assert list((tmp_path / "processes").iterdir()) == []


async def test_a_program_sees_its_stdin_close_when_the_daemon_is_killed(
    ledger, tmp_path: Path
) -> None:
    helper = """
import json, os, sys, time
def text(delta): print(json.dumps({"type": "text-delta", "delta": delta}), flush=True)
if os.fork() == 0:
    text(str(os.getpid()))
    while os.read(0, 65536): pass
    os._exit(0)
time.sleep(3600)
"""
    with daemon_of(tmp_path, helper) as daemon:
        pid = int(daemon.stdout.readline())
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()
    await until_gone(pid)
    await ledger.end_leftovers()


# ---------------------------------------------------------------- tasks beside a block


async def test_what_a_block_raises_comes_out_as_it_is() -> None:
    ended = []

    async def beside() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(True)

    async def block() -> None:
        async with Beside(beside, beside):
            await anyio.lowlevel.checkpoint()
            raise KeyError

    with pytest.raises(KeyError):
        await block()
    assert ended == [True, True]


async def test_tasks_beside_a_block_end_with_it_and_with_a_cancellation() -> None:
    with nothing_left():
        async with Beside(anyio.sleep_forever):
            pass
        with anyio.move_on_after(0.01) as scope:
            async with Beside(anyio.sleep_forever):
                await anyio.sleep_forever()
        assert scope.cancelled_caught
