"""What was committed, on its way to whoever follows: shared bytes, cursors, one flush a wake-up.

Neighbours: `journal` publishes and then flushes; `server.connection` joins cursors and writes;
`core.replay` is the ring behind. A follower at the head is in the feed's hot set and gets the very
bytes that all others get; one that cannot take more leaves the set with its offset, and nothing
is kept for it.
Invariant: outside `publish`..`flush` (one synchronous step) every hot cursor stands at the head.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

from dispatch.core.identity import AccountId, ConversationId, UserId
from dispatch.core.notices import AnyNotice, ReadNotice
from dispatch.core.replay import Entry, Frame, Gap, Item, Ring

Shows = TypeVar("Shows", contravariant=True)

# An account's listeners, or one user's connections in it.
_Audience = tuple[AccountId, UserId | None]

# Blocks of a replay are shared between late joiners from this size on.
_BLOCK_BYTES: Final = 32 * 1024
# Of one feed: a whole ring in blocks of a late joiner's size. Readers that stopped at places of
# their own would otherwise keep as many copies of it as they are.
_BLOCKS_MAX: Final = 32


class Wire(Protocol[Shows]):
    """How what a feed shows is written; hashable by identity, one object for all who use it."""

    def entries(self, conversation: ConversationId, entries: Sequence[Shows]) -> bytes:
        """Framed bytes, ready to be written."""
        ...


class Encoding(Wire[Entry], Protocol):
    """A dialect with its framing."""

    def notice(self, notice: AnyNotice) -> bytes:
        """Framed bytes, empty where the dialect has no word for it."""
        ...


class Writer(Protocol):
    """Who takes bytes in a flush: `outgoing` is only ever set during one."""

    outgoing: bytes

    def write(self, data: bytes) -> None:
        """Hand bytes to the transport; may take this follower out of hot sets."""
        ...


class Follower(Writer, Protocol):
    """A connection that is told notices too."""

    account: AccountId
    user: UserId

    @property
    def encoding(self) -> Encoding:
        """The wire form it is told in."""
        ...


class Source(Protocol):
    """Who has something to give in a flush."""

    def flush(self, touched: list[Writer]) -> int:
        """Give it to the writers, naming those that had nothing yet; how many deliveries."""
        ...


class Cursor(Generic[Item]):
    """One follower's place in one feed. `offset` is what it was given; stale while hot."""

    __slots__ = ("encoding", "feed", "follower", "is_hot", "offset")

    def __init__(
        self, feed: Feed[Item], follower: Writer, encoding: Wire[Item], offset: int
    ) -> None:
        """Stand after `offset`, cold."""
        self.feed = feed
        self.follower = follower
        self.encoding = encoding
        self.offset = offset
        self.is_hot = False


class Feed(Generic[Item]):
    """One conversation's shown log and who stands at its head; a timeline's stream has one too.

    `head` is the offset of the newest entry shown; what was published and not flushed is not.
    """

    __slots__ = ("_blocks", "_fresh", "_hot", "_wakers", "conversation", "head", "ring")

    def __init__(self, conversation: ConversationId, ring: Ring[Item]) -> None:
        """Begin with nobody."""
        self.conversation = conversation
        self.ring = ring
        self.head = ring.head
        self._hot: dict[Wire[Item], dict[Cursor[Item], None]] = {}
        self._fresh: list[Item] = []
        self._wakers: list[asyncio.Future[None]] = []
        self._blocks: dict[tuple[Wire[Item], int], tuple[int, bytes]] = {}

    @property
    def is_followed(self) -> bool:
        """Whether anybody stands at the head or waits."""
        return bool(self._wakers) or any(self._hot.values())

    def join(self, cursor: Cursor[Item]) -> None:
        """Put a cursor that stands at the head into the hot set."""
        assert cursor.offset == self.head, "only the head is hot"
        cursor.is_hot = True
        self._hot.setdefault(cursor.encoding, {})[cursor] = None

    def leave(self, cursor: Cursor[Item]) -> None:
        """Take a cursor out; its offset is the head, which it was given."""
        if cursor.is_hot:
            cursor.is_hot = False
            cursor.offset = self.head
            cursors = self._hot[cursor.encoding]
            del cursors[cursor]
            if not cursors:
                # A wire may be of one reader alone.
                del self._hot[cursor.encoding]

    def read(self, cursor: Cursor[Item], *, bytes_max: int) -> bytes | Gap:
        """Encoded entries after a cold cursor, moving it; empty at the head.

        Blocks are remembered, so that many who join late at the same place share them.
        """
        encoding = cursor.encoding
        block = self._blocks.get((encoding, cursor.offset))
        if block is not None:
            cursor.offset, data = block
            return data
        found = self.ring.read(cursor.offset, bytes_max=bytes_max)
        if isinstance(found, Gap):
            return found
        if self._fresh:
            # The flush gives these to who stands at the head.
            found = [entry for entry in found if entry.offset <= self.head]
        if not found:
            return b""
        data = encoding.entries(self.conversation, found)
        if len(data) >= _BLOCK_BYTES:
            self._blocks[encoding, cursor.offset] = (found[-1].offset, data)
            if len(self._blocks) > _BLOCKS_MAX:
                del self._blocks[next(iter(self._blocks))]
        cursor.offset = found[-1].offset
        return data

    def forget_blocks(self) -> None:
        """Drop what late joiners shared: the turn is over."""
        self._blocks.clear()

    async def wait(self, after: int) -> None:
        """Return once the head is past an offset."""
        while self.ring.head <= after:
            waker = asyncio.get_running_loop().create_future()
            self._wakers.append(waker)
            try:
                await waker
            finally:
                if waker in self._wakers:
                    self._wakers.remove(waker)

    def publish(self, entries: list[Item]) -> None:
        """Append; shown by the next `flush`."""
        floor = self.ring.floor
        self.ring.extend(entries)
        if self.ring.floor != floor:
            # What late joiners share is bounded with the ring.
            self._blocks.clear()
        self._fresh += entries

    def flush(self, touched: list[Writer]) -> int:
        """Encode what is fresh once per encoding, and give it to everybody at the head.

        Returns how many deliveries (an event to a follower) that was.
        """
        fresh, self._fresh = self._fresh, []
        self.head = self.ring.head
        deliveries = 0
        for encoding, cursors in self._hot.items():
            if not cursors:
                continue
            data = encoding.entries(self.conversation, fresh)
            deliveries += len(fresh) * len(cursors)
            for cursor in cursors:
                follower = cursor.follower
                if follower.outgoing:
                    follower.outgoing += data
                else:
                    follower.outgoing = data
                    touched.append(follower)
        if self._wakers:
            wakers, self._wakers = self._wakers, []
            for waker in wakers:
                if not waker.done():
                    waker.set_result(None)
        return deliveries


class FeedStatistics(NamedTuple):
    """What the feeds have done and hold."""

    deliveries: int
    writes: int
    ring_bytes: int
    feeds: int


class Feeds:
    """All feeds: who is dirty, who listens to accounts, and the bound on all rings together."""

    def __init__(self, *, events_max: int, bytes_max: int, bytes_total_max: int) -> None:
        """Bounds of one ring, and of all."""
        self._events_max = events_max
        self._bytes_max = bytes_max
        self._bytes_total_max = bytes_total_max
        self._bytes_total = 0
        self._recent: OrderedDict[Feed[Any], None] = OrderedDict()
        self._dirty: dict[Source, None] = {}
        self._notices: dict[_Audience, list[tuple[AnyNotice, Follower | None]]] = {}
        self._listeners: dict[_Audience, dict[Follower, None]] = {}
        self._deliveries = 0
        self._writes = 0

    def new_feed(self, conversation: ConversationId, head: int) -> Feed[Entry]:
        """A feed that continues after `head`."""
        ring = Ring[Entry](head, events_max=self._events_max, bytes_max=self._bytes_max)
        return Feed(conversation, ring)

    def new_stream(self, head: int) -> Feed[Frame]:
        """A feed of frames that continues after the frame with the id `head`."""
        ring = Ring[Frame](
            head, events_max=self._events_max, bytes_max=self._bytes_max, is_sparse=True
        )
        return Feed(ConversationId(""), ring)

    def skip(self, feed: Feed[Frame], head: int) -> None:
        """Nobody follows: go on behind an id without what led there."""
        self._bytes_total -= feed.ring.skip(head)
        feed.head = head
        self._recent.pop(feed, None)

    def drop(self, feed: Feed[Any]) -> None:
        """Forget a feed that nobody follows."""
        self._bytes_total -= feed.ring.clear()
        self._recent.pop(feed, None)
        feed.forget_blocks()

    def listen(self, follower: Follower, *, account: bool) -> None:
        """Tell a connection what concerns its user, and with `account` its account's notices."""
        self._listeners.setdefault((follower.account, follower.user), {})[follower] = None
        if account:
            self._listeners.setdefault((follower.account, None), {})[follower] = None

    def is_listening(self, follower: Follower) -> bool:
        """Whether it is told its account's notices."""
        return follower in self._listeners.get((follower.account, None), ())

    def unlisten(self, follower: Follower) -> None:
        """Stop telling it."""
        for audience in ((follower.account, follower.user), (follower.account, None)):
            listeners = self._listeners.get(audience)
            if listeners is not None:
                listeners.pop(follower, None)
                if not listeners:
                    del self._listeners[audience]

    def publish(self, feed: Feed[Item], entries: list[Item]) -> None:
        """Append to a feed and keep all rings within their bound, oldest feeds first."""
        before = feed.ring.bytes_held
        feed.publish(entries)
        self._dirty[feed] = None
        self._bytes_total += feed.ring.bytes_held - before
        self._recent[feed] = None
        self._recent.move_to_end(feed)
        while self._bytes_total > self._bytes_total_max and len(self._recent) > 1:
            oldest, _ = self._recent.popitem(last=False)
            self._bytes_total -= oldest.ring.clear()
            oldest.forget_blocks()

    def touch(self, source: Source) -> None:
        """Have a source asked in the next flush."""
        self._dirty[source] = None

    def notify(self, notice: AnyNotice, *, but: Follower | None = None) -> None:
        """Tell an account's listeners with the next flush, after the conversations' frames.

        What a user read goes to all of that user's connections, other notices to those that asked;
        never to `but`.
        """
        user = notice.user if isinstance(notice, ReadNotice) else None
        audience = (notice.account, user)
        if audience in self._listeners:
            self._notices.setdefault(audience, []).append((notice, but))

    def flush(self) -> int:
        """Everything due for a connection leaves in one write; how many writes that was."""
        touched: list[Writer] = []
        dirty, self._dirty = self._dirty, {}
        for feed in dirty:
            self._deliveries += feed.flush(touched)
        if self._notices:
            self._flush_notices(touched)
        self._writes += len(touched)
        for follower in touched:
            data, follower.outgoing = follower.outgoing, b""
            follower.write(data)
        return len(touched)

    def statistics(self) -> FeedStatistics:
        """The counters, for metrics and tests."""
        return FeedStatistics(self._deliveries, self._writes, self._bytes_total, len(self._recent))

    def _flush_notices(self, touched: list[Writer]) -> None:
        notices, self._notices = self._notices, {}
        for audience, told in notices.items():
            shared: dict[tuple[Encoding, int], bytes] = {}
            for follower in self._listeners.get(audience, ()):
                encoding = follower.encoding
                due = b""
                for index, (notice, but) in enumerate(told):
                    if follower is but or notice.user not in (None, follower.user):
                        continue
                    data = shared.get((encoding, index))
                    if data is None:
                        data = shared[encoding, index] = encoding.notice(notice)
                    due += data
                if due:
                    if not follower.outgoing:
                        touched.append(follower)
                    follower.outgoing += due
