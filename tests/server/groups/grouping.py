"""What the tests of groups share: members that act as their message says, a daemon, its readers.

A message is plain text, which every member says back, or JSON that gives each member its steps, so
that one message makes members fail, wait and stay silent as a test needs it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel
import httpx
import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from dispatch.agents.port import Agent, AgentInfo, Emit, Respond, TurnRequest
from dispatch.compose import Daemon, running
from dispatch.core.events import (
    ReasoningDelta,
    Request,
    RequestOption,
    TextDelta,
    ToolCall,
    ToolResult,
)
from dispatch.core.identity import LOCAL
from dispatch.runtime.groups.timeline import GroupTimeline
from dispatch.settings import AgentSettings, AuthSettings, Limits, Settings, StorageSettings
from dispatch.storage.port import Store
from tests.protocol.published import saw_frame
from tests.protocol.replies import http_client

GUARD_SECONDS = 10.0
NAMES = ("ann", "bob", "cy", "dee")

Payload = dict[str, Any]


class Told(NamedTuple):
    """One event of a stream: its id, if it has one, and its payload."""

    id: int | None
    data: Payload


class Member:
    """An agent of a group; `gates` are shared by all of them."""

    def __init__(self, name: str, gates: dict[str, anyio.Event]) -> None:
        self.info = AgentInfo(name=name, kind="member")
        self.cwd_roots: tuple[Path, ...] = ()
        self.asked: list[str] = []
        self._gates = gates

    async def run(self, request: TurnRequest, emit: Emit) -> None:
        self.asked.append(request.message)
        for step in self._steps(request.message):
            match step:
                case "!fail":
                    raise RuntimeError("secret-of-the-agent")
                case "!ask":
                    options = (RequestOption("y", "Yes", "allow"),)
                    await emit(Request("r-1", "approval", "May I?", options=options))
                    given = await request.inbox.receive()
                    assert isinstance(given, Respond)
                    await emit(TextDelta(f"told {given.response.option_id}"))
                case "!hang":
                    await anyio.sleep_forever()
                case "!think":
                    await emit(ReasoningDelta("hm"))
                case "!work":
                    await emit(ToolCall("call-1", "dig", msgspec.Raw(b'{"depth":3}')))
                    await emit(ToolResult("call-1", "dig", "a hole", is_error=False))
                case str() if step.startswith("!flood "):
                    for _ in range(int(step.removeprefix("!flood "))):
                        await emit(TextDelta("x" * 30_000))
                case str() if step.startswith("!gate "):
                    await self._gates.setdefault(step.removeprefix("!gate "), anyio.Event()).wait()
                case str():
                    await emit(TextDelta(step))

    def _steps(self, message: str) -> Sequence[str]:
        if not message.startswith("{"):
            return [f"{self.info.name}: ", message]
        steps: Sequence[str] = json.loads(message).get(self.info.name, ["ok"])
        return steps

    async def probe(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


class Band(NamedTuple):
    """A daemon with members, and a client of it."""

    daemon: Daemon
    http: httpx.AsyncClient
    members: dict[str, Member]
    gates: dict[str, anyio.Event]

    async def group(self, *members: str, **fields: Any) -> str:
        """A new group's id."""
        reply = await self.http.post(
            "/api/groups", json={"memberFamiliarIds": list(members), **fields}
        )
        assert reply.status_code == 201, reply.text
        group: str = reply.json()["id"]
        return group

    async def send(self, group: str, text: str, **fields: Any) -> list[Told]:
        """Send, and read the whole answer."""
        reply = await self.http.post(f"/api/groups/{group}/send", json={"text": text, **fields})
        assert reply.status_code == 200, reply.text
        return told(reply.text)

    async def show(self, group: str, query: str = "") -> Payload:
        """The group with its events."""
        reply = await self.http.get(f"/api/groups/{group}{query}")
        assert reply.status_code == 200, reply.text
        shown: Payload = reply.json()
        return shown

    @asynccontextmanager
    async def stream(
        self, group: str, query: str = "", *, headers: dict[str, str] | None = None
    ) -> AsyncIterator[Reader]:
        """Follow a group."""
        url = f"/api/groups/{group}/stream{query}"
        async with self.http.stream("GET", url, headers=headers) as reply:
            assert reply.status_code == 200, await reply.aread()
            yield Reader(reply)

    @asynccontextmanager
    async def sending(self, group: str, text: str, **fields: Any) -> AsyncIterator[Reader]:
        """Send, and read the answer as it comes."""
        url, body = f"/api/groups/{group}/send", {"text": text, **fields}
        async with self.http.stream("POST", url, json=body) as reply:
            assert reply.status_code == 200, await reply.aread()
            yield Reader(reply)

    @asynccontextmanager
    async def socket(self, token: str | None = None) -> AsyncIterator[Socket]:
        """A connection that has been greeted."""
        url = self.daemon.url.replace("http", "ws") + "/ws"
        headers = None if token is None else {"authorization": f"Bearer {token}"}
        async with connect(
            url,
            subprotocols=[Subprotocol("dispatch.v1")],
            additional_headers=headers,
            proxy=None,
            max_size=None,
        ) as connection:
            socket = Socket(connection)
            await socket.until("hello")
            yield socket

    def open_gate(self, name: str) -> None:
        """Let through who waits, now and later."""
        self.gates.setdefault(name, anyio.Event()).set()

    def timeline(self, group: str) -> GroupTimeline:
        """What the daemon holds of a group."""
        verbs = self.daemon.connections.groups
        assert verbs is not None
        found = verbs.timelines.find((LOCAL.account, "group", group))
        assert isinstance(found, GroupTimeline)
        return found


class Reader:
    """An event stream, read as it comes; `events` are the whole ones so far."""

    def __init__(self, reply: httpx.Response) -> None:
        self.reply = reply
        self.events: list[Told] = []
        self._read: list[str] = []
        self._half = ""
        self._parts = reply.aiter_text()

    @property
    def text(self) -> str:
        """Everything so far."""
        return "".join(self._read)

    async def more(self) -> None:
        """Read a piece."""
        self._take(await anext(self._parts))

    def _take(self, part: str) -> None:
        self._read.append(part)
        whole, end, self._half = (self._half + part).rpartition("\n\n")
        self.events += told(whole + end)

    async def until(self, is_it: Callable[[Payload], object]) -> Payload:
        """Read up to the first event that is it, of all there were."""
        looked_at = 0
        with anyio.fail_after(GUARD_SECONDS):
            while True:
                for event in self.events[looked_at:]:
                    if is_it(event.data):
                        return event.data
                looked_at = len(self.events)
                await self.more()

    async def rest(self) -> list[Told]:
        """Read to the end; every event."""
        with anyio.fail_after(GUARD_SECONDS):
            async for part in self._parts:
                self._take(part)
        return self.events


class Socket:
    """A WebSocket of `dispatch.v1`; `frames` is what was read."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.frames: list[Payload] = []
        self._waiting: list[Payload] = []

    async def ask(self, kind: str, **fields: Any) -> None:
        """Send one frame."""
        await self.connection.send(json.dumps({"type": kind, **fields}))

    async def next(self) -> Payload:
        """The next frame."""
        with anyio.fail_after(GUARD_SECONDS):
            frame: Payload = json.loads(await self.connection.recv())
        saw_frame(frame)
        self.frames.append(frame)
        return frame

    async def until(self, kind: str, is_it: Callable[[Payload], object] = bool) -> Payload:
        """Read up to the next frame of a kind that is it."""
        while True:
            frame = await self.next()
            if frame["type"] == kind and is_it(frame):
                return frame

    @property
    def events(self) -> list[Told]:
        """What was told of groups."""
        return [
            Told(frame.get("frameId"), frame["event"])
            for frame in self.frames
            if frame["type"] == "group.event"
        ]


def told(text: str) -> list[Told]:
    """The events of a stream's text, which must be whole."""
    assert text == "" or text.endswith("\n\n")
    found = []
    for block in text.split("\n\n")[:-1]:
        if block.startswith(":"):
            assert block == ": hb"
            continue
        *ids, data = block.split("\n")
        assert data.startswith("data: ")
        assert len(ids) <= 1
        number = int(ids[0].removeprefix("id: ")) if ids else None
        found.append(Told(number, json.loads(data.removeprefix("data: "))))
    return found


def is_group_end(event: Payload) -> bool:
    return event.get("scope") == "group"


def kinds(events: Sequence[Told]) -> list[str]:
    return [event.data["kind"] for event in events]


def rebuilt(events: Sequence[Told], known: Sequence[Payload] = ()) -> list[Payload]:
    """The rows that a device has after it followed a stream, on top of a snapshot."""
    rows: dict[int, Payload] = {row["seq"]: dict(row) for row in known}
    for _, data in events:
        seq = data.get("seq")
        if seq is None:
            continue
        if data["kind"] == "assistant_chunk":
            row = rows.setdefault(seq, {**data, "text": ""})
            row["text"] += data["text"]
        elif data["kind"] in ("user", "done"):
            rows[seq] = dict(data)
    for row in rows.values():
        row.pop("kind", None)
        row.pop("groupId", None)
    return [rows[seq] for seq in sorted(rows)]


def settings(
    data: Path,
    *,
    limits: Limits | None = None,
    auth: AuthSettings | None = None,
    kind: Any = "memory",
) -> Settings:
    return Settings(
        port=0,
        data=data,
        default_agent="ann",
        agents={"ann": AgentSettings(kind="echo", options={})},
        limits=limits or Limits(),
        storage=StorageSettings(kind=kind),
        auth=auth,
    )


@asynccontextmanager
async def playing(
    chosen: Settings, store: Store | None = None, names: Sequence[str] = NAMES
) -> AsyncIterator[Band]:
    """A whole daemon with these members, and a client."""
    gates: dict[str, anyio.Event] = {}
    members = {name: Member(name, gates) for name in names}
    agents: dict[str, Agent] = dict(members)
    async with (
        running(chosen, store=store, agents=agents) as daemon,
        http_client(daemon.url, timeout=GUARD_SECONDS) as http,
    ):
        yield Band(daemon, http, members, gates)


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that has no event of its own."""
    with anyio.fail_after(GUARD_SECONDS):
        while not condition():
            await anyio.lowlevel.checkpoint()
