"""From exported records to what has to be written, with every digest recomputed. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from eventstore._reader import event_digest
from eventstore.errors import InvalidEventError, RestoreError
from eventstore.log import (
    COMMIT_ID_BYTES,
    MAX_COMMIT_EVENTS,
    NO_DIGEST,
    SALT_BYTES,
    Event,
    Forked,
    NewEvent,
    check_events,
    check_stream_name,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_CHUNK_EVENTS = 1_000
_CHUNK_BYTES = 8 * 2**20


class Segment(NamedTuple):
    """Events that one stream of the lineage owns, and how it began: at version *at*, as a fork of the first of
    *parents* that the log has (one that left no event in the lineage may be missing). *base*: version and digest before
    the events.
    """

    stream: str
    at: int
    parents: tuple[str, ...]
    time_ns: int
    commit_id: bytes
    base: tuple[int, bytes]
    events: list[Event]


def plan_restore(stream: str, records: Sequence[Event | Forked]) -> list[Segment]:
    """The streams of the lineage, oldest ancestor first, *stream* last.

    Raises `RestoreError` at the first record that does not continue the lineage or whose digest is wrong.
    """
    segments: list[Segment] = []
    version, digest = 0, NO_DIGEST
    for record in records:
        if isinstance(record, Forked):
            _check_forked(record, stream, version)
            segments.append(_begin(record, (record.parent,), segments, (version, digest)))
            continue
        if not segments or segments[-1].stream != record.stream:
            segments.append(_begin(record, (), segments, (version, digest)))
        _check_event(record, version, digest)
        _check_commit(record, segments[-1].events)
        segments[-1].events.append(record)
        version, digest = record.version, record.digest
    if not segments or segments[-1].stream != stream:
        raise RestoreError(stream, version, "the records end with another stream's")
    return segments


def _begin(record: Event | Forked, named: tuple[str, ...], before: list[Segment], base: tuple[int, bytes]) -> Segment:
    """The segment that *record* opens; without a `Forked` record, time and commit id are those of its first event."""
    if any(segment.stream == record.stream for segment in before):
        raise RestoreError(record.stream, base[0], "its events do not stand together")
    parents = (*named, *(segment.stream for segment in before[-1:]))
    return Segment(record.stream, base[0], parents, record.time_ns, record.commit_id, base, [])


def chunks(segment: Segment) -> Iterator[Segment]:
    """The segment in parts that fit a transaction."""
    part: list[Event] = []
    base, size = segment.base, 0
    for event in segment.events:
        part.append(event)
        size += len(event.data) + len(event.meta)
        if len(part) >= _CHUNK_EVENTS or size >= _CHUNK_BYTES:
            yield segment._replace(base=base, events=part)
            base, part, size = (event.version, event.digest), [], 0
    if part or not segment.events:
        yield segment._replace(base=base, events=part)


def _check_forked(record: Forked, stream: str, version: int) -> None:
    check_stream_name(record.stream)
    check_stream_name(record.parent)
    if record.at != version:
        raise RestoreError(stream, version, f"a fork at version {record.at} stands behind version {version}")
    if len(record.commit_id) != COMMIT_ID_BYTES:
        raise RestoreError(stream, version, "a fork's commit id is not 16 bytes")


def _check_commit(event: Event, before: list[Event]) -> None:
    """Place and size in the commit are not part of the digest, so they must agree with the event before."""
    if not event.commit_index:
        return
    wanted = (before[-1].commit_id, before[-1].commit_size, before[-1].commit_index + 1) if before else None
    if wanted != (event.commit_id, event.commit_size, event.commit_index):
        raise RestoreError(event.stream, event.version, "its place in its commit does not follow from the event before")


def _check_event(event: Event, version: int, digest: bytes) -> None:
    check_stream_name(event.stream)
    try:
        check_events([NewEvent(event.type, event.data, event.meta)])
    except InvalidEventError as error:
        raise RestoreError(event.stream, event.version, error.reason) from error
    if event.version != version + 1:
        raise RestoreError(event.stream, event.version, f"it stands behind version {version}")
    if len(event.salt) != SALT_BYTES or len(event.commit_id) != COMMIT_ID_BYTES:
        raise RestoreError(event.stream, event.version, "its salt or commit id is not 16 bytes")
    if not 0 <= event.commit_index < event.commit_size <= MAX_COMMIT_EVENTS or event.commit_index >= event.version:
        raise RestoreError(event.stream, event.version, "its place in its commit is impossible")
    if not -(2**63) <= event.time_ns < 2**63:
        raise RestoreError(event.stream, event.version, "its time is out of range")
    if event_digest(event, digest) != event.digest:
        raise RestoreError(event.stream, event.version, "its digest does not match its content")
