"""Attacks 18 and 20 to 23: frames and bodies that are too large, too many, or not what they seem.

All on the default limits. What a parser makes of each malformed frame is held against the RFC in
`tests/server/test_websocket.py`; here the daemon's memory, its time and its other clients count.
"""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from itertools import repeat
from typing import Any, Final

import anyio
import httpx
import pytest

from tests.e2e.attackers import (
    GUARD_SECONDS,
    MEBIBYTE,
    bystander,
    cpu_seconds,
    forget_peak,
    frame,
    http_of,
    peak_mebibytes,
    pong,
    raw_socket,
    raw_websocket,
    read_close,
    send_for,
)
from tests.e2e.conftest import FAST_ECHO
from tests.e2e.process import DaemonProcess
from tests.e2e.wire import old_wire, v1_wire
from tests.protocol.replies import http_client

TOO_BIG, POLICY = 1009, 4502


@pytest.fixture(scope="module")
async def daemon(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DaemonProcess]:
    """One for all of these: what an attack leaves behind, the next one meets."""
    process = DaemonProcess(tmp_path_factory.mktemp("daemon"), FAST_ECHO)
    await process.start()
    try:
        yield process
    finally:
        await process.end()


async def attack(daemon: DaemonProcess, work: Callable[[socket.socket], int]) -> int:
    """Do something on a raw connection; the close code, or whatever it returns."""

    def run() -> int:
        with raw_websocket(daemon.url) as sock:
            return work(sock)

    with anyio.fail_after(GUARD_SECONDS):
        return await anyio.to_thread.run_sync(run)


def oversized() -> dict[str, list[bytes]]:
    """Messages over a mebibyte, told of in advance and not."""
    part = b"x" * 65536
    return {
        "one frame": [frame(b"x" * (MEBIBYTE + 1))],
        "a terabyte announced": [frame(b"", announced=2**40)],
        "the largest size there is": [frame(b"", announced=2**63 - 1)],
        "fragments": [frame(part, fin=False), *[frame(part, 0, fin=False)] * 64],
        "a hundred mebibytes announced": [frame(b"", announced=100 * MEBIBYTE), part],
    }


@pytest.mark.parametrize("name", oversized())
async def test_an_oversized_message_is_closed_as_too_big_and_never_held(
    daemon: DaemonProcess, name: str
) -> None:
    """18: twenty connections at it leave the memory where it was."""
    before = forget_peak(daemon)

    def send(sock: socket.socket) -> int:
        send_for(sock, oversized()[name], 5)
        return read_close(sock)

    codes = []
    async with anyio.create_task_group() as tasks:

        async def one() -> None:
            codes.append(await attack(daemon, send))

        for _ in range(20):
            tasks.start_soon(one)
    assert codes == [TOO_BIG] * 20
    assert peak_mebibytes(daemon) - before < 60
    async with v1_wire(daemon.url) as wire:
        assert await pong(wire) == []


@pytest.mark.parametrize("payload", [b"", b"x"])
async def test_ten_thousand_tiny_fragments_are_closed_as_too_big(
    daemon: DaemonProcess, payload: bytes
) -> None:
    """20: long before they are all read."""

    def send(sock: socket.socket) -> int:
        fragments = [frame(payload, fin=False), *repeat(frame(payload, 0, fin=False), 10_000)]
        send_for(sock, [b"".join(fragments)], 5)
        return read_close(sock)

    before, spent = forget_peak(daemon), cpu_seconds(daemon)
    assert await attack(daemon, send) == TOO_BIG
    assert peak_mebibytes(daemon) - before < 20
    assert cpu_seconds(daemon) - spent < 0.5


DEEP: Final = 10_000
HOSTILE: Final = {
    "deep lists": b'{"type":"ping","x":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep objects": b'{"type":"ping","x":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}",
    "deep and unfinished": b"[" * DEEP,
    "deeper than allowed": b'{"type":"ping","x":' + b"[" * 64 + b"]" * 64 + b"}",
    "a number beyond all": b'{"type":"chat.read","conversationId":"c","upToSeq":1e400}',
    "not a number": b'{"type":"chat.read","conversationId":"c","upToSeq":NaN}',
    "infinity": b'{"type":"chat.read","conversationId":"c","upToSeq":-Infinity}',
    "an integer of a megabyte": b'{"type":"ping","x":' + b"9" * 1_000_000 + b"}",
    "an integer of 4,000 digits": b'{"type":"chat.read","conversationId":"c","upToSeq":'
    + b"9" * 4_000
    + b"}",
    "a negative seq": b'{"type":"chat.read","conversationId":"c","upToSeq":-1}',
    "a seq of 64 bits": b'{"type":"chat.read","conversationId":"c","upToSeq":9223372036854775808}',
    "a lone surrogate": b'{"type":"chat.send","message":"\\ud800"}',
    "a lone surrogate in a key": b'{"type":"ping","\\udfff":1}',
    "a surrogate in UTF-8": b'{"type":"chat.send","message":"\xed\xa0\x80"}',
    "a type that is a list": b'{"type":["chat.send"]}',
    "a type that is an object": b'{"type":{"type":"ping"}}',
    "a prototype instead of fields": b'{"__proto__":{"type":"ping"},"constructor":{}}',
    "a prototype as the type": b'{"type":"__proto__"}',
    "an effort that is a huge number": b'{"type":"chat.send","message":"x","reasoningEffort":'
    + b"9" * 4_000
    + b"}",
    "images that are numbers": b'{"type":"chat.send","message":"x","images":[1,null]}',
    "a mark of the byte order": b'\xef\xbb\xbf{"type":"ping"}',
    "two objects": b'{"type":"ping"}{"type":"ping"}',
    "a comment": b'{"type":"ping"/**/}',
    "nothing": b"",
    "blanks": b" " * 100_000,
    "a string": b'"ping"',
    "null": b"null",
    "a byte of zero": b"\0",
    "a megabyte of lists": b'{"type":"ping","x":[' + b"[]," * 340_000 + b"[]]}",
    "a megabyte of nested lists": b'{"type":"ping","x":['
    + (b"[" * 60 + b"]" * 60 + b",") * 8_000
    + b"[]]}",
    "a megabyte of objects": b'{"type":"ping","x":[' + b'{"a":1},' * 130_000 + b"{}]}",
    "a megabyte of brackets in a text that does not end": b'{"type":"ping","x":"'
    + rb"\"[" * 340_000,
}
# Legal, if strange: answered as if the strange part were not there.
HARMLESS: Final = {
    "twice the same key": b'{"type":"chat.send","type":"ping"}',
    "a prototype beside the fields": b'{"type":"ping","__proto__":{"isAdmin":true}}',
    "ten thousand lists": b'{"type":"ping","x":[' + b"[]," * 9_990 + b"[]]}",
    "a megabyte of numbers": b'{"type":"ping","x":[' + b"1," * 500_000 + b"1]}",
    "a megabyte of texts": b'{"type":"ping","x":[' + b'"[",' * 250_000 + b'""]}',
    "a megabyte of brackets in a text": b'{"type":"ping","x":"' + b"[{" * 500_000 + b'"}',
    "a megabyte of keys": b'{"type":"ping",'
    + b",".join(b'"%x":1' % n for n in range(90_000))
    + b"}",
    "a megabyte of escapes": b'{"type":"ping","x":"' + rb"\u0041" * 170_000 + b'"}',
}
# Of the daemon's time, for the largest frame there may be, on a machine that is busy.
FRAME_CPU_SECONDS: Final = 0.12
ROUNDS: Final = 5


@pytest.mark.parametrize("dialect", [v1_wire, old_wire])
async def test_hostile_json_in_a_frame_is_a_typed_error_on_a_usable_connection(
    daemon: DaemonProcess, dialect: Any
) -> None:
    """22: with its code on `dispatch.v1`, and no conversation, turn or log line comes of it."""
    logged = daemon.log
    async with dialect(daemon.url) as wire:
        for name, payload in HOSTILE.items():
            if b"\xed\xa0" in payload:
                # Not UTF-8, so no text frame either: closed, as RFC 6455 has it.
                continue
            await wire.socket.send(payload, text=True)
            (told,) = await pong(wire)
            assert told["type"] in ("error", "chat.error"), name
            assert told["message"], name
            if dialect is v1_wire:
                assert told["code"] in ("invalid", "unknown_type"), name
        for name, payload in HARMLESS.items():
            await wire.socket.send(payload, text=True)
            assert (await wire.next())["type"] == "pong", name
    async with http_of(daemon.url) as http:
        assert (await http.get("/conversations")).json() == {"conversations": []}
    assert daemon.log == logged


@pytest.mark.parametrize(
    "ref", [b"9" * 30, b"9" * 4_000, b"1.5", b"[]", b"true", b'"' + b"r" * 1_000_000 + b'"']
)
async def test_a_hostile_ref_is_echoed_or_left_out_and_harms_nothing(
    daemon: DaemonProcess, ref: bytes
) -> None:
    """22: what is echoed is the one thing of a bad frame that comes back."""
    async with v1_wire(daemon.url) as wire:
        for fields in (
            b'"type":"chat.send","message":""',
            b'"type":"chat.stop","conversationId":"c"',
            b'"type":"chat.subscribe","conversationId":"c","after":"x"',
        ):
            await wire.socket.send(b'{%b,"ref":%b}' % (fields, ref), text=True)
            (told,) = await pong(wire)
            assert told["type"] in ("chat.error", "chat.stopped")
            assert len(json.dumps(told)) < 1_000


@pytest.mark.parametrize(
    "name", [name for name, data in (HOSTILE | HARMLESS).items() if len(data) > 5_000]
)
async def test_no_frame_costs_more_than_a_moment_of_the_daemons_time(
    daemon: DaemonProcess, name: str
) -> None:
    """22: also the ones that are legal and a mebibyte of nothing else than structure."""
    payload = (HOSTILE | HARMLESS)[name]
    async with v1_wire(daemon.url) as wire:
        await pong(wire)
        before = cpu_seconds(daemon)
        for _ in range(ROUNDS):
            await wire.socket.send(payload, text=True)
            await wire.next()
        assert (cpu_seconds(daemon) - before) / ROUNDS < FRAME_CPU_SECONDS


BODIES: Final = (
    ("POST", "/chat"),
    ("POST", "/conversations/c/queue"),
    ("POST", "/conversations/c/read"),
    ("POST", "/conversations/c/fork"),
    ("POST", "/conversations/c/resume"),
    ("PUT", "/conversations/c/queue"),
    ("POST", "/conversations/c/truncate"),
    ("POST", "/conversations/c/stop"),
    ("POST", "/conversations/c/open"),
    ("POST", "/conversations/c/requests/r"),
    ("PUT", "/conversations/c/title"),
    ("PUT", "/conversations/c/model"),
    ("PUT", "/conversations/c/cwd"),
    ("PUT", "/conversations/c/reasoning-effort"),
)


@pytest.mark.parametrize(("method", "path"), BODIES)
async def test_hostile_json_in_a_body_is_a_typed_error(
    daemon: DaemonProcess, method: str, path: str
) -> None:
    """22: on every route that reads one, and nothing is made by it."""
    logged, named = daemon.log, "9" * 4_000
    fields = (
        '{"message":%s,"text":%s,"title":%s,"model":%s,"cwd":%s,"reasoningEffort":%s,"upToSeq":%s,'
        '"turnId":%s,"workspaceId":%s,"approved":%s}'
    ) % ((named,) * 10)
    bodies = [*HOSTILE.values(), fields.encode(), fields.replace(named, "1e400").encode()]
    async with http_of(daemon.url) as http:
        for body in bodies:
            response = await http.request(method, path, content=body)
            # Where no field is needed, what is strange about the others is nobody's business.
            allowed = {"/stop": (200, None), "/open": (200, None), "/r": (409, "closed")}
            answer = (response.status_code, response.json().get("code"))
            assert answer in ((400, "invalid"), allowed.get(path[path.rindex("/") :])), body[:80]
            assert len(response.content) < 1_000
        response = await http.request(method, path, content=b"[" * 2 * MEBIBYTE)
        assert (response.status_code, response.json()["code"]) == (413, "too_large")
    assert daemon.log == logged


@pytest.mark.parametrize("kind", ["application pings", "protocol pings", "bad frames"])
async def test_a_flood_of_tiny_frames_is_closed_and_nobody_else_waits(
    daemon: DaemonProcess, kind: str
) -> None:
    """23: ten of them at once, each over the published rate."""
    block = {
        "application pings": frame(b'{"type":"ping"}'),
        "protocol pings": frame(b"", 9),
        "bad frames": frame(b"{"),
    }[kind] * 1_000

    def flood(sock: socket.socket) -> int:
        send_for(sock, repeat(block, 300), 5)
        return read_close(sock)

    codes: list[int] = []

    async def one() -> None:
        codes.append(await attack(daemon, flood))

    before = forget_peak(daemon)
    async with bystander(daemon.url) as watch, anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(one)
    # Who did not read the close frame in time was cut.
    assert set(codes) <= {POLICY, 0}
    assert POLICY in codes
    assert watch.median < 0.1
    assert watch.worst < 1.0
    assert peak_mebibytes(daemon) - before < 60


async def test_a_client_at_the_permitted_rate_goes_on(daemon: DaemonProcess) -> None:
    """23: the limit is for floods: a burst of 3,000 frames is none."""
    async with v1_wire(daemon.url) as wire:
        for _ in range(3_000):
            await wire.socket.send('{"type":"ping"}', text=True)
        for _ in range(3_000):
            assert (await wire.next())["type"] == "pong"


async def test_requests_in_a_row_that_nobody_waits_for_are_not_all_held(
    daemon: DaemonProcess,
) -> None:
    """23 over HTTP: thousands of pipelined requests on each of forty connections."""
    host = daemon.url.removeprefix("http://")
    one = f"GET /conversations HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    before = forget_peak(daemon)
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(raw_socket(daemon.url, receive_bytes=4096)) for _ in range(40)
        ]
        async with bystander(daemon.url) as watch, anyio.create_task_group() as tasks:
            for sock in sockets:
                tasks.start_soon(anyio.to_thread.run_sync, send_for, sock, [one * 8_000], 2)
    assert watch.worst < 1.0
    assert peak_mebibytes(daemon) - before < 60


async def test_a_request_of_ten_megabytes_is_refused_by_its_length(daemon: DaemonProcess) -> None:
    """18 over HTTP: before it is read, and also where its length is not told."""

    async def endless() -> object:
        for _ in range(160):
            yield b"x" * 65536

    async with http_client(daemon.url, timeout=GUARD_SECONDS) as http:
        for content in (b"x" * (10 * MEBIBYTE), endless()):
            try:
                response = await http.post("/chat", content=content)  # type: ignore[arg-type]
            except (httpx.WriteError, httpx.ReadError):
                # Cut while it was still sending: refused just the same.
                continue
            assert (response.status_code, response.json()["code"]) == (413, "too_large")
