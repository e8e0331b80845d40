"""A whole daemon within the test's own process, reached without a socket.

    async with in_memory_client(ScriptedAgent("hello")) as client:
        answer = await ask(client, "hi")

Neighbours: `compose` puts the daemon together, as `dispatch serve` does, on a store in memory;
`client.transport` is the port that `MemoryTransport` is; `lines` carry the bytes of both; `silence`
keeps the log out of the test's output.
Invariant: what runs is the real thing (HTTP, WebSocket, journal, turns), but for sockets and disk.
"""

from __future__ import annotations

import asyncio
import errno
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import copy_context
from pathlib import Path
from typing import Final, TypeVar

import anyio
import anyio.abc

from dispatch.agents.echo import EchoAgent
from dispatch.agents.port import Agent
from dispatch.client import Client, Options
from dispatch.compose import Daemon, running
from dispatch.settings import AgentSettings, AuthSettings, Limits, Settings, StorageSettings
from dispatch.storage.memory import MemoryStore
from dispatch.storage.memory_disk import MemoryDisk
from dispatch.testing.lines import Line
from dispatch.testing.silence import quiet_unless_configured

P = TypeVar("P", bound=asyncio.BaseProtocol)

# A name of the loopback: the daemon judges Host as it always does.
MEMORY_URL: Final = "http://localhost"

# A test that cuts a line should not wait for the next one.
EAGER: Final = Options(backoff_seconds=0.01, backoff_seconds_max=0.05)


class MemoryTransport:
    """Lines to a daemon of this process; while there is none, nobody answers."""

    def __init__(self) -> None:
        """Leads nowhere yet."""
        self._daemon: Daemon | None = None
        self._lines: list[Line] = []
        self._context = copy_context()
        self._killed = asyncio.Event()
        self._ready = asyncio.Event()

    async def open_line(self, factory: Callable[[], P]) -> P:
        """See `client.transport.Transport`."""
        if self._daemon is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody listens")
        client, server = factory(), self._daemon.connection()
        self._lines = [line for line in self._lines if not line.is_over]
        self._lines.append(Line(client, server, self._context))
        return client

    def cut(self) -> int:
        """End every line in the middle, as a network does; how many there were."""
        lines = [line for line in self._lines if not line.is_over]
        for line in lines:
            line.cut()
        return len(lines)

    async def restart(self) -> None:
        """Kill the daemon and return once another one answers, on what the first had committed."""
        self._ready.clear()
        self._killed.set()
        await self._ready.wait()

    async def serve(
        self,
        start: Callable[[], AbstractAsyncContextManager[Daemon]],
        *,
        task_status: anyio.abc.TaskStatus[None],
    ) -> None:
        """Lead to one daemon after the other, until cancelled; started once the first answers."""
        _name_the_loop()
        self._context = copy_context()
        is_first = True
        while True:
            self._killed.clear()
            async with start() as self._daemon:
                self._ready.set()
                if is_first:
                    task_status.started()
                    is_first = False
                try:
                    await self._killed.wait()
                finally:
                    self._daemon = None
                    self.cut()


def _name_the_loop() -> None:
    """In this task and what it begins: outside of tasks anyio asks sniffio, if that is installed,
    which loop it is in. `anyio.run` says so by itself, `asyncio.run` does not.
    """
    sniffio = sys.modules.get("sniffio")
    if sniffio is not None:
        sniffio.current_async_library_cvar.set("asyncio")


@asynccontextmanager
async def in_memory(
    *agents: Agent, limits: Limits | None = None, auth: AuthSettings | None = None
) -> AsyncIterator[MemoryTransport]:
    """Run a daemon with these agents, the first being the default; else one that echoes.

    `auth` as in a configuration: without it every client is the one local user. Of its log only
    warnings and errors are written, unless the test configured structlog.
    """
    named = {agent.info.name: agent for agent in agents or (EchoAgent.from_options("echo", {}),)}
    transport, disk = MemoryTransport(), MemoryDisk()
    with tempfile.TemporaryDirectory(prefix="dispatch-memory-") as folder:
        settings = Settings(
            data=Path(folder),
            agents={name: AgentSettings(kind="memory", options={}) for name in named},
            default_agent=next(iter(named)),
            limits=limits or Limits(),
            storage=StorageSettings(kind="memory"),
            auth=auth,
        )

        def start() -> AbstractAsyncContextManager[Daemon]:
            return running(settings, store=MemoryStore(disk), agents=named, is_bound=False)

        with quiet_unless_configured():
            tasks = anyio.create_task_group()
            await tasks.__aenter__()
            try:
                await tasks.start(transport.serve, start)
                yield transport
            finally:
                tasks.cancel_scope.cancel()
                # Without the body's exception, which would come back wrapped in a group.
                await tasks.__aexit__(None, None, None)


@asynccontextmanager
async def in_memory_client(*agents: Agent, options: Options | None = None) -> AsyncIterator[Client]:
    """A client of a daemon of its own; who wants more of them, or faults, takes `in_memory`."""
    async with (
        in_memory(*agents) as transport,
        Client(MEMORY_URL, options=options or EAGER, transport=transport) as client,
    ):
        yield client
