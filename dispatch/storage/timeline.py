"""Timelines as a store keeps them: rows with a seq, and a log of what happened to them.

Neighbours: `port` has the verbs, `core.timeline` says what the payloads mean, `runtime.timeline`
writes. A timeline is a group's or a chat session's: rows that every device reads by seq, written by
turns of one conversation or of many; or it is AHP's: a record and a log, without rows.
Invariant: as in `port`: payloads are opaque, keys and positions are the caller's, from the counters
that `open` returns; timelines, rows, conversations and turns share one counter of keys, and the log
of timelines and that of conversations one counter of positions.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import msgspec

from dispatch.core.identity import AccountId, ConversationId, TurnId, UserId
from dispatch.storage.keys import RowKey, TimelineKey, TurnKey

TimelineKind = Literal["group", "chat", "ahp-session", "ahp-chat", "ahp-client"]
"""The last three are kept by the AHP host: they have a log and no rows."""
TimelineStatus = Literal["active", "archived", "deleted"]


class TimelineRecord(msgspec.Struct, kw_only=True):
    """One timeline. Times in epoch milliseconds; `deleted` marks a tombstone.

    `id` is unique in the account and kind; a chat session's is its conversation's. `user` made it.
    `alias` is a second name, unique in the account, or None. `last_position` is that of the last
    event of its log. Up to `floor` its log may have lost events of conversations that are gone.
    """

    key: TimelineKey
    account: AccountId
    kind: TimelineKind
    id: str
    user: UserId
    status: TimelineStatus = "active"
    title: str = ""
    created_at_ms: int
    updated_at_ms: int
    active_at_ms: int
    last_seq: int = 0
    last_position: int = 0
    floor: int = 0
    epoch: int = 0
    alias: str | None = None
    details: bytes = b"{}"


class RowRecord(msgspec.Struct, kw_only=True):
    """One row: a person's message, or what a turn answers to it.

    A reply has a seq from its first text on, or from its end; it is open while `outcome` is None,
    and a person's row never is. `reply_to` is the seq of the row that is answered. `turn` is the
    reply's turn, `turn_id` and `conversation` name it also when it is gone; a message's are those
    of the turn that it started, where it started one. From `began_position` on the reply's events
    carry its seq; nothing of it comes after `ended_position`. `client_key` is the exactly-once key
    (unique in the store) or None, `digest` of the body tells a repeat from a conflict.
    """

    key: RowKey
    timeline: TimelineKey
    role: Literal["message", "reply"]
    seq: int | None = None
    reply_to: int | None = None
    turn: TurnKey | None = None
    turn_id: TurnId | None = None
    conversation: ConversationId | None = None
    agent: str = ""
    user: UserId
    outcome: str | None = None
    began_position: int | None = None
    ended_position: int | None = None
    created_at_ms: int
    started_at_ms: int | None = None
    ended_at_ms: int | None = None
    client_key: str | None = None
    digest: bytes = b""
    details: bytes = b"{}"
    text: str = ""


class TimelineEvent(NamedTuple):
    """Something that happened to a timeline: its place in the account's log, and whose stream.

    `stream` names those who are told (a group, a user's chat sessions); `row` is the row it is
    about, if any.
    """

    position: int
    timeline: TimelineKey
    stream: str
    row: RowKey | None
    at_ms: int
    payload: bytes


class LogRecord(NamedTuple):
    """One event of a stream's log as it is read back: a timeline's own, or of a reply's turn.

    `is_own` tells them apart: a timeline's own has the time `at_ms`, the others 0.
    """

    position: int
    timeline: TimelineKey
    row: RowKey | None
    at_ms: int
    payload: bytes
    is_own: bool


class LogPage(NamedTuple):
    """A stretch of a stream's log, ascending, and the rows that it speaks of, in one state.

    Up to `floor` something may be missing. The text of a row is empty unless an own event is about
    it.
    """

    floor: int
    records: list[LogRecord]
    rows: dict[RowKey, RowRecord]


class TimelineQuery(msgspec.Struct, kw_only=True, frozen=True):
    """Which timelines to list: newest activity first; only those of `user`, if given.

    `before` is (active_at_ms, key) of the last one seen.
    """

    account: AccountId
    kind: TimelineKind
    user: UserId | None = None
    statuses: tuple[TimelineStatus, ...] = ("active",)
    before: tuple[int, int] | None = None
    limit: int


class TimelineSummary(NamedTuple):
    """A timeline in a list, with its chat session's conversation's title.

    `unread`: ended replies behind the read cursor of the user who made it (0 when archived).
    `last_row` is the row with the largest seq, `is_busy` says that a reply is open.
    """

    record: TimelineRecord
    title: str
    unread: int
    last_read_seq: int
    last_row: RowRecord | None
    is_busy: bool


class TimelineReads(Protocol):
    """What a store reads of timelines; part of `port.Store`, with its errors."""

    async def timeline(
        self, account: AccountId, kind: TimelineKind, timeline_id: str
    ) -> TimelineRecord | None:
        """One timeline, tombstones included."""
        ...

    async def timeline_by_alias(self, account: AccountId, alias: str) -> TimelineRecord | None:
        """The timeline with this second name."""
        ...

    async def timelines(self, query: TimelineQuery) -> list[TimelineSummary]:
        """One page, without tombstones, in one state."""
        ...

    async def unread_total(self, account: AccountId, kind: TimelineKind, user: UserId) -> int:
        """The sum of `TimelineSummary.unread` of all active timelines that the user made."""
        ...

    async def unread(self, timeline: TimelineKey, user: UserId) -> int:
        """Ended rows behind the user's read cursor, without the user's own messages."""
        ...

    async def rows(
        self,
        timeline: TimelineKey,
        *,
        after_seq: int = 0,
        before_seq: int | None = None,
        newest_first: bool = False,
        limit: int,
    ) -> list[RowRecord]:
        """Rows that have a seq, after_seq < seq < before_seq, ordered by it."""
        ...

    async def open_rows(self, timeline: TimelineKey | None = None) -> list[RowRecord]:
        """Every open reply, of one timeline or of all, by key."""
        ...

    async def open_timelines(self) -> list[TimelineRecord]:
        """Every timeline with an open reply, by key."""
        ...

    async def row_by_client_key(self, client_key: str) -> tuple[TimelineRecord, RowRecord] | None:
        """The row that was accepted under a client's id, and its timeline."""
        ...

    async def replies_to(self, timeline: TimelineKey, seq: int) -> list[RowRecord]:
        """The replies to one row, open ones included, by key."""
        ...

    async def row_of_turn(self, timeline: TimelineKey, turn_id: TurnId) -> RowRecord | None:
        """The reply that a turn wrote, or is to write."""
        ...

    async def log(
        self, stream: str, after_position: int, limit: int, *, timeline: TimelineKey | None = None
    ) -> LogPage:
        """Up to `limit` events of a stream with a larger position.

        With `timeline`: only what happened to that one, and with it every event of the turns of its
        replies (a group's stream). Without: the stream's own events alone.
        """
        ...

    async def stream_head(self, stream: str) -> int:
        """The position of the last event that the stream's log holds; 0 for none."""
        ...
