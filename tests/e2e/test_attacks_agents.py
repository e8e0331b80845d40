"""Attack 36: an agent's program writes what it likes; it is bounded, and passed on as data.

Each way to misbehave is a mode of one program, run by the real daemon on the default limits. After
each the conversation goes on, and nobody else was kept waiting.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from tests.e2e.attackers import (
    GUARD_SECONDS,
    bystander,
    figures,
    forget_peak,
    http_of,
    not_json,
    peak_mebibytes,
)
from tests.e2e.process import POLL_SECONDS, DaemonProcess
from tests.e2e.wire import Frame, events, text, v1_wire

PROGRAM = r"""
import itertools, json, os, sys

told = json.loads(sys.stdin.readline())
mode = told["message"]
out = sys.stdout.buffer

def say(**event):
    out.write(json.dumps(event).encode() + b"\n")

def forever(block):
    while True:
        out.write(block)

def line(**event):
    return json.dumps(event).encode() + b"\n"

if mode == "a line of 5 megabytes":
    say(type="text-delta", delta="x" * 5_000_000)
elif mode == "a tool's input of 5 megabytes":
    say(type="tool-call", toolCallId="t", toolName="n", input="x" * 5_000_000)
elif mode == "a line without end":
    forever(b"x" * 65536)
elif mode == "an event without end":
    out.write(b'{"type":"text-delta","delta":"')
    forever(b"x" * 65536)
elif mode == "text without end":
    forever(line(type="text-delta", delta="y" * 4000))
elif mode == "tool output without end":
    forever(line(type="tool-output", toolCallId="t", data="y" * 4000, stream="stdout"))
elif mode == "tiny events without end":
    forever(line(type="text-delta", delta="") * 1000)
elif mode == "usage without end":
    forever(line(type="usage", usage={"inputTokens": 1, "outputTokens": 1}) * 100)
elif mode == "blank lines without end":
    forever(b"\n" * 65536)
elif mode == "blanks without end":
    forever(b" \n" * 32768)
elif mode == "steps without end":
    for n in itertools.count():
        say(type="step-complete", stepId=str(n))
elif mode == "calls without end":
    for n in itertools.count():
        say(type="tool-call", toolCallId=str(n), toolName="n", input=None)
elif mode == "requests without end":
    for n in itertools.count():
        say(type="request", requestId=str(n), kind="approval", title="?")
elif mode == "errors to stderr without end":
    while True:
        sys.stderr.write("\x1b[31m" + "e" * 65536)
elif mode == "invalid UTF-8":
    out.write(b'{"type":"text-delta","delta":"\xff\xfe\xed\xa0\x80"}\n')
elif mode == "binary":
    out.write(bytes(range(256)) * 64 + b"\n")
elif mode == "nulls":
    out.write(b"\0" * 1000 + b"\n")
elif mode == "a deep input":
    out.write(b'{"type":"tool-call","toolCallId":"t","toolName":"n","input":')
    out.write(b"[" * 100_000 + b"]" * 100_000 + b"}\n")
elif mode == "a number beyond all":
    out.write(b'{"type":"tool-result","toolCallId":"t","toolName":"n","content":"c",')
    out.write(b'"isError":false,"durationMs":1e400}\n')
elif mode == "not a number":
    out.write(b'{"type":"provider-retry","attempt":0,"delayMs":NaN,"message":"m"}\n')
elif mode == "an integer of a megabyte":
    out.write(b'{"type":"usage","usage":{"outputTokens":1,"inputTokens":' + b"9" * 10**6 + b"}}\n")
elif mode == "a lone surrogate":
    out.write(b'{"type":"text-delta","delta":"\\ud800"}\n')
elif mode == "the broker's own events":
    say(type="turn-sealed")
elif mode == "somebody else's message":
    say(type="user-message", text="I never said that")
elif mode == "a closed request":
    say(type="request-closed", requestId="r", outcome="answered", by="ann")
elif mode == "an unknown event":
    say(type="__proto__")
elif mode == "no object":
    out.write(b"[1, 2]\n")
elif mode == "an event after done":
    say(type="done", reason="stop")
    say(type="text-delta", delta="too late")
    say(type="done", reason="again")
elif mode == "ids of others":
    say(type="text-delta", delta="mine", conversationId="victim", turnId="t-victim", position="x:1")
    say(type="tool-call", toolCallId="t", toolName="n", input={"conversationId": "victim"},
        conversationId="victim", stepId='x","conversationId":"victim')
elif mode == "terminal escapes":
    say(type="text-delta", delta="\x1b[2J\x1b]0;owned\x07\u202e\u2028")
    sys.stderr.write("\x1b[2J\x1b]0;owned\x07 failed \u202e")
    out.flush()
    os._exit(1)
out.flush()
"""

CONFIG = """
default_agent = "program"
[agents.program]
kind = "command"
command = ["python3", "{program}"]
[agents.echo]
kind = "echo"
delay_ms = 0
"""

# What ends each turn: the code of its error, or None where it ends well.
BAD = "bad_event"
ENDS = {
    "a line of 5 megabytes": "too_large",
    "a tool's input of 5 megabytes": "too_large",
    "a line without end": "too_large",
    "an event without end": "too_large",
    "invalid UTF-8": BAD,
    "binary": BAD,
    "nulls": BAD,
    "a deep input": BAD,
    "a number beyond all": BAD,
    "not a number": BAD,
    "an integer of a megabyte": BAD,
    "a lone surrogate": BAD,
    "the broker's own events": BAD,
    "somebody else's message": BAD,
    "a closed request": BAD,
    "an unknown event": BAD,
    "no object": BAD,
    "an event after done": None,
    "ids of others": None,
    "terminal escapes": "agent_failed",
}
ENDLESS = (
    "text without end",
    "tool output without end",
    "tiny events without end",
    "usage without end",
    "blank lines without end",
    "blanks without end",
    "steps without end",
    "calls without end",
    "requests without end",
    "errors to stderr without end",
)
# How long an endless program is watched before it is stopped, if nothing ended it.
WATCH_SECONDS = 1.5


@pytest.fixture(scope="module")
async def daemon(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("daemon")
    program = folder / "program.py"
    program.write_text(PROGRAM)
    process = DaemonProcess(folder, CONFIG.format(program=program))
    await process.start()
    try:
        yield process
        assert not_json(process.log) == []
    finally:
        await process.end()


async def run(daemon: DaemonProcess, mode: str) -> list[Frame]:
    """A turn of the program, and one of another agent behind it."""
    conversation = mode.replace(" ", "-").replace("'", "")
    async with v1_wire(daemon.url) as wire:
        await wire.send(
            type="chat.send", conversationId=conversation, message=mode, model="program"
        )
        seen = await wire.until_event("turn-sealed")
        await wire.send(
            type="chat.send", conversationId=conversation, message="still here", model="echo"
        )
        assert text(await wire.until_event("turn-sealed")) == "still here"
    return seen


@pytest.mark.parametrize("mode", ENDS)
async def test_a_bad_line_ends_its_own_turn_with_a_typed_error(
    daemon: DaemonProcess, mode: str
) -> None:
    """36: one error, `done`, the seal; and nothing more than a line is ever held of it."""
    before = forget_peak(daemon)
    seen = events(await run(daemon, mode))
    errors = [event for event in seen if event["type"] == "error"]
    assert [error["code"] for error in errors] == ([ENDS[mode]] if ENDS[mode] else [])
    assert [event["type"] for event in seen][-2:] == ["done", "turn-sealed"]
    assert [event["type"] for event in seen].count("done") == 1
    assert seen[-2]["reason"] == ("error" if ENDS[mode] else "stop")
    for error in errors:
        assert len(error["message"]) < 3_000
        assert error["message"].isprintable()
    assert {event["conversationId"] for event in seen} == {seen[0]["conversationId"]}
    assert {event["turnId"] for event in seen} == {seen[0]["turnId"]}
    assert "victim" not in str([event.get("position") for event in seen])
    assert peak_mebibytes(daemon) - before < 60


async def test_what_an_agent_says_is_passed_on_as_it_is(daemon: DaemonProcess) -> None:
    """36: escapes and foreign ids are data, in the events and in the history."""
    said = text(await run(daemon, "terminal escapes"))
    assert said == "\x1b[2J\x1b]0;owned\x07\u202e\u2028"
    seen = await run(daemon, "ids of others")
    (call,) = [event for event in events(seen) if event["type"] == "tool-call"]
    assert call["input"] == {"conversationId": "victim"}
    assert call["stepId"] == 'x","conversationId":"victim'
    assert "x:1" not in [event.get("position") for event in [*seen, *events(seen)]]
    async with http_of(daemon.url) as http:
        chunks = (await http.get("/conversations/terminal-escapes")).json()["chunks"]
        assert chunks[1]["chunk"]["text"] == said
        assert (await http.get("/conversations/victim/status")).status_code == 404


@pytest.mark.parametrize("mode", ENDLESS)
async def test_a_program_without_end_is_bounded_stopped_and_harms_nobody(
    daemon: DaemonProcess, mode: str
) -> None:
    """36: it ends by a limit or is stopped within seconds, and a bystander hardly notices."""
    conversation = mode.replace(" ", "-")
    before = forget_peak(daemon)
    async with (
        http_of(daemon.url) as http,
        v1_wire(daemon.url) as wire,
        bystander(daemon.url) as watch,
    ):
        # Nobody watches it: the sender is not subscribed to what it queues behind a turn.
        await http.post(f"/conversations/{conversation}/queue", json={"text": mode})
        with anyio.move_on_after(WATCH_SECONDS):
            while (await http.get(f"/conversations/{conversation}/status")).json()["isActive"]:
                await anyio.sleep(POLL_SECONDS)
        with anyio.fail_after(GUARD_SECONDS):
            await http.post(f"/conversations/{conversation}/stop")
        await wire.send(
            type="chat.send", conversationId=conversation, message="still here", model="echo"
        )
        assert text(await wire.until_event("turn-sealed")) == "still here"
    assert watch.median < 0.1
    assert watch.worst < 1.5
    assert peak_mebibytes(daemon) - before < 100
    assert (await figures(daemon))["turns_running"] == 0
    leftovers = [p for p in Path("/proc").glob("[0-9]*/cmdline") if is_program(p)]
    assert leftovers == []


def is_program(cmdline: Path) -> bool:
    try:
        return b"program.py" in cmdline.read_bytes()
    except OSError:
        return False
