"""How many runs of groups and chat sessions may go on at once, over all accounts.

Neighbours: `timeline` takes a slot before a queued turn runs and gives it back at its end; `intake`
advances who waited.
Invariant: who waits holds nothing, and is served in the order of asking.
"""

from __future__ import annotations

from collections.abc import Callable

from dispatch.core.identity import TurnId
from dispatch.storage.keys import ConversationKey


class Slots:
    """So many turns at a time."""

    def __init__(self, runs_max: int) -> None:
        """Begin with all of them free."""
        self._runs_max = runs_max
        self._running: set[TurnId] = set()
        self._waiting: dict[ConversationKey, Callable[[], None]] = {}

    @property
    def is_full(self) -> bool:
        """Whether one more would have to wait."""
        return bool(self._waiting) or len(self._running) >= self._runs_max

    def take(self, turn: TurnId, conversation: ConversationKey, go_on: Callable[[], None]) -> bool:
        """Take a slot for a turn; if there is none, `go_on` is called once there is."""
        if turn in self._running:
            return True
        is_next = not self._waiting or next(iter(self._waiting)) == conversation
        if len(self._running) >= self._runs_max or not is_next:
            self._waiting.setdefault(conversation, go_on)
            return False
        self._waiting.pop(conversation, None)
        self._running.add(turn)
        return True

    def hold(self, turn: TurnId) -> None:
        """Count a turn that runs already, as one that was not queued."""
        self._running.add(turn)

    def give_back(self, turn: TurnId) -> None:
        """A turn is over, or will never run."""
        self._running.discard(turn)
        while self._waiting and len(self._running) < self._runs_max:
            conversation, go_on = next(iter(self._waiting.items()))
            before = len(self._running)
            go_on()
            if len(self._running) == before:
                # It has nothing to run any more.
                self._waiting.pop(conversation, None)
