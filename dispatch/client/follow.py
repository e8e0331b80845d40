"""Following one conversation: an async iterator that outlives connections.

Neighbours: `session` hands it the frames of its conversation and subscribes it again on every new
connection; `cursor` decides what is new. The reader of the socket never waits for the consumer: a
consumer that is too slow loses its subscription, not its place, and goes on from there.
Invariant: at most `buffer_bytes_max` wait here, whatever the consumer does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Literal, NamedTuple

import anyio
import msgspec

from dispatch.client.cursor import Cursor
from dispatch.client.frames import (
    ConversationFrame,
    Item,
    Reconnecting,
    Snapshot,
    Subscribed,
    encode_command,
)
from dispatch.client.http import HttpApi
from dispatch.errors import DispatchError, Gone

# What an item costs beside its bytes on the wire, so that many tiny ones count too.
ITEM_BYTES: Final = 512

State = Literal["new", "asked", "live", "behind", "over"]


class Port(NamedTuple):
    """What a follower needs of its session."""

    write: Callable[[bytes], Awaitable[None]]
    enter: Callable[[Follow], None]
    leave: Callable[[Follow], Awaitable[None]]
    http: HttpApi
    buffer_bytes_max: int


class Follow:
    """`async for item in client.follow(id)`; leave it with `async with`, or close it.

    Ends only by `close`, by the client's end (StopAsyncIteration), or by raising what makes going
    on impossible, `Gone` included.
    """

    def __init__(self, port: Port, conversation_id: str, cursor: Cursor) -> None:
        """Nothing is asked of the daemon before the first item is."""
        self.conversation_id = conversation_id
        self._port = port
        self._cursor = cursor
        self._state: State = "new"
        self._ref = ""
        self._asked_count = 0
        self._items: deque[tuple[Item, int]] = deque()
        self._bytes_waiting = 0
        self._wake = anyio.Event()
        self._failure: DispatchError | None = None

    @property
    def position(self) -> str | None:
        """The place up to which items were received; they may still wait to be taken."""
        return self._cursor.position

    @property
    def bytes_waiting(self) -> int:
        """What the items that wait to be taken cost; about `buffer_bytes_max` at most."""
        return self._bytes_waiting

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
            if self._items:
                item, size = self._items.popleft()
                self._bytes_waiting -= size
                return await self._complete(item)
            if self._failure is not None:
                raise self._failure
            if self._state == "over":
                raise StopAsyncIteration
            if self._state == "behind":
                await self._ask()
                continue
            self._wake = anyio.Event()
            await self._wake.wait()

    async def close(self) -> None:
        """Stop following; the conversation goes on."""
        if self._state not in {"new", "over"}:
            await self._port.leave(self)
        self.end(None)

    def end(self, failure: DispatchError | None) -> None:
        """The session is over, or this conversation is."""
        self._failure = self._failure or failure
        self._state = "over"
        self._wake.set()

    def lost(self, reason: str) -> None:
        """The connection is gone; the session subscribes again on the next."""
        if self._state in {"asked", "live"}:
            self._put(Reconnecting(reason), 0)
            self._state = "asked"
            self._ref = ""

    def subscription(self) -> list[bytes] | None:
        """The frames that (re)subscribe from the present place; None while the consumer is behind.

        Unsubscribing first makes the subscription a new one, also where a send made one already.
        """
        if self._state == "over" or (self._state == "behind" and self._items):
            return None
        self._state = "asked"
        self._asked_count += 1
        self._ref = f"follow-{self._asked_count}:{self.conversation_id}"
        fields = {"conversationId": self.conversation_id}
        return [
            encode_command("chat.unsubscribe", {**fields}),
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
        if self._bytes_waiting > self._port.buffer_bytes_max:
            self._state = "behind"
            return
        item = self._cursor.accept(frame)
        if item is not None:
            self._put(item, size)

    def is_asked_by(self, ref: str) -> bool:
        """Whether a reply is to the present subscription."""
        return bool(ref) and ref == self._ref

    def deleted(self) -> None:
        """The conversation is gone; what was said before is still to be taken."""
        self.end(Gone(f"conversation {self.conversation_id} was deleted"))

    def _put(self, item: Item, size: int) -> None:
        self._items.append((item, size + ITEM_BYTES))
        self._bytes_waiting += size + ITEM_BYTES
        self._wake.set()

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
