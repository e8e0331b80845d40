"""A group after its daemon died: nothing is lost, nothing runs twice, nothing stays open."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dispatch.core.identity import LOCAL
from dispatch.core.replay import Frame
from dispatch.storage.memory import MemoryStore
from dispatch.storage.memory_disk import MemoryDisk
from dispatch.storage.port import Store
from dispatch.storage.sqlite import SqliteStore
from dispatch.testing import FOR_EVER, HeldStore, ScriptedAgent, SequentialIds, broker_on
from dispatch.testing.audit import audit
from tests.runtime.groups.room import Event, group_on, named, speakers

Reopen = Callable[[], Store]


@pytest.fixture(params=["memory", "sqlite"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Reopen:
    """Each call is the next owner of the same disk."""
    disk = MemoryDisk()
    if request.param == "memory":
        return lambda: MemoryStore(disk)
    return lambda: SqliteStore(tmp_path / "data", synchronous="off")


def slow(name: str) -> ScriptedAgent:
    """Begins to answer, and is killed before it has ended."""
    return ScriptedAgent(
        script=lambda r: ["half", FOR_EVER] if r.message == "one" else [r.message], name=name
    )


async def test_what_ran_is_interrupted_with_its_text_and_what_waited_runs(reopen: Reopen) -> None:
    ids = SequentialIds()
    before: list[Frame]
    async with group_on([slow("ann"), *speakers("bob")], store=reopen(), ids=ids) as room:
        await room.send("one", client_message_id="m")
        while len(await room.outcomes()) < 2:
            await room.timeline.kept()
        await room.send("two", targets=("ann",))
        await room.broker.services.journal.idle()
        name, before = room.id, room.shown()
        rows = {e["seq"]: e for e in await room.events() if not e["streaming"]}
    ann, bob = slow("ann"), speakers("bob")[0]
    async with group_on([ann, bob], store=reopen(), group=name, ids=ids) as room:
        await room.settled()
        assert (ann.messages, bob.messages) == (["two"], [])
        events = {e["seq"]: e for e in await room.events()}
        assert rows.items() <= events.items()
        by_reply = {(e["replyTo"], e["familiarId"]): e for e in events.values() if "replyTo" in e}
        assert by_reply[1, "ann"]["text"] == "half"
        assert by_reply[1, "ann"]["outcome"] == "interrupted"
        assert by_reply[1, "ann"]["isError"] is True
        assert by_reply[1, "ann"]["error"]["code"] == "interrupted"
        assert by_reply[4, "ann"]["outcome"] == "completed"
        assert (await room.replayed())[: len(before)] == before
        lasts = [f for f in map(_payload, await room.replayed()) if f.get("scope") == "group"]
        assert [(f["replyTo"], f["results"]["interrupted"]) for f in lasts] == [(1, 1), (4, 0)]
        again = await room.send("one", client_message_id="m")
        assert (again.seq, again.is_duplicate) == (1, True)
        await room.check(is_whole=False)
        assert await audit(room.broker.store) == []


def _payload(frame: Frame) -> Event:
    payload: Event = json.loads(frame.payload)
    return payload


async def test_a_run_that_had_said_nothing_takes_a_seq_when_it_is_interrupted(
    reopen: Reopen,
) -> None:
    ids = SequentialIds()
    async with group_on([named(FOR_EVER, name="ann")], store=reopen(), ids=ids) as room:
        await room.send("one")
        agent = room.broker.services.agents["ann"]
        assert isinstance(agent, ScriptedAgent)
        await agent.asked()
        name, head = room.id, room.timeline.feed.head
        assert len(await room.events()) == 1
    async with group_on(speakers("ann"), store=reopen(), group=name, ids=ids) as room:
        assert await room.outcomes() == [("ann", "interrupted")]
        after = await room.replayed(head)
        assert [_payload(frame)["kind"] for frame in after] == ["done", "done"]
        assert min(frame.offset for frame in after) > head
        assert room.timeline.feed.head == after[-1].offset
        await room.check(is_whole=False)


async def test_a_quiet_group_goes_on_where_its_frames_ended(reopen: Reopen) -> None:
    ids = SequentialIds()
    async with group_on(speakers("ann", "bob"), store=reopen(), ids=ids) as room:
        await room.send("one")
        await room.settled()
        await room.patch(title="T")
        name, head, rows = room.id, room.timeline.feed.head, await room.events()
        page = await room.page()
    async with group_on(speakers("ann", "bob"), store=reopen(), group=name, ids=ids) as room:
        assert room.timeline.feed.head == head
        assert await room.events() == rows
        assert (await room.page()).view == page.view
        await room.send("two")
        await room.settled()
        assert min(frame.offset for frame in room.shown()) > head
        await room.check(is_whole=False)


async def test_a_daemon_may_be_killed_again_while_it_recovers() -> None:
    disk, ids = MemoryDisk(), SequentialIds()
    async with group_on([slow("ann"), slow("bob")], store=MemoryStore(disk), ids=ids) as room:
        await room.send("one")
        while len(await room.outcomes()) < 2:
            await room.timeline.kept()
        await room.send("two")
        name = room.id
    for behind in (False, True, False):
        store = HeldStore(MemoryStore(disk))
        store.hold(behind=behind)
        daemon = asyncio.ensure_future(_open(store, ids))
        await store.reached()
        daemon.cancel()
        await asyncio.gather(daemon, return_exceptions=True)
    ann = slow("ann")
    async with group_on([ann, slow("bob")], store=MemoryStore(disk), group=name, ids=ids) as room:
        await room.settled()
        outcomes = await room.outcomes()
        assert sorted(outcomes[:2]) == [("ann", "interrupted"), ("bob", "interrupted")]
        assert sorted(who for who, _ in outcomes[2:]) == ["ann", "bob"]
        await room.check(is_whole=False)


async def _open(store: Store, ids: SequentialIds) -> None:
    async with broker_on(store, agents=[slow("ann"), slow("bob")], ids=ids):
        pass


async def test_killed_between_the_end_of_a_child_and_its_last_word_it_is_missing(
    reopen: Reopen,
) -> None:
    ids = SequentialIds()
    ann = slow("ann")
    inner = reopen()
    store = HeldStore(inner)
    async with group_on([ann, *speakers("bob")], store=store, ids=ids) as room:
        await room.send("one")
        while len(await room.outcomes()) < 2:
            await room.timeline.kept()
        await room.send("two", targets=("ann",))
        name, child = room.id, room.child("ann")
        # The running one ends first: that commit, and then the deletion's own.
        deleting = asyncio.ensure_future(room.broker.catalog.delete(LOCAL, child))
        live = room.broker.live(child)
        assert live.current is not None
        await live.current.sealed.wait()
        store.hold(behind=True)
        await store.reached()
        deleting.cancel()
        await asyncio.gather(deleting, return_exceptions=True)
    async with group_on(speakers("ann", "bob"), store=reopen(), group=name, ids=ids) as room:
        rows = [e for e in await room.events() if e.get("familiarId") == "ann"]
        assert [row["error"]["code"] for row in rows] == ["session_missing"] * 2
        assert await room.broker.store.open_timelines() == []
        await room.send("three")
        await room.settled()
        await room.send("four")
        await room.settled()
        assert room.child("ann") != child
        assert [o for _, o in (await room.outcomes())[-2:]] == ["completed"] * 2
        await room.check(is_whole=False, is_pruned=True)


async def test_a_drain_interrupts_what_runs_and_keeps_what_waits() -> None:
    disk, ids = MemoryDisk(), SequentialIds()
    async with group_on([slow("ann")], store=MemoryStore(disk), ids=ids) as room:
        await room.send("one")
        while len(await room.outcomes()) < 1:
            await room.timeline.kept()
        await room.send("two")
        await room.broker.broker.drain(0)
        assert await room.outcomes() == [("ann", "interrupted")]
        assert len(room.timeline.replies) == 1
        name = room.id
    async with group_on([slow("ann")], store=MemoryStore(disk), group=name, ids=ids) as room:
        await room.settled()
        assert await room.outcomes() == [("ann", "interrupted"), ("ann", "completed")]
        await room.check(is_whole=False)


async def test_queued_runs_of_a_restart_respect_the_bound_of_slots() -> None:
    disk, ids = MemoryDisk(), SequentialIds()
    async with group_on([named(FOR_EVER, name="ann")], store=MemoryStore(disk), ids=ids) as room:
        for text in ("one", "two", "three"):
            await room.send(text)
        name = room.id
    async with group_on(speakers("ann"), store=MemoryStore(disk), group=name, ids=ids) as room:
        await room.settled()
        outcomes = [outcome for _, outcome in await room.outcomes()]
        assert outcomes == ["interrupted", "completed", "completed"]
        assert room.broker.services.slots._running == set()
        await room.check(is_whole=False)
