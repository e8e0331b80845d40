"""A truncation on its way: what is behind a turn does not count any more, and nothing is rewritten.

Neighbours: `broker` makes one and waits for it, `intake` begins it when nothing runs,
`core.truncation` decides. Its row is a marker, which its event belongs to and a repeat finds.
Invariant: while one is on its way no turn begins; what readers see changes once it is durable.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from dispatch.core.commands import Cut, Dispatched
from dispatch.core.events import Truncated, encode_event
from dispatch.core.identity import TurnId, UserId
from dispatch.core.truncation import Kept, Superseded, encode_superseded, truncate
from dispatch.errors import DispatchError, InTimeline
from dispatch.runtime.admission import decode_body
from dispatch.runtime.live import Live
from dispatch.runtime.pending import Draft, PendingChange, PendingEvent
from dispatch.runtime.settling import Settling
from dispatch.runtime.shape import PREVIEW_CHARACTERS
from dispatch.storage.keys import TurnKey
from dispatch.storage.port import TurnRecord

_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(Cut)


def truncation_digest(after_turn: TurnId | None) -> bytes:
    """What makes two truncations the same; no message has it."""
    return hashlib.sha256(_ENCODER.encode({"truncate": after_turn})).digest()


def decode_cut(acceptance: bytes) -> Cut:
    """As read for a repeat."""
    return _DECODER.decode(acceptance)


@dataclass(slots=True, kw_only=True, eq=False)
class Truncation(Settling[Cut]):
    """One that waits until nothing runs, or is on its way to disk. `kept`: the last turn to stay;
    `key` and `turn_id` are its marker's.
    """

    key: TurnKey
    turn_id: TurnId
    user: UserId
    kept: TurnRecord | None
    client_key: str | None = None
    by: Dispatched | None = None

    @property
    def after_turn(self) -> TurnId | None:
        """What it was asked to keep."""
        return None if self.kept is None else self.kept.id


def check_alone(live: Live) -> None:
    """Raise `InTimeline` where a group or chat session keeps rows of the conversation's turns."""
    if live.details.timeline is not None:
        kind, _ = live.details.timeline
        raise InTimeline(f"the turns of this conversation are rows of a {kind}")


def check(live: Live, truncation: Truncation) -> None:
    """Raise what would refuse it if the running turn were over."""
    last_seq = live.record.last_seq + (live.state.running is not None)
    _decide(live, truncation, last_seq)


def _decide(live: Live, truncation: Truncation, last_seq: int) -> tuple[Superseded, Truncated]:
    check_alone(live)
    most = live.services.limits.truncations_max
    return truncate(live.past.superseded, last_seq, _kept(truncation.kept), truncations_max=most)


def begin(live: Live, truncation: Truncation, then: Callable[[], None]) -> None:
    """Put it on its way, or refuse it; nothing runs. `then` goes on once it was settled."""
    services, record = live.services, live.record
    try:
        superseded, event = _decide(live, truncation, record.last_seq)
    except DispatchError as error:
        truncation.refuse(error)
        return
    now_ms = services.clock.now_ms()
    before = live.shape()
    record.superseded = encode_superseded(superseded)
    record.active_at_ms = now_ms
    record.last_message = _preview(truncation.kept)
    after = live.shape()
    marker = TurnRecord(
        key=truncation.key,
        conversation=record.key,
        id=truncation.turn_id,
        state="marker",
        ordinal=truncation.key,
        user=truncation.user,
        body=b"",
        created_at_ms=now_ms,
        sealed_at_ms=now_ms,
        client_key=truncation.client_key,
        digest=truncation_digest(truncation.after_turn),
    )
    cut = Cut(conversation=record.id, after_turn=truncation.after_turn, offset=0)

    def write(draft: Draft, offset: int) -> None:
        marker.first_offset = marker.last_offset = offset + 1
        marker.acceptance = _ENCODER.encode(msgspec.structs.replace(cut, offset=offset + 1))
        draft.turns.append(marker)
        live.write_row(draft, offset)
        if truncation.by is not None and live.scribe is not None:
            live.scribe.claimed(draft, marker.id, truncation.by)

    def durable(offset: int) -> None:
        live.past.superseded, live.past.on_its_way = superseded, None
        truncation.accept(msgspec.structs.replace(cut, offset=offset + 1))
        then()

    def refused(error: DispatchError) -> None:
        live.reshape(before, after)
        live.past.on_its_way = None
        truncation.refuse(error)
        then()

    live.past.on_its_way = truncation
    events = (PendingEvent(marker.key, marker.id, encode_event(event)),)
    live.outbox.change(PendingChange(write, durable, refused, events))


def _kept(record: TurnRecord | None) -> Kept | None:
    if record is None:
        return None
    assert record.first_seq is not None, "a sealed turn has its seqs"
    return Kept(record.id, record.first_seq, record.chunk_count)


def _preview(record: TurnRecord | None) -> str:
    return "" if record is None else decode_body(record.body).message[:PREVIEW_CHARACTERS]
