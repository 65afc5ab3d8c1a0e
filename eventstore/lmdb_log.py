"""The log on LMDB for event loops: `BlockingLmdbEventLog`, awaited."""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from eventstore import _requests
from eventstore._gate import WouldWaitError
from eventstore._lmdb import LARGEST_MAP_BYTES
from eventstore.blocking_lmdb_log import POLL_SECONDS, BlockingLmdbEventLog
from eventstore.log import (
    START,
    Capabilities,
    Checkpoint,
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
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self


T = TypeVar("T")
_READ_THREADS: Final = 4


class LmdbEventLog:
    """`BlockingLmdbEventLog`, awaited: appends wait on the writer thread, reads run page by page in worker threads, and
    no event loop ever waits for a flush. Safe to use from many loops and threads. `blocking` is the same log, for
    callers without a loop.

    To make the object is another matter: it opens the files, and makes a new log, in the caller's thread. That takes
    some milliseconds and a few flushes as a rule, and half a second beside a compaction. Where a loop must not wait so
    long, make it before the loop runs, or in a thread: `await asyncio.to_thread(LmdbEventLog, path)`.
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

    async def _run(self, work: Callable[[], T]) -> T:
        self.blocking.engine.check_process()  # in a forked child the threads are not there to answer
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _glance(self, look: Callable[[bool], T]) -> T:
        """What *look* finds in a few rows: not worth a thread, unless the log is being compacted, or grows, and there
        is something to wait for. Its argument says whether to wait.
        """
        try:
            return look(False)  # noqa: FBT003
        except WouldWaitError:
            return await self._run(lambda: look(True))  # noqa: FBT003

    async def append(
        self,
        stream: str,
        events: Sequence[NewEvent],
        *,
        expected: int | Expected = Expected.ANY,
        commit_id: bytes | None = None,
    ) -> Commit:
        """See `EventLog.append`."""
        engine = self.blocking.engine
        request = _requests.append(engine.entropy, stream, events, expected, commit_id)
        return await engine.writer.call_async(request)

    async def head(self, stream: str) -> Head | None:
        """See `EventLog.head`."""
        query = _requests.head(stream)
        return await self._glance(lambda wait: self.blocking.engine.read(query, wait=wait))

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
        pages = self.blocking.pages(stream, after=after, upto=upto, limit=limit, reverse=reverse, verify=verify)
        events: list[Event] = []
        while page := await self._run(lambda: next(pages, None)):
            events += page
        return await self._run(lambda: self.blocking.arrange(stream, events, reverse=reverse, verify=verify))

    async def contents(
        self, stream: str, *, after: int = 0, upto: int | None = None, limit: int | None = None
    ) -> list[Content]:
        """See `EventLog.contents`."""
        pages = self.blocking.contents_pages(stream, after=after, upto=upto, limit=limit)
        contents: list[Content] = []
        while page := await self._run(lambda: next(pages, None)):
            contents += page
        contents.reverse()
        return contents

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
        engine = self.blocking.engine
        request = _requests.fork(engine.entropy, parent, child, at, events, commit_id)
        return await engine.writer.call_async(request)

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
        writer = self.blocking.engine.writer
        return await writer.call_async(_requests.delete(writer.owe_erasure, stream, expected, reason, actor))

    async def erase(self) -> int:
        """See `EventLog.erase`."""
        return await self._run(self.blocking.erase)

    async def follow(self, *, after: Position = START, stream: str | None = None) -> AsyncIterator[Record]:
        """See `EventLog.follow`, and `BlockingLmdbEventLog.follow`."""
        log = self.blocking
        while True:
            seen = await self._last_transaction()
            while records := await self._run(partial(log.records_behind, after, stream)):
                for record in records:
                    yield record
                after = records[-1].position
            if stream is not None:
                over = _requests.is_over(stream, after)
                if await self._glance(lambda wait: log.engine.read(over, wait=wait)):  # noqa: B023
                    return
            while await self._last_transaction() == seen:  # noqa: ASYNC110  (other processes set no event of ours)
                await asyncio.sleep(POLL_SECONDS)

    async def _last_transaction(self) -> int:
        environment = self.blocking.engine.environment
        return await self._glance(lambda wait: environment.last_transaction(wait=wait))

    async def restore(self, stream: str, records: Sequence[Event | Forked]) -> Head:
        """See `EventLog.restore`."""
        return await self._run(lambda: self.blocking.restore(stream, records))

    async def checkpoint(self) -> Checkpoint:
        """See `EventLog.checkpoint`."""
        return await self._run(self.blocking.checkpoint)

    async def get_snapshot(self, stream: str, name: str, revision: int) -> Snapshot | None:
        """See `EventLog.get_snapshot`."""
        return await self._run(lambda: self.blocking.get_snapshot(stream, name, revision))

    async def since_snapshot(
        self, stream: str, name: str, revision: int, *, upto: int | None = None
    ) -> SinceSnapshot | None:
        """See `EventLog.since_snapshot`."""
        return await self._run(lambda: self.blocking.since_snapshot(stream, name, revision, upto=upto))

    async def put_snapshot(self, stream: str, name: str, revision: int, version: int, data: bytes) -> None:
        """See `EventLog.put_snapshot`."""
        request = _requests.put_snapshot(stream, name, revision, version, data)
        await self.blocking.engine.writer.call_async(request)

    async def backup(self, target: str | os.PathLike[str], *, compact: bool = True) -> int:
        """See `BlockingLmdbEventLog.backup`."""
        return await self._run(lambda: self.blocking.backup(target, compact=compact))

    async def compact(self) -> tuple[int, int]:
        """See `BlockingLmdbEventLog.compact`."""
        return await self._run(self.blocking.compact)

    async def aclose(self) -> None:
        """See `EventLog.aclose`."""
        await asyncio.get_running_loop().run_in_executor(None, self.blocking.close)
        self._threads.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
