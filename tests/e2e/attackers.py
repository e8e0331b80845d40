"""What attackers bring along: tokens of several people, raw frames, and a bystander's watch.

Neighbours: `test_attacks_*` and `test_failures*` use it; `process` and `wire` are the daemon and
its honest clients. Figures of the daemon's process come from `/proc`.
Invariant: every wait is under a guard, and what is measured is the daemon, not the test.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import socket
import statistics
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
from websockets.asyncio.client import connect

from tests.e2e.process import POLL_SECONDS, DaemonProcess
from tests.e2e.wire import Frame, Wire, v1_wire
from tests.protocol.published import saw_one_of
from tests.protocol.replies import REFUSALS, http_client

GUARD_SECONDS = 20.0
# Between two questions of a bystander: what a person's page does is rarer by far.
BYSTANDER_SECONDS = 0.01

MEBIBYTE = 1024 * 1024


# -- who ------------------------------------------------------------------------------------------


def token(account: str, user: str) -> str:
    """The secret of one person of the tests."""
    return f"secret-of-{account}-{user}-" + "0123456789" * 3


def auth(*people: tuple[str, str, str]) -> str:
    """`[auth]` for (account, user, rights separated by blanks)."""
    lines = ["[auth]"]
    for account, user, rights in people:
        mark = hashlib.sha256(token(account, user).encode()).hexdigest()
        listed = ", ".join(f'"{right}"' for right in rights.split())
        lines += [
            "[[auth.tokens]]",
            f'sha256 = "{mark}"\naccount = "{account}"\nuser = "{user}"\nrights = [{listed}]',
        ]
    return "\n".join(lines) + "\n"


def bearer(account: str, user: str) -> dict[str, str]:
    """The header that says who asks."""
    return {"Authorization": f"Bearer {token(account, user)}"}


def wire_of(url: str, account: str, user: str) -> Any:
    """A `dispatch.v1` connection of a person."""
    return v1_wire(url, additional_headers=bearer(account, user))


@asynccontextmanager
async def old_wire_of(url: str, account: str, user: str) -> AsyncIterator[Wire]:
    """A connection of Part 1 of a person."""
    address = url.replace("http", "ws") + "/ws?heal=0"
    headers = bearer(account, user)
    async with connect(address, additional_headers=headers, max_size=None, max_queue=None) as sock:
        wire = Wire(sock)
        assert (await wire.next())["type"] == "catalog"
        yield wire


def http_of(url: str, account: str = "", user: str = "") -> httpx.AsyncClient:
    """An HTTP client of a person, or of anybody."""
    headers = bearer(account, user) if account else {}
    return http_client(url, headers=headers, timeout=GUARD_SECONDS)


async def pong(wire: Wire) -> list[Frame]:
    """Everything that came before the answer to a ping: proof that the connection is usable."""
    await wire.send(type="ping")
    return (await wire.until(lambda frame: frame["type"] == "pong"))[:-1]


# -- raw sockets ----------------------------------------------------------------------------------


def frame(payload: bytes, opcode: int = 1, *, fin: bool = True, announced: int = -1) -> bytes:
    """One masked frame of a client (a mask of zeros is a mask); `announced` lies about the size."""
    size = len(payload) if announced < 0 else announced
    first = opcode | (0x80 if fin else 0)
    if size < 126:
        head = bytes([first, 0x80 | size])
    elif size < 65536:
        head = bytes([first, 0xFE]) + size.to_bytes(2, "big")
    else:
        head = bytes([first, 0xFF]) + size.to_bytes(8, "big")
    return head + bytes(4) + payload


def raw_socket(url: str, *, receive_bytes: int = 0) -> socket.socket:
    """A TCP connection; with `receive_bytes` its receive window is that small."""
    host, port = re.fullmatch(r"http://([^:]+):(\d+)", url).groups()  # type: ignore[union-attr]
    sock = socket.socket()
    sock.settimeout(GUARD_SECONDS)
    if receive_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    sock.connect((host, int(port)))
    return sock


def raw_websocket(
    url: str, *, dialect: str = "dispatch.v1", receive_bytes: int = 0, headers: str = ""
) -> socket.socket:
    """An upgraded connection on which nothing was read yet."""
    sock = raw_socket(url, receive_bytes=receive_bytes)
    key = base64.b64encode(os.urandom(16)).decode()
    offered = f"Sec-WebSocket-Protocol: {dialect}\r\n" if dialect else ""
    sock.sendall(
        f"GET /ws HTTP/1.1\r\nHost: {url.removeprefix('http://')}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
        f"{offered}{headers}\r\n".encode()
    )
    return sock


def ask_raw(daemon: DaemonProcess, start: bytes, *lines: bytes) -> bytes:
    """A request as it is written, and its whole answer."""
    host = daemon.url.removeprefix("http://").encode()
    head = b"\r\n".join([start, b"Host: " + host, *lines, b"Connection: close", b"", b""])
    with raw_socket(daemon.url) as sock:
        sock.sendall(head)
        answer = b""
        try:
            while part := sock.recv(65536):
                answer += part
        except (ConnectionResetError, TimeoutError):
            pass
    _saw_refusal(answer)
    return answer


def _saw_refusal(answer: bytes) -> None:
    """A whole answer; where it is a refusal, it has to be one as they are published."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if body and b"application/json" in head and head[9:10] in (b"4", b"5"):
        saw_one_of(REFUSALS, json.loads(body))


def read_close(sock: socket.socket) -> int:
    """Read to the end; the code of the close frame, or 0 where the connection was just cut."""
    received = bytearray()
    try:
        while part := sock.recv(65536):
            received += part
    except ConnectionResetError:
        pass
    found = re.search(rb"\x88[\x02-\x7d]([\x03-\x13].)[ -~]*$", bytes(received), re.DOTALL)
    return int.from_bytes(found[1], "big") if found else 0


def send_for(sock: socket.socket, data: Iterable[bytes], seconds: float) -> int:
    """Write until it is all gone, nobody takes it, or the time is over; how many bytes went."""
    sent, end = 0, time.monotonic() + seconds
    for part in data:
        view = memoryview(part)
        while view:
            left = end - time.monotonic()
            if left <= 0:
                return sent
            sock.settimeout(left)
            try:
                count = sock.send(view)
            except (TimeoutError, ConnectionError):
                return sent
            sent += count
            view = view[count:]
    return sent


# -- the daemon's figures -------------------------------------------------------------------------


def resident_mebibytes(daemon: DaemonProcess) -> float:
    """Memory that the daemon's process has now."""
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


def peak_mebibytes(daemon: DaemonProcess) -> float:
    """The most memory that it ever had, since the last `forget_peak`."""
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


def forget_peak(daemon: DaemonProcess) -> float:
    """Begin to measure the peak anew; what it stands at."""
    Path(f"/proc/{daemon.pid}/clear_refs").write_text("5")
    return resident_mebibytes(daemon)


def cpu_seconds(daemon: DaemonProcess) -> float:
    """Time that the daemon's process has computed."""
    fields = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def figures(daemon: DaemonProcess) -> dict[str, float]:
    """What `/metrics` says."""
    async with http_client(daemon.url, timeout=GUARD_SECONDS) as http:
        text = (await http.get("/metrics")).text
    return {m[1]: float(m[2]) for m in re.finditer(r"^dispatch_(\w+) ([\d.e+]+)$", text, re.M)}


def not_json(log: str) -> list[str]:
    """The lines of a log that are not one JSON object each."""
    strange = []
    for line in log.splitlines():
        try:
            fine = isinstance(json.loads(line), dict)
        except ValueError:
            fine = False
        if not fine:
            strange.append(line)
    return strange


class Bystander:
    """Somebody else's latency: the seconds between pings and pongs while an attack goes on."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def worst(self) -> float:
        return max(self.seconds)


@asynccontextmanager
async def bystander(url: str, **options: Any) -> AsyncIterator[Bystander]:
    """Ask over a connection of its own until the block ends."""
    watch = Bystander()

    async def ask(wire: Wire) -> None:
        while True:
            began = time.monotonic()
            await pong(wire)
            watch.seconds.append(time.monotonic() - began)
            await anyio.sleep(BYSTANDER_SECONDS)

    async with v1_wire(url, **options) as wire, anyio.create_task_group() as tasks:
        tasks.start_soon(ask, wire)
        yield watch
        with anyio.fail_after(GUARD_SECONDS):
            while not watch.seconds:
                await anyio.sleep(POLL_SECONDS)
        tasks.cancel_scope.cancel()
