"""Clients that know the published pages alone, in Python and JavaScript, against a real daemon.

They are programs of their own (`tests/clients`), which import nothing of the package: what one of
them cannot do, the pages do not say.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest

from dispatch.conformance.agents import configuration
from dispatch.conformance.transcripts import published
from tests.e2e.commands import Running
from tests.e2e.conftest import StartDaemon
from tests.e2e.wire import v1_wire

pytestmark = pytest.mark.timeout(120)

CLIENTS = Path(__file__).resolve().parents[1] / "clients"
GUARD_SECONDS = 90.0

# Node 20 has a WebSocket behind this flag, and later ones still take the flag.
JAVASCRIPT = ["node", "--experimental-websocket"]
NO_NODE = pytest.mark.skipif(
    shutil.which("node") is None, reason="no node: the JavaScript client is NOT tested"
)


@pytest.fixture(params=["python", pytest.param("javascript", marks=NO_NODE)])
def language(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def program(language: str, name: str, *words: str) -> list[str]:
    if language == "python":
        return [sys.executable, str(CLIENTS / language / f"{name}.py"), *words]
    return [*JAVASCRIPT, str(CLIENTS / language / f"{name}.mjs"), *words]


async def ran(language: str, name: str, *words: str) -> tuple[int, list[dict[str, Any]]]:
    """A program to its end: its exit code, and its lines."""
    with anyio.fail_after(GUARD_SECONDS):
        ended = await anyio.run_process(program(language, name, *words), check=False)
    told = [json.loads(line) for line in ended.stdout.splitlines()]
    assert told, ended.stderr.decode()
    return ended.returncode, told


@asynccontextmanager
async def following(language: str, url: str, conversation: str) -> AsyncIterator[Running]:
    async with await anyio.open_process(program(language, "talk", url, conversation)) as process:
        try:
            yield Running(process)
        finally:
            if process.returncode is None:
                process.kill()


async def test_a_stranger_replays_every_transcript(
    start_daemon: StartDaemon, language: str
) -> None:
    daemon = await start_daemon(configuration())
    code, told = await ran(language, "replay", daemon.url, *map(str, published().values()))
    assert [verdict for verdict in told if verdict["outcome"] != "passed"] == []
    assert [verdict["transcript"] for verdict in told] == list(published())
    assert code == 0


@pytest.mark.parametrize(
    ("name", "true", "false"),
    [
        ("chat/001", '"text": "hello there "', '"text": "hello "'),
        ("chat/020", '"delta": "hello there "', '"delta": "hello thee "'),
        ("chat/017", '"code": 1009', '"code": 1000'),
        ("groups/003", '"seq": 2', '"seq": 3'),
        ("sessions/001", '"status": 201', '"status": 200'),
    ],
)
async def test_a_stranger_finds_what_is_false(
    start_daemon: StartDaemon, tmp_path: Path, language: str, name: str, true: str, false: str
) -> None:
    (path,) = published([name]).values()
    text = path.read_text("utf-8")
    assert true in text
    copy = tmp_path / path.name
    copy.write_text(text.replace(true, false), "utf-8")
    daemon = await start_daemon(configuration())
    code, (verdict,) = await ran(language, "replay", daemon.url, str(copy))
    assert (code, verdict["outcome"]) == (1, "failed")


async def test_a_stranger_sends_once_follows_answers_and_stops(
    start_daemon: StartDaemon, language: str
) -> None:
    daemon = await start_daemon(configuration())
    code, (told,) = await ran(language, "talk", daemon.url)
    assert code == 0
    assert told == {
        "twice": {
            "isOneTurn": True,
            "text": "listening to the end",
            "isTheSame": True,
            "isOnce": True,
        },
        "answered": {"text": "yes, please", "late": "closed"},
        "stopped": {"text": "on ", "reason": "aborted", "abortedTurn": True},
    }


async def test_a_stranger_resumes_over_a_kill_of_the_daemon(
    start_daemon: StartDaemon, language: str
) -> None:
    daemon = await start_daemon(configuration(), "--port", str(free_port()))
    async with v1_wire(daemon.url) as wire:
        await wire.send(type="chat.send", conversationId="c", model="endless", message="begin")
        await wire.until_event("text-delta")
    async with following(language, daemon.url, "c") as follower:
        seen = await follower.until("text-delta")
        await daemon.kill()
        await daemon.start()
        seen += await follower.until("turn-sealed")
        assert (await follower.ended())[0] == 0
    kinds = [frame["event"]["type"] for frame in seen]  # type: ignore[index]
    ending = ["error", "done", "turn-sealed"]
    assert kinds == ["user-message", "turn-start", "text-delta", *ending]
    offsets = [int(str(frame["position"]).partition(":")[2]) for frame in seen]
    assert offsets == sorted(set(offsets))


def test_a_stranger_imports_nothing_of_the_package() -> None:
    imports = re.compile(r"(?:from|import)\s+[\"']?(?:\.+/)*(?:dispatch|tests)\b")
    files = [*CLIENTS.glob("*/*.py"), *CLIENTS.glob("*/*.mjs")]
    assert len(files) == 8
    assert [file.name for file in files if imports.search(file.read_text("utf-8"))] == []


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
