"""A response while it is read: what of it becomes an event, and when. Pure but for the clock that is passed in.

`note` is told of each chunk of a stream before the program sees it. Most of them may wait: nothing becomes durable by
what they say alone. Before any other (`may_wait` says no, or `is_patient`) is handed over, `take` looks at all that was
noted, and gives the events that must be durable by then. When the response has ended, in whatever way, `is_over`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from session import jsontext
from session.errors import UnreadableJsonError
from session.events import BlockReceived, ResponseInterrupted, ResponseReceived
from session.messages import assistant_message, escaped, joined
from session.pricing import usage_recorded
from session.recording._deltas import Deltas, deltas_at
from session.recording._redaction import redacted_bytes, redacted_text
from session.recording._server_sent import Splitter
from session.recording.chunks import is_derived, pack, source
from session.response import Assembly, Completed, FinishedBlock, read_plain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from session.events import SessionEvent
    from session.pricing import PriceTable
    from session.recording._tee import Piece

_ERROR: Final = b"error"
_USUAL_EVENT: Final = re.compile(rb"event: ([^\r\n]*+)\ndata: ([^\r\n]++)\n\n")

may_wait: Final = re.compile(
    rb"event: (content_block_delta|message_start|content_block_start|ping|message_delta)\n"
    rb'data: \{"type": ?"\1"[ -\xff]*+\n\n'
).fullmatch
"""Whether a chunk is one event that finishes no block and no response, as nearly all are.

It believes the first `type`: of an event with two, as the API writes none, the SDK would believe the last.
"""


class Answered(msgspec.Struct, frozen=True):
    """The message that a response brought: its bytes as they are stored."""

    raw: bytes
    message_id: str
    tool_uses: tuple[str, ...]
    stop_reason: str | None


class Terms(msgspec.Struct, frozen=True):
    """What is known of a response before its body: its attempt was sent at *sent_at* of *clock*, in seconds, *now_ms*
    gives Unix time, *model* is the one that was asked, as it is stored, *headers* are as they came.
    """

    request_id: str
    model: str
    sent_at: float
    clock: Callable[[], float]
    now_ms: Callable[[], int]
    prices: PriceTable
    redact: Callable[[str], str] | None = None
    status: int = 200
    headers: bytes = b""

    def milliseconds(self, at: float) -> int:
        """From the sending to *at*."""
        return self.all_milliseconds([at])[0]

    def all_milliseconds(self, times: Sequence[float]) -> list[int]:
        """From the sending to each of *times*."""
        sent_at = self.sent_at
        return [round((at - sent_at) * 1000) for at in times]

    def elapsed(self) -> int:
        """Milliseconds since it was sent."""
        return self.milliseconds(self.clock())


class PlainReading:
    """A response that comes whole."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self.answered: Answered | None = None
        self.is_over = False

    def whole(self, body: bytes) -> list[SessionEvent]:
        """The events of *body*."""
        terms = self._terms
        self.is_over = True
        try:
            plain = read_plain(body)
        except UnreadableJsonError as error:
            fault = jsontext.encode({"fault": str(error)})
            return [interrupted(terms, "cut", fault, chunks=self._account(body, b""))]
        content = redacted_bytes(plain.content, terms.redact)
        calls = tuple(_name(block.tool_use_id, terms) for block in plain.blocks if block.tool_use_id)
        facts = _redacted_facts(plain.completed, terms)
        self.answered = Answered(assistant_message(content), facts.message_id, calls, facts.stop_reason)
        chunks = self._account(body, source([content]))
        received = ResponseReceived(
            terms.request_id, **_facts(facts), content=content, tool_uses=calls, chunks=chunks, **_how(terms)
        )
        return [*_usage(facts, terms), received]

    def _account(self, body: bytes, copied_from: bytes) -> bytes:
        """See `chunks`. None where something was redacted: it holds all that came."""
        if redacted_bytes(body, self._terms.redact) != body:
            return b""
        return pack([body], [self._terms.elapsed()], [body], copied_from)


class StreamReading:
    """A response that is streamed."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        # When a chunk came, the chunk, and so on. Flat: a pair for each would be one more thing for the collector.
        self._noted: list[Any] = []
        self._looked_at = 0  # of these
        self.note: Callable[[Piece], None] = self._noted.extend
        self._made_of: list[bytes | Deltas] = []  # all that was looked at
        self._splitter = Splitter()
        self._assembly = Assembly(shows=False)
        self._error = b""
        self._blocks: list[FinishedBlock] = []
        self._redacted = False
        self.answered: Answered | None = None
        self.is_over = False

    @property
    def is_patient(self) -> bool:
        """Whether a chunk that `may_wait` need not be looked at when it comes."""
        return self._splitter.is_between and not self.is_over

    def take(self) -> list[SessionEvent]:
        """The chunk that was noted last is about to be handed over: the events that must be durable first."""
        return [] if self.is_over else self._look()

    def _look(self) -> list[SessionEvent]:
        """Look at all that was noted since the last time."""
        body, place = b"".join(self._noted[self._looked_at + 1 :: 2]), 0
        self._looked_at = len(self._noted)
        usual = self._splitter.is_between
        while usual:
            if run := deltas_at(body, place):
                deltas, place = run
                self._made_of.append(deltas)
                self._read(b"", deltas.together)
            elif found := _USUAL_EVENT.match(body, place):
                place = found.end()
                self._made_of.append(found[0])
                self._read(found[1], found[2])
            else:
                usual = False
        if rest := body[place:]:
            self._made_of.append(rest)
            for sent in self._splitter.feed(rest):
                self._read(sent.name, sent.data)
        events = [self._block(block) for block in self._assembly.blocks[len(self._blocks) :]]
        if self._assembly.complete:
            events += self._completed(self._assembly.completed())
        elif told := self._error or self._assembly.error:
            events.append(self._interrupted("error", told))
        return events

    def _read(self, name: bytes, data: bytes) -> None:
        if name == _ERROR:
            self._error = self._error or data
        if not self._error:
            self._assembly.feed(data)

    def end(self, error: bytes = b"", *, reason: str = "cut") -> list[SessionEvent]:
        """It ended, or was left (*reason* "cancelled"): nothing if it was over anyway."""
        if self.is_over:
            return []
        events = self._look()
        if self._assembly.fault:
            reason, error = "cut", jsontext.encode({"fault": self._assembly.fault})
        return events if self.is_over else [*events, self._interrupted(reason, error)]

    def _block(self, block: FinishedBlock) -> SessionEvent:
        kept = redacted_bytes(block.block, self.terms.redact)
        self._redacted = self._redacted or kept != block.block
        self._blocks.append(FinishedBlock(block.index, kept, tool_use_id=_name(block.tool_use_id, self.terms)))
        return BlockReceived(self.terms.request_id, block.index, kept, self._blocks[-1].tool_use_id)

    def _completed(self, facts: Completed) -> list[SessionEvent]:
        self.is_over = True
        facts = _redacted_facts(facts, self.terms)
        self._blocks.sort(key=lambda block: block.index)
        raws = [block.block for block in self._blocks]
        calls = tuple(block.tool_use_id for block in self._blocks if block.tool_use_id)
        self.answered = Answered(joined("assistant", raws), facts.message_id, calls, facts.stop_reason)
        received = ResponseReceived(
            self.terms.request_id,
            **_facts(facts),
            blocks=len(raws),
            chunks=self._account(raws),
            **_how(self.terms),
        )
        return [*_usage(facts, self.terms), received]

    def _interrupted(self, reason: str, error: bytes) -> SessionEvent:
        self.is_over = True
        partial = self._assembly.partial
        kept = redacted_bytes(partial, self.terms.redact)
        self._redacted = self._redacted or kept != partial
        unfinished = jsontext.items(kept) if kept else []
        told = redacted_bytes(error, self.terms.redact)
        self._redacted = self._redacted or told != error
        return interrupted(
            self.terms, reason, told, partial=kept, chunks=self._account(self._blocks_to_copy(unfinished))
        )

    def _blocks_to_copy(self, unfinished: list[bytes]) -> list[bytes]:
        """As they will be found beside the account. None where two have one index, of which the last will be found."""
        finished = {block.index: block.block for block in self._blocks}
        if len(finished) < len(self._blocks):
            return []
        return [*[block for _, block in sorted(finished.items())], *unfinished]

    def _account(self, blocks: list[bytes]) -> bytes:
        """See `chunks`. None where something was redacted: the chunks hold what must not be stored."""
        if self._redacted or (self.terms.redact is not None and not self._is_clean(self.terms.redact)):
            return b""
        copied_from = source(blocks)
        times, chunks = self._noted[::2], self._noted[1::2]
        account = pack(chunks, self.terms.all_milliseconds(times), self._made_of, copied_from)
        if self.terms.redact is not None and not is_derived(account, self._made_of, copied_from):
            return b""
        return account

    def _is_clean(self, redact: Callable[[str], str]) -> bool:
        """Whether nothing in any event by itself is redacted. What is spread over several, `is_derived` sees."""
        body = b"".join(self._noted[1::2])
        text = body.decode("utf-8", "backslashreplace")
        return redacted_text(text, redact) == text and all(
            redacted_bytes(sent.data, redact) == sent.data for sent in Splitter().feed(body)
        )


Reading: TypeAlias = PlainReading | StreamReading
"""A response while it is read, and what is known of it so far."""


def _redacted_facts(facts: Completed, terms: Terms) -> Completed:
    """*facts* as they may be stored. A model that is then not named has no price."""
    if terms.redact is None:
        return facts
    return Completed(
        redacted_text(facts.message_id, terms.redact),
        redacted_text(facts.model, terms.redact),
        None if facts.stop_reason is None else redacted_text(facts.stop_reason, terms.redact),
        redacted_bytes(facts.usage, terms.redact),
        redacted_bytes(facts.rest, terms.redact),
    )


def _name(tool_use_id: str, terms: Terms) -> str:
    """The id of a tool call as it stands in its block, once that is redacted."""
    return escaped(redacted_text(tool_use_id, terms.redact))


def _facts(facts: Completed) -> dict[str, Any]:
    return {
        "message_id": escaped(facts.message_id),
        "model": escaped(facts.model),
        "stop_reason": None if facts.stop_reason is None else escaped(facts.stop_reason),
        "rest": facts.rest,
    }


def _how(terms: Terms) -> dict[str, Any]:
    headers = redacted_bytes(terms.headers, terms.redact)
    return {"status": terms.status, "headers": headers, "duration_ms": terms.elapsed()}


def interrupted(
    terms: Terms, reason: str, error: bytes, *, partial: bytes = b"", chunks: bytes = b""
) -> ResponseInterrupted:
    """The event of a response that did not come to its end."""
    return ResponseInterrupted(terms.request_id, reason, error=error, partial=partial, chunks=chunks, **_how(terms))


def _usage(facts: Completed, terms: Terms) -> list[SessionEvent]:
    """What the response used, and what that cost."""
    if not facts.usage:
        return []
    return [
        usage_recorded(
            facts.usage,
            facts.model or terms.model,
            terms.now_ms(),
            table=terms.prices,
            request_id=terms.request_id,
            stop_details=facts.stop_details,
        )
    ]
