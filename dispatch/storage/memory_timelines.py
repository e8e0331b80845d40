"""The verbs of the reference store that read timelines; the rest of it is `memory`.

Neighbours: `timeline.TimelineReads` says what each promises, `memory_disk` keeps.
Invariant: what is handed out is a copy; written to be read rather than to be fast.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import msgspec

from dispatch.core.identity import AccountId, TurnId, UserId
from dispatch.storage.keys import RowKey, TimelineKey
from dispatch.storage.memory_disk import MemoryDisk
from dispatch.storage.timeline import (
    LogPage,
    LogRecord,
    RowRecord,
    TimelineKind,
    TimelineQuery,
    TimelineRecord,
    TimelineSummary,
)


class MemoryTimelineReads:
    """Implements `TimelineReads` over `_disk`, which the store has."""

    @property
    def _disk(self) -> MemoryDisk:
        raise NotImplementedError

    async def timeline(
        self, account: AccountId, kind: TimelineKind, timeline_id: str
    ) -> TimelineRecord | None:
        """One timeline, tombstones included."""
        disk = self._disk
        key = disk.timeline_ids.get((account, kind, timeline_id))
        return None if key is None else copy.copy(disk.timelines[key])

    async def timeline_by_alias(self, account: AccountId, alias: str) -> TimelineRecord | None:
        """The timeline with this second name."""
        disk = self._disk
        key = disk.aliases.get((account, alias))
        return None if key is None else copy.copy(disk.timelines[key])

    async def timelines(self, query: TimelineQuery) -> list[TimelineSummary]:
        """One page, without tombstones, in one state."""
        found = [record for record in self._disk.timelines.values() if _is_listed(record, query)]
        found.sort(key=_activity, reverse=True)
        return [self._summary(record) for record in found[: max(0, query.limit)]]

    async def unread_total(self, account: AccountId, kind: TimelineKind, user: UserId) -> int:
        """What is unread in all active timelines that the user made."""
        return sum(
            self._unread_of(record)
            for record in self._disk.timelines.values()
            if (record.account, record.kind, record.user) == (account, kind, user)
        )

    async def unread(self, timeline: TimelineKey, user: UserId) -> int:
        """Ended rows behind the user's read cursor, without the user's own messages."""
        read = self._read_seq(timeline, user)
        return sum(
            row.user != user if row.role == "message" else row.outcome is not None
            for row in self._rows_of(timeline)
            if (row.seq or 0) > read
        )

    async def rows(
        self,
        timeline: TimelineKey,
        *,
        after_seq: int = 0,
        before_seq: int | None = None,
        newest_first: bool = False,
        limit: int,
    ) -> list[RowRecord]:
        """Rows that have a seq between the two, ordered by it."""
        found = [
            row
            for row in self._rows_of(timeline)
            if row.seq is not None
            and row.seq > after_seq
            and (before_seq is None or row.seq < before_seq)
        ]
        found.sort(key=_seq, reverse=newest_first)
        return [copy.copy(row) for row in found[: max(0, limit)]]

    async def open_rows(self, timeline: TimelineKey | None = None) -> list[RowRecord]:
        """Every open reply, of one timeline or of all, by key."""
        return self._by_key(lambda row: _is_open(row) and timeline in (None, row.timeline))

    async def open_timelines(self) -> list[TimelineRecord]:
        """Every timeline with an open reply, by key."""
        keys = {row.timeline for row in await self.open_rows()}
        return [copy.copy(self._disk.timelines[key]) for key in sorted(keys)]

    async def row_by_client_key(self, client_key: str) -> tuple[TimelineRecord, RowRecord] | None:
        """The row that was accepted under a client's id, and its timeline."""
        disk = self._disk
        key = disk.row_client_keys.get(client_key)
        if key is None:
            return None
        row = disk.rows[key]
        return copy.copy(disk.timelines[row.timeline]), copy.copy(row)

    async def replies_to(self, timeline: TimelineKey, seq: int) -> list[RowRecord]:
        """The replies to one row, open ones included, by key."""
        asked = ("reply", timeline, seq)
        return self._by_key(lambda row: (row.role, row.timeline, row.reply_to) == asked)

    async def row_of_turn(self, timeline: TimelineKey, turn_id: TurnId) -> RowRecord | None:
        """The reply that a turn wrote, or is to write."""
        asked = ("reply", timeline, turn_id)
        found = self._by_key(lambda row: (row.role, row.timeline, row.turn_id) == asked)
        return found[0] if found else None

    async def log(
        self, stream: str, after_position: int, limit: int, *, timeline: TimelineKey | None = None
    ) -> LogPage:
        """Up to `limit` events of a stream with a larger position."""
        disk = self._disk
        records = [
            LogRecord(event.position, event.timeline, event.row, event.at_ms, event.payload, True)
            for event in disk.timeline_events.values()
            if event.stream == stream and timeline in (None, event.timeline)
        ]
        floor = disk.pruned_position
        if timeline is not None:
            records += self._told(timeline, after_position)
            if timeline in disk.timelines:
                floor = max(floor, disk.timelines[timeline].floor)
        records = [record for record in records if record.position > after_position]
        records.sort(key=_log_order)
        records = records[: max(0, limit)]
        own = {record.row for record in records if record.is_own}
        rows: dict[RowKey, RowRecord] = {}
        for key in {record.row for record in records}:
            if key is not None and key in disk.rows:
                text = disk.rows[key].text if key in own else ""
                rows[key] = msgspec.structs.replace(disk.rows[key], text=text)
        return LogPage(floor, records, rows)

    async def stream_head(self, stream: str) -> int:
        """The position of the last event that the stream's log holds; 0 for none."""
        events = self._disk.timeline_events.values()
        return max((event.position for event in events if event.stream == stream), default=0)

    def _told(self, timeline: TimelineKey, after_position: int) -> Iterable[LogRecord]:
        disk = self._disk
        for row in self._rows_of(timeline):
            is_over = row.ended_position is not None and row.ended_position <= after_position
            turn = None if row.turn is None else disk.turns.get(row.turn)
            if row.role != "reply" or is_over or turn is None or turn.first_offset is None:
                continue
            for offset, event in disk.events.get(turn.conversation, {}).items():
                is_behind = turn.last_offset is not None and offset > turn.last_offset
                if event.turn == turn.key and offset >= turn.first_offset and not is_behind:
                    yield LogRecord(event.position, timeline, row.key, 0, event.payload, False)

    def _summary(self, record: TimelineRecord) -> TimelineSummary:
        disk = self._disk
        title = record.title
        if record.kind == "chat":
            for conversation in disk.conversations.values():
                if (conversation.account, conversation.id) == (record.account, record.id):
                    title = conversation.title
        rows = [row for row in self._rows_of(record.key) if row.seq is not None]
        return TimelineSummary(
            copy.copy(record),
            title,
            self._unread_of(record),
            self._read_seq(record.key, record.user),
            copy.copy(max(rows, key=_seq)) if rows else None,
            any(map(_is_open, self._rows_of(record.key))),
        )

    def _unread_of(self, record: TimelineRecord) -> int:
        if record.status != "active":
            return 0
        read = self._read_seq(record.key, record.user)
        return sum(
            row.role == "reply" and row.outcome is not None and (row.seq or 0) > read
            for row in self._rows_of(record.key)
        )

    def _read_seq(self, timeline: TimelineKey, user: UserId) -> int:
        return self._disk.cursors.get(timeline, {}).get(user, 0)

    def _rows_of(self, timeline: TimelineKey) -> list[RowRecord]:
        return [row for row in self._disk.rows.values() if row.timeline == timeline]

    def _by_key(self, is_asked: Callable[[RowRecord], bool]) -> list[RowRecord]:
        rows = self._disk.rows
        return [copy.copy(rows[key]) for key in sorted(rows) if is_asked(rows[key])]


def _is_listed(record: TimelineRecord, query: TimelineQuery) -> bool:
    return (
        (record.account, record.kind) == (query.account, query.kind)
        and record.status != "deleted"
        and record.status in query.statuses
        and query.user in (None, record.user)
        and (query.before is None or _activity(record) < query.before)
    )


def _activity(record: TimelineRecord) -> tuple[int, int]:
    return record.active_at_ms, record.key


def _seq(row: RowRecord) -> int:
    return row.seq or 0


def _is_open(row: RowRecord) -> bool:
    return row.role == "reply" and row.outcome is None


def _log_order(record: LogRecord) -> tuple[int, bool, int]:
    return record.position, not record.is_own, record.row or 0
