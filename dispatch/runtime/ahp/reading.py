"""Chats as AHP shows them, built from what is stored: finished turns, the running one, what waits.

Neighbours: `scope` says of which moment, `session_fold` goes on from there, `replay` reads what
happened since. Turns are folded from their events while those are kept, which say more than the
chunks that are kept for ever.
Invariant: a state is of the moment of its cut, whatever is committed while it is read.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final, NamedTuple

import msgspec

from dispatch.core.content import decode_line
from dispatch.core.events import TurnSealed, decode_event
from dispatch.core.identity import TurnId
from dispatch.core.truncation import Superseded, is_superseded, last_counting
from dispatch.core.turn import Metrics, Outcome
from dispatch.protocol.ahp.objects import iso_time, later, present
from dispatch.protocol.ahp.projection import Projection
from dispatch.protocol.ahp.records import ChatDetails
from dispatch.protocol.ahp.running_fold import RunningFold
from dispatch.protocol.ahp.session_fold import ChatFold, TurnNames
from dispatch.protocol.ahp.status import ERROR, IDLE
from dispatch.protocol.ahp.transcript import TurnFacts, turn_object
from dispatch.protocol.codec import Object
from dispatch.runtime.ahp.chronicle import names_of
from dispatch.runtime.live import Live
from dispatch.storage.keys import ConversationKey
from dispatch.storage.port import EventRecord, SealedTurn, Store, TurnRecord

# Small enough that the loop is not held up, and that many may read at once.
_EVENTS_PAGE: Final = 1_000
_BYTES_PAGE: Final = 256 * 1024
_METRICS: Final = msgspec.json.Decoder(Metrics)


class Running(NamedTuple):
    """A turn that runs at a cut, and where its events begin."""

    turn: TurnId
    first_offset: int
    names: TurnNames | None


class Cut(NamedTuple):
    """A chat at one moment: how far its history and its log go, and what is known beside them."""

    key: ConversationKey
    details: ChatDetails
    last_seq: int
    head: int
    superseded: Superseded
    running: Running | None


def cut_of(live: Live, details: ChatDetails, names: dict[TurnId, TurnNames]) -> Cut:
    """The conversation as it is shown now."""
    running, current = None, live.current
    if current is not None and current.first_offset is not None:
        running = Running(current.id, current.first_offset, names.get(current.id))
    record, superseded = live.record, live.past.superseded
    return Cut(record.key, details, record.last_seq, live.outbox.head, superseded, running)


async def read_chat(store: Store, cut: Cut, *, turns_max: int, events_max: int) -> ChatFold:
    """The chat at a cut, with its newest turns; those before are asked for with a cursor.

    `events_max` bounds how many events are read of finished turns.
    """
    found = await counting(store, cut, cut.last_seq + 1, turns_max + 1)
    has_more, found = len(found) > turns_max, found[-turns_max:]
    turns, names = await read_turns(store, cut.key, found, events_max=events_max)
    cursor = str(found[0].first_seq) if has_more else None
    is_cut = _is_cut_behind(cut, found[-1] if found else None)
    chat = ChatFold(base_state(cut.details, turns, cursor, is_cut=is_cut), names)
    if cut.running is not None:
        await _read_running(store, cut, cut.running, chat)
    chat.state = with_own(chat.state, cut.details)
    return chat


async def counting(store: Store, cut: Cut, before: int, limit: int) -> list[SealedTurn]:
    """The newest finished turns before a seq that no truncation left behind, ascending."""
    found: list[SealedTurn] = []
    seq = before - 1
    while len(found) < limit and (seq := last_counting(cut.superseded, seq)):
        page = await store.sealed_turns(
            cut.key, before_seq=seq + 1, newest_first=True, limit=limit - len(found)
        )
        if not page:
            break
        found += [turn for turn in page if not is_superseded(cut.superseded, turn.first_seq)]
        seq = min(turn.first_seq for turn in page) - 1
    return sorted(found, key=lambda turn: turn.first_seq)


def _is_cut_behind(cut: Cut, last: SealedTurn | None) -> bool:
    """Whether what came after a turn was taken back: nobody calls it the last thing that failed."""
    end = 0 if last is None else last.first_seq + last.chunk_count - 1
    return any(first == end + 1 for first, _ in cut.superseded)


async def read_turns(
    store: Store, key: ConversationKey, found: list[SealedTurn], *, events_max: int
) -> tuple[list[Object], dict[str, TurnId]]:
    """Finished turns as AHP shows them, and what they are by their names there."""
    turns: list[Object] = []
    names: dict[str, TurnId] = {}
    left = events_max
    for sealed in reversed(found):
        record = await store.turn(key, sealed.id)
        if record is None:
            # The conversation was deleted meanwhile.
            return [], {}
        named = names_of(record)
        turn = None
        count = _event_count(record)
        if 0 < count <= left:
            left -= count
            turn = await _folded(store, key, named, record)
        if turn is None:
            (data,) = await store.chunk_bytes([sealed.key])
            turn = _kept(named, record, sealed, data)
        turns.append(turn)
        names[named.turn_id] = sealed.id
    turns.reverse()
    return turns, names


def base_state(
    details: ChatDetails, turns: list[Object], cursor: str | None = None, *, is_cut: bool = False
) -> Object:
    """A chat between two turns, without what waits in it; `is_cut`: it was truncated there."""
    last = turns[-1] if turns else None
    ended = None if last is None else later(last.get("startedAt"), last.get("duration", 0))
    failed = last is not None and last["state"] == "error" and not is_cut
    return present(
        resource=details.uri,
        title=details.title,
        status=(ERROR if failed else IDLE) | details.flags,
        modifiedAt=details.modified_at or ended or iso_time(details.created_at_ms),
        origin=details.origin,
        turns=turns,
        turnsNextCursor=cursor,
    )


def with_own(state: Object, details: ChatDetails) -> Object:
    """The chat with what waits in it and what is being written."""
    own = present(
        draft=details.draft,
        steeringMessage=_entry(details.steers[-1:]),
        queuedMessages=[{"id": w.id, "message": w.message} for w in details.queue] or None,
    )
    return {**state, **own}


def _entry(entries: tuple[msgspec.Struct, ...]) -> Object | None:
    for entry in entries:
        fields = msgspec.structs.asdict(entry)
        return {"id": fields["id"], "message": fields["message"]}
    return None


async def event_pages(
    store: Store, key: ConversationKey, after: int, head: int
) -> AsyncGenerator[list[EventRecord], None]:
    """Every event after an offset up to another, in small pages; fewer where some were pruned."""
    while after < head:
        limit = min(_EVENTS_PAGE, head - after)
        page = await store.events(key, after, limit, bytes_max=_BYTES_PAGE)
        if not page:
            return
        yield page
        after = page[-1].offset


async def _read_running(store: Store, cut: Cut, running: Running, chat: ChatFold) -> None:
    names = running.names
    if names is None:
        record = await store.turn(cut.key, running.turn)
        if record is None:
            return
        names = names_of(record)
    chat.running = names
    chat.names[names.turn_id] = running.turn
    chat.projection = projection = projection_of(names)
    async with aclosing(event_pages(store, cut.key, running.first_offset - 1, cut.head)) as pages:
        async for page in pages:
            for stored in page:
                event = decode_event(stored.payload)
                chat.text.add_all(projection.project(event, names.started_at_ms))


def projection_of(names: TurnNames) -> Projection:
    """How a turn is said from its beginning."""
    return Projection(names.turn_id, queued_id=names.queued_id, message=names.message)


def _event_count(record: TurnRecord) -> int:
    """How many events a finished turn had; 0 for a copy, which has none."""
    if record.first_offset is None or record.last_offset is None:
        return 0
    return record.last_offset - record.first_offset + 1


async def _folded(
    store: Store, key: ConversationKey, names: TurnNames, record: TurnRecord
) -> Object | None:
    """A finished turn of its events; None where some were pruned."""
    assert record.first_offset is not None, "a turn with events has a first one"
    assert record.last_offset is not None, "and a last one"
    text = RunningFold({"turns": [], "status": IDLE, "modifiedAt": ""})
    projection = projection_of(names)
    expected = record.first_offset
    async with aclosing(
        event_pages(store, key, record.first_offset - 1, record.last_offset)
    ) as pages:
        async for page in pages:
            for stored in page:
                if stored.offset != expected:
                    return None
                expected += 1
                event = decode_event(stored.payload)
                is_end = isinstance(event, TurnSealed)
                at_ms = names.ended_at_ms if is_end else names.started_at_ms
                text.add_all(projection.project(event, at_ms))
    turns: list[Object] = text.state["turns"]
    return turns[0] if turns else None


def _kept(names: TurnNames, record: TurnRecord, sealed: SealedTurn, data: bytes) -> Object:
    """A finished turn of what is kept of it for ever."""
    metrics = _METRICS.decode(record.metrics) if record.metrics else Metrics()
    duration_ms = metrics.duration_ms
    if duration_ms is None:
        duration_ms = sealed.sealed_at_ms - names.started_at_ms
    outcome: Outcome = msgspec.convert(sealed.outcome, Outcome)
    usage = metrics.usage
    facts = TurnFacts(
        turn_id=names.turn_id,
        started_at_ms=names.started_at_ms,
        duration_ms=round(duration_ms),
        outcome=outcome,
        usage=usage if usage.input_tokens or usage.output_tokens else None,
        done_reason=outcome,
    )
    turn = turn_object(facts, [decode_line(line) for line in data.split(b"\n") if line])
    return turn if names.message is None else {**turn, "message": names.message}
