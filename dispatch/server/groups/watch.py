"""What one WebSocket connection has to do with groups: its wishes, and the groups that it follows.

Neighbours: `connections` passes `group.*` frames on and tells of a peer's pace, `groups.follow`
brings each group's frames to it, `runtime.groups.verbs` carries the wishes out.
Invariant: what a wish is answered precedes what a new subscription shows; nothing a peer does or
fails to do reaches a run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from dispatch.core.identity import WATCH, ConversationId, may, require
from dispatch.core.replay import Frame
from dispatch.errors import CloseCode, DispatchError, Gone, NotFound
from dispatch.protocol.codec import ECHO_CHARACTERS_MAX, Object, echoed_ref
from dispatch.protocol.groups.frames import ws, ws_resume_gap
from dispatch.protocol.groups.refusals import GroupDeleted, GroupNotFound
from dispatch.protocol.groups.requests import (
    FRAME_TYPES,
    GroupFrame,
    GroupSend,
    GroupStop,
    read_frame,
)
from dispatch.runtime.groups.timeline import GroupTimeline
from dispatch.runtime.groups.verbs import GroupVerbs
from dispatch.server.groups.follow import GroupFollow
from dispatch.server.websocket import frame_text

if TYPE_CHECKING:
    from dispatch.server.connection import Connection

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class WatchWire:
    """`group.event`; equal for all who follow a group, which share the bytes."""

    group: str

    def entries(self, conversation: ConversationId, entries: Sequence[Frame]) -> bytes:
        """See `runtime.feed.Wire`."""
        return b"".join([frame_text(ws(self.group, frame)) for frame in entries])

    def gap(self, cursor: int) -> bytes:
        """See `groups.follow.GroupWire`."""
        return frame_text(ws_resume_gap(self.group, cursor))

    def after_gap(self, head: int) -> int:
        """See `groups.follow.GroupWire`: what was missed is in a new snapshot."""
        return head


class GroupWish(NamedTuple):
    """One frame that was read, and what its answer echoes."""

    frame: GroupFrame
    ref: str | int | None


class GroupWatches:
    """See the module."""

    __slots__ = ("_connection", "_follows", "_is_working", "_waiting")

    def __init__(self, connection: Connection) -> None:
        """Follow nothing yet."""
        self._connection = connection
        self._follows: dict[str, GroupFollow] = {}
        self._waiting: deque[GroupWish] = deque()
        self._is_working = False

    def __len__(self) -> int:
        """How many groups are followed."""
        return len(self._follows)

    @staticmethod
    def takes(frame: Object) -> bool:
        """Whether a frame is about groups."""
        kind = frame.get("type")
        return isinstance(kind, str) and kind in FRAME_TYPES

    def take(self, frame: Object) -> None:
        """Read a frame, and carry it out in its turn."""
        connection, ref = self._connection, echoed_ref(frame.get("ref"))
        try:
            wish = GroupWish(read_frame(frame), ref)
        except DispatchError as error:
            self._refuse(error, frame.get("groupId"), ref)
            return
        if len(self._waiting) >= connection.hub.limits.commands_waiting_max:
            connection.close(CloseCode.OVERLOADED)
            return
        self._waiting.append(wish)
        if not self._is_working:
            self._is_working = True
            connection.hub.start(self._guarded, self._work)

    async def _work(self) -> None:
        try:
            while self._waiting and self._connection.is_open:
                await self._carry_out(self._waiting.popleft())
        finally:
            self._is_working = False

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception:
            # A defect of ours must not take other connections along; the peer may resume.
            log.exception("connection.failed", connection=self._connection.id)
            self._connection.close(CloseCode.INTERNAL)

    async def _carry_out(self, wish: GroupWish) -> None:
        frame = wish.frame
        self.let_go()
        try:
            match frame.command:
                case GroupSend() as send:
                    await self._send(frame.group, send, wish.ref)
                case GroupStop() as stop:
                    await self._stop(frame.group, stop, wish.ref)
                case None if frame.verb == "read":
                    await self._read(frame, wish.ref)
                case None if frame.verb == "subscribe":
                    await self._subscribe(frame, wish.ref)
                case None:
                    self._drop(frame.group)
        except DispatchError as error:
            self._refuse(error, frame.group, wish.ref)

    # -- what the connection tells -------------------------------------------------------------

    def pause(self) -> None:
        """The peer reads too slowly."""
        for follow in self._follows.values():
            follow.pause()

    def resume(self) -> None:
        """It has drained."""
        for follow in list(self._follows.values()):
            if follow.resume():
                self._start(follow)

    def lost(self) -> None:
        """It is gone."""
        self._waiting.clear()
        for group in list(self._follows):
            self._drop(group)

    def let_go(self) -> None:
        """Drop groups that are deleted and of which everything was said."""
        for group in [group for group, follow in self._follows.items() if follow.is_over]:
            self._drop(group)

    # -- wishes --------------------------------------------------------------------------------

    @property
    def _verbs(self) -> GroupVerbs:
        return self._connection.hub.groups

    async def _subscribe(self, frame: GroupFrame, ref: str | int | None) -> None:
        connection = self._connection
        require(connection.principal, WATCH)
        timeline = await self._load(frame.group)
        if timeline is None:
            follow = self._follows.get(frame.group)
        else:
            follow = self._begin(timeline, frame.cursor)
        if follow is None:
            return
        told = {"type": "group.subscribed", "groupId": frame.group, "cursor": follow.told}
        connection.reply(told, ref)
        self._start(follow)

    async def _send(self, group: str, send: GroupSend, ref: str | int | None) -> None:
        connection = self._connection
        # Who may not watch gets the acknowledgement and nothing else.
        timeline = await self._load(group) if may(connection.principal, WATCH) else None
        sent = None
        try:
            sent = await self._verbs.sends.send(connection.principal, group, send)
        finally:
            if sent is None and timeline is not None:
                self._verbs.timelines.release(timeline)
        accepted: dict[str, Any] = {
            "type": "group.accepted",
            "groupId": group,
            "userSeq": sent.seq,
            "frameId": sent.frame,
        }
        if send.client_message_id is not None:
            accepted["clientMessageId"] = send.client_message_id
        if sent.is_duplicate:
            accepted["duplicate"] = True
        connection.reply(accepted, ref)
        if timeline is not None:
            follow = self._begin(timeline, sent.frame - 1)
            if follow is not None:
                self._start(follow)

    async def _stop(self, group: str, stop: GroupStop, ref: str | int | None) -> None:
        stopped = await self._verbs.stops.stop(
            self._connection.principal,
            group,
            agent=stop.familiar,
            reply_to=stop.reply_to,
            run_id=stop.run_id,
        )
        told = {
            "type": "group.stopped",
            "groupId": group,
            "stopped": stopped.agents,
            "queued": stopped.is_remembered,
        }
        self._connection.reply(told, ref)

    async def _read(self, frame: GroupFrame, ref: str | int | None) -> None:
        principal = self._connection.principal
        seq, unread = await self._verbs.groups.read(principal, frame.group, frame.up_to_seq)
        told = {"type": "group.read", "groupId": frame.group, "lastReadSeq": seq, "unread": unread}
        self._connection.reply(told, ref)

    # -- following -----------------------------------------------------------------------------

    async def _load(self, group: str) -> GroupTimeline | None:
        """Hold a group that is about to be followed; None where it is, or the peer is gone."""
        if group in self._follows:
            return None
        connection, verbs = self._connection, self._verbs
        connection.check_watch()
        timeline = await verbs.timelines.load((connection.account, "group", group))
        assert isinstance(timeline, GroupTimeline), "what a group keeps"
        return timeline

    def _begin(self, timeline: GroupTimeline, after: int | None) -> GroupFollow | None:
        """Follow from behind a frame, cold; takes over the hold on the timeline."""
        group, verbs = timeline.record.id, self._verbs
        if not self._connection.is_open:
            verbs.timelines.release(timeline)
            return None
        follow = GroupFollow(verbs, timeline, self._connection, WatchWire(group), after)
        self._follows[group] = follow
        return follow

    def _start(self, follow: GroupFollow) -> None:
        """Bring it to the head, which may take long: a stop must not wait for that."""
        self._connection.hub.start(self._guarded, follow.follow)

    def _drop(self, group: str) -> None:
        follow = self._follows.pop(group, None)
        if follow is not None:
            follow.drop()

    def _refuse(self, error: DispatchError, group: object, ref: str | int | None) -> None:
        if type(error) is NotFound:
            error = GroupNotFound()
        elif type(error) is Gone:
            error = GroupDeleted()
        told: dict[str, Any] = {"type": "group.error", "code": error.code, "error": error.message}
        if isinstance(group, str) and len(group) <= ECHO_CHARACTERS_MAX:
            told["groupId"] = group
        self._connection.reply(told, ref)
