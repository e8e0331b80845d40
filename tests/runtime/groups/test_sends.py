"""Messages to groups: who answers in which order, what fails alone, and what exactly once means."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from dispatch.agents.port import AgentFailure
from dispatch.core.events import ErrorEvent, ReasoningDelta, ToolCall, ToolResult
from dispatch.errors import Busy, StorageFull, TooMany
from dispatch.protocol.groups.refusals import ClientMessageConflict, InvalidTargets
from dispatch.settings import Limits
from dispatch.storage.memory import MemoryStore
from dispatch.storage.port import Store
from dispatch.storage.sqlite import SqliteStore
from dispatch.testing import FOR_EVER, FaultyStore, Gate, HeldStore, ScriptedAgent, YieldingStore
from tests.runtime.groups.room import another, group_on, named, speakers


@pytest.fixture(params=["memory", "yielding", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """The stores on which the whole path is walked."""
    make: dict[str, Callable[[], Store]] = {
        "memory": MemoryStore,
        "yielding": lambda: YieldingStore(MemoryStore()),
        "sqlite": lambda: SqliteStore(tmp_path / "data", synchronous="off"),
    }
    return make[str(request.param)]()


async def test_every_member_answers_under_a_seq_of_its_own(store: Store) -> None:
    async with group_on(speakers("ann", "bob", "cy"), store=store) as room:
        sent = await room.send("hello")
        await room.settled()
        assert (sent.seq, sent.is_duplicate) == (1, False)
        assert sent.frame == room.shown()[0].offset
        assert sorted(await room.texts()) == [
            ("ann", "ann: hello"),
            ("bob", "bob: hello"),
            ("cy", "cy: hello"),
            ("user", "hello"),
        ]
        last = room.payloads()[-1]
        assert (last["scope"], last["replyTo"], last["lastSeq"]) == ("group", 1, 4)
        assert last["results"]["completed"] == 3
        assert last["isError"] is False
        await room.check()


async def test_seqs_are_in_the_order_of_first_tokens() -> None:
    gates = {name: Gate() for name in ("ann", "bob", "cy")}
    agents = [
        named(ReasoningDelta("hm"), ToolCall("c1", "look", {}), gate, name, name=name)
        for name, gate in gates.items()
    ]
    async with group_on(agents) as room:
        await room.send()
        for gate in gates.values():
            await gate.reached()
        for name in ("cy", "ann", "bob"):
            gates[name].open()
            await room.broker.services.agents[name].asked()
            while not any(
                f["kind"] == "done" for f in room.payloads() if f.get("familiarId") == name
            ):
                await room.timeline.kept()
        await room.settled()
        assert [who for who, _ in await room.texts()] == ["user", "cy", "ann", "bob"]
        early = [f for f in room.payloads() if f["kind"] in ("session", "progress", "tool_use")]
        assert {f["seq"] for f in early if f.get("phase") != "result"} == {None}
        await room.check()


async def test_an_empty_delta_takes_no_seq() -> None:
    gate = Gate()
    async with group_on([named("", gate, "a", name="ann")]) as room:
        await room.send()
        await gate.reached()
        await room.broker.services.journal.idle()
        assert [event["seq"] for event in await room.events()] == [1]
        gate.open()
        await room.settled()
        assert await room.texts() == [("user", "hi"), ("ann", "a")]
        await room.check()


async def test_a_live_reply_is_shown_with_its_text_so_far() -> None:
    gate = Gate()
    async with group_on([named("half", gate, " whole", name="ann")]) as room:
        await room.send()
        await gate.reached()
        await room.broker.services.journal.idle()
        (_, event) = await room.events()
        assert (event["text"], event["streaming"]) == ("half", True)
        page = await room.page()
        assert (page.settled_seq, page.cursor) == (1, room.timeline.feed.head)
        gate.open()
        await room.settled()
        (_, event) = await room.events()
        assert (event["text"], event["streaming"]) == ("half whole", False)
        await room.check()


@pytest.mark.parametrize("said", ["", "so far"])
async def test_a_failing_member_touches_no_other(said: str) -> None:
    gate = Gate()
    ann = named(*([said] if said else []), AgentFailure("no luck"), name="ann")
    async with group_on([ann, named(gate, "fine", name="bob")]) as room:
        await room.send()
        while ("ann", "error") not in await room.outcomes():
            await room.timeline.kept()
        gate.open()
        await room.settled()
        assert await room.texts() == [("user", "hi"), ("ann", said), ("bob", "fine")]
        assert await room.outcomes() == [("ann", "error"), ("bob", "completed")]
        frames = [f for f in room.payloads() if f.get("familiarId") == "ann"]
        error, done = frames[-2:]
        assert (error["kind"], error["code"], error["message"]) == (
            "error",
            "member_failed",
            "no luck",
        )
        assert (done["kind"], done["isError"], done["seq"]) == ("done", True, error["seq"])
        assert room.payloads()[-1]["isError"] is False
        await room.check()


async def test_an_exception_of_an_agent_is_told_in_neutral_words() -> None:
    async with group_on([named(RuntimeError("secret"), name="ann")]) as room:
        await room.send()
        await room.settled()
        assert "secret" not in str(room.payloads())
        assert await room.outcomes() == [("ann", "error")]


async def test_when_all_fail_the_groups_last_word_is_an_error() -> None:
    agents = [
        named(AgentFailure("a"), name="ann"),
        named(ErrorEvent("b", "odd"), name="bob"),
    ]
    async with group_on(agents) as room:
        await room.send()
        await room.settled()
        assert await room.outcomes() == [("ann", "error"), ("bob", "error")]
        last = room.payloads()[-1]
        assert (last["isError"], last["results"]["error"]) == (True, 2)
        await room.check()


async def test_a_member_that_never_answers_ends_at_its_deadline() -> None:
    limits = Limits(turn_seconds_max=0.01)
    async with group_on([named(FOR_EVER, name="ann")], limits=limits) as room:
        await room.send()
        await room.settled()
        error = room.payloads()[-3]
        assert (error["kind"], error["code"]) == ("error", "timeout")
        await room.check()


async def test_an_empty_reply_is_a_row_like_any_other() -> None:
    async with group_on([named(name="ann"), *speakers("bob")]) as room:
        await room.send()
        await room.settled()
        assert sorted(await room.texts()) == [("ann", ""), ("bob", "bob: hi"), ("user", "hi")]
        assert ("ann", "completed") in await room.outcomes()
        await room.check()


async def test_a_tool_left_open_and_a_result_carry_the_seq_once_there_is_one() -> None:
    call, result = ToolCall("c1", "look", {}), ToolResult("c1", "look", "seen", is_error=False)
    async with group_on([named(call, "now", result, name="ann")]) as room:
        await room.send()
        await room.settled()
        phases = {f["phase"]: f["seq"] for f in room.payloads() if f["kind"] == "tool_use"}
        assert phases == {"call": None, "result": 2}
        await room.check()


async def test_a_member_answers_messages_in_their_order_and_others_do_not_wait_for_it() -> None:
    gate = Gate()
    ann = ScriptedAgent(
        script=lambda r: [gate, r.message] if r.message == "one" else [r.message], name="ann"
    )
    async with group_on([ann, *speakers("bob")]) as room:
        assert (await room.send("one")).seq == 1
        second = await room.send("two")
        while len(await room.outcomes()) < 2:
            await room.timeline.kept()
        assert await room.outcomes() == [("bob", "completed")] * 2
        runs = (await room.page()).view.runs
        assert [(run.user_seq, run.pending) for run in runs] == [
            (1, ("ann",)),
            (second.seq, ("ann",)),
        ]
        gate.open()
        await room.settled()
        assert ann.messages == ["one", "two"]
        replies = [e["replyTo"] for e in await room.events() if e.get("familiarId") == "ann"]
        assert replies == [1, second.seq]
        await room.check()


async def test_targets_alone_answer_in_member_order() -> None:
    async with group_on(speakers("ann", "bob", "cy"), runs_max=1) as room:
        await room.send("one", targets=("cy", "ann"))
        await room.settled()
        assert [who for who, _ in await room.texts()] == ["user", "ann", "cy"]
        event = (await room.events())[0]
        assert event["targetFamiliarIds"] == ["cy", "ann"]
        await room.check()


@pytest.mark.parametrize("targets", [("dan",), ("ann", "dan"), ()])
async def test_targets_that_are_no_members_are_refused(targets: tuple[str, ...]) -> None:
    async with group_on(speakers("ann", "bob", "dan"), members=["ann", "bob"]) as room:
        with pytest.raises(InvalidTargets):
            await room.send(targets=targets)
        assert await room.events() == []


async def test_busy_is_any_run_that_is_not_over() -> None:
    gate = Gate()
    async with group_on([named(gate, name="ann"), *speakers("bob")]) as room:
        await room.send("one")
        with pytest.raises(Busy):
            await room.send("two", on_busy="reject")
        gate.open()
        await room.settled()
        await room.send("three", on_busy="reject")
        await room.settled()
        await room.check()


async def test_too_many_waiting_messages_are_refused_and_change_nothing() -> None:
    limits = Limits(queue_turns_max=2)
    async with group_on([named(FOR_EVER, name="ann")], limits=limits) as room:
        await room.send("one")
        await room.send("two")
        with pytest.raises(TooMany):
            await room.send("three")
        assert len(await room.events()) == 2
        await room.stop()
        await room.check()


async def test_what_waits_of_groups_counts_as_what_waits_of_the_account() -> None:
    limits = Limits(queue_bytes_max=5_000)
    async with group_on([named(FOR_EVER, name=name) for name in ("a", "b")], limits=limits) as room:
        await room.send("x" * 1_000)
        await room.send("y" * 2_000)
        with pytest.raises(TooMany):
            await room.send("z" * 2_000)
        await room.stop()
        await room.send("z" * 2_000)
        await room.stop()
        assert len(await room.outcomes()) == 6
        await room.check()


# -- exactly once ------------------------------------------------------------------------------


async def test_the_same_message_is_the_same_row(store: Store) -> None:
    async with group_on(speakers("ann", "bob"), store=store) as room:
        first = await room.send("x", client_message_id="m")
        await room.settled()
        again = await room.send("x", client_message_id="m")
        assert again == first._replace(is_duplicate=True)
        with pytest.raises(ClientMessageConflict):
            await room.send("y", client_message_id="m")
        with pytest.raises(ClientMessageConflict):
            await room.send("x", client_message_id="m", targets=("ann",))
        await room.settled()
        assert len(await room.events()) == 3
        await room.check()


async def test_sent_at_once_over_two_connections_it_is_one_message(store: Store) -> None:
    async with group_on(speakers("ann"), store=store) as room:
        sends = [room.send("x", client_message_id="m") for _ in range(5)]
        sent = await asyncio.gather(*sends)
        assert {one.seq for one in sent} == {1}
        assert sorted(one.is_duplicate for one in sent) == [False, True, True, True, True]
        both = await asyncio.gather(
            room.send("y", client_message_id="n"),
            room.send("z", client_message_id="n"),
            return_exceptions=True,
        )
        assert [type(one).__name__ for one in both] == ["Sent", "ClientMessageConflict"]
        await room.settled()
        assert len(await room.events()) == 4
        await room.check()


async def test_an_id_is_compared_within_its_group_alone() -> None:
    async with group_on(speakers("ann")) as room:
        await room.send("x", client_message_id="m")
        async with another(room, "ann") as other:
            assert not (await other.send("y", client_message_id="m")).is_duplicate
            await other.settled()
        await room.settled()


async def test_a_full_disk_refuses_all_of_a_message_or_nothing() -> None:
    store = FaultyStore(MemoryStore())
    async with group_on(speakers("ann", "bob"), store=store) as room:
        store.fail(StorageFull("full"))
        with pytest.raises(StorageFull):
            await room.send("x", client_message_id="m")
        assert await room.events() == []
        assert room.timeline.replies == {}
        assert room.shown() == []
        while room.broker.services.journal.trouble is not None:
            await asyncio.sleep(0)
        sent = await room.send("x", client_message_id="m")
        assert (sent.seq, sent.is_duplicate) == (1, False)
        await room.settled()
        assert len(await room.events()) == 3
        await room.check()


async def test_nobody_sees_a_message_or_its_runs_before_they_are_durable() -> None:
    store = HeldStore(MemoryStore())
    async with group_on(speakers("ann"), store=store) as room:
        store.hold()
        sending = asyncio.ensure_future(room.send())
        await store.reached()
        page = await room.page()
        assert (page.rows, page.view.runs, page.view.last_seq) == ([], (), 0)
        store.release()
        await sending
        await room.settled()
        await room.check()


@pytest.mark.parametrize("is_renewed", [False, True])
async def test_a_send_that_is_cancelled_anywhere_happens_whole_or_not_at_all(
    is_renewed: bool,
) -> None:
    is_over = False
    steps = 0
    while not is_over:
        store = YieldingStore(MemoryStore())
        ann, bob = speakers("ann", "bob")
        async with group_on([ann, bob], store=store) as room:
            if is_renewed:
                await room.broker.catalog.delete(room.principal, room.child("bob"))
            sending = asyncio.ensure_future(room.send("x", client_message_id="m"))
            for _ in range(steps):
                await asyncio.sleep(0)
            is_over = sending.done()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await room.settled()
            assert len(await room.events()) in (0, 3)
            sent = await room.send("x", client_message_id="m")
            await room.settled()
            assert sent.seq == 1
            assert len(await room.events()) == 3
            assert ann.messages == ["x"]
            assert room.broker.services.slots._running == set()
            await room.check()
        steps += 1
    assert steps > 4
