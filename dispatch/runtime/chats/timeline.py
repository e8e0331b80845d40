"""The timeline of one chat session: a task is a turn, a message a row, and its user is told of all.

Neighbours: `chats` has the verbs, `timeline` what both kinds share, `chats.streams` who follows,
`protocol.sessions.frames` what is shown. Source: `protocol/chat-sessions.md`.
Invariant: a task ends once, in the commit that ends its turn; the agent types from the first open
task to the last, and between two such times not at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

import msgspec

from dispatch.core.commands import Dispatched
from dispatch.core.content import delta_text
from dispatch.core.events import AnyEvent, Request, RequestClosed
from dispatch.core.identity import TurnId
from dispatch.core.session import Session, SessionView, decode_session, encode_session
from dispatch.core.timeline import (
    AskClosed,
    Asked,
    Changed,
    ReadTo,
    TaskEnded,
    Typing,
)
from dispatch.errors import Archived
from dispatch.protocol.sessions.frames import (
    delta_frame,
    failure_reason,
    frames,
    session_object,
    utf16_length,
)
from dispatch.runtime import intake
from dispatch.runtime.chats.rows import message_row, reply_row
from dispatch.runtime.chats.standing import Standing, fetch_standing, session_view
from dispatch.runtime.chats.streams import ChatStreams, stream_name
from dispatch.runtime.live import Live
from dispatch.runtime.pending import Draft, PendingChange
from dispatch.runtime.services import Services
from dispatch.runtime.timeline import Reply, Timeline
from dispatch.storage.keys import RowKey, TurnKey
from dispatch.storage.port import CursorRecord, TurnRecord
from dispatch.storage.timeline import RowRecord, TimelineEvent, TimelineRecord

_OUTCOMES: Final = {"aborted": "cancelled"}
_ENCODER: Final = msgspec.json.Encoder()


class ChatTimeline(Timeline):
    """See the module. `asked` are the requests that are open, by id; `reads` keeps reads apart."""

    def __init__(
        self,
        services: Services,
        record: TimelineRecord,
        streams: ChatStreams,
        *,
        is_stored: bool,
    ) -> None:
        """Continue after what is stored; `fetch` and `restore` follow."""
        super().__init__(services, record, is_stored=is_stored)
        self.streams = streams
        self.standing = Standing()
        self.asked: dict[str, Asked] = {}
        self.reads = asyncio.Lock()
        self._stream = stream_name(record.account, record.user)
        self._staged_standing = self.standing
        self._standing_draft: Draft | None = None
        # Of replies that are followed with deltas: bytes and UTF-16 units that were shown.
        self._units: dict[TurnId, tuple[int, int]] = {}

    async def fetch(self) -> None:
        """Read what stands beside the row and the open replies."""
        self.standing = await fetch_standing(self.services.store, self.record)

    def close(self) -> None:
        """See `Timeline`."""

    def lose(self, turn: TurnId) -> None:
        """See `Timeline`."""
        reply = self.replies[turn]

        def write(draft: Draft, _offset: int) -> None:
            if self.is_open_in(draft, reply):
                self._rest(draft, self._end(draft, reply, "interrupted"))

        self.outbox.change(PendingChange(write))

    # -- the session ---------------------------------------------------------------------------

    @property
    def title(self) -> str:
        """The conversation's, as it is on disk."""
        return self.standing.title

    @title.setter
    def title(self, title: str) -> None:
        self.standing.title = title

    @property
    def session(self) -> Session:
        """What it is beside its rows, as it is on disk."""
        return decode_session(self.record.details)

    @property
    def unread(self) -> int:
        """What its user is told: nothing is unread in what was put away."""
        return self.standing.unread if self.record.status == "active" else 0

    @property
    def open_replies(self) -> list[Reply]:
        """Those that are durable, in the order of their tasks."""
        kept = [reply for reply in self.replies.values() if reply.is_kept]
        return sorted(kept, key=lambda reply: reply.row.key)

    def view(self) -> SessionView:
        """The session as its user sees it, of this instant."""
        return session_view(self.record, self.standing)

    def standing_in(self, draft: Draft) -> Standing:
        """What stands beside the row in a draft, to be changed in place."""
        if self._standing_draft is not draft:
            self._standing_draft = draft
            now = self.standing
            staged = msgspec.structs.replace(now, steers=dict(now.steers))
            self._staged_standing = staged
            draft.then.append(partial(self._stand, staged))
        return self._staged_standing

    def _stand(self, standing: Standing) -> None:
        self.standing = standing

    def tell_changed(
        self, draft: Draft, changed: Callable[[msgspec.Raw], Changed], **more: int
    ) -> None:
        """Add to the log how the session is shown from here on, and what else follows."""
        record, standing = self.stage(draft), self.standing_in(draft)
        shown = session_object(session_view(record, standing)) | more
        self.emit(draft, changed(msgspec.Raw(_ENCODER.encode(shown))))

    def create(self, draft: Draft) -> None:
        """It is there from here on."""
        self.stage(draft)
        self.tell_changed(draft, lambda shown: Changed("created", shown))

    def put_away(self, draft: Draft, *, archived: bool) -> None:
        """Archive or restore it; nothing where it is so already."""
        if self.standing_in(draft).is_buried:
            return
        record, now_ms = self.stage(draft), self.services.clock.now_ms()
        if (record.status == "archived") is archived:
            return
        record.status = "archived" if archived else "active"
        record.updated_at_ms = now_ms
        session = msgspec.structs.replace(
            decode_session(record.details), archived_at_ms=now_ms if archived else None
        )
        record.details = encode_session(session)
        what: Final = "archived" if archived else "restored"
        unread = 0 if archived else self.standing_in(draft).unread
        self.tell_changed(draft, lambda shown: Changed(what, shown), unread_count=unread)

    def read_to(self, draft: Draft, row: RowRecord, passed: int) -> None:
        """Its user has read up to a row, and with it `passed` replies that nobody had read."""
        standing, seq = self.standing_in(draft), row.seq
        if standing.is_buried or seq is None or seq <= standing.last_read_seq:
            return
        record = self.stage(draft)
        if record.status != "active":
            return
        standing.last_read_seq = seq
        standing.unread -= passed
        draft.cursors.append(CursorRecord(record.key, record.user, seq))
        self.emit(draft, ReadTo(seq, standing.unread), row)

    def buried(self, draft: Draft) -> None:
        """See `scribe.Scribe`: it goes too, with what is open in it and all that was told."""
        standing = self.standing_in(draft)
        if standing.is_buried:
            return
        row = None
        for reply in list(self._open_in(draft)):
            row = self._end(draft, reply, "cancelled")
        self._rest(draft, row)
        self.tell_changed(draft, lambda shown: Changed("deleted", shown))
        standing.is_buried = True
        draft.burials.append(self.record.key)
        draft.then.append(self._gone)

    def _gone(self) -> None:
        self.record.status = "deleted"
        for reply in list(self.replies.values()):
            # Of messages that the disk has refused just now.
            self._over(reply.row)

    # -- what is shown -------------------------------------------------------------------------

    @property
    def stream(self) -> str:
        """See `Timeline`."""
        return self._stream

    def show(self, event: TimelineEvent, row: RowRecord | None) -> None:
        """See `Timeline`."""
        streams, name = self.streams, self._stream
        if streams.is_followed(name):
            shown = frames(self.record.id, event.position, event.at_ms, event.payload, row)
            streams.publish(name, shown)
        streams.passed(name, event.position)

    def show_turn(self, position: int, reply: Reply, payload: bytes, delta: str) -> None:
        """See `Timeline`: the text as it comes, for those who asked for it."""
        turn = reply.row.turn_id
        if delta != "text-delta" or turn is None or not self.streams.wants_deltas(self._stream):
            return
        shown, units = self._units.get(turn, (0, 0))
        units += utf16_length(bytes(reply.text[shown : reply.shown]))
        self._units[turn] = (reply.shown, units)
        now_ms, text = self.services.clock.now_ms(), delta_text(payload)
        frame = delta_frame(self.record.id, position, now_ms, reply.row, text, units)
        self.streams.publish(self._stream, [frame])

    # -- scribe.Scribe -------------------------------------------------------------------------

    def check_open(self) -> None:
        """See `scribe.Scribe`."""
        if self.record.status == "archived":
            raise Archived("this chat session is archived: restore it first")

    def has_room(self) -> bool:
        """See `scribe.Scribe`."""
        return not self.services.slots.is_full

    def accepted(self, draft: Draft, record: TurnRecord) -> None:
        """See `scribe.Scribe`: a message and its task are one commit."""
        if record.state == "steering" and (running := self._running_in(draft)) is not None:
            message = self._message(draft, record, running.row.turn_id)
            message.turn = record.key
            self.standing_in(draft).steers[record.id] = message
            return
        is_idle = next(self._open_in(draft), None) is None
        message = self._message(draft, record, record.id)
        reply = self._open(draft, record.id, record.key, message)
        if is_idle:
            waits = record.state != "running" and self.services.slots.is_full
            typing = Typing(typing=True, phase="queued" if waits else "running")
            self.emit(draft, typing, self.stage_row(draft, reply.row))

    def starting(self, turn: TurnId) -> None:
        """See `scribe.Scribe`."""
        self.services.slots.hold(turn)

    def refused(self, turn: TurnId) -> None:
        """See `scribe.Scribe`."""
        self.services.slots.give_back(turn)
        reply = self.replies.get(turn)
        if reply is not None and not reply.is_kept:
            super().refused(turn)

    def began(self, draft: Draft, turn: TurnId, now_ms: int) -> None:
        """See `scribe.Scribe`."""
        steer = self.standing_in(draft).steers.pop(turn, None)
        if steer is not None and steer.turn is not None and turn not in self.replies:
            self._open(draft, turn, steer.turn, steer)
        super().began(draft, turn, now_ms)

    def heard(self, turn: TurnId, event: AnyEvent) -> Callable[[Draft], None] | None:
        """See `scribe.Scribe`: questions are told."""
        reply = self.replies.get(turn)
        match event:
            case Request() if reply is not None:
                fields = msgspec.to_builtins(event)
                del fields["type"]
                return partial(self._ask, reply, Asked(turn, msgspec.Raw(_ENCODER.encode(fields))))
            case RequestClosed(request_id=request, outcome=outcome, by=by) if reply is not None:
                return partial(self._answered, reply, AskClosed(turn, request, outcome, by))
            case _:
                return super().heard(turn, event)

    def absorbed(self, draft: Draft, record: TurnRecord) -> None:
        """See `scribe.Scribe`."""
        self.standing_in(draft).steers.pop(record.id, None)

    def ended(self, draft: Draft, turn: TurnId, outcome: str) -> None:
        """See `scribe.Scribe`: what was said to the task and not taken becomes tasks now."""
        reply = self.replies.get(turn)
        if reply is None or not self.is_open_in(draft, reply):
            return
        row = self._end(draft, reply, _OUTCOMES.get(outcome, outcome))
        steers = self.standing_in(draft).steers
        for steer, message in steers.items():
            if message.turn is not None:
                self._open(draft, steer, message.turn, message)
        steers.clear()
        self._rest(draft, row)

    def dropped(self, draft: Draft, turns: Sequence[TurnId], by: Dispatched | None = None) -> None:
        """See `scribe.Scribe`."""
        row = None
        for turn in turns:
            self.standing_in(draft).steers.pop(turn, None)
            reply = self.replies.get(turn)
            if reply is not None and self.is_open_in(draft, reply):
                row = self._end(draft, reply, "cancelled")
        self._rest(draft, row)

    def renamed(self, draft: Draft, title: str) -> None:
        """See `scribe.Scribe`: asked with each write of the conversation's row."""
        is_staged = self._standing_draft is draft
        standing = self._staged_standing if is_staged else self.standing
        if standing.title == title or standing.is_buried:
            return
        self.standing_in(draft).title = title
        self.stage(draft).updated_at_ms = self.services.clock.now_ms()
        self.tell_changed(draft, lambda shown: Changed("updated", shown))

    def deleting(self, live: Live) -> None:
        """See `scribe.Scribe`: what waits is over first."""
        for waiting in live.state.queue:
            intake.cancel(live, waiting.turn)

    # -- tasks ---------------------------------------------------------------------------------

    def _open_in(self, draft: Draft) -> Iterator[Reply]:
        """The replies that are open after what is in a draft.

        One that is neither on disk nor in this draft was in a draft that was refused: it comes.
        """
        self.stage(draft)
        for reply in self.replies.values():
            is_there = reply.is_kept or reply.row.key in self._staged_rows
            if is_there and self.is_open_in(draft, reply):
                yield reply

    def _running_in(self, draft: Draft) -> Reply | None:
        for reply in self._open_in(draft):
            row = self._staged_rows.get(reply.row.key, reply.row)
            if row.started_at_ms is not None:
                return reply
        return None

    def _message(self, draft: Draft, record: TurnRecord, turn: TurnId | None) -> RowRecord:
        key = RowKey(next(self.services.keys))
        return self.add_message(draft, message_row(self.record, key, record, turn))

    def _open(self, draft: Draft, turn: TurnId, key: TurnKey, message: RowRecord) -> Reply:
        """A task is there: registered at once, for its turn may speak before this is durable."""
        reply = self.replies.get(turn)
        if reply is None:
            row_key = RowKey(next(self.services.keys))
            row = reply_row(self.record, row_key, key, turn, message.created_at_ms)
            reply = self.replies[turn] = Reply(row)
        # Built again, the message may have another seq.
        reply.row.reply_to = message.seq
        reply.message = message
        self.stage_row(draft, reply.row)
        return reply

    def _end(self, draft: Draft, reply: Reply, outcome: str) -> RowRecord:
        if outcome == "completed" and not reply.text:
            outcome = "no_response"
        error = reply.error if outcome in ("error", "interrupted") else None
        row = self.end_reply(draft, reply, outcome, error=error)
        self.standing_in(draft).unread += 1
        reason = failure_reason(row)
        if reason is not None:
            self.emit(draft, TaskEnded("failed", reason), row)
        elif outcome == "cancelled":
            self.emit(draft, TaskEnded("cancelled", ""), row)
        draft.then.append(lambda: self._forget(row.turn_id))
        return row

    def _rest(self, draft: Draft, row: RowRecord | None) -> None:
        """Behind the end of a task: with the last one the agent stops to type."""
        if row is not None and next(self._open_in(draft), None) is None:
            self.emit(draft, Typing(typing=False, phase="running"), row)

    def _ask(self, reply: Reply, asked: Asked, draft: Draft) -> None:
        self.emit(draft, asked, reply.row)
        request = msgspec.json.decode(asked.request)["requestId"]
        draft.then.append(partial(self.asked.__setitem__, request, asked))

    def _answered(self, reply: Reply, closed: AskClosed, draft: Draft) -> None:
        self.emit(draft, closed, reply.row)
        draft.then.append(lambda: self._close(closed.request_id))

    def _close(self, request: str) -> None:
        self.asked.pop(request, None)

    def _forget(self, turn: TurnId | None) -> None:
        if turn is not None:
            self._units.pop(turn, None)
