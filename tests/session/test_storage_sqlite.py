from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from typing import TYPE_CHECKING

import pytest

from session.errors import SessionFileError, StorageUnavailableError
from session.state import SessionState
from session.storage import SqliteSessionStorage
from session.testing.storage_contract import SessionStorageContract, rich_state

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class TestSqliteSessionStorage(SessionStorageContract):
    def open(self, path: Path) -> SqliteSessionStorage:
        return SqliteSessionStorage(path / "sessions.db")


@contextlib.contextmanager
def connected(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def test_a_session_is_a_row_of_the_table_with_its_time(tmp_path: Path) -> None:
    asyncio.run(SqliteSessionStorage(tmp_path / "s.db").save(rich_state("sess_a")))
    with connected(tmp_path / "s.db") as connection:
        columns = [row[1] for row in connection.execute("pragma table_info(sessions)")]
        rows = connection.execute("select id, state, updated_at, typeof(state) from sessions").fetchall()
        assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
    assert columns == ["id", "state", "updated_at"]
    ((session_id, text, updated_at, kind),) = rows
    assert (session_id, updated_at, kind) == ("sess_a", 1_700_000_000_123, "text")
    assert json.loads(text, parse_int=str)["id"] == "sess_a"


def test_a_locked_database_is_told_and_nothing_is_half_written(tmp_path: Path) -> None:
    storage = SqliteSessionStorage(tmp_path / "s.db", timeout_seconds=0.01)
    asyncio.run(storage.save(rich_state("sess_a")))
    with connected(tmp_path / "s.db") as neighbour:
        neighbour.execute("begin immediate")
        with pytest.raises(StorageUnavailableError, match="locked"):
            asyncio.run(storage.save(SessionState(id="sess_a")))
        with pytest.raises(StorageUnavailableError, match="locked"):
            asyncio.run(storage.delete("sess_a"))
        loaded = asyncio.run(storage.load("sess_a"))  # readers do not wait for writers
        neighbour.execute("rollback")
    assert loaded is not None
    assert loaded.messages == rich_state("sess_a").messages
    asyncio.run(storage.save(SessionState(id="sess_a")))


def test_a_file_that_is_no_database_is_named_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    path.write_bytes(b"no database at all" * 100)
    storage = SqliteSessionStorage(path)
    for attempt in (storage.save(SessionState(id="a")), storage.load("a"), storage.list()):
        with pytest.raises(SessionFileError) as caught:
            asyncio.run(attempt)
        assert caught.value.path == str(path)
    assert path.read_bytes() == b"no database at all" * 100


def test_a_foreign_row_is_named_and_the_others_stay_readable(tmp_path: Path) -> None:
    storage = SqliteSessionStorage(tmp_path / "s.db")
    asyncio.run(storage.save(SessionState(id="good")))
    with connected(tmp_path / "s.db") as connection:
        connection.execute("insert into sessions values ('torn', '{\"id\":', 0), ('blob', x'ff00', 0), ('odd', 7, 0)")
    for name in ("torn", "blob", "odd"):
        with pytest.raises(SessionFileError, match=name):
            asyncio.run(storage.load(name))
    with connected(tmp_path / "s.db") as connection:
        connection.execute(
            "insert into sessions values (cast(x'ff' as text), '{}', 0), (null, '{}', 0), (x'2e', '', 0)"
        )
        connection.execute("insert into sessions values ('../x', '{}', 0), ('text', cast(x'7bff7d' as text), 0)")
    assert asyncio.run(storage.load("good")) is not None
    with pytest.raises(SessionFileError, match="text"):
        asyncio.run(storage.load("text"))
    assert sorted(asyncio.run(storage.list())) == ["blob", "good", "odd", "text", "torn"]


def test_reading_what_is_not_there_makes_nothing(tmp_path: Path) -> None:
    bare = tmp_path / "bare.db"
    with connected(bare) as connection:
        connection.execute("create table other (a)")
    before = bare.read_bytes()
    for path in (tmp_path / "new" / "s.db", tmp_path / "none.db", bare):
        storage = SqliteSessionStorage(path)
        assert asyncio.run(storage.load("sess_a")) is None
        assert asyncio.run(storage.list()) == []
        asyncio.run(storage.delete("sess_a"))
    assert list(tmp_path.iterdir()) == [bare]
    assert bare.read_bytes() == before


def test_another_table_of_that_name_is_named_and_left_alone(tmp_path: Path) -> None:
    with connected(tmp_path / "s.db") as connection:
        connection.execute("create table sessions (user text, expires text)")
        connection.execute("insert into sessions values ('ann', 'never')")
    storage = SqliteSessionStorage(tmp_path / "s.db")
    for attempt in (storage.save(SessionState(id="a")), storage.load("a"), storage.list(), storage.delete("a")):
        with pytest.raises(SessionFileError, match=r"no such column|no column"):
            asyncio.run(attempt)
    with connected(tmp_path / "s.db") as connection:
        assert connection.execute("select * from sessions").fetchall() == [("ann", "never")]


def test_a_time_beyond_64_bits_is_kept_in_the_document(tmp_path: Path) -> None:
    storage = SqliteSessionStorage(tmp_path / "s.db")
    for updated_at in (2**70, -(2**70)):
        asyncio.run(storage.save(SessionState(id="sess_a", updated_at=updated_at)))
        loaded = asyncio.run(storage.load("sess_a"))
        assert loaded is not None
        assert loaded.updated_at == updated_at


def test_a_place_that_cannot_be_opened_is_a_storage_that_cannot_be_reached(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path, tmp_path / "file" / "s.db"):
        with pytest.raises(StorageUnavailableError):
            asyncio.run(SqliteSessionStorage(path).load("a"))


@pytest.mark.parametrize("path", ["", ":memory:"])
def test_a_database_in_memory_is_refused_for_it_would_lose_everything(path: str) -> None:
    with pytest.raises(ValueError, match="MemorySessionStorage"):
        SqliteSessionStorage(path)


def test_any_event_loop_and_thread_may_use_it(tmp_path: Path) -> None:
    storage = SqliteSessionStorage(tmp_path / "s.db")

    async def save_many(first: int) -> None:
        await asyncio.gather(*(storage.save(SessionState(id=f"s{number}")) for number in range(first, first + 10)))

    async def in_threads() -> None:
        await asyncio.gather(*(asyncio.to_thread(asyncio.run, save_many(first)) for first in (0, 10, 20)))

    asyncio.run(in_threads())
    assert len(asyncio.run(storage.list())) == 30
