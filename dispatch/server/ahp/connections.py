"""All connections that speak AHP, and what they share.

Neighbours: `listener` hands upgrades of `/ahp` over through `accept`; `server.connections` has the
tasks and the sweep of all WebSocket connections.
Invariant: a connection that is closed leaves nothing behind in here.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from dispatch.errors import CloseCode, Unauthorized
from dispatch.runtime.ahp.dispatching import Dispatching
from dispatch.runtime.ahp.host import Host
from dispatch.runtime.ahp.hub import Hub
from dispatch.runtime.services import Services
from dispatch.runtime.verbs import Verbs
from dispatch.server.ahp.connection import AhpConnection
from dispatch.server.ahp.methods import Methods
from dispatch.server.connections import Connections
from dispatch.server.credential import Credential
from dispatch.server.websocket import frame_text


class AhpConnections:
    """See the module."""

    def __init__(self, services: Services, verbs: Verbs, hub: Connections) -> None:
        """Before anything is recovered, see `Host`; `hub` runs what waits."""
        self.lines = Hub(services.feeds, services.journal, frame_text)
        self.host = host = Host(services, verbs, self.lines)
        self.dispatching = Dispatching(host)
        self.methods = Methods(host)
        self.limits = services.limits
        self.sweep = hub.sweep
        self._hub = hub
        self._open: dict[AhpConnection, None] = {}

    def accept(self, credential: Credential | None) -> AhpConnection:
        """The receiver of a new connection; who it is was said with the upgrade, or it is refused:
        the protocol has no message for it.
        """
        if credential is None:
            raise Unauthorized("a credential is needed: `?tkn=`, or a bearer token")
        return AhpConnection(self, credential)

    def start(self, work: Callable[..., Coroutine[Any, Any, None]], *arguments: object) -> None:
        """Run something that a connection waits for."""
        self._hub.start(work, *arguments)

    def add(self, connection: AhpConnection) -> None:
        """It opened."""
        self._open[connection] = None
        self.sweep.add(connection)

    def remove(self, connection: AhpConnection) -> None:
        """It is lost."""
        self._open.pop(connection, None)
        self.sweep.remove(connection)

    def close_all(self) -> None:
        """Say goodbye, as at a shutdown."""
        for connection in list(self._open):
            connection.close(CloseCode.GOING_AWAY)

    @property
    def follows(self) -> int:
        """How many channels are followed, over all connections."""
        return sum(len(connection.scopes) for connection in self._open)
