"""VS Code's own AHP clients as published packages, and the Node that runs them.

Neighbours: `tests/packages`, which finds them; the programs beside this file, which load them.
The locks are in `ahp-0.9/` and `ahp-0.5.1/`.
Invariant: nothing of the packages is in the tree.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.packages import Missing, installed
from tests.web.toolchain import toolchain

FOLDER = Path(__file__).resolve().parent


def command(program: str, version: str) -> list[str]:
    """How a program of this folder is run with the client of a version; skips without them."""
    try:
        node, packages = toolchain().node, installed(FOLDER / f"ahp-{version}")
    except Missing as reason:
        pytest.skip(f"VS Code's client of AHP {version} is NOT tested: {reason}")
    return [node, str(FOLDER / program), str(packages), version]
