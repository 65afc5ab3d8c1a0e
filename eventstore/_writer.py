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
    from collections.abc import Callable, Iterator, Sequence

    from eventstore._lmdb import Environment, Transaction

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
_MAX_BATCH_JOBS: Final = 4_096
_MAX_BATCH_BYTES: Final = 64 * 2**20
_LINGER_SHARE: Final = 0.25  # of the last commit's time, at most, is spent waiting for those it has just woken,
_LINGER_SECONDS: Final = 0.005  # and never more than this: that commit may have waited for another process
_FIRST_PAUSE_SECONDS: Final = 0.1  # after an erasure that failed,
_LONGEST_PAUSE_SECONDS: Final = 60.0  # and after many in a row
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
        self._debt = _Debt(owed=erasure_owed)
        self._last_batch = 1
        self._last_seconds = 0.0
        self._batch: list[Job[Any]] = []  # what the writer thread is at
        self._failure = ""  # why that thread ended before its time
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
            if self._failure:
                raise LogFailedError(str(self._environment.path), self._failure)
            self._queue.put(job)

    def owe_erasure(self) -> None:
        """A stream was deleted: erase in the background. Called within the deletion's own job."""
        self._debt.owed = True

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
        """Until the log closes; whoever waits is told, whatever happens."""
        try:
            while self._serve():
                pass
        except BaseException as error:  # noqa: BLE001  (a mistake of ours; nobody else would notice)
            self._fail(error)

    def _serve(self) -> bool:
        """Commit the next batch, or erase; whether the log stays open."""
        last = self._gather()
        if self._batch:
            started = time.perf_counter()
            self._commit(self._batch)
            self._last_batch = len(self._batch)
            self._last_seconds = time.perf_counter() - started
        elif not last:
            self._erase()
        return not last

    def _gather(self) -> bool:
        """Put what is waiting into the batch, and say whether the log is closing; nothing if there is erasure to do
        first.
        """
        batch = self._batch = []  # of the writer, not of this function: if that fails, they must hear of it
        try:
            job = self._queue.get(timeout=self._debt.patience())
        except queue.Empty:
            return False
        size = 0
        deadline = None
        while job is not None:
            batch.append(job)
            size += job.request.size
            if len(batch) >= _MAX_BATCH_JOBS or size >= _MAX_BATCH_BYTES:
                return False
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                # Those woken by the last commit are about to append again: a moment's patience doubles the batch.
                now = time.perf_counter()
                deadline = deadline or now + min(self._last_seconds * _LINGER_SHARE, _LINGER_SECONDS)
                if len(batch) >= self._last_batch or now >= deadline:
                    return False
                try:
                    job = self._queue.get(timeout=deadline - now)
                except queue.Empty:
                    return False
        return True

    def _fail(self, error: BaseException) -> None:
        """The thread ends: nothing that waits, or that comes later, is written."""
        failure = LogFailedError(str(self._environment.path), f"the writer failed: {error!r}")
        with self._closing.held:
            self._failure = failure.reason
        waiting = [*self._batch, *self._left()]
        for job in waiting:
            if job.result is None and job.error is None:
                job.error = failure
        for job in waiting:
            with contextlib.suppress(BaseException):  # of a waiter that broke it, or that was woken before
                _wake([job])
        _log(logging.ERROR, "%s: the writer failed", self._environment.path, error=error)

    def _left(self) -> Iterator[Job[Any]]:
        """What is in the queue, taken out."""
        with contextlib.suppress(queue.Empty):
            while True:
                job = self._queue.get_nowait()
                if job is not None:
                    yield job

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
                job.result = None  # of work that came to nothing
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
        """One batch of owed erasure, while nobody waits. What could not be written stays owed."""
        job = Job(Request(Ledger.erase), _Nobody())
        self._commit([job])
        if job.error is not None:
            self._put_off(job.error)
            return
        assert job.result is not None, "it was erased"
        self._debt.paid(more=job.result.more)
        for stopped in job.result.stopped:
            # `verify` reports what is wrong, and `erase()` raises it.
            _log(logging.WARNING, "%s: erasure stopped: %s", self._environment.path, stopped)

    def _put_off(self, error: BaseException) -> None:
        """Try again later. A disk that stays full for a day is worth one warning."""
        level = logging.DEBUG if self._debt.is_put_off() else logging.WARNING
        pause = self._debt.put_off()
        _log(level, "%s: erasure put off for %.1f s: %s", self._environment.path, pause, error)


class _Debt:
    """Whether erasure is owed, and when to go on with it."""

    def __init__(self, *, owed: bool) -> None:
        self.owed = owed
        self._pause = 0.0
        self._due = 0.0

    def patience(self) -> float | None:
        """For how many seconds to wait for something else to do; None: for ever."""
        if not self.owed:
            return None
        return max(self._due - time.monotonic(), 0.0) if self._pause else 0.0

    def paid(self, *, more: bool) -> None:
        """A batch is erased."""
        self.owed, self._pause = more, 0.0

    def is_put_off(self) -> bool:
        """Whether the last batch failed."""
        return self._pause > 0

    def put_off(self) -> float:
        """A batch failed: wait before the next one, twice as long each time. How long."""
        self._pause = min(self._pause * 2 or _FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        self._due = time.monotonic() + self._pause
        return self._pause


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


def _log(level: int, message: str, *facts: object, error: BaseException | None = None) -> None:
    """Log, whatever the program's handlers raise: they must not end the writer."""
    with contextlib.suppress(BaseException):
        _logger.log(level, message, *facts, exc_info=error)
