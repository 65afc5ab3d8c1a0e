"""From exported records to what has to be written, with every digest recomputed. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

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
    from collections.abc import Iterator

_KINDS: Final[dict[type, list[tuple[str, type]]]] = {
    Event: [
        *((name, int) for name in ("version", "time_ns", "commit_index", "commit_size")),
        *((name, bytes) for name in ("commit_id", "salt", "digest")),
    ],
    Forked: [("at", int), ("time_ns", int), ("commit_id", bytes)],
}
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


class Behind(NamedTuple):
    """What the log holds before the first record: the *event* at that version, and where its stream was forked."""

    event: Event | None = None
    forked_at: int = 0


BEGINNING: Final = Behind()


def check_records(stream: str, records: Sequence[Event | Forked]) -> None:
    """Raise `RestoreError` for what cannot be an exported record: msgspec does not look at what is constructed."""
    if not isinstance(records, Sequence):
        raise RestoreError(stream, 0, "the records are a sequence")
    for record in records:
        if not isinstance(record, Event | Forked):
            raise RestoreError(stream, 0, f"a {type(record).__name__} is no part of a lineage")
        for name, kind in _KINDS[type(record)]:
            if type(getattr(record, name)) is not kind:
                raise RestoreError(stream, 0, f"{name} of a {type(record).__name__} is not {kind.__name__}")


def plan_restore(stream: str, records: Sequence[Event | Forked], behind: Behind = BEGINNING) -> list[Segment]:
    """The streams of the lineage, oldest ancestor first, *stream* last; without those that end before the records.

    Raises `RestoreError` at the first record that does not continue the lineage or whose digest is wrong.
    """
    segments: list[Segment] = []
    held = behind.event
    version, digest = (held.version, held.digest) if held else (0, NO_DIGEST)
    for record in records:
        if isinstance(record, Forked):
            _check_forked(record, stream, version)
            segments.append(_begin(record, (record.parent,), segments, (version, digest)))
            continue
        if not segments or segments[-1].stream != record.stream:
            segment = _begin(record, (), segments, (version, digest))
            segments.append(segment if segments else segment._replace(at=behind.forked_at))
        _check_event(record, version, digest)
        _check_commit(record, segments[-1].events[-1] if segments[-1].events else held)
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
    if not -(2**63) <= record.time_ns < 2**63:
        raise RestoreError(stream, version, "a fork's time is out of range")


def _check_commit(event: Event, before: Event | None) -> None:
    """Place and size in the commit are not part of the digest, so they must agree with the event before."""
    if not event.commit_index:
        return
    joined = before if before and before.stream == event.stream else None
    wanted = (joined.commit_id, joined.commit_size, joined.commit_index + 1) if joined else None
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
