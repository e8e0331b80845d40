"""All WebSockets of a listener: which are open, what they share, how long they are waited for.

Neighbours: `websocket` is one of them; `listener` owns this and closes them all when it drains.
The parsers in here are websockets' `ServerProtocol`; between two messages one has no state of its
connection, so it can serve another. The reference cycles that it and asyncio's transports contain
are broken here: a daemon whose collector seldom runs would otherwise keep every closed connection.
Invariant: a parser in the pool has read whole messages only.
"""

from __future__ import annotations

import asyncio
import logging
from types import GeneratorType
from typing import TYPE_CHECKING, Final

from websockets.protocol import OPEN
from websockets.server import ServerProtocol as Parser
from websockets.streams import StreamReader

from dispatch.errors import CLOSE_REASONS, CloseCode
from dispatch.server.deadlines import Deadlines
from dispatch.settings import Limits

if TYPE_CHECKING:
    from dispatch.server.websocket import WebSocket

__all__ = ["Parser", "Sockets", "at_rest", "end", "untie"]

# A peer that does not answer a close frame, or does not close its half, is cut after this.
CLOSE_SECONDS: Final = 2.0

# More idle parsers than messages are ever half received at one moment would be waste.
PARSERS_IDLE_MAX: Final = 64

# A control frame fits between the fragments of a message of the full size.
_CONTROL_BYTES_MAX: Final = 125

# Below a warning websockets logs frames, that is, what people say to each other.
_logger = logging.getLogger("dispatch.server.websocket")
_logger.setLevel(logging.WARNING)

_WAITING_FOR_A_FRAME: Final = StreamReader.at_eof.__code__


def at_rest(parser: Parser) -> bool:
    """Whether the parser waits for the first byte of a message.

    An empty buffer does not prove it: the parser may have consumed a header and wait for the
    payload. So its suspended generators are asked where they stand; should a version of websockets
    arrange them otherwise, no parser is ever at rest, and each connection keeps its own.
    """
    if parser.current_size is not None or parser.state is not OPEN:
        return False
    generator: object = parser.parser
    while isinstance(generator, GeneratorType):
        if generator.gi_code is _WAITING_FOR_A_FRAME:
            return True
        generator = generator.gi_yieldfrom
    return False


def end(parser: Parser) -> None:
    """Close the parser's generator, whose frame holds the parser that holds it."""
    parser.parser.close()
    parser.parser_exc = None


def untie(transport: asyncio.BaseTransport) -> None:
    """Drop the methods of itself that a transport of asyncio keeps in its attributes.

    Found by what they are, not by name: which there are depends on the version of Python.
    """
    attributes: dict[str, object] | None = getattr(transport, "__dict__", None)
    if attributes is not None:
        for name, value in list(attributes.items()):
            if getattr(value, "__self__", None) is transport:
                del attributes[name]


class Sockets:
    """What the connections of one listener have in common."""

    def __init__(self, limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        """Derive what every frame would otherwise compute again."""
        self.limits = limits
        self.loop = loop
        # From the upgrade until TCP is gone.
        self.open: set[WebSocket] = set()
        self.closing: Deadlines[WebSocket] = Deadlines(loop, CLOSE_SECONDS, _cut)
        self.unauthenticated: Deadlines[WebSocket] = Deadlines(
            loop, limits.auth_seconds_max, _refuse
        )
        self.seconds_per_frame = 1 / limits.frames_per_second_max
        self.burst_seconds = limits.frames_burst_max / limits.frames_per_second_max
        # Set by who waits for the last connection to go.
        self.emptied: asyncio.Event | None = None
        self._parsers: list[Parser] = []

    def take_parser(self) -> Parser:
        """A parser that has read nothing, or nothing but whole messages."""
        if self._parsers:
            return self._parsers.pop()
        max_size = self.limits.frame_bytes_max + _CONTROL_BYTES_MAX
        return Parser(state=OPEN, max_size=max_size, logger=_logger)

    def give_parser(self, parser: Parser) -> None:
        """Take back one that is at rest."""
        if len(self._parsers) < PARSERS_IDLE_MAX:
            self._parsers.append(parser)
        else:
            end(parser)

    def gone(self, websocket: WebSocket) -> None:
        """TCP is over for this one."""
        self.open.discard(websocket)
        self.closing.discard(websocket)
        self.unauthenticated.discard(websocket)
        if self.emptied is not None and not self.open:
            self.emptied.set()

    def close_all(self, code: CloseCode) -> None:
        """Say goodbye to everyone."""
        for websocket in list(self.open):
            websocket.close(code, CLOSE_REASONS[code])

    def abort_all(self) -> None:
        """Cut everyone off, and every timer with them."""
        for websocket in list(self.open):
            websocket.abort()
        self.closing.cancel()
        self.unauthenticated.cancel()
        for parser in self._parsers:
            end(parser)
        self._parsers.clear()


def _cut(websocket: WebSocket) -> None:
    websocket.abort()


def _refuse(websocket: WebSocket) -> None:
    websocket.close(CloseCode.UNAUTHORIZED, CLOSE_REASONS[CloseCode.UNAUTHORIZED])
