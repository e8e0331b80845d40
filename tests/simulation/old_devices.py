"""Devices that declare nothing: no positions, no acknowledgements, every event as Part 1 has it.

Neighbours: `devices` are those of `dispatch.v1`; `claims` compares what one of these was shown over
one line with the log, as the old dialect must show it.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio

from dispatch.errors import CloseCode
from dispatch.server.credential import ANYONE
from tests.simulation.devices import Socket

if TYPE_CHECKING:
    from tests.simulation.world import World


@dataclass
class Line:
    """One connection: what was shown of each conversation since it was subscribed, in order."""

    shown: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


class OldDevice:
    """See the module. It never unsubscribes, so that where a replay begins is no question."""

    subprotocol = None
    # Where what it needs was pruned, it is sent away to begin anew.
    expected_closes = frozenset({int(CloseCode.RESYNC)})

    def __init__(self, world: "World", name: str) -> None:
        self.world = world
        self.name = name
        self.lines: list[Line] = []
        self.texts: list[tuple[str, str]] = []
        self.socket: Socket | None = None

    async def live(self, conversations: tuple[str, ...]) -> None:
        """Send and look away until the world is calm; then see everything to its end."""
        draw = self.world.random
        while not self.world.is_calm:
            await self._connected()
            await self.world.wait(0.2)
            await self._act(draw.choice(conversations))
        await (await self._connected()).drain()

    async def drained(self) -> None:
        """Return once everything that was written to it was read."""
        while self.socket is not None and self.socket.bytes_waiting:
            await self.socket.drain()

    async def _connected(self) -> Socket:
        while self.socket is None or not self.socket.is_open:
            hub = await self.world.reachable()
            self.lines.append(Line())
            socket = self.socket = Socket(self)
            self.world.sockets.append(socket)
            socket.connection = hub.accept(ANYONE, "")
            socket.connection.opened(socket)
        return self.socket

    async def _act(self, name: str) -> None:
        socket, draw = await self._connected(), self.world.random
        match draw.randint(0, 9):
            case 0 | 1:
                text = f"{self.name} says {len(self.texts)}"
                self.texts.append((name, text))
                self._subscribe(name)
                socket.say({"type": "chat.send", "conversationId": name, "message": text})
            case 2 | 3 | 4:
                self._subscribe(name)
            case 5 | 6:
                socket.is_read = False
                await anyio.sleep(draw.uniform(0, 0.6))
                await socket.drain()
            case 7:
                socket.hang_up()
            case _:
                pass

    def _subscribe(self, name: str) -> None:
        assert self.socket is not None
        self.lines[-1].shown.setdefault(name, [])
        self.socket.say({"type": "chat.subscribe", "conversationId": name})

    def lost(self) -> None:
        """The line is dead."""

    def receive(self, frame: dict[str, Any]) -> None:
        """One frame, as it comes."""
        match frame["type"]:
            case "chat.delta":
                event = frame["event"]
                # What heals old clients says nothing new.
                if "repeat" not in event:
                    self.lines[-1].shown[event["conversationId"]].append(event)
            case "catalog" | "chat.error" | "conversation.statusChanged":
                pass
            case other:
                self.world.trouble.append(f"{self.name}: got {other}, a word it does not know")
