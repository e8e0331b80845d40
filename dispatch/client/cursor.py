"""Where a follower stands in a conversation: pure, and all there is to know about resuming.

Neighbours: `follow` feeds it the frames of one conversation and yields what it lets through.
It drops what was seen, says how to go on after a lost connection, and counts sealed chunks by the
fold, so that a gap (`recovered: false`) can be filled from history without a guess.
Invariant: whatever is cut, repeated or resumed, the items let through are each event once, in
order, or a snapshot that replaces those that are missing.
"""

from __future__ import annotations

import msgspec

from dispatch.client.frames import (
    ConversationFrame,
    Delta,
    History,
    ReadMoved,
    RequestDone,
    RequestOpened,
    Snapshot,
    Subscribed,
    Truncated,
    UnknownEvent,
)
from dispatch.core.content import Fold
from dispatch.core.events import (
    AnyEvent,
    ReasoningDelta,
    TextDelta,
    TurnSealed,
    TurnStart,
    UserMessage,
)
from dispatch.core.identity import parse_position


class Cursor:
    """A place in one conversation. `seq` counts the sealed chunks up to it, if that is known."""

    def __init__(self, *, after: str | None = None, since_seq: int | None = None) -> None:
        """Start behind a position, behind a seq, or (neither) at the turn in flight."""
        if after is not None:
            parse_position(after)
        self.position = after
        self.seq = since_seq
        self._wants_history = False
        # The newest subscription's head and what was sealed there, until it is reached.
        self._head: tuple[str, int] | None = None
        # The running turn, if it was seen from its first event.
        self._turn: str | None = None
        self._fold = Fold()

    def resume(self) -> dict[str, object]:
        """What `chat.subscribe` has to ask for so that nothing is missed."""
        if self.position is not None:
            return {"after": self.position}
        # Nothing with a position was seen yet: history from where it is known, or just the head.
        return {} if self.seq is None else {"sinceSeq": self.seq}

    def accept(self, frame: ConversationFrame) -> ConversationFrame | None:
        """The item that a frame is, or None for one that was seen before."""
        match frame:
            case Subscribed():
                self._subscribed(frame)
            case History():
                return self._history(frame)
            case Snapshot():
                return self._snapshot(frame)
            case Delta() | RequestOpened() | RequestDone() | Truncated():
                if not self._advance(frame.position):
                    return None
                if isinstance(frame, Delta) and not isinstance(frame.event, UnknownEvent):
                    self._count(frame.turn_id, frame.event)
                self._reach_head()
            case ReadMoved():
                pass
        return frame

    def _subscribed(self, frame: Subscribed) -> None:
        self._head = (frame.position, frame.last_seq) if frame.recovered else None
        if not frame.recovered:
            # The snapshot that follows says everything; until it came, nothing is known.
            return
        if self.position is not None:
            self._reach_head()
            return
        if self.seq is None:
            self.seq = frame.last_seq
        self._wants_history = self.seq < frame.last_seq
        # With a turn in flight its first event gives the position; before that there is none.
        if frame.turn_id is not None or frame.status == "active":
            self._head = None
        elif not self._wants_history:
            self.position = frame.position
            self._reach_head()

    def _history(self, frame: History) -> History | None:
        seen = self.seq or 0
        chunks = tuple(chunk for chunk in frame.chunks if chunk.seq > seen)
        self.seq = max(seen, frame.latest_seq)
        if not frame.more:
            self._wants_history = False
            if self.position is None and self._head is not None:
                self.position = self._head[0]
                self._reach_head()
        if frame.chunks and not chunks:
            return None
        return msgspec.structs.replace(frame, chunks=chunks)

    def _snapshot(self, frame: Snapshot) -> Snapshot:
        missed_after = self.seq
        if self.position is not None:
            here, there = parse_position(self.position), parse_position(frame.position)
            if here.generation != there.generation:
                # Another data directory, or a restored one: equal numbers may mean other chunks.
                missed_after = None
        if missed_after is not None and missed_after > frame.last_seq:
            # More chunks were seen than there are: they were of another one, too.
            missed_after = None
        self.position, self.seq, self._head = frame.position, frame.last_seq, None
        # Seen from its middle: what it will have when sealed cannot be counted.
        self._turn = None
        return msgspec.structs.replace(frame, missed_after=missed_after)

    def _advance(self, position: str | None) -> bool:
        """Whether a place is new; then it is ours."""
        if position is None:
            return True
        if self.position is not None:
            here, there = parse_position(self.position), parse_position(position)
            if here.generation == there.generation and there.offset <= here.offset:
                return False
        self.position = position
        return True

    def _reach_head(self) -> None:
        """At the head that a subscription named, what was sealed there is known too."""
        if self._head is None or self.position is None:
            return
        head, here = parse_position(self._head[0]), parse_position(self.position)
        if head.generation == here.generation and here.offset >= head.offset:
            self.seq = max(self.seq or 0, self._head[1])
            self._head = None

    def _count(self, turn: str, event: AnyEvent) -> None:
        match event:
            case UserMessage() | TurnStart() if turn != self._turn:
                self._turn, self._fold = turn, Fold()
                self._fold.add(event, b"")
            case TextDelta(delta=text) | ReasoningDelta(delta=text) if turn == self._turn:
                # Only the number of chunks is wanted, so one letter stands for any text.
                self._fold.add_delta(type(event), b"x" if text else b"")
            case TurnSealed() if turn == self._turn:
                if self.seq is not None:
                    self.seq += self._fold.chunk_count
                self._turn = None
            case TextDelta() | ReasoningDelta():
                # Of a turn that was joined in its middle.
                pass
            case _ if turn == self._turn:
                self._fold.add(event, b"")
            case _:
                pass
        # The count is kept, the bytes are not.
        self._fold.take()
