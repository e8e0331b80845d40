"""Where the stores of the suite come from, and the fixtures that open and close them.

An adapter's tests subclass `tests.contract.store.StoreContract` and give the fixture `shelf`.
Everything goes through the port alone; what is special to one adapter is tested beside it.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import pytest

from dispatch.storage.port import (
    Opened,
    Store,
)


class Shelf(Protocol):
    """Where the data of one store lies."""

    def build(self) -> Store:
        """A store on this data, not open yet; the one before must be closed."""
        ...

    async def take_over(self) -> None:
        """Let another incarnation have the data, behind the back of the open store."""
        ...

    def restore(self, backup: Path) -> "Shelf":
        """Another shelf, on which a backup was put."""
        ...


class Shelved:
    """Tests of an open store; a subclass gives the fixture `shelf`."""

    @pytest.fixture
    async def opened(self, shelf: Shelf) -> AsyncIterator[tuple[Store, Opened]]:
        store = shelf.build()
        opened = await store.open()
        try:
            yield store, opened
        finally:
            await store.close()

    @pytest.fixture
    def store(self, opened: tuple[Store, Opened]) -> Store:
        return opened[0]

    async def reopened(self, store: Store, shelf: Shelf) -> tuple[Store, Opened]:
        await store.close()
        again = shelf.build()
        return again, await again.open()
