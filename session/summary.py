"""A session in a line of a list, and the snapshot that makes listing cheap.

A snapshot holds counters, versions and what little of the newest messages decides about the status: ids and roles,
never bytes of a message. Folding the events after it gives the summary that a fold of all events gives, or says that it
cannot (`summary_of` is None: a rewind reached behind it). It is a cache: unreadable or of another `FOLD_REVISION`, it
is thrown away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from session import jsontext, metadata
from session.errors import UnreadableJsonError
from session.fold import Fold
from session.messages import Message, Messages
from session.state import Pending, Prompt, SessionState, Status, ToolRun, Turn, UnfinishedResponse, status_of
from session.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable

SNAPSHOT_NAME: Final = "summary"

_SHOWN_METADATA: Final = ("title", "tags")
_KEPT_TURNS: Final = 2  # so that the newest ask can be rewound


class Summary(msgspec.Struct, frozen=True):
    """What a list of sessions shows of one. Times are Unix milliseconds; `messages` and `turns` are numbers of them."""

    id: str
    title: str
    tags: tuple[str, ...]
    model: str
    status: Status
    pending: Pending | None
    messages: int
    turns: int
    usage: Usage
    own_usage: Usage
    created_at: int
    updated_at: int
    version: int
    parent_id: str | None
    forked_at: int
    stop_reason: str | None
    tools_in_doubt: int
    refused_turns: int
    unknown_events: int


def summarize(state: SessionState, *, hidden_messages: int = 0) -> Summary:
    """The summary of *state*, *hidden_messages* of whose messages are not held."""
    pending = state.pending
    return Summary(
        id=state.id,
        title=_title(state),
        tags=_tags(state),
        model=state.prompt.model,
        status=status_of(pending, state.tools, closed=state.closed),
        pending=pending,
        messages=hidden_messages + len(state.messages),
        turns=state.turns[-1].number if state.turns else 0,
        usage=state.usage,
        own_usage=state.own_usage,
        created_at=state.created_at,
        updated_at=state.updated_at,
        version=state.version,
        parent_id=state.parent_id,
        forked_at=state.forked_at,
        stop_reason=state.stop_reason,
        tools_in_doubt=len(state.in_doubt),
        refused_turns=state.refused_turns,
        unknown_events=state.unknown_events,
    )


def summary_of(fold: Fold) -> Summary | None:
    """The summary where *fold* stands; None if it began from a snapshot and events reached behind that."""
    return summarize(fold.state(), hidden_messages=fold.hidden_messages) if fold.complete else None


def to_snapshot(fold: Fold) -> bytes | None:
    """What to keep of *fold* so that `from_snapshot` can go on from here; None where `summary_of` is None."""
    if not fold.complete:
        return None
    state = fold.state()
    newest = _newest(state.messages.entries)
    return msgspec.msgpack.encode(
        _Snapshot(
            id=state.id,
            version=state.version,
            hidden_messages=fold.hidden_messages + len(state.messages) - len(newest),
            messages=tuple(msgspec.structs.replace(message, raw=b"") for message in newest),
            usage=_usage_text(state.usage),
            inherited_usage=_usage_text(state.inherited_usage),
            metadata={key: jsontext.encode(state.metadata[key]) for key in _SHOWN_METADATA if key in state.metadata},
            model=state.prompt.model,
            created_at=state.created_at,
            updated_at=state.updated_at,
            parent_id=state.parent_id,
            forked_at=state.forked_at,
            responses=tuple(map(_without_bytes, state.responses)),
            tools=tuple(_without_result(run) for run in state.tools),
            results_open=state.results_open,
            stop_reason=state.stop_reason,
            turns=state.turns[-_KEPT_TURNS:],
            compacted=state.compacted,
            refused_turns=state.refused_turns,
            closed=state.closed,
            unknown_events=state.unknown_events,
        )
    )


def from_snapshot(data: bytes) -> Fold | None:
    """A fold that goes on where `to_snapshot` was asked: it knows the summary, not the messages. None if *data* is no
    snapshot.
    """
    try:
        kept = _decode(data)
        state = SessionState(
            id=kept.id,
            messages=Messages(kept.messages),
            usage=_usage(kept.usage),
            metadata={key: metadata.value_of(text) for key, text in kept.metadata.items()},
            created_at=kept.created_at,
            updated_at=kept.updated_at,
            parent_id=kept.parent_id,
            version=kept.version,
            forked_at=kept.forked_at,
            inherited_usage=_usage(kept.inherited_usage),
            prompt=Prompt(model=kept.model),
            responses=kept.responses,
            tools=kept.tools,
            results_open=kept.results_open,
            stop_reason=kept.stop_reason,
            turns=kept.turns,
            compacted=kept.compacted,
            refused_turns=kept.refused_turns,
            closed=kept.closed,
            unknown_events=kept.unknown_events,
        )
    except (ValueError, TypeError, msgspec.MsgspecError, UnreadableJsonError):
        return None
    return Fold(state, hidden_messages=kept.hidden_messages)


class _Snapshot(msgspec.Struct, frozen=True, omit_defaults=True):
    id: str
    version: int
    hidden_messages: int
    messages: tuple[Message, ...]
    usage: bytes
    inherited_usage: bytes
    metadata: dict[str, bytes] = {}
    model: str = ""
    created_at: int = 0
    updated_at: int = 0
    parent_id: str | None = None
    forked_at: int = 0
    responses: tuple[UnfinishedResponse, ...] = ()
    tools: tuple[ToolRun, ...] = ()
    results_open: bool = False
    stop_reason: str | None = None
    turns: tuple[Turn, ...] = ()
    compacted: int = 0
    refused_turns: int = 0
    closed: bool = False
    unknown_events: int = 0


_decode: Final = msgspec.msgpack.Decoder(_Snapshot).decode


def _newest(entries: tuple[Message, ...]) -> tuple[Message, ...]:
    """The newest assistant message and what follows it: all that decides what is pending."""
    for place in range(len(entries) - 1, -1, -1):
        if entries[place].role == "assistant":
            return entries[place:]
    return entries[-1:]


def _without_bytes(response: UnfinishedResponse) -> UnfinishedResponse:
    blocks = tuple(msgspec.structs.replace(block, block=b"") for block in response.blocks)
    return msgspec.structs.replace(response, blocks=blocks)


def _without_result(run: ToolRun) -> ToolRun:
    return run if run.result is None else msgspec.structs.replace(run, result=b"")


def _usage_text(usage: Usage) -> bytes:
    """As JSON: its integers may have more than the 64 bits of msgpack's."""
    return jsontext.encode([usage.counters, usage.cost_picodollars, usage.unpriced])


def _usage(text: bytes) -> Usage:
    counters, cost_picodollars, unpriced = jsontext.parse(text)
    return Usage(tuple((path, count) for path, count in counters), cost_picodollars, unpriced)


def _title(state: SessionState) -> str:
    title = state.metadata.get("title")
    return title if isinstance(title, str) else ""


def _tags(state: SessionState) -> tuple[str, ...]:
    tags: object = state.metadata.get("tags")
    return _texts(tags) if isinstance(tags, list) else ()


def _texts(values: Iterable[object]) -> tuple[str, ...]:
    return tuple(value for value in values if isinstance(value, str))
