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

from msgspec.structs import astuple

from dispatch.errors import Fenced
from dispatch.storage.keys import ConversationKey, TimelineKey, TurnKey
from dispatch.storage.people import CursorKey
from dispatch.storage.port import (
    Batch,
    CursorRecord,
    EventRecord,
    Piece,
    TurnChange,
    TurnCopy,
    TurnSeal,
)
from dispatch.storage.sqlite_connection import require_match, transaction
from dispatch.storage.sqlite_people import remove
from dispatch.storage.sqlite_schema import raise_floors
from dispatch.storage.sqlite_timeline_batch import Row, count_unread, write_timelines
from dispatch.storage.timeline import TimelineEvent

# Rows of one statement of `INSERT_EVENTS`, and values of a row.
EVENTS_A_STATEMENT: Final = 16
_EVENT_VALUES: Final = 5


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
    cursor_removals: Sequence[CursorKey]
    turn_removals: Sequence[TurnKey]


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
        tuple(batch.cursor_removals),
        tuple(batch.turn_removals),
    )


def write(connection: sqlite3.Connection, rows: Rows, incarnation: int) -> None:
    """Commit the rows. Raises `Fenced`, and sqlite3.Error for everything else."""
    if len(rows.events) <= EVENTS_A_STATEMENT and not any((*rows[:3], *rows[4:])):
        # Alone in its statement, a batch of events is its own transaction.
        _insert_events(connection, rows.events, incarnation)
        return
    with transaction(connection):
        require_incarnation(connection, incarnation)
        require_match(connection, UPSERT_CONVERSATION, rows.conversations, "a conversation's row")
        require_match(connection, INSERT_TURN, rows.turns, "a turn's conversation")
        require_match(connection, CHANGE_TURN, rows.changes, "a turn's state")
        for start in range(0, len(rows.events), EVENTS_A_STATEMENT):
            _insert_events(connection, rows.events[start : start + EVENTS_A_STATEMENT], incarnation)
        require_match(connection, INSERT_PIECE, rows.pieces, "a piece's turn")
        require_match(connection, SEAL_TURN, rows.seals, "the seal of a turn")
        require_match(connection, COPY_TURN, rows.copies, "the source of a copy")
        if rows.copies:
            connection.executemany(COPY_PIECES, [(c.source, c.turn) for c in rows.copies])
        write_timelines(connection, rows.timelines, rows.rows, rows.burials, rows.timeline_events)
        if rows.cursors:
            connection.executemany(MOVE_CURSOR, rows.cursors)
        if rows.deletions:
            _delete(connection, rows.deletions)
        remove(connection, rows.cursor_removals, rows.turn_removals)
        subjects = [cursor.subject for cursor in rows.cursors]
        subjects += [cursor.subject for cursor in rows.cursor_removals]
        count_unread(connection, rows.timelines, rows.rows, subjects)


def require_incarnation(connection: sqlite3.Connection, incarnation: int) -> None:
    """Inside a transaction: raise `Fenced` unless the store is still ours."""
    if connection.execute("SELECT incarnation FROM meta").fetchone() != (incarnation,):
        raise Fenced("another incarnation has opened the store since; this one must stop writing")


def _insert_events(
    connection: sqlite3.Connection, events: Sequence[EventRecord], incarnation: int
) -> None:
    if len(events) == 1:
        connection.execute(INSERT_EVENT, (*events[0], incarnation))
    elif events:
        blanks = (None,) * (_EVENT_VALUES * (EVENTS_A_STATEMENT - len(events)))
        connection.execute(INSERT_EVENTS, (incarnation, *chain.from_iterable(events), *blanks))


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
    status = 'deleted', title = '', user = '', last_message = '', superseded = x'5b5d',
    details = x'7b7d'
WHERE key = ?
"""
