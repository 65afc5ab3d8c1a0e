"""The event log in the words of sessions: the only module of `session` that touches `eventstore`.

A session is a stream, its id the stream's name. Events are encoded and decoded here; the log's errors about streams
become errors about sessions, and the others (`eventstore.EventStoreError`: a closed log, a full disk, a corrupt event)
pass through as they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar, cast

import msgspec

from eventstore import (
    START,
    BlockingLmdbEventLog,
    Checkpoint,
    Content,
    CorruptEventError,
    CorruptLogError,
    Deletion,
    DiskFullError,
    Event,
    EventLog,
    EventStoreError,
    EventTooLargeError,
    Expected,
    Forked,
    ForkPointError,
    Head,
    InvalidCursorError,
    InvalidStreamNameError,
    LmdbEventLog,
    LogInUseError,
    LogNotFoundError,
    NewerFormatError,
    NewEvent,
    NotALogError,
    Page,
    Position,
    ReadersFullError,
    Record,
    RestoreError,
    StreamDeletedError,
    StreamExistsError,
    StreamNotFoundError,
    WrongVersionError,
)
from session.codec import decode_event, decode_meta, encode_event, encode_meta
from session.errors import PlaceNotFoundError, SessionDeletedError, SessionExistsError, SessionNotFoundError
from session.events import NO_META, Meta, SessionForked, StoredEvent
from session.fold import FOLD_REVISION, Fold
from session.state import SessionState
from session.storage._now import together_in_threads
from session.storage._prefixes import Prefixes
from session.storage.base import check_session_id, is_session_id
from session.summary import SNAPSHOT_NAME

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence

    from eventstore.verify import Report
    from session.events import AnyEvent

__all__ = [
    "START",
    "Appended",
    "BlockingLmdbEventLog",
    "Checkpoint",
    "Content",
    "CorruptEventError",
    "CorruptLogError",
    "Deletion",
    "DiskFullError",
    "Event",
    "EventLog",
    "EventStoreError",
    "EventTooLargeError",
    "Forked",
    "Head",
    "InvalidCursorError",
    "InvalidStreamNameError",
    "LogInUseError",
    "LogNotFoundError",
    "NewerFormatError",
    "NotALogError",
    "Page",
    "Position",
    "ReadersFullError",
    "Record",
    "RestoreError",
    "SessionLog",
    "StreamDeletedError",
    "WrongVersionError",
    "add_contents",
    "at_once",
    "blocking_side",
    "check_log",
    "open_blocking",
    "open_log",
]

T = TypeVar("T")
LogPath: TypeAlias = "str | os.PathLike[str]"
Durability: TypeAlias = Literal["disk", "os"]

PAGE_EVENTS: Final = 512
_NANOSECONDS: Final = 1_000_000  # per millisecond


class Appended(msgspec.Struct, frozen=True):
    """Events were appended: versions *first* to *version*, recorded at *recorded_at* (Unix milliseconds). *digest* is
    that of the last one, and commits to everything before it.
    """

    session_id: str
    first: int
    version: int
    recorded_at: int
    digest: bytes


class SessionLog:
    """A log of sessions. Every method raises `InvalidSessionIdError`, and, unless it says otherwise,
    `SessionNotFoundError` for a session that never was and `SessionDeletedError` for one that was deleted.
    """

    def __init__(self, log: EventLog, *, blocking: bool = False) -> None:
        self.log: Final = log
        self.prefixes: Final = Prefixes()
        self._blocking = blocking

    async def append(
        self, session_id: str, events: Sequence[AnyEvent], *, expected: int | None, meta: Meta, commit_id: bytes | None
    ) -> Appended:
        """Append *events* in one commit; *expected*: the version the session is at, 0 if it is new, None for any.

        Raises `WrongVersionError` and what `encode_event` raises, nothing written.
        """
        check_session_id(session_id)
        encoded = [_encode(event, meta) for event in events]
        if expected is not None and expected < 0:  # the log would take some of them for "any"
            raise ValueError(f"expected is a version, 0 or None, and not {expected}")
        wanted = Expected.EXISTS if expected is None else expected
        with _in_words_of_sessions():
            try:
                commit = await self.log.append(session_id, encoded, expected=wanted, commit_id=commit_id)
            except WrongVersionError as error:
                if expected is None:
                    raise SessionNotFoundError(session_id) from error
                raise
        return Appended(session_id, commit.first, commit.version, _milliseconds(commit.time_ns), commit.digest)

    async def find(self, session_id: str) -> Head | None:
        """Where the session stands; None if it never was."""
        check_session_id(session_id)
        with _in_words_of_sessions():
            return await self.log.head(session_id)

    async def head(self, session_id: str) -> Head:
        """Where the session stands."""
        head = await self.find(session_id)
        if head is None:
            raise SessionNotFoundError(session_id)
        return head

    async def pages(
        self, session_id: str, *, after: int = 0, upto: int, reverse: bool = False, verify: bool = False
    ) -> AsyncIterator[list[Event]]:
        """The events with `after < version <= upto`, a page at a time."""
        while after < upto:
            with _in_words_of_sessions():
                page = await self.log.read(
                    session_id, after=after, upto=upto, limit=PAGE_EVENTS, reverse=reverse, verify=verify
                )
            if not page:
                return
            yield page
            after, upto = (after, page[-1].version - 1) if reverse else (page[-1].version, upto)

    async def read(self, session_id: str, *, after: int, upto: int, reverse: bool) -> list[StoredEvent]:
        """The first page of these events. Raises `EventDataError`."""
        async for page in self.pages(session_id, after=after, upto=upto, reverse=reverse):
            return [_decode(event) for event in page]
        return []

    async def grow(self, fold: Fold, session_id: str, upto: int) -> None:
        """Add to *fold* the events behind its version, up to version *upto*. Raises `EventDataError`."""
        while fold.version < upto:
            with _in_words_of_sessions():
                page = await self.log.contents(session_id, after=fold.version, upto=upto, limit=PAGE_EVENTS)
            if not page:
                return
            add_contents(fold, page)

    async def folded(self, session_id: str, upto: int) -> Fold:
        """The fold of all events up to version *upto*. Raises `EventDataError`."""
        fold = Fold(SessionState(id=session_id))
        await self.grow(fold, session_id, upto)
        return fold

    async def fork(
        self, parent: str, child: str, at: int, *, reason: str, meta: Meta, events: Sequence[AnyEvent] = ()
    ) -> str:
        """Make *child* a fork of *parent* at version *at*, *events* its first ones. Raises `SessionExistsError`,
        `PlaceNotFoundError`.
        """
        check_session_id(parent)
        check_session_id(child)
        own = [_encode(event, meta) for event in (SessionForked(child, parent, at, reason), *events)]
        with _in_words_of_sessions():
            await self.log.fork(parent, child, at=at, events=own)
        return child

    async def delete(self, session_id: str, *, reason: str, actor: str) -> None:
        """Delete the session. Nothing happens if it never was, or was deleted."""
        check_session_id(session_id)
        with contextlib.suppress(StreamNotFoundError):
            await self.log.delete(session_id, reason=reason, actor=actor)

    async def delete_idle(self, head: Head, *, reason: str, actor: str) -> bool:
        """Delete the session if it is still at *head*; whether it was this *actor* that did."""
        try:
            tombstone = await self.log.delete(head.stream, expected=head.version, reason=reason, actor=actor)
        except WrongVersionError:
            return False
        return tombstone.actor == actor  # of who was first

    async def idle(self, since_ns: int) -> list[Head]:
        """The sessions whose newest event is older than *since_ns* (Unix nanoseconds)."""
        found = []
        for session_id in await self.ids():
            with contextlib.suppress(SessionDeletedError):  # since the list was made
                head = await self.head(session_id)
                if head.updated_ns < since_ns:
                    found.append(head)
        return found

    async def ids(self) -> list[str]:
        """All living sessions. By the checkpoint: in the pages of `streams` one that becomes active may be missed."""
        checkpoint = await self.log.checkpoint()
        return [entry.stream for entry in checkpoint.entries if not entry.deleted and is_session_id(entry.stream)]

    async def newest(self, limit: int, cursor: bytes | None) -> Page[Head]:
        """The sessions with the newest activity. Streams that are no sessions are left out of the page."""
        page = await self.log.streams(limit=limit, cursor=cursor)
        return Page([head for head in page.items if is_session_id(head.stream)], page.cursor)

    async def children(self, session_id: str) -> list[Head]:
        """The living forks made directly of the session, oldest first."""
        with _in_words_of_sessions():
            return [head for head in await self.log.children(session_id) if is_session_id(head.stream)]

    async def since_snapshot(self, session_id: str, upto: int) -> tuple[bytes, list[Content]] | None:
        """Data of the snapshot of the session's summary, and the contents behind it up to version *upto*, for `refold`;
        none of them if they are many.
        """
        with _in_words_of_sessions():
            found = await self.log.since_snapshot(session_id, SNAPSHOT_NAME, FOLD_REVISION, upto=upto)
        return (found.snapshot.data, found.contents) if found else None

    async def snapshot(self, session_id: str) -> tuple[int, bytes] | None:
        """Version and data of the snapshot of the session's summary."""
        with _in_words_of_sessions():
            found = await self.log.get_snapshot(session_id, SNAPSHOT_NAME, FOLD_REVISION)
        return (found.version, found.data) if found else None

    async def keep_snapshot(self, session_id: str, version: int, data: bytes) -> None:
        """Keep *data*. It is a cache: where that fails (a full disk, a deletion in between), nothing is lost."""
        with contextlib.suppress(EventStoreError):
            await self.log.put_snapshot(session_id, SNAPSHOT_NAME, FOLD_REVISION, version, data)

    async def follow(self, session_id: str, after: int) -> AsyncIterator[StoredEvent]:
        """The events behind version *after*, and each new one as it is committed, until the session is deleted. Raises
        `PlaceNotFoundError`.
        """
        check_session_id(session_id)
        start = await self._position(session_id, after) if after else START
        with _in_words_of_sessions():
            async for record in self.log.follow(after=start, stream=session_id):
                if isinstance(record, Deletion):
                    return
                if isinstance(record, Event):
                    yield _decode(record)

    async def _position(self, session_id: str, version: int) -> Position:
        async for page in self.pages(session_id, after=version - 1, upto=version):
            return page[0].position
        raise PlaceNotFoundError(str(version), "the session has no such event")

    async def together(self, works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
        """The results of *works*, which run at the same time: what they write shares a few flushes."""
        return await together_in_threads(works) if self._blocking else list(await asyncio.gather(*works))


def open_log(given: LogPath | EventLog, durability: Durability, clock: Callable[[], int]) -> tuple[EventLog, bool]:
    """The log *given*, or the one at that path; and whether it was opened here."""
    if isinstance(given, str | os.PathLike):
        return LmdbEventLog(given, durability=durability, clock=clock), True
    return given, False


def open_blocking(
    given: LogPath | BlockingLmdbEventLog, durability: Durability, clock: Callable[[], int], *, create: bool = True
) -> tuple[BlockingLmdbEventLog, bool]:
    """As `open_log`, for a log without an event loop. Raises `LogNotFoundError` if there is none and not *create*."""
    if isinstance(given, BlockingLmdbEventLog):
        return given, False
    return BlockingLmdbEventLog(given, durability=durability, clock=clock, create=create), True


def check_log(
    path: LogPath,
    *,
    session_id: str | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """See `eventstore.verify.verify`: the whole log, or the lineage of one session, checked in a child process."""
    from eventstore.verify import verify  # noqa: PLC0415 - few ask for it

    return verify(path, stream=session_id, checkpoint=checkpoint, progress=progress)


def blocking_side(log: EventLog) -> SessionLog | None:
    """The same log for a worker thread, which reads and folds in one go there; None if it has no such side."""
    return SessionLog(at_once(log.blocking), blocking=True) if isinstance(log, LmdbEventLog) else None


def at_once(log: BlockingLmdbEventLog) -> EventLog:
    """*log* as an `EventLog` whose coroutines never wait for a loop."""
    return cast("EventLog", _AtOnce(log))


class _AtOnce:
    """Every method of the blocking log, as a coroutine that has its result when it is first stepped."""

    def __init__(self, log: BlockingLmdbEventLog) -> None:
        self._log = log

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        return partial(_answer, getattr(self._log, name))

    async def follow(self, **options: Any) -> AsyncIterator[Any]:  # noqa: ANN401 - those of the log
        for record in self._log.follow(**options):
            yield record


async def _answer(method: Callable[..., T], *values: Any, **options: Any) -> T:  # noqa: ANN401 - those of the method
    return method(*values, **options)


def add_contents(fold: Fold, contents: Sequence[Content]) -> None:
    """Add to *fold* what follows on it. Raises `EventDataError`."""
    for event in contents:
        fold.add(decode_event(event.type, event.data), event.time_ns // _NANOSECONDS)  # no call: a hot loop


@contextlib.contextmanager
def _in_words_of_sessions() -> Iterator[None]:
    try:
        yield
    except StreamNotFoundError as error:
        raise SessionNotFoundError(error.stream) from error
    except StreamDeletedError as error:
        raise SessionDeletedError(error.stream) from error
    except StreamExistsError as error:
        raise SessionExistsError(error.stream) from error
    except ForkPointError as error:
        raise PlaceNotFoundError(str(error.at), f"the session is at version {error.head}") from error


def _encode(event: AnyEvent, meta: Meta) -> NewEvent:
    event_type, data = encode_event(event)
    return NewEvent(event_type, data, encode_meta(meta))


def _decode(event: Event) -> StoredEvent:
    return StoredEvent(
        version=event.version,
        recorded_at=_milliseconds(event.time_ns),
        event=decode_event(event.type, event.data),
        meta=decode_meta(event.meta) if event.meta else NO_META,
        digest=event.digest,
        position=event.position,
    )


def _milliseconds(nanoseconds: int) -> int:
    return nanoseconds // _NANOSECONDS
