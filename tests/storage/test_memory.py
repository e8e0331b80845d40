"""The reference store, held to the port by the suite that holds every store."""

from pathlib import Path

import pytest

from dispatch.storage.memory import MemoryStore, read_backup
from dispatch.storage.memory_disk import MemoryDisk
from tests.contract.store import StoreContract
from tests.contract.store_shelf import Shelf


class MemoryShelf:
    """Stores on one disk of memory."""

    def __init__(self, disk: MemoryDisk) -> None:
        self.disk = disk

    def build(self) -> MemoryStore:
        return MemoryStore(self.disk)

    async def take_over(self) -> None:
        await MemoryStore(self.disk).open()

    def restore(self, backup: Path) -> Shelf:
        return MemoryShelf(read_backup(backup))


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def shelf(self) -> Shelf:
        return MemoryShelf(MemoryDisk())


async def test_without_a_disk_every_store_begins_empty_and_apart() -> None:
    first, second = MemoryStore(), MemoryStore()
    opened = [await first.open(), await second.open()]
    assert opened[0].generation != opened[1].generation


async def test_the_generation_comes_from_the_source_given() -> None:
    opened = await MemoryStore(mint=lambda: "fixed123").open()
    assert opened.generation == "fixed123"
