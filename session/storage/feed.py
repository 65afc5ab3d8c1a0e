"""What happened in all sessions of a log, in the order in which it did: for whoever keeps something current beside it.

A `Bookmark` says how far somebody has read, and finds out whether the log is still the one that was read.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from session.codec import decode_event, decode_meta
from session.errors import EventDataError
from session.events import StoredEvent
from session.storage._log import (
    START,
    BlockingLmdbEventLog,
    CorruptEventError,
    Deletion,
    Event,
    Forked,
    InvalidCursorError,
    Position,
    StreamDeletedError,
)
from session.storage.base import is_session_id

if TYPE_CHECKING:
    from session.storage._log import Record

_NANOSECONDS: Final = 1_000_000  # per millisecond


class EventHappened(msgspec.Struct, frozen=True):
    """An event was appended to the session itself: what a fork shares with its parent happened in the parent."""

    session_id: str
    stored: StoredEvent


class ForkMade(msgspec.Struct, frozen=True):
    """The session began as a fork of *parent_id* at its version *at*."""

    session_id: str
    parent_id: str
    at: int


class SessionDeleted(msgspec.Struct, frozen=True):
    """The session was deleted. Its forks keep what they share with it."""

    session_id: str


class RecordUnreadable(msgspec.Struct, frozen=True):
    """An event is damaged, or not what its type holds."""

    session_id: str
    version: int
    reason: str


Happening: TypeAlias = EventHappened | ForkMade | SessionDeleted | RecordUnreadable


class Bookmark(msgspec.Struct, frozen=True):
    """The record that was read last: its *position* behind that of the record *before*, its stream, what it was."""

    before: bytes
    position: bytes
    stream: str
    fingerprint: bytes


class FeedPage(msgspec.Struct, frozen=True):
    """What happened behind a bookmark, and the next bookmark; *bookmark* is the old one if there was nothing more."""

    happenings: list[Happening]
    bookmark: Bookmark | None


class Feed:
    """The whole log, page by page, by bookmarks."""

    def __init__(self, log: BlockingLmdbEventLog) -> None:
        self._log = log

    def read(self, behind: Bookmark | None, limit: int) -> FeedPage:
        """What *limit* records behind the bookmark tell of sessions; None: from the beginning.

        Damaged records are skipped and told of. Events of deleted sessions are missing once they are erased. Raises
        `InvalidCursorError` for a bookmark of another log, or of this one before it was put back.
        """
        after = Position(behind.position) if behind else START
        try:
            records = self._log.read_all(after=after, limit=limit)
        except CorruptEventError as error:
            if limit > 1:  # find it by halves: what stands before it is read first
                return self.read(behind, limit // 2)
            return _damage(after, error)
        if not records:
            return FeedPage([], behind)
        before = records[-2].position if len(records) > 1 else after
        happenings = [_happening(record) for record in records if is_session_id(record.stream)]
        last = records[-1]
        return FeedPage(happenings, Bookmark(before, last.position, last.stream, _fingerprint(last)))

    def holds(self, bookmark: Bookmark) -> bool:
        """Whether the log is the one in which *bookmark* was made, and has not been put back to before it."""
        try:
            records = self._log.read_all(after=Position(bookmark.before), limit=1)
        except InvalidCursorError:
            return False
        except CorruptEventError as error:
            return error.position == bookmark.position
        if records and records[0].position == bookmark.position:
            return _fingerprint(records[0]) == bookmark.fingerprint
        return bookmark.stream != "" and self._is_deleted(bookmark.stream)  # then the event was erased

    def _is_deleted(self, stream: str) -> bool:
        try:
            self._log.head(stream)
        except StreamDeletedError:
            return True
        return False


def _happening(record: Record) -> Happening:
    match record:
        case Event():
            return _event(record)
        case Forked():
            return ForkMade(record.stream, record.parent, record.at)
        case Deletion():
            return SessionDeleted(record.stream)


def _event(record: Event) -> Happening:
    try:
        event, meta = decode_event(record.type, record.data), decode_meta(record.meta)
    except EventDataError as error:
        return RecordUnreadable(record.stream, record.version, str(error))
    at = record.time_ns // _NANOSECONDS
    return EventHappened(record.stream, StoredEvent(record.version, at, event, meta, record.digest, record.position))


def _damage(after: bytes, error: CorruptEventError) -> FeedPage:
    told: list[Happening] = [RecordUnreadable(error.stream, error.version, str(error))]
    return FeedPage(told, Bookmark(after, error.position, error.stream, b""))


def _fingerprint(record: Record) -> bytes:
    digest = b"" if isinstance(record, Forked) else record.digest
    facts = f"{type(record).__name__} {record.stream} {record.time_ns} {digest.hex()}"
    return hashlib.sha256(facts.encode()).digest()
