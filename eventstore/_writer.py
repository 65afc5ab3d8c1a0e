"""Group commit: one thread per log takes what is waiting, writes it in one transaction, and flushes once for all.

A flush costs the same for one event and for a thousand, so appends that arrive during one are committed by the next.
Every operation that writes goes through here, whichever thread or event loop it comes from; the event loops never wait
for the disk, and each is woken once per commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import struct
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar, cast

import msgspec

from eventstore._gate import OwnedLock
from eventstore._layout import DamagedRecord
from eventstore._ledger import Ledger
from eventstore._requests import Request
from eventstore.errors import ClosedError, CorruptEventError, CorruptLogError, LogFailedError, LogReplacedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventstore._lmdb import Environment, Transaction

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
_MAX_BATCH_JOBS: Final = 4_096
_MAX_BATCH_BYTES: Final = 64 * 2**20
_LINGER_SHARE: Final = 0.25  # of the last commit's time, at most, is spent waiting for those it has just woken,
_LINGER_SECONDS: Final = 0.005  # and never more than this: that commit may have waited for another process
_OF_ALL: Final = (LogFailedError, ClosedError, LogReplacedError)  # not the fault of one job in a batch
_logger = logging.getLogger("eventstore")


class Asked(Protocol[T_co]):
    """What is to be written: `_requests.Request` or `_requests.Append`."""

    @property
    def size(self) -> int:
        """Bytes, by which batches are bounded."""
        ...

    @property
    def stream(self) -> str | None:
        """Whose events it reads, in case they are damaged."""
        ...

    @property
    def work(self) -> Callable[[Ledger], T_co]:
        """What runs in the transaction."""
        ...


class Waiter(Protocol):
    """Who waits for a job: a thread, or a future of an event loop."""

    def wake(self, job: Job[Any]) -> None:
        """The job is done."""


class Job(msgspec.Struct, Generic[T], gc=False):
    """One operation to write, and then its outcome. The collector does not see it: no error may keep a traceback here,
    for that would hold frames, and they the job.
    """

    request: Asked[T]
    waiter: Waiter
    result: T | None = None
    error: BaseException | None = None


class ThreadWaiter:
    """A thread that blocks until its job is done."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wake(self, job: Job[Any]) -> None:  # noqa: ARG002  (the thread holds its job)
        """The job is done."""
        self._lock.release()

    def wait(self) -> None:
        """Return when the job is done."""
        self._lock.acquire()


class LoopWaiter:
    """A future of an event loop. The writer gathers those of one loop and wakes the loop once."""

    __slots__ = ("future", "loop")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()

    def wake(self, job: Job[Any]) -> None:
        """The job is done; called in the loop's own thread."""
        if self.future.done():  # cancelled
            return
        if isinstance(job.error, StopIteration):  # which a future refuses: of a clock that has run out
            self.future.set_exception(RuntimeError(f"{job.error!r} in the writer"))
        elif job.error is not None:
            self.future.set_exception(job.error)
        else:
            self.future.set_result(job.result)


class Writer:
    """The writer thread of an open log."""

    def __init__(self, environment: Environment, ledger: Ledger, *, erasure_owed: bool) -> None:
        self._environment = environment
        self._ledger = ledger
        self._queue: queue.SimpleQueue[Job[Any] | None] = queue.SimpleQueue()
        self._closed = False
        self._closing = OwnedLock()
        self._erasure_owed = erasure_owed
        self._last_batch = 1
        self._last_seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="refold-writer", daemon=True)
        self._thread.start()

    def call(self, request: Asked[T]) -> T:
        """Carry out *request* in a transaction with others', durable when this returns; blocks."""
        waiter = ThreadWaiter()
        job = Job(request, waiter)
        self._submit(job)
        waiter.wait()
        error, job.error = job.error, None  # the traceback will hold this frame, and the frame the job
        try:
            if error is not None:
                raise error
            return cast("T", job.result)
        finally:
            del error

    async def call_async(self, request: Asked[T]) -> T:
        """`call`, awaited. If it is cancelled, *request* may still be carried out."""
        waiter = LoopWaiter()
        self._submit(Job(request, waiter))
        try:
            result: T = await waiter.future
            return result
        finally:
            del waiter

    def _submit(self, job: Job[Any]) -> None:
        with self._closing.held:
            if self._closed:
                raise ClosedError(str(self._environment.path))
            self._queue.put(job)

    def owe_erasure(self) -> None:
        """A stream was deleted: erase in the background. Called within the deletion's own job."""
        self._erasure_owed = True

    def is_used_here(self) -> bool:
        """Whether this thread is in the middle of submitting something."""
        return self._closing.is_held_here()

    def close(self) -> None:
        """Finish what was submitted and end the thread. Owed erasure goes on at the next open."""
        with self._closing.held:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    # ---------------------------------------------------------------------------------------- the writer thread

    def _run(self) -> None:
        while True:
            batch, last = self._gather()
            if batch:
                started = time.perf_counter()
                self._commit(batch)
                self._last_batch = len(batch)
                self._last_seconds = time.perf_counter() - started
            elif not last:
                self._erase()
            if last:
                return

    def _gather(self) -> tuple[list[Job[Any]], bool]:
        """What is waiting, at most a batch, and whether the log is closing; nothing if there is erasure to do first."""
        try:
            job = self._queue.get(block=not self._erasure_owed)
        except queue.Empty:
            return [], False
        batch: list[Job[Any]] = []
        size = 0
        deadline = None
        while job is not None:
            batch.append(job)
            size += job.request.size
            if len(batch) >= _MAX_BATCH_JOBS or size >= _MAX_BATCH_BYTES:
                return batch, False
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                # Those woken by the last commit are about to append again: a moment's patience doubles the batch.
                now = time.perf_counter()
                deadline = deadline or now + min(self._last_seconds * _LINGER_SHARE, _LINGER_SECONDS)
                if len(batch) >= self._last_batch or now >= deadline:
                    return batch, False
                try:
                    job = self._queue.get(timeout=deadline - now)
                except queue.Empty:
                    return batch, False
        return batch, True

    def _commit(self, batch: Sequence[Job[Any]]) -> None:
        try:
            self._environment.write(lambda transaction: self._work(transaction, batch))
            self._ledger.committed()
        except BaseException as error:  # noqa: BLE001  (whoever waits must hear of it)
            self._ledger.aborted()
            if len(batch) > 1 and not isinstance(error, _OF_ALL):
                for job in batch:  # one of them broke the transaction: let only that one fail
                    self._commit([job])
                return
            for job in batch:
                job.error = _translate(self._environment, error).with_traceback(None)
        _wake(batch)

    def _work(self, transaction: Transaction, batch: Sequence[Job[Any]]) -> None:
        self._ledger.begin(transaction, self._environment.generation)
        for job in batch:
            writes = self._ledger.writes
            job.error = None
            try:
                job.result = job.request.work(self._ledger)
            except Exception as error:
                if self._environment.owns(error):
                    raise
                found = self._error_of(job, error).with_traceback(None)
                if self._ledger.writes != writes:
                    raise found from error
                job.error = found
        self._ledger.finish()

    def _error_of(self, job: Job[Any], error: Exception) -> Exception:
        """*error*, or whose damage it means."""
        stream = job.request.stream
        if stream is None or not isinstance(error, (DamagedRecord, struct.error)):
            return error
        version, position = (error.version, error.position) if isinstance(error, DamagedRecord) else (0, 0)
        return CorruptEventError(stream, version, self._ledger.token(position), str(error))

    def _erase(self) -> None:
        """One batch of owed erasure, while nobody waits."""
        job = Job(Request(Ledger.erase), _Nobody())
        self._commit([job])
        errors = [job.error] if job.error is not None else []
        for error in [*errors, *(job.result.stopped if job.result else ())]:
            # `verify` reports what is wrong, and `erase()` raises it.
            _logger.warning("%s: erasure stopped: %s", self._environment.path, error)
        self._erasure_owed = job.result is not None and job.result.more


class _Nobody:
    """Waits for nothing."""

    def wake(self, job: Job[Any]) -> None:
        """The job is done."""


def _translate(environment: Environment, error: BaseException) -> BaseException:
    """The package's own words for damage that was met on the way to a write."""
    damaged = isinstance(error, (DamagedRecord, struct.error))
    return CorruptLogError(str(environment.path), str(error)) if damaged else error


def _wake(batch: Sequence[Job[Any]]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[Job[Any]]] = {}
    for job in batch:
        if isinstance(job.waiter, LoopWaiter):
            by_loop.setdefault(job.waiter.loop, []).append(job)
        else:
            job.waiter.wake(job)
    for loop, jobs in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(_wake_all, jobs)


def _wake_all(jobs: list[Job[Any]]) -> None:
    for job in jobs:
        job.waiter.wake(job)
