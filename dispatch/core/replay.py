"""The bounded ring of what was shown: the newest events of one conversation, by offset.

Neighbours: `runtime.feed` owns one a conversation and serves cursors from it; what fell out is in
the journal. An `Entry` is an event as stored, with the ids that dialects splice in.
Invariant: entries are gap-free by offset; a read is a contiguous run or a `Gap`, never a part.
"""

from __future__ import annotations

from typing import Final, NamedTuple

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


class Gap(NamedTuple):
    """The cursor is before the ring's first entry: ask the journal up to `floor`."""

    floor: int


# Removing the oldest entries one by one would shift the list each time.
_TRIM_SHARE: Final = 4


class Ring:
    """The newest entries within `events_max` and `bytes_max`; reading is by offset."""

    __slots__ = ("_entries", "bytes_held", "bytes_max", "events_max", "floor")

    def __init__(self, head: int, *, events_max: int, bytes_max: int) -> None:
        """Begin empty, behind an event with offset `head`."""
        self._entries: list[Entry] = []
        self.floor = head
        self.events_max = events_max
        self.bytes_max = bytes_max
        self.bytes_held = 0

    @property
    def head(self) -> int:
        """The offset of the newest entry (or what it would follow)."""
        return self.floor + len(self._entries)

    def extend(self, entries: list[Entry]) -> None:
        """Append a contiguous run that follows the head; the oldest fall out when full."""
        assert not entries or entries[0].offset == self.head + 1, "offsets are gap-free"
        self._entries += entries
        for entry in entries:
            self.bytes_held += len(entry.payload)
        if self.bytes_held > self.bytes_max or len(self._entries) > self.events_max:
            self._trim()

    def read(self, after: int, *, bytes_max: int) -> list[Entry] | Gap:
        """Entries after an offset, at least one if there is any, up to about `bytes_max`."""
        if after < self.floor:
            return Gap(self.floor)
        start = after - self.floor
        size, end = 0, start
        entries = self._entries
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

    def _trim(self) -> None:
        keep_bytes = self.bytes_max - self.bytes_max // _TRIM_SHARE
        keep_events = self.events_max - self.events_max // _TRIM_SHARE
        drop = 0
        count = len(self._entries)
        while drop < count - 1 and (self.bytes_held > keep_bytes or count - drop > keep_events):
            self.bytes_held -= len(self._entries[drop].payload)
            drop += 1
        del self._entries[:drop]
        self.floor += drop
