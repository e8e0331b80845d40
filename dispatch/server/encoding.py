"""A dialect with its WebSocket framing: encoded once, framed once, shared by all who follow in it.

Neighbours: `runtime.feed` calls it, `protocol.dialect` says what, `websocket` how it is framed.
Invariant: there is one instance per wire form, so that the feed can group its followers by it.
"""

from __future__ import annotations

from collections.abc import Sequence

from dispatch.core.identity import ConversationId
from dispatch.core.notices import AnyNotice
from dispatch.core.replay import Entry
from dispatch.protocol.dialect import Dialect
from dispatch.server.websocket import frame_text


class FramedEncoding:
    """See `runtime.feed.Encoding`."""

    __slots__ = ("_dialect",)

    def __init__(self, dialect: Dialect) -> None:
        """Frame what a dialect encodes."""
        self._dialect = dialect

    def entries(self, conversation: ConversationId, entries: Sequence[Entry]) -> bytes:
        """Framed bytes of shown entries."""
        frames = self._dialect.entries(conversation, entries)
        if len(frames) == 1:
            return frame_text(frames[0])
        return b"".join([frame_text(frame) for frame in frames])

    def notice(self, notice: AnyNotice) -> bytes:
        """Framed bytes of a notice; empty where the dialect has no word for it."""
        frame = self._dialect.notice(notice)
        return b"" if frame is None else frame_text(frame)
