"""The bounded ring of what was shown: the newest events of one conversation, by offset.

Neighbours: `runtime.feed` owns one a conversation and serves cursors from it; what fell out is in
the journal. An `Entry` is an event as stored, with the ids that dialects splice in.
Invariant: entries are gap-free by offset; a read is a contiguous run or a `Gap`, never a part.
"""

from __future__ import annotations

from bisect import bisect_right
from operator import attrgetter
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from dispatch.core.identity import TurnId


class Entry(NamedTuple):
    """One shown event: its offset, its turn, its JSON, and which kind of delta it is, if any.

    `delta` is the escaped text's class (`text-delta`, `reasoning-delta`), or an empty string: runs
    of one kind may be shown merged.
    """

    offset: int
    turn: TurnId
    payload: bytes
    delta: str = ""


class Frame(NamedTuple):
    """One shown frame of a timeline's stream: its id, what it belongs to, its JSON.

    `offset` is the id: position times 16 and an index. `topic` is what a part of the stream is
    chosen by: the seq of the message that is answered, or the chat session. One that is not
    `is_kept` is in no log: it says nothing that a later one does not say again.
    """

    offset: int
    topic: str
    payload: bytes
    is_kept: bool = True


class Gap(NamedTuple):
    """The cursor is before the ring's first entry: ask the journal up to `floor`."""

    floor: int


# Removing the oldest entries one by one would shift the list each time.
_TRIM_SHARE: Final = 4


class Shown(Protocol):
    """What a ring holds: an `Entry` or a `Frame`."""

    @property
    def offset(self) -> int:
        """Its place."""
        ...

    @property
    def payload(self) -> bytes:
        """Its JSON."""
        ...


Item = TypeVar("Item", bound=Shown)

_OFFSET: Final = attrgetter("offset")


class Ring(Generic[Item]):
    """The newest entries within `events_max` and `bytes_max`; reading is by offset.

    Offsets are gap-free, or only grow (`is_sparse`), as the ids of frames do.
    """

    __slots__ = (
        "_entries",
        "_is_sparse",
        "bytes_held",
        "bytes_max",
        "events_max",
        "floor",
        "head",
    )

    def __init__(
        self, head: int, *, events_max: int, bytes_max: int, is_sparse: bool = False
    ) -> None:
        """Begin empty, behind an event with offset `head`."""
        self._entries: list[Item] = []
        self._is_sparse = is_sparse
        self.floor = head
        self.head = head
        self.events_max = events_max
        self.bytes_max = bytes_max
        self.bytes_held = 0

    def extend(self, entries: list[Item]) -> None:
        """Append a run that follows the head; the oldest fall out when full."""
        if not entries:
            return
        first, last = entries[0].offset, entries[-1].offset
        if self._is_sparse:
            assert first > self.head, "ids only grow"
        else:
            assert first == self.head + 1, "offsets are gap-free"
        self._entries += entries
        self.head = last
        for entry in entries:
            self.bytes_held += len(entry.payload)
        if self.bytes_held > self.bytes_max or len(self._entries) > self.events_max:
            self._trim()

    def read(self, after: int, *, bytes_max: int) -> list[Item] | Gap:
        """Entries after an offset, at least one if there is any, up to about `bytes_max`."""
        if after < self.floor:
            return Gap(self.floor)
        entries = self._entries
        start = after - self.floor
        if self._is_sparse:
            start = bisect_right(entries, after, key=_OFFSET)
        size, end = 0, start
        while end < len(entries) and (size < bytes_max or end == start):
            size += len(entries[end].payload)
            end += 1
        return entries[start:end]

    def clear(self) -> int:
        """Forget everything but the head; the bytes freed."""
        freed, self.floor = self.bytes_held, self.head
        self._entries.clear()
        self.bytes_held = 0
        return freed

    def skip(self, head: int) -> int:
        """Go on behind an offset without what led there; the bytes freed."""
        self.head = head
        return self.clear()

    def _trim(self) -> None:
        keep_bytes = self.bytes_max - self.bytes_max // _TRIM_SHARE
        keep_events = self.events_max - self.events_max // _TRIM_SHARE
        drop = 0
        count = len(self._entries)
        while drop < count - 1 and (self.bytes_held > keep_bytes or count - drop > keep_events):
            self.bytes_held -= len(self._entries[drop].payload)
            drop += 1
        self.floor = self._entries[drop - 1].offset if drop else self.floor
        del self._entries[:drop]
