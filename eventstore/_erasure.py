"""Erasure of deleted streams, in bounded batches that a crash can come between.

A deleted stream keeps an erasure row: the newest of its own events that is left, and whether more is to go. What is
left is what its children need. A child's row under its parent says up to which version it needs the parent: a living
child its fork point, a deleted one only what its own children still need. So the last fork to go frees the whole
prefix: a stream that needs less of its parent lowers its row, and wakes the parent's erasure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from eventstore import _layout as layout
from eventstore._layout import Erasure
from eventstore._lineage import LostRecord, get_event, get_facts, get_record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventstore._lmdb import Transaction

BATCH_EVENTS: Final = 1_000
BATCH_BYTES: Final = 32 * 2**20


class Step(NamedTuple):
    """What one batch did: events erased, and whether another batch is owed."""

    erased: int
    more: bool


class _Origin(NamedTuple):
    """Where a stream was forked: parent's number (0: it is no fork) and version; the position of its first record."""

    parent: int
    at: int
    created: int


def is_owed(transaction: Transaction) -> bool:
    """Whether any deleted stream has events to erase."""
    return _first_pending(transaction) is not None


def erase_some(transaction: Transaction) -> Step | None:
    """Erase up to a batch of events of one deleted stream; None if nothing is owed, and nothing was written."""
    number = _first_pending(transaction)
    if number is None:
        return None
    erased = _erase_stream(transaction, number)
    return Step(erased, _first_pending(transaction) is not None)


def _first_pending(transaction: Transaction) -> int | None:
    for key, value in _rows(transaction, layout.ERASURE):
        if layout.unpack_erasure(value).pending:
            return layout.key_stream(key)
    return None


def _rows(transaction: Transaction, prefix: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """The rows whose key begins with *prefix*; nothing may be written while it is consumed."""
    cursor = transaction.cursor()
    if not cursor.set_range(prefix):
        return
    for key, value in cursor:
        if bytes(key[: len(prefix)]) != prefix:
            return
        yield bytes(key), value


def needed_version(transaction: Transaction, number: int) -> int | None:
    """Up to which version the children of a stream need it; None if it has none."""
    holds = [layout.unpack_number(value) for _, value in _rows(transaction, layout.children_prefix(number))]
    return max(holds, default=None)


def _erase_stream(transaction: Transaction, number: int) -> int:
    origin = _origin(transaction, number)
    needed = needed_version(transaction, number)
    floor = max(needed or 0, origin.at)
    left = layout.unpack_erasure(_row(transaction, layout.erasure_key(number)))
    position, version, erased = _erase_down(transaction, number, left, floor)
    more = version > floor
    if more or version > origin.at or needed is not None:
        row = Erasure(position, version, pending=more)
        transaction.put(layout.erasure_key(number), layout.pack_erasure(row))
    else:
        transaction.delete(layout.erasure_key(number))
        transaction.delete(layout.activity_key(origin.created, number))
    if not more and version == origin.at and origin.parent:
        _need_less(transaction, number, origin, needed)
    return erased


def _erase_down(transaction: Transaction, number: int, left: Erasure, floor: int) -> tuple[int, int, int]:
    """Erase from the newest event left down to *floor* (exclusive), at most a batch."""
    position, version = left.position, left.version
    erased = size = 0
    while version > floor and erased < BATCH_EVENTS and size < BATCH_BYTES:
        header, value = get_event(transaction, position, version)
        size += len(value)
        transaction.delete(layout.log_key(position))
        transaction.delete(layout.activity_key(position, number))
        position, version = header.previous, version - 1
        erased += 1
    return position, version, erased


def _need_less(transaction: Transaction, number: int, origin: _Origin, needed: int | None) -> None:
    """Tell the parent that this stream, of which nothing is left, needs only *needed* of it; None: nothing."""
    key = layout.child_key(origin.parent, number)
    held = transaction.get(key)
    if held is None or (needed is not None and needed >= layout.unpack_number(held)):
        return
    if needed is None:
        transaction.delete(key)
    else:
        transaction.put(key, layout.pack_number(needed))
    parent = transaction.get(layout.erasure_key(origin.parent))
    if parent is not None:
        row = layout.unpack_erasure(parent)._replace(pending=True)
        transaction.put(layout.erasure_key(origin.parent), layout.pack_erasure(row))


def _origin(transaction: Transaction, number: int) -> _Origin:
    created = get_facts(transaction, number).created
    try:
        header, value = get_record(transaction, created)
    except LostRecord:
        return _Origin(0, 0, created)  # its first event, erased: no fork, for a fork's marker stays
    if header.kind != layout.FORKED:
        return _Origin(0, 0, created)
    return _Origin(layout.parent_of(value), header.version, created)


def _row(transaction: Transaction, key: bytes) -> memoryview:
    value = transaction.get(key)
    assert value is not None, "a pending erasure has a row"
    return value
