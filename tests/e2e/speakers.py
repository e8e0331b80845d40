"""Agents of the transcripts in protocol/fixtures: each says what is written there, and no more.

Neighbours: `transcripts` serves them. Those that speak at the same time wait for each other, so
that a transcript has one order.
Invariant: what is said depends on the message alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import msgspec

from dispatch.agents.port import TurnRequest
from dispatch.core.events import AgentEvent, TextDelta, ToolCall, ToolResult

NAMES = ("alice", "bob", "broken", "endless", "mute", "handy")

_said: defaultdict[str, anyio.Event] = defaultdict(anyio.Event)


async def alice(request: TurnRequest) -> AsyncIterator[AgentEvent]:
    """Says the message back, word by word."""
    for word in request.message.split():
        yield TextDelta(f"{word} ")
    _said[request.message].set()


async def bob(request: TurnRequest) -> AsyncIterator[AgentEvent]:
    """Says it aloud, once alice has said it."""
    await _said[request.message].wait()
    for word in request.message.split():
        yield TextDelta(f"{word.upper()} ")


async def broken(request: TurnRequest) -> AsyncIterator[AgentEvent]:
    """Breaks in the middle."""
    yield TextDelta("half of ")
    raise RuntimeError("out of words")


async def endless(request: TurnRequest) -> AsyncIterator[AgentEvent]:
    """Begins, and never ends."""
    yield TextDelta("on ")
    await anyio.sleep_forever()


async def mute(request: TurnRequest) -> AsyncIterator[AgentEvent]:
    """Says nothing."""
    for event in ():
        yield event


async def handy(request: TurnRequest) -> AsyncIterator[AgentEvent]:
    """Uses a tool before it says anything."""
    yield ToolCall("call-1", "look", msgspec.Raw(b'{"where":"here"}'), "step-1")
    yield ToolResult("call-1", "look", "nothing", False, step_id="step-1")
    yield TextDelta("nothing there")


def config() -> str:
    """The configuration that serves them."""
    folder = Path(__file__).resolve().parents[2]
    return 'default_agent = "alice"\n' + "".join(
        f'[agents.{name}]\nkind = "python"\ntarget = "tests.e2e.speakers:{name}"\n'
        f'path = "{folder}"\n'
        for name in NAMES
    )
