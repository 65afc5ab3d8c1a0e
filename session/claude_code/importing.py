"""Take transcripts of Claude Code into a storage: each file becomes a session, with its rewinds as forks of it.

The evidence comes first: the exact bytes of a file, in parts (`source_recorded`), go into its session before, or in the
same commit as, what is made of them. What is made of them is a pure function of the evidence (`Plan`), so that

- a second run over a file that has grown takes in what is new, and one over an unchanged file reads its last event;
- a run that was killed is simply repeated: what is missing is made from the evidence, and nothing is doubled.

A title or tag that was set in the store since does no harm. A session that was continued there is left alone, and said.
Memory: a batch of lines (1 MiB, or one line of up to 32 MiB), and about 300 bytes for each line of the file.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, BinaryIO, Final, Literal

from session.claude_code._file import FileImport, replay_part
from session.claude_code._written import WrittenBranch
from session.claude_code.plan import Place, Plan
from session.claude_code.transcripts import Transcript, batches, first_key, lines_of, transcripts_at
from session.errors import SessionDeletedError, SessionNotFoundError
from session.events import SessionCreated, SessionForked, SourceRecorded
from session.places import HEAD
from session.pricing import load_prices
from session.transfer.report import Imported, Outcome, RefusedError, Skipped
from session.transfer.source import open_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from session.pricing import PriceTable
    from session.storage import BlockingEventSessionStorage

_NEAR_HEAD: Final = 16
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
        self._agents: dict[str, str] = {}

    def run(self) -> Iterator[Outcome]:
        """What became of each transcript, as it is done."""
        yield from self._skipped
        for file in self._files:
            try:
                yield from self._one(file)
            except RefusedError as error:
                yield error.at(str(file.path))
            except SessionDeletedError:
                yield Skipped(str(file.path), "deleted")
            except OSError as error:
                yield Skipped(str(file.path), "unreadable", detail=error.strerror or "")

    def _one(self, file: Transcript) -> Iterator[Outcome]:
        last = self._last_evidence(file.session_id)
        if last is not None and _is_done(last, file):
            self._progress(file.size)
            yield Imported(file.session_id, "unchanged", str(file.path), self._head(file.session_id))
            return
        plan = self._plan(file)
        work = FileImport(self._storage, plan, file, last)
        with open_regular(file.path) as opened:
            if last is not None:
                self._replay(plan, work.take)
                plan.forget_counts()
            elif not self._begin(plan, file, opened):
                yield Skipped(str(file.path), "not_a_conversation", detail="it has no whole line")
                return
            yield from work.read(opened, self._progress)
        self._agents.update(work.agents())
        outcome: Literal["new", "extended", "unchanged"] = "extended" if work.added else "unchanged"
        yield Imported(
            file.session_id,
            "new" if last is None else outcome,
            str(file.path),
            self._head(file.session_id),
            noticed=dict(plan.counts),
        )

    # --- what is there ------------------------------------------------------------------------------------------------

    def _head(self, session_id: str) -> int:
        return self._storage.version_at(session_id, HEAD)

    def _is_there(self, session_id: str) -> bool:
        try:
            return bool(self._head(session_id))
        except (SessionNotFoundError, SessionDeletedError):
            return False

    def _last_evidence(self, session_id: str) -> SourceRecorded | None:
        """The newest evidence in the session; None if it is not there. Raises `RefusedError` if it is another's."""
        try:
            head = self._head(session_id)
        except SessionNotFoundError:
            return None
        for after in (max(0, head - _NEAR_HEAD), 0):
            for stored in self._storage.events(session_id, after=after, reverse=True):
                if isinstance(stored.event, SourceRecorded):
                    return stored.event
        raise RefusedError("taken", session_id)

    # --- plans --------------------------------------------------------------------------------------------------------

    def _plan(self, file: Transcript) -> Plan:
        cause = (self._agents.get(file.agent) or file.agent_of) if file.agent else ""
        return Plan(file.session_id, cause=cause, agent=bool(file.agent), prices=self._prices)

    def _begin(self, plan: Plan, file: Transcript, opened: BinaryIO) -> bool:
        """Begin the session of a file that is new; False if it has no whole line."""
        first = next(batches(opened, 0, 1), None)
        if first is None:
            return False
        base_id = None if file.agent else self._copied_from(file)
        base = self._planned(base_id) if base_id else None
        at = _parting(base, opened) if base else None
        if base is not None and at is not None:
            plan.begin_within(base, at)
        else:
            plan.begin(next((line.said_at for _, line in lines_of(first.text) if line and line.said_at), 0))
        return True

    def _planned(self, session_id: str) -> Plan:
        """The plan of the session *session_id*, as its evidence gives it: a base for copies of it."""
        plan = Plan(session_id, prices=self._prices)
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
        base = self._planned(_BRANCH_SUFFIX.sub("", event.parent_id))
        ids = [branch.session_id for branch in base.branches]
        if event.parent_id not in ids:
            raise RefusedError("taken", f"{event.session_id} was forked from {event.parent_id} by others")
        parent = WrittenBranch(event.parent_id)
        parent.read(self._storage)
        plan.begin_within(base, Place(ids.index(event.parent_id), parent.number(event.at)))

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


def _is_done(last: SourceRecorded, file: Transcript) -> bool:
    return last.size == 0 and (last.modified_ns, last.file_size) == (file.modified_ns, file.size)
