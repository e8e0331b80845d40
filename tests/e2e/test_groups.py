"""Groups on a real daemon: what devices were shown outlives kill -9, again and again."""

from __future__ import annotations

import os
import random

import anyio
import httpx

from tests.e2e.agents import config
from tests.e2e.conftest import StartDaemon
from tests.e2e.process import DaemonProcess
from tests.protocol.replies import http_client
from tests.server.groups.grouping import Payload, Reader, Told, is_group_end, rebuilt, told

CYCLES = int(os.environ.get("DISPATCH_TEST_GROUP_KILL_CYCLES", "12"))
MESSAGES = 3
MEMBERS = ("counter", "failing", "endless")
GUARD_SECONDS = 20.0


async def read_until_lost(
    http: httpx.AsyncClient, method: str, url: str, body: Payload | None, into: list[Told]
) -> None:
    """Follow a stream to wherever it ends; `into` has its whole events."""
    half = ""
    try:
        async with http.stream(method, url, json=body) as reply:
            async for part in reply.aiter_text():
                whole, end, half = (half + part).rpartition("\n\n")
                into += told(whole + end)
    except httpx.TransportError:
        pass


def message(cycle: int, number: int) -> Payload:
    return {"text": f"go {5 * number + 1}", "clientMessageId": f"m{cycle}-{number}"}


async def test_what_devices_saw_of_a_group_outlives_every_kill(
    start_daemon: StartDaemon,
) -> None:
    daemon = await start_daemon(config(*MEMBERS))
    async with http_client(daemon.url) as http:
        made = await http.post("/api/groups", json={"memberFamiliarIds": list(MEMBERS)})
        group = f"/api/groups/{made.json()['id']}"
    rng = random.Random(7)
    # One device over all of it: every time it goes on from the last frame that it has.
    device: list[Told] = []
    for cycle in range(CYCLES):
        answers: list[list[Told]] = [[] for _ in range(MESSAGES)]
        async with (
            http_client(daemon.url, timeout=GUARD_SECONDS) as http,
            anyio.create_task_group() as tasks,
        ):
            cursor = max((event.id or 0 for event in device), default=0)
            url = f"{group}/stream?cursor={cursor}"
            tasks.start_soon(read_until_lost, http, "GET", url, None, device)
            for number, answer in enumerate(answers):
                body = message(cycle, number)
                tasks.start_soon(read_until_lost, http, "POST", f"{group}/send", body, answer)
            # The moment of the kill is what varies: in the send, the start, the text.
            await anyio.sleep(rng.random() * 0.12)
            await daemon.kill()
        await daemon.start()
        await check(daemon, group, cycle, device, answers)
    assert [event.data for event in device if event.data.get("id") == "resume-gap"] == []
    outcomes = {event.data.get("outcome") for event in device}
    assert {"completed", "error", "interrupted", "cancelled"} <= outcomes


async def check(
    daemon: DaemonProcess, group: str, cycle: int, device: list[Told], answers: list[list[Told]]
) -> None:
    """Everything that was shown is there, and each message is in there once."""
    async with http_client(daemon.url, timeout=GUARD_SECONDS) as http:
        for number, answer in enumerate(answers):
            body = message(cycle, number)
            async with http.stream("POST", f"{group}/send", json=body) as reply:
                reader = Reader(reply)
                await reader.until(lambda event: event["kind"] == "user")
                await http.post(f"{group}/stop")
                again = await reader.rest()
            # What this client was shown is how the recorded frames begin.
            assert again[: len(answer)] == answer
            assert is_group_end(again[-1].data)
            assert sum(is_group_end(event.data) for event in again) == 1
        shown = (await http.get(group)).json()
        rows = shown["events"]
        count = (cycle + 1) * MESSAGES
        assert [row["seq"] for row in rows] == list(range(1, count * (1 + len(MEMBERS)) + 1))
        assert not any(row["streaming"] for row in rows)
        assert shown["group"]["activeRuns"] == []
        assert shown["settledSeq"] == shown["lastSeq"] == len(rows)
        users = [row["clientMessageId"] for row in rows if row["role"] == "user"]
        assert len(users) == len(set(users)) == count
        cursor = max((event.id or 0 for event in device), default=0)
        async with http.stream("GET", f"{group}/stream?cursor={cursor}") as reply:
            reader = Reader(reply)
            with anyio.fail_after(GUARD_SECONDS):
                while cursor < shown["cursor"] and (
                    not reader.events or reader.events[-1].id != shown["cursor"]
                ):
                    await reader.more()
        device += reader.events
        ids = [event.id or 0 for event in device]
        assert ids == sorted(set(ids))
        assert rebuilt(device) == rows


async def test_a_device_and_a_snapshot_agree_and_the_daemon_ends_in_good_order(
    start_daemon: StartDaemon,
) -> None:
    daemon = await start_daemon(config("counter", "failing"))
    async with http_client(daemon.url, timeout=GUARD_SECONDS) as http:
        made = await http.post("/api/groups", json={"memberFamiliarIds": ["counter", "failing"]})
        group = f"/api/groups/{made.json()['id']}"
        answers: list[list[Told]] = [[] for _ in range(5)]
        async with http.stream("GET", f"{group}/stream") as reply:
            async with anyio.create_task_group() as tasks:
                for number, answer in enumerate(answers):
                    body = message(0, number)
                    tasks.start_soon(read_until_lost, http, "POST", f"{group}/send", body, answer)
            reader = Reader(reply)
            last = max(answer[-1].id or 0 for answer in answers)
            with anyio.fail_after(GUARD_SECONDS):
                while not reader.events or reader.events[-1].id != last:
                    await reader.more()
        rows = (await http.get(group)).json()["events"]
        assert rebuilt(reader.events) == rows
        assert {row.get("outcome") for row in rows if row["role"] == "familiar"} == {
            "completed",
            "error",
        }
        assert await daemon.stop() == 0
