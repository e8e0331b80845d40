"""What waits for one consumer: items between the reader of a socket and an `async for`.

Neighbours: `follow` and `mirror` have one each. The reader never waits for the consumer: what is
too much is not taken, and its owner goes on from its place once the rest is.
Invariant: at most `bytes_max` and one item wait here.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Generic, TypeVar

import anyio

from dispatch.errors import DispatchError

T = TypeVar("T")

# What an item costs beside its bytes on the wire, so that many tiny ones count too.
ITEM_BYTES: Final = 512


class Inbox(Generic[T]):
    """See the module."""

    def __init__(self, bytes_max: int) -> None:
        """Empty."""
        self._bytes_max = bytes_max
        self._items: deque[tuple[T, int]] = deque()
        self._wake = anyio.Event()
        self._failure: DispatchError | None = None
        self.bytes_waiting = 0
        self.is_over = False

    def __len__(self) -> int:
        return len(self._items)

    @property
    def is_full(self) -> bool:
        """Whether the consumer has to take something first."""
        return self.bytes_waiting > self._bytes_max

    def put(self, item: T, size: int) -> None:
        """Add an item; `size` in bytes."""
        self._items.append((item, size + ITEM_BYTES))
        self.bytes_waiting += size + ITEM_BYTES
        self._wake.set()

    def take(self) -> T | None:
        """The oldest item; None where there is none yet. Raises once what is over is all taken."""
        if self._items:
            item, size = self._items.popleft()
            self.bytes_waiting -= size
            return item
        if self._failure is not None:
            raise self._failure
        if self.is_over:
            raise StopAsyncIteration
        return None

    def end(self, failure: DispatchError | None) -> None:
        """Nothing more will come; the first failure counts."""
        self._failure = self._failure or failure
        self.is_over = True
        self._wake.set()

    async def changed(self) -> None:
        """Return once something was put, or it ended; for a consumer that has taken everything."""
        self._wake = anyio.Event()
        await self._wake.wait()
