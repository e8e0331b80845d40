"""Who types in a chat session, shown on that person's other devices: nothing of it is kept.

Neighbours: `chats` is told by the routes and by each send, `chats.streams` shows it.
Invariant: whoever was shown to type is shown to have stopped, by word, by a send, or by time.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

from dispatch.core.identity import AccountId
from dispatch.protocol.sessions.frames import user_typing
from dispatch.runtime.chats.streams import ChatStreams
from dispatch.runtime.chats.timeline import ChatTimeline
from dispatch.runtime.clock import Clock

TYPING_SECONDS: Final = 6.0

_Session = tuple[AccountId, str]


class ChatTyping:
    """See the module."""

    def __init__(self, streams: ChatStreams, clock: Clock) -> None:
        """Nobody types."""
        self._streams = streams
        self._clock = clock
        self._timers: dict[_Session, dict[str | None, asyncio.TimerHandle]] = {}

    def note(self, timeline: ChatTimeline, device: str | None, *, typing: bool) -> None:
        """A device says that its user types, or does not any more."""
        was_typing = self._forget(timeline, device)
        if typing:
            timers = self._timers.setdefault(_session(timeline), {})
            loop = asyncio.get_running_loop()
            end = partial(self.note, timeline, device, typing=False)
            timers[device] = loop.call_later(TYPING_SECONDS, end)
        elif not was_typing:
            return
        self._show(timeline, device, typing=typing)

    def sent(self, timeline: ChatTimeline) -> None:
        """A message ends it, on whatever device it was typed."""
        for device in list(self._timers.get(_session(timeline), ())):
            self.note(timeline, device, typing=False)

    def _forget(self, timeline: ChatTimeline, device: str | None) -> bool:
        timers = self._timers.get(_session(timeline), {})
        timer = timers.pop(device, None)
        if timer is None:
            return False
        timer.cancel()
        if not timers:
            del self._timers[_session(timeline)]
        return True

    def _show(self, timeline: ChatTimeline, device: str | None, *, typing: bool) -> None:
        frame = user_typing(timeline.record.id, typing, device, self._clock.now_ms())
        self._streams.aside(timeline.stream, frame)


def _session(timeline: ChatTimeline) -> _Session:
    return timeline.record.account, timeline.record.id
