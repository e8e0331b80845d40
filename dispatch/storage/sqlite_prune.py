"""What is taken out of the logs again: events of turns long sealed, then those of timelines.

Neighbours: `sqlite` runs `prune` in the writer's thread, `runtime` says how old is too old.
Invariant: positions are remembered before their events go, and `meta.pruned_position` is never
below an event that the log of a timeline has lost here.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from dispatch.storage.sqlite_batch import require_incarnation
from dispatch.storage.sqlite_connection import transaction
from dispatch.storage.sqlite_schema import raise_floors


def prune(
    connection: sqlite3.Connection, incarnation: int, sealed_before_ms: int, rows_max: int
) -> int:
    """Remove events of turns sealed before, oldest seals first, then of timelines; how many."""
    with transaction(connection):
        require_incarnation(connection, incarnation)
        raise_floors(connection)
        removed = _prune_turns(connection, sealed_before_ms, rows_max)
        if removed < rows_max:
            removed += _prune_timelines(connection, sealed_before_ms, rows_max - removed)
    return removed


def _prune_turns(connection: sqlite3.Connection, sealed_before_ms: int, rows_max: int) -> int:
    removed = 0
    while removed < rows_max:
        turns = connection.execute(SELECT_RETAINED, (sealed_before_ms,)).fetchall()
        if not turns:
            break
        for turn_key, key, first_offset, last_offset, is_told in turns:
            due = (key, first_offset, last_offset, turn_key, rows_max - removed)
            if is_told:
                connection.execute(RAISE_PRUNED, connection.execute(LAST_DUE, due).fetchone())
            count = connection.execute(DELETE_EVENTS, due).rowcount
            if count:
                # The next offset must stay known when the last event is gone.
                connection.execute(RAISE_OFFSET, (key, last_offset))
            removed += count
            if removed == rows_max:
                break
            connection.execute(RELEASE_TURN, (turn_key,))
    return removed


def _prune_timelines(connection: sqlite3.Connection, before_ms: int, rows_max: int) -> int:
    due = (before_ms, rows_max)
    connection.execute(RAISE_PRUNED, connection.execute(LAST_OLD, due).fetchone())
    return connection.execute(DELETE_OLD, due).rowcount


SELECT_RETAINED: Final = """
SELECT
    key, conversation, coalesce(first_offset, 0), coalesce(last_offset, 0),
    EXISTS (SELECT 1 FROM timeline_row WHERE timeline_row.turn = turn.key)
FROM turn
WHERE retained = 1 AND sealed_at_ms < ?
ORDER BY sealed_at_ms, key
LIMIT 64
"""

RELEASE_TURN: Final = "UPDATE turn SET retained = 0 WHERE key = ?"

RAISE_OFFSET: Final = """
UPDATE conversation SET last_offset = ?2 WHERE key = ?1 AND last_offset < ?2
"""

RAISE_PRUNED: Final = """
UPDATE meta SET pruned_position = ?1 WHERE pruned_position < ?1
"""

LAST_DUE: Final = """
SELECT max(position) FROM (
    SELECT position FROM event
    WHERE conversation = ? AND offset BETWEEN ? AND ? AND turn = ?
    ORDER BY offset
    LIMIT ?
)
"""

DELETE_EVENTS: Final = """
DELETE FROM event WHERE position IN (
    SELECT position FROM event
    WHERE conversation = ? AND offset BETWEEN ? AND ? AND turn = ?
    ORDER BY offset
    LIMIT ?
)
"""

LAST_OLD: Final = """
SELECT max(position) FROM (
    SELECT position FROM timeline_event WHERE at_ms < ? ORDER BY +position LIMIT ?
)
"""

# The plus: what is old is found by its time, and nothing else is walked over.
DELETE_OLD: Final = """
DELETE FROM timeline_event WHERE position IN (
    SELECT position FROM timeline_event WHERE at_ms < ? ORDER BY +position LIMIT ?
)
"""
