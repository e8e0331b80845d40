"""A terminal, for programs that want a person: what is typed goes in, what is shown comes out.

Neighbours: the tests of the README type wscat sessions into one.
Invariant: the program's process group ends with the block, and every wait is under a guard.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
# So wide that no line is wrapped, which would tear frames apart.
COLUMNS = 8000


class Terminal:
    """What the program has shown so far, without escape codes."""

    def __init__(self, controller: int) -> None:
        self._controller = controller
        self._raw = b""

    @property
    def shown(self) -> str:
        return ESCAPES.sub(b"", self._raw).replace(b"\r", b"\n").decode(errors="replace")

    def type(self, text: str) -> None:
        """As by a keyboard."""
        os.write(self._controller, text.encode())

    async def until(self, is_there: Callable[[str], bool], seconds: float) -> str:
        """Read along until it is there."""
        try:
            with anyio.fail_after(seconds):
                while not is_there(self.shown):
                    await anyio.wait_readable(self._controller)
                    try:
                        piece = os.read(self._controller, 65536)
                    except OSError:
                        # Linux says EIO when the last writer of a terminal is gone.
                        piece = b""
                    assert piece, f"it ended: {self.shown}"
                    self._raw += piece
        except TimeoutError:
            raise AssertionError(f"it never came: {self.shown}") from None
        return self.shown


@asynccontextmanager
async def terminal(
    command: str, folder: Path, environment: dict[str, str]
) -> AsyncIterator[Terminal]:
    """A shell command in a terminal of its own."""
    controller, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    process = subprocess.Popen(
        ["bash", "-c", command],
        stdin=inner,
        stdout=inner,
        stderr=inner,
        cwd=folder,
        env=environment | {"TERM": "dumb"},
        start_new_session=True,
    )
    os.close(inner)
    try:
        yield Terminal(controller)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(controller)
