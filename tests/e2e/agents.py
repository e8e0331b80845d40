"""Agents in Python for tests of whole daemons: each does one thing that a test needs.

Neighbours: `config` writes the configuration that names them; they run inside the daemon.
Invariant: an agent waits only for what its test gives it through the broker.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import anyio

from dispatch.agents.port import Respond, Steer, TurnRequest
from dispatch.core.events import (
    AgentEvent,
    Request,
    RequestOption,
    Steering,
    TextDelta,
    TokenUsage,
    ToolCall,
    Usage,
)

# How fast a model speaks, made short; nothing is synchronised by it.
PACE_SECONDS = 0.001
# Longer than a stop may take.
RESISTANCE_SECONDS = 1.5


async def counter(request: TurnRequest) -> AsyncIterator[AgentEvent]:
    """Counts, one number a delta, up to the number in the message."""
    for number in range(int(request.message.split()[-1])):
        yield TextDelta(f"{number} ")
        await anyio.sleep(PACE_SECONDS)


async def endless(request: TurnRequest) -> AsyncIterator[AgentEvent]:
    """Counts for ever, a number every two milliseconds."""
    for number in itertools.count():
        yield TextDelta(f"{number} ")
        await anyio.sleep(2 * PACE_SECONDS)


async def silent(request: TurnRequest) -> AsyncIterator[AgentEvent]:
    """Says one word, then nothing, and takes no notice of anything."""
    yield TextDelta("hm")
    await anyio.sleep_forever()


async def stubborn(request: TurnRequest) -> AsyncIterator[AgentEvent]:
    """Opens a tool call and then resists its cancellation for a while."""
    import msgspec

    yield ToolCall("call-1", "dig", msgspec.Raw(b'{"depth":3}'))
    try:
        await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(RESISTANCE_SECONDS)


async def failing(request: TurnRequest) -> AsyncIterator[AgentEvent]:
    """Says something, then fails with words that nobody should see."""
    yield TextDelta("so far")
    raise RuntimeError("secret-in-the-exception")


async def asking(request: TurnRequest) -> AsyncIterator[AgentEvent]:
    """Asks for an approval and says what came back."""
    yield Request(
        "ask-1",
        "approval",
        "May I?",
        options=(RequestOption("yes", "Yes", "allow"), RequestOption("no", "No", "deny")),
    )
    given = await request.inbox.receive()
    assert isinstance(given, Respond)
    yield TextDelta(f"answer: {given.response.option_id}")


async def steered(request: TurnRequest) -> AsyncIterator[AgentEvent]:
    """Waits for one steering text, takes it, and ends."""
    yield TextDelta("waiting;")
    given = await request.inbox.receive()
    assert isinstance(given, Steer)
    yield Steering(given.text)
    yield TextDelta("taken")


async def deaf(request: TurnRequest) -> AsyncIterator[AgentEvent]:
    """Says it takes steering, and ends when a file appears without having taken any."""
    yield TextDelta("not listening")
    while not await anyio.Path(request.message).exists():
        await anyio.sleep(PACE_SECONDS)


async def flood(request: TurnRequest) -> AsyncIterator[AgentEvent]:
    """As many megabytes as the message says, as fast as they are taken."""
    block = "x" * 8192
    for _ in range(int(request.message) * 128):
        yield TextDelta(block)
    yield Usage(TokenUsage(1, 1))


async def remembering(request: TurnRequest) -> AsyncIterator[AgentEvent]:
    """Says how many chunks of history it was given, and the last text."""
    lines = await request.history()
    texts = [getattr(line.chunk, "text", "") for line in lines]
    yield TextDelta(f"{len(lines)}:{texts[-1] if texts else ''}")


async def marking(request: TurnRequest) -> AsyncIterator[AgentEvent]:
    """Appends a line to the file in the message each time it is run."""
    path = Path(request.message.split()[0])
    async with await anyio.open_file(path, "a") as file:
        await file.write("ran\n")
    yield TextDelta("marked")


def config(*names: str, more: str = "") -> str:
    """A configuration with these agents; the first is the default one."""
    tables = [
        f'[agents.{name}]\nkind = "python"\ntarget = "tests.e2e.agents:{name}"\n'
        + f'path = "{Path(__file__).parent.parent.parent}"\n'
        + ("steer = true\n" if name in ("steered", "deaf") else "")
        for name in names
    ]
    return f'default_agent = "{names[0]}"\n{more}\n' + "\n".join(tables)
