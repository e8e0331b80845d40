"""Groups and chat sessions through the client, while the daemon is killed and started again."""

from __future__ import annotations

import signal
import socket
from collections import Counter
from contextlib import aclosing

import anyio
import anyio.lowlevel
import pytest

from dispatch.client import ChatApi, GroupApi, HttpApi, Options, Reconnecting
from dispatch.client.dial import Address
from dispatch.client.events import Frame
from dispatch.protocol.groups.schema import GroupSnapshot
from dispatch.protocol.sessions.schema import ChatMessage
from tests.e2e.commands import ENDLESS, GUARD_SECONDS, TEN_WORDS, going
from tests.e2e.conftest import StartDaemon
from tests.e2e.process import DaemonProcess

pytestmark = pytest.mark.timeout(90)

HASTY = Options(backoff_seconds=0.05, backoff_seconds_max=0.2)
TWO = "".join(f'[agents.{name}]\nkind = "echo"\ndelay_ms = 50\n' for name in ("echo", "parrot"))


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@pytest.fixture
async def daemon(start_daemon: StartDaemon) -> DaemonProcess:
    return await start_daemon(TWO, "--port", str(free_port()))


def api(daemon: DaemonProcess) -> HttpApi:
    return HttpApi(Address.parse(daemon.url), HASTY, read_attempts=20)


async def test_a_group_send_goes_on_after_a_kill_and_every_frame_comes_once(
    daemon: DaemonProcess,
) -> None:
    groups, frames, lost = GroupApi(api(daemon)), [], 0
    group = await groups.create(["echo", "parrot"])
    with anyio.fail_after(GUARD_SECONDS):
        async with aclosing(groups.send(group.id, ENDLESS)) as items:
            async for item in items:
                if isinstance(item, Reconnecting):
                    lost += 1
                    continue
                frames.append(item)
                if Counter(frame["kind"] for frame in frames)["assistant_chunk"] == 6:
                    await daemon.kill()
                    await daemon.start()
        snapshot = await groups.get(group.id)
    assert lost
    ids = [frame["frameId"] for frame in frames]
    assert ids == sorted(set(ids))
    said = {name: text_of(frames, name) for name in ("echo", "parrot")}
    kept = {event.familiar_id: event for event in snapshot.events[1:]}
    assert {name: event.text for name, event in kept.items()} == said
    assert {event.outcome for event in kept.values()} == {"interrupted"}
    assert frames[-1]["results"]["interrupted"] == 2


def text_of(frames: list[Frame], familiar: str) -> str:
    chunks = [f for f in frames if f["kind"] == "assistant_chunk" and f["familiarId"] == familiar]
    return "".join(frame["text"] for frame in chunks)


async def test_a_watcher_of_a_group_folds_to_what_the_group_says(daemon: DaemonProcess) -> None:
    groups = GroupApi(api(daemon))
    group = await groups.create(["echo", "parrot"])
    rows: dict[int, str] = {}
    is_killed = False
    with anyio.fail_after(GUARD_SECONDS):
        async with aclosing(groups.send(group.id, TEN_WORDS)) as sending:
            await anext(sending)
        async with aclosing(groups.watch(group.id)) as items:
            async for item in items:
                match item:
                    case GroupSnapshot():
                        rows |= {event.seq: event.text for event in item.events}
                    case Reconnecting():
                        pass
                    case {"kind": "assistant_chunk"}:
                        rows[item["seq"]] = rows.get(item["seq"], "") + item["text"]
                        if not is_killed:
                            is_killed = True
                            await daemon.kill()
                            await daemon.start()
                    case {"scope": "group"}:
                        break
                    case _:
                        pass
        snapshot = await groups.get(group.id)
    expected = {event.seq: event.text for event in snapshot.events}
    assert rows.items() <= expected.items()
    assert {2, 3} <= rows.keys()


async def test_a_chat_goes_on_after_a_kill(daemon: DaemonProcess) -> None:
    chats = ChatApi(api(daemon))
    session = await chats.create("echo")
    seen: list[tuple[str, object]] = []
    with anyio.fail_after(GUARD_SECONDS):
        async with aclosing(chats.watch(session.id, deltas=True)) as items:
            async for item in items:
                if isinstance(item, Reconnecting):
                    continue
                event, data = item["event"], item.get("data")
                seen.append((event, data.get("seq") if isinstance(data, dict) else None))
                if event == "connected" and not any(e == "chat_message" for e, _ in seen):
                    await chats.send(session.id, ENDLESS)
                if Counter(e for e, _ in seen)["chat_message_delta"] == 3:
                    seen.append(("killed", None))
                    await daemon.kill()
                    await daemon.start()
                if event == "chat_typing" and data["typing"] is False:
                    break
        detail = await chats.get(session.id)
        listed = await chats.list()
    assert Counter(seen)["chat_message", 1] == 1
    assert Counter(seen)["chat_message", 2] == 1
    assert [(m.status, m.failure_reason) for m in detail.messages] == [
        ("complete", None),
        ("failed", "interrupted"),
    ]
    assert listed.unread_total == 1


async def test_a_send_that_waits_outlives_the_daemon(daemon: DaemonProcess) -> None:
    chats = ChatApi(api(daemon))
    session = await chats.create("echo")
    with anyio.fail_after(GUARD_SECONDS):
        async with anyio.create_task_group() as tasks:

            async def restart() -> None:
                while not (await chats.get(session.id)).agent_typing:
                    await anyio.lowlevel.checkpoint()
                await daemon.kill()
                await daemon.start()

            tasks.start_soon(restart)
            sent = await chats.send(session.id, ENDLESS, wait_seconds=600)
        detail = await chats.get(session.id)
    assert isinstance(sent.response, ChatMessage)
    assert sent.response.failure_reason == "interrupted"
    assert [m.seq for m in detail.messages] == [1, 2]


@pytest.mark.parametrize("dialect", ["groups", "chats"])
async def test_ctrl_c_ends_a_watch_in_which_nothing_happens(
    daemon: DaemonProcess, dialect: str
) -> None:
    if dialect == "groups":
        watched = (await GroupApi(api(daemon)).create(["echo"])).id
        first = "kind", "snapshot"
    else:
        watched = (await ChatApi(api(daemon)).create("echo")).id
        first = "event", "connected"
    async with going(daemon.url, dialect, "watch", watched) as watcher:
        frame = await watcher.line()
        assert frame[first[0]] == first[1]
        watcher.process.send_signal(signal.SIGINT)
        with anyio.fail_after(GUARD_SECONDS / 2):
            code, told = await watcher.ended()
    assert (code, told) == (130, "\n")
