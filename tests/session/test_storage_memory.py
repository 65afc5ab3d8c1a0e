from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from session.state import SessionState
from session.storage import MemorySessionStorage
from session.testing.storage_contract import SessionStorageContract

if TYPE_CHECKING:
    from pathlib import Path


class TestMemorySessionStorage(SessionStorageContract):
    persistent = False

    def open(self, path: Path) -> MemorySessionStorage:
        del path  # it lives in memory
        return MemorySessionStorage()


def test_clear_forgets_every_session_and_size_counts_them() -> None:
    storage = MemorySessionStorage()
    for name in ("a", "b", "a"):
        asyncio.run(storage.save(SessionState(id=name)))
    assert storage.size() == 2
    storage.clear()
    assert storage.size() == 0
    assert asyncio.run(storage.load("a")) is None


def test_storages_in_memory_are_apart() -> None:
    one, other = MemorySessionStorage(), MemorySessionStorage()
    asyncio.run(one.save(SessionState(id="a")))
    assert asyncio.run(other.list()) == []
