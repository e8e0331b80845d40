"""`dispatch check` sees every broken promise about timelines, and says so in a sentence."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from dispatch.core.identity import LOCAL
from dispatch.protocol.groups.requests import GroupCreate, GroupSend
from dispatch.storage.check import verify
from dispatch.storage.sqlite import SqliteStore
from dispatch.storage.sqlite_directory import DATABASE
from dispatch.testing import ScriptedAgent, broker_on


async def filled(data: Path) -> None:
    """A group of two that has answered twice."""
    agents = [ScriptedAgent("yes", name="ann"), ScriptedAgent("no", name="bob")]
    async with broker_on(SqliteStore(data), agents=agents) as broker:
        view = await broker.groups.groups.create(LOCAL, GroupCreate(members=("ann", "bob")))
        for text in ("first", "second"):
            await broker.groups.sends.send(LOCAL, view.id, GroupSend(text=text))
            await broker.until_idle()


async def test_a_whole_group_is_well(tmp_path: Path) -> None:
    await filled(tmp_path)
    assert verify(tmp_path) == []


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("UPDATE timeline_row SET seq = 9 WHERE seq = 6", "rows with a seq up to 9"),
        ("DELETE FROM timeline_row WHERE seq = 6", "says that its last seq is 6"),
        ("UPDATE timeline_row SET timeline = 999 WHERE seq = 6", "a timeline that is not there"),
        ("UPDATE timeline_row SET ended_position = NULL WHERE seq = 6", "lacks its seq or its"),
        ("UPDATE timeline_row SET reply_to = 2 WHERE seq = 6", "which is no message before it"),
        ("UPDATE timeline_row SET outcome = NULL WHERE seq = 6", "which neither waits nor runs"),
        ("UPDATE timeline_event SET timeline = 999", "tells of a timeline that never was"),
        ("UPDATE timeline SET last_position = 3", "is behind its last position 3"),
        (
            "UPDATE timeline_event SET position = (SELECT max(position) FROM event)"
            " WHERE position = (SELECT max(position) FROM timeline_event)",
            "is in the log of a conversation and in that of a timeline",
        ),
        (
            "UPDATE timeline_event SET payload ="
            " CAST(replace(CAST(payload AS TEXT), '\"completed\":2', '\"completed\":1') AS BLOB)",
            "ended with 1 outcomes, and has 2 replies",
        ),
        ("UPDATE timeline SET unread = 7", "7 replies are unread, and a recount 4"),
    ],
)
async def test_damage_to_a_timeline_is_named(tmp_path: Path, damage: str, words: str) -> None:
    await filled(tmp_path)
    with closing(sqlite3.connect(tmp_path / DATABASE)) as database:
        database.execute(damage)
        database.commit()
    assert any(words in finding for finding in verify(tmp_path))
