"""What the tests of chat sessions share: a client that reads event streams as they come.

Everything goes over real sockets; the agent is `acting.Actor`, which waits where it is told to.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx

GUARD_SECONDS = 10.0

Object = dict[str, Any]


class Events:
    """The frames of an event stream, as they arrive."""

    def __init__(self, reply: httpx.Response) -> None:
        self.reply = reply
        self.frames: list[Object] = []
        self.ids: list[int | None] = []
        self._lines = reply.aiter_lines()

    async def next(self) -> Object:
        """The next frame."""
        frame_id: int | None = None
        with anyio.fail_after(GUARD_SECONDS):
            async for line in self._lines:
                if line.startswith("id: "):
                    frame_id = int(line[4:])
                elif line.startswith("data: "):
                    frame: Object = json.loads(line[6:])
                    assert frame.get("id") == frame_id
                    self.frames.append(frame)
                    self.ids.append(frame_id)
                    return frame
                else:
                    assert line in ("", ": hb"), line
        raise AssertionError(f"the stream ended: {self.names}")

    async def until(self, event: str, **data: Any) -> Object:
        """Read up to the next frame of a kind whose data has these fields; the frame."""
        while True:
            frame = await self.next()
            if frame["event"] == event and data.items() <= (frame.get("data") or {}).items():
                return frame

    async def until_idle(self) -> list[Object]:
        """Read until the agent has stopped to type; all frames so far."""
        await self.until("chat_typing", by="agent", typing=False)
        return self.frames

    @property
    def names(self) -> list[str]:
        """What the frames are about, shortly."""
        return [shortly(frame) for frame in self.frames]


def shortly(frame: Object) -> str:
    """A frame in a few words."""
    name: str = frame["event"].removeprefix("chat_")
    data = frame.get("data") or {}
    if name == "typing":
        return f"typing {str(data['typing']).lower()}"
    if name == "message":
        said = data["content"] if data["status"] == "complete" else data["status"]
        return f"{data['role']}: {said}"
    return name


class Person:
    """One user with any number of devices."""

    def __init__(self, http: httpx.AsyncClient, headers: dict[str, str] | None = None) -> None:
        self.http = http
        self.headers = headers or {}

    async def ask(
        self, method: str, path: str, body: Object | None = None, *, status: int = 200
    ) -> Object:
        """A request to `/v1/chat…` that is answered so."""
        reply = await self.http.request(method, f"/v1/chat{path}", json=body, headers=self.headers)
        assert reply.status_code == status, reply.text
        assert reply.headers["content-type"] == "application/json"
        value: Object = reply.json()
        return value

    async def refused(self, method: str, path: str, body: Object | None = None) -> tuple[int, str]:
        """A request that is refused: the status and the code."""
        reply = await self.http.request(method, f"/v1/chat{path}", json=body, headers=self.headers)
        value = reply.json()
        assert reply.is_error, value
        assert isinstance(value["error"], str)
        return reply.status_code, value["code"]

    async def create(self, agent: str = "actor", **fields: Any) -> str:
        """A new session; its id."""
        session = await self.ask("POST", "", {"agent_key": agent, **fields}, status=201)
        assert isinstance(session["id"], str)
        return session["id"]

    async def send(self, session: str, content: str, query: str = "", **fields: Any) -> Object:
        """A new message."""
        body = {"content": content, **fields}
        return await self.ask("POST", f"/{session}/messages{query}", body, status=201)

    async def say(self, session: str, content: str) -> Object:
        """A message and its answer; the answer's row."""
        reply = await self.send(session, content, "?wait=10")
        assert reply["response"] is not None
        response: Object = reply["response"]
        return response

    async def detail(self, session: str, query: str = "") -> Object:
        """The session as it is now."""
        return await self.ask("GET", f"/{session}{query}")

    async def listed(self, query: str = "") -> Object:
        """The list."""
        return await self.ask("GET", query)

    async def in_list(self, session: str, query: str = "") -> Object:
        """A session as the list has it."""
        (found,) = [s for s in (await self.listed(query))["sessions"] if s["id"] == session]
        assert isinstance(found, dict)
        return found

    async def contents(self, session: str) -> list[tuple[str, str]]:
        """Who said what."""
        return [(m["role"], m["content"]) for m in (await self.detail(session))["messages"]]

    @asynccontextmanager
    async def events(
        self, path: str = "/events", last_event_id: object = None
    ) -> AsyncIterator[Events]:
        """A stream, after its first frame."""
        headers = dict(self.headers)
        if last_event_id is not None:
            headers["last-event-id"] = str(last_event_id)
        async with self.http.stream("GET", f"/v1/chat{path}", headers=headers) as reply:
            assert reply.status_code == 200, await reply.aread()
            events = Events(reply)
            assert (await events.next())["event"] == "connected"
            yield events

    async def history(self, after: int = 0, until: str = "chat_typing") -> list[Object]:
        """Everything that the log has behind an id, as a new device is shown it."""
        cursor = (await self.listed("?status=all"))["cursor"]
        found: list[Object] = []
        if cursor <= after:
            return found
        async with self.events(last_event_id=after) as events:
            while not found or found[-1]["id"] < cursor:
                found.append(await events.next())
        return found
