"""A durable store with something of everything in it, for the tests that damage it."""

import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

from dispatch.storage.keys import TurnKey
from dispatch.storage.port import Batch, Piece
from dispatch.storage.sqlite import SqliteStore
from tests.contract.store_rows import conversation, events, seal, turn

LARGE = os.urandom(200_000)


async def fill(store: SqliteStore) -> None:
    """What the writes above are applied to."""
    await store.commit(
        Batch(
            conversations=[conversation(1), conversation(2)],
            turns=[turn(2), turn(3), turn(5, state="queued")],
            events=events(1, 2, 1, 3),
            pieces=[Piece(TurnKey(2), 0, 0, b"x"), Piece(TurnKey(3), 0, 0, LARGE)],
            seals=[seal(3)],
        )
    )


@asynccontextmanager
async def opened(store: SqliteStore) -> AsyncIterator[SqliteStore]:
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def integrity(data: Path) -> str:
    with closing(sqlite3.connect(data / "dispatch.db")) as connection:
        (found,) = connection.execute("PRAGMA integrity_check").fetchone()
        return str(found)
