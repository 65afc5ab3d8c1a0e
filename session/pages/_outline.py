"""What is on a page, found without holding what was said.

The session is folded once over *references*: each event has, in the place of its bytes, its kind and version. The fold
never looks into the bytes of a message, so its state says exactly which events each message is made of, after every
rewind, compaction and repair. So a page of a session of any length takes a few hundred bytes per event, and reads the
bytes of one exchange at a time.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from msgspec.structs import replace

from session.events import (
    BlockReceived,
    HistoryCompacted,
    MessageAppended,
    ResponseReceived,
    SessionRepaired,
    SourceRecorded,
    ToolRefused,
    ToolReturned,
    UsageRecorded,
)
from session.fold import Fold
from session.state import SessionState
from session.usage import Tally, Usage, total

if TYPE_CHECKING:
    from collections.abc import Iterable

    from session.events import AnyEvent, StoredEvent
    from session.messages import Message
    from session.state import Turn

_REFERENCE: Final = re.compile(rb"([mscbrp])([0-9]+)/([0-9]+)")

Kind = Literal["m", "s", "c", "b", "r", "p"]
"""A whole message, one of a summary, the content of a response, a block of one, a result of a tool, a repaired one."""


class Reference(NamedTuple):
    """Bytes in an event: those of its *item*, where it has several."""

    kind: str
    version: int
    item: int


class Outline:
    """The session as its events tell it, without their bytes."""

    def __init__(self, session_id: str, events: Iterable[StoredEvent]) -> None:
        fold = Fold(SessionState(id=session_id))
        self.digest = b""
        self._used_at: list[int] = []
        self._used: list[Usage] = []
        self._responses: list[tuple[int, str]] = []
        said = 0
        for stored in events:
            event = stored.event
            said += isinstance(event, MessageAppended | ResponseReceived)
            if isinstance(event, UsageRecorded):
                self._note_usage(stored.version, event)
            if isinstance(event, ResponseReceived):
                self._responses.append((stored.version, event.request_id))
            fold.add(_referring(event, stored.version), stored.recorded_at)
            self.digest = stored.digest
        self.state = fold.state()
        self.messages = [references(message) for message in self.state.messages.entries]
        kinds = [message[0].kind for message in self.messages if message]
        self.left_out = said - sum(kind in "mcb" for kind in kinds)

    def usage_of(self, turn: Turn) -> Usage:
        """What was used in *turn*."""
        first, end = bisect_left(self._used_at, turn.first), bisect_right(self._used_at, turn.last)
        return total(self._used[first:end])

    def completed_at(self, version: int, request_id: str) -> int:
        """The version at which the response was complete that the block at *version* belongs to."""
        for place in range(bisect_left(self._responses, (version, "")), len(self._responses)):
            if self._responses[place][1] == request_id:
                return self._responses[place][0]
        return version

    def _note_usage(self, version: int, event: UsageRecorded) -> None:
        tally = Tally()
        tally.add_text(event.usage, event.cost_picodollars)
        tally.add(Usage(unpriced=event.unpriced))
        self._used_at.append(version)
        self._used.append(tally.usage())


def references(message: Message) -> list[Reference]:
    """The events that a message of the outline is made of, in order."""
    found = _REFERENCE.findall(message.raw)
    return [Reference(kind.decode(), int(version), int(index)) for kind, version, index in found]


def _referring(event: AnyEvent, version: int) -> AnyEvent:  # noqa: PLR0911 - one per kind of event
    match event:
        case MessageAppended():
            return replace(event, message=replace(event.message, raw=_reference("m", version)))
        case BlockReceived():
            return replace(event, block=_reference("b", version))
        case ResponseReceived():
            content = None if event.content is None else _reference("c", version)
            return replace(event, content=content, rest=b"", headers=b"", chunks=b"")
        case ToolReturned() | ToolRefused():
            return replace(event, result=_reference("r", version))
        case SessionRepaired():
            results = [replace(one, result=_reference("p", version, place)) for place, one in enumerate(event.results)]
            return replace(event, results=tuple(results))
        case HistoryCompacted():
            summary = [replace(one, raw=_reference("s", version, place)) for place, one in enumerate(event.summary)]
            return replace(event, summary=tuple(summary))
        case SourceRecorded():
            return replace(event, data=b"")
    return event


def _reference(kind: Kind, version: int, index: int = 0) -> bytes:
    return f"{kind}{version}/{index}".encode()
