"""Actions on their way to whoever follows: encoded once a version, in the order of their numbers.

Neighbours: `scope` publishes, `runtime.feed` flushes and keeps the rings within their bound,
`server.ahp.connection` is a follower. A follower has one cursor over all of its channels, for the
protocol has one number for all of them: what is before it was written, in all of its channels.
Invariant: a follower is written actions in ascending order of their numbers, whatever their
channels, and each of them once.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import merge
from operator import attrgetter
from typing import Final, NamedTuple, Protocol

from dispatch.core.replay import Frame, Gap
from dispatch.protocol.ahp.envelopes import (
    ENVELOPES_PER_POSITION,
    Change,
    encode_envelope,
    envelopes,
)
from dispatch.protocol.ahp.versions import Version
from dispatch.runtime.feed import Feed, Feeds, Writer
from dispatch.runtime.journal import Journal

_NUMBER: Final = attrgetter("offset")


class Line:
    """One channel in one version: who stands at the head, and what was said last.

    `fresh` is what the next flush gives them.
    """

    __slots__ = ("feed", "fresh", "hot", "readers")

    def __init__(self, feed: Feed[Frame]) -> None:
        """Nobody follows it yet."""
        self.feed = feed
        self.fresh: list[Frame] = []
        self.hot: dict[Follower, None] = {}
        self.readers: dict[Follower, None] = {}


class Follower(Writer, Protocol):
    """A connection. `seq` is the number of what was written last to it; stale while hot."""

    seq: int
    lines: dict[str, Line]
    is_hot: bool

    def fail(self) -> None:
        """It cannot be told what comes; nothing is left of it here when it is lost."""
        ...


class Behind(NamedTuple):
    """What a follower is given next; `is_lost`: it cannot be had any more from memory."""

    data: bytes
    is_lost: bool = False


class Hub:
    """All channels of AHP that somebody follows."""

    def __init__(self, feeds: Feeds, journal: Journal, frame: Callable[[bytes], bytes]) -> None:
        """`frame` makes the bytes that a follower's transport takes."""
        self._feeds = feeds
        self._journal = journal
        self._frame = frame
        self._lines: dict[str, dict[str, dict[Version, Line]]] = {}
        self._touched: dict[Line, None] = {}
        # Who wants to know of sessions whose summaries may have changed, by account.
        self.listeners: dict[str, dict[Callable[[str], None], None]] = {}

    @property
    def number(self) -> int:
        """The number that is above all that was shown, and below all that comes."""
        return (self._journal.head + 1) * ENVELOPES_PER_POSITION - 1

    # -- following -----------------------------------------------------------------------------

    def join(self, follower: Follower, account: str, channel: str, version: Version) -> None:
        """A follower follows one more channel, from the number that it is at."""
        versions = self._lines.setdefault(account, {}).setdefault(channel, {})
        line = versions.get(version)
        if line is None:
            line = versions[version] = Line(self._feeds.new_stream(self.number))
        line.readers[follower] = None
        follower.lines[channel] = line
        if follower.is_hot:
            line.hot[follower] = None

    def leave(self, follower: Follower, account: str, channel: str, version: Version) -> None:
        """A follower follows a channel no more."""
        line = follower.lines.pop(channel)
        line.hot.pop(follower, None)
        line.readers.pop(follower, None)
        if not line.readers:
            self._feeds.drop(line.feed)
            versions = self._lines[account][channel]
            del versions[version]
            if not versions:
                del self._lines[account][channel]

    def cool(self, follower: Follower) -> None:
        """It cannot take more: it stays where it is, and nothing is kept for it."""
        if follower.is_hot:
            follower.is_hot = False
            follower.seq = self.number
            for line in follower.lines.values():
                line.hot.pop(follower, None)

    def warm(self, follower: Follower) -> None:
        """It has been given everything: from here on it gets what all others get."""
        follower.is_hot = True
        for line in follower.lines.values():
            line.hot[follower] = None

    def behind(self, follower: Follower, bytes_max: int) -> Behind:
        """What it was not given, from its number on, moving that; empty at the head."""
        parts, lines = [], list(follower.lines.values())
        for line in lines:
            found = line.feed.ring.read(follower.seq, bytes_max=bytes_max)
            if isinstance(found, Gap):
                return Behind(b"", is_lost=True)
            parts.append(found)
        frames = list(merge(*parts, key=_NUMBER))
        # A line that was cut off by the bound has more before what others still have.
        ends = [part[-1].offset for part in parts if part]
        full = [
            part[-1].offset
            for part, line in zip(parts, lines, strict=True)
            if part and part[-1].offset < line.feed.ring.head
        ]
        if not ends:
            follower.seq = self.number
            return Behind(b"")
        upto = min(full, default=max(ends))
        follower.seq = upto
        return Behind(b"".join(frame.payload for frame in frames if frame.offset <= upto))

    def fail(self, account: str, channels: list[str]) -> None:
        """Who follows these cannot be told what comes: it has to come back."""
        for channel in channels:
            for line in list(self._lines.get(account, {}).get(channel, {}).values()):
                for follower in list(line.readers):
                    follower.fail()

    def stir(self, account: str, session: str) -> None:
        """A session came, went, or may look different in a list."""
        for listener in list(self.listeners.get(account, ())):
            listener(session)

    # -- showing -------------------------------------------------------------------------------

    def publish(self, account: str, change: Change) -> None:
        """Encode an action for the versions in which its channel is followed."""
        for version, line in self._lines.get(account, {}).get(change.channel, {}).items():
            said = envelopes(version, change)
            if not said:
                continue
            payload = b"".join(self._frame(encode_envelope(one)) for one in said)
            frame = Frame(change.server_seq, "", payload)
            self._feeds.publish(line.feed, [frame])
            line.fresh.append(frame)
            self._touched[line] = None
        if self._touched:
            self._feeds.touch(self)

    def flush(self, touched: list[Writer]) -> int:
        """See `feed.Source`: those that follow one line of these share its bytes; for the others
        the lines are brought in order, once for all that follow the same ones.
        """
        lines, self._touched = list(self._touched), {}
        deliveries = 0
        several: dict[Follower, list[int]] = {}
        for index, line in enumerate(lines):
            data = b"".join(frame.payload for frame in line.fresh)
            deliveries += len(line.fresh) * len(line.hot)
            for follower in line.hot:
                if follower.outgoing:
                    several.setdefault(follower, []).append(index)
                else:
                    follower.outgoing = data
                    touched.append(follower)
        if several:
            self._merge(lines, several)
        for line in lines:
            line.fresh = []
        return deliveries

    def _merge(self, lines: list[Line], several: dict[Follower, list[int]]) -> None:
        shared: dict[tuple[int, ...], bytes] = {}
        for follower in several:
            key = tuple(i for i, line in enumerate(lines) if follower in line.hot)
            if key not in shared:
                frames = merge(*(lines[index].fresh for index in key), key=_NUMBER)
                shared[key] = b"".join(frame.payload for frame in frames)
            follower.outgoing = shared[key]
