"""Batches in the making for `test_store`: what fits the reference store, and what does not.

Each step of a draft adds one thing; what it draws depends on what the reference store has by then.
"""

from typing import TypeVar

from hypothesis import strategies as st

from dispatch.core.identity import TurnId
from dispatch.storage.keys import ConversationKey, TimelineKey, TurnKey
from dispatch.storage.memory_disk import MemoryDisk
from dispatch.storage.people import CursorKey
from dispatch.storage.port import (
    Batch,
    CursorRecord,
    EventRecord,
    Piece,
    TurnChange,
    TurnCopy,
    TurnSeal,
)
from tests.contract.store_rows import (
    ACCOUNT,
    ANN,
    BOB,
    conversation,
    message,
    reply,
    timeline,
    told,
    turn,
)

T = TypeVar("T")

conversations = st.integers(1, 4)
# The reads below ask for these.
turns = st.integers(5, 30)
chunk_counts = st.integers(0, 3)
states = st.sampled_from(["queued", "steering", "running"])
moves = st.sampled_from(
    [
        ("queued", "running"),
        ("queued", "cancelled"),
        ("queued", "queued"),
        ("steering", "absorbed"),
        ("steering", "queued"),
    ]
)
timeline_keys = st.integers(41, 44)
row_keys = st.integers(51, 60)
words = st.sampled_from(["", "Alpha", "alpha beta", "ÄÖ", "%_'"])


class Draft:
    """A batch in the making: which counters are next, and which turns still run."""

    def __init__(self, disk: MemoryDisk, data: st.DataObject) -> None:
        self.batch = Batch()
        self.disk = disk
        self.data = data
        self.position = max(disk.positions, default=0) + 1
        self.told = max([100, *disk.timeline_events]) + 1
        self.offsets = {
            key: max(record.last_offset, max(disk.events.get(key, {}), default=0))
            for key, record in disk.conversations.items()
        }

    def draw(self, strategy: st.SearchStrategy[T]) -> T:
        return self.data.draw(strategy)

    def open_turn(self) -> tuple[TurnKey, ConversationKey]:
        """One that is not sealed, or one that does not exist."""
        over = {"sealed", "marker"}
        known = {t.key: t.conversation for t in self.disk.turns.values() if t.state not in over}
        known |= {t.key: t.conversation for t in self.batch.turns if t.state not in over}
        ended = {s.turn for s in self.batch.seals}
        known = {key: owner for key, owner in known.items() if key not in ended}
        key = TurnKey(self.draw(st.sampled_from([*sorted(known), 99])))
        return key, known.get(key, ConversationKey(1))

    def add_conversation(self) -> None:
        key = self.draw(conversations)
        self.batch.conversations.append(
            conversation(
                key,
                name=f"c{self.draw(st.sampled_from([key, key, key, 1]))}",
                account=self.draw(st.sampled_from([ACCOUNT, ACCOUNT, "other"])),
                epoch=self.draw(st.sampled_from([1, 1, 1, 2])),
                status=self.draw(st.sampled_from(["active", "idle", "closed"])),
                visibility=self.draw(st.sampled_from(["account", "user"])),
                user=self.draw(st.sampled_from([ANN, BOB])),
                active_at_ms=self.draw(st.integers(1, 5)),
                title=self.draw(words),
                last_message=self.draw(words),
                superseded=self.draw(st.sampled_from([b"[]", b"[[1,2]]"])),
            )
        )

    def add_turn(self) -> None:
        key, owner = self.draw(turns), self.draw(conversations)
        self.batch.turns.append(
            turn(
                key,
                owner,
                state=self.draw(states),
                ordinal=self.draw(st.integers(-2, 2)),
                resumes=self.draw(st.sampled_from([None, "t5"])),
                client_key=self.draw(st.sampled_from([None, f"acme/ann/{key}", "acme/ann/5"])),
                first_offset=self.offsets.get(owner, 0) + 1,
            )
        )

    def add_marker(self) -> None:
        """An event of the conversation's own, and what it belongs to."""
        key, owner = self.draw(turns), self.draw(conversations)
        offset = self.offsets[owner] = self.offsets.get(owner, 0) + 1
        self.batch.turns.append(
            turn(
                key,
                owner,
                state="marker",
                client_key=self.draw(st.sampled_from([None, f"acme/ann/{key}"])),
                sealed_at_ms=self.draw(st.integers(1, 9)),
                started_at_ms=None,
                first_offset=offset,
                last_offset=offset,
            )
        )
        self.batch.events.append(
            EventRecord(self.position, ConversationKey(owner), TurnKey(key), offset, b"{}")
        )
        self.position += 1

    def add_change(self) -> None:
        key, owner = self.open_turn()
        before, after = self.draw(moves)
        first = self.draw(st.sampled_from([None, self.offsets.get(owner, 0) + 1]))
        if any(event.turn == key for event in self.disk.events.get(owner, {}).values()):
            # It has begun: its first offset is known.
            first = None
        ordinal = self.draw(st.sampled_from([None, -3, 3]))
        self.batch.changes.append(TurnChange(key, before, after, 7, first, ordinal))

    def add_events(self) -> None:
        key, owner = self.open_turn()
        for _ in range(self.draw(st.sampled_from([1, 1, 2, 5, 20]))):
            self.offsets[owner] = self.offsets.get(owner, 0) + self.draw(
                st.sampled_from([1] * 40 + [0])
            )
            event = EventRecord(self.position, owner, key, self.offsets[owner], b"{}")
            self.batch.events.append(event)
            self.position += self.draw(st.sampled_from([1] * 40 + [0, 3]))

    def add_piece(self) -> None:
        key, _ = self.open_turn()
        ordinal = self.draw(st.integers(0, 5))
        self.batch.pieces.append(Piece(key, ordinal, 0, b"piece %d," % ordinal))

    def add_seal(self) -> None:
        key, owner = self.open_turn()
        sealed = (t for t in self.disk.turns.values() if t.conversation == owner)
        first = max(((t.first_seq or 1) + t.chunk_count for t in sealed), default=1)
        count = self.draw(chunk_counts)
        at_ms = self.draw(st.integers(1, 9))
        end = self.offsets.get(owner, 0)
        self.batch.seals.append(
            TurnSeal(key, "completed", at_ms, first, count, b"line\n" * count, end, b"%d" % key)
        )

    def add_copy(self) -> None:
        sealed = [t.key for t in self.disk.turns.values() if t.state == "sealed"]
        source = TurnKey(self.draw(st.sampled_from([*sealed, *sealed, *self.disk.turns, 99])))
        target = ConversationKey(self.draw(conversations))
        self.batch.copies.append(TurnCopy(source, TurnKey(self.draw(turns)), target, 1))

    def add_cursor(self) -> None:
        key = ConversationKey(self.draw(conversations))
        self.batch.cursors.append(CursorRecord(key, ANN, self.draw(st.integers(0, 9))))

    def add_timeline(self) -> None:
        key = self.draw(timeline_keys)
        old = self.disk.timelines.get(key)
        kind = self.draw(st.sampled_from(["chat"] + ["group"] * 4))
        if old is not None and self.draw(st.sampled_from([True] * 4 + [False])):
            kind = old.kind
        name = self.draw(st.sampled_from([key, key, key, 41]))
        self.batch.timelines.append(
            timeline(
                key,
                f"c{name - 40}" if kind == "chat" else f"g{name}",
                kind=kind,
                user=self.draw(st.sampled_from([ANN, BOB])),
                status=self.draw(st.sampled_from(["active", "active", "archived"])),
                active_at_ms=1_000 + self.draw(st.integers(1, 5)),
                last_position=self.draw(st.integers(0, 200)),
                floor=self.draw(st.integers(0, 9)),
                epoch=self.draw(st.sampled_from([1, 1, 1, 2])),
                alias=self.draw(st.sampled_from([None, f"alias {key}", "alias 41"])),
            )
        )

    def add_row(self) -> None:
        key, owner = self.draw(row_keys), self.draw(timeline_keys)
        old = self.disk.rows.get(key)
        if old is not None and self.draw(st.sampled_from([True] * 4 + [False])):
            owner = old.timeline
        if key % 2:
            row = message(key, owner, key - 50, user=self.draw(st.sampled_from([ANN, BOB])))
            row.began_position = self.draw(st.sampled_from([None, 0, 3]))
            row.client_key = self.draw(st.sampled_from([row.client_key] * 4 + [None, "row 51"]))
        else:
            row = reply(key, owner, self.draw(st.sampled_from([None, key - 50, key - 50, 1])))
            row.reply_to = self.draw(st.sampled_from([None, 1, 3]))
            row.outcome = self.draw(st.sampled_from([None, "completed"]))
            row.began_position = self.draw(st.sampled_from([None, 0, 3]))
            # A turn that was sealed shows nothing any more, wherever its end is said to be.
            row.ended_position = self.draw(st.sampled_from([None, 2_000]))
        turn_key = self.draw(st.sampled_from([None, *self.disk.turns]))
        if turn_key is not None:
            row.turn, row.turn_id = TurnKey(turn_key), TurnId(f"t{turn_key}")
        self.batch.rows.append(row)

    def add_told(self) -> None:
        owner = self.draw(timeline_keys)
        named = self.draw(st.sampled_from([None, *self.disk.rows]))
        at_ms = self.draw(st.integers(1, 9))
        self.batch.timeline_events.append(told(self.told, owner, named, at_ms=at_ms))
        self.told += self.draw(st.sampled_from([1] * 20 + [0]))

    def add_timeline_cursor(self) -> None:
        key = TimelineKey(self.draw(timeline_keys))
        user = self.draw(st.sampled_from([ANN, BOB]))
        self.batch.cursors.append(CursorRecord(key, user, self.draw(st.integers(0, 9))))

    def add_burial(self) -> None:
        self.batch.burials.append(TimelineKey(self.draw(st.sampled_from([41, 42, 43, 44, 99]))))

    def add_deletion(self) -> None:
        self.batch.deletions.append(ConversationKey(self.draw(st.sampled_from([1, 2, 3, 4, 9]))))

    def add_cursor_removal(self) -> None:
        subject = ConversationKey(self.draw(st.sampled_from([1, 2, 3, 4, 41, 42, 43, 44, 99])))
        user = self.draw(st.sampled_from([ANN, BOB]))
        self.batch.cursor_removals.append(CursorKey(subject, user))

    def add_turn_removal(self) -> None:
        self.batch.turn_removals.append(TurnKey(self.draw(st.sampled_from([*self.disk.turns, 99]))))


STEPS = [
    Draft.add_conversation,
    Draft.add_conversation,
    Draft.add_turn,
    Draft.add_turn,
    Draft.add_marker,
    Draft.add_change,
    Draft.add_events,
    Draft.add_events,
    Draft.add_piece,
    Draft.add_seal,
    Draft.add_seal,
    Draft.add_copy,
    Draft.add_cursor,
    Draft.add_deletion,
    Draft.add_timeline,
    Draft.add_timeline,
    Draft.add_row,
    Draft.add_row,
    Draft.add_row,
    Draft.add_told,
    Draft.add_timeline_cursor,
    Draft.add_burial,
    Draft.add_cursor_removal,
    Draft.add_turn_removal,
]
