"""What there is to find in an event: parts, each with who said it. Pure.

A part is what one message says (text and thinking together), one call of a tool, one result of a tool, or an error of
the API. Images, signatures and encrypted content are no text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec

from session import jsontext
from session.events import (
    BlockReceived,
    HistoryCompacted,
    MessageAppended,
    ResponseInterrupted,
    ResponseReceived,
    SessionRepaired,
    ToolRefused,
    ToolReturned,
)
from session.messages import Message, assistant_message

if TYPE_CHECKING:
    from collections.abc import Iterator

    from session.events import AnyEvent

Role: TypeAlias = Literal["user", "assistant", "system", "tool", "error", "other"]
"""Who said it: `tool` are results of tools, `error` what the API answered instead of a message."""

_NO_TEXT: Final = frozenset(
    {
        "cache_control", "data", "encrypted_content", "encrypted_index", "encrypted_stdout", "id", "media_type",
        "signature", "tool_use_id", "type",
    }
)  # fmt: skip


class Part(msgspec.Struct, frozen=True):
    """Something that can be found. *tool* is the tool called, *call* the id of its call, *answers* the id of the call
    that this is the result of.
    """

    role: Role
    text: str
    tool: str = ""
    call: str = ""
    answers: str = ""
    is_error: bool = False


def parts_of(event: AnyEvent) -> list[Part]:  # noqa: PLR0911 - one per kind of event
    """What there is to find in *event*."""
    match event:
        case MessageAppended():
            return message_parts(event.message)
        case ResponseReceived(content=bytes(content)):
            return message_parts(Message(assistant_message(content), "assistant"))
        case BlockReceived():
            return _parts("assistant", [jsontext.parse_or_show(event.block)])
        case ToolReturned() | ToolRefused():
            return _parts("user", [jsontext.parse_or_show(event.result)], failed=getattr(event, "is_error", True))
        case SessionRepaired():
            return _parts("user", [jsontext.parse_or_show(repaired.result) for repaired in event.results])
        case HistoryCompacted():
            return [part for message in event.summary for part in message_parts(message)]
        case ResponseInterrupted():
            said = "\n".join(_text(jsontext.parse_or_show(raw)) for raw in (event.error, event.partial) if raw)
            return [Part("error", said, is_error=True)] if said else []
    return []


def message_parts(message: Message) -> list[Part]:
    """The parts of a message; of one that cannot be read, its bytes as text."""
    shown = message.parsed()
    content = shown.get("content")
    return _parts(message.role, content if isinstance(content, list) else [content])


def _parts(role: str, blocks: list[Any], *, failed: bool = False) -> list[Part]:
    found: list[Part] = []
    spoken: list[str] = []
    for block in blocks:
        kind = block.get("type") if isinstance(block, dict) else None
        if isinstance(kind, str) and kind.endswith("tool_use"):
            found.append(_call(block))
        elif isinstance(kind, str) and kind.endswith("tool_result"):
            found.append(_result(block, failed=failed))
        elif text := _text(block):
            spoken.append(text)
    if spoken:
        found.insert(0, Part(_role(role), "\n\n".join(spoken)))
    return found


def _call(block: dict[str, Any]) -> Part:
    name = _string(block, "name")
    text = "\n".join([name, *_leaves(block.get("input"), everything=True)])
    return Part("assistant", text, tool=name, call=_string(block, "id"))


def _result(block: dict[str, Any], *, failed: bool) -> Part:
    is_error = failed or block.get("is_error") is True
    return Part("tool", _text(block.get("content")), answers=_string(block, "tool_use_id"), is_error=is_error)


def _role(role: str) -> Role:
    match role:
        case "user" | "assistant" | "system":
            return role
    return "other"


def _string(block: dict[str, Any], key: str) -> str:
    value = block.get(key)
    return value if isinstance(value, str) else ""


def _text(value: object) -> str:
    return "\n".join(_leaves(value, everything=False))


def _leaves(value: object, *, everything: bool) -> Iterator[str]:
    """The strings (with *everything*: and numbers) in a JSON value, in order. Not recursive: it may nest deep."""
    waiting = [value]
    while waiting:
        match waiting.pop():
            case str(text):
                yield text
            case dict(members):
                known = members if everything else {key: members[key] for key in members if _is_text(key, members)}
                waiting.extend(reversed(known.values()))
            case list(items):
                waiting.extend(reversed(items))
            case int() | float() as number if everything and not isinstance(number, bool):
                yield repr(number)


def _is_text(key: str, members: dict[str, Any]) -> bool:
    return key not in _NO_TEXT or (key == "data" and members.get("type") == "text")
