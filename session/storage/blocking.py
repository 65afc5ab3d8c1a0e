"""The event-sourced storage without an event loop: for scripts, tests and the command line."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from session.events import NO_META, Meta
from session.places import HEAD
from session.storage._log import SessionLog, at_once, open_blocking
from session.storage._now import iterate_now, run_now
from session.storage.events import EventSessionStorage

if TYPE_CHECKING:
    import builtins
    import datetime as dt
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from session.events import AnyEvent, StoredEvent
    from session.places import At
    from session.state import SessionState, Turn
    from session.storage._listing import SummaryPage
    from session.storage._log import Appended, BlockingLmdbEventLog, Durability, LogPath
    from session.storage._reading import NewestMessages
    from session.storage.events import Verified
    from session.summary import Summary


class BlockingEventSessionStorage:
    """`EventSessionStorage`, blocking: the same logic over a `BlockingLmdbEventLog`, in the caller's thread. Every
    method is the one of that class. Thread-safe.

    With *path* the log is closed by `close` or `with`, and made if it is missing, unless *create* is False
    (`LogNotFoundError`); a log that was given is left open.
    """

    def __init__(
        self,
        path: LogPath | BlockingLmdbEventLog,
        *,
        durability: Durability = "disk",
        clock: Callable[[], int] = time.time_ns,
        create: bool = True,
    ) -> None:
        self._blocking_log, self._owned = open_blocking(path, durability, clock, create=create)
        self._sessions = EventSessionStorage.over(SessionLog(at_once(self._blocking_log), blocking=True), clock)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._blocking_log!r}>"

    @property
    def sessions(self) -> EventSessionStorage:
        """The same storage as coroutines that never wait for a loop: `session.storage._now.run_now` runs them."""
        return self._sessions

    @property
    def log(self) -> BlockingLmdbEventLog:
        """The log it stands on."""
        return self._blocking_log

    def save(self, state: SessionState, /, *, meta: Meta = NO_META) -> SessionState:
        """See `EventSessionStorage.save`."""
        return run_now(self._sessions.save(state, meta=meta))

    def load(self, session_id: str, /) -> SessionState | None:
        """See `EventSessionStorage.load`."""
        return run_now(self._sessions.load(session_id))

    def delete(self, session_id: str, /, *, reason: str = "", actor: str = "") -> None:
        """See `EventSessionStorage.delete`."""
        run_now(self._sessions.delete(session_id, reason=reason, actor=actor))

    def list(self) -> builtins.list[str]:
        """See `EventSessionStorage.list`."""
        return run_now(self._sessions.list())

    def append(
        self,
        session_id: str,
        events: Sequence[AnyEvent],
        *,
        expected: int | None = None,
        meta: Meta = NO_META,
        commit_id: bytes | None = None,
    ) -> Appended:
        """See `EventSessionStorage.append`."""
        return run_now(self._sessions.append(session_id, events, expected=expected, meta=meta, commit_id=commit_id))

    def events(
        self, session_id: str, *, after: int = 0, upto: int | None = None, reverse: bool = False
    ) -> Iterator[StoredEvent]:
        """See `EventSessionStorage.events`."""
        return iterate_now(self._sessions.events(session_id, after=after, upto=upto, reverse=reverse))

    def follow(self, session_id: str, *, after: int = 0) -> Iterator[StoredEvent]:
        """See `EventSessionStorage.follow`."""
        return iterate_now(self._sessions.follow(session_id, after=after))

    def state_at(self, session_id: str, at: int | str | At) -> SessionState:
        """See `EventSessionStorage.state_at`."""
        return run_now(self._sessions.state_at(session_id, at))

    def newest_messages(self, session_id: str, count: int) -> NewestMessages:
        """See `EventSessionStorage.newest_messages`."""
        return run_now(self._sessions.newest_messages(session_id, count))

    def turns(self, session_id: str) -> builtins.list[Turn]:
        """See `EventSessionStorage.turns`."""
        return run_now(self._sessions.turns(session_id))

    def verify(self, session_id: str, *, expect: bytes | str | None = None) -> Verified:
        """See `EventSessionStorage.verify`."""
        return run_now(self._sessions.verify(session_id, expect=expect))

    def fork(
        self,
        session_id: str,
        new_id: str | None = None,
        *,
        at: int | str | At = HEAD,
        reason: str = "",
        meta: Meta = NO_META,
    ) -> str:
        """See `EventSessionStorage.fork`."""
        return run_now(self._sessions.fork(session_id, new_id, at=at, reason=reason, meta=meta))

    def fork_many(
        self, session_id: str, n: int, *, at: int | str | At = HEAD, reason: str = "", meta: Meta = NO_META
    ) -> builtins.list[str]:
        """See `EventSessionStorage.fork_many`. A flush is shared by up to 64 forks."""
        return run_now(self._sessions.fork_many(session_id, n, at=at, reason=reason, meta=meta))

    def version_at(self, session_id: str, at: int | str | At) -> int:
        """See `EventSessionStorage.version_at`."""
        return run_now(self._sessions.version_at(session_id, at))

    def summaries(self, limit: int = 50, cursor: bytes | None = None) -> SummaryPage:
        """See `EventSessionStorage.summaries`."""
        return run_now(self._sessions.summaries(limit, cursor))

    def summary(self, session_id: str) -> Summary:
        """See `EventSessionStorage.summary`."""
        return run_now(self._sessions.summary(session_id))

    def family(self, session_id: str) -> tuple[builtins.list[Summary], dict[str, str]]:
        """See `EventSessionStorage.family`."""
        return run_now(self._sessions.family(session_id))

    def update_metadata(
        self,
        session_id: str,
        values: Mapping[str, Any] | None = None,
        /,
        *,
        remove: Iterable[str] = (),
        meta: Meta = NO_META,
        **more: Any,  # noqa: ANN401 - any JSON value
    ) -> Appended:
        """See `EventSessionStorage.update_metadata`."""
        return run_now(self._sessions.update_metadata(session_id, values, remove=remove, meta=meta, **more))

    def cleanup(self, older_than: dt.timedelta | dt.datetime, *, reason: str = "cleanup") -> builtins.list[str]:
        """See `EventSessionStorage.cleanup`."""
        return run_now(self._sessions.cleanup(older_than, reason=reason))

    def close(self) -> None:
        """Close the log, if it was opened here. Closing twice is fine."""
        if self._owned:
            self._blocking_log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
