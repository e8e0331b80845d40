"""What devices read of a group: a page of its rows with the cursor of the same instant, its log.

Neighbours: `timeline` has what is live, `storage` the rows and the log, `server` the streams.
Invariant: page, live text and cursor belong to one instant: who follows from the cursor misses
nothing and folds nothing twice.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final, NamedTuple

from dispatch.core.group import GroupView
from dispatch.core.identity import WATCH, Principal, require
from dispatch.core.replay import Frame
from dispatch.protocol.groups.frames import frames
from dispatch.runtime.groups.timeline import GroupTimeline
from dispatch.runtime.services import Services
from dispatch.storage.keys import RowKey
from dispatch.storage.timeline import RowRecord

EVENTS_MAX: Final = 1_000
_LOG_PAGE: Final = 500


class GroupPage(NamedTuple):
    """Rows by seq, with the text so far of the open ones.

    `cursor` is None where following from it would miss something.
    """

    view: GroupView
    rows: list[tuple[RowRecord, str | None]]
    cursor: int | None
    settled_seq: int
    has_more: bool


class GroupReading:
    """The verbs that change nothing."""

    def __init__(self, services: Services) -> None:
        """Read what these services keep."""
        self._services = services

    async def page(
        self, principal: Principal, timeline: GroupTimeline, after_seq: int, limit: int | None
    ) -> GroupPage:
        """Rows behind `after_seq`; all of them unless there is a limit."""
        require(principal, WATCH)
        wanted = None if limit is None else min(limit, EVENTS_MAX)
        with timeline.reading() as changed:
            rows = await self._rows(timeline, after_seq, wanted)
            while any(_is_ahead(timeline, row) for row in rows.values()):
                # The disk is ahead of what was shown.
                await timeline.kept()
        return _page(timeline, rows, changed, after_seq, wanted)

    async def _rows(
        self, timeline: GroupTimeline, after_seq: int, wanted: int | None
    ) -> dict[RowKey, RowRecord]:
        found: dict[RowKey, RowRecord] = {}
        while wanted is None or len(found) <= wanted:
            size = EVENTS_MAX if wanted is None else wanted + 1 - len(found)
            page = await self._services.store.rows(
                timeline.record.key, after_seq=after_seq, limit=size
            )
            found.update((row.key, row) for row in page)
            if len(page) < size:
                break
            after_seq = page[-1].seq or after_seq
        return found

    async def replay(
        self, timeline: GroupTimeline, after: int, until: int
    ) -> AsyncGenerator[list[Frame], None]:
        """Frames of the log with after < id <= until, a page at a time.

        An empty page is the last: something behind what was yielded may be missing.
        """
        position = after // 16 - 1
        # From the first that is kept nothing is missing, but for what goes meanwhile.
        floor: int | None = None
        while position < until // 16:
            page = await self._services.store.log(
                timeline.stream, position, _LOG_PAGE, timeline=timeline.record.key
            )
            is_missing = 0 < after < page.floor * 16
            if floor is not None:
                is_missing = page.floor > max(floor, position)
            if is_missing or timeline.record.status == "deleted":
                # The members' words go with a group.
                yield []
                return
            floor = page.floor
            if not page.records:
                return
            shown = []
            for record in page.records:
                row = None if record.row is None else page.rows.get(record.row)
                if row is not None and row.ended_position == 0:
                    # What was there before the group was: it is read, and was never shown.
                    continue
                shown += frames(
                    timeline.record.id, record.position, record.payload, row, is_own=record.is_own
                )
            position = page.records[-1].position
            due = [frame for frame in shown if after < frame.offset <= until]
            if due:
                yield due


def _is_ahead(timeline: GroupTimeline, row: RowRecord) -> bool:
    is_open = row.turn_id in timeline.replies
    return (row.seq or 0) > timeline.record.last_seq or (is_open and row.outcome is not None)


def _page(
    timeline: GroupTimeline,
    rows: dict[RowKey, RowRecord],
    changed: dict[RowKey, RowRecord],
    after_seq: int,
    wanted: int | None,
) -> GroupPage:
    """Put together what was read and what became of it since; nothing waits in here."""
    seqs = {row.seq for row in rows.values()}
    last = max((seq for seq in seqs if seq is not None), default=after_seq)
    is_whole = wanted is None or len(rows) <= wanted
    for key, row in changed.items():
        if row.seq is not None and row.seq > after_seq and (is_whole or row.seq <= last):
            rows[key] = row
    listed = sorted(rows.values(), key=lambda row: row.seq or 0)
    has_more = False
    if wanted is not None and len(listed) > wanted:
        listed, has_more = listed[:wanted], True
    shown = []
    for row in listed:
        reply = None if row.turn_id is None else timeline.replies.get(row.turn_id)
        is_open = row.outcome is None and reply is not None
        shown.append((row, reply.shown_text if is_open and reply is not None else None))
    settled = timeline.settled_seq
    is_current = not has_more and after_seq <= settled
    cursor = timeline.feed.head if is_current else None
    return GroupPage(timeline.view(), shown, cursor, settled, has_more)
