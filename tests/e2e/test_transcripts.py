"""Every published transcript is what a daemon says; `RECORD=1` writes them anew.

The command itself replays them, against a real daemon: what it says of the daemon it would say of
any other server. That it can fail is tested in `tests/conformance`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import anyio
import pytest

from dispatch.conformance.agents import AGENTS, configuration
from dispatch.conformance.transcripts import DIALECTS, published, read_transcript
from tests.e2e.commands import lines, run
from tests.e2e.conftest import FAST_ECHO, StartDaemon
from tests.e2e.recording import record

pytestmark = pytest.mark.timeout(120)


def test_there_are_transcripts_of_every_dialect() -> None:
    assert {name.partition("/")[0] for name in published()} == set(DIALECTS)


def test_an_agent_that_a_transcript_needs_is_shipped() -> None:
    shipped = {agent.__name__ for agent in AGENTS}
    assert all(set(read_transcript(path).agents) <= shipped for path in published().values())


@pytest.mark.skipif("RECORD" not in os.environ, reason="RECORD=1 writes the transcripts anew")
async def test_transcripts_are_recorded(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(configuration())
    for path in published().values():
        await record(daemon.url, path)


async def test_a_recording_of_a_transcript_is_the_transcript(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = await start_daemon(configuration())
    for name, path in published(["chat/001", "chat/011", "groups/003", "sessions/006"]).items():
        copy = tmp_path / name
        await anyio.Path(copy.parent).mkdir(exist_ok=True)
        copy.write_bytes(path.read_bytes())
        await record(daemon.url, copy)
        assert json.loads(copy.read_text("utf-8")) == json.loads(path.read_text("utf-8"))


async def test_a_daemon_says_what_the_transcripts_say_however_often_it_is_asked(
    start_daemon: StartDaemon,
) -> None:
    daemon = await start_daemon(configuration())
    for _ in range(2):
        ended = await run("", "conformance", daemon.url, "--exact", "--keep-going")
        failed = [verdict for verdict in lines(ended) if verdict["outcome"] != "passed"]
        assert failed == []
        assert [verdict["transcript"] for verdict in lines(ended)] == list(published())
        assert ended.returncode == 0, ended.stderr


async def test_what_needs_agents_that_are_not_served_is_skipped(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(FAST_ECHO)
    ended = await run("", "conformance", daemon.url)
    outcomes = {str(verdict["transcript"]): verdict["outcome"] for verdict in lines(ended)}
    needed = {name: read_transcript(path).agents for name, path in published().items()}
    assert outcomes == {name: "skipped" if needed[name] else "passed" for name in needed}
    assert ended.returncode == 0


async def test_a_server_that_is_not_there_is_no_connection() -> None:
    ended = await run("", "conformance", "http://127.0.0.1:9")
    assert ended.returncode == 3
    assert ended.stderr.startswith("dispatch: cannot connect")
