"""What a store owes to timelines: their rows, what is unread of them, their log, their end.

Part of the suite `tests.contract.store`; the rules are those of `port.Batch` and
`timeline.TimelineReads`.
"""

import msgspec
import pytest

from dispatch.core.identity import ConversationId, TurnId
from dispatch.errors import Conflict, Fenced
from dispatch.storage.keys import ConversationKey, RowKey, TimelineKey, TurnKey
from dispatch.storage.port import Batch, CursorRecord, Store
from tests.contract.store_rows import (
    ACCOUNT,
    ANN,
    BOB,
    EPOCH,
    conversation,
    events,
    everything,
    message,
    reply,
    seal,
    timeline,
    timelines,
    told,
    turn,
)
from tests.contract.store_shelf import Shelf, Shelved

G41, G42 = TimelineKey(41), TimelineKey(42)
DONE = {"outcome": "completed", "ended_position": 9}


def group() -> Batch:
    """Ann's group: two turns of one conversation answer in it, the second still runs."""
    return Batch(
        conversations=[conversation()],
        turns=[turn(2), turn(3, first_offset=4)],
        events=[*events(1, 2, 1, 3, ahead=10), *events(1, 3, 4, 2, ahead=20)],
        seals=[seal(2, end=3)],
        timelines=[timeline(41, last_position=40)],
        rows=[
            message(51, 41, 1),
            reply(52, 41, 2, turn=TurnKey(2), turn_id="t2", outcome="completed", ended_position=13),
            reply(53, 41, None, turn=TurnKey(3), turn_id="t3", reply_to=1),
        ],
        timeline_events=[told(5, 41, 51), told(12 + 2, 41, 52), told(40, 41)],
    )


class TimelinesContract(Shelved):
    """Timelines, rows, read cursors, logs and burials."""

    async def test_what_is_written_of_a_timeline_is_there_after_reopening(
        self, store: Store, shelf: Shelf
    ) -> None:
        batch = group()
        batch.cursors = [CursorRecord(G41, ANN, 2)]
        await store.commit(batch)
        before = await everything(store)
        again, opened = await self.reopened(store, shelf)
        try:
            assert await everything(again) == before
            assert await again.timeline(ACCOUNT, "group", "g41") == batch.timelines[0]
            assert await again.timeline_by_alias(ACCOUNT, "alias 41") == batch.timelines[0]
            assert await again.rows(G41, limit=9) == batch.rows[:2]
            assert await again.open_rows() == await again.open_rows(G41) == batch.rows[2:]
            assert await again.replies_to(G41, 1) == batch.rows[2:]
            assert await again.row_of_turn(G41, TurnId("t2")) == batch.rows[1]
            found = await again.row_by_client_key("row 51")
            assert found == (batch.timelines[0], batch.rows[0])
            assert await again.read_cursor(G41, ANN) == 2
            assert await again.stream_head("stream 41") == 40
            assert (opened.next_position, opened.next_key) == (41, 54)
        finally:
            await again.close()

    async def test_positions_and_keys_of_what_was_buried_or_pruned_are_used_up(
        self, store: Store, shelf: Shelf
    ) -> None:
        await store.commit(Batch(timelines=[timeline(41)], rows=[message(90, 41, 1)]))
        await store.commit(Batch(timeline_events=[told(70, 41)]))
        await store.commit(Batch(burials=[G41]))
        await store.commit(Batch(timelines=[timeline(42, last_position=80)]))
        again, opened = await self.reopened(store, shelf)
        await again.close()
        assert (opened.next_position, opened.next_key) == (81, 91)

    @pytest.mark.parametrize(
        ("spoiler", "refusal"),
        [
            (Batch(timelines=[timeline(45, "g41", alias=None)]), Conflict),
            (Batch(timelines=[timeline(45, alias="alias 41")]), Conflict),
            (Batch(timelines=[timeline(42, alias="alias 41")]), Conflict),
            (Batch(timelines=[timeline(41, epoch=EPOCH - 1)]), Fenced),
            (Batch(timelines=[timeline(41, "other")]), Fenced),
            (Batch(timelines=[timeline(41, kind="chat")]), Fenced),
            (Batch(timelines=[timeline(41, account="other")]), Fenced),
            (Batch(timelines=[timeline(43)]), Fenced),
            (Batch(rows=[message(60, 99, 1)]), Fenced),
            (Batch(rows=[message(60, 43, 1)]), Fenced),
            (Batch(rows=[message(60, 41, 7, client_key="row 51")]), Conflict),
            (Batch(rows=[message(60, 42, 7, client_key="row 51")]), Conflict),
            (Batch(rows=[message(51, 42, 7)]), Fenced),
            (Batch(rows=[message(51, 41, 1, client_key="other")]), Fenced),
            (Batch(rows=[reply(51, 41, 1, client_key="row 51")]), Fenced),
            (Batch(rows=[message(60, 41, 1)]), Fenced),
            (Batch(timeline_events=[told(60, 99)]), Fenced),
            (Batch(timeline_events=[told(60, 43)]), Fenced),
            (Batch(timeline_events=[told(5, 41)]), Fenced),
        ],
    )
    async def test_what_does_not_fit_undoes_its_whole_batch(
        self, store: Store, spoiler: Batch, refusal: type[Exception]
    ) -> None:
        await store.commit(group())
        await store.commit(Batch(timelines=[timeline(42), timeline(43)], burials=[TimelineKey(43)]))
        before = await everything(store)
        good = Batch(
            timelines=[timeline(44), timeline(41, title="changed")],
            rows=[message(59, 44, 1)],
            burials=[G42],
            timeline_events=[told(61, 44), told(62, 42)],
            cursors=[CursorRecord(G41, ANN, 1)],
        )
        for name in Batch.__struct_fields__:
            if spoiler_part := getattr(spoiler, name):
                together = msgspec.structs.replace(
                    good, **{name: [*getattr(good, name), *spoiler_part]}
                )
        with pytest.raises((Fenced, Conflict)):
            await store.commit(together)
        assert await everything(store) == before
        with pytest.raises(refusal):
            await store.commit(spoiler)
        assert await everything(store) == before
        await store.commit(good)

    async def test_a_floor_never_falls(self, store: Store) -> None:
        for floor in (5, 3):
            await store.commit(Batch(timelines=[timeline(41, floor=floor)]))
            found = await store.timeline(ACCOUNT, "group", "g41")
            assert found == timeline(41, floor=5)

    async def test_ids_are_of_a_kind_and_aliases_of_an_account(self, store: Store) -> None:
        await store.commit(Batch(timelines=[timeline(41), timeline(42, "g41", kind="chat")]))
        await store.commit(Batch(timelines=[timeline(43, "g41", account="o", alias="alias 41")]))
        found = await store.timeline_by_alias(ACCOUNT, "alias 41")
        assert found == timeline(41)
        await store.commit(Batch(timelines=[timeline(41, alias=None)]))
        assert await store.timeline_by_alias(ACCOUNT, "alias 41") is None

    async def test_rows_are_read_between_two_seqs_from_either_end(self, store: Store) -> None:
        rows = [message(50 + seq, 41, seq) for seq in range(1, 7)]
        await store.commit(Batch(timelines=[timeline(41)], rows=[*rows, reply(60, 41, None)]))
        assert await store.rows(G41, limit=2) == rows[:2]
        assert await store.rows(G41, newest_first=True, limit=2) == [rows[5], rows[4]]
        assert await store.rows(G41, after_seq=2, before_seq=5, limit=9) == rows[2:4]
        assert await store.rows(G41, limit=0) == []

    async def test_a_row_is_replaced_as_its_turn_goes_on(self, store: Store) -> None:
        await store.commit(Batch(timelines=[timeline(41)], rows=[reply(51, 41, None)]))
        ended = reply(51, 41, 1, turn=TurnKey(9), turn_id="t9", text="all", **DONE)
        await store.commit(Batch(rows=[ended]))
        assert await store.rows(G41, limit=9) == [ended]
        assert await store.open_rows() == []

    async def test_the_list_is_newest_first_in_pages_with_what_is_last_and_unread(
        self, store: Store
    ) -> None:
        await store.commit(group())
        await store.commit(
            Batch(
                timelines=[
                    timeline(42, user=BOB),
                    timeline(43, status="archived"),
                    timeline(44),
                    timeline(45, "c1", kind="chat"),
                ],
                rows=[reply(54, 43, 1, **DONE)],
                burials=[TimelineKey(44)],
                cursors=[CursorRecord(G41, ANN, 1)],
            )
        )
        first, second = await store.timelines(timelines())
        assert (first.record.key, second.record.key) == (42, 41)
        assert (first.last_row, first.is_busy, first.unread) == (None, False, 0)
        assert second.last_row == group().rows[1]
        assert (second.title, second.unread, second.last_read_seq) == ("Group 41", 1, 1)
        assert second.is_busy
        assert await store.timelines(timelines(limit=1)) == [first]
        assert await store.timelines(timelines(before=(1_042, 42))) == [second]
        assert await store.timelines(timelines(user=ANN)) == [second]
        (archived,) = await store.timelines(timelines(statuses=("archived", "deleted")))
        assert (archived.record.key, archived.unread) == (43, 0)
        (chat,) = await store.timelines(timelines(kind="chat"))
        assert chat.title == "Title 1"
        assert await store.unread_total(ACCOUNT, "group", ANN) == 1

    async def test_unread_are_ended_replies_behind_the_cursor_of_who_made_it(
        self, store: Store
    ) -> None:
        rows = [message(51, 41, 1), reply(52, 41, 2, **DONE), reply(53, 41, 3)]
        await store.commit(Batch(timelines=[timeline(41)], rows=rows))

        async def unread() -> tuple[int, int]:
            (summary,) = await store.timelines(timelines())
            return summary.unread, await store.unread_total(ACCOUNT, "group", ANN)

        assert await unread() == (1, 1)
        await store.commit(Batch(cursors=[CursorRecord(G41, BOB, 3)]))
        assert await unread() == (1, 1)
        await store.commit(Batch(rows=[reply(53, 41, 3, **DONE)]))
        assert await unread() == (2, 2)
        await store.commit(Batch(cursors=[CursorRecord(G41, ANN, 2)]))
        assert await unread() == (1, 1)
        await store.commit(Batch(timelines=[timeline(41, user=BOB)]))
        assert await unread() == (0, 0)
        await store.commit(Batch(timelines=[timeline(41, status="archived")]))
        assert await store.unread_total(ACCOUNT, "group", ANN) == 0
        await store.commit(Batch(timelines=[timeline(41)]))
        assert await unread() == (1, 1)

    async def test_a_users_own_messages_are_never_unread(self, store: Store) -> None:
        rows = [message(51, 41, 1), message(52, 41, 2, user=BOB), reply(53, 41, 3)]
        await store.commit(Batch(timelines=[timeline(41)], rows=rows))
        assert [await store.unread(G41, user) for user in (ANN, BOB)] == [1, 1]
        await store.commit(Batch(rows=[reply(53, 41, 3, **DONE)]))
        assert [await store.unread(G41, user) for user in (ANN, BOB)] == [2, 2]
        await store.commit(Batch(cursors=[CursorRecord(G41, ANN, 2)]))
        assert [await store.unread(G41, user) for user in (ANN, BOB)] == [1, 2]

    async def test_a_log_holds_what_happened_and_what_the_turns_said_by_position(
        self, store: Store
    ) -> None:
        await store.commit(group())
        page = await store.log("stream 41", 0, 99, timeline=G41)
        places = [(record.position, record.row, record.is_own) for record in page.records]
        assert places == [
            (5, 51, True),
            *((position, 52, False) for position in (11, 12, 13)),
            (14, 52, True),
            *((position, 53, False) for position in (24, 25)),
            (40, None, True),
        ]
        assert [record.at_ms for record in page.records[:2]] == [5, 0]
        assert [row.text for row in page.rows.values()] == ["message 51", "reply 52", ""]
        assert page.floor == 1
        for after in (0, 5, 11, 12, 13, 14, 24, 40):
            for limit in (0, 1, 3, 99):
                part = await store.log("stream 41", after, limit, timeline=G41)
                behind = [record for record in page.records if record.position > after]
                assert part.records == behind[:limit]
        alone = await store.log("stream 41", 0, 99)
        assert [record.position for record in alone.records] == [5, 14, 40]
        assert alone.floor == 0
        assert (await store.log("stream 42", 0, 99, timeline=G41)).records == [
            record for record in page.records if not record.is_own
        ]

    async def test_pruning_says_up_to_where_a_log_has_lost_something(self, store: Store) -> None:
        await store.commit(group())
        assert await store.prune(3_000, 2) == 2
        assert (await store.log("stream 41", 0, 9)).floor == 14
        await store.commit(Batch(timeline_events=[told(4, 41, at_ms=9_000)]))
        assert await store.prune(5_000, 2) == 2
        page = await store.log("stream 41", 0, 99, timeline=G41)
        assert [record.position for record in page.records] == [4, 13, 24, 25, 40]

    async def test_pruning_turns_that_answer_nowhere_loses_no_log_anything(
        self, store: Store
    ) -> None:
        batch = group()
        batch.rows = []
        await store.commit(batch)
        assert await store.prune(3_001, 3) == 3
        assert (await store.log("stream 41", 0, 9)).floor == 0
        assert await store.prune(6, 9) == 1
        assert (await store.log("stream 41", 0, 9)).floor == 5

    async def test_a_deleted_conversation_raises_the_floor_of_where_it_answered(
        self, store: Store
    ) -> None:
        await store.commit(group())
        await store.commit(Batch(timelines=[timeline(42, last_position=30)]))
        await store.commit(Batch(deletions=[ConversationKey(1)]))
        page = await store.log("stream 41", 0, 99, timeline=G41)
        assert page.floor == 40
        assert [record.position for record in page.records] == [5, 14, 40]
        assert (await store.log("stream 42", 0, 99, timeline=G42)).floor == 1
        found = await store.row_of_turn(G41, TurnId("t2"))
        assert found == group().rows[1]

    async def test_a_buried_timeline_leaves_a_tombstone_and_its_end(self, store: Store) -> None:
        await store.commit(group())
        end = told(60, 41)
        cursor = CursorRecord(G41, ANN, 2)
        await store.commit(Batch(cursors=[cursor]))
        await store.commit(Batch(burials=[G41], timeline_events=[end], cursors=[cursor]))
        tombstone = await store.timeline(ACCOUNT, "group", "g41")
        assert tombstone == timeline(
            41, last_position=40, status="deleted", title="", user="", alias=None, details=b"{}"
        )
        assert await store.timelines(timelines(statuses=("active", "deleted"))) == []
        assert await store.rows(G41, limit=9) == await store.open_rows() == []
        assert await store.row_by_client_key("row 51") is None
        assert await store.read_cursor(G41, ANN) == 0
        page = await store.log("stream 41", 0, 9, timeline=G41)
        assert [record.position for record in page.records] == [60]
        await store.commit(Batch(burials=[G41, TimelineKey(99)]))
        assert await store.stream_head("stream 41") == 60
        await store.commit(Batch(timelines=[timeline(42, alias="alias 41")]))
        with pytest.raises(Conflict):
            await store.commit(Batch(timelines=[timeline(44, "g41")]))
        assert await store.conversation(ACCOUNT, ConversationId("c1")) is not None

    async def test_what_is_read_of_timelines_is_a_copy(self, store: Store) -> None:
        batch = group()
        await store.commit(batch)
        batch.rows[0].text = batch.timelines[0].title = "changed"
        (summary,) = await store.timelines(timelines())
        summary.record.title = "changed"
        page = await store.log("stream 41", 0, 9)
        page.rows[RowKey(51)].text = "changed"
        assert (await store.rows(G41, limit=1))[0].text == "message 51"
        assert (await store.timelines(timelines()))[0].record.title == "Group 41"
