"""Each user's stream of chat events: one feed while somebody follows, and where it stands always.

Neighbours: `chats.timeline` publishes what is durable, `chats` reads the cursor of a snapshot here,
`server.chats.events` follows; the store's log has what fell out of the ring.
Invariant: `head` is what was shown, never what only the disk knows; a follower that stands at a
feed's head misses nothing behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol

import msgspec

from dispatch.core.identity import AccountId, Principal, UserId
from dispatch.core.replay import Frame, Gap
from dispatch.core.timeline import Changed, decode_told
from dispatch.errors import DispatchError, TooMany, Unavailable
from dispatch.protocol.sessions.frames import FRAMES_PER_POSITION, frames, shutdown
from dispatch.runtime.feed import Feed
from dispatch.runtime.journal import Outbox
from dispatch.runtime.pending import Draft, PendingChange
from dispatch.runtime.services import Services
from dispatch.storage.keys import ConversationKey
from dispatch.storage.timeline import LogPage

# Events read at once, each with its row: what a reader holds.
_LOG_PAGE: Final = 64
# Streams of one user at once: devices and their tabs, not a loop that never lets go.
_FOLLOWERS_MAX: Final = 200
_NO_CONVERSATION: Final = ConversationKey(0)


def stream_name(account: AccountId, user: UserId) -> str:
    """The stream of one user's chat sessions."""
    return f"chats:{account}\x1f{user}"


class Follower(Protocol):
    """Who follows a stream: told when there is news, and what is in no log."""

    @property
    def deltas(self) -> bool:
        """Whether it wants text as it comes."""
        ...

    def wake(self) -> None:
        """Something was published; it is in the ring when the loop goes on."""
        ...

    def aside(self, frame: Frame) -> None:
        """A frame without a place in the stream; `shutdown` is the last."""
        ...


class ChatStream:
    """A stream that somebody follows."""

    __slots__ = ("feed", "followers", "name")

    def __init__(self, name: str, feed: Feed[Frame]) -> None:
        """Begin with nobody."""
        self.name = name
        self.feed = feed
        self.followers: dict[Follower, None] = {}


class Stretch(NamedTuple):
    """Frames of a stream in order, and the id up to which they are all there is."""

    frames: list[Frame]
    after: int


class ChatStreams:
    """See the module."""

    def __init__(self, services: Services) -> None:
        """Nobody follows."""
        self._services = services
        self._open: dict[str, ChatStream] = {}
        # Of every user seen since the start: the position of the last event shown.
        self._heads: dict[str, int] = {}
        self._known: dict[str, asyncio.Event] = {}
        self._outbox = Outbox(services.journal, _NO_CONVERSATION, None)
        self._is_closed = False

    # -- what is shown -------------------------------------------------------------------------

    def is_followed(self, name: str) -> bool:
        """Whether anybody follows."""
        return name in self._open

    def wants_deltas(self, name: str) -> bool:
        """Whether anybody follows the text as it comes."""
        stream = self._open.get(name)
        return stream is not None and any(follower.deltas for follower in stream.followers)

    def publish(self, name: str, shown: list[Frame]) -> None:
        """Show frames to who follows, with the next flush."""
        stream = self._open.get(name)
        if stream is not None and shown:
            self._services.feeds.publish(stream.feed, shown)
            for follower in stream.followers:
                follower.wake()

    def passed(self, name: str, position: int) -> None:
        """An event is durable, and was shown if anybody follows."""
        if position > self._heads.get(name, position):
            self._heads[name] = position

    def aside(self, name: str, frame: Frame) -> None:
        """Tell who follows what has no place in the stream."""
        stream = self._open.get(name)
        if stream is not None:
            for follower in list(stream.followers):
                follower.aside(frame)

    def close(self) -> None:
        """The daemon goes: everybody is told, and nobody comes any more."""
        self._is_closed = True
        for name in list(self._open):
            self.aside(name, shutdown())

    # -- where it stands -----------------------------------------------------------------------

    async def find(self, name: str) -> None:
        """Make sure that `head` knows a stream."""
        while (finding := self._known.get(name)) is not None:
            await finding.wait()
            if name in self._heads:
                return
        if name in self._heads:
            return
        finding = self._known[name] = asyncio.Event()
        # Whatever is shown from here on is larger than what the disk says.
        self._heads[name] = 0
        newest: int | None = None
        try:
            found = await self._services.store.stream_head(name)
            page = await self._services.store.log(name, found, 0)
            # What the disk knows may not be shown yet.
            await self._settled()
            newest = max(self._heads[name], found, page.floor)
        finally:
            del self._heads[name], self._known[name]
            if newest is not None:
                self._heads[name] = newest
            finding.set()

    def head(self, name: str) -> int:
        """The id of the last frame that was shown, or one between it and the next."""
        return self._heads[name] * FRAMES_PER_POSITION

    async def _settled(self) -> None:
        """Return once everything that was on disk before is shown."""
        settled = asyncio.get_running_loop().create_future()

        def durable(_offset: int) -> None:
            if not settled.done():
                settled.set_result(None)

        def refused(_error: DispatchError) -> None:
            durable(0)

        self._outbox.change(PendingChange(_nothing, durable, refused))
        await settled

    # -- who follows ---------------------------------------------------------------------------

    async def follow(self, principal: Principal, follower: Follower) -> ChatStream:
        """Follow one's own stream until `leave`; raises `TooMany` and `Unavailable`."""
        name = stream_name(principal.account, principal.user)
        await self.find(name)
        self.check_room(principal)
        stream = self._open.get(name)
        if stream is None:
            feed = self._services.feeds.new_stream(self.head(name))
            stream = self._open[name] = ChatStream(name, feed)
        stream.followers[follower] = None
        return stream

    def leave(self, stream: ChatStream, follower: Follower) -> None:
        """Follow no longer; the last one closes the stream."""
        stream.followers.pop(follower, None)
        if not stream.followers and self._open.get(stream.name) is stream:
            del self._open[stream.name]
            self._services.feeds.drop(stream.feed)

    def check_room(self, principal: Principal) -> None:
        """Raise what would refuse a follower now."""
        if self._is_closed or self._services.is_draining:
            raise Unavailable("the daemon is shutting down", retry_after_ms=1_000)
        stream = self._open.get(stream_name(principal.account, principal.user))
        if stream is not None and len(stream.followers) >= _FOLLOWERS_MAX:
            raise TooMany(f"a user may follow {_FOLLOWERS_MAX} streams", retry_after_ms=1_000)

    # -- reading -------------------------------------------------------------------------------

    async def accepts(self, stream: ChatStream, asked: int) -> bool:
        """Whether everything behind an id can still be shown, and the id was one."""
        if asked < 0:
            return False
        position = asked // FRAMES_PER_POSITION
        page = await self._services.store.log(stream.name, position, 0)
        # The disk may be ahead of what was shown here, and a snapshot was read from it.
        newest = await self._services.store.stream_head(stream.name)
        shown = self._heads[stream.name]
        if position > max(shown, newest, page.floor):
            return False
        return position >= min(page.floor, shown)

    async def read(self, stream: ChatStream, after: int) -> Stretch | None:
        """What follows an id, from the ring or the log; None where something of that is gone."""
        found = stream.feed.ring.read(after, bytes_max=self._services.limits.catch_up_bytes_max)
        if not isinstance(found, Gap):
            return Stretch(found, found[-1].offset if found else after)
        position = after // FRAMES_PER_POSITION
        page = await self._services.store.log(stream.name, position, _LOG_PAGE)
        if position < page.floor:
            return None
        shown = list(_frames(page))
        if len(page.records) == _LOG_PAGE:
            return Stretch(shown, page.records[-1].position * FRAMES_PER_POSITION)
        # Everything that had left the ring was on disk before it was read.
        return Stretch(shown, max([found.floor, *(frame.offset for frame in shown)]))


def _frames(page: LogPage) -> Iterator[Frame]:
    for found in page.records:
        row = None if found.row is None else page.rows.get(found.row)
        session: str | None = None if row is None else row.conversation
        if session is None:
            told = decode_told(found.payload)
            # What is about no row is about the session, and has its id.
            session = _id_of(told.shown) if isinstance(told, Changed) else None
        if session is not None:
            yield from frames(session, found.position, found.at_ms, found.payload, row)


class _Shown(msgspec.Struct):
    id: str


def _id_of(shown: msgspec.Raw) -> str:
    return msgspec.json.decode(shown, type=_Shown).id


def _nothing(_draft: Draft, _offset: int) -> None:
    """Only waited for."""
