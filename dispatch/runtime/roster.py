"""The configured agents: how many turns of each run at a time, and how each was found last.

Neighbours: `turns` takes a place before it hands an agent its prompt, `server.routes_service` shows
the roster; `agents.port` is what is on it.
Invariant: places of an agent are given in the order in which turns began, and who waits for one can
be stopped like any other.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import anyio
import msgspec

from dispatch.agents.port import Agent, AgentInfo
from dispatch.runtime.clock import Clock

# A probe may ask a provider over the network: people wait for the answer, and who asks often gets
# the last one.
PROBE_SECONDS_MAX: Final = 5.0
PROBE_FRESH_SECONDS: Final = 10.0


class Standing(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """How an agent is: `problem` says why it cannot run now, `running` and `waiting` count turns of
    this moment, `turns_max` is how many may run at a time.
    """

    name: str
    kind: str
    running: int
    waiting: int
    models: tuple[str, ...] = ()
    steer: bool = False
    is_default: bool = False
    turns_max: int | None = None
    problem: str | None = None


class _Places:
    """Of one agent."""

    __slots__ = ("limit", "running", "waiting")

    def __init__(self, turns_max: int | None) -> None:
        self.limit = None if turns_max is None else anyio.Semaphore(turns_max)
        self.running = 0
        self.waiting = 0


class Roster:
    """See the module."""

    def __init__(self, agents: Mapping[str, Agent], default_agent: str, clock: Clock) -> None:
        """Begin with every place free and nobody probed."""
        self._agents = agents
        self._default_agent = default_agent
        self._clock = clock
        self._places = {name: _Places(agent.info.turns_max) for name, agent in agents.items()}
        self._probing = anyio.Lock()
        self._probed_s: float | None = None

    @asynccontextmanager
    async def place(self, name: str) -> AsyncIterator[None]:
        """Wait for a place of that agent's, and hold it."""
        places = self._places[name]
        if places.limit is not None:
            places.waiting += 1
            try:
                await places.limit.acquire()
            finally:
                places.waiting -= 1
        places.running += 1
        try:
            yield
        finally:
            places.running -= 1
            if places.limit is not None:
                places.limit.release()

    async def standings(self) -> list[Standing]:
        """How all of them are, the default one first; looks again unless that was just done."""
        async with self._probing:
            now = self._clock.monotonic()
            if self._probed_s is None or now - self._probed_s >= PROBE_FRESH_SECONDS:
                with anyio.move_on_after(PROBE_SECONDS_MAX):
                    async with anyio.create_task_group() as tasks:
                        for agent in self._agents.values():
                            tasks.start_soon(agent.probe)
                self._probed_s = now
        names = sorted(self._agents, key=lambda name: name != self._default_agent)
        return [self._standing(name, self._agents[name].info) for name in names]

    def _standing(self, name: str, info: AgentInfo) -> Standing:
        places = self._places[name]
        return Standing(
            name=name,
            kind=info.kind,
            running=places.running,
            waiting=places.waiting,
            models=info.models,
            steer=info.steer,
            is_default=name == self._default_agent,
            turns_max=info.turns_max,
            problem=info.problem,
        )
