"""What a memory store keeps, and what a batch does to it.

Neighbours: `memory` is the store around it; the rules are those of `port.Batch`, in the order of
its fields, written to be read rather than to be fast.
Invariant: a batch that is refused leaves no trace, because every change notes how to undo it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import msgspec

from dispatch.errors import Conflict, Fenced
from dispatch.storage.port import (
    Batch,
    ConversationKey,
    ConversationRecord,
    CursorRecord,
    EventRecord,
    Piece,
    TurnChange,
    TurnCopy,
    TurnKey,
    TurnRecord,
    TurnSeal,
)

Key = TypeVar("Key")
Value = TypeVar("Value")


class Undo:
    """Changes to dictionaries that can be taken back, the last one first."""

    __slots__ = ("_steps",)

    def __init__(self) -> None:
        self._steps: list[Callable[[], object]] = []

    def put(self, table: dict[Key, Value], key: Key, value: Value) -> None:
        """Set, and note what was there."""
        if key in table:
            old = table[key]
            self._steps.append(lambda: table.__setitem__(key, old))
        else:
            self._steps.append(lambda: table.pop(key))
        table[key] = value

    def drop(self, table: dict[Key, Value], key: Key) -> None:
        """Remove, and note what was there."""
        if key in table:
            old = table.pop(key)
            self._steps.append(lambda: table.__setitem__(key, old))

    def take_back(self) -> None:
        """Undo everything."""
        while self._steps:
            self._steps.pop()()


class MemoryDisk(msgspec.Struct):
    """Everything a store keeps. `incarnation` is that of the last one to open it."""

    generation: str = ""
    incarnation: int = 0
    next_position: int = 1
    next_key: int = 1
    conversations: dict[int, ConversationRecord] = {}
    turns: dict[int, TurnRecord] = {}
    # By conversation and offset, by turn and ordinal, by conversation and user.
    events: dict[int, dict[int, EventRecord]] = {}
    pieces: dict[int, dict[int, Piece]] = {}
    cursors: dict[int, dict[str, int]] = {}
    # What is unique: (account, id), client keys, (conversation, turn id), positions.
    ids: dict[tuple[str, str], ConversationKey] = {}
    client_keys: dict[str, TurnKey] = {}
    turn_ids: dict[tuple[int, str], TurnKey] = {}
    positions: dict[int, None] = {}

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
        """Remove events of turns sealed before, the oldest seals first; how many."""
        self.raise_floors()
        due = [
            (turn.sealed_at_ms, event.turn, offset, event)
            for key, events in self.events.items()
            for offset, event in events.items()
            if (turn := self.turns[event.turn]).state == "sealed"
            and turn.sealed_at_ms is not None
            and turn.sealed_at_ms < sealed_before_ms
        ]
        due.sort()
        for _, turn_key, offset, event in due[: max(0, rows_max)]:
            del self.events[event.conversation][offset]
            del self.positions[event.position]
            conversation = self.conversations[event.conversation]
            # The next offset must stay known when the last event is gone.
            last_offset = self.turns[turn_key].last_offset or 0
            conversation.last_offset = max(conversation.last_offset, last_offset)
        return min(len(due), max(0, rows_max))

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
        for cursor in batch.cursors:
            self._move_cursor(cursor, undo)
        for key in batch.deletions:
            self._delete(key, undo)

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
        if self._is_there(cursor.conversation):
            cursors = self.cursors.setdefault(cursor.conversation, {})
            undo.put(cursors, cursor.user, max(cursor.seq, cursors.get(cursor.user, cursor.seq)))

    def _delete(self, key: ConversationKey, undo: Undo) -> None:
        if not self._is_there(key):
            return
        self.raise_floors()
        for turn in [turn for turn in self.turns.values() if turn.conversation == key]:
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
            self.conversations[key], status="deleted", title="", last_message="", details=b"{}"
        )
        undo.put(self.conversations, key, tombstone)

    def _is_there(self, key: ConversationKey) -> bool:
        record = self.conversations.get(key)
        return record is not None and record.status != "deleted"

    def raise_floors(self) -> None:
        # Never taken back: a number that was once skipped harms nobody.
        self.next_position = max(self.next_position, max(self.positions, default=0) + 1)
        self.next_key = max(
            self.next_key,
            max(self.conversations, default=0) + 1,
            max(self.turns, default=0) + 1,
        )
