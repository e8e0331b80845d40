"""Attacks 31 and 32: what clients and agents write reaches the logs neither as lines nor as text.

The log is one JSON object a line whatever is sent, and holds nothing of what people say to each
other, no token, and no word of a client; the metrics are numbers.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from tests.e2e.agents import config
from tests.e2e.attackers import (
    GUARD_SECONDS,
    ask_raw,
    auth,
    figures,
    http_of,
    not_json,
    pong,
    token,
    wire_of,
)
from tests.e2e.conftest import FAST_ECHO, StartDaemon
from tests.e2e.process import DaemonProcess
from tests.e2e.wire import old_wire
from tests.protocol.replies import http_client


@pytest.fixture(scope="module")
async def daemon(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DaemonProcess]:
    """One for most of these, and its log is looked at in the end."""
    process = DaemonProcess(tmp_path_factory.mktemp("daemon"), 'log_level = "debug"\n' + FAST_ECHO)
    await process.start()
    try:
        yield process
        assert not_json(process.log) == []
    finally:
        await process.end()


async def test_hostile_heads_are_answered_and_logged_as_nothing(daemon: DaemonProcess) -> None:
    """31: line ends, escapes and lookups in Origin, Host, agent, cookie, token, path and query."""
    hostile = (
        b"\x1b[31mred\x1b[0m",
        b"${jndi:ldap://127.0.0.1/x}",
        b'"}\t{"event":"daemon.owned","level":"error"}',
        b'%0d%0a{"event":"forged"}',
        b"\xff\xfe\x80",
        b"a\x0bb",
    )
    names = (b"Origin", b"User-Agent", b"Referer", b"X-Forwarded-For", b"Cookie", b"Authorization")
    for value in hostile:
        for name in (*names, b"Host", b"Sec-WebSocket-Protocol"):
            for start in (b"GET /conversations HTTP/1.1", b"GET /ws HTTP/1.1"):
                line = name + b": " + value
                answer = await anyio.to_thread.run_sync(ask_raw, daemon, start, line)
                assert answer.startswith(b"HTTP/1.1 "), (name, value)
        bare = value.replace(b"\t", b"").replace(b" ", b"")
        for target in (b"/" + bare, b"/conversations?q=" + bare, b"/conversations/" + bare):
            await anyio.to_thread.run_sync(ask_raw, daemon, b"GET " + target + b" HTTP/1.1")
        await anyio.to_thread.run_sync(ask_raw, daemon, value + b" / HTTP/1.1")
    assert not_json(daemon.log) == []
    for mark in ("jndi", "forged", "owned", "\x1b", "red"):
        assert mark not in daemon.log, mark


CANARIES = {
    "prompt": "canary-prompt-3f2a",
    "title": "canary-title-77b1",
    "steer": "canary-steer-9d0c",
    "search": "canary-search-55aa",
    "answer": "canary-answer-1e1e",
    "stderr": "canary-stderr-8888",
    "image": "canary-image-4c4c",
    "id": "canary-message-id-2b2b",
    "workspace": "canary-workspace-0f0f",
}
PROGRAM = """
import json, sys
told = json.loads(sys.stdin.readline())
def say(**event):
    print(json.dumps(event), flush=True)
say(type="reasoning-delta", delta="canary-answer-1e1e")
say(type="text-delta", delta="canary-answer-1e1e " + told["message"])
say(type="tool-call", toolCallId="t", toolName="canary-answer-1e1e", input={"x": "canary"})
say(type="error", message="canary-answer-1e1e")
print("canary-stderr-8888", file=sys.stderr, flush=True)
if "bad" in told["message"]:
    print("canary-answer-1e1e is no event", flush=True)
sys.exit(3)
"""


async def test_nothing_that_people_say_and_no_token_reaches_logs_or_metrics(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    """32: at the level of debugging, with turns that fail in every way."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    more = 'log_level = "debug"\n' + auth(("a", "ann", "watch send admin"))
    daemon = await start_daemon(
        config("failing", "steered", more=more)
        + FAST_ECHO
        + f'[agents.program]\nkind = "command"\ncommand = ["python3", "{program}"]\n'
    )
    c = CANARIES
    async with wire_of(daemon.url, "a", "ann") as wire, http_of(daemon.url, "a", "ann") as http:
        for model in ("echo", "program", "failing", f"{c['prompt']}/nobody"):
            for message in (c["prompt"], f"bad {c['prompt']}"):
                await wire.send(
                    type="chat.send",
                    message=message,
                    model=model,
                    clientMessageId=f"{c['id']} {model} {message}"[:128],
                    images=[{"url": f"data:{c['image']}"}],
                    workspaceId=c["workspace"],
                )
                await wire.until_event("turn-sealed")
        await wire.send(type="chat.send", conversationId="s", message="go", model="steered")
        await wire.until_event("text-delta")
        await wire.send(type="chat.send", conversationId="s", message=c["steer"], onBusy="steer")
        await wire.until_event("turn-sealed")
        await http.put("/conversations/s/title", json={"title": c["title"]})
        await http.get("/conversations", params={"search": c["search"]})
        await http.post("/chat", json={"message": c["prompt"], "cwd": f"/{c['prompt']}"})
        await http.get(f"/conversations?token={c['id']}")
        session = (await http.post("/auth/session")).headers["set-cookie"].split("=")[1]
        ticket = (await http.post("/auth/ticket")).json()["ticket"]
        metrics = (await http.get("/metrics")).text
    async with http_client(daemon.url) as stranger:
        await stranger.get("/models", headers={"Authorization": f"Bearer {c['id']}"})
    await daemon.stop()
    secrets = [*c.values(), token("a", "ann"), session.partition(";")[0], ticket]
    for secret in secrets:
        assert secret not in metrics, secret
        assert secret not in daemon.log, secret
    assert not_json(daemon.log) == []
    assert "turn.agent_failed" in daemon.log


async def test_metrics_are_numbers_without_a_clients_word_in_a_label(
    daemon: DaemonProcess,
) -> None:
    """31 and 32: what a client names makes no series of its own."""
    before = await figures(daemon)
    async with http_of(daemon.url) as http, old_wire(daemon.url) as wire:
        for number in range(50):
            model, conversation = f"m{number}", f"n{number}"
            await http.put(f"/conversations/{conversation}/model", json={"model": model})
            await wire.send(
                type="chat.send", conversationId=conversation, message="x", model=f"{model}/x"
            )
        with anyio.fail_after(GUARD_SECONDS):
            await pong(wire)
        told = (await http.get("/metrics")).text
    assert not re.search(r"\b[mn]\d+\b", told)
    assert set(before) == set(await figures(daemon))
