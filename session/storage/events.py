"""The event-sourced storage: every change of a session is an event in a log, and nothing is ever overwritten."""

from __future__ import annotations

import asyncio
import datetime as dt
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from session import jsontext, metadata
from session.codec import encode_meta
from session.errors import (
    EventDataError,
    InvalidMetadataError,
    InvalidStateError,
    SessionAlteredError,
    SessionDeletedError,
)
from session.events import NO_META, Meta, MetadataUpdated
from session.fold import Fold
from session.places import HEAD, needs_facts, parse_at, resolve
from session.saving import plan_save
from session.state import SessionState
from session.storage._listing import SNAPSHOT_EVENTS, renew_snapshot, summaries
from session.storage._log import SessionLog, blocking_side, open_log
from session.storage._now import run_now
from session.storage._reading import family, newest_messages, summary
from session.storage.base import check_session_id, new_session_id

if TYPE_CHECKING:
    import builtins
    from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from session.events import AnyEvent, SessionEvent, StoredEvent
    from session.places import At
    from session.state import Turn
    from session.storage._listing import SummaryPage
    from session.storage._log import Appended, Durability, EventLog, LogPath
    from session.storage._reading import NewestMessages
    from session.summary import Summary

T = TypeVar("T")

DIGEST_BYTES: Final = 32
_READ_THREADS: Final = 4
MAX_FORKS: Final = 100_000
"""Made by one call of `fork_many`. Each takes about 3 KB of memory until all are made."""


class Verified(msgspec.Struct, frozen=True):
    """Every digest up to *version* follows from what is stored. Keep *digest* elsewhere: `verify(id, expect=digest)`
    proves later that nothing up to here was changed.
    """

    session_id: str
    version: int
    digest: bytes


class EventSessionStorage:
    """Sessions as streams of an event log: in the directory *path*, made if it is missing, or in the log given.

    A message is durable when `append` or `save` returns (see the log's `capabilities`), and stays in the log until the
    session is deleted: an edited history is a `history_rewound` and what follows it. A stale writer gets
    `WrongVersionError` instead of the other one's turn, and the id of a deleted session is never used again
    (`SessionDeletedError`).

    Wherever a method takes `at`, it is a version (`412`), a number of events before the head (`-3`), the id of a
    message (`"msg_01..."`) or the end of a turn (`"turn:7"`): `PlaceNotFoundError` if the session has no such place. A
    method that needs an existing session raises `SessionNotFoundError` or `SessionDeletedError`. What goes wrong with
    the log itself is an `eventstore.EventStoreError`.

    Over an LMDB log, histories are read and folded in worker threads, and writes of many sessions share flushes. With
    *path* the log is closed by `aclose` or `async with`, with *durability* and *clock* (Unix nanoseconds) it is opened;
    a log that was given is left open. Scripts without an event loop use `BlockingEventSessionStorage`.
    """

    def __init__(
        self,
        path: LogPath | EventLog,
        *,
        durability: Durability = "disk",
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        opened, self._owned = open_log(path, durability, clock)
        self._log = SessionLog(opened)
        self._beside = blocking_side(opened)
        self._threads = ThreadPoolExecutor(_READ_THREADS, thread_name_prefix="refold-sessions")
        self._clock = clock

    @classmethod
    def over(cls, log: SessionLog, clock: Callable[[], int]) -> Self:
        """Over a log whose coroutines never wait, for the blocking twin: everything runs in the caller's thread."""
        self = cls.__new__(cls)
        self._log, self._beside, self._owned, self._clock = log, None, False, clock
        return self

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._log.log!r}>"

    @property
    def log(self) -> EventLog:
        """The log it stands on."""
        return self._log.log

    # --- the storage interface ----------------------------------------------------------------------------------------

    async def save(self, state: SessionState, /, *, meta: Meta = NO_META) -> SessionState:
        """Append what is new in *state*, and return the state as it is stored now: go on from that one.

        The longest common prefix of messages stays, an edited history becomes `history_rewound` and what follows. If
        there is nothing to append, nothing is checked or written. Otherwise raises `WrongVersionError` if the stored
        session is no longer at `state.version` (0: it does not exist), `SessionDeletedError`, `InvalidMetadataError`,
        `InvalidStateError`.
        """
        stored, events = await self._beside_the_loop(lambda log: _plan(log, state))
        if stored is not None and not events:
            return stored
        try:
            appended = await self.append(state.id, events, expected=state.version, meta=meta)
        except EventDataError as error:  # a cost or a time beyond 64 bits
            encode_meta(meta)  # or it is that, which is no part of the state
            raise InvalidStateError(error.event_type, error.reason) from error
        return _after(stored or SessionState(id=state.id), events, appended.recorded_at)

    async def load(self, session_id: str, /) -> SessionState | None:
        """The state now; None if there is no such session, or it was deleted."""
        try:
            return await self._beside_the_loop(lambda log: _find_state(log, session_id))
        except SessionDeletedError:
            return None

    async def delete(self, session_id: str, /, *, reason: str = "", actor: str = "") -> None:
        """Delete the session, durably; *reason* and *actor* stay on its tombstone. Its forks keep what they share with
        it. Nothing happens if there is no such session.
        """
        await self._log.delete(session_id, reason=reason, actor=actor)

    async def list(self) -> builtins.list[str]:
        """The ids of all sessions. `summaries` tells more of them, newest first."""
        return await self._beside_the_loop(lambda log: log.ids())

    # --- events -------------------------------------------------------------------------------------------------------

    async def append(
        self,
        session_id: str,
        events: Sequence[AnyEvent],
        *,
        expected: int | None = None,
        meta: Meta = NO_META,
        commit_id: bytes | None = None,
    ) -> Appended:
        """Append *events*, all or none, each with *meta*; durable when it returns.

        *expected* is the version the session must be at, 0 for a new one; None: any, but it must exist. Repeated with
        the same *commit_id* (16 bytes) and content it writes nothing and returns the first outcome. Raises
        `WrongVersionError`, nothing written.
        """
        appended = await self._log.append(session_id, events, expected=expected, meta=meta, commit_id=commit_id)
        if (appended.first - 1) // SNAPSHOT_EVENTS < appended.version // SNAPSHOT_EVENTS:
            await self._beside_the_loop(lambda log: renew_snapshot(log, session_id))
        return appended

    async def events(
        self, session_id: str, *, after: int = 0, upto: int | None = None, reverse: bool = False
    ) -> AsyncGenerator[StoredEvent, None]:
        """The events with `after < version <= upto` (default: all there are now), oldest first, or newest first if
        *reverse*; a fork's begin with its parent's. Raises `EventDataError`.
        """
        head = await self._log.head(session_id)
        upto = head.version if upto is None else min(upto, head.version)
        while page := await self._beside_the_loop(
            partial(SessionLog.read, session_id=session_id, after=after, upto=upto, reverse=reverse)
        ):
            for event in page:
                yield event
            after, upto = (after, page[-1].version - 1) if reverse else (page[-1].version, upto)

    async def follow(self, session_id: str, *, after: int = 0) -> AsyncGenerator[StoredEvent, None]:
        """The events behind version *after*, and then each new one as it is committed, by this process or another. Ends
        when the session is deleted.
        """
        async for event in self._log.follow(session_id, after):
            yield event

    async def state_at(self, session_id: str, at: int | str | At) -> SessionState:
        """The session as it was at *at*. In the part that a fork shares with its parent, that is the parent's state."""
        return await self._beside_the_loop(lambda log: _state_at(log, session_id, parse_at(at)))

    async def newest_messages(self, session_id: str, count: int) -> NewestMessages:
        """The newest *count* messages, at any length of the history: no more is read than it takes to know them, unless
        a rewind or a compaction is among the newest events.
        """
        return await self._beside_the_loop(lambda log: newest_messages(log, session_id, count))

    async def turns(self, session_id: str) -> builtins.list[Turn]:
        """The turns of the session, first to last."""
        state = await self.state_at(session_id, HEAD)
        return list(state.turns)

    async def verify(self, session_id: str, *, expect: bytes | str | None = None) -> Verified:
        """Recompute every digest of the session, its ancestors' part included, from what is stored.

        *expect*: a digest (or its hexadecimal form) of this session that was kept elsewhere; it must be among them, so
        that nothing up to its event was changed. Without it a history that was rewritten with new digests passes: the
        chain has no key. Raises `CorruptEventError` or `SessionAlteredError`, and `ValueError` for what is no digest.
        """
        digest = bytes.fromhex(expect) if isinstance(expect, str) else expect
        if digest is not None and len(digest) != DIGEST_BYTES:  # cut short or empty, it is no sign of an alteration
            raise ValueError(f"expect is a digest of {DIGEST_BYTES} bytes, and not of {len(digest)}")
        return await self._beside_the_loop(lambda log: _verify(log, session_id, digest))

    # --- forks --------------------------------------------------------------------------------------------------------

    async def fork(
        self,
        session_id: str,
        new_id: str | None = None,
        *,
        at: int | str | At = HEAD,
        reason: str = "",
        meta: Meta = NO_META,
        events: Sequence[AnyEvent] = (),
    ) -> str:
        """Make a new session that shares the events of *session_id* up to *at*, and return its id. Nothing is copied;
        neither sees what the other does from then on. *events* are its first ones, durable with it. Raises
        `SessionExistsError`.
        """
        child = new_session_id() if new_id is None else check_session_id(new_id)
        version = await self.version_at(session_id, at)
        return await self._log.fork(session_id, child, version, reason=reason, meta=meta, events=events)

    async def fork_many(
        self, session_id: str, n: int, *, at: int | str | At = HEAD, reason: str = "", meta: Meta = NO_META
    ) -> builtins.list[str]:
        """*n* forks at one place, all durable when it returns, and their ids.

        They share a few flushes of the disk (so 1,000 take little longer than one), but each is a commit of its own: if
        one fails, the caller is interrupted or the process dies, some may be there. At most `MAX_FORKS`.
        """
        if not 0 <= n <= MAX_FORKS:
            raise ValueError(f"n is a number of forks, of {MAX_FORKS:,} at most, and not {n:,}")
        version = await self.version_at(session_id, at)
        children = [new_session_id() for _ in range(n)]
        return await self._log.together(
            [self._log.fork(session_id, child, version, reason=reason, meta=meta) for child in children]
        )

    async def version_at(self, session_id: str, at: int | str | At) -> int:
        """The version of *at*. A message or a turn costs a fold of the session, the other forms nothing."""
        place = parse_at(at)
        if needs_facts(place):
            return await self._beside_the_loop(lambda log: _version_at(log, session_id, place))
        return resolve(place, head=(await self._log.head(session_id)).version)

    # --- many sessions ------------------------------------------------------------------------------------------------

    async def summaries(self, limit: int = 50, cursor: bytes | None = None) -> SummaryPage:
        """A page of sessions, newest activity first, with title, counts, usage, cost and status; *cursor* is the one of
        the page before. Costs at most `SNAPSHOT_EVENTS` events each, however long the histories are.
        """
        return await self._beside_the_loop(lambda log: summaries(log, limit, cursor))

    async def summary(self, session_id: str) -> Summary:
        """One session as `summaries` has it, at the same cost."""
        return await self._beside_the_loop(lambda log: summary(log, session_id))

    async def family(self, session_id: str) -> tuple[builtins.list[Summary], dict[str, str]]:
        """The sessions that are related to it by forks, its topmost living ancestor first, parents before their forks;
        and those that cannot be read, with the reason.
        """
        return await self._beside_the_loop(lambda log: family(log, session_id))

    async def update_metadata(
        self,
        session_id: str,
        values: Mapping[str, Any] | None = None,
        /,
        *,
        remove: Iterable[str] = (),
        meta: Meta = NO_META,
        **more: Any,  # noqa: ANN401 - any JSON value
    ) -> Appended:
        """Set the members of *values* and *more* (`title="...", tags=["..."]`), take the keys *remove* away, and leave
        the rest as it is, at whatever version the session is. Raises `InvalidMetadataError`.
        """
        if values is not None:
            metadata.check_mapping(values)
        return await self.append(session_id, [_metadata({**(values or {}), **more}, remove)], meta=meta)

    async def cleanup(self, older_than: dt.timedelta | dt.datetime, *, reason: str = "cleanup") -> builtins.list[str]:
        """Delete the sessions in which nothing has happened for *older_than*, or since that (aware) time, and return
        their ids. One that becomes active meanwhile stays. Forks keep what they share with a deleted parent. Of several
        cleanups at once each returns what it deleted itself; a tombstone's actor, `cleanup-...`, says which one did.
        """
        actor = f"cleanup-{secrets.token_hex(8)}"
        limit_ns = _limit_ns(older_than, self._clock())
        heads = await self._beside_the_loop(lambda log: log.idle(limit_ns))
        gone = await self._log.together([self._log.delete_idle(head, reason=reason, actor=actor) for head in heads])
        return [head.stream for head, deleted in zip(heads, gone, strict=True) if deleted]

    # --- lifetime -----------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close the log, if it was opened here. Closing twice is fine."""
        if self._owned:
            self._beside = None  # from here on the log says itself that it is closed
            self._threads.shutdown(wait=False)
            await self._log.log.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _beside_the_loop(self, work: Callable[[SessionLog], Coroutine[Any, Any, T]]) -> T:
        """*work* as a whole in a worker thread, decoding and folding included, where the log has a side for threads.
        Not in one of the loop's own: a program can fill those with what waits for an append, and so for this.
        """
        beside = self._beside
        if beside is None:
            return await work(self._log)
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: run_now(work(beside)))


async def _find_state(log: SessionLog, session_id: str) -> SessionState | None:
    head = await log.find(session_id)
    if head is None:
        return None
    state = (await log.folded(session_id, head.version)).state()
    # A fork that another program made may lack the event that says its name: it must never be saved as its parent.
    return state if state.id == session_id else state.replace(id=session_id)


async def _plan(log: SessionLog, state: SessionState) -> tuple[SessionState | None, list[SessionEvent]]:
    stored = await _find_state(log, state.id)
    return stored, plan_save(stored, state)


def _after(stored: SessionState, events: Sequence[AnyEvent], recorded_at: int) -> SessionState:
    fold = Fold(stored)
    for event in events:
        fold.add(event, recorded_at)
    return fold.state()


async def _state_at(log: SessionLog, session_id: str, at: At) -> SessionState:
    return (await log.folded(session_id, await _version_at(log, session_id, at))).state()


async def _version_at(log: SessionLog, session_id: str, at: At) -> int:
    head = await log.head(session_id)
    if not needs_facts(at):
        return resolve(at, head=head.version)
    state = (await log.folded(session_id, head.version)).state()
    return resolve(at, head=head.version, turns=state.turns, landmarks=state.landmarks)


async def _verify(log: SessionLog, session_id: str, expect: bytes | None) -> Verified:
    head = await log.head(session_id)
    missing = expect is not None
    async for page in log.pages(session_id, upto=head.version, verify=True):
        missing = missing and all(event.digest != expect for event in page)
    if missing:
        raise SessionAlteredError(session_id, expect or b"", head.version)
    return Verified(session_id, head.version, head.digest)


def _metadata(values: Mapping[str, Any], remove: Iterable[str]) -> MetadataUpdated:
    if isinstance(remove, str):
        raise InvalidMetadataError("`remove` takes a list of keys, not a string, which would be one of letters")
    removed = list(remove)
    if not all(isinstance(key, str) for key in removed):
        raise InvalidMetadataError("a key is a string")
    return MetadataUpdated(jsontext.joined_members(metadata.texts(values)), jsontext.encode(removed))


def _limit_ns(older_than: dt.timedelta | dt.datetime, now_ns: int) -> int:
    if isinstance(older_than, dt.timedelta):
        if older_than < dt.timedelta(0):
            raise ValueError(f"older_than is an age, and not {older_than}: every session would be deleted")
        return now_ns - older_than // dt.timedelta(microseconds=1) * 1_000
    if older_than.tzinfo is None:
        raise ValueError("older_than needs a time zone")
    return (older_than - dt.datetime.fromtimestamp(0, dt.UTC)) // dt.timedelta(microseconds=1) * 1_000
