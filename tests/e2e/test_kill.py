"""kill -9: whatever anybody was shown is in the history, and nothing runs twice."""

from __future__ import annotations

import os
import random
from pathlib import Path

import anyio
import httpx
from websockets.exceptions import ConnectionClosed

from tests.e2e.agents import config
from tests.e2e.conftest import StartDaemon
from tests.e2e.process import DaemonProcess
from tests.e2e.wire import Frame, Wire, events, text, v1_wire
from tests.protocol.replies import http_client

CYCLES = int(os.environ.get("DISPATCH_TEST_KILL_CYCLES", "50"))
CONVERSATIONS = 4


async def watch_until_lost(wire: Wire) -> None:
    try:
        while True:
            await wire.next()
    except (ConnectionClosed, TimeoutError):
        pass


async def history(http: httpx.AsyncClient, conversation: str) -> list[Frame]:
    chunks: list[Frame] = (await http.get(f"/conversations/{conversation}")).json()["chunks"]
    assert [chunk["seq"] for chunk in chunks] == list(range(1, len(chunks) + 1))
    return chunks


async def test_fifty_kills_under_running_turns_lose_nothing_that_was_shown(
    start_daemon: StartDaemon,
) -> None:
    daemon = await start_daemon(config("endless"))
    rng = random.Random(9)
    for cycle in range(CYCLES):
        async with (
            v1_wire(daemon.url) as sender,
            v1_wire(daemon.url) as watcher,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(watch_until_lost, sender)
            tasks.start_soon(watch_until_lost, watcher)
            for number in range(CONVERSATIONS):
                await sender.send(
                    type="chat.send",
                    conversationId=f"c{number}",
                    message=f"go {cycle}",
                    clientMessageId=f"m{cycle}-{number}",
                )
                await watcher.send(type="chat.subscribe", conversationId=f"c{number}")
            # The moment of the kill is what varies: in the send, the start, the text.
            await anyio.sleep(rng.random() * 0.08)
            await daemon.kill()
        await daemon.start()
        await check_everything_shown_is_kept(daemon, [sender.seen, watcher.seen], cycle)


async def check_everything_shown_is_kept(
    daemon: DaemonProcess, devices: list[list[Frame]], cycle: int
) -> None:
    async with http_client(daemon.url) as http, v1_wire(daemon.url) as wire:
        listed = (await http.get("/conversations")).json()["conversations"]
        assert {entry["status"] for entry in listed} <= {"idle"}
        for number in range(CONVERSATIONS):
            key, conversation = f"m{cycle}-{number}", f"c{number}"
            turns = {
                event["turnId"]
                for device in devices
                for event in events(device)
                if event["conversationId"] == conversation
            }
            assert len(turns) <= 1
            await wire.send(
                type="chat.send",
                conversationId=conversation,
                message=f"go {cycle}",
                clientMessageId=key,
                onBusy="queue",
            )
            accepted = await wire.until_type("chat.accepted")
            assert not turns or accepted.get("duplicate") is True
            if "duplicate" not in accepted:
                await wire.send(type="chat.stop", conversationId=conversation)
                await wire.until_type("chat.stopped")
            chunks = await history(http, conversation)
            users = [c["chunk"]["text"] for c in chunks if c["role"] == "user"]
            assert users.count(f"go {cycle}") == 1
            kept = "".join(c["chunk"]["text"] for c in chunks if c["chunk"]["type"] == "text")
            for turn in turns:
                for device in devices:
                    # Each device saw the turn from its beginning: a prefix of what is kept.
                    assert text(of_turn(device, turn)) in kept


def of_turn(frames: list[Frame], turn: str) -> list[Frame]:
    return [f for f in frames if f.get("event", {}).get("turnId") == turn]


async def test_queued_turns_run_after_a_kill_and_a_turn_that_ran_never_runs_twice(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = await start_daemon(config("endless", "marking"))
    mark = tmp_path / "mark"
    async with v1_wire(daemon.url) as wire:
        await wire.send(type="chat.send", conversationId="c", message="go")
        await wire.until_event("text-delta")
        for number in range(3):
            await wire.send(
                type="chat.send",
                conversationId="c",
                message=f"{mark} {number}",
                model="marking",
                onBusy="queue",
            )
            await wire.until_type("chat.accepted")
    await daemon.kill()
    await daemon.start()
    async with v1_wire(daemon.url) as wire, http_client(daemon.url) as http:
        with anyio.fail_after(10):
            while (await http.get("/conversations/c/status")).json()["isActive"]:
                await http.get("/conversations/c/last")
        users = [c["chunk"]["text"] for c in await history(http, "c") if c["role"] == "user"]
    assert users == ["go", f"{mark} 0", f"{mark} 1", f"{mark} 2"]
    assert mark.read_text() == "ran\n" * 3


async def test_positions_go_on_gap_free_after_a_kill_and_resume_recovers_across_it(
    start_daemon: StartDaemon,
) -> None:
    daemon = await start_daemon(config("endless"))
    async with v1_wire(daemon.url) as wire:
        await wire.send(type="chat.send", conversationId="c", message="go")
        before = await wire.until(lambda f: len(wire.seen) > 20)
    await daemon.kill()
    await daemon.start()
    async with v1_wire(daemon.url) as wire:
        await wire.send(type="chat.subscribe", conversationId="c", after=before[-1]["position"])
        reply = await wire.until_type("chat.subscribed")
        assert reply["recovered"] is True
        after = await wire.until_event("turn-sealed")
    frames = [f for f in before + after if f["type"] == "chat.delta"]
    offsets = [int(f["position"].split(":")[1]) for f in frames]
    # A merged frame carries its run's last offset: order is kept, nothing is repeated.
    assert offsets == sorted(set(offsets))
    numbers = text(frames).split()
    assert numbers == [str(n) for n in range(len(numbers))]
    assert [e["type"] for e in events(after)][-3:] == ["error", "done", "turn-sealed"]
