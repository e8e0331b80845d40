"""What a store owes to whoever writes: all or nothing, once, and by the owner alone.

Part of the suite `tests.contract.store`; the rules are those of `port.Batch`.
"""

import anyio
import msgspec
import pytest

from dispatch.core.identity import ConversationId
from dispatch.errors import Conflict, Fenced, StorageFailed
from dispatch.storage.keys import ConversationKey, TimelineKey, TurnKey
from dispatch.storage.port import (
    Batch,
    CursorRecord,
    EventRecord,
    Opened,
    Piece,
    Store,
    TurnChange,
    TurnCopy,
)
from tests.contract.store_rows import (
    ACCOUNT,
    ANN,
    BOB,
    EPOCH,
    conversation,
    events,
    everything,
    message,
    query,
    seal,
    timeline,
    told,
    turn,
)
from tests.contract.store_shelf import Shelf, Shelved


class WritingContract(Shelved):
    """Batches, conflicts, fencing and what opening says."""

    async def test_a_new_store_names_its_history_and_counts_from_one(
        self, opened: tuple[Store, Opened]
    ) -> None:
        _, first = opened
        assert len(first.generation) == 8
        assert set(first.generation) <= set("abcdefghijklmnopqrstuvwxyz0123456789")
        assert first[1:] == (1, 1, 1)

    async def test_every_opening_raises_the_incarnation_and_keeps_the_generation(
        self, opened: tuple[Store, Opened], shelf: Shelf
    ) -> None:
        store, first = opened
        again, second = await self.reopened(store, shelf)
        await again.close()
        assert second.generation == first.generation
        assert second.incarnation > first.incarnation

    async def test_everything_committed_is_there_after_reopening(
        self, store: Store, shelf: Shelf
    ) -> None:
        row, running, queued = conversation(), turn(7), turn(8, state="queued", first_offset=None)
        log = events(1, 7, 1, 3)
        await store.commit(
            Batch(
                conversations=[row],
                turns=[running, queued],
                events=log,
                pieces=[Piece(TurnKey(7), 0, 0, b"first"), Piece(TurnKey(7), 5, 1, b" second")],
                cursors=[CursorRecord(row.key, BOB, 4)],
            )
        )
        again, opened = await self.reopened(store, shelf)
        try:
            expected = msgspec.structs.replace(row, last_offset=3)
            assert await again.conversation(ACCOUNT, row.id) == expected
            assert await again.unsealed() == [(expected, [running, queued])]
            assert await again.events(row.key, 0, 10) == log
            assert await again.events_of([TurnKey(7)]) == {7: (12, log)}
            assert await again.chunk_bytes([TurnKey(7)]) == [b"first second"]
            assert await again.read_cursor(row.key, BOB) == 4
            assert (opened.next_position, opened.next_key) == (4, 9)
        finally:
            await again.close()

    async def test_a_position_is_never_given_out_again_even_when_its_event_is_gone(
        self, store: Store, shelf: Shelf
    ) -> None:
        await store.commit(Batch(conversations=[conversation()], turns=[turn(2)]))
        await store.commit(Batch(events=events(1, 2, 1, 5, ahead=100), seals=[seal(2, end=5)]))
        assert await store.prune(10_000, 100) == 5
        _, opened = await self.reopened(store, shelf)
        await _.close()
        assert opened.next_position == 106

    async def test_a_key_is_never_given_out_again_even_when_its_turn_is_gone(
        self, store: Store, shelf: Shelf
    ) -> None:
        await store.commit(
            Batch(conversations=[conversation()], turns=[turn(50)], events=events(1, 50, 1, 2))
        )
        await store.commit(Batch(deletions=[ConversationKey(1)]))
        again, opened = await self.reopened(store, shelf)
        await again.close()
        assert (opened.next_position, opened.next_key) == (3, 51)

    async def test_closing_twice_and_before_opening_does_nothing(self, shelf: Shelf) -> None:
        store = shelf.build()
        await store.close()
        await store.open()
        await store.close()
        await store.close()

    async def test_a_closed_store_refuses_reads_and_writes(self, shelf: Shelf) -> None:
        store = shelf.build()
        await store.open()
        await store.close()
        for attempt in (
            store.commit(Batch(conversations=[conversation()])),
            store.prune(1, 1),
            store.conversation(ACCOUNT, ConversationId("c1")),
            store.unsealed(),
        ):
            with pytest.raises(StorageFailed, match="not open"):
                await attempt

    async def test_an_empty_batch_changes_nothing(self, store: Store) -> None:
        await store.commit(Batch())
        assert await store.conversations(query()) == []

    @pytest.mark.parametrize(
        "spoiler",
        [
            Batch(conversations=[conversation(9, name="c1")]),
            Batch(conversations=[conversation(1, epoch=EPOCH - 1)]),
            Batch(conversations=[conversation(3)]),
            Batch(turns=[turn(30, owner=99)]),
            Batch(turns=[turn(30, owner=3)]),
            Batch(turns=[turn(30, client_key="acme/ann/2")]),
            Batch(turns=[turn(2, client_key=None)]),
            Batch(turns=[turn(30, client_key=None, id="t2")]),
            Batch(changes=[TurnChange(TurnKey(2), "queued", "running")]),
            Batch(changes=[TurnChange(TurnKey(77), "queued", "running")]),
            Batch(events=events(1, 77, 5, 1)),
            Batch(events=events(2, 2, 5, 1)),
            Batch(events=events(1, 2, 1, 1, ahead=50)),
            Batch(events=events(1, 2, 50, 1, ahead=-49)),
            Batch(events=[*events(1, 2, 20, 20), *events(1, 77, 40, 1)]),
            Batch(pieces=[Piece(TurnKey(77), 0, 0, b"x")]),
            Batch(pieces=[Piece(TurnKey(2), 0, 0, b"again")]),
            Batch(seals=[seal(4)]),
            Batch(seals=[seal(77)]),
            Batch(seals=[seal(2), seal(2)]),
            Batch(copies=[TurnCopy(TurnKey(2), TurnKey(30), ConversationKey(2), 1)]),
            Batch(copies=[TurnCopy(TurnKey(77), TurnKey(30), ConversationKey(2), 1)]),
            Batch(copies=[TurnCopy(TurnKey(5), TurnKey(30), ConversationKey(3), 1)]),
        ],
        ids=lambda batch: ",".join(
            f"{name}{len(getattr(batch, name))}"
            for name in Batch.__struct_fields__
            if getattr(batch, name)
        ),
    )
    async def test_a_row_that_does_not_fit_undoes_its_whole_batch(
        self, store: Store, spoiler: Batch
    ) -> None:
        await store.commit(
            Batch(
                conversations=[conversation(1), conversation(2), conversation(3)],
                turns=[turn(2), turn(4, state="queued"), turn(5), turn(6, client_key=None)],
                events=events(1, 2, 1, 2),
                pieces=[Piece(TurnKey(2), 0, 0, b"x")],
                seals=[seal(5)],
                deletions=[ConversationKey(3)],
            )
        )
        before = await everything(store)
        good = Batch(
            conversations=[conversation(10), conversation(1, title="changed")],
            turns=[turn(11, owner=10)],
            changes=[TurnChange(TurnKey(4), "queued", "cancelled")],
            events=events(10, 11, 1, 3, ahead=500),
            pieces=[Piece(TurnKey(11), 0, 0, b"x")],
            seals=[seal(6)],
            copies=[TurnCopy(TurnKey(5), TurnKey(12), ConversationKey(10), 1)],
            cursors=[CursorRecord(ConversationKey(1), ANN, 1)],
            deletions=[ConversationKey(2)],
        )
        together = Batch(
            *(getattr(good, name) + getattr(spoiler, name) for name in Batch.__struct_fields__)
        )
        with pytest.raises((Fenced, Conflict)):
            await store.commit(together)
        assert await everything(store) == before
        with pytest.raises((Fenced, Conflict)):
            await store.commit(spoiler)
        assert await everything(store) == before
        await store.commit(good)

    async def test_a_client_id_that_was_used_before_is_a_conflict(self, store: Store) -> None:
        await store.commit(Batch(conversations=[conversation()], turns=[turn(2)]))
        with pytest.raises(Conflict):
            await store.commit(Batch(turns=[turn(3, client_key="acme/ann/2")]))

    async def test_a_conversation_id_that_was_used_before_is_a_conflict(self, store: Store) -> None:
        await store.commit(Batch(conversations=[conversation()]))
        with pytest.raises(Conflict):
            await store.commit(Batch(conversations=[conversation(2, name="c1")]))
        await store.commit(Batch(conversations=[conversation(2, name="c1", account="other")]))

    async def test_turns_without_a_client_id_never_conflict(self, store: Store) -> None:
        turns = [turn(2, client_key=None), turn(3, client_key=None)]
        await store.commit(Batch(conversations=[conversation()], turns=turns))
        assert await store.unsealed_of(ConversationKey(1)) == turns

    async def test_what_is_written_is_what_was_handed_in_then(self, store: Store) -> None:
        row, running = conversation(), turn(2)
        kept = msgspec.structs.replace(row)

        async def change_at_once() -> None:
            row.title = "changed while it was being written"
            running.outcome = "changed"

        async with anyio.create_task_group() as group:
            group.start_soon(store.commit, Batch(conversations=[row], turns=[running]))
            await anyio.lowlevel.checkpoint()
            group.start_soon(change_at_once)
        assert await store.conversation(ACCOUNT, row.id) == kept
        read = await store.conversation(ACCOUNT, row.id)
        assert read is not None
        read.title = "changed after reading"
        assert await store.conversation(ACCOUNT, row.id) == kept
        assert (await store.unsealed_of(row.key))[0].outcome is None

    async def test_text_and_bytes_of_any_kind_come_back_as_they_were(self, store: Store) -> None:
        text = '\'; DROP TABLE turn; -- %s {0} "q" \\ \n\r\t\u202e\U0001f600 e\u0301 \x00 \x1b[0m'
        row = conversation(title=text, session=text, last_message=text, workspace=text)
        given = turn(2, body=bytes(range(256)), digest=b"", client_key=text, user=text)
        payload = EventRecord(1, row.key, given.key, 1, text.encode())
        await store.commit(Batch(conversations=[row], turns=[given], events=[payload]))
        assert await store.conversation(ACCOUNT, row.id) == msgspec.structs.replace(
            row, last_offset=1
        )
        found = await store.turn_by_client_key(text)
        assert found is not None
        assert found[1] == given
        assert await store.events(row.key, 0, 1) == [payload]
        assert await store.turn_by_client_key(text + " ") is None

    async def test_many_commits_at_once_are_all_kept(self, store: Store) -> None:
        await store.commit(Batch(conversations=[conversation()], turns=[turn(2)]))

        async def one(index: int) -> None:
            await store.commit(Batch(events=events(1, 2, index, 1)))
            assert index in {e.offset for e in await store.events(ConversationKey(1), 0, 500)}

        async with anyio.create_task_group() as group:
            for index in range(1, 101):
                group.start_soon(one, index)
        found = await store.events(ConversationKey(1), 0, 500)
        assert [event.offset for event in found] == list(range(1, 101))

    async def test_a_cancelled_commit_is_whole_or_absent(self, store: Store) -> None:
        await store.commit(Batch(conversations=[conversation()], turns=[turn(2)]))
        for index in range(60):
            batch = Batch(
                conversations=[conversation(100 + index)],
                turns=[turn(1_000 + index, owner=100 + index)],
                events=events(1, 2, 1 + index, 1),
            )
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(store.commit, batch)
                    for _ in range(index % 5):
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()
        # Behind everything that was handed in.
        await store.commit(Batch(conversations=[conversation(999)]))
        offsets = {event.offset for event in await store.events(ConversationKey(1), 0, 100)}
        found = await store.turn_ids([TurnKey(1_000 + index) for index in range(60)])
        assert {key - 999 for key in found} == offsets
        rows = await store.conversations(query(limit=200))
        assert {row.key - 99 for row in rows if 100 <= row.key < 200} == offsets

    async def test_a_later_incarnation_fences_every_kind_of_write(
        self, store: Store, shelf: Shelf
    ) -> None:
        await store.commit(
            Batch(conversations=[conversation()], turns=[turn(2)], events=events(1, 2, 1, 3))
        )
        await shelf.take_over()
        for batch in (
            Batch(events=events(1, 2, 4, 1)),
            Batch(events=events(1, 2, 4, 9)),
            Batch(events=events(1, 2, 4, 40)),
            Batch(conversations=[conversation()]),
            Batch(seals=[seal(2)]),
            Batch(cursors=[CursorRecord(ConversationKey(1), ANN, 1)]),
            Batch(deletions=[ConversationKey(1)]),
            Batch(timelines=[timeline(41)]),
            Batch(rows=[message(51, 41, 1)]),
            Batch(timeline_events=[told(9, 41)]),
            Batch(burials=[TimelineKey(41)]),
        ):
            with pytest.raises(Fenced, match=r"another incarnation|no longer ours"):
                await store.commit(batch)
        with pytest.raises(Fenced):
            await store.prune(10_000, 10)
        assert len(await store.events(ConversationKey(1), 0, 100)) == 3
        assert await store.unsealed_of(ConversationKey(1)) == [turn(2)]

    async def test_a_row_is_overwritten_by_its_own_epoch_and_by_later_ones_alone(
        self, store: Store
    ) -> None:
        await store.commit(Batch(conversations=[conversation(epoch=5)]))
        await store.commit(Batch(conversations=[conversation(epoch=5, title="same")]))
        with pytest.raises(Fenced):
            await store.commit(Batch(conversations=[conversation(epoch=4, title="older")]))
        await store.commit(Batch(conversations=[conversation(epoch=6, title="newer")]))
        row = await store.conversation(ACCOUNT, ConversationId("c1"))
        assert row == conversation(epoch=6, title="newer")

    async def test_the_name_under_a_key_never_changes(self, store: Store) -> None:
        await store.commit(Batch(conversations=[conversation()]))
        for other in (conversation(name="other"), conversation(account="other")):
            with pytest.raises(Fenced):
                await store.commit(Batch(conversations=[other]))
