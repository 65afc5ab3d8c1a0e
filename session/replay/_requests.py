"""Requests side by side: the first difference of two, and what kind of change it is. Pure.

Parts are compared in the order model, system, tools, messages, parameters. What the API does not tell apart is no
difference: `cache_control`, a text for the one text block it is, null members, how a request is streamed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from session import jsontext
from session.compare import ABSENT, first_difference
from session.recording.digests import chain, message_digest, parameters_digest, prompt_digest, request_digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from session.replay.errors import Cause
    from session.state import SessionState

_APART: Final = frozenset({"model", "tools", "system", "messages"})
_LEFT_OUT: Final = frozenset({"cache_control", "stream", "thread"})


class LogicalRequest(msgspec.Struct, frozen=True):
    """What a call asks, parsed, with all messages it stands for."""

    model: str = ""
    system: Any = None
    tools: Any = None
    parameters: dict[str, Any] = {}
    messages: list[Any] = []

    def digest(self) -> bytes:
        """What a recorder computes for it."""
        prompt, messages = prompt_digest(self.tools, self.system), chain(self.messages)
        return request_digest(parameters_digest(self.model, self.parameters), prompt, messages[-1])

    @classmethod
    def recorded(cls, state: SessionState, count: int) -> LogicalRequest:
        """The one that sent the first *count* messages of a session at *state*."""
        prompt = state.prompt
        parameters = jsontext.parse_or_show(prompt.parameters) if prompt.parameters else {}
        system, tools = (jsontext.parse_or_show(raw) if raw else None for raw in (prompt.system, prompt.tools))
        return cls(prompt.model, system, tools, parameters, list(state.messages[:count]))

    @classmethod
    def of_body(cls, body: Mapping[str, Any]) -> LogicalRequest:
        """That of the *body* of a Messages API request."""
        parameters = {name: value for name, value in body.items() if name not in _APART}
        messages = body.get("messages")
        model = body.get("model")
        return cls(
            model if isinstance(model, str) else "",
            body.get("system"),
            body.get("tools"),
            parameters,
            messages if isinstance(messages, list) else [],
        )

    def behind(self, state: SessionState) -> LogicalRequest:
        """All that it stands for, if it goes on with a message thread, which is the session at *state*: a thread keeps
        the tools and the system that it began with.
        """
        before = LogicalRequest.recorded(state, len(state.messages))
        messages = [*before.messages, *self.messages]
        return LogicalRequest(self.model, before.system, before.tools, self.parameters, messages)


class Difference(msgspec.Struct, frozen=True):
    """A difference between what was recorded and what is asked. *before* and *after* are JSON, "" where nothing is."""

    cause: Cause
    pointer: str = ""
    before: str = ""
    after: str = ""
    notes: tuple[str, ...] = ()


def explain(before: LogicalRequest, after: LogicalRequest) -> Difference | None:
    """The first difference; None: they ask the same."""
    if before.model != after.model:
        return _within("model", "/model", before.model, after.model)
    for name, one, other in (("system", before.system, after.system), ("tools", before.tools, after.tools)):
        if found := _part(name, one or None, other or None):
            return found
    return _messages(before.messages, after.messages) or _parameters(before.parameters, after.parameters)


def common_messages(a: Iterable[bytes], b: Iterable[bytes]) -> int:
    """How many of them, given their digests, are in both."""
    return len(set(a) & set(b))


def digests_of(request: LogicalRequest) -> list[bytes]:
    """Those of its messages."""
    return [message_digest(message) for message in request.messages]


def _part(name: Any, one: Any, other: Any) -> Difference | None:  # noqa: ANN401 - a cause, and JSON values
    one, other = _alike(one, other)
    return None if first_difference(one, other) is None else _within(name, f"/{name}", one, other)


def _parameters(before: Mapping[str, Any], after: Mapping[str, Any]) -> Difference | None:
    one, other = ({key: part for key, part in each.items() if key not in _LEFT_OUT} for each in (before, after))
    return None if first_difference(one, other) is None else _within("parameter", "", one, other)


def _messages(before: list[Any], after: list[Any]) -> Difference | None:
    ours, theirs = ([message_digest(message) for message in each] for each in (before, after))
    if ours == theirs:
        return None
    start = _common(ours, theirs)
    end = _common(ours[start:][::-1], theirs[start:][::-1])
    pointer = f"/messages/{start}"
    if start + end == len(theirs):
        return Difference("message missing", pointer, before=_text(before[start]))
    if start + end == len(ours):
        return Difference("message added", pointer, after=_text(after[start]))
    return _message(pointer, before[start], after[start])


def _common(a: list[bytes], b: list[bytes]) -> int:
    pairs = zip(a, b, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(a), len(b)))


def _message(pointer: str, before: Any, after: Any) -> Difference:  # noqa: ANN401 - JSON values
    ours, theirs = _results(before), _results(after)
    if len(ours) > 1 and ours != theirs and sorted(ours) == sorted(theirs):
        return Difference("order", f"{pointer}/content", _text(ours), _text(theirs))
    one, other = _alike(before, after)
    found = _within("message edited", pointer, one, other)
    in_result = [f"{pointer}/content/{place}/" for place, block in enumerate(_content(one)) if _is_result(block)]
    if ours and ours == theirs and found.pointer.startswith(tuple(in_result)):
        note = (
            "the tool ran again and said something else, or a text was served where it returns a value: "
            "`replay.tool(...)` serves what it said when this was recorded, `decode=` makes a value of that"
        )
        return msgspec.structs.replace(found, cause="tool result changed", notes=(note,))
    return found


def _within(cause: Any, pointer: str, one: object, other: object) -> Difference:  # noqa: ANN401 - a cause
    found = first_difference(one, other)
    if found is None:
        return Difference(cause, pointer, notes=("equal values, written in another way",))
    place, a, b = found
    return Difference(cause, pointer + place, _text(a), _text(b))


def _content(message: Any) -> list[Any]:  # noqa: ANN401 - any JSON value
    content = message.get("content") if isinstance(message, dict) else None
    return content if isinstance(content, list) else []


def _is_result(block: object) -> bool:
    return isinstance(block, dict) and block.get("type") == "tool_result"


def _results(message: Any) -> list[str]:  # noqa: ANN401 - any JSON value
    return [str(block.get("tool_use_id")) for block in _content(message) if _is_result(block)]


def _alike(one: Any, other: Any) -> tuple[Any, Any]:  # noqa: ANN401 - JSON values
    """Both without what makes no difference. A text stays one unless the other is written as blocks."""
    one, other = _plain(one), _plain(other)
    if isinstance(one, dict) and isinstance(other, dict) and "content" in one and "content" in other:
        a, b = _same_form(one["content"], other["content"])
        return {**one, "content": a}, {**other, "content": b}
    return _same_form(one, other)


def _same_form(one: Any, other: Any) -> tuple[Any, Any]:  # noqa: ANN401 - JSON values
    if isinstance(one, str) and isinstance(other, list):
        return [{"type": "text", "text": one}] if one else [], other
    if isinstance(other, str) and isinstance(one, list):
        return one, [{"type": "text", "text": other}] if other else []
    return one, other


def _plain(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        kept = {key: part for key, part in value.items() if key != "cache_control" and part is not None}
        return {key: _plain(part) if key in {"content", "source"} else part for key, part in kept.items()}
    return value


def _text(value: object) -> str:
    if value is ABSENT:
        return ""
    try:
        return jsontext.encode(value).decode("utf-8", "backslashreplace")
    except (TypeError, ValueError):
        return repr(value)
