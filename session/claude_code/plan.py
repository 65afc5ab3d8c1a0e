"""From the lines of transcripts to the events of sessions: pure, and the same for the same lines.

The lines of a file form a tree by `uuid` and `parentUuid`. What a session is made of:

1. The first line that follows another one goes on in its session; each later one is a fork there (a rewind in Claude
   Code). So what is appended to a file later only ever adds, and never moves what was imported.
2. The lines of one API response share its message id: one message, their blocks in order, their usage counted once,
   the last one: what was counted before, in whichever session, is taken off. The results of its tools follow as one
   message, in the order of the calls. A response that turns out to go on after the end of the file was reached is
   rewound and said whole.
3. A compaction sets its summary in the place of what was there (`history_compacted`).
4. A side chain is a session of its own, caused by the one it began in.
5. Lines without a message (progress, attachments, snapshots) stand for the message before them.

A line whose parent is not before it in the file, or that has neither uuid nor parent, follows the line that stands
before it. So there are no cycles.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from session import jsontext
from session.claude_code.lines import TITLES, Line, Said, uuid_key
from session.errors import UnreadableJsonError
from session.events import (
    HistoryCompacted,
    HistoryRewound,
    MessageAppended,
    MetadataUpdated,
    SessionCreated,
    SessionForked,
    UsageRecorded,
)
from session.messages import Message, assistant_message, joined
from session.pricing import usage_recorded
from session.saving import plan_usage
from session.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Collection

    from session.events import SessionEvent
    from session.pricing import PriceTable

REVISION: Final = 1
"""Changes when the same lines would give other events."""

ORIGIN: Final = "claude-code"
SYNTHETIC_MODEL: Final = "<synthetic>"  # messages that Claude Code itself puts in the place of a response


class Place(msgspec.Struct, frozen=True):
    """Behind *version* of the branch number *branch*, counted in events that the plan gave."""

    branch: int
    version: int


class Step(msgspec.Struct, frozen=True):
    """*event* is the next one of a branch. Where it begins a fork, *at* is the place it forks from."""

    branch: int
    event: SessionEvent
    at: Place | None = None


class _Open(msgspec.Struct):
    """A response, and the results of its tools, which may still go on. *before*: messages in front of it."""

    branch: int
    message_id: str
    line: Line
    before: int
    blocks: list[bytes]
    calls: list[str]
    results: dict[str, bytes]
    keys: list[bytes]
    agents: list[str]
    text: bytes = b""


class _Billed(NamedTuple):
    """What was counted for a response: the text of its usage, small to keep, and its cost."""

    usage: bytes
    cost_picodollars: int | None

    def counted(self) -> Usage:
        return Usage.from_text(self.usage, self.cost_picodollars)


class _Branch(msgspec.Struct):
    """A session in the making. *tip* is the version of its newest message, None while one is open."""

    session_id: str
    version: int = 0
    tip: int | None = 0
    messages: int = 0
    where: tuple[tuple[str, str], ...] = ()
    open: _Open | None = None
    last: _Open | None = None


class Plan:
    """What the lines of one file, the home session's, come to. Ask for `steps` when lines were added.

    `agents` and `calls` tell where sub-agents were called: by their ids, and for the tool calls *wanted* by theirs.
    `titles` are those of lines that did not stand before them: the line, and the title.
    """

    def __init__(
        self,
        home: str,
        *,
        agent: bool = False,
        wanted: Collection[str] = (),
        prices: PriceTable | None = None,
    ) -> None:
        self.branches: list[_Branch] = [_Branch(home)]
        self.steps: list[Step] = []
        self.counts: Counter[str] = Counter()
        self.garbage: list[int] = []
        self.agents: dict[str, Place] = {}
        self.calls: dict[str, Place] = {}
        self.titles: list[tuple[str, str]] = []
        self._wanted = wanted
        self._is_agent = agent  # then every line is of a side chain, and the file is its session
        self._side_chains: set[int] = set()
        self._root = Place(0, 0)
        self._prices = prices
        self._places: dict[bytes, Place | _Open] = {}
        self._billed: dict[bytes, _Billed] = {}
        self._messages_at: dict[Place, int] = {}
        self._last: dict[bool, Place | _Open] = {}
        self._title = len(TITLES)
        self._new_title = ""
        self._counted_titles = 0

    # --- how a home begins --------------------------------------------------------------------------------------------

    def begin(self, created_at: int, cause: str = "") -> None:
        """The home is a session of its own, which *cause* made begin."""
        self._emit(0, SessionCreated(self.branches[0].session_id, created_at, cause=cause, origin="import"))
        self._root = self._stands(0, 0)

    def begin_within(self, base: Plan, at: Place) -> None:
        """The home is a fork of what *base* planned, at *at*: a copy of its file that went another way.

        The sessions of *base*, which must have ended, are those behind the home; nothing is added to them.
        """
        self.branches += [
            _Branch(branch.session_id, branch.version, None, branch.messages, branch.where) for branch in base.branches
        ]
        self._messages_at = {_shifted(place): count for place, count in base._messages_at.items()}
        self._billed = dict(base._billed)
        self._root = self._fork(0, _shifted(at), "copied")
        for key, place in base._places.items():
            assert isinstance(place, Place)
            self._places[key] = self._root if place == at else _shifted(place)

    def knows(self, line: Line) -> bool:
        """Whether *line*, or the one it is a copy of, was planned before."""
        return uuid_key(line.copied_from or line.uuid) in self._places

    def place_of(self, line: Line) -> Place | None:
        """Where *line*, or the one it is a copy of, stands, if its message is whole."""
        return self.place_named(line.copied_from or line.uuid)

    def place_named(self, uuid: str) -> Place | None:
        """Where the line *uuid* stands, if its message is whole."""
        place = self._places.get(uuid_key(uuid))
        return place if isinstance(place, Place) else None

    def forget_counts(self) -> None:
        """What was added until now was counted before."""
        self._count_titles()
        self.counts.clear()
        self.garbage.clear()

    # --- lines --------------------------------------------------------------------------------------------------------

    def add(self, line: Line | None, number: int = 0) -> None:
        """The next line of the file; None: one that could not be read, whose *number* is noted in `garbage`."""
        self.counts["lines"] += 1
        if line is None:
            self.counts["garbage"] += 1
            self.garbage.append(number)
        elif line.type in TITLES and not line.uuid:
            self._titled(line)
        elif not line.uuid and line.said is None:
            self.counts[f"kept only: {line.type or 'no type'}"] += 1
        elif line.uuid and self.knows(line):
            self.counts["repeated"] += 1
            self._last[line.sidechain] = self._places[uuid_key(line.copied_from or line.uuid)]
        else:
            self._tree_line(line)

    def source(self, event: SessionEvent) -> None:
        """The evidence for lines that were added, or will be, goes to the home session."""
        self._emit(0, event)

    def end(self) -> None:
        """The file has no more lines, for now."""
        for number, branch in enumerate(self.branches):
            if branch.open is not None:
                self._close(number)
        self._count_titles()

    # --- the tree -----------------------------------------------------------------------------------------------------

    def _tree_line(self, line: Line) -> None:
        parent = self._parent(line)
        if line.said is None:
            self.counts[f"kept only: {line.type}"] += 1
            place = parent or self._root
        else:
            self.counts["messages"] += 1
            place = self._message(line, line.said, parent)
        for name in {line.uuid, line.copied_from} - {""}:
            self._note(uuid_key(name), place)
        self._last[line.sidechain] = place

    def _note(self, key: bytes, place: Place | _Open) -> None:
        self._places[key] = place
        response = place if isinstance(place, _Open) else self._resumable(place)
        if response is not None:  # when it goes on, what stands for its end moves with it
            response.keys.append(key)

    def _parent(self, line: Line) -> Place | _Open | None:
        """What *line* follows; None: it is the first of its chain."""
        named = line.parent or line.logical_parent
        if not named:
            return None if line.uuid else self._last.get(line.sidechain)
        found = self._places.get(uuid_key(named))
        if found is None:
            self.counts["parent missing"] += 1
            return self._last.get(line.sidechain)
        return found

    def _message(self, line: Line, said: Said, parent: Place | _Open | None) -> Place | _Open:
        if self._begins_side_chain(line, parent):
            number = self._side_chain(line, parent)
        else:
            response = self._response_of(line, said, parent)
            if response is not None:
                return response
            number = self._branch_behind(self._closed(parent), line)
        self._moved(number, line)
        if line.compacted and self.branches[number].messages:
            return self._compacted(number, said)
        if said.role == "assistant":
            return self._opened(number, line, said)
        return self._said(number, line, _user_message(said.content))

    def _closed(self, parent: Place | _Open | None) -> Place:
        if isinstance(parent, _Open):
            return self._close(parent.branch)
        return parent or self._root

    def _branch_behind(self, at: Place, line: Line) -> int:
        """The branch that goes on behind *at*: its own, if nothing did so yet; or else a fork."""
        if self.branches[at.branch].tip == at.version:
            return at.branch
        number = self._new_branch(line)
        if at.branch in self._side_chains:
            self._side_chains.add(number)
        self._fork(number, at, "rewound in Claude Code" if at != self._root else "another beginning")
        self.counts["forks"] += 1
        return number

    def _begins_side_chain(self, line: Line, parent: Place | _Open | None) -> bool:
        return line.sidechain and not self._is_agent and (parent is None or parent.branch not in self._side_chains)

    def _side_chain(self, line: Line, parent: Place | _Open | None) -> int:
        number = self._new_branch(line)
        came_from = self.branches[parent.branch if parent else 0]
        cause = f"{came_from.session_id}@{came_from.tip or came_from.version}"
        self._emit(number, SessionCreated(self.branches[number].session_id, line.said_at, cause=cause, origin="import"))
        self._stands(number, 0)
        self._side_chains.add(number)
        self.counts["side chains"] += 1
        return number

    def _new_branch(self, line: Line) -> int:
        named = _short(line.uuid or str(len(self.branches)))
        self.branches.append(_Branch(f"{self.branches[0].session_id}.{named}"))
        return len(self.branches) - 1

    def _fork(self, number: int, at: Place, reason: str) -> Place:
        parent, child = self.branches[at.branch], self.branches[number]
        child.version = at.version
        child.messages = self._messages_at.get(at, 0)
        child.where = parent.where
        self._emit(number, SessionForked(child.session_id, parent.session_id, at.version, reason), at)
        return self._stands(number, 0)

    # --- messages -----------------------------------------------------------------------------------------------------

    def _said(self, number: int, line: Line, message: bytes) -> Place:
        self._emit(number, MessageAppended.of(message, message_id=line.uuid, said_at=line.said_at))
        return self._stands(number, 1)

    def _compacted(self, number: int, said: Said) -> Place:
        branch = self.branches[number]
        summary = Message.of(_user_message(said.content))
        self._emit(number, HistoryCompacted(branch.messages, (summary,), reason="compacted in Claude Code"))
        self.counts["compactions"] += 1
        branch.messages = 0
        return self._stands(number, 1)

    def _stands(self, number: int, more: int) -> Place:
        branch = self.branches[number]
        branch.messages += more
        branch.tip = branch.version
        branch.last = None
        place = Place(number, branch.version)
        self._messages_at[place] = branch.messages
        return place

    def _moved(self, number: int, line: Line) -> None:
        """Where the work is done (directory, git branch, version of Claude Code), when that has changed."""
        branch = self.branches[number]
        where = tuple({**dict(branch.where), **dict(line.place)}.items())
        if where != branch.where:
            branch.where = where
            self._emit(number, MetadataUpdated(jsontext.encode({"claude_code": dict(where)})))

    # --- responses ----------------------------------------------------------------------------------------------------

    def _response_of(self, line: Line, said: Said, parent: Place | _Open | None) -> _Open | None:
        """The response that *line* is a part of, or brings a tool's result to, with that added to it."""
        response = parent if isinstance(parent, _Open) else self._resumable(parent)
        if response is None:
            return None
        blocks = _blocks(said.content)
        results = [_text(block, "tool_use_id") for block in blocks if _text(block, "type") == "tool_result"]
        goes_on = said.role == "assistant" and bool(said.id) and said.id == response.message_id
        answers = said.role == "user" and bool(results) and set(results) <= set(response.calls) - set(response.results)
        if not goes_on and not (answers and len(results) == len(blocks)):
            return None
        self._reopen(response)
        if goes_on:
            self._blocks(response, line, said, blocks)
        else:
            response.results.update(zip(results, blocks, strict=True))
            if line.spawned:
                response.agents.append(line.spawned)
        return response

    def _resumable(self, parent: Place | None) -> _Open | None:
        """The response that ends at *parent*, if nothing came behind it."""
        branch = self.branches[parent.branch] if parent else None
        if branch is None or parent is None or branch.last is None or branch.tip != parent.version:
            return None
        return branch.last

    def _reopen(self, response: _Open) -> None:
        branch = self.branches[response.branch]
        if branch.open is response:
            return
        self._emit(response.branch, HistoryRewound(response.before, reason="its response went on"))
        branch.messages, branch.open, branch.last, branch.tip = response.before, response, None, None
        for key in response.keys:
            self._places[key] = response

    def _opened(self, number: int, line: Line, said: Said) -> _Open:
        branch = self.branches[number]
        response = _Open(number, said.id, line, branch.messages, [], [], {}, [], [])
        branch.open, branch.last, branch.tip = response, None, None
        self._blocks(response, line, said, _blocks(said.content))
        return response

    def _blocks(self, response: _Open, line: Line, said: Said, blocks: list[bytes]) -> None:
        response.line = line
        self._bill(response.branch, line, said)
        if not blocks:
            response.text = said.content
        response.blocks += blocks
        response.calls += [_text(block, "id") for block in blocks if _text(block, "type") == "tool_use"]

    def _close(self, number: int) -> Place:
        """The open response of the branch is whole, as far as is known. Returns the end of the branch."""
        branch = self.branches[number]
        response, branch.open = branch.open, None
        if response is None:
            assert branch.tip is not None
            return Place(number, branch.tip)
        self._emit(number, _response_message(response))
        place = self._stands(number, 1)
        self.agents.update(dict.fromkeys(response.agents, place))
        self.calls.update((call, place) for call in response.calls if call in self._wanted)
        results = [response.results[call] for call in response.calls if call in response.results]
        if results:
            self._emit(number, MessageAppended(Message.of(joined("user", results)), said_at=response.line.said_at))
            place = self._stands(number, 1)
        branch.last = response
        for key in response.keys:
            self._places[key] = place
        if number == 0:
            self._give_title()
        return place

    def _bill(self, number: int, line: Line, said: Said) -> None:
        """Count what *line* adds to what its response was counted for: at once, so that no later line decides where."""
        if not said.usage or said.model == SYNTHETIC_MODEL:
            return
        key = uuid_key(said.id)
        before = self._billed.get(key) if said.id else None
        if before is not None and before.usage == said.usage:
            return
        event = self._usage_event(line, said)
        billed = _Billed(event.usage, event.cost_picodollars)
        if said.id:
            self._billed[key] = billed
        for one in [event] if before is None else plan_usage(before.counted(), billed.counted()):
            self._emit(number, one)

    def _usage_event(self, line: Line, said: Said) -> UsageRecorded:
        at = dt.datetime.fromtimestamp(line.said_at / 1_000, dt.UTC) if line.said_at else None
        return usage_recorded(said.usage, said.model, at, table=self._prices, request_id=line.request_id)

    # --- the rest -----------------------------------------------------------------------------------------------------

    def _titled(self, line: Line) -> None:
        strength = [*TITLES].index(line.type)
        mine = not line.leaf or uuid_key(line.leaf) in self._places
        if line.title and mine and strength <= self._title:
            self._title = strength
            self._new_title = line.title
            if self.branches[0].open is None:
                self._give_title()
        elif line.title and not mine:
            self.titles.append((line.leaf, line.title))
            return  # counted at the end: its line may come later
        self.counts["titles"] += 1

    def _count_titles(self) -> None:
        """Those of lines that did not stand before them."""
        for leaf, _ in self.titles[self._counted_titles :]:
            self.counts["titles" if uuid_key(leaf) in self._places else "titles of other sessions"] += 1
        self._counted_titles = len(self.titles)

    def _give_title(self) -> None:
        """Between messages, so that it does not matter whether the file ended here once."""
        if self._new_title:
            self._emit(0, MetadataUpdated(jsontext.encode({"title": self._new_title})))
            self._new_title = ""

    def _emit(self, number: int, event: SessionEvent, at: Place | None = None) -> None:
        self.branches[number].version += 1
        self.steps.append(Step(number, event, at))


def _shifted(place: Place) -> Place:
    return Place(place.branch + 1, place.version)


def _short(uuid: str) -> str:
    """What tells the sessions of one file apart: a hash, as uuids of one hour can begin alike."""
    return hashlib.blake2b(uuid_key(uuid), digest_size=4).hexdigest()


def _user_message(content: bytes) -> bytes:
    return b'{"role":"user","content":' + content + b"}"


def _response_message(response: _Open) -> MessageAppended:
    if response.text and not response.blocks:
        raw = assistant_message(response.text)
    else:
        raw = joined("assistant", response.blocks)
    message = Message.of(raw)
    said = response.line.said
    if said is not None and said.stop_reason:
        message = msgspec.structs.replace(message, stop_reason=said.stop_reason)
    return MessageAppended(message, message_id=response.message_id, said_at=response.line.said_at)


def _blocks(content: bytes) -> list[bytes]:
    """The blocks of a content; none where it is a text."""
    if not content.lstrip().startswith(b"["):
        return []
    try:
        return jsontext.items(content)
    except UnreadableJsonError:
        return []


def _text(block: bytes, key: str) -> str:
    try:
        return jsontext.string(jsontext.members(block).get(key, b"")) or ""
    except UnreadableJsonError:
        return ""
