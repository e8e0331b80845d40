"""What the durable store reads of a person, and how what is left of one is removed.

Neighbours: `people` says what each read promises; `sqlite` runs them in a reader's thread, and
`sqlite_batch` calls `remove` inside its transaction.
Invariant: a read walks by row number over a stretch of a table, and never sorts.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from typing import Final, TypeVar

from dispatch.core.identity import AccountId, UserId
from dispatch.storage.keys import TurnKey
from dispatch.storage.people import (
    CursorKey,
    ReadMark,
    SpokenPage,
    SpokenRow,
    SpokenTurn,
    spoken_page,
    within,
)
from dispatch.storage.port import ConversationRecord
from dispatch.storage.sqlite_connection import snapshot
from dispatch.storage.sqlite_schema import raise_floors

Result = TypeVar("Result")

_FIELDS: Final = ConversationRecord.__struct_fields__


class SqlitePeopleReads:
    """Implements `PeopleReads` over `_read`, which the store has."""

    async def _read(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        raise NotImplementedError

    async def begun_by(
        self, account: AccountId, user: UserId, *, after: int, limit: int
    ) -> list[ConversationRecord]:
        """The conversations of a user with a larger key, ascending, without tombstones."""
        return await self._read(partial(_begun_by, asked=(account, user, after, limit)))

    async def read_marks(
        self, account: AccountId, user: UserId, *, after: int, limit: int
    ) -> list[ReadMark]:
        """The read cursors of a user in an account, of subjects with a larger key, ascending."""
        return await self._read(partial(_read_marks, asked=(account, user, after, limit)))

    async def spoken_by(
        self, account: AccountId, user: UserId, *, after: int, keys_max: int, bytes_max: int
    ) -> SpokenPage:
        """What a user said, of the next `keys_max` keys and up to `bytes_max`."""
        asked = (account, user, after, after + keys_max)
        return await self._read(partial(_spoken_by, asked=asked, bytes_max=bytes_max))


def remove(
    connection: sqlite3.Connection, cursors: Sequence[CursorKey], turns: Sequence[TurnKey]
) -> None:
    """Take away read cursors, and waiting messages that were cancelled."""
    if cursors:
        connection.executemany(REMOVE_CURSOR, cursors)
    if turns:
        raise_floors(connection)
        connection.executemany(REMOVE_TURN, [(key,) for key in turns])


def _begun_by(
    connection: sqlite3.Connection, asked: tuple[AccountId, UserId, int, int]
) -> list[ConversationRecord]:
    found = connection.execute(SELECT_BEGUN, asked)
    return [ConversationRecord(**dict(zip(_FIELDS, row, strict=True))) for row in found]


def _read_marks(
    connection: sqlite3.Connection, asked: tuple[AccountId, UserId, int, int]
) -> list[ReadMark]:
    return [ReadMark._make(row) for row in connection.execute(SELECT_MARKS, asked)]


def _spoken_by(
    connection: sqlite3.Connection, asked: tuple[AccountId, UserId, int, int], bytes_max: int
) -> SpokenPage:
    *_, end = asked
    with snapshot(connection):
        (last_key,) = connection.execute(SELECT_LAST_KEY).fetchone()
        # Closed early, so that what is beyond the page is not even read.
        with closing(connection.execute(SELECT_SPOKEN_TURNS, asked)) as found:
            turns = within(map(SpokenTurn._make, found), end, bytes_max)
        with closing(connection.execute(SELECT_SPOKEN_ROWS, asked)) as found:
            rows = within(map(SpokenRow._make, found), end, bytes_max)
    return spoken_page(turns, rows, last_key)


# The plus keeps the planner from an index whose order is another.
SELECT_BEGUN: Final = """
SELECT * FROM conversation_record
WHERE +account = ? AND user = ? AND key > ? AND +status <> 'deleted'
ORDER BY key
LIMIT ?
"""

SELECT_MARKS: Final = """
SELECT
    cursor.subject,
    CASE WHEN c.key IS NULL THEN t.kind ELSE 'conversation' END,
    coalesce(c.id, t.id),
    cursor.seq
FROM cursor
    LEFT JOIN conversation AS c ON c.key = cursor.subject
    LEFT JOIN timeline AS t ON t.key = cursor.subject
WHERE coalesce(c.account, t.account) = ?
    AND cursor.user = ?
    AND cursor.subject > ?
    AND coalesce(c.status, t.status) <> 'deleted'
ORDER BY cursor.subject
LIMIT ?
"""

SELECT_LAST_KEY: Final = """
SELECT max(
    (SELECT coalesce(max(key), 0) FROM turn), (SELECT coalesce(max(key), 0) FROM timeline_row)
)
"""

# A turn that answers in a timeline was asked by a row of it: that one has the words. Rows that a
# group has adopted are at position 0 and whoever adopted them has their name on them: of those the
# turn says who spoke.
SELECT_SPOKEN_TURNS: Final = """
SELECT t.key, c.key, c.id, t.id, t.state, t.created_at_ms, t.body
FROM turn AS t CROSS JOIN conversation AS c ON c.key = t.conversation
WHERE c.account = ?1
    AND t.user = ?2
    AND t.key > ?3
    AND t.key <= ?4
    AND +t.state IN ('queued', 'steering', 'running', 'sealed', 'absorbed', 'cancelled')
    AND NOT EXISTS (
        SELECT 1 FROM timeline_row AS r
        WHERE r.turn = t.key AND r.role = 'reply' AND r.began_position IS NOT 0
    )
ORDER BY t.key
"""

SELECT_SPOKEN_ROWS: Final = """
SELECT r.key, t.id, r.seq, r.created_at_ms, r.text
FROM timeline_row AS r CROSS JOIN timeline AS t ON t.key = r.timeline
WHERE t.account = ?1
    AND t.kind = 'group'
    AND t.status <> 'deleted'
    AND r.user = ?2
    AND r.role = 'message'
    AND r.seq IS NOT NULL
    AND r.began_position IS NOT 0
    AND r.key > ?3
    AND r.key <= ?4
ORDER BY r.key
"""

REMOVE_CURSOR: Final = "DELETE FROM cursor WHERE subject = ? AND user = ?"

REMOVE_TURN: Final = """
DELETE FROM turn
WHERE key = ?1
    AND state = 'cancelled'
    AND NOT EXISTS (SELECT 1 FROM timeline_row WHERE timeline_row.turn = ?1)
"""
