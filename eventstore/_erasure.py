"""Erasure of deleted streams, in bounded batches that a crash can come between.

A deleted stream keeps an erasure row: what is left of it, and whether more is to go. What is left is what its children
need. A child's row under its parent says up to which version it needs the parent: a living child its fork point, a
deleted one only what its own children still need. So the last fork to go frees the whole prefix: a stream that needs
less of its parent moves its row, and wakes the parent's erasure if nobody else needs as much.

Both tables are in the order in which they are asked for (owed erasures first, children by what they need), so a stream
costs the same however many others were deleted, and however many forks its parent has.

What is to be written for a stream is planned before any of it is: where damage is met, the stream is set aside as
stopped, and the others go on.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from eventstore import _layout as layout
from eventstore._layout import DamagedRecord, Erasure
from eventstore._lineage import LostRecord, get_event, get_facts, get_record

if TYPE_CHECKING:
    from eventstore._lmdb import Transaction

BATCH_EVENTS: Final = 1_000
BATCH_BYTES: Final = 32 * 2**20
BATCH_STREAMS: Final = 250
_BEHIND_CHILDREN: Final = b"\xff" * 9  # longer than what follows the parent in a key


class Stopped(NamedTuple):
    """The erasure of a stream that met damage: the stream's number, and the event that was looked for, where known."""

    stream: int
    version: int
    position: int
    reason: str


class Step(NamedTuple):
    """What one batch did: events erased, whether another batch is owed, and streams that had to be set aside."""

    erased: int
    more: bool
    stopped: tuple[Stopped, ...] = ()


class Origin(NamedTuple):
    """Where a stream was forked: parent's number (0: it is no fork) and version; the position of its first record."""

    parent: int
    at: int
    created: int


class _Budget:
    """What is left of a batch."""

    __slots__ = ("bytes", "events", "streams")

    def __init__(self) -> None:
        self.events = BATCH_EVENTS
        self.bytes = BATCH_BYTES
        self.streams = BATCH_STREAMS

    @property
    def spent(self) -> bool:
        return self.events <= 0 or self.bytes <= 0 or self.streams <= 0


class _Plan(NamedTuple):
    """What is to be written for one stream, all that could be damaged having been read."""

    erased: int
    gone: list[bytes]
    put: list[tuple[bytes, bytes]]


def is_owed(transaction: Transaction) -> bool:
    """Whether any deleted stream has events to erase."""
    return _first(transaction, layout.OWED) is not None


def erase_some(transaction: Transaction) -> Step | None:
    """Erase up to a batch of events, of up to a batch of streams; None if nothing is owed, and nothing was written."""
    budget = _Budget()
    erased = 0
    stopped: list[Stopped] = []
    while not budget.spent and (number := _first(transaction, layout.OWED)) is not None:
        budget.streams -= 1
        try:
            plan = _plan(transaction, number, budget)
        except (DamagedRecord, struct.error) as error:
            stopped.append(Stopped(number, getattr(error, "version", 0), getattr(error, "position", 0), str(error)))
            _move(transaction, number, layout.OWED, layout.STOPPED)
        else:
            _carry_out(transaction, plan)
            erased += plan.erased
    if budget.streams == BATCH_STREAMS:
        return None
    return Step(erased, is_owed(transaction), tuple(stopped))


def resume_stopped(transaction: Transaction) -> bool:
    """Owe again what damage stopped; whether there was any."""
    found = False
    while (number := _first(transaction, layout.STOPPED)) is not None:
        _move(transaction, number, layout.STOPPED, layout.OWED)
        found = True
    return found


def find_erasure(transaction: Transaction, number: int) -> Erasure | None:
    """What is left of a deleted stream; None if nothing is. Raises `DamagedRecord`."""
    for state in layout.ERASURE_STATES:
        value = transaction.get(layout.erasure_key(state, number))
        if value is not None:
            return layout.unpack_erasure(value)
    return None


def needed_version(transaction: Transaction, number: int, *, but: bytes | None = None) -> int | None:
    """Up to which version the children of a stream need it (without that of the children row *but*); None if it has
    none. Raises `DamagedRecord`.
    """
    prefix = layout.children_prefix(number)
    cursor = transaction.cursor()
    found = cursor.prev() if cursor.set_range(prefix + _BEHIND_CHILDREN) else cursor.last()
    if found and bytes(cursor.key()) == but:
        found = cursor.prev()
    if not found or cursor.key()[: len(prefix)] != prefix:
        return None
    return layout.key_child(cursor.key())[1]


def origin_of(transaction: Transaction, number: int) -> Origin:
    """Where a stream that may be partly erased began. Raises `DamagedRecord`."""
    created = get_facts(transaction, number).created
    try:
        header, value = get_record(transaction, created)
    except LostRecord:
        return Origin(0, 0, created)  # its first event, erased: no fork, for a fork's marker stays
    if header.kind != layout.FORKED:
        return Origin(0, 0, created)
    return Origin(layout.parent_of(value), header.version, created)


def _first(transaction: Transaction, state: int) -> int | None:
    """The first stream whose erasure is in this state. Keys that are none of ours are stepped over."""
    prefix = layout.erasure_key(state, 0)[:2]
    cursor = transaction.cursor()
    found = cursor.set_range(prefix)
    while found and cursor.key()[: len(prefix)] == prefix:
        if len(cursor.key()) == layout.ERASURE_KEY_BYTES:
            return layout.key_erasure(cursor.key())[1]
        found = cursor.next()
    return None


def _move(transaction: Transaction, number: int, old: int, new: int) -> None:
    value = bytes(_row(transaction, layout.erasure_key(old, number)))
    transaction.delete(layout.erasure_key(old, number))
    transaction.put(layout.erasure_key(new, number), value)


# ------------------------------------------------------------------------------------------------------ one stream


def _plan(transaction: Transaction, number: int, budget: _Budget) -> _Plan:
    """What a batch can do about a stream. Raises `DamagedRecord`."""
    owed = layout.erasure_key(layout.OWED, number)
    left = layout.unpack_erasure(_row(transaction, owed))
    origin = origin_of(transaction, number)
    needed = needed_version(transaction, number)
    floor = max(needed or 0, origin.at)
    positions, rest = _walk_down(transaction, number, left, floor, budget)
    plan = _Plan(len(positions), [], [])
    for position in positions:
        plan.gone.extend((layout.log_key(position), layout.activity_key(position, number)))
    if rest.version > floor:
        plan.put.append((owed, layout.pack_erasure(rest)))
        return plan
    plan.gone.append(owed)
    if rest.version > origin.at:
        plan.put.append((layout.erasure_key(layout.KEPT, number), layout.pack_erasure(rest)))
        return plan
    # No event of its own is left: it holds only what its forks need of its parent.
    held = min(left.version, origin.at)
    holds = None if needed is None else min(held, needed)
    _plan_for_parent(transaction, plan, number, origin, held, holds)
    if holds is None:
        plan.gone.append(layout.activity_key(origin.created, number))
    else:
        plan.put.append((layout.erasure_key(layout.KEPT, number), layout.pack_erasure(Erasure(0, holds))))
    return plan


def _walk_down(
    transaction: Transaction, number: int, left: Erasure, floor: int, budget: _Budget
) -> tuple[list[int], Erasure]:
    """The positions of the stream's own events above *floor*, newest first, as many as the batch takes, and where that
    leads. Nobody else's events are erased, wherever a damaged row leads.
    """
    positions: list[int] = []
    position, version = left
    while version > floor and budget.events > 0 and budget.bytes > 0:
        try:
            header, value = _get_own_event(transaction, number, position, version)
        except DamagedRecord:
            if positions:
                break  # these can go; the next batch begins, and stops, at the damage
            raise
        budget.events -= 1
        budget.bytes -= len(value)
        positions.append(position)
        position, version = header.previous, version - 1
    return positions, Erasure(position, version)


def _get_own_event(
    transaction: Transaction, number: int, position: int, version: int
) -> tuple[layout.Header, memoryview]:
    header, value = get_event(transaction, position, version)
    if header.stream != number:
        raise DamagedRecord("the event is another stream's", version=version, position=position)
    return header, value


def _plan_for_parent(  # noqa: PLR0917  (who, of whom, from where to where)
    transaction: Transaction, plan: _Plan, number: int, origin: Origin, held: int, holds: int | None
) -> None:
    """A stream held its parent up to version *held*, and now only up to *holds* (None: not at all): the parent's
    erasure goes on if nobody else holds as much.
    """
    if not origin.parent or holds == held:
        return
    row = layout.child_key(origin.parent, held, number)
    if transaction.get(row) is None:
        raise DamagedRecord(f"stream number {origin.parent} does not list it as a fork at {held}")
    plan.gone.append(row)
    if holds is not None:
        plan.put.append((layout.child_key(origin.parent, holds, number), b""))
    others = needed_version(transaction, origin.parent, but=row)
    kept = layout.erasure_key(layout.KEPT, origin.parent)
    parent = transaction.get(kept)
    if parent is not None and (others is None or others < held):
        plan.gone.append(kept)
        plan.put.append((layout.erasure_key(layout.OWED, origin.parent), bytes(parent)))


def _carry_out(transaction: Transaction, plan: _Plan) -> None:
    for key in plan.gone:
        transaction.delete(key)
    for key, value in plan.put:
        transaction.put(key, value)


def _row(transaction: Transaction, key: bytes) -> memoryview:
    value = transaction.get(key)
    assert value is not None, "an erasure has a row"
    return value
