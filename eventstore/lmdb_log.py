"""The log on LMDB: `BlockingLmdbEventLog` for scripts and threads, `LmdbEventLog` for event loops.

Both are thin: what is written goes to the writer thread, what is read runs in short transactions. The promises are
those of `eventstore.log`; what only this engine has is documented here.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from eventstore import _engine
from eventstore._files import sync_path
from eventstore._layout import MAX_SNAPSHOT_NAME_BYTES
from eventstore._ledger import Ledger, prepare
from eventstore._lmdb import LARGEST_MAP_BYTES
from eventstore._reader import PAGE_EVENTS, check_digests
from eventstore._restore import chunks, plan_restore
from eventstore.errors import ClosedError, LogInUseError
from eventstore.log import (
    COMMIT_ID_BYTES,
    MAX_COMMIT_BYTES,
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
    check_commit_id,
    check_events,
    check_expected,
    check_stream_name,
    check_tombstone,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from eventstore._restore import Segment
    from eventstore._writer import Writer

T = TypeVar("T")
POLL_SECONDS: Final = 0.05  # how often `follow` looks for other processes' commits: 0.5 % of a core
_READ_THREADS: Final = 4


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
        return Capabilities(durability=self._engine.options.durability, multi_process=True)

    @property
    def _engine(self) -> _engine.Engine:
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
        work, size = self.prepare_append(stream, events, expected, commit_id)
        return self._engine.writer.call(work, size)

    def prepare_append(
        self, stream: str, events: Sequence[NewEvent], expected: int, commit_id: bytes | None
    ) -> tuple[Callable[[Ledger], Commit], int]:
        """Check and hash in the caller's thread; what is left is for the writer. Also its size in bytes."""
        entropy = self._engine.options.entropy
        name = check_stream_name(stream)
        check_events(events)
        check_expected(expected)
        if commit_id is not None:
            check_commit_id(commit_id)
        chosen = commit_id or entropy(COMMIT_ID_BYTES)
        prepared = prepare(events, entropy)
        size = sum(len(event.data) + len(event.meta) for event in prepared)
        named = commit_id is not None
        return lambda ledger: ledger.append(name, prepared, expected, chosen, named=named), size

    def head(self, stream: str) -> Head | None:
        """See `EventLog.head`."""
        check_stream_name(stream)
        engine = self._engine
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
        engine = self._engine
        read, reader = engine.environment.read, engine.reader
        walk = read(lambda transaction: reader.start_walk(transaction, stream, after, top))
        while walk.version > walk.after and left > 0:
            here, most = walk, left
            page, walk = read(lambda transaction: reader.walk_page(transaction, stream, here, most))  # noqa: B023
            left -= len(page)
            yield page

    def arrange(self, stream: str, events: list[Event], *, reverse: bool, verify: bool) -> list[Event]:
        """*events* of `pages` in the order that was asked for, with their digests checked if it was."""
        engine = self._engine
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
        engine = self._engine
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
        work, size = self.prepare_fork(parent, child, at, events, commit_id)
        return self._engine.writer.call(work, size)

    def prepare_fork(
        self, parent: str, child: str, at: int | None, events: Sequence[NewEvent], commit_id: bytes | None
    ) -> tuple[Callable[[Ledger], Head], int]:
        """As `prepare_append`."""
        entropy = self._engine.options.entropy
        source, name = check_stream_name(parent), check_stream_name(child)
        check_events(events, at_least=0)
        if commit_id is not None:
            check_commit_id(commit_id)
        chosen = commit_id or entropy(COMMIT_ID_BYTES)
        prepared = prepare(events, entropy)
        size = sum(len(event.data) + len(event.meta) for event in prepared)
        named = commit_id is not None
        return lambda ledger: ledger.fork(source, name, at, prepared, chosen, named=named), size

    def children(self, stream: str) -> list[Head]:
        """See `EventLog.children`."""
        check_stream_name(stream)
        engine = self._engine
        return engine.environment.read(lambda transaction: engine.reader.children(transaction, stream))

    def streams(self, *, limit: int = 100, cursor: bytes | None = None) -> Page[Head]:
        """See `EventLog.streams`."""
        if limit < 1:
            raise ValueError("a page has room for at least one stream")
        engine = self._engine
        before = None if cursor is None else engine.reader.number(Position(cursor))
        heads = engine.environment.read(lambda transaction: engine.reader.streams(transaction, limit + 1, before))
        more = len(heads) > limit
        return Page(heads[:limit], heads[limit - 1].position if more else None)

    def delete(
        self, stream: str, *, expected: int | Expected = Expected.ANY, reason: str = "", actor: str = ""
    ) -> Deletion:
        """See `EventLog.delete`. Erased bytes stay in free pages of the file until `compact` rewrites it."""
        return self._engine.writer.call(self.prepare_delete(stream, expected, reason, actor))

    def prepare_delete(self, stream: str, expected: int, reason: str, actor: str) -> Callable[[Ledger], Deletion]:
        """As `prepare_append`."""
        name = check_stream_name(stream)
        check_expected(expected)
        check_tombstone(reason, actor)
        writer = self._engine.writer

        def work(ledger: Ledger) -> Deletion:
            deletion = ledger.delete(name, expected, reason, actor)
            writer.owe_erasure()
            return deletion

        return work

    def erase(self) -> int:
        """See `EventLog.erase`."""
        erased, more = 0, True
        while more:
            step = self._engine.writer.call(Ledger.erase)
            erased, more = erased + step.erased, step.more
        return erased

    def restore(self, stream: str, records: Sequence[Event | Forked]) -> Head:
        """See `EventLog.restore`."""
        writer = self._engine.writer
        for segment in self._segments(stream, records):
            for part in chunks(segment):
                writer.call(partial(_restore, part), MAX_COMMIT_BYTES)
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
        engine = self._engine
        entries: list[CheckpointEntry] = []
        name = b""
        while True:
            here = name
            page, name = engine.environment.read(
                lambda transaction: engine.reader.checkpoint_page(transaction, here)  # noqa: B023
            )
            entries += page
            if not name:
                return Checkpoint(engine.log_id, engine.options.clock(), entries)

    def get_snapshot(self, stream: str, name: str, revision: int) -> Snapshot | None:
        """See `EventLog.get_snapshot`."""
        check_stream_name(stream)
        engine = self._engine
        return engine.environment.read(lambda transaction: engine.reader.snapshot(transaction, stream, name, revision))

    def put_snapshot(self, stream: str, name: str, revision: int, version: int, data: bytes) -> None:
        """See `EventLog.put_snapshot`. *name* has at most 64 bytes of UTF-8."""
        work = self.prepare_snapshot(stream, name, revision, version, data)
        self._engine.writer.call(work, len(data))

    def prepare_snapshot(
        self, stream: str, name: str, revision: int, version: int, data: bytes
    ) -> Callable[[Ledger], None]:
        """As `prepare_append`."""
        encoded, label = check_stream_name(stream), name.encode()
        if not 0 < len(label) <= MAX_SNAPSHOT_NAME_BYTES or not 0 <= revision < 2**32:
            raise ValueError(f"a snapshot has a name of 1 to {MAX_SNAPSHOT_NAME_BYTES} bytes and a revision")
        return lambda ledger: ledger.put_snapshot(encoded, label, revision, version, data)

    def backup(self, target: str | os.PathLike[str], *, compact: bool = True) -> int:
        """Write a consistent copy of the log into the new directory *target*, while writers go on. Returns its bytes.

        The copy is complete and durable once it has its name. Raises `LogInUseError` if *target* exists,
        `DiskFullError`.
        """
        engine, final = self._engine, Path(target).expanduser().resolve()
        if final.exists():
            raise LogInUseError(str(final), "it exists already; a backup is written to a new directory")
        nursery = final.parent / f".{final.name}.new-{engine.options.entropy(8).hex()}"
        nursery.mkdir(mode=0o700, parents=True)
        try:
            engine.environment.copy(nursery, compact=compact)
            nursery.rename(final)
            sync_path(final.parent)
        finally:
            shutil.rmtree(nursery, ignore_errors=True)
        return (final / "data.mdb").stat().st_size

    def compact(self) -> tuple[int, int]:
        """Rewrite the file without its free pages, where erased events linger. Returns its bytes before and after.

        Everybody in this process waits meanwhile. Raises `LogInUseError` if another process has the log open.
        """
        return self._engine.compact()

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
        engine = self._engine
        position = engine.reader.number(after)
        return engine.environment.read(
            lambda transaction: engine.reader.stream_page(transaction, stream, position, PAGE_EVENTS)
        )

    def is_over(self, after: Position, stream: str | None) -> bool:
        """Whether `follow` ends: *stream* was deleted, and the tombstone was given."""
        if stream is None:
            return False
        engine = self._engine
        position = engine.reader.number(after)
        return engine.environment.read(
            lambda transaction: engine.reader.is_deleted_before(transaction, stream, position)
        )

    def last_transaction(self) -> int:
        """The number of the newest commit of any process; it changes with each."""
        return self._engine.environment.last_transaction()

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


def _restore(segment: Segment, ledger: Ledger) -> None:
    ledger.restore(segment)


class LmdbEventLog:
    """`BlockingLmdbEventLog`, awaited: appends wait on the writer thread, reads run page by page in worker threads, and
    no event loop ever waits for a flush. Safe to use from many loops and threads. `blocking` is the same log, for
    callers without a loop.
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
        self.blocking: Final = BlockingLmdbEventLog(
            path,
            durability=durability,
            create=create,
            clock=clock,
            entropy=entropy,
            map_size_bytes=map_size_bytes,
        )
        self._threads = ThreadPoolExecutor(_READ_THREADS, thread_name_prefix="refold-reader")

    def __repr__(self) -> str:
        return repr(self.blocking).replace("Blocking", "", 1)

    @property
    def path(self) -> Path:
        """The directory of the log."""
        return self.blocking.path

    @property
    def capabilities(self) -> Capabilities:
        """See `EventLog.capabilities`."""
        return self.blocking.capabilities

    @property
    def _writer(self) -> Writer:
        return self.blocking._engine.writer  # noqa: SLF001  (one engine, two faces)

    async def _run(self, work: Callable[[], T]) -> T:
        self.blocking.capabilities  # noqa: B018  (raises `ClosedError` before a closed pool raises something else)
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def append(
        self,
        stream: str,
        events: Sequence[NewEvent],
        *,
        expected: int | Expected = Expected.ANY,
        commit_id: bytes | None = None,
    ) -> Commit:
        """See `EventLog.append`."""
        work, size = self.blocking.prepare_append(stream, events, expected, commit_id)
        return await self._writer.call_async(work, size)

    async def head(self, stream: str) -> Head | None:
        """See `EventLog.head`. Five rows: not worth a thread."""
        return self.blocking.head(stream)

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
        pages = self.blocking.pages(stream, after=after, upto=upto, limit=limit, reverse=reverse)
        events: list[Event] = []
        while page := await self._run(lambda: next(pages, None)):
            events += page
        return await self._run(lambda: self.blocking.arrange(stream, events, reverse=reverse, verify=verify))

    async def read_all(self, *, after: Position = START, limit: int = 1000) -> list[Record]:
        """See `EventLog.read_all`."""
        return await self._run(lambda: self.blocking.read_all(after=after, limit=limit))

    async def fork(
        self,
        parent: str,
        child: str,
        *,
        at: int | None = None,
        events: Sequence[NewEvent] = (),
        commit_id: bytes | None = None,
    ) -> Head:
        """See `EventLog.fork`."""
        work, size = self.blocking.prepare_fork(parent, child, at, events, commit_id)
        return await self._writer.call_async(work, size)

    async def children(self, stream: str) -> list[Head]:
        """See `EventLog.children`."""
        return await self._run(lambda: self.blocking.children(stream))

    async def streams(self, *, limit: int = 100, cursor: bytes | None = None) -> Page[Head]:
        """See `EventLog.streams`."""
        return await self._run(lambda: self.blocking.streams(limit=limit, cursor=cursor))

    async def delete(
        self, stream: str, *, expected: int | Expected = Expected.ANY, reason: str = "", actor: str = ""
    ) -> Deletion:
        """See `EventLog.delete`, and `BlockingLmdbEventLog.delete` for what stays in the file."""
        return await self._writer.call_async(self.blocking.prepare_delete(stream, expected, reason, actor))

    async def erase(self) -> int:
        """See `EventLog.erase`."""
        return await self._run(self.blocking.erase)

    async def follow(self, *, after: Position = START, stream: str | None = None) -> AsyncIterator[Record]:
        """See `EventLog.follow`, and `BlockingLmdbEventLog.follow`."""
        log = self.blocking
        while True:
            seen = log.last_transaction()
            while records := await self._run(partial(log.records_behind, after, stream)):
                for record in records:
                    yield record
                after = records[-1].position
            if log.is_over(after, stream):
                return
            while log.last_transaction() == seen:  # noqa: ASYNC110  (other processes set no event of ours)
                await asyncio.sleep(POLL_SECONDS)

    async def restore(self, stream: str, records: Sequence[Event | Forked]) -> Head:
        """See `EventLog.restore`."""
        return await self._run(lambda: self.blocking.restore(stream, records))

    async def checkpoint(self) -> Checkpoint:
        """See `EventLog.checkpoint`."""
        return await self._run(self.blocking.checkpoint)

    async def get_snapshot(self, stream: str, name: str, revision: int) -> Snapshot | None:
        """See `EventLog.get_snapshot`."""
        return await self._run(lambda: self.blocking.get_snapshot(stream, name, revision))

    async def put_snapshot(self, stream: str, name: str, revision: int, version: int, data: bytes) -> None:
        """See `EventLog.put_snapshot`. *name* has at most 64 bytes of UTF-8."""
        work = self.blocking.prepare_snapshot(stream, name, revision, version, data)
        await self._writer.call_async(work, len(data))

    async def backup(self, target: str | os.PathLike[str], *, compact: bool = True) -> int:
        """See `BlockingLmdbEventLog.backup`."""
        return await self._run(lambda: self.blocking.backup(target, compact=compact))

    async def compact(self) -> tuple[int, int]:
        """See `BlockingLmdbEventLog.compact`."""
        return await self._run(self.blocking.compact)

    async def aclose(self) -> None:
        """See `EventLog.aclose`."""
        self._threads.shutdown(wait=False)
        await asyncio.get_running_loop().run_in_executor(None, self.blocking.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
