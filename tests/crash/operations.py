"""What a process did to the files below one directory, and what it acknowledged: calls in, operations out.

Files and directories are nodes with numbers, for a name can move from one to another while a descriptor stays: `ROOT`
is the watched directory, empty when the trace begins. A descriptor's offset is followed through `lseek` and `writev`
(LMDB's pages travel so), and a write through an O_DSYNC descriptor (LMDB's meta page) is marked as synced by itself.

Anything that would change the files and is not modelled here raises `TraceError`.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from tests.crash.syscalls import NEVER, Call, TraceError, string

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

ROOT: Final = 0
_ACKNOWLEDGEMENTS: Final = 1  # standard output

# Named here: a file that LMDB maps writable, whose content nothing survives by, for whoever opens it alone resets it.
MAPPED_FILE: Final = "lock.mdb"


class Linked(msgspec.Struct, frozen=True, gc=False):
    """Directory *parent* got the entry *name* for the new *node*."""

    begin: int
    end: int
    parent: int
    name: str
    node: int
    directory: bool


class Unlinked(msgspec.Struct, frozen=True, gc=False):
    """Directory *parent* lost the entry *name*."""

    begin: int
    end: int
    parent: int
    name: str


class Renamed(msgspec.Struct, frozen=True, gc=False):
    """*node* moved from one entry to another, replacing what was there."""

    begin: int
    end: int
    parent: int
    name: str
    new_parent: int
    new_name: str
    node: int


class Written(msgspec.Struct, frozen=True, gc=False):
    """Bytes went into a file; *through*: to the disk, by the time the call returned."""

    begin: int
    end: int
    node: int
    offset: int
    data: bytes
    through: bool


class Truncated(msgspec.Struct, frozen=True, gc=False):
    """A file got this size."""

    begin: int
    end: int
    node: int
    size: int


class Synced(msgspec.Struct, frozen=True, gc=False):
    """What had been done to the node before *begin* is on the disk at *end*: a file's bytes, a directory's entries."""

    begin: int
    end: int
    node: int


class Acknowledged(msgspec.Struct, frozen=True, gc=False):
    """The process said something to the outside world."""

    begin: int
    end: int
    data: bytes


Operation: TypeAlias = Linked | Unlinked | Renamed | Written | Truncated | Synced | Acknowledged


class _Opened:
    """An open file description: descriptors made by `dup` share it."""

    def __init__(self, node: int, flags: str) -> None:
        self.node = node
        self.through = "SYNC" in flags  # O_DSYNC and O_SYNC
        self.appends = "O_APPEND" in flags
        self.offset = 0


_OPEN = re.compile(r'(AT_FDCWD|\d+)<([^>]*)>, "([^"]*)", ([A-Z_|]+)(?:, 0\d*)?')
_AT = r'(?:AT_FDCWD|\d+)<([^>]*)>, "([^"]*)"'
_AT_PATH = re.compile(rf"{_AT}(?:, .*)?")
_AT_TWO_PATHS = re.compile(rf"{_AT}, {_AT}(?:, (.*))?")
_PATH = re.compile(r'"([^"]*)"(?:, .*)?')
_TWO_PATHS = re.compile(r'"([^"]*)", "([^"]*)"')
_DESCRIPTOR = re.compile(r"(\d+)(?:<[^>]*>)?(?:, (.*))?", re.DOTALL)
_ONE_BUFFER = re.compile(r'"([^"]*)"(\.\.\.)?, \d+(?:, (\d+))?')
_BUFFERS = re.compile(r"\[(.*)\], \d+(?:, (\d+))?(?:, 0)?", re.DOTALL)
_BUFFER = re.compile(r'\{iov_base="([^"]*)"(\.\.\.)?, iov_len=\d+\}')
_MAP = re.compile(r"[^,]+, \d+, ([A-Z_|]+), ([A-Z_|0-9a-z<]+), (\d+)(?:<[^>]*>)?, .*")


class _Files:
    """The watched files as the process sees them, and the operations so far."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._entries: dict[int, dict[str, int]] = {ROOT: {}}  # of directories
        self._sizes: dict[int, int] = {}  # of files
        self._opened: dict[int, _Opened] = {}
        self._nodes = 1
        self.operations: list[Operation] = []

    def take(self, call: Call) -> None:  # noqa: C901, PLR0912 - one arm per kind of call
        if (call.result is None and call.end != NEVER) or (call.result is not None and call.result < 0):
            return
        match call.name:
            case "openat":
                self._open(call)
            case "write" | "writev" | "pwrite64" | "pwritev" | "pwritev2":
                self._write(call)
            case "lseek":
                if opened := self._descriptor(call)[0]:
                    opened.offset = call.result or 0
            case "fsync" | "fdatasync":
                if opened := self._descriptor(call)[0]:
                    self.operations.append(Synced(call.begin, call.end, opened.node))
            case "ftruncate":
                self._truncate(call)
            case "fallocate":
                self._allocate(call)
            case "close":
                self._opened.pop(_first_number(call), None)
            case "dup" | "dup2" | "dup3" | "fcntl":
                self._duplicate(call)
            case "mkdir" | "mkdirat":
                if place := self._place(*_path(call)):
                    self._link(call, place, directory=True)
            case "unlink" | "unlinkat" | "rmdir":
                self._unlink(call)
            case "rename" | "renameat" | "renameat2":
                self._rename(call)
            case "mmap":
                self._map(call)
            case "fork" | "vfork" | "clone" | "clone3":
                if self._opened and "CLONE_THREAD" not in call.arguments:
                    raise TraceError(f"line {call.begin // 2}: a second process shares the watched files")
            case _:
                self._refuse(call)

    def _open(self, call: Call) -> None:
        match = _matched(_OPEN, call)
        directory, path, flags = string(match[2]), string(match[3]), match[4]
        if (place := self._place(directory, path)) is None:
            return
        parent, name = place
        node = self._entries[parent].get(name) if name else parent
        if node is None:
            if "O_CREAT" not in flags:
                raise TraceError(f"line {call.begin // 2}: {path!r} was there before the trace began")
            node = self._link(call, place, directory=False)
        if "O_TRUNC" in flags and self._sizes[node]:
            self._sizes[node] = 0
            self.operations.append(Truncated(call.begin, call.end, node, 0))
        assert call.result is not None
        self._opened[call.result] = _Opened(node, flags)

    def _write(self, call: Call) -> None:
        opened, rest = self._descriptor(call)
        if opened is None:
            if _first_number(call) == _ACKNOWLEDGEMENTS:
                self.operations.append(Acknowledged(call.begin, call.end, _data(call, rest)[0]))
            return
        data, offset = _data(call, rest)
        data = data if call.result is None else data[: call.result]
        if offset is None:
            offset = self._sizes[opened.node] if opened.appends else opened.offset
            opened.offset = offset + len(data)
        self._sizes[opened.node] = max(self._sizes[opened.node], offset + len(data))
        self.operations.append(Written(call.begin, call.end, opened.node, offset, data, opened.through))

    def _truncate(self, call: Call) -> None:
        opened, rest = self._descriptor(call)
        if opened is not None:
            self._sizes[opened.node] = int(rest)
            self.operations.append(Truncated(call.begin, call.end, opened.node, int(rest)))

    def _allocate(self, call: Call) -> None:
        """What posix_fallocate asks for: mode 0, from the beginning. The file gets longer, and reads as zeros."""
        opened, rest = self._descriptor(call)
        if opened is None:
            return
        mode, offset, length = rest.split(", ")
        if (mode, offset) != ("0", "0"):
            self._refuse(call)
        size = max(int(length), self._sizes.get(opened.node, 0))
        self._sizes[opened.node] = size
        self.operations.append(Truncated(call.begin, call.end, opened.node, size))

    def _duplicate(self, call: Call) -> None:
        opened, rest = self._descriptor(call)
        if call.name == "fcntl" and not rest.startswith("F_DUPFD"):
            return
        assert call.result is not None
        if opened is None:
            self._opened.pop(call.result, None)
        else:
            self._opened[call.result] = opened

    def _link(self, call: Call, place: tuple[int, str], *, directory: bool) -> int:
        node, self._nodes = self._nodes, self._nodes + 1
        if directory:
            self._entries[node] = {}
        else:
            self._sizes[node] = 0
        self._entries[place[0]][place[1]] = node
        self.operations.append(Linked(call.begin, call.end, *place, node, directory))
        return node

    def _unlink(self, call: Call) -> None:
        if place := self._place(*_path(call)):
            del self._entries[place[0]][place[1]]
            self.operations.append(Unlinked(call.begin, call.end, *place))

    def _rename(self, call: Call) -> None:
        if call.name == "rename":
            match = _matched(_TWO_PATHS, call)
            old, new = (b"", string(match[1])), (b"", string(match[2]))
        else:
            match = _matched(_AT_TWO_PATHS, call)
            old, new = (string(match[1]), string(match[2])), (string(match[3]), string(match[4]))
            if match[5] and "EXCHANGE" in match[5]:
                self._refuse(call)
        place, new_place = self._place(*old), self._place(*new)
        if place is None and new_place is None:
            return
        if place is None or new_place is None:
            raise TraceError(f"line {call.begin // 2}: a rename into or out of the watched directory")
        node = self._entries[place[0]].pop(place[1])
        self._entries[new_place[0]][new_place[1]] = node
        self.operations.append(Renamed(call.begin, call.end, *place, *new_place, node))

    def _map(self, call: Call) -> None:
        """A file mapped writable changes unseen."""
        if (match := _MAP.fullmatch(call.arguments)) is None or (opened := self._opened.get(int(match[3]))) is None:
            return
        names = {name for entries in self._entries.values() for name, node in entries.items() if node == opened.node}
        if "PROT_WRITE" in match[1] and "MAP_SHARED" in match[2] and names != {MAPPED_FILE}:
            raise TraceError(f"line {call.begin // 2}: {names} is mapped for writing, its writes cannot be seen")

    def _refuse(self, call: Call) -> None:
        """Calls without a model may touch anything but the watched files."""
        root = "".join(f"\\x{byte:02x}" for byte in os.fsencode(self._root))
        touched = any(self._opened.get(int(number)) for number in re.findall(r"\b(\d+)<", call.arguments))
        if touched or root in call.arguments or call.name in {"sync", "io_uring_setup", "io_submit"}:
            raise TraceError(f"line {call.begin // 2}: {call.name} on the watched files is not modelled")

    def _descriptor(self, call: Call) -> tuple[_Opened | None, str]:
        match = _matched(_DESCRIPTOR, call)
        return self._opened.get(int(match[1])), match[2] or ""

    def _place(self, directory: bytes, path: bytes) -> tuple[int, str] | None:
        """The directory node and the name in it; the name is empty for the root itself. None: not watched."""
        if not directory and not path.startswith(b"/"):
            return None  # the calls without a directory argument: the tests use absolute paths
        full = os.path.normpath(os.path.join(os.fsdecode(directory), os.fsdecode(path)))  # noqa: PTH118 - as text
        if full == self._root:
            return ROOT, ""
        if not full.startswith(self._root + "/"):
            return None
        *parents, name = full[len(self._root) + 1 :].split("/")
        node = ROOT
        for parent in parents:
            node = self._entries[node][parent]
        return node, name


def watch(calls: Iterable[Call], root: Path) -> list[Operation]:
    """The operations on everything below *root* (an absolute, resolved path), and the acknowledgements, in the order in
    which they ended. Raises `TraceError` for what is not modelled.
    """
    files = _Files(str(root))
    for call in calls:
        files.take(call)
    return files.operations


def _data(call: Call, rest: str) -> tuple[bytes, int | None]:
    """The bytes of a write, and its offset if it names one."""
    if call.name in {"write", "pwrite64"}:
        match = _matched(_ONE_BUFFER, call, rest)
        pieces, offset = [(match[1], match[2])], match[3]
    else:
        match = _matched(_BUFFERS, call, rest)
        pieces, offset = _BUFFER.findall(match[1]), match[2]
    if any(cut for _, cut in pieces):
        raise TraceError(f"line {call.begin // 2}: strace cut the data off")
    return b"".join(string(piece) for piece, _ in pieces), None if offset is None else int(offset)


def _path(call: Call) -> tuple[bytes, bytes]:
    if call.name.endswith("at"):
        match = _matched(_AT_PATH, call)
        return string(match[1]), string(match[2])
    return b"", string(_matched(_PATH, call)[1])


def _first_number(call: Call) -> int:
    return int(_matched(_DESCRIPTOR, call)[1])


def _matched(pattern: re.Pattern[str], call: Call, text: str | None = None) -> re.Match[str]:
    match = pattern.fullmatch(call.arguments if text is None else text)
    if match is None:
        raise TraceError(f"line {call.begin // 2}: {call.name}({call.arguments[:200]}) is not understood")
    return match
