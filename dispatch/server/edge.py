"""What all connections of a listener share: settings, counts, deadlines and who judges them.

Neighbours: `listener` makes one and ends it; each `Http1` and, by way of `sockets`, each
`WebSocket` refers to it.
Invariant: every accepted connection is in `state.connections` or in `sockets.open` until TCP is
over, so what is empty here is empty.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Callable, Sequence
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from anyio.abc import TaskGroup
from uvicorn.config import Config
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.server import ServerState

from dispatch.errors import ConfigError
from dispatch.server.deadlines import Deadlines
from dispatch.server.gate import ASGIApp, Doorkeeper, http_scheme
from dispatch.server.handshake import Handshake, Handshakes
from dispatch.server.sockets import Sockets
from dispatch.server.websocket import Receiver, WebSocket
from dispatch.settings import Settings

if TYPE_CHECKING:
    from dispatch.server.http1 import Http1

# How long a refused peer may take to read why, before it is cut.
LINGER_SECONDS: Final = 2.0

# A page asks for its parts over one connection within this.
KEEP_ALIVE_SECONDS: Final = 15


class Welcome(NamedTuple):
    """What the owner of the listener decides about an upgrade that was admitted."""

    # Whose the connection's messages are; raises a refusal.
    accept: Callable[[Handshake], Receiver]
    # For a path, the subprotocol out of those offered; raises a refusal.
    choose: Callable[[str, Sequence[str]], str | None]


class Edge:
    """See the module. Made within the running loop."""

    def __init__(
        self,
        settings: Settings,
        app: ASGIApp,
        keeper: Doorkeeper,
        welcome: Welcome,
        tasks: TaskGroup,
    ) -> None:
        """`tasks` is where the few upgrades wait that need a key to be fetched."""
        proxies = list(settings.trusted_proxies)
        for proxy in proxies:
            # uvicorn would take a mistake for a name, and trust nobody.
            if proxy != "*" and not _is_network(proxy):
                raise ConfigError(f'trusted_proxies: "{proxy}" is no address and no network')
        self.config = Config(
            cast("Any", app),
            http="httptools",
            ws=WebSocket,
            lifespan="off",
            interface="asgi3",
            log_config=None,
            # Errors of the app are logged with a traceback; a stranger's bad request is no event.
            log_level="error",
            access_log=False,
            proxy_headers=bool(proxies),
            forwarded_allow_ips=proxies,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
        self.config.load()
        self.loop = loop = asyncio.get_running_loop()
        self.limits = settings.limits
        self.keeper = keeper
        self.welcome = welcome
        self.handshakes = Handshakes()
        self.state = ServerState()
        self.sockets = Sockets(settings.limits, loop)
        self.heads: Deadlines[Http1] = Deadlines(
            loop, settings.limits.head_seconds_max, lambda http: http.head_late()
        )
        self.lingering: Deadlines[Http1] = Deadlines(loop, LINGER_SECONDS, lambda http: http.cut())
        stall = settings.limits.stall_seconds_max
        self.bodies: Deadlines[Http1] = Deadlines(loop, stall, lambda http: http.body_late())
        self.stalled: Deadlines[Http1] = Deadlines(loop, stall, lambda http: http.still_stalled())
        self._tasks = tasks
        self.refused = 0
        self._trusted = ProxyHeadersMiddleware(cast("Any", app), proxies).trusted_hosts
        self._dated_at = 0
        self.date()

    def date(self) -> None:
        """Keep every response's headers current; a timer for it would wake an idle daemon."""
        now = int(time.time())
        if now != self._dated_at:
            self._dated_at = now
            date = formatdate(now, usegmt=True).encode()
            self.state.default_headers = [(b"date", date), (b"server", b"dispatch")]

    def forwarded(
        self, client: str, scheme: str, headers: Sequence[tuple[bytes, bytes]]
    ) -> tuple[str, str]:
        """Client and scheme of an upgrade, as uvicorn's middleware finds them for a request."""
        if client not in self._trusted:
            return client, scheme
        lines = []
        for name, value in headers:
            if name == b"x-forwarded-proto":
                named = http_scheme(value.decode("latin-1").strip())
                scheme = named if named in ("http", "https") else scheme
            elif name == b"x-forwarded-for":
                lines.append(value.decode("latin-1"))
        if lines:
            client = self._trusted.get_trusted_client_address(", ".join(lines))[0] or client
        return client, scheme

    def fetch_keys_then(self, then: Callable[[], None]) -> None:
        """Call back once the keys for a token were fetched, or could not be."""

        async def fetch() -> None:
            await self.keeper.fetch_keys()
            # From the loop, not from here: what fails there must not end the listener's tasks.
            self.loop.call_soon(then)

        self._tasks.start_soon(fetch)

    @property
    def is_full(self) -> bool:
        """Whether there is a connection more than may be."""
        count = len(self.state.connections) + len(self.sockets.open)
        return count > self.limits.connections_max

    @property
    def is_empty(self) -> bool:
        """Whether nobody is connected."""
        return not self.state.connections and not self.sockets.open

    async def wait_empty(self) -> None:
        """Until nobody is connected; for a listener that no longer accepts."""
        while not self.is_empty:
            event = self.sockets.emptied
            if event is None or event.is_set():
                event = self.sockets.emptied = asyncio.Event()
            await event.wait()

    def abort_all(self) -> None:
        """Cut everyone off."""
        for deadlines in (self.heads, self.bodies, self.stalled, self.lingering):
            deadlines.cancel()
        self.sockets.abort_all()
        for connection in list(self.state.connections):
            cast("Http1", connection).cut()


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True
