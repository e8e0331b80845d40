"""One connection's watch over one conversation: a cursor, and the ways it gets to the head.

Neighbours: `connection` opens, follows and drops watches, `runtime.feed` has the ring and the hot
set, `runtime.history` the journal behind it.
Invariant: frames of a conversation leave in order, without gap or duplicate: from the ring while it
reaches back far enough, from the journal before that, and by snapshot when neither does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from dispatch.core.content import Fold
from dispatch.core.events import decode_event
from dispatch.core.identity import TurnId
from dispatch.core.replay import Entry, Gap
from dispatch.core.turn import Turn, evolve
from dispatch.protocol.chat.frames import encode
from dispatch.runtime.feed import Cursor
from dispatch.runtime.history import EVENTS_PAGE, History
from dispatch.runtime.live import Live

if TYPE_CHECKING:
    from dispatch.server.connection import Connection


class Watch:
    """A subscription. The conversation stays in memory while one lives."""

    __slots__ = ("connection", "cursor", "is_dropped", "is_following", "live")

    def __init__(self, connection: Connection, live: Live, offset: int) -> None:
        """Stand after `offset`, cold; the caller has loaded (and so holds) the conversation."""
        self.connection = connection
        self.live = live
        self.cursor = Cursor(live.feed, connection, connection.encoding, offset)
        # Somebody already brings it to the head: nobody else may, or frames would double.
        self.is_following = False
        # Nothing is written for it any more, whatever was being read for it.
        self.is_dropped = False
        live.subscribers[self] = None

    @property
    def has_gap(self) -> bool:
        """Whether the ring no longer reaches back to the cursor."""
        return not self.cursor.is_hot and self.cursor.offset < self.live.feed.ring.floor

    def catch_up(self) -> bool:
        """Write what the ring has, as far as the transport takes it; True once at the head."""
        cursor, feed, connection = self.cursor, self.live.feed, self.connection
        if cursor.is_hot:
            return True
        bytes_max = connection.hub.limits.catch_up_bytes_max
        while connection.is_writable:
            if cursor.offset == feed.head:
                feed.join(cursor)
                return True
            data = feed.read(cursor, bytes_max=bytes_max)
            if isinstance(data, Gap):
                return False
            connection.write(data)
        return False

    async def catch_up_from_journal(self, history: History) -> bool:
        """Write what fell out of the ring; False if it was pruned and a snapshot is needed."""
        cursor, feed, connection = self.cursor, self.live.feed, self.connection
        while connection.is_open and cursor.offset < feed.ring.floor:
            await connection.until_writable()
            # The disk may be ahead of what was shown: a cursor past the head would never stop.
            due = min(EVENTS_PAGE, feed.head - cursor.offset)
            entries = await history.events(self.live.record.key, cursor.offset, due)
            if self.is_dropped:
                return True
            if not entries:
                return False
            cursor.offset = entries[-1].offset
            connection.write(connection.encoding.entries(self.live.record.id, entries))
        return True

    async def snapshot(self, history: History) -> None:
        """Write `chat.snapshot` of this instant and go on from there."""
        live, head = self.live, self.live.feed.head
        self.cursor.offset = head
        frame: dict[str, Any] = {
            "type": "chat.snapshot",
            "conversationId": live.record.id,
            "position": self.connection.position(head),
            "lastSeq": live.record.last_seq,
        }
        if live.past.superseded:
            frame["superseded"] = live.past.superseded
        current, connection = live.current, self.connection
        if current is None or current.first_offset is None:
            await connection.until_writable()
            self._send(frame)
            return
        async with history.holding(current.bytes_total):
            entries = await history.between(live, current.first_offset - 1, head)
            frame["turn"] = {"turnId": current.id, "startedAt": current.started_ms}
            if current.body.resumes is not None:
                frame["turn"]["resumes"] = current.body.resumes
            frame["turn"] |= _fold(current.id, entries)
            await connection.until_writable()
            self._send(frame)
            # Until it has left, it is held.
            await connection.until_writable()

    def _send(self, frame: dict[str, Any]) -> None:
        if not self.is_dropped:
            self.connection.send(encode(frame))

    def drop(self) -> None:
        """Stop watching."""
        self.is_dropped = True
        self.live.feed.leave(self.cursor)
        self.live.subscribers.pop(self, None)

    def deleted(self, live: Live) -> None:
        """See `runtime.watchers.Subscriber`."""
        self.connection.conversation_deleted(live)


def _fold(turn_id: TurnId, entries: list[Entry]) -> dict[str, Any]:
    """The chunks so far, and the requests that are open."""
    fold, turn = Fold(), Turn(id=turn_id)
    for entry in entries:
        event = decode_event(entry.payload)
        turn = evolve(turn, event)
        fold.add(event, entry.payload)
    fold.finish()
    _, data = fold.take()
    chunks = [msgspec.Raw(b"{%b}" % line) for line in data.split(b"\n")[:-1]]
    requests = []
    for request in turn.open_requests:
        fields = msgspec.to_builtins(request)
        del fields["type"]
        requests.append(fields)
    return {"chunks": chunks, "requests": requests}
