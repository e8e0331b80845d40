"""Node 22 or newer, and the packages that the tests of the browser client and of the page take.

Neighbours: `tests/packages` has them, `package-lock.json` says which versions, without addresses;
the tests here ask for it, and those of clients of other protocols.
Invariant: what is given can be run; a test without it skips, and says why.
"""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

from tests.packages import Missing, installed

FOLDER: Final = Path(__file__).resolve().parent
# The client is written for it: WebSocket without a package.
NODE_MAJOR_MIN: Final = 22
_MACHINES: Final = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}


class Toolchain(NamedTuple):
    """`folder` is this one, with a link to its packages."""

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
    """Find it; raises `Missing`."""
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


def _major(node: str) -> int:
    version = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=30)
    return int(version.stdout.strip().removeprefix("v").split(".")[0])
