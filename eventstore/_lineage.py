"""Walking a lineage inside a transaction: to any version through jump pointers, and back from there.

Reading raises `DamagedRecord` (with the version it was looking for) and never follows a pointer that does not go
backwards, so that a damaged file cannot trap it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventstore._layout import (
    EVENT,
    FORKED,
    HEADER_BYTES,
    LOG,
    LOG_KEY_BYTES,
    DamagedRecord,
    Facts,
    Header,
    facts_key,
    head_key,
    jump_version,
    key_position,
    log_key,
    name_key,
    unpack_facts,
    unpack_head,
    unpack_header,
    unpack_numbers,
    unpack_pointers,
    unpack_stream,
    unpack_version,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventstore._lmdb import Transaction

Spine = tuple[int, int, "Spine | None"]
"""An event's version and position, and the spine of the event its jump pointer leads to: all that the next events'
pointers are made of. Skew-binary numbers keep it at O(log n) cells, shared between versions."""


class LostRecord(DamagedRecord):
    """A pointer leads to a place where there is no record: damage, or an erasure that came between."""


def last_position(transaction: Transaction) -> int:
    """The position of the newest record, which is the highest ever used; 0 in an empty log."""
    cursor = transaction.cursor()
    found = cursor.set_range(LOG) and cursor.last()
    while found and len(cursor.key()) != LOG_KEY_BYTES:  # no row of ours
        found = cursor.prev()
    return key_position(cursor.key()) if found and bytes(cursor.key()[:1]) == LOG else 0


def find_stream(transaction: Transaction, name: bytes) -> tuple[int, Facts] | None:
    """Number and facts of the stream called *name*; None: there never was one. Raises `DamagedRecord`."""
    value = transaction.get(name_key(name))
    for number in unpack_numbers(value) if value is not None else ():
        facts = get_facts(transaction, number)
        if facts.name == name:
            return number, facts
    return None


def get_facts(transaction: Transaction, stream: int) -> Facts:
    """The facts row of *stream*. Raises `DamagedRecord`."""
    value = transaction.get(facts_key(stream))
    if value is None:
        raise DamagedRecord(f"stream number {stream} has no facts row")
    return unpack_facts(value)


def get_head(transaction: Transaction, stream: int) -> tuple[int, int]:
    """Head position and version of a living *stream*. Raises `DamagedRecord`."""
    value = transaction.get(head_key(stream))
    if value is None:
        raise DamagedRecord(f"stream number {stream} has no heads row")
    return unpack_head(value)


def find_head(transaction: Transaction, stream: int, created: int) -> tuple[int, int]:
    """As `get_head`, having held the row, which has no checksum, against the record it leads to: an event of the
    stream's own, or the one it was forked from. *created*: the position of its first record. Raises `DamagedRecord`.
    """
    position, version = get_head(transaction, stream)
    value = transaction.get(log_key(position))
    if value is not None and len(value) >= HEADER_BYTES and _whose(value) == (stream, version):
        return position, version
    marker, _ = get_record(transaction, created)
    if marker.kind == FORKED and (marker.previous, marker.version) == (position, version):
        return position, version
    get_event(transaction, position, version)
    raise DamagedRecord("its head is an event of another stream", version=version, position=position)


def get_record(transaction: Transaction, position: int) -> tuple[Header, memoryview]:
    """The record at *position*. Raises `DamagedRecord`."""
    value = transaction.get(log_key(position))
    if value is None:
        raise LostRecord(f"there is no record at position {position}")
    return unpack_header(position, value), value


def get_event(transaction: Transaction, position: int, version: int) -> tuple[Header, memoryview]:
    """The record of the event with *version* at *position*. Raises `DamagedRecord`."""
    try:
        header, value = get_record(transaction, position)
    except DamagedRecord as error:
        error.version, error.position = version, position
        raise
    if header.kind != EVENT or header.version != version:
        reason = f"the record there is kind {header.kind}, version {header.version}"
        raise DamagedRecord(reason, version=version, position=position)
    if header.previous >= position or header.jump >= position:
        raise DamagedRecord("a pointer does not go back", version=version, position=position)
    return header, value


def find_position(transaction: Transaction, position: int, version: int, wanted: int) -> int:
    """The position of version *wanted* in the lineage that has *version* at *position*: O(log n) records.

    A damaged pointer can lead to an event of the same version in another stream. So where the way ends in another
    stream than it began, which an ancestor's event does too, it is gone again with checksums.
    """
    found = _go_down(_pointers, transaction, position, version, wanted)
    if found == position or not wanted:
        return found
    begins, ends = transaction.get(log_key(position)), transaction.get(log_key(found))
    whole = begins is not None and ends is not None and len(ends) >= HEADER_BYTES
    if whole and _whose(begins)[0] == _whose(ends)[0]:
        return found
    return _go_down(_checked_pointers, transaction, position, version, wanted)


def _go_down(
    pointers: Callable[[Transaction, int, int], tuple[int, int]],
    transaction: Transaction,
    position: int,
    version: int,
    wanted: int,
) -> int:
    while version > wanted:
        previous, leap = pointers(transaction, position, version)
        jump = jump_version(version)
        if jump >= wanted:
            position, version = leap, jump
        else:
            position, version = previous, version - 1
    return position


def _pointers(transaction: Transaction, position: int, version: int) -> tuple[int, int]:
    """Previous and jump pointer of an event, for a step on the way: the version is checked at each, so that a damaged
    pointer is found at the next one; the checksum is left to whoever reads the event at the end.
    """
    value = transaction.get(log_key(position))
    if value is None or len(value) < HEADER_BYTES or unpack_version(value) != version:
        get_event(transaction, position, version)
        raise DamagedRecord("there is no event", version=version, position=position)
    previous, jump = unpack_pointers(value)
    if previous >= position or jump >= position:
        raise DamagedRecord("a pointer does not go back", version=version, position=position)
    return previous, jump


def _checked_pointers(transaction: Transaction, position: int, version: int) -> tuple[int, int]:
    header, _ = get_event(transaction, position, version)
    return header.previous, header.jump


def _whose(value: memoryview | None) -> tuple[int, int]:
    """Stream number and version in the header of an event, unchecked."""
    assert value is not None
    return unpack_stream(value), unpack_version(value)


def first_behind(transaction: Transaction, position: int, version: int, behind: int) -> int:
    """The first version of the lineage whose position is greater than *behind*; *version* + 1 if there is none."""
    if position <= behind:
        return version + 1
    while True:  # *position* is behind *behind*; go down to the last one that is
        header, _ = get_event(transaction, position, version)
        if header.previous <= behind:
            return version
        if header.jump > behind:
            position, version = header.jump, jump_version(version)
        else:
            position, version = header.previous, version - 1


def load_spine(transaction: Transaction, position: int, version: int) -> Spine | None:
    """The spine of the event with *version* at *position*; None for version 0."""
    cells = []
    while version:
        header, _ = get_event(transaction, position, version)
        cells.append((version, position))
        position, version = header.jump, jump_version(version)
    spine: Spine | None = None
    for cell in reversed(cells):
        spine = (*cell, spine)
    return spine


def jump_of_next(spine: Spine | None) -> Spine | None:
    """Where the jump pointer of the event after *spine*'s leads."""
    if spine is None:
        return None
    version, _, jump = spine
    jumped = jump[0] if jump else 0
    twice = jump[2] if jump else None
    if jump and version - jumped == jumped - (twice[0] if twice else 0):
        return twice
    return spine
