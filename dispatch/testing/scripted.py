"""An agent that does what a test tells it, step by step, and tells when it has got where.

Neighbours: `agents.port` is what it implements; `harness` runs it.
Invariant: it does nothing that is not in its script.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from dispatch.agents.port import AgentInfo, Emit, TurnRequest
from dispatch.core.events import AgentEvent, TextDelta


class Gate:
    """A place where an agent waits for the test, and the test for the agent."""

    def __init__(self) -> None:
        """Closed, and nobody there."""
        self._reached = asyncio.Event()
        self._open = asyncio.Event()

    def open(self) -> None:
        """Let through whoever waits, now and later."""
        self._open.set()

    async def reached(self) -> None:
        """Return once somebody has come to it."""
        await self._reached.wait()

    async def pass_through(self) -> None:
        """Wait here until it is open."""
        self._reached.set()
        await self._open.wait()


async def _for_ever(_request: TurnRequest, _emit: Emit) -> None:
    await asyncio.Event().wait()


Step: TypeAlias = (
    AgentEvent | str | Gate | BaseException | Callable[[TurnRequest, Emit], Awaitable[None]]
)
"""An event or text to emit, a gate to wait at, an exception to raise, or anything else to do."""

FOR_EVER: Final[Step] = _for_ever
"""Be silent until the turn is stopped."""

Script = Sequence[Step] | Callable[[TurnRequest], Sequence[Step]]


class ScriptedAgent:
    """See the module. `requests` are the turns it was asked to run, `gone` those that are over."""

    def __init__(
        self,
        *steps: Step,
        script: Script | None = None,
        name: str = "scripted",
        steer: bool = False,
        cwd_roots: tuple[Path, ...] = (),
        turns_max: int | None = None,
    ) -> None:
        """Do the same steps for every turn, or those that `script` gives for a request."""
        self._script: Script = steps if script is None else script
        self._info = AgentInfo(name, "scripted", steer=steer, turns_max=turns_max)
        self._cwd_roots = cwd_roots
        self._asked = asyncio.Event()
        self.requests: list[TurnRequest] = []
        self.gone: list[TurnRequest] = []

    @property
    def info(self) -> AgentInfo:
        """See `agents.port.Agent`."""
        return self._info

    @property
    def cwd_roots(self) -> tuple[Path, ...]:
        """See `agents.port.Agent`."""
        return self._cwd_roots

    @property
    def messages(self) -> list[str]:
        """What it was told, turn by turn."""
        return [request.message for request in self.requests]

    async def asked(self, times: int = 1) -> TurnRequest:
        """Return once it was asked so often; that request."""
        while len(self.requests) < times:
            self._asked.clear()
            await self._asked.wait()
        return self.requests[times - 1]

    async def run(self, request: TurnRequest, emit: Emit) -> None:
        """See `agents.port.Agent`."""
        self.requests.append(request)
        self._asked.set()
        script = self._script(request) if callable(self._script) else self._script
        try:
            for step in script:
                await _do(step, request, emit)
        finally:
            self.gone.append(request)

    async def probe(self) -> None:
        """It is always there."""

    async def aclose(self) -> None:
        """Nothing outlives a turn."""


async def _do(step: Step, request: TurnRequest, emit: Emit) -> None:
    if isinstance(step, str):
        await emit(TextDelta(step))
    elif isinstance(step, Gate):
        await step.pass_through()
    elif isinstance(step, BaseException):
        raise step
    elif isinstance(step, AgentEvent):
        await emit(step)
    else:
        await step(request, emit)
