"""Rows for the store's suite: each with something in every field, so that nothing is lost unseen.

`everything` reads a store back through every method of the port, for comparing two moments of one
store or one moment of two.
"""

from collections.abc import Sequence

import msgspec

from dispatch.core.identity import AccountId, ConversationId, TurnId, UserId
from dispatch.storage.keys import ConversationKey, RowKey, TimelineKey, TurnKey
from dispatch.storage.port import (
    Batch,
    ConversationQuery,
    ConversationRecord,
    EventRecord,
    Store,
    TurnRecord,
    TurnSeal,
)
from dispatch.storage.timeline import RowRecord, TimelineEvent, TimelineQuery, TimelineRecord

ACCOUNT = AccountId("acme")
ANN = UserId("ann")
BOB = UserId("bob")
EPOCH = 1


def conversation(key: int = 1, name: str = "", **fields: object) -> ConversationRecord:
    """A conversation's row with something in every field."""
    record = ConversationRecord(
        key=ConversationKey(key),
        account=ACCOUNT,
        id=ConversationId(name or f"c{key}"),
        session=f"s{key}",
        workspace="default",
        status="active",
        title=f"Title {key}",
        visibility="account",
        user=ANN,
        created_at_ms=1_000,
        active_at_ms=1_000 + key,
        epoch=EPOCH,
        last_message="the last word",
        superseded=b"[[1,2]]",
        details=b'{"agent":"echo"}',
    )
    return msgspec.structs.replace(record, **fields)


def turn(key: int, owner: int = 1, **fields: object) -> TurnRecord:
    """A turn that runs, with something in every field that a running one has."""
    record = TurnRecord(
        key=TurnKey(key),
        conversation=ConversationKey(owner),
        id=TurnId(f"t{key}"),
        state="running",
        ordinal=key,
        user=ANN,
        body=b'{"text":"hi"}',
        created_at_ms=2_000,
        client_key=f"acme/ann/{key}",
        digest=b"\x00\xff digest",
        acceptance=b'{"turnId":"t"}',
        started_at_ms=2_001,
        first_offset=1,
        resumes=TurnId("t0"),
    )
    return msgspec.structs.replace(record, **fields)


def marker(key: int, offset: int, owner: int = 1, at_ms: int = 3_000) -> TurnRecord:
    """What an event of the conversation itself belongs to."""
    return turn(
        key,
        owner,
        state="marker",
        started_at_ms=None,
        sealed_at_ms=at_ms,
        first_offset=offset,
        last_offset=offset,
        resumes=None,
    )


def events(owner: int, turn_key: int, first: int, count: int, ahead: int = 0) -> list[EventRecord]:
    """So many events from an offset on; their positions are their offsets, moved by `ahead`."""
    return [
        EventRecord(
            first + ahead + i,
            ConversationKey(owner),
            TurnKey(turn_key),
            first + i,
            b'{"type":"text-delta","delta":"%d"}' % i,
        )
        for i in range(count)
    ]


def seal(
    key: int, first_seq: int = 1, count: int = 1, at_ms: int = 3_000, end: int = 3
) -> TurnSeal:
    """The seal of a turn; one line a chunk."""
    lines = b"".join(b'"role":"user","chunk":{"n":%d}\n' % i for i in range(count))
    return TurnSeal(
        TurnKey(key), "completed", at_ms, first_seq, count, lines, end, b'{"usage":%d}' % key
    )


def sealed_turns(owner: int, keys_and_counts: Sequence[tuple[int, int]]) -> Batch:
    """Turns that ran and were sealed, their seqs following on each other."""
    batch, first_seq = Batch(), 1
    for key, count in keys_and_counts:
        batch.turns.append(turn(key, owner))
        batch.seals.append(seal(key, first_seq, count, at_ms=3_000 + key))
        first_seq += count
    return batch


def timeline(key: int, name: str = "", **fields: object) -> TimelineRecord:
    """A group with something in every field."""
    record = TimelineRecord(
        key=TimelineKey(key),
        account=ACCOUNT,
        kind="group",
        id=name or f"g{key}",
        user=ANN,
        title=f"Group {key}",
        created_at_ms=1_000,
        updated_at_ms=1_001,
        active_at_ms=1_000 + key,
        last_seq=7,
        last_position=3,
        floor=1,
        epoch=EPOCH,
        alias=f"alias {key}",
        details=b'{"members":[]}',
    )
    return msgspec.structs.replace(record, **fields)


def message(key: int, owner: int, seq: int | None, **fields: object) -> RowRecord:
    """What a person wrote, with something in every field that such a row has."""
    record = RowRecord(
        key=RowKey(key),
        timeline=TimelineKey(owner),
        role="message",
        seq=seq,
        user=ANN,
        created_at_ms=2_000 + key,
        client_key=f"row {key}",
        digest=b"\x00\xff digest",
        details=b'{"images":[]}',
        text=f"message {key}",
    )
    return msgspec.structs.replace(record, **fields)


def reply(key: int, owner: int, seq: int | None, **fields: object) -> RowRecord:
    """What a turn answers; it is open unless an outcome is given."""
    record = RowRecord(
        key=RowKey(key),
        timeline=TimelineKey(owner),
        role="reply",
        seq=seq,
        agent="echo",
        user=BOB,
        created_at_ms=2_000 + key,
        started_at_ms=2_001 + key,
        text=f"reply {key}",
    )
    return msgspec.structs.replace(record, **fields)


def told(position: int, owner: int, row: int | None = None, **fields: object) -> TimelineEvent:
    """An event of a timeline's own, at the time of its position."""
    event = TimelineEvent(
        position,
        TimelineKey(owner),
        f"stream {owner}",
        None if row is None else RowKey(row),
        position,
        b'{"n":%d}' % position,
    )
    return event._replace(**fields)


def timelines(**fields: object) -> TimelineQuery:
    """The groups, as a list asks for them."""
    asked = TimelineQuery(account=ACCOUNT, kind="group", limit=50)
    return msgspec.structs.replace(asked, **fields)


def query(**fields: object) -> ConversationQuery:
    """A list as Ann asks for it."""
    return msgspec.structs.replace(ConversationQuery(account=ACCOUNT, user=ANN, limit=50), **fields)


async def everything(store: Store) -> list[object]:
    """All that can be read of what the tests here write, for comparing two moments."""
    found: list[object] = [await store.unsealed(), await store.idle_since(2**60)]
    for account in (ACCOUNT, AccountId("other")):
        for user in (ANN, BOB):
            found.append(await store.conversations(query(account=account, user=user)))
    for key in range(1, 13):
        name = ConversationKey(key)
        turns = [TurnKey(key), TurnKey(key + 12), TurnKey(key + 24)]
        found += [
            await store.conversation(ACCOUNT, ConversationId(f"c{key}")),
            await store.events(name, 0, 1_000),
            await store.sealed_turns(name, limit=1_000),
            await store.metrics(name),
            await store.unsealed_of(name),
            await store.read_cursor(name, ANN),
            await store.chunk_bytes(turns),
            await store.events_of(turns),
            await store.turn_ids(turns),
            await store.turn(name, TurnId(f"t{key}")),
            await store.turn_by_client_key(f"acme/ann/{key}"),
        ]
    return found + await every_timeline(store) + await every_person(store)


async def every_person(store: Store) -> list[object]:
    """All that can be read of people."""
    found: list[object] = []
    for account in (ACCOUNT, AccountId("other")):
        for user in (ANN, BOB):
            found += [
                await store.begun_by(account, user, after=0, limit=100),
                await store.begun_by(account, user, after=2, limit=1),
                await store.read_marks(account, user, after=0, limit=100),
                await store.read_marks(account, user, after=2, limit=2),
            ]
            for keys_max, bytes_max in ((1_000, 1_000_000), (9, 1_000_000), (1_000, 20)):
                page = await store.spoken_by(
                    account, user, after=4, keys_max=keys_max, bytes_max=bytes_max
                )
                found.append(page)
    return found


async def every_timeline(store: Store) -> list[object]:
    """All that can be read of timelines 41 to 44, with rows 51 to 60."""
    found: list[object] = [await store.open_rows()]
    for kind in ("group", "chat"):
        found.append(
            await store.timelines(timelines(kind=kind, statuses=("active", "archived", "deleted")))
        )
        for user in (ANN, BOB):
            found.append(await store.timelines(timelines(kind=kind, user=user)))
            found.append(await store.unread_total(ACCOUNT, kind, user))
    for number in range(41, 45):
        key, stream = TimelineKey(number), f"stream {number}"
        found += [
            await store.timeline(ACCOUNT, "group", f"g{number}"),
            await store.timeline(ACCOUNT, "chat", f"c{number - 40}"),
            await store.timeline_by_alias(ACCOUNT, f"alias {number}"),
            [await store.unread(key, user) for user in (ANN, BOB)],
            await store.read_cursor(key, ANN),
            await store.rows(key, limit=1_000),
            await store.open_rows(key),
            [await store.replies_to(key, seq) for seq in range(1, 10)],
            await store.stream_head(stream),
            await store.log(stream, 0, 1_000),
            await store.log(stream, 0, 1_000, timeline=key),
        ]
        for turn_key in range(5, 31):
            found.append(await store.row_of_turn(key, TurnId(f"t{turn_key}")))
    for row in range(51, 61):
        found.append(await store.row_by_client_key(f"row {row}"))
    return found
