"""Whether what a store keeps of an account keeps every invariant that can be read from it.

Neighbours: reads through `storage.port` alone, so it judges every store; `audit_groups` has the
rules of groups; tests and simulations ask at their end. (`dispatch check` judges a directory of
SQLite by its own reading of the tables.)
Invariant: an empty list means that each rule below was looked at and holds. Nothing may have been
pruned.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import msgspec

from dispatch.core.content import Fold
from dispatch.core.events import Truncated, decode_event
from dispatch.core.identity import LOCAL, Principal, TurnId
from dispatch.core.turn import IllegalEvent, Metrics, Phase, Turn, evolve, metrics_of
from dispatch.storage.keys import TurnKey
from dispatch.storage.port import (
    ConversationQuery,
    ConversationRecord,
    EventRecord,
    SealedTurn,
    Store,
)
from dispatch.testing.audit_groups import audit_groups

_EVERYTHING = 2**31 - 1


async def audit(
    store: Store, principal: Principal = LOCAL, *, is_at_rest: bool = True
) -> list[str]:
    """Every broken invariant of an account, as sentences.

    `is_at_rest`: nothing runs or waits, so every turn that was started must be sealed.
    """
    query = ConversationQuery(account=principal.account, user=principal.user, limit=_EVERYTHING)
    found = []
    for record in await store.conversations(query):
        kept = await _Kept.read(store, record)
        problems = [
            *kept.offsets(),
            *kept.lives(),
            *kept.truncations(),
            *kept.seqs(),
            *kept.costs(),
        ]
        if is_at_rest:
            problems += kept.unrest()
        found += [f"{record.id}: {problem}" for problem in problems]
    return found + await audit_groups(store, principal, is_at_rest=is_at_rest)


class _Kept:
    """Everything a store has of one conversation."""

    def __init__(self, record: ConversationRecord, events: list[EventRecord]) -> None:
        self.record = record
        self.events = events
        decoded = ((event.turn, decode_event(event.payload)) for event in events)
        self.markers = {turn: event for turn, event in decoded if isinstance(event, Truncated)}
        self.ids: dict[TurnKey, TurnId] = {}
        self.sealed: list[SealedTurn] = []
        self.chunks: dict[TurnKey, bytes] = {}
        self.metrics: dict[TurnId, bytes] = {}
        self.waiting: list[str] = []

    @classmethod
    async def read(cls, store: Store, record: ConversationRecord) -> _Kept:
        kept = cls(record, await store.events(record.key, 0, _EVERYTHING))
        kept.ids = await store.turn_ids(sorted({event.turn for event in kept.events}))
        kept.sealed = await store.sealed_turns(record.key, limit=_EVERYTHING)
        keys = [turn.key for turn in kept.sealed]
        kept.chunks = dict(zip(keys, await store.chunk_bytes(keys), strict=True))
        kept.metrics = {one.turn: one.metrics for one in await store.metrics(record.key)}
        unsealed = await store.unsealed_of(record.key)
        kept.waiting = [f"{turn.id} is still {turn.state}" for turn in unsealed]
        return kept

    def offsets(self) -> Iterator[str]:
        """Offsets have no gap, and positions grow with them."""
        offsets = [event.offset for event in self.events]
        if offsets != list(range(1, len(offsets) + 1)):
            yield f"offsets are {offsets}"
        if self.record.last_offset != len(offsets):
            yield f"the last offset is {self.record.last_offset}, but {len(offsets)} were written"
        positions = [event.position for event in self.events]
        if positions != sorted(set(positions)):
            yield f"positions are {positions}"

    def lives(self) -> Iterator[str]:
        """Turns come one after the other, each as the table draws it; chunks are their fold."""
        runs = [(key, list(run)) for key, run in groupby(self.events, lambda event: event.turn)]
        keys = [key for key, _ in runs]
        if len(set(keys)) != len(keys):
            yield "events of two turns are mixed"
        sealed = {turn.key: turn for turn in self.sealed}
        for position, (key, run) in enumerate(runs, 1):
            if key in self.markers:
                continue
            yield from self._life(key, run, sealed.get(key), is_last=position == len(runs))

    def _life(
        self, key: TurnKey, run: list[EventRecord], sealed: SealedTurn | None, *, is_last: bool
    ) -> Iterator[str]:
        if key not in self.ids:
            yield f"events of an unknown turn {key}"
            return
        turn, fold = Turn(id=self.ids[key]), Fold()
        for record in run:
            event = decode_event(record.payload)
            try:
                turn = evolve(turn, event)
            except IllegalEvent as error:
                yield f"{turn.id}: {error} at offset {record.offset}"
                return
            fold.add(event, record.payload)
        if sealed is None:
            if turn.phase is Phase.SEALED:
                yield f"{turn.id} was shown as sealed and is not"
            elif not is_last:
                yield f"{turn.id} was left open when the next turn began"
            return
        if turn.phase is not Phase.SEALED:
            yield f"{turn.id} is sealed without having been shown so"
        fold.finish()
        if fold.take()[1] != self.chunks[key]:
            yield f"{turn.id}: what is kept is not the fold of what was shown"
        if fold.chunk_count != sealed.chunk_count:
            yield f"{turn.id}: {fold.chunk_count} chunks were kept as {sealed.chunk_count}"
        kept = msgspec.json.decode(self.metrics.get(turn.id) or b"{}", type=Metrics)
        if not kept.agent:
            yield f"{turn.id}: nobody knows which agent answered it"
        if msgspec.structs.replace(kept, agent=None) != metrics_of(turn):
            yield f"{turn.id}: its metrics are not the sum of its events"

    def truncations(self) -> Iterator[str]:
        """What does not count is what the truncations of the log left behind, one by one."""
        ends = {turn.id: turn.seqs[-1] for turn in self.sealed}
        superseded: list[tuple[int, int]] = []
        for truncated in self.markers.values():
            after, last = truncated.after_seq, truncated.last_seq
            if after != ends.get(TurnId(truncated.after_turn or ""), 0):
                yield f"truncated after seq {after}, which is not the end of {truncated.after_turn}"
            superseded = [stretch for stretch in superseded if stretch[1] <= after]
            if after < last:
                superseded.append((after + 1, last))
        if self.record.superseded != msgspec.json.encode(superseded):
            yield f"{self.record.superseded!r} does not count, and {superseded} was left behind"

    def seqs(self) -> Iterator[str]:
        """Seqs have no gap, and every turn has the chunks it says."""
        next_seq = 1
        for turn in self.sealed:
            if turn.first_seq != next_seq:
                yield f"{turn.id} begins at seq {turn.first_seq} instead of {next_seq}"
            lines = self.chunks[turn.key].count(b"\n")
            if lines != turn.chunk_count:
                yield f"{turn.id} has {lines} chunks and says {turn.chunk_count}"
            next_seq = turn.first_seq + turn.chunk_count
        if self.record.last_seq != next_seq - 1:
            yield f"the last seq is {self.record.last_seq}, but {next_seq - 1} were given out"

    def costs(self) -> Iterator[str]:
        """Every sealed turn, and no other, has metrics."""
        ids = {turn.id for turn in self.sealed}
        if set(self.metrics) != ids:
            yield f"metrics of {sorted(self.metrics)}, sealed turns {sorted(ids)}"

    def unrest(self) -> Iterator[str]:
        """Nothing runs or waits, and nothing says so."""
        yield from self.waiting
        if self.record.status not in ("idle", "closed"):
            yield f"is {self.record.status}, and nothing runs"
        sealed = {turn.key for turn in self.sealed}
        for key in {event.turn for event in self.events} - sealed - self.markers.keys():
            yield f"{self.ids.get(key, key)} was started and never sealed"
