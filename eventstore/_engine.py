"""One open log per file and process: environment, writer, reader and lock, shared by all who open the same path."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, Final, TypeVar

from eventstore import _erasure
from eventstore._files import SharedLock, check_file_system, create_log, find_log, resolve_path, sync_name
from eventstore._gate import OwnedLock
from eventstore._layout import IDENTITY, LOG_ID_BYTES, pack_identity
from eventstore._ledger import Ledger
from eventstore._lmdb import LARGEST_MAP_BYTES, Durability, Environment, check_identity, create_environment
from eventstore._reader import Reader
from eventstore._requests import Query, RandomPool, draw
from eventstore._writer import Writer
from eventstore.errors import ForkedProcessError, InvalidEventError, LogInUseError, LogNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from eventstore._lmdb import Transaction

T = TypeVar("T")


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
        self.clock: Final = _checked(options.clock)
        self.entropy: Final = RandomPool() if options.entropy is os.urandom else options.entropy
        self.users = 0
        self._process = os.getpid()
        check_file_system(path)
        check_identity(path)
        self.lock = SharedLock(path)
        try:
            self.lock.claim(options.durability)
            sync_name(path)
            self.environment = Environment(path, durability=options.durability, map_size_bytes=options.map_size_bytes)
            try:
                self.log_id = self.environment.identity()
                self.environment.remove_debris()  # nobody compacts while this holds the lock
                self.reader = Reader(self.log_id)
                ledger = Ledger(str(path), self.log_id, clock=self.clock)
                owed = self.environment.read(_erasure.is_owed)
                self._writer = Writer(self.environment, ledger, erasure_owed=owed)
            except BaseException:
                self.environment.close()
                raise
        except BaseException:
            self.lock.close()
            raise

    @property
    def writer(self) -> Writer:
        """The writer thread. Raises `ForkedProcessError` in a forked child, where one would wait for it for ever."""
        self.check_process()
        return self._writer

    def read(self, query: Query[T], *, wait: bool = True) -> T:
        """What *query* finds. See `Environment.read`."""
        return self.environment.read(lambda transaction: query(self.reader, transaction), wait=wait)

    def check_process(self) -> None:
        """Raise `ForkedProcessError` in a child of the process that opened it."""
        if self._process != os.getpid():
            raise ForkedProcessError(str(self.path))

    def is_used_here(self) -> bool:
        """Whether this thread is in the middle of using it, or of opening or closing a log: then a signal handler asks,
        and must not wait for it to be closed.
        """
        return self.environment.is_used_here() or self._writer.is_used_here() or _engines_lock.is_held_here()

    def compact(self) -> tuple[int, int]:
        """See `BlockingLmdbEventLog.compact`."""
        return self.environment.rewrite(self.lock.exclusively())

    def close(self) -> None:
        """Finish what was submitted, then let go of the files."""
        self._writer.close()
        self.environment.close()
        self.lock.close()


_engines: dict[Path, Engine] = {}
_engines_lock = OwnedLock()


def open_engine(path: str | os.PathLike[str], options: Options, *, create: bool) -> Engine:
    """The engine of the log at *path*, made if there is none, shared if this process has it open.

    Raises `LogReplacedError` if what this process has open is no longer what is at the path.
    """
    resolved = resolve_path(path)
    with _engines_lock.held:
        engine = _engines.get(resolved)
        if engine is None:
            if not find_log(resolved):
                if not create:
                    raise LogNotFoundError(str(resolved), "there is no log")
                create_log(resolved, lambda nursery: _fill(nursery, options))
            engine = _engines[resolved] = Engine(resolved, options)
        elif engine.options != options:
            raise LogInUseError(str(resolved), "this process has it open with other options")
        engine.environment.check_in_place()
        engine.users += 1
        return engine


def release(engine: Engine) -> None:
    """Give back what `open_engine` gave; the last one closes it."""
    with _engines_lock.held:
        if _engines.get(engine.path) is not engine:
            return  # the parent's, given back in a forked child
        engine.users -= 1
        if engine.users:
            return
        del _engines[engine.path]
        engine.close()


def release_later(engine: Engine) -> None:
    """`release` in a thread of its own, which the process waits for before it ends."""
    threading.Thread(target=release, args=(engine,), name="refold-closer").start()


_suspended = contextlib.ExitStack()  # what is held while this process forks


def _suspend_all() -> None:
    """Before an `os.fork()`: wait for what runs, and keep every file closed until it is over."""
    _suspended.enter_context(_engines_lock.held)
    for engine in _engines.values():
        _suspended.enter_context(engine.environment.suspended())


def _resume_all() -> None:
    _suspended.close()


def _forget_all() -> None:
    """In the child: the parent's engines are not ours, nor are the files' locks, which would hold as long as either."""
    global _engines_lock  # noqa: PLW0603
    _engines_lock = OwnedLock()
    for engine in _engines.values():
        engine.environment.forget()
    _suspended.pop_all()
    for engine in _engines.values():
        engine.lock.close()
    _engines.clear()


os.register_at_fork(before=_suspend_all, after_in_parent=_resume_all, after_in_child=_forget_all)


def _checked(clock: Callable[[], int]) -> Callable[[], int]:
    """*clock*, but for what is no time: `InvalidEventError`."""

    def now() -> int:
        time_ns = clock()
        if type(time_ns) is not int or not -(2**63) <= time_ns < 2**63:
            raise InvalidEventError(f"the log's clock gave {time_ns!r}, not nanoseconds in 64 bits")
        return time_ns

    return now


def _fill(nursery: Path, options: Options) -> None:
    def put_identity(transaction: Transaction) -> None:
        transaction.put(IDENTITY, pack_identity(log_id))

    log_id = draw(options.entropy, LOG_ID_BYTES)
    create_environment(nursery, put_identity)
