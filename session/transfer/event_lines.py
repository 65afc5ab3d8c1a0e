"""Sessions as JSON lines, event by event, without loss: imported again, they have equal digests.

One JSON object per line, told apart by `record`:

    refold-export  the first line: {"format": 1, "sessions": how many follow}
    forked         a session begins as a fork of `parent` at version `at`; its own events follow
    event          an event of `stream` at `version`: `type`, and `data` and `meta` in base64; `time_ns`; `commit_id`,
                   `salt` and `digest` in hexadecimal; its place in its commit
    end            the last line: {"events": how many there were}. Without it the file was cut.

1. Parents come before their forks. A prefix that sessions share stands once.
2. With these fields anybody can recompute the digests: see P7 in `eventstore.log`.
3. An import recomputes every digest before it writes, compares what is there, and adds what is missing. It holds a few
   hundred events at a time. Several exports may stand one behind the other in a file.
"""

from __future__ import annotations

import binascii
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, assert_never

import msgspec

from session.errors import SessionDeletedError, SessionNotFoundError
from session.storage.records import (
    Event,
    EventTooLargeError,
    Forked,
    InvalidStreamNameError,
    Position,
    RestoreError,
    StreamDeletedError,
    is_session_id,
)
from session.transfer.report import Imported, Outcome, Reason, RefusedError, Skipped
from session.transfer.source import lines

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator

    from session.storage.records import BlockingLmdbEventLog, Head
    from session.transfer.conversations import Target
    from session.transfer.source import Line, Source

FORMAT: Final = 1

_PAGE_EVENTS: Final = 128
_BATCH_EVENTS: Final = 500
_BATCH_BYTES: Final = 8 * 2**20
_REFUSALS: Final[dict[type[Exception], Reason]] = {
    RestoreError: "altered",
    StreamDeletedError: "deleted",  # what it was forked from
    EventTooLargeError: "too_long",
    InvalidStreamNameError: "bad_id",
}
_NOWHERE: Final = Position(b"")


class ExportLine(msgspec.Struct, frozen=True, tag_field="record", tag="refold-export"):
    """The first line."""

    format: int
    sessions: int


class ForkedLine(msgspec.Struct, frozen=True, tag_field="record", tag="forked"):
    """See the module's head."""

    stream: str
    parent: str
    at: int
    time_ns: int
    commit_id: str


class EventLine(msgspec.Struct, frozen=True, tag_field="record", tag="event"):
    """See the module's head."""

    stream: str
    version: int
    type: str
    time_ns: int
    commit_id: str
    commit_index: int
    commit_size: int
    salt: str
    digest: str
    data: bytes
    meta: bytes = b""


class EndLine(msgspec.Struct, frozen=True, tag_field="record", tag="end"):
    """The last line."""

    events: int


AnyLine: TypeAlias = ExportLine | ForkedLine | EventLine | EndLine

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(AnyLine).decode


# --- out --------------------------------------------------------------------------------------------------------------


class Span(msgspec.Struct):
    """The own events of *name* up to version *upto* are to be written; *head* says where they begin.

    Without a head *name* is that of a living fork, through which the events of its deleted ancestors are read.
    """

    name: str
    upto: int
    head: Head | None


def export_events(
    log: BlockingLmdbEventLog,
    session_ids: Iterable[str],
    write: Callable[[bytes], object],
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> int:
    """Write the sessions, and what they share with their ancestors, line by line; return how many events there were.

    Every digest is checked on the way. *progress* is told how many sessions are done, and of how many. Raises
    `SessionNotFoundError`, `SessionDeletedError`, `CorruptEventError`.
    """
    spans = plan_export(log, session_ids)
    write(_line(ExportLine(FORMAT, len(spans))))
    written: dict[str, int] = {}  # by stream: up to which version
    events = 0
    for done, span in enumerate(spans, 1):
        if span.head and span.head.forked:
            write(_line(_forked_line(span.head.forked)))
        before = span.head.stream if span.head else ""
        for event in _events(log, span):
            if event.version > written.get(event.stream, 0):
                if before and event.stream != before and event.stream not in written:
                    write(_line(_lost_fork(event, before)))
                written[event.stream] = event.version
                write(_line(_event_line(event)))
                events += 1
            before = event.stream
        progress(done, len(spans))
    write(_line(EndLine(events)))
    return events


def plan_export(log: BlockingLmdbEventLog, session_ids: Iterable[str]) -> list[Span]:
    """What to write, parents first, each stream once and as far as anybody needs it."""
    spans: dict[tuple[str, bool], Span] = {}
    for session_id in session_ids:
        for span in reversed(list(_chain(log, session_id, spans))):
            place = span.name, span.head is None
            if place in spans:
                spans[place].upto = max(spans[place].upto, span.upto)
            else:
                spans[place] = span
    return list(spans.values())


def _chain(log: BlockingLmdbEventLog, session_id: str, known: Container[tuple[str, bool]]) -> Iterator[Span]:
    """The session and its ancestors, as far as they are not *known*."""
    head = _head(log, session_id)
    if head is None:
        raise SessionNotFoundError(session_id)
    upto = head.version
    while head is not None:
        yield Span(head.stream, upto, head)
        if head.forked is None or (head.stream, False) in known:
            return
        child, upto = head.stream, head.forked.at
        try:
            head = log.head(head.forked.parent)
        except StreamDeletedError:
            yield Span(child, upto, None)
            return


def _head(log: BlockingLmdbEventLog, session_id: str) -> Head | None:
    try:
        return log.head(session_id)
    except StreamDeletedError as error:
        raise SessionDeletedError(session_id) from error


def _events(log: BlockingLmdbEventLog, span: Span) -> Iterator[Event]:
    after = span.head.forked_at if span.head else 0
    while page := log.read(span.name, after=after, upto=span.upto, limit=_PAGE_EVENTS, verify=True):
        yield from page
        after = page[-1].version


def _line(record: AnyLine) -> bytes:
    return _encode(record) + b"\n"


def _forked_line(forked: Forked) -> ForkedLine:
    return ForkedLine(forked.stream, forked.parent, forked.at, forked.time_ns, forked.commit_id.hex())


def _lost_fork(first: Event, parent: str) -> ForkedLine:
    """How a stream began that was deleted: what its first event and the lineage tell."""
    return ForkedLine(first.stream, parent, first.version - 1, first.time_ns, first.commit_id.hex())


def _event_line(event: Event) -> EventLine:
    return EventLine(
        stream=event.stream,
        version=event.version,
        type=event.type,
        time_ns=event.time_ns,
        commit_id=event.commit_id.hex(),
        commit_index=event.commit_index,
        commit_size=event.commit_size,
        salt=event.salt.hex(),
        digest=event.digest.hex(),
        data=event.data,
        meta=event.meta,
    )


# --- in ---------------------------------------------------------------------------------------------------------------


def is_export(first: bytes) -> bool:
    """Whether *first* is the first line of such a file, of this version's format or a newer one."""
    try:
        return isinstance(_decode(first), ExportLine)
    except msgspec.MsgspecError:
        return False


def import_events(source: Source, target: Target) -> Iterator[Outcome]:
    """Restore every session in *source*."""
    reading = _Reading(source, target)
    try:
        with source.open() as file:
            for line in lines(file):
                yield from reading.take(line)
                target.progress(line.offset, source.size)
    except RefusedError as refused:
        yield refused.at(source.shown)
        return
    yield from reading.end()


class _Reading:
    """One file on its way in."""

    def __init__(self, source: Source, target: Target) -> None:
        self._source = source
        self._log = target.storage.log
        self._stream = ""  # whose records are being read
        self._before = 0  # its version before this file
        self._records: list[Event | Forked] = []
        self._bytes = 0
        self._first_line = 0  # of the records that are held
        self._broken: set[str] = set()  # streams of which something was refused: what follows in them is passed over
        self._counted = 0
        self._ended = True

    def take(self, line: Line) -> Iterator[Outcome]:
        """One line."""
        try:
            record = _record(line)
            match record:
                case ExportLine():
                    self._begin_export(record)
                case EndLine():
                    yield from self._finish_stream()
                    self._end_export(record)
                case Forked() | Event():
                    self._counted += isinstance(record, Event)
                    yield from self._take_record(record, line.number)
        except RefusedError as refused:
            yield refused.at(self._source.shown, line.number)

    def end(self) -> Iterator[Outcome]:
        """The file has ended."""
        yield from self._finish_stream()
        if not self._ended:
            yield Skipped(self._source.shown, "incomplete")

    def _begin_export(self, record: ExportLine) -> None:
        if record.format > FORMAT:
            raise RefusedError("newer_format", f"format {record.format}, this version knows {FORMAT}")
        self._counted, self._ended = 0, False

    def _end_export(self, record: EndLine) -> None:
        self._ended = True
        if record.events != self._counted:
            raise RefusedError("incomplete", f"{self._counted} of {record.events} events")

    def _take_record(self, record: Event | Forked, number: int) -> Iterator[Outcome]:
        if record.stream != self._stream:
            yield from self._finish_stream()
            self._begin_stream(record)
        if record.stream in self._broken:
            return
        self._first_line = self._first_line or number
        self._records.append(record)
        self._bytes += len(record.data) if isinstance(record, Event) else 0
        if len(self._records) >= _BATCH_EVENTS or self._bytes >= _BATCH_BYTES:
            yield from self._flush()

    def _begin_stream(self, record: Event | Forked) -> None:
        if not is_session_id(record.stream):
            raise RefusedError("bad_id", record.stream[:200])
        self._stream = record.stream
        try:
            head = self._log.head(record.stream)
        except StreamDeletedError as error:
            self._broken.add(record.stream)
            raise RefusedError("deleted", record.stream) from error
        self._before = head.version if head else 0

    def _finish_stream(self) -> Iterator[Outcome]:
        yield from self._flush()
        stream, self._stream = self._stream, ""
        if not stream or stream in self._broken:
            return
        head = self._log.head(stream)
        assert head is not None, "it was just restored"
        outcome: Literal["new", "extended", "unchanged"] = "new"
        if self._before:
            outcome = "extended" if head.version > self._before else "unchanged"
        yield Imported(stream, outcome, self._source.shown, head.version, head.parent)

    def _flush(self) -> Iterator[Outcome]:
        """Restore what is held."""
        records, self._records, self._bytes = self._records, [], 0
        number, self._first_line = self._first_line, 0
        if not records:
            return
        try:
            self._log.restore(self._stream, records)
        except tuple(_REFUSALS) as error:
            self._broken.add(self._stream)
            yield Skipped(self._source.shown, _REFUSALS[type(error)], number, str(error))


def _record(line: Line) -> ExportLine | EndLine | Event | Forked:
    if line.text is None:
        raise RefusedError("too_long")
    try:
        decoded: AnyLine = _decode(line.text)
        return _restorable(decoded)
    except RecursionError as error:
        raise RefusedError("too_deep") from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise RefusedError("not_json", str(error)[:200]) from error


def _restorable(line: AnyLine) -> ExportLine | EndLine | Event | Forked:
    match line:
        case ForkedLine():
            return Forked(line.stream, line.parent, line.at, _NOWHERE, line.time_ns, _bytes(line.commit_id))
        case EventLine():
            return _event(line)
        case ExportLine() | EndLine():
            return line
        case _:
            assert_never(line)


def _event(line: EventLine) -> Event:
    return Event(
        stream=line.stream,
        version=line.version,
        position=_NOWHERE,
        type=line.type,
        data=line.data,
        meta=line.meta,
        time_ns=line.time_ns,
        commit_id=_bytes(line.commit_id),
        commit_index=line.commit_index,
        commit_size=line.commit_size,
        salt=_bytes(line.salt),
        digest=_bytes(line.digest),
    )


def _bytes(hexadecimal: str) -> bytes:
    return binascii.unhexlify(hexadecimal)
