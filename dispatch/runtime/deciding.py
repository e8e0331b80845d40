"""Which clients' ids are being decided on: a wish that comes twice at once is carried out once.

Neighbours: `broker` enters before it asks the disk whether an id was used, and leaves once what
came of it is on disk. What was decided long ago is found there, and not here.
Invariant: of one id at most one is between `enter` and `leave`.
"""

from __future__ import annotations

import asyncio


class Deciding:
    """The ids, and who waits for each."""

    def __init__(self) -> None:
        """Begin with none."""
        self._entered: dict[str, asyncio.Event] = {}

    async def enter(self, key: str) -> None:
        """Wait until nobody else decides on the id, then do so."""
        while (other := self._entered.get(key)) is not None:
            # The same wish over another connection: it decides for both.
            await other.wait()
        self._entered[key] = asyncio.Event()

    def leave(self, key: str) -> None:
        """It is decided."""
        self._entered.pop(key).set()
