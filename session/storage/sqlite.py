"""Sessions as rows of a SQLite database."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from session.errors import SessionFileError, StorageUnavailableError
from session.storage.base import check_session_id, is_session_id
from session.storage.document import from_document, to_document

if TYPE_CHECKING:
    import builtins
    import os
    import sqlite3
    from collections.abc import Iterator

    from session.state import SessionState

DEFAULT_TIMEOUT_SECONDS: Final = 5.0

_PAUSE_SECONDS: Final = 0.01  # between two tries, in a worker thread
_SCHEMA: Final = "create table if not exists sessions (id text primary key, state text not null, updated_at integer)"
_HAS_TABLE: Final = "select 1 from sqlite_master where type in ('table', 'view') and name = 'sessions'"
_SAVE: Final = """
insert into sessions (id, state, updated_at) values (?, ?, ?)
on conflict (id) do update set state = excluded.state, updated_at = excluded.updated_at"""
_LOAD: Final = "select state from sessions where id = ?"
_DELETE: Final = "delete from sessions where id = ?"
_LIST: Final = "select id from sessions"
_MOST: Final = 2**63 - 1  # what a column of integers holds


class SqliteSessionStorage:
    """One row per session in the table `sessions (id, state, updated_at)` of the database at *path*. The first save
    makes what is missing; until then there is nothing to load, delete or list, and reading makes no file.

    WAL, `synchronous=FULL`: a save has reached the disk when it returns, all of it. `state` is the JSON text of
    `session.storage.document`; `version` is not kept, the last writer wins. A database that stays locked for
    *timeout_seconds* raises `StorageUnavailableError`; a file that is none, or has another table of that name,
    `SessionFileError`. Rows whose id could be no session's are left alone, and not listed.

    A connection lives for one operation, in a worker thread: there is nothing to close, and any event loop may use it.
    """

    def __init__(self, path: str | os.PathLike[str], *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> None:
        if str(path) in {"", ":memory:"}:
            raise ValueError("a database in memory would be lost with each connection: use MemorySessionStorage")
        self._path = Path(path).expanduser().absolute()
        self._timeout_seconds = timeout_seconds

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {str(self._path)!r}>"

    async def save(self, state: SessionState, /) -> SessionState:
        """See `SessionStorage.save`. Durable when it returns. Raises `InvalidMetadataError` and `InvalidStateError`."""
        check_session_id(state.id)
        await asyncio.to_thread(lambda: self._save(state))
        return state

    async def load(self, session_id: str, /) -> SessionState | None:
        """See `SessionStorage.load`. Raises `SessionFileError` for a row that holds no session."""
        check_session_id(session_id)
        return await asyncio.to_thread(lambda: self._load(session_id))

    async def delete(self, session_id: str, /) -> None:
        """See `SessionStorage.delete`. Durable when it returns."""
        check_session_id(session_id)
        await asyncio.to_thread(lambda: self._execute(_DELETE, session_id))

    async def list(self) -> builtins.list[str]:
        """See `SessionStorage.list`."""
        rows = await asyncio.to_thread(lambda: self._execute(_LIST))
        names = (name.decode("utf-8", "replace") for (name,) in rows if isinstance(name, bytes))
        return [name for name in names if is_session_id(name)]

    def _save(self, state: SessionState) -> None:
        document = to_document(state)
        updated_at = max(-_MOST, min(state.updated_at, _MOST))
        self._execute(_SAVE, state.id, document.decode(), updated_at, create=True)

    def _load(self, session_id: str) -> SessionState | None:
        rows = self._execute(_LOAD, session_id)
        if not rows:
            return None
        source, document = f"{self._path}: {session_id}", rows[0][0]
        if not isinstance(document, bytes):
            raise SessionFileError(source, "its state is no text")
        return from_document(document, session_id, source)

    def _execute(self, statement: str, *values: object, create: bool = False) -> builtins.list[tuple[Any, ...]]:
        """One statement is one transaction: done whole, or not at all. Done twice, it is as done once. Texts come as
        bytes. Without *create*, where there is no table there are no rows.
        """
        import sqlite3  # noqa: PLC0415 - `import session` must not cost it

        deadline = time.monotonic() + self._timeout_seconds
        try:
            while True:
                try:
                    with self._connection(create=create) as connection:
                        return connection.execute(statement, values).fetchall() if connection else []
                except sqlite3.OperationalError as error:
                    # While a neighbour turns WAL on, or closes the last connection, SQLite gives up without waiting.
                    if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                        raise
                time.sleep(_PAUSE_SECONDS)
        except (sqlite3.OperationalError, sqlite3.DataError, OSError, OverflowError) as error:
            if _code(error) == sqlite3.SQLITE_ERROR:  # our statements are right: it is another table
                raise SessionFileError(str(self._path), str(error)) from error
            raise StorageUnavailableError(str(self._path), str(error)) from error
        except sqlite3.DatabaseError as error:
            raise SessionFileError(str(self._path), str(error)) from error

    @contextlib.contextmanager
    def _connection(self, *, create: bool) -> Iterator[sqlite3.Connection | None]:
        import sqlite3  # noqa: PLC0415 - as above

        if create:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        elif not self._exists():
            yield None
            return
        address = f"{self._path.as_uri()}?mode={'rwc' if create else 'rw'}"
        connection = sqlite3.connect(address, uri=True, timeout=self._timeout_seconds, isolation_level=None)
        with contextlib.closing(connection):
            connection.text_factory = bytes  # what is no UTF-8 must not hide what is
            if create:
                _prepare(connection)
            elif not connection.execute(_HAS_TABLE).fetchall():
                yield None
                return
            connection.execute("pragma synchronous = full")
            yield connection

    def _exists(self) -> bool:
        try:
            self._path.stat()
        except FileNotFoundError:
            return False
        return True


def _prepare(connection: sqlite3.Connection) -> None:
    if connection.execute("pragma journal_mode").fetchone() != (b"wal",):
        connection.execute("pragma journal_mode = wal")
    connection.execute(_SCHEMA)


def _code(error: Exception) -> int:
    """SQLite's primary code for what went wrong; 0 if it has none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
