"""Take transcripts of Claude Code into a storage: each file becomes a session, with its rewinds as forks of it.

The evidence comes first: the exact bytes of a file, in parts (`source_recorded`), go into its session before, or in the
same commit as, what is made of them. What is made of them is a pure function of the evidence (`Plan`), so that

- a second run over a file that has grown takes in what is new, and one over an unchanged file reads its last event;
- a run that was killed is simply repeated: what is missing is made from the evidence, and nothing is doubled.

A title or tag that was set in the store since does no harm. A session that was continued there is left alone, and said.
Memory: a batch of lines (1 MiB, or one line of up to 32 MiB), and about 300 bytes for each line of the file.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING, BinaryIO, Final, Literal, TypeAlias

from session.claude_code._file import FileImport, evidence_text, replay_part
from session.claude_code._written import ACTOR, WrittenBranch
from session.claude_code.links import Links
from session.claude_code.plan import Place, Plan
from session.claude_code.transcripts import (
    Transcript,
    batches,
    first_key,
    is_agent_session_id,
    is_transcript,
    lines_of,
    transcripts_at,
)
from session.errors import SessionDeletedError, SessionExistsError, SessionNotFoundError
from session.events import SessionCreated, SessionForked, SourceRecorded
from session.places import HEAD
from session.pricing import load_prices
from session.storage import WrongVersionError
from session.transfer.report import Imported, Outcome, RefusedError, Skipped
from session.transfer.source import open_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from session.events import StoredEvent
    from session.pricing import PriceTable
    from session.storage import BlockingEventSessionStorage

Taken: TypeAlias = Literal["new", "extended", "unchanged"]

_NEAR_HEAD: Final = 16
_ATTEMPTS: Final = 20  # where other processes import the same file: each is one at which another got further
_SETTLED: Final = 8  # copies of a file that are told apart by what the store says of them; others are read each time
_BRANCH_SUFFIX: Final = re.compile(r"\.[0-9a-f]{8}\Z")


class TranscriptImport:
    """One run over the transcripts at *path*, a file or a folder such as ~/.claude/projects.

    *progress* is told the bytes that were read or passed over, of `total_bytes`.
    """

    def __init__(
        self,
        storage: BlockingEventSessionStorage,
        path: Path,
        *,
        prices: PriceTable | None = None,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._storage = storage
        self._prices = prices or load_prices()
        self._progress = progress
        found = list(transcripts_at(path))
        self._skipped = [it for it in found if isinstance(it, Skipped)]
        self._files = [it for it in found if isinstance(it, Transcript)]
        self.total_bytes = sum(file.size for file in self._files)
        self._firsts: dict[bytes, str] | None = None
        self._untitled: list[tuple[Transcript, Taken, dict[str, int]]] = []  # what is said of them comes last
        self._links = Links(storage, self._files, self._planned)

    def run(self) -> Iterator[Outcome]:
        """What became of each transcript, as it is done; where it has titles of other lines, when these are given."""
        yield from self._skipped
        for file in self._files:
            told = 0

            def progress(more: int) -> None:
                nonlocal told
                told += more
                self._progress(more)

            try:
                yield from self._attempts(file, progress)
            except RefusedError as error:
                yield error.at(str(file.path))
            except SessionDeletedError:
                yield Skipped(str(file.path), "deleted")
            except OSError as error:
                yield Skipped(str(file.path), "unreadable", detail=error.strerror or "")
            self._progress(file.size - told)
        self._links.give_titles()
        for file, outcome, noticed in self._untitled:
            with contextlib.suppress(SessionNotFoundError, SessionDeletedError):  # since
                yield self._imported(file, outcome, noticed)

    def _attempts(self, file: Transcript, progress: Callable[[int], None]) -> Iterator[Outcome]:
        """Go on from where another process came to that imports the same file at the same time."""
        said = 0
        for _ in range(_ATTEMPTS):
            try:
                for outcome in self._one(file, progress):
                    if isinstance(outcome, Imported) or not 0 < outcome.line <= said:
                        yield outcome
                    said = max(said, outcome.line if isinstance(outcome, Skipped) else 0)
            except (WrongVersionError, SessionExistsError):
                continue
            return
        raise RefusedError("taken", "another process writes to it; run the import again")

    def _one(self, file: Transcript, progress: Callable[[int], None]) -> Iterator[Outcome]:
        evidence = self._evidence(file.session_id)
        if evidence and _is_done(evidence, file):
            yield self._imported(file, "unchanged")
            return
        last = evidence[0] if evidence else None
        plan = self._plan(file)
        work = FileImport(self._storage, plan, file, last, settled=_copies(evidence or []) >= _SETTLED)
        with open_regular(file.path) as opened:
            if last is not None and file.size < last.offset + last.size and self._holds(file.session_id, opened):
                yield self._imported(file, "unchanged", {"shorter than what was imported before": 1})
                return
            if evidence is not None:
                self._replay(plan, work.take)
                plan.forget_counts()
            else:
                self._begin(plan, file, opened)
            yield from work.read(opened, progress)
        self._links.note(file, work.places())
        outcome: Taken = "new" if last is None else "extended" if work.added else "unchanged"
        if work.unfinished is not None:
            self._links.note_titles(file, plan.titles, work.unfinished)
            self._untitled.append((file, outcome, dict(plan.counts)))
        else:
            yield self._imported(file, outcome, dict(plan.counts))

    def _imported(self, file: Transcript, outcome: Taken, noticed: dict[str, int] | None = None) -> Imported:
        head = self._head(file.session_id)
        return Imported(file.session_id, outcome, str(file.path), head, noticed=noticed or {})

    # --- what is there ------------------------------------------------------------------------------------------------

    def _head(self, session_id: str) -> int:
        return self._storage.version_at(session_id, HEAD)

    def _is_there(self, session_id: str) -> bool:
        try:
            return bool(self._head(session_id))
        except (SessionNotFoundError, SessionDeletedError):
            return False

    def _evidence(self, session_id: str) -> list[SourceRecorded] | None:
        """The newest evidence in the session, newest first; empty if it was only begun; None if it is not there.

        Raises `RefusedError` if the session was not made by an import.
        """
        try:
            head = self._head(session_id)
        except SessionNotFoundError:
            return None
        return self._evidence_behind(session_id, max(0, head - _NEAR_HEAD)) or self._evidence_behind(session_id, 0)

    def _evidence_behind(self, session_id: str, after: int) -> list[SourceRecorded]:
        found: list[SourceRecorded] = []
        for stored in self._storage.events(session_id, after=after, reverse=True):
            if _begins(stored, session_id):  # what is before it is of the session that this one is a copy of
                if stored.meta.actor != ACTOR.actor:
                    raise RefusedError("taken", session_id)
                break
            if isinstance(stored.event, SourceRecorded):
                found.append(stored.event)
                if stored.event.size:
                    break
        return found

    def _holds(self, session_id: str, opened: BinaryIO) -> bool:
        """Whether every byte of the file is in the evidence."""
        return all(
            text.startswith(os.pread(opened.fileno(), len(text), event.offset))
            for event in self._own_evidence(session_id)
            if (text := evidence_text(event))
        )

    def _own_evidence(self, session_id: str) -> Iterator[SourceRecorded]:
        own = False
        for stored in self._storage.events(session_id):
            own = own or _begins(stored, session_id)
            if own and isinstance(stored.event, SourceRecorded):
                yield stored.event

    # --- plans --------------------------------------------------------------------------------------------------------

    def _plan(self, file: Transcript) -> Plan:
        agent, wanted = bool(file.agent), self._links.wanted(file)
        return Plan(file.session_id, agent=agent, wanted=wanted, prices=self._prices)

    def _begin(self, plan: Plan, file: Transcript, opened: BinaryIO) -> None:
        """Begin the session of a file that is new. Raises `RefusedError` if it is no transcript."""
        first = next(batches(opened, 0, 1), None)
        if first is None:
            raise RefusedError("not_a_conversation", "it has no whole line")
        if first.text and not is_transcript(first.text):
            raise RefusedError("not_a_conversation", "it has no line of Claude Code's")
        base_id = None if file.agent else self._copied_from(file)
        base = self._planned(base_id) if base_id else None
        at = _parting(base, opened) if base else None
        if base is not None and at is not None:
            plan.begin_within(base, at)
        else:
            at_ms = next((line.said_at for _, line in lines_of(first.text) if line and line.said_at), 0)
            plan.begin(at_ms, self._links.cause(file))

    def _planned(self, session_id: str, wanted: Collection[str] = ()) -> Plan:
        """The plan of the session *session_id*, as its evidence gives it: a base for copies of it."""
        plan = Plan(session_id, agent=is_agent_session_id(session_id), wanted=wanted, prices=self._prices)
        self._replay(plan, plan.steps.clear)
        plan.end()
        return plan

    def _replay(self, plan: Plan, taken: Callable[[], None]) -> None:
        """Add the evidence in the store to *plan*; *taken* is called now and then to take its steps."""
        own = ""  # the session whose event comes next: a copy's history begins with that of another
        home = plan.branches[0].session_id
        for stored in self._storage.events(home):
            event = stored.event
            match event:
                case SessionCreated():
                    own = event.session_id
                    if own == home:
                        plan.begin(event.created_at)
                case SessionForked():
                    own = event.session_id
                    if own == home:
                        self._replay_fork(plan, event)
                case SourceRecorded() if own == home:
                    replay_part(plan, event)
                    taken()

    def _replay_fork(self, plan: Plan, event: SessionForked) -> None:
        base = self._base(event)
        parent = WrittenBranch(event.parent_id)
        parent.read(self._storage)
        number = [branch.session_id for branch in base.branches].index(event.parent_id)
        plan.begin_within(base, Place(number, parent.number(event.at)))

    def _base(self, event: SessionForked) -> Plan:
        """The plan that the parent of a copy is of: as one of its forks, or as its home."""
        for home in dict.fromkeys((_BRANCH_SUFFIX.sub("", event.parent_id), event.parent_id)):
            if self._is_there(home):
                base = self._planned(home)
                if any(branch.session_id == event.parent_id for branch in base.branches):
                    return base
        raise RefusedError("taken", f"{event.session_id} was forked from {event.parent_id} by others")

    # --- copies -------------------------------------------------------------------------------------------------------

    def _copied_from(self, file: Transcript) -> str | None:
        """The session that is in the store of an older file, as a copy of which *file* begins."""
        key = first_key(file)
        if key is None:
            return None
        if self._firsts is None:
            self._firsts = {}
            for other in self._files:
                if not other.agent and self._is_there(other.session_id) and (first := first_key(other)) is not None:
                    self._firsts.setdefault(first, other.session_id)
        original = self._firsts.setdefault(key, file.session_id)
        return original if original != file.session_id and self._is_there(original) else None


def _parting(base: Plan, file: BinaryIO) -> Place | None:
    """Where *file*, which begins as a copy of what *base* planned, goes its own way."""
    at = None
    for batch in batches(file, 0, 1):
        for _, line in lines_of(batch.text):
            if line is None or line.said is None or not line.uuid:
                continue
            if not base.knows(line):
                return at
            at = base.place_of(line)
    return at


def _begins(stored: StoredEvent, session_id: str) -> bool:
    return isinstance(stored.event, SessionCreated | SessionForked) and stored.event.session_id == session_id


def _copies(evidence: list[SourceRecorded]) -> int:
    """How many files that have the same bytes the store knows as imported."""
    return sum(not event.size for event in evidence)


def _is_done(evidence: list[SourceRecorded], file: Transcript) -> bool:
    seen = {(event.modified_ns, event.file_size) for event in evidence if not event.size}
    return (file.modified_ns, file.size) in seen
