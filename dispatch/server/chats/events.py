"""A user's chat events as they are followed: on an event stream, or on a WebSocket.

Neighbours: `runtime.chats.streams` has the ring, the log and who follows; `protocol.sessions`
writes the frames; `routes` and `connection` begin and end what is here.
Invariant: `connected` is first, a replay precedes what is live, nothing comes twice, `shutdown` is
last; a reader that takes nothing holds up its own stream and keeps no more than an id.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

import anyio

from dispatch.core.identity import WATCH, Principal, require
from dispatch.core.replay import Frame
from dispatch.errors import DispatchError, UnknownType
from dispatch.protocol.codec import Object, echoed_ref
from dispatch.protocol.sessions.frames import connected, resync_required, shutdown, sse, ws
from dispatch.protocol.sessions.requests import EventsQuery, SubscribeChats, read_frame
from dispatch.runtime.chats.streams import ChatStream, ChatStreams

if TYPE_CHECKING:
    from dispatch.server.connection import Connection

HEARTBEAT: Final = b": hb\n\n"
HEARTBEAT_SECONDS: Final = 15.0
_SHUTDOWN: Final = shutdown().payload
# Somebody else's typing: who does not read meanwhile misses nothing by missing it.
_ASIDES_MAX: Final = 64


class EventReader:
    """One follower; a `chats.streams.Follower`. `session`: only frames of that one."""

    def __init__(self, streams: ChatStreams, *, deltas: bool, session: str | None = None) -> None:
        """Follow nothing yet."""
        self._streams = streams
        self._deltas = deltas
        self._session = session
        self._news = asyncio.Event()
        self._asides: list[Frame] = []
        self._is_over = False

    @property
    def deltas(self) -> bool:
        """See `chats.streams.Follower`."""
        return self._deltas

    def wake(self) -> None:
        """See `chats.streams.Follower`."""
        self._news.set()

    def aside(self, frame: Frame) -> None:
        """See `chats.streams.Follower`."""
        if frame.payload == _SHUTDOWN:
            self._is_over = True
        elif self._is_wanted(frame) and len(self._asides) < _ASIDES_MAX:
            self._asides.append(frame)
        self._news.set()

    async def frames(
        self, principal: Principal, asked: int | None
    ) -> AsyncGenerator[list[Frame], None]:
        """Frames as they come, from behind the id that was asked for; an empty list is a beat."""
        streams = self._streams
        stream = await streams.follow(principal, self)
        try:
            after, start = await self._start(stream, asked)
            yield start
            while True:
                self._news.clear()
                found = await streams.read(stream, after)
                if found is None:
                    after = stream.feed.ring.head
                    yield [resync_required(streams.head(stream.name))]
                elif found.after > after:
                    after = found.after
                    shown = [frame for frame in found.frames if self._is_wanted(frame)]
                    if shown:
                        yield shown
                elif self._asides:
                    asides, self._asides = self._asides, []
                    yield asides
                elif self._is_over:
                    yield [shutdown()]
                    return
                elif not await self._has_news():
                    yield []
        finally:
            streams.leave(stream, self)

    async def _start(self, stream: ChatStream, asked: int | None) -> tuple[int, list[Frame]]:
        """Where to begin, and what is said of it."""
        if asked is not None and await self._streams.accepts(stream, asked):
            return asked, [connected(asked)]
        newest = self._streams.head(stream.name)
        start = [connected(newest)]
        if asked is not None:
            start.append(resync_required(newest))
        # Text that was shown on the way to somebody else is not of this stream.
        return max(newest, stream.feed.ring.head), start

    async def _has_news(self) -> bool:
        with anyio.move_on_after(HEARTBEAT_SECONDS):
            await self._news.wait()
            return True
        return False

    def _is_wanted(self, frame: Frame) -> bool:
        if self._session is not None and frame.topic != self._session:
            return False
        return frame.is_kept or self._deltas or frame.offset == 0


async def sse_parts(
    streams: ChatStreams, principal: Principal, query: EventsQuery, session: str | None
) -> AsyncGenerator[bytes, None]:
    """The body of an event stream."""
    reader = EventReader(streams, deltas=query.deltas, session=session)
    async with aclosing(reader.frames(principal, query.last_event_id)) as batches:
        async for batch in batches:
            yield b"".join(map(sse, batch)) or HEARTBEAT


def follow_chats(connection: Connection, frame: Object) -> bool:
    """Begin or end to follow, as a WebSocket frame wishes; False where it wishes another thing."""
    kind, ref, hub = frame.get("type"), echoed_ref(frame.get("ref")), connection.hub
    if not (connection.dialect.is_v1 and isinstance(kind, str) and kind.startswith("chats.")):
        return False
    try:
        require(connection.principal, WATCH)
        wish = read_frame(frame)
    except DispatchError as error:
        told_as = "error" if isinstance(error, UnknownType) else "chat.error"
        connection.send(connection.dialect.error(error, ref=ref, kind=told_as))
        return True
    if (watch := hub.chat_watches.pop(connection, None)) is not None:
        watch.drop()
    if isinstance(wish, SubscribeChats):
        watch = hub.chat_watches[connection] = ChatWatch(connection, hub.chats.streams, wish, ref)
        hub.start(watch.run)
    return True


class ChatWatch:
    """One connection's subscription to its user's chat events."""

    def __init__(
        self,
        connection: Connection,
        streams: ChatStreams,
        subscribe: SubscribeChats,
        ref: str | int | None = None,
    ) -> None:
        """To be `run` by a worker. `ref` is echoed in `connected`, or in a refusal."""
        self._ref = ref
        self._connection = connection
        self._asked = subscribe.last_event_id
        self._reader = EventReader(streams, deltas=subscribe.deltas)
        self._is_dropped = False

    def drop(self) -> None:
        """Write nothing more."""
        self._is_dropped = True
        self._reader.aside(shutdown())

    async def run(self) -> None:
        """Write frames as the peer takes them, until it is dropped."""
        connection = self._connection
        batches = self._reader.frames(connection.principal, self._asked)
        ref = self._ref
        try:
            async with aclosing(batches):
                async for batch in batches:
                    await connection.until_writable()
                    if self._is_dropped or not connection.is_open:
                        return
                    for frame in batch:
                        # `connected`, the first one, is the reply.
                        connection.send(ws(frame, ref))
                        ref = None
        except DispatchError as error:
            connection.send(connection.dialect.error(error, ref=self._ref))
