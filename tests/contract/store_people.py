"""What a store owes to whoever asks about a person: all that is theirs, once, and nobody else's.

Part of the suite `tests.contract.store`; the promises are those of `people.PeopleReads`.
"""

from dispatch.core.identity import AccountId, TurnId
from dispatch.storage.keys import ConversationKey, TimelineKey, TurnKey
from dispatch.storage.people import CursorKey, ReadMark
from dispatch.storage.port import Batch, CursorRecord, Opened, Store, TurnChange
from tests.contract.store_rows import (
    ACCOUNT,
    ANN,
    BOB,
    conversation,
    message,
    reply,
    seal,
    timeline,
    timelines,
    turn,
)
from tests.contract.store_shelf import Shelf, Shelved

OTHER = AccountId("other")
KEYS = 1_000
MUCH = 1_000_000


class PeopleContract(Shelved):
    """Conversations somebody began, what they said elsewhere, what they read, and its removal."""

    async def test_a_persons_conversations_are_read_by_key_without_those_of_others(
        self, store: Store
    ) -> None:
        mine = [conversation(1), conversation(4, visibility="user"), conversation(5)]
        await store.commit(
            Batch(
                conversations=[
                    *mine,
                    conversation(2, user=BOB),
                    conversation(3, account=OTHER),
                    conversation(6),
                ]
            )
        )
        await store.commit(Batch(deletions=[ConversationKey(6)]))
        assert await store.begun_by(ACCOUNT, ANN, after=0, limit=9) == mine
        assert await store.begun_by(ACCOUNT, ANN, after=0, limit=1) == mine[:1]
        assert await store.begun_by(ACCOUNT, ANN, after=1, limit=9) == mine[1:]

    async def test_read_marks_name_what_was_read_in_one_account(self, store: Store) -> None:
        await store.commit(
            Batch(
                conversations=[conversation(1), conversation(2, account=OTHER), conversation(3)],
                timelines=[
                    timeline(4),
                    timeline(5, "c1", kind="chat"),
                    timeline(6, account=OTHER, alias=None),
                ],
                cursors=[
                    *(CursorRecord(ConversationKey(key), ANN, key) for key in (1, 2, 3)),
                    *(CursorRecord(TimelineKey(key), ANN, key) for key in (4, 5, 6)),
                    CursorRecord(ConversationKey(1), BOB, 7),
                ],
            )
        )
        marks = [
            ReadMark(ConversationKey(1), "conversation", "c1", 1),
            ReadMark(ConversationKey(3), "conversation", "c3", 3),
            ReadMark(TimelineKey(4), "group", "g4", 4),
            ReadMark(TimelineKey(5), "chat", "c1", 5),
        ]
        assert await store.read_marks(ACCOUNT, ANN, after=0, limit=9) == marks
        assert await store.read_marks(ACCOUNT, ANN, after=1, limit=2) == marks[1:3]

    async def test_what_somebody_said_is_of_turns_and_of_groups_and_never_told_twice(
        self, store: Store
    ) -> None:
        await store.commit(
            Batch(
                conversations=[conversation(1), conversation(2, account=OTHER)],
                turns=[
                    turn(11, body=b"one"),
                    turn(12, user=BOB),
                    turn(13, 2),
                    turn(14, state="queued", body=b"waits"),
                    # This one answers in a group: its words are the row's.
                    turn(15, state="queued"),
                ],
                timelines=[timeline(3), timeline(4, "c1", kind="chat")],
                rows=[
                    message(16, 3, 1),
                    reply(17, 3, None, turn=TurnKey(15), turn_id=TurnId("t15"), user=ANN),
                    message(18, 3, 2, user=BOB),
                    message(19, 4, 1),
                ],
                seals=[seal(11)],
            )
        )
        page = await store.spoken_by(ACCOUNT, ANN, after=0, keys_max=KEYS, bytes_max=MUCH)
        assert [(one.key, one.state, one.body) for one in page.turns] == [
            (11, "sealed", b"one"),
            (14, "queued", b"waits"),
        ]
        assert [one.conversation_id for one in page.turns] == ["c1", "c1"]
        assert [(one.key, one.group_id, one.seq, one.text) for one in page.rows] == [
            (16, "g3", 1, "message 16")
        ]
        assert page.next_key is None

    async def test_what_a_group_has_adopted_was_said_by_who_said_it(self, store: Store) -> None:
        adopted = {"began_position": 0, "ended_position": 0}
        answer = reply(
            13, 3, 2, turn=TurnKey(11), turn_id=TurnId("t11"), outcome="completed", **adopted
        )
        await store.commit(
            Batch(
                conversations=[conversation(1)],
                turns=[turn(11, user=BOB)],
                timelines=[timeline(3)],
                rows=[message(12, 3, 1, **adopted), answer],
                seals=[seal(11)],
            )
        )
        found = {
            user: await store.spoken_by(ACCOUNT, user, after=0, keys_max=KEYS, bytes_max=MUCH)
            for user in (ANN, BOB)
        }
        assert found[ANN] == ([], [], None)
        assert [one.key for one in found[BOB].turns] == [11]

    async def test_a_page_of_what_was_said_ends_with_its_keys_or_with_its_bytes(
        self, store: Store
    ) -> None:
        await store.commit(
            Batch(
                conversations=[conversation(1)],
                turns=[turn(key, body=b"x" * 10, state="queued") for key in (5, 6, 30)],
                timelines=[timeline(2)],
                rows=[message(7, 2, 1, text="y" * 10), message(31, 2, 2)],
            )
        )
        for keys_max, bytes_max in ((KEYS, 1), (1, MUCH), (4, 15), (KEYS, MUCH)):
            seen, after = [], 0
            while after is not None:
                page = await store.spoken_by(
                    ACCOUNT, ANN, after=after, keys_max=keys_max, bytes_max=bytes_max
                )
                found = [one.key for one in (*page.turns, *page.rows)]
                assert len(found) <= max(2, keys_max)
                seen += found
                after = page.next_key
            assert sorted(seen) == [5, 6, 7, 30, 31]
            assert len(set(seen)) == len(seen)

    async def test_a_removed_cursor_is_that_of_nobody_else_and_unread_is_counted_again(
        self, store: Store
    ) -> None:
        key = TimelineKey(2)
        ended = reply(5, 2, 2, outcome="completed", began_position=1, ended_position=1)
        await store.commit(
            Batch(
                conversations=[conversation(1)],
                timelines=[timeline(2, last_seq=2)],
                rows=[message(4, 2, 1), ended],
                cursors=[
                    CursorRecord(key, ANN, 2),
                    CursorRecord(key, BOB, 2),
                    CursorRecord(ConversationKey(1), ANN, 1),
                ],
            )
        )
        assert (await store.timelines(timelines()))[0].unread == 0
        removals = [CursorKey(key, ANN), CursorKey(key, ANN), CursorKey(TimelineKey(99), ANN)]
        await store.commit(Batch(cursor_removals=removals))
        assert await store.read_cursor(key, ANN) == 0
        assert await store.read_cursor(key, BOB) == 2
        assert await store.read_cursor(ConversationKey(1), ANN) == 1
        assert (await store.timelines(timelines()))[0].unread == 1

    async def test_only_a_cancelled_turn_that_no_row_names_can_be_removed(
        self, opened: tuple[Store, Opened], shelf: Shelf
    ) -> None:
        store, _ = opened
        keys = [TurnKey(key) for key in (11, 12, 13, 14)]
        await store.commit(
            Batch(
                conversations=[conversation(1)],
                turns=[turn(key, state="queued") for key in keys[:3]] + [turn(14)],
                timelines=[timeline(2)],
                rows=[message(4, 2, 1), reply(5, 2, None, turn=TurnKey(12), turn_id=TurnId("t12"))],
                changes=[TurnChange(TurnKey(key), "queued", "cancelled") for key in (11, 12)],
                seals=[seal(14)],
            )
        )
        await store.commit(Batch(turn_removals=[*keys, TurnKey(99)]))
        assert set(await store.turn_ids(keys)) == {12, 13, 14}
        assert await store.turn_by_client_key("acme/ann/11") is None
        # Whoever comes with the same id is new, under a key that nobody had.
        await store.commit(Batch(turns=[turn(21, state="queued", client_key="acme/ann/11")]))
        await store.commit(Batch(changes=[TurnChange(TurnKey(21), "queued", "cancelled")]))
        await store.commit(Batch(turn_removals=[TurnKey(21)]))
        again, said = await self.reopened(store, shelf)
        await again.close()
        assert said.next_key == 22

    async def test_a_tombstone_names_nobody(self, store: Store) -> None:
        await store.commit(Batch(conversations=[conversation(1)], timelines=[timeline(2)]))
        await store.commit(Batch(deletions=[ConversationKey(1)], burials=[TimelineKey(2)]))
        record = await store.conversation(ACCOUNT, conversation(1).id)
        group = await store.timeline(ACCOUNT, "group", "g2")
        assert record is not None
        assert group is not None
        assert [(one.status, one.user) for one in (record, group)] == [("deleted", "")] * 2
