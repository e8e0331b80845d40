"""What a store owes to the log: order, retention, deletion and copies.

Part of the suite `tests.contract.store`; the rules are those of `port.Store`.
"""

import msgspec
import pytest

from dispatch.core.identity import ConversationId, TurnId
from dispatch.errors import Conflict, Fenced
from dispatch.storage.keys import ConversationKey, TurnKey
from dispatch.storage.port import Batch, CursorRecord, Piece, Store, TurnChange, TurnCopy
from tests.contract.store_rows import (
    ACCOUNT,
    ANN,
    BOB,
    conversation,
    events,
    everything,
    marker,
    query,
    seal,
    turn,
)
from tests.contract.store_shelf import Shelved


class LogContract(Shelved):
    """Events by offset, and what becomes of them."""

    @pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 33, 100])
    async def test_events_come_back_by_offset_however_many_were_in_the_batch(
        self, store: Store, count: int
    ) -> None:
        await store.commit(Batch(conversations=[conversation()], turns=[turn(2)]))
        log = events(1, 2, 1, count)
        await store.commit(Batch(events=log))
        assert await store.events(ConversationKey(1), 0, 1_000) == log
        assert await store.events(ConversationKey(1), count - 1, 1_000) == log[-1:]
        assert await store.events(ConversationKey(1), count, 1_000) == []
        assert await store.events(ConversationKey(1), 0, 1) == log[:1]
        assert await store.events(ConversationKey(1), 0, 0) == []
        # A page ends with the event that reaches its bytes, and is never empty for being too small.
        assert await store.events(ConversationKey(1), 0, 1_000, bytes_max=1) == log[:1]
        two = len(log[0].payload) + 1
        assert await store.events(ConversationKey(1), 0, 1_000, bytes_max=two) == log[:2]
        assert await store.events(ConversationKey(9), 0, 1_000) == []

    async def test_a_batch_holds_events_of_many_conversations(self, store: Store) -> None:
        rows = [conversation(key) for key in range(1, 41)]
        turns = [turn(100 + row.key, owner=row.key) for row in rows]
        log = [e for row in rows for e in events(row.key, 100 + row.key, 1, 3, ahead=row.key * 10)]
        await store.commit(Batch(conversations=rows, turns=turns, events=log))
        for row in rows:
            found = await store.events(row.key, 0, 9)
            assert found == [event for event in log if event.conversation == row.key]
        of = await store.events_of([t.key for t in turns] + [TurnKey(999)])
        assert of.pop(TurnKey(999)) == (0, [])
        assert [event for _, found in of.values() for event in found] == log

    async def test_a_marker_is_in_the_log_and_neither_runs_nor_is_history(
        self, store: Store
    ) -> None:
        await store.commit(
            Batch(
                conversations=[conversation()],
                turns=[turn(2), marker(4, 4)],
                events=[*events(1, 2, 1, 3), *events(1, 4, 4, 1)],
                seals=[seal(2, end=3)],
            )
        )
        assert [e.turn for e in await store.events(ConversationKey(1), 2, 9)] == [2, 4]
        assert await store.turn(ConversationKey(1), TurnId("t4")) == marker(4, 4)
        found = await store.turn_by_client_key("acme/ann/4")
        assert found is not None
        assert found[1].state == "marker"
        assert await store.unsealed() == []
        assert [t.id for t in await store.sealed_turns(ConversationKey(1), limit=9)] == ["t2"]
        assert [one.turn for one in await store.metrics(ConversationKey(1))] == ["t2"]
        copy = TurnCopy(TurnKey(4), TurnKey(9), ConversationKey(1), 1)
        with pytest.raises(Fenced):
            await store.commit(Batch(copies=[copy]))

    async def test_the_event_of_a_marker_is_pruned_at_its_age(self, store: Store) -> None:
        await store.commit(
            Batch(
                conversations=[conversation()],
                turns=[turn(2), marker(4, 4, at_ms=5_000)],
                events=[*events(1, 2, 1, 3), *events(1, 4, 4, 1)],
                seals=[seal(2, end=3)],
            )
        )
        assert await store.prune(4_000, 100) == 3
        assert [e.turn for e in await store.events(ConversationKey(1), 0, 9)] == [4]
        assert await store.prune(6_000, 100) == 1
        record = await store.conversation(ACCOUNT, ConversationId("c1"))
        assert record is not None
        assert record.last_offset == 4

    async def test_events_of_a_turn_are_its_own_alone(self, store: Store) -> None:
        turns = [turn(2), turn(3, first_offset=3)]
        log = events(1, 2, 1, 2) + events(1, 3, 3, 2)
        await store.commit(
            Batch(
                conversations=[conversation()],
                turns=turns,
                events=log,
                pieces=[Piece(TurnKey(3), 0, 0, b"abc"), Piece(TurnKey(3), 3, 1, b"de")],
                seals=[seal(2, end=2)],
            )
        )
        assert await store.events_of([TurnKey(3)]) == {3: (5, log[2:])}
        assert await store.events_of([]) == {}

    async def test_the_last_offset_read_is_that_of_the_last_event_however_old_the_row(
        self, store: Store
    ) -> None:
        await store.commit(Batch(conversations=[conversation()], turns=[turn(2)]))
        await store.commit(Batch(events=events(1, 2, 1, 4)))
        row = await store.conversation(ACCOUNT, ConversationId("c1"))
        assert row == conversation(last_offset=4)
        assert await store.conversations(query()) == [row]
        assert [record for record, _ in await store.unsealed()] == [row]
        await store.commit(Batch(conversations=[conversation(last_offset=9)]))
        row = await store.conversation(ACCOUNT, ConversationId("c1"))
        assert row == conversation(last_offset=9)

    async def test_pruning_removes_events_of_turns_sealed_before_the_oldest_first(
        self, store: Store
    ) -> None:
        turns = [turn(10), turn(11, first_offset=4), turn(12, first_offset=7)]
        log = [*events(1, 10, 1, 3), *events(1, 11, 4, 3), *events(1, 12, 7, 3)]
        await store.commit(Batch(conversations=[conversation()], turns=turns, events=log))
        await store.commit(Batch(seals=[seal(10, at_ms=100, end=3), seal(11, 2, 1, 200, end=6)]))

        async def left() -> list[int]:
            return [event.offset for event in await store.events(ConversationKey(1), 0, 50)]

        assert await store.prune(100, 50) == 0
        assert await store.prune(101, 0) == 0
        assert await store.prune(101, 2) == 2
        assert await left() == [3, 4, 5, 6, 7, 8, 9]
        assert await store.prune(201, 2) == 2
        assert await left() == [5, 6, 7, 8, 9]
        assert await store.prune(10_000, 50) == 2
        assert await left() == [7, 8, 9]
        assert await store.prune(10_000, 50) == 0
        assert await store.chunk_bytes([TurnKey(10)]) == [seal(10).chunks]

    async def test_the_next_offset_stays_known_when_the_last_event_is_pruned(
        self, store: Store
    ) -> None:
        await store.commit(
            Batch(
                conversations=[conversation()],
                turns=[turn(2)],
                events=events(1, 2, 1, 7),
                seals=[seal(2, end=7)],
            )
        )
        assert await store.prune(10_000, 50) == 7
        row = await store.conversation(ACCOUNT, ConversationId("c1"))
        assert row == conversation(last_offset=7)

    async def test_pruning_passes_by_turns_that_have_nothing_left(self, store: Store) -> None:
        batch = Batch(conversations=[conversation()])
        for key in range(10, 210):
            batch.turns.append(turn(key, first_offset=1))
            batch.seals.append(seal(key, at_ms=key, end=0))
        batch.turns.append(turn(500))
        batch.seals.append(seal(500, at_ms=500, end=2))
        batch.events.extend(events(1, 500, 1, 2))
        await store.commit(batch)
        assert await store.prune(10_000, 1) == 1
        assert await store.prune(10_000, 1) == 1
        assert await store.prune(10_000, 1) == 0

    async def test_a_deleted_conversation_leaves_a_tombstone_and_nothing_else(
        self, store: Store
    ) -> None:
        await store.commit(
            Batch(
                conversations=[conversation(1), conversation(2)],
                turns=[turn(10), turn(11), turn(20, owner=2)],
                events=events(1, 10, 1, 3) + events(2, 20, 1, 3, ahead=50),
                pieces=[Piece(TurnKey(10), 0, 0, b"x")],
                seals=[seal(11)],
                cursors=[CursorRecord(ConversationKey(1), ANN, 1)],
            )
        )
        await store.commit(Batch(deletions=[ConversationKey(1)]))
        tombstone = await store.conversation(ACCOUNT, ConversationId("c1"))
        assert tombstone is not None
        assert (tombstone.status, tombstone.title, tombstone.last_message, tombstone.details) == (
            "deleted",
            "",
            "",
            b"{}",
        )
        assert [row.key for row in await store.conversations(query())] == [2]
        assert await store.conversations(query(statuses=("deleted",))) == []
        assert await store.events(ConversationKey(1), 0, 9) == []
        assert await store.chunk_bytes([TurnKey(10), TurnKey(11)]) == [b"", b""]
        assert await store.turn_by_client_key("acme/ann/10") is None
        assert await store.turn(ConversationKey(1), TurnId("t11")) is None
        assert await store.metrics(ConversationKey(1)) == []
        assert await store.read_cursor(ConversationKey(1), ANN) == 0
        assert [row.key for row, _ in await store.unsealed()] == [2]
        assert len(await store.events(ConversationKey(2), 0, 9)) == 3
        await store.commit(Batch(deletions=[ConversationKey(1), ConversationKey(99)]))

    @pytest.mark.parametrize(
        "late",
        [
            Batch(conversations=[conversation()]),
            Batch(conversations=[conversation(epoch=99)]),
            Batch(turns=[turn(30)]),
            Batch(changes=[TurnChange(TurnKey(10), "running", "cancelled")]),
            Batch(events=events(1, 10, 4, 1)),
            Batch(events=events(1, 10, 4, 2)),
            Batch(pieces=[Piece(TurnKey(10), 1, 0, b"x")]),
            Batch(seals=[seal(10)]),
            Batch(copies=[TurnCopy(TurnKey(11), TurnKey(40), ConversationKey(2), 1)]),
        ],
    )
    async def test_nothing_late_brings_a_deleted_conversation_back(
        self, store: Store, late: Batch
    ) -> None:
        await store.commit(
            Batch(
                conversations=[conversation(1), conversation(2)],
                turns=[turn(10), turn(11)],
                events=events(1, 10, 1, 3),
                seals=[seal(11)],
                deletions=[ConversationKey(1)],
            )
        )
        before = await everything(store)
        with pytest.raises(Fenced):
            await store.commit(late)
        assert await everything(store) == before

    async def test_a_deleted_conversations_id_is_never_used_again(self, store: Store) -> None:
        await store.commit(Batch(conversations=[conversation()]))
        await store.commit(Batch(deletions=[ConversationKey(1)]))
        with pytest.raises(Conflict):
            await store.commit(Batch(conversations=[conversation(2, name="c1")]))

    async def test_a_late_cursor_of_a_deleted_conversation_is_dropped(self, store: Store) -> None:
        await store.commit(Batch(conversations=[conversation()]))
        await store.commit(Batch(deletions=[ConversationKey(1)]))
        late = [CursorRecord(ConversationKey(1), ANN, 5), CursorRecord(ConversationKey(8), ANN, 5)]
        await store.commit(Batch(cursors=late))
        assert await store.read_cursor(ConversationKey(1), ANN) == 0

    async def test_a_read_cursor_moves_forward_only(self, store: Store) -> None:
        await store.commit(Batch(conversations=[conversation()]))
        for seq, expected in ((3, 3), (7, 7), (5, 7)):
            await store.commit(Batch(cursors=[CursorRecord(ConversationKey(1), ANN, seq)]))
            assert await store.read_cursor(ConversationKey(1), ANN) == expected
        assert await store.read_cursor(ConversationKey(1), BOB) == 0

    async def test_a_copy_is_whole_and_outlives_its_source(self, store: Store) -> None:
        await store.commit(
            Batch(
                conversations=[conversation(1), conversation(2)],
                turns=[turn(10)],
                events=events(1, 10, 1, 3),
                pieces=[Piece(TurnKey(10), 0, 0, b"staged,")],
            )
        )
        await store.commit(Batch(seals=[seal(10, first_seq=4, count=2)]))
        await store.commit(
            Batch(copies=[TurnCopy(TurnKey(10), TurnKey(60), ConversationKey(2), 1)])
        )
        await store.commit(Batch(deletions=[ConversationKey(1)]))
        assert await store.chunk_bytes([TurnKey(60)]) == [b"staged," + seal(10, count=2).chunks]
        assert await store.turn(ConversationKey(2), TurnId("t10")) == msgspec.structs.replace(
            turn(10),
            conversation=2,
            key=60,
            state="sealed",
            client_key=None,
            digest=b"",
            acceptance=b"",
            first_offset=None,
            sealed_at_ms=3_000,
            outcome="completed",
            first_seq=1,
            chunk_count=2,
            metrics=b'{"usage":10}',
        )
        assert await store.events(ConversationKey(2), 0, 9) == []
        assert await store.prune(10_000, 50) == 0
