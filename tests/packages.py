"""Packages that tests take from npm, by the lock beside them: found, or a reason why not.

Neighbours: `scripts/test` runs this before any test begins, so that no test's time goes into a
download; `tests/web`, `tests/protocol` and `tests/clients/ahp` ask for theirs. They are kept in
`.node/` of the checkout, which is ignored.
Invariant: what is there was installed as a whole; a test installs nothing.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).resolve().parent
CACHE: Final = TESTS.parent / ".node"
# The largest is a hundred megabytes, on a slow line.
INSTALL_SECONDS_MAX: Final = 600
# Which folders have a lock.
FOLDERS: Final = (
    "web",
    "protocol/tools",
    "clients/ahp/vscode/ahp-0.9",
    "clients/ahp/vscode/ahp-0.5.1",
)


class Missing(Exception):
    """Why something is not there."""


def installed(folder: Path) -> Path:
    """The `node_modules` of a folder's lock; raises `Missing`."""
    home = _home(folder)
    if not home.exists():
        raise Missing(f"the packages of {folder.name} are not installed: scripts/test brings them")
    return home / "node_modules"


def _home(folder: Path) -> Path:
    lock = (folder / "package-lock.json").read_bytes()
    return CACHE / f"{folder.name}-{hashlib.sha256(lock).hexdigest()[:16]}"


def _install(npm: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=CACHE) as work:
        for name in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy(folder / name, work)
        subprocess.run(
            [npm, "ci", "--ignore-scripts"],
            cwd=work,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=INSTALL_SECONDS_MAX,
            check=True,
        )
        # Another run may have been faster: what it made is the same.
        if not _home(folder).exists():
            Path(work).rename(_home(folder))
            Path(work).mkdir()


def main() -> None:
    """Bring what is missing; what cannot be had is named, and its tests are skipped."""
    npm = shutil.which("npm")
    if npm is None:
        print("dispatch: there is no npm, so tests of JavaScript are skipped", file=sys.stderr)
        return
    CACHE.mkdir(exist_ok=True)
    for folder in (TESTS / name for name in FOLDERS):
        if _home(folder).exists():
            continue
        try:
            _install(npm, folder)
        except (OSError, subprocess.SubprocessError) as error:
            print(f"dispatch: npm cannot bring {folder.name}: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
