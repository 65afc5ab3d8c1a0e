"""What is written inside one write transaction: appends, forks, deletions, restored events, snapshots.

The ledger keeps what the next append needs (head, digest, spine) of the streams it has met, so that a warm append reads
nothing. The cache is right as long as every commit was its own: a transaction number that is not the next one means
that another process wrote, and drops it. Each operation checks everything before its first write, so an error that it
raises has written nothing, and the transaction goes on with other operations; `writes` tells whether that was kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from eventstore import _chain
from eventstore import _layout as layout
from eventstore._erasure import Step, Stopped, erase_some, resume_stopped
from eventstore._layout import DamagedRecord, Erasure, Facts, Header, StoredSnapshot
from eventstore._lineage import (
    Spine,
    find_head,
    find_position,
    find_stream,
    get_event,
    get_facts,
    get_record,
    jump_of_next,
    load_spine,
)
from eventstore.errors import (
    CommitIdReusedError,
    CorruptEventError,
    CorruptLogError,
    EventTooLargeError,
    ForkPointError,
    RestoreError,
    StreamDeletedError,
    StreamExistsError,
    StreamNotFoundError,
    WrongVersionError,
)
from eventstore.log import (
    MAX_VERSION,
    NO_DIGEST,
    RECENT_EVENTS,
    SALT_BYTES,
    Commit,
    Deletion,
    Expected,
    Forked,
    Head,
    NewEvent,
    Position,
    check_type,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventstore._lmdb import Transaction
    from eventstore._restore import Segment

_CACHED_STREAMS: Final = 8_192
_NO_ID: Final = bytes(16)


_EXISTS: Final = int(Expected.EXISTS)  # the member itself costs more than the comparison


class Prepared(msgspec.Struct, frozen=True, gc=False):
    """An event to append, with what can be hashed before the write lock is held."""

    type_: bytes
    meta: bytes
    data: bytes
    salt: bytes
    content: bytes  # for the chain


def prepare(events: Sequence[NewEvent], random: bytes) -> list[Prepared]:
    """The caller's part of an append: everything that needs no lock. Salts are taken from *random*."""
    prepared = []
    for index, event in enumerate(events):
        salt, type_ = random[index * SALT_BYTES : (index + 1) * SALT_BYTES], check_type(event.type)
        content = _chain.content(type_, event.meta, _chain.commitment(salt, event.data))
        prepared.append(Prepared(type_, event.meta, event.data, salt, content))
    return prepared


class Erased(NamedTuple):
    """What a batch of erasure did: events erased, whether another batch is owed, and what stopped at damage."""

    erased: int
    more: bool
    stopped: list[CorruptEventError]


class _Stream:
    """What the next append to a living stream needs, or that it was deleted."""

    __slots__ = (
        "activity",
        "created",
        "deleted",
        "digest",
        "fork_id",
        "forked_at",
        "name",
        "number",
        "position",
        "prefixed_name",
        "recent",
        "spine",
        "title",
        "version",
    )

    def __init__(self, number: int, name: bytes, created: int) -> None:
        self.number = number
        self.name = name
        self.title = name.decode()
        self.prefixed_name = _chain.prefixed(name)
        self.created = created
        self.deleted = 0
        self.version = 0
        self.position = 0
        self.digest = NO_DIGEST
        self.forked_at = 0
        self.fork_id = b""  # the commit id of the fork it began with
        self.activity = 0
        self.spine: Spine | Unloaded | None = None
        self.recent: dict[bytes, int] | None = {}  # commit id -> its first version; None: not loaded


class Unloaded:
    """Stands for a spine that nobody has needed yet."""


_UNLOADED: Final = Unloaded()


class Ledger:
    """The write side of an open log. Not thread-safe: one writer thread owns it."""

    def __init__(self, path: str, log_id: bytes, *, clock: Callable[[], int]) -> None:
        self._path = path
        self._log_id = log_id
        self._clock = clock
        self._streams: dict[bytes, _Stream] = {}
        self._touched: dict[bytes, _Stream] = {}
        self._begun = False
        self._generation = 0
        self._last_transaction = -1
        self._next_position = 0
        self._next_number = 0
        self._transaction: Transaction
        self.writes = 0

    # ------------------------------------------------------------------------------------------- transactions

    def begin(self, transaction: Transaction, generation: int) -> None:
        """Start over in *transaction*; forget what another process may have changed, or an attempt before this one that
        came to nothing (the map had to grow). Transactions are numbered anew in every *generation* of the file.
        """
        if self._begun or generation != self._generation:
            self.aborted()
        self._generation = generation
        self._begun = True
        self._transaction = transaction
        self._touched.clear()
        self.writes = 0
        if transaction.id() != self._last_transaction + 1 or len(self._streams) > _CACHED_STREAMS:
            self._streams.clear()
            self._last_transaction = transaction.id() - 1
            self._next_position = self._last_position() + 1
            self._next_number = self._last_number() + 1

    def finish(self) -> None:
        """Write the heads that moved: the last thing before the commit."""
        for stream in self._touched.values():
            if not stream.deleted:
                self._put(layout.head_key(stream.number), layout.pack_head(stream.position, stream.version))

    def committed(self) -> None:
        """The transaction is on disk."""
        self._begun = False
        if self.writes:
            self._last_transaction += 1
        del self._transaction

    def aborted(self) -> None:
        """Nothing of the transaction came to be: what is remembered of it is wrong."""
        self._begun = False
        self._last_transaction = -1

    def _last_position(self) -> int:
        cursor = self._transaction.cursor()
        found = cursor.set_range(layout.LOG) and cursor.last()
        return layout.key_position(cursor.key()) if found else 0

    def _last_number(self) -> int:
        cursor = self._transaction.cursor()
        # The identity row stands behind every facts and heads row, so there is always something to step back from.
        found = cursor.set_range(layout.HEADS) and cursor.prev()
        return layout.key_stream(cursor.key()) if found and bytes(cursor.key()[:1]) == layout.FACTS else 0

    def _put(self, key: bytes, value: bytes) -> None:
        self.writes += 1
        self._transaction.put(key, value)

    def _delete(self, key: bytes) -> None:
        self.writes += 1
        self._transaction.delete(key)

    def _put_record(self, header: Header, type_: bytes, meta: bytes, data: bytes) -> int:
        position = self._next_position
        self._put_last(layout.pack_record(position, header, type_, meta, data))
        return position

    def _put_last(self, record: bytes) -> None:
        self.writes += 1
        if not self._transaction.put(layout.log_key(self._next_position), record, append=True):
            raise CorruptLogError(self._path, f"a record stands behind the next position {self._next_position}")
        self._next_position += 1

    # ------------------------------------------------------------------------------------------------ streams

    def _find(self, name: bytes) -> _Stream | None:
        stream = self._streams.get(name)
        if stream is None:
            try:
                found = find_stream(self._transaction, name)
                if found is None:
                    return None
                stream = self._streams[name] = self._load(*found)
            except DamagedRecord as error:
                raise CorruptEventError(name.decode(), error.version, self.token(error.position), str(error)) from error
        return stream

    def _living(self, name: bytes) -> _Stream | None:
        stream = self._find(name)
        if stream is not None and stream.deleted:
            raise StreamDeletedError(name.decode())
        return stream

    def _required(self, name: bytes) -> _Stream:
        stream = self._living(name)
        if stream is None:
            raise StreamNotFoundError(name.decode())
        return stream

    def _load(self, number: int, facts: Facts) -> _Stream:
        stream = _Stream(number, facts.name, facts.created)
        stream.deleted = facts.deleted
        if facts.deleted:
            return stream
        stream.position, stream.version = find_head(self._transaction, number, facts.created)
        created, _ = get_record(self._transaction, facts.created)
        if created.kind == layout.FORKED:
            stream.forked_at, stream.fork_id = created.version, created.commit_id
        if stream.version:
            head, _ = get_event(self._transaction, stream.position, stream.version)
            stream.digest = head.digest
        stream.activity = max(facts.created, stream.position if stream.version > stream.forked_at else 0)
        stream.spine = _UNLOADED
        stream.recent = None
        return stream

    def _create(self, name: bytes) -> _Stream:
        stream = _Stream(self._next_number, name, self._next_position)
        self._next_number += 1
        others = self._transaction.get(layout.name_key(name))
        numbers = [*(layout.unpack_numbers(others) if others is not None else ()), stream.number]
        self._put(layout.name_key(name), layout.pack_numbers(numbers))
        self._put(layout.facts_key(stream.number), layout.pack_facts(Facts(stream.created, 0, name)))
        self._streams[name] = self._touched[name] = stream
        return stream

    def token(self, position: int) -> Position:
        """The opaque form of *position*."""
        return Position(self._log_id + position.to_bytes(8, "big"))

    # ------------------------------------------------------------------------------------------------ appends

    def append(self, name: bytes, events: list[Prepared], expected: int, commit_id: bytes, *, named: bool) -> Commit:
        """See `EventLog.append`. *named*: the caller chose the commit id, and may have used it before."""
        stream = self._living(name)
        version = stream.version if stream else 0
        if stream and named:
            earlier = self._earlier(stream, events, expected, commit_id)
            if earlier:
                return earlier
        if expected >= 0:
            if expected != version:
                raise WrongVersionError(name.decode(), expected, version)
        elif expected == _EXISTS and not stream:
            raise WrongVersionError(name.decode(), expected, 0)
        self._check_room(version, len(events))
        time_ns = self._clock()  # before anything is written: it may raise
        return self._write(stream or self._create(name), events, commit_id, time_ns)

    def _check_room(self, version: int, count: int) -> None:
        if version + count > MAX_VERSION:
            raise EventTooLargeError("stream (events)", version + count, MAX_VERSION)

    def _write(self, stream: _Stream, events: list[Prepared], commit_id: bytes, time_ns: int) -> Commit:
        first, size = stream.version + 1, len(events)
        for index, event in enumerate(events):
            digest = _chain.link(stream.digest, first + index, time_ns, commit_id, stream.prefixed_name, event.content)
            self._put_event(stream, event, time_ns, commit_id, index, size, digest)
        if stream.recent is not None and size:
            _remember(stream.recent, commit_id, first, stream.version)
        position = self.token(stream.position)
        return Commit(stream.title, first, stream.version, position, time_ns, commit_id, stream.digest)

    def _put_event(  # noqa: PLR0917  (once per event: the order is that of the header)
        self,
        stream: _Stream,
        event: Prepared,
        time_ns: int,
        commit_id: bytes,
        index: int,
        size: int,
        digest: bytes,
    ) -> None:
        type_, meta, data = event.type_, event.meta, event.data
        spine = stream.spine
        if isinstance(spine, Unloaded):
            spine = load_spine(self._transaction, stream.position, stream.version)
        jump = jump_of_next(spine)
        version = stream.version + 1
        header = Header(
            layout.EVENT, len(type_), len(meta), len(data), stream.number, version, index, size,
            stream.position, jump[1] if jump else 0, time_ns, commit_id, event.salt, digest,
        )  # fmt: skip
        position = self._put_record(header, type_, meta, data)
        stream.version = version
        stream.position = position
        stream.digest = digest
        stream.spine = (version, position, jump)
        self._mark_active(stream, position)
        self._touched[stream.name] = stream

    def _mark_active(self, stream: _Stream, position: int) -> None:
        if not stream.activity or stream.activity >> layout.BUCKET_SHIFT != position >> layout.BUCKET_SHIFT:
            self._put(layout.activity_key(position, stream.number), b"")
        stream.activity = position

    # -------------------------------------------------------------------------------------------- idempotence

    def _earlier(self, stream: _Stream, events: list[Prepared], expected: int, commit_id: bytes) -> Commit | None:
        """The first commit, if this is a repetition of it. Raises `CommitIdReusedError` if only the id is repeated."""
        if stream.forked_at <= expected < stream.version:
            position = find_position(self._transaction, stream.position, stream.version, expected + 1)
            header, _ = get_event(self._transaction, position, expected + 1)
            if header.commit_id == commit_id and header.commit_index == 0:
                return self._same_commit(stream, expected + 1, events, commit_id)
        first = self._recent(stream).get(commit_id)
        if first is None or not self._is_recent(stream, first, commit_id):
            if commit_id == stream.fork_id:
                raise CommitIdReusedError(stream.title, commit_id)
            return None
        if expected >= 0:
            raise CommitIdReusedError(stream.title, commit_id)
        return self._same_commit(stream, first, events, commit_id)

    def _is_recent(self, stream: _Stream, first: int, commit_id: bytes) -> bool:
        if first > stream.version - RECENT_EVENTS:
            return True
        newest, _ = get_event(self._transaction, stream.position, stream.version)
        return (newest.commit_id, newest.commit_index) == (commit_id, stream.version - first)

    def _recent(self, stream: _Stream) -> dict[bytes, int]:
        if stream.recent is None:
            recent: dict[bytes, int] = {}
            position, version = stream.position, stream.version
            if version > stream.forked_at:
                newest, _ = get_event(self._transaction, position, version)
                recent[newest.commit_id] = version - newest.commit_index  # however long it is
            for _ in range(min(RECENT_EVENTS, version - stream.forked_at)):
                header, _ = get_event(self._transaction, position, version)
                if header.commit_index == 0:
                    recent.setdefault(header.commit_id, version)
                position, version = header.previous, version - 1
            stream.recent = recent  # only now: of a damaged stream it would not be all
        return stream.recent

    def _same_commit(self, stream: _Stream, first: int, events: list[Prepared], commit_id: bytes) -> Commit:
        last = first + len(events) - 1
        if last > stream.version or not events:
            raise CommitIdReusedError(stream.title, commit_id)
        position = final = find_position(self._transaction, stream.position, stream.version, last)
        for version, event in zip(range(last, first - 1, -1), reversed(events), strict=True):
            header, value = get_event(self._transaction, position, version)
            same_place = header.commit_id == commit_id and header.commit_size == len(events)
            if not same_place or layout.payload(header, value) != (event.type_, event.meta, event.data):
                raise CommitIdReusedError(stream.title, commit_id)
            position = header.previous
        head, _ = get_event(self._transaction, final, last)
        return Commit(stream.title, first, last, self.token(final), head.time_ns, commit_id, head.digest)

    # -------------------------------------------------------------------------------------------------- forks

    def fork(
        self, parent: bytes, child: bytes, at: int | None, events: list[Prepared], commit_id: bytes, *, named: bool
    ) -> Head:
        """See `EventLog.fork`."""
        existing = self._living(child)
        if existing:
            first = self._earlier_fork(existing, parent, at, events, commit_id) if named else None
            if first is None:
                raise StreamExistsError(child.decode())
            return first
        source = self._required(parent)
        at = source.version if at is None else at
        if not 0 <= at <= source.version:
            raise ForkPointError(parent.decode(), at, source.version)
        self._check_room(at, len(events))
        time_ns = self._clock()
        stream, marker = self._branch(source, child, at, commit_id, time_ns)
        if events:
            self._write(stream, events, commit_id, time_ns)
        return self._head_after(stream, marker, time_ns)

    def _branch(self, source: _Stream, child: bytes, at: int, commit_id: bytes, time_ns: int) -> tuple[_Stream, Forked]:
        position, digest = self._place(source, at)
        stream = self._create(child)
        header = Header(layout.FORKED, 0, 0, 0, stream.number, at, 0, 0, position, 0, time_ns, commit_id, b"", b"")
        marker = self._next_position
        self._put_last(layout.pack_fork(marker, stream.number, source.number, header))
        self._put(layout.child_key(source.number, at, stream.number), b"")
        stream.version = stream.forked_at = at
        stream.fork_id = commit_id
        stream.position = position
        stream.digest = digest
        stream.spine = source.spine if at == source.version else _UNLOADED
        stream.activity = marker
        self._put(layout.activity_key(marker, stream.number), layout.pack_fork_position(marker))
        return stream, Forked(child.decode(), source.title, at, self.token(marker), time_ns, commit_id)

    def _place(self, stream: _Stream, version: int) -> tuple[int, bytes]:
        """Position and digest of *version* in the lineage of *stream*."""
        if version == stream.version:
            return stream.position, stream.digest
        if not version:
            return 0, NO_DIGEST
        position = find_position(self._transaction, stream.position, stream.version, version)
        header, _ = get_event(self._transaction, position, version)
        return position, header.digest

    def _head_after(self, stream: _Stream, marker: Forked, time_ns: int) -> Head:
        return Head(
            stream.title, stream.version, stream.digest, self.token(stream.activity),
            marker.time_ns, time_ns, marker,
        )  # fmt: skip

    def _earlier_fork(
        self, child: _Stream, parent: bytes, at: int | None, events: list[Prepared], commit_id: bytes
    ) -> Head | None:
        """The head as the first fork with this commit id left it; None if *child* was made otherwise."""
        marker, value = get_record(self._transaction, child.created)
        if marker.kind != layout.FORKED or marker.commit_id != commit_id:
            return None
        source = get_facts(self._transaction, layout.parent_of(value)).name
        if source != parent or (at is not None and at != marker.version):
            raise CommitIdReusedError(child.title, commit_id)
        forked = Forked(
            child.title, parent.decode(), marker.version, self.token(child.created), marker.time_ns, commit_id
        )
        version, digest, position = marker.version, self._place(child, marker.version)[1], forked.position
        if events or self._has_commit(child, marker.version + 1, commit_id):
            commit = self._same_commit(child, marker.version + 1, events, commit_id)
            version, digest, position = commit.version, commit.digest, commit.position
        return Head(forked.stream, version, digest, position, marker.time_ns, marker.time_ns, forked)

    def _has_commit(self, stream: _Stream, version: int, commit_id: bytes) -> bool:
        if version > stream.version:
            return False
        position, _ = self._place(stream, version)
        return get_event(self._transaction, position, version)[0].commit_id == commit_id

    # ---------------------------------------------------------------------------------------------- deletions

    def delete(self, name: bytes, expected: int, reason: str, actor: str) -> Deletion:
        """See `EventLog.delete`: the tombstone. Erasure is another operation's work (`_erasure`)."""
        stream = self._find(name)
        if stream is None:
            raise StreamNotFoundError(name.decode())
        if stream.deleted:
            return self.read_deletion(stream.deleted, name.decode())
        if expected >= 0 and expected != stream.version:
            raise WrongVersionError(name.decode(), expected, stream.version)
        meta, data = actor.encode(), reason.encode()
        header = Header(
            layout.DELETED, 0, len(meta), len(data), stream.number, stream.version, 0, 0, stream.position, 0,
            self._clock(), _NO_ID, _NO_ID, stream.digest,
        )  # fmt: skip
        stream.deleted = self._put_record(header, b"", meta, data)
        facts = Facts(stream.created, stream.deleted, name)
        self._put(layout.facts_key(stream.number), layout.pack_facts(facts))
        self._delete(layout.head_key(stream.number))
        left = Erasure(stream.position if stream.version > stream.forked_at else 0, stream.version)
        self._put(layout.erasure_key(layout.OWED, stream.number), layout.pack_erasure(left))
        self._delete_snapshots(stream.number)
        self._touched[name] = stream
        return self.read_deletion(stream.deleted, name.decode())

    def read_deletion(self, position: int, name: str) -> Deletion:
        """The tombstone at *position*."""
        header, value = get_record(self._transaction, position)
        _, actor, reason = layout.payload(header, value)
        return Deletion(
            name, header.version, header.digest, reason.decode(), actor.decode(), self.token(position), header.time_ns
        )

    def erase(self, *, resume: bool = False) -> Erased:
        """A batch of what deletions owe; with *resume*, of those too that damage stopped. No living stream's state
        changes, so what is cached stays right.
        """
        self.writes += 1  # before, not after: an error in mid-batch must not be committed
        resumed = resume and resume_stopped(self._transaction)
        step = erase_some(self._transaction)
        if step is None and not resumed:
            self.writes -= 1
        step = step or Step(0, more=False)
        return Erased(step.erased, step.more, [self._why_stopped(stopped) for stopped in step.stopped])

    def _why_stopped(self, stopped: Stopped) -> CorruptEventError:
        try:
            name = get_facts(self._transaction, stopped.stream).name.decode(errors="replace")
        except DamagedRecord:
            name = f"number {stopped.stream}"
        reason = f"it was deleted, and cannot be erased beyond this: {stopped.reason}"
        return CorruptEventError(name, stopped.version, self.token(stopped.position), reason)

    def _delete_snapshots(self, number: int) -> None:
        prefix = layout.snapshot_key(number, b"")
        cursor = self._transaction.cursor()
        while cursor.set_range(prefix) and cursor.key()[: len(prefix)] == prefix:
            self._delete(bytes(cursor.key()))

    # ------------------------------------------------------------------------------------ restore, snapshots

    def restore(self, segment: Segment) -> None:
        """Bring a stream to hold the events of *segment*: it is created if it is missing, compared where they overlap,
        and what is missing is appended as it was.
        """
        name = segment.stream.encode()
        stream = self._living(name) or self._restore_beginning(segment)
        version, digest = segment.base
        overlap = min(stream.version, version + len(segment.events))
        if stream.forked_at != segment.at or overlap < version:
            raise RestoreError(segment.stream, segment.at, f"the log has it forked at {stream.forked_at}")
        wanted = segment.events[overlap - version - 1].digest if overlap > version else digest
        if self._place(stream, overlap)[1] != wanted:
            raise RestoreError(segment.stream, overlap, "the log holds another history of it")
        for event in segment.events[overlap - version :]:
            prepared = Prepared(event.type.encode(), event.meta, event.data, event.salt, b"")
            index, size = event.commit_index, event.commit_size
            self._put_event(stream, prepared, event.time_ns, event.commit_id, index, size, event.digest)
        stream.recent = None

    def _restore_beginning(self, segment: Segment) -> _Stream:
        for parent in segment.parents:
            source = self._find(parent.encode())
            if source is None or source.deleted or source.version < segment.at:
                continue
            if self._place(source, segment.at)[1] == segment.base[1]:
                name = segment.stream.encode()
                return self._branch(source, name, segment.at, segment.commit_id, segment.time_ns)[0]
        if segment.at or not segment.events:
            raise RestoreError(segment.stream, segment.at, "the log does not hold what it was forked from")
        return self._create(segment.stream.encode())

    def put_snapshot(self, name: bytes, label: bytes, revision: int, version: int, data: bytes) -> None:
        """See `EventLog.put_snapshot`."""
        stream = self._required(name)
        if not 0 <= version <= stream.version:
            raise ValueError(f"no version {version} to snapshot: the stream is at {stream.version}")
        _, digest = self._place(stream, version)
        row = layout.pack_snapshot(StoredSnapshot(revision, version, digest, data))
        self._put(layout.snapshot_key(stream.number, label), row)


def _remember(recent: dict[bytes, int], commit_id: bytes, first: int, version: int) -> None:
    if len(recent) > 4 * RECENT_EVENTS:
        for old in [key for key, begun in recent.items() if begun <= version - RECENT_EVENTS]:
            del recent[old]
    recent[commit_id] = first  # behind the others: the newest counts however long it is
