"""A full disk under the whole daemon: it refuses what is new, keeps what it promised, and goes on.

The data directory is a file system of a few megabytes in memory, which only root may mount; a file
beside the database takes the rest of it and gives it back.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from dispatch.compose import verify
from tests.e2e.agents import config
from tests.e2e.attackers import (
    GUARD_SECONDS,
    figures,
    forget_peak,
    http_of,
    not_json,
    peak_mebibytes,
    pong,
)
from tests.e2e.conftest import FAST_ECHO
from tests.e2e.process import POLL_SECONDS, DaemonProcess
from tests.e2e.test_failures import ended, spawned
from tests.e2e.wire import Frame, Wire, text, v1_wire

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/proc/mounts").exists(), reason="only root may mount a disk"
)

DISK = "8m"
# Longer than a start takes that finds what it needs.
WAIT_SECONDS = 2.5
BLOCK = bytes(64 * 1024)
AGENTS = config("endless", "flood", "silent") + FAST_ECHO


class Disk:
    """The small file system, and the file that fills it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self) -> None:
        """Take every block that is left."""
        with self._filler.open("ab", buffering=0) as file:
            for size in (len(BLOCK), 4096, 512, 1):
                with suppress(OSError):
                    while file.write(BLOCK[:size]):
                        pass
        assert not os.statvfs(self.path).f_bavail

    def free(self, size: int | None = None) -> None:
        """Give so many bytes back, or all."""
        if size is None:
            self._filler.unlink(missing_ok=True)
        else:
            os.truncate(self._filler, self._filler.stat().st_size - size)


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[Disk]:
    path = tmp_path / "daemon" / "data"
    path.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=700", "tmpfs", str(path)], check=False
    )
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount a disk")
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
async def daemon(disk: Disk) -> AsyncIterator[DaemonProcess]:
    process = DaemonProcess(disk.path.parent, AGENTS)
    await process.start()
    try:
        yield process
    finally:
        await process.end()


async def until_refusing(daemon: DaemonProcess) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        while not (await figures(daemon))["storage_refusing"]:
            await anyio.sleep(POLL_SECONDS)


async def send_until_accepted(http: httpx.AsyncClient, body: dict[str, Any]) -> httpx.Response:
    with anyio.fail_after(GUARD_SECONDS):
        while (response := await http.post("/chat", json=body)).status_code == 503:
            assert response.json()["code"] == "storage_full"
            await anyio.sleep(POLL_SECONDS)
    return response


async def start_turns(wire: Wire) -> None:
    """One conversation that is over, and one whose turn runs."""
    await wire.send(type="chat.send", conversationId="over", message="kept", model="echo")
    await wire.until_event("turn-sealed")
    await wire.send(type="chat.send", conversationId="runs", message="go")
    await wire.until_event("text-delta")


async def test_a_disk_that_fills_while_a_turn_streams_pauses_it_and_refuses_sends(
    daemon: DaemonProcess, disk: Disk
) -> None:
    """Reads go on; with room again the turn goes on too, and ends with all it said."""
    async with v1_wire(daemon.url) as wire, http_of(daemon.url) as http:
        await start_turns(wire)
        disk.fill()
        await until_refusing(daemon)
        for body in ({"message": "x"}, {"message": "x", "clientMessageId": "m"}):
            response = await http.post("/chat", json=body)
            assert (response.status_code, response.json()["code"]) == (503, "storage_full")
            assert int(response.headers["retry-after"]) >= 1
        for path, body in (("queue", {"text": "x"}), ("title", {"title": "x"})):
            method = "PUT" if path == "title" else "POST"
            response = await http.request(method, f"/conversations/over/{path}", json=body)
            assert (response.status_code, response.json()["code"]) == (503, "storage_full")
        await wire.send(type="chat.send", conversationId="new", message="x", ref="r")
        refused = (await wire.until(lambda f: f.get("ref") == "r"))[-1]
        assert (refused["code"], refused["retryable"]) == ("storage_full", True)
        assert refused["retryAfterMs"] > 0
        await check_reads(http)
        # What was shown is on the disk; what is not is not shown, and none of it is lost.
        shown = len(wire.seen)
        await pong(wire)
        assert not [f for f in wire.seen[shown:] if f["type"] == "chat.delta"]
        disk.free()
        await wire.until_event("text-delta")
        assert (await http.post("/conversations/runs/stop")).json()["abortedTurn"] is True
        await wire.until_event("turn-sealed")
        await send_until_accepted(http, {"message": "x", "clientMessageId": "m", "model": "echo"})
        numbers = check_runs(wire.seen)
        chunks = (await http.get("/conversations/runs")).json()["chunks"]
        assert chunks[1]["chunk"]["text"].split() == numbers
    assert await daemon.stop() == 0
    assert verify(daemon.data) == []
    assert not_json(daemon.log) == []


async def check_reads(http: httpx.AsyncClient) -> None:
    assert (await http.get("/health")).json() == {"ok": True}
    chunks = (await http.get("/conversations/over")).json()["chunks"]
    assert [chunk["chunk"]["text"] for chunk in chunks] == ["kept", "kept"]
    assert (await http.get("/conversations/runs/status")).json()["isActive"] is True
    rows = (await http.get("/conversations")).json()["conversations"]
    assert {"over", "runs"} == {row["id"] for row in rows}


def check_runs(frames: list[Frame]) -> list[str]:
    """The numbers of the endless turn, of which none may be missing."""
    runs = [f for f in frames if f.get("event", {}).get("conversationId") == "runs"]
    offsets = [int(frame["position"].split(":")[1]) for frame in runs]
    assert offsets == sorted(set(offsets))
    numbers = text(runs).split()
    assert numbers == [str(number) for number in range(len(numbers))]
    return numbers


def message(number: int) -> dict[str, Any]:
    return {
        "message": f"m{number}",
        "clientMessageId": f"k{number}",
        "conversationId": f"c{number}",
        "model": "echo",
    }


async def test_a_disk_that_fills_while_messages_come_in_loses_none_that_was_acknowledged(
    daemon: DaemonProcess, disk: Disk
) -> None:
    """Killed while it was full: all that was accepted is there, and what was not was never run."""
    accepted: set[int] = set()
    refused: set[int] = set()
    async with v1_wire(daemon.url) as wire:
        await start_turns(wire)
        for number in range(400):
            if number == 100:
                disk.fill()
            await wire.send(**message(number), type="chat.send", ref=number)
            answer = (await wire.until(lambda f, number=number: f.get("ref") == number))[-1]
            is_accepted = answer["type"] == "chat.accepted"
            (accepted if is_accepted else refused).add(number)
            if len(refused) == 20:
                break
    assert len(accepted) >= 100
    assert refused
    await daemon.kill()
    disk.free()
    await daemon.start()
    async with http_of(daemon.url) as http:
        rows = (await http.get("/conversations")).json()["conversations"]
        assert {row["id"] for row in rows} == {f"c{n}" for n in accepted} | {"over", "runs"}
        for number in accepted | refused:
            # The same again: of what was accepted nothing new begins, what was refused runs now.
            await send_until_accepted(http, message(number))
            chunks = (await http.get(f"/conversations/c{number}")).json()["chunks"]
            assert [c["chunk"]["text"] for c in chunks if c["role"] == "user"] == [f"m{number}"]
        runs = (await http.get("/conversations/runs")).json()["chunks"]
        assert [chunk["chunk"]["type"] for chunk in runs] == ["text", "text", "error"]
    assert await daemon.stop() == 0
    assert verify(daemon.data) == []


async def test_an_agent_that_writes_on_while_the_disk_is_full_is_made_to_wait(
    daemon: DaemonProcess, disk: Disk
) -> None:
    """It is at most a mebibyte ahead of the disk, however long that takes."""
    async with v1_wire(daemon.url) as wire, http_of(daemon.url) as http:
        before = forget_peak(daemon)
        await wire.send(type="chat.send", conversationId="runs", message="30", model="flood")
        await until_refusing(daemon)
        for _ in range(3):
            await check_paused(http)
        assert peak_mebibytes(daemon) - before < 60
        # It needs more than there is: it is stopped, and what it said until then is kept.
        with anyio.fail_after(GUARD_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(http.post, "/conversations/runs/stop")
                await until_refusing(daemon)
                subprocess.run(["mount", "-o", "remount,size=64m", str(disk.path)], check=True)
        seen = await wire.until_event("turn-sealed")
        chunks = (await http.get("/conversations/runs")).json()["chunks"]
        assert chunks[1]["chunk"]["text"] == text(wire.seen)
        assert seen[-1]["event"]["type"] == "turn-sealed"
    assert await daemon.stop() == 0
    assert verify(daemon.data) == []


async def check_paused(http: httpx.AsyncClient) -> None:
    response = await http.post("/chat", json={"message": "x", "model": "echo"})
    assert (response.status_code, response.json()["code"]) == (503, "storage_full")
    assert (await http.get("/conversations/runs/status")).json()["isActive"] is True


@pytest.mark.parametrize("room", [0, 120_000])
async def test_a_start_without_room_to_recover_says_so_and_can_be_ended(
    daemon: DaemonProcess, disk: Disk, room: int
) -> None:
    """None at all, or enough to open and not to seal: SIGTERM ends it, a later start recovers."""
    async with v1_wire(daemon.url) as wire:
        await wire.send(
            type="chat.send", conversationId="runs", message="x" * 250_000, model="silent"
        )
        await wire.until_event("text-delta")
    await daemon.kill()
    disk.fill()
    disk.free(room)
    with spawned(daemon.data, daemon.config) as process:
        with anyio.move_on_after(WAIT_SECONDS) as patience:
            while process.poll() is None:
                await anyio.sleep(POLL_SECONDS)
        if patience.cancelled_caught:
            process.send_signal(signal.SIGTERM)
        with anyio.fail_after(GUARD_SECONDS):
            told, _ = await ended(process)
    assert b"Traceback" not in told
    assert b"storage_full" in told or b"no space left" in told, told.decode()
    disk.free()
    await daemon.start()
    async with http_of(daemon.url) as http:
        runs = (await http.get("/conversations/runs")).json()["chunks"]
        assert [chunk["chunk"]["type"] for chunk in runs] == ["text", "text", "error"]
    assert await daemon.stop() == 0
    assert verify(daemon.data) == []


async def test_a_sigterm_on_a_full_disk_ends_the_daemon_and_the_next_start_seals_its_turns(
    daemon: DaemonProcess, disk: Disk
) -> None:
    """It cannot seal what runs: it gives up in bounded time, and nothing that was shown is lost."""
    daemon.config.write_text("drain_seconds = 0\n" + AGENTS)
    await daemon.stop()
    await daemon.start()
    async with v1_wire(daemon.url) as wire:
        await start_turns(wire)
        disk.fill()
        await until_refusing(daemon)
        os.kill(daemon.pid, signal.SIGTERM)
        os.kill(daemon.pid, signal.SIGTERM)
        with anyio.fail_after(GUARD_SECONDS):
            await daemon.stop()
    shown = text([f for f in wire.seen if f.get("event", {}).get("conversationId") == "runs"])
    disk.free()
    await daemon.start()
    async with http_of(daemon.url) as http:
        runs = (await http.get("/conversations/runs")).json()["chunks"]
    assert runs[1]["chunk"]["text"].startswith(shown)
    assert runs[2]["chunk"]["code"] == "interrupted"
    assert await daemon.stop() == 0
    assert verify(daemon.data) == []
