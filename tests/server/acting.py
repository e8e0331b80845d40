"""What the tests of the HTTP routes share: an agent that acts as it is told, a daemon, a client.

Everything goes over real sockets; a test holds a turn open by asking the agent to `hold` and lets
it go on by name, so that nothing here depends on time.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel
import httpx
import msgspec

from dispatch.agents.port import Agent, AgentFailure, AgentInfo, Emit, Respond, Steer, TurnRequest
from dispatch.compose import Daemon, running
from dispatch.core.events import (
    ReasoningDelta,
    Request,
    RequestOption,
    Steering,
    StepComplete,
    TextDelta,
    TokenUsage,
    ToolCall,
    ToolOutput,
    ToolResult,
    Usage,
)
from dispatch.core.identity import LOCAL, ConversationId
from dispatch.runtime.clock import Clock
from dispatch.runtime.live import Live
from dispatch.settings import AgentSettings, AuthSettings, Limits, Settings, StorageSettings
from dispatch.storage.port import Store
from tests.protocol.replies import http_client

GUARD_SECONDS = 10.0


class Actor:
    """The first word of a message says what it does; any other message is said back."""

    def __init__(self, name: str, *, models: tuple[str, ...] = (), steer: bool = False) -> None:
        self.info = AgentInfo(name=name, kind="actor", models=models, steer=steer)
        self.cwd_roots: tuple[Path, ...] = ()
        self.on_cancelled: Callable[[], object] = lambda: None
        self._gates: dict[str, anyio.Event] = {}

    def release(self, message: str) -> None:
        """Let the turn of a message that begins with `hold` or `deaf` go on."""
        self._gate(message).set()

    def _gate(self, message: str) -> anyio.Event:
        return self._gates.setdefault(message, anyio.Event())

    async def run(self, request: TurnRequest, emit: Emit) -> None:
        message = request.message
        match message.split()[0]:
            case "hold" | "deaf":
                await emit(TextDelta("so far; "))
                try:
                    await self._gate(message).wait()
                except anyio.get_cancelled_exc_class():
                    self.on_cancelled()
                    raise
                await emit(TextDelta("released"))
            case "work":
                await _work(emit)
            case "ask":
                options = (RequestOption("y", "Yes", "allow"), RequestOption("n", "No", "deny"))
                await emit(Request("r-1", "approval", "May I?", options=options))
                given = await request.inbox.receive()
                assert isinstance(given, Respond)
                await emit(TextDelta(f"told: {given.response.option_id}"))
            case "listen":
                await emit(TextDelta("listening; "))
                given = await request.inbox.receive()
                assert isinstance(given, Steer)
                await emit(Steering(given.text))
                await emit(TextDelta("heard"))
            case "flood":
                for _ in range(int(message.split()[1])):
                    await emit(TextDelta("x" * 8192))
                    await emit(ReasoningDelta("y"))
            case "fail":
                raise RuntimeError("secret-of-the-agent")
            case "stumble":
                await emit(TextDelta("so far; "))
                if request.resumes is None:
                    raise AgentFailure("stumbled")
                await self._gate(message).wait()
            case _:
                await emit(TextDelta(message))

    async def probe(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


async def _work(emit: Emit) -> None:
    await emit(ReasoningDelta("hm"))
    await emit(ToolCall("call-1", "dig", msgspec.Raw(b'{"depth":3}')))
    await emit(Usage(TokenUsage(5, 7, cache_read_tokens=2)))
    await emit(StepComplete(ttft_ms=1.5, decode_ms=2.5, gen_total_ms=4.0))
    await emit(ToolOutput("call-1", "digging", "stdout"))
    await emit(ToolResult("call-1", "dig", "a hole", is_error=False, duration_ms=9.0))
    await emit(TextDelta("dug"))


class Stage(NamedTuple):
    """A running daemon, a client of it, its default agent and the other one."""

    daemon: Daemon
    http: httpx.AsyncClient
    actor: Actor
    plain: Actor

    def live(self, conversation: str) -> Live:
        """What the daemon holds of a conversation."""
        live = self.daemon.conversations.peek(LOCAL, ConversationId(conversation))
        assert live is not None
        return live

    async def say(self, conversation: str, message: str, **fields: Any) -> list[dict[str, Any]]:
        """Run a turn to its end; its events."""
        body = {"conversationId": conversation, "message": message, **fields}
        reply = await self.http.post("/chat", json=body)
        assert reply.status_code == 200, reply.text
        return lines(reply.text)

    async def chunks(self, conversation: str, query: str = "") -> dict[str, Any]:
        reply = await self.http.get(f"/conversations/{conversation}{query}")
        assert reply.status_code == 200, reply.text
        value: dict[str, Any] = reply.json()
        return value

    @asynccontextmanager
    async def held(
        self, conversation: str, message: str = "hold", **fields: Any
    ) -> AsyncIterator[Reading]:
        """A turn that runs and waits; its stream."""
        body = {"conversationId": conversation, "message": message, **fields}
        async with self.http.stream("POST", "/chat", json=body) as reply:
            assert reply.status_code == 200, reply
            reading = Reading(reply)
            await reading.until("text-delta")
            yield reading


class Reading:
    """The events of a stream, as they arrive."""

    def __init__(self, reply: httpx.Response) -> None:
        self.reply = reply
        self.events: list[dict[str, Any]] = []
        self._lines = reply.aiter_lines()

    async def until(self, kind: str) -> dict[str, Any]:
        """Read up to the next event of a kind."""
        with anyio.fail_after(GUARD_SECONDS):
            async for line in self._lines:
                self._take(line)
                if self.events[-1]["type"] == kind:
                    return self.events[-1]
        raise AssertionError(f"the stream ended before {kind}: {types(self.events)}")

    def _take(self, line: str) -> None:
        self.events.append(json.loads(line))

    async def rest(self) -> list[dict[str, Any]]:
        """Read to the end; everything that was read."""
        with anyio.fail_after(GUARD_SECONDS):
            async for line in self._lines:
                self._take(line)
        return self.events


def settings(
    data: Path, *, limits: Limits | None = None, auth: AuthSettings | None = None
) -> Settings:
    return Settings(
        port=0,
        data=data,
        default_agent="actor",
        agents={"actor": AgentSettings(kind="actor", options={})},
        limits=limits or Limits(),
        storage=StorageSettings(kind="memory"),
        auth=auth,
    )


@asynccontextmanager
async def staged(
    chosen: Settings, store: Store | None = None, clock: Clock | None = None
) -> AsyncIterator[Stage]:
    """A whole daemon with an actor, and a client."""
    actor = Actor("actor", models=("quick", "slow"), steer=True)
    plain = Actor("plain")
    agents: dict[str, Agent] = {"plain": plain, "actor": actor}
    async with (
        running(chosen, store=store, agents=agents, clock=clock) as daemon,
        http_client(daemon.url, timeout=GUARD_SECONDS) as http,
    ):
        yield Stage(daemon, http, actor, plain)


def lines(text: str) -> list[dict[str, Any]]:
    """The objects of NDJSON."""
    assert text.endswith("\n")
    return [json.loads(line) for line in text.removesuffix("\n").split("\n")]


def types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


def texts(reply: dict[str, Any]) -> list[str]:
    """What was said, of a page of history."""
    return [chunk["chunk"]["text"] for chunk in reply["chunks"]]
