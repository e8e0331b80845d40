"""Every route of the native dialect, asked over a socket: its replies are what is published."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest

from dispatch.settings import AuthSettings, AuthToken
from scripts.openapi import refusals_of
from scripts.routes import Operation
from scripts.routes_native import NATIVE_OPERATIONS
from tests.protocol.published import check
from tests.server.acting import GUARD_SECONDS, Stage, lines, settings, staged

IMAGE = {"url": "data:image/png;base64,AA", "mimeType": "image/png"}
FULL_SEND = {
    "conversationId": "c",
    "model": "actor/quick",
    "reasoningEffort": "low",
    "workspaceId": "w",
    "computerId": "here",
    "images": [IMAGE],
    "clientMessageId": "m-1",
    "onBusy": "queue",
}


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(settings(tmp_path)) as stage:
        yield stage


class Walk:
    """Asks, and holds what comes back to what is published of the route."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self.asked: set[tuple[str, str]] = set()

    async def __call__(
        self, method: str, path: str, status: int = 200, body: dict[str, Any] | None = None
    ) -> Any:
        one = operation_of(method, path)
        if body is not None:
            assert one.body is not None
            check(one.body.__name__, body)
        reply = await self._http.request(method, path, json=body)
        assert reply.status_code == status, reply.text
        self.asked.add((one.method, one.path))
        if status >= 400:
            assert status in refusals_of(one)
            check("Refusal", reply.json())
            return reply.json()
        if one.stream is not None:
            assert reply.headers["content-type"].partition(";")[0] == one.media
            return lines(reply.text)
        kind = one.replies[status]
        assert not isinstance(kind, tuple)
        check(kind.__name__, reply.json())
        return reply.json()


def operation_of(method: str, path: str) -> Operation:
    for one in NATIVE_OPERATIONS:
        pattern = re.sub(r"\{[a-z]+\}", "[^/]+", one.path)
        if one.method == method and re.fullmatch(pattern, path.partition("?")[0]):
            return one
    raise AssertionError(f"nothing is published of {method} {path}")


async def test_every_reply_is_as_published(stage: Stage, tmp_path: Path) -> None:
    walk = Walk(stage.http)
    await walk("get", "/conversations")
    said = await walk("post", "/chat", body={"message": "work", **FULL_SEND})
    await _look(walk)
    async with stage.held("held"):
        await walk("get", "/conversations/held/status")
        later = {**FULL_SEND, "conversationId": "held", "clientMessageId": "m-2", "text": "later"}
        queued = await walk("post", "/conversations/held/queue", body=later)
        again = await walk("post", "/conversations/held/queue", body=later)
        assert again["duplicate"] is True
        order = {"messageIds": [queued["queueId"]]}
        await walk("put", "/conversations/held/queue", body=order)
        await walk("delete", f"/conversations/held/queue/{queued['queueId']}")
        await walk("post", "/conversations/held/stop", body={"turnId": "t-other"})
        await walk("post", "/conversations/held/stop")
    started = await walk("post", "/conversations/asked/queue", body={"text": "ask"})
    assert started["startedTurn"] is True
    await _until_asked(stage, "asked")
    answer = {"approved": True, "optionId": "y", "reason": "why not"}
    await walk("post", "/conversations/asked/requests/r-1", body=answer)
    await walk("post", "/conversations/asked/requests/r-1", 409, body=answer)
    await walk("post", "/conversations/c/fork", body={"turnId": said[0]["turnId"]})
    side = {"turnId": said[0]["turnId"], "sideChat": True}
    made = (await walk("post", "/conversations/c/fork", body=side))["conversationId"]
    await walk("get", f"/conversations/{made}/export")
    await walk("post", "/conversations/c/read", body={"upToSeq": 1})
    failed = await walk("post", "/chat", body={"message": "fail", "conversationId": "failed"})
    again = {"turnId": failed[0]["turnId"], "clientMessageId": "r-1"}
    await walk("post", "/conversations/failed/resume", body=again)
    assert (await walk("post", "/conversations/failed/resume", body=again))["duplicate"] is True
    await walk("post", "/conversations/c/resume", 404, body=again)
    cut = {"afterTurn": said[0]["turnId"], "clientMessageId": "cut-1"}
    await walk("post", "/conversations/c/truncate", body=cut)
    assert (await walk("post", "/conversations/c/truncate", body=cut))["duplicate"] is True
    await walk("post", "/conversations/c/truncate", body={"afterTurn": None})
    await walk("post", "/conversations/c/open", body={"workspaceId": "w"})
    stage.actor.cwd_roots = (tmp_path,)
    await _choose(walk, tmp_path)
    await _look(walk)
    await walk("post", "/conversations/c/close")
    await walk("delete", "/conversations/c")
    await walk("get", "/conversations/c", 410)
    await walk("get", "/conversations/never/status", 404)
    await walk("get", "/conversations/no%20id/status", 400)
    await walk("get", "/users/local/export")
    await walk("get", "/users/local/export?account=another", 404)
    await walk("delete", "/users/local?account=local")
    for path in ("/health", "/ready", "/models", "/agents"):
        await walk("get", path)
    await walk("post", "/auth/ticket", 404)
    await walk("post", "/auth/session", 404)
    await walk("delete", "/auth/session")
    published = {(one.method, one.path) for one in NATIVE_OPERATIONS}
    # Counters are for Prometheus: `tests/server/test_http.py` has them.
    assert published - walk.asked == {("get", "/metrics")}


async def _look(walk: Walk) -> None:
    """At everything that can be read of `c`."""
    for query in ("", "?limit=1", "?status=idle,active&search=w&workspaceId=w"):
        await walk("get", f"/conversations{query}")
    for query in ("", "?limit=2", "?sinceSeq=1&beforeSeq=9"):
        await walk("get", f"/conversations/c{query}")
    for part in ("metrics", "status", "last", "export", "lsp", "mcp"):
        await walk("get", f"/conversations/c/{part}")
    for part in ("title", "model", "reasoning-effort", "cwd"):
        await walk("get", f"/conversations/c/{part}")
        await walk("get", f"/conversations/never/{part}")


async def _choose(walk: Walk, folder: Path) -> None:
    """Everything of `c` that can be chosen."""
    await walk("put", "/conversations/c/title", body={"title": "Named"})
    await walk("put", "/conversations/c/model", body={"model": "actor/slow"})
    await walk("put", "/conversations/c/reasoning-effort", body={"reasoningEffort": "max"})
    await walk("put", "/conversations/c/cwd", body={"cwd": str(folder)})
    await walk("get", "/conversations/c/export")
    await walk("delete", "/conversations/c/cwd")


async def _until_asked(stage: Stage, conversation: str) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        while True:
            running = stage.live(conversation).state.running
            if running is not None and running.open_requests:
                return
            await anyio.lowlevel.checkpoint()


async def test_who_signs_in_is_told_as_published(tmp_path: Path) -> None:
    tokens = (AuthToken(user="ann", account="one", sha256=sha256(b"token").hexdigest()),)
    async with staged(settings(tmp_path, auth=AuthSettings(tokens=tokens))) as stage:
        walk = Walk(stage.http)
        await walk("get", "/models", 401)
        stage.http.headers["authorization"] = "Bearer token"
        await walk("post", "/auth/ticket")
        await walk("post", "/auth/session")


async def test_a_reply_that_is_not_published_is_found() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"models": [], "more": 1})

    async with httpx.AsyncClient(
        transport=httpx.MockTransport(answer), base_url="http://daemon"
    ) as http:
        with pytest.raises(AssertionError, match="not as published"):
            await Walk(http)("get", "/models")
