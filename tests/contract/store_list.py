"""What a store owes to the list of conversations, and to whoever copies the whole.

Part of the suite `tests.contract.store`; the rules are those of `port.Store`.
"""

from pathlib import Path

import pytest

from dispatch.core.identity import AccountId, ConversationId
from dispatch.errors import StorageFailed
from dispatch.storage.keys import ConversationKey, TurnKey
from dispatch.storage.port import Batch, ConversationRecord, CursorRecord, Opened, Piece, Store
from tests.contract.store_rows import ANN, BOB, conversation, events, everything, query, seal, turn
from tests.contract.store_shelf import Shelf, Shelved


class ListContract(Shelved):
    """The list, its walls, and backups."""

    async def test_the_list_is_by_activity_and_goes_on_where_it_ended(self, store: Store) -> None:
        rows = [conversation(key, active_at_ms=1_000 + key // 3) for key in range(1, 12)]
        await store.commit(Batch(conversations=rows))
        found = await store.conversations(query())
        assert [row.key for row in found] == list(range(11, 0, -1))
        paged: list[ConversationRecord] = []
        before = None
        while page := await store.conversations(query(before=before, limit=4)):
            paged += page
            before = (page[-1].active_at_ms, page[-1].key)
        assert paged == found
        await store.commit(Batch(conversations=[conversation(2, active_at_ms=9_000)]))
        assert (await store.conversations(query(limit=1)))[0].key == 2
        assert await store.conversations(query(limit=0)) == []

    async def test_the_list_ends_at_the_wall_of_the_account_and_of_the_user(
        self, store: Store
    ) -> None:
        rows = [
            conversation(1),
            conversation(2, visibility="user"),
            conversation(3, visibility="user", user=BOB),
            conversation(4, account="other"),
        ]
        await store.commit(Batch(conversations=rows))
        assert [row.key for row in await store.conversations(query())] == [2, 1]
        assert [row.key for row in await store.conversations(query(user=BOB))] == [3, 1]
        assert [row.key for row in await store.conversations(query(account="other"))] == [4]
        assert await store.conversation(AccountId("other"), ConversationId("c1")) is None

    async def test_a_sessions_conversations_are_found_without_those_that_are_gone(
        self, store: Store
    ) -> None:
        rows = [
            conversation(1, session="s"),
            conversation(2, session="other"),
            conversation(3, session="s"),
            conversation(4, session="s", account="other"),
            conversation(5, session="s"),
        ]
        await store.commit(Batch(conversations=rows))
        await store.commit(Batch(deletions=[ConversationKey(3)]))
        account = rows[0].account
        assert [row.key for row in await store.conversations_of(account, "s", 9)] == [1, 5]
        assert [row.key for row in await store.conversations_of(account, "s", 1)] == [1]
        assert await store.conversations_of(account, "nobody's", 9) == []

    async def test_the_list_is_narrowed_by_status_prefix_workspace_and_words(
        self, store: Store
    ) -> None:
        rows = [
            conversation(1, name="abc.1", title="Grüße aus KÖLN", last_message=""),
            conversation(2, name="abC.2", status="idle", workspace="w", last_message="50%_off"),
            conversation(3, name="b_c", status="closed", title="", last_message="ΣΊΣΥΦΟΣ straße"),
        ]
        await store.commit(Batch(conversations=rows))

        async def keys(**fields: object) -> list[int]:
            return sorted(row.key for row in await store.conversations(query(**fields)))

        assert await keys(statuses=("idle", "closed")) == [2, 3]
        assert await keys(statuses=("active",)) == [1]
        assert await keys(id_prefix="ab") == [1, 2]
        assert await keys(id_prefix="abc") == [1]
        assert await keys(id_prefix="_") == []
        assert await keys(workspace="w") == [2]
        assert await keys(workspace="") == []
        assert await keys(search="köln") == [1]
        assert await keys(search="TITLE 2") == [2]
        assert await keys(search="%_O") == [2]
        assert await keys(search="%") == [2]
        assert await keys(search="σίσυφος") == [3]
        assert await keys(search="STRASSE") == [3]
        assert await keys(search="nowhere") == []
        assert await keys(search="title", statuses=("active",)) == []

    async def test_idle_conversations_are_those_without_activity_and_unsealed_turns(
        self, store: Store
    ) -> None:
        rows = [
            conversation(1, active_at_ms=100),
            conversation(2, active_at_ms=50, account="other", visibility="user"),
            conversation(3, active_at_ms=10),
            conversation(4, active_at_ms=20),
            conversation(5, active_at_ms=200),
            conversation(6, active_at_ms=30),
        ]
        turns = [turn(10, owner=3, state="queued"), turn(11, owner=1)]
        await store.commit(
            Batch(
                conversations=rows,
                turns=turns,
                seals=[seal(11)],
                deletions=[ConversationKey(4)],
            )
        )
        assert [row.key for row in await store.idle_since(101)] == [6, 2, 1]
        assert [row.key for row in await store.idle_since(100)] == [6, 2]
        assert await store.idle_since(0) == []

    async def test_a_restored_backup_has_everything_and_a_history_of_its_own(
        self, opened: tuple[Store, Opened], shelf: Shelf, tmp_path: Path
    ) -> None:
        store, first = opened
        await store.commit(
            Batch(
                conversations=[conversation(1), conversation(2)],
                turns=[turn(10), turn(20, owner=2)],
                events=events(1, 10, 1, 40),
                pieces=[Piece(TurnKey(10), 0, 0, b"x")],
                seals=[seal(20)],
                cursors=[CursorRecord(ConversationKey(1), ANN, 5)],
                deletions=[ConversationKey(2)],
            )
        )
        target = tmp_path / "copies" / "backup"
        target.parent.mkdir()
        target.write_bytes(b"an older backup, to be replaced")
        await store.backup(target)
        before = await everything(store)
        await store.commit(Batch(conversations=[conversation(3)]))
        assert [path.name for path in target.parent.iterdir()] == ["backup"]

        restored_shelf = shelf.restore(target)
        restored = restored_shelf.build()
        second = await restored.open()
        try:
            assert second.generation != first.generation
            assert (second.next_position, second.next_key) == (41, 21)
            assert await everything(restored) == before
        finally:
            await restored.close()
        again = restored_shelf.build()
        third = await again.open()
        await again.close()
        assert third.generation == second.generation
        original, fourth = await self.reopened(store, shelf)
        await original.close()
        assert fourth.generation == first.generation

    async def test_a_backup_that_cannot_be_written_fails_and_leaves_nothing(
        self, store: Store, tmp_path: Path
    ) -> None:
        with pytest.raises(StorageFailed):
            await store.backup(tmp_path / "absent" / "backup")
        assert not (tmp_path / "absent").exists()
        await store.commit(Batch(conversations=[conversation()]))
