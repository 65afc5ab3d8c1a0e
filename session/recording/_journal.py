"""Where a run is written: one storage, seen from event loops and from threads without one.

What is written with it goes on without a loop (`now`) or is awaited (`awaited`): the same coroutines over two sides of
one log.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from session.storage import BlockingEventSessionStorage, EventSessionStorage
from session.storage._log import blocking_side
from session.storage._now import run_now

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Coroutine, Sequence
    from concurrent.futures import Future

    from session.events import Meta, SessionEvent, StoredEvent

T = TypeVar("T")

_PATIENCE_SECONDS: Final = 3.0
_THREADS: Final = 32  # what they write at the same time shares a flush


class Journal(Protocol):
    """What recording asks of a storage."""

    async def append(self, session_id: str, events: Sequence[SessionEvent], expected: int, meta: Meta) -> int:
        """Append *events* at exactly the version *expected*, and return the new one. Raises `WrongVersionError`."""
        ...

    async def fork(
        self, parent: tuple[str, int], child: str, events: Sequence[SessionEvent], meta: Meta, *, reason: str
    ) -> int:
        """Make *child* a fork of *parent*, a session at a version, with *events*, in one commit; its version then."""
        ...

    def events(self, session_id: str, after: int) -> AsyncIterator[StoredEvent]:
        """The events behind version *after*."""
        ...

    async def opened(self, future: Future[None]) -> None:
        """Wait for another call that is just beginning; not forever, if that call cannot go on before this one."""
        ...


class StorageJournal:
    """Over the coroutines of a storage: *waits* says whether they may wait for an event loop."""

    def __init__(self, storage: EventSessionStorage, *, waits: bool) -> None:
        self._storage = storage
        self._waits = waits

    async def append(self, session_id: str, events: Sequence[SessionEvent], expected: int, meta: Meta) -> int:
        """See `Journal.append`."""
        return (await self._storage.append(session_id, events, expected=expected, meta=meta)).version

    async def fork(
        self, parent: tuple[str, int], child: str, events: Sequence[SessionEvent], meta: Meta, *, reason: str
    ) -> int:
        """See `Journal.fork`."""
        session_id, at = parent
        await self._storage.fork(session_id, child, at=at, reason=reason, meta=meta, events=events)
        return at + 1 + len(events)

    def events(self, session_id: str, after: int) -> AsyncIterator[StoredEvent]:
        """See `Journal.events`."""
        return self._storage.events(session_id, after=after)

    async def opened(self, future: Future[None]) -> None:
        """See `Journal.opened`."""
        if self._waits:
            await asyncio.wait([asyncio.wrap_future(future)], timeout=_PATIENCE_SECONDS)
        else:
            _wait(future)


class ThreadJournal:
    """Over a journal that never waits for a loop, for callers that have one: each step in a worker thread."""

    def __init__(self, journal: StorageJournal) -> None:
        self._journal = journal
        # Not the loop's own: a program can fill those with calls that wait for what is written here.
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="refold-recording")

    async def append(self, session_id: str, events: Sequence[SessionEvent], expected: int, meta: Meta) -> int:
        """See `Journal.append`."""
        return await self._beside(self._journal.append(session_id, events, expected, meta))

    async def fork(
        self, parent: tuple[str, int], child: str, events: Sequence[SessionEvent], meta: Meta, *, reason: str
    ) -> int:
        """See `Journal.fork`."""
        return await self._beside(self._journal.fork(parent, child, events, meta, reason=reason))

    def events(self, session_id: str, after: int) -> AsyncIterator[StoredEvent]:
        """See `Journal.events`. In the caller's thread: these are few."""
        return self._journal.events(session_id, after)

    async def opened(self, future: Future[None]) -> None:
        """See `Journal.opened`."""
        await asyncio.wait([asyncio.wrap_future(future)], timeout=_PATIENCE_SECONDS)

    async def _beside(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, run_now, work)

    def close(self) -> None:
        """Let go of the threads, as soon as they have done what they were given."""
        self._threads.shutdown(wait=False)


class Journals:
    """The two sides of the storage *given*: a path, which is opened here, or an event-sourced storage.

    Raises `TypeError` for any other storage, and what opening a log raises.
    """

    def __init__(self, given: str | os.PathLike[str] | EventSessionStorage | BlockingEventSessionStorage) -> None:
        self._opened: BlockingEventSessionStorage | None = None
        self._threads: ThreadJournal | None = None
        self._now: StorageJournal | None
        if isinstance(given, EventSessionStorage):
            self._now = _now_side(given)
            self._awaited: Journal = StorageJournal(given, waits=True)
            return
        if not isinstance(given, BlockingEventSessionStorage):
            if not isinstance(given, str) and not hasattr(given, "__fspath__"):
                raise TypeError(
                    f"recording needs a path or an event-sourced storage (EventSessionStorage, "
                    f"BlockingEventSessionStorage), not {type(given).__name__}"
                )
            given = self._opened = BlockingEventSessionStorage(given)
        self._now = StorageJournal(given.sessions, waits=False)
        self._awaited = self._threads = ThreadJournal(self._now)

    @property
    def has_now(self) -> bool:
        """Whether there is a side for synchronous clients."""
        return self._now is not None

    @property
    def now(self) -> Journal:
        """The side for synchronous clients. Raises `TypeError` if the log has none."""
        if self._now is None:
            raise TypeError("the log of this storage needs an event loop: record an AsyncAnthropic client")
        return self._now

    @property
    def awaited(self) -> Journal:
        """The side for asynchronous clients."""
        return self._awaited

    def close(self) -> None:
        """Close what was opened here."""
        if self._threads is not None:
            self._threads.close()
        if self._opened is not None:
            self._opened.close()


def _now_side(storage: EventSessionStorage) -> StorageJournal | None:
    side = blocking_side(storage.log)
    if side is not None:
        return StorageJournal(EventSessionStorage.over(side, time.time_ns), waits=False)
    in_memory = storage.log.capabilities.durability == "memory"  # whose coroutines never wait
    return StorageJournal(storage, waits=False) if in_memory else None


def _wait(future: Future[None]) -> None:
    """Not forever: the other call may need this thread to go on (a synchronous client used on an event loop)."""
    try:
        future.result(_PATIENCE_SECONDS)
    except TimeoutError:
        return
