"""The same work on other stores: a plain file, bare py-lmdb, SQLite.

Each takes batches of (stream, data) and gives them back. A batch is one durable step: one write and one flush, one
transaction. None of them chains digests, checks expectations or knows commit ids; the plain file and bare LMDB do not
even store which stream an event belongs to, only this object remembers it.
"""

from __future__ import annotations

import os
import sqlite3
from collections import defaultdict
from typing import TYPE_CHECKING, Final, Protocol

import lmdb

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    Batch = Sequence[tuple[str, bytes]]

# macOS has no fdatasync, and its fsync does not reach the platter either.
flush_data: Final = getattr(os, "fdatasync", os.fsync)

SQLITE_SCHEMA: Final = """
create table if not exists events (
    position integer primary key, stream text not null, version integer not null, type text not null,
    data blob not null, unique (stream, version)
)"""
SQLITE_APPEND: Final = """
insert into events (stream, version, type, data)
values (?1, (select coalesce(max(version), 0) + 1 from events where stream = ?1), 'message_appended', ?2)"""


class Rival(Protocol):
    """Another store."""

    def append(self, batch: Batch) -> None:
        """Write *batch*: when this returns it has reached the disk."""
        ...

    def read(self, stream: str) -> list[bytes]:
        """What was appended to *stream*, in order."""
        ...

    def __enter__(self) -> Self:
        """The store itself."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        ...


class RawFile:
    """One `write` and one `fdatasync` per batch: the least that durable can cost."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o600)
        self._end = 0
        self._places: dict[str, list[tuple[int, int]]] = defaultdict(list)

    def append(self, batch: Batch) -> None:
        """One write, one flush."""
        content = b"".join(data for _, data in batch)
        written = os.write(self._file, content)
        assert written == len(content), "short write"
        flush_data(self._file)
        for stream, data in batch:
            self._places[stream].append((self._end, len(data)))
            self._end += len(data)

    def read(self, stream: str) -> list[bytes]:
        """From the file, at the places remembered."""
        return [os.pread(self._file, size, start) for start, size in self._places[stream]]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)


class BareLmdb:
    """One transaction per batch with one `put` per event, at the end of the unnamed database."""

    def __init__(self, path: Path) -> None:
        self._env = lmdb.open(str(path), map_size=2**36, lib_version=0)
        self._next = 0
        self._keys: dict[str, list[bytes]] = defaultdict(list)

    def append(self, batch: Batch) -> None:
        """One transaction."""
        with self._env.begin(write=True) as transaction:
            for stream, data in batch:
                key = self._next.to_bytes(8, "big")
                assert transaction.put(key, data, append=True)
                self._keys[stream].append(key)
                self._next += 1

    def read(self, stream: str) -> list[bytes]:
        """From the file, by the keys remembered."""
        with self._env.begin() as transaction:
            found = [transaction.get(key) for key in self._keys[stream]]
        return [bytes(data) for data in found if data is not None]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._env.close()


class Sqlite:
    """A row per event with its stream and version, in WAL mode, `synchronous=FULL`; one transaction per batch."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None, timeout=60)
        self.connection.execute("pragma journal_mode = wal")
        self.connection.execute("pragma synchronous = full")
        self.connection.execute(SQLITE_SCHEMA)

    def append(self, batch: Batch) -> None:
        """One transaction; a single event commits by itself."""
        if len(batch) == 1:
            self.connection.execute(SQLITE_APPEND, batch[0])
            return
        self.connection.execute("begin immediate")
        self.connection.executemany(SQLITE_APPEND, batch)
        self.connection.execute("commit")

    def read(self, stream: str) -> list[bytes]:
        """By version."""
        rows = self.connection.execute("select data from events where stream = ? order by version", (stream,))
        return [data for (data,) in rows]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()
