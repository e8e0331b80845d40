"""Programs that the README names and a machine may lack: found, installed where that is ours to do,
or a test that says aloud that it was skipped.

Neighbours: the tests of the README's proxies, and of what it does with curl.
Invariant: nothing is installed but as root on a Debian, by its own package tool, by name.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache

import pytest

# An update of the lists and a package of some megabytes, on a slow line.
INSTALL_SECONDS = 180.0


def needed(name: str) -> str:
    """The path of a program; skips the test, with the reason, if it cannot be had."""
    if missing := _missing(name):
        pytest.skip(f"{name} was not run: {missing}")
    path = shutil.which(name)
    assert path is not None
    return path


@cache
def _missing(name: str) -> str:
    """Why the program is not there; empty if it is."""
    if shutil.which(name):
        return ""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return "it is not installed, and only root on a Debian may install it here"
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "-y", "--no-install-recommends", name]):
        try:
            ended = subprocess.run(
                ["apt-get", "-q", *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=INSTALL_SECONDS,
                env=environment,
            )
        except subprocess.TimeoutExpired:
            return f"apt-get {words[0]} took more than {INSTALL_SECONDS:.0f} s"
        if ended.returncode:
            return f"apt-get {words[0]}: {ended.stderr.decode(errors='replace')[-200:]}"
    return "" if shutil.which(name) else "it was installed and is not there"
