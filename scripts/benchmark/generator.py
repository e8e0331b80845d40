"""The load generator: wsload of `shared/bench`, built once, run on a core of its own.

Neighbours: `rivals` and `dispatched` say how their server is spoken to (`Server.words`), `rows`
which load; wsload counts deltas by a marker inside them, so a server that packs several into one
frame is counted on the same work. It reports the CPU of the server's process alone.
Invariant: every run is bounded in time, and what it could not complete is said.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from scripts.benchmark import machine

PUBLISHER: Final = Path(__file__).with_name("publisher.c")
BUILD_SECONDS_MAX: Final = 120
# Connecting is bounded by wsload itself to 60 seconds, the load by its `-x`.
SETUP_SECONDS_MAX: Final = 90

Figures = dict[str, Any]


class Failed(Exception):
    """A measurement gave no figures; the text says why."""


class Missing(Exception):
    """Something outside the tree that a row needs is not there."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server under measurement: where it is, and how the generator speaks to it.

    `publisher_port` is where payloads go in if that is not `port`. `name` is the report's.
    """

    name: str
    pid: int
    port: int
    words: tuple[str, ...]
    publisher_port: int | None = None


def build(name: str, sources: Sequence[Path], *flags: str) -> Path:
    """Compile into the cache, unless that has been done; raises `Missing`."""
    for source in sources:
        if not source.exists():
            raise Missing(f"{name}: there is no {source}")
    digest = hashlib.sha256(" ".join(flags).encode())
    for source in sources:
        digest.update(source.read_bytes())
    binary = machine.cache() / f"{name}-{digest.hexdigest()[:16]}"
    if binary.exists():
        return binary
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise Missing(f"{name}: there is no C compiler")
    beside = binary.with_name(f"{binary.name}.{os.getpid()}")
    command = [compiler, "-O2", "-march=native", "-w", "-o", str(beside), *map(str, sources)]
    done = subprocess.run(
        [*command, *flags], capture_output=True, text=True, timeout=BUILD_SECONDS_MAX
    )
    if done.returncode != 0:
        raise Missing(f"{name}: it does not compile: {done.stderr.strip()[-500:]}")
    beside.replace(binary)
    return binary


class Generator:
    """wsload, ready to run."""

    def __init__(self) -> None:
        """Build it; raises `Missing`."""
        wsload = machine.SHARED_BENCH / "wsload.c"
        self._binary = build("wsload", [wsload, PUBLISHER], "-Wl,--wrap=connect", "-lz")

    def run(
        self, server: Server, *load: str, publisher_number: int | None = None, seconds: float
    ) -> Figures:
        """One run: wsload's own report. `publisher_number`: which connection publishes."""
        environment = dict(os.environ)
        if server.publisher_port is not None and publisher_number is not None:
            environment["PUBLISHER_PORT"] = str(server.publisher_port)
            environment["PUBLISHER_NUMBER"] = str(publisher_number)
        command = [str(self._binary), "-p", str(server.port), "-P", str(server.pid)]
        try:
            done = subprocess.run(
                [*command, "-x", str(seconds), *server.words, *load],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds + SETUP_SECONDS_MAX,
                env=environment,
                preexec_fn=machine.pinned(machine.GENERATOR_CORE),
            )
        except subprocess.TimeoutExpired:
            raise Failed(
                f"the generator took longer than {seconds + SETUP_SECONDS_MAX:g} s"
            ) from None
        try:
            figures: Figures = json.loads(done.stdout.strip().splitlines()[-1])
        except (IndexError, ValueError):
            raise Failed(f"no figures: {done.stdout[-200:]} {done.stderr[-300:]}") from None
        if "error" in figures:
            raise Failed(f"{figures['error']}: {done.stderr.strip()[-300:]}")
        if figures.get("closed"):
            figures["complaint"] = f"connections were closed: {done.stderr.strip()[-200:]}"
        if figures.get("seqerr"):
            figures["complaint"] = f"{figures['seqerr']} deltas out of sequence"
        return figures
