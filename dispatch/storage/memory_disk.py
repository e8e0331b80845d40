"""What a memory store keeps, and what a batch does to it.

Neighbours: `memory` is the store around it; the rules are those of `port.Batch`, in the order of
its fields, written to be read rather than to be fast.
Invariant: a batch that is refused leaves no trace, because every change notes how to undo it.
"""

from __future__ import annotations

import copy

import msgspec

from dispatch.errors import Conflict, Fenced
from dispatch.storage.keys import ConversationKey, RowKey, TimelineKey, TurnKey
from dispatch.storage.memory_undo import Undo
from dispatch.storage.port import (
    Batch,
    ConversationRecord,
    CursorRecord,
    EventRecord,
    Piece,
    TurnChange,
    TurnCopy,
    TurnRecord,
    TurnSeal,
)
from dispatch.storage.timeline import RowRecord, TimelineEvent, TimelineRecord


class MemoryDisk(msgspec.Struct):
    """Everything a store keeps. `incarnation` is that of the last one to open it."""

    generation: str = ""
    incarnation: int = 0
    next_position: int = 1
    next_key: int = 1
    conversations: dict[int, ConversationRecord] = {}
    turns: dict[int, TurnRecord] = {}
    # By conversation and offset, by turn and ordinal, by what is read and user.
    events: dict[int, dict[int, EventRecord]] = {}
    pieces: dict[int, dict[int, Piece]] = {}
    cursors: dict[int, dict[str, int]] = {}
    timelines: dict[int, TimelineRecord] = {}
    rows: dict[int, RowRecord] = {}
    # By position. What pruning took out of the log of any timeline is not behind the other.
    timeline_events: dict[int, TimelineEvent] = {}
    pruned_position: int = 0
    # What is unique: (account, id), client keys, (conversation, turn id), positions.
    ids: dict[tuple[str, str], ConversationKey] = {}
    client_keys: dict[str, TurnKey] = {}
    turn_ids: dict[tuple[int, str], TurnKey] = {}
    positions: dict[int, None] = {}
    timeline_ids: dict[tuple[str, str, str], TimelineKey] = {}
    aliases: dict[tuple[str, str], TimelineKey] = {}
    row_client_keys: dict[str, RowKey] = {}
    row_seqs: dict[tuple[int, int], RowKey] = {}

    def apply(self, batch: Batch) -> None:
        """All of it or nothing. Raises `Fenced` and `Conflict`."""
        undo = Undo()
        done = False
        try:
            self._apply(batch, undo)
            done = True
        finally:
            if not done:
                undo.take_back()

    def prune(self, sealed_before_ms: int, rows_max: int) -> int:
        """Remove events of turns sealed before, the oldest seals first, then of timelines."""
        self.raise_floors()
        removed = self._prune_turns(sealed_before_ms, max(0, rows_max))
        old = [e.position for e in self.timeline_events.values() if e.at_ms < sealed_before_ms]
        due = sorted(old)[: max(0, rows_max - removed)]
        for position in due:
            del self.timeline_events[position]
            self.pruned_position = max(self.pruned_position, position)
        return removed + len(due)

    def _prune_turns(self, sealed_before_ms: int, rows_max: int) -> int:
        due = [
            (turn.sealed_at_ms, event.turn, offset, event)
            for key, events in self.events.items()
            for offset, event in events.items()
            if (turn := self.turns[event.turn]).state in {"sealed", "marker"}
            and turn.sealed_at_ms is not None
            and turn.sealed_at_ms < sealed_before_ms
        ]
        due.sort()
        told = {row.turn for row in self.rows.values()}
        for _, turn_key, offset, event in due[:rows_max]:
            del self.events[event.conversation][offset]
            del self.positions[event.position]
            if turn_key in told:
                self.pruned_position = max(self.pruned_position, event.position)
            conversation = self.conversations[event.conversation]
            # The next offset must stay known when the last event is gone.
            last_offset = self.turns[turn_key].last_offset or 0
            conversation.last_offset = max(conversation.last_offset, last_offset)
        return min(len(due), rows_max)

    def _apply(self, batch: Batch, undo: Undo) -> None:
        for conversation in batch.conversations:
            self._put_conversation(copy.copy(conversation), undo)
        for turn in batch.turns:
            self._insert_turn(copy.copy(turn), undo)
        for change in batch.changes:
            self._change(change, undo)
        for event in batch.events:
            self._insert_event(event, undo)
        for piece in batch.pieces:
            self._insert_piece(piece, undo)
        for seal in batch.seals:
            self._seal(seal, undo)
        for source in batch.copies:
            self._copy(source, undo)
        for timeline in batch.timelines:
            self._put_timeline(copy.copy(timeline), undo)
        for row in batch.rows:
            self._put_row(copy.copy(row), undo)
        buried = {key for key in batch.burials if self._is_open(key)}
        for key in buried:
            self._bury(key, undo)
        for told in batch.timeline_events:
            self._tell(told, buried, undo)
        for cursor in batch.cursors:
            self._move_cursor(cursor, undo)
        for conversation_key in batch.deletions:
            self._delete(conversation_key, undo)
        self._remove(batch, undo)

    def _put_conversation(self, record: ConversationRecord, undo: Undo) -> None:
        name = (record.account, record.id)
        old = self.conversations.get(record.key)
        if old is None:
            if name in self.ids:
                raise Conflict("this conversation id was used before")
            undo.put(self.ids, name, record.key)
        elif old.status == "deleted" or old.epoch > record.epoch or name != (old.account, old.id):
            raise Fenced("a conversation's row is not what the batch was decided on")
        undo.put(self.conversations, record.key, record)

    def _insert_turn(self, turn: TurnRecord, undo: Undo) -> None:
        if not self._is_there(turn.conversation):
            raise Fenced("a turn's conversation is not there")
        if turn.key in self.turns or (turn.conversation, turn.id) in self.turn_ids:
            raise Fenced("somebody else wrote this turn")
        if turn.client_key is not None and turn.client_key in self.client_keys:
            raise Conflict("this client id was used before")
        undo.put(self.turns, turn.key, turn)
        undo.put(self.turn_ids, (turn.conversation, turn.id), turn.key)
        if turn.client_key is not None:
            undo.put(self.client_keys, turn.client_key, turn.key)

    def _change(self, change: TurnChange, undo: Undo) -> None:
        old = self.turns.get(change.turn)
        if old is None or old.state != change.from_state:
            raise Fenced("a turn's state is not what the batch was decided on")
        turn = msgspec.structs.replace(old, state=change.to_state)
        if change.started_at_ms is not None:
            turn.started_at_ms = change.started_at_ms
        if change.first_offset is not None:
            turn.first_offset = change.first_offset
        if change.ordinal is not None:
            turn.ordinal = change.ordinal
        undo.put(self.turns, change.turn, turn)

    def _insert_event(self, event: EventRecord, undo: Undo) -> None:
        turn = self.turns.get(event.turn)
        if turn is None or turn.conversation != event.conversation:
            raise Fenced("an event of a turn that is not there")
        events = self.events.setdefault(event.conversation, {})
        if event.position in self.positions or event.offset in events:
            raise Fenced("somebody else wrote this event")
        undo.put(self.positions, event.position, None)
        undo.put(events, event.offset, event)

    def _insert_piece(self, piece: Piece, undo: Undo) -> None:
        pieces = self.pieces.setdefault(piece.turn, {})
        if piece.turn not in self.turns or piece.ordinal in pieces:
            raise Fenced("a piece's turn is not what the batch was decided on")
        undo.put(pieces, piece.ordinal, piece)

    def _seal(self, seal: TurnSeal, undo: Undo) -> None:
        old = self.turns.get(seal.turn)
        if old is None or old.state != "running":
            raise Fenced("the seal of a turn that does not run")
        turn = msgspec.structs.replace(
            old,
            state="sealed",
            outcome=seal.outcome,
            sealed_at_ms=seal.sealed_at_ms,
            first_seq=seal.first_seq,
            chunk_count=seal.chunk_count,
            chunks=seal.chunks,
            last_offset=seal.last_offset,
            metrics=seal.metrics,
        )
        undo.put(self.turns, seal.turn, turn)

    def _copy(self, given: TurnCopy, undo: Undo) -> None:
        source = self.turns.get(given.source)
        if source is None or source.state != "sealed":
            raise Fenced("the source of a copy is not a sealed turn")
        turn = msgspec.structs.replace(
            source,
            key=given.turn,
            conversation=given.conversation,
            first_seq=given.first_seq,
            client_key=None,
            digest=b"",
            acceptance=b"",
            first_offset=None,
            last_offset=None,
        )
        self._insert_turn(turn, undo)
        for piece in list(self.pieces.get(given.source, {}).values()):
            self._insert_piece(piece._replace(turn=given.turn), undo)

    def _move_cursor(self, cursor: CursorRecord, undo: Undo) -> None:
        if self._is_there(cursor.subject) or self._is_open(cursor.subject):
            cursors = self.cursors.setdefault(cursor.subject, {})
            undo.put(cursors, cursor.user, max(cursor.seq, cursors.get(cursor.user, cursor.seq)))

    def _delete(self, key: ConversationKey, undo: Undo) -> None:
        if not self._is_there(key):
            return
        self.raise_floors()
        gone = [turn for turn in self.turns.values() if turn.conversation == key]
        self._raise_timelines({turn.key for turn in gone}, undo)
        for turn in gone:
            undo.drop(self.turns, turn.key)
            undo.drop(self.turn_ids, (key, turn.id))
            undo.drop(self.pieces, turn.key)
            if turn.client_key is not None:
                undo.drop(self.client_keys, turn.client_key)
        for event in self.events.get(key, {}).values():
            undo.drop(self.positions, event.position)
        undo.drop(self.events, key)
        undo.drop(self.cursors, key)
        tombstone = msgspec.structs.replace(
            self.conversations[key],
            status="deleted",
            title="",
            user="",
            last_message="",
            superseded=b"[]",
            details=b"{}",
        )
        undo.put(self.conversations, key, tombstone)

    def _remove(self, batch: Batch, undo: Undo) -> None:
        for cursor in batch.cursor_removals:
            undo.drop(self.cursors.get(cursor.subject, {}), cursor.user)
        for key in batch.turn_removals:
            self._remove_turn(key, undo)

    def _remove_turn(self, key: TurnKey, undo: Undo) -> None:
        turn = self.turns.get(key)
        if turn is None or turn.state != "cancelled":
            return
        if any(row.turn == key for row in self.rows.values()):
            return
        self.raise_floors()
        undo.drop(self.turns, key)
        undo.drop(self.turn_ids, (turn.conversation, turn.id))
        if turn.client_key is not None:
            undo.drop(self.client_keys, turn.client_key)

    def _put_timeline(self, record: TimelineRecord, undo: Undo) -> None:
        name = (record.account, record.kind, record.id)
        old = self.timelines.get(record.key)
        if old is None:
            if name in self.timeline_ids:
                raise Conflict("this id of a timeline was used before")
        elif (
            old.status == "deleted"
            or old.epoch > record.epoch
            or name != (old.account, old.kind, old.id)
        ):
            raise Fenced("a timeline's row is not what the batch was decided on")
        else:
            record.floor = max(record.floor, old.floor)
        if record.alias is not None and (
            self.aliases.get((record.account, record.alias), record.key) != record.key
        ):
            raise Conflict("this alias of a timeline is in use")
        if old is not None and old.alias is not None:
            undo.drop(self.aliases, (old.account, old.alias))
        if record.alias is not None:
            undo.put(self.aliases, (record.account, record.alias), record.key)
        undo.put(self.timeline_ids, name, record.key)
        undo.put(self.timelines, record.key, record)

    def _put_row(self, row: RowRecord, undo: Undo) -> None:
        if not self._is_open(row.timeline):
            raise Fenced("a row's timeline is not there")
        old = self.rows.get(row.key)
        same = (row.timeline, row.role, row.client_key)
        if old is not None and same != (old.timeline, old.role, old.client_key):
            raise Fenced("a row is not what the batch was decided on")
        if row.client_key is not None:
            if self.row_client_keys.get(row.client_key, row.key) != row.key:
                raise Conflict("this client id was used before")
            undo.put(self.row_client_keys, row.client_key, row.key)
        if old is not None and old.seq is not None:
            undo.drop(self.row_seqs, (old.timeline, old.seq))
        if row.seq is not None:
            if (row.timeline, row.seq) in self.row_seqs:
                raise Fenced("somebody else wrote this row")
            undo.put(self.row_seqs, (row.timeline, row.seq), row.key)
        undo.put(self.rows, row.key, row)

    def _tell(self, event: TimelineEvent, buried: set[TimelineKey], undo: Undo) -> None:
        if not self._is_open(event.timeline) and event.timeline not in buried:
            raise Fenced("an event of a timeline that is not there")
        if event.position in self.timeline_events:
            raise Fenced("somebody else wrote this event")
        undo.put(self.timeline_events, event.position, event)

    def _bury(self, key: TimelineKey, undo: Undo) -> None:
        self.raise_floors()
        for row in [row for row in self.rows.values() if row.timeline == key]:
            undo.drop(self.rows, row.key)
            if row.client_key is not None:
                undo.drop(self.row_client_keys, row.client_key)
            if row.seq is not None:
                undo.drop(self.row_seqs, (key, row.seq))
        for event in [e for e in self.timeline_events.values() if e.timeline == key]:
            undo.drop(self.timeline_events, event.position)
        undo.drop(self.cursors, key)
        old = self.timelines[key]
        if old.alias is not None:
            undo.drop(self.aliases, (old.account, old.alias))
        tombstone = msgspec.structs.replace(
            old, status="deleted", title="", user="", alias=None, details=b"{}"
        )
        undo.put(self.timelines, key, tombstone)

    def _raise_timelines(self, turns: set[TurnKey], undo: Undo) -> None:
        # Their logs have lost what these turns said in them.
        for key in {row.timeline for row in self.rows.values() if row.turn in turns}:
            old = self.timelines[key]
            floor = max(old.floor, old.last_position)
            undo.put(self.timelines, key, msgspec.structs.replace(old, floor=floor))

    def _is_open(self, key: int) -> bool:
        record = self.timelines.get(key)
        return record is not None and record.status != "deleted"

    def _is_there(self, key: int) -> bool:
        record = self.conversations.get(key)
        return record is not None and record.status != "deleted"

    def raise_floors(self, *, at_opening: bool = False) -> None:
        """Remember that what is given out is used up. At an opening also what timelines say."""
        # Never taken back: a number that was once skipped harms nobody.
        told = (record.last_position for record in self.timelines.values() if at_opening)
        self.next_position = 1 + max(
            self.next_position - 1,
            max(self.positions, default=0),
            max(self.timeline_events, default=0),
            max(told, default=0),
        )
        self.next_key = 1 + max(
            self.next_key - 1,
            max(self.conversations, default=0),
            max(self.turns, default=0),
            max(self.timelines, default=0),
            max(self.rows, default=0),
        )
