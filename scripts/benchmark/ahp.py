"""One chat with 1,000 who follow it: over AHP beside the native dialect.

Neighbours: `devices` are the sockets that read, `dispatched` runs the daemon, `agents.tokens`
speaks, `alone` lists the row.
Invariant: the same turns of the same conversation in the same daemon for both; a follower that
misses a piece fails the measurement.
"""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

from scripts.benchmark import machine
from scripts.benchmark.client import WAIT_SECONDS_MAX, Client, handshake, masked
from scripts.benchmark.devices import Devices, devices_of
from scripts.benchmark.dispatched import Daemon, daemon
from scripts.benchmark.generator import Failed, Figures

FOLLOWERS: Final = 1_000
TOKENS_PER_S: Final = 20
SECONDS: Final = 5
# What a piece of the answer has in either dialect, whichever member it stands in.
_PIECE: Final = b':"token '
_VERSION: Final = "0.9.0"


def ahp(scratch: Path) -> Figures:
    """Server CPU of a delivery: native, then AHP."""
    with daemon(scratch, members=1) as running:
        port = running.server.port
        with Client(port, "/ahp") as starter:
            session = f"m00:/{uuid.uuid4()}"
            _ask(starter, 1, "initialize", "ahp-root://", **_hello())
            _ask(starter, 2, "createSession", session, provider="m00")
            told = _ask(starter, 3, "subscribe", session)
            chat = told["snapshot"]["state"]["defaultChat"]
            conversation = _only_conversation(port)
            with devices_of(port) as devices:
                wish = {"type": "chat.subscribe", "conversationId": conversation}
                for _ in range(FOLLOWERS):
                    devices.open(handshake(port, "/ws"), _frame(wish), until=b'"chat.subscribed"')
                native = _talk(running, starter, chat, devices, b'"turn-sealed"')
            with devices_of(port) as devices:
                for _ in range(FOLLOWERS):
                    hello = _request(1, "initialize", "ahp-root://", **_hello())
                    devices.open(
                        handshake(port, "/ahp") + _frame(hello),
                        _frame(_request(2, "subscribe", chat)),
                        greeting=b'"protocolVersion"',
                        until=b'"snapshot":',
                    )
                theirs = _talk(running, starter, chat, devices, b'"chat/turnComplete"')
    return {"native_us": native, "ahp_us": theirs, "ratio": theirs / native}


def _talk(running: Daemon, starter: Client, chat: str, devices: Devices, end: bytes) -> float:
    """One turn, read to its end by all; microseconds of CPU a delivered piece."""
    before = machine.cpu_seconds(running.server.pid)
    _start(starter, chat, f"{TOKENS_PER_S * SECONDS} {TOKENS_PER_S}")
    devices.until(end, 1)
    spent = machine.cpu_seconds(running.server.pid) - before
    counts = {bytes(read).count(_PIECE) for read in devices.read.values()}
    if len(counts) != 1 or 0 in counts:
        raise Failed(f"followers were told unequally much: {sorted(counts)}")
    return spent * 1e6 / (FOLLOWERS * counts.pop())


def _start(starter: Client, chat: str, text: str) -> None:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    action = {
        "type": "chat/turnStarted",
        "turnId": str(uuid.uuid4()),
        "startedAt": now,
        "message": {"text": text, "origin": {"kind": "user"}},
    }
    params = {"channel": chat, "clientSeq": 0, "action": action}
    starter.send(jsonrpc="2.0", method="dispatchAction", params=params)


def _ask(starter: Client, number: int, method: str, channel: str, **params: Any) -> Any:
    starter.send(**_request(number, method, channel, **params))
    while True:
        answer = json.loads(starter.next())
        if answer.get("id") == number:
            if "result" not in answer:
                raise Failed(f"{method}: {answer}")
            return answer["result"]


def _request(number: int, method: str, channel: str, **params: Any) -> dict[str, Any]:
    params = {"channel": channel, **params}
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


def _hello() -> dict[str, Any]:
    return {"protocolVersions": [_VERSION], "clientId": str(uuid.uuid4())}


def _frame(message: dict[str, Any]) -> bytes:
    return masked(json.dumps(message).encode())


def _only_conversation(port: int) -> str:
    url = f"http://127.0.0.1:{port}/conversations"
    with urlopen(url, timeout=WAIT_SECONDS_MAX) as told:
        (row,) = json.loads(told.read())["conversations"]
    return str(row["id"])
