"""What ties one transcript to others: sub-agents, sessions that go on in another file, and titles that stand elsewhere.

- A sub-agent is caused by the call that began it: the file beside its transcript names the call, or the call's result
  names the agent or the run of the workflow that it is of. If none of them does: by the session that it belongs to.
- A session that begins behind a line of another file (after a compaction, it may) is caused by the place of that line.
- Older versions of Claude Code wrote the title of one session into the files of later ones. Such a title is given to
  the session that has its line, if that has none.
"""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from session import jsontext
from session.claude_code._file import places_of
from session.claude_code._written import ACTOR, Written
from session.claude_code.transcripts import agent_session_id, batches, first_line
from session.errors import SessionDeletedError, SessionNotFoundError
from session.events import Meta, MetadataUpdated
from session.storage import WrongVersionError
from session.transfer.report import RefusedError
from session.transfer.source import open_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from pathlib import Path

    from session.claude_code.plan import Plan
    from session.claude_code.transcripts import Transcript
    from session.events import SourceRecorded
    from session.storage import BlockingEventSessionStorage

TITLER: Final = Meta(actor="claude-code-title")
"""Says of a title that it stood in the file of another session. It is not of the plan of its own session's file."""

_UUID: Final = re.compile(rb'"uuid": ?"([^"\\]{1,100})"')
_AWAY: Final = (SessionNotFoundError, SessionDeletedError)


class Links:
    """The ties between *files*; *planned* gives the plan of a session that is in the store."""

    def __init__(
        self,
        storage: BlockingEventSessionStorage,
        files: Iterable[Transcript],
        planned: Callable[[str, Collection[str]], Plan],
    ) -> None:
        self._storage = storage
        self._planned = planned
        self._places: dict[tuple[str, str], str] = {}
        self._known: set[str] = set()
        self._calls: defaultdict[str, set[str]] = defaultdict(set)
        self._folders: defaultdict[Path, list[Transcript]] = defaultdict(list)
        self._before: dict[Path, dict[str, Transcript]] = {}
        self._titles: defaultdict[Path, dict[str, str]] = defaultdict(dict)
        self._unfinished: list[tuple[str, SourceRecorded]] = []
        for file in files:
            if file.agent:
                self._calls[file.owner].add(file.about.tool_use_id)
            else:
                self._folders[file.path.parent].append(file)

    def wanted(self, file: Transcript) -> Collection[str]:
        """The calls that began sub-agents of the session of *file*."""
        return self._calls.get(file.owner, ())

    def note(self, file: Transcript, places: dict[str, str]) -> None:
        """*places* are those at which *file* has calls of sub-agents."""
        self._known.add(file.session_id)
        self._places.update({(file.owner, name): place for name, place in places.items()})

    def note_titles(self, file: Transcript, titles: list[tuple[str, str]], done: SourceRecorded) -> None:
        """*file* has *titles* of other lines than its own; *done* is to be recorded when they are given."""
        self._titles[file.path.parent].update(titles)
        self._unfinished.append((file.session_id, done))

    def cause(self, file: Transcript) -> str:
        """What began the session of *file*: a place, a session, or ""."""
        return self._caller(file) if file.agent_of else "" if file.agent else self._continued(file)

    def _caller(self, file: Transcript) -> str:
        about = file.about
        caller = agent_session_id(file.owner, about.parent_agent_id) if about.parent_agent_id else file.owner
        if self._place(file) is None and caller not in self._known:
            self._known.add(caller)
            with contextlib.suppress(*_AWAY, RefusedError):
                plan = self._planned(caller, self.wanted(file))
                self._places.update(
                    {(file.owner, name): at for name, at in places_of(plan, Written(self._storage, plan)).items()}
                )
        return self._place(file) or file.owner

    def _place(self, file: Transcript) -> str | None:
        names = (file.about.tool_use_id, file.agent, file.run)
        return next(
            (self._places[file.owner, name] for name in names if name and (file.owner, name) in self._places), None
        )

    # --- a session that goes on in another file -----------------------------------------------------------------------

    def _continued(self, file: Transcript) -> str:
        uuid = _begins_behind(file)
        if not uuid:
            return ""
        folder = file.path.parent
        if folder not in self._before:
            files = self._folders[folder]
            self._before[folder] = _transcripts_with(files, {_begins_behind(other) for other in files} - {""})
        other = self._before[folder].get(uuid)
        if other is None or other.session_id == file.session_id:
            return ""
        with contextlib.suppress(*_AWAY, RefusedError):
            plan = self._planned(other.session_id, ())
            place = plan.place_named(uuid)
            if place is not None:
                return Written(self._storage, plan).place(place)
        return other.session_id

    # --- titles -------------------------------------------------------------------------------------------------------

    def give_titles(self) -> None:
        """Give the titles that were noted, and record that their files are done."""
        for folder, titles in self._titles.items():
            for leaf, file in _transcripts_with(self._folders[folder], titles).items():
                with contextlib.suppress(*_AWAY):
                    self._give_title(file.session_id, titles[leaf])
        for session_id, done in self._unfinished:
            with contextlib.suppress(*_AWAY, WrongVersionError):
                self._storage.append(session_id, [done], meta=ACTOR)
        self._titles.clear()
        self._unfinished.clear()

    def _give_title(self, session_id: str, title: str) -> None:
        state = self._storage.load(session_id)
        if state is not None and not state.metadata.get("title"):
            event = MetadataUpdated(jsontext.encode({"title": title}))
            self._storage.append(session_id, [event], meta=TITLER)


def _begins_behind(file: Transcript) -> str:
    """The line of another file that the first one of *file* follows."""
    with contextlib.suppress(OSError, RefusedError):
        line = first_line(file)
        return (line.parent or line.logical_parent) if line else ""
    return ""


def _transcripts_with(files: Iterable[Transcript], uuids: Collection[str]) -> dict[str, Transcript]:
    """For each of *uuids*, the first of *files* that has a line of this name."""
    wanted = {uuid.encode("utf-8", "surrogatepass"): uuid for uuid in uuids}
    found: dict[str, Transcript] = {}
    for file in files:
        if not wanted:
            break
        with contextlib.suppress(OSError, RefusedError), open_regular(file.path) as opened:
            for batch in batches(opened, 0, 1):
                for match in _UUID.finditer(batch.text):
                    if (uuid := wanted.pop(match[1], None)) is not None:
                        found[uuid] = file
    return found
