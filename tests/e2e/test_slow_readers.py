"""Readers that never read: they cost a cursor, nobody else notices, and they may come back."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import time
from pathlib import Path

import anyio

from tests.e2e.agents import config
from tests.e2e.conftest import StartDaemon
from tests.e2e.process import POLL_SECONDS, DaemonProcess
from tests.e2e.wire import v1_wire
from tests.protocol.replies import http_client

MEGABYTES = 50
READERS = 10
STALL = "[limits]\nstall_seconds_max = 1.5\n"


def closed_window(url: str, conversation: str) -> socket.socket:
    """A client that subscribes and then reads nothing: its receive window closes."""
    host, port = re.fullmatch(r"http://([^:]+):(\d+)", url).groups()  # type: ignore[union-attr]
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect((host, int(port)))
    key = base64.b64encode(os.urandom(16)).decode()
    sock.sendall(
        f"GET /ws HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Protocol: dispatch.v1\r\n\r\n".encode()
    )
    payload = json.dumps({"type": "chat.subscribe", "conversationId": conversation}).encode()
    # A mask of zeros is a mask.
    sock.sendall(bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload)
    return sock


def resident_megabytes(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


async def figures(daemon: DaemonProcess) -> dict[str, float]:
    async with http_client(daemon.url) as http:
        text = (await http.get("/metrics")).text
    return {m[1]: float(m[2]) for m in re.finditer(r"^dispatch_(\w+) ([\d.e+]+)$", text, re.M)}


async def stream_to_one_reader(daemon: DaemonProcess, conversation: str) -> tuple[float, int]:
    """Seconds until a healthy watcher has the whole turn, and the characters it got."""
    began, size = time.monotonic(), 0
    async with v1_wire(daemon.url) as wire:
        await wire.send(type="chat.send", conversationId=conversation, message=str(MEGABYTES))
        with anyio.fail_after(90):
            while True:
                frame = await wire.passing()
                event = frame.get("event", {})
                size += len(event.get("delta", ""))
                if event.get("type") == "turn-sealed":
                    return time.monotonic() - began, size


async def test_ten_closed_windows_bound_memory_slow_nobody_and_are_closed_resumably(
    start_daemon: StartDaemon,
) -> None:
    daemon = await start_daemon(config("flood", more=STALL))
    alone_s, size = await stream_to_one_reader(daemon, "alone")
    assert size == MEGABYTES * 1024 * 1024
    before = resident_megabytes(daemon.pid)
    readers = [closed_window(daemon.url, "crowd") for _ in range(READERS)]
    try:
        crowd_s, size = await stream_to_one_reader(daemon, "crowd")
        grown = resident_megabytes(daemon.pid) - before
        assert size == MEGABYTES * 1024 * 1024
        # Ten queues would hold 500 MB; cursors hold nothing but the shared, bounded ring.
        assert grown < 120, f"grew by {grown:.0f} MB"
        assert crowd_s < alone_s * 2 + 2, f"{crowd_s:.1f} s beside {alone_s:.1f} s alone"
        with anyio.fail_after(20):
            while (await figures(daemon))["slow_consumer_closes_total"] < READERS:
                await anyio.sleep(POLL_SECONDS)
    finally:
        for reader in readers:
            reader.close()


async def test_a_reader_that_was_too_slow_resumes_and_has_everything(
    start_daemon: StartDaemon,
) -> None:
    daemon = await start_daemon(config("flood", more=STALL))
    async with v1_wire(daemon.url) as sender:
        await sender.send(type="chat.send", conversationId="c", message="20")
        accepted = await sender.until_type("chat.accepted")
        slow = closed_window(daemon.url, "c")
        await sender.until_event("turn-sealed")
    slow.close()
    size = 0
    async with v1_wire(daemon.url) as wire:
        await wire.send(type="chat.subscribe", conversationId="c", after=accepted["position"])
        assert (await wire.until_type("chat.subscribed"))["recovered"] is True
        for frame in await wire.until_event("turn-sealed"):
            size += len(frame.get("event", {}).get("delta", ""))
    assert size == 20 * 1024 * 1024
