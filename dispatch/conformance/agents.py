"""Agents of the transcripts: each says what is written there, and no more.

Neighbours: a daemon serves them by the configuration that `configuration` writes; a server that is
not this daemon has to have others of the same names (`fixtures/README.md` says what each does).
Those that speak at the same time wait for each other, so that a transcript has one order.
Invariant: what is said depends on the message, and on what comes in while the turn runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Final

import anyio
import msgspec

from dispatch.agents.port import Respond, Steer, TurnRequest
from dispatch.core.events import (
    AgentEvent,
    ReasoningDelta,
    Request,
    RequestOption,
    RequestQuestion,
    Steering,
    StepComplete,
    TextDelta,
    TokenUsage,
    ToolCall,
    ToolResult,
    Usage,
)

# By message: as many as there are in the transcripts of groups.
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
    nothing: tuple[AgentEvent, ...] = ()
    for event in nothing:
        yield event


async def handy(request: TurnRequest) -> AsyncIterator[AgentEvent]:
    """Uses a tool before it says anything."""
    yield ToolCall("call-1", "look", msgspec.Raw(b'{"where":"here"}'), "step-1")
    yield ToolResult("call-1", "look", "nothing", False, step_id="step-1")
    yield TextDelta("nothing there")


async def thinker(request: TurnRequest) -> AsyncIterator[AgentEvent]:
    """Thinks, says one word, and counts its tokens."""
    yield ReasoningDelta("well ")
    yield TextDelta("yes")
    yield Usage(TokenUsage(3, 1), "step-1")
    yield StepComplete("step-1")


async def listener(request: TurnRequest) -> AsyncIterator[AgentEvent]:
    """Says that it listens, takes one steering text, says it back, and ends."""
    yield TextDelta("listening ")
    async for given in request.inbox:
        if isinstance(given, Steer):
            yield Steering(given.text)
            yield TextDelta(given.text)
            return


async def asker(request: TurnRequest) -> AsyncIterator[AgentEvent]:
    """Asks for an approval, then for a word, and says what it was told."""
    yield Request(
        "ask-1",
        "approval",
        "May I?",
        options=(RequestOption("yes", "Yes", "allow"), RequestOption("no", "No", "deny")),
    )
    async for given in request.inbox:
        match given:
            case Respond(response) if response.request_id == "ask-1":
                yield TextDelta(f"{response.option_id}, ")
                yield Request(
                    "ask-2",
                    "input",
                    "Which word?",
                    questions=(RequestQuestion("word", "Word", "text", required=True),),
                )
            case Respond(response):
                word = (response.answers or {}).get("word", msgspec.Raw(b'"none"'))
                yield TextDelta(msgspec.json.decode(word, type=str))
                return
            case Steer():
                pass


AGENTS: Final = (alice, bob, broken, endless, mute, handy, thinker, listener, asker)


def configuration() -> str:
    """The TOML that has a daemon serve them."""
    tables = [
        f'[agents.{agent.__name__}]\nkind = "python"\ntarget = "{__name__}:{agent.__name__}"\n'
        # It alone takes steering; a steer to any other has to queue.
        + ("steer = true\n" if agent is listener else "")
        for agent in AGENTS
    ]
    return f'default_agent = "{alice.__name__}"\n\n' + "\n".join(tables)
