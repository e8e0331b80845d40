"""Who wants to know what becomes of a live conversation, beside its feed.

Neighbours: `live` tells them; `server` has those who watch over a connection or a request.
Invariant: they are told in the step in which it became durable, and may not wait in there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from dispatch.core.identity import TurnId

if TYPE_CHECKING:
    from dispatch.runtime.live import Live


class Subscriber(Protocol):
    """Who watches a conversation."""

    def deleted(self, live: Live) -> None:
        """The conversation is gone for ever."""
        ...


class SealWatcher(Protocol):
    """Who wants to know of every seal."""

    def sealed(self, live: Live, turn: TurnId) -> None:
        """A turn's end is durable and about to be shown."""
        ...
