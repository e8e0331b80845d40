"""A dialect with its WebSocket framing: encoded once, framed once, shared by all who follow in it.

Neighbours: `runtime.feed` calls it, `protocol.dialect` says what, `websocket` how it is framed.
Invariant: there is one instance per wire form, so that the feed can group its followers by it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dispatch.core.identity import ConversationId
from dispatch.core.notices import AnyNotice
from dispatch.core.replay import Entry
from dispatch.protocol.dialect import Dialect
from dispatch.server.websocket import frame_text


class FramedEncoding:
    """See `runtime.feed.Encoding`."""

    __slots__ = ("_dialect", "_words")

    def __init__(self, dialect: Dialect, *others: Callable[[AnyNotice], bytes | None]) -> None:
        """Frame what a dialect encodes; `others` have words for notices that it has none for."""
        self._dialect = dialect
        self._words = (dialect.notice, *others)

    def entries(self, conversation: ConversationId, entries: Sequence[Entry]) -> bytes:
        """Framed bytes of shown entries."""
        frames = self._dialect.entries(conversation, entries)
        if len(frames) == 1:
            return frame_text(frames[0])
        return b"".join([frame_text(frame) for frame in frames])

    def notice(self, notice: AnyNotice) -> bytes:
        """Framed bytes of a notice; empty where nobody has a word for it."""
        for word in self._words:
            frame = word(notice)
            if frame is not None:
                return frame_text(frame)
        return b""
