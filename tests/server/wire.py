"""What the tests of the edge share: raw frames, a transport and a loop in memory, a real listener.

Nothing in here knows websockets: the frames are built and read by hand, so that a test does not
compare a library with itself.
"""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel

from dispatch.server.auth import Authenticator
from dispatch.server.gate import Doorkeeper, Gate
from dispatch.server.handshake import Handshake
from dispatch.server.head import Head
from dispatch.server.listener import Listener
from dispatch.server.sockets import Sockets
from dispatch.server.websocket import WebSocket
from dispatch.settings import DEMO_AGENTS, AuthSettings, Limits, Settings

GUARD_SECONDS = 10.0

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


class Frame(NamedTuple):
    fin: bool
    opcode: int
    payload: bytes

    @property
    def code(self) -> int | None:
        """Of a close frame."""
        return struct.unpack("!H", self.payload[:2])[0] if len(self.payload) >= 2 else None


def masked(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = b"\x37\xfa\x21\x3d",
    length: bytes | None = None,
) -> bytes:
    """A client's frame; `length` overrules the length's bytes, `mask=None` leaves it unmasked."""
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    bit = 0 if mask is None else 0x80
    size = len(payload)
    if length is None:
        if size < 126:
            length = bytes([size])
        elif size < 65536:
            length = b"\x7e" + struct.pack("!H", size)
        else:
            length = b"\x7f" + struct.pack("!Q", size)
    head = bytes([first, length[0] | bit]) + length[1:]
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def closing(code: int, reason: bytes = b"") -> bytes:
    """The payload of a close frame."""
    return struct.pack("!H", code) + reason


def frames(data: bytes) -> list[Frame]:
    """Every frame of a server's bytes, which must be whole, unmasked and without reserved bits."""
    found = []
    while data:
        first, second = data[0], data[1]
        assert not first & 0x70
        assert not second & 0x80
        size, start = second, 2
        if second == 126:
            size, start = struct.unpack("!H", data[2:4])[0], 4
        elif second == 127:
            size, start = struct.unpack("!Q", data[2:10])[0], 10
        assert len(data) >= start + size
        found.append(Frame(bool(first & 0x80), first & 15, data[start : start + size]))
        data = data[start + size :]
    return found


class ManualLoop:
    """As much of an event loop as the edge asks for, on a clock that a test turns."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._soon: list[tuple[Callable[..., object], tuple[object, ...]]] = []
        self._later: list[tuple[float, int, Callable[..., object], asyncio.Event]] = []
        self._count = 0

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[..., object], *arguments: object) -> None:
        self._soon.append((callback, arguments))

    def call_later(self, seconds: float, callback: Callable[..., object]) -> Any:
        cancelled: list[bool] = []
        self._count += 1
        entry = (self.now + seconds, self._count, callback, cancelled)
        self._later.append(entry)  # type: ignore[arg-type]

        class Timer:
            def cancel(self) -> None:
                cancelled.append(True)

        return Timer()

    def run(self) -> None:
        """Call back everything that is due."""
        while True:
            due = sorted(entry for entry in self._later if entry[0] <= self.now)
            if not self._soon and not due:
                return
            soon, self._soon = self._soon, []
            for callback, arguments in soon:
                callback(*arguments)
            for entry in due:
                self._later.remove(entry)
                if not entry[3]:
                    entry[2]()

    def advance(self, seconds: float) -> None:
        """Let time pass, in steps short enough for timers that set each other."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 0.05)
            self.run()

    @property
    def timers(self) -> int:
        return sum(not entry[3] for entry in self._later)


class MemoryTransport(asyncio.Transport):
    """Takes what is written; a test lets it get stuck and drain."""

    def __init__(self, loop: ManualLoop) -> None:
        super().__init__({"peername": ("192.0.2.1", 4711)})
        self.written: list[bytes] = []
        self.half_closed = self.closed = self.aborted = False
        self.stuck = False
        # A transport that closes waits for what it has not written.
        self.keeps_closing = False
        self.protocol: Any = None
        self._loop = loop
        self._waiting = 0
        self._high = self._low = 0
        self._paused = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high, self._low = high or 0, low or 0

    def get_write_buffer_size(self) -> int:
        return self._waiting

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def write(self, data: bytes) -> None:  # type: ignore[override]
        assert not self.half_closed
        if self.closed or self.aborted:
            return
        self.written.append(bytes(data))
        if self.stuck:
            self._waiting += len(data)
            if self._waiting > self._high and not self._paused:
                self._paused = True
                self.protocol.pause_writing()

    def drain(self) -> None:
        """The peer reads everything."""
        self.stuck, self._waiting = False, 0
        if self._paused:
            self._paused = False
            self.protocol.resume_writing()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.half_closed = True

    def is_closing(self) -> bool:
        return self.closed or self.aborted

    def close(self) -> None:
        if not self.is_closing():
            self.closed = True
            if self.keeps_closing:
                return
            self._loop.call_soon(self.protocol.connection_lost, None)

    def abort(self) -> None:
        if not self.aborted:
            lost = self.closed and not self.keeps_closing
            self.aborted = True
            if not lost:
                self._loop.call_soon(self.protocol.connection_lost, None)

    @property
    def frames(self) -> list[Frame]:
        return frames(b"".join(self.written))


class Recorder:
    """A receiver that remembers what it was told."""

    def __init__(self, greeting: bytes = b"", on_message: Callable[..., object] | None = None):
        self.greeting = greeting
        self.on_message = on_message
        self.messages: list[bytes] = []
        self.calls: list[str] = []
        self.websocket: WebSocket | None = None
        self.headers_seen: Sequence[tuple[bytes, bytes]] = ()
        self.gone = anyio.Event()

    def opened(self, websocket: WebSocket) -> None:
        self.calls.append("opened")
        self.websocket = websocket
        self.headers_seen = websocket.headers
        if self.greeting:
            websocket.write(self.greeting)

    def received(self, payload: bytes) -> None:
        self.messages.append(payload)
        if self.on_message is not None:
            self.on_message(self.websocket, payload)

    def paused(self) -> None:
        self.calls.append("paused")

    def resumed(self) -> None:
        self.calls.append("resumed")

    def lost(self) -> None:
        self.calls.append("lost")
        self.gone.set()


class Wire:
    """One connection in memory, from its first byte on."""

    def __init__(self, limits: Limits | None = None, recorder: Recorder | None = None) -> None:
        self.loop = ManualLoop()
        self.sockets = Sockets(limits or Limits(), self.loop)  # type: ignore[arg-type]
        self.recorder = recorder or Recorder()
        self.transport = MemoryTransport(self.loop)
        head = Head("GET", "/ws", "heal=0", [(b"host", b"localhost")])
        self.websocket = WebSocket(self.sockets, self.transport, head, None)
        self.websocket.begin(self.recorder, b"")

    def feed(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.websocket.data_received(data)

    @property
    def close_codes(self) -> list[int | None]:
        return [frame.code for frame in self.transport.frames if frame.opcode == CLOSE]


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """An app: says who it thinks is asking."""
    principal = scope["state"].get("principal")
    body = f"{scope['path']} {principal.user if principal else None}".encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Server(NamedTuple):
    """A listener and everything that came in."""

    listener: Listener
    keeper: Doorkeeper
    handshakes: list[Handshake]
    recorders: list[Recorder]

    @property
    def authority(self) -> str:
        return self.listener.url.removeprefix("http://")

    async def connect(self) -> "Raw":
        host = "::1" if "[" in self.listener.url else "127.0.0.1"
        return Raw(*await asyncio.open_connection(host, self.listener.port))

    async def upgraded(self, target: str = "/ws", *lines: str, behind: bytes = b"") -> "Raw":
        """A connection that has been switched."""
        raw = await self.connect()
        raw.send(upgrade(self.authority, target, *lines) + behind)
        status, headers, _ = await raw.response()
        assert status == 101, (status, headers)
        return raw


@contextlib.asynccontextmanager
async def serving(
    limits: Limits | None = None,
    auth: AuthSettings | None = None,
    app: Any = hello,
    recorder: Callable[[Handshake], Recorder] = lambda handshake: Recorder(),
    **settings: Any,
) -> AsyncIterator[Server]:
    made = Settings(port=0, agents=DEMO_AGENTS, auth=auth, limits=limits or Limits(), **settings)
    authenticator = None
    if auth is not None:
        authenticator = Authenticator(auth, made.limits, bytes(32), environment={})
    keeper = Doorkeeper(made, authenticator)
    handshakes: list[Handshake] = []
    recorders: list[Recorder] = []

    def accept(handshake: Handshake) -> Recorder:
        handshakes.append(handshake)
        recorders.append(recorder(handshake))
        return recorders[-1]

    async with Listener(made, Gate(app, keeper), keeper, accept) as listener:
        yield Server(listener, keeper, handshakes, recorders)


def upgrade(authority: str, target: str = "/ws", *lines: str, version: str | None = "13") -> bytes:
    """The head of an upgrade; a line given here replaces the one of the same name."""
    head = {
        "host": f"Host: {authority}",
        "upgrade": "Upgrade: websocket",
        "connection": "Connection: Upgrade",
        "sec-websocket-key": f"Sec-WebSocket-Key: {KEY}",
    }
    if version is not None:
        head["sec-websocket-version"] = f"Sec-WebSocket-Version: {version}"
    for line in lines:
        head[line.partition(":")[0].lower()] = line
    return "\r\n".join([f"GET {target} HTTP/1.1", *head.values(), "", ""]).encode("latin-1")


class Raw:
    """A client that sends and reads bytes, under a guard."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def response(self) -> tuple[int, dict[str, str], bytes]:
        with anyio.fail_after(GUARD_SECONDS):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.split("\r\n")
            pairs = [line.partition(": ") for line in lines if line]
            headers = {name.lower(): value for name, _, value in pairs}
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return int(first.split(" ")[1]), headers, body

    async def frame(self) -> Frame:
        with anyio.fail_after(GUARD_SECONDS):
            first, size = await self.reader.readexactly(2)
            if size == 126:
                (size,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
            return Frame(bool(first & 0x80), first & 15, await self.reader.readexactly(size))

    async def rest(self) -> bytes:
        """Everything until the server ends the connection."""
        with anyio.fail_after(GUARD_SECONDS):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    async def __aenter__(self) -> "Raw":
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that has no event of its own."""
    with anyio.fail_after(GUARD_SECONDS):
        while not condition():
            await anyio.lowlevel.checkpoint()
