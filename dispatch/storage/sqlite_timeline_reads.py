"""The verbs of the durable store that read timelines; the rest of it is `sqlite`.

Neighbours: `timeline.TimelineReads` says what each promises, `sqlite_timelines` and
`sqlite_timeline_log` do it in a reader's thread.
Invariant: one hop a verb, and no `sqlite3.Error` leaves it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from dispatch.core.identity import AccountId, TurnId, UserId
from dispatch.storage import sqlite_timeline_log, sqlite_timelines
from dispatch.storage.keys import TimelineKey
from dispatch.storage.timeline import (
    LogPage,
    RowRecord,
    TimelineKind,
    TimelineQuery,
    TimelineRecord,
    TimelineSummary,
)

Result = TypeVar("Result")


class SqliteTimelineReads:
    """Implements `TimelineReads` over `_read`, which the store has."""

    async def _read(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        raise NotImplementedError

    async def timeline(
        self, account: AccountId, kind: TimelineKind, timeline_id: str
    ) -> TimelineRecord | None:
        """One timeline, tombstones included."""
        return await self._read(
            partial(sqlite_timelines.timeline, account=account, kind=kind, timeline_id=timeline_id)
        )

    async def timeline_by_alias(self, account: AccountId, alias: str) -> TimelineRecord | None:
        """The timeline with this second name."""
        return await self._read(
            partial(sqlite_timelines.timeline_by_alias, account=account, alias=alias)
        )

    async def timelines(self, query: TimelineQuery) -> list[TimelineSummary]:
        """One page, without tombstones, in one state."""
        return await self._read(partial(sqlite_timelines.timelines, query=query))

    async def unread_total(self, account: AccountId, kind: TimelineKind, user: UserId) -> int:
        """What is unread in all active timelines that the user made."""
        return await self._read(
            partial(sqlite_timelines.unread_total, account=account, kind=kind, user=user)
        )

    async def unread(self, timeline: TimelineKey, user: UserId) -> int:
        """Ended rows behind the user's read cursor, without the user's own messages."""
        return await self._read(partial(sqlite_timelines.unread, key=timeline, user=user))

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
        return await self._read(
            partial(
                sqlite_timelines.rows,
                key=timeline,
                bounds=(after_seq, before_seq),
                limit=limit,
                newest_first=newest_first,
            )
        )

    async def open_rows(self, timeline: TimelineKey | None = None) -> list[RowRecord]:
        """Every open reply, of one timeline or of all, by key."""
        return await self._read(partial(sqlite_timelines.open_rows, key=timeline))

    async def open_timelines(self) -> list[TimelineRecord]:
        """Every timeline with an open reply, by key."""
        return await self._read(sqlite_timelines.open_timelines)

    async def row_by_client_key(self, client_key: str) -> tuple[TimelineRecord, RowRecord] | None:
        """The row that was accepted under a client's id, and its timeline."""
        return await self._read(partial(sqlite_timelines.row_by_client_key, client_key=client_key))

    async def replies_to(self, timeline: TimelineKey, seq: int) -> list[RowRecord]:
        """The replies to one row, open ones included, by key."""
        return await self._read(partial(sqlite_timelines.replies_to, key=timeline, seq=seq))

    async def row_of_turn(self, timeline: TimelineKey, turn_id: TurnId) -> RowRecord | None:
        """The reply that a turn wrote, or is to write."""
        return await self._read(
            partial(sqlite_timelines.row_of_turn, key=timeline, turn_id=turn_id)
        )

    async def log(
        self, stream: str, after_position: int, limit: int, *, timeline: TimelineKey | None = None
    ) -> LogPage:
        """Up to `limit` events of a stream with a larger position."""
        return await self._read(
            partial(
                sqlite_timeline_log.log,
                stream=stream,
                after_position=after_position,
                limit=limit,
                key=timeline,
            )
        )

    async def stream_head(self, stream: str) -> int:
        """The position of the last event that the stream's log holds; 0 for none."""
        return await self._read(partial(sqlite_timeline_log.stream_head, stream=stream))
