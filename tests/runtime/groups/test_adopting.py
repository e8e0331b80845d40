"""Groups of conversations that were there before: what they show, and that they are made once."""

import asyncio
from typing import Any

import pytest

from dispatch.agents.port import AgentFailure, TurnRequest
from dispatch.core.commands import Truncate
from dispatch.core.identity import LOCAL, ConversationId, TurnId
from dispatch.errors import StorageFull
from dispatch.protocol.groups.refusals import (
    ClientGroupConflict,
    FamiliarNotFound,
    SessionBusy,
    SessionInGroup,
    SessionNotFound,
)
from dispatch.protocol.groups.requests import GroupAdopt
from dispatch.storage.memory import MemoryStore
from dispatch.testing import (
    FOR_EVER,
    FaultyStore,
    Gate,
    Harness,
    ManualClock,
    ScriptedAgent,
    Step,
    YieldingStore,
    broker_on,
)
from tests.runtime.groups.room import Room, speakers


async def talk(broker: Harness, conversation: str, agent: str, *texts: str) -> None:
    for text in texts:
        await broker.send(text, conversation, model=agent)
        await broker.until_idle()
        clock = broker.services.clock
        assert isinstance(clock, ManualClock)
        clock.advance(1)


async def adopt(broker: Harness, sessions: dict[str, str], **fields: Any) -> tuple[Room, bool]:
    pairs = tuple((agent, ConversationId(name)) for agent, name in sessions.items())
    wanted = GroupAdopt(sessions=pairs, **fields)
    view, is_new = await broker.groups.adopting.adopt(LOCAL, wanted)
    timeline = await broker.groups.timelines.load((LOCAL.account, "group", view.id))
    return Room(broker, timeline), is_new  # type: ignore[arg-type]


async def test_what_was_said_becomes_rows_without_frames_and_the_talk_goes_on() -> None:
    async with broker_on(MemoryStore(), agents=speakers("ann", "bob")) as broker:
        await talk(broker, "c1", "ann", "hello", "only ann")
        await talk(broker, "c2", "bob", "hello")
        room, is_new = await adopt(broker, {"ann": "c1", "bob": "c2"})
        assert is_new
        assert await room.texts() == [
            ("user", "hello"),
            ("ann", "ann: hello"),
            ("bob", "bob: hello"),
            ("user", "only ann"),
            ("ann", "ann: only ann"),
        ]
        assert (await room.events())[3]["targetFamiliarIds"] == ["ann"]
        assert room.shown() == []
        assert await room.replayed() == []
        page = await room.page()
        assert (page.cursor, page.settled_seq) == (0, 5)
        sent = await room.send("together")
        await room.settled()
        assert sent.seq == 6
        assert sorted(await room.texts())[-2:] == [("user", "only ann"), ("user", "together")]
        assert len(await room.events()) == 8
        await room.check()


async def test_members_are_in_the_order_of_the_map_and_its_order_is_no_difference() -> None:
    async with broker_on(MemoryStore(), agents=speakers("ann", "bob")) as broker:
        await talk(broker, "c1", "ann", "one")
        await talk(broker, "c2", "bob", "two")
        room, _ = await adopt(broker, {"bob": "c2", "ann": "c1"})
        assert [member.agent for member in room.timeline.group.members] == ["bob", "ann"]
        again, is_new = await adopt(broker, {"ann": "c1", "bob": "c2"}, client_group_id="mine")
        assert (again.id, is_new) == (room.id, False)
        assert len(await broker.groups.groups.list(LOCAL)) == 1


async def test_the_same_map_at_once_makes_one_group() -> None:
    store = YieldingStore(MemoryStore())
    async with broker_on(store, agents=speakers("ann")) as broker:
        await talk(broker, "c1", "ann", "one")
        rooms = await asyncio.gather(*(adopt(broker, {"ann": "c1"}) for _ in range(4)))
        assert len({room.id for room, _ in rooms}) == 1
        assert sorted(is_new for _, is_new in rooms) == [False, False, False, True]


async def test_a_client_names_a_group_once() -> None:
    async with broker_on(MemoryStore(), agents=speakers("ann", "bob")) as broker:
        await talk(broker, "c1", "ann", "one")
        await talk(broker, "c2", "ann", "two")
        room, _ = await adopt(broker, {"ann": "c1"}, client_group_id="mine")
        assert room.id == "mine"
        again, is_new = await adopt(broker, {"ann": "c1"}, client_group_id="mine")
        assert (again.id, is_new) == ("mine", False)
        with pytest.raises(ClientGroupConflict):
            await adopt(broker, {"ann": "c2"}, client_group_id="mine")
        await broker.groups.groups.delete(LOCAL, "mine")
        with pytest.raises(ClientGroupConflict):
            await adopt(broker, {"ann": "c2"}, client_group_id="mine")
        await talk(broker, "c2", "ann", "three")


async def test_what_cannot_be_adopted_is_refused_and_left_as_it_was() -> None:
    agents = [*speakers("ann"), ScriptedAgent(FOR_EVER, name="bob")]
    async with broker_on(MemoryStore(), agents=agents) as broker:
        await talk(broker, "c1", "ann", "one")
        await broker.send("for ever", "c2", model="bob")
        with pytest.raises(SessionNotFound):
            await adopt(broker, {"ann": "c1", "bob": "none"})
        with pytest.raises(SessionBusy):
            await adopt(broker, {"ann": "c1", "bob": "c2"})
        with pytest.raises(FamiliarNotFound, match=r"^no agent is called 'zoe'$"):
            await adopt(broker, {"zoe": "c1"})
        await broker.catalog.delete(LOCAL, ConversationId("c2"))
        with pytest.raises(SessionNotFound):
            await adopt(broker, {"ann": "c1", "bob": "c2"})
        room, _ = await adopt(broker, {"ann": "c1"})
        await talk(broker, "c3", "ann", "one")
        with pytest.raises(SessionInGroup):
            await adopt(broker, {"ann": "c3", "bob": "c1"})
        assert [view.id for view in await broker.groups.groups.list(LOCAL)] == [room.id]


async def test_what_the_disk_refuses_may_be_adopted_later() -> None:
    store = FaultyStore(MemoryStore())
    async with broker_on(store, agents=speakers("ann")) as broker:
        await talk(broker, "c1", "ann", "one")
        store.fail(StorageFull("full"))
        with pytest.raises(StorageFull):
            await adopt(broker, {"ann": "c1"}, client_group_id="mine")
        assert len(broker.groups.timelines._live) == 0
        room, is_new = await adopt(broker, {"ann": "c1"}, client_group_id="mine")
        assert is_new
        await room.check()


async def test_forks_with_the_same_turns_are_each_shown() -> None:
    async with broker_on(MemoryStore(), agents=speakers("ann", "bob")) as broker:
        await talk(broker, "c1", "ann", "one", "two")
        record = await broker.catalog.record(LOCAL, ConversationId("c1"))
        assert record is not None
        turns = await broker.store.sealed_turns(record.key, limit=9)
        fork = await broker.catalog.fork(LOCAL, ConversationId("c1"), TurnId(turns[-1].id))
        room, _ = await adopt(broker, {"ann": "c1", "bob": fork})
        assert await room.texts() == [
            ("user", "one"),
            ("ann", "ann: one"),
            ("bob", "ann: one"),
            ("user", "two"),
            ("ann", "ann: two"),
            ("bob", "ann: two"),
        ]
        await room.send("three")
        await room.settled()
        assert len(await room.events()) == 9
        await room.check()


async def test_outcomes_of_before_are_shown_in_the_words_of_groups() -> None:
    def script(request: Any) -> list[Any]:
        return {"fail": [AgentFailure("no")], "wait": [FOR_EVER]}.get(request.message, ["ok"])

    ann = ScriptedAgent(script=script, name="ann")
    async with broker_on(MemoryStore(), agents=[ann]) as broker:
        await talk(broker, "c1", "ann", "fail")
        await broker.send("wait", "c1")
        await ann.asked(2)
        await broker.stop("c1")
        await talk(broker, "c1", "ann", "fine")
        room, _ = await adopt(broker, {"ann": "c1"})
        assert await room.outcomes() == [
            ("ann", "error"),
            ("ann", "cancelled"),
            ("ann", "completed"),
        ]
        await room.check()


@pytest.mark.parametrize("steps", range(0, 40, 3))
async def test_what_is_said_while_a_conversation_is_read_is_not_missed(steps: int) -> None:
    store = YieldingStore(YieldingStore(MemoryStore()))
    async with broker_on(store, agents=speakers("ann", "bob")) as broker:
        await talk(broker, "c1", "ann", "one")
        await talk(broker, "c2", "bob", "one", "two")
        adopting = asyncio.ensure_future(adopt(broker, {"ann": "c1", "bob": "c2"}))
        for _ in range(steps):
            await asyncio.sleep(0)
        await talk(broker, "c1", "ann", "late")
        (told,) = await asyncio.gather(adopting, return_exceptions=True)
        await broker.until_idle()
        if isinstance(told, SessionBusy):
            return
        assert not isinstance(told, BaseException), told
        room, _ = told
        shown = [text for who, text in await room.texts() if who == "user"]
        # Either it was there before the group was, or it is a direct send.
        started = await room.broker.store.timeline(LOCAL.account, "group", room.id)
        assert started is not None
        record = await broker.catalog.record(LOCAL, ConversationId("c1"))
        assert record is not None
        turns = await broker.store.sealed_turns(record.key, limit=9)
        late = await broker.store.turn(record.key, turns[-1].id)
        assert late is not None
        assert ("late" in shown) == (late.key < started.key)
        await room.check()


async def test_an_adoption_that_is_cancelled_happens_or_not() -> None:
    is_over = False
    steps = 0
    while not is_over:
        store = YieldingStore(MemoryStore())
        async with broker_on(store, agents=speakers("ann")) as broker:
            await talk(broker, "c1", "ann", "one")
            adopting = asyncio.ensure_future(adopt(broker, {"ann": "c1"}))
            for _ in range(steps):
                await asyncio.sleep(0)
            is_over = adopting.done()
            adopting.cancel()
            await asyncio.gather(adopting, return_exceptions=True)
            await broker.services.journal.idle()
            room, _ = await adopt(broker, {"ann": "c1"})
            await room.send("two")
            await room.settled()
            assert len(await room.events()) == 4
            await room.check()
        steps += 1


async def test_a_gate_of_a_running_turn_refuses_only_while_it_runs() -> None:
    gate = Gate()
    async with broker_on(MemoryStore(), agents=[ScriptedAgent(gate, "x", name="ann")]) as broker:
        await broker.send("one", "c1")
        await gate.reached()
        with pytest.raises(SessionBusy):
            await adopt(broker, {"ann": "c1"})
        gate.open()
        await broker.until_idle()
        _, is_new = await adopt(broker, {"ann": "c1"})
        assert is_new


async def test_what_was_truncated_is_no_row_and_a_resumed_turn_is_one() -> None:
    scripts = {"broken": ["half ", AgentFailure("no")], "gone": ["left behind"]}

    def script(request: TurnRequest) -> list[Step]:
        return ["whole"] if request.resumes is not None else scripts.get(request.message, ["ok"])

    async with broker_on(
        MemoryStore(), agents=[ScriptedAgent(script=script, name="ann")]
    ) as broker:
        await talk(broker, "c1", "ann", "hello")
        (kept,) = await broker.store.sealed_turns(broker.live().record.key, limit=9)
        await talk(broker, "c1", "ann", "gone")
        wish = Truncate(conversation=ConversationId("c1"), after_turn=kept.id)
        await broker.broker.truncate(LOCAL, wish)
        broken = await broker.send("broken")
        await broker.until_idle()
        await broker.resume(broken.turn)
        await broker.until_idle()
        room, _ = await adopt(broker, {"ann": "c1"})
        assert await room.texts() == [
            ("user", "hello"),
            ("ann", "ok"),
            ("user", "broken"),
            ("ann", "half whole"),
        ]
        assert (await room.events())[-1]["outcome"] == "completed"
        await room.check()
