"""The verbs, through the whole runtime: agents that do as they are told, a store that may wait."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from dispatch.agents.port import AgentFailure, Emit, Respond, Steer, TurnRequest
from dispatch.core.commands import Accepted, Send, TurnBody
from dispatch.core.events import (
    AgentEvent,
    Done,
    ErrorEvent,
    Request,
    RequestClosed,
    Response,
    Steering,
    StepComplete,
    TextDelta,
    TokenUsage,
    ToolCall,
    Usage,
    UserMessage,
)
from dispatch.core.identity import (
    LOCAL,
    SEND,
    WATCH,
    AccountId,
    ConversationId,
    Principal,
    TurnId,
    UserId,
)
from dispatch.errors import (
    Busy,
    Conflict,
    DispatchError,
    Forbidden,
    PeerError,
    RateLimited,
    StorageFailed,
    StorageFull,
    TooMany,
    Unavailable,
)
from dispatch.errors import RequestClosed as AlreadyClosed
from dispatch.settings import Limits
from dispatch.storage.memory import MemoryStore
from dispatch.storage.memory_disk import MemoryDisk
from dispatch.storage.port import Store
from dispatch.testing import (
    FOR_EVER,
    FaultyStore,
    Gate,
    Harness,
    HeldStore,
    ManualClock,
    ScriptedAgent,
    SequentialIds,
    Step,
    Watcher,
    YieldingStore,
    broker_on,
)
from dispatch.testing.audit import audit
from tests.runtime.conftest import Logs

C1 = ConversationId("c1")
FULL = StorageFull("no room")


def by_message(**scripts: list[Step]) -> Callable[[TurnRequest], list[Step]]:
    """What to do for a message; for any other: say `ok`."""
    return lambda request: scripts.get(request.message, ["ok"])


@asynccontextmanager
async def together(
    *calls: Callable[[], Coroutine[Any, Any, Any]],
) -> AsyncIterator[list[Any]]:
    """Run calls beside the body; their results or errors, in order, once it is left."""
    results: list[Any] = [None] * len(calls)

    async def run(index: int, call: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        try:
            results[index] = await call()
        except DispatchError as error:
            results[index] = error

    async with anyio.create_task_group() as tasks:
        for index, call in enumerate(calls):
            tasks.start_soon(run, index, call)
        yield results


@asynccontextmanager
async def watched(store: Store, **options: Any) -> AsyncIterator[tuple[Harness, Watcher]]:
    """A broker and somebody who watches `c1` from its first event."""
    async with broker_on(store, **options) as broker, broker.watching() as watcher:
        yield broker, watcher


async def settled() -> None:
    """Let everything that is ready run."""
    for _ in range(50):
        await asyncio.sleep(0)


# -- durable before visible --------------------------------------------------------------------


async def test_a_turn_is_shown_from_its_message_to_its_seal() -> None:
    store = MemoryStore()
    async with broker_on(store, agents=[ScriptedAgent("hel", "lo")]) as broker:
        async with broker.watching() as watcher:
            accepted = await broker.send("hi")
            assert (accepted.place, accepted.offset, accepted.duplicate) == ("started", 0, False)
            await watcher.until_sealed()
            assert watcher.kinds[:2] == ["user-message", "turn-start"]
            assert watcher.kinds[-2:] == ["done", "turn-sealed"]
            assert watcher.offsets == list(range(1, len(watcher.offsets) + 1))
        await broker.until_idle()
        assert await broker.texts() == [("user", "hi"), ("assistant", "hello")]
        assert await audit(store) == []


async def test_nobody_sees_anything_of_a_send_while_its_commit_is_held() -> None:
    store = HeldStore(MemoryStore())
    agent = ScriptedAgent("hello")
    told: list[Accepted] = []
    watching = watched(store, agents=[agent])
    async with watching as (broker, watcher), broker.watching() as other:
        store.hold()
        send = Send(body=TurnBody(message="secret"), conversation=C1)
        async with together(lambda: broker.broker.send(LOCAL, send, told.append)):
            await store.reached()
            await settled()
            assert watcher.entries == other.entries == []
            assert told == []
            assert agent.requests == []
            assert await broker.catalog.record(LOCAL, C1) is None
            assert await broker.lines() == []
            async with broker.watching() as late:
                assert late.entries == []
            store.release()
        await watcher.until_sealed()
        await other.until_sealed()
        assert watcher.entries == other.entries
        assert [accepted.place for accepted in told] == ["started"]


async def test_what_a_held_commit_would_change_of_a_conversation_is_not_told_either() -> None:
    store = HeldStore(MemoryStore())
    async with broker_on(store, agents=[ScriptedAgent("ok")]) as broker:
        await broker.catalog.set_details(LOCAL, C1, TurnBody(message="", model="scripted"))
        store.hold()
        async with together(lambda: broker.send("secret", model="scripted/large")):
            await store.reached()
            record = await broker.catalog.record(LOCAL, C1)
            assert record is not None
            assert (record.status, record.title, record.last_message) == ("idle", "", "")
            assert (await broker.catalog.details(LOCAL, C1)).model == "scripted"
            store.release()
        await broker.until_idle()
        record = await broker.catalog.record(LOCAL, C1)
        assert record is not None
        assert (record.status, record.title) == ("idle", "secret")
        assert (await broker.catalog.details(LOCAL, C1)).model == "scripted/large"


async def test_killed_while_the_commit_is_held_nobody_ever_saw_it_and_the_resend_runs_once() -> (
    None
):
    disk, ids = MemoryDisk(), SequentialIds()
    agent = ScriptedAgent("hello")
    store = HeldStore(MemoryStore(disk))
    async with broker_on(store, agents=[agent], ids=ids) as broker:
        async with broker.watching() as watcher:
            store.hold()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: broker.send("hi", client_id="m1"))
                await store.reached()
                tasks.cancel_scope.cancel()
        assert watcher.entries == []
    assert watcher.entries == []
    assert agent.requests == []
    reopened = MemoryStore(disk)
    async with broker_on(reopened, agents=[agent], ids=ids) as broker:
        async with broker.watching(after=0) as watcher:
            assert watcher.entries == []
            first = await broker.send("hi", client_id="m1")
            again = await broker.send("hi", client_id="m1")
            assert (first.duplicate, again.duplicate) == (False, True)
            assert again.turn == first.turn
            await watcher.until_sealed()
        await broker.until_idle()
        assert agent.messages == ["hi"]
        assert watcher.kinds.count("user-message") == 1
        assert await audit(reopened) == []


async def test_an_answer_is_not_shown_before_it_is_durable_however_fast_the_agent_goes_on() -> None:
    store = HeldStore(MemoryStore())
    gate = Gate()
    agent = ScriptedAgent("one ", gate, "two ", StepComplete(), "three")
    async with broker_on(store, agents=[agent]) as broker, broker.watching() as watcher:
        await broker.send("hi")
        await gate.reached()
        await watcher.until_kind("text-delta")
        store.hold()
        gate.open()
        await store.reached()
        await settled()
        assert watcher.kinds == ["user-message", "turn-start", "text-delta"]
        assert await broker.lines() == []
        store.release()
        await watcher.until_sealed()
        assert len(await broker.lines()) == 3


async def test_a_seal_means_that_history_and_metrics_are_readable() -> None:
    store = YieldingStore(MemoryStore())
    usage = TokenUsage(3, 4)
    async with watched(store, agents=[ScriptedAgent("x", Usage(usage))]) as (broker, watcher):
        for turn in range(1, 6):
            await broker.send("hi")
            await watcher.until_sealed(turn)
            assert len(await broker.texts()) == 2 * turn
            metrics = await store.metrics(broker.live().record.key)
            assert len(metrics) == turn
            assert b'"inputTokens":3' in metrics[-1].metrics


# -- where messages go -------------------------------------------------------------------------


async def test_a_busy_conversation_refuses_and_keeps_nothing_of_it() -> None:
    store = MemoryStore()
    async with broker_on(store, agents=[ScriptedAgent(FOR_EVER)]) as broker:
        await broker.send("first")
        with pytest.raises(Busy):
            await broker.send("second")
        await broker.stop()
        assert await broker.texts() == [("user", "first")]
        assert await audit(store) == []


async def test_queued_messages_run_one_after_the_other_in_order() -> None:
    store = MemoryStore()
    gate = Gate()
    agent = ScriptedAgent(script=by_message(first=[gate]))
    async with broker_on(store, agents=[agent]) as broker:
        await broker.send("first")
        places = [(await broker.send(text, on_busy="queue")).place for text in ("a", "b", "c")]
        assert places == ["queued"] * 3
        gate.open()
        await broker.until_idle()
        assert agent.messages == ["first", "a", "b", "c"]
        assert await audit(store) == []


async def test_an_interrupting_message_goes_ahead_of_the_queue() -> None:
    store = MemoryStore()
    agent = ScriptedAgent(script=by_message(first=[FOR_EVER]))
    async with broker_on(store, agents=[agent]) as broker:
        await broker.send("first")
        await broker.send("queued", on_busy="queue")
        await broker.send("urgent", on_busy="interrupt")
        await broker.until_idle()
        assert agent.messages == ["first", "urgent", "queued"]
        assert await audit(store) == []


async def test_after_a_seal_come_the_interrupting_message_the_held_sends_and_the_queue() -> None:
    store = HeldStore(MemoryStore())
    agent = ScriptedAgent(script=by_message(first=[FOR_EVER]))
    async with broker_on(store, agents=[agent]) as broker:
        await broker.send("first")
        await broker.send("queued", on_busy="queue")
        store.hold()
        async with together(
            lambda: broker.stop(),
            lambda: broker.send("held"),
            lambda: broker.send("urgent", on_busy="interrupt"),
            lambda: broker.send("queued too", on_busy="queue"),
        ) as results:
            await store.reached()
            await settled()
            store.release()
        assert [r.place if isinstance(r, Accepted) else r for r in results[1:]] == [
            "started",
            "started",
            "queued",
        ]
        await broker.until_idle()
        assert agent.messages == ["first", "urgent", "held", "queued", "queued too"]
        assert await audit(store) == []


async def test_a_send_in_reaction_to_the_seal_is_accepted() -> None:
    store = YieldingStore(MemoryStore())
    async with watched(store, agents=[ScriptedAgent("ok")]) as (broker, watcher):
        await broker.send("0")
        for turn in range(1, 20):
            await watcher.until_sealed(turn)
            assert (await broker.send(str(turn))).place == "started"
        await watcher.until_sealed(20)


async def test_a_message_interrupts_a_turn_whose_start_is_still_on_its_way() -> None:
    store = HeldStore(MemoryStore())
    agent = ScriptedAgent(script=by_message(first=[FOR_EVER]))
    async with broker_on(store, agents=[agent]) as broker:
        store.hold()
        async with together(
            lambda: broker.send("first"), lambda: broker.send("urgent", on_busy="interrupt")
        ):
            await store.reached()
            await settled()
            store.release()
        await broker.until_idle()
        assert [text for role, text in await broker.texts() if role == "user"] == [
            "first",
            "urgent",
        ]
        assert agent.messages[-1] == "urgent"
        assert await audit(store) == []


async def test_of_two_interrupting_messages_the_second_interrupts_the_first() -> None:
    store = HeldStore(MemoryStore())
    agent = ScriptedAgent(script=by_message(first=[FOR_EVER], second=[FOR_EVER]))
    async with broker_on(store, agents=[agent]) as broker:
        await broker.send("first")
        store.hold()
        async with together(
            lambda: broker.send("second", on_busy="interrupt"),
            lambda: broker.send("third", on_busy="interrupt"),
        ):
            await store.reached()
            await settled()
            store.release()
        await broker.until_idle()
        users = [text for role, text in await broker.texts() if role == "user"]
        assert users == ["first", "second", "third"]
        assert await audit(store) == []


async def test_a_queue_is_bounded() -> None:
    limits = Limits(queue_turns_max=2)
    async with broker_on(MemoryStore(), agents=[ScriptedAgent(FOR_EVER)], limits=limits) as broker:
        await broker.send("first")
        for text in ("a", "b"):
            await broker.send(text, on_busy="queue")
        with pytest.raises(TooMany, match="2 messages are queued"):
            await broker.send("c", on_busy="queue")


async def test_a_burst_of_messages_on_their_way_does_not_overfill_the_queue() -> None:
    store = HeldStore(MemoryStore())
    limits = Limits(queue_turns_max=2)
    async with broker_on(store, agents=[ScriptedAgent(FOR_EVER)], limits=limits) as broker:
        await broker.send("first")
        store.hold()

        async def queue(text: str) -> Accepted:
            return await broker.send(text, on_busy="queue")

        async with together(*[lambda n=n: queue(str(n)) for n in range(5)]) as results:
            await store.reached()
            await settled()
            store.release()
        assert sum(isinstance(result, TooMany) for result in results) == 3
        assert len(broker.live().state.queue) == 2


async def test_a_queued_message_can_be_cancelled_once() -> None:
    store = MemoryStore()
    gate = Gate()
    agent = ScriptedAgent(script=by_message(first=[gate]))
    async with broker_on(store, agents=[agent]) as broker:
        await broker.send("first")
        queued = await broker.send("a", on_busy="queue")
        assert await broker.broker.cancel(LOCAL, C1, queued.turn)
        assert not await broker.broker.cancel(LOCAL, C1, queued.turn)
        assert not await broker.broker.cancel(LOCAL, ConversationId("never"), queued.turn)
        gate.open()
        await broker.until_idle()
        assert agent.messages == ["first"]
        assert await audit(store) == []


async def test_who_cancels_the_queue_while_the_seal_is_on_its_way_leaves_it_idle() -> None:
    store = HeldStore(MemoryStore())
    agent = ScriptedAgent(script=by_message(first=[FOR_EVER]))
    async with broker_on(store, agents=[agent]) as broker:
        await broker.send("first")
        queued = await broker.send("a", on_busy="queue")
        store.hold()
        async with together(
            lambda: broker.stop(), lambda: broker.broker.cancel(LOCAL, C1, queued.turn)
        ):
            await store.reached()
            await settled()
            store.release()
        await broker.until_idle()
        assert agent.messages == ["first"]
        assert broker.live().state.status == "idle"
        assert await audit(store) == []


# -- stopping ----------------------------------------------------------------------------------


async def test_stop_ends_a_silent_agent_and_keeps_what_it_said() -> None:
    store = MemoryStore()
    call = ToolCall("k1", "read", b"{}", "s1")  # type: ignore[arg-type]
    agent = ScriptedAgent("so far", call, FOR_EVER)
    async with broker_on(store, agents=[agent]) as broker, broker.watching() as watcher:
        accepted = await broker.send("hi")
        await watcher.until_kind("tool-call")
        assert await broker.stop() == accepted.turn
        assert watcher.kinds[-3:] == ["tool-result", "done", "turn-sealed"]
        done = watcher.events[-2]
        assert isinstance(done, Done)
        assert done.reason == "aborted"
        await broker.until_idle()
        assert agent.gone == agent.requests
        assert [line.role for line in await broker.lines()] == [
            "user",
            "assistant",
            "assistant",
            "tool",
        ]
        assert await audit(store) == []


async def test_stopping_what_does_not_run_is_none() -> None:
    async with broker_on(MemoryStore(), agents=[ScriptedAgent("x")]) as broker:
        assert await broker.stop() is None
        await broker.send("hi")
        await broker.until_idle()
        assert await broker.stop() is None


async def test_only_the_turn_that_is_named_is_stopped() -> None:
    async with broker_on(MemoryStore(), agents=[ScriptedAgent(FOR_EVER)]) as broker:
        accepted = await broker.send("hi")
        assert await broker.broker.stop(LOCAL, C1, TurnId("t-other")) is None
        assert broker.live().current is not None
        assert await broker.broker.stop(LOCAL, C1, accepted.turn) == accepted.turn


async def test_a_stop_while_the_start_is_on_its_way_ends_the_turn_before_the_agent_is_asked() -> (
    None
):
    store = HeldStore(MemoryStore())
    agent = ScriptedAgent(FOR_EVER)
    async with broker_on(store, agents=[agent]) as broker, broker.watching() as watcher:
        store.hold()
        async with together(lambda: broker.send("hi"), lambda: broker.stop()) as results:
            await store.reached()
            await settled()
            assert watcher.entries == []
            store.release()
        accepted, stopped = results
        assert stopped == accepted.turn
        assert watcher.kinds == ["user-message", "turn-start", "done", "turn-sealed"]
        await broker.until_idle()
        assert await audit(store) == []


async def test_of_two_stops_one_ends_the_turn_and_both_return_when_it_is_sealed() -> None:
    store = YieldingStore(MemoryStore())
    async with broker_on(store, agents=[ScriptedAgent(FOR_EVER)]) as broker:
        accepted = await broker.send("hi")
        async with together(lambda: broker.stop(), lambda: broker.stop()) as results:
            pass
        assert sorted(results, key=str) == [None, accepted.turn]
        assert broker.live().current is None
        assert await audit(store) == []


async def test_an_agent_that_goes_on_after_its_end_is_not_heard() -> None:
    async def deaf(request: TurnRequest, emit: Emit) -> None:
        while True:
            try:
                await emit(TextDelta("more "))
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                await emit(TextDelta("even now"))
                raise

    store = MemoryStore()
    async with broker_on(store, agents=[ScriptedAgent(deaf)]) as broker:
        async with broker.watching() as watcher:
            await broker.send("hi")
            await watcher.until_kind("text-delta")
            await broker.stop()
            await broker.until_idle()
            assert watcher.kinds[-1] == "turn-sealed"
        assert await audit(store) == []


async def test_the_next_turn_waits_until_the_last_ones_agent_is_gone() -> None:
    lingers = asyncio.Event()

    async def slow_to_leave(request: TurnRequest, emit: Emit) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            with anyio.CancelScope(shield=True):
                await lingers.wait()

    agent = ScriptedAgent(script=by_message(first=[slow_to_leave]))
    async with broker_on(MemoryStore(), agents=[agent]) as broker:
        await broker.send("first")
        await agent.asked()
        await broker.stop()
        await broker.send("second")
        await settled()
        overtaken = agent.messages
        lingers.set()
        await broker.until_idle()
        assert overtaken == ["first"]
        assert agent.messages == ["first", "second"]


async def test_a_turn_that_never_got_its_agent_lets_nobody_overtake_the_one_before() -> None:
    lingers = asyncio.Event()

    async def slow_to_leave(request: TurnRequest, emit: Emit) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            with anyio.CancelScope(shield=True):
                await lingers.wait()

    agent = ScriptedAgent(script=by_message(first=[slow_to_leave]))
    async with broker_on(MemoryStore(), agents=[agent]) as broker:
        await broker.send("first")
        await agent.asked()
        await broker.stop()
        await broker.send("second")
        await broker.stop()
        await broker.send("third")
        await settled()
        overtaken = agent.messages
        lingers.set()
        await broker.until_idle()
        assert overtaken == ["first"]
        assert agent.messages == ["first", "third"]


# -- steering ----------------------------------------------------------------------------------


async def acknowledge(request: TurnRequest, emit: Emit) -> None:
    """Take one steering text and go on with it."""
    match await request.inbox.receive():
        case Steer(text=text):
            await emit(Steering(text))
            await emit(TextDelta(f"now {text}"))


async def test_a_steer_that_is_acknowledged_becomes_part_of_the_turn() -> None:
    store = MemoryStore()
    agent = ScriptedAgent("first ", acknowledge, steer=True)
    async with broker_on(store, agents=[agent]) as broker:
        await broker.send("hi")
        steered = await broker.send("left", on_busy="steer")
        assert steered.place == "steered"
        await broker.until_idle()
        assert await broker.texts() == [
            ("user", "hi"),
            ("assistant", "first "),
            ("user", "left"),
            ("assistant", "now left"),
        ]
        assert agent.messages == ["hi"]
        assert await audit(store) == []


async def test_the_acknowledgement_of_a_steer_says_its_senders_id() -> None:
    agent = ScriptedAgent(acknowledge, steer=True)
    async with watched(MemoryStore(), agents=[agent]) as (broker, watcher):
        await broker.send("hi")
        await broker.send("left", on_busy="steer", client_id="m-7")
        await watcher.until_sealed()
        assert Steering("left", "m-7") in watcher.events


async def test_a_steer_that_is_not_acknowledged_before_the_seal_becomes_a_turn() -> None:
    store = MemoryStore()
    gate = Gate()
    agent = ScriptedAgent(script=by_message(hi=[gate]), steer=True)
    async with broker_on(store, agents=[agent]) as broker:
        await broker.send("hi")
        steered = await broker.send("left", on_busy="steer")
        assert steered.place == "steered"
        gate.open()
        await broker.until_idle()
        assert agent.messages == ["hi", "left"]
        assert await audit(store) == []


async def test_a_steer_that_is_on_its_way_when_the_turn_ends_becomes_a_turn() -> None:
    store = HeldStore(MemoryStore())
    agent = ScriptedAgent(script=by_message(hi=[FOR_EVER]), steer=True)
    async with broker_on(store, agents=[agent]) as broker:
        await broker.send("hi")
        store.hold()
        async with together(
            lambda: broker.send("left", on_busy="steer"), lambda: broker.stop()
        ) as results:
            await store.reached()
            await settled()
            store.release()
        assert results[0].place == "steered"
        await broker.until_idle()
        assert agent.messages == ["hi", "left"]
        assert await audit(store) == []


async def test_an_agent_that_cannot_be_steered_gets_the_message_as_its_next_turn() -> None:
    gate = Gate()
    agent = ScriptedAgent(script=by_message(hi=[gate]))
    async with broker_on(MemoryStore(), agents=[agent]) as broker:
        await broker.send("hi")
        assert (await broker.send("left", on_busy="steer")).place == "queued"
        gate.open()
        await broker.until_idle()
        assert agent.messages == ["hi", "left"]


# -- requests ----------------------------------------------------------------------------------

ASK = Request("r1", "approval", "May I?")


async def ask(request: TurnRequest, emit: Emit) -> None:
    """Ask, and say what was answered."""
    await emit(ASK)
    match await request.inbox.receive():
        case Respond(response=response):
            await emit(TextDelta(f"approved={response.approved} reason={response.reason}"))


def answering(
    broker: Harness, *, approved: bool, by: Principal = LOCAL
) -> Callable[[], Coroutine[Any, Any, None]]:
    return lambda: broker.broker.respond(by, C1, Response("r1", approved=approved))


async def test_the_first_answer_wins_and_the_agent_gets_it() -> None:
    store = YieldingStore(MemoryStore())
    ann = Principal(LOCAL.account, UserId("ann"))
    async with broker_on(store, agents=[ScriptedAgent(ask)]) as broker:
        async with broker.watching() as watcher:
            await broker.send("hi")
            await watcher.until_kind("request")
            async with together(
                answering(broker, approved=True, by=ann), answering(broker, approved=False)
            ) as results:
                pass
            assert results[0] is None
            assert isinstance(results[1], AlreadyClosed)
            await watcher.until_sealed()
            closed = [event for event in watcher.events if isinstance(event, RequestClosed)]
            assert closed == [RequestClosed("r1", "answered", "ann", approved=True)]
        assert (await broker.texts())[-1] == ("assistant", "approved=True reason=None")
        assert await audit(store) == []


async def test_an_agent_never_acts_on_an_answer_that_a_crash_could_take_back() -> None:
    store = HeldStore(MemoryStore())
    async with watched(store, agents=[ScriptedAgent(ask)]) as (broker, watcher):
        await broker.send("hi")
        await watcher.until_kind("request")
        store.hold()
        async with together(answering(broker, approved=True)):
            await store.reached()
            await settled()
            current = broker.live().current
            assert current is not None
            assert current.inbox.receive_nowait() is None
            store.release()
        await watcher.until_sealed()


async def test_a_stop_closes_what_was_asked() -> None:
    async with broker_on(MemoryStore(), agents=[ScriptedAgent(ask)]) as broker:
        async with broker.watching() as watcher:
            await broker.send("hi")
            await watcher.until_kind("request")
            await broker.stop()
            assert RequestClosed("r1", "cancelled") in watcher.events
        with pytest.raises(AlreadyClosed):
            await broker.broker.respond(LOCAL, C1, Response("r1", approved=True))


async def test_an_open_request_is_replayed_to_who_comes_late() -> None:
    async with broker_on(MemoryStore(), agents=[ScriptedAgent(ask)]) as broker:
        async with broker.watching() as watcher:
            await broker.send("hi")
            await watcher.until_kind("request")
        async with broker.watching() as late:
            assert ASK in late.events


async def test_nobody_answers_in_a_conversation_that_nobody_knows() -> None:
    async with broker_on(MemoryStore(), agents=[ScriptedAgent(ask)]) as broker:
        with pytest.raises(AlreadyClosed):
            await broker.broker.respond(LOCAL, C1, Response("r1", approved=True))
        assert len(broker.conversations) == 0


# -- closing -----------------------------------------------------------------------------------


async def test_close_aborts_drops_the_queue_and_is_idempotent() -> None:
    store = MemoryStore()
    agent = ScriptedAgent(FOR_EVER, steer=True)
    async with broker_on(store, agents=[agent]) as broker:
        accepted = await broker.send("first")
        await broker.send("queued", on_busy="queue")
        await broker.send("steered", on_busy="steer")
        assert await broker.broker.close(LOCAL, C1) == accepted.turn
        assert await broker.broker.close(LOCAL, C1) is None
        await broker.until_idle()
        assert agent.messages == ["first"]
        record = await broker.catalog.record(LOCAL, C1)
        assert record is not None
        assert record.status == "closed"
        assert await audit(store) == []


async def test_who_closes_while_the_start_is_on_its_way_finds_it_closed() -> None:
    store = HeldStore(MemoryStore())
    agent = ScriptedAgent(FOR_EVER)
    async with broker_on(store, agents=[agent]) as broker:
        store.hold()
        async with together(
            lambda: broker.send("hi"), lambda: broker.broker.close(LOCAL, C1)
        ) as results:
            await store.reached()
            await settled()
            store.release()
        assert results[1] == results[0].turn
        await broker.until_idle()
        record = await broker.catalog.record(LOCAL, C1)
        assert record is not None
        assert record.status == "closed"
        assert await audit(store) == []


async def test_a_close_stands_when_the_start_it_met_is_refused() -> None:
    faulty = FaultyStore(MemoryStore())
    store = HeldStore(faulty)
    async with broker_on(store, agents=[ScriptedAgent("ok")]) as broker:
        await broker.send("once")
        await broker.until_idle()
        store.hold()
        async with together(
            lambda: broker.send("hi"), lambda: broker.broker.close(LOCAL, C1)
        ) as results:
            await store.reached()
            await settled()
            faulty.fail(FULL)
            store.release()
        assert isinstance(results[0], StorageFull)
        record = await broker.catalog.record(LOCAL, C1)
        assert record is not None
        assert record.status == "closed"
        assert broker.live().state.status == "closed"


async def test_a_closed_conversation_is_reopened_by_a_message() -> None:
    store = MemoryStore()
    async with broker_on(store, agents=[ScriptedAgent("ok")]) as broker:
        await broker.send("one")
        await broker.until_idle()
        await broker.broker.close(LOCAL, C1)
        await broker.send("two")
        await broker.until_idle()
        record = await broker.catalog.record(LOCAL, C1)
        assert record is not None
        assert record.status == "idle"


async def test_closing_what_nobody_knows_changes_nothing() -> None:
    async with broker_on(MemoryStore()) as broker:
        assert await broker.broker.close(LOCAL, C1) is None
        assert await broker.catalog.record(LOCAL, C1) is None
        assert len(broker.conversations) == 0


# -- exactly once ------------------------------------------------------------------------------


@pytest.mark.parametrize("conversation", ["c1", None])
async def test_the_same_send_from_many_connections_at_once_runs_once(
    conversation: str | None,
) -> None:
    store = YieldingStore(MemoryStore())
    agent = ScriptedAgent("ok")
    async with broker_on(store, agents=[agent]) as broker:

        def send() -> Coroutine[Any, Any, Accepted]:
            return broker.send("hi", conversation, client_id="m1")

        async with together(*[send] * 8) as results:
            pass
        assert [type(result) for result in results] == [Accepted] * 8
        assert len({(result.conversation, result.turn) for result in results}) == 1
        assert sorted(result.duplicate for result in results) == [False] + [True] * 7
        await broker.until_idle()
        assert agent.messages == ["hi"]
        assert await audit(store) == []


@pytest.mark.parametrize("on_busy", ["queue", "steer", "interrupt"])
async def test_a_repeat_is_told_what_the_first_was_told(on_busy: Any) -> None:
    disk, ids = MemoryDisk(), SequentialIds()
    agent = ScriptedAgent(script=by_message(first=[FOR_EVER]), steer=True)
    async with broker_on(YieldingStore(MemoryStore(disk)), agents=[agent], ids=ids) as broker:
        await broker.send("first")

        async def send() -> Accepted:
            return await broker.send("again", on_busy=on_busy, client_id="m1")

        async with together(send, send) as results:
            pass
        told = await send()
        first = next(result for result in results if not result.duplicate)
        assert told.duplicate
        assert (told.turn, told.place, told.offset) == (first.turn, first.place, first.offset)
    async with broker_on(MemoryStore(disk), agents=[agent], ids=ids) as broker:
        assert await broker.send("again", on_busy=on_busy, client_id="m1") == told


async def test_the_same_id_with_another_message_is_a_conflict() -> None:
    store = YieldingStore(MemoryStore())
    async with broker_on(store, agents=[ScriptedAgent("ok")]) as broker:
        async with together(
            lambda: broker.send("one", client_id="m1"), lambda: broker.send("two", client_id="m1")
        ) as results:
            pass
        assert isinstance(results[0], Accepted)
        assert isinstance(results[1], Conflict)
        with pytest.raises(Conflict):
            await broker.send("three", client_id="m1")
        await broker.until_idle()
        assert await audit(store) == []


async def test_ids_of_other_users_and_conversations_are_others() -> None:
    ann = Principal(LOCAL.account, UserId("ann"))
    agent = ScriptedAgent("ok")
    async with broker_on(MemoryStore(), agents=[agent]) as broker:
        sends = [
            await broker.send("hi", "c1", client_id="m1"),
            await broker.send("hi", "c2", client_id="m1"),
            await broker.send("hi", None, client_id="m1"),
            await broker.send("hi", "c3", client_id="m1", principal=ann),
        ]
        assert not any(accepted.duplicate for accepted in sends)
        await broker.until_idle()
        assert len(agent.messages) == 4


async def test_a_refused_send_may_be_sent_again_under_its_id() -> None:
    store = YieldingStore(MemoryStore())
    gate = Gate()
    agent = ScriptedAgent(script=by_message(first=[gate]))
    async with broker_on(store, agents=[agent]) as broker:
        await broker.send("first")
        for _ in range(2):
            with pytest.raises(Busy):
                await broker.send("second", client_id="m1")
        gate.open()
        await broker.until_idle()
        assert not (await broker.send("second", client_id="m1")).duplicate


async def test_an_acknowledgement_that_was_lost_with_the_daemon_is_given_again() -> None:
    disk, ids = MemoryDisk(), SequentialIds()
    agent = ScriptedAgent(FOR_EVER)
    faulty = FaultyStore(MemoryStore(disk))

    async def until_it_dies() -> None:
        async with broker_on(faulty, agents=[agent], ids=ids) as broker:
            faulty.fail_behind(StorageFailed("nobody knows"))
            await broker.send("hi", client_id="m1")

    with pytest.raises(BaseExceptionGroup):
        await until_it_dies()
    assert agent.requests == []
    async with broker_on(MemoryStore(disk), agents=[agent], ids=ids) as broker:
        again = await broker.send("hi", client_id="m1")
        assert again.duplicate
        assert await audit(broker.store) == []
        assert [text for role, text in await broker.texts() if role == "user"] == ["hi"]
        assert agent.requests == []


async def test_a_sender_who_leaves_harms_nobody_and_finds_the_turn_when_coming_back() -> None:
    store = HeldStore(MemoryStore())
    agent = ScriptedAgent("ok")
    async with broker_on(store, agents=[agent]) as broker:
        store.hold()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: broker.send("hi", client_id="m1"))
            await store.reached()
            tasks.cancel_scope.cancel()
        async with together(lambda: broker.send("hi", client_id="m1")) as results:
            await settled()
            store.release()
        assert results[0].duplicate
        await broker.until_idle()
        assert agent.messages == ["hi"]
        assert await audit(store) == []


# -- a disk that takes no more -----------------------------------------------------------------


async def test_a_full_disk_refuses_a_first_send_and_leaves_no_trace() -> None:
    store = FaultyStore(MemoryStore())
    agent = ScriptedAgent("ok")
    async with broker_on(store, agents=[agent]) as broker:
        async with broker.watching() as watcher:
            store.fail(FULL)
            with pytest.raises(StorageFull):
                await broker.send("hi")
            live = broker.live()
            assert (live.state.status, live.state.running) == ("idle", None)
            assert (live.record.title, live.record.last_message) == ("", "")
            assert live.current is None
            assert broker.accounts.running_total == 0
            assert await broker.catalog.record(LOCAL, C1) is None
            assert watcher.entries == []
            await broker.services.journal.idle()
            accepted = await broker.send("later")
            assert accepted.offset == 0
            await watcher.until_sealed()
        assert agent.messages == ["later"]
        assert (await broker.catalog.record(LOCAL, C1)).title == "later"  # type: ignore[union-attr]
        assert await audit(store) == []


async def test_once_the_disk_has_room_again_sends_are_accepted_though_nothing_else_happened() -> (
    None
):
    store = FaultyStore(MemoryStore())
    async with broker_on(store, agents=[ScriptedAgent("ok")]) as broker:
        store.break_down(FULL)
        with pytest.raises(Unavailable):
            await broker.send("hi")
        store.repair()
        await broker.services.journal.idle()
        assert broker.services.journal.trouble is None
        assert (await broker.send("hi")).place == "started"


async def test_a_full_disk_keeps_what_a_running_turn_says_until_it_has_room() -> None:
    store = FaultyStore(MemoryStore())
    gate, end = Gate(), Gate()
    agent = ScriptedAgent("one ", gate, "two ", StepComplete(), "three ", end)
    async with broker_on(store, agents=[agent]) as broker, broker.watching() as watcher:
        await broker.send("hi")
        await watcher.until_kind("text-delta")
        store.break_down(FULL)
        gate.open()
        await end.reached()
        with pytest.raises(Unavailable):
            await broker.send("more", on_busy="queue")
        with pytest.raises(Unavailable):
            await broker.send("elsewhere", "c2")
        assert "step-complete" not in watcher.kinds
        store.repair()
        end.open()
        await watcher.until_sealed()
        await broker.until_idle()
        assert [text for _, text in await broker.texts()] == ["hi", "one two ", "three "]
        assert broker.accounts.running_total == 0
        assert await audit(store) == []


async def test_a_seal_that_finds_the_disk_full_is_written_later_and_the_queue_goes_on() -> None:
    store = FaultyStore(MemoryStore())
    agent = ScriptedAgent(script=by_message(first=[FOR_EVER]))
    async with broker_on(store, agents=[agent]) as broker:
        await broker.send("first")
        await broker.send("queued", on_busy="queue")
        store.break_down(FULL)
        async with together(lambda: broker.stop()) as results:
            await settled()
            assert broker.live().current is not None
            store.repair()
        assert results[0] is not None
        await broker.until_idle()
        assert agent.messages == ["first", "queued"]
        assert await audit(store) == []


async def test_what_was_decided_while_a_refused_start_was_on_its_way_stays() -> None:
    faulty = FaultyStore(MemoryStore())
    store = HeldStore(faulty)
    async with broker_on(store, agents=[ScriptedAgent("ok")]) as broker:
        await broker.send("once")
        await broker.until_idle()
        store.hold()
        async with together(lambda: broker.send("hi")) as sent:
            await store.reached()
            async with together(lambda: broker.catalog.set_title(LOCAL, C1, "named")) as named:
                await settled()
                faulty.fail(FULL)
                store.release()
        assert isinstance(sent[0], StorageFull)
        assert named == [None]
        record = await broker.catalog.record(LOCAL, C1)
        assert record is not None
        assert (record.title, record.status) == ("named", "idle")


async def test_a_fault_that_cannot_be_mended_ends_the_broker_and_loses_nothing() -> None:
    disk, ids = MemoryDisk(), SequentialIds()
    store = FaultyStore(MemoryStore(disk))
    agent = ScriptedAgent("said ", FOR_EVER)

    async def until_it_dies() -> None:
        running = broker_on(store, agents=[agent], ids=ids)
        async with running as broker, broker.watching() as watcher:
            await broker.send("hi")
            await watcher.until_kind("text-delta")
            store.fail(StorageFailed("gone"))
            await broker.stop()

    with pytest.raises(BaseExceptionGroup) as ended:
        await until_it_dies()
    assert ended.group_contains(StorageFailed)
    async with broker_on(MemoryStore(disk), agents=[agent], ids=ids) as broker:
        assert ("assistant", "said ") in await broker.texts()
        assert await audit(broker.store) == []


# -- agents ------------------------------------------------------------------------------------


async def test_an_agent_that_never_waits_is_held_back_and_others_run() -> None:
    said = 0

    async def flood(request: TurnRequest, emit: Emit) -> None:
        nonlocal said
        while True:
            await emit(TextDelta("x" * 500))
            said += 500

    store = HeldStore(MemoryStore())
    limits = Limits(pending_bytes_max=10_000, delta_bytes_max=2_000, ring_bytes_max=5_000_000)
    agent = ScriptedAgent(script=by_message(flood=[flood]))
    async with broker_on(store, agents=[agent], limits=limits) as broker:
        async with broker.watching() as watcher:
            await broker.send("flood")
            await watcher.until_kind("text-delta", 3)
            store.hold()
            await store.reached()
            await settled()
            before = said
            pending = broker.live().outbox.bytes_pending
            assert pending <= limits.pending_bytes_max + 500
            await settled()
            assert said == before
            store.release()
            await broker.send("quick", "c2")
            while broker.live("c2").current is not None:
                await asyncio.sleep(0)
            assert ("assistant", "ok") in await broker.texts("c2")
            await broker.stop()
        await broker.until_idle()
        assert await audit(store) == []


@pytest.mark.parametrize("stubborn", [False, True])
async def test_a_turn_over_its_bytes_ends_and_goes_no_further(stubborn: bool) -> None:
    async def endless(request: TurnRequest, emit: Emit) -> None:
        for _ in range(200):
            try:
                await emit(TextDelta("x" * 100))
            except AgentFailure:
                if not stubborn:
                    raise

    store = MemoryStore()
    limits = Limits(turn_bytes_max=1_000, event_bytes_max=1_000, staged_bytes_max=1_000)
    async with broker_on(store, agents=[ScriptedAgent(endless)], limits=limits) as broker:
        async with broker.watching() as watcher:
            await broker.send("hi")
            await watcher.until_sealed()
            assert sum(len(entry.payload) for entry in watcher.entries if entry.delta) <= 1_200
        await broker.until_idle()
        codes = [e.code for e in watcher.events if isinstance(e, ErrorEvent)]
        assert codes == ["turn_too_large"]
        assert await audit(store) == []


@pytest.mark.parametrize(
    "event",
    [
        TextDelta("x" * 3_000),
        ToolCall("k", "n" * 3_000, b"{}"),  # type: ignore[arg-type]
        ErrorEvent("x" * 3_000),
    ],
    ids=lambda event: type(event).__name__,
)
async def test_an_event_over_its_bytes_ends_the_turn(event: AgentEvent) -> None:
    store = MemoryStore()
    limits = Limits(event_bytes_max=2_000, delta_bytes_max=1_000)
    async with broker_on(store, agents=[ScriptedAgent("a", event)], limits=limits) as broker:
        async with broker.watching() as watcher:
            await broker.send("hi")
            await watcher.until_sealed()
            (error,) = [e for e in watcher.events if isinstance(e, ErrorEvent)]
            assert error == ErrorEvent("an event is over 2000 bytes", "event_too_large")
        await broker.until_idle()
        assert await audit(store) == []


async def test_text_that_is_longer_than_a_delta_may_be_is_cut_and_kept_whole() -> None:
    limits = Limits(delta_bytes_max=600)
    said = "é\n\x00" * 500
    async with broker_on(MemoryStore(), agents=[ScriptedAgent(said)], limits=limits) as broker:
        async with broker.watching() as watcher:
            await broker.send("hi")
            await watcher.until_sealed()
            sizes = [len(entry.payload) for entry in watcher.entries if entry.delta]
            assert len(sizes) > 1
            assert max(sizes) <= 600 + 60
        assert (await broker.texts())[-1] == ("assistant", said)


async def test_an_agent_that_takes_too_long_is_ended() -> None:
    store = MemoryStore()
    limits = Limits(turn_seconds_max=0.01)
    async with broker_on(store, agents=[ScriptedAgent("a", FOR_EVER)], limits=limits) as broker:
        async with broker.watching() as watcher:
            await broker.send("hi")
            await watcher.until_sealed()
            (error,) = [e for e in watcher.events if isinstance(e, ErrorEvent)]
            assert error == ErrorEvent("the turn took longer than 0.01 seconds", "timeout")
        await broker.until_idle()
        assert await audit(store) == []


async def test_an_agents_own_time_out_is_its_failure_and_not_the_deadline() -> None:
    async with watched(MemoryStore(), agents=[ScriptedAgent(TimeoutError("x"))]) as (
        broker,
        watcher,
    ):
        await broker.send("hi")
        await watcher.until_sealed()
        (error,) = [e for e in watcher.events if isinstance(e, ErrorEvent)]
        assert error.code == "agent_failed"


@pytest.mark.parametrize("is_requested", [False, True])
async def test_a_cancellation_of_the_agents_own_making_is_its_failure(is_requested: bool) -> None:
    async def strange(request: TurnRequest, emit: Emit) -> None:
        if is_requested:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        raise asyncio.CancelledError

    store = MemoryStore()
    async with broker_on(store, agents=[ScriptedAgent(strange)]) as broker:
        async with broker.watching() as watcher:
            await broker.send("hi")
            await watcher.until_sealed()
            assert ErrorEvent('agent "scripted" failed', "agent_failed") in watcher.events
        await broker.until_idle()
        assert await audit(store) == []


async def test_an_unknown_agent_is_an_error_inside_the_turn() -> None:
    store = MemoryStore()
    async with broker_on(store, agents=[ScriptedAgent("ok")]) as broker:
        async with broker.watching() as watcher:
            await broker.send("hi", model="nobody/large")
            await watcher.until_sealed()
            assert ErrorEvent('unknown agent "nobody"', "unknown_agent") in watcher.events
            done = watcher.events[-2]
            assert isinstance(done, Done)
            assert done.reason == "error"
        await broker.until_idle()
        assert await audit(store) == []


async def test_what_an_agent_died_of_is_logged_and_not_shown(logs: Logs) -> None:
    secret = "token=abc123"
    async with watched(MemoryStore(), agents=[ScriptedAgent("a", ValueError(secret))]) as (
        broker,
        watcher,
    ):
        await broker.send("hi")
        await watcher.until_sealed()
        assert ErrorEvent('agent "scripted" failed', "agent_failed") in watcher.events
        assert not any(secret.encode() in entry.payload for entry in watcher.entries)
    assert "turn.agent_failed" in [log["event"] for log in logs]


async def test_a_failure_of_the_agents_own_says_what_it_says() -> None:
    failure = AgentFailure("the model is asleep", "asleep")
    async with watched(MemoryStore(), agents=[ScriptedAgent(failure)]) as (broker, watcher):
        await broker.send("hi")
        await watcher.until_sealed()
        assert ErrorEvent("the model is asleep", "asleep") in watcher.events


@pytest.mark.parametrize(
    "event", [UserMessage("I am you"), RequestClosed("r1", "answered"), "not an event"], ids=type
)
async def test_an_agent_can_only_say_what_is_an_agents_to_say(event: Any) -> None:
    async def impostor(request: TurnRequest, emit: Emit) -> None:
        await emit(event)

    async with watched(MemoryStore(), agents=[ScriptedAgent(impostor)]) as (broker, watcher):
        await broker.send("hi")
        await watcher.until_sealed()
        (error,) = [e for e in watcher.events if isinstance(e, ErrorEvent)]
        assert error.code == "bad_event"


async def test_an_agents_last_word_names_the_reason_and_nothing_comes_after_it() -> None:
    store = MemoryStore()
    done = Done("max-steps", usage=TokenUsage(1, 2), context_size=9)
    agent = ScriptedAgent(script=by_message(late=[done, "too late"], good=["a", done]))
    async with broker_on(store, agents=[agent]) as broker, broker.watching() as watcher:
        await broker.send("good")
        await watcher.until_sealed()
        shown = watcher.events[-2]
        assert isinstance(shown, Done)
        assert (shown.reason, shown.usage, shown.context_size) == ("max-steps", TokenUsage(1, 2), 9)
        await broker.send("late")
        await watcher.until_sealed(2)
        codes = [e.code for e in watcher.events if isinstance(e, ErrorEvent)]
        assert codes == ["bad_event"]
        await broker.until_idle()
        assert await audit(store) == []


async def test_a_client_may_only_name_a_directory_that_the_agent_allows(tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    (allowed / "inner").mkdir(parents=True)
    (allowed / "out").symlink_to(tmp_path)
    free = ScriptedAgent("ok", name="free", cwd_roots=(allowed,))
    strict = ScriptedAgent("ok", name="strict")
    async with broker_on(MemoryStore(), agents=[free, strict]) as broker:

        async def send(cwd: Path, model: str) -> None:
            body = TurnBody(message="hi", model=model, cwd=str(cwd))
            await broker.broker.send(LOCAL, Send(body=body, conversation=C1), lambda _: None)
            await broker.until_idle()

        await send(allowed / "inner", "free")
        assert free.requests[-1].cwd == str(allowed / "inner")
        for cwd in (tmp_path, allowed / "out", allowed / "inner" / ".." / "..", allowed / "no"):
            with pytest.raises(PeerError, match="'cwd'"):
                await send(cwd, "free")
        with pytest.raises(PeerError, match="'cwd' is not allowed"):
            await send(allowed, "strict")


# -- who may -----------------------------------------------------------------------------------


async def test_every_verb_asks_for_the_right_to_send() -> None:
    reader = Principal(LOCAL.account, UserId("reader"), frozenset({WATCH}))
    async with broker_on(MemoryStore(), agents=[ScriptedAgent(FOR_EVER)]) as broker:
        await broker.send("hi")
        verbs = broker.broker
        for verb in (
            lambda: broker.send("x", principal=reader),
            lambda: verbs.stop(reader, C1),
            lambda: verbs.close(reader, C1),
            lambda: verbs.cancel(reader, C1, TurnId("t")),
            lambda: verbs.respond(reader, C1, Response("r")),
        ):
            with pytest.raises(Forbidden):
                await verb()


async def test_another_accounts_conversation_of_the_same_name_is_another() -> None:
    stranger = Principal(AccountId("other"), UserId("eve"), frozenset({WATCH, SEND}))
    async with broker_on(MemoryStore(), agents=[ScriptedAgent(FOR_EVER)]) as broker:
        mine = await broker.send("hi")
        assert await broker.broker.stop(stranger, C1) is None
        theirs = await broker.send("hi", principal=stranger)
        assert theirs.turn != mine.turn
        assert await broker.broker.stop(stranger, C1) == theirs.turn
        assert broker.live().current is not None


async def test_an_account_is_bounded_in_what_runs_also_in_a_burst() -> None:
    store = YieldingStore(MemoryStore())
    limits = Limits(turns_running_max=3)
    async with broker_on(store, agents=[ScriptedAgent(FOR_EVER)], limits=limits) as broker:

        async def send(conversation: str) -> Accepted:
            return await broker.send("hi", conversation)

        async with together(*[lambda n=n: send(f"c{n}") for n in range(8)]) as results:
            pass
        assert sum(isinstance(result, Accepted) for result in results) == 3
        assert sum(isinstance(result, TooMany) for result in results) == 5
        assert broker.accounts.running_total == 3


async def test_an_account_is_bounded_in_how_fast_it_sends() -> None:
    clock = ManualClock()
    limits = Limits(sends_per_second_max=1, sends_burst_max=2)
    agents = [ScriptedAgent("ok")]
    async with broker_on(MemoryStore(), agents=agents, limits=limits, clock=clock) as broker:
        await broker.send("hi", "c1")
        await broker.send("hi", "c2")
        with pytest.raises(RateLimited) as refused:
            await broker.send("hi", "c3")
        assert refused.value.retry_after_ms == 1_000
        clock.advance(1.0)
        await broker.send("hi", "c3")


# -- the end -----------------------------------------------------------------------------------


async def test_a_drain_refuses_what_is_new_and_seals_what_runs_as_interrupted() -> None:
    disk = MemoryDisk()
    store = MemoryStore(disk)
    agent = ScriptedAgent("said ", FOR_EVER)
    async with broker_on(store, agents=[agent]) as broker, broker.watching() as watcher:
        await broker.send("hi")
        await broker.send("queued", on_busy="queue")
        await watcher.until_kind("text-delta")
        await broker.broker.drain(0.01)
        done = watcher.events[-2]
        assert isinstance(done, Done)
        assert done.reason == "interrupted"
        with pytest.raises(Unavailable):
            await broker.send("new", "c2")
        with pytest.raises(Unavailable):
            await broker.send("new", on_busy="queue")
        assert agent.messages == ["hi"]
    reopened = MemoryStore(disk)
    async with broker_on(reopened, agents=[ScriptedAgent("ok")]) as broker:
        await broker.until_idle()
        users = [text for role, text in await broker.texts() if role == "user"]
        assert users == ["hi", "queued"]
        assert await audit(reopened) == []


async def test_a_drain_waits_for_turns_that_end_in_time() -> None:
    gate = Gate()
    async with broker_on(MemoryStore(), agents=[ScriptedAgent("a", gate)]) as broker:
        await broker.send("hi")
        await gate.reached()
        async with together(lambda: broker.broker.drain(60)):
            await settled()
            gate.open()
        assert [text for _, text in await broker.texts()] == ["hi", "a"]


async def test_a_drain_seals_a_turn_whose_start_is_still_on_its_way(logs: Logs) -> None:
    store = HeldStore(MemoryStore())
    agent = ScriptedAgent(FOR_EVER)
    async with broker_on(store, agents=[agent]) as broker:
        store.hold()
        async with together(lambda: broker.send("hi"), lambda: broker.broker.drain(0)):
            await store.reached()
            await until_logged(logs, "broker.draining")
            store.release()
        assert broker.live().current is None
        assert await audit(store) == []


async def until_logged(logs: Logs, event: str) -> None:
    while event not in [log["event"] for log in logs]:
        await asyncio.sleep(0)
