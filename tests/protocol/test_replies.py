"""The check of every reply that tests read: that it can fail, and that nobody goes around it."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.protocol.replies import http_client

TESTS = Path(__file__).resolve().parents[1]
# Strangers, who are to know nothing of this tree, and packages of the page's tests.
ELSEWHERE = {"clients", "node_modules"}
IDS = {"conversationId": "c1", "turnId": "t1"}
DELTA = {"type": "text-delta", "delta": "x", **IDS}
SSE, NDJSON = "text/event-stream", "application/x-ndjson"
REFUSED = {"error": "no", "code": "invalid"}

Client = AbstractAsyncContextManager[httpx.AsyncClient]
# Who asks no daemon, or counts the bytes of hundreds of megabytes.
UNWATCHED = {
    "agents/answers.py",
    "e2e/test_attacks_readers.py",
    "protocol/replies.py",
    "server/test_assets.py",
    "server/test_gate.py",
    "server/test_http.py",
    "server/test_replies_published.py",
}
# Those who hand in what they receive, those who talk to no daemon, and those who speak AHP.
RECEIVERS = {
    "client/scripted.py",
    "e2e/test_ahp_attacks.py",
    "e2e/wire.py",
    "server/ahp/peer.py",
    "server/groups/grouping.py",
    "server/test_websocket.py",
}


def told(status: int, *parts: bytes, media: str = "application/json") -> Client:
    """A client of a server that says just this, in these pieces."""

    async def body() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, headers={"content-type": media}, content=body())

    return http_client("http://daemon", transport=httpx.MockTransport(answer))


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    ("method", "path", "status", "value"),
    [
        ("GET", "/models", 200, {"models": ["echo"]}),
        ("GET", "/models", 429, REFUSED),
        ("PUT", "/conversations/c1/title", 408, REFUSED),
        ("GET", "/v1/chat/c1/pending-task", 200, {}),
        ("GET", "/nowhere", 404, REFUSED),
        ("PATCH", "/models", 405, REFUSED),
        ("GET", "/conversations/c1?limit=1", 421, REFUSED),
        ("GET", "/ws", 403, REFUSED),
    ],
)
async def test_a_reply_that_is_published_is_handed_on(
    method: str, path: str, status: int, value: Any
) -> None:
    text = encoded(value)
    async with told(status, text[:3], text[3:]) as http:
        assert (await http.request(method, path)).json() == value


@pytest.mark.parametrize(
    ("method", "path", "status", "value"),
    [
        ("GET", "/models", 200, {"models": ["echo"], "more": 1}),
        ("GET", "/models", 200, {}),
        ("GET", "/models", 201, {"models": ["echo"]}),
        ("GET", "/models", 400, REFUSED),
        ("GET", "/models", 429, {"error": "no"}),
        ("GET", "/v1/chat/c1/pending-task", 200, {"task_id": "t"}),
        ("GET", "/nowhere", 200, {}),
        ("GET", "/nowhere", 404, {"detail": "Not Found"}),
        ("GET", "/metrics", 200, {"turns": 1}),
    ],
)
async def test_a_reply_that_is_not_published_is_found(
    method: str, path: str, status: int, value: Any
) -> None:
    async with told(status, encoded(value)) as http:
        with pytest.raises(AssertionError, match="published"):
            await http.request(method, path)


@pytest.mark.parametrize(
    ("path", "media", "begin"), [("/chat", NDJSON, b""), ("/v1/chat/events", SSE, b"data: ")]
)
async def test_a_frame_of_a_stream_is_checked_before_it_is_read(
    path: str, media: str, begin: bytes
) -> None:
    right = DELTA if media == NDJSON else {"event": "connected", "data": {"cursor": 1}}
    line = begin + encoded(right) + b"\n"
    wrong = begin + encoded({**right, "nowhere": 1}) + b"\n"
    parts = [line + line[:5], line[5:], wrong[:9], wrong[9:]]
    async with (
        told(200, *parts, media=media) as http,
        http.stream("POST" if media == NDJSON else "GET", path) as reply,
    ):
        read = reply.aiter_raw()
        assert [await anext(read) for _ in range(3)] == parts[:3]
        with pytest.raises(AssertionError, match="nowhere"):
            await anext(read)


@pytest.mark.parametrize("media", [NDJSON, SSE, "text/html"])
async def test_a_body_of_another_media_type_is_found(media: str) -> None:
    async with told(200, encoded(DELTA) + b"\n", media=media) as http:
        with pytest.raises(AssertionError, match="published"):
            await http.get("/models")


async def test_a_head_of_a_reply_has_nothing_to_check() -> None:
    async with told(200) as http:
        assert (await http.head("/models")).content == b""


@pytest.mark.parametrize(
    ("words", "allowed"),
    [(r"httpx\.((Async)?Client|get|post|stream)\(", UNWATCHED), (r"\.recv\(\)", RECEIVERS)],
    ids=["HTTP", "WebSocket"],
)
def test_nobody_asks_a_daemon_unwatched(words: str, allowed: set[str]) -> None:
    files = {path.relative_to(TESTS): path for path in TESTS.rglob("*.py")}
    found = {
        name.as_posix()
        for name, path in files.items()
        if ELSEWHERE.isdisjoint(name.parts) and re.search(words, path.read_text("utf-8"))
    }
    assert found == allowed
