"""The client with which tests ask a daemon over HTTP: every reply is held to `openapi.json`.

Neighbours: `published` checks a value against the schema of a name; here is which name, by route,
status and media type. A stream is checked frame by frame, on its way to whoever reads it.
Invariant: a reply that is not published, or not of its route, fails the test that got it.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from functools import cache
from typing import Any

import httpx

from dispatch.server.assets import is_asset
from tests.protocol.published import ROOT, Object, saw_one_of

JSON = "application/json"
# What begins a line of a stream that has a frame.
LINES = {"text/event-stream": b"data: ", "application/x-ndjson": b""}
# Where no route says of which dialect.
REFUSALS = ("Refusal", "GroupRefusal", "ChatRefusal")


def http_client(url: str, **options: Any) -> httpx.AsyncClient:
    """A client of a daemon; a reply that is not as published raises AssertionError."""
    # A proxy of the environment cannot reach this machine's own loopback.
    options.setdefault("trust_env", False)
    return httpx.AsyncClient(base_url=url, event_hooks={"response": [saw_reply]}, **options)


async def saw_reply(reply: httpx.Response) -> None:
    """A reply whose body was not read yet; what is wrong raises AssertionError, here or there."""
    request = reply.request
    if reply.is_success and is_asset(request.url.path):
        # A file of the page is no word of the protocol.
        return
    content = content_of(request.method, request.url.raw_path.decode(), reply.status_code)
    media = reply.headers.get("content-type", "").partition(";")[0]
    # What a proxy says by itself, which may be nothing at all, is its own affair.
    if media == JSON or (media and reply.is_success):
        assert media in content, f"no {media} is published of {request}"
    if media == JSON or media in LINES:
        assert isinstance(reply.stream, httpx.AsyncByteStream)
        reply.stream = _Watched(reply.stream, content[media], LINES.get(media))


def content_of(method: str, target: str, status: int) -> dict[str, tuple[str, ...]]:
    """Of what schemas a body may be, by media type; of a stream, its frames. Raises AssertionError.

    `target` is a path with its query, as it was sent.
    """
    asked = "get" if method == "HEAD" else method.lower()
    operation = _operation(asked, target.partition("?")[0])
    if operation is None:
        assert status >= 400, f"nothing is published of {method} {target}: {status}"
        return {JSON: REFUSALS}
    responses = operation["responses"]
    assert str(status) in responses, f"{status} is not published of {method} {target}"
    return {
        media: _names(one["schema"])
        for media, one in _resolved(responses[str(status)])["content"].items()
    }


def _names(schema: Object) -> tuple[str, ...]:
    options = schema.get("anyOf", [schema.get("x-stream-of", schema)])
    return tuple(one["$ref"].rpartition("/")[2] for one in options if "$ref" in one)


def _resolved(response: Object) -> Object:
    if "$ref" not in response:
        return response
    found: Object = _document()["components"]["responses"][response["$ref"].rpartition("/")[2]]
    return found


def _operation(method: str, path: str) -> Object | None:
    for pattern, operations in _routes():
        if pattern.fullmatch(path) and method in operations:
            found: Object = operations[method]
            return found
    return None


@cache
def _document() -> Object:
    found: Object = json.loads((ROOT / "protocol" / "openapi.json").read_text("utf-8"))
    return found


@cache
def _routes() -> list[tuple[re.Pattern[str], Object]]:
    # A path that is written out beats one with a name in it.
    paths = sorted(_document()["paths"].items(), key=lambda path: path[0].count("{"))
    # A user's name may have slashes in it.
    patterns = [(path.replace("{user}", ".+"), value) for path, value in paths]
    return [(re.compile(re.sub(r"\{[a-z]+\}", "[^/]+", path)), value) for path, value in patterns]


class _Watched(httpx.AsyncByteStream):
    """A body on its way to its reader: a frame is checked when its line is whole, JSON at its end.

    `begin` is what a line with a frame begins with; None is a body that is one object.
    """

    def __init__(
        self, body: httpx.AsyncByteStream, names: tuple[str, ...], begin: bytes | None
    ) -> None:
        self._body = body
        self._names = names
        self._begin = begin
        self._parts: list[bytes] = []

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._body:
            self._parts.append(part)
            if self._begin is not None and b"\n" in part:
                *lines, rest = b"".join(self._parts).split(b"\n")
                self._parts = [rest]
                for line in lines:
                    self._saw_line(line, self._begin)
            yield part
        if self._begin is None and any(self._parts):
            saw_one_of(self._names, json.loads(b"".join(self._parts)))

    def _saw_line(self, line: bytes, begin: bytes) -> None:
        if line and line.startswith(begin):
            saw_one_of(self._names, json.loads(line.removeprefix(begin)))

    async def aclose(self) -> None:
        await self._body.aclose()
