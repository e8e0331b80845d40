"""Events of a group, or of chat sessions, over the client's own WebSocket.

Neighbours: `session` hands it the frames of its topic and subscribes it again on every new
connection; `groups` and `chats` read it as they read an event stream of `events`, and say what a
frame means. What the consumer cannot take yet is left to the daemon, as in `follow`.
Invariant: ids only grow for the consumer, unless it moved its `place` itself; a resumed
subscription asks for what follows the last frame that came.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from dispatch.client.commands import encode_command
from dispatch.client.events import Event, Place
from dispatch.client.follow import Port, State
from dispatch.client.frames import Reconnecting
from dispatch.client.inbox import Inbox
from dispatch.client.mirrored import ChatEventFrame, GroupEventFrame, GroupSubscribed
from dispatch.errors import DispatchError

CHATS: Final = "chat sessions"

MirrorFrame = GroupSubscribed | GroupEventFrame | ChatEventFrame

# What a daemon echoes.
REF_CHARACTERS_MAX: Final = 128

Subscribe = Callable[[int | None, str], list[bytes]]


class Topic(NamedTuple):
    """What is mirrored. `subscribe(after, ref)` and `unsubscribe` are the frames that say so."""

    name: str
    subscribe: Subscribe
    unsubscribe: bytes


def group_topic(group: str) -> Topic:
    """A group's frames. Its name has a slash, as no conversation id has."""
    unsubscribe = encode_command("group.unsubscribe", {"groupId": group})

    def subscribe(after: int | None, ref: str) -> list[bytes]:
        fields: dict[str, object] = {"groupId": group, "cursor": after, "ref": ref}
        # A repeat on a live subscription would replay nothing.
        return [unsubscribe, encode_command("group.subscribe", fields)]

    return Topic(f"group/{group}", subscribe, unsubscribe)


def chats_topic(*, deltas: bool) -> Topic:
    """Events of all the user's chat sessions."""

    def subscribe(after: int | None, ref: str) -> list[bytes]:
        fields: dict[str, object] = {"lastEventId": after, "deltas": deltas, "ref": ref}
        return [encode_command("chats.subscribe", fields)]

    return Topic(CHATS, subscribe, encode_command("chats.unsubscribe", {}))


class Mirror:
    """`async for event in mirror`; to be closed with `aclose`."""

    def __init__(self, port: Port, topic: Topic, place: Place) -> None:
        """Nothing is asked of the daemon before the first event is."""
        self.topic = topic.name
        self.unsubscription = topic.unsubscribe
        self._port = port
        self._place = place
        self._subscribe = topic.subscribe
        self._state: State = "new"
        self._inbox: Inbox[Event | Reconnecting] = Inbox(port.buffer_bytes_max)
        # The last frame that came: what waits in the inbox need not be asked for again.
        self._came = place.after
        self._asked_count = 0
        self._ref = ""

    def __aiter__(self) -> Mirror:
        return self

    async def __anext__(self) -> Event | Reconnecting:
        if self._state == "new":
            self._port.enter(self)
            await self._ask()
        while True:
            item = self._inbox.take()
            if item is None and self._state == "behind":
                await self._ask()
            elif item is None:
                await self._inbox.changed()
            elif isinstance(item, Reconnecting) or self._is_new(item):
                return item

    async def aclose(self) -> None:
        """Stop following."""
        if self._state not in {"new", "over"}:
            await self._port.leave(self)
        self.end(None)

    def end(self, failure: DispatchError | None) -> None:
        """The session is over, or the subscription was refused."""
        self._state = "over"
        self._inbox.end(failure)

    def lost(self, reason: str) -> None:
        """The connection is gone; the session subscribes again on the next."""
        if self._state in {"asked", "live"}:
            self._inbox.put(Reconnecting(reason), 0)
            self._state = "asked"
            self._ref = ""

    def subscription(self) -> list[bytes] | None:
        """The frames that (re)subscribe; None while the consumer is behind."""
        if self._state == "over" or (self._state == "behind" and len(self._inbox)):
            return None
        self._state = "asked"
        self._asked_count += 1
        self._ref = f"mirror-{self._asked_count}:{self.topic}"[:REF_CHARACTERS_MAX]
        return self._subscribe(self._came, self._ref)

    def is_asked_by(self, ref: str) -> bool:
        """Whether a reply is to the present subscription."""
        return bool(ref) and ref == self._ref

    def offer(self, frame: MirrorFrame, size: int) -> None:
        """Take a frame of this topic; never waits."""
        match frame:
            case GroupSubscribed(ref=ref, cursor=cursor):
                if ref == self._ref:
                    self._state = "live"
                    self._came = cursor if self._came is None else self._came
            case GroupEventFrame(frame_id=number, event=event):
                self._take(Event(number, event), event.get("cursor"), size)
            case ChatEventFrame():
                self._offer_chats(frame, size)

    def _offer_chats(self, frame: ChatEventFrame, size: int) -> None:
        """`connected` is the first frame of a subscription, and the only word that it is made."""
        cursor = (frame.data or {}).get("cursor")
        if frame.event == "connected":
            self._state = "live" if self._state == "asked" else self._state
            cursor = cursor if self._came is None else self._came
        self._take(Event(frame.id, frame.plain()), cursor, size)

    def _take(self, event: Event, cursor: int | None, size: int) -> None:
        """`cursor`: where to go on behind a frame that has no id of its own."""
        if self._state != "live":
            # Of a subscription that was given up; the next one starts from what came.
            return
        if self._inbox.is_full:
            self._state = "behind"
            return
        if event.id is not None:
            self._came = event.id
        elif cursor is not None:
            self._came = cursor
        self._inbox.put(event, size)

    def _is_new(self, event: Event) -> bool:
        place = self._place
        if event.id is None:
            return True
        if place.after is not None and event.id <= place.after:
            return False
        place.after = event.id
        return True

    async def _ask(self) -> None:
        for frame in self.subscription() or ():
            await self._port.write(frame)
