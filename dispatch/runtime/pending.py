"""What waits to become durable: events and changes of rows, and the batch that they are put into.

Neighbours: `live` and `timeline` make these, `journal` builds drafts of them and commits.
Invariant: a draft that was refused leaves no trace: what depends on its becoming durable is in its
`then`, and is built anew with the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from dispatch.core.content import DELTA_SUFFIX
from dispatch.core.identity import TurnId
from dispatch.errors import DispatchError
from dispatch.storage.keys import TurnKey
from dispatch.storage.port import Batch


class Draft(Batch):
    """A batch while it is being built.

    `position` is what the next event gets, of a conversation or of a timeline. `then` runs once it
    is durable, in order and before anything of it is shown: a batch that was refused is built anew.
    """

    position: int = 0
    then: list[Callable[[], None]] = msgspec.field(default_factory=list)

    def take_position(self) -> int:
        """The place in the account's log for an event that is about to be added."""
        position = self.position
        self.position += 1
        return position


class Mirror(Protocol):
    """Who shows the events of a conversation's turns in other words."""

    def happened(self, position: int, turn: TurnId, payload: bytes, delta: str) -> None:
        """An event is durable; `delta` as in `core.replay.Entry`."""
        ...


class PendingEvent:
    """An event on its way to disk; a delta grows while it waits."""

    __slots__ = ("_payload", "delta", "turn_id", "turn_key")

    def __init__(self, turn_key: TurnKey, turn_id: TurnId, payload: bytes, delta: str = "") -> None:
        """`delta` names the run that `payload` may be merged into."""
        self.turn_key = turn_key
        self.turn_id = turn_id
        self.delta = delta
        self._payload: bytes | bytearray = payload

    @property
    def size(self) -> int:
        """Bytes of the encoded event so far."""
        return len(self._payload)

    @property
    def payload(self) -> bytes:
        """The encoded event."""
        if isinstance(self._payload, bytearray):
            self._payload = bytes(self._payload)
        return self._payload

    def grow(self, escaped: bytes) -> None:
        """Append escaped text to the delta."""
        if not isinstance(self._payload, bytearray):
            self._payload = bytearray(self._payload)
        del self._payload[-len(DELTA_SUFFIX) :]
        self._payload += escaped
        self._payload += DELTA_SUFFIX


class PendingChange:
    """Rows on their way to disk, and what to do then.

    `write(draft, offset)` adds the rows, `offset` being the conversation's last one before this
    change and its `events`; it may be called again for a later draft. `durable(offset)` runs once,
    before anything of the batch is shown. With `refused` the change is an admission: a disk that
    takes no more calls it instead, once, and nothing is kept.
    """

    __slots__ = ("durable", "events", "refused", "write")

    def __init__(
        self,
        write: Callable[[Draft, int], None],
        durable: Callable[[int], None] | None = None,
        refused: Callable[[DispatchError], None] | None = None,
        events: tuple[PendingEvent, ...] = (),
    ) -> None:
        """See the class."""
        self.write = write
        self.durable = durable
        self.refused = refused
        self.events = events


Pending = PendingEvent | PendingChange
