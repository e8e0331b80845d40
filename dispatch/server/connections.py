"""All WebSocket connections: what they share, and the one sweep that pings and judges them.

Neighbours: `listener` hands upgrades over through `accept`, `connection` is one, `compose` runs the
sweep. Everything a connection needs of the daemon is an attribute here.
Invariant: a connection that is closed leaves nothing behind in here.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import anyio
import anyio.abc
import msgspec

from dispatch.errors import CloseCode
from dispatch.protocol.chat.frames import SUBPROTOCOL, ChatDialect
from dispatch.protocol.codec import Object
from dispatch.protocol.groups.frames import ws_notice
from dispatch.runtime.services import Services
from dispatch.runtime.verbs import Verbs
from dispatch.server.auth import Authenticator
from dispatch.server.chats.events import ChatWatch
from dispatch.server.connection import Connection
from dispatch.server.credential import Credential
from dispatch.server.encoding import FramedEncoding
from dispatch.server.gate import Doorkeeper
from dispatch.server.groups.watch import GroupWatches
from dispatch.server.heal import Healer
from dispatch.server.sweep import Sweep
from dispatch.version import VERSION

if TYPE_CHECKING:
    from dispatch.server.groups.stream import GroupStream

_SWEEP_SECONDS: Final = 1.0
# What clients are told of the limits: those that they can run into.
_TOLD: Final = (
    "frame_bytes_max",
    "subscriptions_max",
    "frames_per_second_max",
    "commands_waiting_max",
    "queue_turns_max",
    "queue_bytes_max",
    "turn_bytes_max",
    "turns_running_max",
    "sends_per_second_max",
    "history_page_max",
    "json_depth_max",
    "stall_seconds_max",
)


class ConnectionStatistics(NamedTuple):
    """Counts for metrics and tests."""

    open: int
    watches: int
    paused: int
    stalled_total: int


class Connections:
    """See the module."""

    def __init__(
        self,
        services: Services,
        verbs: Verbs,
        keeper: Doorkeeper,
    ) -> None:
        """`keeper` knows which credentials still stand."""
        generation = services.opened.generation
        self.broker = verbs.broker
        self.catalog = verbs.catalog
        self.chats = verbs.chats
        self.groups = verbs.groups
        self.people = verbs.people
        # The event streams that are open.
        self.streams: dict[GroupStream, None] = {}
        self._group_watches: dict[Connection, GroupWatches] = {}
        self.chat_watches: dict[Connection, ChatWatch] = {}
        self.conversations = verbs.conversations
        self.history = verbs.history
        self.feeds = services.feeds
        self.limits = services.limits
        self.generation = generation
        self.healer = Healer(verbs.history, services.clock)
        delta_bytes_max = services.limits.delta_bytes_max
        self.old_dialect = ChatDialect(generation, is_v1=False, delta_bytes_max=delta_bytes_max)
        self.v1_dialect = ChatDialect(generation, is_v1=True, delta_bytes_max=delta_bytes_max)
        self.old_encoding = FramedEncoding(self.old_dialect)
        self.v1_encoding = FramedEncoding(self.v1_dialect, ws_notice)
        self.sweep = Sweep(services.limits, keeper, services.clock)
        self._keeper = keeper
        self._services = services
        self._tasks: anyio.abc.TaskGroup | None = None
        self._open: dict[Connection, None] = {}

    def accept(self, credential: Credential | None, query: str) -> Connection:
        """The receiver of a new connection; `heal=0` in the query switches healing off."""
        heals = "heal=0" not in query.split("&")
        return Connection(self, credential, heals=heals)

    @property
    def authenticator(self) -> Authenticator:
        """Who judges tokens; only asked where there is `[auth]`."""
        authenticator = self._keeper.authenticator
        assert authenticator is not None, "without [auth] nobody brings a token"
        return authenticator

    async def run(self) -> None:
        """Sweep until cancelled; workers of connections run inside."""
        async with anyio.create_task_group() as self._tasks:
            while True:
                await anyio.sleep(_SWEEP_SECONDS)
                self.sweep.judge(self._services.clock.monotonic())
                for watches in self._group_watches.values():
                    watches.let_go()

    def start(self, work: Callable[..., Coroutine[Any, Any, None]], *arguments: object) -> None:
        """Run something that a connection waits for."""
        assert self._tasks is not None, "connections live while `run` does"
        self._tasks.start_soon(work, *arguments)

    def close_all(self) -> None:
        """Say goodbye, as at a shutdown: old clients know the standard code only."""
        for connection in list(self._open):
            is_v1 = connection.dialect.is_v1
            connection.close(CloseCode.DRAINING if is_v1 else CloseCode.GOING_AWAY)
        if self.chats is not None:
            self.chats.streams.close()
        for stream in list(self.streams):
            stream.end()
        self.healer.close()

    def statistics(self) -> ConnectionStatistics:
        """The counters, for metrics and tests."""
        watches = sum(len(one.watches) + self.groups_followed(one) for one in self._open)
        sweep = self.sweep
        return ConnectionStatistics(
            len(sweep.open), watches, len(sweep.paused), sweep.stalled_total
        )

    def hello(self, connection: Connection) -> dict[str, Any]:
        """The first frame of `dispatch.v1`."""
        limits = msgspec.structs.asdict(self.limits)
        return {
            "type": "hello",
            "protocol": SUBPROTOCOL,
            "server": f"dispatch/{VERSION}",
            "connectionId": connection.id,
            "account": connection.account,
            "user": connection.user,
            "limits": {_camel(name): limits[name] for name in _TOLD},
            "heartbeatSeconds": self.limits.heartbeat_seconds,
            "agents": [agent.info for agent in self._services.agents.values()],
        }

    def new_connection_id(self) -> str:
        """A name for one connection."""
        return self._services.ids.new("n")

    def take(self, connection: Connection, frame: Object) -> bool:
        """Carry a frame out if it is about groups; False if it is not."""
        if not connection.dialect.is_v1 or not GroupWatches.takes(frame):
            return False
        watches = self._group_watches.get(connection)
        if watches is None:
            watches = self._group_watches[connection] = GroupWatches(connection)
        watches.take(frame)
        return True

    def groups_followed(self, connection: Connection) -> int:
        """How many groups a connection follows."""
        return len(self._group_watches.get(connection, ()))

    # -- what connections tell -----------------------------------------------------------------

    def add(self, connection: Connection) -> None:
        """It opened."""
        self._open[connection] = None
        self.sweep.add(connection)

    def remove(self, connection: Connection) -> None:
        """It is lost."""
        self._open.pop(connection, None)
        self.sweep.remove(connection)
        self.feeds.unlisten(connection)
        watches = self._group_watches.pop(connection, None)
        if watches is not None:
            watches.lost()
        if (watch := self.chat_watches.pop(connection, None)) is not None:
            watch.drop()

    def pause(self, connection: Connection) -> None:
        """Its peer does not keep up."""
        self.sweep.pause(connection)
        if connection in self._group_watches:
            self._group_watches[connection].pause()

    def resume(self, connection: Connection) -> None:
        """It does again."""
        self.sweep.resume(connection)
        if connection in self._group_watches:
            self._group_watches[connection].resume()


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
