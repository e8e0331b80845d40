"""Where agents have a place for what they keep between turns.

Neighbours: `compose` enters it around everything that runs turns; `agents.port.Resident` is what an
agent may be.
Invariant: a resident agent has its place before the first turn and after the last one; at the end
every agent has let go of all it had.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import anyio

from dispatch.agents.port import Agent, Resident


@asynccontextmanager
async def residing(agents: Collection[Agent]) -> AsyncIterator[None]:
    """Hold the agents during the block."""
    try:
        async with anyio.create_task_group() as tasks:
            for agent in agents:
                if isinstance(agent, Resident):
                    await tasks.start(agent.reside)
            yield
            tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            for agent in agents:
                await agent.aclose()
