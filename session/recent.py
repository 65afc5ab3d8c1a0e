"""The newest messages of a session from its newest events, without folding all that came before. Pure.

A window of events is folded on its own, from a place where nothing of the past reaches into what comes: where a request
is sent, or a message appended. What a window cannot tell (a rewind, a compaction, a refusal, which count messages from
the beginning; a response or a tool that began before it) is not guessed: the answer is None, and the caller folds the
whole history. It takes the ids of tool calls to be distinct, as the API makes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from session.events import (
    BlockReceived,
    HistoryCompacted,
    HistoryRewound,
    MessageAppended,
    RequestSent,
    ResponseReceived,
    SessionForked,
    SessionRepaired,
    ToolRefused,
    ToolReturned,
)
from session.fold import REFUSAL, Fold
from session.state import SessionState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from session.events import AnyEvent, StoredEvent
    from session.messages import Message

_COUNT_FROM_THE_BEGINNING: Final = (HistoryRewound, HistoryCompacted)
_OUTCOMES: Final = (ToolReturned, ToolRefused, SessionRepaired)


def has_distant_effects(events: Sequence[StoredEvent]) -> bool:
    """Whether one of *events* changes messages that any earlier event made: no window that holds it tells enough."""
    return any(
        isinstance(stored.event, _COUNT_FROM_THE_BEGINNING)
        or (isinstance(stored.event, ResponseReceived) and stored.event.stop_reason == REFUSAL)
        for stored in events
    )


def messages_in_window(events: Sequence[StoredEvent]) -> list[Message] | None:
    """The messages that the session has from this window of its newest events on, or the last of them; None: the window
    cannot tell.
    """
    start = next((place for place, stored in enumerate(events) if _is_clean(stored.event)), None)
    if start is None or has_distant_effects(events):
        return None
    fold = Fold(SessionState(id="", version=events[start].version - 1))
    requests: set[str] = set()
    for stored in events[start:]:
        event = stored.event
        if isinstance(event, RequestSent):
            requests = {event.request_id}
        elif (not fold.settled and isinstance(event, _OUTCOMES)) or _began_before(event, requests):
            return None
        fold.add(event, stored.recorded_at)
    if not _outcomes(events[:start]).isdisjoint(call for message in fold.settled for call in message.tool_uses):
        return None
    growing = fold.growing_results()
    return [*fold.settled, growing] if growing else list(fold.settled)


def _outcomes(events: Sequence[StoredEvent]) -> set[str]:
    """The calls that these events brought an outcome of: a recorder can meet it before the message of the call."""
    found: set[str] = set()
    for stored in events:
        event = stored.event
        if isinstance(event, ToolReturned | ToolRefused):
            found.add(event.tool_use_id)
        elif isinstance(event, SessionRepaired):
            found.update(repaired.tool_use_id for repaired in event.results)
    return found


def _is_clean(event: AnyEvent) -> bool:
    return isinstance(event, RequestSent | MessageAppended)


def _began_before(event: AnyEvent, requests: set[str]) -> bool:
    """Whether *event* goes on with a response of which the window lacks the beginning; a fork cuts all of them."""
    if isinstance(event, SessionForked):
        requests.clear()
    if isinstance(event, BlockReceived):
        return event.request_id not in requests
    return isinstance(event, ResponseReceived) and event.content is None and event.request_id not in requests
