"""The other servers on the same work: a naive broker, Socket.IO, and a C server as the floor.

Neighbours: `generator.Server` is what each becomes, `rows` interleaves them with `dispatched`.
None of them keeps anything on disk; dispatch does, with FULL sync.
Invariant: one that cannot be had here is left out with a reason, never silently.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from scripts.benchmark import machine
from scripts.benchmark.generator import Failed, Missing, Server, build

START_SECONDS_MAX: Final = 15.0
INSTALL_SECONDS_MAX: Final = 180
_RAW: Final = ("-d", "raw")
_SOCKET_IO: Final = ("-d", "sio")

Start = Callable[[], contextlib.AbstractContextManager[Server]]


def free_port() -> int:
    """A port of the loopback that nobody has at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def _running(
    name: str, command: Sequence[str], port: int, words: tuple[str, ...]
) -> Iterator[Server]:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=machine.ROOT,
        preexec_fn=machine.pinned(machine.SERVER_CORE),
    )
    try:
        _wait_for(process, port, name)
        yield Server(name, process.pid, port, words)
    finally:
        process.kill()
        process.wait()


def _wait_for(process: subprocess.Popen[bytes], port: int, name: str) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Failed(f"{name} ended at once with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise Failed(f"{name} does not accept")


def naive() -> Start:
    """The broker of `naive.py`."""

    def start() -> contextlib.AbstractContextManager[Server]:
        port = free_port()
        command = [sys.executable, "-m", "scripts.benchmark.naive", str(port)]
        return _running("naive", command, port, _RAW)

    return start


def c_floor() -> Start:
    """`cfloor` of `shared/bench`, one send a tick; raises `Missing`."""
    binary = build("cfloor", [machine.SHARED_BENCH / "cfloor.c"])

    def start() -> contextlib.AbstractContextManager[Server]:
        port = free_port()
        return _running("C floor", [str(binary), str(port), "1"], port, _RAW)

    return start


def socket_io() -> Start:
    """The server of `socketio/`, installed from npm into the cache; raises `Missing`."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise Missing("Socket.IO: there is no node and npm")
    source = Path(__file__).with_name("socketio")
    lock = (source / "package-lock.json").read_bytes()
    home = machine.cache() / f"socketio-{hashlib.sha256(lock).hexdigest()[:16]}"
    if not (home / "installed").exists():
        shutil.copytree(source, home, dirs_exist_ok=True)
        done = subprocess.run(
            [npm, "ci", "--omit=dev", "--ignore-scripts"],
            cwd=home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS_MAX,
        )
        if done.returncode != 0:
            raise Missing(f"Socket.IO: npm ci failed: {done.stderr.strip()[-300:]}")
        (home / "installed").touch()
    shutil.copy(source / "server.js", home)

    def start() -> contextlib.AbstractContextManager[Server]:
        port = free_port()
        return _running("Socket.IO", [node, str(home / "server.js"), str(port)], port, _SOCKET_IO)

    return start
