"""A chat's state while its text grows: pieces wait beside it and are folded as one.

Neighbours: `reduce` folds, `session_fold` and `runtime.ahp.reading` keep a chat in one of these.
Folding each piece by itself would copy the whole text each time: a turn would cost the square of
its length.
Invariant: what `state` gives is what folding every action by itself gives.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from dispatch.protocol.ahp.objects import changed
from dispatch.protocol.ahp.reduce import reduce
from dispatch.protocol.codec import Object

TEXT: Final = frozenset({"chat/delta", "chat/reasoning"})
"""The actions that are most of what is said, and of which neighbours may be one."""


class RunningFold:
    """See the module."""

    __slots__ = ("_first", "_pieces", "_state")

    def __init__(self, state: Object) -> None:
        """Continue a state."""
        self._state = state
        self._first: Object | None = None
        self._pieces: list[str] = []

    @property
    def state(self) -> Object:
        """Everything so far, folded."""
        if self._first is not None:
            text = changed(self._first, content="".join(self._pieces))
            self._first, self._pieces = None, []
            self._state = reduce(self._state, text)
        return self._state

    @state.setter
    def state(self, state: Object) -> None:
        self._first, self._pieces = None, []
        self._state = state

    def add(self, action: Object) -> None:
        """One more action."""
        if action["type"] not in TEXT:
            self._state = reduce(self.state, action)
            return
        first = self._first
        if first is None or any(first[name] != action[name] for name in _SAME):
            _ = self.state
            self._first = action
        self._pieces.append(action["content"])

    def add_all(self, actions: Iterable[Object]) -> None:
        """All of them, in order."""
        for action in actions:
            self.add(action)


_SAME: Final = ("type", "turnId", "partId")
