"""The store's port: one verb that writes, a few that read.

Neighbours: `runtime.journal` is the only caller of `commit`; `runtime` reads; `memory` and
`sqlite` implement it. Payloads (`body`, `chunks`, `payload`, `metrics`, `superseded`) are opaque
bytes; keys, offsets and positions are assigned by the caller from the counters that `open` returns.
Invariant: a batch is one transaction; compare-and-set rows that do not match undo all of it; every
method may be repeated after a failure whose outcome is unknown.

Chunk bytes: one chunk a line, `"role":"…","chunk":{…}` and a newline, so that `{"seq":N,` + line +
`}` is the wire form. A turn's chunk bytes are its pieces by ordinal, then `TurnRecord.chunks`; a
piece may end in the middle of a line.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import msgspec

from dispatch.core.identity import AccountId, ConversationId, TurnId, UserId
from dispatch.storage.keys import ConversationKey, SubjectKey, TimelineKey, TurnKey
from dispatch.storage.people import CursorKey, PeopleReads
from dispatch.storage.timeline import (
    RowRecord,
    TimelineEvent,
    TimelineReads,
    TimelineRecord,
)

TurnState = Literal["queued", "steering", "running", "sealed", "absorbed", "cancelled", "marker"]
"""`steering`: durable text for the running turn, not yet taken; `absorbed`: it was taken;
`cancelled`: removed from the queue, kept so that a repeated send finds it; `marker`: no turn at
all, but what an event of the conversation itself belongs to, and a repeated wish finds; or what
a side chat knows of its source, in its chunks."""

ConversationStatus = Literal["active", "idle", "closed", "deleted"]
Visibility = Literal["account", "user"]


IDLE_CONVERSATIONS_MAX = 1_000
"""What one `idle_since` returns; the rest is for the next sweep."""


class ConversationRecord(msgspec.Struct, kw_only=True):
    """One conversation's row. Times in epoch milliseconds. `deleted` marks a tombstone.

    `last_offset`, when read, is that of the last stored event, if that is ahead of what was written
    here: a batch of events alone need not write the row. `superseded` are the seqs that do not
    count any more (`core.truncation`).
    """

    key: ConversationKey
    account: AccountId
    id: ConversationId
    session: str
    workspace: str = "default"
    status: ConversationStatus = "idle"
    title: str = ""
    visibility: Visibility = "account"
    user: UserId
    created_at_ms: int
    active_at_ms: int
    last_seq: int = 0
    last_offset: int = 0
    epoch: int = 0
    last_message: str = ""
    superseded: bytes = b"[]"
    details: bytes = b"{}"


class TurnRecord(msgspec.Struct, kw_only=True):
    """One turn's row. `first_seq`, `chunk_count` and `chunks` mean something once it is sealed.

    `client_key` is the exactly-once key (unique in the store) or None; `digest` of the body tells a
    repeat from a conflict. `acceptance` is the acknowledgement that a repeat is given again.
    `first_offset` is the offset of its first event, `last_offset` that of its last. `ordinal`
    orders the queue. `resumes` is the turn that it goes on with. A `marker` has the offsets of its
    event, if it has one, and `sealed_at_ms`.
    """

    key: TurnKey
    conversation: ConversationKey
    id: TurnId
    state: TurnState
    ordinal: int
    user: UserId
    body: bytes
    created_at_ms: int
    client_key: str | None = None
    digest: bytes = b""
    acceptance: bytes = b""
    started_at_ms: int | None = None
    sealed_at_ms: int | None = None
    outcome: str | None = None
    first_seq: int | None = None
    chunk_count: int = 0
    chunks: bytes = b""
    first_offset: int | None = None
    last_offset: int | None = None
    metrics: bytes = b""
    resumes: TurnId | None = None


class TurnChange(NamedTuple):
    """Compare-and-set of a turn's state; `None` leaves a column as it is."""

    turn: TurnKey
    from_state: TurnState
    to_state: TurnState
    started_at_ms: int | None = None
    first_offset: int | None = None
    ordinal: int | None = None


class TurnSeal(NamedTuple):
    """Compare-and-set from `running` to `sealed`: the chunks become readable under their seqs."""

    turn: TurnKey
    outcome: str
    sealed_at_ms: int
    first_seq: int
    chunk_count: int
    chunks: bytes
    last_offset: int
    metrics: bytes


class EventRecord(NamedTuple):
    """One event: its place in the account's log, its conversation, turn and offset, its JSON."""

    position: int
    conversation: ConversationKey
    turn: TurnKey
    offset: int
    payload: bytes


class Piece(NamedTuple):
    """Part of a running turn's chunk bytes. `first_index`: chunks that begin before it."""

    turn: TurnKey
    ordinal: int
    first_index: int
    data: bytes


class CursorRecord(NamedTuple):
    """How far a user has read a conversation or a timeline; only ever moves forward."""

    subject: SubjectKey
    user: UserId
    seq: int


class TurnCopy(NamedTuple):
    """A fork's copy of one sealed turn, under a new key, with its new first seq."""

    source: TurnKey
    turn: TurnKey
    conversation: ConversationKey
    first_seq: int


class Batch(msgspec.Struct):
    """Everything of one commit. Applied in the order of the fields.

    `conversations` are inserted or replaced by key (a tombstone is never replaced, a row with a
    larger epoch never overwritten: both raise `Fenced`; account and id stay). `turns` need a
    conversation, `events` and `pieces` a turn, `copies` a sealed source and a conversation that is
    not deleted, else `Fenced`. `timelines` are inserted or replaced by key, as conversations are
    (account, kind and id stay; `Conflict` for an id or alias already there; `floor` never falls);
    `rows` too, by key (timeline, role and client key stay; `Conflict` for a client key already
    there), and like `timeline_events` they need a timeline that is not deleted, else `Fenced`; a
    timeline that `burials` buries may still be told of in the same batch. A `cursor` of a subject
    that is gone is dropped. `deletions` turn a conversation into a tombstone and remove its turns,
    events, pieces and cursors, and raise the floor of each timeline with rows of these turns to
    `last_position` of that timeline; `burials` turn a timeline into a tombstone (its alias is free
    again) and remove its rows, cursors and all earlier events of its log. A tombstone is nobody's:
    its `user` is empty. `cursor_removals` forget what was read, `turn_removals` cancelled turns
    that no row of a timeline names. What is gone already is left alone.
    """

    conversations: list[ConversationRecord] = msgspec.field(default_factory=list)
    turns: list[TurnRecord] = msgspec.field(default_factory=list)
    changes: list[TurnChange] = msgspec.field(default_factory=list)
    events: list[EventRecord] = msgspec.field(default_factory=list)
    pieces: list[Piece] = msgspec.field(default_factory=list)
    seals: list[TurnSeal] = msgspec.field(default_factory=list)
    copies: list[TurnCopy] = msgspec.field(default_factory=list)
    timelines: list[TimelineRecord] = msgspec.field(default_factory=list)
    rows: list[RowRecord] = msgspec.field(default_factory=list)
    burials: list[TimelineKey] = msgspec.field(default_factory=list)
    timeline_events: list[TimelineEvent] = msgspec.field(default_factory=list)
    cursors: list[CursorRecord] = msgspec.field(default_factory=list)
    deletions: list[ConversationKey] = msgspec.field(default_factory=list)
    cursor_removals: list[CursorKey] = msgspec.field(default_factory=list)
    turn_removals: list[TurnKey] = msgspec.field(default_factory=list)


class Opened(NamedTuple):
    """What a store says when it opens: its generation and the counters' next free values.

    `incarnation` grows with every opening and is the epoch that this owner claims with.
    `next_key` is above every key, `next_position` above every position ever assigned, of the log
    of conversations and of timelines, pruned or not.
    """

    generation: str
    incarnation: int
    next_position: int
    next_key: int


class ConversationQuery(msgspec.Struct, kw_only=True, frozen=True):
    """Which conversations to list: newest activity first; user-visible ones of that user only.

    `before` is (active_at_ms, key) of the last one seen; `search` matches title and last message
    without case.
    """

    account: AccountId
    user: UserId
    statuses: tuple[ConversationStatus, ...] = ()
    id_prefix: str = ""
    workspace: str | None = None
    search: str = ""
    before: tuple[int, int] | None = None
    limit: int


class SealedTurn(NamedTuple):
    """A sealed turn's place in history."""

    key: TurnKey
    id: TurnId
    outcome: str
    first_seq: int
    chunk_count: int
    sealed_at_ms: int
    bytes_total: int
    metrics: bytes
    resumes: TurnId | None = None

    @property
    def seqs(self) -> range:
        """The seqs of its chunks."""
        return range(self.first_seq, self.first_seq + self.chunk_count)


class TurnMetrics(NamedTuple):
    """What a sealed turn took, and where its chunks begin."""

    turn: TurnId
    first_seq: int
    metrics: bytes


class Store(TimelineReads, PeopleReads, Protocol):
    """What every store does. Errors: `StorageFull`, `StorageLocked`, `StorageCorrupt`,
    `StorageFailed`, `Fenced`, and `Conflict` for a `client_key` or conversation id already there.
    """

    async def open(self) -> Opened:
        """Take the data for this process, migrate it, and raise the incarnation."""
        ...

    async def close(self) -> None:
        """Let go; idempotent, also after a failed `open`."""
        ...

    async def commit(self, batch: Batch) -> None:
        """Make all of it durable, or none. Raises `Fenced` when a compare-and-set row does not
        match or another incarnation has opened the store since.
        """
        ...

    async def prune(self, sealed_before_ms: int, rows_max: int) -> int:
        """Remove up to `rows_max` events of turns sealed, and of markers and timelines' logs
        written, before then; the number removed.
        """
        ...

    async def backup(self, target: Path) -> None:
        """A consistent copy, written beside and renamed; opening it starts a new generation."""
        ...

    async def conversation(
        self, account: AccountId, conversation_id: ConversationId
    ) -> ConversationRecord | None:
        """One row, tombstones included."""
        ...

    async def conversations(self, query: ConversationQuery) -> list[ConversationRecord]:
        """One page, without tombstones."""
        ...

    async def begun_by(
        self, account: AccountId, user: UserId, *, after: int, limit: int
    ) -> list[ConversationRecord]:
        """The conversations of a user with a larger key, ascending, without tombstones."""
        ...

    async def conversations_of(
        self, account: AccountId, session: str, limit: int
    ) -> list[ConversationRecord]:
        """The conversations of one session, without tombstones, the oldest first."""
        ...

    async def idle_since(self, active_before_ms: int) -> list[ConversationRecord]:
        """Some conversations without activity since then and without unsealed turns, the longest
        idle first; at most `IDLE_CONVERSATIONS_MAX`.
        """
        ...

    async def unsealed(self) -> list[tuple[ConversationRecord, list[TurnRecord]]]:
        """Every conversation with queued, steering or running turns, those ordered by ordinal."""
        ...

    async def unsealed_of(self, conversation: ConversationKey) -> list[TurnRecord]:
        """The queued, steering and running turns of one conversation, ordered by ordinal."""
        ...

    async def turn_by_client_key(
        self, client_key: str
    ) -> tuple[ConversationRecord, TurnRecord] | None:
        """The turn that was accepted under a client's id, `chunks` left empty."""
        ...

    async def turn(self, conversation: ConversationKey, turn_id: TurnId) -> TurnRecord | None:
        """One turn of a conversation, `chunks` left empty."""
        ...

    async def sealed_turns(
        self,
        conversation: ConversationKey,
        *,
        since_seq: int = 0,
        before_seq: int | None = None,
        newest_first: bool = False,
        limit: int,
    ) -> list[SealedTurn]:
        """Sealed turns that have a chunk with since_seq < seq < before_seq, by first seq."""
        ...

    async def chunk_bytes(self, turns: Sequence[TurnKey]) -> list[bytes]:
        """The whole chunk bytes of sealed or running turns and markers, in the order asked for."""
        ...

    async def metrics(self, conversation: ConversationKey) -> list[TurnMetrics]:
        """The metrics of every sealed turn, by first seq."""
        ...

    async def events(
        self,
        conversation: ConversationKey,
        after_offset: int,
        limit: int,
        *,
        bytes_max: int | None = None,
    ) -> list[EventRecord]:
        """Up to `limit` events with a larger offset, ascending; a hole means they were pruned.

        With `bytes_max` it ends with the event whose payload reaches that many bytes.
        """
        ...

    async def events_of(
        self, turns: Sequence[TurnKey]
    ) -> dict[TurnKey, tuple[int, list[EventRecord]]]:
        """For each running turn: the bytes staged in its pieces, and all its events, ascending."""
        ...

    async def turn_ids(self, turns: Sequence[TurnKey]) -> dict[TurnKey, TurnId]:
        """The ids of turns by key."""
        ...

    async def read_cursor(self, subject: SubjectKey, user: UserId) -> int:
        """How far a user has read; 0 when never."""
        ...
