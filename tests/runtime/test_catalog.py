"""Conversations as a whole: what a verb says is durable, and one that raises changed nothing."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from unittest import mock

import anyio
import pytest
from anyio.lowlevel import checkpoint

from dispatch.core.commands import Accepted, TurnBody
from dispatch.core.events import TextDelta
from dispatch.core.identity import LOCAL, SEND, WATCH, ConversationId, Principal, TurnId, UserId
from dispatch.core.notices import AnyNotice, DeletedNotice, Opened, ReadNotice, TitleNotice
from dispatch.errors import (
    DispatchError,
    Forbidden,
    Gone,
    NotFound,
    PeerError,
    RateLimited,
    StorageFull,
    Unavailable,
)
from dispatch.runtime.catalog import check_title
from dispatch.runtime.feed import Follower
from dispatch.runtime.live import Live
from dispatch.runtime.retention import forget_conversations, prune_events
from dispatch.settings import Limits, RetentionSettings
from dispatch.storage.memory import MemoryStore
from dispatch.storage.memory_disk import MemoryDisk
from dispatch.storage.port import ConversationQuery, ConversationRecord
from dispatch.testing import (
    FOR_EVER,
    FaultyStore,
    Gate,
    Harness,
    HeldStore,
    ManualClock,
    ScriptedAgent,
    SequentialIds,
    YieldingStore,
    broker_on,
)
from dispatch.testing.audit import audit

C1 = ConversationId("c1")
FULL = StorageFull("no room")
ANN = Principal(LOCAL.account, UserId("ann"))
READER = Principal(LOCAL.account, UserId("reader"), frozenset({WATCH}))

Call = Callable[[], Coroutine[Any, Any, Any]]


@asynccontextmanager
async def together(*calls: Call) -> AsyncIterator[list[Any]]:
    """Run calls beside the body; their results or errors, in order, once it is left."""
    results: list[Any] = [None] * len(calls)

    async def run(index: int, call: Call) -> None:
        try:
            results[index] = await call()
        except DispatchError as error:
            results[index] = error

    async with anyio.create_task_group() as tasks:
        for index, call in enumerate(calls):
            tasks.start_soon(run, index, call)
        yield results


async def settled() -> None:
    """Let everything that is ready run."""
    for _ in range(50):
        await checkpoint()


async def record(broker: Harness, conversation: ConversationId = C1) -> ConversationRecord:
    found = await broker.catalog.record(LOCAL, conversation)
    assert found is not None
    return found


class Listening:
    """Keeps the notices that an account is told, as a feed would encode them."""

    def __init__(self, broker: Harness) -> None:
        self.notices: list[AnyNotice] = []
        self._notify = broker.services.feeds.notify
        broker.services.feeds.notify = self.notify  # type: ignore[method-assign]

    def notify(self, notice: AnyNotice, *, but: Follower | None = None) -> None:
        self.notices.append(notice)
        self._notify(notice, but=but)

    def of(self, kind: type[AnyNotice]) -> list[AnyNotice]:
        return [notice for notice in self.notices if isinstance(notice, kind)]


# -- open, title, details ----------------------------------------------------------------------


async def test_who_opens_a_conversation_makes_it_and_tells_the_account() -> None:
    async with broker_on(MemoryStore(), agents=[ScriptedAgent("ok")]) as broker:
        listening = Listening(broker)
        assert await broker.catalog.record(LOCAL, C1) is None
        await broker.catalog.open(LOCAL, C1, "desk")
        found = await record(broker)
        assert (found.workspace, found.status, found.last_seq) == ("desk", "idle", 0)
        assert len(listening.of(Opened)) == 1
        await broker.catalog.open(LOCAL, C1, "elsewhere")
        assert (await record(broker)).workspace == "desk"


async def test_looking_at_what_nobody_knows_leaves_nothing_behind() -> None:
    async with broker_on(MemoryStore()) as broker:
        assert await broker.catalog.record(LOCAL, C1) is None
        assert (await broker.catalog.details(LOCAL, C1)).model is None
        async with broker.watching():
            pass
        assert len(broker.conversations) == 0
        query = ConversationQuery(account=LOCAL.account, user=LOCAL.user, limit=10)
        assert await broker.catalog.list(LOCAL, query) == []


async def test_the_first_message_is_the_title_until_a_person_gives_one() -> None:
    async with broker_on(MemoryStore(), agents=[ScriptedAgent("ok")]) as broker:
        listening = Listening(broker)
        await broker.send("x" * 100)
        await broker.until_idle()
        assert (await record(broker)).title == "x" * 80
        await broker.catalog.set_title(LOCAL, C1, "mine")
        await broker.send("another")
        await broker.until_idle()
        assert (await record(broker)).title == "mine"
        assert [notice.title for notice in listening.of(TitleNotice)] == ["mine"]  # type: ignore[union-attr]


async def test_a_title_given_before_the_first_message_stays() -> None:
    async with broker_on(MemoryStore(), agents=[ScriptedAgent("ok")]) as broker:
        await broker.catalog.set_title(LOCAL, C1, "mine")
        await broker.send("hi")
        await broker.until_idle()
        assert (await record(broker)).title == "mine"


async def test_what_is_set_is_used_by_the_next_turn_and_what_a_turn_names_is_kept() -> None:
    agent = ScriptedAgent("ok")
    async with broker_on(MemoryStore(), agents=[agent]) as broker:
        body = TurnBody(message="", model="scripted/small", reasoning_effort="low")
        await broker.catalog.set_details(LOCAL, C1, body)
        await broker.send("one")
        await broker.until_idle()
        await broker.send("two", model="scripted/large")
        await broker.until_idle()
        await broker.send("three")
        await broker.until_idle()
        assert [request.model for request in agent.requests] == ["small", "large", "large"]
        assert [request.reasoning_effort for request in agent.requests] == ["low"] * 3
        details = await broker.catalog.details(LOCAL, C1)
        assert (details.model, details.reasoning_effort) == ("scripted/large", "low")


VERBS: dict[str, Callable[[Harness], Coroutine[Any, Any, object]]] = {
    "open": lambda broker: broker.catalog.open(LOCAL, C1, "desk"),
    "set_title": lambda broker: broker.catalog.set_title(LOCAL, C1, "new"),
    "set_details": lambda broker: broker.catalog.set_details(
        LOCAL, C1, TurnBody(message="", model="other/large", reasoning_effort="max")
    ),
    "clear_cwd": lambda broker: broker.catalog.clear_cwd(LOCAL, C1),
    "delete": lambda broker: broker.catalog.delete(LOCAL, C1),
}


@pytest.mark.parametrize("verb", VERBS)
async def test_a_verb_that_the_disk_refuses_changes_nothing(verb: str) -> None:
    store = FaultyStore(MemoryStore())
    async with broker_on(store, agents=[ScriptedAgent("ok")]) as broker:
        await broker.send("old")
        await broker.until_idle()
        before = await record(broker)
        # Somebody watches, so that it stays in memory.
        async with broker.watching():
            live = broker.live()
            shape = live.shape()
            store.fail(FULL)
            with pytest.raises(StorageFull):
                await VERBS[verb](broker)
            await broker.services.journal.idle()
            assert live.shape() == shape
            assert await record(broker) == before
            assert not live.is_deleting
            await broker.send("goes on")
            await broker.until_idle()
        assert (await record(broker)).title == "old"
        assert await audit(store) == []


@pytest.mark.parametrize("verb", ["open", "set_title", "set_details"])
async def test_a_verb_that_the_disk_refuses_makes_no_conversation(verb: str) -> None:
    store = FaultyStore(MemoryStore())
    async with broker_on(store, agents=[ScriptedAgent("ok")]) as broker:
        store.fail(FULL)
        with pytest.raises(StorageFull):
            await VERBS[verb](broker)
        assert len(broker.conversations) == 0
        assert await broker.catalog.record(LOCAL, C1) is None


@pytest.mark.parametrize(
    ("title", "text"),
    [
        (None, "Field 'title' is required and must be a non-empty string"),
        (" \n", "Field 'title' is required and must be a non-empty string"),
        (7, "Field 'title' is required and must be a non-empty string"),
        ("x" * 11, "Field 'title' must be at most 10 characters"),
    ],
)
def test_a_bad_title_is_refused(title: object, text: str) -> None:
    with pytest.raises(PeerError) as refused:
        check_title(title, 10)
    assert refused.value.message == text
    assert check_title("x" * 10, 10) == "x" * 10


# -- reading -----------------------------------------------------------------------------------


async def test_a_read_cursor_only_moves_forward_and_never_past_the_end() -> None:
    async with broker_on(MemoryStore(), agents=[ScriptedAgent("ok")]) as broker:
        listening = Listening(broker)
        await broker.send("hi")
        await broker.until_idle()
        assert await broker.catalog.read(LOCAL, C1, 1) == (1, 1)
        assert await broker.catalog.read(LOCAL, C1, 0) == (1, 1)
        assert await broker.catalog.read(LOCAL, C1, 99) == (2, 0)
        assert await broker.catalog.read(ANN, C1, 1) == (1, 1)
        told = [(n.user, n.last_read_seq, n.unread) for n in listening.of(ReadNotice)]  # type: ignore[union-attr]
        assert told == [("local", 1, 1), ("local", 2, 0), ("ann", 1, 1)]
        await broker.send("more")
        await broker.until_idle()
        assert await broker.catalog.read(LOCAL, C1, 0) == (2, 2)


async def test_nobody_reads_what_nobody_knows() -> None:
    async with broker_on(MemoryStore()) as broker:
        with pytest.raises(NotFound):
            await broker.catalog.read(LOCAL, C1, 1)


# -- forks -------------------------------------------------------------------------------------


async def test_a_fork_is_the_history_up_to_its_turn_and_goes_its_own_way() -> None:
    store = MemoryStore()
    async with broker_on(store, agents=[ScriptedAgent("answer")]) as broker:
        turns = []
        for text in ("one", "two", "three"):
            turns.append((await broker.send(text)).turn)
            await broker.until_idle()
        fork = await broker.catalog.fork(LOCAL, C1, turns[1])
        assert (await broker.lines(fork)) == (await broker.lines())[:4]
        found = await record(broker, fork)
        assert (found.last_seq, found.last_offset, found.title) == (4, 0, "one")
        assert found.session == (await record(broker)).session
        details = await broker.catalog.details(LOCAL, fork)
        assert details.forked_from == (C1, turns[1])
        await broker.send("elsewhere", fork)
        await broker.until_idle()
        await broker.catalog.delete(LOCAL, C1)
        assert [text for _, text in await broker.texts(fork)] == [
            "one",
            "answer",
            "two",
            "answer",
            "elsewhere",
            "answer",
        ]
        assert await audit(store) == []


async def test_only_a_sealed_turn_of_the_conversation_can_be_forked() -> None:
    async with broker_on(MemoryStore(), agents=[ScriptedAgent(FOR_EVER)]) as broker:
        running = (await broker.send("hi")).turn
        queued = (await broker.send("later", on_busy="queue")).turn
        for turn in (running, queued, TurnId("t-none")):
            with pytest.raises(NotFound, match="no sealed turn"):
                await broker.catalog.fork(LOCAL, C1, turn)
        with pytest.raises(NotFound):
            await broker.catalog.fork(LOCAL, ConversationId("never"), running)


async def test_a_fork_of_a_fork_is_a_fork() -> None:
    store = MemoryStore()
    async with broker_on(store, agents=[ScriptedAgent("answer")]) as broker:
        turn = (await broker.send("one")).turn
        await broker.until_idle()
        fork = await broker.catalog.fork(LOCAL, C1, turn)
        again = await broker.catalog.fork(LOCAL, fork, turn)
        assert await broker.lines(again) == await broker.lines()
        assert await audit(store) == []


async def test_forks_count_against_the_rate_of_sends() -> None:
    """Each writes a row for every turn before it: a loop of them costs more than sends do."""
    limits = Limits(sends_per_second_max=1, sends_burst_max=3)
    agents = [ScriptedAgent("answer")]
    async with broker_on(MemoryStore(), agents=agents, limits=limits) as broker:
        turn = (await broker.send("one")).turn
        await broker.until_idle()
        for _ in range(2):
            await broker.catalog.fork(LOCAL, C1, turn)
        with pytest.raises(RateLimited):
            await broker.catalog.fork(LOCAL, C1, turn)
        assert len(await broker.store.conversations(everything())) == 3


async def test_a_fork_that_the_disk_refuses_is_none() -> None:
    store = FaultyStore(MemoryStore())
    async with broker_on(store, agents=[ScriptedAgent("answer")]) as broker:
        turn = (await broker.send("one")).turn
        await broker.until_idle()
        store.fail(FULL)
        with pytest.raises(StorageFull):
            await broker.catalog.fork(LOCAL, C1, turn)
        assert len(await store.conversations(everything())) == 1


def everything() -> ConversationQuery:
    return ConversationQuery(account=LOCAL.account, user=LOCAL.user, limit=1_000)


# -- deletion ----------------------------------------------------------------------------------


async def test_a_deleted_conversation_is_gone_for_good() -> None:
    disk, ids = MemoryDisk(), SequentialIds()
    async with broker_on(MemoryStore(disk), agents=[ScriptedAgent("ok")], ids=ids) as broker:
        listening = Listening(broker)
        accepted = await broker.send("hi")
        await broker.until_idle()
        await broker.catalog.delete(LOCAL, C1)
        assert len(listening.of(DeletedNotice)) == 1
    async with broker_on(MemoryStore(disk), agents=[ScriptedAgent("ok")], ids=ids) as broker:
        for call in (
            lambda: broker.send("again"),
            lambda: broker.catalog.record(LOCAL, C1),
            lambda: broker.catalog.details(LOCAL, C1),
            lambda: broker.catalog.open(LOCAL, C1),
            lambda: broker.catalog.set_title(LOCAL, C1, "x"),
            lambda: broker.catalog.read(LOCAL, C1, 1),
            lambda: broker.catalog.fork(LOCAL, C1, accepted.turn),
            lambda: broker.catalog.delete(LOCAL, C1),
            lambda: broker.broker.close(LOCAL, C1),
        ):
            with pytest.raises(Gone):
                await call()
        assert await broker.store.conversations(everything()) == []
        assert len(broker.conversations) == 0


async def test_deletion_stops_the_turn_and_drops_what_waits() -> None:
    store = MemoryStore()
    agent = ScriptedAgent("said", FOR_EVER, steer=True)
    async with broker_on(store, agents=[agent]) as broker, broker.watching() as watcher:
        await broker.send("hi")
        await broker.send("queued", on_busy="queue")
        await broker.send("steered", on_busy="steer")
        await watcher.until_kind("text-delta")
        deleted: list[Live] = []
        live = broker.live()
        live.subscribers[_Subscriber(deleted)] = None
        await broker.catalog.delete(LOCAL, C1)
        assert watcher.kinds[-1] == "turn-sealed"
        assert deleted == [live]
        await settled()
        assert agent.messages == ["hi"]
        assert agent.gone == agent.requests
        assert broker.accounts.running_total == 0
        assert await store.unsealed() == []


class _Subscriber:
    def __init__(self, deleted: list[Live]) -> None:
        self._deleted = deleted

    def deleted(self, live: Live) -> None:
        self._deleted.append(live)


async def test_late_words_of_an_agent_do_not_bring_it_back() -> None:
    go_on = asyncio.Event()

    async def late(request: Any, emit: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            with anyio.CancelScope(shield=True):
                await go_on.wait()
                await emit(TextDelta("too late"))

    store = MemoryStore()
    async with broker_on(store, agents=[ScriptedAgent(late)]) as broker:
        await broker.send("hi")
        await broker.services.journal.idle()
        await settled()
        await broker.catalog.delete(LOCAL, C1)
        go_on.set()
        await settled()
        await broker.services.journal.idle()
        with pytest.raises(Gone):
            await broker.send("again")
        assert await store.conversations(everything()) == []


RACING: dict[str, Callable[[Harness, Accepted], Coroutine[Any, Any, object]]] = {
    "cancel": lambda broker, queued: broker.broker.cancel(LOCAL, C1, queued.turn),
    "close": lambda broker, _: broker.broker.close(LOCAL, C1),
    "stop": lambda broker, _: broker.stop(),
    "send": lambda broker, _: broker.send("more", on_busy="queue"),
    "set_title": lambda broker, _: broker.catalog.set_title(LOCAL, C1, "x"),
    "read": lambda broker, _: broker.catalog.read(LOCAL, C1, 1),
    "fork": lambda broker, _: broker.catalog.fork(LOCAL, C1, TurnId("t-1")),
    "open": lambda broker, _: broker.catalog.open(LOCAL, C1),
    "delete": lambda broker, _: broker.catalog.delete(LOCAL, C1),
}


@pytest.mark.parametrize("verb", RACING)
@pytest.mark.parametrize("steps", range(0, 12, 2))
async def test_whatever_meets_a_deletion_finds_it_there_or_gone_and_harms_nobody(
    verb: str, steps: int
) -> None:
    store = HeldStore(YieldingStore(MemoryStore()))
    agent = ScriptedAgent(script=lambda r: [FOR_EVER] if r.message == "runs" else ["ok"])
    async with broker_on(store, agents=[agent]) as broker:
        await broker.send("hi")
        await broker.until_idle()
        await broker.send("runs")
        queued = await broker.send("queued", on_busy="queue")

        async def later() -> object:
            for _ in range(steps):
                await checkpoint()
            return await RACING[verb](broker, queued)

        async with together(lambda: broker.catalog.delete(LOCAL, C1), later) as results:
            pass
        assert results[0] is None
        assert not isinstance(results[1], DispatchError) or isinstance(
            results[1], Gone | NotFound | Unavailable
        )
        await broker.services.journal.idle()
        with pytest.raises(Gone):
            await broker.send("again")
        assert (await broker.send("elsewhere", "c2")).place == "started"
        assert all(found.id != C1 for found in await store.conversations(everything()))


@pytest.mark.parametrize("verb", RACING)
async def test_whatever_meets_a_tombstone_on_its_way_to_disk_harms_nobody(verb: str) -> None:
    store = HeldStore(YieldingStore(MemoryStore()))
    agent = ScriptedAgent("ok")
    async with broker_on(store, agents=[agent]) as broker:
        await broker.send("hi")
        await broker.until_idle()
        broker.services.is_draining = True
        live = broker.live()
        async with broker.watching():
            queued = await _queued(broker, live)
            store.hold()
            async with together(lambda: broker.catalog.delete(LOCAL, C1)) as deleted:
                await store.reached()
                async with together(lambda: RACING[verb](broker, queued)) as results:
                    await settled()
                    store.release()
        broker.services.is_draining = False
        assert deleted == [None]
        assert not isinstance(results[0], DispatchError) or isinstance(results[0], Gone | NotFound)
        assert (await broker.send("elsewhere", "c2")).place == "started"


async def _queued(broker: Harness, live: Live) -> Accepted:
    """A message that waits while nothing runs, as in a daemon that drains."""
    broker.services.is_draining = False
    async with anyio.create_task_group() as tasks:
        gate = Gate()
        agent = broker.services.agents["scripted"]
        assert isinstance(agent, ScriptedAgent)
        agent._script = [gate]
        await broker.send("runs")
        queued = await broker.send("queued", on_busy="queue")
        broker.services.is_draining = True
        gate.open()
        current = live.current
        assert current is not None
        await current.sealed.wait()
        tasks.cancel_scope.cancel()
    assert [waiting.turn for waiting in live.state.queue] == [queued.turn]
    return queued


async def test_a_deletion_whose_caller_leaves_before_it_is_on_its_way_leaves_it_there() -> None:
    store = HeldStore(MemoryStore())
    agent = ScriptedAgent(script=lambda r: [FOR_EVER] if r.message == "hi" else ["ok"])
    async with broker_on(store, agents=[agent]) as broker:
        await broker.send("hi")
        await broker.send("queued", on_busy="queue")
        store.hold()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(broker.catalog.delete, LOCAL, C1)
            await store.reached()
            tasks.cancel_scope.cancel()
        store.release()
        await broker.until_idle()
        assert agent.messages == ["hi", "queued"]
        assert await audit(store) == []


async def test_a_deletion_whose_caller_leaves_while_it_is_on_its_way_happens() -> None:
    store = HeldStore(MemoryStore())
    async with broker_on(store, agents=[ScriptedAgent("ok")]) as broker:
        await broker.send("hi")
        await broker.until_idle()
        store.hold()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(broker.catalog.delete, LOCAL, C1)
            await store.reached()
            tasks.cancel_scope.cancel()
        async with together(lambda: broker.send("while it is written")) as results:
            await settled()
            assert results == [None]
            store.release()
        assert isinstance(results[0], Gone)
        with pytest.raises(Gone):
            await broker.send("after")
        assert len(broker.conversations) == 0


@pytest.mark.parametrize("is_refused", [False, True])
async def test_nobody_is_told_that_it_is_gone_before_the_disk_says_so(is_refused: bool) -> None:
    faulty = FaultyStore(MemoryStore())
    store = HeldStore(YieldingStore(faulty))
    async with broker_on(store, agents=[ScriptedAgent("ok")]) as broker:
        turn = (await broker.send("hi")).turn
        await broker.until_idle()
        async with broker.conversations.using(LOCAL, C1) as live:
            # These two have it in their hands already when the deletion begins.
            gate = Gate()
            allowed = partial(_slowly_allowed, gate)
            patched = mock.patch("dispatch.runtime.catalog.allowed_directory", allowed)
            store.hold()
            with patched:
                body = TurnBody(message="", cwd="/somewhere")
                async with together(
                    lambda: broker.catalog.set_details(LOCAL, C1, body),
                    lambda: broker.catalog.fork(LOCAL, C1, turn),
                    lambda: broker.catalog.delete(LOCAL, C1),
                    lambda: broker.send("more"),
                    lambda: broker.catalog.set_title(LOCAL, C1, "named"),
                    lambda: broker.catalog.record(LOCAL, C1),
                ) as results:
                    await store.reached()
                    await gate.reached()
                    gate.open()
                    await settled()
                    assert live.is_deleting
                    assert [r for r in results if isinstance(r, Gone)] == []
                    if is_refused:
                        faulty.fail(FULL)
                    store.release()
        if is_refused:
            assert isinstance(results[2], StorageFull)
            assert not any(isinstance(result, Gone) for result in results)
            await broker.until_idle()
            assert (await record(broker)).title == "named"
            assert await audit(store) == []
        else:
            assert results[2] is None
            told = [results[0], *results[3:]]
            assert [type(result) for result in told] == [Gone] * 4
            assert not isinstance(results[1], DispatchError) or isinstance(results[1], Gone)


async def _slowly_allowed(gate: Gate, *_: object) -> str:
    await gate.pass_through()
    return "/somewhere"


async def test_nobody_deletes_what_nobody_knows() -> None:
    async with broker_on(MemoryStore()) as broker:
        with pytest.raises(NotFound):
            await broker.catalog.delete(LOCAL, C1)


# -- who may -----------------------------------------------------------------------------------


async def test_a_reader_changes_nothing() -> None:
    async with broker_on(MemoryStore(), agents=[ScriptedAgent("ok")]) as broker:
        await broker.send("hi")
        await broker.until_idle()
        assert await broker.catalog.record(READER, C1) is not None
        for call in (
            lambda: broker.catalog.open(READER, C1),
            lambda: broker.catalog.set_title(READER, C1, "x"),
            lambda: broker.catalog.set_details(READER, C1, TurnBody(message="")),
            lambda: broker.catalog.clear_cwd(READER, C1),
            lambda: broker.catalog.fork(READER, C1, TurnId("t")),
            lambda: broker.catalog.delete(READER, C1),
        ):
            with pytest.raises(Forbidden):
                await call()


async def test_what_is_one_persons_own_is_forbidden_to_others() -> None:
    async with broker_on(MemoryStore(), agents=[ScriptedAgent("ok")]) as broker:
        async with broker.conversations.using(LOCAL, C1) as live:
            live.record.visibility = "user"
            await live.commit(live.write_row)
        other = Principal(LOCAL.account, UserId("ann"), frozenset({WATCH, SEND}))
        for call in (
            lambda: broker.catalog.record(other, C1),
            lambda: broker.send("hi", principal=other),
            lambda: broker.catalog.delete(other, C1),
            lambda: broker.broker.close(other, C1),
        ):
            with pytest.raises(Forbidden):
                await call()
        query = ConversationQuery(account=LOCAL.account, user=other.user, limit=10)
        assert await broker.catalog.list(other, query) == []


# -- what is in memory -------------------------------------------------------------------------


async def test_conversations_that_nobody_needs_leave_memory_the_longest_idle_first() -> None:
    limits = Limits(conversations_warm_max=3)
    async with broker_on(MemoryStore(), agents=[ScriptedAgent("ok")], limits=limits) as broker:
        for number in range(6):
            await broker.send("hi", f"c{number}")
            await broker.until_idle()
        assert [live.record.id for live in broker.conversations] == ["c3", "c4", "c5"]
        assert broker.services.feeds.statistics().feeds == 3
        await broker.send("again", "c0")
        await broker.until_idle()
        texts = await broker.texts("c0")
        assert [text for _, text in texts] == ["hi", "ok", "again", "ok"]
        assert await audit(broker.store) == []


async def test_one_that_is_watched_or_runs_or_waits_stays_in_memory() -> None:
    limits = Limits(conversations_warm_max=1)
    agent = ScriptedAgent(script=lambda r: [FOR_EVER] if r.message == "runs" else ["ok"])
    async with broker_on(MemoryStore(), agents=[agent], limits=limits) as broker:
        await broker.send("runs", "busy")
        async with broker.watching("watched") as watcher:
            for number in range(3):
                await broker.send("hi", f"c{number}")
                while broker.accounts.running_total > 1:
                    await checkpoint()
            names = {live.record.id for live in broker.conversations}
            assert {"busy", "watched"} <= names
            await broker.send("hi", "watched")
            await watcher.until_sealed()


async def test_however_many_ask_at_once_there_is_one_of_each() -> None:
    store = YieldingStore(MemoryStore())
    async with broker_on(store, agents=[ScriptedAgent("ok")]) as broker:
        lives: list[Live] = []

        async def load() -> None:
            async with broker.conversations.using(LOCAL, C1) as live:
                lives.append(live)
                await settled()

        async with together(*[load] * 10):
            pass
        assert len({id(live) for live in lives}) == 1
        assert len(broker.conversations) == 0


# -- retention ---------------------------------------------------------------------------------


async def test_events_are_forgotten_a_while_after_the_seal_and_chunks_are_not() -> None:
    clock = ManualClock()
    settings = RetentionSettings(events_seconds=100)
    async with broker_on(MemoryStore(), agents=[ScriptedAgent("ok")], clock=clock) as broker:
        await broker.send("hi")
        await broker.until_idle()
        assert await prune_events(broker.services, settings) == 0
        clock.advance(101)
        await broker.send("later")
        await broker.until_idle()
        assert await prune_events(broker.services, settings) == 5
        assert len(await broker.lines()) == 4
        key = broker.live().record.key
        assert [entry.offset for entry in await broker.history.events(key, 5)] == [6, 7, 8, 9, 10]


async def test_conversations_are_forgotten_a_while_after_their_last_activity() -> None:
    clock = ManualClock()
    settings = RetentionSettings(conversations_seconds=100)
    agent = ScriptedAgent(script=lambda r: [FOR_EVER] if r.message == "runs" else ["ok"])
    async with broker_on(MemoryStore(), agents=[agent], clock=clock) as broker:
        await broker.send("runs", "busy")
        await broker.send("hi", "old")
        while broker.accounts.running_total > 1:
            await checkpoint()
        clock.advance(101)
        await broker.send("hi", "new")
        while broker.accounts.running_total > 1:
            await checkpoint()
        assert await forget_conversations(broker.services, broker.catalog, settings) == 1
        names = {found.id for found in await broker.store.conversations(everything())}
        assert names == {"busy", "new"}
        keep = RetentionSettings()
        assert await forget_conversations(broker.services, broker.catalog, keep) == 0


async def test_one_that_somebody_takes_up_again_meanwhile_is_not_forgotten() -> None:
    clock = ManualClock()
    settings = RetentionSettings(conversations_seconds=100)

    class Slow(YieldingStore):
        async def idle_since(self, active_before_ms: int) -> list[ConversationRecord]:
            found = await super().idle_since(active_before_ms)
            await broker.send("back again")
            return found

    store = Slow(MemoryStore())
    async with broker_on(store, agents=[ScriptedAgent("ok")], clock=clock) as broker:
        await broker.send("hi")
        await broker.until_idle()
        clock.advance(101)
        assert await forget_conversations(broker.services, broker.catalog, settings) == 0
        await broker.until_idle()
        assert len(await broker.lines()) == 4
