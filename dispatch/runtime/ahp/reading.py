"""Chats as AHP shows them, built from what is stored: finished turns, the running one, what waits.

Neighbours: `scope` says of which moment, `session_fold` goes on from there, `replay` reads what
happened since. Turns are folded from their events while those are kept, which say more than the
chunks that are kept for ever.
Invariant: a state is of the moment of its cut, whatever is committed while it is read.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final, NamedTuple

import msgspec

from dispatch.core.content import decode_line
from dispatch.core.events import AnyEvent, TurnSealed, TurnStart, UserMessage, decode_event
from dispatch.core.identity import ConversationId, TurnId
from dispatch.core.truncation import Superseded, is_superseded, last_counting
from dispatch.core.turn import Metrics, Outcome
from dispatch.protocol.ahp.aggregation import chat_summary, inputs_of
from dispatch.protocol.ahp.objects import changed, iso_time, later, present
from dispatch.protocol.ahp.records import ChatDetails, SessionDetails
from dispatch.protocol.ahp.session_fold import ChatFold, TurnNames, UnknownTurn
from dispatch.protocol.ahp.status import ERROR, IDLE, IN_PROGRESS, INPUT_NEEDED
from dispatch.protocol.ahp.transcript import TurnFacts, turn_object
from dispatch.protocol.codec import Object
from dispatch.runtime.admission import decode_body
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


class Copied(NamedTuple):
    """What a fork begins with: turns, what they are by their names, and where those before are."""

    turns: list[Object]
    names: dict[str, TurnId]
    cursor: str | None


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
    # A turn that goes on with another is not shown without it.
    while has_more and await _resumes(store, cut.key, found[0]):
        before = await counting(store, cut, found[0].first_seq, 2)
        has_more, found = len(before) > 1, before[-1:] + found
    turns, names = await read_turns(store, cut.key, found, events_max=events_max)
    cursor = str(found[0].first_seq) if has_more else None
    is_calm = await reads_calm(store, cut, found[-1] if found else None)
    chat = ChatFold(base_state(cut.details, turns, cursor, is_calm=is_calm), names)
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


async def _resumes(store: Store, key: ConversationKey, sealed: SealedTurn) -> bool:
    record = await store.turn(key, sealed.id)
    return record is not None and decode_body(record.body).resumes is not None


async def read_copies(
    store: Store, key: ConversationKey, turns: Sequence[SealedTurn], *, turns_max: int
) -> Copied:
    """What a fork with copies of these turns will be read as; `key` is whose they are."""
    start = max(0, len(turns) - turns_max)
    while start > 0 and await _resumes(store, key, turns[start]):
        start -= 1
    found, names = await read_turns(store, key, list(turns[start:]), events_max=0)
    first_seq = 1 + sum(turn.chunk_count for turn in turns[:start])
    return Copied(found, names, str(first_seq) if start else None)


async def reads_calm(store: Store, cut: Cut, last: SealedTurn | None) -> bool:
    """Whether nobody calls the last turn what failed there: what came after it was taken back, or
    it is a copy.
    """
    end = 0 if last is None else last.first_seq + last.chunk_count - 1
    if last is None or any(first == end + 1 for first, _ in cut.superseded):
        return True
    record = await store.turn(cut.key, last.id)
    return record is not None and record.first_offset is None


async def read_turns(
    store: Store, key: ConversationKey, found: list[SealedTurn], *, events_max: int
) -> tuple[list[Object], dict[str, TurnId]]:
    """Finished turns as AHP shows them, and what they are by their names there.

    They ascend; `events_max` goes to the newest of them. A turn that goes on with another is part
    of that one.
    """
    records = []
    for sealed in found:
        record = await store.turn(key, sealed.id)
        if record is None:
            # The conversation was deleted meanwhile.
            return [], {}
        records.append(record)
    watched: set[TurnId] = set()
    for record in reversed(records):
        count = _event_count(record)
        if 0 < count <= events_max:
            events_max -= count
            watched.add(record.id)
    chat = ChatFold({"resource": "", "turns": [], "status": IDLE, "modifiedAt": ""}, {})
    for sealed, record in zip(found, records, strict=True):
        is_folded = record.id in watched and await _fold(store, key, chat, record)
        if not is_folded:
            (data,) = await store.chunk_bytes([sealed.key])
            _append(chat, record, _kept(chat, record, sealed, data))
    turns: list[Object] = chat.state["turns"]
    return turns, chat.names


def _append(chat: ChatFold, record: TurnRecord, turn: Object) -> None:
    """A turn as it is kept, in the place of the one that it goes on with, if it does."""
    turns = chat.state["turns"]
    if turns and turns[-1]["id"] == turn["id"]:
        turns = turns[:-1]
    chat.state = {**chat.state, "turns": [*turns, turn]}
    chat.names[turn["id"]] = record.id


def base_state(
    details: ChatDetails, turns: list[Object], cursor: str | None = None, *, is_calm: bool = True
) -> Object:
    """A chat between two turns, without what waits in it; `is_calm`: as in `reads_calm`."""
    last = turns[-1] if turns else None
    ended = None if last is None else later(last.get("startedAt"), last.get("duration", 0))
    failed = last is not None and last["state"] == "error" and not is_calm
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


def session_state(
    details: SessionDetails,
    chats: dict[ConversationId, ChatFold],
    listed: dict[ConversationId, str],
) -> Object:
    """A session with these chats."""
    inputs = [one for chat in chats.values() for one in inputs_of(chat.state)]
    # What folding from the beginning gave: no action says that a turn runs somewhere.
    activity = INPUT_NEEDED if inputs else IN_PROGRESS if details.was_asked else IDLE
    return present(
        provider=details.agent,
        title=details.title,
        status=activity | details.flags,
        lifecycle="ready",
        activeClients=list(details.active_clients),
        chats=[
            chat_summary(changed(chat.state, title=listed[name])) for name, chat in chats.items()
        ],
        defaultChat=details.default_chat,
        inputNeeded=inputs or None,
    )


def new_chat(details: ChatDetails, copied: Copied | None) -> ChatFold:
    """A chat that has just been made; a fork begins with what was copied."""
    turns, names, cursor = copied or ([], {}, None)
    return ChatFold(with_own(base_state(details, turns, cursor), details), names)


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
    async with aclosing(event_pages(store, cut.key, running.first_offset - 1, cut.head)) as pages:
        async for page in pages:
            for stored in page:
                _say(chat, running.turn, names, decode_event(stored.payload))


def _event_count(record: TurnRecord) -> int:
    """How many events a finished turn had; 0 for a copy, which has none."""
    if record.first_offset is None or record.last_offset is None:
        return 0
    return record.last_offset - record.first_offset + 1


async def _fold(store: Store, key: ConversationKey, chat: ChatFold, record: TurnRecord) -> bool:
    """Fold a finished turn of its events; False, and nothing, where some were pruned."""
    assert record.first_offset is not None, "a turn with events has a first one"
    assert record.last_offset is not None, "and a last one"
    before, names = chat.state, names_of(record)
    expected = record.first_offset
    async with aclosing(
        event_pages(store, key, record.first_offset - 1, record.last_offset)
    ) as pages:
        async for page in pages:
            for stored in page:
                event = decode_event(stored.payload)
                if stored.offset == expected and _say(chat, record.id, names, event):
                    expected += 1
    chat.projection = chat.running = None
    if expected <= record.last_offset:
        chat.state = before
        return False
    return True


def _say(chat: ChatFold, turn: TurnId, names: TurnNames, event: AnyEvent) -> bool:
    """Fold one event of a turn; False where it goes on with one that is not there."""
    if chat.projection is None:
        if not isinstance(event, UserMessage | TurnStart):
            return False
        try:
            chat.begin(turn, names, event)
        except UnknownTurn:
            return False
    if chat.projection is None:
        return False
    is_end = isinstance(event, TurnSealed)
    at_ms = names.ended_at_ms if is_end else names.started_at_ms
    chat.text.add_all(chat.projection.project(event, at_ms))
    return True


def _kept(chat: ChatFold, record: TurnRecord, sealed: SealedTurn, data: bytes) -> Object:
    """A finished turn of what is kept of it for ever."""
    names, resumes = names_of(record), decode_body(record.body).resumes
    before: Object | None = None
    if resumes is not None and resumes in chat.names.values():
        names = msgspec.structs.replace(names, turn_id=chat.name_of(resumes))
        before = chat.state["turns"][-1]
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
    lines = [decode_line(line) for line in data.split(b"\n") if line]
    turn = turn_object(facts, lines, before)
    return turn if names.message is None else {**turn, "message": names.message}
