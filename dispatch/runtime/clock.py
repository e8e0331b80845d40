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


class PassedTime:
    """Wall time that runs ahead of the monotonic clock for nobody: what is removed for its age is
    removed for time that passed, not for a clock that was set forward.
    """

    def __init__(self, clock: Clock) -> None:
        """Believe the wall clock as it stands."""
        self._clock = clock
        self._began_ms = clock.now_ms()
        self._began_s = clock.monotonic()

    def now_ms(self) -> int:
        """Epoch milliseconds; after a jump forward, as if there had been none."""
        passed_ms = round((self._clock.monotonic() - self._began_s) * 1000)
        return min(self._clock.now_ms(), self._began_ms + passed_ms)


class RandomIds:
    """80 random bits: no collision among any number of turns a disk can hold."""

    def new(self, prefix: str) -> str:
        """See `Ids`."""
        return f"{prefix}-{secrets.token_hex(10)}"
