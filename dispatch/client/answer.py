"""One message and its answer: where a turn begins and ends for somebody who asked for it.

Neighbours: built on `session` alone; `cli` prints `answer`, a program wants `ask`. A turn waits in
a queue, or is steering that another turn takes in, or ends while the connection was lost: here is
the one place that knows when all that is over.
Invariant: the text of an `Answer` is what history will say, whatever happened to connections.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Unpack

import msgspec

from dispatch.client.frames import (
    Accepted,
    Delta,
    History,
    Item,
    RequestOpened,
    Snapshot,
    UnknownEvent,
)
from dispatch.client.session import Client, SendFields
from dispatch.core.content import StoredChunk, StoredLine, Text
from dispatch.core.events import (
    AnyEvent,
    Done,
    ErrorEvent,
    Steering,
    TextDelta,
    TurnSealed,
    UserMessage,
)
from dispatch.errors import NotFound


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a message. `reason` is the turn's: stop, aborted, error, interrupted, …"""

    conversation_id: str
    turn_id: str
    text: str
    reason: str
    error: str | None = None


class Transcript:
    """The text of the assistant, folded from items; a snapshot replaces what it makes void."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._sealed: list[str] = []
        self._open: list[str] = []

    @property
    def text(self) -> str:
        """Everything said so far."""
        return "".join((*self._sealed, *self._open))

    def apply(self, item: Item) -> None:
        """Fold one item in."""
        match item:
            case Delta(event=TextDelta(delta=text)):
                self._open.append(text)
            case Delta(event=TurnSealed()):
                self._sealed += self._open
                self._open = []
            case History(chunks=chunks):
                self._sealed += _texts(chunks)
            case Snapshot(missed=missed, turn=turn):
                self._sealed += _texts(missed)
                self._open = [] if turn is None else _texts(turn.chunks)
            case _:
                pass


async def ask(client: Client, message: str, **fields: Unpack[SendFields]) -> Answer:
    """Send a message and wait for its whole answer."""
    transcript = Transcript()
    conversation, turn, reason, error = "", "", "interrupted", None
    async with aclosing(answer(client, message, **fields)) as items:
        async for item in items:
            match item:
                case Accepted():
                    conversation, turn = item.conversation_id, item.turn
                    continue
                case Delta(event=Done(reason=said)):
                    reason = said
                case Delta(event=ErrorEvent(message=said)):
                    error = said
                case _:
                    pass
            transcript.apply(item)
    return Answer(
        conversation_id=conversation,
        turn_id=turn,
        text=transcript.text,
        reason=reason,
        error=error,
    )


async def answer(
    client: Client, message: str, **fields: Unpack[SendFields]
) -> AsyncGenerator[Accepted | Item, None]:
    """Send a message and show what happens because of it, up to its turn's seal.

    Other turns are left out, but steering shows the turn it went to, and its own if it came too
    late for that one.
    """
    accepted = await client.send(message, **fields)
    yield accepted
    part = _Part(accepted, message)
    async with client.follow(accepted.conversation_id, after=accepted.position) as items:
        async for item in items:
            if part.concerns(item):
                yield item
                if part.ends(item):
                    return
                if isinstance(item, Snapshot) and await _is_over(client, accepted, item):
                    return


class _Part:
    """Which items are because of a message."""

    def __init__(self, accepted: Accepted, message: str) -> None:
        self._message = message
        self._is_steering = accepted.steered
        self._turn = accepted.turn

    def concerns(self, item: Item) -> bool:
        match item:
            case Delta(turn_id=turn, event=event):
                if self._is_steering:
                    self._steer(turn, event)
                return self._is_steering or turn == self._turn
            case RequestOpened(turn_id=turn):
                return self._is_steering or turn == self._turn
            case _:
                return True

    def ends(self, item: Item) -> bool:
        return (
            isinstance(item, Delta)
            and isinstance(item.event, TurnSealed)
            and item.turn_id == self._turn
        )

    def _steer(self, turn: str, event: AnyEvent | UnknownEvent) -> None:
        """Steering has no turn of its own until one takes it, or it becomes one."""
        match event:
            case Steering():
                self._turn = turn
            case UserMessage(text=text) if text == self._message:
                self._turn, self._is_steering = turn, False
            case _:
                pass


async def _is_over(client: Client, accepted: Accepted, snapshot: Snapshot) -> bool:
    """Whether the turn was sealed in the gap that a snapshot stands for."""
    running = None if snapshot.turn is None else snapshot.turn.turn_id
    if accepted.steered:
        return running is None
    if running == accepted.turn:
        return False
    metrics = await client.http.metrics(accepted.conversation_id)
    if any(turn.turn_id == accepted.turn for turn in metrics.turns):
        return True
    if accepted.turn_id is not None and running is None:
        raise NotFound("the turn is not there any more: was the server's data replaced?")
    return False


def _texts(chunks: tuple[StoredChunk | StoredLine, ...]) -> list[str]:
    return [
        line.chunk.text
        for line in chunks
        if line.role == "assistant" and isinstance(line.chunk, Text)
    ]
