"""State from events: `fold` for a list of them, `Fold` for a session that goes on.

1. Pure: the same events give the same state; no clock, no parsing of messages, no look at anything else.
2. Additive: `fold(a + b) == fold(b, start=fold(a))`, cut wherever.
3. Linear: an event costs the same at any length of history; only freezing (`Fold.state`) copies the list of messages.
4. Total: every sequence of events has a state. What does not fit is kept out of the messages and can be seen in
   `in_doubt`, `responses` or `unknown_events`.

Messages. A message that was appended is there at once. A response is there when its completing event is, unless it was
refused: then its whole turn is left out. Results of tools become one user message behind their tool_uses, in the order
of these; it grows (`results_open`) until something follows it. A message that brings tool results itself replaces those
collected for the same ids.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, assert_never

from msgspec import UNSET

from session import jsontext, metadata
from session.errors import UnreadableJsonError
from session.events import (
    BlockReceived,
    HistoryCompacted,
    HistoryRewound,
    MessageAppended,
    MetadataUpdated,
    PromptChanged,
    RequestSent,
    ResponseInterrupted,
    ResponseReceived,
    SessionClosed,
    SessionCreated,
    SessionForked,
    SessionRepaired,
    SourceRecorded,
    ToolRefused,
    ToolReturned,
    ToolStarted,
    UnknownEvent,
    UsageRecorded,
)
from session.messages import Message, Messages, assistant_message, joined
from session.state import Landmark, Prompt, ReceivedBlock, SessionState, ToolRun, UnfinishedResponse
from session.turns import OpenTurns
from session.usage import Tally, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import TypeAlias

    from session.events import AnyEvent, StoredEvent

    _OutsideTurns: TypeAlias = (
        HistoryCompacted
        | HistoryRewound
        | MetadataUpdated
        | PromptChanged
        | SessionClosed
        | SessionCreated
        | SessionForked
        | SourceRecorded
        | UnknownEvent
    )

FOLD_REVISION: Final = 2
"""Raised by one whenever the same events would give another state: older snapshots are then void."""

REFUSAL: Final = "refusal"


def fold(events: Iterable[StoredEvent], start: SessionState | None = None) -> SessionState:
    """The state after *events*, which follow on *start*."""
    growing = Fold(start)
    for event in events:
        assert event.version == growing.version + 1, f"version {event.version} follows {growing.version}"
        growing.add(event.event, event.recorded_at)
    return growing.state()


class Fold:
    """A state that grows by events; `id` and messages come from the events or from *start*.

    `hidden_messages` is how many messages before *start*'s own are not held (see `session.summary`).
    """

    def __init__(self, start: SessionState | None = None, *, hidden_messages: int = 0) -> None:
        state = start or SessionState(id="")
        self.version = state.version
        self.hidden_messages = hidden_messages
        self.complete = True  # False once an event needed what is hidden: fold from the beginning then
        self._id = state.id
        self._parent_id = state.parent_id
        self._created_at = state.created_at
        self._updated_at = state.updated_at
        self._forked_at = state.forked_at
        self._messages = list(state.messages.entries)
        self._results_open = state.results_open
        if state.results_open:  # it is joined anew from the tool runs until something follows it
            self._messages.pop()
        self._tools = {run.tool_use_id: run for run in state.tools}
        self._responses = {response.request_id: _Response.thaw(response) for response in state.responses}
        self._metadata = metadata.texts(state.metadata)
        self._prompt = state.prompt
        self._tally = Tally(state.usage)
        self._inherited_usage = state.inherited_usage
        self._stop_reason = state.stop_reason
        self._turns = OpenTurns(state.turns)
        self._landmarks = list(state.landmarks)
        self._compacted = state.compacted
        self._refused_turns = state.refused_turns
        self._closed = state.closed
        self._unknown_events = state.unknown_events

    def add(self, event: AnyEvent, recorded_at: int) -> None:  # noqa: C901, PLR0912 - one case per event
        """*event* happened next, recorded at *recorded_at* (Unix milliseconds)."""
        self.version += 1
        self._updated_at = recorded_at
        if self.version == 1:
            self._created_at = recorded_at
        match event:  # the frequent ones first
            case MessageAppended():
                self._message_appended(event, recorded_at)
            case ToolReturned():
                self._tool_ended(event.tool_use_id, event.result, is_error=event.is_error)
            case UsageRecorded():
                self._usage_recorded(event)
            case ResponseReceived():
                self._response_received(event)
            case BlockReceived():
                self._block_received(event)
            case ToolStarted():
                self._tools[event.tool_use_id] = ToolRun(event.tool_use_id, event.name, self.version)
            case RequestSent():
                self._request_sent(event)
            case ToolRefused():
                self._tool_ended(event.tool_use_id, event.result, is_error=True)
            case ResponseInterrupted():
                if event.request_id in self._responses:
                    self._responses[event.request_id].cut = True
            case SessionRepaired():
                for repaired in event.results:
                    self._tool_ended(repaired.tool_use_id, repaired.result, is_error=True)
            case _:
                self._happened_outside_turns(event, recorded_at)
                return
        self._turns.extend(self.version, recorded_at)

    def _happened_outside_turns(self, event: _OutsideTurns, recorded_at: int) -> None:
        """What lengthens no turn. A rewind takes part in its own way."""
        match event:
            case MetadataUpdated():
                self._metadata_updated(event)
            case PromptChanged():
                self._prompt_changed(event)
            case HistoryRewound():
                self._rewind(event.messages, recorded_at)
            case HistoryCompacted():
                self._compact(event)
            case SessionCreated():
                self._session_created(event, recorded_at)
            case SessionForked():
                self._session_forked(event, recorded_at)
            case SessionClosed():
                self._closed = True
            case SourceRecorded():
                pass  # what the other events were made of
            case UnknownEvent():
                self._unknown_events += 1
            case _:
                assert_never(event)

    def state(self) -> SessionState:
        """The state now, without what is hidden. Costs a copy of the list of messages (not of their bytes)."""
        growing = self.growing_results()
        return SessionState(
            id=self._id,
            messages=Messages.of((*self._messages, growing) if growing else self._messages),
            usage=self._tally.usage(),
            metadata={key: metadata.value_of(text) for key, text in self._metadata.items()},
            created_at=self._created_at,
            updated_at=self._updated_at,
            parent_id=self._parent_id,
            version=self.version,
            forked_at=self._forked_at,
            inherited_usage=self._inherited_usage,
            prompt=self._prompt,
            responses=self.responses(),
            tools=self.tool_runs(),
            results_open=growing is not None,
            stop_reason=self._stop_reason,
            turns=self._turns.frozen(),
            landmarks=tuple(self._landmarks),
            compacted=self._compacted,
            refused_turns=self._refused_turns,
            closed=self._closed,
            unknown_events=self._unknown_events,
        )

    # --- looked at without freezing: a copy of the list of messages is long work at every step of a turn --------------

    @property
    def prompt(self) -> Prompt:
        """As `state().prompt`."""
        return self._prompt

    @property
    def settled(self) -> Sequence[Message]:
        """The messages but for `growing_results`. Not to be kept or changed: it grows with the next event."""
        return self._messages

    def growing_results(self) -> Message | None:
        """The message of tool results at the end, while it may still grow."""
        if not self._tools or self._newest_role() != "assistant":
            return None
        results: dict[str, bytes] = {}
        for call in self._messages[-1].tool_uses:
            run = self._tools.get(call)
            if run and run.result is not None:
                results[call] = run.result
        return Message(joined("user", results.values()), "user", (), tuple(results)) if results else None

    def tool_runs(self) -> tuple[ToolRun, ...]:
        """As `state().tools`."""
        return tuple(self._tools.values())

    def responses(self) -> tuple[UnfinishedResponse, ...]:
        """As `state().responses`."""
        return tuple(response.freeze() for response in self._responses.values())

    def is_running(self, request_id: str) -> bool:
        """Whether this request was sent and neither completed nor interrupted."""
        response = self._responses.get(request_id)
        return response is not None and not response.cut

    # --- one event each -----------------------------------------------------------------------------------------------

    def _message_appended(self, event: MessageAppended, recorded_at: int) -> None:
        message = event.message
        for answered in message.tool_results:
            self._tools.pop(answered, None)
        if self._tools:
            self._settle_results()
        if self._responses:
            self._forget_cut_responses()
        if message.role == "user" and not message.tool_results and self._newest_role() != "user":
            self._turns.begin(self.version, recorded_at, self._compacted + self._message_count())
        self._messages.append(message)
        self._closed = False
        if event.message_id:
            self._landmarks.append(Landmark(event.message_id, self.version))

    def _request_sent(self, event: RequestSent) -> None:
        self._settle_results()
        self._responses = {event.request_id: _Response(event.request_id, self.version)}
        self._closed = False

    def _block_received(self, event: BlockReceived) -> None:
        response = self._responses.get(event.request_id)
        if response is None:
            response = self._responses[event.request_id] = _Response(event.request_id, self.version)
        response.blocks[event.index] = ReceivedBlock(event.index, event.block, event.tool_use_id)

    def _response_received(self, event: ResponseReceived) -> None:
        if self._tools:
            self._settle_results()
        response = None
        if self._responses:
            response = self._responses.pop(event.request_id, None)
            self._forget_cut_responses()
        message = _message(event, response.in_order() if response else ())
        if message is None:
            response = response or _Response(event.request_id, self.version)
            response.cut = True
            self._responses[event.request_id] = response
            return
        self._stop_reason = event.stop_reason
        if event.message_id:
            self._landmarks.append(Landmark(event.message_id, self.version))
        if event.stop_reason == REFUSAL:
            self._drop_tools(message.tool_uses)
            self._leave_out_turn()
        else:
            self._messages.append(message)

    def _usage_recorded(self, event: UsageRecorded) -> None:
        self._tally.add_text(event.usage, event.cost_picodollars)
        if event.unpriced:
            self._tally.add(Usage(unpriced=event.unpriced))

    def _tool_ended(self, tool_use_id: str, result: bytes, *, is_error: bool) -> None:
        begun = self._tools.get(tool_use_id)
        name, started = (begun.name, begun.started_version) if begun else ("", 0)
        self._tools[tool_use_id] = ToolRun(tool_use_id, name, started, result, is_error)

    def _metadata_updated(self, event: MetadataUpdated) -> None:
        try:
            values, removed = jsontext.members(event.values), jsontext.items(event.removed)
        except UnreadableJsonError:  # not written by this package
            self._unknown_events += 1
            return
        self._metadata.update(values)
        for key in removed:
            name = jsontext.string(key)
            if name is not None:
                self._metadata.pop(name, None)

    def _prompt_changed(self, event: PromptChanged) -> None:
        old = self._prompt
        self._prompt = Prompt(
            model=old.model if event.model is UNSET else event.model,
            system=old.system if event.system is UNSET else event.system,
            tools=old.tools if event.tools is UNSET else event.tools,
            parameters=old.parameters if event.parameters is UNSET else event.parameters,
        )

    def _session_created(self, event: SessionCreated, recorded_at: int) -> None:
        self._id = event.session_id
        self._parent_id = event.parent_id or None
        self._created_at = event.created_at or recorded_at

    def _session_forked(self, event: SessionForked, recorded_at: int) -> None:
        self._id, self._parent_id = event.session_id, event.parent_id
        self._forked_at = event.at
        self._created_at = recorded_at
        self._closed = False
        self._inherited_usage = self._tally.usage()
        for response in self._responses.values():  # what is still to come of them comes to the parent
            response.cut = True

    def _rewind(self, kept: int, recorded_at: int) -> None:
        self._closed = False
        for response in self._responses.values():
            self._drop_tools(block.tool_use_id for block in response.blocks.values())
        self._responses.clear()
        if kept >= self._message_count() + (self.growing_results() is not None):
            self._turns.extend(self.version, recorded_at)
            return
        self._truncate(max(kept, 0))
        if self._messages:  # outcomes that came too late would now add a message
            self._drop_tools(self._messages[-1].tool_uses)
        if kept <= 0:
            self._compacted = 0
        self._turns.rewind(self._compacted + max(kept, 0), self.version, recorded_at)
        if self.hidden_messages and self._turns.newest_index is None:
            self.complete = False

    def _drop_tools(self, abandoned: Iterable[str]) -> None:
        for tool_use_id in abandoned:
            self._tools.pop(tool_use_id, None)

    def _compact(self, event: HistoryCompacted) -> None:
        self._settle_results()
        replaced = min(max(event.messages, 0), self._message_count())
        if replaced >= self.hidden_messages:
            self._messages[: replaced - self.hidden_messages] = event.summary
            self.hidden_messages = 0
        else:
            self.hidden_messages += len(event.summary) - replaced
        self._compacted += replaced - len(event.summary)

    def _leave_out_turn(self) -> None:
        self._refused_turns += 1
        ask = self._turns.newest_index
        if ask is not None and ask >= self._compacted:
            self._truncate(ask - self._compacted)

    def _truncate(self, kept: int) -> None:
        """Keep the first *kept* messages; what became of the tools that the others call is no longer a question."""
        if kept and kept <= self.hidden_messages:
            self.complete = False  # the newest message is one that is not held
        if self._tools and kept < self.hidden_messages:
            self.complete = False  # one of those that go may call one of the tools
        begin = max(kept - self.hidden_messages, 0)
        if self._tools:
            for message in self._messages[begin:]:
                self._drop_tools(message.tool_uses)
        del self._messages[begin:]
        self.hidden_messages = min(self.hidden_messages, kept)

    def _settle_results(self) -> None:
        """The tool-result message has got what it gets: something follows it."""
        growing = self.growing_results()
        if growing:
            self._messages.append(growing)
            for settled in growing.tool_results:
                self._tools.pop(settled, None)

    def _forget_cut_responses(self) -> None:
        self._responses = {key: response for key, response in self._responses.items() if not response.cut}

    def _newest_role(self) -> str:
        return self._messages[-1].role if self._messages else ""

    def _message_count(self) -> int:
        return self.hidden_messages + len(self._messages)


class _Response:
    """An unfinished response while it grows."""

    __slots__ = ("blocks", "cut", "request_id", "version")

    def __init__(self, request_id: str, version: int) -> None:
        self.request_id = request_id
        self.version = version
        self.blocks: dict[int, ReceivedBlock] = {}
        self.cut = False

    @classmethod
    def thaw(cls, frozen: UnfinishedResponse) -> _Response:
        response = cls(frozen.request_id, frozen.version)
        response.blocks = {block.index: block for block in frozen.blocks}
        response.cut = frozen.cut
        return response

    def freeze(self) -> UnfinishedResponse:
        return UnfinishedResponse(self.request_id, self.version, self.in_order(), self.cut)

    def in_order(self) -> tuple[ReceivedBlock, ...]:
        return tuple(block for _, block in sorted(self.blocks.items()))


def _message(event: ResponseReceived, blocks: tuple[ReceivedBlock, ...]) -> Message | None:
    """The message that *event* completes; None where blocks it counts are missing."""
    if event.content is not None:
        return Message(assistant_message(event.content), "assistant", event.tool_uses, (), event.stop_reason)
    if len(blocks) != event.blocks:
        return None
    calls = tuple(block.tool_use_id for block in blocks if block.tool_use_id)
    return Message(joined("assistant", (block.block for block in blocks)), "assistant", calls, (), event.stop_reason)
