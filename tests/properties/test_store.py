"""The same random histories on both stores: every outcome and every read must agree.

The machine draws batches that fit and batches that do not, prunes, closes, crashes and restores;
what it draws next depends on what the reference store has by then.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from dispatch.errors import Conflict, DispatchError, Fenced
from dispatch.storage.memory import MemoryStore, read_backup
from dispatch.storage.memory_disk import MemoryDisk
from dispatch.storage.port import (
    Batch,
    ConversationKey,
    CursorRecord,
    EventRecord,
    Opened,
    Piece,
    Store,
    TurnChange,
    TurnCopy,
    TurnKey,
    TurnSeal,
)
from dispatch.storage.sqlite import SqliteStore
from tests.contract.store_rows import (
    ACCOUNT,
    ANN,
    BOB,
    conversation,
    events,
    everything,
    query,
    seal,
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
        ("steering", "absorbed"),
        ("steering", "queued"),
    ]
)
words = st.sampled_from(["", "Alpha", "alpha beta", "ÄÖ", "%_'"])


class Draft:
    """A batch in the making: which counters are next, and which turns still run."""

    def __init__(self, disk: MemoryDisk, data: st.DataObject) -> None:
        self.batch = Batch()
        self.disk = disk
        self.data = data
        self.position = max(disk.positions, default=0) + 1
        self.offsets = {
            key: max(record.last_offset, max(disk.events.get(key, {}), default=0))
            for key, record in disk.conversations.items()
        }

    def draw(self, strategy: st.SearchStrategy[T]) -> T:
        return self.data.draw(strategy)

    def open_turn(self) -> tuple[TurnKey, ConversationKey]:
        """One that is not sealed, or one that does not exist."""
        known = {t.key: t.conversation for t in self.disk.turns.values() if t.state != "sealed"}
        known |= {t.key: t.conversation for t in self.batch.turns}
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
                client_key=self.draw(st.sampled_from([None, f"acme/ann/{key}", "acme/ann/5"])),
                first_offset=self.offsets.get(owner, 0) + 1,
            )
        )

    def add_change(self) -> None:
        key, owner = self.open_turn()
        before, after = self.draw(moves)
        first = self.draw(st.sampled_from([None, self.offsets.get(owner, 0) + 1]))
        if any(event.turn == key for event in self.disk.events.get(owner, {}).values()):
            # It has begun: its first offset is known.
            first = None
        self.batch.changes.append(TurnChange(key, before, after, 7, first))

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

    def add_deletion(self) -> None:
        self.batch.deletions.append(ConversationKey(self.draw(st.sampled_from([1, 2, 3, 4, 9]))))


STEPS = [
    Draft.add_conversation,
    Draft.add_conversation,
    Draft.add_turn,
    Draft.add_turn,
    Draft.add_change,
    Draft.add_events,
    Draft.add_events,
    Draft.add_piece,
    Draft.add_seal,
    Draft.add_seal,
    Draft.add_copy,
    Draft.add_cursor,
    Draft.add_deletion,
]


class TwoStores(RuleBasedStateMachine):
    """A memory store and an SQLite store that are told the same."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="two-stores-"))
        self.runner = asyncio.Runner()
        self.copies = 0
        self.data = self.folder / "data"
        self.disk = MemoryDisk()
        self.open()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def open(self) -> None:
        self.memory = MemoryStore(self.disk)
        self.sqlite = SqliteStore(self.data, synchronous="off")
        assert self.counters(self.memory) == self.counters(self.sqlite)

    def counters(self, store: Store) -> tuple[int, ...]:
        opened: Opened = self.run(store.open())
        return opened[2:]

    def both(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of both; the answers or the errors must be the same."""
        answers = []
        for store in (self.memory, self.sqlite):
            try:
                answers.append(self.run(getattr(store, name)(*arguments, **options)))
            except DispatchError as error:
                answers.append(type(error))
        assert answers[0] == answers[1], (name, arguments, options)
        return answers[0]

    @initialize()
    def begin(self) -> None:
        """Something of everything, so that histories need not begin with finding their feet."""
        log = [*events(1, 5, 1, 3), *events(1, 6, 4, 2), *events(2, 8, 1, 2, ahead=5)]
        self.both(
            "commit",
            Batch(
                conversations=[conversation(1), conversation(2, epoch=2), conversation(3)],
                turns=[
                    turn(5),
                    turn(6, first_offset=4),
                    turn(7, state="queued", first_offset=None),
                    turn(8, owner=2),
                ],
                events=log,
                pieces=[Piece(TurnKey(5), 0, 0, b"piece,")],
                seals=[seal(5, count=2, at_ms=4, end=3)],
                cursors=[CursorRecord(ConversationKey(1), ANN, 3)],
                deletions=[ConversationKey(3)],
            ),
        )

    @rule(data=st.data(), step=st.sampled_from(STEPS))
    def commit_one_step(self, data: st.DataObject, step: Any) -> None:
        draft = Draft(self.disk, data)
        step(draft)
        self.both("commit", draft.batch)

    @rule(data=st.data(), steps=st.lists(st.sampled_from(STEPS), min_size=2, max_size=6))
    def commit_some_steps(self, data: st.DataObject, steps: list[Any]) -> None:
        draft = Draft(self.disk, data)
        for step in steps:
            step(draft)
        # Which of several offences is met first is not promised.
        outcomes = []
        for store in (self.memory, self.sqlite):
            try:
                self.run(store.commit(draft.batch))
                outcomes.append("kept")
            except (Fenced, Conflict):
                outcomes.append("refused")
        assert outcomes[0] == outcomes[1], draft.batch

    @rule(data=st.data())
    def begin_show_and_seal(self, data: st.DataObject) -> None:
        """In commits of their own, as a turn lives."""
        for step in (Draft.add_turn, Draft.add_events, Draft.add_piece, Draft.add_seal):
            draft = Draft(self.disk, data)
            step(draft)
            self.both("commit", draft.batch)

    @rule(before_ms=st.integers(0, 10), rows=st.integers(0, 12))
    def prune(self, before_ms: int, rows: int) -> None:
        self.both("prune", before_ms, rows)

    @rule(
        key=conversations,
        since=st.integers(0, 9),
        before=st.none() | st.integers(0, 9),
        newest_first=st.booleans(),
        limit=st.integers(0, 5),
    )
    def read_history(
        self, key: int, since: int, before: int | None, newest_first: bool, limit: int
    ) -> None:
        self.both(
            "sealed_turns",
            ConversationKey(key),
            since_seq=since,
            before_seq=before,
            newest_first=newest_first,
            limit=limit,
        )
        self.both("events", ConversationKey(key), since, limit)

    @rule(
        statuses=st.sets(st.sampled_from(["active", "idle", "closed", "deleted"])),
        prefix=st.sampled_from(["", "c", "c1", "C", "_"]),
        search=words.map(str.upper),
        user=st.sampled_from([ANN, BOB]),
        before=st.none() | st.tuples(st.integers(0, 6), st.integers(0, 5)),
        limit=st.integers(0, 4),
    )
    def read_list(self, statuses: set[str], prefix: str, search: str, **fields: Any) -> None:
        asked = query(statuses=tuple(statuses), id_prefix=prefix, search=search, **fields)
        self.both("conversations", asked)
        self.both("idle_since", fields["limit"])

    @rule(how=st.sampled_from(["close", "crash", "restore"]))
    def leave_and_come_back(self, how: str) -> None:
        self.read_everything()
        self.copies += 1
        there = self.folder / f"{how} {self.copies}"
        disk, data = self.disk, self.data
        if how == "crash":
            # Go on from the files as they lie there at this moment.
            shutil.copytree(data, there)
            data = there
        elif how == "restore":
            target = self.folder / f"backup {self.copies}"
            self.run(self.memory.backup(target))
            disk = read_backup(target)
            self.run(self.sqlite.backup(target))
            there.mkdir()
            target.rename(there / "dispatch.db")
            data = there
        self.close()
        self.disk, self.data = disk, data
        self.open()

    def read_everything(self) -> None:
        assert self.run(everything(self.memory)) == self.run(everything(self.sqlite))

    def close(self) -> None:
        self.run(self.memory.close())
        self.run(self.sqlite.close())

    def teardown(self) -> None:
        try:
            self.read_everything()
        finally:
            self.close()
            self.runner.close()
            shutil.rmtree(self.folder)


TestTwoStores = TwoStores.TestCase
TestTwoStores.settings = settings(max_examples=80, stateful_step_count=30)
