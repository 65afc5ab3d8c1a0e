"""What `save` takes, in any storage, and what it appends in the event-sourced one: the events that lead from the stored
state to the given one. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import UNSET, UnsetType

from session import jsontext, metadata
from session.errors import InvalidStateError
from session.events import (
    HistoryRewound,
    MessageAppended,
    MetadataUpdated,
    PromptChanged,
    SessionCreated,
    UsageRecorded,
)
from session.state import Prompt, SessionState
from session.usage import MAX_DIGITS, Tally, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, TypeVar

    from session.events import SessionEvent
    from session.messages import Message
    from session.state import ToolRun

    Part = TypeVar("Part", str, bytes)

SAVED = "save"
"""The origin of a session that began as a saved state, and the reason of a rewind that made way for one."""

_TIMES: Final = ("created_at", "updated_at")


def check_state(state: SessionState) -> None:
    """Every storage asks before it writes: what `load` could not give back must not take the place of what is stored.

    Raises `InvalidStateError` unless both times are integers, the parent is a string or None, and the usage is a
    `Usage` of integers.
    """
    for field in _TIMES:
        time = getattr(state, field)
        if isinstance(time, bool) or not isinstance(time, int):
            raise InvalidStateError(field, f"a time is an integer, of milliseconds, not {type(time).__name__}")
    if not isinstance(state.parent_id, str | None):
        raise InvalidStateError("parent_id", f"it is a string or None, not {type(state.parent_id).__name__}")
    if not isinstance(state.usage, Usage):
        raise InvalidStateError("usage", f"it is a Usage, not {type(state.usage).__name__}")
    if not _is_of_integers(state.usage):
        raise InvalidStateError("usage", "a counter has a name, and is an integer, and so is the cost")


def plan_save(stored: SessionState | None, new: SessionState) -> list[SessionEvent]:
    """The events after which the session has the messages, usage and metadata of *new*; none if it has them already.

    *stored* is the state now, None for a new session. The longest common prefix of messages stays as it is: a message
    is common if its bytes are, or its value; the stored bytes then stay. What follows it in the stored state is set
    aside by `history_rewound`. A *new* without any prompt leaves the prompt alone. The id, parent and creation time of
    a stored session are facts and stay.

    Raises `InvalidMetadataError` for metadata that is no JSON object, `InvalidStateError` as `check_state` does.
    """
    check_state(new)
    before = stored or SessionState(id=new.id)
    events: list[SessionEvent] = []
    if stored is None:
        events.append(SessionCreated(new.id, new.created_at, new.parent_id or "", origin=SAVED))
    events += plan_prompt(before.prompt, new.prompt) if new.prompt != Prompt() else []
    events += plan_metadata(before.metadata, new.metadata)
    events += plan_messages(before.messages.entries, new.messages.entries, before.in_doubt, growing=before.results_open)
    events += plan_usage(before.usage, new.usage)
    return events


def plan_prompt(before: Prompt, new: Prompt) -> list[SessionEvent]:
    """What changes *before* into *new*."""
    if before == new:
        return []
    return [
        PromptChanged(
            model=_changed(before.model, new.model),
            system=_changed(before.system, new.system),
            tools=_changed(before.tools, new.tools),
            parameters=_changed(before.parameters, new.parameters),
        )
    ]


def plan_metadata(before: Mapping[str, Any], new: Mapping[str, Any]) -> list[SessionEvent]:
    """What changes *before* into *new*. Raises `InvalidMetadataError`."""
    texts = metadata.texts(before)
    values = {key: text for key, text in metadata.texts(new).items() if texts.get(key) != text}
    removed = [key for key in before if key not in new]
    if not values and not removed:
        return []
    return [MetadataUpdated(jsontext.joined_members(values), jsontext.encode(removed))]


def plan_messages(
    before: tuple[Message, ...],
    new: tuple[Message, ...],
    in_doubt: tuple[ToolRun, ...] = (),
    *,
    growing: bool = False,
) -> list[SessionEvent]:
    """What changes *before* into *new*, the common prefix left as it is.

    An outcome *in_doubt* would join a message that calls its tool: a rewind to just behind that message drops it. A
    result of the last message, if that is *growing*, would leave it for a new message that brings one of the same id:
    it is then appended as a whole.
    """
    kept = common_prefix(before, new)
    waiting = {run.tool_use_id for run in in_doubt if run.result is not None}
    events: list[SessionEvent] = []
    if (
        growing
        and kept == len(before) < len(new)
        and not set(before[-1].tool_results).isdisjoint(new[kept].tool_results)
    ):
        kept -= 1
    if kept < len(before):
        events.append(HistoryRewound(kept, reason=SAVED))
    for count, message in enumerate(new[kept:], kept + 1):
        events.append(MessageAppended(message))
        if not waiting.isdisjoint(message.tool_uses):
            events.append(HistoryRewound(count, reason=SAVED))
            waiting.difference_update(message.tool_uses)
    return events


def plan_usage(before: Usage, new: Usage) -> list[SessionEvent]:
    """The difference as recorded usage, negative where *new* counts less: one event, or more where a counter stands at
    the path of an object (`a` and `a/b`), which one JSON object cannot say. Raises `InvalidStateError` for what no fold
    would count.
    """
    left = new - before
    events: list[SessionEvent] = []
    while left:
        text = _usage_text(left)
        counted = Tally()
        counted.add_text(text, left.cost_picodollars)
        events.append(UsageRecorded(text, cost_picodollars=left.cost_picodollars, unpriced=left.unpriced, prices=SAVED))
        rest = left - counted.usage() - Usage(unpriced=left.unpriced)
        if rest.counters == left.counters and rest:
            raise InvalidStateError(
                "usage", f"it holds what no fold counts, such as a number of more than {MAX_DIGITS:,} digits"
            )
        left = rest
    return events


def _usage_text(usage: Usage) -> bytes:
    counters = Usage(usage.counters).to_dict()
    del counters["total_cost_usd"]
    try:
        return jsontext.encode(counters)
    except ValueError as error:
        raise InvalidStateError("usage", str(error)) from error


def _is_of_integers(usage: Usage) -> bool:
    counts = (usage.cost_picodollars, usage.unpriced, *(count for _, count in usage.counters))
    return all(type(count) is int for count in counts) and all(isinstance(path, str) for path, _ in usage.counters)


def common_prefix(before: tuple[Message, ...], new: tuple[Message, ...]) -> int:
    """How many messages both begin with."""
    for place, (old, given) in enumerate(zip(before, new, strict=False)):
        if not same_message(old, given):
            return place
    return min(len(before), len(new))


def same_message(one: Message, other: Message) -> bool:
    """Whether both have the same bytes or, parsed, the same value: key order and writing of numbers aside, `1`, `1.0`
    and `true` kept apart.
    """
    return one.raw == other.raw or jsontext.canonical(one.raw) == jsontext.canonical(other.raw)


def _changed(before: Part, new: Part) -> Part | UnsetType:
    return UNSET if before == new else new
