"""A group's frames as server-sent events: all of them as they come, or those of one message.

Neighbours: `groups.routes` answers with these, `groups.follow` brings a reader to the head, `http1`
lends the connection: behind the head of the response bytes go to it in the flush, framed once for
all readers, and no task wakes for them.
Invariant: a reader that leaves ends its own stream and nothing else; one that reads slowly keeps
its place and no bytes; nobody is shown a frame after the credential that asked for it ended.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import anyio
import msgspec
import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dispatch.core.identity import ConversationId
from dispatch.core.replay import Frame
from dispatch.core.timeline import RepliesEnded, Results, encode_told
from dispatch.errors import DispatchError
from dispatch.protocol.groups.frames import frames, resume_gap, sse
from dispatch.runtime.groups.timeline import GroupTimeline
from dispatch.runtime.groups.verbs import GroupVerbs
from dispatch.server.call import Call
from dispatch.server.groups.follow import GroupFollow, GroupWire
from dispatch.server.tap import Tap

if TYPE_CHECKING:
    from collections.abc import Sequence

log = structlog.get_logger()

HEARTBEAT_SECONDS: Final = 15.0
HEADERS: Final = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
    "x-content-type-options": "nosniff",
}

_ENCODER: Final = msgspec.json.Encoder()


def chunk(data: bytes) -> bytes:
    """A piece of a body of unknown length (RFC 9112, 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


_HEARTBEAT: Final = chunk(b": hb\n\n")


@dataclass(frozen=True, slots=True)
class StreamWire:
    """Every frame; equal for all readers of a group, which share the bytes."""

    group: str

    def entries(self, conversation: ConversationId, entries: Sequence[Frame]) -> bytes:
        """See `runtime.feed.Wire`."""
        return chunk(b"".join([sse(frame) for frame in entries]))

    def gap(self, cursor: int) -> bytes:
        """See `groups.follow.GroupWire`."""
        return chunk(resume_gap(self.group, cursor))

    def after_gap(self, head: int) -> int:
        """See `groups.follow.GroupWire`: what was missed is in a new snapshot."""
        return head


class SendWire:
    """The frames of one message up to its end; only the end where the first ones are gone."""

    def __init__(self, group: str, seq: int) -> None:
        """Of one reader."""
        self.is_cut = False
        self.is_over = False
        self._group = group
        self._topic = str(seq)
        self._end = b'{"kind":"done","groupId":%b,"scope":"group",' % _ENCODER.encode(group)

    def entries(self, conversation: ConversationId, entries: Sequence[Frame]) -> bytes:
        """See `runtime.feed.Wire`."""
        shown = []
        for frame in entries:
            if frame.topic != self._topic or self.is_over:
                continue
            self.is_over = frame.payload.startswith(self._end)
            if self.is_over or not self.is_cut:
                shown.append(sse(frame))
        return chunk(b"".join(shown)) if shown else b""

    def gap(self, cursor: int) -> bytes:
        """See `groups.follow.GroupWire`."""
        return chunk(resume_gap(self._group, cursor))

    def after_gap(self, head: int) -> int:
        """See `groups.follow.GroupWire`: somewhere behind it is the end, or it is gone as well."""
        self.is_cut = True
        return 0


class GroupStream(Response):
    """See the module; a `groups.follow.Sink`. Takes over the caller's hold on the timeline."""

    def __init__(
        self, call: Call, verbs: GroupVerbs, timeline: GroupTimeline, after: int | None
    ) -> None:
        """Stand behind a frame; None is the newest."""
        super().__init__()
        self.raw_headers = [(n.encode(), value.encode()) for n, value in HEADERS.items()]
        self.outgoing = b""
        self._call = call
        self._verbs = verbs
        self._wake = asyncio.Event()
        self._tap: Tap | None = None
        self._is_ended = False
        self._is_outlived = False
        self._follow = GroupFollow(verbs, timeline, self, self._wire(timeline), after)

    def _wire(self, timeline: GroupTimeline) -> GroupWire:
        return StreamWire(timeline.record.id)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, until the stream is over or its reader gone."""
        streams = self._call.site.hub.streams
        is_whole = False
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            self._tap = Tap.of(scope, self._paused)
            streams[self] = None
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_until_gone, receive, tasks.cancel_scope)
                is_whole = await self._run()
                tasks.cancel_scope.cancel()
            if is_whole:
                await send({"type": "http.response.body", "body": b""})
        finally:
            streams.pop(self, None)
            self._follow.drop()
            if self._tap is not None:
                self._tap.close()

    def end(self) -> None:
        """The daemon ends."""
        self._is_ended = True
        self._wake.set()

    # -- group_follow.Sink ---------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """See `groups.follow.Sink`."""
        is_over = self._is_ended or self._is_outlived or self._is_complete
        return not is_over and self._tap is not None and self._tap.is_open

    @property
    def is_writable(self) -> bool:
        """See `groups.follow.Sink`."""
        return self._tap is not None and self._tap.is_writable

    async def until_writable(self) -> None:
        """See `groups.follow.Sink`."""
        if self._tap is not None:
            await self._tap.until_writable()

    def write(self, data: bytes) -> None:
        """See `runtime.feed.Writer`."""
        if data and self.is_open_for(data) and self._tap is not None:
            self._tap.write(data)
        if self._is_complete or self._follow.is_over:
            self._wake.set()

    def is_open_for(self, data: bytes) -> bool:
        """Whether these bytes may be shown still."""
        if not self._call.is_still_valid():
            self._is_outlived = True
            self._wake.set()
        return not self._is_outlived

    @property
    def _is_complete(self) -> bool:
        """Everything that was asked for was written."""
        return False

    def _paused(self) -> None:
        self._follow.pause()
        self._wake.set()

    async def _run(self) -> bool:
        """Write until it is over; whether that was its proper end."""
        try:
            while True:
                self._wake.clear()
                await self._follow.follow()
                await self._complete()
                if self._follow.is_over or not self.is_open:
                    break
                with anyio.move_on_after(HEARTBEAT_SECONDS) as beat:
                    await self._wake.wait()
                if beat.cancelled_caught and self.is_writable:
                    self.write(_HEARTBEAT)
        except DispatchError as error:
            # The head is sent: there is no other way left to say it.
            log.warning("http.stream_failed", code=error.code)
            return False
        if self._is_outlived:
            log.info("http.credential_ended")
        return not self._is_outlived

    async def _complete(self) -> None:
        """It stands at the head."""


class SendStream(GroupStream):
    """What becomes of one message, up to the group's end of it."""

    def __init__(
        self,
        call: Call,
        verbs: GroupVerbs,
        timeline: GroupTimeline,
        seq: int,
        frame: int,
    ) -> None:
        """`frame` is the id of the message's own."""
        self._seq = seq
        self._own = SendWire(timeline.record.id, seq)
        super().__init__(call, verbs, timeline, frame - 1)

    def _wire(self, timeline: GroupTimeline) -> GroupWire:
        return self._own

    @property
    def _is_complete(self) -> bool:
        return self._own.is_over

    async def _complete(self) -> None:
        """Where its end was pruned as well, say it again, without the id that it had."""
        if not self._own.is_cut or not self.is_open:
            return
        timeline = self._follow.timeline
        if any(reply.row.reply_to == self._seq for reply in timeline.replies.values()):
            return
        store, key = timeline.services.store, timeline.record.key
        rows = await store.replies_to(key, self._seq)
        if not rows:
            # The group was deleted meanwhile.
            return
        counted = dict.fromkeys(Results.__struct_fields__, 0)
        for row in rows:
            counted[row.outcome or "interrupted"] += 1
        last = max((row.seq or 0 for row in rows), default=self._seq)
        told = encode_told(RepliesEnded(self._seq, Results(**counted), last))
        (frame,) = frames(timeline.record.id, 0, told, None, is_own=True)
        if not self._own.is_over:
            self.write(chunk(b"data: %b\n\n" % frame.payload))
            self._own.is_over = True


async def _until_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
