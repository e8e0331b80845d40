"""One live timeline: rows get their seqs, and what happens to them its place in the log.

Neighbours: `scribe` is the port that `live` and `intake` know it by; `groups.timeline` and
`chats.timeline` are the two kinds; `timelines` loads and keeps them; `feed` shows what `_frames`
makes of the log. Everything here is synchronous.
Invariant: seqs are given out while a draft is built, in the order of positions, and given again
if it is refused; what is in memory (`record`, the rows of `replies`) is durable.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final

import msgspec

from dispatch.core.content import delta_text
from dispatch.core.events import AnyEvent, ErrorEvent
from dispatch.core.identity import TurnId
from dispatch.core.timeline import (
    MessageAdded,
    ReplyEnded,
    Told,
    decode_row_details,
    encode_row_details,
    encode_told,
)
from dispatch.runtime import intake
from dispatch.runtime.journal import Outbox
from dispatch.runtime.live import Live
from dispatch.runtime.pending import Draft
from dispatch.runtime.scribe import Scribe
from dispatch.runtime.services import Services
from dispatch.storage.keys import ConversationKey, RowKey
from dispatch.storage.timeline import RowRecord, TimelineEvent, TimelineRecord

_NO_CONVERSATION: Final = ConversationKey(0)


class Reply:
    """An open reply: its row as it is on disk, and its text as far as it was said and shown.

    `text` is JSON-escaped; `shown` counts the bytes of it that are durable,
    `shown_units` their UTF-16 code units where somebody wants to know. `ending` overrides the
    outcome of its turn (`removed`). `message` is what it answers, where that came with it. `over`
    is set once its end is durable; `row` is then its last.
    """

    __slots__ = (
        "ending",
        "error",
        "has_begun",
        "is_kept",
        "message",
        "over",
        "row",
        "shown",
        "shown_units",
        "text",
    )

    def __init__(self, row: RowRecord) -> None:
        """Nothing was said yet."""
        self.row = row
        self.text = bytearray()
        self.shown = 0
        self.shown_units = 0
        self.has_begun = row.seq is not None
        self.is_kept = False
        self.message: RowRecord | None = None
        self.over = asyncio.Event()
        self.error: ErrorEvent | None = None
        self.ending: str | None = None

    @property
    def shown_text(self) -> str:
        """What devices have seen of it."""
        return unescaped(self.text[: self.shown])


def unescaped(escaped: bytes | bytearray) -> str:
    """JSON-escaped text as a string."""
    text: str = msgspec.json.decode(b'"%b"' % bytes(escaped), type=str)
    return text


class Timeline(Scribe, ABC):
    """See the module; a `scribe.Scribe` for each conversation whose turns write rows in it."""

    def __init__(self, services: Services, record: TimelineRecord, *, is_stored: bool) -> None:
        """Continue after what is stored of it; `restore` follows."""
        self.services = services
        self.record = record
        self.is_stored = is_stored
        self.outbox = Outbox(services.journal, _NO_CONVERSATION, None)
        self.replies: dict[TurnId, Reply] = {}
        self.users = 0
        # Rows that were changed while somebody reads them from the disk.
        self._overlays: dict[int, dict[RowKey, RowRecord]] = {}
        self._changed = asyncio.Event()
        self._draft: Draft | None = None
        self._staged = record
        self._staged_rows: dict[RowKey, RowRecord] = {}

    def restore(self, rows: Sequence[RowRecord]) -> None:
        """Take up the open replies that are stored."""
        for row in rows:
            assert row.turn_id is not None, "a reply names its turn"
            reply = self.replies[row.turn_id] = Reply(row)
            reply.is_kept = True

    @property
    def is_at_rest(self) -> bool:
        """Nobody needs it in memory."""
        return self.users == 0 and not self.replies and self.outbox.is_empty

    @abstractmethod
    def close(self) -> None:
        """It leaves memory."""

    # -- drafts --------------------------------------------------------------------------------

    def stage(self, draft: Draft) -> TimelineRecord:
        """The timeline's row in a draft, to be changed in place."""
        if self._draft is not draft:
            self._draft = draft
            self._staged = msgspec.structs.replace(
                self.record, epoch=self.services.opened.incarnation
            )
            self._staged_rows = {}
            draft.timelines.append(self._staged)
            draft.then.append(partial(self._kept, self._staged))
        return self._staged

    def stage_row(self, draft: Draft, row: RowRecord) -> RowRecord:
        """A row in a draft, to be changed in place; one draft has one of each."""
        self.stage(draft)
        staged = self._staged_rows.get(row.key)
        if staged is None:
            staged = self._staged_rows[row.key] = msgspec.structs.replace(row)
            draft.rows.append(staged)
            draft.then.append(partial(self._row_kept, staged))
        return staged

    def next_seq(self, draft: Draft) -> int:
        """Give out the next seq."""
        record = self.stage(draft)
        record.last_seq += 1
        return record.last_seq

    def emit(self, draft: Draft, told: Told, row: RowRecord | None = None) -> int:
        """Add an event to the log, in the place that it has in the draft; its position."""
        record = self.stage(draft)
        position = record.last_position = draft.take_position()
        event = TimelineEvent(
            position,
            record.key,
            self.stream,
            None if row is None else row.key,
            self.services.clock.now_ms(),
            encode_told(told),
        )
        draft.timeline_events.append(event)
        draft.then.append(partial(self.show, event, row))
        return position

    def add_message(self, draft: Draft, row: RowRecord) -> RowRecord:
        """A person's message takes its place; the row as it is written."""
        staged = self.stage_row(draft, row)
        record = self.stage(draft)
        staged.seq = self.next_seq(draft)
        record.active_at_ms = max(record.active_at_ms, staged.created_at_ms)
        staged.began_position = staged.ended_position = self.emit(draft, MessageAdded(), staged)
        return staged

    def end_reply(
        self, draft: Draft, reply: Reply, outcome: str, *, error: ErrorEvent | None = None
    ) -> RowRecord:
        """A reply is over: it has a seq from now on at the latest, and its text."""
        now_ms = self.services.clock.now_ms()
        row = self.stage_row(draft, reply.row)
        if row.seq is None:
            row.seq = self.next_seq(draft)
            row.began_position = draft.position
        row.started_at_ms = row.started_at_ms or now_ms
        row.ended_at_ms = now_ms
        row.outcome = outcome
        row.text = unescaped(reply.text)
        if error is not None:
            details = decode_row_details(row.details)
            row.details = encode_row_details(
                msgspec.structs.replace(details, error=error.message, error_code=error.code)
            )
        record = self.stage(draft)
        record.active_at_ms = max(record.active_at_ms, now_ms)
        row.ended_position = self.emit(draft, ReplyEnded(), row)
        draft.then.append(partial(self._over, row))
        return row

    def _kept(self, record: TimelineRecord) -> None:
        self.record = record
        self.is_stored = True
        # A batch is not kept in memory longer than it takes.
        self._draft, self._staged_rows = None, {}
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def kept(self) -> None:
        """Return once another change of it is durable."""
        await self._changed.wait()

    def _row_kept(self, row: RowRecord) -> None:
        reply = None if row.turn_id is None else self.replies.get(row.turn_id)
        if reply is not None and row.role == "reply":
            reply.row = row
            reply.is_kept = True
        for overlay in self._overlays.values():
            overlay[row.key] = row

    def _over(self, row: RowRecord) -> None:
        assert row.turn_id is not None, "a reply names its turn"
        reply = self.replies.pop(row.turn_id, None)
        if reply is not None:
            reply.over.set()
        self.services.slots.give_back(row.turn_id)

    @contextmanager
    def reading(self) -> Iterator[dict[RowKey, RowRecord]]:
        """What becomes of rows from here on, for who reads them from the disk meanwhile."""
        overlay: dict[RowKey, RowRecord] = {}
        # By identity: two that are empty are equal.
        self._overlays[id(overlay)] = overlay
        try:
            yield overlay
        finally:
            del self._overlays[id(overlay)]

    @abstractmethod
    def lose(self, turn: TurnId) -> None:
        """End an open reply whose turn is no more."""

    # -- what is shown -------------------------------------------------------------------------

    @property
    @abstractmethod
    def stream(self) -> str:
        """The name of the stream that its events belong to."""

    @abstractmethod
    def show(self, event: TimelineEvent, row: RowRecord | None) -> None:
        """An event of the timeline is durable."""

    @abstractmethod
    def show_turn(self, position: int, reply: Reply, payload: bytes, delta: str) -> None:
        """An event of a reply's turn is durable."""

    # -- scribe.Scribe, as far as both kinds do the same ---------------------------------------

    def happened(self, position: int, turn: TurnId, payload: bytes, delta: str) -> None:
        """See `pending.Mirror`."""
        reply = self.replies.get(turn)
        if reply is None:
            return
        self.show_turn(position, reply, payload, delta)
        if delta == "text-delta":
            reply.shown += len(delta_text(payload))

    def may_start(self, live: Live, turn: TurnId) -> bool:
        """See `scribe.Scribe`."""
        if turn not in self.replies:
            return True
        return self.services.slots.take(turn, live.record.key, partial(intake.advance, live))

    def refused(self, turn: TurnId) -> None:
        """See `scribe.Scribe`."""
        self.replies.pop(turn, None)

    def began(self, draft: Draft, turn: TurnId, now_ms: int) -> None:
        """See `scribe.Scribe`."""
        reply = self.replies.get(turn)
        if reply is not None:
            self.stage_row(draft, reply.row).started_at_ms = now_ms

    def said(self, turn: TurnId, escaped: bytes) -> Callable[[Draft], None] | None:
        """See `scribe.Scribe`: with its first text a reply takes its place among the rows."""
        reply = self.replies.get(turn)
        if reply is None:
            return None
        reply.text += escaped
        if reply.has_begun or not escaped:
            return None
        reply.has_begun = True
        return partial(self._speak, reply)

    def _speak(self, reply: Reply, draft: Draft) -> None:
        row = self.stage_row(draft, reply.row)
        row.seq = self.next_seq(draft)
        row.began_position = draft.position

    def heard(self, turn: TurnId, event: AnyEvent) -> Callable[[Draft], None] | None:
        """See `scribe.Scribe`."""
        reply = self.replies.get(turn)
        if reply is not None and isinstance(event, ErrorEvent):
            reply.error = event
        return None

    def recovered(self, turn: TurnId, payload: bytes, delta: str) -> None:
        """An event of a turn that ran when the daemon died: it was shown, and is said again."""
        reply = self.replies.get(turn)
        if reply is not None and delta == "text-delta":
            reply.text += delta_text(payload)
            reply.shown = len(reply.text)

    def is_open_in(self, draft: Draft, reply: Reply) -> bool:
        """Whether a reply is open still, after what is in a draft."""
        self.stage(draft)
        return self._staged_rows.get(reply.row.key, reply.row).outcome is None
