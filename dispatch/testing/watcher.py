"""Somebody who follows conversations, as a connection does, and keeps what was shown.

Neighbours: `runtime.feed` writes to it; `harness` makes one a conversation. Its wire form is plain:
every entry as it is, so that a test sees offsets and payloads and not a dialect.
Invariant: `entries` are in the order they were shown, and gap-free, or `gap` says where it ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from dispatch.core.events import AnyEvent, TurnSealed, decode_event
from dispatch.core.identity import LOCAL, ConversationId, Principal, TurnId
from dispatch.core.notices import AnyNotice
from dispatch.core.replay import Entry, Gap
from dispatch.runtime.feed import Cursor, Encoding, Feed

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(tuple[int, str, bytes, str])


class PlainEncoding:
    """Entries as they are, one behind the other; no notices."""

    def entries(self, conversation: ConversationId, entries: Sequence[Entry]) -> bytes:
        """See `runtime.feed.Encoding`."""
        records = [_ENCODER.encode(tuple(entry)) for entry in entries]
        return b"".join(len(record).to_bytes(4, "big") + record for record in records)

    def notice(self, notice: AnyNotice) -> bytes:
        """See `runtime.feed.Encoding`."""
        return b""


PLAIN = PlainEncoding()


class Watcher:
    """One follower of one feed."""

    def __init__(
        self,
        feed: Feed[Entry],
        *,
        after: int,
        principal: Principal = LOCAL,
        encoding: Encoding = PLAIN,
    ) -> None:
        """Stand after an offset, having been shown nothing."""
        self.account = principal.account
        self.user = principal.user
        self.outgoing = b""
        self.entries: list[Entry] = []
        self.gap: Gap | None = None
        self._feed = feed
        self._encoding = encoding
        self._arrived = asyncio.Event()
        self.cursor = Cursor(feed, self, encoding, after)

    @property
    def encoding(self) -> Encoding:
        """See `runtime.feed.Follower`."""
        return self._encoding

    @property
    def events(self) -> list[AnyEvent]:
        """What was shown."""
        return [decode_event(entry.payload) for entry in self.entries]

    @property
    def kinds(self) -> list[str]:
        """The types of what was shown."""
        return [str(type(event).__struct_config__.tag) for event in self.events]

    @property
    def offsets(self) -> list[int]:
        """The offsets of what was shown."""
        return [entry.offset for entry in self.entries]

    def write(self, data: bytes) -> None:
        """See `runtime.feed.Follower`."""
        while data:
            size = int.from_bytes(data[:4], "big")
            offset, turn, payload, delta = _DECODER.decode(data[4 : 4 + size])
            self.entries.append(Entry(offset, TurnId(turn), payload, delta))
            data = data[4 + size :]
        self._arrived.set()

    def resume(self, *, bytes_max: int = 4096) -> None:
        """Read up to the head and stay there; where the ring does not reach back, `gap` is set."""
        while not self.cursor.is_hot and self.cursor.offset < self._feed.head:
            data = self._feed.read(self.cursor, bytes_max=bytes_max)
            if isinstance(data, Gap):
                self.gap = data
                return
            self.write(data)
        if not self.cursor.is_hot:
            self._feed.join(self.cursor)

    def pause(self) -> None:
        """Take no more for now."""
        self._feed.leave(self.cursor)

    async def until(self, condition: Callable[[Watcher], bool]) -> None:
        """Return once what was shown is enough."""
        while not condition(self):
            self._arrived.clear()
            await self._arrived.wait()

    async def until_kind(self, kind: str, times: int = 1) -> None:
        """Return once so many events of a type were shown."""
        await self.until(lambda watcher: watcher.kinds.count(kind) >= times)

    async def until_sealed(self, times: int = 1) -> None:
        """Return once so many turns were shown to their end."""
        kind = str(TurnSealed.__struct_config__.tag)
        await self.until_kind(kind, times)
