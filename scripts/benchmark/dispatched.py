"""A dispatch daemon as a server under measurement.

Neighbours: `agents` is what its turns run, `generator` speaks to it as `dispatch.v1`, `rows` and
`alone` say what for. It runs on SQLite with FULL sync, which is the default, and with the limits
raised that stop one account from being a benchmark.
Invariant: a daemon that was started here is killed here, and its data is removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from scripts.benchmark import machine
from scripts.benchmark.client import Client
from scripts.benchmark.generator import Failed, Server

START_SECONDS_MAX: Final = 60.0
_POLL_SECONDS: Final = 0.001
_SENDS_AT_ONCE: Final = 100

AGENTS: Final = ("stream", "burst", "short")
# Payloads are JSON inside a JSON string, so their quotes arrive escaped. The comma puts the
# marker where the generator's sequence check expects the number before it.
MARKER: Final = r",\"ts\":\""
_SEND: Final = '{"type":"chat.send","conversationId":"%c","onBusy":"queue",'
WORDS: Final = (
    *("-d", "tmpl", "--path", "/ws", "--subproto", "dispatch.v1"),
    *("--hello", "-", "--helloack", '"hello"', "--marker", MARKER),
    *("--sub", '{"type":"chat.subscribe","conversationId":"%c"}'),
    *("--suback", '"chat.subscribed"', "--pub", "%c%p"),
    *("--trig", _SEND + '"model":"burst","message":"%n %b %u"}'),
)
SHORT_TURN: Final = ("--trig", _SEND + '"model":"short","message":"A short question"}')
# Counts sealed turns where deltas would be counted.
SEALS: Final = ("--marker", '"turn-sealed"', "--noseq")


def conversation(number: int) -> str:
    """A conversation's name as the generator writes it."""
    return f"c{number:05d}"


class Daemon:
    """`dispatch serve` in a directory of its own; it may be killed and started again."""

    def __init__(self, scratch: Path, *, storage: str = "sqlite", members: int = 0) -> None:
        """Write the configuration; `members` are agents for a group, m00 and on."""
        self.home = Path(tempfile.mkdtemp(prefix="daemon-", dir=scratch))
        self.data = self.home / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0
        tables = "".join(
            f'[agents.{name}]\nkind = "python"\npath = "{machine.ROOT}"\n'
            f'target = "scripts.benchmark.agents:{target}"\n'
            for name, target in _targets(members).items()
        )
        self._config = self.home / "dispatch.toml"
        self._config.write_text(
            'default_agent = "stream"\nlog_level = "warning"\n'
            f'[storage]\nkind = "{storage}"\n'
            "[limits]\nsends_per_second_max = 1000000\nsends_burst_max = 1000000\n"
            "turns_running_max = 20000\nturn_bytes_max = 1073741824\n" + tables
        )
        self.server = Server("dispatch", 0, 0, WORDS)
        self.ready_seconds = 0.0

    @property
    def log(self) -> str:
        """What it has said, the end of it."""
        logs = sorted(self.home.glob("log-*.txt"))
        return logs[-1].read_text(errors="replace")[-1000:] if logs else ""

    def start(self) -> Server:
        """Return once it accepts; `ready_seconds` is how long that took."""
        self._starts += 1
        ready, port = (self.home / f"{name}-{self._starts}" for name in ("ready", "port"))
        environment = {k: v for k, v in os.environ.items() if not k.startswith("DISPATCH_")}
        environment["BENCH_PORT_FILE"] = str(port)
        began = time.perf_counter()
        with (self.home / f"log-{self._starts}.txt").open("wb") as log:
            self._process = process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "dispatch", "serve", "--port", "0"),
                    *("--data", str(self.data), "--config", str(self._config)),
                    *("--ready-file", str(ready)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=machine.ROOT,
                preexec_fn=machine.pinned(machine.SERVER_CORE),
            )
        while not ready.exists():
            if process.poll() is not None:
                raise Failed(f"the daemon ended at once: {self.log}")
            if time.perf_counter() - began > START_SECONDS_MAX:
                raise Failed(f"the daemon is not ready after {START_SECONDS_MAX:g} s: {self.log}")
            time.sleep(_POLL_SECONDS)
        self.ready_seconds = time.perf_counter() - began
        told = json.loads(ready.read_text())
        listens = urlsplit(told["url"]).port
        assert listens is not None, told
        self.server = Server("dispatch", process.pid, listens, WORDS, int(port.read_text()))
        return self.server

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def begin_turns(self, count: int, *, model: str = "stream") -> None:
        """A running turn in each of so many conversations."""
        with Client(self.server.port) as client:
            for first in range(0, count, _SENDS_AT_ONCE):
                numbers = range(first, min(count, first + _SENDS_AT_ONCE))
                for number in numbers:
                    name = conversation(number)
                    client.send(type="chat.send", conversationId=name, model=model, message="Go")
                for _ in numbers:
                    client.until(b'"turn-start"')


def _targets(members: int) -> dict[str, str]:
    return {name: name for name in AGENTS} | {f"m{n:02d}": "tokens" for n in range(members)}


@contextlib.contextmanager
def daemon(
    scratch: Path, *, turns: int = 0, storage: str = "sqlite", members: int = 0
) -> Iterator[Daemon]:
    """A fresh daemon, with so many turns that wait for the generator's words."""
    made = Daemon(scratch, storage=storage, members=members)
    try:
        made.start()
        if turns:
            made.begin_turns(turns)
        yield made
    finally:
        made.kill()
        shutil.rmtree(made.home, ignore_errors=True)
