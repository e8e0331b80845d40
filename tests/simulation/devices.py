"""People's devices: they connect, watch, send, look away, drop the line and come back.

Neighbours: `world` has the daemon they talk to, over a socket in memory that can be slow; `claims`
judges what each was shown. A device speaks `dispatch.v1` and remembers nothing of a conversation
but the position it last saw.
"""

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio

from dispatch.protocol.chat.frames import SUBPROTOCOL
from dispatch.server.credential import ANYONE

if TYPE_CHECKING:
    from tests.simulation.world import World

# What a socket takes before its peer counts as slow.
_BUFFER_BYTES = 600


def unframed(data: bytes) -> list[bytes]:
    """The text messages of a server's bytes."""
    texts = []
    while data:
        size, start = data[1], 2
        if size == 126:
            size, start = int.from_bytes(data[2:4], "big"), 4
        elif size == 127:
            size, start = int.from_bytes(data[2:10], "big"), 10
        texts.append(data[start : start + size])
        data = data[start + size :]
    return texts


class Socket:
    """A `server.websocket.WebSocket` without a network, as far as a connection looks at it."""

    def __init__(self, device: "Device") -> None:
        self.subprotocol = SUBPROTOCOL
        self.peer = "memory"
        self.writable = True
        self.last_pong = 0.0
        self.unanswered_since: float | None = None
        self.is_open = True
        self.is_read = True
        self._waiting: list[bytes] = []
        self._device = device
        self.connection: Any = None

    @property
    def bytes_waiting(self) -> int:
        return sum(map(len, self._waiting))

    def write(self, data: bytes) -> None:
        if not self.is_open:
            return
        if self.is_read and not self._waiting:
            self._deliver(data)
            return
        self._waiting.append(data)
        if self.writable and self.bytes_waiting > _BUFFER_BYTES:
            self.writable = False
            self.connection.paused()

    async def drain(self) -> None:
        """The peer reads again, a bit at a time."""
        world = self._device.world
        self.is_read = True
        while self._waiting and self.is_open and self.is_read:
            self._deliver(self._waiting.pop(0))
            await world.wait(0.01)
            if not self.writable and self.bytes_waiting <= _BUFFER_BYTES // 4 and self.is_open:
                self.writable = True
                self.connection.resumed()

    def say(self, frame: dict[str, Any]) -> None:
        if self.is_open:
            self.connection.received(json.dumps(frame).encode())

    def ping(self, now: float) -> None:
        raise AssertionError("nobody is asked for a sign of life here")

    def authenticated(self) -> None:
        """Nobody was waiting for it."""

    def close(self, code: int, reason: str = "") -> None:
        self._device.world.trouble.append(f"closed with {code}: {reason}")
        self.hang_up()

    def hang_up(self) -> None:
        """The peer is gone; the daemon learns it."""
        if self.is_open:
            self.is_open = False
            self._device.world.sockets.remove(self)
            self.connection.lost()

    def cut(self) -> None:
        """The daemon is gone. What it wrote may still arrive, or may not."""
        self.is_open = False
        self._device.world.sockets.remove(self)
        if self._device.world.random.random() < 0.5:
            for data in self._waiting:
                self._deliver(data)
        self._device.lost()

    def _deliver(self, data: bytes) -> None:
        for text in unframed(data):
            self._device.receive(json.loads(text))


@dataclass
class Shown:
    """A frame that a device was shown, and the position it had seen before."""

    after: int
    offset: int
    frame: dict[str, Any]


@dataclass
class Watching:
    """What a device knows of a conversation: where it is, and what it was shown, in order."""

    position: int | None = None
    # Where the running turn begins, for a subscription without a position.
    from_turn: str | None = None
    is_subscribed: bool = False
    # Between a reply and the snapshot or history it announces, nothing else may come.
    expects: str | None = None
    since_seq: int = 0
    shown: list[Shown] = field(default_factory=list)
    snapshots: list[dict[str, Any]] = field(default_factory=list)
    chunks: list[tuple[int, list[Any]]] = field(default_factory=list)


@dataclass
class Sent:
    """A message, and what became of it."""

    conversation: str
    text: str
    client_id: str
    on_busy: str
    accepted: dict[str, Any] | None = None
    refused: dict[str, Any] | None = None


class Device:
    """See the module."""

    def __init__(self, world: "World", name: str) -> None:
        self.world = world
        self.name = name
        self.watching: dict[str, Watching] = {}
        self.sent: list[Sent] = []
        self.queued: list[tuple[str, str]] = []
        self.requests: list[tuple[str, str]] = []
        self.deleted: set[str] = set()
        self.socket: Socket | None = None
        self._count = 0

    # -- what it does --------------------------------------------------------------------------

    async def live(self, conversations: tuple[str, ...]) -> None:
        """Do this and that until the world is calm, and then what is left to do."""
        draw = self.world.random
        while not self.world.is_calm:
            await self._connected()
            await self.world.wait(0.15)
            await self._act(draw.choice(conversations))
        await self._finish(conversations)

    async def _connected(self) -> Socket:
        while self.socket is None or not self.socket.is_open:
            hub = await self.world.reachable()
            for watching in self.watching.values():
                watching.is_subscribed, watching.expects = False, None
            socket = self.socket = Socket(self)
            self.world.sockets.append(socket)
            socket.connection = hub.accept(ANYONE, "")
            socket.connection.opened(socket)
            for name in list(self.watching):
                self._subscribe(name)
            for sent in self.sent:
                if sent.accepted is None and sent.refused is None:
                    self._say_again(sent)
        return self.socket

    async def _act(self, name: str) -> None:
        socket, draw = await self._connected(), self.world.random
        match draw.randint(0, 19):
            case 0 | 1 | 2 | 3 | 4 | 5:
                self._send(name)
            case 6 | 7:
                self._subscribe(name)
            case 8:
                socket.say({"type": "chat.unsubscribe", "conversationId": name})
                if name in self.watching:
                    self.watching[name].is_subscribed = False
            case 9 | 10:
                socket.is_read = False
                await anyio.sleep(draw.uniform(0, 0.6))
                await socket.drain()
            case 11:
                socket.hang_up()
            case 12 | 13:
                socket.say({"type": "chat.stop", "conversationId": name})
            case 14 if self.queued:
                conversation, message = draw.choice(self.queued)
                frame = {"type": "chat.queue.cancel", "messageId": message}
                socket.say({**frame, "conversationId": conversation})
            case 15 | 16 if self.requests:
                conversation, request = draw.choice(self.requests)
                frame = {"type": "chat.respond", "requestId": request, "approved": True}
                socket.say({**frame, "conversationId": conversation})
            case 17 if self.sent:
                self._say_again(draw.choice(self.sent))
            case 18 if self.world.harness is not None and draw.random() < 0.3:
                await self._close(name)
            case _:
                pass

    def _send(self, name: str) -> None:
        draw = self.world.random
        self._count += 1
        sent = Sent(
            conversation=name,
            text=f"{self.name} says {self._count}",
            client_id=f"{self.name}-{self._count}",
            on_busy=draw.choice(["reject", "queue", "queue", "steer", "interrupt"]),
        )
        self.sent.append(sent)
        self._say_again(sent)

    def _say_again(self, sent: Sent) -> None:
        assert self.socket is not None
        frame = {
            "type": "chat.send",
            "conversationId": sent.conversation,
            "message": sent.text,
            "clientMessageId": sent.client_id,
            "onBusy": sent.on_busy,
            "ref": sent.client_id,
        }
        # It watches from where the message finds the conversation, unless it watches already.
        self.watching.setdefault(sent.conversation, Watching())
        self._subscribe(sent.conversation)
        self.socket.say(frame)

    def _subscribe(self, name: str) -> None:
        assert self.socket is not None
        draw = self.world.random
        watching = self.watching.setdefault(name, Watching())
        if watching.is_subscribed:
            return
        frame: dict[str, Any] = {"type": "chat.subscribe", "conversationId": name}
        watching.since_seq = -1
        if watching.position is not None and draw.random() < 0.8:
            frame["after"] = f"g1:{watching.position}"
        elif draw.random() < 0.4:
            watching.since_seq = frame["sinceSeq"] = draw.randint(0, 4)
        watching.is_subscribed = True
        self.socket.say(frame)

    async def _close(self, name: str) -> None:
        harness = self.world.harness
        if harness is not None:
            from dispatch.core.identity import LOCAL, ConversationId

            # Over HTTP; the daemon may die under it.
            await harness.broker.close(LOCAL, ConversationId(name))

    async def _finish(self, conversations: tuple[str, ...]) -> None:
        """Everything that was sent has its answer, and everything that happened was seen."""
        while True:
            socket = await self._connected()
            await socket.drain()
            for name in conversations:
                self._subscribe(name)
            if all(sent.accepted or sent.refused for sent in self.sent):
                return
            await anyio.sleep(0.1)

    # -- what it is told -----------------------------------------------------------------------

    def lost(self) -> None:
        """The daemon is gone."""
        for watching in self.watching.values():
            watching.is_subscribed, watching.expects = False, None

    def receive(self, frame: dict[str, Any]) -> None:
        """One frame, as it comes."""
        match frame["type"]:
            case "chat.delta" | "chat.request" | "chat.request.closed":
                self._see(frame)
            case "chat.subscribed":
                self._subscribed(frame)
            case "chat.snapshot":
                self._snapshot(frame)
            case "chat.history":
                self._history(frame)
            case "chat.accepted" | "chat.error" if "ref" in frame:
                self._told(frame)
            case "chat.error" | "chat.stopped" | "hello":
                pass
            case other:
                self._wrong(f"got {other}, which it never asked for")

    def _wrong(self, what: str) -> None:
        self.world.trouble.append(f"{self.name}: {what}")

    def _see(self, frame: dict[str, Any]) -> None:
        about = frame.get("event", frame)
        name, turn = about["conversationId"], about["turnId"]
        watching, offset = self.watching[name], _offset(frame)
        if watching.expects is not None:
            self._wrong(f"{name}: {frame['type']} came before the {watching.expects}")
        if watching.position is None:
            # The first frame of the turn in flight, or of the next one.
            watching.position = self._before(name, turn)
        if offset <= watching.position:
            self._wrong(f"{name}: {offset} was shown after {watching.position}")
        watching.shown.append(Shown(watching.position, offset, frame))
        watching.position = offset
        if frame["type"] == "chat.request":
            self.requests.append((name, frame["requestId"]))

    def _before(self, name: str, turn: str) -> int:
        """The offset before a turn's first event: known to the disk, if anybody may see it."""
        events = self.world.committed.get(name, {})
        first = min((offset for offset, event in events.items() if event.turn == turn), default=0)
        return first - 1

    def _subscribed(self, frame: dict[str, Any]) -> None:
        watching = self.watching[frame["conversationId"]]
        head = _offset(frame)
        if not frame["recovered"]:
            watching.expects = "chat.snapshot"
        elif watching.since_seq >= 0:
            watching.expects = "chat.history"
            watching.position = None if "turnId" in frame else head
        elif watching.position is None or watching.since_seq == -1:
            watching.position = watching.position if watching.position is not None else None
