"""Every published transcript is what a daemon says; `RECORD=1` writes them anew.

The command itself replays them, against a real daemon: what it says of the daemon it would say of
any other server. That it can fail is tested in `tests/conformance`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import anyio
import msgspec
import pytest

from dispatch.client.dial import Address
from dispatch.conformance.agents import AGENTS, configuration
from dispatch.conformance.matching import Names
from dispatch.conformance.replay import Replay, Went
from dispatch.conformance.transcripts import (
    DIALECTS,
    AnyStep,
    Connect,
    Exchange,
    Expect,
    Told,
    published,
    read_transcript,
)
from tests.e2e.commands import lines, run
from tests.e2e.conftest import FAST_ECHO, StartDaemon
from tests.e2e.recording import record
from tests.protocol.published import saw, saw_frame, saw_one_of
from tests.protocol.replies import JSON, content_of

pytestmark = pytest.mark.timeout(120)


def test_there_are_transcripts_of_every_dialect() -> None:
    assert {name.partition("/")[0] for name in published()} == set(DIALECTS)


def test_an_agent_that_a_transcript_needs_is_shipped() -> None:
    shipped = {agent.__name__ for agent in AGENTS}
    assert all(set(read_transcript(path).agents) <= shipped for path in published().values())


@pytest.mark.skipif("RECORD" not in os.environ, reason="RECORD=1 writes the transcripts anew")
async def test_transcripts_are_recorded(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(configuration())
    for name, path in published().items():
        # Those of AHP are written by hand: a recording knows which fields of the others to name.
        if not name.startswith("ahp/"):
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


async def test_every_frame_of_the_transcripts_is_as_published(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(configuration())
    for path in published().values():
        dialects: dict[str, str | None] = {}
        async with Replay(Address.parse(daemon.url), exact=True) as replay:
            for step in read_transcript(path).steps:
                # What AHP says is held to its own schemas, in the tests of the protocol.
                if isinstance(step, Connect) and step.path.startswith("/ws"):
                    dialects[step.on] = step.subprotocol
                saw_step(step, await replay.step(step), replay.names, dialects)


def saw_step(step: AnyStep, went: Went, names: Names, dialects: dict[str, str | None]) -> None:
    """What came in a step; raises AssertionError where it is not as published."""
    match step:
        case Exchange(request=asked, status=status):
            content = content_of(asked.method, names.fill(asked.path), status)
            for frame in went.frames:
                # Of server-sent events the payload is published, and the id beside it is not.
                is_event = step.frames is not msgspec.UNSET
                (kind,) = content["text/event-stream" if is_event else "application/x-ndjson"]
                saw(kind, frame["data"] if is_event else frame)
            if went.reply is not None:
                saw_one_of(content[JSON], went.reply)
        case Expect(on=name) | Told(on=name) if name in dialects:
            for frame in went.frames:
                saw_frame(frame, is_v1=dialects[name] == "dispatch.v1")


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
