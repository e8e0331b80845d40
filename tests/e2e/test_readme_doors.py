"""Letting others in as the README has it: tokens, JWT, and a proxy in front, for real."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import pytest
from websockets.asyncio.client import connect

from tests.e2e.checkout import POLL_SECONDS, Checkout
from tests.e2e.commands import GUARD_SECONDS
from tests.e2e.programs import needed
from tests.e2e.readme import PLACE, Block, claim
from tests.e2e.wire import Wire, text
from tests.protocol.replies import http_client

pytestmark = pytest.mark.timeout(480)

DOORS = "Let others in"
TOKENS = claim(DOORS, "toml", "[[auth.tokens]]")
JWT = claim(DOORS, "toml", "[auth.jwt]")
NGINX = claim(DOORS, "nginx", "proxy_pass")
CADDY = claim(DOORS, "caddy", "reverse_proxy")

HOST = "chat.example"
NGINX_PAGE = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr;
{user}
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:{port}; server_name {host};
{block}
    }}
}}
"""


def free_port() -> int:
    """A port that nobody has now; a proxy cannot be asked which one it was given."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def guarded(folder: Path) -> AsyncIterator[tuple[str, str]]:
    """The address of a daemon with the README's `[auth]`, and a token it takes."""
    checkout = Checkout(folder)
    made = json.loads(await checkout.typed("dispatch token --user ada"))
    assert TOKENS.code.count('"…"') == 1
    (folder / "dispatch.toml").write_text(TOKENS.code.replace("…", made["sha256"]))
    async with checkout.serving("./scripts/serve --config dispatch.toml") as url:
        yield url, made["token"]


@contextmanager
def proxy(command: list[str], log: Path, environment: dict[str, str]) -> Iterator[None]:
    """A proxy that logs to a file, ended with the block."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment
        )
    with process:
        try:
            yield
        finally:
            process.terminate()


async def accepts(port: int) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        while True:
            try:
                await (await anyio.connect_tcp("127.0.0.1", port)).aclose()
            except OSError:
                await anyio.sleep(POLL_SECONDS)
            else:
                return


async def serves_devices(port: int, token: str) -> None:
    """A WebSocket and a stream of events through the proxy, as they come and not at the end."""
    headers = {"Authorization": f"Bearer {token}"}
    async with connect(
        # As from outside, where a browser names no port.
        f"ws://{HOST}/ws",
        host="127.0.0.1",
        port=port,
        additional_headers=headers,
        subprotocols=["dispatch.v1"],  # type: ignore[list-item]
        proxy=None,
    ) as socket_:
        wire = Wire(socket_)
        assert (await wire.next())["type"] == "hello"
        await wire.send(type="chat.subscribe", conversationId="door")
        await wire.send(type="chat.send", conversationId="door", message="through the door")
        assert text(await wire.until_event("turn-sealed")) == "through the door"
    async with http_client(f"http://127.0.0.1:{port}", headers=headers | {"Host": HOST}) as http:
        with anyio.fail_after(GUARD_SECONDS):
            async with http.stream("GET", "/v1/chat/events") as stream:
                assert stream.status_code == 200
                assert stream.headers["content-type"].startswith("text/event-stream")
                made = await http.post("/v1/chat", json={"agent_key": "echo"})
                assert made.is_success, made.text
                # It never ends: whoever keeps it back shows nothing at all.
                async for line in stream.aiter_lines():
                    if line.startswith("data:"):
                        break
        session = await http.post("/auth/session")
        assert session.is_success, session.text
        assert "secure" in session.headers["set-cookie"].lower()
        refused = await http.get("/conversations", headers={"Host": "evil.example"})
        # The daemon refuses another name (421); Caddy does not even pass it on.
        assert refused.status_code == 421 or refused.content == b""
        refused = await http.get("/conversations", headers={"Authorization": "Bearer wrong"})
        assert refused.status_code == 401


def for_upstream(block: Block, url: str) -> str:
    assert block.code.count(PLACE) == 1
    return block.at(url)


async def test_nginx_lets_devices_through(tmp_path: Path) -> None:
    nginx, port = needed("nginx"), free_port()
    async with guarded(tmp_path) as (url, token):
        page = tmp_path / "nginx.conf"
        page.write_text(
            NGINX_PAGE.format(
                folder=tmp_path,
                user="user root;" if os.geteuid() == 0 else "",
                port=port,
                host=HOST,
                block=for_upstream(NGINX, url),
            )
        )
        command = [nginx, "-p", str(tmp_path), "-c", str(page)]
        checked = await anyio.run_process([*command, "-t"], check=False)
        assert checked.returncode == 0, checked.stderr.decode()
        with proxy(command, tmp_path / "nginx.log", dict(os.environ)):
            await accepts(port)
            await serves_devices(port, token)


async def test_caddy_lets_devices_through(tmp_path: Path) -> None:
    caddy, port = needed("caddy"), free_port()
    environment = os.environ | {"XDG_DATA_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    async with guarded(tmp_path) as (url, token):
        block = for_upstream(CADDY, url)
        assert block.startswith(f"{HOST} {{")
        page = tmp_path / "Caddyfile"
        # Without certificates, which nobody issues for a test, and on a free port.
        page.write_text(
            f"{{\n    admin off\n    auto_https off\n}}\nhttp://{HOST}:{port}{block[len(HOST) :]}"
        )
        words = ["--config", str(page), "--adapter", "caddyfile"]
        checked = await anyio.run_process([caddy, "validate", *words], check=False, env=environment)
        assert checked.returncode == 0, checked.stderr.decode()
        with proxy([caddy, "run", *words], tmp_path / "caddy.log", environment):
            await accepts(port)
            await serves_devices(port, token)


async def test_tokens_of_an_identity_provider_are_configured(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    (tmp_path / "dispatch.toml").write_text(JWT.code)
    [shown] = (await checkout.typed("dispatch config check --config dispatch.toml")).splitlines()
    assert json.loads(shown)["auth"]["jwt"]["audience"] == "dispatch"


async def test_the_claims_that_are_named_are_the_settings_there_are(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    claims = re.findall(r"`(\w+_claim)`", (checkout.folder / "README.md").read_text("utf-8"))
    assert sorted(claims) == ["account_claim", "rights_claim", "user_claim"]
    more = "".join(f'{name} = "x"\n' for name in claims) + 'account = "local"\n'
    (tmp_path / "dispatch.toml").write_text(JWT.code + more)
    await checkout.typed("dispatch config check --config dispatch.toml")
