"""A folder of `<id>.json` files, as the TypeScript session SDKs keep it (see `session.storage.document`).

A fork names its parent by `parentId`, but not the place: it is made at the longest common prefix of their messages. So
parents come first, whatever the names of the files; a parent that is neither in the folder nor in the store leaves a
session that stands for itself, with the id of its parent. Only ids are held for all files at once, never messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from session import jsontext
from session.errors import PlaceNotFoundError, SessionDeletedError, SessionFileError, SessionNotFoundError
from session.events import HistoryRewound, MessageAppended
from session.saving import common_prefix
from session.storage.base import is_session_id
from session.storage.document import from_document
from session.transfer.conversations import ForkPoint, keep, parse_conversation
from session.transfer.report import Outcome, RefusedError, Skipped
from session.transfer.source import Source, files_below, members

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from session.state import SessionState
    from session.storage.blocking import BlockingEventSessionStorage
    from session.transfer.conversations import Target

SUFFIX = ".json"


class Found(NamedTuple):
    """A file, and what it says of its place in the family; *parent_id* is "" if it has none."""

    source: Source
    session_id: str
    parent_id: str
    size: int


def is_session_document(given: Mapping[str, bytes]) -> bool:
    """Whether these members are those of a session file rather than of a request."""
    return "id" in given and "messages" in given and bool({"createdAt", "updatedAt", "usage"} & given.keys())


def import_document(source: Source, target: Target) -> Iterator[Outcome]:
    """The one session file *source*."""
    try:
        found = _look(source)
        yield _import(found, target, Parents(target.storage))
    except RefusedError as refused:
        yield refused.at(source.shown)


def import_folder(source: Source, target: Target) -> Iterator[Outcome]:
    """Every session file in the folder *source*."""
    found: list[Found] = []
    for path in files_below(source.path, deep=False):
        if isinstance(path, Skipped):
            yield path
        elif path.name.endswith(SUFFIX):
            try:
                found.append(_look(Source(path)))
            except RefusedError as refused:
                yield refused.at(str(path))
    parents, done, total = Parents(target.storage), 0, sum(file.size for file in found)
    for file in parents_first(found):
        try:
            yield _import(file, target, parents)
        except RefusedError as refused:
            yield refused.at(file.source.shown)
        done += file.size
        target.progress(done, total)


def parents_first(found: list[Found]) -> Iterator[Found]:
    """*found*, each behind its parent. Who is in a circle of parents comes as it was found."""
    by_id = {file.session_id: file for file in found}
    given: set[int] = set()
    for file in found:
        line = [file]
        while (parent := by_id.get(line[-1].parent_id)) is not None and id(parent) not in given and parent not in line:
            line.append(parent)
        for member in reversed(line):
            if id(member) not in given:
                given.add(id(member))
                yield member


class Parents:
    """Where forks of a parent may begin. Remembers the last parent: brothers come one after the other."""

    def __init__(self, storage: BlockingEventSessionStorage) -> None:
        self._storage = storage
        self._newest: tuple[str, SessionState, list[int]] | None = None

    def fork_point(self, state: SessionState) -> ForkPoint | None:
        """Where *state* leaves its parent; None if the store has no such parent."""
        parent_id = state.parent_id
        if parent_id is None or parent_id == state.id or not is_session_id(parent_id):
            return None
        try:
            if self._newest is None or self._newest[0] != parent_id:
                self._newest = (parent_id, *self._places(parent_id))
            _, parent, places = self._newest
            common = common_prefix(parent.messages.entries, state.messages.entries)
            at = places[min(common, len(places) - 1)]
            return ForkPoint(parent_id, at, self._storage.state_at(parent_id, at))
        except (SessionNotFoundError, SessionDeletedError, PlaceNotFoundError):
            return None

    def _places(self, parent_id: str) -> tuple[SessionState, list[int]]:
        """The parent now, and for each number of its messages the version at which it first had just these.

        Exact for a parent that was imported. In one that was live, responses and results are messages, too: a fork then
        begins earlier than it could, and is given what it lacks.
        """
        places = [0]
        for stored in self._storage.events(parent_id):
            match stored.event:
                case MessageAppended():
                    places.append(stored.version)
                case HistoryRewound(kept):
                    del places[max(kept, 0) + 1 :]
        parent = self._storage.load(parent_id)
        if parent is None:
            raise SessionDeletedError(parent_id)
        return parent, places


def _look(source: Source) -> Found:
    text = source.read()
    given = members(text)
    if "messages" not in given:
        raise RefusedError("not_a_conversation", "it has no messages")
    named = jsontext.string(given.get("id", b"")) or source.path.name.removesuffix(SUFFIX)
    parent_id = jsontext.string(given.get("parentId", b"")) or ""
    return Found(source, named, parent_id, len(text))


def _import(found: Found, target: Target, parents: Parents) -> Outcome:
    text = found.source.read()
    if not is_session_document(members(text)):
        return keep(target, parse_conversation(text), found.source.shown)
    if not is_session_id(found.session_id):
        raise RefusedError("bad_id", found.session_id[:200])
    try:
        state = from_document(text, found.session_id, found.source.shown)
    except SessionFileError as error:
        raise RefusedError("not_a_conversation", error.reason) from error
    if any(not message.role and not message.raw for message in state.messages.entries):
        raise RefusedError("not_a_conversation", "a message is empty")
    return keep(target, state, found.source.shown, parents.fork_point(state))
