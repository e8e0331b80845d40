"""A network that fails: a TCP proxy in front of a daemon, on the loopback.

Neighbours: `test_client_faults` puts a client behind it.
Invariant: what is done to the connections of this moment does not touch those made later, but for
`piece_bytes`, which is the line's.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit

import anyio

Fate = Literal["alive", "deaf", "dead"]


class _Connection:
    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.near, self.far = near, far
        self.fate: Fate = "alive"


class FaultProxy:
    """See the module. `url` is where clients connect."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = parts.hostname, parts.port
        self._connections: list[_Connection] = []
        self.accepted = 0
        self.piece_bytes = 64 * 1024
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    def cut(self) -> None:
        """Reset every connection."""
        for one in self._connections:
            one.near.transport.abort()
            one.far.transport.abort()

    def blackhole(self) -> None:
        """Swallow every byte, in both directions, and end nothing."""
        self._doom("dead")

    def deafen(self) -> None:
        """Swallow what the daemon says; it hears everything."""
        self._doom("deaf")

    def half_open(self) -> None:
        """The daemon's side is gone and the client's is not told, as after a crash of a router."""
        self._doom("dead")
        for one in self._connections:
            one.far.transport.abort()

    def refuse(self) -> None:
        """Reset every connection, and let nobody in again."""
        self._server.close()
        self.cut()

    def _doom(self, fate: Fate) -> None:
        for one in self._connections:
            one.fate = fate

    async def _serve(self, reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        self.accepted += 1
        with suppress(OSError):
            far_reader, far = await asyncio.open_connection(*self._target)
            one = _Connection(near, far)
            self._connections.append(one)
            async with anyio.create_task_group() as pumps:
                pumps.start_soon(self._pump, one, reader, far)
                pumps.start_soon(self._pump, one, far_reader, near)
        near.close()

    async def _pump(
        self, one: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(self.piece_bytes):
                if one.fate == "dead" or (one.fate == "deaf" and writer is one.near):
                    continue
                writer.write(data)
                await writer.drain()
        if one.fate == "alive":
            writer.close()
