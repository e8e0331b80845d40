"""Talking to a daemon as the README has it: wscat, two devices, curl, a program in Python."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from tests.e2e.checkout import Checkout, said_so
from tests.e2e.commands import GUARD_SECONDS
from tests.e2e.programs import needed
from tests.e2e.readme import claim
from tests.e2e.terminal import terminal
from tests.e2e.wire import Frame, events, text
from tests.protocol.published import saw, saw_frame, saw_line

pytestmark = pytest.mark.timeout(240)

TALK = "Talk to it"
WSCAT = claim(TALK, "sh", "npx -y wscat -c ws://127.0.0.1:8765/ws\n")
WSCAT_V1 = claim(TALK, "sh", "-s dispatch.v1")
SEND = claim(TALK, "json", "chat.send")
SUBSCRIBE = claim(TALK, "json", "chat.subscribe")
WATCH = claim(TALK, "sh", "dispatch watch kitchen")
LONG = claim(TALK, "sh", "seq -s")
STOP = claim(TALK, "sh", "dispatch stop kitchen")
CURL = claim(TALK, "sh", "curl -N")
CLIENT = claim("From Python", "python", "Client(")
IN_MEMORY = claim("From Python", "python", "in_memory_client")

# A package has to come from its registry, once.
NPX_SECONDS = 120.0


@pytest.fixture
async def checkout(tmp_path: Path) -> AsyncIterator[Checkout]:
    """With a daemon that was started as the README says."""
    checkout = Checkout(tmp_path)
    async with checkout.serving("./scripts/serve"):
        yield checkout


@pytest.fixture(scope="module")
def wscat() -> None:
    """Skips, and says so, where there is no npm to bring wscat."""
    if shutil.which("npx") is None:
        pytest.skip("no npx: the wscat session of the README was not run")
    try:
        ended = subprocess.run(
            ["npx", "-y", "wscat", "--version"], capture_output=True, timeout=NPX_SECONDS
        )
    except subprocess.TimeoutExpired:
        pytest.skip("npx brought no wscat in time: the session of the README was not run")
    if ended.returncode:
        pytest.skip(f"npx cannot bring wscat: {ended.stderr.decode()[-300:]}")


def frames(shown: str) -> list[Frame]:
    """What wscat shows of what it received: a line each, behind `< `."""
    return [
        json.loads(line[line.index("{") :])
        for line in shown.split("\n")
        if line.lstrip("> ").startswith("< {") and line.endswith("}")
    ]


@pytest.mark.usefixtures("wscat")
async def test_a_line_typed_into_wscat_is_a_frame(checkout: Checkout) -> None:
    message = json.loads(SEND.code)["message"]
    command = WSCAT.at(checkout.url)
    async with terminal(command, checkout.folder, checkout.environment()) as session:
        await session.until(lambda shown: "Connected" in shown, NPX_SECONDS)
        session.type(SEND.code)
        shown = await session.until(lambda s: '"repeat":true' in s, GUARD_SECONDS)
    seen = frames(shown)
    for frame in seen:
        saw_frame(frame, is_v1=False)
    kinds = [event["type"] for event in events(seen)]
    assert (kinds[0], kinds[-2:]) == ("user-message", ["turn-sealed"] * 2)
    assert text(seen) == message
    assert not any("position" in frame for frame in seen)


@pytest.mark.usefixtures("wscat")
async def test_exactly_the_rest_follows_a_position(checkout: Checkout) -> None:
    command = WSCAT_V1.at(checkout.url)
    environment = checkout.environment()
    async with terminal(command, checkout.folder, environment) as session:
        await session.until(lambda shown: "Connected" in shown, NPX_SECONDS)
        session.type(SEND.code.replace("hello", "one two three four five six seven eight nine"))
        shown = await session.until(
            lambda s: len([e for e in events(frames(s)) if e["type"] == "text-delta"]) >= 3,
            GUARD_SECONDS,
        )
    before = [frame for frame in frames(shown) if frame["type"] == "chat.delta"]
    line = SUBSCRIBE.code.replace("<the last position you saw>", before[-1]["position"])
    assert line != SUBSCRIBE.code
    async with terminal(command, checkout.folder, environment) as session:
        await session.until(lambda shown: "Connected" in shown, NPX_SECONDS)
        session.type(line)
        shown = await session.until(lambda s: '"turn-sealed"' in s, GUARD_SECONDS)
    after = [frame for frame in frames(shown) if frame["type"] == "chat.delta"]
    for frame in before + after:
        saw_frame(frame)
    whole = json.loads(SEND.code)["message"].replace(
        "hello", "one two three four five six seven eight nine"
    )
    assert text(before + after) == whole


async def test_two_devices_share_a_conversation_that_neither_owns(checkout: Checkout) -> None:
    async with checkout.going(WATCH.code) as watcher:
        await said_so(watcher, "chat.subscribed")
        async with checkout.going(LONG.code) as sender:
            await said_so(sender, '"delta":" 3"')
            sender.send_signal(signal.SIGINT)
            with anyio.fail_after(GUARD_SECONDS):
                await sender.wait()
        await said_so(watcher, '"delta":" 20"')
    async with checkout.going(WATCH.code) as again:
        shown = await said_so(again, '"delta":" 30')
    assert '"delta":"1' in shown
    stopped, *kept = [json.loads(line) for line in (await checkout.typed(STOP.code)).splitlines()]
    assert stopped["abortedTurn"] is True
    assert [line["role"] for line in kept] == ["user", "assistant"]
    assert kept[1]["chunk"]["text"].startswith("1 2 3 ")


async def test_a_conversation_is_held_over_http_alone(checkout: Checkout) -> None:
    needed("curl")
    printed = await checkout.typed(CURL.at(checkout.url))
    *stream, page = [json.loads(line) for line in printed.splitlines()]
    for event in stream:
        saw_line(event)
    saw("ChunkPage", page)
    assert [stream[0]["type"], stream[-1]["type"]] == ["user-message", "turn-sealed"]
    assert [line["role"] for line in page["chunks"]] == ["user", "assistant"]
    assert page["chunks"][1]["chunk"]["text"] == "hello over http"


async def test_a_program_sends_follows_and_reads(checkout: Checkout) -> None:
    (checkout.folder / CLIENT.file_name).write_text(CLIENT.at(checkout.url))
    printed = await checkout.typed(f"python {CLIENT.file_name}")
    assert printed == "hello\nand once more\n4 chunks are kept\n"


async def test_a_program_is_tested_without_a_network(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    (tmp_path / IN_MEMORY.file_name).write_text(IN_MEMORY.code)
    await checkout.typed(f"python {IN_MEMORY.file_name}")
    broken = IN_MEMORY.code.replace('"hello world"', '"something else"')
    (tmp_path / IN_MEMORY.file_name).write_text(broken)
    await checkout.typed(f"! python {IN_MEMORY.file_name}")
