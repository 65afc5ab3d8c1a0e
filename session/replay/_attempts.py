"""The attempts of a session, from its events."""

from __future__ import annotations

import copy
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
    SessionCreated,
    SessionForked,
    SessionRepaired,
    ToolRefused,
    ToolReturned,
    UsageRecorded,
)
from session.fold import Fold
from session.recording.digests import START, chained, message_digest, parameters_digest, prompt_digest, request_digest
from session.replay._lanes import Exchange, Known, Lane
from session.state import SessionState

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from session.events import AnyEvent, StoredEvent
    from session.messages import Message
    from session.state import Prompt


class Reading:
    """The attempts of a session while its events are read. It is a `Follower`."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self._version = 0
        self._threads: dict[str, Known] = {}
        self._outcomes: dict[str, bytes] = {}
        self._began = b""
        self._own: SessionCreated | SessionForked | None = None  # the event by which it began
        self._fold = Fold(SessionState(id=session_id))
        self._chain = _FoldedChain()
        self._prompts: dict[tuple[bytes, bytes], bytes] = {}
        self._found: list[Exchange] = []
        self._open: dict[str, int] = {}  # places in `_found`, by request id
        self._blocks: dict[str, dict[int, bytes]] = {}
        self._usage: dict[str, bytes] = {}
        self._after = 0
        self._uses_threads = False

    def fork(self, session_id: str) -> Reading:
        """See `Follower`."""
        other = copy.copy(self)
        other.session_id = session_id
        other.part()
        return other

    def part(self) -> None:
        """Share nothing that grows with the one that this was copied from, nor how that one began."""
        self._own, self._began = None, b""
        self._threads, self._outcomes, self._usage = dict(self._threads), dict(self._outcomes), dict(self._usage)
        self._fold, self._chain = Fold(self._fold.state()), self._chain.copy()
        self._found, self._open = list(self._found), dict(self._open)
        self._blocks = {request_id: dict(blocks) for request_id, blocks in self._blocks.items()}

    def lane(self, run: Collection[str]) -> Lane:
        """What is the session's own in its *run*."""
        own = self._own
        start = own.at if isinstance(own, SessionForked) and own.parent_id in run else 0
        exchanges = [
            msgspec.structs.replace(each, session_id=self.session_id)
            for each in self._exchanges()
            if each.version > start
        ]
        return Lane(
            self.session_id,
            start=start,
            head=self._version,
            exchanges=exchanges,
            threads=self._threads,
            outcomes=self._outcomes,
            began=self._began,
            cause=own.cause if isinstance(own, SessionCreated) else "",
            parent=own.parent_id if isinstance(own, SessionForked) else "",
        )

    def _exchanges(self) -> list[Exchange]:
        for request_id, place in self._open.items():
            blocks = self._blocks.get(request_id, {})
            self._found[place] = msgspec.structs.replace(self._found[place], blocks=_in_order(blocks))
        return self._found

    def add(self, stored: StoredEvent) -> None:
        """The next event."""
        event = stored.event
        self._fold.add(event, stored.recorded_at)
        self._version = stored.version
        match event:
            case SessionCreated() | SessionForked():
                self._begun(event, stored)
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

    def _begun(self, event: SessionCreated | SessionForked, stored: StoredEvent) -> None:
        if event.session_id == self.session_id:
            self._own, self._began = event, stored.position

    def _sent(self, event: RequestSent, stored: StoredEvent) -> None:
        self._uses_threads = self._uses_threads or b'"thread"' in event.parameters
        prompt = self._fold.prompt
        self._open[event.request_id] = len(self._found)
        self._blocks.pop(event.request_id, None)
        found = Exchange(
            session_id=self.session_id,
            number=0,
            after=self._after,
            version=stored.version,
            request=event,
            digest=event.digest or self._digest(prompt, event.messages),
            model=prompt.model,
            sent_at=stored.recorded_at,
            sent_place=stored.position,
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
            ended_place=stored.position,
            blocks=_in_order(self._blocks.pop(event.request_id, {})),
            usage=self._usage.pop(event.request_id, b""),
        )
        if self._uses_threads and isinstance(event, ResponseReceived) and event.message_id:
            chain = self._chain.upto(self._fold, None)
            self._threads[event.message_id] = Known(
                self.session_id, stored.version, self._prompt_digest(self._fold.prompt), chain
            )

    def _keep_outcomes(self, event: AnyEvent) -> None:
        outcomes = self._outcomes
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
        return request_digest(parameters_digest(prompt.model, parameters), self._prompt_digest(prompt), chain)

    def _prompt_digest(self, prompt: Prompt) -> bytes:
        key = (prompt.tools, prompt.system)
        if key not in self._prompts:
            self._prompts[key] = prompt_digest(parsed_or_none(prompt.tools), parsed_or_none(prompt.system))
        return self._prompts[key]


class _FoldedChain:
    """The chain of the messages of a fold that grows: each message is digested once."""

    def __init__(self, known: Iterable[Message] = (), chain: Iterable[bytes] = (START,)) -> None:
        self._known = list(known)
        self._chain = list(chain)

    def copy(self) -> _FoldedChain:
        """Neither sees what becomes of the other."""
        return _FoldedChain(self._known, self._chain)

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
