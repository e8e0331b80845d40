"""Transcripts of protocol/fixtures: what was asked and answered, replayed against a daemon.

A transcript is a claim and steps. A step is a request and either a `reply` or the `frames` of an
event stream, of which the client took so many (all, where `take` is not there). Everything that
differs from run to run has a name in its place: `$group1`, `$session1`, `$task1`, `$message1` (in
the order in which they appear), `$time`, `$id` (of a frame; ids grow), `$cursor`. Names in a
request are what they were bound to; `$last` is the id of the last frame that was taken.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

Object = dict[str, Any]

FIXTURES = Path(__file__).resolve().parents[2] / "protocol" / "fixtures"

_IDS = re.compile(r"(?P<kind>[gctm])-[0-9a-f]+")
_KINDS = {"g": "group", "c": "session", "t": "task", "m": "message"}
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_DURATIONS = {"elapsed_ms", "durationMs", "ttftMs", "decodeMs", "genTotalMs"}


class Replay:
    """One transcript against one daemon."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        # What a name stands for here, and the names of what was seen.
        self._values: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    async def step(self, step: Object) -> Object:
        """The same step as it went here."""
        asked = step["request"]
        request = self._http.build_request(
            asked["method"],
            self._bound(asked["path"]),
            headers={name: self._bound(text) for name, text in asked.get("headers", {}).items()},
            content=self._content(asked.get("body")),
        )
        told = await self._http.send(request, stream=True)
        try:
            if told.headers["content-type"].startswith("text/event-stream"):
                frames = [frame async for frame in self._frames(told, step.get("take"))]
                return {**step, "status": told.status_code, "frames": frames}
            reply = self._plain(json.loads(await told.aread()))
            return {**step, "status": told.status_code, "reply": reply}
        finally:
            await told.aclose()

    async def _frames(self, told: httpx.Response, take: int | None) -> AsyncIterator[Object]:
        last, number, count = 0, None, 0
        async for line in told.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "id":
                number = int(value)
                assert number > last, "ids grow"
                last = number
                self._values["$last"] = value
            elif name == "data":
                frame: Object = {} if number is None else {"id": "$id"}
                yield frame | {"data": self._plain(json.loads(value))}
                number, count = None, count + 1
                if count == take:
                    return

    def _content(self, body: object) -> bytes | None:
        return None if body is None else self._bound(json.dumps(body)).encode()

    def _bound(self, text: str) -> str:
        """A request with what its names stand for."""
        return re.sub(r"\$[a-z]+[0-9]*", lambda name: self._values[name[0]], text)

    def _plain(self, value: Any, field: str = "") -> Any:
        """A reply with names for what differs from run to run."""
        match value:
            case dict():
                return {key: self._plain(inner, key) for key, inner in value.items()}
            case list():
                return [self._plain(inner) for inner in value]
            case int() | float() if field in _DURATIONS:
                return 0
            case int() if field == "cursor":
                self._values["$cursor"] = str(value)
                return "$cursor"
            case int() if field == "id":
                return "$id"
            case str() if _TIME.fullmatch(value):
                return "$time"
            case str():
                return _IDS.sub(lambda found: self._name(found), value)
            case _:
                return value

    def _name(self, found: re.Match[str]) -> str:
        kind = _KINDS[found["kind"]]
        if found[0] not in self._names:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            name = f"${kind}{self._counts[kind]}"
            self._names[found[0]], self._values[name] = name, found[0]
        return self._names[found[0]]


def lanes(frames: list[Object]) -> dict[object, list[Object]]:
    """Frames by who speaks, since members do not wait for each other; text however it was cut."""
    found: dict[object, list[Object]] = {}
    for frame in frames:
        data = frame["data"]
        lane = found.setdefault(data.get("familiarId"), [])
        before = lane[-1]["data"] if lane else {}
        if data.get("kind") == before.get("kind") == "assistant_chunk":
            lane[-1] = {**frame, "data": {**data, "text": before["text"] + data["text"]}}
        else:
            lane.append(frame)
    return found
