"""The log on LMDB, blocking: for scripts, tests, synchronous clients and the command line. No event loop is involved.

Thin: what is written goes to the writer thread, what is read runs in short transactions. The promises are those of
`eventstore.log`; what only this engine has is documented here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from eventstore import _engine, _requests
from eventstore._files import DATA_FILE, make_parents, nursery_of, resolve_path, sync_path, translate_os_error
from eventstore._ledger import Ledger
from eventstore._lmdb import LARGEST_MAP_BYTES
from eventstore._reader import PAGE_EVENTS, check_digests
from eventstore._restore import BEGINNING, Behind, check_records, chunks, plan_restore
from eventstore.errors import ClosedError, LogInUseError, RestoreError
from eventstore.log import (
    MAX_VERSION,
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
    check_snapshot_name,
    check_stream_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from eventstore._lmdb import Transaction
    from eventstore._reader import Walk
    from eventstore._restore import Segment

T = TypeVar("T")
POLL_SECONDS: Final = 0.05  # how often `follow` looks for other processes' commits: 0.5 % of a core


class BlockingLmdbEventLog:
    """A log in the directory *path*, made if it is missing (unless `create=False`: `LogNotFoundError`).

    Every method is that of `EventLog`, blocking. Thread-safe; a path that is opened again in the same process shares
    one environment (with the same options, or `LogInUseError`), and other processes may open it too: LMDB's lock lets
    one write at a time, so they add no throughput.

    `durability="disk"`: an append has been flushed (data, then LMDB's meta page) when it returns. `"os"`: the operating
    system has it; a crash of the machine can lose the newest appends, and even damage the file.

    *clock* gives Unix time in nanoseconds, *entropy* n random bytes. *map_size_bytes* is address space, not disk.

    Raises `NotALogError`, `CorruptLogError`, `NewerFormatError`, `LogInUseError` (also if another process has it open
    with the other durability), `LogReplacedError`, `LogPermissionError`, `NetworkFileSystemError`, `InvalidPathError`,
    `AddressSpaceError`, `DiskFullError` or `LogUnavailableError`; nothing at the path was changed then.

    An append to a log whose directory was removed or replaced raises `LogReplacedError`: what is acknowledged stands in
    the file that is at the path. What is open may still be read.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Literal["disk", "os"] = "disk",
        create: bool = True,
        clock: Callable[[], int] = time.time_ns,
        entropy: Callable[[int], bytes] = os.urandom,
        map_size_bytes: int = LARGEST_MAP_BYTES,
    ) -> None:
        if durability not in {"disk", "os"}:
            raise ValueError(f"durability is 'disk' or 'os', not {durability!r}")
        self._durability = durability
        options = _engine.Options(durability=durability, clock=clock, entropy=entropy, map_size_bytes=map_size_bytes)
        self._open = [_engine.open_engine(path, options, create=create)]  # a list: of many who close, one can pop it
        self._path = self._open[0].path

    def __repr__(self) -> str:
        state = f"durability={self._durability!r}" if self._open else "closed"
        return f"<{type(self).__name__} {str(self._path)!r} {state}>"

    @property
    def path(self) -> Path:
        """The directory of the log."""
        return self._path

    @property
    def capabilities(self) -> Capabilities:
        """See `EventLog.capabilities`."""
        return Capabilities(durability=self.engine.options.durability, multi_process=True)

    @property
    def engine(self) -> _engine.Engine:
        """What is behind it, for this package. Raises `ClosedError`."""
        try:
            return self._open[0]
        except IndexError:
            raise ClosedError(str(self._path)) from None

    def append(
        self,
        stream: str,
        events: Sequence[NewEvent],
        *,
        expected: int | Expected = Expected.ANY,
        commit_id: bytes | None = None,
    ) -> Commit:
        """See `EventLog.append`."""
        engine = self.engine
        return engine.writer.call(_requests.append(engine.entropy, stream, events, expected, commit_id))

    def head(self, stream: str) -> Head | None:
        """See `EventLog.head`."""
        return self.engine.read(_requests.head(stream))

    def read(
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
        events: list[Event] = []
        for page in self.pages(stream, after=after, upto=upto, limit=limit, reverse=reverse, verify=verify):
            events += page
        return self.arrange(stream, events, reverse=reverse, verify=verify)

    def pages(
        self,
        stream: str,
        *,
        after: int = 0,
        upto: int | None = None,
        limit: int | None = None,
        reverse: bool = False,
        verify: bool = False,
    ) -> Iterator[list[Event]]:
        """The events of `read`, newest first in either case, a bounded page at a time, with their digests still to be
        checked. No transaction is open between two pages.
        """
        next_page = partial(self.engine.reader.walk_page, verify=verify)
        return self._pages(next_page, stream, after=after, upto=upto, limit=limit, reverse=reverse)

    def contents(
        self, stream: str, *, after: int = 0, upto: int | None = None, limit: int | None = None
    ) -> list[Content]:
        """See `EventLog.contents`."""
        contents: list[Content] = []
        for page in self.contents_pages(stream, after=after, upto=upto, limit=limit):
            contents += page
        contents.reverse()
        return contents

    def contents_pages(
        self, stream: str, *, after: int = 0, upto: int | None = None, limit: int | None = None
    ) -> Iterator[list[Content]]:
        """The contents of `contents`, newest first, as `pages` gives events."""
        next_page = self.engine.reader.contents_page
        return self._pages(next_page, stream, after=after, upto=upto, limit=limit, reverse=False)

    def _pages(
        self,
        next_page: Callable[[Transaction, str, Walk, int], tuple[list[T], Walk]],
        stream: str,
        *,
        after: int,
        upto: int | None,
        limit: int | None,
        reverse: bool,
    ) -> Iterator[list[T]]:
        check_stream_name(stream)
        check_bounds(after=after, upto=upto, limit=limit)
        top = MAX_VERSION if upto is None else upto
        if limit is not None and not reverse:
            top = min(top, after + limit)
        left = MAX_VERSION if limit is None else limit
        engine = self.engine
        read, reader = engine.environment.read, engine.reader

        def first_page(transaction: Transaction) -> tuple[list[T], Walk]:
            return next_page(transaction, stream, reader.start_walk(transaction, stream, after, top), left)

        page, walk = read(first_page)
        while page:
            left -= len(page)
            yield page
            if walk.version <= walk.after or not left:
                return
            here, most = walk, left
            page, walk = read(lambda transaction: next_page(transaction, stream, here, most))  # noqa: B023

    def arrange(self, stream: str, events: list[Event], *, reverse: bool, verify: bool) -> list[Event]:
        """*events* of `pages` in the order that was asked for, with their digests checked if it was."""
        engine = self.engine
        if verify and events:
            version = events[-1].version - 1
            previous = engine.environment.read(
                lambda transaction: engine.reader.digest_at(transaction, stream, version)
            )
            check_digests(events[::-1], previous)
        if not reverse:
            events.reverse()
        return events

    def read_all(self, *, after: Position = START, limit: int = 1000) -> list[Record]:
        """See `EventLog.read_all`."""
        check_bounds(limit=limit)
        engine = self.engine
        position = engine.reader.number(after)
        records: list[Record] = []
        while len(records) < limit:
            here, most = position, limit - len(records)
            page = engine.environment.read(
                lambda transaction: engine.reader.log_page(transaction, here, most)  # noqa: B023
            )
            if not page:
                break
            records += page
            position = engine.reader.number(page[-1].position)
        return records

    def fork(
        self,
        parent: str,
        child: str,
        *,
        at: int | None = None,
        events: Sequence[NewEvent] = (),
        commit_id: bytes | None = None,
    ) -> Head:
        """See `EventLog.fork`."""
        engine = self.engine
        return engine.writer.call(_requests.fork(engine.entropy, parent, child, at, events, commit_id))

    def children(self, stream: str) -> list[Head]:
        """See `EventLog.children`."""
        check_stream_name(stream)
        engine = self.engine
        return engine.environment.read(lambda transaction: engine.reader.children(transaction, stream))

    def streams(self, *, limit: int = 100, cursor: bytes | None = None) -> Page[Head]:
        """See `EventLog.streams`."""
        check_bounds(limit=limit)
        if limit < 1:
            raise ValueError("limit is at least 1: a page has room for a stream")
        engine = self.engine
        before = None if cursor is None else engine.reader.number(Position(cursor))
        heads, more = engine.environment.read(lambda transaction: engine.reader.streams(transaction, limit, before))
        return Page(heads, heads[-1].position if more else None)

    def delete(
        self, stream: str, *, expected: int | Expected = Expected.ANY, reason: str = "", actor: str = ""
    ) -> Deletion:
        """See `EventLog.delete`. Erased bytes stay in free pages of the file until `compact` rewrites it."""
        writer = self.engine.writer
        return writer.call(_requests.delete(writer.owe_erasure, stream, expected, reason, actor))

    def erase(self) -> int:
        """See `EventLog.erase`."""
        step = self.engine.writer.call(_requests.Request(lambda ledger: ledger.erase(resume=True)))
        erased, stopped = step.erased, step.stopped
        while step.more:
            step = self.engine.writer.call(_requests.Request(Ledger.erase))
            erased, stopped = erased + step.erased, stopped + step.stopped
        if stopped:
            raise stopped[0]
        return erased

    def restore(self, stream: str, records: Sequence[Event | Forked]) -> Head:
        """See `EventLog.restore`."""
        writer = self.engine.writer
        for segment in self._segments(stream, records):
            for part in chunks(segment):
                writer.call(_requests.restore(part))
        head = self.head(stream)
        assert head is not None, "it was just restored"
        return head

    def _segments(self, stream: str, records: Sequence[Event | Forked]) -> list[Segment]:
        """What to restore, every digest checked; a stream that is there has its ancestors, even deleted ones."""
        check_stream_name(stream)
        check_records(stream, records)
        segments = plan_restore(stream, records, self._behind(records[0]) if records else BEGINNING)
        return segments[-1:] if self.head(stream) else segments

    def _behind(self, first: Event | Forked) -> Behind:
        """What the log holds before *first*, if that is not the beginning. Raises `RestoreError` if it does not."""
        version = first.at if isinstance(first, Forked) else first.version - 1
        if version < 1:
            return BEGINNING
        source, head = first.stream, self.head(first.stream)
        if isinstance(first, Forked) and head is None:
            source, head = first.parent, self.head(first.parent)
        if head is None or head.version < version:
            raise RestoreError(first.stream, version + 1, f"the log does not hold version {version} of {source!r}")
        return Behind(self.read(source, after=version - 1, upto=version)[0], head.forked_at)

    def checkpoint(self) -> Checkpoint:
        """See `EventLog.checkpoint`."""
        engine = self.engine
        entries: list[CheckpointEntry] = []
        number = 0
        while True:
            here = number
            page, number = engine.environment.read(
                lambda transaction: engine.reader.checkpoint_page(transaction, here)  # noqa: B023
            )
            entries += page
            if not number:
                return Checkpoint(engine.log_id, engine.clock(), entries)

    def get_snapshot(self, stream: str, name: str, revision: int) -> Snapshot | None:
        """See `EventLog.get_snapshot`."""
        found = self.since_snapshot(stream, name, revision, upto=0)
        return found.snapshot if found else None

    def since_snapshot(self, stream: str, name: str, revision: int, *, upto: int | None = None) -> SinceSnapshot | None:
        """See `EventLog.since_snapshot`."""
        check_stream_name(stream)
        check_snapshot_name(name, revision)
        check_bounds(upto=upto)
        engine = self.engine
        top = MAX_VERSION if upto is None else upto
        return engine.environment.read(
            lambda transaction: engine.reader.since_snapshot(transaction, stream, name, revision, top)
        )

    def put_snapshot(self, stream: str, name: str, revision: int, version: int, data: bytes) -> None:
        """See `EventLog.put_snapshot`."""
        self.engine.writer.call(_requests.put_snapshot(stream, name, revision, version, data))

    def backup(self, target: str | os.PathLike[str], *, compact: bool = True) -> int:
        """Write a consistent copy of the log into the new directory *target*, while writers go on. Returns its bytes.

        The copy is complete and durable once it has its name; missing directories above it are made. An `os.fork()` in
        this process waits until it is done. Raises `LogInUseError` if *target* exists, `DiskFullError`,
        `LogPermissionError`, `LogNotFoundError` if a file stands where a directory above it would.

        The copy is the same log, as it was: used in the place of this one, it gives the positions that were handed out
        since to other records. One that it has not reached is refused (`InvalidCursorError`), one that it has reached
        again is not: whoever follows by positions has to begin anew.
        """
        engine, final = self.engine, resolve_path(target)
        try:
            if final.exists():
                raise LogInUseError(str(final), "it exists already; a backup is written to a new directory")
            make_parents(final)
            with nursery_of(final) as nursery:
                engine.environment.copy(nursery, compact=compact)
                size = (nursery / DATA_FILE).stat().st_size
                nursery.rename(final)
            sync_path(final.parent)
        except OSError as error:
            if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
                raise LogInUseError(str(final), "somebody else has just made it") from error
            raise translate_os_error(final, error) from error
        return size

    def compact(self) -> tuple[int, int]:
        """Rewrite the file without its free pages, where erased events linger. Returns its bytes before and after.

        Everybody in this process waits meanwhile. The file keeps owner, group and mode. Raises `LogInUseError` if
        another process has the log open, and `LogPermissionError` if this one may not give the new file to the owner of
        the old one; nothing was changed then.
        """
        return self.engine.compact()

    def follow(self, *, after: Position = START, stream: str | None = None) -> Iterator[Record]:
        """See `EventLog.follow`. Sees the commits of any process within `POLL_SECONDS` and what it takes to read them;
        `close` ends it with `ClosedError`.
        """
        while True:
            seen = self.last_transaction()
            while records := self.records_behind(after, stream):
                yield from records
                after = records[-1].position
            if self.is_over(after, stream):
                return
            while self.last_transaction() == seen:
                time.sleep(POLL_SECONDS)

    def records_behind(self, after: Position, stream: str | None) -> list[Record]:
        """A page of what `follow` gives next; empty: it has to wait, or it is over."""
        if stream is None:
            return self.read_all(after=after, limit=PAGE_EVENTS)
        check_stream_name(stream)
        engine = self.engine
        position = engine.reader.number(after)
        return engine.environment.read(
            lambda transaction: engine.reader.stream_page(transaction, stream, position, PAGE_EVENTS)
        )

    def is_over(self, after: Position, stream: str | None) -> bool:
        """Whether `follow` ends: *stream* was deleted, and the tombstone was given."""
        return stream is not None and self.engine.read(_requests.is_over(stream, after))

    def last_transaction(self) -> int:
        """The number of the newest commit of any process; it changes with each."""
        return self.engine.environment.last_transaction()

    def close(self) -> None:
        """See `EventLog.aclose`. In a signal handler that came in the middle of another use, the log closes in a thread
        of its own, as soon as that use is over.
        """
        with contextlib.suppress(IndexError):  # closed, perhaps by another thread a moment ago
            engine = self._open.pop()
            (_engine.release_later if engine.is_used_here() else _engine.release)(engine)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
