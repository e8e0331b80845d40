"""The dialect's port: how shown entries and notices become frames.

Neighbours: `runtime.feed` calls an `Encoding` once for all who follow in it; `chat` implements it;
`server.websocket` frames the text.
Invariant: encoding is a pure function of the entries: every follower of an encoding gets the same
bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dispatch.core.identity import ConversationId
from dispatch.core.notices import AnyNotice
from dispatch.core.replay import Entry


class Dialect(Protocol):
    """One wire form of the log."""

    def entries(self, conversation: ConversationId, entries: Sequence[Entry]) -> list[bytes]:
        """The JSON texts that show these entries, adjacent deltas of a run merged."""
        ...

    def notice(self, notice: AnyNotice) -> bytes | None:
        """The JSON text of a notice, or None where the dialect has no word for it."""
        ...
