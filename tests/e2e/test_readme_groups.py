"""What the README says about groups and chats, typed as it stands there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.e2e.commands import GUARD_SECONDS, environment
from tests.e2e.conftest import StartDaemon
from tests.e2e.process import DaemonProcess

pytestmark = pytest.mark.timeout(90)

README = Path(__file__).resolve().parents[2] / "README.md"
Frame = dict[str, Any]
ADDRESS = "http://127.0.0.1:8765"


def blocks(language: str) -> list[str]:
    """The code of the section, in order."""
    _, _, rest = README.read_text("utf-8").partition("\n## Groups and chats\n")
    section, _, _ = rest.partition("\n## ")
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)


def objects(text: str) -> list[Frame]:
    """JSON objects one after the other; what curl prints has no line end."""
    found, decoder = [], json.JSONDecoder()
    while text := text.lstrip():
        one, end = decoder.raw_decode(text)
        found.append(one)
        text = text[end:]
    return found


async def typed(daemon: DaemonProcess, *lines: str) -> str:
    """What a shell prints for these lines, with this daemon at the published address."""
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    script = "set -euo pipefail\n" + "".join(lines).replace(ADDRESS, daemon.url)
    with anyio.fail_after(GUARD_SECONDS * 2):
        ended = await anyio.run_process(
            ["bash", "-c", script],
            stdin=subprocess.DEVNULL,
            env=environment(daemon.url, PATH=path),
            check=False,
        )
    assert ended.returncode == 0, ended.stderr.decode()
    return ended.stdout.decode()


@pytest.fixture
async def daemon(start_daemon: StartDaemon) -> DaemonProcess:
    [config] = blocks("toml")
    return await start_daemon(config)


async def test_two_agents_answer_one_prompt(daemon: DaemonProcess) -> None:
    make, look, _ = blocks("sh")
    streamed, _, printed = (await typed(daemon, make, "echo BREAK\n", look)).partition("BREAK")
    lines = streamed.splitlines()
    frames = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    ids = [int(line[4:]) for line in lines if line.startswith("id: ")]
    assert ids == sorted(set(ids))
    assert len(ids) == len(frames)
    said = {"echo": "", "parrot": ""}
    for frame in frames:
        if frame["kind"] == "assistant_chunk":
            said[frame["familiarId"]] += frame["text"]
    assert set(said.values()) == {"one prompt, two answers"}
    assert frames[-1]["scope"] == "group"
    assert frames[-1]["results"]["completed"] == 2

    snapshot, *answer, listed = objects(printed)
    assert [event["seq"] for event in snapshot["events"]] == [1, 2, 3]
    assert {event["text"] for event in snapshot["events"]} == {"one prompt, two answers"}
    assert answer[-1]["results"]["completed"] == 1
    assert {frame["familiarId"] for frame in answer if "familiarId" in frame} == {"parrot"}
    assert listed["lastSeq"] == 5


async def test_a_session_counts_what_is_unread(daemon: DaemonProcess) -> None:
    printed = objects(await typed(daemon, blocks("sh")[2]))
    first, second, listed, *read, moved, page = printed
    assert first["response"]["content"] == "is anybody there?"
    assert second["response"]["content"] == "still there?"
    assert (listed["title"], listed["unread_count"]) == ("Kitchen", 2)
    assert [message["role"] for message in read] == ["user", "assistant"] * 2
    assert (moved["last_read_seq"], moved["unread_count"]) == (4, 0)
    assert page["unread_total"] == 0
    assert [session["unread_count"] for session in page["sessions"]] == [0]
