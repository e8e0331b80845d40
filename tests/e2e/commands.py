"""Commands as processes, and what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc

from tests.e2e.conftest import StartDaemon
from tests.e2e.process import DaemonProcess

GUARD_SECONDS = 20.0


SLOW_ECHO = '[agents.echo]\nkind = "echo"\ndelay_ms = 50\n'


TEN_WORDS = " ".join(f"word{n}" for n in range(10))


ENDLESS = " ".join(["on"] * 20_000)


ASKING_AGENT = """
import json, sys

def say(**event):
    print(json.dumps(event), flush=True)

json.loads(sys.stdin.readline())
say(type="text-delta", delta="before ")
say(type="request", requestId="r1", kind="approval", title="May I?",
    options=[{"id": "y", "label": "Yes", "effect": "allow"}])
told = json.loads(sys.stdin.readline())
if told["type"] == "steer":
    say(type="steering", text=told["text"])
say(type="text-delta", delta=told.get("text") or told.get("optionId") or "nothing")
"""


Frame = dict[str, object]


def environment(url: str, **more: str) -> dict[str, str]:
    kept = {name: text for name, text in os.environ.items() if not name.startswith("DISPATCH_")}
    return kept | {"DISPATCH_URL": url} | more


async def run(
    url: str, *words: str, stdin: str = "", **more: str
) -> subprocess.CompletedProcess[str]:
    """A command to its end."""
    with anyio.fail_after(GUARD_SECONDS):
        ended = await anyio.run_process(
            [sys.executable, "-m", "dispatch", *words],
            input=stdin.encode(),
            env=environment(url, **more),
            check=False,
        )
    return subprocess.CompletedProcess(
        words, ended.returncode, ended.stdout.decode(), ended.stderr.decode()
    )


class Running:
    """A command that goes on; its JSON lines as they come."""

    def __init__(self, process: anyio.abc.Process) -> None:
        self.process = process
        self._bytes = b""

    async def line(self) -> Frame:
        assert self.process.stdout is not None
        with anyio.fail_after(GUARD_SECONDS):
            while b"\n" not in self._bytes:
                self._bytes += await self.process.stdout.receive()
        line, _, self._bytes = self._bytes.partition(b"\n")
        frame: Frame = json.loads(line)
        return frame

    async def until(self, kind: str) -> list[Frame]:
        """The lines up to and including an event or frame of this type."""
        found: list[Frame] = []
        while not found or kind not in (found[-1]["type"], event_type(found[-1])):
            found.append(await self.line())
        return found

    async def ended(self) -> tuple[int, str]:
        assert self.process.stderr is not None
        with anyio.fail_after(GUARD_SECONDS):
            told = b"".join([part async for part in self.process.stderr])
            return await self.process.wait(), told.decode()


@asynccontextmanager
async def going(url: str, *words: str) -> AsyncIterator[Running]:
    command = [sys.executable, "-m", "dispatch", *words]
    async with await anyio.open_process(command, env=environment(url)) as process:
        try:
            yield Running(process)
        finally:
            if process.returncode is None:
                process.kill()


def event_type(frame: Frame) -> object:
    event = frame.get("event")
    return event.get("type") if isinstance(event, dict) else None


def said(frames: list[Frame]) -> str:
    events = [frame["event"] for frame in frames if frame["type"] == "chat.delta"]
    return "".join(e["delta"] for e in events if e["type"] == "text-delta")  # type: ignore[index]


def lines(ended: subprocess.CompletedProcess[str]) -> list[Frame]:
    return [json.loads(line) for line in ended.stdout.splitlines()]


async def start_asking(start_daemon: StartDaemon, tmp_path: Path) -> DaemonProcess:
    """A daemon whose agent asks, and takes an answer or steering for one."""
    program = tmp_path / "agent.py"
    program.write_text(ASKING_AGENT)
    command = json.dumps([sys.executable, str(program)])
    return await start_daemon(
        'default_agent = "asking"\n[agents.asking]\nkind = "command"\nsteer = true\n'
        f"command = {command}\n"
    )
