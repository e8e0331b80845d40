"""The reference store: what the port means, in dictionaries.

Neighbours: `port` promises, `memory_disk` keeps, `memory_timelines` and `memory_people` read
timelines and people; `sqlite` is held to the same suite (`tests/contract/store.py`) and to the same
random histories. Two stores on one disk are two incarnations. For tests, and for a daemon that may
forget everything when it ends.
Invariant: what is handed in or out is a copy, so that nobody changes what is kept by accident.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec
from anyio import to_thread
from anyio.lowlevel import cancel_shielded_checkpoint

from dispatch.core.identity import AccountId, ConversationId, TurnId, UserId
from dispatch.errors import Fenced, StorageFailed
from dispatch.storage.event_page import up_to_bytes
from dispatch.storage.generation import MintGeneration, mint_generation
from dispatch.storage.keys import ConversationKey, SubjectKey, TurnKey
from dispatch.storage.memory_disk import MemoryDisk
from dispatch.storage.memory_people import MemoryPeopleReads
from dispatch.storage.memory_timelines import MemoryTimelineReads
from dispatch.storage.port import (
    IDLE_CONVERSATIONS_MAX,
    Batch,
    ConversationQuery,
    ConversationRecord,
    EventRecord,
    Opened,
    SealedTurn,
    TurnMetrics,
    TurnRecord,
)

_UNSEALED: Final = frozenset({"queued", "steering", "running"})


def read_backup(path: Path) -> MemoryDisk:
    """The disk that `MemoryStore.backup` wrote; opening it starts a new generation."""
    return msgspec.msgpack.decode(path.read_bytes(), type=MemoryDisk)


class MemoryStore(MemoryTimelineReads, MemoryPeopleReads):
    """A store without a disk. Implements `port.Store`; `mint` is where generations come from."""

    def __init__(
        self, disk: MemoryDisk | None = None, *, mint: MintGeneration = mint_generation
    ) -> None:
        """Without a disk it begins empty, and ends with the object."""
        self._kept = MemoryDisk() if disk is None else disk
        self._mint = mint
        self._incarnation = 0

    async def open(self) -> Opened:
        """Raise the incarnation; whoever had the disk before is fenced."""
        disk = self._kept
        disk.generation = disk.generation or self._mint()
        disk.incarnation += 1
        self._incarnation = disk.incarnation
        disk.raise_floors(at_opening=True)
        return Opened(disk.generation, disk.incarnation, disk.next_position, disk.next_key)

    async def close(self) -> None:
        """Let go; idempotent."""
        self._incarnation = 0

    async def commit(self, batch: Batch) -> None:
        """All of it or nothing. Raises `Fenced` and `Conflict`."""
        self._owned_disk.apply(batch)
        # Others get their turn between a commit and its caller, as with any other store.
        await cancel_shielded_checkpoint()

    async def prune(self, sealed_before_ms: int, rows_max: int) -> int:
        """Remove events of turns sealed before, the oldest seals first."""
        return self._owned_disk.prune(sealed_before_ms, rows_max)

    async def backup(self, target: Path) -> None:
        """Everything as one file, for `read_backup`. Raises `StorageFailed`."""
        copied = msgspec.structs.replace(self._disk, generation="")
        try:
            await to_thread.run_sync(_write_file, target, msgspec.msgpack.encode(copied))
        except OSError as error:
            raise StorageFailed(f"{target}: {error.strerror or error}") from error

    @property
    def _disk(self) -> MemoryDisk:
        if not self._incarnation:
            raise StorageFailed("the store is not open")
        return self._kept

    @property
    def _owned_disk(self) -> MemoryDisk:
        if self._disk.incarnation != self._incarnation:
            raise Fenced("another incarnation has opened the store since")
        return self._kept

    async def conversation(
        self, account: AccountId, conversation_id: ConversationId
    ) -> ConversationRecord | None:
        """One row, tombstones included."""
        key = self._disk.ids.get((account, conversation_id))
        return None if key is None else self._row(key)

    async def conversations(self, query: ConversationQuery) -> list[ConversationRecord]:
        """One page, without tombstones."""
        found = [
            record
            for record in self._disk.conversations.values()
            if record.account == query.account and _is_listed(record, query)
        ]
        found.sort(key=_activity, reverse=True)
        return [self._row(record.key) for record in found[: max(0, query.limit)]]

    async def conversations_of(
        self, account: AccountId, session: str, limit: int
    ) -> list[ConversationRecord]:
        """The conversations of one session, without tombstones, the oldest first."""
        keys = sorted(
            record.key
            for record in self._disk.conversations.values()
            if (record.account, record.session) == (account, session) and record.status != "deleted"
        )
        return [self._row(key) for key in keys[: max(0, limit)]]

    async def idle_since(self, active_before_ms: int) -> list[ConversationRecord]:
        """Some conversations to forget, the longest idle first."""
        busy = {turn.conversation for turn in self._disk.turns.values() if _is_unsealed(turn)}
        found = [
            record
            for record in self._disk.conversations.values()
            if record.active_at_ms < active_before_ms
            and record.status != "deleted"
            and record.key not in busy
        ]
        found.sort(key=_activity)
        return [self._row(record.key) for record in found[:IDLE_CONVERSATIONS_MAX]]

    async def unsealed(self) -> list[tuple[ConversationRecord, list[TurnRecord]]]:
        """Every conversation with queued, steering or running turns, by key."""
        keys = {turn.conversation for turn in self._disk.turns.values() if _is_unsealed(turn)}
        return [(self._row(key), await self.unsealed_of(key)) for key in sorted(keys)]

    async def unsealed_of(self, conversation: ConversationKey) -> list[TurnRecord]:
        """Those of one conversation."""
        found = [turn for turn in self._turns_of(conversation) if _is_unsealed(turn)]
        found.sort(key=lambda turn: (turn.ordinal, turn.key))
        return [_without_chunks(turn) for turn in found]

    async def turn_by_client_key(
        self, client_key: str
    ) -> tuple[ConversationRecord, TurnRecord] | None:
        """The turn that was accepted under a client's id, `chunks` left empty."""
        key = self._disk.client_keys.get(client_key)
        if key is None:
            return None
        turn = self._disk.turns[key]
        return self._row(turn.conversation), _without_chunks(turn)

    async def turn(self, conversation: ConversationKey, turn_id: TurnId) -> TurnRecord | None:
        """One turn of a conversation, `chunks` left empty."""
        key = self._disk.turn_ids.get((conversation, turn_id))
        return None if key is None else _without_chunks(self._disk.turns[key])

    async def sealed_turns(
        self,
        conversation: ConversationKey,
        *,
        since_seq: int = 0,
        before_seq: int | None = None,
        newest_first: bool = False,
        limit: int,
    ) -> list[SealedTurn]:
        """Sealed turns that have a chunk between the two, by first seq."""
        found = []
        for turn in self._sealed_of(conversation):
            first_seq = turn.first_seq or 0
            last_seq = first_seq + turn.chunk_count - 1
            if last_seq < first_seq or last_seq <= since_seq:
                continue
            if before_seq is None or first_seq < before_seq:
                found.append(self._place(turn))
        if newest_first:
            found.reverse()
        return found[: max(0, limit)]

    async def chunk_bytes(self, turns: Sequence[TurnKey]) -> list[bytes]:
        """The whole chunk bytes of turns, in the order asked for."""
        return [self._chunk_bytes(key) for key in turns]

    async def metrics(self, conversation: ConversationKey) -> list[TurnMetrics]:
        """The metrics of every sealed turn, by first seq."""
        return [
            TurnMetrics(turn.id, turn.first_seq or 0, turn.metrics)
            for turn in self._sealed_of(conversation)
        ]

    async def events(
        self,
        conversation: ConversationKey,
        after_offset: int,
        limit: int,
        *,
        bytes_max: int | None = None,
    ) -> list[EventRecord]:
        """Up to `limit` events with a larger offset, ascending, up to about `bytes_max`."""
        events = self._disk.events.get(conversation, {})
        offsets = sorted(offset for offset in events if offset > after_offset)
        found = (events[offset] for offset in offsets[: max(0, limit)])
        return up_to_bytes(found, bytes_max)

    async def events_of(
        self, turns: Sequence[TurnKey]
    ) -> dict[TurnKey, tuple[int, list[EventRecord]]]:
        """For each turn the bytes staged in its pieces, and all its events, ascending."""
        disk = self._disk
        found: dict[TurnKey, tuple[int, list[EventRecord]]] = {}
        for key in turns:
            staged = sum(len(piece.data) for piece in disk.pieces.get(key, {}).values())
            turn = disk.turns.get(key)
            events = disk.events.get(turn.conversation, {}) if turn is not None else {}
            first = (turn.first_offset or 0) if turn is not None else 0
            log = [events[offset] for offset in sorted(events) if offset >= first]
            shown = [event for event in log if event.turn == key]
            found[key] = (staged, shown)
        return found

    async def turn_ids(self, turns: Sequence[TurnKey]) -> dict[TurnKey, TurnId]:
        """The ids of turns by key."""
        known = self._disk.turns
        return {key: known[key].id for key in turns if key in known}

    async def read_cursor(self, subject: SubjectKey, user: UserId) -> int:
        """How far a user has read; 0 when never."""
        return self._disk.cursors.get(subject, {}).get(user, 0)

    def _row(self, key: ConversationKey) -> ConversationRecord:
        record = self._disk.conversations[key]
        last_event = max(self._disk.events.get(key, {}), default=0)
        return msgspec.structs.replace(record, last_offset=max(record.last_offset, last_event))

    def _turns_of(self, conversation: ConversationKey) -> Iterable[TurnRecord]:
        return (turn for turn in self._disk.turns.values() if turn.conversation == conversation)

    def _sealed_of(self, conversation: ConversationKey) -> list[TurnRecord]:
        sealed = [turn for turn in self._turns_of(conversation) if turn.state == "sealed"]
        return sorted(sealed, key=lambda turn: (turn.first_seq or 0, turn.key))

    def _place(self, turn: TurnRecord) -> SealedTurn:
        return SealedTurn(
            turn.key,
            turn.id,
            turn.outcome or "",
            turn.first_seq or 0,
            turn.chunk_count,
            turn.sealed_at_ms or 0,
            len(self._chunk_bytes(turn.key)),
            turn.metrics,
            turn.resumes,
        )

    def _chunk_bytes(self, key: TurnKey) -> bytes:
        turn = self._disk.turns.get(key)
        if turn is None:
            return b""
        pieces = sorted(self._disk.pieces.get(key, {}).items())
        staged = b"".join(piece.data for _, piece in pieces)
        return staged + turn.chunks if turn.state in {"sealed", "marker"} else staged


def _is_listed(record: ConversationRecord, query: ConversationQuery) -> bool:
    searched = query.search.casefold()
    return (
        record.status != "deleted"
        and (record.visibility == "account" or record.user == query.user)
        and (not query.statuses or record.status in query.statuses)
        and (query.workspace is None or record.workspace == query.workspace)
        and record.id.startswith(query.id_prefix)
        and (searched in record.title.casefold() or searched in record.last_message.casefold())
        and (query.before is None or _activity(record) < query.before)
    )


def _activity(record: ConversationRecord) -> tuple[int, int]:
    return record.active_at_ms, record.key


def _is_unsealed(turn: TurnRecord) -> bool:
    return turn.state in _UNSEALED


def _without_chunks(turn: TurnRecord) -> TurnRecord:
    copied = copy.copy(turn)
    copied.chunks = b""
    return copied


def _write_file(target: Path, data: bytes) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        temporary.write_bytes(data)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
