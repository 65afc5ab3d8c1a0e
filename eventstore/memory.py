"""A log in memory: for tests, and the oracle that every other engine is compared with.

Written to be obviously right and nothing else: lists, dictionaries, one lock, and every answer computed anew from them.
It shares no code with the other engines but the value types and checks of `eventstore.log`. Lineages are copied out for
each call, so a call costs what the lineage is long: the promise that a fork is cheap (P5) is not kept here.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import time
from typing import TYPE_CHECKING, Final, assert_never

import msgspec

from eventstore.errors import (
    ClosedError,
    CommitIdReusedError,
    CorruptEventError,
    EventStoreError,
    ForkPointError,
    InvalidCursorError,
    RestoreError,
    StreamDeletedError,
    StreamExistsError,
    StreamNotFoundError,
    WrongVersionError,
)
from eventstore.log import (
    COMMIT_ID_BYTES,
    MAX_COMMIT_EVENTS,
    MAX_VERSION,
    NO_DIGEST,
    RECENT_EVENTS,
    SALT_BYTES,
    START,
    Capabilities,
    Checkpoint,
    CheckpointEntry,
    Commit,
    Content,
    Deletion,
    Event,
    Expected,
    Forked,
    Head,
    NewEvent,
    Page,
    Position,
    Record,
    SinceSnapshot,
    Snapshot,
    check_bounds,
    check_commit_id,
    check_events,
    check_expected,
    check_fork_point,
    check_snapshot_data,
    check_snapshot_name,
    check_stream_name,
    check_tombstone,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence
    from types import TracebackType
    from typing import Self

NAME: Final = "memory"  # in errors, where other engines have a path
LOG_ID_BYTES: Final = 8
POLL_SECONDS: Final = 0.05


class _Stream(msgspec.Struct):
    """What the log knows of one name. `own` leaves out the events it inherited."""

    name: str
    forked: Forked | None
    created_ns: int
    own: list[Event] = msgspec.field(default_factory=list)
    deletion: Deletion | None = None
    snapshots: dict[str, Snapshot] = msgspec.field(default_factory=dict)

    @property
    def forked_at(self) -> int:
        return self.forked.at if self.forked else 0


class _Segment(msgspec.Struct):
    """The part of a lineage to restore that was appended to one stream: its own events, and the fork it began with."""

    name: str
    at: int
    forked: Forked | None
    own: list[Event] = msgspec.field(default_factory=list)


class MemoryEventLog:
    """An `EventLog` that lives as long as the object. Safe to use from several threads and event loops.

    *clock* gives Unix time in nanoseconds, *entropy* as many random bytes as it is asked for.
    """

    def __init__(
        self, *, clock: Callable[[], int] = time.time_ns, entropy: Callable[[int], bytes] = os.urandom
    ) -> None:
        self._clock = clock
        self._entropy = entropy
        self._log_id = entropy(LOG_ID_BYTES)
        self._lock = threading.Lock()
        self._closed = False
        self._counter = 0
        self._records: list[Record] = []
        self._streams: dict[str, _Stream] = {}

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._streams)} streams, {len(self._records)} records"
        return f"<MemoryEventLog {state}>"

    @property
    def capabilities(self) -> Capabilities:
        """Nothing survives the process."""
        return Capabilities(durability="memory", multi_process=False)

    async def append(
        self,
        stream: str,
        events: Sequence[NewEvent],
        *,
        expected: int | Expected = Expected.ANY,
        commit_id: bytes | None = None,
    ) -> Commit:
        """See `EventLog.append`."""
        check_stream_name(stream)
        check_events(events)
        check_expected(expected)
        if commit_id is not None:
            check_commit_id(commit_id)
        with self._lock:
            self._check_open()
            found = self._streams.get(stream)
            self._check_living(found)
            if found and commit_id and (first := self._repeated(found, events, expected, commit_id)):
                return _commit_of(first)
            self._check_expected(stream, expected)
            now = self._clock()
            if found is None:
                found = self._create(_Stream(stream, None, now))
            return _commit_of(self._add(found, events, commit_id or self._entropy(COMMIT_ID_BYTES), now))

    async def head(self, stream: str) -> Head | None:
        """See `EventLog.head`."""
        check_stream_name(stream)
        with self._lock:
            self._check_open()
            found = self._streams.get(stream)
            self._check_living(found)
            return self._head(found) if found else None

    async def read(
        self,
        stream: str,
        *,
        after: int = 0,
        upto: int | None = None,
        limit: int | None = None,
        reverse: bool = False,
        verify: bool = False,
    ) -> list[Event]:
        """See `EventLog.read`."""
        check_stream_name(stream)
        check_bounds(after=after, upto=upto, limit=limit)
        with self._lock:
            self._check_open()
            lineage = self._lineage(self._living(stream))
        if verify:
            _check_digests(lineage)
        events = [e for e in lineage if e.version > after and (upto is None or e.version <= upto)]
        if reverse:
            events.reverse()
        return events if limit is None else events[:limit]

    async def contents(
        self, stream: str, *, after: int = 0, upto: int | None = None, limit: int | None = None
    ) -> list[Content]:
        """See `EventLog.contents`."""
        events = await self.read(stream, after=after, upto=upto, limit=limit)
        return [Content(e.version, e.type, e.data, e.meta, e.time_ns) for e in events]

    async def read_all(self, *, after: Position = START, limit: int = 1000) -> list[Record]:
        """See `EventLog.read_all`."""
        check_bounds(limit=limit)
        with self._lock:
            self._check_open()
            self._check_cursor(after)
            return [record for record in self._records if record.position > after][:limit]

    async def fork(
        self,
        parent: str,
        child: str,
        *,
        at: int | None = None,
        events: Sequence[NewEvent] = (),
        commit_id: bytes | None = None,
    ) -> Head:
        """See `EventLog.fork`. What is wrong with the child is told before what is wrong with the parent."""
        check_stream_name(parent)
        check_stream_name(child)
        check_fork_point(at)
        check_events(events, at_least=0)
        if commit_id is not None:
            check_commit_id(commit_id)
        with self._lock:
            self._check_open()
            existing = self._streams.get(child)
            self._check_living(existing)
            if existing:
                return self._repeated_fork(existing, parent, at, events, commit_id)
            head = len(self._lineage(self._living(parent)))
            at = head if at is None else at
            if not 0 <= at <= head:
                raise ForkPointError(parent, at, head)
            now = self._clock()
            commit_id = commit_id or self._entropy(COMMIT_ID_BYTES)
            found = self._begin_fork(child, parent, at, now, commit_id)
            if events:
                self._add(found, events, commit_id, now)
            return self._head(found)

    async def children(self, stream: str) -> list[Head]:
        """See `EventLog.children`."""
        check_stream_name(stream)
        with self._lock:
            self._check_open()
            self._living(stream)
            forks = [r for r in self._records if isinstance(r, Forked) and r.parent == stream]
            return [self._head(self._streams[fork.stream]) for fork in forks if self._is_living(fork.stream)]

    async def streams(self, *, limit: int = 100, cursor: bytes | None = None) -> Page[Head]:
        """See `EventLog.streams`."""
        check_bounds(limit=limit)
        if limit == 0:
            raise ValueError("limit is at least 1: a page has room for a stream")
        with self._lock:
            self._check_open()
            if cursor is not None:
                self._check_cursor(cursor)
            heads = [self._head(stream) for name, stream in self._streams.items() if self._is_living(name)]
        heads = [head for head in heads if cursor is None or head.position < cursor]
        heads.sort(key=lambda head: head.position, reverse=True)
        page = heads[:limit]
        return Page(page, page[-1].position if page and len(heads) > len(page) else None)

    async def delete(
        self, stream: str, *, expected: int | Expected = Expected.ANY, reason: str = "", actor: str = ""
    ) -> Deletion:
        """See `EventLog.delete`. Erasure waits for `erase`."""
        check_stream_name(stream)
        check_expected(expected)
        check_tombstone(reason, actor)
        with self._lock:
            self._check_open()
            found = self._streams.get(stream)
            if found is None:
                raise StreamNotFoundError(stream)
            if found.deletion:
                return found.deletion
            self._check_expected(stream, expected)
            lineage = self._lineage(found)
            found.deletion = Deletion(
                stream=stream,
                version=len(lineage),
                digest=_head_digest(lineage),
                reason=reason,
                actor=actor,
                position=self._next_position(),
                time_ns=self._clock(),
            )
            found.snapshots.clear()
            self._records.append(found.deletion)
            return found.deletion

    async def erase(self) -> int:
        """See `EventLog.erase`."""
        with self._lock:
            self._check_open()
            living = [stream for name, stream in self._streams.items() if self._is_living(name)]
            reached = {event.position for stream in living for event in self._lineage(stream)}
            kept = [r for r in self._records if not isinstance(r, Event) or r.position in reached]
            erased = len(self._records) - len(kept)
            self._records = kept
            for stream in self._streams.values():
                stream.own = [event for event in stream.own if event.position in reached]
            return erased

    async def follow(self, *, after: Position = START, stream: str | None = None) -> AsyncIterator[Record]:
        """See `EventLog.follow`. Looks for new records every 50 ms."""
        if stream is not None:
            check_stream_name(stream)
        while True:
            deletion = self._deletion(stream, after)
            if deletion:
                if deletion.position > after:
                    yield deletion
                return
            records = await self.read_all(after=after)
            for record in records:
                if stream is None or self._concerns(record, stream):
                    yield record
                if isinstance(record, Deletion) and record.stream == stream:
                    return
            if records:
                after = records[-1].position
            else:
                await asyncio.sleep(POLL_SECONDS)

    async def restore(self, stream: str, records: Sequence[Event | Forked]) -> Head:
        """See `EventLog.restore`. Here nothing is written in any case of an error."""
        check_stream_name(stream)
        with self._lock:
            self._check_open()
            self._check_living(self._streams.get(stream))
            segments = _segments(stream, [*self._before(records[:1]), *records])
            lineage = [event for segment in segments for event in segment.own]
            if stream in self._streams:
                segments = segments[-1:]  # it has its ancestors already, even deleted ones
            for segment in segments:
                self._check_history(stream, segment, lineage)
            previous = None
            for segment in segments:
                self._restore_segment(segment, previous, lineage)
                previous = segment.name
            return self._head(self._streams[stream])

    async def checkpoint(self) -> Checkpoint:
        """See `EventLog.checkpoint`."""
        with self._lock:
            self._check_open()
            return Checkpoint(self._log_id, self._clock(), [self._entry(s) for s in self._streams.values()])

    async def get_snapshot(self, stream: str, name: str, revision: int) -> Snapshot | None:
        """See `EventLog.get_snapshot`."""
        check_stream_name(stream)
        check_snapshot_name(name, revision)
        with self._lock:
            self._check_open()
            found = self._living(stream)
            snapshot = found.snapshots.get(name)
            if snapshot is None or snapshot.revision != revision:
                return None
            lineage = self._lineage(found)
            return snapshot if snapshot.digest == _head_digest(lineage[: snapshot.version]) else None

    async def since_snapshot(
        self, stream: str, name: str, revision: int, *, upto: int | None = None
    ) -> SinceSnapshot | None:
        """See `EventLog.since_snapshot`."""
        check_bounds(upto=upto)
        snapshot = await self.get_snapshot(stream, name, revision)
        if snapshot is None:
            return None
        return SinceSnapshot(snapshot, await self.contents(stream, after=snapshot.version, upto=upto))

    async def put_snapshot(self, stream: str, name: str, revision: int, version: int, data: bytes) -> None:
        """See `EventLog.put_snapshot`."""
        check_stream_name(stream)
        check_snapshot_name(name, revision)
        check_snapshot_data(data)
        check_bounds(version=version)
        with self._lock:
            self._check_open()
            found = self._living(stream)
            lineage = self._lineage(found)
            if not 0 <= version <= len(lineage):
                raise ValueError(f"no snapshot at version {version} of {stream!r}: it is at {len(lineage)}")
            digest = _head_digest(lineage[:version])
            found.snapshots[name] = Snapshot(stream, name, revision, version, digest, data)

    async def aclose(self) -> None:
        """See `EventLog.aclose`."""
        with self._lock:
            self._closed = True

    async def __aenter__(self) -> Self:
        self._check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # --- what stands where; the lock is held by the caller

    def _lineage(self, stream: _Stream) -> list[Event]:
        """Its ancestors' events as far as it inherited them, then its own."""
        parts = []
        upto = MAX_VERSION
        while True:
            parts.append([event for event in stream.own if event.version <= upto])
            if stream.forked is None:
                break
            # A grandparent's part ends where the parent forked, or where the child did if that was earlier.
            upto = min(upto, stream.forked.at)
            stream = self._streams[stream.forked.parent]
        return [event for part in reversed(parts) for event in part]

    def _head(self, stream: _Stream) -> Head:
        lineage = self._lineage(stream)
        return _head_of(stream, stream.own, lineage)

    def _entry(self, stream: _Stream) -> CheckpointEntry:
        if stream.deletion:
            return CheckpointEntry(stream.name, stream.deletion.version, stream.deletion.digest, deleted=True)
        lineage = self._lineage(stream)
        return CheckpointEntry(stream.name, len(lineage), _head_digest(lineage))

    def _living(self, name: str) -> _Stream:
        found = self._streams.get(name)
        if found is None:
            raise StreamNotFoundError(name)
        self._check_living(found)
        return found

    def _is_living(self, name: str) -> bool:
        return name in self._streams and self._streams[name].deletion is None

    def _deletion(self, name: str | None, after: Position) -> Deletion | None:
        """The tombstone of the stream, for who has read up to *after*."""
        if name is None:
            return None
        with self._lock:
            self._check_open()
            found = self._streams.get(name)
            if found is None:
                raise StreamNotFoundError(name)
            self._check_cursor(after)
            return found.deletion

    def _concerns(self, record: Record, name: str) -> bool:
        match record:
            case Event():
                with self._lock:
                    return any(event.position == record.position for event in self._lineage(self._streams[name]))
            case Deletion():
                return record.stream == name
            case Forked():
                return False
            case _:
                assert_never(record)

    # --- checks

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(NAME)

    @staticmethod
    def _check_living(stream: _Stream | None) -> None:
        if stream and stream.deletion:
            raise StreamDeletedError(stream.name)

    def _check_expected(self, name: str, expected: int) -> None:
        found = self._streams.get(name)
        actual = len(self._lineage(found)) if found else 0
        match expected:
            case Expected.ANY:
                fine = True
            case Expected.EXISTS:
                fine = found is not None
            case _:
                fine = actual == expected
        if not fine:
            raise WrongVersionError(name, expected, actual)

    def _check_cursor(self, cursor: bytes) -> None:
        if cursor == START:
            return
        if type(cursor) is not bytes or len(cursor) != LOG_ID_BYTES + 8:
            raise InvalidCursorError(cursor, f"it is not {LOG_ID_BYTES + 8} bytes")
        if not cursor.startswith(self._log_id):
            raise InvalidCursorError(cursor, "it belongs to another log")
        if int.from_bytes(cursor[LOG_ID_BYTES:], "big") > self._counter:
            raise InvalidCursorError(cursor, "it is beyond the newest record")

    # --- repeated commits (P4)

    def _repeated(
        self, stream: _Stream, events: Sequence[NewEvent], expected: int, commit_id: bytes
    ) -> list[Event] | None:
        """The first commit, if this is its repetition; None if the id is new."""
        commits = _commits(stream.own)
        standing = [c for c in commits if c[0].version == expected + 1 and c[0].commit_id == commit_id]
        oldest_recent = len(self._lineage(stream)) - RECENT_EVENTS + 1
        recent = [c for c in commits if c[0].version >= oldest_recent and c[0].commit_id == commit_id]
        if commits and commits[-1][0].commit_id == commit_id:
            recent = commits[-1:]
        began = stream.forked is not None and stream.forked.commit_id == commit_id
        if expected >= 0:
            if standing and _is_same(standing[0], events):
                return standing[0]
            if standing or recent or began:
                raise CommitIdReusedError(stream.name, commit_id)
            return None
        if began and not recent:
            raise CommitIdReusedError(stream.name, commit_id)
        if recent and not _is_same(recent[-1], events):
            raise CommitIdReusedError(stream.name, commit_id)
        return recent[-1] if recent else None

    def _repeated_fork(
        self, child: _Stream, parent: str, at: int | None, events: Sequence[NewEvent], commit_id: bytes | None
    ) -> Head:
        """The head as the first fork left it. Raises if this is no repetition of that fork."""
        fork = child.forked
        if fork is None or fork.commit_id != commit_id:
            raise StreamExistsError(child.name)
        commits = _commits(child.own)
        first = commits[0] if commits and commits[0][0].commit_id == commit_id else []
        if fork.parent != parent or at not in (None, fork.at) or not _is_same(first, events):
            raise CommitIdReusedError(child.name, commit_id)
        inherited = self._lineage(child)[: fork.at]
        return _head_of(child, first, inherited + first)

    # --- writing

    def _next_position(self) -> Position:
        self._counter += 1
        return Position(self._log_id + self._counter.to_bytes(8, "big"))

    def _create(self, stream: _Stream) -> _Stream:
        self._streams[stream.name] = stream
        return stream

    def _begin_fork(self, child: str, parent: str, at: int, time_ns: int, commit_id: bytes) -> _Stream:
        fork = Forked(child, parent, at, self._next_position(), time_ns, commit_id)
        self._records.append(fork)
        return self._create(_Stream(child, fork, time_ns))

    def _add(self, stream: _Stream, events: Sequence[NewEvent], commit_id: bytes, time_ns: int) -> list[Event]:
        lineage = self._lineage(stream)
        digest = _head_digest(lineage)
        added = []
        for index, new in enumerate(events):
            event = Event(
                stream=stream.name,
                version=len(lineage) + 1 + index,
                position=self._next_position(),
                type=new.type,
                data=new.data,
                meta=new.meta,
                time_ns=time_ns,
                commit_id=commit_id,
                commit_index=index,
                commit_size=len(events),
                salt=self._entropy(SALT_BYTES),
                digest=b"",
            )
            digest = _digest(event, digest)
            added.append(msgspec.structs.replace(event, digest=digest))
        stream.own.extend(added)
        self._records.extend(added)
        return added

    # --- restoring

    def _check_history(self, target: str, segment: _Segment, lineage: list[Event]) -> None:
        """Raise unless what the log has under the segment's name is a beginning, or a continuation, of it."""
        found = self._streams.get(segment.name)
        self._check_living(found)
        if found is None:
            return
        if found.forked_at != segment.at:
            raise RestoreError(target, segment.at, f"the log has {segment.name!r} forked at {found.forked_at}")
        wanted = lineage[: segment.at + len(segment.own)]
        for stored, event in zip(self._lineage(found), wanted, strict=False):
            if stored.digest != event.digest:
                raise RestoreError(target, event.version, f"the log has another history of {segment.name!r}")

    def _before(self, records: Sequence[Event | Forked]) -> list[Event | Forked]:
        """What the log holds of the lineage before the first of *records*, in the form of an export."""
        for first in records:
            source = self._streams.get(first.stream)
            if isinstance(first, Forked):
                source = source or self._streams.get(first.parent)
                return list(self._lineage(source)[: first.at]) if source and first.at else []
            if source and first.version > 1:
                before: list[Event | Forked] = list(self._lineage(source)[: first.version - 1])
                return (
                    [*before[: source.forked_at], source.forked, *before[source.forked_at :]]
                    if source.forked
                    else before
                )
        return []

    def _restore_segment(self, segment: _Segment, previous: str | None, lineage: list[Event]) -> None:
        found = self._streams.get(segment.name) or self._begin_restored(segment, previous, lineage)
        there = len(self._lineage(found))
        for event in segment.own:
            if event.version > there:
                restored = msgspec.structs.replace(event, position=self._next_position())
                found.own.append(restored)
                self._records.append(restored)

    def _begin_restored(self, segment: _Segment, previous: str | None, lineage: list[Event]) -> _Stream:
        """The stream as a fork of its parent, or of the ancestor that the lineage shows if the log has no such parent;
        of none, if it inherited nothing.
        """
        named = segment.forked.parent if segment.forked else None
        parents = [name for name in (named, previous) if name and self._has(name, lineage[: segment.at])]
        began = segment.forked or (segment.own[0] if segment.own else None)
        assert began is not None, "a segment has a fork or an event"
        if parents:
            return self._begin_fork(segment.name, parents[0], segment.at, began.time_ns, began.commit_id)
        assert segment.at == 0, "the ancestors were restored first"
        if not segment.own:
            raise RestoreError(segment.name, 0, f"it has no events, and the log has no {named!r}")
        return self._create(_Stream(segment.name, None, segment.own[0].time_ns))

    def _has(self, name: str, inherited: list[Event]) -> bool:
        """Whether a living stream of this name begins with the events *inherited*."""
        if not self._is_living(name):
            return False
        stored = self._lineage(self._streams[name])[: len(inherited)]
        return [event.digest for event in stored] == [event.digest for event in inherited]


def _digest(event: Event, previous: bytes) -> bytes:
    """P7, word for word."""
    sized = (event.commit_id, event.stream.encode(), event.type.encode())
    parts = [
        b"refold1",
        previous,
        event.version.to_bytes(8, "big"),
        event.time_ns.to_bytes(8, "big", signed=True),
        *(len(part).to_bytes(4, "big") + part for part in sized),
        hashlib.sha256(event.meta).digest(),
        hashlib.sha256(event.salt + event.data).digest(),
    ]
    return hashlib.sha256(b"".join(parts)).digest()


def _head_digest(lineage: list[Event]) -> bytes:
    return lineage[-1].digest if lineage else NO_DIGEST


def _head_of(stream: _Stream, own: list[Event], lineage: list[Event]) -> Head:
    newest = own[-1] if own else stream.forked
    assert newest is not None, "only a fork can be empty"
    return Head(
        stream=stream.name,
        version=len(lineage),
        digest=_head_digest(lineage),
        position=newest.position,
        created_ns=stream.created_ns,
        updated_ns=newest.time_ns,
        forked=stream.forked,
    )


def _commits(own: list[Event]) -> list[list[Event]]:
    commits: list[list[Event]] = []
    for event in own:
        if event.commit_index == 0:
            commits.append([])
        commits[-1].append(event)
    return commits


def _commit_of(events: list[Event]) -> Commit:
    last = events[-1]
    return Commit(
        stream=last.stream,
        first=events[0].version,
        version=last.version,
        position=last.position,
        time_ns=last.time_ns,
        commit_id=last.commit_id,
        digest=last.digest,
    )


def _is_same(stored: list[Event], events: Sequence[NewEvent]) -> bool:
    there = [(event.type, event.meta, event.data) for event in stored]
    return there == [(event.type, event.meta, event.data) for event in events]


def _check_digests(lineage: list[Event]) -> None:
    previous = NO_DIGEST
    for event in lineage:
        if event.digest != _digest(event, previous):
            raise CorruptEventError(event.stream, event.version, event.position, "its digest differs")
        previous = event.digest


def _segments(target: str, records: Sequence[Event | Forked]) -> list[_Segment]:
    """The records, stream by stream. Raises `RestoreError` if they contradict themselves."""
    segments: list[_Segment] = []
    version, digest = 0, NO_DIGEST
    for record in records:
        match record:
            case Forked():
                if record.at != version:
                    raise RestoreError(target, version, f"a fork at {record.at} stands behind version {version}")
                segments.append(_Segment(record.stream, version, record))
            case Event():
                if not segments or segments[-1].name != record.stream:
                    segments.append(_Segment(record.stream, version, None))
                version += 1
                _check_record(target, record, version, digest, segments[-1].own[-1:])
                digest = record.digest
                segments[-1].own.append(record)
            case _:
                assert_never(record)
    _check_names(target, [segment.name for segment in segments], version)
    return segments


def _check_record(target: str, event: Event, version: int, previous: bytes, before: Iterable[Event]) -> None:
    def refuse(reason: str) -> RestoreError:
        return RestoreError(target, version, reason)

    if event.version != version:
        raise refuse(f"version {event.version} stands at the place of {version}")
    if len(event.salt) != SALT_BYTES or not -(2**63) <= event.time_ns < 2**63:
        raise refuse("its salt or time cannot be")
    try:
        check_events([NewEvent(event.type, event.data, event.meta)])
        check_commit_id(event.commit_id)
    except EventStoreError as error:
        raise refuse(str(error)) from error
    expected_index = 0
    for earlier in before:
        if (earlier.commit_id, earlier.commit_size) == (event.commit_id, event.commit_size):
            expected_index = earlier.commit_index + 1
    if event.commit_index not in (0, expected_index) or not event.commit_index < event.commit_size <= MAX_COMMIT_EVENTS:
        raise refuse("its place in its commit cannot be")
    if event.digest != _digest(event, previous):
        raise refuse("its digest differs")


def _check_names(target: str, names: list[str], version: int) -> None:
    for name in names:
        check_stream_name(name)
    if not names:
        raise RestoreError(target, 0, "there are no records")
    if len(set(names)) != len(names):
        raise RestoreError(target, version, "a stream's events do not stand together")
    if names[-1] != target:
        raise RestoreError(target, version, f"the records end with {names[-1]!r}")
