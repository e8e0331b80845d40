"""The one sweep over all WebSocket connections, whatever they speak: who is alive, who is stalled.

Neighbours: `connections` runs it, `connection` and `ahp.connection` are what is swept.
Invariant: a connection is closed for not draining, for silence or for its credential, and never
for being far behind.
"""

from __future__ import annotations

from typing import Protocol

from dispatch.errors import CloseCode
from dispatch.runtime.clock import Clock
from dispatch.server.credential import Credential
from dispatch.server.gate import Doorkeeper
from dispatch.server.websocket import WebSocket
from dispatch.settings import Limits


class Swept(Protocol):
    """A connection; `stalled_since` and `stalled_bytes` are the sweep's to set."""

    credential: Credential | None
    stalled_since: float | None
    stalled_bytes: int

    @property
    def websocket(self) -> WebSocket | None:
        """The socket, until it is lost."""
        ...

    def close(self, code: CloseCode) -> None:
        """Close with a published code."""
        ...


class Sweep:
    """Every connection that is open, and those that are paused."""

    def __init__(self, limits: Limits, keeper: Doorkeeper, clock: Clock) -> None:
        """`keeper` knows which credentials still stand."""
        self._limits = limits
        self._keeper = keeper
        self._clock = clock
        self.open: dict[Swept, None] = {}
        self.paused: dict[Swept, None] = {}
        self.stalled_total = 0

    def add(self, connection: Swept) -> None:
        """It opened."""
        self.open[connection] = None

    def remove(self, connection: Swept) -> None:
        """It is lost."""
        self.open.pop(connection, None)
        self.paused.pop(connection, None)

    def pause(self, connection: Swept) -> None:
        """Its peer does not keep up."""
        connection.stalled_since = self._clock.monotonic()
        connection.stalled_bytes = 0
        self.paused[connection] = None

    def resume(self, connection: Swept) -> None:
        """It does again."""
        connection.stalled_since = None
        self.paused.pop(connection, None)

    def judge(self, now: float) -> None:
        """Look at all of them; `now` in seconds of the monotonic clock."""
        for connection in list(self.paused):
            self._judge_stalled(connection, now)
        for connection in list(self.open):
            self._judge_alive(connection, now)

    def _judge_stalled(self, connection: Swept, now: float) -> None:
        """Being far behind is fine; not draining a byte for too long is not, nor is to be told more
        and more meanwhile: answers and notices are written at once.
        """
        websocket = connection.websocket
        if websocket is None or connection.stalled_since is None:
            return
        behind = websocket.bytes_behind
        # What waits of that which waited when it was paused: only draining changes it.
        waiting = websocket.bytes_waiting - behind
        is_draining = waiting != connection.stalled_bytes
        if is_draining:
            connection.stalled_bytes = waiting
            connection.stalled_since = now
        stalled_s = now - connection.stalled_since
        if behind > self._limits.frame_bytes_max or stalled_s >= self._limits.stall_seconds_max:
            self.stalled_total += 1
            connection.close(CloseCode.STALLED)

    def _judge_alive(self, connection: Swept, now: float) -> None:
        websocket, credential = connection.websocket, connection.credential
        if websocket is None:
            return
        if credential is not None and not self._keeper.is_valid(credential):
            connection.close(CloseCode.UNAUTHORIZED)
            return
        unanswered = websocket.unanswered_since
        if unanswered is not None:
            # Behind bytes that still wait, an answer takes as long as they do.
            limits, waits = self._limits, websocket.bytes_waiting > 0
            patience = limits.stall_seconds_max if waits else limits.heartbeat_answer_seconds
            if now - unanswered >= patience:
                connection.close(CloseCode.PING_TIMEOUT)
        elif now - websocket.last_pong >= self._limits.heartbeat_seconds:
            websocket.ping(now)
