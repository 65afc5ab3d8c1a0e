"""Which streams were active last: found in the log's newest records, and then in the activity table.

Places decide in both, and nothing else is read of a stream: the caller reads more of those that it returns.
"""

from __future__ import annotations

import struct
from itertools import islice
from typing import TYPE_CHECKING, Final

from eventstore import _layout as layout
from eventstore._layout import DamagedRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventstore._lmdb import Transaction

BEYOND: Final = 2**63  # no position is as great
_TAIL_RECORDS: Final = 256  # of the log that a listing looks at before it turns to the activity table


def newest_streams(transaction: Transaction, limit: int, before: int | None) -> tuple[list[int], bool]:
    """The numbers of the *limit* living streams with the newest activity, of those whose activity lies before position
    *before*; and whether there are more. Raises `DamagedRecord`.
    """
    numbers, before = _newest_in_tail(transaction, limit, BEYOND if before is None else before)
    more = False
    for bucket in _buckets(transaction, before):
        room = limit - len(numbers)
        there = _active_in(transaction, bucket, before)
        active = sorted(there, reverse=True) if room else list(islice(there, 1))
        numbers += [number for _, number in active[:room]]
        more = len(active) > room
        if more:
            break
    return numbers, more


def rows_of(
    transaction: Transaction, prefix: bytes, start: bytes | None = None
) -> Iterator[tuple[memoryview, memoryview]]:
    """Keys and values of the rows whose keys begin with *prefix*, in order, from *start* on."""
    cursor = transaction.cursor()
    if not cursor.set_range(start or prefix):
        return
    for key, value in cursor:
        if bytes(key[: len(prefix)]) != prefix:
            return
        yield key, value


def _newest_in_tail(transaction: Transaction, limit: int, before: int) -> tuple[list[int], int]:
    """Living streams whose newest activity is among the log's last records before position *before*, newest first; and
    the position before which the others' lies.
    """
    numbers: list[int] = []
    met: set[int] = set()
    cursor = transaction.cursor()
    found = cursor.prev() if cursor.set_range(layout.log_key(before)) else cursor.last()
    for _ in range(_TAIL_RECORDS):
        if not found or len(numbers) >= limit or bytes(cursor.key()[:1]) != layout.LOG:
            break
        here = layout.key_position(cursor.key())
        try:
            header = layout.unpack_header(here, cursor.value())
        except DamagedRecord:
            break  # whose it is, the table knows
        before = here
        if header.stream not in met:
            met.add(header.stream)
            row = transaction.get(layout.head_key(header.stream))
            position = layout.unpack_head(row)[0] if row is not None else BEYOND  # it was deleted
            # A fork without own events has its parent's head position, which lies before its own record.
            if position == before or (header.kind == layout.FORKED and position < before):
                numbers.append(header.stream)
        found = cursor.prev()
    return numbers, before


def _buckets(transaction: Transaction, before: int) -> Iterator[int]:
    """The buckets in which a stream was active, newest first, from that of position *before* on."""
    cursor = transaction.cursor()
    bound = (before >> layout.BUCKET_SHIFT) + 1
    while True:
        found = cursor.set_range(layout.activity_key(bound << layout.BUCKET_SHIFT, 0)) and cursor.prev()
        if not found or bytes(cursor.key()[:1]) != layout.ACTIVITY:
            return
        bound, _ = layout.key_activity(cursor.key())
        yield bound


def _active_in(transaction: Transaction, bucket: int, before: int) -> Iterator[tuple[int, int]]:
    """Position of the newest activity, if it lies in *bucket* and before *before*, and number of living streams."""
    first = bucket << layout.BUCKET_SHIFT
    end = min(first + (1 << layout.BUCKET_SHIFT), before)
    prefix = layout.activity_key(first, 0)[:9]
    get, head_fields = transaction.get, layout.unpack_head_fields
    try:
        for key, value in rows_of(transaction, prefix):
            row = get(layout.HEADS + key[9:])  # the stream stands in both as it is
            if row is not None:
                activity, _ = head_fields(row)
                if len(value):
                    activity = max(activity, layout.unpack_fork_position(value))
                if first <= activity < end:
                    yield activity, layout.key_activity(key)[1]
    except struct.error as error:
        raise DamagedRecord(f"a heads row of another length: {error}") from error
