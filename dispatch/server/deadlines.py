"""Many things with one patience: each must be done with in the same time after it was added.

Neighbours: `listener` keeps half-sent heads here, `websocket` the connections that close or have
not named themselves. One timer serves them all: a timer each would cost more than the connections
it guards when two thousand slow ones come at once.
Invariant: the oldest entry is first, because every entry waits equally long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

# Entries may be late by this much: it bounds how often the timer wakes under a steady stream.
GRAIN_SECONDS: Final = 0.05


class Deadlines(Generic[T]):
    """What is waited for; `late` is called once for each entry that was not discarded in time."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, late: Callable[[T], None]
    ) -> None:
        """`late` may add and discard entries."""
        self._loop = loop
        self._seconds = seconds
        self._late = late
        self._due: dict[T, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, entry: object) -> bool:
        return entry in self._due

    def add(self, entry: T) -> None:
        """Start waiting; an entry that is already waited for keeps its deadline."""
        self._due.setdefault(entry, self._loop.time() + self._seconds)
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._sweep)

    def discard(self, entry: T) -> None:
        """It is done with; unknown entries are fine."""
        self._due.pop(entry, None)

    def cancel(self) -> None:
        """Forget everything."""
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        self._timer = None
        now = self._loop.time()
        late: list[T] = []
        for entry, due in self._due.items():
            if due > now:
                wait = max(due - now, GRAIN_SECONDS)
                self._timer = self._loop.call_later(wait, self._sweep)
                break
            late.append(entry)
        for entry in late:
            # An earlier entry's end may have taken a later one along.
            if self._due.pop(entry, None) is not None:
                self._late(entry)
