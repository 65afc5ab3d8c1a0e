"""Which session a call belongs to: the conversations of a run, recognised by the digests of their prefixes. No I/O.

1. A line is what a session has in the log, message by message; only what is durable there counts.
2. A line is taken by one call at a time. Whoever extends it meanwhile, or an earlier point of it, forks there.
3. The longest known prefix wins; of equal ones, one that can be continued, then the oldest: forks stand side by side.
4. Under another system or other tools a known prefix counts if one of its messages came as a response: then it is that
   conversation, shown to another model or helper, and a fork. Two programs that happen to say "Hello" first are not.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from session.recording.digests import START, chained
from session.state import Prompt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_LOOKED_AT: Final = 8  # lines that a request is compared with before it is hashed
_WHOLE_LINES: Final = 256  # that keep the text of their messages, for quick comparison; older ones keep digests only

Reason: TypeAlias = Literal["", "parallel call", "earlier point", "other prompt", "replay diverged"]


@dataclass(slots=True, eq=False)
class Line:
    """A session of this run. Per message: *packed* (None: seen as a response only, or long ago), the *chain* behind it,
    the version of the session at which it is complete, who said it and which tools it calls.
    """

    session_id: str
    version: int = 0
    prompts: list[tuple[int, Prompt, bytes]] = field(default_factory=list)  # since which version, and the digest
    packed: list[bytes | None] = field(default_factory=list)
    chain: list[bytes] = field(default_factory=lambda: [START])
    versions: list[int] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)
    tool_uses: dict[int, tuple[str, ...]] = field(default_factory=dict)
    asks: list[tuple[int, int]] = field(default_factory=list)  # index and version of the messages that begin turns
    first_response: int | None = None
    busy: bool = False  # see `Lines.take`
    taken_at: int = 0  # how many messages it had when the call began that keeps it busy
    lost: str = ""  # a request that another process left open
    read_only: bool = False  # a session that was replayed: it is forked, never written to
    message_ids: dict[str, int] = field(default_factory=dict)  # how many messages there are with this one

    def __len__(self) -> int:
        return len(self.packed)

    @property
    def waits_for_tools(self) -> bool:
        """Whether its newest message calls tools: they run now."""
        return len(self) - 1 in self.tool_uses

    def prompt_at(self, count: int) -> tuple[Prompt, bytes]:
        """The prompt behind the first *count* messages, and its digest."""
        if not self.prompts:
            return Prompt(), b""
        version = self.version if count == len(self) else self.versions[count - 1]
        place = bisect_right(self.prompts, version, key=lambda entry: entry[0]) - 1
        return self.prompts[max(place, 0)][1:]

    def say(self, packed: bytes | None, chain: bytes, version: int, role: str, tool_uses: tuple[str, ...]) -> None:
        """One more message."""
        index = len(self.packed)
        self.packed.append(packed)
        self.chain.append(chain)
        self.versions.append(version)
        self.roles.append(role)
        if tool_uses:
            self.tool_uses[index] = tool_uses

    def truncate(self, count: int) -> None:
        """Only the first *count* messages still hold."""
        if count < len(self):
            del self.packed[count:], self.chain[count + 1 :], self.versions[count:], self.roles[count:]
            self.tool_uses = {index: calls for index, calls in self.tool_uses.items() if index < count}

    def fork(self, session_id: str, count: int) -> Line:
        """A line that begins with the first *count* messages of this one."""
        at = self.versions[count - 1]
        return Line(
            session_id,
            version=at,
            prompts=[entry for entry in self.prompts if entry[0] <= at],
            packed=self.packed[:count],
            chain=self.chain[: count + 1],
            versions=self.versions[:count],
            roles=self.roles[:count],
            tool_uses={index: calls for index, calls in self.tool_uses.items() if index < count},
            asks=[ask for ask in self.asks if ask[1] <= at],
            first_response=self.first_response if (self.first_response or count) < count else None,
            message_ids={name: known for name, known in self.message_ids.items() if known <= count},
        )


@dataclass(slots=True)
class Place:
    """Where a call goes: behind the first *kept* messages of *line*, there or (with a reason) in a fork; with no line,
    in a session of its own. *chain* is that of the whole request; *thread* the prompt, and its digest, of the message
    thread that it goes on with.
    """

    line: Line | None
    kept: int
    reason: Reason
    chain: list[bytes]
    thread: tuple[Prompt, bytes] | None = None


class Lines:
    """All lines of a run. Not thread-safe."""

    def __init__(self) -> None:
        self.newest: dict[str, Line] = {}  # by session, the one that was written last at the end
        self._by_chain: dict[bytes, list[Line]] = {}  # those that went through it, the oldest first
        self._by_end: dict[bytes, dict[Line, None]] = {}  # those that stand there, in the same order
        self._ends: dict[Line, bytes] = {}
        self._by_message: dict[str, Line] = {}
        self._busy: dict[Line, None] = {}
        self._waiting: dict[Line, None] = {}  # those whose tools run now, the newest last
        self._whole: dict[Line, None] = {}  # those that hold texts, the one that was written last at the end

    def take(self, line: Line) -> None:
        """A call begins that keeps *line* busy."""
        line.busy, line.taken_at = True, len(line)
        self._busy[line] = None

    def release(self, line: Line) -> None:
        """It is over: *line* can be continued."""
        line.busy = False
        self._busy.pop(line, None)

    def register(self, line: Line, since: int) -> None:
        """*line* is durable, from its message *since* on as well."""
        if self.newest.pop(line.session_id, None) is not line:
            for message_id in line.message_ids:
                self._by_message.setdefault(message_id, line)
        self.newest[line.session_id] = line
        self._waiting.pop(line, None)
        if line.waits_for_tools:
            self._waiting[line] = None
        for chain in line.chain[max(since, 1) :]:
            known = self._by_chain.setdefault(chain, [])
            if not known or known[-1] is not line:
                known.append(line)
        self._stands_at(line, line.chain[-1])
        self._whole.pop(line, None)
        self._whole[line] = None
        if len(self._whole) > _WHOLE_LINES:
            oldest = next(iter(self._whole))
            del self._whole[oldest]
            oldest.packed = [None] * len(oldest)

    def _stands_at(self, line: Line, end: bytes) -> None:
        before = self._ends.get(line)
        if before == end:
            return
        if before is not None:
            there = self._by_end[before]
            del there[line]
            if not there:
                del self._by_end[before]
        self._ends[line] = end
        self._by_end.setdefault(end, {})[line] = None

    def name(self, line: Line, message_id: str) -> None:
        """The newest message of *line* is called so by the API."""
        if message_id:
            line.message_ids[message_id] = len(line)
            self._by_message[message_id] = line

    def continued(self, message_id: str) -> tuple[Line, int] | None:
        """The line and number of messages that end in this message."""
        line = self._by_message.get(message_id)
        count = line.message_ids.get(message_id, 0) if line else 0
        return (line, count) if line and 0 < count <= len(line) else None

    def chain_of(self, packed: Sequence[bytes], digest_of: Callable[[int], bytes]) -> list[bytes]:
        """The chain of a request's messages; *digest_of* gives the digest of one, if it is needed."""
        if not packed:
            return [START]
        known = [START, chained(START, digest_of(0))]
        for line in itertools.islice(reversed(self.newest.values()), _LOOKED_AT):
            if line.chain[1:2] != known[1:2]:
                continue
            common = _common(line, packed, digest_of)
            if common >= len(known):
                known = line.chain[: common + 1]
            if common == len(line):
                break
        for index in range(len(known) - 1, len(packed)):
            known.append(chained(known[-1], digest_of(index)))
        return known

    def place(self, chain: list[bytes], prompt: bytes) -> Place:
        """Where a call with this *chain* and the digest of its *prompt* goes."""
        for count in range(len(chain) - 1, 0, -1):
            if found := self._choose(chain[count], count, prompt):
                line, reason = found
                return Place(line, count, reason, chain)
        return Place(None, 0, "", chain)

    def _choose(self, end: bytes, count: int, prompt: bytes) -> tuple[Line, Reason] | None:
        """Of the lines that went through *end* with *count* messages, as few looked at as can be: they may be many."""

        def is_there(line: Line) -> bool:
            return len(line) >= count and line.chain[count] == end

        went_through = self._by_chain.get(end)
        if went_through is None:
            return None
        standing = (line for line in self._by_end.get(end, ()) if not line.busy and not line.read_only)
        begun = (line for line in self._busy if self.newest.get(line.session_id) is line and count >= line.taken_at)
        ours = (line for line in went_through if not line.read_only)
        for candidates in (standing, begun, ours, went_through):
            for line in candidates:
                if is_there(line) and line.prompt_at(count)[1] == prompt:
                    return line, _reason(line, count)
        for line in went_through:
            if is_there(line) and line.first_response is not None and line.first_response < count:
                return line, "other prompt"
        return None

    def cause(self) -> Line | None:
        """The line that a new session is most likely due to: one whose tools are running, or the newest."""
        waiting = (line for line in reversed(self._waiting) if line.waits_for_tools)
        return next(waiting, None) or next(reversed(self.newest.values()), None)


def _reason(line: Line, count: int) -> Reason:
    if line.read_only:
        return "replay diverged"
    if line.busy and count >= line.taken_at:
        return "parallel call"
    return "" if len(line) == count else "earlier point"


def _common(line: Line, packed: Sequence[bytes], digest_of: Callable[[int], bytes]) -> int:
    """How many messages both begin with. A message that the line has in another form takes on this one: next time the
    comparison is quick.
    """
    most = min(len(line), len(packed))
    place = 0
    while (place := _first_difference(line.packed, packed, place, most)) < most:
        if chained(line.chain[place], digest_of(place)) != line.chain[place + 1]:
            return place
        line.packed[place] = packed[place]
        place += 1
    return most


def _first_difference(ours: Sequence[bytes | None], theirs: Sequence[bytes], start: int, end: int) -> int:
    """By halves, as whole slices are compared quickly; *end* if there is none."""
    if ours[start:end] == theirs[start:end]:
        return end
    while end - start > 1:
        middle = (start + end) // 2
        if ours[start:middle] == theirs[start:middle]:
            start = middle
        else:
            end = middle
    return start
