"""Stores that are slow, hold their breath or fail, around one that does none of it.

Neighbours: `storage.port` is what all of them are; they stack, and `harness` takes any of them.
Invariant: a commit that is held or fails before its write has changed nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from anyio.lowlevel import checkpoint

from dispatch.core.identity import AccountId, ConversationId, TurnId, UserId
from dispatch.errors import DispatchError
from dispatch.storage.keys import ConversationKey, SubjectKey, TimelineKey, TurnKey
from dispatch.storage.people import ReadMark, SpokenPage
from dispatch.storage.port import (
    Batch,
    ConversationQuery,
    ConversationRecord,
    EventRecord,
    Opened,
    SealedTurn,
    Store,
    TurnMetrics,
    TurnRecord,
)
from dispatch.storage.timeline import (
    LogPage,
    RowRecord,
    TimelineKind,
    TimelineQuery,
    TimelineRecord,
    TimelineSummary,
)


class StoreWrapper:
    """Passes everything on; `before` is called first, with the verb's name."""

    def __init__(self, inner: Store) -> None:
        """Wrap a store."""
        self.inner = inner

    async def before(self, verb: str) -> None:
        """For subclasses: wait, or raise."""

    async def open(self) -> Opened:
        """See `Store`."""
        return await self.inner.open()

    async def close(self) -> None:
        """See `Store`."""
        await self.inner.close()

    async def commit(self, batch: Batch) -> None:
        """See `Store`."""
        await self.before("commit")
        await self.inner.commit(batch)

    async def prune(self, sealed_before_ms: int, rows_max: int) -> int:
        """See `Store`."""
        await self.before("prune")
        return await self.inner.prune(sealed_before_ms, rows_max)

    async def backup(self, target: Path) -> None:
        """See `Store`."""
        await self.before("backup")
        await self.inner.backup(target)

    async def conversation(
        self, account: AccountId, conversation_id: ConversationId
    ) -> ConversationRecord | None:
        """See `Store`."""
        await self.before("conversation")
        return await self.inner.conversation(account, conversation_id)

    async def conversations(self, query: ConversationQuery) -> list[ConversationRecord]:
        """See `Store`."""
        await self.before("conversations")
        return await self.inner.conversations(query)

    async def begun_by(
        self, account: AccountId, user: UserId, *, after: int, limit: int
    ) -> list[ConversationRecord]:
        """See `Store`."""
        await self.before("begun_by")
        return await self.inner.begun_by(account, user, after=after, limit=limit)

    async def read_marks(
        self, account: AccountId, user: UserId, *, after: int, limit: int
    ) -> list[ReadMark]:
        """See `Store`."""
        await self.before("read_marks")
        return await self.inner.read_marks(account, user, after=after, limit=limit)

    async def spoken_by(
        self, account: AccountId, user: UserId, *, after: int, keys_max: int, bytes_max: int
    ) -> SpokenPage:
        """See `Store`."""
        await self.before("spoken_by")
        return await self.inner.spoken_by(
            account, user, after=after, keys_max=keys_max, bytes_max=bytes_max
        )

    async def conversations_of(
        self, account: AccountId, session: str, limit: int
    ) -> list[ConversationRecord]:
        """See `Store`."""
        await self.before("conversations_of")
        return await self.inner.conversations_of(account, session, limit)

    async def idle_since(self, active_before_ms: int) -> list[ConversationRecord]:
        """See `Store`."""
        await self.before("idle_since")
        return await self.inner.idle_since(active_before_ms)

    async def unsealed(self) -> list[tuple[ConversationRecord, list[TurnRecord]]]:
        """See `Store`."""
        await self.before("unsealed")
        return await self.inner.unsealed()

    async def unsealed_of(self, conversation: ConversationKey) -> list[TurnRecord]:
        """See `Store`."""
        await self.before("unsealed_of")
        return await self.inner.unsealed_of(conversation)

    async def turn_by_client_key(
        self, client_key: str
    ) -> tuple[ConversationRecord, TurnRecord] | None:
        """See `Store`."""
        await self.before("turn_by_client_key")
        return await self.inner.turn_by_client_key(client_key)

    async def turn(self, conversation: ConversationKey, turn_id: TurnId) -> TurnRecord | None:
        """See `Store`."""
        await self.before("turn")
        return await self.inner.turn(conversation, turn_id)

    async def sealed_turns(
        self,
        conversation: ConversationKey,
        *,
        since_seq: int = 0,
        before_seq: int | None = None,
        newest_first: bool = False,
        limit: int,
    ) -> list[SealedTurn]:
        """See `Store`."""
        await self.before("sealed_turns")
        return await self.inner.sealed_turns(
            conversation,
            since_seq=since_seq,
            before_seq=before_seq,
            newest_first=newest_first,
            limit=limit,
        )

    async def chunk_bytes(self, turns: Sequence[TurnKey]) -> list[bytes]:
        """See `Store`."""
        await self.before("chunk_bytes")
        return await self.inner.chunk_bytes(turns)

    async def metrics(self, conversation: ConversationKey) -> list[TurnMetrics]:
        """See `Store`."""
        await self.before("metrics")
        return await self.inner.metrics(conversation)

    async def events(
        self,
        conversation: ConversationKey,
        after_offset: int,
        limit: int,
        *,
        bytes_max: int | None = None,
    ) -> list[EventRecord]:
        """See `Store`."""
        await self.before("events")
        return await self.inner.events(conversation, after_offset, limit, bytes_max=bytes_max)

    async def events_of(
        self, turns: Sequence[TurnKey]
    ) -> dict[TurnKey, tuple[int, list[EventRecord]]]:
        """See `Store`."""
        await self.before("events_of")
        return await self.inner.events_of(turns)

    async def turn_ids(self, turns: Sequence[TurnKey]) -> dict[TurnKey, TurnId]:
        """See `Store`."""
        await self.before("turn_ids")
        return await self.inner.turn_ids(turns)

    async def read_cursor(self, subject: SubjectKey, user: UserId) -> int:
        """See `Store`."""
        await self.before("read_cursor")
        return await self.inner.read_cursor(subject, user)

    async def timeline(
        self, account: AccountId, kind: TimelineKind, timeline_id: str
    ) -> TimelineRecord | None:
        """See `Store`."""
        await self.before("timeline")
        return await self.inner.timeline(account, kind, timeline_id)

    async def timeline_by_alias(self, account: AccountId, alias: str) -> TimelineRecord | None:
        """See `Store`."""
        await self.before("timeline_by_alias")
        return await self.inner.timeline_by_alias(account, alias)

    async def timelines(self, query: TimelineQuery) -> list[TimelineSummary]:
        """See `Store`."""
        await self.before("timelines")
        return await self.inner.timelines(query)

    async def unread_total(self, account: AccountId, kind: TimelineKind, user: UserId) -> int:
        """See `Store`."""
        await self.before("unread_total")
        return await self.inner.unread_total(account, kind, user)

    async def unread(self, timeline: TimelineKey, user: UserId) -> int:
        """See `Store`."""
        await self.before("unread")
        return await self.inner.unread(timeline, user)

    async def rows(
        self,
        timeline: TimelineKey,
        *,
        after_seq: int = 0,
        before_seq: int | None = None,
        newest_first: bool = False,
        limit: int,
    ) -> list[RowRecord]:
        """See `Store`."""
        await self.before("rows")
        return await self.inner.rows(
            timeline,
            after_seq=after_seq,
            before_seq=before_seq,
            newest_first=newest_first,
            limit=limit,
        )

    async def open_rows(self, timeline: TimelineKey | None = None) -> list[RowRecord]:
        """See `Store`."""
        await self.before("open_rows")
        return await self.inner.open_rows(timeline)

    async def open_timelines(self) -> list[TimelineRecord]:
        """See `Store`."""
        await self.before("open_timelines")
        return await self.inner.open_timelines()

    async def row_by_client_key(self, client_key: str) -> tuple[TimelineRecord, RowRecord] | None:
        """See `Store`."""
        await self.before("row_by_client_key")
        return await self.inner.row_by_client_key(client_key)

    async def replies_to(self, timeline: TimelineKey, seq: int) -> list[RowRecord]:
        """See `Store`."""
        await self.before("replies_to")
        return await self.inner.replies_to(timeline, seq)

    async def row_of_turn(self, timeline: TimelineKey, turn_id: TurnId) -> RowRecord | None:
        """See `Store`."""
        await self.before("row_of_turn")
        return await self.inner.row_of_turn(timeline, turn_id)

    async def log(
        self, stream: str, after_position: int, limit: int, *, timeline: TimelineKey | None = None
    ) -> LogPage:
        """See `Store`."""
        await self.before("log")
        return await self.inner.log(stream, after_position, limit, timeline=timeline)

    async def stream_head(self, stream: str) -> int:
        """See `Store`."""
        await self.before("stream_head")
        return await self.inner.stream_head(stream)


class YieldingStore(StoreWrapper):
    """Lets others run before every verb, as every real store does."""

    async def before(self, verb: str) -> None:
        """See `StoreWrapper`."""
        await checkpoint()


class HeldStore(StoreWrapper):
    """Keeps commits open until it is told to let go. `batches` are those whose caller was told."""

    def __init__(self, inner: Store) -> None:
        """Begin by holding nothing."""
        super().__init__(inner)
        self.batches: list[Batch] = []
        self._reached = asyncio.Event()
        self._free = asyncio.Event()
        self._free.set()
        self._is_behind = False

    def hold(self, *, behind: bool = False) -> None:
        """Keep every commit open from now on: before it is written, or `behind` that, when the disk
        has it and nobody knows.
        """
        self._reached.clear()
        self._free.clear()
        self._is_behind = behind

    async def reached(self) -> None:
        """Return once a commit is being held."""
        await self._reached.wait()

    def release(self) -> None:
        """Let what is held be written, and everything after it."""
        self._free.set()

    async def commit(self, batch: Batch) -> None:
        """See `Store`."""
        if not self._is_behind:
            await self._held()
        await self.inner.commit(batch)
        if self._is_behind:
            await self._held()
        self.batches.append(batch)

    async def _held(self) -> None:
        if not self._free.is_set():
            self._reached.set()
            await self._free.wait()


class FaultyStore(StoreWrapper):
    """Fails the commits it is told to fail. `failed` counts them."""

    def __init__(self, inner: Store) -> None:
        """Begin by failing nothing."""
        super().__init__(inner)
        self._once: deque[tuple[DispatchError, bool]] = deque()
        self._lasting: DispatchError | None = None
        self.failed = 0

    def fail(self, error: DispatchError, *, times: int = 1) -> None:
        """Fail so many commits, writing nothing."""
        self._once.extend([(error, False)] * times)

    def fail_behind(self, error: DispatchError) -> None:
        """Write one commit, and say it failed: its acknowledgement is lost."""
        self._once.append((error, True))

    def break_down(self, error: DispatchError) -> None:
        """Fail every commit, writing nothing, until it is repaired."""
        self._lasting = error

    def repair(self) -> None:
        """Work again."""
        self._lasting = None

    async def commit(self, batch: Batch) -> None:
        """See `Store`."""
        error, is_written = self._once.popleft() if self._once else (self._lasting, False)
        if error is None:
            await self.inner.commit(batch)
            return
        self.failed += 1
        if is_written:
            await self.inner.commit(batch)
        await checkpoint()
        raise error
