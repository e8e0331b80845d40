"""A client and a whole daemon in one process, without a socket: what programs are tested with."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import aclosing

import anyio
import pytest
import structlog

from dispatch.agents.port import Emit, Respond, TurnRequest
from dispatch.client import (
    CannotConnect,
    Client,
    Delta,
    Reconnecting,
    RequestOpened,
    Response,
    Transcript,
    TurnSealed,
    answer,
    ask,
)
from dispatch.client.groups import GroupApi
from dispatch.core.events import Request, RequestOption, TextDelta
from dispatch.errors import Gone, NotFound, Refused, RequestClosed
from dispatch.testing import (
    FOR_EVER,
    MEMORY_URL,
    Gate,
    MemoryTransport,
    ScriptedAgent,
    guard,
    in_memory,
    in_memory_client,
)
from dispatch.testing.memory import EAGER


def client_of(line: MemoryTransport) -> Client:
    return Client(MEMORY_URL, options=EAGER, transport=line)


async def test_a_client_is_answered_without_a_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket.socket, "listen", refused)
    monkeypatch.setattr("asyncio.BaseEventLoop.create_connection", refused)
    with guard():
        async with in_memory_client(ScriptedAgent("hello ", "world")) as client:
            said = await ask(client, "hi", conversation_id="c")
            page = await client.http.history("c")
    assert (said.text, said.reason) == ("hello world", "stop")
    assert [chunk.role for chunk in page.chunks] == ["user", "assistant"]


async def test_without_an_agent_there_is_one_that_echoes() -> None:
    with guard():
        async with in_memory_client() as client:
            assert (await ask(client, "say it back")).text == "say it back"


async def test_a_program_need_not_know_of_anyio() -> None:
    async def program() -> str:
        async with in_memory_client(ScriptedAgent("hello")) as client:
            return (await ask(client, "hi")).text

    def on_a_loop_of_its_own() -> str:
        return asyncio.run(asyncio.wait_for(program(), 5))

    assert await anyio.to_thread.run_sync(on_a_loop_of_its_own) == "hello"


async def test_a_line_that_is_cut_is_resumed_where_it_was() -> None:
    gate, transcript, items = Gate(), Transcript(), []
    with guard():
        async with (
            in_memory(ScriptedAgent("hello ", gate, "world")) as line,
            client_of(line) as client,
            aclosing(answer(client, "hi", conversation_id="c")) as said,
        ):
            async for item in said:
                items.append(item)
                if isinstance(item, Delta):
                    transcript.apply(item)
                    if item.text == "hello ":
                        assert line.cut() == 1
                        gate.open()
    assert transcript.text == "hello world"
    assert sum(isinstance(item, Reconnecting) for item in items) == 1


async def test_a_daemon_that_was_killed_goes_on_under_the_same_client() -> None:
    with guard():
        async with in_memory(ScriptedAgent("half", FOR_EVER)) as line, client_of(line) as client:
            items = client.follow("c", since_seq=0)
            sent = await client.send("hi", conversation_id="c", client_message_id="m-1")
            async for item in items:
                if isinstance(item, Delta) and item.text == "half":
                    await line.restart()
                if isinstance(item, Delta) and isinstance(item.event, TurnSealed):
                    break
            again = await client.send("hi", conversation_id="c", client_message_id="m-1")
            page = await client.http.history("c")
    assert (again.turn, again.duplicate) == (sent.turn, True)
    assert page.chunks[1].chunk.text == "half"  # type: ignore[union-attr]


async def fail_inside(error: Exception) -> None:
    async with in_memory_client():
        raise error


async def test_what_a_test_raises_comes_out_as_it_is() -> None:
    with guard(), pytest.raises(ZeroDivisionError):
        await fail_inside(ZeroDivisionError())


async def test_nobody_answers_where_no_daemon_is() -> None:
    with guard(), pytest.raises(CannotConnect, match="refused"):
        await client_of(MemoryTransport()).__aenter__()


async def test_a_reader_that_stops_reading_slows_nobody_and_misses_nothing() -> None:
    """More than all buffers on the way hold together, before the first item is taken."""
    pieces = 600
    flood = ScriptedAgent(*(TextDelta("x" * 8192) for _ in range(pieces)))
    transcript = Transcript()
    with guard(30):
        async with (
            in_memory(flood) as line,
            client_of(line) as slow,
            client_of(line) as quick,
            slow.follow("c") as items,
        ):
            await anext(items)
            said = await ask(quick, "flood", conversation_id="c")
            async for item in items:
                transcript.apply(item)
                if isinstance(item, Delta) and isinstance(item.event, TurnSealed):
                    break
    assert len(said.text) == pieces * 8192
    assert transcript.text == said.text


async def _asking(request: TurnRequest, emit: Emit) -> None:
    options = (RequestOption("y", "Yes", "allow"), RequestOption("n", "No", "deny"))
    await emit(Request("r-1", "approval", "May I?", options=options))
    given = await request.inbox.receive()
    assert isinstance(given, Respond)
    await emit(TextDelta(f"told {given.response.option_id}"))


async def respond(to: Client, beside: Client) -> None:
    """Answer the first question of conversation `c`; the other device is too late."""
    async with to.follow("c") as items:
        async for item in items:
            if isinstance(item, RequestOpened):
                reply = Response(item.request_id, option_id="y")
                await to.http.respond("c", reply)
                with pytest.raises(RequestClosed):
                    await beside.http.respond("c", reply)
                return


async def test_a_question_is_answered_from_another_device_and_by_one_alone() -> None:
    with guard():
        async with (
            in_memory(ScriptedAgent(_asking)) as line,
            client_of(line) as one,
            client_of(line) as other,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(respond, other, one)
            said = await ask(one, "go", conversation_id="c")
    assert said.text == "told y"


async def test_a_group_is_watched_over_the_clients_own_line() -> None:
    kinds = []
    agents = ScriptedAgent("one", name="ann"), ScriptedAgent("two", name="bob")
    with guard():
        async with in_memory(*agents) as line, client_of(line) as client:
            group = await client.groups.create(["ann", "bob"])
            async with aclosing(client.groups.watch(group.id)) as items:
                snapshot = await anext(items)
                async with aclosing(client.groups.send(group.id, "hi")) as sending:
                    sent = [frame async for frame in sending if isinstance(frame, dict)]
                async for frame in items:
                    assert isinstance(frame, dict)
                    kinds.append((frame["kind"], frame["frameId"]))
                    if frame.get("scope") == "group":
                        break
    assert snapshot.last_seq == 0  # type: ignore[union-attr]
    assert kinds == [(frame["kind"], frame["frameId"]) for frame in sent]


async def test_a_group_that_is_deleted_ends_its_watcher() -> None:
    with guard():
        async with in_memory_client(ScriptedAgent("ok", name="ann")) as client:
            group = await client.groups.create(["ann"])
            async with aclosing(client.groups.watch(group.id, after=0)) as items:
                await client.groups.rename(group.id, "Doomed")
                assert kind_of(await anext(items)) == "group_updated"
                await client.groups.delete(group.id)
                assert kind_of(await anext(items)) == "group_deleted"
                with pytest.raises(Gone):
                    await anext(items)
            with pytest.raises(Gone):
                await anext(client.groups.watch(group.id))
            with pytest.raises(NotFound):
                await anext(client.groups.watch("no-such-group", after=0))


def kind_of(item: object) -> object:
    assert isinstance(item, dict), item
    return item["kind"]


async def test_members_titles_and_the_read_cursor_of_a_group_are_changed() -> None:
    agents = [ScriptedAgent("ok", name=name) for name in ("ann", "bob", "cy")]
    with guard():
        async with in_memory(*agents) as line, client_of(line) as client:
            groups: GroupApi = client.groups
            group = await groups.create(["ann", "bob"])
            async with aclosing(groups.send(group.id, "hi")) as sending:
                assert [frame async for frame in sending]
            assert (await groups.rename(group.id, "Team")).title == "Team"
            changed = await groups.change_members(group.id, add=["cy"], remove=["ann"])
            assert changed.member_familiar_ids == ("bob", "cy")
            assert [gone.familiar_id for gone in changed.archived_members] == ["ann"]
            ordered = await groups.set_members(group.id, ["cy", "bob"])
            assert ordered.member_familiar_ids == ("cy", "bob")
            assert (await groups.read(group.id, 2)).unread == 1
            assert (await groups.get(group.id, resync=True)).settled_seq == 3


async def test_conversations_that_exist_are_adopted() -> None:
    agents = ScriptedAgent("a", name="ann"), ScriptedAgent("b", name="bob")
    with guard():
        async with in_memory(*agents) as line, client_of(line) as client:
            await ask(client, "hello", conversation_id="c-a", model="ann")
            await ask(client, "hello", conversation_id="c-b", model="bob")
            sessions = {"ann": "c-a", "bob": "c-b"}
            group = await client.groups.adopt(sessions, members=["bob", "ann"], title="Both")
            again = await client.groups.adopt(sessions)
            rows = (await client.groups.get(group.id)).events
    assert (group.title, group.member_familiar_ids) == ("Both", ("bob", "ann"))
    assert again.id == group.id
    assert [row.role for row in rows] == ["user", "familiar", "familiar"]
    assert {row.text for row in rows} == {"hello", "a", "b"}


async def test_chats_are_watched_over_the_clients_own_line() -> None:
    """With another device that types and sends, and a line that is cut while the agent speaks."""
    gate, seen, messages = Gate(), [], []
    agent = ScriptedAgent("so ", gate, "it is", name="ann")
    with guard():
        async with in_memory(agent) as line, client_of(line) as client, client_of(line) as phone:
            session = await client.chats.create("ann")
            other = await client.chats.create("ann", "Another")
            async with aclosing(client.chats.watch(session.id, deltas=True)) as items:
                assert (await anext(items))["event"] == "connected"  # type: ignore[index]
                await phone.chats.typing(session.id, device_id="phone")
                await phone.chats.rename(other.id, "of no interest")
                sent = await phone.chats.send(session.id, "really?")
                async for frame in items:
                    if isinstance(frame, Reconnecting):
                        seen.append("reconnecting")
                        continue
                    assert frame.get("sessionId", session.id) == session.id
                    seen.append(frame["event"])
                    if frame["event"] == "chat_message_delta" and "reconnecting" not in seen:
                        pending = await client.chats.pending(session.id)
                        assert line.cut()
                        gate.open()
                    if frame["event"] == "chat_message":
                        messages.append(frame["data"]["content"])
                        if len(messages) == 2:
                            break
            assert (await phone.chats.list()).unread_total == 1
            assert (await client.chats.read(session.id)).unread_count == 0
    assert pending is not None
    assert pending.task_id == sent.task_id
    assert messages == ["really?", "so it is"]
    assert seen.count("reconnecting") == 1


async def test_chats_are_cancelled_put_away_taken_back_and_purged() -> None:
    with guard():
        async with in_memory_client(ScriptedAgent("well ", Gate(), name="ann")) as client:
            chats = client.chats
            session = await chats.create("ann")
            assert (await chats.cancel(session.id)).status == "idle"
            sent = await chats.send(session.id, "hi")
            assert (await chats.cancel(session.id)).task_id == sent.task_id
            assert await chats.pending(session.id) is None
            await chats.archive(session.id)
            assert (await chats.restore(session.id)).status == "active"
            assert (await chats.purge(session.id)).purged
            with pytest.raises(NotFound):
                await anext(chats.watch(session.id))


async def test_chats_have_one_watcher_a_client() -> None:
    with guard():
        async with in_memory_client() as client:
            async with aclosing(client.chats.watch()) as items:
                await anext(items)
                with pytest.raises(Refused, match="chat sessions"):
                    await anext(client.chats.watch())
            await anext(client.chats.watch())


@pytest.fixture
def _unconfigured() -> Iterator[None]:
    """structlog as a program finds it; other tests of this process may have left it otherwise."""
    before, was_configured = structlog.get_config(), structlog.is_configured()
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()
    if was_configured:
        structlog.configure(**before)


@pytest.mark.usefixtures("_unconfigured")
async def test_only_what_went_wrong_is_in_the_output_of_a_test(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with guard():
        async with in_memory_client(ScriptedAgent("hello")) as client:
            await ask(client, "hi")
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "")
    with guard():
        async with in_memory_client(ScriptedAgent(ZeroDivisionError())) as client:
            assert (await ask(client, "hi")).reason == "error"
    assert "turn.agent_failed" in capsys.readouterr().out


@pytest.mark.usefixtures("_unconfigured")
async def test_who_configured_the_logs_gets_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    structlog.configure()
    with guard():
        async with in_memory():
            structlog.get_logger().debug("mine")
    assert "mine" in capsys.readouterr().out


@pytest.mark.usefixtures("_unconfigured")
async def test_logs_are_as_they_were_once_the_last_daemon_has_ended(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = structlog.get_logger()
    before = structlog.get_config()
    is_up, is_down, may_end = anyio.Event(), anyio.Event(), anyio.Event()

    async def outlived() -> None:
        async with in_memory():
            is_up.set()
            await may_end.wait()
        is_down.set()

    with guard():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(outlived)
            await is_up.wait()
            async with in_memory():
                may_end.set()
                await is_down.wait()
                log.info("while.one.runs")
    log.info("after.both")
    shown = capsys.readouterr().out
    assert "while.one.runs" not in shown
    assert "after.both" in shown
    assert (structlog.get_config(), structlog.is_configured()) == (before, False)


@pytest.mark.usefixtures("_unconfigured")
async def test_what_is_configured_while_a_daemon_runs_stays(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with guard():
        async with in_memory():
            structlog.configure(processors=[structlog.processors.JSONRenderer()])
        structlog.get_logger().info("mine")
    assert capsys.readouterr().out.endswith('{"event": "mine"}\n')
