"""Something on its way to disk, and who waits to hear what became of it.

Neighbours: `admission` is a message, `truncation` a truncation; `intake` settles both.
Invariant: it is settled exactly once, by `accept` or by `refuse`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from dispatch.errors import DispatchError

Told = TypeVar("Told")


def nothing() -> None:
    """Nobody waits."""


@dataclass(slots=True, kw_only=True, eq=False)
class Settling(Generic[Told]):
    """`accepted` runs synchronously, before anything of it is shown; `then` when it is settled
    either way.
    """

    accepted: Callable[[Told], None]
    then: Callable[[], None] = nothing
    error: DispatchError | None = None
    settled: asyncio.Event = field(default_factory=asyncio.Event)

    def accept(self, told: Told) -> None:
        """It is durable."""
        assert not self.settled.is_set(), "settled once"
        self.accepted(told)
        self._settle()

    def refuse(self, error: DispatchError) -> None:
        """Nothing of it is kept."""
        assert not self.settled.is_set(), "settled once"
        self.error = error
        self._settle()

    async def outcome(self) -> None:
        """Wait until it is settled; raises what refused it."""
        await self.settled.wait()
        if self.error is not None:
            try:
                raise self.error
            finally:
                # Its traceback has this frame, and with it the message: no circle may keep that.
                self.error = None

    def _settle(self) -> None:
        self.settled.set()
        # It has this in turn: see `outcome`.
        then, self.then = self.then, nothing
        then()
