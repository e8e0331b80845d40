"""Resuming the last turn, which failed: a turn without a message goes on where it broke off."""

import anyio
import pytest

from dispatch.agents.port import AgentFailure, Emit, TurnRequest
from dispatch.core.commands import Accepted, Send, Truncate, TurnBody
from dispatch.core.content import RESUMED, StoredLine
from dispatch.core.events import Image, TextDelta, TurnStart
from dispatch.core.identity import LOCAL, WATCH, ConversationId, Principal, TurnId, UserId
from dispatch.errors import (
    Busy,
    Conflict,
    DispatchError,
    Forbidden,
    InTimeline,
    NotFound,
    NotResumable,
    StorageFull,
)
from dispatch.storage.memory import MemoryStore
from dispatch.storage.memory_disk import MemoryDisk
from dispatch.testing import (
    FOR_EVER,
    FaultyStore,
    Gate,
    Harness,
    HeldStore,
    ScriptedAgent,
    SequentialIds,
    Step,
    StoreWrapper,
    broker_on,
    guard,
)
from dispatch.testing.audit import audit

C1 = ConversationId("c1")
BROKEN = AgentFailure("the line broke")


class InTurn:
    """An agent whose turns do one script after the other; `requests` are what it was asked."""

    def __init__(self, *scripts: list[Step]) -> None:
        self._scripts = list(scripts)
        self.agent = ScriptedAgent(script=lambda _: self._scripts.pop(0))

    @property
    def requests(self) -> list[TurnRequest]:
        return self.agent.requests


async def failed(broker: Harness, message: str = "count") -> str:
    turn = (await broker.send(message)).turn
    await broker.until_idle()
    return turn


async def test_a_failed_turn_goes_on_in_a_turn_of_its_own_without_a_message() -> None:
    store, agent = MemoryStore(), InTurn(["one ", BROKEN], ["two"])
    async with broker_on(store, agents=[agent.agent]) as broker, broker.watching() as watcher:
        turn = await failed(broker)
        again = await broker.resume(turn)
        await broker.until_idle()
        assert again.place == "started"
        assert again.turn != turn
        assert await broker.texts() == [
            ("user", "count"),
            ("assistant", "one "),
            ("system", RESUMED.text),
            ("assistant", "two"),
        ]
        started = [event for event in watcher.events if isinstance(event, TurnStart)]
        assert started == [TurnStart(), TurnStart(turn)]
        assert watcher.kinds.count("user-message") == 1
        first, second = await store.sealed_turns(broker.live().record.key, limit=9)
        assert (first.outcome, first.resumes) == ("error", None)
        assert (second.outcome, second.resumes) == ("completed", turn)
        assert await audit(store) == []


async def test_its_agent_is_given_the_message_again_and_what_was_said() -> None:
    said: list[list[str]] = []

    async def remember(request: TurnRequest, _emit: Emit) -> None:
        said.append(_texts(await request.said()))

    agent = InTurn(["ok"], ["one ", BROKEN], [remember, "two", BROKEN], [remember, "three"])
    async with broker_on(MemoryStore(), agents=[agent.agent]) as broker:
        await failed(broker, "before")
        turn = await failed(broker)
        turn = (await broker.resume(turn)).turn
        await broker.until_idle()
        await broker.resume(turn)
        await broker.until_idle()
        last = agent.requests[-1]
        assert (last.message, last.resumes) == ("count", turn)
        assert said == [["assistant one "], ["assistant one ", "assistant two"]]


async def heard(request: TurnRequest, emit: Emit) -> None:
    """Say what one was told of before."""
    await emit(TextDelta("; ".join(_texts(await request.history()))))


def _texts(lines: list[StoredLine]) -> list[str]:
    return [f"{line.role} {text}" for line in lines if (text := getattr(line.chunk, "text", ""))]


async def test_its_context_ends_with_what_was_said_in_it() -> None:
    agent = InTurn(["ok"], ["one ", BROKEN], [heard], [heard])
    async with broker_on(MemoryStore(), agents=[agent.agent]) as broker:
        await failed(broker, "before")
        await broker.resume(await failed(broker))
        await broker.until_idle()
        told = "user before; assistant ok; user count; assistant one "
        assert (await broker.texts())[-1] == ("assistant", told)
        # From the next turn on it is a turn like others, told as one.
        await failed(broker, "next")
        assert (await broker.texts())[-1] == ("assistant", f"{told}; assistant {told}")


async def test_where_nothing_was_said_it_is_as_if_the_message_had_just_come() -> None:
    agent = InTurn(["ok"], [BROKEN], [BROKEN], [heard], [heard])
    async with broker_on(MemoryStore(), agents=[agent.agent]) as broker:
        before = await failed(broker, "before")
        turn = await failed(broker)
        for _ in range(2):
            turn = (await broker.resume(turn)).turn
            await broker.until_idle()
        assert (await broker.texts())[-1] == ("assistant", "user before; assistant ok")
        assert [request.message for request in agent.requests] == ["before", *["count"] * 3]
        # The message is not lost on who comes next, though its own turn only failed.
        await failed(broker, "next")
        told = "user before; assistant ok; user count; assistant user before; assistant ok"
        assert (await broker.texts())[-1] == ("assistant", told)
        assert before != turn


async def test_pictures_of_the_message_are_given_again() -> None:
    agent = InTurn([BROKEN], ["seen"])
    picture = Image("data:image/png;base64,AA")
    async with broker_on(MemoryStore(), agents=[agent.agent]) as broker:
        body = TurnBody(message="look", images=(picture,))
        await broker.broker.send(LOCAL, Send(body=body, conversation=C1), lambda _: None)
        await broker.until_idle()
        (turn,) = await broker.store.sealed_turns(broker.live().record.key, limit=1)
        await broker.resume(turn.id)
        await broker.until_idle()
        assert agent.requests[-1].images == (picture,)


async def test_a_turn_that_a_crash_interrupted_is_resumed_after_it() -> None:
    disk, ids = MemoryDisk(), SequentialIds()
    agents = [InTurn(["one ", FOR_EVER]).agent]
    async with (
        broker_on(MemoryStore(disk), agents=agents, ids=ids) as broker,
        broker.watching() as watcher,
    ):
        turn = (await broker.send("count")).turn
        await watcher.until_kind("text-delta")
    agent = InTurn([heard])
    async with broker_on(MemoryStore(disk), agents=[agent.agent], ids=ids) as broker:
        await broker.resume(turn)
        await broker.until_idle()
        told = "user count; assistant one "
        assert (await broker.texts())[-1] == ("assistant", told)
        assert await audit(broker.store) == []


async def test_a_resumed_turn_that_a_crash_interrupts_ends_and_can_be_resumed_again() -> None:
    disk, ids = MemoryDisk(), SequentialIds()
    agent = InTurn(["one ", BROKEN], [FOR_EVER])
    async with broker_on(MemoryStore(disk), agents=[agent.agent], ids=ids) as broker:
        turn = (await broker.resume(await failed(broker), client_id="r-1")).turn
    async with broker_on(MemoryStore(disk), agents=[InTurn(["two"]).agent], ids=ids) as broker:
        record = await broker.store.conversation(LOCAL.account, C1)
        assert record is not None
        _, second = await broker.store.sealed_turns(record.key, limit=9)
        assert (second.id, second.outcome, second.chunk_count) == (turn, "interrupted", 2)
        assert (await broker.resume(turn, client_id="r-2")).turn != turn
        await broker.until_idle()
        assert (await broker.texts())[-1] == ("assistant", "two")
        assert await audit(broker.store) == []


async def test_the_same_id_again_resumes_once_also_after_a_restart() -> None:
    disk, ids = MemoryDisk(), SequentialIds()
    agent = InTurn([BROKEN], ["ok"])
    async with broker_on(MemoryStore(disk), agents=[agent.agent], ids=ids) as broker:
        turn = await failed(broker)
        first = await broker.resume(turn, client_id="r-1")
        await broker.until_idle()
        again = await broker.resume(turn, client_id="r-1")
        assert (again.turn, again.duplicate) == (first.turn, True)
    async with broker_on(MemoryStore(disk), agents=[InTurn().agent], ids=ids) as broker:
        again = await broker.resume(turn, client_id="r-1")
        assert (again.turn, again.duplicate) == (first.turn, True)
        with pytest.raises(Conflict):
            await broker.send("count", client_id="r-1")
        with pytest.raises(Conflict):
            await broker.resume(first.turn, client_id="r-1")


async def test_two_who_resume_at_once_are_one_turn_and_a_refusal() -> None:
    store, gate = MemoryStore(), Gate()
    agent = InTurn([BROKEN], [gate])
    results: list[Accepted | DispatchError] = []
    async with broker_on(store, agents=[agent.agent]) as broker:
        turn = await failed(broker)

        async def try_it() -> None:
            try:
                results.append(await broker.resume(turn))
            except DispatchError as error:
                results.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(try_it)
            tasks.start_soon(try_it)
        gate.open()
        await broker.until_idle()
        assert {type(result) for result in results} == {Accepted, Busy}
        assert await audit(store) == []


async def test_only_the_last_turn_that_failed_is_resumed() -> None:
    agent = InTurn([BROKEN], ["ok"], ["one ", FOR_EVER])
    async with broker_on(MemoryStore(), agents=[agent.agent]) as broker:
        turn = await failed(broker)
        good = await failed(broker, "good")
        with pytest.raises(NotResumable, match="not the last one"):
            await broker.resume(turn)
        with pytest.raises(NotResumable, match="did not fail: it is completed"):
            await broker.resume(good)
        with pytest.raises(NotFound, match="no turn t-never"):
            await broker.resume("t-never")
        stopped = (await broker.send("stop me")).turn
        await broker.stop()
        with pytest.raises(NotResumable, match="it is aborted"):
            await broker.resume(stopped)


async def test_what_was_truncated_is_not_resumed_and_what_is_last_then_is() -> None:
    agent = InTurn([BROKEN], ["ok"], [BROKEN], ["went on"])
    async with broker_on(MemoryStore(), agents=[agent.agent]) as broker:
        first, _, last = [await failed(broker, message) for message in ("a", "b", "c")]
        wish = Truncate(conversation=C1, after_turn=TurnId(first))
        await broker.broker.truncate(LOCAL, wish)
        with pytest.raises(NotResumable):
            await broker.resume(last)
        await broker.resume(first)
        await broker.until_idle()
        assert agent.requests[-1].message == "a"
        assert (await broker.texts())[-1] == ("assistant", "went on")
        assert await audit(broker.store) == []


async def test_who_resumes_while_the_turn_is_being_sealed_is_heard_behind_the_seal() -> None:
    store, gate = HeldStore(MemoryStore()), Gate()
    agent = InTurn([gate, BROKEN], ["ok"])
    async with broker_on(store, agents=[agent.agent]) as broker:
        turn = (await broker.send("count")).turn
        await gate.reached()
        store.hold()
        gate.open()
        await store.reached()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(broker.resume, turn)
            with guard():
                while broker.live().users == 0:
                    await anyio.lowlevel.checkpoint()
            store.release()
        await broker.until_idle()
        assert (await broker.texts())[-1] == ("assistant", "ok")


async def test_who_decided_before_a_truncation_is_refused_behind_it() -> None:
    store = HeldStore(MemoryStore())
    agent = InTurn([BROKEN], ["ok"])
    async with broker_on(store, agents=[agent.agent]) as broker:
        turn = await failed(broker)
        store.hold()
        async with anyio.create_task_group() as tasks:
            wish = Truncate(conversation=C1, after_turn=None)
            tasks.start_soon(broker.broker.truncate, LOCAL, wish)
            await store.reached()
            tasks.start_soon(refused, broker, turn)
            await anyio.wait_all_tasks_blocked()
            store.release()
        assert len(agent.requests) == 1


async def test_who_is_overtaken_by_a_message_is_refused() -> None:
    store = SlowReads(MemoryStore())
    agent = InTurn([BROKEN], ["ok"])
    async with broker_on(store, agents=[agent.agent]) as broker:
        turn = await failed(broker)
        async with anyio.create_task_group() as tasks:
            # It has read what the last turn is, and not gone on yet.
            store.gate = Gate()
            tasks.start_soon(refused, broker, turn)
            await store.gate.reached()
            gate, store.gate = store.gate, None
            await failed(broker, "overtakes")
            gate.open()
        assert [request.message for request in agent.requests] == ["count", "overtakes"]


async def refused(broker: Harness, turn: str) -> None:
    with pytest.raises(NotResumable):
        await broker.resume(turn)


class SlowReads(StoreWrapper):
    """Whoever asks for one turn waits at the gate, if there is one."""

    gate: Gate | None = None

    async def before(self, verb: str) -> None:
        if verb == "turn" and self.gate is not None:
            await self.gate.pass_through()


async def test_a_full_disk_refuses_it_and_it_can_be_tried_again() -> None:
    store = FaultyStore(MemoryStore())
    agent = InTurn([BROKEN], ["ok"])
    async with broker_on(store, agents=[agent.agent]) as broker:
        turn = await failed(broker)
        store.fail(StorageFull("no room"))
        with pytest.raises(StorageFull):
            await broker.resume(turn, client_id="r-1")
        await broker.services.journal.idle()
        assert not (await broker.resume(turn, client_id="r-1")).duplicate
        await broker.until_idle()
        assert await audit(store) == []


async def test_who_may_not_send_may_not_resume_and_what_is_not_there_is_not_made() -> None:
    store = MemoryStore()
    reader = Principal(LOCAL.account, UserId("a"), frozenset({WATCH}))
    async with broker_on(store, agents=[InTurn([BROKEN]).agent]) as broker:
        with pytest.raises(DispatchError):
            await broker.resume("t-1")
        assert await store.conversation(LOCAL.account, C1) is None
        turn = await failed(broker)
        with pytest.raises(Forbidden):
            await broker.resume(turn, principal=reader)


async def test_a_turn_of_a_timeline_is_not_resumed() -> None:
    async with broker_on(MemoryStore(), agents=[InTurn([BROKEN]).agent]) as broker:
        turn = await failed(broker)
        live = broker.live()
        live.details = type(live.details)(timeline=("group", "g1"))
        with pytest.raises(InTimeline):
            await broker.resume(turn)


async def test_a_list_goes_on_showing_the_message_and_the_title() -> None:
    store = MemoryStore()
    async with broker_on(store, agents=[InTurn([BROKEN], ["ok"]).agent]) as broker:
        await broker.resume(await failed(broker, "count to three"))
        await broker.until_idle()
        record = await store.conversation(LOCAL.account, C1)
        assert record is not None
        assert (record.title, record.last_message) == ("count to three", "count to three")


async def test_a_fork_of_a_resumed_turn_has_all_of_it() -> None:
    store = MemoryStore()
    async with broker_on(store, agents=[InTurn(["one ", BROKEN], ["two"]).agent]) as broker:
        turn = (await broker.resume(await failed(broker))).turn
        await broker.until_idle()
        fork = await broker.catalog.fork(LOCAL, C1, turn)
        assert await broker.texts(fork) == await broker.texts()
        assert await audit(store) == []
        with pytest.raises(NotFound):
            await broker.catalog.fork(LOCAL, C1, TurnId("t-none"))
