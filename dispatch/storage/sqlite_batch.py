"""One commit: a batch as rows, and the statements that make it durable or leave nothing.

Neighbours: `sqlite` prepares a batch in the caller's task and hands it to `write` in the writer's
thread; `schema/` has the tables; `port.Batch` says what each list means.
Invariant: the incarnation is compared inside the write, and each compare-and-set list must match
row for row.

A statement that takes long gives up the interpreter's lock, and may wait for a busy loop (5 ms)
to get it back; so few long statements, many rows each.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import astuple

from dispatch.errors import Fenced
from dispatch.storage.keys import ConversationKey, SubjectKey, TimelineKey
from dispatch.storage.port import (
    Batch,
    CursorRecord,
    EventRecord,
    Piece,
    TurnChange,
    TurnCopy,
    TurnSeal,
)
from dispatch.storage.sqlite_connection import transaction
from dispatch.storage.sqlite_schema import raise_floors
from dispatch.storage.timeline import TimelineEvent

# Rows of one statement of `INSERT_EVENTS`, and values of a row.
EVENTS_A_STATEMENT: Final = 16
_EVENT_VALUES: Final = 5
# Where the key is in a row of `timeline`, and the timeline's in one of `timeline_row`.
_KEY: Final = 0
_TIMELINE: Final = 1

Row = tuple[object, ...]


class Rows(NamedTuple):
    """A batch as it is bound to statements: nothing in it changes any more."""

    conversations: list[Row]
    turns: list[Row]
    changes: Sequence[TurnChange]
    events: Sequence[EventRecord]
    pieces: Sequence[Piece]
    seals: Sequence[TurnSeal]
    copies: Sequence[TurnCopy]
    timelines: list[Row]
    rows: list[Row]
    burials: Sequence[TimelineKey]
    timeline_events: Sequence[TimelineEvent]
    cursors: Sequence[CursorRecord]
    deletions: Sequence[ConversationKey]


def prepare(batch: Batch) -> Rows:
    """Copy what the caller may go on changing while the thread writes."""
    return Rows(
        [astuple(record) for record in batch.conversations],
        [astuple(record) for record in batch.turns],
        tuple(batch.changes),
        tuple(batch.events),
        tuple(batch.pieces),
        tuple(batch.seals),
        tuple(batch.copies),
        [astuple(record) for record in batch.timelines],
        [astuple(record) for record in batch.rows],
        tuple(batch.burials),
        tuple(batch.timeline_events),
        tuple(batch.cursors),
        tuple(batch.deletions),
    )


def write(connection: sqlite3.Connection, rows: Rows, incarnation: int) -> None:
    """Commit the rows. Raises `Fenced`, and sqlite3.Error for everything else."""
    if len(rows.events) <= EVENTS_A_STATEMENT and not any((*rows[:3], *rows[4:])):
        # Alone in its statement, a batch of events is its own transaction.
        _insert_events(connection, rows.events, incarnation)
        return
    with transaction(connection):
        require_incarnation(connection, incarnation)
        _match(connection, UPSERT_CONVERSATION, rows.conversations, "a conversation's row")
        _match(connection, INSERT_TURN, rows.turns, "a turn's conversation")
        _match(connection, CHANGE_TURN, rows.changes, "a turn's state")
        for start in range(0, len(rows.events), EVENTS_A_STATEMENT):
            _insert_events(connection, rows.events[start : start + EVENTS_A_STATEMENT], incarnation)
        _match(connection, INSERT_PIECE, rows.pieces, "a piece's turn")
        _match(connection, SEAL_TURN, rows.seals, "the seal of a turn")
        _match(connection, COPY_TURN, rows.copies, "the source of a copy")
        if rows.copies:
            connection.executemany(COPY_PIECES, [(c.source, c.turn) for c in rows.copies])
        _write_timelines(connection, rows)
        if rows.cursors:
            connection.executemany(MOVE_CURSOR, rows.cursors)
        if rows.timelines or rows.rows or rows.cursors:
            connection.executemany(COUNT_UNREAD, [(key,) for key in _counted(rows)])
        if rows.deletions:
            _delete(connection, rows.deletions)


def require_incarnation(connection: sqlite3.Connection, incarnation: int) -> None:
    """Inside a transaction: raise `Fenced` unless the store is still ours."""
    if connection.execute("SELECT incarnation FROM meta").fetchone() != (incarnation,):
        raise Fenced("another incarnation has opened the store since; this one must stop writing")


def _match(
    connection: sqlite3.Connection, statement: str, rows: Sequence[Sequence[object]], what: str
) -> None:
    if rows and connection.executemany(statement, rows).rowcount != len(rows):
        raise Fenced(f"{what} is not what the batch was decided on")


def _insert_events(
    connection: sqlite3.Connection, events: Sequence[EventRecord], incarnation: int
) -> None:
    if len(events) == 1:
        connection.execute(INSERT_EVENT, (*events[0], incarnation))
    elif events:
        blanks = (None,) * (_EVENT_VALUES * (EVENTS_A_STATEMENT - len(events)))
        connection.execute(INSERT_EVENTS, (incarnation, *chain.from_iterable(events), *blanks))


def _write_timelines(connection: sqlite3.Connection, rows: Rows) -> None:
    _match(connection, UPSERT_TIMELINE, rows.timelines, "a timeline's row")
    _match(connection, UPSERT_ROW, rows.rows, "a row of a timeline")
    buried = _bury(connection, rows.burials) if rows.burials else []
    if rows.timeline_events:
        told = msgspec.json.encode(buried).decode()
        events = [(*event, told) for event in rows.timeline_events]
        _match(connection, INSERT_TIMELINE_EVENT, events, "the timeline of an event")


def _bury(connection: sqlite3.Connection, burials: Sequence[TimelineKey]) -> list[TimelineKey]:
    """Those that were there until now."""
    raise_floors(connection)
    buried = [key for key in burials if connection.execute(BURY_TIMELINE, (key,)).rowcount]
    keys = [(key,) for key in buried]
    connection.executemany("DELETE FROM timeline_row WHERE timeline = ?", keys)
    connection.executemany("DELETE FROM timeline_event WHERE timeline = ?", keys)
    connection.executemany("DELETE FROM cursor WHERE subject = ?", keys)
    return buried


def _counted(rows: Rows) -> set[SubjectKey]:
    """The timelines whose unread rows may be others now; a conversation's key does no harm."""
    counted: set[SubjectKey] = {cursor.subject for cursor in rows.cursors}
    counted.update(TimelineKey(row[_KEY]) for row in rows.timelines)  # type: ignore[arg-type]
    counted.update(TimelineKey(row[_TIMELINE]) for row in rows.rows)  # type: ignore[arg-type]
    return counted


def _delete(connection: sqlite3.Connection, deletions: Sequence[ConversationKey]) -> None:
    raise_floors(connection)
    keys = [(key,) for key in deletions]
    # While the turns still say whose rows they wrote.
    connection.executemany(RAISE_TIMELINES, keys)
    connection.executemany("DELETE FROM event WHERE conversation = ?", keys)
    connection.executemany(
        "DELETE FROM piece WHERE turn IN (SELECT key FROM turn WHERE conversation = ?)", keys
    )
    connection.executemany("DELETE FROM turn WHERE conversation = ?", keys)
    connection.executemany("DELETE FROM cursor WHERE subject = ?", keys)
    connection.executemany(BURY_CONVERSATION, keys)


# The columns of the records, in the order of their fields. What identifies a conversation never
# changes under its key.
UPSERT_CONVERSATION: Final = """
INSERT INTO conversation (
    key, account, id, session, workspace, status, title, visibility, user, created_at_ms,
    active_at_ms, last_seq, last_offset, epoch, last_message, superseded, details
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET
    session = excluded.session,
    workspace = excluded.workspace,
    status = excluded.status,
    title = excluded.title,
    visibility = excluded.visibility,
    user = excluded.user,
    created_at_ms = excluded.created_at_ms,
    active_at_ms = excluded.active_at_ms,
    last_seq = excluded.last_seq,
    last_offset = excluded.last_offset,
    epoch = excluded.epoch,
    last_message = excluded.last_message,
    superseded = excluded.superseded,
    details = excluded.details
WHERE conversation.status <> 'deleted'
    AND conversation.epoch <= excluded.epoch
    AND conversation.account = excluded.account
    AND conversation.id = excluded.id
"""

INSERT_TURN: Final = """
INSERT INTO turn (
    key, conversation, id, state, ordinal, user, body, created_at_ms, client_key, digest,
    acceptance, started_at_ms, sealed_at_ms, outcome, first_seq, chunk_count, chunks, first_offset,
    last_offset, metrics, resumes, retained
)
SELECT
    ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21,
    ?4 IN ('sealed', 'marker') AND ?18 IS NOT NULL
WHERE EXISTS (SELECT 1 FROM conversation WHERE key = ?2 AND status <> 'deleted')
"""

CHANGE_TURN: Final = """
UPDATE turn SET
    state = ?3,
    started_at_ms = coalesce(?4, started_at_ms),
    first_offset = coalesce(?5, first_offset),
    ordinal = coalesce(?6, ordinal)
WHERE key = ?1 AND state = ?2
"""

# The conversation is looked up by turn: when the turn is gone, or another incarnation has the
# store, it is NULL, which the column refuses, and the statement does nothing at all.
INSERT_EVENT: Final = """
INSERT INTO event (position, conversation, turn, offset, payload)
SELECT
    ?1,
    (
        SELECT turn.conversation FROM turn, meta
        WHERE turn.key = ?3 AND turn.conversation = ?2 AND meta.incarnation = ?6
    ),
    ?3, ?4, ?5
"""

INSERT_EVENTS: Final = """
WITH
    owner (incarnation) AS (SELECT ?),
    given (position, conversation, turn, offset, payload) AS (
        VALUES
            (?, ?, ?, ?, ?), (?, ?, ?, ?, ?), (?, ?, ?, ?, ?), (?, ?, ?, ?, ?),
            (?, ?, ?, ?, ?), (?, ?, ?, ?, ?), (?, ?, ?, ?, ?), (?, ?, ?, ?, ?),
            (?, ?, ?, ?, ?), (?, ?, ?, ?, ?), (?, ?, ?, ?, ?), (?, ?, ?, ?, ?),
            (?, ?, ?, ?, ?), (?, ?, ?, ?, ?), (?, ?, ?, ?, ?), (?, ?, ?, ?, ?)
    )
INSERT INTO event (position, conversation, turn, offset, payload)
SELECT given.position, turn.conversation, given.turn, given.offset, given.payload
FROM given LEFT JOIN turn ON
    turn.key = given.turn
    AND turn.conversation = given.conversation
    AND (SELECT incarnation FROM meta) = (SELECT incarnation FROM owner)
WHERE given.position IS NOT NULL
"""

INSERT_PIECE: Final = """
INSERT INTO piece (turn, ordinal, first_index, data)
SELECT ?1, ?2, ?3, ?4 WHERE EXISTS (SELECT 1 FROM turn WHERE key = ?1)
"""

SEAL_TURN: Final = """
UPDATE turn SET
    state = 'sealed', outcome = ?2, sealed_at_ms = ?3, first_seq = ?4, chunk_count = ?5,
    chunks = ?6, last_offset = ?7, metrics = ?8, retained = 1
WHERE key = ?1 AND state = 'running'
"""

COPY_TURN: Final = """
INSERT INTO turn (
    key, conversation, id, state, ordinal, user, body, created_at_ms, digest, acceptance,
    started_at_ms, sealed_at_ms, outcome, first_seq, chunk_count, chunks, metrics, resumes, retained
)
SELECT
    ?2, ?3, id, state, ordinal, user, body, created_at_ms, x'', x'',
    started_at_ms, sealed_at_ms, outcome, ?4, chunk_count, chunks, metrics, resumes, 0
FROM turn
WHERE key = ?1
    AND state = 'sealed'
    AND EXISTS (SELECT 1 FROM conversation WHERE key = ?3 AND status <> 'deleted')
"""

COPY_PIECES: Final = """
INSERT INTO piece (turn, ordinal, first_index, data)
SELECT ?2, ordinal, first_index, data FROM piece WHERE turn = ?1
"""

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
UPDATE timeline SET status = 'deleted', alias = NULL, title = '', details = x'7b7d', unread = 0
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

# The log of a timeline has lost what these turns said in it.
RAISE_TIMELINES: Final = """
UPDATE timeline SET floor = max(floor, last_position)
WHERE key IN (
    SELECT timeline_row.timeline
    FROM turn CROSS JOIN timeline_row ON timeline_row.turn = turn.key
    WHERE turn.conversation = ?
)
"""

# A late cursor of something that is gone is dropped: it decides nothing.
MOVE_CURSOR: Final = """
INSERT INTO cursor (subject, user, seq)
SELECT ?1, ?2, ?3
WHERE EXISTS (SELECT 1 FROM conversation WHERE key = ?1 AND status <> 'deleted')
    OR EXISTS (SELECT 1 FROM timeline WHERE key = ?1 AND status <> 'deleted')
ON CONFLICT (subject, user) DO UPDATE SET seq = max(seq, excluded.seq)
"""

BURY_CONVERSATION: Final = """
UPDATE conversation SET
    status = 'deleted', title = '', last_message = '', superseded = x'5b5d', details = x'7b7d'
WHERE key = ?
"""
