"""A real daemon in a process of its own, started, killed and started again by id.

Neighbours: `conftest` gives tests one; `wire` talks to it.
Invariant: a process that was started here is ended here, and waited for.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio

START_SECONDS = 30.0
# Another process tells by a file or a figure: there is no event to wait for.
POLL_SECONDS = 0.005


class DaemonProcess:
    """`dispatch serve` on a free port, with a data directory that outlives the process."""

    def __init__(self, folder: Path, config: str = "", arguments: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.config = folder / "dispatch.toml"
        self.config.write_text(config)
        self.arguments = arguments
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """Everything the daemon has logged, over all its starts."""
        return "".join(path.read_text() for path in sorted(self.folder.glob("log-*.txt")))

    async def start(self) -> None:
        """Return once it accepts."""
        self._starts += 1
        ready = self.folder / f"ready-{self._starts}.json"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("DISPATCH_")}
        with (self.folder / f"log-{self._starts:03}.txt").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "dispatch", "serve", "--port", "0"),
                    *("--data", str(self.data), "--config", str(self.config)),
                    *("--ready-file", str(ready)),
                    *self.arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )
        with anyio.fail_after(START_SECONDS):
            while not ready.exists():
                assert self._process.poll() is None, f"it ended at once:\n{self.log}"
                await anyio.sleep(POLL_SECONDS)
        told = json.loads(ready.read_text())
        assert told["pid"] == self._process.pid
        self.url = told["url"]

    async def kill(self) -> None:
        """kill -9, as at a power cut of the process."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        await anyio.to_thread.run_sync(self._process.wait)

    async def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        with anyio.fail_after(START_SECONDS):
            return await anyio.to_thread.run_sync(self._process.wait)

    async def end(self) -> None:
        """Make sure that nothing is left."""
        if self._process is not None and self._process.poll() is None:
            await self.kill()
