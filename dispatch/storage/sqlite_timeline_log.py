"""What is read of the log of a timeline: its own events, and those of the turns that answer in it.

Neighbours: `sqlite_timeline_reads` runs these functions in a reader's thread, one hop each;
`timeline.LogPage` says what is promised; `sqlite_timelines` reads everything else of timelines.
Invariant: a page is one state of the store, and costs what is on it, not what comes behind it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from dispatch.storage.keys import RowKey, TimelineKey
from dispatch.storage.sqlite_connection import snapshot
from dispatch.storage.timeline import LogPage, LogRecord, RowRecord

_ROW_FIELDS: Final = RowRecord.__struct_fields__
_KEYS: Final = msgspec.json.Encoder()


class _Teller(NamedTuple):
    """A turn that may have told of a timeline: its reply, its part of a conversation's log."""

    row: RowKey
    turn: int
    conversation: int
    first_offset: int
    last_offset: int
    # Nothing that is left of it comes before; None if nothing is left.
    start: int | None


def log(
    connection: sqlite3.Connection,
    stream: str,
    after_position: int,
    limit: int,
    key: TimelineKey | None,
) -> LogPage:
    """A stretch of a stream's log, and the rows that it speaks of."""
    limit = max(0, limit)
    with snapshot(connection):
        (floor,) = connection.execute(SELECT_FLOOR, (key,)).fetchone()
        if key is None:
            own = connection.execute(SELECT_STREAM, (stream, after_position, limit))
        else:
            own = connection.execute(SELECT_STREAM_OF, (key, after_position, stream, limit))
        records = [
            LogRecord(position, timeline, row, at_ms, payload, is_own=True)
            for position, timeline, row, at_ms, payload in own
        ]
        if key is not None:
            records = _told(connection, key, after_position, limit, records)
        return LogPage(floor, records, _rows_of(connection, records))


def _told(
    connection: sqlite3.Connection,
    key: TimelineKey,
    after_position: int,
    limit: int,
    records: list[LogRecord],
) -> list[LogRecord]:
    """The records and the turns' events, as many as are asked for.

    Turns are looked at in the order in which they began, until the page cannot change any more:
    what a page costs does not depend on how much comes behind it.
    """
    found = connection.execute(SELECT_TELLERS, {"timeline": key, "after": after_position})
    tellers = [teller for teller in map(_Teller._make, found) if teller.start is not None]
    for teller in sorted(tellers, key=_start):
        if len(records) >= limit and (not limit or _start(teller) > records[-1].position):
            break
        events = connection.execute(
            SELECT_TOLD,
            (
                teller.conversation,
                teller.first_offset,
                teller.last_offset,
                after_position,
                teller.turn,
                limit,
            ),
        )
        told = [
            LogRecord(position, key, teller.row, 0, payload, is_own=False)
            for position, payload in events
        ]
        records = sorted([*records, *told], key=_log_order)[:limit]
    return records


def _start(teller: _Teller) -> int:
    return teller.start or 0


def _log_order(record: LogRecord) -> tuple[int, bool, int]:
    """By position. The rest decides nothing in a store that one counter of positions has filled."""
    return record.position, not record.is_own, record.row or 0


def _rows_of(
    connection: sqlite3.Connection, records: Sequence[LogRecord]
) -> dict[RowKey, RowRecord]:
    named = {record.row: False for record in records if record.row is not None}
    named |= {record.row: True for record in records if record.is_own and record.row is not None}
    # The text is the widest value of all, and a turn's event needs none of it.
    found: dict[RowKey, RowRecord] = {}
    for statement, has_text in ((SELECT_ROWS, True), (SELECT_ROWS_WITHOUT_TEXT, False)):
        keys = sorted(key for key, is_own in named.items() if is_own is has_text)
        if keys:
            for row in connection.execute(statement, (_KEYS.encode(keys).decode(),)):
                found[row[0]] = RowRecord(**dict(zip(_ROW_FIELDS, row, strict=True)))
    return found


def stream_head(connection: sqlite3.Connection, stream: str) -> int:
    """The position of the last event of a stream that the log holds."""
    found = connection.execute(SELECT_HEAD, (stream,)).fetchone()
    return 0 if found is None else int(found[0])


SELECT_FLOOR: Final = """
SELECT max(pruned_position, coalesce((SELECT floor FROM timeline WHERE key = ?), 0)) FROM meta
"""

SELECT_STREAM: Final = """
SELECT position, timeline, row, at_ms, payload FROM timeline_event
WHERE stream = ? AND position > ?
ORDER BY position
LIMIT ?
"""

SELECT_STREAM_OF: Final = """
SELECT position, timeline, row, at_ms, payload FROM timeline_event
WHERE timeline = ? AND position > ? AND +stream = ?
ORDER BY position
LIMIT ?
"""

# Replies that run or ended behind `after`, and behind the first event that there still is at all.
SELECT_TELLERS: Final = """
SELECT
    r.key, t.key, t.conversation, t.first_offset, coalesce(t.last_offset, 9223372036854775807),
    (
        SELECT position FROM event
        WHERE event.conversation = t.conversation
            AND event.offset
                BETWEEN t.first_offset AND coalesce(t.last_offset, 9223372036854775807)
        ORDER BY event.offset
        LIMIT 1
    )
FROM (
    SELECT key, turn FROM timeline_row
    WHERE timeline = :timeline AND role = 'reply' AND turn IS NOT NULL AND ended_position IS NULL
    UNION ALL
    SELECT key, turn FROM timeline_row
    WHERE timeline = :timeline
        AND role = 'reply'
        AND turn IS NOT NULL
        AND ended_position > :after
        AND ended_position >= (SELECT coalesce(min(position), 0) FROM event)
) AS r CROSS JOIN turn AS t ON t.key = r.turn
WHERE t.first_offset IS NOT NULL
"""

SELECT_TOLD: Final = """
SELECT position, payload FROM event
WHERE conversation = ? AND offset BETWEEN ? AND ? AND position > ? AND turn = ?
ORDER BY offset
LIMIT ?
"""

SELECT_ROWS: Final = """
SELECT * FROM timeline_row_record WHERE key IN (SELECT value FROM json_each(?))
"""

SELECT_ROWS_WITHOUT_TEXT: Final = """
SELECT
    key, timeline, role, seq, reply_to, turn, turn_id, conversation, agent, user, outcome,
    began_position, ended_position, created_at_ms, started_at_ms, ended_at_ms, client_key, digest,
    details, ''
FROM timeline_row WHERE key IN (SELECT value FROM json_each(?))
"""

SELECT_HEAD: Final = """
SELECT position FROM timeline_event WHERE stream = ? ORDER BY position DESC LIMIT 1
"""
