"""What is read inside one read transaction, as values that outlive it.

Reads of any size go in pages: a page is what one transaction reads, bounded in events and bytes, so that no transaction
pins pages for long and an event loop can breathe in between. Damage raises `CorruptEventError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from eventstore import _chain
from eventstore import _layout as layout
from eventstore._layout import DamagedRecord, Facts, Header
from eventstore._lineage import (
    LostRecord,
    find_head,
    find_position,
    find_stream,
    first_behind,
    get_event,
    get_facts,
    get_record,
    last_position,
)
from eventstore._listing import BEYOND, newest_streams, rows_of
from eventstore.errors import CorruptEventError, InvalidCursorError, StreamDeletedError, StreamNotFoundError
from eventstore.log import (
    NO_DIGEST,
    START,
    CheckpointEntry,
    Content,
    Deletion,
    Event,
    Forked,
    Head,
    Position,
    Record,
    SinceSnapshot,
    Snapshot,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventstore._lmdb import Transaction

T = TypeVar("T")
PAGE_EVENTS: Final = 256
PAGE_BYTES: Final = 4 * 2**20
_PAGE_STREAMS: Final = 1_000
_NAMES_KEPT: Final = 65_536


class Walk(NamedTuple):
    """Where a backward walk through a lineage stands: the next event to read, the last one wanted (exclusive), and
    position and stream number of the event read before it (at the start: 0, and the stream whose lineage it is).
    """

    position: int
    version: int
    after: int
    newer: int = 0
    stream: int = 0


class Reader:
    """The read side of an open log. Thread-safe: what it remembers (names of streams and types) never changes."""

    def __init__(self, log_id: bytes) -> None:
        self._log_id = log_id
        self._names: dict[int, str] = {}
        self._types: dict[bytes, str] = {}

    def token(self, position: int) -> Position:
        """The opaque form of *position*."""
        return Position(self._log_id + position.to_bytes(8, "big"))

    def number(self, position: Position) -> int:
        """Inverse of `token`. Raises `InvalidCursorError`."""
        if position == START:
            return 0
        if type(position) is not bytes or len(position) != layout.LOG_ID_BYTES + 8:
            raise InvalidCursorError(position, "it is no position")
        if position[: layout.LOG_ID_BYTES] != self._log_id:
            raise InvalidCursorError(position, "it belongs to another log")
        return min(int.from_bytes(position[layout.LOG_ID_BYTES :], "big"), BEYOND)

    # ------------------------------------------------------------------------------------------------ streams

    def find(self, transaction: Transaction, stream: str) -> int:
        """The number of a living stream. Raises `StreamNotFoundError`, `StreamDeletedError`."""
        return self._living(transaction, stream)[0]

    def head(self, transaction: Transaction, stream: str) -> Head | None:
        """See `EventLog.head`."""
        try:
            return self._head(transaction, *self._living(transaction, stream))
        except StreamNotFoundError:
            return None

    def _living(self, transaction: Transaction, stream: str) -> tuple[int, Facts]:
        found = self._find(transaction, stream)
        if found[1].deleted:
            raise StreamDeletedError(stream)
        return found

    def _find(self, transaction: Transaction, stream: str) -> tuple[int, Facts]:
        try:
            found = find_stream(transaction, stream.encode())
        except DamagedRecord as error:
            raise self._corrupt(stream, error) from error
        if found is None:
            raise StreamNotFoundError(stream)
        return found

    def _head(self, transaction: Transaction, number: int, facts: Facts) -> Head:
        name = facts.name.decode()
        try:
            position, version = find_head(transaction, number, facts.created)
            created, value = get_record(transaction, facts.created)
            forked = self._forked(transaction, name, facts.created, created, value)
            own = forked is None or version > forked.at
            newest = get_event(transaction, position, version)[0] if version else created
        except DamagedRecord as error:
            raise self._corrupt(name, error) from error
        activity, updated_ns = (position, newest.time_ns) if own else (facts.created, created.time_ns)
        digest = newest.digest if version else NO_DIGEST
        return Head(name, version, digest, self.token(activity), created.time_ns, updated_ns, forked)

    def _forked(
        self, transaction: Transaction, name: str, position: int, header: Header, value: memoryview
    ) -> Forked | None:
        if header.kind != layout.FORKED:
            return None
        parent = self._name(transaction, layout.parent_of(value))
        return Forked(name, parent, header.version, self.token(position), header.time_ns, header.commit_id)

    def _name(self, transaction: Transaction, number: int) -> str:
        name = self._names.get(number)
        if name is None:
            if len(self._names) >= _NAMES_KEPT:
                self._names.clear()
            name = self._names[number] = get_facts(transaction, number).name.decode()
        return name

    def children(self, transaction: Transaction, stream: str) -> list[Head]:
        """See `EventLog.children`."""
        prefix = layout.children_prefix(self.find(transaction, stream))
        heads = []
        for child in sorted(
            layout.key_child(key)[2] for key, _ in rows_of(transaction, prefix)
        ):  # numbers are in order
            facts = get_facts(transaction, child)
            if not facts.deleted:
                heads.append(self._head(transaction, child, facts))
        return heads

    def streams(self, transaction: Transaction, limit: int, before: int | None) -> tuple[list[Head], bool]:
        """The *limit* living streams with the newest activity, of those whose activity lies before *before*; and
        whether there are more.

        More is read only of the streams that are returned.
        """
        if before is not None:
            self._check_reached(transaction, before)
        numbers, more = newest_streams(transaction, limit, before)
        return [self._head(transaction, number, get_facts(transaction, number)) for number in numbers], more

    def checkpoint_page(self, transaction: Transaction, after: int) -> tuple[list[CheckpointEntry], int]:
        """Checkpoint entries of the streams behind number *after*, and the number to go on behind; 0: that was all."""
        entries: list[CheckpointEntry] = []
        cursor = transaction.cursor()
        found = cursor.set_range(layout.facts_key(after + 1))
        while found and bytes(cursor.key()[:1]) == layout.FACTS:
            if len(entries) >= _PAGE_STREAMS:
                return entries, after
            after = layout.key_stream(cursor.key())
            entries.append(self._checkpoint_entry(transaction, after, cursor.value()))
            found = cursor.next()
        return entries, 0

    def _checkpoint_entry(self, transaction: Transaction, number: int, value: memoryview) -> CheckpointEntry:
        facts = layout.unpack_facts(value)
        stream = facts.name.decode()
        if facts.deleted:
            tombstone, _ = get_record(transaction, facts.deleted)
            return CheckpointEntry(stream, tombstone.version, tombstone.digest, deleted=True)
        head = self._head(transaction, number, facts)
        return CheckpointEntry(stream, head.version, head.digest)

    # ------------------------------------------------------------------------------------------------- events

    def start_walk(self, transaction: Transaction, stream: str, after: int, upto: int) -> Walk:
        """A walk back from version *upto* (clipped to the head) to *after*."""
        number, facts = self._living(transaction, stream)
        try:
            position, version = find_head(transaction, number, facts.created)
            top = min(upto, version)
            if top <= after:
                return Walk(0, after, after)
            return Walk(find_position(transaction, position, version, top), top, after, stream=number)
        except DamagedRecord as error:
            raise self._corrupt(stream, error) from error

    def walk_page(
        self, transaction: Transaction, stream: str, walk: Walk, limit: int, *, verify: bool = False
    ) -> tuple[list[Event], Walk]:
        """The next events of the walk, newest first: at most a page, at most *limit*; with *verify*, the checksums of
        their headers are compared.
        """
        read = self._read_verified if verify else self._read_event
        return self._walk_page(read, transaction, stream, walk, limit)

    def contents_page(
        self, transaction: Transaction, stream: str, walk: Walk, limit: int
    ) -> tuple[list[Content], Walk]:
        """As `walk_page`, for `EventLog.contents`."""
        return self._walk_page(self._read_content, transaction, stream, walk, limit)

    def _walk_page(
        self,
        read: Callable[[Transaction, int, int], tuple[T, int, int, int]],
        transaction: Transaction,
        stream: str,
        walk: Walk,
        limit: int,
    ) -> tuple[list[T], Walk]:
        events: list[T] = []
        position, version, after, newer, number = walk
        size = 0
        try:
            while version > after and len(events) < limit and size < PAGE_BYTES:
                event, length, previous, found = read(transaction, position, version)
                if found != number:
                    _check_seam(transaction, newer, position, version)
                    number = found
                events.append(event)
                size += length
                newer, position, version = position, previous, version - 1
        except DamagedRecord as error:
            if isinstance(error, LostRecord):
                self.find(transaction, stream)  # it may have been deleted, and erased, since the page before
            error.version, error.position = error.version or version, error.position or position
            raise self._corrupt(stream, error) from error
        return events, Walk(position, version, after, newer, number)

    def _read_verified(self, transaction: Transaction, position: int, version: int) -> tuple[Event, int, int, int]:
        get_event(transaction, position, version)
        return self._read_event(transaction, position, version)

    def _read_event(self, transaction: Transaction, position: int, version: int) -> tuple[Event, int, int, int]:
        """The event with *version* at *position*, its length in the file, the position of the one before it, and the
        number of the stream it was appended to.

        This is `_event` without the steps between, for histories are read in this loop: lengths, version and pointers
        are checked, the checksum is left to `verify`. Raises `DamagedRecord`.
        """
        key = layout.log_key(position)
        value = transaction.get(key)
        if value is None or len(value) < layout.HEADER_BYTES:
            get_event(transaction, position, version)
            raise DamagedRecord("there is no event", version=version, position=position)
        (
            _, format_number, kind, type_length, meta_length, data_length, number, found, index, size,
            previous, _, time_ns, commit_id, salt, digest,
        ) = layout.unpack_fields(value)  # fmt: skip
        meta = layout.HEADER_BYTES + type_length
        data = meta + meta_length
        length = len(value)
        if found != version or kind != layout.EVENT or length != data + data_length or previous >= position:
            get_event(transaction, position, version)
            raise DamagedRecord("the header contradicts itself", version=version, position=position)
        if format_number != layout.FORMAT:
            raise DamagedRecord(f"a record of format {format_number}", version=version, position=position)
        type_ = bytes(value[layout.HEADER_BYTES : meta])
        event = Event(
            self._names.get(number) or self._name(transaction, number),
            version,
            Position(self._log_id + key[1:]),
            self._types.get(type_) or self._decode_type(type_),
            bytes(value[data:]),
            bytes(value[meta:data]) if meta_length else b"",
            time_ns,
            commit_id,
            index,
            size,
            salt,
            digest,
        )
        return event, length, previous, number

    def _read_content(self, transaction: Transaction, position: int, version: int) -> tuple[Content, int, int, int]:
        """As `_read_event`, with the same checks, for the part of it that a fold needs."""
        value = transaction.get(layout.log_key(position))
        if value is None or len(value) < layout.HEADER_BYTES:
            get_event(transaction, position, version)
            raise DamagedRecord("there is no event", version=version, position=position)
        (
            format_number, kind, type_length, meta_length, data_length, number, found, previous, time_ns,
        ) = layout.unpack_content_fields(value)  # fmt: skip
        meta = layout.HEADER_BYTES + type_length
        data = meta + meta_length
        length = len(value)
        if found != version or kind != layout.EVENT or length != data + data_length or previous >= position:
            get_event(transaction, position, version)
            raise DamagedRecord("the header contradicts itself", version=version, position=position)
        if format_number != layout.FORMAT:
            raise DamagedRecord(f"a record of format {format_number}", version=version, position=position)
        if number not in self._names:
            self._name(transaction, number)
        type_ = bytes(value[layout.HEADER_BYTES : meta])
        content = Content(
            version,
            self._types.get(type_) or self._decode_type(type_),
            bytes(value[data:]),
            bytes(value[meta:data]) if meta_length else b"",
            time_ns,
        )
        return content, length, previous, number

    def digest_at(self, transaction: Transaction, stream: str, version: int) -> bytes:
        """The digest of *version* in the lineage of *stream*."""
        if not version:
            return NO_DIGEST
        walk = self.start_walk(transaction, stream, version - 1, version)
        return get_event(transaction, walk.position, version)[0].digest

    def stream_page(self, transaction: Transaction, stream: str, after: int, limit: int) -> list[Record]:
        """The next records of one stream behind position *after*: events of its lineage, or its `Deletion`. Raises
        `InvalidCursorError` for a position that the log has not reached.
        """
        records = self._stream_page(transaction, stream, after, limit)
        if not records:
            self._check_reached(transaction, after)
        return records

    def _stream_page(self, transaction: Transaction, stream: str, after: int, limit: int) -> list[Record]:
        number, facts = self._find(transaction, stream)
        deleted = facts.deleted
        if deleted:
            _, value = get_record(transaction, deleted)
            return [self.record(transaction, deleted, value)] if deleted > after else []
        try:
            position, version = find_head(transaction, number, facts.created)
            first = first_behind(transaction, position, version, after)
        except DamagedRecord as error:
            raise self._corrupt(stream, error) from error
        top = min(version, first + limit - 1)
        while top >= first:
            walk = self.start_walk(transaction, stream, first - 1, top)
            page, rest = self.walk_page(transaction, stream, walk, limit)
            if rest.version < first:
                return list(reversed(page))
            top = (first + top) // 2  # too many bytes for a page: the newer half comes with a later one
        return []

    def is_deleted_before(self, transaction: Transaction, stream: str, position: int) -> bool:
        """Whether *stream* has a tombstone at or before *position*: nothing of it follows."""
        return 0 < self._find(transaction, stream)[1].deleted <= position

    def log_page(self, transaction: Transaction, after: int, limit: int) -> list[Record]:
        """The next records of the whole log behind position *after*: at most a page, at most *limit*. Raises
        `InvalidCursorError` for a position that the log has not reached.
        """
        records: list[Record] = []
        size = 0
        for key, value in rows_of(transaction, layout.LOG, start=layout.log_key(after + 1)):
            if len(records) >= limit or size >= PAGE_BYTES:
                break
            size += len(value)
            records.append(self.record(transaction, layout.key_position(key), value))
        if not records:
            self._check_reached(transaction, after)
        return records

    def _check_reached(self, transaction: Transaction, position: int) -> None:
        """Raise `InvalidCursorError` for a position beyond all that were ever given out: who holds one has read what
        this log has lost, and would miss what is given the positions up to there.
        """
        if position > last_position(transaction):
            reason = "it is beyond the newest record: the log was put back to an earlier state"
            raise InvalidCursorError(self.token(position), reason)

    def record(self, transaction: Transaction, position: int, value: memoryview) -> Record:
        """The record in *value*. Raises `CorruptEventError`."""
        name = ""
        try:
            header = layout.unpack_header(position, value)
            name = self._name(transaction, header.stream)
            if header.kind == layout.EVENT:
                return self._event(transaction, position, header, value)
            forked = self._forked(transaction, name, position, header, value)
            if forked:
                return forked
            _, actor, reason = layout.payload(header, value)
            token = self.token(position)
            return Deletion(name, header.version, header.digest, reason.decode(), actor.decode(), token, header.time_ns)
        except DamagedRecord as error:
            error.position = position
            raise self._corrupt(name, error) from error

    def _event(self, transaction: Transaction, position: int, header: Header, value: memoryview) -> Event:
        type_, meta, data = layout.payload(header, value)
        name = self._types.get(type_)
        if name is None:
            name = self._decode_type(type_)
        return Event(
            self._names.get(header.stream) or self._name(transaction, header.stream),
            header.version,
            self.token(position),
            name,
            data,
            meta,
            header.time_ns,
            header.commit_id,
            header.commit_index,
            header.commit_size,
            header.salt,
            header.digest,
        )

    def _decode_type(self, type_: bytes) -> str:
        try:
            name = type_.decode()
        except UnicodeDecodeError as error:
            raise DamagedRecord("its type is not UTF-8") from error
        if len(self._types) < _NAMES_KEPT:
            self._types[type_] = name
        return name

    # ---------------------------------------------------------------------------------------------- snapshots

    def since_snapshot(
        self, transaction: Transaction, stream: str, name: str, revision: int, upto: int
    ) -> SinceSnapshot | None:
        """See `EventLog.since_snapshot`; with an *upto* of 0, the snapshot alone."""
        number, facts = self._living(transaction, stream)
        stored = _stored_snapshot(transaction, number, name, revision)
        if stored is None:
            return None
        try:
            position, head = find_head(transaction, number, facts.created)
            if stored.version > head:
                return None
            top = max(stored.version, min(head, upto))
            walk = Walk(find_position(transaction, position, head, top), top, stored.version, stream=number)
            contents, digest = self._behind_snapshot(transaction, stream, walk)
        except DamagedRecord as error:
            raise self._corrupt(stream, error) from error
        if digest != stored.digest:
            return None
        return SinceSnapshot(Snapshot(stream, name, revision, stored.version, digest, stored.data), contents)

    def _behind_snapshot(self, transaction: Transaction, stream: str, walk: Walk) -> tuple[list[Content], bytes]:
        """The contents of *walk*, none if they do not fit in a page; and the digest of the event at its end."""
        contents: list[Content] = []
        if walk.version - walk.after <= PAGE_EVENTS:
            contents, walk = self.contents_page(transaction, stream, walk, PAGE_EVENTS)
        if walk.version > walk.after:
            return [], self.digest_at(transaction, stream, walk.after)
        contents.reverse()
        return contents, get_event(transaction, walk.position, walk.after)[0].digest if walk.after else NO_DIGEST

    def _corrupt(self, stream: str, error: DamagedRecord) -> CorruptEventError:
        return CorruptEventError(stream, error.version, self.token(error.position), str(error))


def _stored_snapshot(transaction: Transaction, number: int, name: str, revision: int) -> layout.StoredSnapshot | None:
    value = transaction.get(layout.snapshot_key(number, name.encode()))
    if value is None:
        return None
    try:
        stored = layout.unpack_snapshot(value)
    except DamagedRecord:
        return None  # a cache: `verify` reports it, the caller folds again
    return stored if stored.revision == revision else None


def check_digests(events: list[Event], previous: bytes) -> None:
    """Raise `CorruptEventError` for the first of *events* (in version order, *previous* before them) whose digest does
    not follow from its content.
    """
    for event in events:
        if event_digest(event, previous) != event.digest:
            raise CorruptEventError(
                event.stream, event.version, event.position, "its digest does not match its content"
            )
        previous = event.digest


def _check_seam(transaction: Transaction, newer: int, position: int, version: int) -> None:
    """Where a walk comes into another stream: a fork point, or a damaged stream number or pointer. So the checksums are
    compared of the event with *version* at *position*, and of the *newer* one that led to it.
    """
    if newer:
        get_event(transaction, newer, version + 1)
    get_event(transaction, position, version)


def event_digest(event: Event, previous: bytes) -> bytes:
    """The digest that *event* must have behind an event with the digest *previous*."""
    content = _chain.content(event.type.encode(), event.meta, _chain.commitment(event.salt, event.data))
    stream = _chain.prefixed(event.stream.encode())
    return _chain.link(previous, event.version, event.time_ns, event.commit_id, stream, content)
