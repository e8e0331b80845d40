"""Node 22 or newer and the packages of a folder, from npm, once for each lock file.

Neighbours: `test_client` asks for it, and the clients of other protocols for theirs;
`package-lock.json` says which versions, without addresses.
They are kept in `.node/` of the checkout, which is ignored.
Invariant: what is there was installed as a whole; a failure leaves a reason, not half a folder.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

FOLDER: Final = Path(__file__).resolve().parent
CACHE: Final = FOLDER.parent.parent / ".node"
INSTALL_SECONDS_MAX: Final = 300
# The client is written for it: WebSocket without a package.
NODE_MAJOR_MIN: Final = 22
_MACHINES: Final = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}


class Missing(Exception):
    """Why there is no toolchain."""


class Toolchain(NamedTuple):
    """`folder` is a copy of this one, beside its packages; the client is where it always is."""

    node: str
    folder: Path

    def tsc(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the TypeScript compiler."""
        compiler = str(self.folder / "node_modules" / ".bin" / "tsc")
        return subprocess.run(
            [compiler, *arguments],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            env=os.environ | {"PATH": f"{Path(self.node).parent}:{os.environ['PATH']}"},
        )


@functools.cache
def toolchain() -> Toolchain:
    """Install what is not there yet; raises `Missing`."""
    packages = installed(FOLDER)
    machine = _MACHINES.get(platform.machine().lower(), platform.machine())
    own = packages / f"node-linux-{machine}" / "bin" / "node"
    node = str(own) if own.exists() else shutil.which("node")
    if node is None or _major(node) < NODE_MAJOR_MIN:
        raise Missing(f"there is no Node {NODE_MAJOR_MIN} for this machine")
    # Imports of packages are looked up from where the tests are. Another worker may be at it too.
    own_link = FOLDER / f"node_modules.{os.getpid()}"
    own_link.unlink(missing_ok=True)
    own_link.symlink_to(packages)
    own_link.replace(FOLDER / "node_modules")
    return Toolchain(node, FOLDER)


def installed(folder: Path) -> Path:
    """The packages of a folder's lock, installed if they are not yet; raises `Missing`."""
    npm = shutil.which("npm")
    if npm is None:
        raise Missing(f"there is no npm to bring the packages of {folder.name}")
    lock = (folder / "package-lock.json").read_bytes()
    home = CACHE / f"{folder.name}-{hashlib.sha256(lock).hexdigest()[:16]}"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "lock").open("w") as lock_file:
        # Another worker may be at it.
        fcntl.flock(lock_file, fcntl.LOCK_EX)
        if not home.exists():
            _install(npm, folder, home)
    return home / "node_modules"


def _install(npm: str, folder: Path, home: Path) -> None:
    with tempfile.TemporaryDirectory(dir=CACHE) as work:
        for name in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy(folder / name, work)
        done = subprocess.run(
            [npm, "ci", "--ignore-scripts"],
            cwd=work,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS_MAX,
        )
        if done.returncode != 0:
            raise Missing(f"npm ci of {folder.name} failed: {done.stderr.strip()[-300:]}")
        Path(work).rename(home)
        Path(work).mkdir()


def _major(node: str) -> int:
    version = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=30)
    return int(version.stdout.strip().removeprefix("v").split(".")[0])
