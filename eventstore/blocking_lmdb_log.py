"""The log on LMDB, blocking: for scripts, tests, synchronous clients and the command line. No event loop is involved.

Thin: what is written goes to the writer thread, what is read runs in short transactions. The promises are those of
`eventstore.log`; what only this engine has is documented here.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from eventstore import _engine, _requests
from eventstore._files import remove_directory, sync_path, translate_os_error
from eventstore._ledger import Ledger
from eventstore._lmdb import LARGEST_MAP_BYTES
from eventstore._reader import PAGE_EVENTS, check_digests
from eventstore._restore import chunks, plan_restore
from eventstore.errors import ClosedError, LogInUseError
from eventstore.log import (
    MAX_VERSION,
    START,
    Capabilities,
    Checkpoint,
    CheckpointEntry,
    Commit,
    Deletion,
    Event,
    Expected,
    Forked,
    Head,
    NewEvent,
    Page,
    Position,
    Record,
    Snapshot,
    check_stream_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType
    from typing import Self

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

    Raises `NotALogError`, `CorruptLogError`, `NewerFormatError`, `LogInUseError`, `LogPermissionError`,
    `NetworkFileSystemError`, `AddressSpaceError` or `DiskFullError`; nothing at the path was changed then.
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
        options = _engine.Options(durability=durability, clock=clock, entropy=entropy, map_size_bytes=map_size_bytes)
        self._open: _engine.Engine | None = _engine.open_engine(path, options, create=create)
        self._path = self._open.path

    def __repr__(self) -> str:
        state = f"durability={self._open.options.durability!r}" if self._open else "closed"
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
        if self._open is None:
            raise ClosedError(str(self._path))
        return self._open

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
        return engine.writer.call(_requests.append(engine.options.entropy, stream, events, expected, commit_id))

    def head(self, stream: str) -> Head | None:
        """See `EventLog.head`."""
        check_stream_name(stream)
        engine = self.engine
        return engine.environment.read(lambda transaction: engine.reader.head(transaction, stream))

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
        for page in self.pages(stream, after=after, upto=upto, limit=limit, reverse=reverse):
            events += page
        return self.arrange(stream, events, reverse=reverse, verify=verify)

    def pages(
        self, stream: str, *, after: int = 0, upto: int | None = None, limit: int | None = None, reverse: bool = False
    ) -> Iterator[list[Event]]:
        """The events of `read`, newest first in either case, a bounded page at a time. No transaction is open between
        two pages.
        """
        check_stream_name(stream)
        if after < 0 or (upto is not None and upto < 0) or (limit is not None and limit < 0):
            raise ValueError("after, upto and limit are not negative")
        top = MAX_VERSION if upto is None else upto
        if limit is not None and not reverse:
            top = min(top, after + limit)
        left = MAX_VERSION if limit is None else limit
        engine = self.engine
        read, reader = engine.environment.read, engine.reader
        walk = read(lambda transaction: reader.start_walk(transaction, stream, after, top))
        while walk.version > walk.after and left > 0:
            here, most = walk, left
            page, walk = read(lambda transaction: reader.walk_page(transaction, stream, here, most))  # noqa: B023
            left -= len(page)
            yield page

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
        return engine.writer.call(_requests.fork(engine.options.entropy, parent, child, at, events, commit_id))

    def children(self, stream: str) -> list[Head]:
        """See `EventLog.children`."""
        check_stream_name(stream)
        engine = self.engine
        return engine.environment.read(lambda transaction: engine.reader.children(transaction, stream))

    def streams(self, *, limit: int = 100, cursor: bytes | None = None) -> Page[Head]:
        """See `EventLog.streams`."""
        if limit < 1:
            raise ValueError("a page has room for at least one stream")
        engine = self.engine
        before = None if cursor is None else engine.reader.number(Position(cursor))
        heads = engine.environment.read(lambda transaction: engine.reader.streams(transaction, limit + 1, before))
        more = len(heads) > limit
        return Page(heads[:limit], heads[limit - 1].position if more else None)

    def delete(
        self, stream: str, *, expected: int | Expected = Expected.ANY, reason: str = "", actor: str = ""
    ) -> Deletion:
        """See `EventLog.delete`. Erased bytes stay in free pages of the file until `compact` rewrites it."""
        writer = self.engine.writer
        return writer.call(_requests.delete(writer.owe_erasure, stream, expected, reason, actor))

    def erase(self) -> int:
        """See `EventLog.erase`."""
        erased, more = 0, True
        while more:
            step = self.engine.writer.call(_requests.Request(Ledger.erase))
            erased, more = erased + step.erased, step.more
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
        segments = plan_restore(stream, records)
        return segments[-1:] if self.head(stream) else segments

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
                return Checkpoint(engine.log_id, engine.options.clock(), entries)

    def get_snapshot(self, stream: str, name: str, revision: int) -> Snapshot | None:
        """See `EventLog.get_snapshot`."""
        check_stream_name(stream)
        engine = self.engine
        return engine.environment.read(lambda transaction: engine.reader.snapshot(transaction, stream, name, revision))

    def put_snapshot(self, stream: str, name: str, revision: int, version: int, data: bytes) -> None:
        """See `EventLog.put_snapshot`. *name* has at most 64 bytes of UTF-8."""
        self.engine.writer.call(_requests.put_snapshot(stream, name, revision, version, data))

    def backup(self, target: str | os.PathLike[str], *, compact: bool = True) -> int:
        """Write a consistent copy of the log into the new directory *target*, while writers go on. Returns its bytes.

        The copy is complete and durable once it has its name. Raises `LogInUseError` if *target* exists,
        `DiskFullError`, `LogPermissionError`.
        """
        engine, final = self.engine, Path(target).expanduser().resolve()
        nursery = final.parent / f".{final.name}.new-{engine.options.entropy(8).hex()}"
        try:
            if final.exists():
                raise LogInUseError(str(final), "it exists already; a backup is written to a new directory")
            nursery.mkdir(mode=0o700, parents=True)
            engine.environment.copy(nursery, compact=compact)
            nursery.rename(final)
            sync_path(final.parent)
        except OSError as error:
            raise translate_os_error(final, error) from error
        finally:
            remove_directory(nursery)
        return (final / "data.mdb").stat().st_size

    def compact(self) -> tuple[int, int]:
        """Rewrite the file without its free pages, where erased events linger. Returns its bytes before and after.

        Everybody in this process waits meanwhile. Raises `LogInUseError` if another process has the log open.
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
        if stream is None:
            return False
        engine = self.engine
        position = engine.reader.number(after)
        return engine.environment.read(
            lambda transaction: engine.reader.is_deleted_before(transaction, stream, position)
        )

    def last_transaction(self) -> int:
        """The number of the newest commit of any process; it changes with each."""
        return self.engine.environment.last_transaction()

    def close(self) -> None:
        """See `EventLog.aclose`."""
        engine, self._open = self._open, None
        if engine is not None:
            _engine.release(engine)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
