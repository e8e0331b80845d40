"""Time and ids that a test decides: see `runtime.clock` for the ports.

Neighbours: `harness` uses a `ManualClock` unless told otherwise, simulations on `virtual` loops a
`LoopClock`.
Invariant: two runs that ask in the same order get the same answers.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

# A round epoch second, so that times in failures are easy to read: 2023-11-14T22:13:20Z.
EPOCH_MS: Final = 1_700_000_000_000


class ManualClock:
    """Stands still until it is moved."""

    def __init__(self, now_ms: int = EPOCH_MS) -> None:
        """Begin at a wall time; the monotonic clock begins at zero."""
        self._now_ms = float(now_ms)
        self._monotonic = 0.0

    def now_ms(self) -> int:
        """See `Clock`."""
        return round(self._now_ms)

    def monotonic(self) -> float:
        """See `Clock`."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        assert seconds >= 0, "time does not run backwards; wall clocks may `jump`"
        self._monotonic += seconds
        self._now_ms += seconds * 1000

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back, as a person or a time server does."""
        self._now_ms += seconds * 1000


class LoopClock:
    """The running loop's time, as wall time too."""

    def now_ms(self) -> int:
        """See `Clock`."""
        return EPOCH_MS + round(self.monotonic() * 1000)

    def monotonic(self) -> float:
        """See `Clock`."""
        return asyncio.get_running_loop().time()


class SequentialIds:
    """`t-1`, `t-2`, …; shared by several incarnations it never repeats itself."""

    def __init__(self) -> None:
        """Begin at 1 for every prefix."""
        self._counts: Counter[str] = Counter()

    def new(self, prefix: str) -> str:
        """See `Ids`."""
        self._counts[prefix] += 1
        return f"{prefix}-{self._counts[prefix]}"
