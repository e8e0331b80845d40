"""Group commit: everything that waits becomes durable in one transaction, then visible.

Neighbours: `live` fills one `Outbox` a conversation, `storage.port` commits, `feed` shows. There is
no timer: while one commit runs the next batch gathers. Adjacent deltas of a run that wait for the
same commit are one event.
Invariant: durable before visible. Offsets and positions are assigned when a batch is built and
kept only if it committed; a refused entry leaves no trace; an obligation (an event of a running
turn, a seal) is kept and tried again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

import anyio
import structlog

from dispatch.core.content import DELTA_SUFFIX, REASONING_DELTA_PREFIX, TEXT_DELTA_PREFIX
from dispatch.core.identity import TurnId
from dispatch.core.replay import Entry
from dispatch.errors import Conflict, DispatchError, StorageFull, StorageLocked
from dispatch.runtime.clock import Clock
from dispatch.runtime.feed import Feed, Feeds
from dispatch.runtime.pending import Draft, Mirror, Pending, PendingChange, PendingEvent
from dispatch.storage.keys import ConversationKey, TurnKey
from dispatch.storage.port import Batch, EventRecord, Store

log = structlog.get_logger()

# After a flush to many the next batch waits as long as that flush took: what gathers meanwhile then
# costs each of them one write instead of several. With few watchers, or none, nobody ever waits.
_LARGE_FLUSH_WRITES: Final = 32
_SPACING_SECONDS_MAX: Final = 0.01
_RETRY_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0)

_PREFIXES: Final = {
    "text-delta": TEXT_DELTA_PREFIX,
    "reasoning-delta": REASONING_DELTA_PREFIX,
}


class Outbox:
    """One conversation's way to disk: entries in order, and the last durable offset.

    A timeline has one too, without a feed, for what it does itself.
    """

    __slots__ = (
        "_journal",
        "_settled",
        "bytes_pending",
        "conversation",
        "entered",
        "feed",
        "head",
        "left",
        "mirror",
        "pending",
    )

    def __init__(
        self, journal: Journal, conversation: ConversationKey, feed: Feed[Entry] | None
    ) -> None:
        """Continue after the feed's head."""
        self._journal = journal
        self._settled: asyncio.Event | None = None
        self.conversation = conversation
        self.feed = feed
        self.head = 0 if feed is None else feed.head
        self.pending: list[Pending] = []
        self.bytes_pending = 0
        self.entered = 0
        self.left = 0
        self.mirror: Mirror | None = None

    @property
    def is_empty(self) -> bool:
        """Nothing waits, and nothing is on its way."""
        return self.left == self.entered

    def delta(self, turn_key: TurnKey, turn_id: TurnId, kind: str, escaped: bytes) -> int:
        """Append text of a run; merged with the waiting event before it, if that is the same.

        Returns how many bytes more will be written.
        """
        pending = self.pending
        if pending:
            last = pending[-1]
            if (
                type(last) is PendingEvent
                and last.delta == kind
                and last.turn_key == turn_key
                and last.size + len(escaped) <= self._journal.delta_bytes_max
            ):
                last.grow(escaped)
                self.bytes_pending += len(escaped)
                return len(escaped)
        payload = _PREFIXES[kind] + escaped + DELTA_SUFFIX
        self.bytes_pending += len(payload)
        self._enter(PendingEvent(turn_key, turn_id, payload, kind))
        return len(payload)

    def event(self, turn_key: TurnKey, turn_id: TurnId, payload: bytes) -> None:
        """Append an event that is not a delta."""
        self.bytes_pending += len(payload)
        self._enter(PendingEvent(turn_key, turn_id, payload))

    def change(self, change: PendingChange) -> None:
        """Append rows and what follows from them."""
        self._enter(change)

    async def commit(self, write: Callable[[Draft], None]) -> None:
        """Rows that are durable when it returns; raises what refused them."""
        await self.commit_at(lambda draft, _: write(draft))

    async def commit_at(
        self,
        write: Callable[[Draft, int], None],
        *,
        then: Callable[[], None] | None = None,
        instead: Callable[[], None] | None = None,
    ) -> None:
        """As `commit`, for rows that say at which offset they are written.

        `then` runs once they are durable, `instead` when they are refused, also where the caller
        has stopped waiting.
        """
        settled = asyncio.get_running_loop().create_future()

        def durable(_offset: int) -> None:
            if then is not None:
                then()
            if not settled.done():
                settled.set_result(None)

        def refused(error: DispatchError) -> None:
            if instead is not None:
                instead()
            if not settled.done():
                settled.set_exception(error)

        self.change(PendingChange(write, durable, refused))
        await settled

    async def drained(self) -> None:
        """Return once everything that entered so far is durable or was refused."""
        target = self.entered
        while self.left < target:
            if self._settled is None:
                self._settled = asyncio.Event()
            await self._settled.wait()

    def leave(self, count: int) -> None:
        """So many entries are durable or were refused: let producers go on."""
        self.left += count
        if self._settled is not None:
            self._settled.set()
            self._settled = None

    def _enter(self, entry: Pending) -> None:
        self.entered += 1
        self.pending.append(entry)
        self._journal.wake(self)


class _Taken(NamedTuple):
    """What one outbox gives to a batch, and the batch's entries for its feed."""

    outbox: Outbox
    pending: list[Pending]
    shown: list[Entry]
    offsets: list[int]


class JournalStatistics(NamedTuple):
    """What the journal has done; seconds are of the last commit."""

    commits: int
    events: int
    batch_events_last: int
    commit_seconds_last: float
    is_refusing: bool


class Journal:
    """The one writer. `run` is its task; it ends only by cancellation or a fatal `Fault`."""

    def __init__(
        self,
        store: Store,
        feeds: Feeds,
        clock: Clock,
        *,
        next_position: int,
        delta_bytes_max: int,
        observe: Callable[[int, float], None] | None = None,
    ) -> None:
        """`observe(events, seconds)` is told of every commit."""
        self._store = store
        self._feeds = feeds
        self._clock = clock
        self._next_position = next_position
        self._observe = observe
        self._dirty: dict[Outbox, None] = {}
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._commits = 0
        self._events = 0
        self._batch_events = 0
        self._commit_seconds = 0.0
        self._spaced_until = 0.0
        self.delta_bytes_max = delta_bytes_max
        self.trouble: DispatchError | None = None

    @property
    def head(self) -> int:
        """The last position of what was shown; of what is being committed now nothing is."""
        return self._next_position - 1

    def wake(self, outbox: Outbox) -> None:
        """An outbox has something to commit."""
        self._dirty[outbox] = None
        self._work.set()
        self._idle.clear()

    async def idle(self) -> None:
        """Return once nothing waits and nothing is being committed."""
        await self._idle.wait()

    def statistics(self) -> JournalStatistics:
        """The counters, for metrics and tests."""
        return JournalStatistics(
            self._commits,
            self._events,
            self._batch_events,
            self._commit_seconds,
            self.trouble is not None,
        )

    async def run(self) -> None:
        """Commit batch after batch until cancelled."""
        while True:
            await self._work.wait()
            if self._spaced_until > (now := self._clock.monotonic()):
                await anyio.sleep(self._spaced_until - now)
            self._work.clear()
            await self._commit_pending()
            if not self._dirty:
                self._idle.set()

    async def _commit_pending(self) -> None:
        """One commit of everything that waits."""
        failures = 0
        while True:
            taken, batch = self._take()
            if not taken:
                # All of it was refused: the next one finds out whether there is room again.
                self.trouble = None
                return
            began = self._clock.monotonic()
            try:
                await self._store.commit(batch)
            except (StorageFull, StorageLocked) as error:
                self._refuse(taken, error)
                self.trouble = error
                await anyio.sleep(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)])
                failures += 1
                continue
            except Conflict:
                await self._commit_singly(taken)
                return
            else:
                self._observed(batch, began)
                self._show(taken, batch)
            self.trouble = None
            return

    async def _commit_singly(self, taken: list[_Taken]) -> None:
        """Some admission is taken already: commit outbox by outbox to find whose."""
        for one in taken:
            batch = Draft(position=self._next_position)
            rebuilt = self._build(one.outbox, one.pending, batch)
            try:
                await self._store.commit(batch)
            except (Conflict, StorageFull, StorageLocked) as error:
                self._refuse([rebuilt], error)
            else:
                self._show([rebuilt], batch)

    def _take(self) -> tuple[list[_Taken], Draft]:
        dirty, self._dirty = self._dirty, {}
        batch = Draft(position=self._next_position)
        taken = []
        for outbox in dirty:
            pending, outbox.pending = outbox.pending, []
            outbox.bytes_pending = 0
            if pending:
                taken.append(self._build(outbox, pending, batch))
        return taken, batch

    def _build(self, outbox: Outbox, pending: list[Pending], draft: Draft) -> _Taken:
        offset = outbox.head
        key, mirror = outbox.conversation, outbox.mirror
        events = draft.events
        shown: list[Entry] = []
        offsets: list[int] = []
        for entry in pending:
            offsets.append(offset)
            if isinstance(entry, PendingEvent):
                due: tuple[PendingEvent, ...] = (entry,)
            else:
                entry.write(draft, offset)
                due = entry.events
            for event in due:
                offset += 1
                payload = event.payload
                position = draft.take_position()
                events.append(EventRecord(position, key, event.turn_key, offset, payload))
                shown.append(Entry(offset, event.turn_id, payload, event.delta))
                if mirror is not None:
                    tell = partial(mirror.happened, position, event.turn_id, payload, event.delta)
                    draft.then.append(tell)
        return _Taken(outbox, pending, shown, offsets)

    def _show(self, taken: list[_Taken], draft: Draft) -> None:
        """Publish everything of a batch, then tell everybody in one flush."""
        self._next_position = draft.position
        for tell in draft.then:
            tell()
        for outbox, pending, shown, offsets in taken:
            outbox.head += len(shown)
            if shown and outbox.feed is not None:
                self._feeds.publish(outbox.feed, shown)
            outbox.leave(len(pending))
            for entry, offset in zip(pending, offsets, strict=True):
                if isinstance(entry, PendingChange) and entry.durable is not None:
                    entry.durable(offset)
        began = self._clock.monotonic()
        writes = self._feeds.flush()
        now = self._clock.monotonic()
        is_large = writes >= _LARGE_FLUSH_WRITES
        self._spaced_until = now + min(now - began, _SPACING_SECONDS_MAX) if is_large else 0.0

    def _refuse(self, taken: list[_Taken], error: DispatchError) -> None:
        """Give admissions back; keep obligations, ahead of what has come since."""
        for one in taken:
            kept: list[Pending] = []
            refused: list[Callable[[DispatchError], None]] = []
            for entry in one.pending:
                if isinstance(entry, PendingChange) and entry.refused is not None:
                    refused.append(entry.refused)
                else:
                    kept.append(entry)
            outbox = one.outbox
            outbox.pending = kept + outbox.pending
            outbox.bytes_pending += sum(e.size for e in kept if isinstance(e, PendingEvent))
            if outbox.pending:
                self._dirty[outbox] = None
                self._work.set()
            outbox.leave(len(refused))
            for tell in refused:
                tell(error)
        log.warning("journal.refused", code=error.code, conversations=len(taken))

    def _observed(self, batch: Batch, began: float) -> None:
        self._commits += 1
        self._batch_events = len(batch.events)
        self._events += self._batch_events
        self._commit_seconds = self._clock.monotonic() - began
        if self._observe is not None:
            self._observe(self._batch_events, self._commit_seconds)
