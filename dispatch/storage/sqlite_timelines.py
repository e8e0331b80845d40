"""What is read of timelines: constant statements, and rows as the port's records.

Neighbours: `sqlite_timeline_reads` runs these functions in a reader's thread, one hop each;
`timeline` says what each promises; the views of `schema/` give the columns of a record.
Invariant: each function sees one state of the store, however many statements it takes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from dispatch.core.identity import AccountId, TurnId, UserId
from dispatch.storage.keys import TimelineKey
from dispatch.storage.timeline import (
    RowRecord,
    TimelineKind,
    TimelineQuery,
    TimelineRecord,
    TimelineSummary,
)

_TIMELINE_FIELDS: Final = TimelineRecord.__struct_fields__
_ROW_FIELDS: Final = RowRecord.__struct_fields__
_LAST: Final = 2**63 - 1
_KEYS: Final = msgspec.json.Encoder()


def _timeline(row: Sequence[Any]) -> TimelineRecord:
    return TimelineRecord(**dict(zip(_TIMELINE_FIELDS, row, strict=True)))


def _row(row: Sequence[Any]) -> RowRecord:
    return RowRecord(**dict(zip(_ROW_FIELDS, row, strict=True)))


def timeline(
    connection: sqlite3.Connection, account: AccountId, kind: TimelineKind, timeline_id: str
) -> TimelineRecord | None:
    """One timeline, tombstones included."""
    found = connection.execute(SELECT_TIMELINE, (account, kind, timeline_id)).fetchone()
    return None if found is None else _timeline(found)


def timeline_by_alias(
    connection: sqlite3.Connection, account: AccountId, alias: str
) -> TimelineRecord | None:
    """The timeline with this second name."""
    found = connection.execute(SELECT_BY_ALIAS, (account, alias)).fetchone()
    return None if found is None else _timeline(found)


def timelines(connection: sqlite3.Connection, query: TimelineQuery) -> list[TimelineSummary]:
    """One page of the list, in one statement."""
    before_ms, before_key = query.before or (_LAST, _LAST)
    found = connection.execute(
        LIST_ALL if query.user is None else LIST_OWN,
        {
            "account": query.account,
            "kind": query.kind,
            "user": query.user,
            "statuses": _KEYS.encode(query.statuses).decode(),
            "before_ms": before_ms,
            "before_key": before_key,
            "limit": max(0, query.limit),
        },
    )
    return [_summary(row) for row in found]


def _summary(row: Sequence[Any]) -> TimelineSummary:
    title, unread, last_read_seq, is_busy = row[:4]
    width = 4 + len(_TIMELINE_FIELDS)
    last = row[width:]
    return TimelineSummary(
        _timeline(row[4:width]),
        title,
        unread,
        last_read_seq,
        None if last[0] is None else _row(last),
        bool(is_busy),
    )


def unread_total(
    connection: sqlite3.Connection, account: AccountId, kind: TimelineKind, user: UserId
) -> int:
    """The sum of what is unread in the active timelines of a user."""
    (total,) = connection.execute(SUM_UNREAD, (account, kind, user)).fetchone()
    return int(total)


def unread(connection: sqlite3.Connection, key: TimelineKey, user: UserId) -> int:
    """What others wrote behind a user's read cursor."""
    (count,) = connection.execute(COUNT_UNREAD_OF, {"timeline": key, "user": user}).fetchone()
    return int(count)


def rows(
    connection: sqlite3.Connection,
    key: TimelineKey,
    bounds: tuple[int, int | None],
    limit: int,
    newest_first: bool,
) -> list[RowRecord]:
    """The rows between `bounds`, both exclusive."""
    after_seq, before_seq = bounds
    found = connection.execute(
        SELECT_NEWEST_ROWS if newest_first else SELECT_OLDEST_ROWS,
        (key, after_seq, _LAST if before_seq is None else before_seq, max(0, limit)),
    )
    return [_row(row) for row in found]


def open_rows(connection: sqlite3.Connection, key: TimelineKey | None) -> list[RowRecord]:
    """Every reply without an outcome, of one timeline or of all."""
    if key is None:
        return [_row(row) for row in connection.execute(SELECT_OPEN)]
    return [_row(row) for row in connection.execute(SELECT_OPEN_OF, (key,))]


def open_timelines(connection: sqlite3.Connection) -> list[TimelineRecord]:
    """Every timeline with a reply without an outcome."""
    return [_timeline(row) for row in connection.execute(SELECT_OPEN_TIMELINES)]


def row_by_client_key(
    connection: sqlite3.Connection, client_key: str
) -> tuple[TimelineRecord, RowRecord] | None:
    """The row accepted under a client's id, with its timeline."""
    found = connection.execute(SELECT_ROW_BY_CLIENT_KEY, (client_key,)).fetchone()
    width = len(_TIMELINE_FIELDS)
    return None if found is None else (_timeline(found[:width]), _row(found[width:]))


def replies_to(connection: sqlite3.Connection, key: TimelineKey, seq: int) -> list[RowRecord]:
    """The replies to one row."""
    return [_row(row) for row in connection.execute(SELECT_REPLIES_TO, (key, seq))]


def row_of_turn(
    connection: sqlite3.Connection, key: TimelineKey, turn_id: TurnId
) -> RowRecord | None:
    """The reply that a turn wrote, or is to write."""
    found = connection.execute(SELECT_ROW_OF_TURN, (key, turn_id)).fetchone()
    return None if found is None else _row(found)


SELECT_TIMELINE: Final = """
SELECT * FROM timeline_record WHERE account = ? AND kind = ? AND id = ?
"""

SELECT_BY_ALIAS: Final = "SELECT * FROM timeline_record WHERE account = ? AND alias = ?"

# The plus keeps the planner from looking up each status instead of walking the page in order.
_LIST: Final = """
SELECT
    coalesce(c.title, t.title),
    CASE t.status WHEN 'active' THEN t.unread ELSE 0 END,
    coalesce((SELECT seq FROM cursor WHERE subject = t.key AND cursor.user = t.user), 0),
    EXISTS (
        SELECT 1 FROM timeline_row
        WHERE timeline_row.timeline = t.key AND role = 'reply' AND outcome IS NULL
    ),
    t.key, t.account, t.kind, t.id, t.user, t.status, t.title, t.created_at_ms, t.updated_at_ms,
    t.active_at_ms, t.last_seq, t.last_position, t.floor, t.epoch, t.alias, t.details,
    r.*
FROM timeline AS t
    LEFT JOIN conversation AS c ON t.kind = 'chat' AND c.account = t.account AND c.id = t.id
    LEFT JOIN timeline_row_record AS r ON r.key = (
        SELECT key FROM timeline_row
        WHERE timeline_row.timeline = t.key AND seq IS NOT NULL
        ORDER BY seq DESC
        LIMIT 1
    )
WHERE t.account = :account
    AND t.kind = :kind
    AND (t.active_at_ms, t.key) < (:before_ms, :before_key)
    AND t.status <> 'deleted'
    AND +t.status IN (SELECT value FROM json_each(:statuses))
"""

_IN_ORDER: Final = "ORDER BY t.active_at_ms DESC, t.key DESC LIMIT :limit"

LIST_ALL: Final = _LIST + _IN_ORDER

LIST_OWN: Final = f"{_LIST} AND t.user = :user {_IN_ORDER}"

SUM_UNREAD: Final = """
SELECT coalesce(sum(unread), 0) FROM timeline
WHERE account = ? AND kind = ? AND user = ? AND status = 'active' AND unread > 0
"""

COUNT_UNREAD_OF: Final = """
SELECT count(*) FROM timeline_row
WHERE timeline = :timeline
    AND seq > coalesce((SELECT seq FROM cursor WHERE subject = :timeline AND user = :user), 0)
    AND CASE role WHEN 'message' THEN user <> :user ELSE outcome IS NOT NULL END
"""

SELECT_OLDEST_ROWS: Final = """
SELECT * FROM timeline_row_record
WHERE timeline = ? AND seq > ? AND seq < ?
ORDER BY seq
LIMIT ?
"""

SELECT_NEWEST_ROWS: Final = """
SELECT * FROM timeline_row_record
WHERE timeline = ? AND seq > ? AND seq < ?
ORDER BY seq DESC
LIMIT ?
"""

# The plus: by the index of open rows, and not by key over all that there are.
SELECT_OPEN: Final = """
SELECT * FROM timeline_row_record WHERE role = 'reply' AND outcome IS NULL ORDER BY +key
"""

SELECT_OPEN_TIMELINES: Final = """
SELECT * FROM timeline_record
WHERE key IN (
    SELECT timeline FROM timeline_row WHERE role = 'reply' AND outcome IS NULL
)
ORDER BY key
"""

SELECT_OPEN_OF: Final = """
SELECT * FROM timeline_row_record
WHERE timeline = ? AND role = 'reply' AND outcome IS NULL
ORDER BY key
"""

SELECT_ROW_BY_CLIENT_KEY: Final = """
SELECT t.*, r.*
FROM timeline_row_record AS r JOIN timeline_record AS t ON t.key = r.timeline
WHERE r.client_key = ?
"""

SELECT_REPLIES_TO: Final = """
SELECT * FROM timeline_row_record
WHERE timeline = ? AND reply_to = ? AND role = 'reply'
ORDER BY key
"""

SELECT_ROW_OF_TURN: Final = """
SELECT * FROM timeline_row_record
WHERE timeline = ? AND turn_id = ? AND role = 'reply'
ORDER BY key
LIMIT 1
"""
