"""A session and its storage as one: what `record` has returned from is durable, and in the fold.

`EventJournal` appends events at an exact version. `SavingJournal` saves the state, to a storage that keeps no events.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from session._doubt import LIVE, doubting, records_starts
from session._finishing import finished
from session.errors import PlaceNotFoundError, SessionExistsError, SessionNotFoundError
from session.events import (
    BlockReceived,
    MetadataUpdated,
    RequestSent,
    SessionClosed,
    SessionCreated,
    ToolStarted,
)
from session.fold import Fold
from session.places import HEAD, parse_at
from session.state import SessionState
from session.storage import EventSessionStorage, WrongVersionError, check_session_id, new_session_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from session.events import Meta, SessionEvent
    from session.places import At
    from session.storage import SessionStorage

_HARMLESS: Final = (MetadataUpdated, SessionClosed)
"""What another writer may do meanwhile without changing the conversation."""

_NOT_SAVED: Final = (BlockReceived, RequestSent, SessionClosed, ToolStarted)
"""What leaves nothing in a state that is saved without its events."""


class Journal(Protocol):
    """See the module's head."""

    @property
    def session_id(self) -> str:
        """Whose events these are."""
        ...

    @property
    def fold(self) -> Fold:
        """Everything that was recorded, by this journal or before it. To be read only."""
        ...

    async def record(self, *events: SessionEvent) -> None:
        """Make *events* durable, all or none, then fold them. A cancellation meanwhile is raised after that.

        Raises `WrongVersionError`, nothing written, if another writer went on with the conversation.
        """
        ...

    async def branch(self, at: int | str | At = HEAD) -> Branch:
        """Where a new session that shares everything up to *at* would begin. Raises `PlaceNotFoundError`."""
        ...

    async def state_at(self, at: int | str | At) -> SessionState:
        """The session as it was at *at*. Raises `PlaceNotFoundError`."""
        ...


class Branch(Protocol):
    """A fork that is not made yet: what goes wrong before `forked` leaves no session behind."""

    @property
    def state(self) -> SessionState:
        """The session at the place of the fork."""
        ...

    async def forked(self, *, reason: str = "") -> Journal:
        """Make it, durable: the journal of the new session."""
        ...


async def create(storage: SessionStorage, session_id: str | None, first: Sequence[SessionEvent], meta: Meta) -> Journal:
    """The journal of a new session that begins with *first*, durable. Raises `SessionExistsError`."""
    new_id = new_session_id() if session_id is None else check_session_id(session_id)
    events = (SessionCreated(new_id, origin=LIVE), *first)
    journal: Journal
    if isinstance(storage, EventSessionStorage):
        journal = EventJournal(storage, new_id, Fold(SessionState(id=new_id)), meta)
    elif await storage.load(new_id) is None:
        journal = SavingJournal(storage, SessionState(id=new_id))
    else:
        raise SessionExistsError(new_id)
    try:
        await journal.record(*events)
    except WrongVersionError as error:
        raise SessionExistsError(new_id) from error
    return journal


async def load(storage: SessionStorage, session_id: str, meta: Meta) -> Journal:
    """The journal of an existing session. Raises `SessionNotFoundError`, `SessionDeletedError`."""
    if isinstance(storage, EventSessionStorage):
        return EventJournal(storage, session_id, Fold(await _state_at(storage, session_id, HEAD)), meta)
    state = await storage.load(session_id)
    if state is None:
        raise SessionNotFoundError(session_id)
    return SavingJournal(storage, doubting(state))


async def branch(storage: SessionStorage, parent_id: str, at: int | str | At, meta: Meta) -> Branch:
    """Where a new session that shares everything up to *at* with an existing one would begin. Raises as `load` does,
    and `PlaceNotFoundError`.
    """
    if isinstance(storage, EventSessionStorage):
        version = await storage.version_at(parent_id, at)
        return _EventBranch(storage, parent_id, await _state_at(storage, parent_id, version), meta)
    return await (await load(storage, parent_id, meta)).branch(at)


class EventJournal:
    """Over a storage that keeps events: an event costs the same at any length of the session."""

    def __init__(self, storage: EventSessionStorage, session_id: str, fold: Fold, meta: Meta) -> None:
        self._storage = storage
        self._meta = meta
        self.session_id: Final = session_id
        self.fold: Final = fold

    async def record(self, *events: SessionEvent) -> None:
        """See `Journal.record`."""
        await finished(self._append(events))

    async def branch(self, at: int | str | At = HEAD) -> Branch:
        """See `Journal.branch`."""
        if at == HEAD:  # our own: another writer may have gone on
            return _EventBranch(self._storage, self.session_id, self.fold.state(), self._meta)
        return await branch(self._storage, self.session_id, at, self._meta)

    async def state_at(self, at: int | str | At) -> SessionState:
        """See `Journal.state_at`."""
        return await self._storage.state_at(self.session_id, at)

    async def _append(self, events: Sequence[SessionEvent]) -> None:
        while True:
            expected = self.fold.version
            try:
                appended = await self._storage.append(self.session_id, events, expected=expected, meta=self._meta)
            except WrongVersionError:
                if not await self._catch_up():
                    raise
            else:
                break
        for event in events:
            self.fold.add(event, appended.recorded_at)

    async def _catch_up(self) -> bool:
        """Fold what another writer appended, if none of it touches the conversation; whether that was so."""
        behind = self.fold.version
        foreign = [event async for event in self._storage.events(self.session_id, after=behind)]
        if not foreign or not all(isinstance(event.event, _HARMLESS) for event in foreign):
            return False
        for event in foreign:
            self.fold.add(event.event, event.recorded_at)
        return True


class _EventBranch:
    """*state* is the parent's at the version to fork at."""

    def __init__(self, storage: EventSessionStorage, parent_id: str, state: SessionState, meta: Meta) -> None:
        self._storage = storage
        self._parent_id = parent_id
        self._meta = meta
        self.state: Final = state

    async def forked(self, *, reason: str = "") -> Journal:
        """See `Branch.forked`."""
        at = self.state.version
        child = await self._storage.fork(self._parent_id, at=at, reason=reason, meta=self._meta)
        fold = Fold(self.state)
        async for event in self._storage.events(child, after=at):
            fold.add(event.event, event.recorded_at)
        return EventJournal(self._storage, child, fold, self._meta)


class SavingJournal:
    """Over a storage that keeps states: each save writes the whole session, the last writer wins, and what is not in a
    state (the blocks of a running response, which tools were started, the prompt) does not survive the process. So in
    a session that was loaded, each tool_use without a result is in doubt.
    """

    def __init__(self, storage: SessionStorage, state: SessionState) -> None:
        self._storage = storage
        self.session_id: Final = state.id
        self.fold = Fold(state)

    async def record(self, *events: SessionEvent) -> None:
        """See `Journal.record`."""
        await finished(self._save(events))

    async def branch(self, at: int | str | At = HEAD) -> Branch:
        """See `Journal.branch`. Only at the head."""
        return _SavedBranch(self._storage, await self.state_at(at))

    async def state_at(self, at: int | str | At) -> SessionState:
        """See `Journal.state_at`. Only the head."""
        if parse_at(at) != HEAD:
            raise PlaceNotFoundError(str(at), "a storage without events knows the head only")
        return self.fold.state()

    async def _save(self, events: Sequence[SessionEvent]) -> None:
        trial = Fold(self.fold.state())  # so that a failed save leaves the fold as it is
        now = _now()
        for event in events:
            trial.add(event, now)
        if not all(isinstance(event, _NOT_SAVED) for event in events):
            await _saved(self._storage, trial.state())
        self.fold = trial


class _SavedBranch:
    """*state* is the parent's now."""

    def __init__(self, storage: SessionStorage, state: SessionState) -> None:
        self._storage = storage
        self.state: Final = state

    async def forked(self, *, reason: str = "") -> Journal:  # noqa: ARG002 - keeps no events
        """See `Branch.forked`."""
        now = _now()
        child = self.state.replace(
            id=new_session_id(),
            parent_id=self.state.id,
            created_at=now,
            updated_at=now,
            inherited_usage=self.state.usage,
            responses=tuple(msgspec.structs.replace(response, cut=True) for response in self.state.responses),
            closed=False,
        )
        await finished(_saved(self._storage, child))
        return SavingJournal(self._storage, child)


async def _state_at(storage: EventSessionStorage, session_id: str, at: int | str | At) -> SessionState:
    """The session as it was at *at*, in doubt about its tools if nobody recorded their starts."""
    state = await storage.state_at(session_id, at)
    doubtful = doubting(state)
    if doubtful is state:
        return state
    first = [stored.event async for stored in storage.events(session_id, upto=1)]
    return state if records_starts(first[0] if first else None) else doubtful


async def _saved(storage: SessionStorage, state: SessionState) -> Any:  # noqa: ANN401 - what the storage returns
    return await storage.save(state)


def _now() -> int:
    return time.time_ns() // 1_000_000
