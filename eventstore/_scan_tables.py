"""The second half of `verify`: the tables held against each other and against what the pass over the log saw.

Rows are read a page at a time, while writers may go on. A stream that was appended to or deleted since the pass began
is compared as far as the pass went.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from eventstore import _layout as layout
from eventstore._erasure import find_erasure, needed_version, origin_of
from eventstore._layout import DamagedRecord, Erasure, Facts, Header
from eventstore._lineage import find_position, find_stream, get_event, get_facts, get_head, get_record, last_position
from eventstore.errors import EventStoreError
from eventstore.log import NO_DIGEST
from eventstore.verify import Problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventstore._lmdb import Transaction
    from eventstore._scan import Scan
    from eventstore.log import Checkpoint, CheckpointEntry

_PAGE_ROWS: Final = 1_000
_SHORTEST_SNAPSHOT_KEY: Final = 6
_BEHIND_LOG: Final = b"{"
_KEY_BYTES: Final = {  # snapshots have any length beyond the stream's number
    layout.ACTIVITY: 13,
    layout.CHILDREN: layout.CHILD_KEY_BYTES,
    layout.ERASURE: layout.ERASURE_KEY_BYTES,
    layout.FACTS: 5,
    layout.HEADS: 5,
    layout.IDENTITY: 1,
    layout.NAMES: 9,
    layout.SNAPSHOTS: None,
    layout.LOG: layout.LOG_KEY_BYTES,
}


def check_tables(run: Scan) -> None:
    """Hold every row of every table against the rest."""
    _each_row(run, layout.FACTS, _check_facts)
    _each_row(run, layout.NAMES, _check_name)
    _each_row(run, layout.HEADS, _check_head_row)
    _each_row(run, layout.CHILDREN, _check_child)
    _each_row(run, layout.ERASURE, _check_erasure)
    _each_row(run, layout.SNAPSHOTS, _check_snapshot)
    _each_row(run, layout.ACTIVITY, _check_activity)
    _check_keys(run)
    for position, reason in sorted(run.damaged.items()):
        run.report(Problem("record", reason, position=position))


def _each_row(run: Scan, prefix: bytes, check: Callable[[Scan, Transaction, bytes, bytes], None]) -> None:
    key = prefix

    def page(transaction: Transaction) -> bytes:
        cursor = transaction.cursor()
        found = cursor.set_range(key)
        for _ in range(_PAGE_ROWS):
            here = bytes(cursor.key()) if found else b""
            if not here.startswith(prefix):
                return b""
            try:
                if _KEY_BYTES[prefix] in {len(here), None}:  # others are reported as strays
                    check(run, transaction, here, bytes(cursor.value()))
            except (DamagedRecord, ValueError) as error:
                run.report(Problem("structure", f"the row {here!r} is damaged: {error}"))
            found = cursor.next()
        return bytes(cursor.key()) if found else b""

    while key:
        key = run.environment.read(page)


def _check_keys(run: Scan) -> None:
    """Report every row that belongs to no table, but for those between the records, which the pass over them met."""
    key = b"\0"

    def page(transaction: Transaction) -> bytes:
        cursor = transaction.cursor()
        found = cursor.set_range(key)
        for _ in range(_PAGE_ROWS):
            if not found:
                return b""
            here = bytes(cursor.key())
            if here.startswith(layout.LOG):
                found = cursor.set_range(_BEHIND_LOG)
                continue
            wanted = _KEY_BYTES.get(here[:1], 0)
            if wanted != len(here) and (wanted is not None or len(here) < _SHORTEST_SNAPSHOT_KEY):
                run.report(Problem("structure", f"a row {here!r} that belongs to no table"))
            found = cursor.next()
        return bytes(cursor.key()) if found else b""

    while key:
        key = run.environment.read(page)


def _check_facts(run: Scan, transaction: Transaction, key: bytes, value: bytes) -> None:
    number, facts = layout.key_stream(key), layout.unpack_facts(value)
    run.names[number] = facts.name
    found = find_stream(transaction, facts.name)
    if found is None or found[0] != number:
        run.problem("name", "its name does not lead to it", number)
    if facts.created > run.end:  # newer than this verification
        if facts.created > last_position(transaction):
            run.problem("head", "it began behind the end of the log", number, 0, facts.created)
        return
    if facts.deleted:
        _check_tombstone(run, transaction, number, facts)
    else:
        _check_living(run, transaction, number, facts)


def _check_living(run: Scan, transaction: Transaction, number: int, facts: Facts) -> None:
    if transaction.get(layout.head_key(number)) is None:
        run.problem("head", "it has no head", number)
        return
    position, version = get_head(transaction, number)
    if position in run.damaged:
        run.problem("record", run.damaged.pop(position), number, version, position)
        return
    origin = _origin(run, transaction, number, facts)
    if origin is None:
        return
    _check_head(run, transaction, number, position, version)
    activity = max(position, facts.created)
    listed = transaction.get(layout.activity_key(activity, number))
    if listed is None or (activity == facts.created and origin.kind == layout.FORKED and not len(listed)):
        run.problem("activity", "it is not listed where it was last active", number, version, activity)
    if origin.kind == layout.FORKED:
        parent = layout.parent_of(get_record(transaction, facts.created)[1])
        if transaction.get(layout.child_key(parent, origin.version, number)) is None:
            run.problem("children", "its parent does not list it as a fork at its fork point", number)


def _origin(run: Scan, transaction: Transaction, number: int, facts: Facts) -> Header | None:
    """The first record of a living stream, after saying what is wrong with it."""
    if facts.created in run.damaged:
        run.problem("record", run.damaged.pop(facts.created), number, 0, facts.created)
        return None
    try:
        header, _ = get_record(transaction, facts.created)
    except DamagedRecord as error:
        run.problem("record", str(error), number, 1, facts.created)
        return None
    begins = header.kind == layout.FORKED or (header.kind, header.version) == (layout.EVENT, 1)
    if header.stream != number or not begins:
        run.problem("lineage", "its first record is another's, or not its first", number, 1, facts.created)
    return header


def _check_head(run: Scan, transaction: Transaction, number: int, position: int, version: int) -> None:
    trail = run.trails.get(number)
    if trail is None:
        run.problem("lineage", "the log holds none of its events", number, version, position)
        return
    try:
        if version < trail.version:
            run.problem(
                "head", f"its head is at version {version}, the log has {trail.version}", number, version, position
            )
        elif find_position(transaction, position, version, trail.version) != trail.position:
            run.problem("head", "its head leads to another lineage", number, version, position)
        elif version > trail.version and position <= run.end:
            run.problem("record", "events before its head are missing", number, trail.version + 1)
    except DamagedRecord as error:
        run.problem("record", str(error), number, error.version, error.position)


def _check_tombstone(run: Scan, transaction: Transaction, number: int, facts: Facts) -> None:
    if facts.deleted in run.damaged:
        run.problem("record", run.damaged.pop(facts.deleted), number, 0, facts.deleted)
        return
    try:
        header, _ = get_record(transaction, facts.deleted)
    except DamagedRecord as error:
        run.problem("record", f"its tombstone is damaged: {error}", number, 0, facts.deleted)
        return
    if header.kind != layout.DELETED or header.stream != number:
        run.problem("record", "its tombstone is another record", number, 0, facts.deleted)
    if transaction.get(layout.head_key(number)) is not None:
        run.problem("head", "it was deleted and has a head", number)
    _check_what_is_left(run, transaction, number, facts)


def _check_what_is_left(run: Scan, transaction: Transaction, number: int, facts: Facts) -> None:
    trail = run.trails.get(number)
    left = find_erasure(transaction, number) or Erasure(0, 0)
    for position, version in ((facts.created, 0), (left.position, left.version)):
        if position in run.damaged:
            run.problem("record", run.damaged.pop(position), number, version, position)
            return
    seen = trail.version if trail else 0
    if facts.deleted <= run.end and seen < left.version:  # erased since, if it was deleted while the log was read
        run.problem("erasure", f"{left.version} events should be left, the log has {seen}", number)


def _check_name(run: Scan, transaction: Transaction, key: bytes, value: bytes) -> None:
    for number in layout.unpack_numbers(value):
        row = transaction.get(layout.facts_key(number))
        if row is None or layout.name_key(layout.unpack_facts(row).name) != key:
            run.problem("name", "a name leads to it that is not its own", number)


def _check_head_row(run: Scan, transaction: Transaction, key: bytes, value: bytes) -> None:
    layout.unpack_head(value)
    if transaction.get(layout.facts_key(layout.key_stream(key))) is None:
        run.report(Problem("head", f"a head of a stream that does not exist (number {layout.key_stream(key)})"))


def _check_child(run: Scan, transaction: Transaction, key: bytes, _value: bytes) -> None:
    parent, held, child = layout.key_child(key)
    facts = get_facts(transaction, child)
    if facts.created in run.damaged or facts.created > run.end:
        return
    header, record = get_record(transaction, facts.created)
    marked = layout.parent_of(record) if header.kind == layout.FORKED else 0
    if header.stream != child or marked != parent:
        run.problem("children", "it is listed as a fork of a stream it was not forked from", child)
        return
    needs = header.version
    if facts.deleted:
        left = find_erasure(transaction, child)
        needs = min(needs, left.version) if left else -1
    if held != needs:
        run.problem("children", f"it is listed as needing {held} versions, it needs {max(needs, 0)}", child)


def _check_erasure(run: Scan, transaction: Transaction, key: bytes, value: bytes) -> None:
    state, number = layout.key_erasure(key)
    row = layout.unpack_erasure(value)
    if state == layout.STOPPED:
        run.problem("erasure", "it was deleted, and damage stopped its erasure", number, row.version, row.position)
    rows = [each for each in layout.ERASURE_STATES if transaction.get(layout.erasure_key(each, number)) is not None]
    if rows != [state]:
        run.problem("erasure", "its erasure is in several states, or an unknown one", number)
    if not get_facts(transaction, number).deleted:
        run.problem("erasure", "it is being erased, and was not deleted", number)
    needed = needed_version(transaction, number) or 0
    if needed > row.version:
        run.problem("erasure", f"forks need it up to version {needed}, {row.version} are left", number)
    origin = origin_of(transaction, number)
    held = layout.child_key(origin.parent, min(origin.at, row.version), number)
    if origin.parent and transaction.get(held) is None:
        run.problem("children", "its parent does not list what it still needs", number)


def _check_snapshot(run: Scan, transaction: Transaction, key: bytes, value: bytes) -> None:
    number = layout.key_stream(key)
    try:
        snapshot = layout.unpack_snapshot(value)
    except DamagedRecord as error:
        run.problem("snapshot", str(error), number)
        return
    try:
        position, version = get_head(transaction, number)
        if snapshot.version > version:
            run.problem("snapshot", f"it is of version {snapshot.version}, the head is at {version}", number)
        elif _digest_at(transaction, position, version, snapshot.version) != snapshot.digest:
            run.problem("snapshot", "it belongs to another history", number, snapshot.version)
    except DamagedRecord as error:
        run.problem("snapshot", f"the history it belongs to is damaged: {error}", number, snapshot.version)


def _digest_at(transaction: Transaction, position: int, version: int, wanted: int) -> bytes:
    if not wanted:
        return NO_DIGEST
    where = find_position(transaction, position, version, wanted)
    return get_event(transaction, where, wanted)[0].digest


def _check_activity(run: Scan, transaction: Transaction, key: bytes, value: bytes) -> None:
    _, number = layout.key_activity(key)
    row = transaction.get(layout.facts_key(number))
    if row is None:
        run.report(Problem("activity", f"a stream that does not exist is listed as active (number {number})"))
        return
    forked = layout.unpack_fork_position(value)
    if forked and (forked != layout.unpack_facts(row).created or layout.activity_key(forked, number) != key):
        run.problem("activity", "it is listed as forked at a place where it was not", number)


# ------------------------------------------------------------------------------------------------- checkpoints


def check_checkpoint(run: Scan, checkpoint: Checkpoint, stream: str | None) -> None:
    """Report what is not as it was when *checkpoint* was made; with *stream*, of that one only."""
    log_id = run.environment.identity()
    if checkpoint.log_id != log_id:
        run.report(Problem("checkpoint", "the checkpoint was made of another log"))
    for entry in checkpoint.entries:
        if stream is None or entry.stream == stream:
            reason = run.environment.read(lambda transaction: _compare_entry(transaction, entry))  # noqa: B023
            if reason:
                run.report(Problem("checkpoint", reason, entry.stream, entry.version))


def _compare_entry(transaction: Transaction, entry: CheckpointEntry) -> str:
    """What is wrong with a stream, compared with its entry; empty: nothing."""
    try:
        found = find_stream(transaction, entry.stream.encode())
        if found is None:
            return "the stream is gone, without a tombstone"
        number, facts = found
        if facts.deleted:
            tombstone, _ = get_record(transaction, facts.deleted)
            return _compare_tombstone(tombstone, entry)
        if entry.deleted:
            return "it was deleted, and lives again"
        position, version = get_head(transaction, number)
        if version < entry.version:
            return f"its newest events were cut off: it is at version {version}"
        digest = _digest_at(transaction, position, version, entry.version)
    except (DamagedRecord, EventStoreError) as error:
        return f"it cannot be compared: {error}"
    return "" if digest == entry.digest else "its history was changed"


def _compare_tombstone(tombstone: Header, entry: CheckpointEntry) -> str:
    if tombstone.version < entry.version or (entry.deleted and tombstone.version != entry.version):
        return f"its tombstone says it was deleted at version {tombstone.version}"
    if tombstone.version == entry.version and tombstone.digest != entry.digest:
        return "its tombstone has another digest"
    return ""
