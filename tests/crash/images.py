"""What a power cut could leave on the disk: operations and a moment in, directory contents out.

The model, stricter than any one file system, so that what survives it does not lean on the habits of ext4:

1. What a sync covers stays: the writes to a file that had returned before an fsync or fdatasync of it was entered, once
   that has returned; a write through an O_DSYNC descriptor, once it has returned; a directory's entries likewise, by
   an fsync of the directory. Syncing a file does not save its name.
2. Every other write is kept, lost or torn, whatever happened to those before and after it. Torn: any set of its
   512-byte sectors, or a prefix. A sector goes to the disk as the page cache held it after that write.
3. A lost write may have grown the file all the same: then there are zeros.
4. A change of a directory's entries is kept or lost as a whole; what no entry leads to is gone. A rename from one
   directory to another is two changes, and may leave both names behind.
5. A file that was mapped writable (LMDB's lock file) may hold anything it ever held.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, assert_never

import msgspec

from tests.crash.operations import (
    MAPPED_FILE,
    ROOT,
    Acknowledged,
    Linked,
    Operation,
    Renamed,
    Synced,
    Truncated,
    Unlinked,
    Written,
)
from tests.crash.syscalls import NEVER

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Sequence
    from pathlib import Path

SECTOR_BYTES: Final = 512

Tree: TypeAlias = dict[str, "Tree | bytes"]


class Image(msgspec.Struct, frozen=True):
    """A directory as the next boot finds it, and everything that had been acknowledged by then."""

    tree: Tree
    acknowledged: tuple[bytes, ...]

    def digest(self) -> bytes:
        """Equal for equal images."""
        return hashlib.sha256(_flatten(self.tree) + b"".join(self.acknowledged)).digest()

    def write(self, directory: Path) -> None:
        """Put it into *directory*, which it creates."""
        _write_tree(self.tree, directory)


class _Change(NamedTuple):
    """An operation, and the moment from which on a power cut cannot undo it."""

    operation: Operation
    durable: int
    sectors: dict[int, bytes]  # of a write: each sector it touched, as the cache held it afterwards
    size: int  # of a write: the file's, afterwards
    left: int  # of a rename: as `durable`, for the disappearance of the old name


class History:
    """Everything that happened, ready to be cut off anywhere. *mapped*: what the mapped file held in the end."""

    def __init__(self, operations: Iterable[Operation], *, mapped: bytes = b"") -> None:
        ordered = sorted(operations, key=lambda operation: (operation.end, operation.begin))
        syncs = [operation for operation in ordered if isinstance(operation, Synced)]
        self._changes = [_Change(o, _durable(o, syncs), *cached, _left(o, syncs)) for o, cached in _cache(ordered)]
        self._mapped = mapped

    def cuts(self) -> list[int]:
        """The moments worth a look: just after each operation was entered, and just after it had returned."""
        moments = {c.operation.begin for c in self._changes} | {c.operation.end for c in self._changes}
        return [moment + 1 for moment in sorted(moments - {NEVER})]

    def image(self, cut: int, choices: random.Random) -> Image:
        """What a power cut before the moment *cut* could leave, the rest being left to *choices*."""
        disk = _Disk(choices)
        for change in self._changes:
            if change.operation.begin < cut:
                disk.take(change, cut)
        return disk.image(choices.choice((None, b"", self._mapped)))


class _Disk:
    """What has reached the disk, as *choices* will have it."""

    def __init__(self, choices: random.Random) -> None:
        self._choices = choices
        self._keep = choices.choice((0.0, 0.1, 0.5, 0.9, 1.0))  # the share of unsynced changes that is kept
        self._files: dict[int, bytearray] = {}
        self._directories: dict[int, dict[str, int]] = {ROOT: {}}
        self._acknowledged: list[bytes] = []

    def take(self, change: _Change, cut: int) -> None:  # noqa: C901 - one arm per kind of operation
        durable = change.durable < cut
        match change.operation:
            case Written(node=node):
                self._write(self._files.setdefault(node, bytearray()), change, durable=durable)
            case Truncated(node=node, size=size):
                if durable or self._keeps():
                    _resize(self._files.setdefault(node, bytearray()), size)
            case Linked(parent=parent, name=name, node=node, directory=directory):
                if directory:
                    self._directories[node] = {}
                if durable or self._keeps():
                    self._directories[parent][name] = node
            case Unlinked(parent=parent, name=name):
                if durable or self._keeps():  # the entry itself may never have reached the disk
                    self._directories[parent].pop(name, None)
            case Renamed() as renamed:
                self._rename(renamed, arrived=durable or self._keeps(), left=change.left < cut)
            case Acknowledged(data=data):
                self._acknowledged.append(data)
            case Synced():
                pass
            case _ as never:
                assert_never(never)

    def image(self, mapped: bytes | None) -> Image:
        return Image(self._tree(ROOT, mapped), tuple(self._acknowledged))

    def _keeps(self) -> bool:
        return self._choices.random() < self._keep

    def _write(self, content: bytearray, change: _Change, *, durable: bool) -> None:
        sectors = list(change.sectors)
        if not durable:
            if not self._keeps():  # where nothing or all is to be kept, few are torn
                torn = self._choices.random() < (0.5 if 0.0 < self._keep < 1.0 else 0.1)
                sectors = _some(sectors, self._choices) if torn else []
            if self._choices.random() < 0.5:
                _resize(content, max(len(content), change.size))
        for at in sectors:
            sector = change.sectors[at]
            _resize(content, max(len(content), at + len(sector)))
            content[at : at + len(sector)] = sector

    def _rename(self, renamed: Renamed, *, arrived: bool, left: bool) -> None:
        old = self._directories[renamed.parent]
        if not left and arrived:
            left = renamed.parent == renamed.new_parent or self._choices.random() < 0.5
        if left and old.get(renamed.name) == renamed.node:
            del old[renamed.name]
        if arrived:
            self._directories[renamed.new_parent][renamed.new_name] = renamed.node

    def _tree(self, node: int, mapped: bytes | None) -> Tree:
        tree: Tree = {}
        for name, child in sorted(self._directories[node].items()):
            if child in self._directories:
                tree[name] = self._tree(child, mapped)
            elif name == MAPPED_FILE and mapped is not None:
                tree[name] = mapped
            else:
                tree[name] = bytes(self._files.get(child, b""))
        return tree


def _durable(operation: Operation, syncs: Sequence[Synced]) -> int:
    match operation:
        case Written(through=True):
            return operation.end
        case Written() | Truncated():
            return _synced(operation.node, operation.end, syncs)
        case Linked() | Unlinked():
            return _synced(operation.parent, operation.end, syncs)
        case Renamed():
            return _synced(operation.new_parent, operation.end, syncs)
        case Synced() | Acknowledged():
            return operation.end


def _left(operation: Operation, syncs: Sequence[Synced]) -> int:
    return _synced(operation.parent, operation.end, syncs) if isinstance(operation, Renamed) else NEVER


def _synced(node: int, end: int, syncs: Sequence[Synced]) -> int:
    return min((sync.end for sync in syncs if sync.node == node and sync.begin > end), default=NEVER)


def _cache(operations: Sequence[Operation]) -> Iterable[tuple[Operation, tuple[dict[int, bytes], int]]]:
    """Each operation with the sectors that it left in the page cache, and the size of its file."""
    cache: dict[int, bytearray] = {}
    for operation in operations:
        match operation:
            case Written(node=node, offset=offset, data=data):
                content = cache.setdefault(node, bytearray())
                end = offset + len(data)
                _resize(content, max(len(content), end))
                content[offset:end] = data
                first = offset - offset % SECTOR_BYTES
                sectors = {at: bytes(content[at : at + SECTOR_BYTES]) for at in range(first, end, SECTOR_BYTES)}
                yield operation, (sectors, end)
            case Truncated(node=node, size=size):
                _resize(cache.setdefault(node, bytearray()), size)
                yield operation, ({}, size)
            case _:
                yield operation, ({}, 0)


def _some(sectors: list[int], choices: random.Random) -> list[int]:
    if choices.random() < 0.5:
        return sectors[: choices.randrange(len(sectors) + 1)]
    return [at for at in sectors if choices.random() < 0.5]


def _resize(content: bytearray, size: int) -> None:
    if len(content) < size:
        content.extend(bytes(size - len(content)))
    else:
        del content[size:]


def _flatten(tree: Tree) -> bytes:
    hashed = hashlib.sha256()
    for name, content in tree.items():
        inner = content if isinstance(content, bytes) else b"/" + _flatten(content)
        hashed.update(hashlib.sha256(name.encode()).digest() + hashlib.sha256(inner).digest())
    return hashed.digest()


def _write_tree(tree: Tree, directory: Path) -> None:
    directory.mkdir(mode=0o700)
    for name, content in tree.items():
        if isinstance(content, bytes):
            (directory / name).write_bytes(content)
        else:
            _write_tree(content, directory / name)
