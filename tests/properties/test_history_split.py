"""Any history split anywhere: what is kept up to there, and what comes after, is the whole."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from dispatch.core.content import Fold
from dispatch.core.events import (
    AnyEvent,
    Done,
    TurnSealed,
    TurnStart,
    UserMessage,
    decode_event,
    encode_event,
)
from dispatch.core.identity import TurnId
from dispatch.core.replay import Entry, Gap, Ring
from dispatch.core.turn import Turn, closing_events, complete, evolve, metrics_of
from tests.properties.strategies import bodies, dones

Kept = tuple[str, dict[str, Any]]

turns = st.tuples(st.text(max_size=10), bodies, dones)
logs = st.lists(turns, min_size=1, max_size=4)


def life(turn_id: TurnId, message: str, body: list[AnyEvent], done: Done) -> list[AnyEvent]:
    """A whole turn as it is shown, from its message to its seal."""
    turn, shown = Turn(id=turn_id), []
    for event in [UserMessage(message), TurnStart(), *body]:
        event = complete(turn, event)
        turn = evolve(turn, event)
        shown.append(event)
    return [*shown, *closing_events(turn, done)]


def log_of(drawn: list[tuple[str, list[AnyEvent], Done]]) -> list[Entry]:
    """Several turns, one after the other, as they are stored."""
    entries: list[Entry] = []
    for number, (message, body, done) in enumerate(drawn, 1):
        turn_id = TurnId(f"t{number}")
        for event in life(turn_id, message, body, done):
            entries.append(Entry(len(entries) + 1, turn_id, encode_event(event)))
    return entries


def folded(entries: list[Entry]) -> list[Kept]:
    """The chunks of a run of entries, turn by turn."""
    kept: list[Kept] = []
    by_turn: dict[TurnId, Fold] = {}
    for entry in entries:
        fold = by_turn.setdefault(entry.turn, Fold())
        fold.add(decode_event(entry.payload), entry.payload)
    for fold in by_turn.values():
        fold.finish()
        for line in fold.take()[1].split(b"\n")[:-1]:
            stored = msgspec.json.decode(b"{%b}" % line)
            kept.append((stored["role"], stored["chunk"]))
    return kept


def joined(kept: list[Kept]) -> list[Kept]:
    """Neighbouring texts of a kind as one: a snapshot may end in the middle of a run."""
    result: list[Kept] = []
    for role, chunk in kept:
        last = result[-1] if result else None
        if (
            last is not None
            and chunk["type"] in ("text", "thinking")
            and (last[0], last[1]["type"]) == (role, chunk["type"])
        ):
            result[-1] = (role, {**chunk, "text": last[1]["text"] + chunk["text"]})
        else:
            result.append((role, chunk))
    return result


@given(logs, st.data())
def test_history_snapshot_and_tail_are_the_whole(
    drawn: list[tuple[str, list[AnyEvent], Done]], data: st.DataObject
) -> None:
    log = log_of(drawn)
    position = data.draw(st.integers(0, len(log)), label="position")
    before, tail = log[:position], log[position:]
    sealed = {entry.turn for entry in before if decode_event(entry.payload) == TurnSealed()}
    history = folded([entry for entry in before if entry.turn in sealed])
    snapshot = folded([entry for entry in before if entry.turn not in sealed])
    assert joined(history + snapshot + folded(tail)) == joined(folded(log))


@given(turns, st.data())
def test_a_turns_state_is_the_same_however_it_was_come_to(
    drawn: tuple[str, list[AnyEvent], Done], data: st.DataObject
) -> None:
    events = [decode_event(entry.payload) for entry in log_of([drawn])]
    cut = data.draw(st.integers(0, len(events)), label="cut")
    whole = Turn(id=TurnId("t1"))
    for event in events:
        whole = evolve(whole, event)
    first = Turn(id=TurnId("t1"))
    for event in events[:cut]:
        first = evolve(first, event)
    # What a restart knows of a turn is what its events say, read back.
    again = msgspec.msgpack.decode(
        msgspec.msgpack.encode([encode_event(event) for event in events[cut:]]), type=list[bytes]
    )
    for payload in again:
        first = evolve(first, decode_event(payload))
    assert first == whole
    assert metrics_of(first) == metrics_of(whole)


@given(
    logs,
    st.integers(1, 400),
    st.integers(1, 20),
    st.integers(1, 300),
    st.data(),
)
def test_journal_and_ring_from_any_position_are_the_rest_of_the_log(
    drawn: list[tuple[str, list[AnyEvent], Done]],
    bytes_max: int,
    events_max: int,
    page: int,
    data: st.DataObject,
) -> None:
    log = log_of(drawn)
    ring = Ring(0, events_max=events_max, bytes_max=bytes_max)
    rest = log
    while rest:
        size = data.draw(st.integers(1, len(rest)), label="batch")
        ring.extend(rest[:size])
        rest = rest[size:]
    position = data.draw(st.integers(0, len(log)), label="position")
    seen: list[Entry] = []
    while position + len(seen) < ring.head:
        found = ring.read(position + len(seen), bytes_max=page)
        if isinstance(found, Gap):
            # What fell out of the ring is in the journal, up to where the ring begins.
            found = log[position + len(seen) : found.floor]
        assert found
        seen += found
    assert seen == log[position:]
