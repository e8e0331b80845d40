"""A program that runs for one turn: how it is started, spoken to, heard and ended.

Neighbours: `command` speaks the lines of the protocol through it; `ledger` records it and knows its
descendants. The program is started behind a leash: `setpriv` sets the parent-death signal, then
`sh` waits on stdin for one empty line, and only then becomes the program. So it has done nothing
before it is recorded, and does nothing at all if the daemon died in between.
Invariant: when `running` is left, nothing of the program lives, or its record stays in the ledger.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import anyio
import msgspec
import structlog
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from dispatch.agents.ledger import (
    MARK,
    ProcessLedger,
    Record,
    members_are_known,
    new_record,
    new_token,
)
from dispatch.agents.port import AgentFailure

log = structlog.get_logger()

STDERR_TAIL_BYTES: Final = 2048
"""What is kept of stderr: enough for a traceback's last frames, and it becomes a stored event."""

# What a pipe holds by default; a read takes what is there.
_READ_BYTES: Final = 64 * 1024
# SIGKILL takes effect in milliseconds unless the process is stuck in the kernel. Then the turn goes
# on without it, and its record is left for the next start.
_KILL_SECONDS_MAX: Final = 5.0
_POLL_SECONDS_MIN: Final = 0.002
_POLL_SECONDS_MAX: Final = 0.05
# Between two reads of what nobody wants or what is only kept in part: a program that writes without
# end must not have the loop to itself.
_DISCARD_PAUSE_SECONDS: Final = 0.002

# `$PPID` is read after the parent-death signal was set: a daemon that died before that is noticed
# here, one that dies later by the signal. `read` takes one byte at a time, so the program finds its
# own first line untouched.
_GATE: Final = 'if [ "$PPID" = "$1" ] && read -r _; then shift; exec "$@"; fi; exit 125'
_GO: Final = b"\n"

# For a Linux without util-linux; costs 8 ms a start instead of 1.
_PYTHON_LEASH: Final = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"
)


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """What to start: an absolute path and its arguments, where, and with which environment."""

    command: tuple[str, ...]
    cwd: Path
    environment: dict[str, str]


class Beside:
    """Runs tasks beside a block and cancels them when it ends.

    Unlike in a bare task group the block's own exception comes out as it is, not in a group.
    """

    def __init__(self, *tasks: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Keep what is to be run; it begins with the block."""
        self._tasks = tasks
        self._group: TaskGroup

    async def __aenter__(self) -> None:
        """Start the tasks."""
        self._group = await anyio.create_task_group().__aenter__()
        for task in self._tasks:
            self._group.start_soon(task)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Cancel the tasks and wait for them."""
        self._group.cancel_scope.cancel()
        if isinstance(error, Exception):
            await self._group.__aexit__(None, None, None)
            return False
        # A cancellation must pass through the group, whose scope decides whose it was.
        return await self._group.__aexit__(kind, error, traceback)


class AgentProcess:
    """One started program. Made by `running`."""

    def __init__(
        self, popen: subprocess.Popen[bytes], record: Record, ledger: ProcessLedger
    ) -> None:
        """Take over a child that waits at the gate."""
        if popen.stdin is None or popen.stdout is None or popen.stderr is None:
            raise AssertionError("a program is started with three pipes")
        self._popen, self._record, self._ledger = popen, record, ledger
        self._stdin, self._stdout, self._stderr = popen.stdin, popen.stdout, popen.stderr
        for pipe in (self._stdin, self._stdout, self._stderr):
            os.set_blocking(pipe.fileno(), False)
        self._tail = bytearray()
        self._reading = anyio.CancelScope()
        self._handle = _open_handle(popen.pid)
        self.exited = anyio.Event()

    @property
    def pid(self) -> int:
        """Its number, which is its group's and its session's too."""
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """As `subprocess` has it, once `running` is left and if it could be ended."""
        return self._popen.returncode

    @property
    def stderr_tail(self) -> bytes:
        """The last of what it wrote to stderr."""
        return bytes(self._tail)

    async def begin(self) -> None:
        """Record it and let it through the gate."""
        await self._ledger.add(self._record)
        # One byte into an empty pipe never waits.
        with suppress(BrokenPipeError):
            self._stdin.write(_GO)

    async def write(self, data: bytes) -> bool:
        """Write to its stdin, for as long as it takes; False if it does not read any more."""
        view = memoryview(data)
        while view:
            try:
                written: int | None = self._stdin.write(view)
            except BrokenPipeError:
                return False
            if written is None:
                await anyio.wait_writable(self._stdin)
            else:
                view = view[written:]
        return True

    async def read(self) -> bytes:
        """What it wrote to stdout; empty at the end.

        The end is when the pipe is closed, or empty after the program has exited: a helper that it
        left behind may hold the pipe open for ever. Needs `watch` beside it.
        """
        while True:
            data: bytes | None = self._stdout.read(_READ_BYTES)
            if data is not None:
                await checkpoint()
                return data
            if self.exited.is_set():
                return b""
            with anyio.CancelScope() as self._reading:
                await anyio.wait_readable(self._stdout)

    async def watch(self) -> None:
        """Wait for its exit and tell the others."""
        if self._handle is not None:
            await anyio.wait_readable(self._handle)
        else:
            while self._popen.poll() is None:  # noqa: ASYNC110 - nothing tells of it
                await anyio.sleep(_POLL_SECONDS_MAX)
        self.exited.set()
        self._reading.cancel()

    async def drain_stderr(self) -> None:
        """Read stderr to its end and keep the tail."""
        while True:
            data: bytes | None = self._stderr.read(_READ_BYTES)
            if data is None:
                await anyio.wait_readable(self._stderr)
            elif not data:
                return
            else:
                self._tail += data
                del self._tail[:-STDERR_TAIL_BYTES]
                await anyio.sleep(_DISCARD_PAUSE_SECONDS)

    async def wait_exit(self, seconds: float) -> bool:
        """Close its stdin and wait so long for its exit, dropping what it still writes."""
        self._stdin.close()
        with anyio.move_on_after(seconds):
            async with Beside(self._discard):
                await self.exited.wait()
        return self.exited.is_set()

    async def end(self, grace_seconds: float) -> None:
        """End it and all it started: SIGTERM, SIGKILL after the grace; waits until it is gone.

        Output is read on in the meantime, so that a full pipe does not keep it from ending well.
        """
        self._stdin.close()
        try:
            async with Beside(self.drain_stderr, self._discard, self.watch):
                gone = await self._gone(signal.SIGTERM, grace_seconds) or await self._gone(
                    signal.SIGKILL, _KILL_SECONDS_MAX
                )
            self._take_rest_of_stderr()
            if not gone:
                log.warning("agent.process_survived", pid=self.pid)
                return
            # Only now is its number given back: until here it stood for our group and no other.
            self._popen.wait()
            with suppress(OSError):
                await self._ledger.remove(self._record)
        finally:
            self._close()

    async def _gone(self, number: signal.Signals, seconds: float) -> bool:
        """Signal everything of it, now and as it is found, until nothing lives."""
        told = set()
        pause = _POLL_SECONDS_MIN
        with anyio.move_on_after(seconds):
            self._signal_group(number)
            await self.exited.wait()
            if not members_are_known():
                # Whether others are left in its group cannot be seen, so they get no grace.
                self._signal_group(signal.SIGKILL)
                return True
            while members := await self._ledger.members(self._record):
                for member in members:
                    if member not in told:
                        member.signal(number)
                        told.add(member)
                await anyio.sleep(pause)
                pause = min(2 * pause, _POLL_SECONDS_MAX)
            return True
        return False

    def _signal_group(self, number: signal.Signals) -> None:
        if self._popen.returncode is not None and members_are_known():
            # Waited for already (without a handle), so the number may be another group's by now.
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, number)

    async def _discard(self) -> None:
        while True:
            if not await self.read():
                return
            await anyio.sleep(_DISCARD_PAUSE_SECONDS)

    def _take_rest_of_stderr(self) -> None:
        # Nobody writes any more; what is left is what the pipe held.
        for _ in range(16):
            data: bytes | None = self._stderr.read(_READ_BYTES)
            if not data:
                return
            self._tail += data
            del self._tail[:-STDERR_TAIL_BYTES]

    def _close(self) -> None:
        for pipe in (self._stdin, self._stdout, self._stderr):
            pipe.close()
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


@asynccontextmanager
async def running(
    launch: Launch, ledger: ProcessLedger, grace_seconds: float
) -> AsyncIterator[AgentProcess]:
    """A program that lives no longer than the block; raises `AgentFailure` if it cannot start."""
    async with ledger.starting:
        # One start in each round of the loop, so that a hundred turns that begin at once do not
        # hold up everybody else for a hundred starts.
        await checkpoint()
        process = _spawn(launch, ledger)
    try:
        try:
            await process.begin()
        except OSError as error:
            reason = f"cannot record the process: {error.strerror}"
            raise AgentFailure(reason, "spawn_failed") from error
        yield process
    finally:
        with anyio.CancelScope(shield=True):
            await process.end(grace_seconds)


def _spawn(launch: Launch, ledger: ProcessLedger) -> AgentProcess:
    """Start the leash. Takes 0.2 ms of the loop's thread, and must be called from it: the
    parent-death signal is sent when the *thread* that started the child ends.
    """
    token = new_token()
    command = (*leash(), "/bin/sh", "-c", _GATE, "sh", str(os.getpid()), *launch.command)
    try:
        popen = subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=launch.cwd,
            env={**launch.environment, MARK: token},
            start_new_session=True,
        )
    except OSError as error:
        what = f": {error.filename}" if error.filename else ""
        reason = f"cannot start {launch.command[0]}: {error.strerror}{what}"
        raise AgentFailure(reason, "spawn_failed") from error
    return AgentProcess(popen, new_record(token, popen.pid), ledger)


def _open_handle(pid: int) -> int | None:
    """What becomes readable when a child exits; None where it has to be asked."""
    handle = None
    if sys.platform == "linux":
        # A sandbox without the call, or out of descriptors: then it is asked.
        with suppress(OSError):
            handle = os.pidfd_open(pid)
    return handle


@functools.cache
def leash() -> tuple[str, ...]:
    """What starts a program so that it dies with this daemon; nothing where no system call does.

    Not `preexec_fn`: that runs Python between fork and exec, in a copy of a process with threads.
    """
    if sys.platform != "linux":
        return ()
    setpriv = shutil.which("setpriv")
    if setpriv is not None:
        told = subprocess.run([setpriv, "--help"], capture_output=True, check=False)
        if b"--pdeathsig" in told.stdout:
            return (setpriv, "--pdeathsig", "KILL", "--")
    return (sys.executable, "-I", "-S", "-c", _PYTHON_LEASH)
