"""Two who write down the turns of one conversation: its timeline's, and AHP's chronicle.

Neighbours: `live` knows them as one `scribe.Scribe`; `timelines` attaches the first, `ahp.keeping`
the second. A group's or a chat session's scribe has rules; a chronicle only writes down.
Invariant: both are told of everything, the timeline first, and neither comes or goes with the
other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from dispatch.core.commands import Dispatched
from dispatch.core.events import AnyEvent
from dispatch.core.identity import TurnId
from dispatch.runtime.pending import Draft
from dispatch.runtime.scribe import Scribe
from dispatch.storage.port import TurnRecord

if TYPE_CHECKING:
    from dispatch.runtime.live import Live


class Chronicle(Scribe):
    """A scribe without rules; it is asked nothing and told all that is not overridden to be told.

    What follows of text and events is in the log already, so neither is written down.
    """

    def check_open(self) -> None:
        """See `Scribe`: it refuses nothing."""

    def may_start(self, live: Live, turn: TurnId) -> bool:
        """See `Scribe`: as far as it is concerned."""
        return True

    def said(self, turn: TurnId, escaped: bytes) -> Callable[[Draft], None] | None:
        """See `Scribe`."""
        return None

    def heard(self, turn: TurnId, event: AnyEvent) -> Callable[[Draft], None] | None:
        """See `Scribe`."""
        return None

    def recovered(self, turn: TurnId, payload: bytes, delta: str) -> None:
        """See `Scribe`."""


class Both(Scribe):
    """A timeline's scribe with a chronicle beside it."""

    def __init__(self, first: Scribe, chronicle: Chronicle) -> None:
        """`first` has the rules."""
        self.first = first
        self.chronicle = chronicle

    def happened(self, position: int, turn: TurnId, payload: bytes, delta: str) -> None:
        """See `pending.Mirror`."""
        self.first.happened(position, turn, payload, delta)
        self.chronicle.happened(position, turn, payload, delta)

    def check_open(self) -> None:
        """See `Scribe`."""
        self.first.check_open()

    def has_room(self) -> bool:
        """See `Scribe`."""
        return self.first.has_room()

    def starting(self, turn: TurnId) -> None:
        """See `Scribe`."""
        self.first.starting(turn)

    def may_start(self, live: Live, turn: TurnId) -> bool:
        """See `Scribe`."""
        return self.first.may_start(live, turn)

    def accepted(self, draft: Draft, record: TurnRecord) -> None:
        """See `Scribe`."""
        self.first.accepted(draft, record)
        self.chronicle.accepted(draft, record)

    def refused(self, turn: TurnId) -> None:
        """See `Scribe`."""
        self.first.refused(turn)
        self.chronicle.refused(turn)

    def began(self, draft: Draft, turn: TurnId, now_ms: int) -> None:
        """See `Scribe`."""
        self.first.began(draft, turn, now_ms)
        self.chronicle.began(draft, turn, now_ms)

    def said(self, turn: TurnId, escaped: bytes) -> Callable[[Draft], None] | None:
        """See `Scribe`."""
        return self.first.said(turn, escaped)

    def heard(self, turn: TurnId, event: AnyEvent) -> Callable[[Draft], None] | None:
        """See `Scribe`."""
        writes = [self.first.heard(turn, event), self.chronicle.heard(turn, event)]
        due = [write for write in writes if write is not None]
        return partial(_each, due) if due else None

    def absorbed(self, draft: Draft, record: TurnRecord) -> None:
        """See `Scribe`."""
        self.first.absorbed(draft, record)
        self.chronicle.absorbed(draft, record)

    def ended(self, draft: Draft, turn: TurnId, outcome: str) -> None:
        """See `Scribe`."""
        self.first.ended(draft, turn, outcome)
        self.chronicle.ended(draft, turn, outcome)

    def claimed(self, draft: Draft, subject: str, by: Dispatched) -> None:
        """See `Scribe`."""
        self.first.claimed(draft, subject, by)
        self.chronicle.claimed(draft, subject, by)

    def dropped(self, draft: Draft, turns: Sequence[TurnId], by: Dispatched | None = None) -> None:
        """See `Scribe`."""
        self.first.dropped(draft, turns, by)
        self.chronicle.dropped(draft, turns, by)

    def reordered(
        self, draft: Draft, turns: Sequence[TurnId], by: Dispatched | None = None
    ) -> None:
        """See `Scribe`."""
        self.first.reordered(draft, turns, by)
        self.chronicle.reordered(draft, turns, by)

    def renamed(self, draft: Draft, title: str) -> None:
        """See `Scribe`."""
        self.first.renamed(draft, title)
        self.chronicle.renamed(draft, title)

    def recovered(self, turn: TurnId, payload: bytes, delta: str) -> None:
        """See `Scribe`."""
        self.first.recovered(turn, payload, delta)

    def deleting(self, live: Live) -> None:
        """See `Scribe`."""
        self.first.deleting(live)

    def buried(self, draft: Draft) -> None:
        """See `Scribe`."""
        self.first.buried(draft)
        self.chronicle.buried(draft)

    def deleted(self, live: Live) -> None:
        """See `Scribe`."""
        self.first.deleted(live)
        self.chronicle.deleted(live)


def _each(writes: Sequence[Callable[[Draft], None]], draft: Draft) -> None:
    for write in writes:
        write(draft)


def timeline_scribe(scribe: Scribe | None) -> Scribe | None:
    """The one that has rules, if there is one."""
    match scribe:
        case Both(first=first):
            return first
        case Chronicle():
            return None
        case _:
            return scribe


def chronicle_of(scribe: Scribe | None) -> Chronicle | None:
    """The chronicle, if there is one."""
    match scribe:
        case Both(chronicle=chronicle):
            return chronicle
        case Chronicle():
            return scribe
        case _:
            return None


def together(first: Scribe | None, chronicle: Chronicle | None) -> Scribe | None:
    """The two as one; None where there is neither."""
    if first is None or chronicle is None:
        return first or chronicle
    return Both(first, chronicle)
