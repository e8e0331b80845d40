"""What is read: constant statements, and rows as the port's records.

Neighbours: `sqlite` runs these functions in a reader's thread, one hop each; the views of
`schema/` give the columns of a record in the order of its fields.
Invariant: each function sees one state of the store, however many statements it takes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from typing import Any, Final

import msgspec

from dispatch.core.identity import AccountId, ConversationId, TurnId, UserId
from dispatch.storage.event_page import up_to_bytes
from dispatch.storage.keys import ConversationKey, SubjectKey, TurnKey
from dispatch.storage.port import (
    IDLE_CONVERSATIONS_MAX,
    ConversationQuery,
    ConversationRecord,
    EventRecord,
    SealedTurn,
    TurnMetrics,
    TurnRecord,
)
from dispatch.storage.sqlite_connection import snapshot

_CONVERSATION_FIELDS: Final = ConversationRecord.__struct_fields__
_TURN_FIELDS: Final = TurnRecord.__struct_fields__
_LAST: Final = 2**63 - 1
_KEYS: Final = msgspec.json.Encoder()


def _conversation(row: Sequence[Any]) -> ConversationRecord:
    return ConversationRecord(**dict(zip(_CONVERSATION_FIELDS, row, strict=True)))


def _turn(row: Sequence[Any]) -> TurnRecord:
    return TurnRecord(**dict(zip(_TURN_FIELDS, row, strict=True)))


def _json(values: Sequence[object]) -> str:
    return _KEYS.encode(values).decode()


def conversation(
    connection: sqlite3.Connection, account: AccountId, conversation_id: ConversationId
) -> ConversationRecord | None:
    """One row, tombstones included."""
    row = connection.execute(SELECT_CONVERSATION, (account, conversation_id)).fetchone()
    return None if row is None else _conversation(row)


def conversations(
    connection: sqlite3.Connection, query: ConversationQuery
) -> list[ConversationRecord]:
    """One page of the list."""
    before_ms, before_key = query.before or (_LAST, _LAST)
    found = connection.execute(
        LIST_CONVERSATIONS,
        {
            "account": query.account,
            "user": query.user,
            "statuses": _json(query.statuses),
            "any_status": not query.statuses,
            "id_prefix": query.id_prefix,
            "workspace": query.workspace,
            "search": query.search.casefold(),
            "before_ms": before_ms,
            "before_key": before_key,
            "limit": max(0, query.limit),
        },
    )
    return [_conversation(row) for row in found]


def conversations_of(
    connection: sqlite3.Connection, account: AccountId, session: str, limit: int
) -> list[ConversationRecord]:
    """The conversations of one session, the oldest first."""
    found = connection.execute(LIST_SESSION, (account, session, max(0, limit)))
    return [_conversation(row) for row in found]


def mentions(title: str, last_message: str, casefolded: str) -> bool:
    """The function `mentions` of `LIST_CONVERSATIONS`: SQLite itself folds ASCII alone."""
    return casefolded in title.casefold() or casefolded in last_message.casefold()


def idle_since(connection: sqlite3.Connection, active_before_ms: int) -> list[ConversationRecord]:
    """Conversations to forget, the longest idle first."""
    found = connection.execute(SELECT_IDLE, (active_before_ms, IDLE_CONVERSATIONS_MAX))
    return [_conversation(row) for row in found]


def unsealed(
    connection: sqlite3.Connection,
) -> list[tuple[ConversationRecord, list[TurnRecord]]]:
    """Every conversation with turns to run or to end, by key."""
    width = len(_CONVERSATION_FIELDS)
    found: list[tuple[ConversationRecord, list[TurnRecord]]] = []
    for row in connection.execute(SELECT_UNSEALED):
        if not found or found[-1][0].key != row[0]:
            found.append((_conversation(row[:width]), []))
        found[-1][1].append(_turn(row[width:]))
    return found


def unsealed_of(connection: sqlite3.Connection, key: ConversationKey) -> list[TurnRecord]:
    """The turns to run or to end of one conversation."""
    return [_turn(row) for row in connection.execute(SELECT_UNSEALED_OF, (key,))]


def turn_by_client_key(
    connection: sqlite3.Connection, client_key: str
) -> tuple[ConversationRecord, TurnRecord] | None:
    """The turn accepted under a client's id, with its conversation."""
    row = connection.execute(SELECT_BY_CLIENT_KEY, (client_key,)).fetchone()
    width = len(_CONVERSATION_FIELDS)
    return None if row is None else (_conversation(row[:width]), _turn(row[width:]))


def turn(
    connection: sqlite3.Connection, key: ConversationKey, turn_id: TurnId
) -> TurnRecord | None:
    """One turn of a conversation."""
    row = connection.execute(SELECT_TURN, (key, turn_id)).fetchone()
    return None if row is None else _turn(row)


def sealed_turns(
    connection: sqlite3.Connection,
    key: ConversationKey,
    bounds: tuple[int, int | None],
    limit: int,
    newest_first: bool,
) -> list[SealedTurn]:
    """The places in history that overlap `bounds`, both exclusive."""
    since_seq, before_seq = bounds
    found = connection.execute(
        SELECT_NEWEST if newest_first else SELECT_OLDEST,
        {
            "conversation": key,
            "since_seq": since_seq,
            "before_seq": _LAST if before_seq is None else before_seq,
            "limit": max(0, limit),
        },
    )
    return [SealedTurn(*row) for row in found]


def chunk_bytes(connection: sqlite3.Connection, turns: Sequence[TurnKey]) -> list[bytes]:
    """The chunk bytes of each turn, empty for one that is not there."""
    keys = (_json(turns),)
    with snapshot(connection):
        parts: dict[int, list[bytes]] = {turn: [] for turn in turns}
        for key, data in connection.execute(SELECT_PIECES, keys):
            parts[key].append(data)
        for key, data in connection.execute(SELECT_CHUNKS, keys):
            parts[key].append(data)
    return [b"".join(parts[turn]) for turn in turns]


def metrics(connection: sqlite3.Connection, key: ConversationKey) -> list[TurnMetrics]:
    """Every sealed turn's metrics, by first seq."""
    return [TurnMetrics(*row) for row in connection.execute(SELECT_METRICS, (key,))]


def events(
    connection: sqlite3.Connection,
    key: ConversationKey,
    after_offset: int,
    limit: int,
    bytes_max: int | None,
) -> list[EventRecord]:
    """A stretch of a conversation's log."""
    with closing(connection.execute(SELECT_EVENTS, (key, after_offset, max(0, limit)))) as found:
        return up_to_bytes((EventRecord(*row) for row in found), bytes_max)


def events_of(
    connection: sqlite3.Connection, turns: Sequence[TurnKey]
) -> dict[TurnKey, tuple[int, list[EventRecord]]]:
    """What a restart knows of running turns: bytes staged, and all that was shown."""
    with snapshot(connection):
        staged = dict(connection.execute(SELECT_STAGED, (_json(turns),)).fetchall())
        return {
            turn: (
                staged.get(turn, 0),
                [EventRecord(*row) for row in connection.execute(SELECT_EVENTS_OF, (turn,))],
            )
            for turn in turns
        }


def turn_ids(connection: sqlite3.Connection, turns: Sequence[TurnKey]) -> dict[TurnKey, TurnId]:
    """The ids of the turns that exist."""
    return dict(connection.execute(SELECT_TURN_IDS, (_json(turns),)).fetchall())


def read_cursor(connection: sqlite3.Connection, key: SubjectKey, user: UserId) -> int:
    """How far a user has read."""
    row = connection.execute(SELECT_CURSOR, (key, user)).fetchone()
    return 0 if row is None else int(row[0])


SELECT_CONVERSATION: Final = "SELECT * FROM conversation_record WHERE account = ? AND id = ?"

LIST_CONVERSATIONS: Final = """
SELECT * FROM conversation_record
WHERE account = :account
    AND (active_at_ms, key) < (:before_ms, :before_key)
    AND status <> 'deleted'
    AND (visibility = 'account' OR user = :user)
    AND (:any_status OR status IN (SELECT value FROM json_each(:statuses)))
    AND (:workspace IS NULL OR workspace = :workspace)
    AND substr(id, 1, length(:id_prefix)) = :id_prefix
    AND (:search = '' OR mentions(title, last_message, :search))
ORDER BY active_at_ms DESC, key DESC
LIMIT :limit
"""

LIST_SESSION: Final = """
SELECT * FROM conversation_record
WHERE account = ? AND session = ? AND status <> 'deleted'
ORDER BY key
LIMIT ?
"""

# One range of the index an account, instead of a walk over every conversation.
SELECT_IDLE: Final = """
WITH RECURSIVE accounts (account) AS (
    SELECT min(account) FROM conversation
    UNION ALL
    SELECT (SELECT min(account) FROM conversation WHERE account > accounts.account)
    FROM accounts
    WHERE accounts.account IS NOT NULL
)
SELECT c.* FROM accounts CROSS JOIN conversation_record AS c
WHERE c.account = accounts.account
    AND c.active_at_ms < ?
    AND c.status <> 'deleted'
    AND NOT EXISTS (
        SELECT 1 FROM turn
        WHERE turn.conversation = c.key AND turn.state IN ('queued', 'steering', 'running')
    )
ORDER BY c.active_at_ms, c.key
LIMIT ?
"""

SELECT_UNSEALED: Final = """
SELECT c.*, t.*
FROM turn_record AS t JOIN conversation_record AS c ON c.key = t.conversation
WHERE t.state IN ('queued', 'steering', 'running')
ORDER BY t.conversation, t.ordinal, t.key
"""

SELECT_UNSEALED_OF: Final = """
SELECT * FROM turn_record
WHERE conversation = ? AND state IN ('queued', 'steering', 'running')
ORDER BY ordinal, key
"""

SELECT_BY_CLIENT_KEY: Final = """
SELECT c.*, t.*
FROM turn_record AS t JOIN conversation_record AS c ON c.key = t.conversation
WHERE t.client_key = ?
"""

SELECT_TURN: Final = "SELECT * FROM turn_record WHERE conversation = ? AND id = ?"

# The bytes of a turn, from the headers of its rows alone.
SELECT_NEWEST: Final = """
SELECT
    key, id, outcome, first_seq, chunk_count, sealed_at_ms,
    length(chunks)
        + (SELECT coalesce(sum(length(data)), 0) FROM piece WHERE piece.turn = turn.key),
    metrics, resumes
FROM turn
WHERE conversation = :conversation
    AND state = 'sealed'
    AND chunk_count > 0
    AND first_seq < :before_seq
    AND first_seq + chunk_count - 1 > :since_seq
ORDER BY first_seq DESC, key DESC
LIMIT :limit
"""

# From the turn that holds the seq after `since_seq`, so that what lies before is not walked.
SELECT_OLDEST: Final = """
SELECT
    key, id, outcome, first_seq, chunk_count, sealed_at_ms,
    length(chunks)
        + (SELECT coalesce(sum(length(data)), 0) FROM piece WHERE piece.turn = turn.key),
    metrics, resumes
FROM turn
WHERE conversation = :conversation
    AND state = 'sealed'
    AND chunk_count > 0
    AND first_seq >= coalesce(
        (
            SELECT first_seq FROM turn
            WHERE conversation = :conversation
                AND state = 'sealed'
                AND chunk_count > 0
                AND first_seq <= :since_seq + 1
            ORDER BY first_seq DESC
            LIMIT 1
        ),
        0
    )
    AND first_seq < :before_seq
    AND first_seq + chunk_count - 1 > :since_seq
ORDER BY first_seq, key
LIMIT :limit
"""

SELECT_PIECES: Final = """
SELECT turn, data FROM piece
WHERE turn IN (SELECT value FROM json_each(?))
ORDER BY turn, ordinal
"""

SELECT_CHUNKS: Final = """
SELECT key, chunks FROM turn
WHERE key IN (SELECT value FROM json_each(?)) AND state IN ('sealed', 'marker')
"""

SELECT_METRICS: Final = """
SELECT id, first_seq, metrics FROM turn
WHERE conversation = ? AND state = 'sealed'
ORDER BY first_seq, key
"""

SELECT_EVENTS: Final = """
SELECT position, conversation, turn, offset, payload FROM event
WHERE conversation = ? AND offset > ?
ORDER BY offset
LIMIT ?
"""

SELECT_STAGED: Final = """
SELECT turn, sum(length(data)) FROM piece
WHERE turn IN (SELECT value FROM json_each(?))
GROUP BY turn
"""

SELECT_EVENTS_OF: Final = """
SELECT position, conversation, turn, offset, payload FROM event
WHERE turn = ?1
    AND conversation = (SELECT conversation FROM turn WHERE key = ?1)
    AND offset >= (SELECT coalesce(first_offset, 0) FROM turn WHERE key = ?1)
ORDER BY offset
"""

SELECT_TURN_IDS: Final = "SELECT key, id FROM turn WHERE key IN (SELECT value FROM json_each(?))"

SELECT_CURSOR: Final = "SELECT seq FROM cursor WHERE subject = ? AND user = ?"
