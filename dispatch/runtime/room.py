"""How much of a kind may be in memory at once: who wants more waits for who came first.

Neighbours: `history` takes room for what it reads of large turns until it was written to its
reader. It counts what was stored; with what is made of it on the way, a few times that is held.
Invariant: no more is taken than there is, except by one alone that is larger than all of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Room:
    """So many bytes, given out in the order they were asked for."""

    __slots__ = ("_bytes_max", "_waiting", "bytes_taken")

    def __init__(self, bytes_max: int) -> None:
        """Begin with all of it free."""
        self._bytes_max = bytes_max
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.bytes_taken = 0

    @asynccontextmanager
    async def taken(self, size: int) -> AsyncIterator[None]:
        """Wait for room for `size` bytes, and hold it during the block."""
        if self._waiting or not self._fits(size):
            await self._wait(size)
        else:
            self.bytes_taken += size
        try:
            yield
        finally:
            self._give_back(size)

    async def _wait(self, size: int) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                # It was given in the same moment.
                self._give_back(size)
            else:
                self._waiting.remove((size, turn))
                self._give_out()
            raise

    def _fits(self, size: int) -> bool:
        return not self.bytes_taken or self.bytes_taken + size <= self._bytes_max

    def _give_back(self, size: int) -> None:
        self.bytes_taken -= size
        self._give_out()

    def _give_out(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            size, turn = self._waiting.popleft()
            self.bytes_taken += size
            turn.set_result(None)
