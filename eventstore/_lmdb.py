"""The LMDB environment: open it safely, run transactions in it, let it grow, close it. The only module that knows lmdb.

What LMDB leaves to its users is done here, once:
- one environment per file and process (opening a file twice in a process breaks its locks): `Engine` shares it;
- no file is open across an `os.fork()`;
- no transaction outlives the function that runs in it: a read transaction pins every page freed since it began;
- the map grows, or follows another process's growth, only while no transaction of ours is open;
- values are views into the map: whoever runs in a transaction copies what it returns;
- LMDB's errors become ours.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar

import lmdb
import lmdb.verify

from eventstore._files import (
    DATA_FILE,
    LMDB_LOCK_FILE,
    LOCK_FILE,
    FileIdentity,
    adopt_owner,
    check_data_file,
    directory_state,
    file_identity,
    remove_directory,
    reserve_lock_file,
    sync_path,
    translate_os_error,
)
from eventstore._gate import Gate, Passage, WouldWaitError
from eventstore._layout import FORMAT, IDENTITY, DamagedRecord, unpack_identity
from eventstore.errors import (
    AddressSpaceError,
    ClosedError,
    CorruptLogError,
    DiskFullError,
    EventStoreError,
    ForkedProcessError,
    LogFailedError,
    LogInUseError,
    LogPermissionError,
    LogReplacedError,
    LogUnavailableError,
    MapFullError,
    NewerFormatError,
    NotALogError,
    ReadersFullError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

T = TypeVar("T")
Durability: TypeAlias = Literal["disk", "os"]
Transaction: TypeAlias = "lmdb.Transaction[memoryview]"

LARGEST_MAP_BYTES: Final = 2**40
_SMALLEST_MAP_BYTES: Final = 2**20
_MAX_READERS: Final = 1024
_BUNDLED_ENGINE: Final = 0  # LMDB 0.9: the two engines that py-lmdb bundles cannot read each other's files
_READ_TRIES: Final = 8
_READER_CHECK_SECONDS: Final = 1.0
_NO_ROOM_BYTES: Final = 2**16
_TICK_NS: Final = 100_000_000  # far more than a kernel's tick
_COMPACTED: Final = "compact.tmp"  # a directory, where the file is rewritten


class Environment:
    """An open LMDB file. Thread-safe; `write` is meant for one thread at a time (LMDB lets the others wait).

    It is closed and opened again behind the users' backs: around an `os.fork()`, by `rewrite`, and when a new map is
    refused. If the opening fails then (no free descriptor, say), whoever uses it next tries again, and is told why not.
    """

    def __init__(self, path: Path, *, durability: Durability, map_size_bytes: int = LARGEST_MAP_BYTES) -> None:
        self.path = path
        self.durability: Final = durability
        self._map_size_bytes = map_size_bytes
        self._gate = Gate()
        self._process = os.getpid()
        self._failed = False
        self._closed = False
        self._path: Final = os.fspath(path)
        self._data_path: Final = os.fspath(path / DATA_FILE)
        self._lock_path: Final = os.fspath(path / LMDB_LOCK_FILE)
        self._data_file: FileIdentity = None
        self._lock_file: FileIdentity = None
        self._looked_at: tuple[int, int, int] | None = None  # the directory, when the files were last seen in it
        self.generation = 0  # of the file: a rewritten one numbers its transactions anew
        self._past_transactions = 0  # counted before the file was rewritten: the copy begins anew
        self._next_reader_check = 0.0
        self._opening = threading.Lock()
        self._lmdb: lmdb.Environment | None = self._open()

    def _open(self) -> lmdb.Environment:
        """Raises `LogReplacedError` if the data file is not the one that was open before."""
        _check_length(self.path)
        reserve_lock_file(self.path)
        before = file_identity(self._data_path), file_identity(self._lock_path)
        if self._data_file not in {None, before[0]}:
            raise self._replaced()
        env = self._open_lmdb()
        if before != (file_identity(self._data_path), file_identity(self._lock_path)):
            env.close()
            raise self._replaced()
        self._data_file, self._lock_file = before
        return env

    def _replaced(self) -> LogReplacedError:
        return LogReplacedError(str(self.path), "its files were removed or replaced while it was open")

    def check_in_place(self) -> None:
        """Raise `LogReplacedError` unless the files that are open are those at the path."""
        try:
            self._check_in_place()
        except LogReplacedError:  # unless this process is just rewriting them
            passage = Passage()
            try:
                self._gate.enter(passage)
                self._check_in_place()
            finally:
                self._gate.leave(passage)

    def _check_in_place(self) -> None:
        """As a rule one call of `stat`: unless names in the directory have changed, the files need no look."""
        state = directory_state(self._path)
        if state is not None and state == self._looked_at:
            return
        if file_identity(self._data_path) != self._data_file or file_identity(self._lock_path) != self._lock_file:
            raise self._replaced()
        # Another change in the same tick of the clock would not show in a state as fresh as that.
        settled = state is not None and time.time_ns() - state[2] > _TICK_NS
        self._looked_at = state if settled else None

    def _open_lmdb(self) -> lmdb.Environment:
        size = self._map_size_bytes
        while True:
            try:
                env = lmdb.open(
                    os.fspath(self.path),
                    map_size=size,
                    subdir=True,
                    create=False,
                    mode=0o700,
                    metasync=self.durability == "disk",
                    sync=self.durability == "disk",
                    max_readers=_MAX_READERS,
                    lib_version=_BUNDLED_ENGINE,
                )
            except (lmdb.MemoryError, lmdb.Error) as error:
                if not _is_out_of_address_space(error):
                    raise _translate(self.path, error) from error
                size //= 2
                if size < max(_SMALLEST_MAP_BYTES, (self.path / DATA_FILE).stat().st_size):
                    raise AddressSpaceError(
                        str(self.path), "the process may not map it, raise its address space limit (ulimit -v)"
                    ) from error
            else:
                self._map_size_bytes = env.info()["map_size"]
                env.reader_check()
                return env

    def read(self, work: Callable[[Transaction], T], *, wait: bool = True) -> T:
        """What *work* returns from a read transaction. It must not keep the transaction or a view from it.

        Raises `CorruptLogError` if *work* meets a damaged row and says no more of it. Without *wait*, raises
        `WouldWaitError` where it would wait for who changes the map or rewrites the file.
        """
        self._check_process()
        for _ in range(_READ_TRIES):
            passage = Passage()
            try:
                self._gate.enter(passage, wait=wait)
                with self._usable().begin(buffers=True) as transaction:
                    return work(transaction)
            except lmdb.MapResizedError:
                resized = True
            except lmdb.ReadersFullError as error:
                resized = False
                if not self._usable().reader_check():
                    raise _translate(self.path, error) from error
            except lmdb.Error as error:
                raise _translate(self.path, error) from error
            except (DamagedRecord, struct.error) as error:
                raise CorruptLogError(str(self.path), f"a table is damaged: {error}") from error
            finally:
                self._gate.leave(passage)
            if resized:
                if not wait:
                    raise WouldWaitError
                self._resize(0)
        raise ReadersFullError(str(self.path), "no free reader slot, or a map that grows all the time")

    def write(self, work: Callable[[Transaction], T]) -> T:
        """What *work* returns from a write transaction that is committed, and durable unless opened otherwise.

        Nothing is written if *work* raises. *work* runs again from the start if the map had to grow.
        """
        self._check_process()
        while True:
            passage = Passage()
            try:
                self._gate.enter(passage)
                return self._write_once(work)
            except lmdb.MapFullError:
                size = self._map_size_bytes * 2
            except lmdb.MapResizedError:
                size = 0
            except lmdb.Error as error:
                raise _translate(self.path, error) from error
            finally:
                self._gate.leave(passage)
            self._resize(size)

    def owns(self, error: Exception) -> bool:
        """Whether *error* is LMDB's, to be raised in `write`, which may know what to do about it."""
        return isinstance(error, lmdb.Error)

    def _write_once(self, work: Callable[[Transaction], T]) -> T:
        if self._failed:
            raise LogFailedError(str(self.path), "an earlier commit failed")
        env = self._usable()
        self._check_readers(env)
        transaction = env.begin(write=True, buffers=True)
        try:
            self._check_in_place()
            result = work(transaction)
        except BaseException:
            # Readers that do not cease keep py-lmdb's `abort` waiting for seconds: hold them back.
            alone = Passage()
            try:
                self._gate.enter_alone(alone, passed=True)
                transaction.abort()
            finally:
                self._gate.leave_alone(alone, None)
            raise
        try:
            transaction.commit()
        except lmdb.MapFullError:
            raise
        except lmdb.Error as error:
            if _is_disk_full(self.path, error):
                raise
            # After a failed flush nobody knows what the disk holds: only reopening shows it.
            self._failed = True
            raise LogFailedError(str(self.path), str(error)) from error
        return result

    def _check_readers(self, env: lmdb.Environment) -> None:
        """Now and then, free what a process that was killed was reading: nothing freed since then could be used again,
        and the file would grow with each commit. It costs some microseconds, as long as nobody died.
        """
        now = time.monotonic()
        if now < self._next_reader_check:
            return
        self._next_reader_check = now + _READER_CHECK_SECONDS
        with contextlib.suppress(lmdb.Error):  # no reason for a commit to fail
            env.reader_check()

    def last_transaction(self, *, wait: bool = True) -> int:
        """The number of the newest commit, of any process, that a reader sees. It never goes back while this is open.

        Not `info()`: that one is ahead of the readers for as long as the commit's last flush takes.
        """
        return self.read(lambda transaction: self._past_transactions + transaction.id(), wait=wait)

    def _resize(self, size: int) -> None:
        """Map *size* bytes, or with 0 as many as another process has made it."""
        alone = Passage()
        try:
            self._gate.enter_alone(alone)
            env = self._usable()
            try:
                env.set_mapsize(size)
            except lmdb.Error as error:
                # The old map is gone: open anew, at the old size, or what the file needs by now.
                self._lmdb = None
                env.close()
                self._usable()
                if size:
                    raise MapFullError(str(self.path), "its map is full and the process may not map more") from error
            else:
                self._map_size_bytes = env.info()["map_size"]
        finally:
            self._gate.leave_alone(alone, None)

    def copy(self, target: Path, *, compact: bool) -> None:
        """Write a consistent copy of the data file into the directory *target*, durable when this returns. Writers go
        on; with *compact*, free pages are left out.
        """
        self._check_process()
        passage = Passage()
        try:
            self._gate.enter(passage)
            self._copy(target, compact=compact)
        finally:
            self._gate.leave(passage)

    def _copy(self, target: Path, *, compact: bool) -> None:
        try:
            self._usable().copy(os.fspath(target), compact=compact)
            (target / DATA_FILE).chmod(0o600)
            sync_path(target / DATA_FILE)
            sync_path(target)
        except lmdb.Error as error:
            raise _translate(self.path, error) from error
        except OSError as error:
            raise translate_os_error(target, error) from error

    def rewrite(self, lock: contextlib.AbstractContextManager[None]) -> tuple[int, int]:
        """Replace the data file by a compacted copy while holding *lock*, which must keep other processes out. Returns
        its size before and after, in bytes. At every moment, the file under the name is a whole one, and whoever could
        use it can use it.
        """
        self._check_process()
        if self._gate.is_passed_here():
            raise LogInUseError(str(self.path), "a signal came in the middle of another use of it")
        nursery = self.path / _COMPACTED
        self.check_in_place()
        alone = Passage()
        try:
            self._gate.enter_alone(alone)
            with lock:
                return self._rewrite(nursery)
        finally:
            self._gate.leave_alone(alone, None)

    def _rewrite(self, nursery: Path) -> tuple[int, int]:
        env = self._usable()
        self._check_in_place()  # again: nobody who keeps to the rules can replace them now
        try:
            before = os.stat(self._data_path).st_size  # noqa: PTH116
            self.remove_debris()
            nursery.mkdir(mode=0o700)
            self._copy(nursery, compact=True)
            adopt_owner(nursery / DATA_FILE, self._data_path)
            self._replace_by(nursery / DATA_FILE, env)
            after = os.stat(self._data_path).st_size  # noqa: PTH116
        except OSError as error:
            raise translate_os_error(self.path, error) from error
        finally:
            remove_directory(nursery)
        self._try_to_open()
        return before, after

    def _replace_by(self, copy: Path, env: lmdb.Environment) -> None:
        """Put *copy* in the place of the file that is open as *env*, and close that."""
        transactions, identity = env.info()["last_txnid"], file_identity(copy)
        self._lmdb = None
        env.close()
        copy.replace(self._data_path)
        self._data_file = identity
        self._past_transactions += transactions
        self.generation += 1
        try:
            sync_path(self.path)
        except OSError as error:
            self._failed = True  # a power cut may bring back the old file, without what comes now
            raise LogFailedError(str(self.path), f"the rewritten file may not last: {error}") from error

    def remove_debris(self) -> None:
        """Remove what a compaction that died left behind. Nobody may be compacting now."""
        remove_directory(self.path / _COMPACTED)

    def identity(self) -> bytes:
        """The log's id. Raises `NotALogError`, `NewerFormatError`."""
        value = self.read(lambda transaction: bytes(transaction.get(IDENTITY, b"")))
        try:
            found, log_id = unpack_identity(value)
        except DamagedRecord as error:
            raise NotALogError(str(self.path), f"{_FOREIGN}: {error}") from error
        if found > FORMAT:
            raise NewerFormatError(str(self.path), f"format {found}, this version knows {FORMAT}: use a newer one")
        return log_id

    def is_used_here(self) -> bool:
        """Whether this thread is in the middle of using it: then it is a signal handler that asks."""
        return self._gate.is_passed_here()

    def close(self) -> None:
        """Release the file, once every running transaction is over. In a forked child: forget it."""
        if self._process != os.getpid():
            return
        alone = Passage()
        try:
            self._gate.enter_alone(alone)
            self._closed = True
            if self._lmdb is not None:
                self._lmdb.close()
                self._lmdb = None
        finally:
            self._gate.leave_alone(alone, None)

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Keep the file closed during an `os.fork()`: a child that inherits an open one can neither close it, for that
        would take its reader slots from the parent, nor open another. The fork waits for what runs, a `copy` too.
        """
        alone = Passage()
        try:
            self._gate.enter_alone(alone)
            env, self._lmdb = self._lmdb, None
            if env is not None:
                env.close()
            yield
            if env is not None:
                self._try_to_open()
        finally:
            self._gate.leave_alone(alone, None)

    def forget(self) -> None:
        """In a forked child: nothing of it is ours."""
        self._gate.forget()

    def _try_to_open(self) -> None:
        """Open the file again, now rather than when it is used; what is wrong concerns who uses it next."""
        with contextlib.suppress(EventStoreError, OSError):
            self._usable()

    def _check_process(self) -> None:
        """In a forked child not even the gate can be trusted: it may have been closed by a thread that is not here."""
        if self._process != os.getpid():
            raise ForkedProcessError(str(self.path))

    def _usable(self) -> lmdb.Environment:
        env = self._lmdb
        if env is None:
            with self._opening:
                if self._closed:
                    raise ClosedError(str(self.path))
                if self._lmdb is None:
                    self._lmdb = self._open()
                env = self._lmdb
        return env


_FOREIGN: Final = "an LMDB file, but not a Refold log"
_LOCK_EXPLANATION: Final = (
    "LMDB cannot tell its users apart: two containers with their own process numbers must not open one file"
)


def _translate(path: Path, error: lmdb.Error) -> EventStoreError:
    """The error of ours that one of LMDB's means."""
    place = str(path)
    match error:
        case lmdb.ReadersFullError():
            return ReadersFullError(place, "all its reader slots are taken")
        case lmdb.CorruptedError() | lmdb.PageNotFoundError() | lmdb.PageFullError() | lmdb.CursorFullError():
            return CorruptLogError(place, f"LMDB finds its structure damaged: {error}")
        case lmdb.VersionMismatchError() | lmdb.InvalidError() | lmdb.IncompatibleError():
            return NotALogError(place, f"{DATA_FILE} is not an LMDB 0.9 data file: {error}")
        case lmdb.LockError():
            return LogInUseError(place, _LOCK_EXPLANATION)
        case lmdb.MemoryError():
            return AddressSpaceError(place, "not enough memory")
    return _translate_errno(path, error)


def _translate_errno(path: Path, error: lmdb.Error) -> EventStoreError:
    place = str(path)
    match _errno(error):
        case _ if _is_disk_full(path, error):
            return DiskFullError(place, "no space left on the device")
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return LogPermissionError(place, "permission denied")
        case errno.EAGAIN | errno.EBUSY:
            return LogInUseError(place, _LOCK_EXPLANATION)
        case _ if "already open in this process" in str(error):
            return LogInUseError(place, "this process has it open by other means than this package")
    return LogUnavailableError(place, str(error))


def _check_length(path: Path) -> None:
    """A file shorter than its meta page says is SIGBUS as soon as a missing page is touched. Pages that were given out
    and dropped within one transaction may be missing at the end; only the checker can tell those.
    """
    data = path / DATA_FILE
    try:
        if data.stat().st_size >= check_data_file(path):
            return
        cut = data.stat().st_size < check_data_file(path)  # and not a writer caught in between
    except OSError as error:
        raise translate_os_error(path, error) from error
    if cut:
        problems = check_structure(path)
        if problems:
            raise CorruptLogError(str(path), f"{DATA_FILE} is truncated: {problems[0]}")


def check_identity(path: Path) -> None:
    """Raise `NotALogError` for a file of another program, before anything is put beside it.

    Without `refold.lock` nobody has the log open (it is a copy) or it is none; so this may look without LMDB's lock.
    """
    _check_length(path)
    if (path / LOCK_FILE).exists():
        return
    try:
        with (
            lmdb.open(os.fspath(path), create=False, readonly=True, lock=False, lib_version=_BUNDLED_ENGINE) as env,
            env.begin() as transaction,
        ):
            unpack_identity(transaction.get(IDENTITY, b""))
    except lmdb.Error as error:
        raise _translate(path, error) from error
    except DamagedRecord as error:
        raise NotALogError(str(path), f"{_FOREIGN}: {error}") from error


def create_environment(path: Path, fill: Callable[[Any], None]) -> None:
    """Make the data file in the existing directory *path*, with what *fill* puts into its first transaction."""
    reserve_lock_file(path)
    try:
        size = 2**24  # enough for one page or two; every open asks for its own
        env = lmdb.open(os.fspath(path), map_size=size, create=False, mode=0o700, lib_version=_BUNDLED_ENGINE)
    except lmdb.Error as error:
        raise _creation_error(path, error) from error
    try:
        with env.begin(write=True) as transaction:
            fill(transaction)
    except lmdb.Error as error:
        raise _creation_error(path, error) from error
    finally:
        env.close()


def check_structure(path: Path) -> list[str]:
    """What py-lmdb's own checker finds wrong with the pages of the data file; it never hands the file to LMDB."""
    try:
        return list(lmdb.verify.verify(os.fspath(path / DATA_FILE), subdir=False))  # type: ignore[no-untyped-call]
    except lmdb.verify.VerifyError as error:
        return [str(error)]
    except (IndexError, ValueError, OverflowError) as error:
        return [f"the checker cannot follow the pages: {error!r}"]


def _creation_error(path: Path, error: lmdb.Error) -> EventStoreError:
    if _is_disk_full(path, error):
        return DiskFullError(str(path), "no space left on the device")
    if _is_out_of_address_space(error):
        return AddressSpaceError(str(path), "the process may not map it, raise its address space limit (ulimit -v)")
    return LogUnavailableError(str(path), f"cannot be created: {error}")


def _is_disk_full(path: Path, error: lmdb.Error) -> bool:
    """LMDB says EIO when the disk took a part of a write, as it does when it fills up in the middle of it."""
    if _errno(error) != errno.EIO:
        return _errno(error) in {errno.ENOSPC, errno.EDQUOT}
    system = os.statvfs(path)
    return system.f_bavail * system.f_frsize < _NO_ROOM_BYTES


def _is_out_of_address_space(error: lmdb.Error) -> bool:
    return isinstance(error, lmdb.MemoryError) or _errno(error) == errno.ENOMEM


def _errno(error: lmdb.Error) -> int:
    return errno.ENOSPC if isinstance(error, lmdb.DiskError) else int(getattr(error, "code", 0) or 0)
