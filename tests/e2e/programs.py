"""Programs that the README names and a machine may lack: found, or a test that says aloud that it
was skipped.

Neighbours: `scripts/test` installs them; the tests of the README's proxies, of what it does with
curl, and of the page ask for them.
Invariant: a test installs nothing on the machine.
"""

from __future__ import annotations

import shutil

import pytest


def needed(name: str) -> str:
    """The path of a program; skips the test, with the reason, if it is not there."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed; scripts/test does that as root on a Debian")
    return path
