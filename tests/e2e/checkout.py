"""A directory like a fresh checkout, in which the README is typed as it stands.

Neighbours: `readme` has what is typed. The tree is copied; its `.venv` has the interpreter and the
packages of this one and says that all is installed, so that the scripts go straight to work.
Invariant: nothing that is typed there can change the tree or the environment it was copied from.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import site
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc

from tests.e2e.commands import GUARD_SECONDS
from tests.e2e.readme import ROOT

COPIED = ("dispatch", "protocol", "scripts", "README.md", "LICENSE", "pyproject.toml", "Dockerfile")
# Another process tells by a file: there is no event to wait for.
POLL_SECONDS = 0.01


class Checkout:
    """The directory, and a shell in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""
        ignored = shutil.ignore_patterns("__pycache__", "node_modules")
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=ignored)
            else:
                shutil.copy2(source, folder / name)
        self._make_environment()

    def _make_environment(self) -> None:
        venv = self.folder / ".venv"
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        packages = venv / "lib" / version / "site-packages"
        packages.mkdir(parents=True)
        (venv / "bin").mkdir()
        (venv / "bin" / "python").symlink_to(sys._base_executable)  # type: ignore[attr-defined]
        (venv / "pyvenv.cfg").write_text((Path(sys.prefix) / "pyvenv.cfg").read_text())
        # The copied package before the one that is installed, and then all other packages.
        found = [str(self.folder), *site.getsitepackages()]
        (packages / "checkout.pth").write_text("\n".join(found) + "\n")
        command = venv / "bin" / "dispatch"
        command.write_text(f"#!{venv}/bin/python\nfrom dispatch.cli import main\nmain()\n")
        command.chmod(0o755)
        (venv / "made-for").write_text(f"{self.folder}\n")
        stamps = [f"{kind} {self._digest(kind)}\n" for kind in ("run", "dev")]
        (venv / "installed").write_text("".join(stamps))

    def _digest(self, kind: str) -> str:
        """What `scripts/environment` would compute."""
        lock = self.folder / "scripts" / "locks" / f"{kind}.txt"
        project = self.folder / "pyproject.toml"
        return hashlib.sha256(lock.read_bytes() + project.read_bytes()).hexdigest()

    def environment(self, **more: str) -> dict[str, str]:
        """As in a terminal after `export PATH=…`, with this checkout's daemon for the usual one."""
        kept = {name: text for name, text in os.environ.items() if not name.startswith("DISPATCH_")}
        path = f"{self.folder / '.venv' / 'bin'}:{kept.get('PATH', '/usr/bin:/bin')}"
        return kept | {"PATH": path, "DISPATCH_URL": self.url, "NO_COLOR": "1"} | more

    async def typed(self, script: str, **more: str) -> str:
        """What a shell prints for these lines, all of which have to succeed."""
        with anyio.fail_after(GUARD_SECONDS * 4):
            ended = await anyio.run_process(
                ["bash", "-c", f"set -euo pipefail\n{script}"],
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
                env=self.environment(**more),
                check=False,
            )
        assert ended.returncode == 0, ended.stdout.decode() + ended.stderr.decode()
        return ended.stdout.decode()

    @asynccontextmanager
    async def going(self, script: str, **more: str) -> AsyncIterator[anyio.abc.Process]:
        """A command that goes on in a terminal of its own, until the block ends."""
        process = await anyio.open_process(
            ["bash", "-c", f"exec {script}"],
            stdin=subprocess.DEVNULL,
            cwd=self.folder,
            env=self.environment(**more),
        )
        async with process:
            try:
                yield process
            finally:
                if process.returncode is None:
                    process.kill()

    @asynccontextmanager
    async def serving(self, script: str, **more: str) -> AsyncIterator[str]:
        """A daemon as it was typed, on a free port; its URL."""
        ready, log = self.folder / "ready.json", self.folder / "daemon.log"
        ready.unlink(missing_ok=True)
        more = {"DISPATCH_PORT": "0", "DISPATCH_READY_FILE": str(ready)} | more
        with log.open("wb") as file:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {script}"],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd=self.folder,
                env=self.environment(**more),
            )
        try:
            with anyio.fail_after(GUARD_SECONDS * 2):
                while not ready.exists():
                    assert process.poll() is None, log.read_text()
                    await anyio.sleep(POLL_SECONDS)
            told = json.loads(ready.read_text())
            assert told["pid"] == process.pid, "the script does not become the daemon"
            self.url = told["url"]
            yield self.url
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    await anyio.to_thread.run_sync(process.wait, GUARD_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


async def said_so(process: anyio.abc.Process, words: str) -> str:
    """Wait until a process has printed these words; all that it printed."""
    assert process.stdout is not None
    shown = b""
    with anyio.fail_after(GUARD_SECONDS):
        while words.encode() not in shown:
            shown += await process.stdout.receive()
    return shown.decode()
