"""People's devices: they connect, watch, send, look away, drop the line and come back.

Neighbours: `world` has the daemon they talk to, over a socket in memory that can be slow; `claims`
judges what each was shown. A device speaks `dispatch.v1` and remembers nothing of a conversation
but the position it last saw.
"""

import json
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import anyio

from dispatch.protocol.chat.frames import SUBPROTOCOL
from dispatch.server.credential import ANYONE
from tests.protocol.published import saw_frame

if TYPE_CHECKING:
    from tests.simulation.world import World

# The conversation that somebody deletes.
CONDEMNED = "c4"

# What a socket takes before its peer counts as slow.
_BUFFER_BYTES = 600

# Of virtual time.
PATIENCE_SECONDS = 0.1


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


class Owner(Protocol):
    """Whose socket it is."""

    world: "World"
    subprotocol: str | None
    expected_closes: frozenset[int]

    def receive(self, frame: dict[str, Any]) -> None:
        """One frame, as it comes."""
        ...

    def lost(self) -> None:
        """The daemon is gone, and the line with it."""
        ...


class Socket:
    """A `server.websocket.WebSocket` without a network, as far as a connection looks at it."""

    def __init__(self, device: Owner) -> None:
        self.subprotocol = device.subprotocol
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

    @property
    def bytes_behind(self) -> int:
        return self.bytes_waiting

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
        if code not in self._device.expected_closes:
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
            frame = json.loads(text)
            try:
                saw_frame(frame, is_v1=self.subprotocol is not None)
            except AssertionError as error:
                # Raised in here, it would look like a defect of the connection.
                self._device.world.trouble.append(str(error))
            self._device.receive(frame)


class Shown(NamedTuple):
    """A frame that a device was shown, and the position it had seen before."""

    after: int
    offset: int
    frame: dict[str, Any]


class Snapshot(NamedTuple):
    """What a device was given instead of events."""

    offset: int
    frame: dict[str, Any]


class Wish(NamedTuple):
    """A subscription that was asked for: after a position, or with history after a seq."""

    after: int | None = None
    since_seq: int | None = None


@dataclass
class Watching:
    """What a device knows of a conversation: where it is, and what it was shown, in order.

    `expects`: what a reply has announced, before which nothing else may come.
    """

    position: int | None = None
    is_subscribed: bool = False
    wishes: deque[Wish] = field(default_factory=deque)
    expects: str | None = None
    reply: dict[str, Any] = field(default_factory=dict)
    shown: list[Shown] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)
    # What was asked for, what was promised, and the chunks that came.
    histories: list[tuple[int, int, list[Any]]] = field(default_factory=list)

    def forget_line(self) -> None:
        """The connection is gone, and with it whatever was on its way."""
        self.is_subscribed, self.expects = False, None
        self.wishes.clear()


@dataclass
class Sent:
    """A message, and what became of it."""

    conversation: str
    text: str
    client_id: str
    on_busy: str
    # The turn that it resumes, in place of saying something.
    resumes: str | None = None
    accepted: list[dict[str, Any]] = field(default_factory=list)
    refused: list[dict[str, Any]] = field(default_factory=list)
    may_be_dropped: bool = False
    # How often it was sent over this line without an answer yet; and whether an answer was lost.
    open_attempts: int = 0
    is_unsure: bool = False

    @property
    def is_answered(self) -> bool:
        return not self.open_attempts and not self.is_unsure


@dataclass
class Cutting:
    """A truncation, and what became of it; sent again until it has an answer."""

    conversation: str
    after_turn: str | None
    client_id: str
    told: list[dict[str, Any]] = field(default_factory=list)
    is_refused: bool = False

    @property
    def is_answered(self) -> bool:
        return bool(self.told) or self.is_refused


class Device:
    """See the module."""

    subprotocol: str | None = SUBPROTOCOL
    expected_closes: frozenset[int] = frozenset()

    def __init__(self, world: "World", name: str) -> None:
        self.world = world
        self.name = name
        self.watching: dict[str, Watching] = {}
        self.sent: list[Sent] = []
        self.cuts: list[Cutting] = []
        self.requests: list[tuple[str, str]] = []
        self.sealed: list[tuple[str, str]] = []
        self.forks: list[dict[str, Any]] = []
        self.gone: set[str] = set()
        self.socket: Socket | None = None

    # -- what it does --------------------------------------------------------------------------

    async def live(self, conversations: tuple[str, ...]) -> None:
        """Do this and that until the world is calm, and then what is left to do."""
        while not self.world.is_calm:
            await self._connected()
            await self.world.wait(0.15)
            await self._act(self.world.random.choice(conversations))
        await self._finish(conversations)

    async def _connected(self) -> Socket:
        while self.socket is None or not self.socket.is_open:
            hub = await self.world.reachable()
            self.lost()
            socket = self.socket = Socket(self)
            self.world.sockets.append(socket)
            socket.connection = hub.accept(ANYONE, "")
            socket.connection.opened(socket)
            for name in list(self.watching):
                self._subscribe(name)
            for sent in self.sent:
                if not sent.is_answered:
                    self._say(sent)
            for cut in self.cuts:
                if not cut.is_answered:
                    self._cut(cut)
        return self.socket

    async def _act(self, name: str) -> None:
        socket, draw = await self._connected(), self.world.random
        about = {"conversationId": name}
        match draw.randint(0, 22):
            case 0 | 1 | 2 | 3 | 4 | 5:
                self._send(name)
            case 6 | 7:
                self._subscribe(name)
            case 8 | 9:
                socket.say({"type": "chat.unsubscribe", **about})
                if name in self.watching:
                    self.watching[name].is_subscribed = False
                if draw.random() < 0.5:
                    self._subscribe(name)
            case 10 | 11 | 12:
                socket.is_read = False
                await anyio.sleep(draw.uniform(0, 0.6))
                await socket.drain()
            case 13:
                socket.hang_up()
            case 14 | 15:
                socket.say({"type": "chat.stop", **about})
            case 16:
                self._cancel()
            case 17 if self.requests:
                conversation, request = draw.choice(self.requests)
                frame = {"type": "chat.respond", "requestId": request, "approved": True}
                socket.say({**frame, "conversationId": conversation})
            case 18:
                self._repeat()
            case 19 if draw.random() < 0.3:
                self.world.close(name)
            case 20 if draw.random() < 0.1:
                self.world.delete(CONDEMNED)
            case 21 | 22 if self.sealed:
                self._branch(*draw.choice(self.sealed))
            case _:
                pass

    def _branch(self, conversation: str, turn: str) -> None:
        """Go back to a turn: in a fork, by leaving behind what came since, or to resume it."""
        assert self.socket is not None
        draw = self.world.random
        if draw.random() < 0.4:
            sent = Sent(conversation, "", f"{self.name} resumes {len(self.sent)}", "reject", turn)
            self.sent.append(sent)
            self._say(sent)
            return
        if draw.random() < 0.5:
            frame = {"type": "chat.fork", "turnId": turn}
            self.socket.say({**frame, "conversationId": conversation})
            return
        after = turn if draw.random() < 0.8 else None
        self.cuts.append(Cutting(conversation, after, f"{self.name} cuts {len(self.cuts)}"))
        self._cut(self.cuts[-1])

    def _repeat(self) -> None:
        """Say something once more that was said before."""
        draw = self.world.random
        if self.cuts and draw.random() < 0.4:
            self._cut(draw.choice(self.cuts))
        elif self.sent:
            self._say(draw.choice(self.sent))

    def _cut(self, cut: Cutting) -> None:
        assert self.socket is not None
        frame = {"type": "chat.truncate", "conversationId": cut.conversation}
        ids = {"clientMessageId": cut.client_id, "ref": cut.client_id}
        self.socket.say({**frame, **ids, "afterTurn": cut.after_turn})

    def _send(self, name: str) -> None:
        number = len(self.sent) + 1
        choices = ["reject", "queue", "queue", "steer", "interrupt"]
        sent = Sent(
            conversation=name,
            text=f"{self.name} says {number}",
            client_id=f"{self.name}-{number}",
            on_busy=self.world.random.choice(choices),
        )
        self.sent.append(sent)
        self._say(sent)

    def _say(self, sent: Sent) -> None:
        """Send, or send again; watching first, so that where its frames begin is no question."""
        assert self.socket is not None
        self._subscribe(sent.conversation)
        sent.open_attempts, sent.is_unsure = sent.open_attempts + 1, False
        if sent.resumes is not None:
            frame = {"type": "chat.resume", "conversationId": sent.conversation}
            ids = {"clientMessageId": sent.client_id, "ref": sent.client_id}
            self.socket.say({**frame, **ids, "turnId": sent.resumes})
            return
        self.socket.say(
            {
                "type": "chat.send",
                "conversationId": sent.conversation,
                "message": sent.text,
                "model": self.world.random.choice(["able", "plain"]),
                "clientMessageId": sent.client_id,
                "onBusy": sent.on_busy,
                "ref": sent.client_id,
            }
        )

    def _cancel(self) -> None:
        queued = [s for s in self.sent if s.accepted and "queueId" in s.accepted[0]]
        if queued:
            sent = self.world.random.choice(queued)
            sent.may_be_dropped = True
            assert self.socket is not None
            self.socket.say(
                {
                    "type": "chat.queue.cancel",
                    "conversationId": sent.conversation,
                    "messageId": sent.accepted[0]["queueId"],
                }
            )

    def _subscribe(self, name: str) -> None:
        assert self.socket is not None
        draw = self.world.random
        watching = self.watching.setdefault(name, Watching())
        if watching.is_subscribed or not self.socket.is_open or name in self.gone:
            return
        frame: dict[str, Any] = {"type": "chat.subscribe", "conversationId": name}
        wish = Wish()
        if watching.position is not None and draw.random() < 0.8:
            wish = Wish(after=watching.position)
            frame["after"] = f"g1:{watching.position}"
        elif draw.random() < 0.4:
            wish = Wish(since_seq=draw.randint(0, 4))
            frame["sinceSeq"] = wish.since_seq
        watching.is_subscribed = True
        watching.wishes.append(wish)
        self.socket.say(frame)

    async def _finish(self, conversations: tuple[str, ...]) -> None:
        """Everything that was sent has its answer, and everything that happens is seen."""
        while True:
            socket = await self._connected()
            await socket.drain()
            for name in conversations:
                self._subscribe(name)
            if all(one.is_answered for one in (*self.sent, *self.cuts)):
                return
            await anyio.sleep(PATIENCE_SECONDS)

    async def drained(self) -> None:
        """Return once everything that was written to it was read."""
        while self.socket is not None and self.socket.bytes_waiting:
            await self.socket.drain()

    # -- what it is told -----------------------------------------------------------------------

    def lost(self) -> None:
        """The line is dead."""
        for watching in self.watching.values():
            watching.forget_line()
        for sent in self.sent:
            sent.is_unsure = not sent.is_answered
            sent.open_attempts = 0

    def receive(self, frame: dict[str, Any]) -> None:
        """One frame, as it comes."""
        match frame["type"]:
            case "chat.request.closed" if "position" not in frame:
                pass
            case "chat.delta" | "chat.request" | "chat.request.closed" | "conversation.truncated":
                self._see(frame)
            case "chat.truncated":
                next(c for c in self.cuts if c.client_id == frame["ref"]).told.append(frame)
            case "chat.subscribed":
                self._subscribed(frame)
            case "chat.snapshot":
                self._snapshot(frame)
            case "chat.history":
                self._history(frame)
            case "chat.accepted":
                self._answered(frame).accepted.append(frame)
            case "chat.error" if " cuts " in str(frame.get("ref")):
                cut = next(c for c in self.cuts if c.client_id == frame["ref"])
                # Refused for what it is, or for now.
                cut.is_refused = not frame["retryable"]
                if frame["retryable"]:
                    self._cut(cut)
            case "chat.error" if "ref" in frame:
                self._answered(frame).refused.append(frame)
            case "chat.error" if frame.get("code") == "gone":
                self._lost_for_good(frame["conversationId"])
            case "conversation.deleted":
                self._lost_for_good(frame["conversationId"])
            case "chat.forked":
                self.forks.append(frame)
            case "chat.error" | "chat.stopped" | "hello":
                pass
            case other:
                self._wrong(f"got {other}, which it never asked for")

    def _lost_for_good(self, name: str) -> None:
        self.gone.add(name)
        if name in self.watching:
            self.watching[name].forget_line()

    def _answered(self, frame: dict[str, Any]) -> Sent:
        sent = next(sent for sent in self.sent if sent.client_id == frame["ref"])
        sent.open_attempts -= 1
        return sent

    def _wrong(self, what: str) -> None:
        self.world.trouble.append(f"{self.name}: {what}")

    def _see(self, frame: dict[str, Any]) -> None:
        name = frame.get("event", frame)["conversationId"]
        watching, offset = self.watching[name], _offset(frame)
        if watching.expects is not None:
            self._wrong(f"{name}: {frame['type']} came before the {watching.expects}")
        elif watching.position is None:
            self._wrong(f"{name}: {frame['type']} came before a reply")
        else:
            watching.shown.append(Shown(watching.position, offset, frame))
        watching.position = offset
        if frame["type"] == "chat.request":
            self.requests.append((name, frame["requestId"]))
        elif "event" in frame and frame["event"]["type"] == "turn-sealed":
            self.sealed.append((name, frame["event"]["turnId"]))

    def _subscribed(self, frame: dict[str, Any]) -> None:
        name = frame["conversationId"]
        watching = self.watching[name]
        wish, head = watching.wishes.popleft(), _offset(frame)
        watching.reply = frame
        if not frame["recovered"]:
            watching.expects = "chat.snapshot"
        elif wish.after is not None:
            watching.position = wish.after
        else:
            watching.position = self._before(name, frame["turnId"]) if "turnId" in frame else head
        if wish.since_seq is not None:
            watching.expects = "chat.history"
            watching.histories.append((wish.since_seq, frame["lastSeq"], []))

    def _before(self, name: str, turn: str) -> int:
        """The offset before a turn's first event, which nobody is told before the disk has it."""
        events = self.world.committed.get(name, {})
        offsets = [offset for offset, event in events.items() if event.turn == turn]
        if not offsets:
            self._wrong(f"{name}: was told of {turn}, of which the disk knows nothing")
            return 0
        return min(offsets) - 1

    def _snapshot(self, frame: dict[str, Any]) -> None:
        watching = self.watching[frame["conversationId"]]
        watching.expects = None
        watching.position = _offset(frame)
        watching.snapshots.append(Snapshot(watching.position, frame))

    def _history(self, frame: dict[str, Any]) -> None:
        watching = self.watching[frame["conversationId"]]
        if watching.expects != "chat.history":
            self._wrong("history came unasked")
            return
        watching.histories[-1][2].extend(frame["chunks"])
        if not frame["more"]:
            watching.expects = None


def _offset(frame: dict[str, Any]) -> int:
    return int(frame["position"].partition(":")[2])
