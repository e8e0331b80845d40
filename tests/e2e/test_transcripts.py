"""Every transcript of protocol/fixtures is what a daemon says; `RECORD=1` writes them anew."""

from __future__ import annotations

import json
import os
from pathlib import Path

import anyio
import httpx
import pytest

from tests.e2e import speakers
from tests.e2e.conftest import StartDaemon
from tests.e2e.transcripts import FIXTURES, Object, Replay, lanes

pytestmark = pytest.mark.timeout(60)

STEP_SECONDS = 10.0
TRANSCRIPTS = sorted(FIXTURES.glob("*/*.json"))


def test_there_are_transcripts_of_both_dialects() -> None:
    assert {path.parent.name for path in TRANSCRIPTS} >= {"groups", "sessions"}


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
async def test_a_transcript_is_what_the_daemon_says(start_daemon: StartDaemon, path: Path) -> None:
    daemon = await start_daemon(speakers.config())
    transcript = json.loads(path.read_text("utf-8"))
    went: list[Object] = []
    async with httpx.AsyncClient(base_url=daemon.url, trust_env=False, timeout=20) as http:
        replay = Replay(http)
        for step in transcript["steps"]:
            with anyio.fail_after(STEP_SECONDS):
                went.append(await replay.step(step))
            if "RECORD" not in os.environ:
                assert comparable(went[-1]) == comparable(step)
    if "RECORD" in os.environ:
        recorded = {**transcript, "steps": went}
        path.write_text(json.dumps(recorded, indent=1, ensure_ascii=False) + "\n", "utf-8")


def comparable(step: Object) -> Object:
    if "frames" not in step or "take" in step:
        return step
    return {**step, "frames": lanes(step["frames"])}
