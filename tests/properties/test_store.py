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
from dispatch.storage.keys import ConversationKey, TimelineKey, TurnKey
from dispatch.storage.memory import MemoryStore, read_backup
from dispatch.storage.memory_disk import MemoryDisk
from dispatch.storage.port import (
    Batch,
    CursorRecord,
    Opened,
    Piece,
    Store,
)
from dispatch.storage.sqlite import SqliteStore
from tests.contract.store_rows import (
    ANN,
    BOB,
    conversation,
    events,
    everything,
    message,
    query,
    reply,
    seal,
    timeline,
    timelines,
    told,
    turn,
)
from tests.properties.store_draft import STEPS, Draft, conversations, timeline_keys, words

T = TypeVar("T")


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
        kept = self.both(
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
                timelines=[timeline(41), timeline(42, "c1", kind="chat"), timeline(43)],
                rows=[
                    message(51, 41, 1),
                    reply(52, 41, 2, turn=TurnKey(5), turn_id="t5", outcome="completed"),
                    reply(53, 41, None, turn=TurnKey(6), turn_id="t6", reply_to=1),
                    message(54, 42, 1),
                    reply(55, 42, 2, turn=TurnKey(8), turn_id="t8", outcome="completed"),
                ],
                burials=[TimelineKey(43)],
                timeline_events=[told(101, 41, 51), told(102, 42, 54), told(103, 43)],
                cursors=[CursorRecord(ConversationKey(1), ANN, 3)],
                deletions=[ConversationKey(3)],
            ),
        )
        assert kept is None

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
        key=timeline_keys,
        after=st.integers(0, 9),
        before=st.none() | st.integers(0, 9),
        position=st.integers(0, 30) | st.integers(90, 130),
        newest_first=st.booleans(),
        limit=st.integers(0, 5),
    )
    def read_timeline(
        self,
        key: int,
        after: int,
        before: int | None,
        position: int,
        newest_first: bool,
        limit: int,
    ) -> None:
        name, stream = TimelineKey(key), f"stream {key}"
        bounds = {"after_seq": after, "before_seq": before}
        self.both("rows", name, **bounds, newest_first=newest_first, limit=limit)
        self.both("log", stream, position, limit, timeline=name)
        self.both("log", stream, position, limit)
        place = None if before is None else (1_000 + before, key)
        for user in (None, ANN, BOB):
            self.both("timelines", timelines(user=user, before=place, limit=limit))

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
TestTwoStores.settings = settings(max_examples=50, stateful_step_count=30)
