"""One turn as lines, for who asked for it over HTTP: from its first event through its seal.

Neighbours: `routes_chat` streams the parts; the ring of `runtime.feed` has what is shown,
`runtime.history` what fell out of it; `protocol.chat.frames` writes the lines.
Invariant: reading never waits for the turn and the turn never for reading; every event of the turn
comes once and in order, and a stream that can show no more ends, with an `error` line that says why
where there was no seal.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from dispatch.core.commands import Accepted
from dispatch.core.events import ErrorEvent, encode_event
from dispatch.core.identity import ConversationId, Principal, TurnId
from dispatch.core.replay import Entry, Gap
from dispatch.protocol.chat.frames import event_line
from dispatch.protocol.sse import ndjson
from dispatch.runtime.live import Live
from dispatch.server.call import Site

_SEALED: Final = b'{"type":"turn-sealed"'


def error_line(conversation: ConversationId, turn: TurnId, message: str, code: str) -> bytes:
    """A line that is in no log."""
    entry = Entry(0, turn, encode_event(ErrorEvent(message, code)))
    return ndjson(event_line(conversation, entry) or b"")


class TurnStream:
    """See the module; a `watchers.SealWatcher` while it runs."""

    def __init__(
        self, site: Site, principal: Principal, told: Accepted, beside: TurnId | None
    ) -> None:
        """`told` is what became of the send; `beside` the turn that a steer went into."""
        self._site = site
        self._principal = principal
        self._told = told
        self._turn = told.turn
        self._shown = {told.turn} if beside is None else {told.turn, beside}
        self._after = told.offset
        # Of a repeat: what the turn had become.
        self._found: str | None = None
        self._changed = asyncio.Event()

    async def parts(self) -> AsyncGenerator[bytes, None]:
        """Lines in writes of up to `catch_up_bytes_max`, as they are shown."""
        conversations = self._site.hub.conversations
        async with conversations.using(self._principal, self._told.conversation) as live:
            with self._watching(live):
                if self._told.duplicate:
                    await self._find(live)
                while True:
                    entries = await self._read(live)
                    if entries:
                        self._after = entries[-1].offset
                        lines, sealed = self._lines(live.record.id, entries)
                        if lines:
                            yield lines
                        if sealed:
                            return
                    elif self._is_running(live):
                        await live.feed.wait(self._after)
                    elif self._may_still_run(live):
                        await self._until_changed(live)
                    else:
                        if ending := self._ending(live):
                            yield error_line(live.record.id, self._turn, *ending)
                        return

    # -- watchers.SealWatcher, and the queue's watcher ---------------------------------------------

    def sealed(self, live: Live, turn: TurnId) -> None:
        """See `runtime.watchers.SealWatcher`."""
        self._changed.set()

    def _queue_changed(self, live: Live) -> None:
        self._changed.set()

    @contextmanager
    def _watching(self, live: Live) -> Iterator[None]:
        live.seal_watchers[self] = None
        live.queue_watchers[self._queue_changed] = None
        try:
            yield
        finally:
            live.seal_watchers.pop(self, None)
            live.queue_watchers.pop(self._queue_changed, None)

    # -- where the turn is ---------------------------------------------------------------------

    async def _find(self, live: Live) -> None:
        """Begin where the turn of a repeated send began, which may be long ago."""
        record = await self._site.services.store.turn(live.record.key, self._turn)
        if record is None:
            return
        self._found = record.state
        if record.first_offset is not None:
            self._after = record.first_offset - 1
        if record.state == "steering" and live.current is not None:
            self._shown.add(live.current.id)

    def _is_running(self, live: Live) -> bool:
        """Whether more of what is shown will come, its seal at the latest."""
        running = live.state.running
        return running is not None and running.id in self._shown

    def _may_still_run(self, live: Live) -> bool:
        if live.is_deleting or self._site.services.is_draining:
            return False
        return any(waiting.turn == self._turn for waiting in live.state.queue)

    async def _until_changed(self, live: Live) -> None:
        """Wait for a word about the queue; what other turns say meanwhile is passed over.

        Draining and deleting seal the turn ahead, and so are noticed as well.
        """
        self._changed.clear()
        await self._changed.wait()
        current = live.current
        if current is not None and current.id == self._turn and current.first_offset is not None:
            self._after = max(self._after, current.first_offset - 1)

    def _ending(self, live: Live) -> tuple[str, str] | None:
        """Why there was no seal; None where a steer's text is part of a turn that was shown."""
        if live.is_deleting:
            return "the conversation was deleted", "gone"
        if any(waiting.turn == self._turn for waiting in live.state.queue):
            return "the daemon is shutting down; the message stays queued", "unavailable"
        if self._found == "sealed":
            return "this turn's events were pruned; its history is kept", "pruned"
        if self._found == "absorbed":
            return "the message was taken into a turn that is over", "absorbed"
        if self._told.place == "steered":
            return None
        return "the queued message was cancelled", "cancelled"

    # -- reading -------------------------------------------------------------------------------

    async def _read(self, live: Live) -> Sequence[Entry]:
        """What follows, from the ring or the journal; nothing at the head."""
        bytes_max = self._site.limits.catch_up_bytes_max
        while True:
            found = live.feed.ring.read(self._after, bytes_max=bytes_max)
            if not isinstance(found, Gap):
                return found
            entries = await self._site.hub.history.events(live.record.key, self._after)
            if entries or live.in_flight_offset <= self._after:
                return entries
            # Only events of sealed turns are pruned: go on where the running one begins.
            self._after = live.in_flight_offset

    def _lines(self, conversation: ConversationId, entries: Sequence[Entry]) -> tuple[bytes, bool]:
        """The lines of the turns that are shown, and whether the seal is among them."""
        lines = []
        for entry in entries:
            if entry.turn not in self._shown:
                continue
            line = event_line(conversation, entry)
            if line is not None:
                lines.append(ndjson(line))
            if entry.turn == self._turn and entry.payload.startswith(_SEALED):
                return b"".join(lines), True
        return b"".join(lines), False
