"""The agent processes that are kept between turns: whose they are, and which have to go.

Neighbours: `agent` takes a session for a turn and gives it back; `session` is one; the daemon hosts
`reside`, in whose task group every process has its place.
Invariant: a conversation has one process at a time and one turn at it. Idle processes are no more
than leave room for `processes_max` in all, the one that was idle longest goes first; those at work
are bounded by the turns that may run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup, TaskStatus

from dispatch.agents.acp.records import Owner
from dispatch.agents.acp.session import Session
from dispatch.agents.port import AgentFailure


class Keeper:
    """See the module."""

    def __init__(self, *, idle_seconds: float, processes_max: int) -> None:
        """Keep so many, each for so long after its last turn; 0 keeps none beyond its turn."""
        self._idle_seconds = idle_seconds
        self._processes_max = processes_max
        self._sessions: dict[Owner, Session] = {}
        self._locks: dict[Owner, anyio.Lock] = {}
        self._tasks: TaskGroup | None = None
        self._closing = anyio.Event()

    async def reside(self, *, task_status: TaskStatus[None]) -> None:
        """See `agents.port.Resident`."""
        try:
            async with anyio.create_task_group() as self._tasks:
                task_status.started()
                await self._closing.wait()
        finally:
            self._tasks = None

    async def close(self) -> None:
        """End all of them, and wait for it."""
        self._closing.set()
        sessions = list(self._sessions.values())
        for session in sessions:
            session.leave()
        for session in sessions:
            await session.gone.wait()

    @asynccontextmanager
    async def turn_of(self, owner: Owner) -> AsyncIterator[None]:
        """One turn of a conversation at a time."""
        lock = self._locks.setdefault(owner, anyio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked() and not lock.statistics().tasks_waiting:
                self._locks.pop(owner, None)

    def find(self, owner: Owner) -> Session | None:
        """The conversation's process, perhaps one that is leaving."""
        return self._sessions.get(owner)

    def host(self, owner: Owner, session: Session) -> None:
        """Start a process; the one before it is gone. Raises `AgentFailure`."""
        if self._tasks is None or self._closing.is_set():
            raise AgentFailure(f"{session.name} is shutting down", "unavailable")
        self._make_room(1)
        self._sessions[owner] = session
        self._tasks.start_soon(self._serve, owner, session)

    async def give_back(self, session: Session) -> None:
        """Its turn is over: keep it for the next one, or end it."""
        if self._idle_seconds and not session.is_leaving:
            session.rest(self._idle_seconds)
            self._make_room(0)
            return
        session.leave()
        await session.gone.wait()

    async def _serve(self, owner: Owner, session: Session) -> None:
        try:
            await session.serve()
        finally:
            if self._sessions.get(owner) is session:
                del self._sessions[owner]

    def _make_room(self, places: int) -> None:
        staying = [session for session in self._sessions.values() if not session.is_leaving]
        idle = sorted((s for s in staying if s.is_idle), key=lambda s: s.idle_until_s)
        for session in idle[: max(0, len(staying) + places - self._processes_max)]:
            session.leave()
