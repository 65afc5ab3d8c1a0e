"""A recording as lanes: the attempts of each session, in order, each with the request's digest and what came back.

1. A lane is what is a session's own: a fork's begins behind what it shares with a parent of the same run. A fork of
   anything else is replayed from the beginning of its lineage, for a program starts from its beginning too.
2. What a recorder has not computed (live sessions keep no digests) is computed here, from the same messages.
3. The other sessions of a run from which a run was forked are lanes that may be replayed and need not be.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from session import jsontext
from session.events import (
    BlockReceived,
    HistoryCompacted,
    MessageAppended,
    RequestSent,
    ResponseInterrupted,
    ResponseReceived,
    SessionForked,
    SessionRepaired,
    ToolRefused,
    ToolReturned,
    UsageRecorded,
)
from session.fold import Fold
from session.recording import run_of
from session.recording.digests import START, chained, message_digest, prompt_digest, request_digest
from session.replay.errors import NothingToReplayError
from session.state import SessionState

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from session.events import AnyEvent, StoredEvent
    from session.messages import Message
    from session.state import Prompt
    from session.storage import EventSessionStorage


class Exchange(msgspec.Struct, frozen=True):
    """One attempt: the request at *version*, whose own events begin behind *after*, and how it ended, at *ended*
    (None: it has not). Times are Unix milliseconds.
    """

    session_id: str
    number: int
    after: int
    version: int
    request: RequestSent
    digest: bytes
    model: str
    sent_at: int
    end: ResponseReceived | ResponseInterrupted | None = None
    ended: int = 0
    ended_at: int = 0
    blocks: tuple[bytes, ...] = ()
    usage: bytes = b""

    @property
    def place(self) -> str:
        """The address of the request."""
        return f"{self.session_id}@{self.version}"

    def content(self) -> Sequence[bytes]:
        """The blocks of the answer, if it was complete."""
        if not isinstance(self.end, ResponseReceived):
            return ()
        return self.blocks if self.end.content is None else jsontext.items(self.end.content)


class Known(msgspec.Struct, frozen=True):
    """What stands before a message thread that goes on: digests of tools and system, and of the messages so far, which
    are those of the session at *version*.
    """

    session_id: str
    version: int
    prompt: bytes
    chain: bytes


@dataclass
class Lane:
    """The attempts of one session. *required*: all of them must be made. *start* is the version they begin behind."""

    session_id: str
    required: bool = True
    start: int = 0
    head: int = 0
    exchanges: list[Exchange] = field(default_factory=list)
    threads: dict[str, Known] = field(default_factory=dict)
    outcomes: dict[str, bytes] = field(default_factory=dict)  # tool_result blocks by tool_use id


async def read_lanes(storage: EventSessionStorage, session_id: str, after: int = 0) -> list[Lane]:
    """The lanes of the run of *session_id*: its own attempts behind version *after*, and those of the run's other
    sessions that were not over by then. Sessions that were over when *session_id* went on need not be replayed.

    Raises `SessionNotFoundError`, `SessionDeletedError`, `EventDataError` and `NothingToReplayError`.
    """
    await storage.version_at(session_id, 0)
    ids = await storage.list()
    run = run_of(ids, session_id)
    since, until = await _times(storage, session_id, after)
    lanes = [
        await _read(storage, each, run, after) if each == session_id else await _read(storage, each, run, since=since)
        for each in run
    ]
    for lane in lanes:
        over = until > 0 and all(each.ended and each.ended_at <= until for each in lane.exchanges)
        lane.required = lane.session_id == session_id or not over
    lanes += [await _read(storage, each, others, required=False) async for each, others in _before(storage, run, ids)]
    if not any(lane.exchanges for lane in lanes if lane.required):
        raise NothingToReplayError(session_id, *([f"no request is behind version {after}"] if after else []))
    return lanes


async def _before(storage: EventSessionStorage, run: list[str], ids: list[str]) -> Any:  # noqa: ANN401 - a generator
    """The other sessions of the run that the first one of *run* was forked from, if it was, and so on.

    What it was forked from may have been deleted: its own events tell.
    """
    seen = set(run)
    lineage = [stored.event async for stored in storage.events(run[0])]
    for parent in [event.parent_id for event in reversed(lineage) if isinstance(event, SessionForked)]:
        if parent not in seen:
            others = run_of(ids, parent)
            for each in others:
                if each not in seen and each != parent:
                    yield each, others
            seen.update((*others, parent))


async def _times(storage: EventSessionStorage, session_id: str, after: int) -> tuple[int, int]:
    """When the event at version *after* was recorded, and the one behind it; 0 where there is none."""
    if not after:
        return 0, 0
    times = [stored.recorded_at async for stored in storage.events(session_id, after=after - 1, upto=after + 1)]
    return times[0], times[-1]


async def _read(
    storage: EventSessionStorage,
    session_id: str,
    run: Iterable[str],
    after: int = 0,
    *,
    since: int = 0,
    required: bool = True,
) -> Lane:
    """A lane: what is behind version *after* of the session, and was not over at the time *since*."""
    lane = Lane(session_id, required=required, start=after)
    reading = _Reading(lane)
    async for stored in storage.events(session_id):
        forked = stored.event
        if isinstance(forked, SessionForked) and forked.session_id == session_id and forked.parent_id in run:
            lane.start = max(after, forked.at)
        reading.add(stored)
    lane.exchanges = [
        msgspec.structs.replace(exchange, session_id=session_id, number=number)
        for number, exchange in enumerate(
            each
            for each in reading.exchanges()
            if each.version > lane.start and not (since and each.ended and each.ended_at <= since)
        )
    ]
    return lane


class _Reading:
    """A lane while its events are read."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._fold = Fold(SessionState(id=lane.session_id))
        self._chain = _FoldedChain()
        self._prompts: dict[tuple[bytes, bytes], bytes] = {}
        self._found: list[Exchange] = []
        self._open: dict[str, int] = {}  # places in `_found`, by request id
        self._blocks: dict[str, dict[int, bytes]] = {}
        self._usage: dict[str, bytes] = {}
        self._after = 0
        self._threads = False

    def exchanges(self) -> list[Exchange]:
        """All that there were."""
        for request_id, place in self._open.items():
            blocks = self._blocks.get(request_id, {})
            self._found[place] = msgspec.structs.replace(self._found[place], blocks=_in_order(blocks))
        return self._found

    def add(self, stored: StoredEvent) -> None:
        """The next event."""
        event = stored.event
        self._fold.add(event, stored.recorded_at)
        self._lane.head = stored.version
        match event:
            case RequestSent():
                self._sent(event, stored)
            case BlockReceived():
                self._blocks.setdefault(event.request_id, {})[event.index] = event.block
            case UsageRecorded():
                self._usage[event.request_id] = event.usage
            case ResponseReceived() | ResponseInterrupted():
                self._ended(event, stored)
            case HistoryCompacted():
                self._chain = _FoldedChain()
            case _:
                self._keep_outcomes(event)

    def _sent(self, event: RequestSent, stored: StoredEvent) -> None:
        self._threads = self._threads or b'"thread"' in event.parameters
        prompt = self._fold.prompt
        self._open[event.request_id] = len(self._found)
        self._blocks.pop(event.request_id, None)
        found = Exchange(
            session_id=self._lane.session_id,
            number=0,
            after=self._after,
            version=stored.version,
            request=event,
            digest=event.digest or self._digest(prompt, event.messages),
            model=prompt.model,
            sent_at=stored.recorded_at,
        )
        self._found.append(found)
        self._after = stored.version

    def _ended(self, event: ResponseReceived | ResponseInterrupted, stored: StoredEvent) -> None:
        place = self._open.pop(event.request_id, None)
        self._after = stored.version
        if place is None:
            return
        self._found[place] = msgspec.structs.replace(
            self._found[place],
            end=event,
            ended=stored.version,
            ended_at=stored.recorded_at,
            blocks=_in_order(self._blocks.pop(event.request_id, {})),
            usage=self._usage.pop(event.request_id, b""),
        )
        if self._threads and isinstance(event, ResponseReceived) and event.message_id:
            chain = self._chain.upto(self._fold, None)
            self._lane.threads[event.message_id] = Known(
                self._lane.session_id, stored.version, self._prompt_digest(self._fold.prompt), chain
            )

    def _keep_outcomes(self, event: AnyEvent) -> None:
        outcomes = self._lane.outcomes
        match event:
            case ToolReturned() | ToolRefused():
                outcomes[event.tool_use_id] = event.result
            case SessionRepaired():
                for repaired in event.results:
                    outcomes.setdefault(repaired.tool_use_id, repaired.result)
            case MessageAppended() if event.message.tool_results:
                outcomes.update(_results_in(event.message))

    def _digest(self, prompt: Prompt, count: int) -> bytes:
        parameters = jsontext.parse_or_show(prompt.parameters) if prompt.parameters else {}
        chain = self._chain.upto(self._fold, count)
        return request_digest(prompt.model, parameters, self._prompt_digest(prompt), chain)

    def _prompt_digest(self, prompt: Prompt) -> bytes:
        key = (prompt.tools, prompt.system)
        if key not in self._prompts:
            self._prompts[key] = prompt_digest(parsed_or_none(prompt.tools), parsed_or_none(prompt.system))
        return self._prompts[key]


class _FoldedChain:
    """The chain of the messages of a fold that grows: each message is digested once."""

    def __init__(self) -> None:
        self._known: list[Message] = []
        self._chain: list[bytes] = [START]

    def upto(self, fold: Fold, count: int | None) -> bytes:
        """Behind the first *count* messages; None: all of them."""
        growing = fold.growing_results()
        settled = len(fold.settled)
        wanted = settled + (growing is not None) if count is None else min(count, settled + (growing is not None))
        same = min(len(self._known), settled, wanted)
        while same and self._known[same - 1] is not fold.settled[same - 1]:
            same -= 1
        del self._known[same:], self._chain[same + 1 :]
        for message in (*fold.settled[same:wanted], *([growing] if growing and wanted > settled else ())):
            self._known.append(message)
            self._chain.append(chained(self._chain[-1], message_digest(jsontext.parse_or_show(message.raw))))
        return self._chain[wanted]


def parsed_or_none(raw: bytes) -> Any:  # noqa: ANN401 - any JSON value
    """The value of *raw*; None if there is none."""
    return jsontext.parse_or_show(raw) if raw else None


def _in_order(blocks: dict[int, bytes]) -> tuple[bytes, ...]:
    return tuple(block for _, block in sorted(blocks.items()))


def _results_in(message: Message) -> dict[str, bytes]:
    content = message.parsed().get("content")
    blocks = [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []
    return {
        str(block.get("tool_use_id")): jsontext.encode(block) for block in blocks if block.get("type") == "tool_result"
    }
