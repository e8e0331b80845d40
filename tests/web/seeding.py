"""A data directory with one very long conversation, written through the storage port.

Neighbours: `test_page_history` serves it. Ten thousand real turns would take a minute.
Invariant: what is written is what a daemon would have kept: `dispatch check` finds nothing wrong.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import msgspec

from dispatch.core.content import Fold
from dispatch.core.events import TextDelta, TurnStart, UserMessage, encode_event
from dispatch.core.identity import LOCAL, ConversationId, TurnId
from dispatch.storage.keys import ConversationKey, TurnKey
from dispatch.storage.port import Batch, ConversationRecord, TurnRecord, TurnSeal
from dispatch.storage.sqlite import SqliteStore

TURNS_PER_BATCH: Final = 1_000
# A user's message, the start, a delta, the end and the seal.
EVENTS_PER_TURN: Final = 5
CHUNKS_PER_TURN: Final = 2
METRICS: Final = (
    b'{"usage":{"inputTokens":0,"outputTokens":0},"durationMs":500,"steps":[],"agent":"echo"}'
)


def question(number: int) -> str:
    """The message of a turn, counted from 1."""
    return f"Question {number} of a long conversation"


def answer(number: int) -> str:
    """What its agent said."""
    return f"Answer {number}: **yes**, and the `reason` is\n\n* that it is so,\n* and was before."


async def seed_long(data: Path, name: str, turns: int) -> None:
    """Write one conversation with so many sealed turns of the agent `echo`."""
    store = SqliteStore(data)
    opened = await store.open()
    try:
        owner = ConversationKey(opened.next_key)
        now_ms = time.time_ns() // 1_000_000
        record = ConversationRecord(
            key=owner,
            account=LOCAL.account,
            id=ConversationId(name),
            session=f"s-{name}",
            title="A long conversation",
            user=LOCAL.user,
            created_at_ms=now_ms - turns * 1_000,
            active_at_ms=now_ms,
            last_seq=turns * CHUNKS_PER_TURN,
            last_offset=turns * EVENTS_PER_TURN,
            epoch=opened.incarnation,
            last_message=answer(turns)[:80],
        )
        await store.commit(Batch(conversations=[record]))
        for first in range(1, turns + 1, TURNS_PER_BATCH):
            batch = Batch()
            for number in range(first, min(first + TURNS_PER_BATCH, turns + 1)):
                at_ms = record.created_at_ms + number * 1_000
                _add(batch, owner, TurnKey(opened.next_key + number), number, at_ms)
            await store.commit(batch)
    finally:
        await store.close()


def _add(batch: Batch, owner: ConversationKey, key: TurnKey, number: int, at_ms: int) -> None:
    batch.turns.append(
        TurnRecord(
            key=key,
            conversation=owner,
            id=TurnId(f"t-long-{number}"),
            state="running",
            ordinal=number,
            user=LOCAL.user,
            body=msgspec.json.encode({"text": question(number)}),
            created_at_ms=at_ms,
            started_at_ms=at_ms,
            first_offset=(number - 1) * EVENTS_PER_TURN + 1,
        )
    )
    fold = Fold()
    for event in (UserMessage(question(number)), TurnStart(), TextDelta(answer(number))):
        fold.add(event, encode_event(event))
    fold.finish()
    batch.seals.append(
        TurnSeal(
            turn=key,
            outcome="completed",
            sealed_at_ms=at_ms + 500,
            first_seq=(number - 1) * CHUNKS_PER_TURN + 1,
            chunk_count=CHUNKS_PER_TURN,
            chunks=fold.take()[1],
            last_offset=number * EVENTS_PER_TURN,
            metrics=METRICS,
        )
    )
