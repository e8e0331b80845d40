"""Attacks 1 to 5, 8, 10 and 16 on the whole daemon: doors, and credentials that end meanwhile.

The edge's own tests try every variant of a head (`tests/server/test_gate.py`, `test_listener.py`);
here it is shown that the daemon which `compose` puts together has that edge in front of everything.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import httpx
import jwt
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from dispatch.compose import Daemon, running
from dispatch.settings import AuthSettings, Settings, load_settings
from tests.e2e.agents import config
from tests.e2e.attackers import (
    GUARD_SECONDS,
    auth,
    bearer,
    http_of,
    pong,
    raw_socket,
    read_close,
    token,
    wire_of,
)
from tests.e2e.conftest import StartDaemon
from tests.e2e.process import POLL_SECONDS, DaemonProcess
from tests.e2e.wire import Wire, old_wire, v1_wire
from tests.protocol.replies import http_client

SECRET = "a-secret-of-the-tests-that-is-long-enough"
JWT = """
[auth.jwt]
algorithm = "HS256"
audience = "dispatch"
issuer = "tests"
secret_env = "TESTS_JWT_SECRET"
leeway_seconds = 0
"""
# A sweep a second, and a busy machine.
CLOSED_SECONDS = 5.0


async def closed_with(wire: Wire) -> int:
    """The code that a connection ends with."""
    with anyio.fail_after(CLOSED_SECONDS + 3):
        # Iterating ends with a close in good order, and raises for any other.
        with suppress(ConnectionClosed):
            async for _ in wire.socket:
                pass
    assert wire.socket.close_code is not None
    return wire.socket.close_code


def signed(seconds: float, **claims: Any) -> dict[str, str]:
    """The header of somebody whose token ends in so many seconds."""
    claims = {"account": "a", "sub": "ann", "aud": "dispatch", "iss": "tests"} | claims
    text = jwt.encode({**claims, "exp": time.time() + seconds}, SECRET, "HS256")
    return {"Authorization": f"Bearer {text}"}


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (403, {"Origin": "http://evil.example"}),
        (403, {"Origin": "null"}),
        (403, {"Origin": "http://localhost.evil"}),
        (403, {"Origin": "http://127.0.0.1.evil:80"}),
        (403, {"Origin": "http://LOCALHOST"}),
        (403, {"Sec-Fetch-Site": "cross-site"}),
        (421, {"Host": "evil.example"}),
        (421, {"Host": "127.0.0.1.evil"}),
    ],
)
async def test_a_foreign_page_reaches_neither_routes_nor_sockets(
    daemon: DaemonProcess, status: int, headers: dict[str, str]
) -> None:
    """1, 2 and 3: before any work is done for it, by the same rule for both."""
    async with http_of(daemon.url) as http:
        for method, path in (("GET", "/health"), ("GET", "/conversations"), ("POST", "/chat")):
            response = await http.request(method, path, headers=headers)
            assert response.status_code == status
            assert "access-control-allow-origin" not in response.headers
        upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
        for path in ("/ws", "/anything"):
            response = await http.get(path, headers=upgrade | key | headers)
            assert response.status_code == status
        assert (await http.get("/conversations")).json() == {"conversations": []}


async def test_loopback_needs_a_credential_too_once_there_are_any(
    start_daemon: StartDaemon,
) -> None:
    """4, and 9: a token in a query string is none."""
    daemon = await start_daemon(config("endless", more=auth(("a", "ann", "watch send"))))
    secret = token("a", "ann")
    async with http_of(daemon.url) as http:
        assert (await http.get("/health")).json() == {"ok": True}
        for path in ("/conversations", "/models", f"/conversations?token={secret}"):
            assert (await http.get(path)).status_code == 401
        assert (await http.post("/chat", json={"message": "hi"})).status_code == 401
    with pytest.raises(InvalidStatus) as refused:
        async with v1_wire(daemon.url, additional_headers={"Authorization": "Bearer wrong"}):
            pass
    assert refused.value.response.status_code == 401
    assert secret not in daemon.log


async def test_who_connects_and_never_says_who_it_is_is_closed_and_told_nothing(
    start_daemon: StartDaemon,
) -> None:
    """8: after `auth_seconds_max` (one second here instead of ten)."""
    more = auth(("a", "ann", "watch send")) + "[limits]\nauth_seconds_max = 1\n"
    daemon = await start_daemon(config("endless", more=more))

    def wait() -> tuple[int, bytes]:
        sock = raw_socket(daemon.url)
        sock.sendall(
            f"GET /ws HTTP/1.1\r\nHost: {daemon.url.removeprefix('http://')}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        with sock:
            head = sock.recv(4096)
            return read_close(sock), head.partition(b"\r\n\r\n")[2]

    with anyio.fail_after(GUARD_SECONDS):
        assert await anyio.to_thread.run_sync(wait) == (4500, b"")


@asynccontextmanager
async def watching(daemon: DaemonProcess, headers: dict[str, str]) -> AsyncIterator[Wire]:
    """A connection that watches an endless turn."""
    async with v1_wire(daemon.url, additional_headers=headers) as wire:
        await wire.send(type="chat.subscribe", conversationId="c")
        await wire.until_event("text-delta")
        yield wire


@pytest.fixture
async def jwt_daemon(start_daemon: StartDaemon, monkeypatch: pytest.MonkeyPatch) -> DaemonProcess:
    """A daemon that takes tokens which end, with an endless turn in `c`."""
    monkeypatch.setenv("TESTS_JWT_SECRET", SECRET)
    daemon = await start_daemon(config("endless", more=JWT))
    async with v1_wire(daemon.url, additional_headers=signed(600)) as wire:
        await wire.send(type="chat.send", conversationId="c", message="go")
        await wire.until_event("text-delta")
    return daemon


async def test_a_token_that_ends_while_it_is_connected_takes_its_connection_along(
    jwt_daemon: DaemonProcess,
) -> None:
    """10 and 16: closed as unauthorized within seconds; whoever else watches goes on."""
    async with (
        watching(jwt_daemon, signed(600)) as stays,
        watching(jwt_daemon, signed(1.5)) as ends,
    ):
        assert await closed_with(ends) == 4500
        assert await pong(stays)


async def test_a_stream_ends_with_the_token_that_asked_for_it(jwt_daemon: DaemonProcess) -> None:
    """10 and 16: over HTTP, where there is nobody to sweep."""
    async with http_client(jwt_daemon.url, headers=signed(1.5)) as http:
        with anyio.fail_after(1.5 + CLOSED_SECONDS):
            async with http.stream("POST", "/chat", json={"message": "go"}) as response:
                assert response.status_code == 200
                with pytest.raises(httpx.RemoteProtocolError):
                    async for _ in response.aiter_bytes():
                        pass


async def test_who_signs_out_is_gone_from_every_connection(start_daemon: StartDaemon) -> None:
    """10: the session's sockets are closed, those of the token it was made of are not."""
    daemon = await start_daemon(config("endless", more=auth(("a", "ann", "watch send"))))
    async with http_of(daemon.url, "a", "ann") as http, wire_of(daemon.url, "a", "ann") as stays:
        cookie = (await http.post("/auth/session")).headers["set-cookie"].partition(";")[0]
        page = {"Cookie": cookie, "Origin": daemon.url}
        async with v1_wire(daemon.url, additional_headers=page) as wire:
            async with http_of(daemon.url) as browser:
                out = await browser.delete("/auth/session", headers=page)
                assert out.status_code == 200
                assert (await browser.get("/conversations", headers=page)).status_code == 401
            assert await closed_with(wire) == 4500
        assert await pong(stays) == []


async def test_a_ticket_opens_one_connection(start_daemon: StartDaemon) -> None:
    """12: whoever replays it, from a log or a history, is refused."""
    daemon = await start_daemon(config("endless", more=auth(("a", "ann", "watch send"))))
    async with http_of(daemon.url, "a", "ann") as http:
        ticket = (await http.post("/auth/ticket")).json()["ticket"]
    async with old_wire(daemon.url, f"?ticket={ticket}") as wire:
        assert await pong(wire) == []
        with pytest.raises(InvalidStatus) as refused:
            async with old_wire(daemon.url, f"?ticket={ticket}"):
                pass
    assert refused.value.response.status_code == 401
    assert ticket not in daemon.log


@asynccontextmanager
async def in_process(settings: Settings) -> AsyncIterator[Daemon]:
    """The daemon in here, for what can only be done from within."""
    async with running(settings) as daemon:
        yield daemon
        await daemon.drain(0)


async def test_a_hang_up_signal_takes_over_the_tokens_as_they_are_written_now(
    start_daemon: StartDaemon,
) -> None:
    """10: and a file that cannot be read, or shuts everybody out, changes nothing."""
    people = (("a", "ann", "watch send"), ("b", "bob", "watch send"))
    daemon = await start_daemon(auth(people[0]))

    async def reload(text: str, event: str) -> None:
        told = daemon.log.count(event)
        daemon.config.write_text(text)
        os.kill(daemon.pid, signal.SIGHUP)
        with anyio.fail_after(CLOSED_SECONDS):
            while daemon.log.count(event) == told:
                await anyio.sleep(POLL_SECONDS)

    async with wire_of(daemon.url, "a", "ann") as ann:
        await reload("port = what", "auth.not_reloaded")
        await reload("", "auth.not_reloaded")
        assert await pong(ann) == []
        await reload(auth(*people), "auth.reloaded")
        async with wire_of(daemon.url, "b", "bob") as bob:
            assert await pong(bob) == []
            assert await pong(ann) == []
            await reload(auth(people[1]), "auth.reloaded")
            assert await closed_with(ann) == 4500
            assert await pong(bob) == []
    assert await daemon.stop() == 0


async def test_a_token_that_is_removed_takes_its_connections_along(tmp_path: Path) -> None:
    """10 and 16: and one that lost a right counts as removed."""
    people = (("a", "ann", "watch send"), ("a", "bea", "watch send"), ("b", "bob", "watch send"))
    fewer = auth(people[0], ("a", "bea", "watch"))

    def settings(text: str) -> Settings:
        path = tmp_path / "dispatch.toml"
        path.write_text(text)
        flags = {"data": tmp_path / "data", "port": 0}
        return load_settings(config=path, flags=flags, environment={})

    async with (
        in_process(settings(auth(*people))) as daemon,
        wire_of(daemon.url, "a", "ann") as ann,
        wire_of(daemon.url, "a", "bea") as bea,
        wire_of(daemon.url, "b", "bob") as bob,
    ):
        left = settings(fewer).auth
        assert isinstance(left, AuthSettings)
        daemon.connections.authenticator.reload(left)
        assert await closed_with(bob) == 4500
        assert await closed_with(bea) == 4500
        assert await pong(ann) == []


async def test_a_users_own_conversation_is_not_the_accounts(start_daemon: StartDaemon) -> None:
    """16: another user of the account gets 403 everywhere and sees it in no list or broadcast.

    Nothing makes such a conversation yet over this dialect: the row is changed between two starts.
    """
    more = auth(("a", "ann", "watch send"), ("a", "bea", "watch send"), ("b", "bob", "watch send"))
    daemon = await start_daemon('[agents.echo]\nkind = "echo"\ndelay_ms = 0\n' + more)
    async with wire_of(daemon.url, "a", "ann") as wire:
        await wire.send(
            type="chat.send", conversationId="own", message="canary", clientMessageId="m"
        )
        turn = (await wire.until_event("turn-sealed"))[-1]["event"]["turnId"]
    assert await daemon.stop() == 0
    with sqlite3.connect(daemon.data / "dispatch.db") as connection:
        connection.execute("UPDATE conversation SET visibility = 'user'")
    connection.close()
    await daemon.start()
    await try_everything_as_another_user(daemon, turn)
    async with http_of(daemon.url, "a", "ann") as http:
        assert "canary" in (await http.get("/conversations/own")).text
        assert "own" in (await http.get("/conversations")).text


async def try_everything_as_another_user(daemon: DaemonProcess, turn: str) -> None:
    one = "/conversations/own"
    async with (
        http_of(daemon.url, "a", "bea") as bea,
        http_of(daemon.url, "b", "bob") as bob,
        http_of(daemon.url, "a", "ann") as ann,
        wire_of(daemon.url, "a", "bea") as wire,
    ):
        await wire.send(type="conversations.watch")
        paths = ("", "/status", "/metrics", "/last", "/export", "/title", "/model", "/lsp")
        for path in paths:
            response = await bea.get(one + path)
            assert (response.status_code, response.json()["code"]) == (403, "forbidden")
        for method, path, body in (
            ("POST", "/stop", {}),
            ("POST", "/close", None),
            ("POST", "/open", None),
            ("POST", "/fork", {"turnId": turn}),
            ("POST", "/resume", {"turnId": turn}),
            ("PUT", "/queue", {"messageIds": [turn]}),
            ("POST", "/truncate", {"afterTurn": None}),
            ("POST", "/read", {"upToSeq": 1}),
            ("POST", "/queue", {"text": "x"}),
            ("PUT", "/title", {"title": "x"}),
            ("DELETE", "", None),
        ):
            response = await bea.request(method, one + path, json=body)
            assert (response.status_code, response.json()["code"]) == (403, "forbidden")
        assert (await bob.get(f"{one}/status")).status_code == 404
        assert (await bea.get("/conversations")).json() == {"conversations": []}
        assert (await bea.get("/conversations?search=canary")).json() == {"conversations": []}
        for frame in (
            {"type": "chat.subscribe"},
            {"type": "chat.send", "message": "x"},
            {"type": "chat.send", "message": "canary", "clientMessageId": "m"},
            {"type": "chat.stop"},
            {"type": "chat.fork", "turnId": turn},
            {"type": "chat.resume", "turnId": turn},
            {"type": "chat.queue.reorder", "messageIds": [turn]},
            {"type": "chat.truncate", "afterTurn": None},
            {"type": "chat.read", "upToSeq": 1},
            {"type": "chat.queue", "text": "x"},
            {"type": "subscribe", "surfaceId": "message-queue"},
        ):
            await wire.send(**frame, conversationId="own")
            (told,) = await pong(wire)
            assert told["code"] == "forbidden", frame
        for method, path in (("PUT", "/title"), ("POST", "/open")):
            assert (await ann.request(method, one + path, json={"title": "new"})).status_code == 200
        assert await pong(wire) == []
        assert bearer("a", "bea") != bearer("a", "ann")
