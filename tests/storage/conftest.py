"""What every test of a store shares: none is left open, however the test ended.

The thread of an open connection keeps the process alive, so that a failed test would hang the run.
"""

from collections.abc import AsyncIterator

import pytest

from dispatch.storage.port import Opened
from dispatch.storage.sqlite import SqliteStore


@pytest.fixture(autouse=True)
async def every_store_is_closed(
    anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[None]:
    stores: list[SqliteStore] = []
    open_store = SqliteStore.open

    async def open_and_remember(self: SqliteStore) -> Opened:
        stores.append(self)
        return await open_store(self)

    monkeypatch.setattr(SqliteStore, "open", open_and_remember)
    yield
    for store in stores:
        await store.close()
