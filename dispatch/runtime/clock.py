"""Where time, randomness and ids come from: ports, so that a simulation can replace them.

Neighbours: `compose` passes the system's, `testing` and the simulation pass their own.
Invariant: nothing else in `runtime` reads a clock or a random source.
"""

from __future__ import annotations

import secrets
import time
from typing import Protocol


class Clock(Protocol):
    """Wall time for what people read, monotonic time for what waits."""

    def now_ms(self) -> int:
        """Epoch milliseconds; may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds that only grow."""
        ...


class Ids(Protocol):
    """Names that nobody else has."""

    def new(self, prefix: str) -> str:
        """A fresh id, `<prefix>-` and random characters."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        """See `Clock`."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """See `Clock`."""
        return time.monotonic()


class RandomIds:
    """80 random bits: no collision among any number of turns a disk can hold."""

    def new(self, prefix: str) -> str:
        """See `Ids`."""
        return f"{prefix}-{secrets.token_hex(10)}"
