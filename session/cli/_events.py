"""Each event in a few words. What comes out is not yet made visible."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, assert_never

from msgspec import UNSET

from session import jsontext
from session.cli._content import preview
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
from session.messages import assistant_message
from session.usage import PICODOLLARS_PER_DOLLAR

if TYPE_CHECKING:
    from session.events import AnyEvent

_MOST_BYTES: Final = 4_096  # of a content that is parsed to show its beginning


def outline(event: AnyEvent) -> str:  # noqa: C901, PLR0911, PLR0912 - one case per event
    """What happened, in a line or less."""
    match event:
        case MessageAppended():
            return f"{event.message.role}: {_message(event.message.raw)}"
        case RequestSent():
            return f"{event.messages} messages, attempt {event.attempt}{', streamed' if event.stream else ''}"
        case BlockReceived():
            return f"block {event.index}: {_message(assistant_message(b'[' + event.block + b']'))}"
        case ResponseReceived():
            return _response(event)
        case ResponseInterrupted():
            return f"{event.reason}{f', status {event.status}' if event.status else ''}"
        case ToolStarted():
            return f"{event.name} {event.tool_use_id}{', asked' if event.asked else ''}"
        case ToolReturned():
            failed = "error" if event.is_error else "ok"
            return f"{event.tool_use_id}: {failed}, {event.duration_ms} ms, {len(event.result)} bytes"
        case ToolRefused():
            return f"{event.tool_use_id}: {event.reason}"
        case UsageRecorded():
            return f"{event.model} {_usage(event.usage)} {_cost(event.cost_picodollars)}"
        case MetadataUpdated():
            removed = "" if event.removed == b"[]" else f" without {_raw(event.removed)}"
            return _raw(event.values) + removed
        case PromptChanged():
            return ", ".join(_prompt(event))
        case HistoryRewound():
            return f"to {event.messages} messages {event.reason}"
        case HistoryCompacted():
            return f"{event.messages} messages become {len(event.summary)} {event.reason}"
        case SessionRepaired():
            return f"{len(event.results)} results added: {', '.join(event.problems)}"
        case SessionCreated():
            return " ".join(filter(None, (event.origin, event.parent_id, event.cause)))
        case SessionForked():
            return f"{event.parent_id}@{event.at} {event.reason}"
        case SessionClosed():
            return event.reason
        case SourceRecorded():
            return f"{event.importer}: {event.size} bytes of {event.file} from {event.offset}"
        case UnknownEvent():
            return f"{len(event.data)} bytes of a type this version does not know"
        case _:
            assert_never(event)


def _message(raw: bytes) -> str:
    if len(raw) > _MOST_BYTES:
        return _raw(raw)
    parsed = jsontext.parse_or_show(raw)
    return preview(parsed) if isinstance(parsed, dict) else _raw(raw)


def _response(event: ResponseReceived) -> str:
    content = f"{event.blocks} blocks" if event.content is None else _message(assistant_message(event.content))
    return f"{event.stop_reason or 'incomplete'}: {content}"


def _prompt(event: PromptChanged) -> list[str]:
    changed = [f"model {event.model}"] if event.model is not UNSET else []
    for name in ("system", "tools", "parameters"):
        value = getattr(event, name)
        if value is not UNSET:
            changed.append(f"{name} ({len(value)} bytes)")
    return changed


def _usage(raw: bytes) -> str:
    usage = jsontext.parse_or_show(raw)
    if not isinstance(usage, dict):
        return _raw(raw)
    return " ".join(f"{name}={usage[name]}" for name in _SHOWN_COUNTERS if type(usage.get(name)) is int)


def _cost(picodollars: int | None) -> str:
    return "unpriced" if picodollars is None else f"${picodollars / PICODOLLARS_PER_DOLLAR:.6f}"


def _raw(raw: bytes) -> str:
    return raw[:_MOST_BYTES].decode("utf-8", "backslashreplace")


_SHOWN_COUNTERS: Final = (
    "input_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "output_tokens",
)
