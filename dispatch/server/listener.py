"""The one port: sockets, the HTTP protocol on them, and the steps of shutting down.

Neighbours: `http1` is the protocol of every accepted connection until it upgrades; `compose` enters
a `Listener` last and leaves it first. Signals are not its business, unlike uvicorn's own server,
which would raise them again after a clean shutdown.
Invariant: `url` exists only while connections are accepted, and after `close` nothing of any
connection is left.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence
from typing import Final, Self

import anyio
import msgspec
from anyio.abc import TaskGroup

from dispatch.errors import CloseCode, ConfigError
from dispatch.server.edge import Edge, Welcome
from dispatch.server.gate import WILDCARD_HOSTS, ASGIApp, Doorkeeper
from dispatch.server.handshake import Handshake
from dispatch.server.http1 import Http1
from dispatch.server.offers import choose_dispatch
from dispatch.server.websocket import Receiver
from dispatch.settings import Settings

__all__ = ["Handshake", "Listener", "ListenerStatistics"]

# Connections the kernel completes while the loop is busy: a daemon that restarts under ten
# thousand clients should not turn them away.
BACKLOG: Final = 2048
# Of those, taken at one turn of the loop: more would be a pause for everybody else.
ACCEPTS_PER_TURN: Final = 64
# The kernel's own default grows to megabytes for each reader that does not read.
SEND_BUFFER_BYTES: Final = 256 * 1024
# With port 0: how often the number that is free for IPv4 may be taken for IPv6.
BIND_TRIES: Final = 5
# What aborted connections and cancelled requests get to unwind.
CLOSE_SECONDS: Final = 2.0
# Where nothing is bound only this process can connect, and so the loopback's names are ours.
UNBOUND_ADDRESS: Final = "127.0.0.1"


class ListenerStatistics(msgspec.Struct, frozen=True):
    """What is connected at this moment."""

    http: int
    websockets: int
    unauthenticated: int
    heads_waiting: int
    refused: int


class Listener:
    """Accepts from `__aenter__` on; leaving it shuts down in the three steps, without patience."""

    def __init__(
        self,
        settings: Settings,
        app: ASGIApp,
        keeper: Doorkeeper,
        accept: Callable[[Handshake], Receiver],
        *,
        choose: Callable[[str, Sequence[str]], str | None] = choose_dispatch,
        is_bound: bool = True,
    ) -> None:
        """`accept` makes the receiver of an admitted upgrade, or raises its refusal.

        `choose(path, dialects)` picks the subprotocol out of those offered, or raises.
        Without `is_bound` there is no port: connections come by `connection` alone.
        """
        self._is_bound = is_bound
        self._settings = settings
        self._app = app
        self._keeper = keeper
        self._welcome = Welcome(accept, choose)
        self._servers: list[asyncio.Server] = []
        self._edge: Edge | None = None
        self._is_closing = False
        self._tasks: TaskGroup | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """Where a client on this machine connects to."""
        host = self._settings.host
        if host in WILDCARD_HOSTS:
            host = "::1" if host == "::" else "127.0.0.1"
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def statistics(self) -> ListenerStatistics:
        """Counted now; zeros before and after."""
        edge = self._edge
        if edge is None:
            return ListenerStatistics(0, 0, 0, 0, 0)
        return ListenerStatistics(
            http=len(edge.state.connections),
            websockets=len(edge.sockets.open),
            unauthenticated=len(edge.sockets.unauthenticated),
            heads_waiting=len(edge.heads),
            refused=edge.refused,
        )

    async def __aenter__(self) -> Self:
        """Bind, then accept; raises `ConfigError` for an address that cannot be had."""
        settings = self._settings
        loop = asyncio.get_running_loop()
        tasks = anyio.create_task_group()
        # What may refuse the settings comes before anything is held.
        edge = Edge(settings, self._app, self._keeper, self._welcome, tasks)
        bound = await _bind(loop, settings.host, settings.port) if self._is_bound else []
        self._tasks = await tasks.__aenter__()
        self._edge = edge
        self.port = bound[0].getsockname()[1] if bound else 0
        addresses = [one.getsockname()[0] for one in bound] or [UNBOUND_ADDRESS]
        self._keeper.listening(addresses, self.port)
        for one in bound:
            # asyncio takes as many connections at a time as it is told the backlog is, and tells
            # the kernel the same.
            server = await loop.create_server(
                lambda: Http1(edge), sock=one, backlog=ACCEPTS_PER_TURN
            )
            self._servers.append(server)
            one.listen(BACKLOG)
        return self

    async def __aexit__(self, *error: object) -> None:
        """Stop at once what was not stopped in good order before."""
        with anyio.CancelScope(shield=True):
            await self.close()
        assert self._tasks is not None
        self._tasks.cancel_scope.cancel()
        # The caller's own exception is none of the group's: it would come out wrapped in one.
        await self._tasks.__aexit__(None, None, None)

    def connection(self) -> asyncio.Protocol:
        """The protocol of one more connection, whoever carries its bytes.

        Raises `ConnectionRefusedError` where none is accepted any more.
        """
        if self._edge is None or self._is_closing:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody listens")
        return Http1(self._edge)

    def stop_accepting(self) -> None:
        """First step: no new connections, no further request on those that idle."""
        self._is_closing = True
        for server in self._servers:
            server.close()
        self._servers.clear()
        if self._edge is not None:
            for connection in list(self._edge.state.connections):
                connection.shutdown()

    async def drain(self, seconds: float, code: CloseCode = CloseCode.DRAINING) -> bool:
        """Second step: say goodbye to every WebSocket and let requests finish.

        Returns whether everyone had gone in time. Responses that never end by themselves (SSE) are
        for the app to end before.
        """
        self.stop_accepting()
        edge = self._edge
        if edge is None:
            return True
        edge.sockets.close_all(code)
        with anyio.move_on_after(seconds):
            await edge.wait_empty()
        return edge.is_empty

    async def close(self) -> None:
        """Third step: cut what is left, and wait until nothing of it is."""
        self.stop_accepting()
        edge = self._edge
        if edge is None:
            return
        edge.abort_all()
        with anyio.move_on_after(CLOSE_SECONDS):
            await edge.wait_empty()
            # A response that streams sees the disconnection and ends by itself; what waits for
            # something else has to be told.
            for task in list(edge.state.tasks):
                task.cancel()
            while edge.state.tasks:
                await asyncio.wait(edge.state.tasks)
        self._edge = None


async def _bind(loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[socket.socket]:
    """One socket for each address the host has here, all on one port."""
    for _ in range(BIND_TRIES):
        bound: list[socket.socket] = []
        try:
            found = await loop.getaddrinfo(
                host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            for family, _, _, _, address in dict.fromkeys(found):
                # Port 0 was given a number by the first.
                chosen = bound[0].getsockname()[1] if bound else port
                one = _listening_socket(family, (address[0], chosen, *address[2:]))
                if one is not None:
                    bound.append(one)
            if bound:
                return bound
            raise ConfigError(f'cannot listen on "{host}": no such address on this machine')
        except OSError as error:
            for one in bound:
                one.close()
            if port == 0 and error.errno == errno.EADDRINUSE:
                # The number that was free in one family is taken in the other.
                continue
            if error.errno == errno.EADDRINUSE:
                raise ConfigError(
                    f'port {port} on "{host}" is in use, perhaps by another dispatch; --port '
                    "picks another, 0 a free one"
                ) from error
            raise ConfigError(f'cannot listen on "{host}", {port}: {error.strerror}') from error
    raise ConfigError(f'cannot listen on "{host}": no port is free in every address family')


def _listening_socket(family: int, address: tuple[object, ...]) -> socket.socket | None:
    """None for an address of a kind that this machine does not have."""
    # With the protocol left at 0, asyncio 3.11 does not set TCP_NODELAY on what it accepts, and
    # small frames would wait 40 ms for the peer's acknowledgement.
    try:
        one = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError:
        return None
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Inherited by every accepted socket.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
        # Here, because two daemons may both bind: it is the second to listen that fails.
        one.listen(BACKLOG)
    except OSError as error:
        one.close()
        if error.errno == errno.EADDRNOTAVAIL:
            return None
        raise
    return one
