"""A call from its request to its end, as events of a session. The same coroutines for programs with and without a loop.

    begin    [session_created | session_forked] [prompt_changed] what is new in the messages, request_sent    one commit
    record   what a response or a failure is made of                                                          one each

1. What is in `Lines` is in the log: it is told after the append.
2. What became of a call is told to its line before anybody looks at the lines, and not before: nobody needs it.
3. Another writer in the same session: metadata and closing disturb nobody; after anything else this run goes on in a
   fork, made where it last stood.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import threading
import time
from collections import OrderedDict, deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, Protocol

import msgspec

from session import jsontext
from session.errors import (
    SessionDeletedError,
    SessionExistsError,
    SessionNotFoundError,
    UnreadableJsonError,
)
from session.events import (
    MessageAppended,
    MetadataUpdated,
    RequestSent,
    ResponseInterrupted,
    SessionClosed,
    SessionCreated,
    ToolReturned,
)
from session.messages import describe, joined
from session.recording._asked import Parts
from session.recording._lines import Line, Lines, Place
from session.recording._runs import call_id
from session.recording.digests import chained, message_digest, request_digest
from session.request import changes
from session.state import Prompt
from session.storage import WrongVersionError

if TYPE_CHECKING:
    from session.events import Meta, SessionEvent
    from session.messages import Message
    from session.recording._asked import Asked, PromptPart
    from session.recording._journal import Journal
    from session.recording._reading import Answered, Reading

_log: Final = logging.getLogger("session.recording")

ORIGIN: Final = "recorder"
LOST: Final = "lost"
OVERTAKEN: Final = "overtaken by another writer"

_REFUSAL: Final = "refusal"
_HARMLESS: Final = (MetadataUpdated, SessionClosed)
_RETRIES_KEPT: Final = 4096


class Failed(Protocol):
    """Is told why something of a session could not be recorded, and whether its request had been *sent*."""

    def __call__(self, session_id: str, error: Exception, *, sent: bool) -> Literal[False]:
        """False, or raises `RecordingFailedError`."""
        ...


@dataclass(slots=True, eq=False)
class Call:
    """One attempt of a logical call. *line* is where it is recorded, from `begin` on."""

    asked: Asked
    request_id: str = ""
    attempt: int = 1
    model: str = ""
    digest: bytes = b""
    line: Line | None = None
    sent_at: float = field(default_factory=time.monotonic)

    def milliseconds(self) -> int:
        """Since it was sent."""
        return round((time.monotonic() - self.sent_at) * 1000)


@dataclass(slots=True, eq=False)
class _Beginning:
    """A call while it makes its request durable: what it *asks*, the one that asks the same and came just before, the
    calls it has *waited* for (once for each), and who is *waiting* for it.
    """

    asks: bytes = b""
    behind: _Beginning | None = None
    waited: tuple[_Beginning, ...] = ()
    waiting: list[tuple[_Beginning, Future[None]]] = field(default_factory=list)

    @property
    def first(self) -> _Beginning:
        """Of those that ask the same, the one for which all others wait."""
        found = self
        while found.behind is not None:
            found = found.behind
        return found


@dataclass(slots=True, eq=False)
class _Ahead:
    """A call that another one waits for."""

    beginning: _Beginning
    begun: Future[None]

    async def wait(self, journal: Journal) -> None:
        """Until it has begun; for no longer than those come further for which it waits itself."""
        first: _Beginning | None = None
        while not self.begun.done() and (now := self.beginning.first) is not first:
            first = now
            await journal.opened(self.begun)


class _Retry(msgspec.Struct, frozen=True):
    request_id: str
    attempt: int
    digest: bytes


class Calls:
    """All calls of a run. Thread-safe: what is known of the run is looked at and changed under a lock, never across a
    write. *failed* is told of what cannot be recorded, and raises it or returns False.
    """

    def __init__(self, root: str, meta: Meta, failed: Failed) -> None:
        self.failed = failed
        self._lock = threading.Lock()
        self._lines = Lines()
        self._meta = meta
        self._root = root
        self._named = 0
        self._ids = itertools.count(1)
        # What its ids begin with, so that the system is not asked for each. A child of `os.fork()` would give the same
        # ones: the LMDB log refuses it.
        self._run = secrets.token_bytes(8)
        self._beginning: dict[bytes, _Beginning] = {}  # by what the call brings
        self._newest: dict[bytes, _Beginning] = {}  # by what it asks: the one that came last
        self._parts = Parts()
        self._retries: OrderedDict[str, _Retry] = OrderedDict()
        self._resumed: Line | None = None
        self._over: deque[tuple[Line, Answered | None]] = deque()  # what lines have not been told of their calls
        self.sessions: dict[str, None] = {}  # in the order in which they began

    def resume(self, line: Line) -> None:
        """Go on with a session that was recorded before: it is the root."""
        with self._lock:
            self._named = 1
            self._tell_lines()
            self._lines.register(line, 0)
            self._resumed = line
            self.sessions[line.session_id] = None

    async def close(self, journal: Journal) -> None:
        """The run is over. What an earlier run left open in the session that this one was to go on with is lost, if
        nobody has gone on there since. Raises what the storage raises.
        """
        line, self._resumed = self._resumed, None
        while line is not None and line.lost:
            try:
                await journal.append(line.session_id, [ResponseInterrupted(line.lost, LOST)], line.version, self._meta)
            except WrongVersionError:
                if harmless := await self._harmless(line, journal):
                    line.version += harmless
                    continue
            except (SessionDeletedError, SessionNotFoundError):
                pass
            return

    def extend(self, line: Line) -> None:
        """Calls that go on with *line* are forks of it: it is somebody else's."""
        with self._lock:
            self._tell_lines()
            line.read_only = True
            self._lines.register(line, 0)

    # --- the request --------------------------------------------------------------------------------------------------

    async def begin(self, call: Call, journal: Journal) -> bool:
        """Make the request durable. Then `call.line` is taken by this call, until `record` says that it is over; False:
        it could not be, the line is not taken.
        """
        beginning = _Beginning()
        place: Place | None = None
        line: Line | None = None
        try:
            prompt = self._parts.prompt(call.asked)
            while isinstance(taken := self._take(call, prompt, beginning), _Ahead):
                await taken.wait(journal)
            place, line = taken
            await self._open(call, journal, place, line, prompt)
        except Exception as error:  # noqa: BLE001 - what cannot be recorded is not sent
            if place is None or line is None:
                return self.failed(self._root, error, sent=False)
            if isinstance(error, SessionDeletedError | SessionNotFoundError):
                self._forget(place.line or line)
            return self.failed(line.session_id, error, sent=False)
        finally:
            with self._lock:
                if line is not None and call.line is not line:
                    self._lines.release(line)
                self._beginning = {chain: other for chain, other in self._beginning.items() if other is not beginning}
                if self._newest.get(beginning.asks) is beginning:
                    del self._newest[beginning.asks]
            for other, future in beginning.waiting:
                other.behind = None if other.behind is beginning else other.behind
                future.set_result(None)
        return True

    def _forget(self, line: Line) -> None:
        with self._lock:
            self._tell_lines()
            line.truncate(0)

    def _take(self, call: Call, prompt: PromptPart, beginning: _Beginning) -> tuple[Place, Line] | _Ahead:
        """Take the line of the call; or what to wait for first."""
        with self._lock:
            self._tell_lines()
            place = self._place(call.asked, prompt)
            if ahead := self._ahead(place, beginning):
                begun: Future[None] = Future()
                ahead.waiting.append((beginning, begun))
                return _Ahead(ahead, begun)
            self._beginning.update(dict.fromkeys(place.chain[place.kept + 1 :], beginning))
            line = self._line_at(place)
            self._lines.take(line)
            return place, line

    def _ahead(self, place: Place, beginning: _Beginning) -> _Beginning | None:
        """What this call waits for: one that asks the same and came just before it, so that equal calls begin in the
        order in which they came, by which a replay tells them apart; then any that is bringing some of what it asks.
        """
        if not beginning.asks:
            beginning.asks = place.chain[-1]
            beginning.behind = self._newest.get(beginning.asks)
            self._newest[beginning.asks] = beginning
            if beginning.behind is not None:
                beginning.waited = (beginning.behind,)
                return beginning.behind
        for chain in place.chain[place.kept + 1 :]:
            other = self._beginning.get(chain)
            if other is not None and other not in beginning.waited:
                beginning.waited += (other,)
                return other
        return None

    def _place(self, asked: Asked, prompt: PromptPart) -> Place:
        thread = asked.thread
        found = self._lines.continued(thread.previous_message_id) if thread else None
        if found is None:
            return self._lines.place(self._lines.chain_of(asked.packed, asked.message_digest), prompt.digest)
        line, count = found
        chain = line.chain[: count + 1]
        for index in range(len(asked.packed)):
            chain.append(chained(chain[-1], asked.message_digest(index)))
        begun_with = line.prompt_at(count)
        place = self._lines.place(chain, begun_with[1])
        place.thread = begun_with
        return place

    def _line_at(self, place: Place) -> Line:
        if place.line is None:
            return Line(self._new_name())
        return place.line.fork(self._new_name(), place.kept) if place.reason else place.line

    def _new_name(self) -> str:
        self._named += 1
        return self._root if self._named == 1 else f"{self._root}.{self._named}"

    async def _open(self, call: Call, journal: Journal, place: Place, line: Line, prompt: PromptPart) -> None:
        asked = call.asked
        continues = len(place.chain) - 1 - len(asked.packed)  # messages that a thread left out
        around = self._parts.parameters(asked)
        now, digest = around.prompt(prompt), prompt.digest
        before = line.prompt_at(place.kept)[0] if place.kept else Prompt()
        if place.thread is not None:
            begun_with, digest = place.thread
            now = _with_part(now, begun_with)
        elif asked.thread and asked.thread.previous_message_id:
            _log.warning("a message thread goes on that is not recorded here: only what comes is, not its beginning")
        call.model, call.digest = around.model, request_digest(around.digest, digest, place.chain[-1])
        self._recognise_retry(call)
        opening = _Opening(line, place, call, continues)
        opening.prompt(before, now, digest)
        opening.messages()
        opening.request(len(place.chain) - 1)
        await self._write_opening(opening, journal)
        with self._lock:
            self._tell_lines()
            opening.told()
            call.line = line
            self._lines.register(line, place.kept)
            self.sessions.setdefault(line.session_id)

    def _recognise_retry(self, call: Call) -> None:
        """Attempts of one call carry one key; a program may give one key to several calls."""
        with self._lock:
            known = self._retries.pop(call.asked.key, None) if call.asked.key else None
        if known is not None and known.digest == call.digest:
            call.request_id, call.attempt = known.request_id, known.attempt + 1
        else:
            call.request_id = call_id(self._run, next(self._ids))

    async def _write_opening(self, opening: _Opening, journal: Journal) -> None:
        line, place = opening.line, opening.place
        while True:
            try:
                if place.line is None:
                    first = self._created(line.session_id)
                    line.version = await journal.append(line.session_id, [first, *opening.events], 0, self._meta)
                elif place.reason:
                    line.version = await journal.fork(
                        (place.line.session_id, line.version),
                        line.session_id,
                        opening.events,
                        self._meta,
                        reason=place.reason,
                    )
                else:
                    await self._append(line, opening.events, journal)
            except (WrongVersionError, SessionExistsError):  # the name is taken: by an earlier run of this root
                with self._lock:
                    line.session_id = self._new_name()
            else:
                return

    def _created(self, session_id: str) -> SessionCreated:
        with self._lock:
            self._tell_lines()
            cause = self._lines.cause()
        place = f"{cause.session_id}@{cause.version}" if cause else ""
        return SessionCreated(session_id, cause=place, origin=ORIGIN)

    # --- what comes back ----------------------------------------------------------------------------------------------

    async def record(
        self, call: Call, events: list[SessionEvent], journal: Journal, reading: Reading | None = None
    ) -> bool:
        """Make *events* durable. Without a *reading*, or when that is over, the attempt has ended, and its line can be
        continued. False: it could not be; the line then stays as it is, and later calls fork from it.
        """
        line = call.line
        assert line is not None, "it has begun"
        try:
            await self._append(line, events, journal)
        except Exception as error:  # noqa: BLE001 - whatever it is, the answer is there and not recorded
            return self.failed(line.session_id, error, sent=True)
        if reading is None or reading.is_over:
            answered = reading.answered if reading else None
            with self._lock:
                self._over.append((line, answered))
                if answered is None and call.asked.key:
                    self._retries[call.asked.key] = _Retry(call.request_id, call.attempt, call.digest)
                    if len(self._retries) > _RETRIES_KEPT:
                        self._retries.popitem(last=False)
        return True

    def _tell_lines(self) -> None:
        """What became of the calls that are over: their lines can be continued."""
        while self._over:
            line, answered = self._over.popleft()
            try:
                if answered is not None:
                    _answer(line, answered)
                    self._lines.register(line, len(line))
                    self._lines.name(line, answered.message_id)
            finally:
                self._lines.release(line)

    async def _append(self, line: Line, events: list[SessionEvent], journal: Journal) -> None:
        """Append behind what the line knows. Raises what the storage raises, but for another writer."""
        while True:
            try:
                line.version = await journal.append(line.session_id, events, line.version, self._meta)
            except WrongVersionError:
                if harmless := await self._harmless(line, journal):
                    line.version += harmless
                    continue
                await self._move(line, events, journal)
            return

    async def _harmless(self, line: Line, journal: Journal) -> int:
        """How many events another writer has added that disturb nobody; 0 if any does."""
        foreign = [stored.event async for stored in journal.events(line.session_id, line.version)]
        return len(foreign) if all(isinstance(event, _HARMLESS) for event in foreign) else 0

    async def _move(self, line: Line, events: list[SessionEvent], journal: Journal) -> None:
        """Another writer went on with the session: the line goes on in a fork of what both have in common."""
        parent = line.session_id
        while True:
            with self._lock:
                child = self._new_name()
            try:
                line.version = await journal.fork((parent, line.version), child, events, self._meta, reason=OVERTAKEN)
            except SessionExistsError:
                continue
            with self._lock:
                self._tell_lines()
                self._lines.newest.pop(parent, None)
                line.session_id = child
                self.sessions[child] = None
            return


class _Opening:
    """The first commit of a call while it is put together, and what to tell its line once it is durable."""

    def __init__(self, line: Line, place: Place, call: Call, continues: int) -> None:
        self.line = line
        self.place = place
        self.events: list[SessionEvent] = []
        self._call = call
        self._continues = continues
        self._said: list[tuple[Message, int]] = []  # the event that completes it, counted from the end of the commit
        self._prompt: tuple[int, Prompt, bytes] | None = None

    def prompt(self, before: Prompt, now: Prompt, digest: bytes) -> None:
        """What the request has around its messages, and what it had *before*."""
        if self.line.lost:
            self.events.append(ResponseInterrupted(self.line.lost, LOST))
        changed = changes(before, now)
        if changed is not None:
            self.events.append(changed)
        if changed is not None or not self.line.prompts:
            self._prompt = (len(self.events), now, digest)

    def messages(self) -> None:
        """What the request says that the session has not."""
        kept = self.place.kept
        waiting = self.line.tool_uses.get(kept - 1, ())
        for index in range(kept, len(self.place.chain) - 1):
            message = describe(self._call.asked.message_bytes(index - self._continues))
            results = _results(message, waiting)
            self.events += results or [MessageAppended(message)]
            self._said.append((message, len(self.events)))
            waiting = message.tool_uses

    def request(self, count: int) -> None:
        """That the session's first *count* messages are about to be sent."""
        call, thread = self._call, self._call.asked.thread
        self.events.append(
            RequestSent(
                call.request_id,
                count,
                attempt=call.attempt,
                stream=call.asked.streams,
                digest=call.digest,
                parameters=thread.raw if thread else b"",
                path=call.asked.path,
                headers=call.asked.headers,
            )
        )

    def told(self) -> None:
        """The commit is durable: the line has it."""
        line, base = self.line, self.line.version - len(self.events)
        line.lost = ""
        if self._prompt is not None:
            place, prompt, digest = self._prompt
            line.prompts.append((base + place, prompt, digest))
        for index, (message, place) in enumerate(self._said, self.place.kept):
            asks = message.role == "user" and not message.tool_results and (line.roles or [""])[-1] != "user"
            if asks:
                line.asks.append((index, base + place))
            packed = self._call.asked.packed[index - self._continues]
            line.say(packed, self.place.chain[index + 1], base + place, message.role, message.tool_uses)


def _with_part(now: Prompt, before: Prompt) -> Prompt:
    """A thread keeps the tools and the system that it began with."""
    return Prompt(now.model, before.system, before.tools, now.parameters)


def _results(message: Message, waiting: tuple[str, ...]) -> list[SessionEvent]:
    """The outcomes of the tools that *waiting* called, if that is exactly what *message* is."""
    if message.role != "user" or not waiting or message.tool_results != waiting or len(set(waiting)) != len(waiting):
        return []
    try:
        blocks = jsontext.items(jsontext.members(message.raw)["content"])
    except (UnreadableJsonError, KeyError):
        return []
    if len(blocks) != len(waiting) or joined("user", blocks) != message.raw:
        return []
    return [
        ToolReturned(tool_use_id, block, is_error=jsontext.members(block).get("is_error") == b"true")
        for tool_use_id, block in zip(waiting, blocks, strict=True)
    ]


def _answer(line: Line, answered: Answered) -> None:
    """*line* has the message that the response brought; a refused one takes its turn with it."""
    if answered.stop_reason == _REFUSAL:
        if line.asks:
            line.truncate(line.asks[-1][0])
        return
    chain = chained(line.chain[-1], message_digest(jsontext.parse_or_show(answered.raw)))
    if line.first_response is None:
        line.first_response = len(line)
    line.say(None, chain, line.version, "assistant", answered.tool_uses)
