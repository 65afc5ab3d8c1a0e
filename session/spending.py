"""What was used and what it cost: by day, model, tool and session. Pure.

Each use of tokens is one `usage_recorded`; its response comes behind it. Nothing is counted twice: of forks only their
own events are added, and of the whole store each event once.

- Its *day* (UTC) is when its response was said, where that is known (`said_at`), otherwise when it was recorded.
- Its cost is shared equally among the tools that its response called (the odd picodollars go to the first ones), or
  stands under `NO_TOOL`. So the tools add up to the whole, in tokens and in money.
- A response without a known price is *unpriced* and counted as such, never as 0.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec

from session import jsontext
from session.events import (
    BlockReceived,
    MessageAppended,
    RequestSent,
    ResponseInterrupted,
    ResponseReceived,
    ToolRefused,
    ToolReturned,
    ToolStarted,
    UsageRecorded,
)
from session.usage import Tally, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from session.events import AnyEvent

By: TypeAlias = Literal["total", "day", "model", "tool", "session"]

NO_TOOL: Final = "(no tool)"
NO_MODEL: Final = "(unknown)"


class Line(msgspec.Struct, frozen=True):
    """What was used under *key*, in so many *responses*. *calls*, *errors* and *seconds* are those of tools."""

    by: By
    key: str
    responses: int
    usage: Usage
    calls: int = 0
    errors: int = 0
    seconds: float = 0.0


def cache_hit_share(usage: Usage) -> float | None:
    """The share of the input tokens that was read from the cache; None if there was no input."""
    whole = usage.input_tokens + usage.cache_creation_input_tokens + usage.cache_read_input_tokens
    return usage.cache_read_input_tokens / whole if whole > 0 else None


class Spending:
    """Grows by events, in the order of each session. `lines` is what came of it."""

    def __init__(self) -> None:
        self._tallies: defaultdict[tuple[By, str], Tally] = defaultdict(Tally)
        self._responses: Counter[tuple[By, str]] = Counter()
        self._calls: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._milliseconds: Counter[str] = Counter()
        self._open: dict[str, _Open] = {}

    def add(self, session_id: str, event: AnyEvent, recorded_at: int) -> None:
        """*event* was recorded in *session_id*."""
        match event:
            case UsageRecorded():
                names = self._of(session_id).names  # of blocks of the response that is still to come
                self._settle(session_id, (), 0)
                waiting = self._of(session_id)
                waiting.waiting, waiting.names = (event, recorded_at), names
            case ResponseReceived():
                names = _names(event.content) if event.tool_uses else self._of(session_id).names
                self._settle(session_id, names, recorded_at)
            case MessageAppended() if event.message.role == "assistant":
                names = _names_of_message(event.message.raw) if event.message.tool_uses else []
                self._settle(session_id, names, event.said_at or recorded_at)
            case BlockReceived() if event.tool_use_id:
                self._of(session_id).names += _names(b"[" + event.block + b"]")
            case RequestSent() | ResponseInterrupted():
                self._settle(session_id, (), 0)
            case ToolStarted():
                self._of(session_id).running[event.tool_use_id] = event.name
            case ToolReturned():
                self._ended(session_id, event.tool_use_id, failed=event.is_error, milliseconds=event.duration_ms)
            case ToolRefused():
                self._ended(session_id, event.tool_use_id, failed=True)

    def lines(self) -> list[Line]:
        """The sums so far: the total first, then by day, model, tool and session, each by its key."""
        for session_id in list(self._open):
            self._settle(session_id, (), 0)
        keys = {("total", ""), *self._responses, *(("tool", name) for name in self._calls)}
        order = ("total", "day", "model", "tool", "session")
        return [self._line(by, key) for by, key in sorted(keys, key=lambda found: (order.index(found[0]), found[1]))]

    def _line(self, by: By, key: str) -> Line:
        tool = key if by == "tool" else ""
        return Line(
            by=by,
            key=key,
            responses=self._responses[by, key],
            usage=self._tallies[by, key].usage(),
            calls=self._calls[tool] if tool else 0,
            errors=self._errors[tool] if tool else 0,
            seconds=self._milliseconds[tool] / 1_000 if tool else 0.0,
        )

    def _of(self, session_id: str) -> _Open:
        found = self._open.get(session_id)
        if found is None:
            found = self._open[session_id] = _Open()
        return found

    def _settle(self, session_id: str, names: Sequence[str], said_at: int) -> None:
        """The response of the usage that waits is there, and called these tools; or it never came."""
        self._calls.update(names)
        found = self._open.get(session_id)
        if found is None:
            return
        found.names = []
        if found.waiting:
            usage, recorded_at = found.waiting
            self._spend(session_id, usage, said_at or recorded_at, names)
            found.waiting = None
        if not found.running:
            del self._open[session_id]

    def _spend(self, session_id: str, recorded: UsageRecorded, at: int, names: Sequence[str]) -> None:
        usage = _usage(recorded)
        keys: list[tuple[By, str]] = [("total", ""), ("day", _day(at)), ("model", recorded.model or NO_MODEL)]
        for key in (*keys, ("session", session_id)):
            self._tallies[key].add(usage)
            self._responses[key] += 1
        tools = list(dict.fromkeys(names)) or [NO_TOOL]
        for tool, part in zip(tools, shared(usage, len(tools)), strict=True):
            self._tallies["tool", tool].add(part)
            self._responses["tool", tool] += 1

    def _ended(self, session_id: str, tool_use_id: str, *, failed: bool, milliseconds: int = 0) -> None:
        found = self._open.get(session_id)
        name = found.running.pop(tool_use_id, "") if found else ""
        if name:
            self._errors[name] += failed
            self._milliseconds[name] += milliseconds


class _Open(msgspec.Struct):
    """What of a session waits for what comes next."""

    waiting: tuple[UsageRecorded, int] | None = None
    names: list[str] = []
    running: dict[str, str] = {}


def shared(usage: Usage, count: int) -> list[Usage]:
    """*usage* in *count* parts that add up to it, each as large as the others but for what does not divide."""
    parts = []
    for place in range(count):
        counters = ((path, _part(number, count, place)) for path, number in usage.counters)
        parts.append(
            Usage(
                counters=tuple(item for item in counters if item[1]),
                cost_picodollars=_part(usage.cost_picodollars, count, place),
                unpriced=_part(usage.unpriced, count, place),
            )
        )
    return parts


def _part(number: int, count: int, place: int) -> int:
    share, rest = divmod(number, count)
    return share + (place < rest)


def _usage(recorded: UsageRecorded) -> Usage:
    tally = Tally(Usage(unpriced=recorded.unpriced))
    tally.add_text(recorded.usage, recorded.cost_picodollars)
    return tally.usage()


def _names(content: bytes | None) -> list[str]:
    blocks = jsontext.parse_or_show(content or b"[]")
    return list(_tool_names(blocks if isinstance(blocks, list) else []))


def _names_of_message(raw: bytes) -> list[str]:
    message = jsontext.parse_or_show(raw)
    content = message.get("content") if isinstance(message, dict) else None
    return list(_tool_names(content if isinstance(content, list) else []))


def _tool_names(blocks: Iterable[Any]) -> Iterable[str]:
    for block in blocks:
        if isinstance(block, dict) and block.get("type") == "tool_use":
            yield str(block.get("name") or NO_TOOL)


def _day(milliseconds: int) -> str:
    try:
        return dt.datetime.fromtimestamp(milliseconds / 1_000, dt.UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return "(no day)"
