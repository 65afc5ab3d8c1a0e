"""A session as a reader meets it: a heading, turns, messages, and what is still open. Read once more, in order, an
exchange at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from session import jsontext
from session.errors import UnreadableJsonError
from session.events import (
    BlockReceived,
    HistoryCompacted,
    MessageAppended,
    ResponseReceived,
    SessionRepaired,
    ToolRefused,
    ToolReturned,
)
from session.pages._outline import Outline, Reference
from session.pages._parts import (
    Call,
    Part,
    Result,
    paired,
    parts_of_blocks,
    parts_of_content,
    parts_of_message,
)
from session.places import HEAD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from session.events import StoredEvent
    from session.places import At
    from session.state import SessionState, Turn
    from session.storage.blocking import BlockingEventSessionStorage
    from session.usage import Usage

_WINDOW_EVENTS: Final = 16  # are held at a time


class ForkLine(msgspec.Struct, frozen=True):
    """A fork: its id, and the version at which it was made."""

    session_id: str
    at: int


class Heading(msgspec.Struct, frozen=True):
    """What stands above the conversation. *digest* is that of the event at *version*, and commits to all before it."""

    session_id: str
    title: str
    version: int
    digest: bytes
    created_at: int
    updated_at: int
    status: str
    model: str
    parent: ForkLine | None
    forks: tuple[ForkLine, ...]
    usage: Usage
    own_usage: Usage
    messages: int
    turns: tuple[int, ...]
    system: tuple[Part, ...]
    tools: tuple[str, ...]


class TurnBegan(msgspec.Struct, frozen=True):
    """The turn *number*, of versions *first* to *last*, begins here."""

    number: int
    first: int
    last: int
    began_at: int
    ended_at: int
    usage: Usage


class Said(msgspec.Struct, frozen=True):
    """A message, complete at *version* (0: not known, of an answer in no block at all). *summary*: it stands for what
    compaction took away.
    """

    role: str
    version: int
    at: int
    model: str
    stop_reason: str
    parts: tuple[Part, ...]
    summary: bool = False


class Note(msgspec.Struct, frozen=True):
    """Something about the session that no message says."""

    text: str


Item: TypeAlias = Heading | TurnBegan | Said | Note


def story(storage: BlockingEventSessionStorage, session_id: str, at: int | str | At = HEAD) -> Iterator[Item]:
    """The session as it was at *at*. Raises as `storage.state_at`, before the first item."""
    version = storage.version_at(session_id, at)
    outline = Outline(session_id, _windows(storage, session_id, version))
    yield _heading(storage, session_id, outline)
    yield from _Telling(storage, session_id, outline).items()
    yield from _notes(outline)


def _windows(storage: BlockingEventSessionStorage, session_id: str, version: int) -> Iterator[StoredEvent]:
    for after in range(0, version, _WINDOW_EVENTS):
        yield from storage.events(session_id, after=after, upto=min(after + _WINDOW_EVENTS, version))


class _Telling:
    def __init__(self, storage: BlockingEventSessionStorage, session_id: str, outline: Outline) -> None:
        self._storage = storage
        self._session_id = session_id
        self._outline = outline
        self._window: dict[int, StoredEvent] = {}
        self._ahead: dict[int, list[Part]] = {}  # messages of the exchange, by place, whose results were taken

    def items(self) -> Iterator[Item]:
        state = self._outline.state
        turns = [turn for turn in reversed(state.turns) if turn.message_index >= state.compacted]
        for place, message in enumerate(state.messages.entries):
            while turns and turns[-1].message_index <= state.compacted + place:
                yield self._began(turns.pop())
            parts = self._ahead.pop(place, None)
            had_none = parts is None
            parts = self._parts(place) if parts is None else parts
            if message.role == "assistant":
                parts = self._with_results(place, parts)
            if parts or had_none:
                yield self._said(place, parts)
        yield from map(self._began, reversed(turns))  # refused: without a message

    def _began(self, turn: Turn) -> TurnBegan:
        used = self._outline.usage_of(turn)
        return TurnBegan(turn.number, turn.first, turn.last, turn.began_at, turn.ended_at, used)

    def _with_results(self, place: int, parts: list[Part]) -> list[Part]:
        """*parts*, with the results that the messages up to the next answer bring."""
        entries = self._outline.state.messages.entries
        calls = {part.call for part in parts if isinstance(part, Call) and part.result is None}
        results: list[Part] = []
        after = place + 1
        while calls and after < len(entries) and entries[after].role != "assistant":
            if entries[after].tool_results:
                theirs = self._parts(after)
                results += [part for part in theirs if _answers(part, calls)]
                self._ahead[after] = [part for part in theirs if not _answers(part, calls)]
            after += 1
        return paired([*parts, *results])

    def _said(self, place: int, parts: list[Part]) -> Said:
        message, references = self._outline.state.messages.entries[place], self._outline.messages[place]
        stored = self._ending(references[-1]) if references else None
        event = stored.event if stored else None
        answer = event if isinstance(event, ResponseReceived) else None
        said_at = event.said_at if isinstance(event, MessageAppended) else 0
        return Said(
            role=message.role,
            version=stored.version if stored else 0,
            at=said_at or (stored.recorded_at if stored else 0),
            model=answer.model if answer else "",
            stop_reason=message.stop_reason or "",
            parts=tuple(parts),
            summary=bool(references) and references[0].kind == "s",
        )

    def _ending(self, reference: Reference) -> StoredEvent:
        """The event with which the message was complete."""
        stored = self._event(reference.version)
        if isinstance(stored.event, BlockReceived):
            return self._event(self._outline.completed_at(reference.version, stored.event.request_id))
        return stored

    def _parts(self, place: int) -> list[Part]:
        references = self._outline.messages[place]
        if references and references[0].kind in "brp":
            return parts_of_blocks([self._bytes(reference) for reference in references])
        found: list[Part] = []
        for reference in references:
            of = parts_of_content if reference.kind == "c" else parts_of_message
            found += of(self._bytes(reference))
        return found

    def _bytes(self, reference: Reference) -> bytes:
        match self._event(reference.version).event:
            case MessageAppended(message):
                return message.raw
            case BlockReceived(block=raw) | ToolReturned(result=raw) | ToolRefused(result=raw):
                return raw
            case ResponseReceived(content=bytes(raw)):
                return raw
            case SessionRepaired(results=results):
                return results[reference.item].result
            case HistoryCompacted(summary=summary):
                return summary[reference.item].raw
        raise AssertionError("the fold made this reference")

    def _event(self, version: int) -> StoredEvent:
        """The event at *version*; those behind it are read along, for they are asked for next."""
        if version not in self._window:
            upto = min(version + _WINDOW_EVENTS - 1, self._outline.state.version)
            events = self._storage.events(self._session_id, after=version - 1, upto=upto)
            self._window = {stored.version: stored for stored in events}
        return self._window[version]


def _answers(part: Part, calls: set[str]) -> bool:
    return isinstance(part, Result) and part.call in calls


def _heading(storage: BlockingEventSessionStorage, session_id: str, outline: Outline) -> Heading:
    state = outline.state
    forks = [ForkLine(head.stream, head.forked_at) for head in storage.log.children(session_id)]
    title = state.metadata.get("title")
    return Heading(
        session_id=session_id,
        title=title if isinstance(title, str) else "",
        version=state.version,
        digest=outline.digest,
        created_at=state.created_at,
        updated_at=state.updated_at,
        status=state.status,
        model=state.prompt.model,
        parent=ForkLine(state.parent_id, state.forked_at) if state.parent_id else None,
        forks=tuple(forks),
        usage=state.usage,
        own_usage=state.own_usage,
        messages=len(outline.messages),
        turns=tuple(turn.number for turn in state.turns if turn.message_index >= state.compacted),
        system=tuple(parts_of_content(state.prompt.system)),
        tools=_tool_names(state.prompt.tools),
    )


def _tool_names(raw: bytes) -> tuple[str, ...]:
    try:
        return tuple(_tool_name(tool) for tool in jsontext.items(raw)) if raw else ()
    except UnreadableJsonError:
        return ("unreadable",)


def _tool_name(raw: bytes) -> str:
    try:
        return jsontext.string(jsontext.members(raw).get("name", b"")) or "unnamed"
    except UnreadableJsonError:
        return "unreadable"


def _notes(outline: Outline) -> Iterator[Note]:
    state: SessionState = outline.state
    for run in state.in_doubt:
        ended = "was started and has no outcome" if run.result is None else "has an outcome that found no place"
        yield Note(f"The tool {run.name or 'of unknown name'} ({run.tool_use_id}) {ended}.")
    for response in state.responses:
        what = "was cut" if response.cut else "is not complete"
        yield Note(f"A response {what}; {len(response.blocks)} finished blocks of it are in the record, not here.")
    if outline.left_out:
        yield Note(
            f"{outline.left_out} messages were set aside, refused or compacted; they are in the record, not here."
        )
    if state.unknown_events:
        yield Note(f"{state.unknown_events} events are of kinds that this version does not know.")
