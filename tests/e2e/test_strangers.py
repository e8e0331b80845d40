"""Clients and replayers that know the published pages alone, in Python and JavaScript.

They are programs of their own (`tests/clients`), written from `protocol/` and importing nothing of
the package: what one of them cannot do against a real daemon, the pages do not say.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from dispatch.conformance.agents import configuration
from dispatch.conformance.transcripts import FIXTURES, published
from tests.e2e.conftest import StartDaemon

pytestmark = pytest.mark.timeout(120)

CLIENTS = Path(__file__).resolve().parents[1] / "clients"
GUARD_SECONDS = 90.0
# Far above what is printed; a client that floods fails.
LINE_BYTES_MAX = 65536

# Node 20 has a WebSocket behind this flag, and later ones still take the flag.
JAVASCRIPT = ["node", "--experimental-websocket"]
NO_NODE = pytest.mark.skipif(
    shutil.which("node") is None, reason="no node: the JavaScript client is NOT tested"
)
COMMANDS = {
    "python": {
        "replay": [sys.executable, "-m", "replay"],
        "talk": [sys.executable, "talk.py"],
    },
    "javascript": {
        "replay": [*JAVASCRIPT, "replay/main.mjs"],
        "talk": [*JAVASCRIPT, "talk.mjs"],
    },
}
# A proxy of the environment cannot reach this machine's own loopback.
ENVIRONMENT = {**os.environ, "NO_PROXY": "*", "no_proxy": "*"}

# What is made false in a copy, by transcript: texts, a field, a close, a number, a status.
FALSE = {
    "chat/001": ('"text": "hello there "', '"text": "hello "'),
    "chat/004": ('"duplicate": true', '"duplicate": false'),
    "chat/017": ('"code": 1009', '"code": 1000'),
    "chat/020": ('"delta": "hello there "', '"delta": "hello thee "'),
    "groups/003": ('"seq": 2', '"seq": 3'),
    "sessions/001": ('"status": 201', '"status": 200'),
}
BEGINNING = ["chat.history", "user-message", "turn-start", "text-delta"]
PARTS = [
    *("answers", "history", "sends_once", "resumes_and_stops", "answers_requests"),
    *("groups", "sessions", "steers", "deleted"),
]


@pytest.fixture(params=["python", pytest.param("javascript", marks=NO_NODE)])
def language(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def ran(language: str, name: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A program to its end."""
    with anyio.fail_after(GUARD_SECONDS):
        ended = await anyio.run_process(
            [*COMMANDS[language][name], *words],
            cwd=CLIENTS / language,
            env=ENVIRONMENT,
            check=False,
        )
    return subprocess.CompletedProcess(
        words, ended.returncode, ended.stdout.decode(), ended.stderr.decode()
    )


class Begun:
    """A client with a conversation, a group and a chat session in the middle of an answer."""

    def __init__(self, process: anyio.abc.Process) -> None:
        assert process.stdout is not None
        self._process = process
        self._output = BufferedByteReceiveStream(process.stdout)

    async def line(self) -> object:
        # The pauses between its connections grow with the time that the daemon is away.
        with anyio.fail_after(GUARD_SECONDS):
            return json.loads(await self._output.receive_until(b"\n", LINE_BYTES_MAX))

    async def told(self) -> object:
        """What it says of the end, once it has ended well."""
        line = await self.line()
        with anyio.fail_after(GUARD_SECONDS):
            assert await self._process.wait() == 0
        return line


@asynccontextmanager
async def begun(language: str, url: str) -> AsyncIterator[Begun]:
    command = [*COMMANDS[language]["talk"], url, "begin"]
    async with await anyio.open_process(
        command, cwd=CLIENTS / language, env=ENVIRONMENT, stderr=None
    ) as process:
        try:
            client = Begun(process)
            assert await client.line() == {"type": "begun"}
            yield client
        finally:
            if process.returncode is None:
                process.kill()


def verdicts(output: str) -> dict[str, str]:
    """By transcript: pass, FAIL or skip. Why it failed may go on over further lines."""
    return {name: word for word, name in re.findall(r"^(pass|FAIL|skip) ([^:\s]+)", output, re.M)}


async def test_a_stranger_replays_every_transcript(
    start_daemon: StartDaemon, language: str
) -> None:
    daemon = await start_daemon(configuration())
    ended = await ran(language, "replay", daemon.url, str(FIXTURES))
    assert verdicts(ended.stdout) == dict.fromkeys(published(), "pass"), ended.stdout
    assert ended.returncode == 0


async def test_a_stranger_finds_what_is_false(
    start_daemon: StartDaemon, tmp_path: Path, language: str
) -> None:
    for name, path in published(list(FALSE)).items():
        true, false = FALSE[name.partition("-")[0]]
        text = path.read_text("utf-8")
        assert true in text, name
        copy = tmp_path / "false" / path.parent.name / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text.replace(true, false), "utf-8")
    daemon = await start_daemon(configuration())
    ended = await ran(language, "replay", daemon.url, str(tmp_path / "false"))
    assert verdicts(ended.stdout) == dict.fromkeys(published(list(FALSE)), "FAIL"), ended.stdout
    assert len(verdicts(ended.stdout)) == len(FALSE)
    assert "not within" not in ended.stdout
    assert ended.returncode == 1


async def test_a_stranger_sends_once_answers_and_stops_over_a_broken_connection(
    start_daemon: StartDaemon, language: str
) -> None:
    daemon = await start_daemon(configuration())
    ended = await ran(language, "talk", daemon.url)
    assert ended.stdout.splitlines() == [f"pass {part}" for part in PARTS], ended.stderr
    assert ended.returncode == 0


async def test_a_stranger_follows_over_a_kill_of_the_daemon(
    start_daemon: StartDaemon, language: str
) -> None:
    daemon = await start_daemon(configuration(), "--port", str(free_port()))
    async with begun(language, daemon.url) as client:
        await daemon.kill()
        await daemon.start()
        assert await client.told() == {
            "type": "over",
            "events": [*BEGINNING, "error", "done", "turn-sealed"],
            "text": "on ",
            "group": ["on ", "interrupted"],
            "chats": "chat_task_failed",
            "isOneTurn": True,
            "next": "hello there ",
        }


async def test_a_stranger_is_told_that_the_data_are_lost(
    start_daemon: StartDaemon, language: str
) -> None:
    daemon = await start_daemon(configuration(), "--port", str(free_port()))
    async with begun(language, daemon.url) as client:
        await daemon.kill()
        shutil.rmtree(daemon.data)
        await daemon.start()
        assert await client.told() == {
            "type": "over",
            "events": [*BEGINNING, "chat.snapshot"],
            "text": "",
            "group": "group_not_found",
            "chats": "resync_required",
            "isOneTurn": True,
            "next": "hello there ",
        }


def test_a_stranger_imports_nothing_of_the_package() -> None:
    programs = sorted((CLIENTS / "python").rglob("*.py"))
    own = {path.stem for path in (CLIENTS / "python").iterdir()}
    foreign = imported(programs) - own - sys.stdlib_module_names
    assert foreign == {"httpx", "websockets"}
    modules = sorted((CLIENTS / "javascript").rglob("*.mjs"))
    text = "".join(path.read_text("utf-8") for path in modules)
    sources = re.findall(r"\b(?:from|import)\s*\(?\s*[\"'`]([^\"'`]+)", text)
    assert len(sources) > len(modules)
    assert [s for s in sources if not re.match(r"node:|\./(?!.*\.\.)", s)] == []


def imported(programs: list[Path]) -> set[str]:
    """The first parts of what they import."""
    names = set()
    for program in programs:
        for node in ast.walk(ast.parse(program.read_text("utf-8"))):
            match node:
                case ast.Import(names=aliases):
                    names |= {alias.name.partition(".")[0] for alias in aliases}
                case ast.ImportFrom(module=module, level=0) if module:
                    names.add(module.partition(".")[0])
    return names


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
