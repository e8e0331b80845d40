"""Whether what a store keeps of groups keeps every invariant that can be read from it.

Neighbours: `audit` asks here for the groups of an account; reads through `storage.port` alone.
Invariant: as in `audit`: no sentence means that each rule below was looked at and holds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from dispatch.core.identity import Principal
from dispatch.core.timeline import MessageAdded, RepliesEnded, ReplyEnded, decode_told
from dispatch.storage.keys import RowKey
from dispatch.storage.port import Store
from dispatch.storage.timeline import LogRecord, RowRecord, TimelineQuery, TimelineRecord

_EVERYTHING = 2**31 - 1


async def audit_groups(store: Store, principal: Principal, *, is_at_rest: bool) -> list[str]:
    """Every broken invariant of an account's groups, as sentences."""
    query = TimelineQuery(account=principal.account, kind="group", limit=_EVERYTHING)
    found = []
    for summary in await store.timelines(query):
        record = summary.record
        rows = await store.rows(record.key, limit=_EVERYTHING)
        open_rows = await store.open_rows(record.key)
        page = await store.log(f"group:{record.key}", -1, _EVERYTHING, timeline=record.key)
        kept = _Group(record, rows, open_rows, page.records)
        problems = [*kept.seqs(), *kept.places(), *kept.answers(), *kept.log()]
        if is_at_rest:
            problems += [f"row {row.key} is still open" for row in open_rows]
        found += [f"{record.id}: {problem}" for problem in problems]
    return found


class _Group:
    """Everything a store has of one group. Adopted rows, which are in no log, have position 0."""

    def __init__(
        self,
        record: TimelineRecord,
        rows: list[RowRecord],
        open_rows: list[RowRecord],
        records: list[LogRecord],
    ) -> None:
        self.record = record
        self.rows = rows
        self.open_rows = open_rows
        self.records = records

    def seqs(self) -> Iterator[str]:
        """Seqs have no gap, and the group's last one is the last."""
        seqs = [row.seq for row in self.rows]
        if seqs != list(range(1, len(seqs) + 1)):
            yield f"seqs are {seqs}"
        if self.record.last_seq != len(seqs):
            yield f"the last seq is {self.record.last_seq}, but {len(seqs)} were given out"

    def places(self) -> Iterator[str]:
        """Rows begin in the order of their seqs, and only what has ended has an end."""
        began = [row.began_position or 0 for row in self.rows if row.began_position != 0]
        if began != sorted(set(began)) or 0 in began:
            yield f"rows begin at {began}"
        for row in (*self.rows, *self.open_rows):
            is_over = row.outcome is not None
            if is_over != (row.ended_position is not None):
                yield f"row {row.seq} has outcome {row.outcome} and ends at {row.ended_position}"
            if is_over and (row.began_position is None or row.seq is None):
                yield f"row {row.key} has ended and never began"
            if is_over and (row.began_position or 0) > (row.ended_position or 0):
                yield f"row {row.seq} ends before it begins"

    def answers(self) -> Iterator[str]:
        """A reply answers a message before it, each agent once."""
        messages = {row.seq for row in self.rows if row.role == "message"}
        answered = set()
        for row in {row.key: row for row in (*self.rows, *self.open_rows)}.values():
            if row.role == "message":
                continue
            if row.reply_to not in messages:
                yield f"row {row.seq} answers {row.reply_to}, which is no message"
            if row.seq is not None and row.seq <= (row.reply_to or 0):
                yield f"row {row.seq} answers {row.reply_to}, which comes later"
            if (row.reply_to, row.agent) in answered:
                yield f"{row.agent} answers {row.reply_to} twice"
            answered.add((row.reply_to, row.agent))

    def log(self) -> Iterator[str]:
        """Each row has its own events, once; each message that is answered one last word."""
        positions = [record.position for record in self.records]
        if positions != sorted(set(positions)):
            yield f"the log's positions are {positions}"
        said: dict[RowKey | None, list[tuple[type, int]]] = defaultdict(list)
        ended: dict[int, list[RepliesEnded]] = defaultdict(list)
        for record in self.records:
            if not record.is_own:
                continue
            told = decode_told(record.payload)
            said[record.row].append((type(told), record.position))
            if isinstance(told, RepliesEnded):
                ended[told.reply_to].append(told)
        for row in self.rows:
            kind = MessageAdded if row.role == "message" else ReplyEnded
            due = [(kind, row.ended_position)] if row.ended_position else []
            if said[row.key] != due:
                yield f"of row {row.seq} the log says {said[row.key]}"
            if row.role == "message" and row.ended_position:
                yield from self._last_word(row, ended[row.seq or 0])

    def _last_word(self, message: RowRecord, ended: list[RepliesEnded]) -> Iterator[str]:
        rows = {row.key: row for row in (*self.rows, *self.open_rows)}.values()
        outcomes = [row.outcome for row in rows if row.reply_to == message.seq]
        if None in outcomes:
            if ended:
                yield f"message {message.seq} has its last word, and is still answered"
            return
        if len(ended) != 1:
            yield f"message {message.seq} has {len(ended)} last words"
            return
        results = ended[0].results
        for outcome in results.__struct_fields__:
            if getattr(results, outcome) != outcomes.count(outcome):
                yield f"message {message.seq} ended {outcomes}, its last word says {results}"
                return
