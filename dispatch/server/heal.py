"""Cures what deployed clients of Part 1 cannot: a `turn-sealed` that they missed or met too early.

Neighbours: `connection` joins the conversations it watches, `runtime.live` tells of every seal.
Source: `protocol/native.md`, 1.7. Connections of Part 2 are never told anything twice.
Invariant: a repeat is sent only while its conversation is idle, and carries `repeat: true`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from dispatch.core.identity import TurnId
from dispatch.runtime.clock import Clock
from dispatch.runtime.history import History
from dispatch.runtime.live import Live
from dispatch.server.websocket import frame_text

if TYPE_CHECKING:
    from dispatch.server.connection import Connection

_REPEAT_SECONDS: Final = 1.0
_RECENT_MS: Final = 120_000


class Healer:
    """Who is to be healed, by conversation, and the repeats that are due."""

    def __init__(self, history: History, clock: Clock) -> None:
        """Begin with nobody."""
        self._history = history
        self._clock = clock
        self._members: dict[Live, dict[Connection, None]] = {}
        self._due: dict[Live, asyncio.TimerHandle] = {}

    def join(self, live: Live, connection: Connection) -> None:
        """Heal this connection for this conversation."""
        self._members.setdefault(live, {})[connection] = None
        live.seal_watchers[self] = None

    def leave(self, live: Live, connection: Connection) -> None:
        """No longer."""
        members = self._members.get(live)
        if members is None:
            return
        members.pop(connection, None)
        if not members:
            del self._members[live]
            live.seal_watchers.pop(self, None)
            due = self._due.pop(live, None)
            if due is not None:
                due.cancel()

    async def heal(self, live: Live, connection: Connection) -> None:
        """Right after a subscribe to an idle conversation: say what sealed last, if recently."""
        if not _rests(live):
            return
        last = await self._history.last_sealed(live.record.key)
        if last is None or not _rests(live) or not connection.is_open:
            return
        turn, sealed_at_ms = last
        if self._clock.now_ms() - sealed_at_ms <= _RECENT_MS:
            connection.write(_sealed_frame(live, turn))

    def sealed(self, live: Live, turn: TurnId) -> None:
        """See `runtime.watchers.SealWatcher`."""
        due = self._due.pop(live, None)
        if due is not None:
            due.cancel()
        loop = asyncio.get_running_loop()
        self._due[live] = loop.call_later(_REPEAT_SECONDS, self._repeat, live, turn)

    def close(self) -> None:
        """Cancel what is due."""
        for due in self._due.values():
            due.cancel()
        self._due.clear()

    def _repeat(self, live: Live, turn: TurnId) -> None:
        self._due.pop(live, None)
        if not _rests(live):
            return
        frame = _sealed_frame(live, turn)
        for connection in self._members.get(live, ()):
            watch = connection.watches.get(live.record.id)
            # One that is still catching up gets the seal itself soon enough.
            if watch is not None and watch.cursor.is_hot:
                connection.write(frame)


def _rests(live: Live) -> bool:
    return live.current is None


def _sealed_frame(live: Live, turn: TurnId) -> bytes:
    return frame_text(
        b'{"type":"chat.delta","event":{"type":"turn-sealed","conversationId":"%b","turnId":"%b",'
        b'"repeat":true}}' % (live.record.id.encode(), turn.encode())
    )
