"""Failures around the daemon: a second one, somebody else's lock, damaged files, a restored copy,
kills and signals during recovery.

A full disk is in `test_failures_disk.py`, a clock that jumps in `test_failures_clock.py`; what the
storage adapter makes of each fault is in `tests/storage/test_sqlite_failures.py`, `kill -9` under
load in `test_kill.py`. Here it is the whole daemon: what it says, how it ends, and what it leaves.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import anyio
import pytest

from dispatch.compose import verify
from tests.e2e.agents import config
from tests.e2e.attackers import GUARD_SECONDS, http_of, pong
from tests.e2e.conftest import FAST_ECHO, StartDaemon
from tests.e2e.process import POLL_SECONDS, START_SECONDS, DaemonProcess
from tests.e2e.wire import events, text, v1_wire

# The storage waits five seconds for a lock before it gives up.
LOCK_SECONDS = 5.0
RECOVERY_KILLS = 8
CONVERSATIONS = 60


@contextmanager
def spawned(data: Path, configuration: Path, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon that nobody waits for; killed at the end if it still lives."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DISPATCH_")}
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "dispatch", "serve", "--port", "0"),
            *("--data", str(data), "--config", str(configuration), *more),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


async def ended(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """What it said until its end; whoever stops waiting kills it."""
    return await anyio.to_thread.run_sync(process.communicate, abandon_on_cancel=True)


async def refused_start(data: Path, configuration: Path) -> str:
    """What a daemon says that must not start: one line, and a code that is not 0."""
    with spawned(data, configuration) as process, anyio.fail_after(START_SECONDS):
        told, _ = await ended(process)
    lines = told.decode().splitlines()
    assert process.returncode not in (0, None)
    assert len(lines) == 1, told.decode()
    assert "Traceback" not in lines[0]
    return lines[0]


def mark(path: Path) -> tuple[str, int, int]:
    """What a file is: its bytes, and when and as what it was written."""
    stat = path.stat()
    return hashlib.sha256(path.read_bytes()).hexdigest(), stat.st_mtime_ns, stat.st_ino


async def said(daemon: DaemonProcess, *messages: str, conversation: str = "c") -> list[str]:
    """Let an echo say things; the positions of the seals."""
    positions = []
    async with v1_wire(daemon.url) as wire:
        for message in messages:
            await wire.send(type="chat.send", conversationId=conversation, message=message)
            positions.append((await wire.until_event("turn-sealed"))[-1]["position"])
    return positions


async def history(daemon: DaemonProcess, conversation: str = "c") -> list[str]:
    async with http_of(daemon.url) as http:
        chunks = (await http.get(f"/conversations/{conversation}")).json()["chunks"]
    assert [chunk["seq"] for chunk in chunks] == list(range(1, len(chunks) + 1))
    return [chunk["chunk"].get("text", chunk["chunk"]["type"]) for chunk in chunks]


async def test_a_second_daemon_on_the_same_data_ends_at_once_and_the_first_goes_on(
    start_daemon: StartDaemon,
) -> None:
    daemon = await start_daemon(config("endless"))
    async with v1_wire(daemon.url) as wire:
        await wire.send(type="chat.send", conversationId="c", message="go")
        await wire.until_event("text-delta")
        began = time.monotonic()
        line = await refused_start(daemon.data, daemon.config)
        assert time.monotonic() - began < LOCK_SECONDS
        assert str(daemon.data) in line
        assert str(daemon.pid) in line
        # It was not even slowed: the turn goes on, and nothing of it was taken over.
        await wire.until_event("text-delta")
        await wire.send(type="chat.stop", conversationId="c")
        seen = await wire.until_event("turn-sealed")
    assert events(seen)[-2]["reason"] == "aborted"
    assert await daemon.stop() == 0
    assert verify(daemon.data) == []


async def test_a_database_that_somebody_locks_refuses_sends_and_loses_nothing(
    start_daemon: StartDaemon,
) -> None:
    """Longer than the storage waits: a code, and when to come back; reads go on meanwhile."""
    daemon = await start_daemon(config("endless") + FAST_ECHO)
    async with v1_wire(daemon.url) as wire, http_of(daemon.url) as http:
        await wire.send(type="chat.send", conversationId="before", message="kept", model="echo")
        await wire.until_event("turn-sealed")
        await wire.send(type="chat.send", conversationId="c", message="go")
        await wire.until_event("text-delta")
        with closing(sqlite3.connect(daemon.data / "dispatch.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            send = {"message": "x", "clientMessageId": "m", "model": "echo"}
            with anyio.fail_after(LOCK_SECONDS + GUARD_SECONDS):
                response = await http.post("/chat", json=send, timeout=LOCK_SECONDS + 10)
                assert (response.status_code, response.json()["code"]) == (503, "storage_locked")
                assert int(response.headers["retry-after"]) >= 1
            assert await history(daemon, "before") == ["kept", "kept"]
            assert (await http.get("/conversations/c/status")).json()["isActive"] is True
            await wire.send(type="chat.send", conversationId="d", message="x", ref="r")
            refused = await wire.until(lambda f: f.get("ref") == "r")
            assert (refused[-1]["code"], refused[-1]["retryable"]) == ("storage_locked", True)
            other.execute("ROLLBACK")
        await wire.until_event("text-delta")
        with anyio.fail_after(GUARD_SECONDS):
            while (await http.post("/chat", json=send)).status_code != 200:
                await anyio.sleep(POLL_SECONDS)
        await http.post("/conversations/c/stop")
        await wire.until_event("turn-sealed")
    numbers = text(
        [f for f in wire.seen if f.get("event", {}).get("conversationId") == "c"]
    ).split()
    assert numbers == [str(n) for n in range(len(numbers))]
    assert await daemon.stop() == 0
    assert verify(daemon.data) == []


async def test_a_lock_that_is_given_back_in_time_is_only_waited_for(daemon: DaemonProcess) -> None:
    async with v1_wire(daemon.url) as wire:
        with closing(sqlite3.connect(daemon.data / "dispatch.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for number in range(20):
                await wire.send(type="chat.send", conversationId=f"c{number}", message="x")
            # Nobody is told anything before it is durable.
            await wire.send(type="ping")
            with anyio.move_on_after(LOCK_SECONDS / 5):
                frame = await wire.next()
                assert frame["type"] == "pong", frame
                await wire.next()
                raise AssertionError("shown while it could not be written")
            other.execute("ROLLBACK")
        while sum(f["type"] == "chat.accepted" for f in wire.seen) < 20:
            await wire.next()
        assert not [f for f in wire.seen if f["type"] == "chat.error"]


DAMAGES = {
    "empty": b"",
    "no database": b"#!/bin/sh\nrm -rf /\n" * 400,
    "a header of zeros": bytes(4096),
    "half a header": b"SQLite format 3\0\x10\0",
}


@pytest.mark.parametrize("damage", [*DAMAGES, "a damaged header", "a page of noise"])
async def test_a_damaged_database_is_neither_started_on_nor_touched(
    start_daemon: StartDaemon, damage: str
) -> None:
    """Zero-length and corrupt header: a clear line that names the file and what to do."""
    daemon = await start_daemon()
    await said(daemon, *(f"message {n}" for n in range(30)))
    await daemon.kill() if damage == "a page of noise" else await daemon.stop()
    database = daemon.data / "dispatch.db"
    whole = database.read_bytes()
    if damage == "a damaged header":
        database.write_bytes(whole[:16] + bytes(84) + whole[100:])
    elif damage == "a page of noise":
        # In the middle, and found because the end was not clean.
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        whole = database.read_bytes()
        middle = len(whole) // 2 // 4096 * 4096
        database.write_bytes(whole[:middle] + os.urandom(4096) + whole[middle + 4096 :])
    else:
        database.write_bytes(DAMAGES[damage])
    before = {path: mark(path) for path in daemon.data.glob("dispatch.db*")}
    for _ in range(2):
        line = await refused_start(daemon.data, daemon.config)
        assert str(database) in line
        assert "left as it is" in line or "Nothing was changed" in line
    assert mark(database) == before[database]
    assert {p for p in daemon.data.glob("dispatch.db*") if p.stat().st_size} >= {
        p for p in before if p.stat().st_size
    }


async def test_a_restored_backup_is_a_new_generation_and_futures_get_a_snapshot(
    start_daemon: StartDaemon,
) -> None:
    """A client that saw more than the copy holds is told so, never given a gap."""
    daemon = await start_daemon()
    old = await said(daemon, "one", "two")
    target = daemon.folder / "copy.db"
    command = [sys.executable, "-m", "dispatch", "backup", str(target), "--data", str(daemon.data)]
    with anyio.fail_after(GUARD_SECONDS):
        await anyio.run_process(command)
    future = await said(daemon, "three", "four")
    await daemon.kill()
    restored = daemon.folder / "restored"
    restored.mkdir()
    shutil.copy(target, restored / "dispatch.db")
    daemon.data = restored
    await daemon.start()
    async with v1_wire(daemon.url) as wire:
        for position in (old[0], old[-1], future[0], future[-1]):
            await wire.send(type="chat.subscribe", conversationId="c", after=position)
            reply = await wire.until_type("chat.subscribed")
            assert reply["recovered"] is False
            assert reply["lastSeq"] == 4
            assert reply["position"].split(":")[0] != position.split(":")[0]
            snapshot = await wire.until_type("chat.snapshot")
            assert (snapshot["lastSeq"], snapshot.get("turn")) == (4, None)
            await wire.send(type="chat.unsubscribe", conversationId="c")
        await wire.send(type="chat.subscribe", conversationId="c", after=reply["position"])
        assert (await wire.until_type("chat.subscribed"))["recovered"] is True
        await wire.send(type="chat.send", conversationId="c", message="five")
        assert text(await wire.until_event("turn-sealed")) == "five"
    assert await history(daemon) == ["one", "one", "two", "two", "five", "five"]
    assert await daemon.stop() == 0
    assert verify(restored) == []


async def interrupted(start_daemon: StartDaemon) -> DaemonProcess:
    """A daemon that was killed under many running turns, each with a queue of one."""
    daemon = await start_daemon(config("endless", "counter"))
    async with v1_wire(daemon.url) as wire:
        for number in range(CONVERSATIONS):
            send = {"type": "chat.send", "conversationId": f"c{number}"}
            await wire.send(**send, message="go", clientMessageId="first")
            await wire.send(**send, message="3", model="counter", onBusy="queue")
        await pong(wire)
    await daemon.kill()
    return daemon


async def check_everything_ran_once(daemon: DaemonProcess) -> None:
    async with http_of(daemon.url) as http, v1_wire(daemon.url) as wire:
        for number in range(CONVERSATIONS):
            conversation = f"c{number}"
            with anyio.fail_after(GUARD_SECONDS):
                while (await http.get(f"/conversations/{conversation}/status")).json()["isActive"]:
                    await http.get(f"/conversations/{conversation}/last")
            chunks = await history(daemon, conversation)
            users = [said for said in chunks if said in ("go", "3")]
            assert users == ["go", "3"], chunks
            # The first was interrupted; the one behind it ran, or was interrupted by the next kill.
            assert (chunks.count("error"), chunks[-1]) in ((1, "0 1 2 "), (2, "error")), chunks
            await wire.send(
                type="chat.send", conversationId=conversation, message="go", clientMessageId="first"
            )
            assert (await wire.until_type("chat.accepted"))["duplicate"] is True


async def test_recovery_may_be_killed_at_any_moment_and_begins_again(
    start_daemon: StartDaemon,
) -> None:
    """Every turn is sealed once, every queued one runs once, and `check` finds nothing."""
    daemon = await interrupted(start_daemon)
    rng = random.Random(3)
    for _ in range(RECOVERY_KILLS):
        with spawned(daemon.data, daemon.config) as process:
            # From its first instruction to a little after it is ready.
            await anyio.sleep(0.1 + rng.random() * 0.5)
            process.send_signal(signal.SIGKILL)
    await daemon.start()
    await check_everything_ran_once(daemon)
    assert await daemon.stop() == 0
    assert verify(daemon.data) == []


async def test_a_sigterm_during_recovery_ends_it_in_good_order(start_daemon: StartDaemon) -> None:
    """Whenever it comes: the exit is 0 or the signal's own, and the next start goes on."""
    daemon = await interrupted(start_daemon)
    rng = random.Random(4)
    for _ in range(RECOVERY_KILLS // 2):
        with spawned(daemon.data, daemon.config) as process:
            await anyio.sleep(0.1 + rng.random() * 0.4)
            process.send_signal(signal.SIGTERM)
            with anyio.fail_after(START_SECONDS):
                told, _ = await ended(process)
            assert process.returncode in (0, -signal.SIGTERM)
            assert b"Traceback" not in told, told.decode()
    await daemon.start()
    await check_everything_ran_once(daemon)
    assert await daemon.stop() == 0
    assert verify(daemon.data) == []
