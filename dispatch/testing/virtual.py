"""An event loop on virtual time: sleeping costs nothing, and the same run happens again.

Neighbours: simulations run the unmodified runtime on it; `clocks.LoopClock` tells its time.
Invariant: time moves only when nothing is ready, and then exactly to the next timer; a run in which
nothing could ever happen again ends with `Deadlock` instead of hanging.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

# Timers closer together than this are due together, so that rounding cannot make the loop spin.
_RESOLUTION_SECONDS = 1e-9


class Deadlock(Exception):
    """Everything waits and no timer is set."""


class _Selector(selectors.DefaultSelector):
    """Jumps over the time it would have waited."""

    def __init__(self) -> None:
        super().__init__()
        self.jump: Callable[[float], None] = lambda _: None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise Deadlock("everything waits and no timer is set")
        if timeout > 0:
            self.jump(timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module. Threads do not move its time: whatever runs on it must not use any."""

    def __init__(self) -> None:
        """Begin at zero."""
        selector = _Selector()
        super().__init__(selector)
        self._now = 0.0
        self._clock_resolution = _RESOLUTION_SECONDS
        selector.jump = self._jump

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def _jump(self, seconds: float) -> None:
        self._now += seconds


def run_virtual(main: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Run a program to its end on a loop of its own."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())
