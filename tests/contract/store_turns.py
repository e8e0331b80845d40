"""What a store owes to turns: their states, their chunks, their places in history.

Part of the suite `tests.contract.store`; the rules are those of `port.Store`.
"""

import msgspec

from dispatch.core.identity import TurnId
from dispatch.storage.keys import ConversationKey, TurnKey
from dispatch.storage.port import Batch, Piece, Store, TurnChange
from tests.contract.store_rows import conversation, events, seal, sealed_turns, turn
from tests.contract.store_shelf import Shelved


class TurnsContract(Shelved):
    """From queued to sealed, and read back by seq."""

    async def test_a_change_sets_what_it_names_and_leaves_the_rest(self, store: Store) -> None:
        queued = turn(2, state="queued", started_at_ms=None, first_offset=None)
        await store.commit(Batch(conversations=[conversation()], turns=[queued]))
        await store.commit(Batch(changes=[TurnChange(queued.key, "queued", "running", 77, 9)]))
        ran = msgspec.structs.replace(queued, state="running", started_at_ms=77, first_offset=9)
        assert await store.turn(ConversationKey(1), queued.id) == ran
        await store.commit(Batch(changes=[TurnChange(queued.key, "running", "cancelled")]))
        assert await store.turn(ConversationKey(1), queued.id) == msgspec.structs.replace(
            ran, state="cancelled"
        )

    async def test_several_changes_of_one_turn_follow_on_each_other(self, store: Store) -> None:
        await store.commit(Batch(conversations=[conversation()], turns=[turn(2, state="steering")]))
        changes = [
            TurnChange(TurnKey(2), "steering", "queued"),
            TurnChange(TurnKey(2), "queued", "running", 5),
        ]
        await store.commit(Batch(changes=changes, seals=[seal(2)]))
        found = await store.turn(ConversationKey(1), TurnId("t2"))
        assert found is not None
        assert (found.state, found.started_at_ms) == ("sealed", 5)

    async def test_a_turn_may_begin_show_and_end_in_one_batch(self, store: Store) -> None:
        await store.commit(
            Batch(
                conversations=[conversation(last_seq=2, last_offset=3)],
                turns=[turn(2)],
                events=events(1, 2, 1, 3),
                seals=[seal(2, count=2)],
            )
        )
        (place,) = await store.sealed_turns(ConversationKey(1), limit=9)
        given = seal(2, count=2)
        told = (2, "t2", "completed", 1, 2, 3_000, len(given.chunks), given.metrics, "t0")
        assert place == told
        assert await store.chunk_bytes([TurnKey(2)]) == [given.chunks]
        found = await store.turn(ConversationKey(1), TurnId("t2"))
        assert found == turn(
            2,
            state="sealed",
            outcome="completed",
            sealed_at_ms=3_000,
            first_seq=1,
            chunk_count=2,
            last_offset=3,
            metrics=given.metrics,
        )

    async def test_unsealed_turns_come_by_ordinal_and_the_others_never(self, store: Store) -> None:
        rows = [conversation(1), conversation(2), conversation(3)]
        turns = [
            turn(20, ordinal=5, state="queued"),
            turn(21, ordinal=-1, state="queued"),
            turn(22, ordinal=0),
            turn(23, ordinal=3, state="steering"),
            turn(24, ordinal=1, state="absorbed"),
            turn(25, ordinal=2, state="cancelled"),
            turn(30, owner=3, state="queued"),
            turn(31, owner=2),
        ]
        await store.commit(Batch(conversations=rows, turns=turns, seals=[seal(31)]))
        assert [t.key for t in await store.unsealed_of(ConversationKey(1))] == [21, 22, 23, 20]
        found = await store.unsealed()
        assert [(c.key, [t.key for t in ts]) for c, ts in found] == [
            (1, [21, 22, 23, 20]),
            (3, [30]),
        ]
        assert await store.unsealed_of(ConversationKey(2)) == []

    async def test_a_turn_is_found_by_the_client_id_it_was_accepted_under(
        self, store: Store
    ) -> None:
        await store.commit(Batch(conversations=[conversation()], turns=[turn(2)], seals=[seal(2)]))
        found = await store.turn_by_client_key("acme/ann/2")
        assert found is not None
        assert found[0] == conversation()
        assert (found[1].id, found[1].state, found[1].chunks) == ("t2", "sealed", b"")
        assert found[1].digest == turn(2).digest
        assert await store.turn_by_client_key("acme/ann/3") is None

    async def test_a_turn_belongs_to_its_conversation_alone(self, store: Store) -> None:
        await store.commit(Batch(conversations=[conversation(1), conversation(2)], turns=[turn(5)]))
        assert await store.turn(ConversationKey(2), TurnId("t5")) is None
        assert await store.turn_ids([TurnKey(5), TurnKey(6)]) == {5: "t5"}
        assert await store.turn_ids([]) == {}

    async def test_history_is_the_turns_that_overlap_the_seqs_asked_for(self, store: Store) -> None:
        await store.commit(Batch(conversations=[conversation()]))
        await store.commit(sealed_turns(1, [(10, 3), (11, 1), (12, 0), (13, 4)]))

        async def keys(**bounds: int | None) -> list[int]:
            places = await store.sealed_turns(
                ConversationKey(1),
                **{"limit": 9, **bounds},  # type: ignore[arg-type]
            )
            return [place.key for place in places]

        assert await keys() == [10, 11, 13]
        assert await keys(limit=2) == [10, 11]
        assert await keys(limit=2, newest_first=True) == [13, 11]
        assert await keys(limit=0) == []
        # Seqs: 1-3, 4, none, 5-8.
        assert await keys(since_seq=2) == [10, 11, 13]
        assert await keys(since_seq=3) == [11, 13]
        assert await keys(since_seq=7) == [13]
        assert await keys(since_seq=8) == []
        assert await keys(before_seq=1) == []
        assert await keys(before_seq=2) == [10]
        assert await keys(before_seq=5) == [10, 11]
        assert await keys(since_seq=3, before_seq=5) == [11]
        assert await keys(since_seq=3, before_seq=4) == []
        assert await keys(since_seq=2, before_seq=6, newest_first=True) == [13, 11, 10]
        assert await store.sealed_turns(ConversationKey(2), limit=9) == []

    async def test_metrics_are_those_of_every_sealed_turn_by_seq(self, store: Store) -> None:
        await store.commit(Batch(conversations=[conversation()]))
        await store.commit(sealed_turns(1, [(12, 3), (11, 0), (10, 1)]))
        await store.commit(Batch(turns=[turn(13)]))
        assert await store.metrics(ConversationKey(1)) == [
            ("t12", 1, b'{"usage":12}'),
            ("t10", 4, b'{"usage":10}'),
            ("t11", 4, b'{"usage":11}'),
        ]

    async def test_chunk_bytes_are_the_pieces_by_ordinal_and_then_the_rest(
        self, store: Store
    ) -> None:
        await store.commit(Batch(conversations=[conversation()], turns=[turn(2), turn(3), turn(4)]))
        pieces = [
            Piece(TurnKey(2), 900, 3, b"second,"),
            Piece(TurnKey(2), 0, 0, b"first,"),
            Piece(TurnKey(3), 0, 0, b"only,"),
        ]
        await store.commit(Batch(pieces=pieces))
        asked = [TurnKey(4), TurnKey(2), TurnKey(99), TurnKey(3), TurnKey(2)]
        staged = [b"", b"first,second,", b"", b"only,", b"first,second,"]
        assert await store.chunk_bytes(asked) == staged
        last = seal(2, count=5)
        await store.commit(Batch(seals=[last]))
        assert (await store.chunk_bytes(asked))[1] == b"first,second," + last.chunks
        (place,) = await store.sealed_turns(ConversationKey(1), limit=1)
        assert place.bytes_total == len(b"first,second,") + len(last.chunks)
        assert await store.chunk_bytes([]) == []

    async def test_a_piece_and_a_rest_of_megabytes_come_back_whole(self, store: Store) -> None:
        large = bytes(range(256)) * 6_000
        rest = seal(2)._replace(chunks=large[::-1])
        await store.commit(Batch(conversations=[conversation()], turns=[turn(2, body=large)]))
        await store.commit(Batch(pieces=[Piece(TurnKey(2), 0, 0, large)], seals=[rest]))
        assert await store.chunk_bytes([TurnKey(2)]) == [large + large[::-1]]
        found = await store.turn(ConversationKey(1), TurnId("t2"))
        assert found is not None
        assert found.body == large
