"""The file of the index: opened, made anew where it is missing, foreign, outdated or damaged, and shared by processes.

1. It is a cache in a directory of its own, beside the log: it may be removed at any time, and is never written without
   SQLite's locks. A process that dies leaves a transaction that the next one rolls back.
2. Who has it open holds a shared `flock` on `lock`; who puts a new file in its place holds it exclusively. So no one
   writes into a file that has been taken away.
3. It holds what was said: directory and files are for their owner only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from typing import TYPE_CHECKING, Final, TypeVar

from session.errors import StorageUnavailableError
from session.search._tables import REVISION, SCHEMA, DamagedIndexError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Self

T = TypeVar("T")

FILE_NAME: Final = "index.sqlite3"
LOCK_NAME: Final = "lock"
TIMEOUT_SECONDS: Final = 30.0

_APPLICATION_ID: Final = 0x5265_666F  # "Refo"
_PAUSE_SECONDS: Final = 0.01
_JOURNALS: Final = ("", "-journal", "-wal", "-shm")
_DAMAGE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_IOERR)


class IndexFile:
    """An open index. One thread at a time. Raises `StorageUnavailableError` where the directory or SQLite refuses."""

    def __init__(self, directory: Path, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._directory = directory
        self._path = directory / FILE_NAME
        self._timeout_seconds = timeout_seconds
        self._connection: sqlite3.Connection | None = None
        self.made_because = ""  # why the file is a new one; "": it was there
        with self._os_errors():
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def run(self, work: Callable[[sqlite3.Connection], T], *, write: bool = False) -> T:
        """The result of *work* in one transaction, committed if it is to *write*.

        Raises `DamagedIndexError`: then `remake`, and begin again.
        """
        connection = self._connection
        assert connection is not None, "it is open"
        try:
            connection.execute("begin immediate" if write else "begin")
            try:
                result = work(connection)
            except BaseException:
                self._roll_back(connection)
                raise
            connection.execute("commit")
        except sqlite3.Error as error:
            self._roll_back(connection)
            raise self._translated(error) from error
        return result

    def remake(self, reason: str) -> None:
        """Put a new, empty index in its place, unless somebody else has done so meanwhile."""
        seen = self._identity()
        self._disconnect()
        with self._alone():
            if self._identity() == seen:
                self._make(reason)
            else:
                self.made_because = reason
        self._open()

    def close(self) -> None:
        """Let it go. Closing twice is fine."""
        self._disconnect()
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- opening ------------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        for _ in range(2):  # once as it is, once made anew
            self._flock(fcntl.LOCK_SH)
            try:
                self._connection = self._connect()
            except DamagedIndexError as error:
                seen = self._identity()
                with self._alone():
                    if self._identity() == seen:
                        self._make(error.reason)
            else:
                return
        raise StorageUnavailableError(str(self._path), "a new index could not be read")

    def _connect(self) -> sqlite3.Connection:
        if self._identity() is None:
            raise DamagedIndexError("there was none")
        connection = None
        try:
            connection = sqlite3.connect(self._path, timeout=self._timeout_seconds, isolation_level=None)
            connection.execute("pragma synchronous = normal")
            connection.execute("pragma secure_delete = on")
            found = [connection.execute(f"pragma {name}").fetchone()[0] for name in ("application_id", "user_version")]
        except sqlite3.Error as error:
            if connection:
                connection.close()
            raise self._translated(error) from error
        if found == [_APPLICATION_ID, REVISION]:
            return connection
        connection.close()
        ours = found[0] == _APPLICATION_ID
        raise DamagedIndexError("it was made by another version" if ours else "the file was no index of ours")

    def _make(self, reason: str) -> None:
        """A new file, while nobody else has one open. Its name comes last: a file under it is whole."""
        with self._os_errors():
            for journal in _JOURNALS:
                self._path.with_name(FILE_NAME + journal).unlink(missing_ok=True)
            nursery = self._path.with_name(FILE_NAME + ".new")
            nursery.unlink(missing_ok=True)
            os.close(os.open(nursery, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            try:
                with contextlib.closing(sqlite3.connect(nursery, isolation_level=None)) as connection:
                    for statement in ("begin", *SCHEMA, *_stamps(), "commit"):
                        connection.execute(statement)
            except sqlite3.Error as error:
                raise StorageUnavailableError(str(self._path), str(error)) from error
            nursery.rename(self._path)
        self.made_because = reason

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageUnavailableError(str(self._path), str(error)) from error
        return found.st_dev, found.st_ino

    # --- locks and errors ---------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else has the index open. Afterwards, no lock is held."""
        fcntl.flock(self._lock, fcntl.LOCK_UN)  # two who both wait for the other one to leave would wait for ever
        self._flock(fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _flock(self, kind: int) -> None:
        deadline = time.monotonic() + self._timeout_seconds
        while True:
            try:
                fcntl.flock(self._lock, kind | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise StorageUnavailableError(str(self._path), "another process has it open") from error
                time.sleep(_PAUSE_SECONDS)
            else:
                return

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection:
            connection.close()

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        if connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("rollback")

    def _translated(self, error: sqlite3.Error) -> Exception:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _DAMAGE or (isinstance(error, sqlite3.OperationalError) and not code):  # without: text that is none
            return DamagedIndexError(f"it was damaged ({error})")
        return StorageUnavailableError(str(self._path), str(error))

    @contextlib.contextmanager
    def _os_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageUnavailableError(str(self._directory), str(error)) from error


def _stamps() -> tuple[str, str]:
    return f"pragma application_id = {_APPLICATION_ID}", f"pragma user_version = {REVISION}"
