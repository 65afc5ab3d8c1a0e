"""The files of a log, before LMDB sees them: what is at a path, who holds it, and how a new log comes to be.

A log is a directory (0700) with `data.mdb` and `lock.mdb` (LMDB's, 0600) and `refold.lock`, on which every open log
holds a shared `flock`; what replaces `data.mdb` takes it exclusively, for a file replaced under another process would
lose what that process acknowledges. Who writes also holds the byte of its durability in that file, and nobody may hold
the other's meanwhile (see `SharedLock.claim`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import struct
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from eventstore.errors import (
    CorruptLogError,
    DiskFullError,
    EventStoreError,
    InvalidPathError,
    LogInUseError,
    LogNotFoundError,
    LogPermissionError,
    LogUnavailableError,
    NetworkFileSystemError,
    NotALogError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DATA_FILE: Final = "data.mdb"
LOCK_FILE: Final = "refold.lock"
LMDB_LOCK_FILE: Final = "lock.mdb"
_LMDB_LOCK_BYTES: Final = 2**16 + 2**12  # 64 bytes for each of 1,024 readers, and a header
_NETWORK: Final = {
    "9p", "afs", "beegfs", "ceph", "cifs", "fuse.sshfs", "glusterfs", "fuse.glusterfs", "gpfs", "lustre", "ncpfs",
    "nfs", "nfs4", "ocfs2", "orangefs", "smb3", "smbfs", "virtiofs",
}  # fmt: skip
_BYTES: Final = {"disk": 0, "os": 1}  # of the lock file, that stand for a durability
# type, whence, start, length, process: a lock of Linux that belongs to the open file, and not to the process
_BYTE_LOCK: Final = struct.Struct("@hhqqi4x")
_OFD_GETLK: Final = 36  # Linux's numbers for them: other systems' `fcntl` has no such names
_OFD_SETLK: Final = 37
_HAS_OPEN_FILE_LOCKS: Final = sys.platform == "linux"
_PATIENCE_SECONDS: Final = 0.5  # how long an open waits for a compaction, or for one who looks for abandoned files
_META_MAGIC: Final = 0xBEEFC0DE
_META_FLAG: Final = 0x08
_DATA_VERSION: Final = 1  # LMDB 0.9; LMDB 1.0 writes 3
_PAGE_HEADER: Final = 16
# magic, version, address, map size; page size and the rest of the first MDB_db; the second; last page, transaction id
_META: Final = struct.Struct("=IIQQ I44s 48s QQ".replace(" ", ""))


def resolve_path(path: str | os.PathLike[str]) -> Path:
    """The absolute path, without links. Raises `InvalidPathError` for what no file can be called."""
    try:
        resolved = Path(path).expanduser().resolve()
        os.fsencode(resolved)
    except (RuntimeError, ValueError) as error:  # a circle of links, or no home; a NUL, or a lone surrogate
        raise InvalidPathError(ascii(os.fspath(path)), str(error)) from error
    except OSError as error:
        raise translate_os_error(Path(path), error) from error
    return resolved


def find_log(path: Path) -> bool:
    """Whether there is a data file to open; False if there is nothing, or an empty directory.

    Raises `NotALogError` for anything else, `LogPermissionError`, `InvalidPathError`.
    """
    try:
        if not path.exists():
            return False
        if not path.is_dir():
            raise NotALogError(str(path), "it is not a directory")
        if (path / DATA_FILE).exists():
            return True
        if any(path.iterdir()):
            raise NotALogError(str(path), f"a directory with other files and no {DATA_FILE}")
    except OSError as error:
        raise translate_os_error(path, error) from error
    return False


def create_log(path: Path, fill: Callable[[Path], None]) -> None:
    """Put a new log at *path*, complete or not at all: built in a sibling directory by *fill*, synced, renamed.

    A power cut during the first open could otherwise leave a file that LMDB refuses. If somebody else was faster,
    theirs stays. Raises `LogNotFoundError` if the parent directory is missing, `NetworkFileSystemError`,
    `LogPermissionError`, `LogInUseError` for a mount point.
    """
    try:
        if not path.parent.is_dir():
            raise LogNotFoundError(str(path), "its parent directory does not exist")
        check_file_system(path.parent)
        with nursery_of(path) as nursery:
            fill(nursery)
            (nursery / LMDB_LOCK_FILE).unlink(missing_ok=True)
            for name in (nursery / DATA_FILE, nursery):
                sync_path(name)
            nursery.rename(path)
        sync_path(path.parent)
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise translate_os_error(path, error) from error


@contextlib.contextmanager
def nursery_of(path: Path) -> Iterator[Path]:
    """A new directory (0700) beside *path*, for what is going to be *path*; it is removed in the end, unless it was
    renamed. Those of who died are removed first.
    """
    _remove_abandoned(path)
    nursery = path.parent / f".{path.name}.new-{os.urandom(8).hex()}"
    nursery.mkdir(mode=0o700)
    try:
        with _hold_from_birth(nursery):
            yield nursery
    finally:
        remove_directory(nursery)


def make_parents(path: Path) -> None:
    """Make the missing directories above *path*, each durable when this returns. Raises `OSError`."""
    missing = [parent for parent in path.parents if not parent.exists()]
    for directory in reversed(missing):
        directory.mkdir(exist_ok=True)
        sync_path(directory.parent)


@contextlib.contextmanager
def _hold_from_birth(nursery: Path) -> Iterator[None]:
    """Hold the lock of a new directory. The file gets its name only when it is held, so that nobody takes the directory
    for an abandoned one.
    """
    lock = SharedLock(nursery, f"{LOCK_FILE}.new")
    try:
        (nursery / f"{LOCK_FILE}.new").rename(nursery / LOCK_FILE)
        yield
    finally:
        lock.close()


def _remove_abandoned(path: Path) -> None:
    """Remove what a creation or a backup of *path* left behind that died; a living one holds its lock file."""
    for nursery in path.parent.iterdir():
        if not re.fullmatch(rf"\.{re.escape(path.name)}\.new-[0-9a-f]{{16}}", nursery.name):
            continue
        # Without a lock file, its creator may be about to take it. It may have gone since it was listed, too; and what
        # cannot be removed is in nobody's way.
        with contextlib.suppress(EventStoreError, OSError), _hold_alone(nursery):
            remove_directory(nursery)


def reserve_lock_file(path: Path) -> None:
    """Make LMDB's own lock file with all its bytes. LMDB would make one of holes and map it, and on a full disk the
    first touch of a hole is SIGBUS. A file that is there is left alone: to close it would let go of locks on it. Who
    opened one that is removed again here, for want of room, is told by `Environment.check_in_place` before a commit.
    Raises `DiskFullError`, `LogPermissionError`.
    """
    file = path / LMDB_LOCK_FILE
    try:
        if file.exists() and file.stat().st_size:
            return
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, _LMDB_LOCK_BYTES)
        except OSError:
            file.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise translate_os_error(path, error) from error


def remove_directory(path: Path) -> None:
    """Remove a directory that was made for a while, if it is there; what cannot be removed is in nobody's way."""
    import shutil  # noqa: PLC0415  (it costs more to import than a log to open)

    shutil.rmtree(path, ignore_errors=True)


def sync_path(path: Path) -> None:
    """Flush a file, or the names in a directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def adopt_owner(path: Path, model: str) -> None:
    """Give the file at *path* owner, group and mode of that at *model*, durably. Raises `OSError`."""
    own, wanted = path.stat(), os.stat(model)  # noqa: PTH116  (a string, as the caller has it)
    if (own.st_uid, own.st_gid) != (wanted.st_uid, wanted.st_gid):
        os.chown(path, wanted.st_uid, wanted.st_gid)
    path.chmod(stat.S_IMODE(wanted.st_mode))  # last: a new owner takes some of its bits away
    sync_path(path)


def sync_name(path: Path) -> None:
    """Flush the name of a log that is there: its creator may have died, or not have come to it yet. It costs next to
    nothing where it was done before.
    """
    try:
        sync_path(path.parent)
    except PermissionError:
        return  # a parent that may be passed and not read
    except OSError as error:
        raise translate_os_error(path, error) from error


class SharedLock:
    """A `flock` on `refold.lock`, shared with every other process that has the log open.

    Raises `LogInUseError` if somebody holds it alone; `LogNotFoundError` if there is none and *create* is False.
    """

    def __init__(self, path: Path, name: str = LOCK_FILE, *, create: bool = True) -> None:
        self._path = path
        try:
            flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
            self._descriptor = os.open(path / name, flags, 0o600)
        except OSError as error:
            raise translate_os_error(path, error) from error
        if not self._take():
            os.close(self._descriptor)
            raise LogInUseError(str(path), "another process is replacing its files (compact)")

    def _take(self) -> bool:
        """A small log is compacted in a moment: worth a little patience."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not _try_lock(self._descriptor, fcntl.LOCK_SH):
            if time.monotonic() > deadline:
                return False
            time.sleep(_PATIENCE_SECONDS / 50)
        return True

    def claim(self, durability: str) -> None:
        """Say how durable this process makes its commits, and keep saying it. A commit that is not flushed can undo,
        in a power cut, those that others have flushed before it: so all who write must agree.

        Raises `LogInUseError` if somebody holds it otherwise. Linux only: elsewhere nothing is claimed.
        """
        own = _BYTES[durability]
        deadline = time.monotonic() + _PATIENCE_SECONDS / 5  # of two that look at once, each may see the other looking
        while _HAS_OPEN_FILE_LOCKS:
            _lock_byte(self._descriptor, own, fcntl.F_RDLCK)
            if not _is_byte_held(self._descriptor, 1 - own):
                return
            _lock_byte(self._descriptor, own, fcntl.F_UNLCK)
            if time.monotonic() > deadline:
                raise LogInUseError(str(self._path), "another process has it open with another durability")
            time.sleep(_PATIENCE_SECONDS / 50)

    @contextlib.contextmanager
    def exclusively(self) -> Iterator[None]:
        """Hold it alone. Raises `LogInUseError` if anybody else has the log open."""
        # Converting a flock lets go of it for a moment. If two converted at once, the one that fails could find that
        # the other had it alone meanwhile: so only who holds the lock of the directory may try.
        try:
            directory = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise translate_os_error(self._path, error) from error
        try:
            alone = _try_lock(directory, fcntl.LOCK_EX) and _try_lock(self._descriptor, fcntl.LOCK_EX)
            try:
                if not alone:
                    raise LogInUseError(str(self._path), "another process has it open")
                if file_identity(self._path / LOCK_FILE) != _identity_of(os.fstat(self._descriptor)):
                    raise LogInUseError(str(self._path), f"{LOCK_FILE} was removed: others may have it open")
                yield
            finally:
                fcntl.flock(self._descriptor, fcntl.LOCK_SH)
        finally:
            os.close(directory)

    def close(self) -> None:
        """Let go."""
        os.close(self._descriptor)


def _lock_byte(descriptor: int, byte: int, kind: int) -> None:
    """Share a byte, or let go of it: as nobody takes one alone, nobody is in the way."""
    with contextlib.suppress(OSError):  # a file system that knows no such locks
        fcntl.fcntl(descriptor, _OFD_SETLK, _BYTE_LOCK.pack(kind, os.SEEK_SET, byte, 1, 0))


def _is_byte_held(descriptor: int, byte: int) -> bool:
    """Whether somebody else holds it. Asked, and not tried: two who tried at once would be in each other's way."""
    question = _BYTE_LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    try:
        answer = fcntl.fcntl(descriptor, _OFD_GETLK, question)
    except OSError:
        return False  # as above
    return bool(_BYTE_LOCK.unpack(answer)[0] != fcntl.F_UNLCK)


FileIdentity: TypeAlias = tuple[int, int] | None


def file_identity(path: str | Path) -> FileIdentity:
    """What tells the file at *path* from any other, however it is called; None if there is none to be seen."""
    try:
        return _identity_of(os.stat(path))  # noqa: PTH116  (once per commit: a `Path` costs as much again)
    except OSError:
        return None


def directory_state(path: str) -> tuple[int, int, int] | None:
    """Equal as long as the directory at *path* is the same, and the names in it: identity, and when they last changed,
    in nanoseconds of the system's clock, which may stand still for some milliseconds.
    """
    try:
        status = os.stat(path)  # noqa: PTH116  (as above)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _identity_of(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _try_lock(descriptor: int, mode: int) -> bool:
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _hold_alone(path: Path) -> Iterator[None]:
    """Hold the lock of *path* alone, if there is one: to make it would keep whoever removes *path* from ending."""
    lock = SharedLock(path, create=False)
    try:
        with lock.exclusively():
            yield
    finally:
        lock.close()


def check_data_file(path: Path) -> int:
    """The number of bytes the data file must have, going by its newest meta page.

    LMDB maps the file without looking at its length: touching a page that was cut off is SIGBUS. Raises `NotALogError`
    for a file that is not LMDB's, `CorruptLogError` for broken meta pages.
    """
    data = path / DATA_FILE
    try:
        with data.open("rb") as file:
            first = _read_meta(file.read(_PAGE_HEADER + _META.size))
            if first is None:
                raise NotALogError(str(path), f"{DATA_FILE} is not an LMDB 0.9 data file of this kind of machine")
            file.seek(first[0])
            second = _read_meta(file.read(_PAGE_HEADER + _META.size))
    except OSError as error:
        raise translate_os_error(path, error) from error
    if second is None or second[0] != first[0]:
        raise CorruptLogError(str(path), "its second meta page is damaged")
    page_bytes, last_page, _ = max(first, second, key=lambda meta: meta[2])
    return page_bytes * (last_page + 1)


def _read_meta(page: bytes) -> tuple[int, int, int] | None:
    """Page size, last page and transaction id in the first bytes of a meta page; None if it is none."""
    if len(page) < _PAGE_HEADER + _META.size:
        return None
    flags = struct.unpack_from("=H", page, 10)[0]
    magic, version, _, _, page_bytes, _, _, last_page, transaction = _META.unpack_from(page, _PAGE_HEADER)
    sound = magic == _META_MAGIC and version == _DATA_VERSION and flags & _META_FLAG
    if not sound or not 512 <= page_bytes <= 65536 or page_bytes & (page_bytes - 1):  # noqa: PLR2004
        return None
    return page_bytes, last_page, transaction


def check_file_system(path: Path) -> None:
    """Refuse network file systems, where LMDB's locks and shared map do not work; warn of what may be one."""
    try:
        mounts = Path("/proc/self/mountinfo").read_bytes().decode(errors="replace")  # a mount point can have any name
    except OSError:
        return  # not Linux: nothing to ask
    kind = file_system_kind(mounts, path.resolve().stat().st_dev)
    if kind in _NETWORK:
        raise NetworkFileSystemError(str(path), f"it is on a network file system ({kind})")
    if kind is not None and kind.startswith("fuse"):
        warnings.warn(
            f"{path} is on {kind}: if that is a network file system, LMDB is not safe on it",
            RuntimeWarning,
            stacklevel=2,
        )


def file_system_kind(mountinfo: str, device: int) -> str | None:
    """The type of the file system with *device*, in the text of Linux's mountinfo; None if it is not there."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        if fields.split(" ")[2:3] == [wanted]:
            return rest.split(" ")[0]
    return None


def translate_os_error(path: Path, error: OSError) -> EventStoreError:
    """The error of ours that an `OSError` about the log at *path* means."""
    place, text = str(path), os.strerror(error.errno or 0).lower()
    match error.errno:
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return LogPermissionError(place, text)
        case errno.ENOSPC | errno.EDQUOT:
            return DiskFullError(place, "no space left on the device")
        case errno.EBUSY | errno.EXDEV:
            return LogInUseError(place, "it is a mount point and cannot be replaced: name a directory inside it")
        case errno.ENOENT | errno.ENOTDIR:
            return LogNotFoundError(place, text)
        case errno.ENAMETOOLONG | errno.ELOOP:
            return InvalidPathError(place, text)
    return LogUnavailableError(place, text)
