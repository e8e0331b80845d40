"""Whether a data directory keeps every promise that can be read from it (`dispatch check`).

Neighbours: `schema/` has the tables, `core.content.Fold` says what the chunks of a turn must be.
Reads only, in one snapshot, also while a daemon runs on the directory. `runtime` keeps what is
verified here; nothing is repaired.
Invariant: an empty list means that each rule of the list below was looked at and holds.

The file is whole and of this version; nothing belongs to what is not there; seqs and offsets have
no gaps and end where their conversation says; at most one turn runs; a sealed turn has an outcome,
one `done`, `turn-sealed` last, as many chunks as it says, and they are the fold of its events;
whose events are due to be kept has all of them, unless its turn to lose them has come; what was
truncated are whole turns, and a marker in the log is one event;
positions grow with offsets; nobody has read further than was written.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from dispatch.core.content import Fold, decode_line
from dispatch.core.events import Done, Truncated, TurnSealed, decode_event
from dispatch.core.truncation import decode_superseded
from dispatch.storage import sqlite_rows, sqlite_schema
from dispatch.storage.check_timelines import timeline_findings
from dispatch.storage.keys import TurnKey
from dispatch.storage.sqlite_connection import open_to_read, snapshot
from dispatch.storage.sqlite_directory import APPLICATION_ID, DATABASE

# More than anybody reads; a damaged index alone can give millions.
FINDINGS_MAX: Final = 100


class _Conversation(NamedTuple):
    key: int
    account: str
    id: str
    last_seq: int
    last_offset: int
    superseded: bytes


class _Turn(NamedTuple):
    key: TurnKey
    id: str
    state: str
    outcome: str | None
    first_seq: int | None
    chunk_count: int
    first_offset: int | None
    last_offset: int | None


class _Event(NamedTuple):
    turn: int
    offset: int
    position: int
    payload: bytes


def verify(data: Path) -> list[str]:
    """What is wrong with a data directory, a sentence each, at most `FINDINGS_MAX`."""
    database = data / DATABASE
    try:
        size = database.stat().st_size
    except OSError as error:
        return [f"{database} cannot be read: {error.strerror or error}"]
    if size == 0:
        return [f"{database} is empty: something cut it"]
    findings: list[str] = []
    try:
        with contextlib.closing(open_to_read(database)) as connection, snapshot(connection):
            for finding in islice(_findings(connection), FINDINGS_MAX):
                findings.append(finding)
    except sqlite3.Error as error:
        findings.append(f"{database} cannot be read (further): {error}")
    if len(findings) >= FINDINGS_MAX:
        findings.append("and perhaps more: the check stopped here")
    return findings


def _findings(connection: sqlite3.Connection) -> Iterator[str]:
    yield from _file(connection)
    for sentence, statement in BELONGINGS:
        for row in connection.execute(statement):
            yield sentence.format(*row)
    yield from timeline_findings(connection)
    for row in connection.execute(SELECT_CONVERSATIONS).fetchall():
        conversation = _Conversation(*row)
        for finding in _conversation(connection, conversation):
            yield f"conversation {conversation.id} of {conversation.account}: {finding}"


def _file(connection: sqlite3.Connection) -> Iterator[str]:
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    if application_id != APPLICATION_ID:
        yield f"the database is another program's (application id {application_id:#x})"
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    newest = sqlite_schema.migrations()[-1].version
    if version != newest:
        yield f"the database has schema {version}, and this dispatch reads schema {newest}"
    for (text,) in connection.execute("PRAGMA integrity_check"):
        if text != "ok":
            yield f"the file is damaged: {text}"
    if connection.execute("SELECT count(*) FROM meta WHERE generation <> ''").fetchone() != (1,):
        yield "the database does not say which history it holds"


def _conversation(connection: sqlite3.Connection, conversation: _Conversation) -> Iterator[str]:
    turns = [_Turn(*row) for row in connection.execute(SELECT_TURNS, (conversation.key,))]
    running = [turn.id for turn in turns if turn.state == "running"]
    if len(running) > 1:
        yield f"{len(running)} turns run at once: {', '.join(running)}"
    sealed = [turn for turn in turns if turn.state == "sealed"]
    yield from _seqs(conversation, sealed)
    yield from _superseded(conversation, sealed)
    for turn in sealed:
        if not turn.outcome:
            yield f"turn {turn.id} is sealed without an outcome"
        yield from _chunks(connection, turn)
    yield from _log(connection, conversation, turns)


def _seqs(conversation: _Conversation, sealed: list[_Turn]) -> Iterator[str]:
    """Seqs count from 1 without a gap, across turns, up to the conversation's last."""
    last = 0
    for turn in sorted(sealed, key=lambda turn: (turn.first_seq or 0, turn.key)):
        if turn.first_seq != last + 1:
            yield f"turn {turn.id} begins at seq {turn.first_seq}, and {last + 1} is next"
        last = (turn.first_seq or 0) + turn.chunk_count - 1
    if last != conversation.last_seq:
        yield f"its last seq is {conversation.last_seq}, and its chunks end at {last}"


def _superseded(conversation: _Conversation, sealed: list[_Turn]) -> Iterator[str]:
    """What truncations left behind are whole turns, in stretches that ascend and do not touch."""
    try:
        stretches = decode_superseded(conversation.superseded)
    except msgspec.MsgspecError as error:
        yield f"what truncations left behind cannot be read: {error}"
        return
    begins = {turn.first_seq for turn in sealed}
    ends = {(turn.first_seq or 0) + turn.chunk_count - 1 for turn in sealed}
    before = -1
    for first, last in stretches:
        if not before + 1 < first <= last:
            yield f"a stretch from seq {first} to {last} was left behind, after one up to {before}"
        if first not in begins or last not in ends:
            yield f"the stretch from seq {first} to {last} that was left behind cuts a turn"
        before = last


def _chunks(connection: sqlite3.Connection, turn: _Turn) -> Iterator[str]:
    (data,) = sqlite_rows.chunk_bytes(connection, [turn.key])
    lines = data.split(b"\n")
    if lines.pop():
        yield f"turn {turn.id}: its last chunk is cut short"
    if len(lines) != turn.chunk_count:
        yield f"turn {turn.id} has {len(lines)} lines for {turn.chunk_count} chunks"
    for number, line in enumerate(lines):
        try:
            decode_line(line)
        except msgspec.MsgspecError as error:
            yield f"turn {turn.id}: chunk {number} is not one: {error}"


def _log(
    connection: sqlite3.Connection, conversation: _Conversation, turns: list[_Turn]
) -> Iterator[str]:
    """The turns' ranges of offsets follow on each other; each keeps the last part of its own."""
    by_key = {turn.key: turn for turn in turns}
    ends: dict[int, int] = {}
    position = -1
    events = (_Event(*row) for row in connection.execute(SELECT_LOG, (conversation.key,)))
    for key, group in groupby(events, key=lambda event: event.turn):
        shown = list(group)
        for event in shown:
            if event.position <= position:
                yield f"offset {event.offset} has position {event.position}, after {position}"
            position = event.position
        turn = by_key.get(TurnKey(key))
        if turn is None:
            continue
        if key in ends:
            yield f"turn {turn.id} goes on at offset {shown[0].offset}, after another's events"
        ends[key] = shown[-1].offset
        yield from _retained(connection, turn, shown)
    last = 0
    for turn in sorted(turns, key=lambda turn: (turn.first_offset or 0, turn.key)):
        if turn.first_offset is None:
            continue
        if turn.first_offset != last + 1:
            yield f"turn {turn.id} begins at offset {turn.first_offset}, and {last + 1} is next"
        own_end = ends.get(turn.key) if turn.state == "running" else turn.last_offset
        last = turn.first_offset - 1 if own_end is None else own_end
    # The row may be behind a running turn, whose events are all there; never behind what is gone.
    known = max(conversation.last_offset, max(ends.values(), default=0))
    if known != last:
        yield f"its last offset is {known}, and its turns end at {last}"


def _retained(connection: sqlite3.Connection, turn: _Turn, shown: list[_Event]) -> Iterator[str]:
    """What the log still has of one turn: all of it, or without some of its beginning."""
    first, last = shown[0].offset, shown[-1].offset
    if last - first + 1 != len(shown):
        yield f"turn {turn.id}: its events from offset {first} to {last} have gaps"
    if turn.first_offset is None or first < turn.first_offset:
        yield f"turn {turn.id} has an event at offset {first}, before its first"
    if turn.state == "marker":
        yield from _marker(turn, shown)
        return
    whole = first == turn.first_offset
    fold, ends = Fold(), []
    for event in shown:
        try:
            decoded = decode_event(event.payload)
        except msgspec.MsgspecError as error:
            yield f"turn {turn.id}: the event at offset {event.offset} is not one: {error}"
            return
        if isinstance(decoded, Done | TurnSealed):
            ends.append(type(decoded))
        if whole:
            fold.add(decoded, event.payload)
    fold.finish()
    _, folded = fold.take()
    (kept,) = sqlite_rows.chunk_bytes(connection, [turn.key])
    if turn.state == "sealed":
        if last != turn.last_offset:
            yield f"turn {turn.id} ends at offset {turn.last_offset}, and its events at {last}"
        # Pruning takes the first events first, so `done` may be gone and the seal alone be left.
        if ends != [Done, TurnSealed] and (whole or ends != [TurnSealed]):
            names = ", ".join(end.__name__ for end in ends) or "neither"
            yield f"turn {turn.id} ends with {names} instead of one Done and then TurnSealed"
        if whole and folded != kept:
            yield f"turn {turn.id}: its chunks are not the fold of its events"
    elif not whole:
        yield f"turn {turn.id} is {turn.state}, and its first events are gone"
    elif not folded.startswith(kept):
        yield f"turn {turn.id}: what is staged of it is not the fold of its events"


def _marker(turn: _Turn, shown: list[_Event]) -> Iterator[str]:
    """It is one event of the conversation's own."""
    try:
        kinds = [type(decode_event(event.payload)) for event in shown]
    except msgspec.MsgspecError as error:
        yield f"the event of marker {turn.id} is not one: {error}"
        return
    if kinds != [Truncated]:
        names = ", ".join(kind.__name__ for kind in kinds)
        yield f"marker {turn.id} has {names} instead of one Truncated"


SELECT_CONVERSATIONS: Final = """
SELECT key, account, id, last_seq, last_offset, superseded FROM conversation
WHERE status <> 'deleted'
ORDER BY key
"""

SELECT_TURNS: Final = """
SELECT key, id, state, outcome, first_seq, chunk_count, first_offset, last_offset FROM turn
WHERE conversation = ?
ORDER BY key
"""

SELECT_LOG: Final = """
SELECT turn, offset, position, payload FROM event
WHERE conversation = ?
ORDER BY offset
"""

# Rows that belong to nothing, or lack what belongs to them, and the sentence for each.
BELONGINGS: Final = (
    (
        "turn {0} is to keep its events, and has lost the first of them before older turns did",
        # Pruning goes by the time of the seal, and may stop in the middle of a turn. So whoever
        # lacks a beginning has nobody before it who still keeps events. One that was sealed later
        # by a clock set back proves nothing: its key is higher, and so are its positions.
        """
        SELECT lost.id FROM turn AS lost
        WHERE lost.state = 'sealed' AND lost.retained = 1 AND lost.first_offset IS NOT NULL
            AND NOT EXISTS (
                SELECT 1 FROM event
                WHERE event.conversation = lost.conversation AND event.offset = lost.first_offset
            )
            AND EXISTS (
                SELECT 1 FROM turn AS older
                WHERE older.state = 'sealed' AND older.retained = 1
                    AND older.sealed_at_ms <= lost.sealed_at_ms AND older.key < lost.key
                    AND coalesce(
                        (
                            SELECT position FROM event
                            WHERE conversation = older.conversation AND offset = older.last_offset
                        ) < (
                            SELECT position FROM event
                            WHERE conversation = lost.conversation AND offset = lost.last_offset
                        ),
                        TRUE
                    )
            )
        """,
    ),
    (
        "turn {0} belongs to a conversation that is not there",
        """
        SELECT id FROM turn
        WHERE NOT EXISTS (
            SELECT 1 FROM conversation
            WHERE conversation.key = turn.conversation AND status <> 'deleted'
        )
        """,
    ),
    (
        "the event at position {0} belongs to a turn that is not there",
        """
        SELECT position FROM event
        WHERE NOT EXISTS (
            SELECT 1 FROM turn
            WHERE turn.key = event.turn AND turn.conversation = event.conversation
        )
        """,
    ),
    (
        "staged chunks of turn number {0} belong to a turn that is not there",
        """
        SELECT DISTINCT turn FROM piece
        WHERE NOT EXISTS (SELECT 1 FROM turn WHERE turn.key = piece.turn)
        """,
    ),
    (
        "user {0} has read conversation number {1} up to seq {2}, which is not there",
        """
        SELECT cursor.user, cursor.subject, cursor.seq
        FROM cursor
            LEFT JOIN conversation AS c ON c.key = cursor.subject AND c.status <> 'deleted'
            LEFT JOIN timeline AS t ON t.key = cursor.subject AND t.status <> 'deleted'
        WHERE cursor.seq > coalesce(c.last_seq, t.last_seq, -1)
        """,
    ),
)
