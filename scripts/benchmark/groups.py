"""A group of 50 that talks at once, read by 20 devices in each way there is to read it.

Neighbours: `dispatched` runs the daemon, `agents.tokens` is each member, `alone` lists the row.
Invariant: the same turns in the same daemon for every way of reading; a device that misses a frame
fails the measurement.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final
from urllib.request import Request, urlopen

from scripts.benchmark import machine
from scripts.benchmark.client import WAIT_SECONDS_MAX, handshake, masked
from scripts.benchmark.devices import Devices, devices_of
from scripts.benchmark.dispatched import Daemon, daemon
from scripts.benchmark.generator import Failed, Figures

MEMBERS: Final = 50
DEVICES: Final = 20
TOKENS_PER_S: Final = 50
SECONDS: Final = 5


def group(scratch: Path) -> Figures:
    """Server CPU of a delivery: native, the group over WebSocket, the group over SSE."""
    with daemon(scratch, members=MEMBERS) as running:
        port = running.server.port
        wanted = {"memberFamiliarIds": [f"m{number:02d}" for number in range(MEMBERS)]}
        made = _post(port, "/api/groups", wanted)
        name, sessions = made["id"], made["memberSessionIds"].values()
        upgrade = handshake(port, "/ws")
        with devices_of(port) as devices:
            wishes = [_wish("chat.subscribe", conversationId=session) for session in sessions]
            for _ in range(DEVICES):
                devices.open(upgrade, *wishes, until=b'"chat.subscribed"')
            native = _talk(running, name, devices, b'"text-delta"', b'"turn-sealed"', MEMBERS)
        with devices_of(port) as devices:
            for _ in range(DEVICES):
                wish = _wish("group.subscribe", groupId=name)
                devices.open(upgrade, wish, until=b'"group.subscribed"')
            mirror = _talk(running, name, devices, b'"assistant_chunk"', b'"scope":"group"', 1)
        with devices_of(port) as devices:
            head = f"GET /api/groups/{name}/stream HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"
            for _ in range(DEVICES):
                devices.open(head.encode(), until=b"\r\n\r\n")
            events = _talk(running, name, devices, b'"assistant_chunk"', b'"scope":"group"', 1)
    return {
        "native_us": native,
        "ws_us": mirror,
        "sse_us": events,
        "ws_ratio": mirror / native,
        "sse_ratio": events / native,
    }


def _talk(
    running: Daemon, name: str, devices: Devices, delta: bytes, end: bytes, times: int
) -> float:
    """One message to all, read to its end; microseconds of CPU a delivered delta."""
    before = machine.cpu_seconds(running.server.pid)
    text = f"{TOKENS_PER_S * SECONDS} {TOKENS_PER_S}"
    with _open_post(running.server.port, f"/api/groups/{name}/send", {"text": text}) as told:
        told.read(1)
        devices.until(end, times)
    spent = machine.cpu_seconds(running.server.pid) - before
    counts = {bytes(read).count(delta) for read in devices.read.values()}
    if len(counts) != 1:
        raise Failed(f"devices were told unequally much: {sorted(counts)}")
    return spent * 1e6 / (DEVICES * counts.pop())


def _wish(kind: str, **fields: Any) -> bytes:
    return masked(json.dumps({"type": kind, **fields}).encode())


def _post(port: int, path: str, body: object) -> dict[str, Any]:
    with _open_post(port, path, body) as answer:
        told: dict[str, Any] = json.load(answer)
    return told


def _open_post(port: int, path: str, body: object) -> Any:
    wish = Request(
        f"http://127.0.0.1:{port}{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    return urlopen(wish, timeout=WAIT_SECONDS_MAX)
