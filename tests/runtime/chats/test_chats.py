"""Chat sessions where the disk is slow, refuses, or dies: what is told stays true."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from dispatch.core.commands import Accepted, Send, TurnBody
from dispatch.core.identity import LOCAL, ConversationId
from dispatch.errors import Conflict, StorageFull
from dispatch.protocol.sessions.frames import message_object
from dispatch.protocol.sessions.requests import Create, DetailQuery, ListQuery, Message
from dispatch.runtime.chats.presence import TYPING_SECONDS
from dispatch.runtime.chats.reading import Detail
from dispatch.runtime.chats.sends import Sent
from dispatch.runtime.chats.streams import stream_name
from dispatch.server.chats.events import EventReader
from dispatch.settings import Limits
from dispatch.storage.memory import MemoryStore
from dispatch.storage.memory_disk import MemoryDisk
from dispatch.storage.port import Store
from dispatch.testing import Harness, ScriptedAgent, broker_on, guard
from dispatch.testing.scripted import FOR_EVER, Gate
from dispatch.testing.stores import FaultyStore, HeldStore

STREAM = stream_name(LOCAL.account, LOCAL.user)


class Chat:
    """One session of a harness."""

    def __init__(self, broker: Harness, session: str) -> None:
        self.broker = broker
        self.session = session

    async def send(self, text: str, client_id: str | None = None) -> Sent:
        message = Message(content=text, client_message_id=client_id)
        with guard():
            return await self.broker.chats.sends.send(LOCAL, self.session, message, None)

    async def detail(self) -> Detail:
        with guard():
            reading = self.broker.chats.reading
            return await reading.detail(LOCAL, self.session, DetailQuery(limit=200))

    async def rows(self) -> list[tuple[str, str]]:
        """The status and text of every message."""
        shown = [message_object(m.row, content=m.content) for m in (await self.detail()).messages]
        assert [row["seq"] for row in shown] == list(range(1, len(shown) + 1))
        return [(row["status"], row["content"]) for row in shown]

    async def told(self, after: int = 0) -> list[str]:
        """The log of the stream, shortly."""
        page = await self.broker.store.log(STREAM, after, 1_000)
        positions = [record.position for record in page.records]
        assert positions == sorted(set(positions))
        told = []
        for record in page.records:
            fields = json.loads(record.payload)
            told.append(fields["type"] + str(fields.get("typing", "")))
        return told


@asynccontextmanager
async def chatting(
    store: Store, *agents: ScriptedAgent, limits: Limits | None = None
) -> AsyncIterator[Chat]:
    chosen = agents or [ScriptedAgent("hi")]
    async with broker_on(store, agents=chosen, limits=limits) as broker:
        created = Create(agent_key=next(iter(broker.services.agents)), title="t")
        view = await broker.chats.chats.create(LOCAL, created)
        chat = Chat(broker, view.id)
        # The stream's head is known from here on: nothing below waits for the journal.
        await chat.detail()
        yield chat


async def test_a_snapshot_shows_no_message_that_was_not_shown() -> None:
    store = HeldStore(MemoryStore())
    async with chatting(store) as chat, anyio.create_task_group() as tasks:
        before = await chat.detail()
        store.hold(behind=True)
        tasks.start_soon(chat.send, "hello")
        await store.reached()
        held = await chat.detail()
        assert (held.messages, held.tasks, held.cursor) == ([], [], before.cursor)
        store.release()
        await chat.broker.until_idle()
        after = await chat.detail()
        assert len(after.messages) == 2
        assert after.cursor > before.cursor


async def test_a_snapshot_shows_no_end_that_was_not_shown() -> None:
    gate, store = Gate(), HeldStore(MemoryStore())
    async with chatting(store, ScriptedAgent("so far", gate)) as chat:
        await chat.send("hello")
        await gate.reached()
        await chat.broker.services.journal.idle()
        store.hold(behind=True)
        gate.open()
        await store.reached()
        held = await chat.detail()
        assert [m.content for m in held.messages] == [None, "so far"]
        assert held.unread == 0
        assert [task.status for task in held.tasks] == ["running"]
        store.release()
        await chat.broker.until_idle()
        assert await chat.rows() == [("complete", "hello"), ("complete", "so far")]


async def test_what_changes_while_it_is_read_is_read_as_changed() -> None:
    gate, store = Gate(), HeldStore(MemoryStore())
    async with chatting(store, ScriptedAgent("so far", gate, " done")) as chat:
        await chat.send("hello")
        await gate.reached()
        await chat.broker.services.journal.idle()
        rows = chat.broker.store.rows

        async def slow(*arguments: Any, **options: Any) -> Any:
            found = await rows(*arguments, **options)
            gate.open()
            await chat.broker.until_idle()
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store, "rows", slow)
            detail = await chat.detail()
        assert [m.row.text for m in detail.messages] == ["hello", "so far done"]
        assert (detail.unread, detail.tasks) == (1, [])
        assert detail.cursor == chat.broker.chats.streams.head(STREAM)


async def test_a_list_from_a_disk_that_is_ahead_goes_on_without_repeating() -> None:
    store = HeldStore(MemoryStore())
    async with chatting(store) as chat, anyio.create_task_group() as tasks:
        store.hold(behind=True)
        tasks.start_soon(chat.send, "hello")
        await store.reached()
        listed = await chat.broker.chats.reading.listed(LOCAL, ListQuery())
        last = listed.items[0].last
        assert last is not None
        assert last.row.text == "hello"
        reader = EventReader(chat.broker.chats.streams, deltas=False)
        batches = reader.frames(LOCAL, listed.cursor)
        (connected,) = await anext(batches)
        assert b"resync" not in connected.payload
        store.release()
        with guard():
            first = (await anext(batches))[0]
        assert b'"chat_message"' in first.payload
        assert b'"assistant"' in first.payload
        await batches.aclose()


async def test_a_message_that_the_disk_refuses_leaves_no_trace() -> None:
    gate, store = Gate(), FaultyStore(MemoryStore())
    async with chatting(store, ScriptedAgent("so far", gate, " done")) as chat:
        await chat.send("hello")
        await gate.reached()
        await chat.broker.services.journal.idle()
        store.break_down(StorageFull("full"))
        for _ in range(3):
            with pytest.raises(StorageFull):
                await chat.send("refused")
        gate.open()
        store.repair()
        await chat.broker.until_idle()
        assert await chat.rows() == [("complete", "hello"), ("complete", "so far done")]
        assert await chat.told() == ["changed", "message", "typingTrue", "ended", "typingFalse"]
        assert (await chat.detail()).unread == 1
        assert (await chat.detail()).tasks == []


async def test_a_first_message_that_the_disk_refuses_never_typed() -> None:
    store = FaultyStore(MemoryStore())
    async with chatting(store) as chat:
        store.fail(StorageFull("full"))
        with pytest.raises(StorageFull):
            await chat.send("refused")
        assert (await chat.detail()).tasks == []
        assert await chat.told() == ["changed"]
        assert chat.broker.services.slots.is_full is False
        await chat.broker.services.journal.idle()
        await chat.send("taken")
        await chat.broker.until_idle()
        assert await chat.rows() == [("complete", "taken"), ("complete", "hi")]


async def test_sends_of_one_batch_are_built_again_where_one_is_in_the_way() -> None:
    store = FaultyStore(HeldStore(MemoryStore()))
    held = store.inner
    assert isinstance(held, HeldStore)
    async with chatting(store, ScriptedAgent(script=lambda r: [r.message])) as chat:
        other = (await chat.broker.chats.chats.create(LOCAL, Create(agent_key="scripted"))).id
        held.hold()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(chat.send, "first")
            await held.reached()
            # These gather behind the commit that is held, and are one batch.
            tasks.start_soon(chat.send, "second")
            tasks.start_soon(chat.send, "third")
            tasks.start_soon(Chat(chat.broker, other).send, "elsewhere")
            await anyio.wait_all_tasks_blocked()
            store.fail(Conflict("taken"))
            held.release()
        await chat.broker.until_idle()
        rows = await chat.rows()
        assert sorted(text for _, text in rows) == sorted(["first", "second", "third"] * 2)
        assert len(await Chat(chat.broker, other).rows()) == 2
        told = await chat.told()
        assert told.count("message") == told.count("ended") == 4
        assert told.count("typingTrue") == told.count("typingFalse") == 2
        keys = [m.row.key for m in (await chat.detail()).messages]
        assert len(set(keys)) == 6


async def test_an_end_whose_commit_is_refused_is_told_once() -> None:
    gate, store = Gate(), FaultyStore(MemoryStore())
    async with chatting(store, ScriptedAgent("so far", gate)) as chat:
        await chat.send("hello")
        await gate.reached()
        await chat.broker.services.journal.idle()
        store.fail(StorageFull("full"), times=3)
        gate.open()
        await chat.broker.until_idle()
        assert store.failed == 3
        assert await chat.told() == ["changed", "message", "typingTrue", "ended", "typingFalse"]
        assert (await chat.detail()).unread == 1


async def test_a_text_that_was_steered_in_before_a_crash_is_answered_after_it() -> None:
    disk = MemoryDisk()
    stubborn = ScriptedAgent("so far", FOR_EVER, steer=True)
    async with chatting(MemoryStore(disk), stubborn) as chat:
        sent = await chat.send("hello")
        await stubborn.asked()
        told: list[Accepted] = []
        body = TurnBody(message="aside")
        conversation = ConversationId(chat.session)
        steer = Send(body=body, conversation=conversation, on_busy="steer")
        await chat.broker.broker.send(LOCAL, steer, told.append)
        assert told[0].place == "steered"
        assert [task.id for task in (await chat.detail()).tasks] == [sent.task]
        session = chat.session
    async with broker_on(MemoryStore(disk), agents=[ScriptedAgent("late")]) as broker:
        chat = Chat(broker, session)
        await broker.until_idle()
        statuses = [status for status, _ in await chat.rows()]
        assert statuses == ["complete", "failed", "complete", "complete"] or statuses == [
            "complete",
            "complete",
            "failed",
            "complete",
        ]
        detail = await chat.detail()
        assert detail.tasks == []
        assert {m.row.turn_id for m in detail.messages if m.row.role == "reply"} == {
            sent.task,
            told[0].turn,
        }
        typing = [word for word in await chat.told() if word.startswith("typing")]
        assert typing == ["typingTrue", "typingFalse"]
        assert broker.services.slots.is_full is False


async def test_a_session_leaves_memory_with_its_conversation() -> None:
    async with chatting(MemoryStore()) as chat:
        await chat.send("hello")
        await chat.broker.until_idle()
        timelines = chat.broker.chats.chats.timelines
        timeline = timelines.find((LOCAL.account, "chat", chat.session))
        assert timeline is not None
        chat.broker.conversations.forget(chat.broker.live(chat.session))
        assert timeline.users == 0
        timelines.forget(timeline)
        assert await chat.rows() == [("complete", "hello"), ("complete", "hi")]
        assert (await chat.detail()).unread == 1
        assert timelines.find((LOCAL.account, "chat", chat.session)) is not timeline


async def test_a_session_that_was_refused_never_was() -> None:
    store = FaultyStore(MemoryStore())
    async with chatting(store) as chat:
        store.fail(StorageFull("full"))
        with pytest.raises(StorageFull):
            await chat.broker.chats.chats.create(LOCAL, Create(agent_key="scripted"))
        listed = await chat.broker.chats.reading.listed(LOCAL, ListQuery(status="all"))
        assert [item.view.id for item in listed.items] == [chat.session]
        assert len(list(chat.broker.conversations)) == 1


async def test_a_reader_that_falls_behind_the_ring_reads_the_log() -> None:
    limits = Limits(ring_events_max=4)
    async with chatting(MemoryStore(), limits=limits) as chat:
        reader = EventReader(chat.broker.chats.streams, deltas=False)
        batches = reader.frames(LOCAL, None)
        await anext(batches)
        for number in range(20):
            await chat.send(f"m{number}")
            await chat.broker.until_idle()
        names: list[str] = []
        with guard():
            while names.count("chat_typing") < 40:
                names += [json.loads(frame.payload)["event"] for frame in await anext(batches)]
        assert names.count("chat_message") == 40
        assert "resync_required" not in names
        await batches.aclose()


async def test_a_reader_that_falls_behind_what_was_pruned_begins_anew() -> None:
    limits = Limits(ring_events_max=4)
    async with chatting(MemoryStore(), limits=limits) as chat:
        reader = EventReader(chat.broker.chats.streams, deltas=False)
        batches = reader.frames(LOCAL, None)
        await anext(batches)
        for number in range(10):
            await chat.send(f"m{number}")
            await chat.broker.until_idle()
        assert await chat.broker.store.prune(2**60, 10_000) > 0
        with guard():
            (frame,) = await anext(batches)
            assert json.loads(frame.payload) == {
                "event": "resync_required",
                "data": {"cursor": (await chat.detail()).cursor},
            }
            await chat.send("after")
            frame = (await anext(batches))[0]
            assert json.loads(frame.payload)["data"]["content"] == "after"
        await batches.aclose()


async def test_text_for_others_pushes_nobody_out() -> None:
    gate, done = Gate(), Gate()
    words = [step for _ in range(40) for step in ("word ", _settled)]
    agent = ScriptedAgent(gate, *words, done)
    async with chatting(MemoryStore(), agent, limits=Limits(ring_events_max=8)) as chat:
        streams = chat.broker.chats.streams
        eager = EventReader(streams, deltas=True).frames(LOCAL, None)
        plain = EventReader(streams, deltas=False).frames(LOCAL, None)
        await anext(eager)
        await anext(plain)
        _settled_by.append(chat.broker)
        await chat.send("hello")
        gate.open()
        await done.reached()
        done.open()
        await chat.broker.until_idle()
        names: list[str] = []
        with guard():
            while names.count("chat_typing") < 2:
                names += [json.loads(frame.payload)["event"] for frame in await anext(plain)]
        assert names == ["chat_message", "chat_typing", "chat_message", "chat_typing"]
        await plain.aclose()
        await eager.aclose()


_settled_by: list[Harness] = []


async def _settled(_request: object, _emit: object) -> None:
    await _settled_by[-1].services.journal.idle()


async def test_who_is_seen_for_the_first_time_is_not_ahead_of_what_was_shown() -> None:
    disk = MemoryDisk()
    async with chatting(MemoryStore(disk)) as chat:
        session = chat.session
    store = HeldStore(MemoryStore(disk))
    async with broker_on(store, agents=[ScriptedAgent(FOR_EVER, name="scripted")]) as broker:
        chat = Chat(broker, session)
        found: list[Detail] = []

        async def look() -> None:
            found.append(await chat.detail())

        store.hold(behind=True)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(chat.send, "hello")
            await store.reached()
            tasks.start_soon(look)
            await anyio.wait_all_tasks_blocked()
            assert found == []
            store.release()
        assert [m.row.text for m in found[0].messages] == ["hello"]
        assert found[0].cursor == broker.chats.streams.head(STREAM)


async def test_who_types_on_is_not_ended_by_the_first_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    async with chatting(MemoryStore()) as chat:
        handles = []

        def call_later(seconds: float, call: Any) -> asyncio.TimerHandle:
            assert seconds == TYPING_SECONDS
            handles.append(loop.call_at(loop.time() + 3600.0, call))
            return handles[-1]

        verbs = chat.broker.chats.chats
        async with verbs.own(LOCAL, chat.session) as timeline:
            with monkeypatch.context() as patch:
                patch.setattr(loop, "call_later", call_later)
                verbs.typing.note(timeline, "d", typing=True)
                verbs.typing.note(timeline, "d", typing=True)
            assert [handle.cancelled() for handle in handles] == [True, False]
            await chat.send("here")
            assert handles[1].cancelled()
