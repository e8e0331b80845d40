"""What an HTTP exchange is to those who ask: a request, and a reply read piece by piece.

Neighbours: `network` carries it over the operating system's sockets, `line_http` over any other
`Transport`; `http` and `events` ask.
Invariant: a carrier raises `DispatchError` and nothing else, for a reply of any status returns.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Final, Literal, Protocol, Self

import msgspec

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]

PIECE_BYTES: Final = 64 * 1024


class Request(msgspec.Struct, frozen=True):
    """What is asked. `patience_seconds`: for the head of the reply, and between its bytes."""

    method: Method
    path: str
    headers: Mapping[str, str]
    content: bytes | None
    patience_seconds: float


class Reply(Protocol):
    """A reply whose head is there; leave it with `async with`."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    def header(self, name: str) -> str | None:
        """A header's value, whatever the case of its name."""
        ...

    async def piece(self) -> bytes:
        """The next bytes of the body as they come; empty at its end."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class Carrier(Protocol):
    """Carries requests to one daemon."""

    async def open(self, request: Request) -> Reply:
        """Send a request and wait for the head of its reply."""
        ...


async def read_all(reply: Reply, bytes_max: int | None = None) -> bytes:
    """The rest of a body, or its beginning up to some bound."""
    pieces, size = [], 0
    while (bytes_max is None or size < bytes_max) and (piece := await reply.piece()):
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)
