"""The name of a data directory's history, part of every native position.

Neighbours: the adapters mint one when their data is created, and again when a copy of it is opened
for the first time; `core.identity.Position` carries it.
Invariant: two histories that differ have different generations, so that a position of one is never
believed by the other.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

MintGeneration = Callable[[], str]
"""Where an adapter gets a new generation from; tests pass their own."""

_CHARACTERS: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
# 36^8: about 2.8e12 names for the handful that one directory ever has.
_LENGTH: Final = 8


def mint_generation() -> str:
    """A fresh name out of the system's randomness."""
    return "".join(secrets.choice(_CHARACTERS) for _ in range(_LENGTH))
