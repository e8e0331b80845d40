"""One reader's place in a group's stream, and the ways it gets to the head.

Neighbours: `groups.stream` and `groups.watch` have the readers, `runtime.feed` the ring and the hot
set, `runtime.groups.reading` the log behind it, `protocol.groups.frames` the lines.
Invariant: frames leave in order, without gap or duplicate: from the ring while it reaches back far
enough, from the log before that; where frames are missing the reader is told so first.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Protocol

from dispatch.core.replay import Frame, Gap
from dispatch.runtime.feed import Cursor, Wire, Writer
from dispatch.runtime.groups.timeline import GroupTimeline
from dispatch.runtime.groups.verbs import GroupVerbs


class Sink(Writer, Protocol):
    """Where a reader's bytes go."""

    @property
    def is_open(self) -> bool:
        """Whether a write would still be sent."""
        ...

    @property
    def is_writable(self) -> bool:
        """Whether the peer keeps up."""
        ...

    async def until_writable(self) -> None:
        """Return once the peer keeps up, or is lost."""
        ...


class GroupWire(Wire[Frame], Protocol):
    """How frames are written, and what is said where some are missing."""

    def gap(self, cursor: int) -> bytes:
        """Framed bytes: what was asked for is no more."""
        ...

    def after_gap(self, head: int) -> int:
        """Where to go on behind a gap."""
        ...


class GroupFollow:
    """See the module. It holds its timeline in memory until it is dropped."""

    __slots__ = (
        "_bytes_max",
        "_has_missed",
        "_is_dropped",
        "_is_following",
        "_sink",
        "_verbs",
        "_wire",
        "cursor",
        "timeline",
    )

    def __init__(
        self,
        verbs: GroupVerbs,
        timeline: GroupTimeline,
        sink: Sink,
        wire: GroupWire,
        after: int | None,
    ) -> None:
        """Stand behind a frame, cold; None is the newest. Takes over the hold on `timeline`."""
        feed = timeline.feed
        # An id that was never given out: the daemon's data was put back, or it is another group's.
        self._has_missed = after is not None and after > feed.head
        if after is None or self._has_missed:
            after = feed.head
        self._verbs = verbs
        self._sink = sink
        self._wire = wire
        self._bytes_max = timeline.services.limits.catch_up_bytes_max
        self._is_dropped = False
        # Somebody already brings it to the head: nobody else may, or frames would double.
        self._is_following = False
        self.timeline = timeline
        self.cursor = Cursor(feed, sink, wire, after)

    @property
    def is_over(self) -> bool:
        """The group is deleted, and its reader was told everything."""
        cursor = self.cursor
        is_at_head = cursor.is_hot or cursor.offset == cursor.feed.head
        return is_at_head and self.timeline.record.status == "deleted"

    @property
    def told(self) -> int:
        """The frame behind which it goes on; of one that keeps up, the newest."""
        cursor = self.cursor
        return cursor.feed.head if cursor.is_hot else cursor.offset

    @property
    def _is_live(self) -> bool:
        return not self._is_dropped and self._sink.is_open

    async def follow(self) -> None:
        """Bring it to the head, waiting for the log and the peer as needed."""
        if self._is_following:
            return
        self._is_following = True
        try:
            while self._is_live and not self.cursor.is_hot:
                if not self._sink.is_writable:
                    await self._sink.until_writable()
                elif self._has_missed:
                    self._tell_gap()
                elif self.cursor.offset < self.cursor.feed.ring.floor:
                    await self._read_log()
                else:
                    self._read_ring()
        finally:
            self._is_following = False

    def pause(self) -> None:
        """The peer reads too slowly: it leaves the hot set and keeps its place."""
        self.cursor.feed.leave(self.cursor)

    def resume(self) -> bool:
        """The peer has drained; True where `follow` has to bring it to the head."""
        if self._is_following or self._has_missed:
            return not self._is_following
        self._read_ring()
        cursor = self.cursor
        return self._is_live and not cursor.is_hot and cursor.offset < cursor.feed.ring.floor

    def drop(self) -> None:
        """Stop, and let the timeline go."""
        if not self._is_dropped:
            self._is_dropped = True
            self.cursor.feed.leave(self.cursor)
            self._verbs.timelines.release(self.timeline)

    def _read_ring(self) -> None:
        """Write what the ring has, as far as the peer takes it, and join the hot set behind it."""
        cursor, feed = self.cursor, self.cursor.feed
        while self._is_live and self._sink.is_writable and not cursor.is_hot:
            if cursor.offset == feed.head:
                feed.join(cursor)
                return
            data = feed.read(cursor, bytes_max=self._bytes_max)
            if isinstance(data, Gap):
                return
            self._sink.write(data)

    async def _read_log(self) -> None:
        """Write what fell out of the ring, up to the head of this instant."""
        cursor, timeline = self.cursor, self.timeline
        until = cursor.feed.head
        pages = self._verbs.reading.replay(timeline, cursor.offset, until)
        async with aclosing(pages) as found:
            async for page in found:
                if not page:
                    self._has_missed = True
                    cursor.offset = self._wire.after_gap(cursor.feed.head)
                    return
                await self._sink.until_writable()
                if not self._is_live:
                    return
                cursor.offset = page[-1].offset
                self._sink.write(self._wire.entries(cursor.feed.conversation, page))
        cursor.offset = max(cursor.offset, until)

    def _tell_gap(self) -> None:
        self._has_missed = False
        cursor = self.cursor
        self._sink.write(self._wire.gap(cursor.feed.head))
        if self.timeline.record.status == "deleted":
            # There is no snapshot to come: what there is of its end is said to everybody.
            cursor.offset = cursor.feed.ring.floor
