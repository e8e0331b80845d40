"""Changes that can be taken back, for a batch that is refused half-way.

Neighbours: `memory_disk` makes every change of a batch through one.
Invariant: taken back, the tables are what they were, in every entry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Undo:
    """Changes to dictionaries that can be taken back, the last one first."""

    __slots__ = ("_steps",)

    def __init__(self) -> None:
        self._steps: list[Callable[[], object]] = []

    def put(self, table: dict[Key, Value], key: Key, value: Value) -> None:
        """Set, and note what was there."""
        if key in table:
            old = table[key]
            self._steps.append(lambda: table.__setitem__(key, old))
        else:
            self._steps.append(lambda: table.pop(key))
        table[key] = value

    def drop(self, table: dict[Key, Value], key: Key) -> None:
        """Remove, and note what was there."""
        if key in table:
            old = table.pop(key)
            self._steps.append(lambda: table.__setitem__(key, old))

    def take_back(self) -> None:
        """Undo everything."""
        while self._steps:
            self._steps.pop()()
