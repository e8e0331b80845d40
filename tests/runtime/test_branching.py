"""Side chats: empty conversations whose agent knows what was said elsewhere."""

from pathlib import Path

import pytest

from dispatch.agents.port import AgentFailure, Emit, TurnRequest
from dispatch.core.commands import Truncate
from dispatch.core.events import TextDelta
from dispatch.core.identity import LOCAL, WATCH, ConversationId, Principal, TurnId, UserId
from dispatch.errors import Forbidden, Gone, NotFound
from dispatch.settings import Limits
from dispatch.storage.check import verify
from dispatch.storage.memory import MemoryStore
from dispatch.storage.port import Store
from dispatch.storage.sqlite import SqliteStore
from dispatch.testing import FOR_EVER, Gate, Harness, ScriptedAgent, SequentialIds, broker_on
from dispatch.testing.audit import audit

C1 = ConversationId("c1")


async def heard(request: TurnRequest, emit: Emit) -> None:
    """Say what one was told of before."""
    lines = await request.history()
    texts = [text for line in lines if (text := getattr(line.chunk, "text", ""))]
    await emit(TextDelta(" | ".join(texts)))


def agent() -> ScriptedAgent:
    return ScriptedAgent(script=lambda request: _SCRIPTS.get(request.message, ["ok"]))


_SCRIPTS = {"what": [heard], "wait": ["so far", FOR_EVER]}


async def said(broker: Harness, *messages: str, conversation: str = "c1") -> list[TurnId]:
    turns = []
    for message in messages:
        turns.append((await broker.send(message, conversation)).turn)
        await broker.until_idle()
    return turns


async def knows(broker: Harness, conversation: str) -> str:
    """What the agent of a conversation is told."""
    await said(broker, "what", conversation=conversation)
    return (await broker.texts(conversation))[-1][1]


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "data")


async def test_a_side_chat_begins_empty_and_knows_what_was_said_up_to_its_turn(
    store: Store, tmp_path: Path
) -> None:
    async with broker_on(store, agents=[agent()]) as broker:
        one, two, _ = await said(broker, "one", "two", "three")
        side = await broker.catalog.side_chat(LOCAL, C1, two)
        assert await broker.texts(side) == []
        assert await knows(broker, side) == "one | ok | two | ok"
        assert await broker.texts(side) == [("user", "what"), ("assistant", "one | ok | two | ok")]
        # From then on it has turns of its own as well.
        assert await knows(broker, side) == "one | ok | two | ok | what | one | ok | two | ok"
        assert await audit(store) == []
        assert one != two
    if isinstance(store, SqliteStore):
        assert verify(tmp_path / "data") == []


async def test_it_is_in_the_session_of_its_source_and_says_where_it_comes_from() -> None:
    store = MemoryStore()
    async with broker_on(store, agents=[agent()]) as broker:
        (one,) = await said(broker, "one")
        side = await broker.catalog.side_chat(LOCAL, C1, one)
        async with broker.conversations.using(LOCAL, side) as live:
            assert live.record.session == broker.live().record.session
            assert (live.record.title, live.record.last_message) == ("", "")
            assert live.record.last_seq == 0
            assert live.details.side_chat_of == (C1, one)
            assert live.details.forked_from is None


async def test_it_knows_of_the_running_turn_what_was_shown_until_then() -> None:
    async with broker_on(MemoryStore(), agents=[agent()]) as broker:
        await said(broker, "one")
        async with broker.watching() as watcher:
            running = (await broker.send("wait")).turn
            await watcher.until_kind("text-delta")
            side = await broker.catalog.side_chat(LOCAL, C1, running)
        assert broker.live().current is not None
        await broker.stop()
        assert await knows(broker, side) == "one | ok | wait | so far"


async def test_it_stays_whole_when_its_source_is_truncated_deleted_or_the_daemon_starts_anew() -> (
    None
):
    store, ids = MemoryStore(), SequentialIds()
    async with broker_on(store, agents=[agent()], ids=ids) as broker:
        (one,) = await said(broker, "one")
        side = await broker.catalog.side_chat(LOCAL, C1, one)
        await broker.broker.truncate(LOCAL, Truncate(conversation=C1, after_turn=None))
        await broker.catalog.delete(LOCAL, C1)
    async with broker_on(store, agents=[agent()], ids=ids) as broker:
        assert await knows(broker, side) == "one | ok"
        await broker.broker.truncate(LOCAL, Truncate(conversation=side, after_turn=None))
        assert await knows(broker, side) == "one | ok"
        assert await audit(store) == []


async def test_what_comes_out_of_it_knows_what_it_knows() -> None:
    store = MemoryStore()
    async with broker_on(store, agents=[agent()]) as broker:
        (one,) = await said(broker, "one")
        side = await broker.catalog.side_chat(LOCAL, C1, one)
        (two,) = await said(broker, "two", conversation=side)
        fork = await broker.catalog.fork(LOCAL, side, two)
        further = await broker.catalog.side_chat(LOCAL, side, two)
        for source in (C1, side):
            await broker.catalog.delete(LOCAL, source)
        assert await knows(broker, fork) == "one | ok | two | ok"
        assert await knows(broker, further) == "one | ok | two | ok"
        async with broker.conversations.using(LOCAL, fork) as live:
            assert live.details.forked_from == (side, two)
            assert live.details.side_chat_of is None
        assert await audit(store) == []


async def test_what_it_knows_is_bounded_and_begins_with_a_message() -> None:
    limits = Limits(history_bytes_max=400)
    async with broker_on(MemoryStore(), agents=[agent()], limits=limits) as broker:
        *_, last = await said(broker, *(f"message {n} " + "x" * 60 for n in range(9)))
        side = await broker.catalog.side_chat(LOCAL, C1, last)
        known = await knows(broker, side)
        assert known.startswith("message ")
        assert known.endswith("x | ok")
        # With turns of its own less of it fits, and whole messages at that.
        again = await knows(broker, side)
        assert len(again) < len(known) + 200


async def test_what_was_truncated_is_not_known_and_no_place_to_begin() -> None:
    async with broker_on(MemoryStore(), agents=[agent()]) as broker:
        one, two = await said(broker, "one", "two")
        await broker.broker.truncate(LOCAL, Truncate(conversation=C1, after_turn=one))
        (three,) = await said(broker, "three")
        side = await broker.catalog.side_chat(LOCAL, C1, three)
        assert await knows(broker, side) == "one | ok | three | ok"
        with pytest.raises(NotFound, match="was truncated"):
            await broker.catalog.side_chat(LOCAL, C1, two)


async def test_nothing_comes_out_of_what_is_not_there() -> None:
    reader = Principal(LOCAL.account, UserId("ann"), frozenset({WATCH}))
    async with broker_on(MemoryStore(), agents=[agent()]) as broker:
        with pytest.raises(NotFound):
            await broker.catalog.side_chat(LOCAL, C1, TurnId("t"))
        (one,) = await said(broker, "one")
        with pytest.raises(Forbidden):
            await broker.catalog.side_chat(reader, C1, one)
        await broker.catalog.delete(LOCAL, C1)
        with pytest.raises(Gone):
            await broker.catalog.side_chat(LOCAL, C1, one)


async def test_a_turn_that_only_failed_is_not_known() -> None:
    broken = ScriptedAgent(script=lambda r: [AgentFailure("no")] if r.message == "no" else [heard])
    async with broker_on(MemoryStore(), agents=[broken]) as broker:
        _, no = await said(broker, "one", "no")
        side = await broker.catalog.side_chat(LOCAL, C1, no)
        assert await knows(broker, side) == "one"


async def test_a_queued_turn_is_no_place_to_begin() -> None:
    gate = Gate()
    waiting = ScriptedAgent(script=lambda request: [gate])
    async with broker_on(MemoryStore(), agents=[waiting]) as broker:
        await broker.send("one")
        await gate.reached()
        queued = await broker.send("two", on_busy="queue")
        with pytest.raises(NotFound):
            await broker.catalog.side_chat(LOCAL, C1, queued.turn)
        gate.open()
        await broker.until_idle()
