"""Server-sent events over connections that break: read, resumed, each frame once.

Neighbours: `groups` and `chats` say what to open and what a frame means, `http` opens it, and
`patience` decides about the next attempt; `mirror` brings the same events over a WebSocket. Frames
are plain dicts, as the daemon wrote them.
Invariant: ids only grow here: a frame whose id was seen is not given out again, whatever the daemon
repeats, and a resumed stream asks for what follows the last id.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import anyio
import msgspec

from dispatch.client.exchange import Method
from dispatch.client.failures import ConnectionLost
from dispatch.client.frames import Reconnecting
from dispatch.client.http import HttpApi
from dispatch.client.patience import Patience
from dispatch.errors import DispatchError, PeerError

Frame = dict[str, Any]

# A frame carries the whole text of a turn at most (64 MiB by default), escaped.
EVENT_BYTES_MAX: Final = 256 * 1024 * 1024

_HEADERS: Final = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}


class Event(NamedTuple):
    """One frame; without an id it has no place in the log."""

    id: int | None
    frame: Frame


class Events(Protocol):
    """Events as they come, to be closed; over connections that break."""

    def __aiter__(self) -> AsyncIterator[Event | Reconnecting]: ...

    def aclose(self) -> Awaitable[object]:
        """Be done with it."""
        ...


class Wish(NamedTuple):
    """What to open. A POST is repeated as it is, a GET goes on behind the last id."""

    method: Method
    path: str
    body: object = None


@dataclass(slots=True)
class Place:
    """The id of the last frame, or None: whoever watches may move it."""

    after: int | None = None


class EventLines:
    """Bytes to events, however they are cut."""

    def __init__(self) -> None:
        """Begin a stream."""
        self._rest: list[bytes] = []
        self._rest_bytes = 0
        self._id: int | None = None
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[Event]:
        """The events that this piece completes."""
        *ended, rest = piece.split(b"\n")
        found = []
        for index, part in enumerate(ended):
            line = b"".join((*self._rest, part)) if index == 0 else part
            event = self._line(line.removesuffix(b"\r"))
            if event is not None:
                found.append(event)
        if ended:
            self._rest, self._rest_bytes = [], 0
        self._rest.append(rest)
        self._rest_bytes += len(rest)
        if self._rest_bytes > EVENT_BYTES_MAX:
            raise PeerError(f"an event of the daemon has more than {EVENT_BYTES_MAX} bytes")
        return found

    def _line(self, line: bytes) -> Event | None:
        if not line:
            return self._event()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"id":
            self._id = int(value) if value.isdigit() else None
        return None

    def _event(self) -> Event | None:
        data, self._data = b"\n".join(self._data), []
        number, self._id = self._id, None
        if not data:
            return None
        try:
            return Event(number, msgspec.json.decode(data, type=Frame))
        except msgspec.DecodeError as error:
            raise PeerError(f"an event of the daemon makes no sense: {error}") from error


async def follow_events(
    http: HttpApi, wish: Wish, place: Place, is_last: Callable[[Frame], bool] = lambda _: False
) -> AsyncGenerator[Event | Reconnecting, None]:
    """Events as they come, over as many connections as it takes, up to the last.

    Raises what makes going on impossible.
    """
    patience = Patience(http.options, is_write=wish.method != "GET")
    while True:
        failure: DispatchError = ConnectionLost("the daemon ended the stream")
        try:
            async with aclosing(_stream(http, wish, place.after, patience)) as events:
                async for event in events:
                    if event.id is not None:
                        if place.after is not None and event.id <= place.after:
                            continue
                        place.after = event.id
                    yield event
                    if is_last(event.frame):
                        return
        except DispatchError as error:
            failure = error
        # Raises if that was it; before the word, since nothing will be connected again.
        pause = patience.pause_after(failure)
        yield Reconnecting(failure.message)
        await anyio.sleep(pause)


async def _stream(
    http: HttpApi, wish: Wish, after: int | None, patience: Patience
) -> AsyncGenerator[Event, None]:
    """The events of one connection."""
    headers = dict(_HEADERS)
    if wish.method == "GET" and after is not None:
        headers["Last-Event-ID"] = str(after)
    async with await http.open(wish.method, wish.path, wish.body, headers=headers) as reply:
        kind = (reply.header("Content-Type") or "").partition(";")[0].strip().lower()
        if kind != _HEADERS["Accept"]:
            # Something in between that answers for the daemon would be asked for ever.
            raise PeerError(f"the reply to {wish.method} {wish.path} is no event stream")
        patience.worked()
        lines = EventLines()
        while piece := await reply.piece():
            for event in lines.feed(piece):
                yield event
