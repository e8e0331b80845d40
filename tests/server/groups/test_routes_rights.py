"""Groups and credentials: whose they are, who may do what, and streams that outlive them."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from dispatch.server.call import Call
from dispatch.settings import AuthSettings, AuthToken
from tests.protocol.replies import http_client
from tests.server.groups.grouping import Band, is_group_end, playing, settings, until


def token_of(user: str, account: str, *rights: Any) -> AuthToken:
    sha256 = hashlib.sha256(user.encode()).hexdigest()
    return AuthToken(sha256=sha256, account=account, user=user, rights=rights)


def bearer(user: str) -> dict[str, str]:
    return {"authorization": f"Bearer {user}"}


@pytest.fixture
async def band(tmp_path: Path) -> AsyncIterator[Band]:
    tokens = (
        token_of("ann", "one", "watch", "send"),
        token_of("eve", "two", "watch", "send"),
        token_of("reader", "one", "watch"),
        token_of("writer", "one", "send"),
    )
    async with playing(settings(tmp_path, auth=AuthSettings(tokens=tokens))) as band:
        yield band


async def group_of(band: Band) -> str:
    band.http.headers.update(bearer("ann"))
    return await band.group("ann", "bob")


async def refused(
    band: Band, user: str | None, method: str, path: str, body: str = ""
) -> tuple[int, str]:
    headers = {} if user is None else bearer(user)
    async with http_client(band.daemon.url) as http:
        reply = await http.request(method, path, content=body, headers=headers)
    said = reply.json()
    assert said.keys() == {"ok", "error", "code"}
    assert said["ok"] is False
    return reply.status_code, said["code"]


async def test_without_a_credential_nothing_is_told(band: Band) -> None:
    group = await group_of(band)
    for path in ("/api/groups", f"/api/groups/{group}", "/api/groups/none"):
        assert await refused(band, None, "GET", path) == (401, "unauthorized")
        assert await refused(band, "nobody", "GET", path) == (401, "unauthorized")


async def test_another_accounts_group_is_not_there(band: Band) -> None:
    group = await group_of(band)
    one = f"/api/groups/{group}"
    for method, path, body in (
        ("GET", one, ""),
        ("GET", f"{one}/stream", ""),
        ("POST", f"{one}/send", '{"text":"x"}'),
        ("POST", f"{one}/stop", ""),
        ("PATCH", one, '{"title":"x"}'),
        ("DELETE", one, ""),
        ("POST", f"{one}/read", '{"upToSeq":1}'),
    ):
        assert await refused(band, "eve", method, path, body) == (404, "group_not_found")
    listed = await band.http.get("/api/groups", headers=bearer("eve"))
    assert listed.json() == {"ok": True, "groups": []}
    assert (await band.show(group))["events"] == []


async def test_rights_are_asked_for(band: Band) -> None:
    group = await group_of(band)
    one, forbidden = f"/api/groups/{group}", (403, "forbidden")
    for method, path, body in (
        ("POST", "/api/groups", '{"memberFamiliarIds":["ann"]}'),
        ("POST", f"{one}/send", '{"text":"x"}'),
        ("POST", f"{one}/stop", ""),
        ("PATCH", one, '{"title":"x"}'),
        ("DELETE", one, ""),
    ):
        assert await refused(band, "reader", method, path, body) == forbidden, path
    for method, path, body in (
        ("GET", "/api/groups", ""),
        ("GET", one, ""),
        ("GET", f"{one}/stream", ""),
        ("POST", f"{one}/read", '{"upToSeq":1}'),
    ):
        assert await refused(band, "writer", method, path, body) == forbidden, path
    shown = await band.show(group)
    assert (shown["events"], shown["group"]["title"]) == ([], "ann & bob")


async def test_rights_are_asked_for_on_a_websocket(band: Band) -> None:
    group = await group_of(band)
    async with band.socket("writer") as writer, band.socket("reader") as reader:
        await reader.ask("group.subscribe", groupId=group)
        await reader.until("group.subscribed")
        await writer.ask("group.subscribe", groupId=group)
        assert (await writer.next())["code"] == "forbidden"
        await reader.ask("group.send", groupId=group, text="x")
        assert (await reader.until("group.error"))["code"] == "forbidden"
        await writer.ask("group.send", groupId=group, text="hi")
        assert (await writer.next())["type"] == "group.accepted"
        await reader.until("group.event", lambda frame: is_group_end(frame["event"]))
        await writer.ask("ping")
        assert (await writer.next())["type"] == "pong"
    async with band.socket("eve") as eve:
        await eve.ask("group.send", groupId=group, text="x")
        assert (await eve.next())["code"] == "group_not_found"
    assert (await band.show(group))["lastSeq"] == 3


async def test_people_of_an_account_are_named(band: Band) -> None:
    group = await group_of(band)
    events = await band.send(group, "hi")
    assert events[0].data["userId"] == "ann"
    assert (await band.show(group))["events"][0]["userId"] == "ann"


async def test_a_stream_ends_with_its_credential(
    band: Band, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = await group_of(band)
    async with band.stream(group) as reader:
        await band.send(group, "shown")
        await reader.until(is_group_end)
        shown = reader.text
        with monkeypatch.context() as patched:
            patched.setattr(Call, "is_still_valid", lambda call: False)
            async with band.stream(group, "?cursor=0") as late:
                with pytest.raises(httpx.RemoteProtocolError):
                    await late.rest()
            await band.http.patch(f"/api/groups/{group}", json={"title": "secret"})
            with pytest.raises(httpx.RemoteProtocolError):
                await reader.rest()
    assert reader.text == shown
    assert late.text == ""
    await until(lambda: not band.daemon.connections.streams)


async def test_clients_that_leave_at_once_send_whole_or_not_at_all(tmp_path: Path) -> None:
    async with playing(settings(tmp_path, kind="sqlite")) as band:
        group = await band.group("ann", "bob")
        host, _, port = band.daemon.url.removeprefix("http://").rpartition(":")
        for number in range(30):
            body = json.dumps({"text": f"m{number}", "clientMessageId": f"m{number}"})
            head = (
                f"POST /api/groups/{group}/send HTTP/1.1\r\nHost: localhost\r\n"
                f"Content-Length: {len(body)}\r\n\r\n"
            )
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write((head + body).encode())
            for _ in range(number):
                # However far it has come by now.
                await anyio.lowlevel.checkpoint()
            writer.transport.abort()
        for number in range(30):
            events = await band.send(group, f"m{number}", clientMessageId=f"m{number}")
            assert is_group_end(events[-1].data)
        rows = (await band.show(group))["events"]
        assert [row["seq"] for row in rows] == list(range(1, 91))
        assert sorted(row["text"] for row in rows if row["role"] == "user") == sorted(
            f"m{number}" for number in range(30)
        )
        await until(lambda: not band.daemon.connections.streams)
