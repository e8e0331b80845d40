"""All connections that speak AHP, and what they share.

Neighbours: `listener` hands upgrades of `/ahp` over through `accept`; `server.connections` has the
tasks and the sweep of all WebSocket connections.
Invariant: a connection that is closed leaves nothing behind in here.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

import anyio
import msgspec

from dispatch.core.identity import AccountId, UserId
from dispatch.errors import CloseCode, Unauthorized
from dispatch.protocol.ahp.conversion import down_notification
from dispatch.protocol.ahp.versions import Version
from dispatch.protocol.codec import Object
from dispatch.protocol.jsonrpc import encode_notification
from dispatch.runtime.ahp.dispatching import Dispatching
from dispatch.runtime.ahp.heralds import Herald
from dispatch.runtime.ahp.host import Host
from dispatch.runtime.ahp.hub import Hub
from dispatch.runtime.services import Services
from dispatch.runtime.verbs import Verbs
from dispatch.server.ahp.connection import AhpConnection
from dispatch.server.ahp.methods import Methods
from dispatch.server.ahp.presence import Presence
from dispatch.server.ahp.refused import Refused
from dispatch.server.connections import Connections
from dispatch.server.credential import Credential
from dispatch.server.websocket import frame_text

_SWEEP_SECONDS: Final = 1.0
_JSON: Final = msgspec.json.Encoder().encode


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
        self.refused = Refused()
        self._hub = hub
        self._open: dict[AhpConnection, None] = {}
        self._services = services
        self.presence = Presence(
            host.scopes, services.clock, services.limits.ahp_client_grace_seconds
        )
        self._told: dict[tuple[AccountId, UserId], dict[AhpConnection, None]] = {}
        self._heralds: dict[tuple[AccountId, UserId], Herald] = {}

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

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await anyio.sleep(_SWEEP_SECONDS)
            self.presence.sweep()

    def add(self, connection: AhpConnection) -> None:
        """It opened."""
        self._open[connection] = None
        self.sweep.add(connection)

    def remove(self, connection: AhpConnection) -> None:
        """It is lost."""
        self._open.pop(connection, None)
        self.sweep.remove(connection)
        self.untell(connection)
        if connection.client is not None:
            self.presence.left(connection.principal.account, connection.client.id)

    def tell(self, connection: AhpConnection) -> None:
        """From here on it is told of sessions that come, change and go."""
        principal = connection.principal
        name = principal.account, principal.user
        self._told.setdefault(name, {})[connection] = None
        if name not in self._heralds:
            self._heralds[name] = Herald(
                self._services,
                self.host.directory,
                self.lines,
                principal,
                partial(self._proclaim, name),
                self.start,
            )

    def listed(self, connection: AhpConnection, summaries: dict[str, Object]) -> None:
        """Sessions that it was shown: what becomes of them is told as changes of these."""
        principal = connection.principal
        herald = self._heralds.get((principal.account, principal.user))
        if herald is not None:
            herald.seen(summaries)

    def untell(self, connection: AhpConnection) -> None:
        """It is told no more; nothing if it was not."""
        principal = connection.principal
        name = principal.account, principal.user
        told = self._told.get(name, {})
        if told.pop(connection, connection) is None and not told:
            del self._told[name]
            self._heralds.pop(name).close()

    def _proclaim(self, name: tuple[AccountId, UserId], method: str, params: Object) -> None:
        """One notification, encoded once a version."""
        texts: dict[Version, bytes] = {}
        for connection in list(self._told.get(name, ())):
            if connection.client is None:
                continue
            version = connection.client.version
            if version not in texts:
                lower = down_notification(version, method, params)
                is_empty = lower is None or lower.get("changes") == {}
                texts[version] = b"" if is_empty else encode_notification(method, _JSON(lower))
            if texts[version]:
                connection.send(texts[version])

    def close_all(self) -> None:
        """Say goodbye, as at a shutdown."""
        for connection in list(self._open):
            connection.close(CloseCode.GOING_AWAY)

    @property
    def follows(self) -> int:
        """How many channels are followed, over all connections."""
        return sum(len(connection.scopes) for connection in self._open)
