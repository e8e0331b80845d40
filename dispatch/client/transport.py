"""Where a client's bytes go, if not over the network.

Neighbours: `dial` opens a WebSocket on it and `line_http` asks over it; without one, `dial` and
`network` use the operating system's sockets. `dispatch.testing` has one within the process; a
program may bring its own (a Unix socket, a tunnel).
Invariant: a client does the same over any transport, byte for byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeVar

P = TypeVar("P", bound=asyncio.BaseProtocol)


class Transport(Protocol):
    """Opens lines to one daemon."""

    async def open_line(self, factory: Callable[[], P]) -> P:
        """Connect a protocol to the daemon, as a loop's `create_connection` does.

        Returns it after its `connection_made`; raises `OSError` where nobody answers.
        """
        ...
