"""`dispatch check` finds each broken rule, and nothing where none is broken.

Every test breaks one rule in a copy of a whole directory, with SQL, behind the store's back.
"""

import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest

from dispatch.core.events import TextDelta
from dispatch.core.identity import ConversationId
from dispatch.storage.check import FINDINGS_MAX, verify
from dispatch.storage.keys import TurnKey
from dispatch.storage.port import Batch, TurnCopy, TurnRecord
from dispatch.storage.sqlite import SqliteStore
from tests.storage.life import ACCOUNT, USER, Life

Damage = Callable[[str], list[str]]


async def live(store: SqliteStore) -> None:
    """Two conversations with some of everything in them, one of them forked, and one deleted."""
    opened = await store.open()
    life = Life(store, opened)
    first = await life.conversation("first")
    await first.whole_turn()
    await first.whole_turn(words=40, staged=True)
    await first.begin("a turn that runs")
    await first.show(TextDelta("so "), TextDelta("far"))
    await first.stage()
    await first.show(TextDelta(" and no further"))
    queued = TurnRecord(
        key=TurnKey(next(life.keys)),
        conversation=first.record.key,
        id="waits",
        state="queued",
        ordinal=1,
        user=USER,
        body=b"",
        created_at_ms=1,
    )
    second = await life.conversation("second")
    await second.whole_turn()
    fork = await life.conversation("fork")
    fork.record.last_seq = second.record.last_seq
    (place,) = await store.sealed_turns(second.record.key, limit=1)
    copy = TurnCopy(place.key, TurnKey(next(life.keys)), fork.record.key, 1)
    await store.commit(Batch(conversations=[fork.record], turns=[queued], copies=[copy]))
    await fork.whole_turn()
    gone = await life.conversation("gone")
    await gone.whole_turn()
    await store.commit(Batch(deletions=[gone.record.key]))


@pytest.fixture
async def data(tmp_path: Path) -> AsyncIterator[Path]:
    store = SqliteStore(tmp_path / "data")
    await live(store)
    try:
        yield tmp_path / "data"
    finally:
        await store.close()


@pytest.fixture
def damaged(data: Path, tmp_path: Path) -> Damage:
    def damage(script: str) -> list[str]:
        copy = tmp_path / "damaged"
        shutil.copytree(data, copy)
        with closing(sqlite3.connect(copy / "dispatch.db")) as connection:
            connection.executescript(script)
        return verify(copy)

    return damage


async def test_a_whole_directory_has_nothing_to_find_while_a_store_is_open_on_it(
    data: Path,
) -> None:
    assert verify(data) == []


async def test_checking_changes_nothing(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "data")
    await live(store)
    await store.close()
    before = (tmp_path / "data" / "dispatch.db").read_bytes()
    assert verify(tmp_path / "data") == []
    assert (tmp_path / "data" / "dispatch.db").read_bytes() == before


async def test_a_directory_is_whole_after_each_step_of_pruning(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "data")
    await live(store)
    pruned = 0
    while removed := await store.prune(2**60, 3):
        pruned += removed
        assert verify(tmp_path / "data") == []
    assert pruned > 20
    first = await store.conversation(ACCOUNT, ConversationId("first"))
    assert first is not None
    assert {event.turn for event in await store.events(first.key, 0, 1_000)} == {
        turn.key for turn in await store.unsealed_of(first.key) if turn.state == "running"
    }
    await store.close()
    assert verify(tmp_path / "data") == []


LATER = "(SELECT max(key) FROM turn WHERE state = 'sealed' AND retained = 1)"


@pytest.mark.parametrize("most", [1, 3, 1_000])
async def test_events_that_are_to_be_kept_and_are_gone_are_found(
    damaged: Damage, most: int
) -> None:
    """Some of the first, or all of them, of a turn that others are to be pruned before."""
    findings = damaged(f"DELETE FROM event WHERE turn = {LATER} AND offset <= {most}")
    assert any("has lost the first of them before older turns did" in found for found in findings)


async def test_a_turn_sealed_by_a_clock_set_back_accuses_nobody(data: Path, tmp_path: Path) -> None:
    """The oldest turn has lost its beginning when one is sealed that is older by its clock."""
    copy = tmp_path / "back"
    shutil.copytree(data, copy)
    with closing(sqlite3.connect(copy / "dispatch.db")) as connection:
        connection.executescript(f"""
            DELETE FROM event WHERE turn = {SEALED} AND offset <= 2;
            UPDATE turn SET sealed_at_ms = -1 WHERE key = {LATER};
        """)
    assert verify(copy) == []


async def test_a_backup_is_whole(data: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    copied.mkdir()
    with closing(sqlite3.connect(data / "dispatch.db")) as source:
        source.execute("VACUUM INTO ?", (str(copied / "dispatch.db"),))
    assert verify(copied) == []


SECOND = "(SELECT key FROM conversation WHERE id = 'second')"
FIRST = "(SELECT key FROM conversation WHERE id = 'first')"
SEALED = f"(SELECT min(key) FROM turn WHERE conversation = {FIRST} AND state = 'sealed')"
RUNNING = "(SELECT key FROM turn WHERE state = 'running')"


@pytest.mark.parametrize(
    ("script", "finding"),
    [
        ("PRAGMA application_id = 7", "another program's"),
        ("PRAGMA user_version = 77", "has schema 77"),
        ("DELETE FROM meta", "which history"),
        (
            # The index was made for other rows than it now says.
            "PRAGMA writable_schema = ON;"
            "UPDATE sqlite_schema SET sql = replace(sql, '''sealed''', '''queued''')"
            " WHERE name = 'turn_history'",
            "the file is damaged",
        ),
        (f"DELETE FROM conversation WHERE key = {SECOND}", "a conversation that is not there"),
        (
            f"UPDATE conversation SET status = 'deleted' WHERE key = {SECOND}",
            "a conversation that is not there",
        ),
        (f"DELETE FROM turn WHERE key = {SEALED}", "a turn that is not there"),
        (f"UPDATE event SET turn = turn + 999 WHERE turn = {SEALED}", "a turn that is not there"),
        (f"DELETE FROM turn WHERE key = {RUNNING}", "staged chunks"),
        (f"UPDATE cursor SET seq = 999 WHERE subject = {SECOND}", "read conversation number"),
        ("INSERT INTO cursor VALUES (999, 'ann', 1)", "read conversation number 999"),
        ("UPDATE turn SET state = 'running' WHERE id = 'waits'", "2 turns run at once"),
        (f"UPDATE turn SET outcome = NULL WHERE key = {SEALED}", "without an outcome"),
        (f"UPDATE turn SET outcome = '' WHERE key = {SEALED}", "without an outcome"),
        (f"UPDATE turn SET first_seq = 2 WHERE key = {SEALED}", "begins at seq 2, and 1 is next"),
        (f"UPDATE turn SET first_seq = NULL WHERE key = {SEALED}", "begins at seq None"),
        (f"UPDATE turn SET chunk_count = 3 WHERE key = {SEALED}", "lines for 3 chunks"),
        (
            f"UPDATE conversation SET last_seq = last_seq + 1 WHERE key = {SECOND}",
            "its last seq is",
        ),
        (f"UPDATE turn SET chunks = substr(chunks, 1, 30) WHERE key = {SEALED}", "is cut short"),
        (
            f"UPDATE turn SET chunks = CAST(replace(chunks, 'role', 'roll') AS BLOB)"
            f" WHERE key = {SEALED}",
            "chunk 0 is not one",
        ),
        (
            f"UPDATE turn SET chunks = CAST(replace(chunks, 'rain', 'snow') AS BLOB)"
            f" WHERE key = {SEALED}",
            "are not the fold",
        ),
        (f"DELETE FROM event WHERE turn = {SEALED} AND offset = 3", "have gaps"),
        (
            f"DELETE FROM event WHERE turn = {SEALED} AND offset ="
            f" (SELECT max(offset) FROM event WHERE turn = {SEALED})",
            "instead of one Done and then TurnSealed",
        ),
        (
            f"UPDATE turn SET last_offset = last_offset + 1 WHERE conversation = {SECOND};"
            f"UPDATE conversation SET last_offset = last_offset + 1 WHERE key = {SECOND}",
            "and its events at",
        ),
        (
            f'UPDATE event SET payload = CAST(\'{{"type":"done","reason":"x"}}\' AS BLOB)'
            f" WHERE turn = {SEALED} AND offset = 3",
            "instead of one Done",
        ),
        (
            f"UPDATE event SET payload = x'7b7d' WHERE turn = {SEALED} AND offset = 3",
            "the event at offset 3 is not one",
        ),
        (f"UPDATE turn SET first_offset = 2 WHERE key = {SEALED}", "offset 1, before its first"),
        (f"UPDATE turn SET first_offset = NULL WHERE key = {SEALED}", "before its first"),
        (
            f"UPDATE turn SET first_offset = first_offset + 5, last_offset = last_offset + 5"
            f" WHERE key = {SEALED}",
            "begins at offset 6, and 1 is next",
        ),
        (
            f"UPDATE conversation SET last_offset = 500 WHERE key = {SECOND}",
            "its last offset is 500",
        ),
        (
            f"DELETE FROM event WHERE conversation = {SECOND};"
            f"UPDATE conversation SET last_offset = 1 WHERE key = {SECOND}",
            "its last offset is 1",
        ),
        (
            f"UPDATE event SET position = position + 100000"
            f" WHERE conversation = {SECOND} AND offset = 2",
            "after 10",
        ),
        (
            f"UPDATE event SET turn = (SELECT max(key) FROM turn WHERE conversation = {FIRST}"
            f" AND state = 'sealed') WHERE turn = {SEALED} AND offset = 2",
            "after another's events",
        ),
        (
            f"DELETE FROM event WHERE turn = {RUNNING} AND offset ="
            f" (SELECT min(offset) FROM event WHERE turn = {RUNNING})",
            "its first events are gone",
        ),
        (f"UPDATE piece SET data = x'00' WHERE turn = {RUNNING}", "what is staged"),
    ],
)
async def test_a_broken_rule_is_found(damaged: Damage, script: str, finding: str) -> None:
    findings = damaged(script)
    assert any(finding in text for text in findings), findings
    assert all(text == text.strip() and text for text in findings)


async def test_a_finding_names_the_conversation_and_the_turn(damaged: Damage) -> None:
    assert damaged(f"UPDATE turn SET outcome = NULL WHERE key = {SEALED}") == [
        "conversation first of acme: turn turn-2 is sealed without an outcome"
    ]


async def test_a_directory_with_far_too_many_findings_gives_the_first(damaged: Damage) -> None:
    many = ", ".join(f"({key}, 'ann', 1)" for key in range(1_000, 2_000))
    findings = damaged(f"INSERT INTO cursor VALUES {many}")
    assert len(findings) == FINDINGS_MAX + 1
    assert "more" in findings[-1]


async def test_a_damaged_page_is_a_finding_and_not_a_failure(data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    with closing(sqlite3.connect(data / "dispatch.db")) as source:
        source.execute("VACUUM INTO ?", (str(copy / "dispatch.db"),))
    whole = (copy / "dispatch.db").read_bytes()
    for page in range(1, len(whole) // 4096):
        spoilt = bytearray(whole)
        spoilt[page * 4096 : page * 4096 + 64] = b"\xff" * 64
        (copy / "dispatch.db").write_bytes(spoilt)
        assert verify(copy), f"page {page + 1}"


def test_what_is_no_database_is_one_finding(tmp_path: Path) -> None:
    assert verify(tmp_path) == [f"{tmp_path}/dispatch.db cannot be read: No such file or directory"]
    (tmp_path / "dispatch.db").write_bytes(b"")
    assert verify(tmp_path) == [f"{tmp_path}/dispatch.db is empty: something cut it"]
    (tmp_path / "dispatch.db").write_bytes(b"garbage" * 1_000)
    (found,) = verify(tmp_path)
    assert "file is not a database" in found
