"""Who plays: a daemon that can be killed and started again, and `dispatch watch` as devices.

Neighbours: `__main__` starts them; `proof` reads what a device saw.
Invariant: a process that was started here is ended here, by its id, and waited for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
import anyio.abc

CONVERSATION: Final = "demo"
# A word every so often: slow enough to read, and to be killed in the middle of.
CONFIGURATION: Final = '[agents.echo]\nkind = "echo"\ndelay_ms = 120\n'
# Around every wait: far beyond what any of them takes.
GUARD_SECONDS: Final = 60.0
# A file tells that a daemon is ready: there is no event to wait for.
_POLL_SECONDS: Final = 0.002


class Failed(Exception):
    """The demonstration could not be given; the text says why."""


class Changes:
    """Lets the story wait for a fact about the devices."""

    def __init__(self) -> None:
        self._next = anyio.Event()

    def tell(self) -> None:
        """Something changed."""
        self._next.set()
        self._next = anyio.Event()

    async def until(self, what: str, is_so: Callable[[], bool]) -> None:
        """Wait until it is so; raises `Failed` if it never comes."""
        try:
            with anyio.fail_after(GUARD_SECONDS):
                while not is_so():
                    await self._next.wait()
        except TimeoutError:
            raise Failed(f"waited {GUARD_SECONDS:.0f} s in vain until {what}") from None


class DaemonProcess:
    """`dispatch serve` in a scratch directory: on a free port first, on the same one after that."""

    def __init__(self, folder: Path) -> None:
        self.url = ""
        self._folder = folder
        self._port = 0
        self._starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "dispatch.toml").write_text(CONFIGURATION)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> float:
        """Milliseconds from the start of the process until it accepts connections."""
        began = time.monotonic()
        ready, process = self._spawn()
        try:
            with anyio.fail_after(GUARD_SECONDS):
                while not ready.exists():
                    if process.poll() is not None:
                        log = (self._folder / "log.txt").read_text(errors="replace")
                        raise Failed(f"the daemon did not start:\n{log}")
                    await anyio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise Failed("the daemon was not ready in time") from None
        took = time.monotonic() - began
        self.url = json.loads(ready.read_text())["url"]
        self._port = int(self.url.rpartition(":")[2])
        return took * 1000

    def _spawn(self) -> tuple[Path, subprocess.Popen[bytes]]:
        self._starts += 1
        ready = self._folder / f"ready-{self._starts}.json"
        with (self._folder / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "dispatch", "serve", "--port", str(self._port)),
                    *("--data", str(self._folder / "data"), "--ready-file", str(ready)),
                    *("--config", str(self._folder / "dispatch.toml")),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(),
            )
        return ready, self._process

    def kill(self) -> None:
        """kill -9: no handler runs, nothing is flushed."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


@dataclass(frozen=True, slots=True)
class Shown:
    """One event as a device was shown it. A frame may merge deltas that follow each other, so what
    two devices saw is compared by `atoms`: a text's characters, and other events whole.
    """

    offset: int
    kind: str
    turn: str
    text: str

    @classmethod
    def read(cls, frame: dict[str, object]) -> Shown | None:
        """What a frame of `dispatch.v1` shows, if it is an event."""
        match frame:
            case {
                "type": "chat.delta",
                "position": str(position),
                "event": {"type": str(kind), "turnId": str(turn), **more},
            }:
                text = str(more["delta"]) if kind == "text-delta" else ""
                return cls(int(position.rpartition(":")[2]), kind, turn, text)
        return None

    def atoms(self) -> list[tuple[str, str, str]]:
        """What it adds, in pieces that no frame divides."""
        if self.kind == "text-delta":
            return [(self.kind, self.turn, character) for character in self.text]
        return [(self.kind, self.turn, "")]


class Device:
    """One `dispatch watch`, as a process of its own, and everything it printed."""

    def __init__(self, name: str, changes: Changes) -> None:
        self.name = name
        self.status = "connecting"
        # In the order in which it came, and so with whatever came twice.
        self.shown: list[Shown] = []
        self.generation = ""
        self.texts: dict[str, str] = {}
        self.reasons: dict[str, str] = {}
        self.sealed: list[str] = []
        self.reconnects_total = 0
        self.gaps_total = 0
        self._changes = changes

    @property
    def words(self) -> int:
        """How much of all answers it has shown."""
        return sum(len(text.split()) for text in self.texts.values())

    async def watch(self, url: str) -> None:
        """Print along until cancelled."""
        command = [sys.executable, "-m", "dispatch", "watch", CONVERSATION, "--json"]
        async with running(command, url) as process:
            assert process.stdout is not None
            unread = b""
            async for piece in process.stdout:
                *lines, unread = (unread + piece).split(b"\n")
                for line in lines:
                    self._take(json.loads(line))
                self._changes.tell()
            assert process.stderr is not None
            told = b"".join([piece async for piece in process.stderr]).decode(errors="replace")
            raise Failed(f"{self.name} stopped watching: {told}")

    def _take(self, frame: dict[str, object]) -> None:
        match frame:
            case {"type": "chat.subscribed"}:
                self.status = "watching"
            case {"type": "client.reconnecting"}:
                self.status = "connection lost, trying again"
                self.reconnects_total += 1
            case {"type": "chat.snapshot"}:
                # Honest, and yet not every event: somebody else's promise, not this one.
                self.gaps_total += 1
            case {"type": "chat.delta", "position": str(position), "event": dict(event)}:
                self.generation = position.rpartition(":")[0]
                self._event(event)
        if shown := Shown.read(frame):
            self.shown.append(shown)

    def _event(self, event: dict[str, object]) -> None:
        match event:
            case {"type": "text-delta", "turnId": str(turn), "delta": str(text)}:
                self.texts[turn] = self.texts.get(turn, "") + text
            case {"type": "done", "turnId": str(turn), "reason": str(reason)}:
                self.reasons[turn] = reason
            case {"type": "turn-sealed", "turnId": str(turn)}:
                self.sealed.append(turn)


def environment(url: str | None = None) -> dict[str, str]:
    """This process's, without what would configure another daemon or client."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("DISPATCH_")}
    return kept | ({"DISPATCH_URL": url} if url else {})


@asynccontextmanager
async def running(command: list[str], url: str) -> AsyncIterator[anyio.abc.Process]:
    """A process that ends with the block."""
    async with await anyio.open_process(command, stdin=None, env=environment(url)) as process:
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
