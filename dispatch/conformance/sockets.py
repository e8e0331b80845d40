"""One WebSocket of a transcript: frames in order, broadcasts beside them.

Neighbours: `replay` opens and reads them. Broadcasts (`conversation.…`, and of groups what lists
are told) are about the account, not about a conversation's log, and are gathered on their way; so
where they come between other frames is not said, and they are kept aside for the step that asks.
Invariant: a frame is given to one step, whichever asks first.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Self

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from dispatch.client.dial import FRAME_BYTES_MAX, Address
from dispatch.client.failures import CannotConnect, reason_of
from dispatch.conformance.matching import Mismatch, Names, shown
from dispatch.conformance.transcripts import Connect, Json, Send

OPEN_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 1.0

_OF_GROUPS: Final = frozenset({"group.changed", "group.deleted"})


def is_broadcast(frame: Json) -> bool:
    """Whether a frame is one of those that have no place in the order."""
    kind = frame.get("type") if isinstance(frame, dict) else None
    return isinstance(kind, str) and (kind.startswith("conversation.") or kind in _OF_GROUPS)


class Socket:
    """A connection that was opened."""

    def __init__(self, connection: ClientConnection) -> None:
        """Nothing is read before somebody asks."""
        self._connection = connection
        self._held: deque[Json] = deque()
        self._aside: deque[Json] = deque()

    @classmethod
    async def open(cls, address: Address, step: Connect, path: str) -> Self:
        """Connect as a step says; raises `Mismatch` if the server takes it otherwise."""
        base = address.websocket.removesuffix("/ws")
        try:
            connection = await connect(
                base + path,
                subprotocols=[Subprotocol(name) for name in step.subprotocols] or None,
                additional_headers=address.headers(),
                compression=None,
                # A proxy of the environment cannot reach this machine's own loopback.
                proxy=None if address.is_loopback else True,
                open_timeout=OPEN_SECONDS,
                close_timeout=CLOSE_SECONDS,
                max_size=FRAME_BYTES_MAX,
            )
        except InvalidStatus as error:
            status = error.response.status_code
            raise Mismatch("the upgrade", "HTTP 101", f"HTTP {status}") from error
        except OSError as error:
            raise CannotConnect(f"cannot connect to {base}: {reason_of(error)}") from error
        except WebSocketException as error:
            raise Mismatch("the upgrade", "a WebSocket", str(error)) from error
        if connection.subprotocol != step.subprotocol:
            connection.transport.abort()
            raise Mismatch("subprotocol", str(step.subprotocol), str(connection.subprotocol))
        return cls(connection)

    async def send(self, step: Send, names: Names) -> None:
        """One message; a server that has closed already tells so where it is read."""
        match step:
            case Send(frame=frame) if frame is not msgspec.UNSET:
                message: str | bytes = msgspec.json.encode(names.fill(frame)).decode()
            case Send(text=str(text)):
                message = names.fill(text)
            case Send(binary=str(text)):
                message = names.fill(text).encode()
            case Send(fill=int(count)):
                message = "x" * count
            case _:
                raise Mismatch("the transcript", "something to send", "nothing")
        try:
            await self._connection.send(message)
        except ConnectionClosed as error:
            raise Mismatch("the connection", "an open one", str(error)) from error

    async def next(self) -> Json:
        """The next frame that is no broadcast."""
        if self._held:
            return self._held.popleft()
        while is_broadcast(frame := await self._read()):
            self._aside.append(frame)
        return frame

    async def next_broadcast(self) -> Json:
        """The next broadcast; what comes before it is held for whoever reads in order."""
        if self._aside:
            return self._aside.popleft()
        while not is_broadcast(frame := await self._read()):
            self._held.append(frame)
        return frame

    async def closed(self) -> int:
        """The code that the server closes with; no frame may precede it."""
        try:
            frame = await self.next()
        except _Ended as ended:
            return ended.code
        raise Mismatch("the connection", "its close", shown(frame))

    async def close(self, code: int = 1000) -> None:
        """Close it from here."""
        await self._connection.close(code)

    async def _read(self) -> Json:
        try:
            message = await self._connection.recv()
        except ConnectionClosed as error:
            raise _Ended(error.rcvd.code if error.rcvd else 1006) from error
        if isinstance(message, bytes):
            raise Mismatch("the connection", "a text message", f"{len(message)} binary bytes")
        try:
            return msgspec.json.decode(message)
        except msgspec.DecodeError as error:
            raise Mismatch("the connection", "JSON", shown(message)) from error


class _Ended(Mismatch):
    """The server closed a connection that was to go on, unless a close was waited for."""

    def __init__(self, code: int) -> None:
        super().__init__("the connection", "another frame", f"its close with {code}")
        self.code = code
