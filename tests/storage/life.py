"""Conversations that live as the runtime lets them live, over a store alone.

Turns are begun, shown, staged and sealed with real events and their fold, so that what lies in the
store keeps every rule that `dispatch check` knows. Run as a program it is the child of
`test_sqlite_kill`: it takes over what a killed one left, goes on, and says what is durable.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from itertools import count
from pathlib import Path

import msgspec

from dispatch.core.content import Fold
from dispatch.core.events import (
    AnyEvent,
    Done,
    ErrorEvent,
    TextDelta,
    ToolCall,
    ToolResult,
    TurnSealed,
    TurnStart,
    UserMessage,
    decode_event,
    encode_event,
)
from dispatch.core.identity import AccountId, ConversationId, TurnId, UserId
from dispatch.storage.keys import ConversationKey, TurnKey
from dispatch.storage.port import (
    Batch,
    ConversationRecord,
    CursorRecord,
    EventRecord,
    Opened,
    Piece,
    Store,
    TurnRecord,
    TurnSeal,
)
from dispatch.storage.sqlite import SqliteStore

ACCOUNT = AccountId("acme")
USER = UserId("ann")


class Life:
    """The counters of one opened store."""

    def __init__(self, store: Store, opened: Opened) -> None:
        self.store = store
        self.positions = count(opened.next_position)
        self.keys = count(opened.next_key)

    async def conversation(self, name: str) -> Talk:
        """One that is there already, or a new one; a turn that a dead one left is ended."""
        record = await self.store.conversation(ACCOUNT, ConversationId(name))
        if record is None:
            record = ConversationRecord(
                key=ConversationKey(next(self.keys)),
                account=ACCOUNT,
                id=ConversationId(name),
                session=f"session of {name}",
                user=USER,
                created_at_ms=1,
                active_at_ms=1,
            )
            await self.store.commit(Batch(conversations=[record]))
        talk = Talk(self, record)
        for left in await self.store.unsealed_of(record.key):
            staged, log = (await self.store.events_of([left.key]))[left.key]
            talk.turn = left
            for event in log:
                talk.fold.add(decode_event(event.payload), event.payload)
            talk.fold.forget(staged)
            await talk.end("interrupted", ErrorEvent("the daemon was killed", "interrupted"))
        return talk


class Talk:
    """One conversation and its running turn."""

    def __init__(self, life: Life, record: ConversationRecord) -> None:
        self.life = life
        self.record = record
        self.turn: TurnRecord | None = None
        self.fold = Fold()

    async def begin(self, text: str) -> None:
        """Start a turn and show its beginning."""
        key = TurnKey(next(self.life.keys))
        self.fold = Fold()
        self.record.status = "active"
        self.turn = TurnRecord(
            key=key,
            conversation=self.record.key,
            id=TurnId(f"turn-{key}"),
            state="running",
            ordinal=key,
            user=USER,
            body=text.encode(),
            created_at_ms=key,
            client_key=f"{self.record.id} {key}",
            started_at_ms=key,
            first_offset=self.record.last_offset + 1,
        )
        batch = Batch(conversations=[self.record], turns=[self.turn])
        await self._commit(batch, UserMessage(text), TurnStart())

    async def show(self, *events: AnyEvent) -> None:
        """More of the turn; a batch of events alone."""
        await self._commit(Batch(), *events)

    async def stage(self) -> None:
        """Write what was said so far as a piece."""
        assert self.turn is not None
        ordinal = self.fold.bytes_taken
        first_index, data = self.fold.take()
        await self.life.store.commit(
            Batch(pieces=[Piece(self.turn.key, ordinal, first_index, data)])
        )

    async def end(self, outcome: str, *last: AnyEvent) -> None:
        """Seal the turn: its chunks, its row and its conversation's in one batch."""
        turn = self.turn
        assert turn is not None
        batch = Batch(cursors=[CursorRecord(self.record.key, USER, self.record.last_seq)])
        ending = (*last, Done(outcome), TurnSealed())
        self._add(batch, ending)
        self.fold.finish()
        _, rest = self.fold.take()
        chunks = self.fold.chunk_count
        batch.seals.append(
            TurnSeal(
                turn.key,
                outcome,
                turn.key,
                self.record.last_seq + 1,
                chunks,
                rest,
                self.record.last_offset,
                b"{}",
            )
        )
        self.record = msgspec.structs.replace(
            self.record, status="idle", last_seq=self.record.last_seq + chunks
        )
        batch.conversations.append(self.record)
        self.turn = None
        await self.life.store.commit(batch)

    async def whole_turn(self, words: int = 3, *, staged: bool = False) -> None:
        """A turn from its beginning to its seal."""
        await self.begin("What is the weather?")
        for number in range(words):
            await self.show(TextDelta(f'word {number} "quoted" é\n'))
        if staged:
            await self.stage()
        call = ToolCall("call", "look", msgspec.Raw(b'{"out":"window"}'), "step")
        await self.show(call, ToolResult("call", "look", "rain", False, "step"), TextDelta("Rain."))
        await self.end("completed")

    async def _commit(self, batch: Batch, *events: AnyEvent) -> None:
        self._add(batch, events)
        await self.life.store.commit(batch)

    def _add(self, batch: Batch, events: tuple[AnyEvent, ...]) -> None:
        assert self.turn is not None
        for event in events:
            payload = encode_event(event)
            self.record.last_offset += 1
            self.fold.add(event, payload)
            batch.events.append(
                EventRecord(
                    next(self.life.positions),
                    self.record.key,
                    self.turn.key,
                    self.record.last_offset,
                    payload,
                )
            )


async def go_on_for_ever(talk: Talk, chance: random.Random) -> None:
    """Turn after turn; says each durable offset as soon as it is durable."""

    def say() -> None:
        os.write(1, f"{talk.record.id} {talk.record.last_offset}\n".encode())

    while True:
        await talk.begin("go on")
        say()
        for _ in range(chance.randrange(6)):
            await talk.show(*(TextDelta("x" * chance.randrange(3_000)) for _ in range(3)))
            say()
            if chance.random() < 0.2:
                await talk.stage()
        await talk.end("completed")
        say()


async def main(data: Path, seed: int) -> None:
    """The child of the kill test."""
    store = SqliteStore(data)
    try:
        life = Life(store, await store.open())
        talks = [await life.conversation(f"c{number}") for number in range(3)]
        await asyncio.gather(*(go_on_for_ever(talk, random.Random(seed)) for talk in talks))
    finally:
        await store.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
