"""Sessions as rows of a SQLite database."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from session.errors import SessionFileError, StorageUnavailableError
from session.storage.base import check_session_id
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
_SAVE: Final = """
insert into sessions (id, state, updated_at) values (?, ?, ?)
on conflict (id) do update set state = excluded.state, updated_at = excluded.updated_at"""
_LOAD: Final = "select state from sessions where id = ?"
_DELETE: Final = "delete from sessions where id = ?"
_LIST: Final = "select id from sessions"


class SqliteSessionStorage:
    """One row per session in the table `sessions (id, state, updated_at)` of the database at *path*, made if missing.

    WAL, `synchronous=FULL`: a save has reached the disk when it returns, all of it. `state` is the JSON text of
    `session.storage.document`; `version` is not kept, the last writer wins. A database that stays locked for
    *timeout_seconds* raises `StorageUnavailableError`, a file that is none `SessionFileError`.

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
        """See `SessionStorage.save`. Durable when it returns. Raises `InvalidMetadataError`."""
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
        return [session_id for (session_id,) in await asyncio.to_thread(lambda: self._execute(_LIST))]

    def _save(self, state: SessionState) -> None:
        self._execute(_SAVE, state.id, to_document(state).decode(), state.updated_at)

    def _load(self, session_id: str) -> SessionState | None:
        rows = self._execute(_LOAD, session_id)
        if not rows:
            return None
        text = rows[0][0]
        return from_document(
            text.encode() if isinstance(text, str) else text, session_id, f"{self._path}: {session_id}"
        )

    def _execute(self, statement: str, *values: object) -> builtins.list[tuple[Any, ...]]:
        """One statement is one transaction: done whole, or not at all. Done twice, it is as done once."""
        import sqlite3  # noqa: PLC0415 - `import session` must not cost it

        deadline = time.monotonic() + self._timeout_seconds
        try:
            while True:
                try:
                    with self._connection() as connection:
                        return connection.execute(statement, values).fetchall()
                except sqlite3.OperationalError as error:
                    # While a neighbour turns WAL on, or closes the last connection, SQLite gives up without waiting.
                    if (
                        getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY
                        or time.monotonic() >= deadline
                    ):
                        raise
                time.sleep(_PAUSE_SECONDS)
        except (sqlite3.OperationalError, OSError) as error:
            raise StorageUnavailableError(str(self._path), str(error)) from error
        except sqlite3.DatabaseError as error:
            raise SessionFileError(str(self._path), str(error)) from error

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        import sqlite3  # noqa: PLC0415 - as above

        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, timeout=self._timeout_seconds, isolation_level=None)
        with contextlib.closing(connection):
            if connection.execute("pragma journal_mode").fetchone() != ("wal",):
                connection.execute("pragma journal_mode = wal")
            connection.execute("pragma synchronous = full")
            connection.execute(_SCHEMA)
            yield connection
