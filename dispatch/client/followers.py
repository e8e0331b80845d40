"""Everything a client follows: found by topic, told what comes, subscribed again after a loss.

Neighbours: `session` has one and hands it every frame; `follow` is one conversation, `mirror` a
group or the chat sessions.
Invariant: a topic has one follower at most, and who is in here is subscribed on every connection.
"""

from __future__ import annotations

from dispatch.client.decoding import ServerFrame, decode_delta
from dispatch.client.follow import Follow, Follower
from dispatch.client.frames import (
    ChatError,
    Deleted,
    DeltaFrame,
    History,
    PlainError,
    ReadMoved,
    RequestDone,
    RequestOpened,
    Snapshot,
    Subscribed,
    Truncated,
)
from dispatch.client.mirror import CHATS, Mirror, MirrorFrame, group_topic
from dispatch.client.mirrored import ChatEventFrame, GroupError, GroupEventFrame, GroupSubscribed
from dispatch.errors import DispatchError, Refused


class Followers:
    """See the module."""

    def __init__(self) -> None:
        """Nothing is followed."""
        self._by_topic: dict[str, Follower] = {}

    def enter(self, follower: Follower) -> None:
        """Add one; raises `Refused` where its topic has one."""
        if follower.topic in self._by_topic:
            raise Refused(f"this client already follows {follower.topic}")
        self._by_topic[follower.topic] = follower

    def leave(self, follower: Follower) -> None:
        """Forget one."""
        self._by_topic.pop(follower.topic, None)

    def subscriptions(self) -> list[bytes]:
        """What a new connection has to hear."""
        return [frame for one in self._by_topic.values() for frame in one.subscription() or ()]

    def lost(self, reason: str) -> None:
        """The connection is gone."""
        for follower in self._by_topic.values():
            follower.lost(reason)

    def end(self, failure: DispatchError | None) -> None:
        """Nothing more will come."""
        for follower in self._by_topic.values():
            follower.end(failure)
        self._by_topic.clear()

    def take(self, frame: ServerFrame, size: int) -> None:
        """Hand a frame to whom it is for; never waits. `size` in bytes."""
        match frame:
            case ChatError() | PlainError() | GroupError():
                self._refused(frame.ref or "", frame.failure())
            case Deleted(conversation_id=conversation):
                follower = self._by_topic.pop(conversation, None)
                if isinstance(follower, Follow):
                    follower.deleted()
            case DeltaFrame():
                delta = decode_delta(frame)
                if isinstance(follow := self._by_topic.get(delta.conversation_id), Follow):
                    follow.offer(delta, size)
            case (
                Subscribed()
                | History()
                | RequestOpened()
                | RequestDone()
                | Snapshot()
                | ReadMoved()
                | Truncated()
            ):
                if isinstance(follow := self._by_topic.get(frame.conversation_id), Follow):
                    follow.offer(frame, size)
            case GroupSubscribed(group_id=group) | GroupEventFrame(group_id=group):
                self._mirror(group_topic(group).name, frame, size)
            case ChatEventFrame():
                self._mirror(CHATS, frame, size)
            case _:
                pass

    def _mirror(self, topic: str, frame: MirrorFrame, size: int) -> None:
        if isinstance(mirror := self._by_topic.get(topic), Mirror):
            mirror.offer(frame, size)

    def _refused(self, ref: str, failure: DispatchError) -> None:
        for follower in list(self._by_topic.values()):
            if follower.is_asked_by(ref):
                self.leave(follower)
                follower.end(failure)
