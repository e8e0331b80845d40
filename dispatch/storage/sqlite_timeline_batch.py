"""The timelines' part of a commit: their rows, their log, their end, and what is unread in them.

Neighbours: `sqlite_batch` calls these inside its transaction; `timeline` has the records,
`port.Batch` says what each list means.
Invariant: `unread` is what a recount says, behind everything of the commit that moves it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

import msgspec

from dispatch.storage.keys import SubjectKey, TimelineKey
from dispatch.storage.sqlite_connection import require_match
from dispatch.storage.sqlite_schema import raise_floors
from dispatch.storage.timeline import TimelineEvent

Row = tuple[object, ...]

# Where the key is in a row of `timeline`, and the timeline's in one of `timeline_row`.
_KEY: Final = 0
_TIMELINE: Final = 1


def write_timelines(
    connection: sqlite3.Connection,
    timelines: Sequence[Row],
    rows: Sequence[Row],
    burials: Sequence[TimelineKey],
    events: Sequence[TimelineEvent],
) -> None:
    """Add, replace and bury them. Raises `Fenced`."""
    require_match(connection, UPSERT_TIMELINE, timelines, "a timeline's row")
    require_match(connection, UPSERT_ROW, rows, "a row of a timeline")
    buried = _bury(connection, burials) if burials else []
    if events:
        told = msgspec.json.encode(buried).decode()
        bound = [(*event, told) for event in events]
        require_match(connection, INSERT_TIMELINE_EVENT, bound, "the timeline of an event")


def _bury(connection: sqlite3.Connection, burials: Sequence[TimelineKey]) -> list[TimelineKey]:
    """Those that were there until now."""
    raise_floors(connection)
    buried = [key for key in burials if connection.execute(BURY_TIMELINE, (key,)).rowcount]
    keys = [(key,) for key in buried]
    connection.executemany("DELETE FROM timeline_row WHERE timeline = ?", keys)
    connection.executemany("DELETE FROM timeline_event WHERE timeline = ?", keys)
    connection.executemany("DELETE FROM cursor WHERE subject = ?", keys)
    return buried


def count_unread(
    connection: sqlite3.Connection,
    timelines: Sequence[Row],
    rows: Sequence[Row],
    subjects: Sequence[SubjectKey],
) -> None:
    """Count again where a timeline, a row or what was read of a subject is another now.

    A conversation's key does no harm.
    """
    counted = {row[_KEY] for row in timelines} | {row[_TIMELINE] for row in rows} | {*subjects}
    if counted:
        connection.executemany(COUNT_UNREAD, [(key,) for key in counted])


# `unread` is not the caller's: it is counted behind everything that moves it.
UPSERT_TIMELINE: Final = """
INSERT INTO timeline (
    key, account, kind, id, user, status, title, created_at_ms, updated_at_ms, active_at_ms,
    last_seq, last_position, floor, epoch, alias, details
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET
    user = excluded.user,
    status = excluded.status,
    title = excluded.title,
    created_at_ms = excluded.created_at_ms,
    updated_at_ms = excluded.updated_at_ms,
    active_at_ms = excluded.active_at_ms,
    last_seq = excluded.last_seq,
    last_position = excluded.last_position,
    floor = max(floor, excluded.floor),
    epoch = excluded.epoch,
    alias = excluded.alias,
    details = excluded.details
WHERE timeline.status <> 'deleted'
    AND timeline.epoch <= excluded.epoch
    AND timeline.account = excluded.account
    AND timeline.kind = excluded.kind
    AND timeline.id = excluded.id
"""

UPSERT_ROW: Final = """
INSERT INTO timeline_row (
    key, timeline, role, seq, reply_to, turn, turn_id, conversation, agent, user, outcome,
    began_position, ended_position, created_at_ms, started_at_ms, ended_at_ms, client_key, digest,
    details, text
)
SELECT
    ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20
WHERE EXISTS (SELECT 1 FROM timeline WHERE key = ?2 AND status <> 'deleted')
ON CONFLICT (key) DO UPDATE SET
    seq = excluded.seq,
    reply_to = excluded.reply_to,
    turn = excluded.turn,
    turn_id = excluded.turn_id,
    conversation = excluded.conversation,
    agent = excluded.agent,
    user = excluded.user,
    outcome = excluded.outcome,
    began_position = excluded.began_position,
    ended_position = excluded.ended_position,
    created_at_ms = excluded.created_at_ms,
    started_at_ms = excluded.started_at_ms,
    ended_at_ms = excluded.ended_at_ms,
    digest = excluded.digest,
    details = excluded.details,
    text = excluded.text
WHERE timeline_row.timeline = excluded.timeline
    AND timeline_row.role = excluded.role
    AND timeline_row.client_key IS excluded.client_key
"""

# ?7 are the timelines that this batch has just buried: their end may still be told.
INSERT_TIMELINE_EVENT: Final = """
INSERT INTO timeline_event (position, timeline, stream, row, at_ms, payload)
SELECT ?1, ?2, ?3, ?4, ?5, ?6
WHERE EXISTS (
    SELECT 1 FROM timeline
    WHERE key = ?2 AND (status <> 'deleted' OR key IN (SELECT value FROM json_each(?7)))
)
"""

BURY_TIMELINE: Final = """
UPDATE timeline SET
    status = 'deleted', alias = NULL, title = '', user = '', details = x'7b7d', unread = 0
WHERE key = ? AND status <> 'deleted'
"""

COUNT_UNREAD: Final = """
UPDATE timeline SET unread = (
    SELECT count(*) FROM timeline_row
    WHERE timeline_row.timeline = timeline.key
        AND role = 'reply'
        AND outcome IS NOT NULL
        AND seq > coalesce(
            (SELECT seq FROM cursor WHERE subject = timeline.key AND cursor.user = timeline.user), 0
        )
)
WHERE key = ? AND status <> 'deleted'
"""
