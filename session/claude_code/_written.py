"""What the store already has of the sessions of a plan, and what is still to be written."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from session.errors import SessionNotFoundError
from session.events import Meta, MetadataUpdated, SessionClosed, SessionForked
from session.places import HEAD
from session.transfer.report import RefusedError

if TYPE_CHECKING:
    from session.claude_code.plan import Place, Plan
    from session.events import SessionEvent
    from session.storage import BlockingEventSessionStorage

ACTOR: Final = Meta(actor="claude-code")
"""Says of an event that the import of transcripts wrote it."""

_HARMLESS: Final = (MetadataUpdated, SessionClosed)
_COMMIT_EVENTS: Final = 1_000
_COMMIT_BYTES: Final = 8 * 2**20


class WrittenBranch:
    """One session: how many of the plan's events it has, its head, and where others' events stand between them."""

    def __init__(self, session_id: str) -> None:
        self.session_id: Final = session_id
        self.head = 0
        self.planned = 0
        self.others: list[int] = []  # for each event of another: how many of the plan's stand before it
        self.continued_behind: int | None = None  # others said something behind so many of the plan's
        self.waiting: list[SessionEvent] = []
        self.fork_of: Place | None = None

    @property
    def continued(self) -> bool:
        """Whether others went on with it."""
        return self.continued_behind is not None

    def read(self, storage: BlockingEventSessionStorage, fork: tuple[WrittenBranch, Place] | None = None) -> None:
        """Find out what the store has. Of a *fork* of a session that was read, at a place there, only its own events
        are read. Raises `SessionDeletedError`.
        """
        try:
            self.head = storage.version_at(self.session_id, HEAD)
        except SessionNotFoundError:
            return
        for stored in storage.events(self.session_id, after=self._inherited(storage, fork) if fork else 0):
            if stored.meta.actor == ACTOR.actor:
                self.planned += 1
            else:
                self.others.append(self.planned)
                if self.continued_behind is None and not isinstance(stored.event, _HARMLESS):
                    self.continued_behind = self.planned

    def _inherited(self, storage: BlockingEventSessionStorage, fork: tuple[WrittenBranch, Place]) -> int:
        """Take over what *fork* says that it shares; the version up to which it does. 0: it is no such fork."""
        parent, at = fork
        head = storage.log.head(self.session_id)
        if head is None or (head.parent, head.forked_at) != (parent.session_id, parent.version(at.version)):
            return 0
        self._share(parent, at)
        return head.forked_at

    def _share(self, parent: WrittenBranch, at: Place) -> None:
        self.planned = at.version
        self.others = [before for before in parent.others if before < at.version]
        if parent.continued_behind is not None and parent.continued_behind < at.version:
            self.continued_behind = parent.continued_behind

    def version(self, planned: int) -> int:
        """The version in the store of the plan's event number *planned*."""
        return planned + bisect_left(self.others, planned)

    def number(self, version: int) -> int:
        """Inverse of `version`."""
        planned = version
        while self.version(planned) > version:
            planned -= 1
        return planned

    def begin_as_fork(self, parent: WrittenBranch, at: Place) -> None:
        """It will be a fork of *parent* at *at*."""
        self.fork_of = at
        self.head = parent.version(at.version)
        self._share(parent, at)


class Written:
    """The sessions of *plan*, in the store. `take` the steps of the plan as they come, and `write` now and then."""

    def __init__(self, storage: BlockingEventSessionStorage, plan: Plan) -> None:
        self._storage = storage
        self._plan = plan
        self._branches: list[WrittenBranch] = []
        self._seen: list[int] = []
        self.appended = 0

    @property
    def others_wait(self) -> bool:
        """Whether sessions other than the home have events to be written."""
        return any(branch.waiting for branch in self._branches[1:])

    @property
    def waiting(self) -> int:
        """The number of events to be written."""
        return sum(len(branch.waiting) for branch in self._branches)

    def branch(self, number: int) -> WrittenBranch:
        """What the store has of the plan's branch *number*."""
        while len(self._branches) <= number:
            self._read_next(None)
        return self._branches[number]

    def _read_next(self, fork: tuple[WrittenBranch, Place] | None) -> None:
        new = WrittenBranch(self._plan.branches[len(self._branches)].session_id)
        new.read(self._storage, fork)
        self._branches.append(new)
        self._seen.append(0)

    def place(self, at: Place) -> str:
        """*at* as a place in the store: `id@version`."""
        branch = self.branch(at.branch)
        return f"{branch.session_id}@{branch.version(at.version)}"

    def take(self) -> None:
        """Take the plan's new steps over: those that the store has are done."""
        for step in self._plan.steps:
            is_next, known = step.branch == len(self._branches), self._branches
            if step.at is not None and is_next and step.at.branch < len(known):
                self._read_next((known[step.at.branch], step.at))
            branch = self.branch(step.branch)
            if step.at is not None:
                self._seen[step.branch] = step.at.version
                if not branch.head:
                    branch.begin_as_fork(self.branch(step.at.branch), step.at)
            self._seen[step.branch] += 1
            if self._seen[step.branch] > branch.planned + len(branch.waiting):
                branch.waiting.append(step.event)
        self._plan.steps.clear()

    def write(self) -> None:
        """Append what waits: the home first, so that its evidence is there before what was made of it.

        Raises `RefusedError` if a session was continued by others, `WrongVersionError` if it is being written to now.
        """
        for branch in self._branches:
            while branch.waiting:
                self._append(branch)

    def _append(self, branch: WrittenBranch) -> None:
        if branch.continued:
            raise RefusedError("taken", f"{branch.session_id} was continued in the store; nothing is added to it")
        if isinstance(branch.waiting[0], SessionForked):
            self._fork(branch, branch.waiting.pop(0))
            return
        events = _first_part(branch.waiting)
        done = self._storage.append(branch.session_id, events, expected=branch.head, meta=ACTOR)
        del branch.waiting[: len(events)]
        branch.head, branch.planned = done.version, branch.planned + len(events)
        self.appended += len(events)

    def _fork(self, branch: WrittenBranch, event: SessionEvent) -> None:
        assert isinstance(event, SessionForked)
        assert branch.fork_of is not None
        parent = self.branch(branch.fork_of.branch)
        at = parent.version(branch.fork_of.version)
        self._storage.fork(parent.session_id, branch.session_id, at=at, reason=event.reason, meta=ACTOR)
        branch.head, branch.planned = at + 1, branch.planned + 1
        self.appended += 1


def _first_part(events: list[SessionEvent]) -> list[SessionEvent]:
    """As many of *events* as one commit may hold."""
    size = 0
    for count, event in enumerate(events[:_COMMIT_EVENTS]):
        size += _bytes_of(event)
        if size > _COMMIT_BYTES and count:
            return events[:count]
    return events[:_COMMIT_EVENTS]


def _bytes_of(event: SessionEvent) -> int:
    message = getattr(event, "message", None)
    return len(message.raw) if message is not None else len(getattr(event, "data", b""))
