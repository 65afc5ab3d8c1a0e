"""One open log per file and process: environment, writer, reader and lock, shared by all who open the same path."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from eventstore import _erasure
from eventstore._files import SharedLock, check_file_system, create_log, find_log
from eventstore._layout import FORMAT, IDENTITY, LOG_ID_BYTES, pack_identity
from eventstore._ledger import Ledger
from eventstore._lmdb import LARGEST_MAP_BYTES, Durability, Environment, create_environment
from eventstore._reader import Reader
from eventstore._writer import Writer
from eventstore.errors import LogInUseError, LogNotFoundError, NewerFormatError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from eventstore._lmdb import Transaction


class Options:
    """How a log is opened; those who share it must agree."""

    def __init__(
        self,
        *,
        durability: Durability,
        clock: Callable[[], int],
        entropy: Callable[[int], bytes],
        map_size_bytes: int = LARGEST_MAP_BYTES,
    ) -> None:
        self.durability: Final = durability
        self.clock: Final = clock
        self.entropy: Final = entropy
        self.map_size_bytes: Final = map_size_bytes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Options) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


class Engine:
    """An open log. Got from `open_engine`, given back with `release`."""

    def __init__(self, path: Path, options: Options) -> None:
        self.path = path
        self.options = options
        self.users = 0
        check_file_system(path)
        self.lock = SharedLock(path)
        try:
            self.environment = Environment(path, durability=options.durability, map_size_bytes=options.map_size_bytes)
            try:
                self.log_id = self._identify()
                self.reader = Reader(self.log_id)
                ledger = Ledger(str(path), self.log_id, clock=options.clock)
                owed = self.environment.read(_erasure.is_owed)
                self.writer = Writer(self.environment, ledger, erasure_owed=owed)
            except BaseException:
                self.environment.close()
                raise
        except BaseException:
            self.lock.close()
            raise

    def _identify(self) -> bytes:
        found, log_id = self.environment.identity()
        if found > FORMAT:
            raise NewerFormatError(str(self.path), f"format {found}, this version knows {FORMAT}: use a newer one")
        return log_id

    def compact(self) -> tuple[int, int]:
        """See `BlockingLmdbEventLog.compact`."""
        return self.environment.rewrite(self.lock.exclusively())

    def close(self) -> None:
        """Finish what was submitted, then let go of the files."""
        self.writer.close()
        self.environment.close()
        self.lock.close()


_engines: dict[Path, Engine] = {}
_engines_lock = threading.Lock()


def open_engine(path: str | os.PathLike[str], options: Options, *, create: bool) -> Engine:
    """The engine of the log at *path*, made if there is none, shared if this process has it open."""
    resolved = Path(path).expanduser().resolve()
    with _engines_lock:
        engine = _engines.get(resolved)
        if engine is None:
            if not find_log(resolved):
                if not create:
                    raise LogNotFoundError(str(resolved), "there is no log")
                create_log(resolved, lambda nursery: _fill(nursery, options))
            engine = _engines[resolved] = Engine(resolved, options)
        elif engine.options != options:
            raise LogInUseError(str(resolved), "this process has it open with other options")
        engine.users += 1
        return engine


def release(engine: Engine) -> None:
    """Give back what `open_engine` gave; the last one closes it."""
    with _engines_lock:
        engine.users -= 1
        if engine.users:
            return
        del _engines[engine.path]
        engine.close()


def forget_all() -> None:
    """In a child of `os.fork()`: the parent's engines are not ours, and its lock may be held by a thread that is not
    here.
    """
    global _engines_lock  # noqa: PLW0603
    _engines_lock = threading.Lock()
    _engines.clear()


def _fill(nursery: Path, options: Options) -> None:
    def put_identity(transaction: Transaction) -> None:
        transaction.put(IDENTITY, pack_identity(options.entropy(LOG_ID_BYTES)))

    create_environment(nursery, put_identity)
