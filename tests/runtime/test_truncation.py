"""Truncating a conversation: nothing is rewritten, and everybody sees the same."""

import anyio
import pytest

from dispatch.agents.port import Emit, TurnRequest
from dispatch.core.commands import Cut, OnBusy, Truncate
from dispatch.core.content import Text
from dispatch.core.events import TextDelta, Truncated, decode_event
from dispatch.core.identity import LOCAL, SEND, WATCH, ConversationId, Principal, TurnId, UserId
from dispatch.errors import (
    Busy,
    Conflict,
    Forbidden,
    Gone,
    InTimeline,
    NotFound,
    StorageFull,
    TooMany,
    Unavailable,
)
from dispatch.runtime.shape import encode_details
from dispatch.settings import Limits
from dispatch.storage.memory import MemoryStore
from dispatch.testing import (
    FOR_EVER,
    FaultyStore,
    Gate,
    Harness,
    HeldStore,
    ScriptedAgent,
    broker_on,
    guard,
)
from dispatch.testing.audit import audit

C1 = ConversationId("c1")
FULL = StorageFull("no room")


async def cut(
    broker: Harness,
    after: str | None,
    client_id: str | None = None,
    principal: Principal = LOCAL,
) -> Cut:
    turn = None if after is None else TurnId(after)
    wish = Truncate(conversation=C1, after_turn=turn, client_message_id=client_id)
    return await broker.broker.truncate(principal, wish)


async def said(broker: Harness, *messages: str) -> list[str]:
    """Turns, one after the other; their ids."""
    turns = []
    for message in messages:
        turns.append((await broker.send(message)).turn)
        await broker.until_idle()
    return turns


def agent() -> ScriptedAgent:
    return ScriptedAgent(script=lambda request: [f"re: {request.message}"])


async def told(request: TurnRequest, emit: Emit) -> None:
    """Say what one was told of before."""
    before = [line.chunk.text for line in await request.history() if isinstance(line.chunk, Text)]
    await emit(TextDelta(" | ".join(before)))


async def test_what_is_behind_the_kept_turn_is_kept_and_does_not_count() -> None:
    store = MemoryStore()
    async with broker_on(store, agents=[agent()]) as broker:
        one, *_ = await said(broker, "one", "two", "three")
        before = await broker.texts()
        done = await cut(broker, one)
        assert await broker.texts() == before
        assert broker.live().past.superseded == ((3, 6),)
        record = await store.conversation(LOCAL.account, C1)
        assert record is not None
        assert record.superseded == b"[[3,6]]"
        assert (record.last_seq, record.last_offset) == (6, done.offset)
        (last,) = await store.events(record.key, done.offset - 1, 9)
        assert decode_event(last.payload) == Truncated(2, 6, one)
        assert await audit(store) == []


async def test_an_agent_is_told_of_what_counts_and_of_nothing_else() -> None:
    async with broker_on(MemoryStore(), agents=[ScriptedAgent(told)]) as broker:
        one, *_ = await said(broker, "one", "two")
        await cut(broker, one)
        await said(broker, "three")
        assert (await broker.texts())[-1] == ("assistant", "one")
        await cut(broker, None)
        await said(broker, "four")
        assert (await broker.texts())[-1] == ("user", "four")


async def test_truncations_follow_on_each_other() -> None:
    store = MemoryStore()
    async with broker_on(store, agents=[agent()]) as broker:
        one, two, three = await said(broker, "one", "two", "three")
        await cut(broker, two)
        (four,) = await said(broker, "four")
        await said(broker, "five")
        await cut(broker, four)
        assert broker.live().past.superseded == ((5, 6), (9, 10))
        with pytest.raises(NotFound, match="was truncated"):
            await cut(broker, three)
        await cut(broker, one)
        assert broker.live().past.superseded == ((3, 10),)
        await cut(broker, one)
        assert broker.live().past.superseded == ((3, 10),)
        await cut(broker, None)
        assert broker.live().past.superseded == ((1, 10),)
        assert await audit(store) == []


async def test_the_running_turn_is_ended_and_is_behind_the_kept_one() -> None:
    store = MemoryStore()
    scripts = {"one": ["ok"]}
    agents = [ScriptedAgent(script=lambda request: scripts.get(request.message, [FOR_EVER]))]
    async with broker_on(store, agents=agents) as broker, broker.watching() as watcher:
        (one,) = await said(broker, "one")
        await broker.send("two")
        await cut(broker, one)
        assert watcher.kinds[-3:] == ["done", "turn-sealed", "truncated"]
        assert broker.live().past.superseded == ((3, 3),)
        assert broker.live().state.status == "idle"
        assert await audit(store) == []


async def test_a_turn_whose_start_is_on_its_way_is_ended_too() -> None:
    store = HeldStore(MemoryStore())
    async with broker_on(store, agents=[agent()]) as broker:
        (one,) = await said(broker, "one")
        async with anyio.create_task_group() as tasks:
            store.hold()
            tasks.start_soon(broker.send, "two")
            await store.reached()
            tasks.start_soon(cut, broker, one)
            with guard():
                while not broker.live().past.waiting:
                    await anyio.lowlevel.checkpoint()
            store.release()
        await broker.until_idle()
        assert broker.live().past.superseded == ((3, 3),)
        assert await audit(store) == []


async def test_what_is_queued_runs_behind_the_truncation_and_counts() -> None:
    store, gate = MemoryStore(), Gate()
    scripts = {"two": [gate]}
    agents = [ScriptedAgent(script=lambda request: scripts.get(request.message, [told]))]
    async with broker_on(store, agents=agents) as broker:
        (one,) = await said(broker, "one")
        await broker.send("two")
        await gate.reached()
        await broker.send("three", on_busy="queue")
        await cut(broker, one)
        await broker.until_idle()
        assert broker.live().past.superseded == ((2, 2),)
        assert (await broker.texts())[-2:] == [("user", "three"), ("assistant", "one")]
        assert await audit(store) == []


async def test_nothing_begins_while_one_is_on_its_way_to_disk() -> None:
    store = HeldStore(MemoryStore())
    async with broker_on(store, agents=[ScriptedAgent(told)]) as broker:
        await said(broker, "one", "two")
        store.hold()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cut, broker, None)
            await store.reached()
            tasks.start_soon(broker.send, "three")
            with guard():
                while not broker.live().past.behind:
                    await anyio.lowlevel.checkpoint()
            # Not before it is durable, for readers either.
            assert broker.live().past.superseded == ()
            store.release()
        await broker.until_idle()
        assert (await broker.texts())[-1] == ("user", "three")
        assert await audit(store) == []


async def test_of_those_that_come_behind_one_the_first_begins_and_the_others_find_it_busy() -> None:
    store = HeldStore(MemoryStore())
    agent = ScriptedAgent(script=lambda request: [FOR_EVER] if request.message == "b" else ["ok"])
    became: dict[str, str] = {}
    async with broker_on(store, agents=[agent]) as broker:

        async def sent(text: str, on_busy: OnBusy) -> None:
            try:
                became[text] = (await broker.send(text, on_busy=on_busy)).place
            except Busy:
                became[text] = "refused"

        await said(broker, "a")
        store.hold()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cut, broker, None)
            await store.reached()
            sends: list[tuple[str, OnBusy]] = [("b", "queue"), ("c", "reject"), ("d", "queue")]
            for count, (text, on_busy) in enumerate(sends, start=1):
                tasks.start_soon(sent, text, on_busy)
                with guard():
                    while len(broker.live().past.behind) < count:
                        await anyio.lowlevel.checkpoint()
            store.release()
        assert became == {"b": "started", "c": "refused", "d": "queued"}


async def test_the_same_id_again_truncates_once_also_after_a_restart() -> None:
    store = MemoryStore()
    async with broker_on(store, agents=[agent()]) as broker:
        one, _ = await said(broker, "one", "two")
        first = await cut(broker, one, "cut-1")
        await said(broker, "three")
        again = await cut(broker, one, "cut-1")
        assert (again.offset, again.duplicate) == (first.offset, True)
        assert broker.live().past.superseded == ((3, 4),)
    async with broker_on(store, agents=[agent()]) as broker:
        again = await cut(broker, one, "cut-1")
        assert (again.offset, again.duplicate) == (first.offset, True)
        with pytest.raises(Conflict):
            await cut(broker, None, "cut-1")
        with pytest.raises(Conflict):
            await broker.send("four", client_id="cut-1")
        async with broker.conversations.using(LOCAL, C1) as live:
            assert live.past.superseded == ((3, 4),)
        assert await audit(store) == []


async def test_the_same_id_twice_at_once_truncates_once() -> None:
    store = MemoryStore()
    told: list[Cut] = []
    async with broker_on(store, agents=[agent()]) as broker:
        one, _ = await said(broker, "one", "two")

        async def try_it() -> None:
            told.append(await cut(broker, one, "cut-1"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(try_it)
            tasks.start_soon(try_it)
        assert sorted(done.duplicate for done in told) == [False, True]
        assert len({done.offset for done in told}) == 1
        assert await audit(store) == []


async def test_who_leaves_does_not_take_the_truncation_along() -> None:
    store = HeldStore(MemoryStore())
    async with broker_on(store, agents=[agent()]) as broker:
        one, _ = await said(broker, "one", "two")
        store.hold()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cut, broker, one, "cut-1")
            await store.reached()
            tasks.cancel_scope.cancel()
        store.release()
        again = await cut(broker, one, "cut-1")
        assert again.duplicate
        assert broker.live().past.superseded == ((3, 4),)


async def test_a_full_disk_refuses_it_and_everything_counts_still() -> None:
    store = FaultyStore(MemoryStore())
    async with broker_on(store, agents=[agent()]) as broker:
        one, _ = await said(broker, "one", "two")
        store.fail(FULL)
        with pytest.raises(StorageFull):
            await cut(broker, one, "cut-1")
        assert broker.live().past.superseded == ()
        assert broker.live().record.superseded == b"[]"
        assert broker.live().record.last_message == "two"
        assert not (await cut(broker, one, "cut-1")).duplicate
        assert await audit(store) == []


@pytest.mark.parametrize("turn", ["t99", "t1-never", "queued"])
async def test_only_a_sealed_turn_can_be_kept(turn: str) -> None:
    async with broker_on(MemoryStore(), agents=[agent()]) as broker:
        await said(broker, "one")
        with pytest.raises(NotFound, match="no sealed turn"):
            await cut(broker, turn)


async def test_what_is_not_there_is_not_truncated_and_not_made() -> None:
    store = MemoryStore()
    async with broker_on(store, agents=[agent()]) as broker:
        with pytest.raises(NotFound):
            await cut(broker, None)
        assert await store.conversation(LOCAL.account, C1) is None


async def test_to_truncate_is_to_send() -> None:
    async with broker_on(MemoryStore(), agents=[agent()]) as broker:
        (one,) = await said(broker, "one")
        reader = Principal(LOCAL.account, UserId("ann"), frozenset({WATCH}))
        with pytest.raises(Forbidden):
            await cut(broker, one, principal=reader)
        writer = Principal(LOCAL.account, UserId("ann"), frozenset({SEND}))
        assert (await cut(broker, one, principal=writer)).after_turn == one


async def test_a_draining_daemon_truncates_nothing() -> None:
    async with broker_on(MemoryStore(), agents=[agent()]) as broker:
        (one,) = await said(broker, "one")
        await broker.broker.drain(0)
        with pytest.raises(Unavailable):
            await cut(broker, one)


async def test_the_places_are_bounded() -> None:
    limits = Limits(truncations_max=1)
    async with broker_on(MemoryStore(), agents=[agent()], limits=limits) as broker:
        one, _ = await said(broker, "one", "two")
        await cut(broker, one)
        three, _ = await said(broker, "three", "four")
        with pytest.raises(TooMany):
            await cut(broker, three)
        await cut(broker, one)


async def test_a_conversation_of_a_timeline_is_not_truncated_alone() -> None:
    async with broker_on(MemoryStore(), agents=[agent()]) as broker:
        (one,) = await said(broker, "one")
        live = broker.live()
        live.details = type(live.details)(timeline=("group", "g1"))
        assert b"g1" in encode_details(live.details)
        with pytest.raises(InTimeline, match="rows of a group"):
            await cut(broker, one)


async def test_one_that_waits_is_refused_when_its_conversation_goes() -> None:
    gate = Gate()

    async def stubborn(request: TurnRequest, emit: Emit) -> None:
        await gate.pass_through()

    store = HeldStore(MemoryStore())
    async with broker_on(store, agents=[ScriptedAgent(stubborn)]) as broker:
        await broker.send("one")
        await gate.reached()
        store.hold()
        failures: list[Exception] = []

        async def try_it() -> None:
            try:
                await cut(broker, None)
            except Gone as gone:
                failures.append(gone)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(broker.catalog.delete, LOCAL, C1)
            await store.reached()
            tasks.start_soon(try_it)
            store.release()
        assert len(failures) == 1


async def test_who_came_behind_one_is_refused_when_the_conversation_goes() -> None:
    store = HeldStore(MemoryStore())
    async with broker_on(store, agents=[agent()]) as broker:
        await said(broker, "one")
        store.hold()
        async with anyio.create_task_group() as tasks:

            async def is_refused() -> None:
                with pytest.raises(Gone):
                    await broker.send("two", on_busy="queue")

            tasks.start_soon(cut, broker, None)
            await store.reached()
            tasks.start_soon(is_refused)
            with guard():
                while not broker.live().past.behind:
                    await anyio.lowlevel.checkpoint()
            tasks.start_soon(broker.catalog.delete, LOCAL, C1)
            with guard():
                while not broker.live().is_deleting:
                    await anyio.lowlevel.checkpoint()
            store.release()


async def test_unread_chunks_are_those_that_count() -> None:
    async with broker_on(MemoryStore(), agents=[agent()]) as broker:
        one, *_ = await said(broker, "one", "two", "three")
        assert await broker.catalog.read(LOCAL, C1, 1) == (1, 5)
        await cut(broker, one)
        assert await broker.catalog.read(LOCAL, C1, 0) == (1, 1)
        assert await broker.catalog.read(LOCAL, C1, 9) == (6, 0)
        await said(broker, "four")
        assert await broker.catalog.read(LOCAL, C1, 0) == (6, 2)


async def test_a_fork_has_what_counts_under_seqs_of_its_own() -> None:
    store = MemoryStore()
    async with broker_on(store, agents=[agent()]) as broker:
        one, two, _ = await said(broker, "one", "two", "three")
        await cut(broker, one)
        (four,) = await said(broker, "four")
        fork = await broker.catalog.fork(LOCAL, C1, TurnId(four))
        assert [text for role, text in await broker.texts(fork) if role == "user"] == [
            "one",
            "four",
        ]
        with pytest.raises(NotFound, match="was truncated"):
            await broker.catalog.fork(LOCAL, C1, TurnId(two))
        assert await audit(store) == []


async def test_the_list_shows_the_last_message_that_counts() -> None:
    store = MemoryStore()
    async with broker_on(store, agents=[agent()]) as broker:
        one, _ = await said(broker, "one", "two")
        for after, shown in ((one, "one"), (None, "")):
            await cut(broker, after)
            record = await store.conversation(LOCAL.account, C1)
            assert record is not None
            assert record.last_message == shown
