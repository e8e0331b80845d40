"""A connection lent to the body of one response: bytes go out in the step in which they come up.

Neighbours: `http1` puts itself into the scope and tells of the peer's pace, `groups.stream` writes;
the head of the response has gone out by way of ASGI, and its end will.
Invariant: what is written is framed already; a tap that is closed touches its connection no more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from starlette.types import Scope

if TYPE_CHECKING:
    from dispatch.server.http1 import Http1

# Where a request's scope has a weak reference to its connection.
EXTENSION: Final = "dispatch.connection"


class Tap:
    """See the module."""

    __slots__ = ("_http", "_paused")

    def __init__(self, http: Http1, paused: Callable[[], None]) -> None:
        """`paused` is called when the peer no longer keeps up."""
        self._http: Http1 | None = http
        self._paused = paused
        http.tap = self

    @classmethod
    def of(cls, scope: Scope, paused: Callable[[], None]) -> Tap | None:
        """The connection of a request whose answer's head is sent; None where it is gone."""
        http = scope["extensions"][EXTENSION]()
        return None if http is None or http.transport.is_closing() else cls(http, paused)

    @property
    def is_open(self) -> bool:
        """Whether a write would still be sent."""
        return self._http is not None and not self._http.transport.is_closing()

    @property
    def is_writable(self) -> bool:
        """Whether the peer keeps up."""
        return self._http is not None and not self._http.flow.write_paused

    def write(self, data: bytes) -> None:
        """Send bytes of the body."""
        if self._http is not None and not self._http.transport.is_closing():
            self._http.transport.write(data)

    async def until_writable(self) -> None:
        """Return once the peer keeps up, or is lost."""
        if self._http is not None:
            await self._http.flow.drain()

    def pause(self) -> None:
        """The peer does not keep up."""
        self._paused()

    def close(self) -> None:
        """The body is over, or the connection."""
        http, self._http = self._http, None
        if http is not None and http.tap is self:
            http.tap = None
