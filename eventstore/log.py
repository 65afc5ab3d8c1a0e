"""The event log: its protocol, its value types, and what it promises.

Bytes in, bytes out: the log knows nothing of what an event means. Every engine keeps these promises;
`eventstore.testing` holds a test for each, named after it, and any engine can be put to them.

P1  Durable. When `append` returns, the events have reached what `capabilities.durability` names: "disk" survives a
    power cut, "os" the death of the process, "memory" nothing. If the process dies first they may be there or not,
    never in part.
P2  Ordered. The versions of a stream are dense from 1; positions follow the order of commits; no event ever appears
    behind a position that was already handed out.
P3  Expected version. `Expected.ANY`, `Expected.EXISTS`, `Expected.NO_STREAM` or an exact number. A wrong expectation
    writes nothing and raises `WrongVersionError`.
P4  Idempotent. An append repeated with the same commit id and content returns the first commit and writes nothing: for
    a numbered expectation always, for the others while the first commit is the stream's newest, or began within its
    newest `RECENT_EVENTS` events. The same id with anything else raises `CommitIdReusedError`. Forks likewise.
P5  A fork costs the same at any version, depth and length of its parent, and copies nothing. Parent and child never see
    each other's later events.
P6  Deletion leaves a tombstone, durable before anything is erased. The name is never reused. Erasure spares what a
    living fork still reaches, and frees it with the last such fork.
P7  Tamper-evident. `digest = sha256("refold1" || digest of the event before it in the lineage (32 zero bytes at version
    1) || version || time_ns || commit_id || stream || type || sha256(meta) || commitment)` with `commitment =
    sha256(salt || data)`, integers as 8 bytes big-endian, and commit_id, stream and type each behind its length in 4
    bytes big-endian. `stream` is the stream the event was appended to, so a fork's lineage keeps its parent's digests.
P8  Nothing silent. A damaged record raises `CorruptEventError`; every failure has an error of its own, and none loses
    an acknowledged event.

What "the same" means in P4. A numbered expectation n means the commit that starts at version n + 1; if another commit
stands there, a commit of this id among the recent ones is a reused id, and otherwise the version is wrong. ANY and
EXISTS look among the recent commits only. Only the stream's own commits count, not those it inherited by a fork. With
the same id, the number of events and each type, meta and data must be equal. The id of the fork that a stream began
with is taken for good: an append with it repeats the fork's events or raises `CommitIdReusedError`.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Generic, Literal, NewType, Protocol, TypeAlias, TypeVar

import msgspec

from eventstore.errors import EventTooLargeError, InvalidEventError, InvalidStreamNameError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType
    from typing import Self

T = TypeVar("T")

MAX_STREAM_NAME_BYTES: Final = 255  # of UTF-8
MAX_TYPE_BYTES: Final = 255  # of UTF-8
MAX_EVENT_BYTES: Final = 128 * 2**20  # meta and data of one event together
MAX_COMMIT_BYTES: Final = 512 * 2**20  # meta and data of all events of one append
MAX_COMMIT_EVENTS: Final = 65_536
MAX_TOMBSTONE_BYTES: Final = 4_096  # of UTF-8, reason and actor each
MAX_SNAPSHOT_NAME_BYTES: Final = 64  # of UTF-8
MAX_SNAPSHOT_BYTES: Final = 16 * 2**20  # a cache of a fold, not a copy of what it folded
MAX_SNAPSHOT_REVISION: Final = 2**32 - 1
MAX_VERSION: Final = 2**32 - 1
COMMIT_ID_BYTES: Final = 16
SALT_BYTES: Final = 16
RECENT_EVENTS: Final = 256
NO_DIGEST: Final = bytes(32)  # stands before version 1

Position = NewType("Position", bytes)
"""A place in the whole log, opaque: 16 bytes that compare in log order and name their log."""

START: Final = Position(b"")
"""Before the first event of any log."""


class Expected(enum.IntEnum):
    """What an append requires of its stream, where it is not an exact version."""

    NO_STREAM = 0  # empty or never created
    ANY = -1
    EXISTS = -2  # created, even if empty


_LEAST_EXPECTED: Final = int(Expected.EXISTS)


class NewEvent(msgspec.Struct, frozen=True, gc=False):
    """An event to append. `type`, `meta` and `data` are the caller's own."""

    type: str
    data: bytes
    meta: bytes = b""


class Event(msgspec.Struct, frozen=True, gc=False, tag_field="record", tag="event"):
    """An event as it is stored.

    `stream` is the stream it was appended to: an ancestor's name, where a fork's lineage reaches back.
    `commit_index` counts from 0 to `commit_size` - 1 within its commit. `salt` and `time_ns` (Unix time, nanoseconds)
    are what an export needs besides the content, so that `restore` finds the same `digest` (P7).
    """

    stream: str
    version: int
    position: Position
    type: str
    data: bytes
    meta: bytes
    time_ns: int
    commit_id: bytes
    commit_index: int
    commit_size: int
    salt: bytes
    digest: bytes


class Content(msgspec.Struct, frozen=True, gc=False):
    """What a fold needs of an event; see `EventLog.contents`."""

    version: int
    type: str
    data: bytes
    meta: bytes
    time_ns: int


class Forked(msgspec.Struct, frozen=True, gc=False, tag_field="record", tag="forked"):
    """A stream began as a fork: its lineage is *parent*'s up to version *at*, then its own events."""

    stream: str
    parent: str
    at: int
    position: Position
    time_ns: int
    commit_id: bytes


class Deletion(msgspec.Struct, frozen=True, gc=False, tag_field="record", tag="deleted"):
    """The tombstone of a stream: where it stood when it was deleted, why, and by whom."""

    stream: str
    version: int
    digest: bytes
    reason: str
    actor: str
    position: Position
    time_ns: int


Record: TypeAlias = Event | Forked | Deletion
"""What stands in the log as a whole."""


class Commit(msgspec.Struct, frozen=True, gc=False):
    """The events of one append: versions *first* to *version* of *stream*, whose *position* and *digest* these are."""

    stream: str
    first: int
    version: int
    position: Position
    time_ns: int
    commit_id: bytes
    digest: bytes


class Head(msgspec.Struct, frozen=True, gc=False):
    """Where a stream stands.

    `position` and `updated_ns` tell of its newest own event, or of its fork if it has none. `digest` is that of its
    newest event, its ancestors' included (`NO_DIGEST` if it is empty), and so commits to the whole lineage.
    """

    stream: str
    version: int
    digest: bytes
    position: Position
    created_ns: int
    updated_ns: int
    forked: Forked | None = None

    @property
    def parent(self) -> str | None:
        """The stream it was forked from."""
        return self.forked.parent if self.forked else None

    @property
    def forked_at(self) -> int:
        """The version it was forked at; its own events come after it. 0 if it is no fork."""
        return self.forked.at if self.forked else 0


class Snapshot(msgspec.Struct, frozen=True, gc=False):
    """A cached fold of a stream's lineage up to *version*, made by revision *revision* of the fold called *name*.
    *digest* is the event's at that version: a snapshot belongs to one history.
    """

    stream: str
    name: str
    revision: int
    version: int
    digest: bytes
    data: bytes


class SinceSnapshot(msgspec.Struct, frozen=True, gc=False):
    """A snapshot, and what came behind it; see `EventLog.since_snapshot`."""

    snapshot: Snapshot
    contents: list[Content]


class CheckpointEntry(msgspec.Struct, frozen=True, gc=False):
    """A stream stood at *version* with *digest* when the checkpoint was made; *deleted*: it was a tombstone by then."""

    stream: str
    version: int
    digest: bytes
    deleted: bool = False


class Checkpoint(msgspec.Struct, frozen=True):
    """Every head of a log, to be kept elsewhere: what `verify` needs to notice a rewritten chain or a cut tail, which
    the chain alone cannot show, for it has no key.
    """

    log_id: bytes
    time_ns: int
    entries: list[CheckpointEntry]

    def to_json(self) -> bytes:
        """JSON text; bytes as base64."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, text: bytes) -> Checkpoint:
        """Inverse of `to_json`. Raises `ValueError` (`msgspec.DecodeError`) for anything else."""
        return msgspec.json.decode(text, type=cls)


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Some items, and the cursor that asks for the next ones; None: there are no more."""

    items: list[T]
    cursor: bytes | None


class Capabilities(msgspec.Struct, frozen=True):
    """What an engine does for its callers, and where it ends."""

    durability: Literal["memory", "os", "disk"]
    multi_process: bool
    max_event_bytes: int = MAX_EVENT_BYTES
    max_commit_bytes: int = MAX_COMMIT_BYTES
    max_commit_events: int = MAX_COMMIT_EVENTS
    recent_events: int = RECENT_EVENTS


class EventLog(Protocol):
    """An append-only log of named streams. See the module's head for P1..P8.

    Every method raises `ClosedError` after `aclose`, `InvalidStreamNameError` for a name that cannot be one, and
    `StreamDeletedError` for a stream that was deleted, unless it says otherwise.
    """

    @property
    def capabilities(self) -> Capabilities:
        """What an acknowledged append survives, and the limits."""
        ...

    async def append(
        self,
        stream: str,
        events: Sequence[NewEvent],
        *,
        expected: int | Expected = Expected.ANY,
        commit_id: bytes | None = None,
    ) -> Commit:
        """Add *events* to the end of *stream*, all or none, and create it if it does not exist.

        When this returns they have reached the disk (see `capabilities.durability`). If the process dies first, or the
        call is cancelled, they may be there or not, never in part: retry with the same *commit_id* (16 bytes; a random
        one by default).

        Raises `WrongVersionError`, `CommitIdReusedError`, `InvalidEventError` (no events, a bad type, a bad commit id)
        or `EventTooLargeError`, each having written nothing.
        """
        ...

    async def head(self, stream: str) -> Head | None:
        """Where *stream* stands; None if it was never created."""
        ...

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
        """The events of the lineage with `after < version <= upto`, oldest first, or newest first if *reverse*; the
        first *limit* of them in that order. Bounds beyond the head are clipped.

        With *verify* their digests are recomputed and compared. Raises `StreamNotFoundError`, `CorruptEventError`, and
        `ValueError` for a negative bound.
        """
        ...

    async def contents(
        self, stream: str, *, after: int = 0, upto: int | None = None, limit: int | None = None
    ) -> list[Content]:
        """What the events of `read` say, oldest first, without their place in the log, commit, salt and digest: less
        work, for folds of long streams. What is checked, and what is raised, is the same.
        """
        ...

    async def read_all(self, *, after: Position = START, limit: int = 1000) -> list[Record]:
        """The records of the whole log behind position *after*, in log order: events, forks and deletions. Events of
        deleted streams are missing once they are erased. Raises `InvalidCursorError` for a position of another log, or
        beyond the newest record (the log was put back to an earlier state since it was handed out), and `ValueError`
        for a negative *limit*.
        """
        ...

    async def fork(
        self,
        parent: str,
        child: str,
        *,
        at: int | None = None,
        events: Sequence[NewEvent] = (),
        commit_id: bytes | None = None,
    ) -> Head:
        """Create *child*, whose lineage is *parent*'s up to version *at* (default: its head; 0 is allowed), followed by
        *events* in the same commit. Durable as an append is.

        A fork repeated with the same *commit_id*, parent, events and *at* (or without *at*) returns the head as the
        first one left it. Raises `StreamNotFoundError`, `StreamDeletedError` (of either name), `StreamExistsError`,
        `CommitIdReusedError` or `ForkPointError`, having written nothing.
        """
        ...

    async def children(self, stream: str) -> list[Head]:
        """The heads of the living forks made directly of *stream*, oldest fork first. Raises `StreamNotFoundError`."""
        ...

    async def streams(self, *, limit: int = 100, cursor: bytes | None = None) -> Page[Head]:
        """The living streams, newest activity first. A stream that becomes active between two pages may be met twice
        or, having moved to the front, not at all. Raises `InvalidCursorError`, and `ValueError` for a *limit* below 1.
        """
        ...

    async def delete(
        self, stream: str, *, expected: int | Expected = Expected.ANY, reason: str = "", actor: str = ""
    ) -> Deletion:
        """Put up the tombstone, durably, and erase in the background what no living fork reaches.

        Deleting again returns the first tombstone. Raises `StreamNotFoundError` or `WrongVersionError`.
        """
        ...

    async def erase(self) -> int:
        """Do now what erasure deletions still owe, and return how many events that erased.

        Raises `CorruptEventError`, once all others are done, if one stream could not be erased because of damage;
        background erasure sets such a stream aside, and `verify` reports it.
        """
        ...

    def follow(self, *, after: Position = START, stream: str | None = None) -> AsyncIterator[Record]:
        """Every record behind *after*, and then each new one as it is committed, by this process or another; it never
        ends by itself. With *stream*: only the events of its lineage, ending after its `Deletion`; once it is deleted,
        only that. Raises, when first asked, `InvalidCursorError` or `StreamNotFoundError`.
        """
        ...

    async def restore(self, stream: str, records: Sequence[Event | Forked]) -> Head:
        """Write an exported lineage back: the events as `read` gave them, from version 1 on, with the `Forked` record
        of a fork (see `export`) before its first own event.

        Ancestors that the log does not have are restored as far as the lineage reaches. Events that are there already
        are compared by digest, a missing tail is added: an interrupted restore is simply repeated.

        A long lineage may come in parts: *records* may begin behind version 1, or with the `Forked` record of *stream*,
        where the log holds what comes before.

        Every digest is recomputed first. Raises `RestoreError` if one differs, having written nothing, or if the log
        holds another history under one of the names.
        """
        ...

    async def checkpoint(self) -> Checkpoint:
        """Every head, deleted streams included.

        Each entry was true at some moment of this call, not all at the same one: writers go on meanwhile, and a stream
        that is created meanwhile may be missing.
        """
        ...

    async def get_snapshot(self, stream: str, name: str, revision: int) -> Snapshot | None:
        """The newest snapshot *name* of *stream*, if it was made by *revision* and still belongs to its history.
        Raises `StreamNotFoundError`.
        """
        ...

    async def since_snapshot(
        self, stream: str, name: str, revision: int, *, upto: int | None = None
    ) -> SinceSnapshot | None:
        """The snapshot that `get_snapshot` gives, and the contents behind it up to version *upto* (default: the head):
        what a fold goes on from, in one read. An engine gives all of them, or none if they are many (LMDB: more than
        256 or 4 MiB), which `contents` then has. Raises `StreamNotFoundError`, and `ValueError` for a negative *upto*.
        """
        ...

    async def put_snapshot(self, stream: str, name: str, revision: int, version: int, data: bytes) -> None:
        """Keep *data* as the snapshot *name* at *version*, replacing any other of that name. Raises
        `StreamNotFoundError`, `ValueError` for a version beyond the head or a name over 64 bytes of UTF-8, and
        `EventTooLargeError` for more than 16 MiB.
        """
        ...

    async def aclose(self) -> None:
        """Finish what was begun and release everything. Closing twice is fine."""
        ...

    async def __aenter__(self) -> Self:
        """The log itself."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """`aclose`."""
        ...


async def export(log: EventLog, stream: str) -> list[Event | Forked]:
    """The whole lineage of *stream* in the form that `restore` takes. Raises `StreamNotFoundError`."""
    head = await log.head(stream)
    records: list[Event | Forked] = list(await log.read(stream, upto=head.version if head else None))
    if head and head.forked:
        records.insert(head.forked.at, head.forked)
    return records


def check_stream_name(stream: str) -> bytes:
    """The name in UTF-8. Raises `InvalidStreamNameError`: 1 to 255 bytes, no control characters, no lone surrogates."""
    if type(stream) is not str:
        raise InvalidStreamNameError(stream, "it is not a string")
    return _encode_name(stream)


@lru_cache(maxsize=4_096)
def _encode_name(stream: str) -> bytes:
    try:
        encoded = stream.encode()
    except UnicodeEncodeError as error:
        raise InvalidStreamNameError(stream, "it has a lone surrogate") from error
    if not encoded:
        raise InvalidStreamNameError(stream, "it is empty")
    if len(encoded) > MAX_STREAM_NAME_BYTES:
        raise InvalidStreamNameError(stream, f"longer than {MAX_STREAM_NAME_BYTES} bytes of UTF-8")
    if any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in stream):  # noqa: PLR2004
        raise InvalidStreamNameError(stream, "it has a control character")
    return encoded


def check_events(events: Sequence[NewEvent], *, at_least: int = 1) -> int:
    """The bytes of meta and data. Raises `InvalidEventError` or `EventTooLargeError` for what no engine takes."""
    if not isinstance(events, list | tuple | Sequence):  # an abstract class is asked last: it takes longer
        raise InvalidEventError("the events of an append are a sequence")
    if len(events) < at_least:
        raise InvalidEventError("an append needs at least one event")
    if len(events) > MAX_COMMIT_EVENTS:
        raise EventTooLargeError("commit (events)", len(events), MAX_COMMIT_EVENTS)
    total = 0
    for event in events:
        if not isinstance(event, NewEvent):
            raise InvalidEventError("an event to append is a NewEvent")
        check_type(event.type)
        if type(event.data) is not bytes or type(event.meta) is not bytes:
            raise InvalidEventError("data and meta must be bytes")
        size = len(event.data) + len(event.meta)
        if size > MAX_EVENT_BYTES:
            raise EventTooLargeError("event (bytes)", size, MAX_EVENT_BYTES)
        total += size
    if total > MAX_COMMIT_BYTES:
        raise EventTooLargeError("commit (bytes)", total, MAX_COMMIT_BYTES)
    return total


def check_type(name: str) -> bytes:
    """The type in UTF-8. Raises `InvalidEventError` or `EventTooLargeError`."""
    if type(name) is not str or not name:
        raise InvalidEventError("an event type is a string that is not empty")
    return _encode_type(name)


@lru_cache(maxsize=4_096)
def _encode_type(name: str) -> bytes:
    try:
        encoded = name.encode()
    except UnicodeEncodeError as error:
        raise InvalidEventError("an event type has a lone surrogate") from error
    if len(encoded) > MAX_TYPE_BYTES:
        raise EventTooLargeError("event type (bytes)", len(encoded), MAX_TYPE_BYTES)
    return encoded


def check_commit_id(commit_id: bytes) -> None:
    """Raise `InvalidEventError` unless it is 16 bytes."""
    if type(commit_id) is not bytes or len(commit_id) != COMMIT_ID_BYTES:
        raise InvalidEventError(f"a commit id is {COMMIT_ID_BYTES} bytes")


def check_expected(expected: int) -> None:
    """Raise `InvalidEventError` unless it is an `Expected` or a version."""
    if (type(expected) is not int and type(expected) is not Expected) or not _LEAST_EXPECTED <= expected <= MAX_VERSION:
        raise InvalidEventError(f"{expected!r} is no expected version")


def check_fork_point(at: int | None) -> None:
    """Raise `InvalidEventError` unless it could be a version."""
    if at is not None and type(at) is not int:
        raise InvalidEventError(f"{at!r} is no version to fork at")


def check_bounds(**bounds: int | None) -> None:
    """Raise `ValueError` for a bound that is no whole number, or negative; None: there is no bound."""
    for name, bound in bounds.items():
        if bound is not None and (type(bound) is not int or bound < 0):
            raise ValueError(f"{name} is a whole number, not negative, and not {bound!r}")


def check_snapshot_name(name: str, revision: int) -> bytes:
    """The name in UTF-8. Raises `ValueError`."""
    if type(name) is not str or not 0 < len(name.encode(errors="replace")) <= MAX_SNAPSHOT_NAME_BYTES:
        raise ValueError(f"a snapshot's name has 1 to {MAX_SNAPSHOT_NAME_BYTES} bytes of UTF-8")
    if type(revision) is not int or not 0 <= revision <= MAX_SNAPSHOT_REVISION:
        raise ValueError(f"a snapshot's revision is a number up to {MAX_SNAPSHOT_REVISION}, not {revision!r}")
    return name.encode()


def check_snapshot_data(data: bytes) -> None:
    """Raise `ValueError` or `EventTooLargeError`."""
    if type(data) is not bytes:
        raise ValueError("a snapshot's data are bytes")
    if len(data) > MAX_SNAPSHOT_BYTES:
        raise EventTooLargeError("snapshot (bytes)", len(data), MAX_SNAPSHOT_BYTES)


def check_tombstone(reason: str, actor: str) -> None:
    """Raise `InvalidEventError` for a reason or an actor that a tombstone cannot keep."""
    for text in (reason, actor):
        if type(text) is not str:
            raise InvalidEventError("a reason or actor is a string")
        try:
            size = len(text.encode())
        except UnicodeEncodeError as error:
            raise InvalidEventError("a reason or actor has a lone surrogate") from error
        if size > MAX_TOMBSTONE_BYTES:
            raise EventTooLargeError("reason or actor (bytes)", size, MAX_TOMBSTONE_BYTES)
