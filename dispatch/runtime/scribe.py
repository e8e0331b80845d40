"""The port of whoever keeps a timeline of a conversation's turns: told inside of each commit.

Neighbours: `intake` and `live` call these while a draft is being built, so that the timeline's rows
are in the very commit that they follow from; `timeline` implements it for groups and chat sessions.
Invariant: what is done to a draft is undone with it: whatever a scribe keeps in memory changes in
the draft's `then`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from dispatch.core.commands import Dispatched
from dispatch.core.events import AnyEvent
from dispatch.core.identity import TurnId
from dispatch.runtime.pending import Draft, Mirror
from dispatch.storage.port import TurnRecord

if TYPE_CHECKING:
    from dispatch.runtime.live import Live


class Scribe(Mirror, Protocol):
    """See the module. Turns that it does not follow are none of its business."""

    def check_open(self) -> None:
        """Raise what refuses a new message."""
        ...

    def has_room(self) -> bool:
        """Whether a message that may wait need not wait for others than its own conversation."""
        return True

    def starting(self, turn: TurnId) -> None:
        """A message begins its turn at once; it may be refused still."""
        return

    def may_start(self, live: Live, turn: TurnId) -> bool:
        """Whether a queued turn may run now; if not, the scribe advances the conversation later."""
        ...

    def accepted(self, draft: Draft, record: TurnRecord) -> None:
        """A message becomes durable: as a turn that begins, waits, or steers."""
        ...

    def refused(self, turn: TurnId) -> None:
        """A message that was accepted in a draft was refused by the disk in the end."""
        ...

    def began(self, draft: Draft, turn: TurnId, now_ms: int) -> None:
        """Its turn runs from here."""
        ...

    def said(self, turn: TurnId, escaped: bytes) -> Callable[[Draft], None] | None:
        """More text of the answer; what to add to a draft ahead of it, if anything."""
        ...

    def heard(self, turn: TurnId, event: AnyEvent) -> Callable[[Draft], None] | None:
        """Any other event; what to add to a draft behind it, if anything."""
        ...

    def absorbed(self, draft: Draft, record: TurnRecord) -> None:
        """A waiting text was taken into the running turn."""
        ...

    def ended(self, draft: Draft, turn: TurnId, outcome: str) -> None:
        """The turn is sealed."""
        ...

    def dropped(self, draft: Draft, turns: Sequence[TurnId], by: Dispatched | None = None) -> None:
        """Messages were taken out of the queue; `by` is whose wish it was, where that is known."""
        ...

    def reordered(
        self, draft: Draft, turns: Sequence[TurnId], by: Dispatched | None = None
    ) -> None:
        """The queue has another order, which is this one; `by` as in `dropped`."""
        return

    def claimed(self, draft: Draft, subject: str, by: Dispatched) -> None:
        """Whose wish is what comes next in the draft to a turn, a request or a truncation."""
        return

    def renamed(self, draft: Draft, title: str) -> None:
        """The conversation has another title."""
        ...

    def recovered(self, turn: TurnId, payload: bytes, delta: str) -> None:
        """An event of a turn that ran when the daemon died."""
        ...

    def deleting(self, live: Live) -> None:
        """The conversation is about to go; what runs in it is ended next."""
        return

    def buried(self, draft: Draft) -> None:
        """The conversation goes in this commit, and its turns with it."""
        return

    def deleted(self, live: Live) -> None:
        """The conversation is gone, and its turns with it."""
        return
