"""Following one conversation: an async iterator that outlives connections.

Neighbours: `session` hands it the frames of its conversation and subscribes it again on every new
connection; `cursor` decides what is new. The reader of the socket never waits for the consumer: a
consumer that is too slow loses its subscription, not its place, and goes on from there.
Invariant: at most `buffer_bytes_max` wait in its `inbox`, whatever the consumer does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Literal, NamedTuple, Protocol

import msgspec

from dispatch.client.commands import encode_command
from dispatch.client.cursor import Cursor
from dispatch.client.frames import ConversationFrame, Item, Reconnecting, Snapshot, Subscribed
from dispatch.client.http import HttpApi
from dispatch.client.inbox import Inbox
from dispatch.errors import DispatchError, Gone

State = Literal["new", "asked", "live", "behind", "over"]


class Follower(Protocol):
    """What a session keeps alive over its connections."""

    # One follower a topic and client; `unsubscription` is the frame that ends it.
    topic: str
    unsubscription: bytes

    def subscription(self) -> list[bytes] | None:
        """The frames that (re)subscribe from the present place; None if that is not wanted now."""
        ...

    def is_asked_by(self, ref: str) -> bool:
        """Whether a reply is to the present subscription."""
        ...

    def lost(self, reason: str) -> None:
        """The connection is gone; the session subscribes again on the next."""
        ...

    def end(self, failure: DispatchError | None) -> None:
        """Nothing more will come."""
        ...


class Port(NamedTuple):
    """What a follower needs of its session."""

    write: Callable[[bytes], Awaitable[None]]
    enter: Callable[[Follower], None]
    leave: Callable[[Follower], Awaitable[None]]
    http: HttpApi
    buffer_bytes_max: int


class Follow:
    """`async for item in client.follow(id)`; leave it with `async with`, or close it.

    Ends only by `close`, by the client's end (StopAsyncIteration), or by raising what makes going
    on impossible, `Gone` included.
    """

    def __init__(self, port: Port, conversation_id: str, cursor: Cursor) -> None:
        """Nothing is asked of the daemon before the first item is."""
        self.conversation_id = self.topic = conversation_id
        self.unsubscription = encode_command(
            "chat.unsubscribe", {"conversationId": conversation_id}
        )
        self._port = port
        self._cursor = cursor
        self._state: State = "new"
        self._ref = ""
        self._asked_count = 0
        self._inbox: Inbox[Item] = Inbox(port.buffer_bytes_max)

    @property
    def position(self) -> str | None:
        """The place up to which items were received; they may still wait to be taken."""
        return self._cursor.position

    @property
    def bytes_waiting(self) -> int:
        """What the items that wait to be taken cost; about `buffer_bytes_max` at most."""
        return self._inbox.bytes_waiting

    async def __aenter__(self) -> Follow:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __aiter__(self) -> Follow:
        return self

    async def __anext__(self) -> Item:
        if self._state == "new":
            self._port.enter(self)
            await self._ask()
        while True:
            item = self._inbox.take()
            if item is not None:
                return await self._complete(item)
            if self._state == "behind":
                await self._ask()
            else:
                await self._inbox.changed()

    async def close(self) -> None:
        """Stop following; the conversation goes on."""
        if self._state not in {"new", "over"}:
            await self._port.leave(self)
        self.end(None)

    def end(self, failure: DispatchError | None) -> None:
        """The session is over, or this conversation is."""
        self._state = "over"
        self._inbox.end(failure)

    def lost(self, reason: str) -> None:
        """The connection is gone; the session subscribes again on the next."""
        if self._state in {"asked", "live"}:
            self._inbox.put(Reconnecting(reason), 0)
            self._state = "asked"
            self._ref = ""

    def subscription(self) -> list[bytes] | None:
        """The frames that (re)subscribe from the present place; None while the consumer is behind.

        Unsubscribing first makes the subscription a new one, also where a send made one already.
        """
        if self._state == "over" or (self._state == "behind" and len(self._inbox)):
            return None
        self._state = "asked"
        self._asked_count += 1
        self._ref = f"follow-{self._asked_count}:{self.conversation_id}"
        fields = {"conversationId": self.conversation_id}
        return [
            self.unsubscription,
            encode_command("chat.subscribe", {**fields, **self._cursor.resume(), "ref": self._ref}),
        ]

    def offer(self, frame: ConversationFrame, size: int) -> None:
        """Take a frame of this conversation; never waits."""
        if isinstance(frame, Subscribed):
            if frame.ref != self._ref:
                return
            self._state = "live"
        elif self._state != "live":
            # Of a subscription that was given up; the next one starts from the cursor.
            return
        if self._inbox.is_full:
            self._state = "behind"
            return
        item = self._cursor.accept(frame)
        if item is not None:
            self._inbox.put(item, size)

    def is_asked_by(self, ref: str) -> bool:
        """Whether a reply is to the present subscription."""
        return bool(ref) and ref == self._ref

    def deleted(self) -> None:
        """The conversation is gone; what was said before is still to be taken."""
        self.end(Gone(f"conversation {self.conversation_id} was deleted"))

    async def _ask(self) -> None:
        for frame in self.subscription() or ():
            await self._port.write(frame)

    async def _complete(self, item: Item) -> Item:
        """Fill a gap with the chunks that were sealed in it."""
        if not isinstance(item, Snapshot) or item.missed_after is None:
            return item
        if item.missed_after >= item.last_seq:
            return item
        page = await self._port.http.history(self.conversation_id, since_seq=item.missed_after)
        missed = tuple(chunk for chunk in page.chunks if chunk.seq <= item.last_seq)
        return msgspec.structs.replace(item, missed=missed)
