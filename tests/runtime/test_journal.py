"""Group commit: durable, then told, then shown; what is refused leaves no trace, the rest waits."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import anyio
import pytest
from anyio.lowlevel import checkpoint

from dispatch.core.content import delta_text
from dispatch.core.events import StepComplete, TextDelta, encode_event
from dispatch.core.identity import LOCAL, ConversationId, TurnId
from dispatch.errors import (
    Conflict,
    DispatchError,
    Fenced,
    StorageFailed,
    StorageFull,
    StorageLocked,
)
from dispatch.runtime.feed import Feed, Feeds
from dispatch.runtime.journal import Journal, Outbox
from dispatch.runtime.pending import PendingChange, PendingEvent
from dispatch.storage.keys import ConversationKey, TurnKey
from dispatch.storage.memory import MemoryStore
from dispatch.storage.port import Batch, ConversationRecord, EventRecord, TurnRecord
from dispatch.testing import FaultyStore, HeldStore, ManualClock, Watcher, guard, run_virtual

A, B = ConversationKey(1), ConversationKey(2)
FULL = StorageFull("no room")
STEP = encode_event(StepComplete("s"))

# Of virtual time, and what one write takes of the clock's: a flush to 31 lasts longer than 3 ticks.
TICK_SECONDS = 0.0001


def turn_of(key: ConversationKey) -> tuple[TurnKey, TurnId]:
    """The one turn of a conversation."""
    return TurnKey(key + 10), TurnId(f"t{key}")


def rows(key: ConversationKey) -> tuple[ConversationRecord, TurnRecord]:
    record = ConversationRecord(
        key=key,
        account=LOCAL.account,
        id=ConversationId(f"c{key}"),
        session="s",
        user=LOCAL.user,
        created_at_ms=0,
        active_at_ms=0,
    )
    turn_key, turn_id = turn_of(key)
    turn = TurnRecord(
        key=turn_key,
        conversation=key,
        id=turn_id,
        state="running",
        ordinal=1,
        user=LOCAL.user,
        body=b"{}",
        created_at_ms=0,
    )
    return record, turn


class SlowWatcher(Watcher):
    """A write to it takes a tick."""

    def __init__(self, feed: Feed, clock: ManualClock) -> None:
        super().__init__(feed, after=0)
        self._clock = clock

    def write(self, data: bytes) -> None:
        super().write(data)
        self._clock.advance(TICK_SECONDS)


class Desk:
    """A journal on a store that can hold and fail, with two conversations and who watches them."""

    def __init__(self, *, delta_bytes_max: int = 1_000) -> None:
        self.memory = MemoryStore()
        self.faulty = FaultyStore(self.memory)
        self.store = HeldStore(self.faulty)
        self.feeds = Feeds(events_max=1_000, bytes_max=100_000, bytes_total_max=1_000_000)
        self.observed: list[int] = []
        self.clock = ManualClock()
        self.journal = Journal(
            self.store,
            self.feeds,
            self.clock,
            next_position=1,
            delta_bytes_max=delta_bytes_max,
            observe=lambda events, seconds: self.observed.append(events),
        )
        self.outboxes = {key: self._outbox(key) for key in (A, B)}
        self.watchers = {
            key: Watcher(outbox.feed, after=0) for key, outbox in self.outboxes.items()
        }
        for watcher in self.watchers.values():
            watcher.resume()

    def _outbox(self, key: ConversationKey) -> Outbox:
        return Outbox(self.journal, key, self.feeds.new_feed(ConversationId(f"c{key}"), 0))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        with guard():
            await self.store.open()
            batch = Batch()
            for key in (A, B):
                record, turn = rows(key)
                batch.conversations.append(record)
                batch.turns.append(turn)
            await self.memory.commit(batch)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.journal.run)
                yield
                tasks.cancel_scope.cancel()

    def say(self, text: str, key: ConversationKey = A, kind: str = "text-delta") -> int:
        escaped = delta_text(encode_event(TextDelta(text)))
        return self.outboxes[key].delta(*turn_of(key), kind, escaped)

    def step(self, key: ConversationKey = A) -> None:
        self.outboxes[key].event(*turn_of(key), STEP)

    def change(
        self,
        told: list[str],
        name: str,
        key: ConversationKey = A,
        *,
        write: Callable[[Batch, int], None] = lambda batch, offset: None,
        refusable: bool = True,
        events: int = 0,
    ) -> None:
        """Rows on their way; `told` gets `name` and the offset, or the name and what refused it."""

        def refused(error: DispatchError) -> None:
            told.append(f"{name} refused: {error.code}")

        self.outboxes[key].change(
            PendingChange(
                write,
                lambda offset: told.append(f"{name} durable at {offset}"),
                refused if refusable else None,
                tuple(PendingEvent(*turn_of(key), STEP) for _ in range(events)),
            )
        )

    async def stored(self, key: ConversationKey = A) -> list[EventRecord]:
        return await self.memory.events(key, 0, 1_000)

    async def offsets(self, key: ConversationKey = A) -> list[int]:
        return [record.offset for record in await self.stored(key)]

    def shown(self, key: ConversationKey = A) -> list[bytes]:
        return [entry.payload for entry in self.watchers[key].entries]


@asynccontextmanager
async def held(desk: Desk, count: int = 1) -> AsyncIterator[None]:
    """Everything that enters inside waits behind a commit that is already on its way."""
    desk.store.hold()
    for _ in range(count):
        desk.step()
    await desk.store.reached()
    yield
    desk.store.release()
    await desk.journal.idle()


# -- durable, told, shown ----------------------------------------------------------------------


async def test_nothing_is_told_or_shown_before_its_commit() -> None:
    desk, told = Desk(), list[str]()
    async with desk.running():
        desk.store.hold()
        desk.say("a")
        desk.change(told, "change", events=1)
        await desk.store.reached()
        assert desk.shown() == []
        assert told == []
        assert desk.outboxes[A].feed.head == 0
        desk.store.release()
        await desk.journal.idle()
        assert desk.shown() == [encode_event(TextDelta("a")), STEP]
        assert told == ["change durable at 1"]


async def test_cancelled_during_its_commit_it_was_never_shown() -> None:
    desk, told = Desk(), list[str]()
    async with desk.running():
        desk.store.hold()
        desk.say("a")
        desk.change(told, "change")
        await desk.store.reached()
    assert (desk.shown(), told, await desk.stored()) == ([], [], [])


async def test_a_change_is_told_before_anything_of_its_batch_is_shown() -> None:
    desk = Desk()
    seen: list[int] = []
    async with desk.running():
        desk.say("a")
        desk.outboxes[A].change(
            PendingChange(lambda *_: None, lambda _: seen.append(len(desk.shown())))
        )
        await desk.journal.idle()
        assert seen == [0]
        assert len(desk.shown()) == 1


async def test_offsets_are_a_conversations_own_and_positions_everybodys() -> None:
    desk = Desk()
    async with desk.running():
        for key in (A, B, A):
            desk.step(key)
            await desk.journal.idle()
        async with held(desk):
            desk.step(B)
            desk.step(A)
        assert await desk.offsets(A) == [1, 2, 3, 4]
        assert await desk.offsets(B) == [1, 2]
        positions = [record.position for record in await desk.stored(A) + await desk.stored(B)]
        assert sorted(positions) == [1, 2, 3, 4, 5, 6]
        assert desk.watchers[A].offsets == [1, 2, 3, 4]


async def test_a_change_is_given_the_offset_before_it() -> None:
    desk, told, written = Desk(), list[str](), list[int]()
    async with desk.running(), held(desk):
        desk.step()
        desk.change(told, "one", events=2, write=lambda _, offset: written.append(offset))
        desk.change(told, "two", write=lambda _, offset: written.append(offset))
    assert written == [2, 4]
    assert told == ["one durable at 2", "two durable at 4"]


async def test_what_comes_while_a_commit_runs_is_the_next_batch() -> None:
    desk = Desk()
    async with desk.running():
        async with held(desk):
            for key in (A, B, A, B, A):
                desk.step(key)
        assert [len(batch.events) for batch in desk.store.batches] == [1, 5]
        assert desk.observed == [1, 5]
        statistics = desk.journal.statistics()
        assert (statistics.commits, statistics.events) == (2, 6)
        assert statistics.batch_events_last == 5
        assert not statistics.is_refusing


async def test_the_batch_is_one_write_to_who_watches_however_many_events_it_has() -> None:
    desk = Desk()
    async with desk.running():
        async with held(desk):
            for _ in range(10):
                desk.step()
        assert desk.feeds.statistics().writes == 2


# -- merging -----------------------------------------------------------------------------------


async def test_deltas_that_wait_together_are_one_event() -> None:
    desk = Desk()
    async with desk.running():
        async with held(desk):
            for text in ("a", 'é"', "\n"):
                desk.say(text)
        assert desk.shown() == [STEP, encode_event(TextDelta('aé"\n'))]
        assert [record.payload for record in await desk.stored()] == desk.shown()
        assert desk.watchers[A].entries[-1].delta == "text-delta"


async def test_deltas_are_not_merged_over_anything_else() -> None:
    desk, told = Desk(), list[str]()
    async with desk.running(), held(desk):
        desk.say("a")
        desk.step()
        desk.say("b")
        desk.change(told, "change")
        desk.say("c")
        desk.say("d", kind="reasoning-delta")
        desk.say("e")
    assert [delta_text(payload) for payload in desk.shown()[1:] if payload != STEP] == [
        b"a",
        b"b",
        b"c",
        b"d",
        b"e",
    ]


async def test_deltas_of_two_turns_are_not_merged() -> None:
    desk = Desk()
    async with desk.running():
        _, turn = rows(A)
        turn.key, turn.id = TurnKey(99), TurnId("t-next")
        desk.outboxes[A].change(PendingChange(lambda batch, _: batch.turns.append(turn)))
        await desk.journal.idle()
        async with held(desk):
            desk.say("a")
            desk.outboxes[A].delta(turn.key, turn.id, "text-delta", b"b")
        assert [entry.turn for entry in desk.watchers[A].entries] == ["t1", "t1", "t-next"]


async def test_a_merged_delta_is_bounded() -> None:
    desk = Desk(delta_bytes_max=100)
    async with desk.running():
        async with held(desk):
            for _ in range(50):
                desk.say("x" * 10)
        sizes = [len(payload) for payload in desk.shown()[1:]]
        assert max(sizes) <= 100
        assert sum(len(delta_text(payload)) for payload in desk.shown()[1:]) == 500


async def test_a_delta_says_how_many_bytes_it_adds_and_all_of_them_wait() -> None:
    desk = Desk()
    async with desk.running():
        async with held(desk):
            added = [desk.say("abc"), desk.say("de"), desk.say("f", kind="reasoning-delta")]
            first, _, third = (len(encode_event(TextDelta("abc"))), 2, len(b'"reasoning-delta"'))
            assert added[:2] == [first, 2]
            assert added[2] > third
            assert desk.outboxes[A].bytes_pending == sum(added)
        assert desk.outboxes[A].bytes_pending == 0
        assert sum(map(len, desk.shown()[1:])) == sum(added)


# -- refusal -----------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [FULL, StorageLocked("busy")], ids=lambda error: error.code)
async def test_a_store_that_takes_no_more_refuses_an_admission_and_leaves_no_trace(
    error: DispatchError,
) -> None:
    desk, told = Desk(), list[str]()
    async with desk.running():
        desk.faulty.fail(error)
        desk.change(told, "change", events=2)
        await desk.journal.idle()
        assert told == [f"change refused: {error.code}"]
        assert (desk.shown(), await desk.stored()) == ([], [])
        assert desk.outboxes[A].is_empty
        desk.change(told, "later", events=1)
        await desk.journal.idle()
        assert told[1:] == ["later durable at 0"]
        assert await desk.offsets() == [1]


async def test_obligations_are_kept_in_order_ahead_of_what_came_since() -> None:
    desk, told = Desk(), list[str]()
    async with desk.running():
        desk.faulty.fail(FULL, times=2)
        desk.say("a")
        desk.change(told, "admission", events=1)
        desk.change(told, "obligation", refusable=False, events=1)
        while not told:
            await checkpoint()
        assert desk.journal.statistics().is_refusing
        pending = desk.outboxes[A].bytes_pending
        assert pending >= len(encode_event(TextDelta("a")))
        desk.say("b")
        await desk.journal.idle()
        assert told == ["admission refused: storage_full", "obligation durable at 1"]
        assert desk.shown() == [encode_event(TextDelta("a")), STEP, encode_event(TextDelta("b"))]
        assert await desk.offsets() == [1, 2, 3]
        assert desk.faulty.failed == 2
        assert not desk.journal.statistics().is_refusing


async def test_an_admission_that_comes_while_nothing_is_taken_is_refused_too() -> None:
    desk, told = Desk(), list[str]()
    async with desk.running():
        desk.faulty.break_down(FULL)
        desk.say("a")
        while not desk.faulty.failed:
            await checkpoint()
        desk.change(told, "admission")
        while not told:
            await checkpoint()
        assert told == ["admission refused: storage_full"]
        desk.faulty.repair()
        await desk.journal.idle()
        assert desk.shown() == [encode_event(TextDelta("a"))]


async def test_when_all_was_refused_the_next_one_finds_out_whether_there_is_room() -> None:
    desk, told = Desk(), list[str]()
    async with desk.running():
        desk.faulty.fail(FULL)
        desk.change(told, "admission")
        await desk.journal.idle()
        assert desk.journal.trouble is None


def test_it_tries_again_soon_at_first_and_then_every_second() -> None:
    async def main() -> list[float]:
        desk = Desk()
        times: list[float] = []

        class Timed(FaultyStore):
            async def commit(self, batch: Batch) -> None:
                times.append(anyio.current_time())
                await super().commit(batch)

        desk.store.inner = timed = Timed(desk.memory)
        timed.fail(FULL, times=8)
        async with desk.running():
            desk.step()
            await desk.journal.idle()
        return times

    times = run_virtual(main)
    waits = [later - sooner for sooner, later in pairwise(times)]
    assert waits == pytest.approx([0.05, 0.1, 0.25, 0.5, 1.0, 1.0, 1.0, 1.0])


# -- conflicts ---------------------------------------------------------------------------------


def taken_already(desk: Desk, key: ConversationKey) -> Callable[[Batch, int], None]:
    """Rows of a conversation under an id that is another's."""
    record, _ = rows(ConversationKey(77))
    record.id = ConversationId(f"c{key}")
    return lambda batch, _: batch.conversations.append(record)


async def test_a_conflict_refuses_whose_it_is_and_nobody_else() -> None:
    desk, told = Desk(), list[str]()
    async with desk.running():
        async with held(desk):
            desk.change(told, "mine", A, write=taken_already(desk, B), events=1)
            desk.change(told, "theirs", B, events=1)
            desk.say("kept", A)
        assert sorted(told) == ["mine refused: conflict", "theirs durable at 0"]
        assert desk.shown(A) == [STEP, encode_event(TextDelta("kept"))]
        assert await desk.offsets(A) == [1, 2]
        assert await desk.offsets(B) == [1]


async def test_a_disk_that_fills_while_a_conflict_is_sorted_out_ends_nothing() -> None:
    desk, told = Desk(), list[str]()
    async with desk.running():
        for error in (Conflict("whose?"), Conflict("mine"), FULL):
            desk.faulty.fail(error)
        desk.change(told, "mine", A)
        desk.change(told, "theirs", B)
        desk.step(B)
        await desk.journal.idle()
        assert told == ["mine refused: conflict", "theirs refused: storage_full"]
        assert desk.shown(B) == [STEP]
        assert await desk.offsets(B) == [1]


# -- faults ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [StorageFailed("unknown"), Fenced("another")], ids=lambda error: error.code
)
async def test_a_fault_of_the_store_ends_the_journal_and_nothing_was_shown(
    error: DispatchError,
) -> None:
    desk, told = Desk(), list[str]()

    async def until_it_ends() -> None:
        async with desk.running():
            desk.faulty.fail_behind(error)
            desk.change(told, "change", events=1)
            await desk.journal.idle()

    with pytest.raises(BaseExceptionGroup) as ended:
        await until_it_ends()
    assert ended.group_contains(type(error))
    assert (told, desk.shown()) == ([], [])


# -- waiting -----------------------------------------------------------------------------------


async def test_drained_waits_for_what_entered_and_not_for_what_comes_later() -> None:
    desk = Desk()
    async with desk.running():
        desk.store.hold()
        desk.step()
        await desk.store.reached()
        returned: list[int] = []

        async def drain() -> None:
            await desk.outboxes[A].drained()
            returned.append(desk.watchers[A].offsets[-1])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drain)
            await checkpoint()
            desk.step()
            assert returned == []
            desk.store.release()
        assert returned == [1]
        await desk.outboxes[A].drained()
        assert desk.outboxes[A].is_empty


async def test_drained_returns_also_when_it_was_refused() -> None:
    desk, told = Desk(), list[str]()
    async with desk.running():
        desk.faulty.fail(FULL)
        desk.change(told, "change")
        await desk.outboxes[A].drained()
        assert told == ["change refused: storage_full"]


async def test_nothing_to_do_is_idle() -> None:
    desk = Desk()
    async with desk.running():
        await desk.journal.idle()
        desk.step()
        await desk.journal.idle()
        assert await desk.offsets() == [1]
        await desk.journal.idle()


@pytest.mark.parametrize(("watchers", "batches"), [(31, [1, 1, 1, 1]), (32, [1, 3])])
def test_behind_a_flush_to_many_the_next_batch_gathers_for_as_long(
    watchers: int, batches: list[int]
) -> None:
    async def main() -> list[int]:
        desk = Desk()
        feed = desk.outboxes[B].feed
        for _ in range(watchers - 1):
            SlowWatcher(feed, desk.clock).resume()
        async with desk.running():
            for _ in range(4):
                desk.step(B)
                await anyio.sleep(TICK_SECONDS)
            await desk.journal.idle()
        return [len(batch.events) for batch in desk.store.batches]

    assert run_virtual(main) == batches
