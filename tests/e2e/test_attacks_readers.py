"""Attacks 24 and 28: readers that make the daemon read much, or hold what they do not read.

On the default limits, but for the seconds after which a reader counts as stalled. Memory is what
is measured, and whether a bystander notices.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from tests.e2e.agents import config
from tests.e2e.attackers import (
    GUARD_SECONDS,
    MEBIBYTE,
    bystander,
    figures,
    forget_peak,
    frame,
    http_of,
    peak_mebibytes,
    pong,
    raw_websocket,
    send_for,
)
from tests.e2e.conftest import StartDaemon
from tests.e2e.process import POLL_SECONDS, DaemonProcess
from tests.e2e.wire import v1_wire

LARGE_MEBIBYTES = 50
# Tool output is shown event for event: seven mebibytes of it fit into a ring, and then silence.
LINGERING = """
import json, sys, time
json.loads(sys.stdin.readline())
for number in range(7000):
    print(json.dumps({"type": "tool-output", "toolCallId": "t", "data": "%06d" % number + "x" * 900,
                      "stream": "stdout"}))
print(json.dumps({"type": "text-delta", "delta": "that was all"}), flush=True)
sys.stdin.readline()
"""
# Longer than a reader may be stalled, and a sweep.
ASK_SECONDS = 6.0
STALL = "[limits]\nstall_seconds_max = 1.5\n"


def wish(**fields: Any) -> bytes:
    """A frame on a raw connection."""
    return frame(json.dumps(fields).encode())


@pytest.fixture(scope="module")
async def large(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[DaemonProcess, str]]:
    """A daemon with a turn of 50 MiB in `large`, and the position before it."""
    process = DaemonProcess(tmp_path_factory.mktemp("daemon"), config("flood"))
    await process.start()
    try:
        async with v1_wire(process.url) as wire, http_of(process.url) as http:
            await wire.send(type="chat.send", conversationId="large", message=str(LARGE_MEBIBYTES))
            accepted = await wire.until_type("chat.accepted")
            with anyio.fail_after(3 * GUARD_SECONDS):
                while (await http.get("/conversations/large/status")).json()["isActive"]:
                    await wire.passing()
        yield process, accepted["position"]
    finally:
        await process.end()


def subscribe_forever(url: str, position: str, seconds: float) -> int:
    """Subscribe from an old position and unsubscribe, again and again; the bytes that came."""
    received = 0
    with raw_websocket(url) as sock:
        block = b"".join(
            wish(type="chat.subscribe", conversationId="large", after=position)
            + wish(type="chat.unsubscribe", conversationId="large")
            for _ in range(20)
        )
        sock.sendall(block)
        sock.settimeout(seconds)
        try:
            while part := sock.recv(MEBIBYTE):
                received += len(part)
                if received > 3 * LARGE_MEBIBYTES * MEBIBYTE:
                    break
        except TimeoutError:
            pass
    return received


async def test_replaying_a_large_history_again_and_again_is_paged_and_starves_nobody(
    large: tuple[DaemonProcess, str],
) -> None:
    """28: six clients at it, who read as fast as they are given."""
    daemon, position = large
    before = forget_peak(daemon)
    async with bystander(daemon.url) as watch, anyio.create_task_group() as tasks:
        for _ in range(6):
            tasks.start_soon(anyio.to_thread.run_sync, subscribe_forever, daemon.url, position, 2.0)
    assert peak_mebibytes(daemon) - before < 150
    assert watch.median < 0.25
    assert watch.worst < 2.0


async def test_replaying_a_large_history_to_who_does_not_read_holds_a_page_each(
    large: tuple[DaemonProcess, str],
) -> None:
    """28 and 24: twenty of them, each of whom wants 50 MiB."""
    daemon, position = large
    before = forget_peak(daemon)
    with ExitStack() as stack:
        for _ in range(20):
            sock = stack.enter_context(raw_websocket(daemon.url, receive_bytes=4096))
            sock.sendall(wish(type="chat.subscribe", conversationId="large", after=position))
        async with bystander(daemon.url) as watch, anyio.create_task_group() as tasks:
            await until_paused(daemon, 20)
            tasks.cancel_scope.cancel()
    assert peak_mebibytes(daemon) - before < 150
    assert watch.worst < 2.0


async def until_paused(daemon: DaemonProcess, count: int) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        while (await figures(daemon))["connections_lagging"] < count:
            await anyio.sleep(POLL_SECONDS)


async def test_many_at_once_may_read_a_large_turn(large: tuple[DaemonProcess, str]) -> None:
    """28 over HTTP: a turn is read as a whole, and eight readers want this one."""
    daemon, _ = large
    before = forget_peak(daemon)

    async def read(path: str) -> None:
        async with (
            httpx.AsyncClient(base_url=daemon.url, timeout=3 * GUARD_SECONDS) as http,
            http.stream("GET", f"/conversations/large{path}") as response,
        ):
            sizes = [len(part) async for part in response.aiter_raw()]
            assert sum(sizes) > LARGE_MEBIBYTES * MEBIBYTE or "limit" in path

    with anyio.fail_after(3 * GUARD_SECONDS):
        async with anyio.create_task_group() as tasks:
            for path in ("?limit=1", "", "/last", "/export") * 2:
                tasks.start_soon(read, path)
    assert peak_mebibytes(daemon) - before < 600


async def test_positions_all_over_a_running_turn_do_not_multiply_it_in_memory(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    """28: what late joiners share is bounded, though each begins somewhere else."""
    program = tmp_path / "lingering.py"
    program.write_text(LINGERING)
    daemon = await start_daemon(
        f'default_agent = "program"\n[agents.program]\nkind = "command"\n'
        f'command = ["python3", "{program}"]\n'
    )
    async with v1_wire(daemon.url) as wire:
        await wire.send(type="chat.send", conversationId="c", message="go")
        accepted = await wire.until_type("chat.accepted")
        await wire.until_event("text-delta")
        generation, _, start = accepted["position"].partition(":")
        before = forget_peak(daemon)
        for step in range(30):
            after = f"{generation}:{int(start) + 3 + 37 * step}"
            await wire.send(type="chat.unsubscribe", conversationId="c")
            await wire.send(type="chat.subscribe", conversationId="c", after=after)
            with anyio.fail_after(GUARD_SECONDS):
                while "that was all" not in (await wire.passing()).get("event", {}).values():
                    pass
        assert peak_mebibytes(daemon) - before < 80


@pytest.mark.parametrize("asks", ["megabytes", "pings", "errors"])
async def test_who_asks_and_never_reads_the_answers_is_closed_before_they_pile_up(
    start_daemon: StartDaemon, asks: str
) -> None:
    """24: asking is no sign of life, and what is owed is bounded whatever it is."""
    daemon = await start_daemon(config("flood", more=STALL))
    one = {
        "megabytes": wish(type="chat.send", message="", ref="f" * (MEBIBYTE - 1000)),
        "pings": wish(type="ping"),
        "errors": wish(type="chat.send", message="", ref="r" * 120, conversationId="c" * 120),
    }[asks]
    before = forget_peak(daemon)
    with raw_websocket(daemon.url, receive_bytes=4096) as sock:
        async with v1_wire(daemon.url) as wire:
            await wire.send(type="chat.send", conversationId="c", message="8")
            sock.sendall(wish(type="chat.subscribe", conversationId="c"))
            await until_paused(daemon, 1)
        began = time.monotonic()
        await anyio.to_thread.run_sync(send_for, sock, paced(one), ASK_SECONDS)
        # It was not the attacker who ended it.
        assert time.monotonic() - began < ASK_SECONDS
        assert peak_mebibytes(daemon) - before < 60
        assert (await figures(daemon))["connections"] == 0


def paced(one: bytes) -> Iterator[bytes]:
    """Within the rate of frames that is permitted, for as long as anybody takes them."""
    began, sent = time.monotonic(), 0
    while True:
        due = int((time.monotonic() - began) * 900) - sent
        if due > 20:
            # Never more at once: behind a slow daemon it would be gigabytes of our own.
            sent += 21
            yield one * 21
        else:
            time.sleep(POLL_SECONDS)


async def test_notices_do_not_keep_a_reader_that_never_reads(start_daemon: StartDaemon) -> None:
    """24: it drains nothing, so it is stalled, however much is going on in its account."""
    daemon = await start_daemon(
        config("flood", more=STALL) + '[agents.echo]\nkind = "echo"\ndelay_ms = 0\n'
    )
    with raw_websocket(daemon.url, dialect="", receive_bytes=4096) as sock:
        async with v1_wire(daemon.url) as wire, http_of(daemon.url) as http:
            await wire.send(type="chat.send", conversationId="c", message="8")
            sock.sendall(wish(type="chat.subscribe", conversationId="c"))
            await until_paused(daemon, 1)
            with anyio.fail_after(6):
                while not (await figures(daemon))["slow_consumer_closes_total"]:
                    await http.post("/chat", json={"message": "x", "model": "echo"})


async def test_a_queue_that_is_shown_to_who_never_reads_is_shown_once(
    start_daemon: StartDaemon,
) -> None:
    """24: each change of a queue shows all of it, which a reader that waits need not get twice."""
    daemon = await start_daemon(config("silent", "flood"))
    text = "q" * 900_000
    with raw_websocket(daemon.url, receive_bytes=4096) as sock:
        async with v1_wire(daemon.url) as wire:
            await wire.send(type="chat.send", conversationId="c", message="go")
            await wire.until_type("chat.accepted")
            sock.sendall(wish(type="subscribe", surfaceId="message-queue", conversationId="c"))
            for _ in range(12):
                await wire.send(type="chat.queue", conversationId="c", text=text)
                await pong(wire)
            before = forget_peak(daemon)
            for _ in range(20):
                await wire.send(type="chat.queue", conversationId="c", text="one more")
                await pong(wire)
            assert peak_mebibytes(daemon) - before < 80


async def test_a_slow_reader_of_a_queue_gets_its_last_state(start_daemon: StartDaemon) -> None:
    """24: once it reads, and nothing that was true in between is owed to it."""
    daemon = await start_daemon(config("silent"))
    text = "q" * 500_000
    sock = raw_websocket(daemon.url, receive_bytes=4096)
    async with v1_wire(daemon.url) as wire:
        await wire.send(type="chat.send", conversationId="c", message="go")
        sock.sendall(wish(type="subscribe", surfaceId="message-queue", conversationId="c"))
        for number in range(6):
            await wire.send(type="chat.queue", conversationId="c", text=f"{number}{text}")
            await pong(wire)
        await wire.send(type="chat.queue", conversationId="c", text="the last")
        await pong(wire)
    with anyio.fail_after(GUARD_SECONDS), sock:
        received = await anyio.to_thread.run_sync(read_until, sock, b"the last")
    frames = re.findall(rb'"type":"(?:surface|update)"', received)
    assert len(frames) < 7
    assert received.count(b'"text":"5q') == 1


def read_until(sock: socket.socket, mark: bytes) -> bytes:
    received = bytearray()
    while mark not in received[-1_000_000:]:
        part = sock.recv(MEBIBYTE)
        assert part, "it was closed"
        received += part
    return bytes(received)
