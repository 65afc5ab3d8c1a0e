"""The content of messages in words, for people. What comes out is not yet made visible."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from session import jsontext

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def described(message: Mapping[str, Any]) -> list[str]:
    """The parts of a message: a text for each block."""
    content = message.get("content")
    if isinstance(content, list):
        return [text for block in content for text in _block(block)]
    return [content if isinstance(content, str) else _json(content)]


def preview(message: Mapping[str, Any]) -> str:
    """The message in one text."""
    return " ".join(described(message))


def _block(block: Any) -> Iterator[str]:  # noqa: ANN401 - any JSON value
    kind = block.get("type") if isinstance(block, dict) else None
    match kind:
        case "text":
            yield _text(block.get("text"))
        case "thinking":
            yield f"[thinking] {_text(block.get('thinking'))}"
        case "tool_use" | "server_tool_use":
            yield f"[{kind} {_text(block.get('name'))}] {_json(block.get('input'))}"
        case "tool_result":
            yield from _tool_result(block)
        case "unreadable":
            yield f"[unreadable] {_text(block.get('raw'))}"
        case _:
            yield f"[{_text(kind)}] {_json(block)}" if kind else _json(block)


def _tool_result(block: Mapping[str, Any]) -> Iterator[str]:
    mark = "tool_result error" if block.get("is_error") is True else "tool_result"
    content = block.get("content", "")
    if not isinstance(content, list):
        yield f"[{mark}] {_text(content)}"
        return
    for number, part in enumerate(content):
        text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else _json(part)
        yield f"[{mark}] {_text(text)}" if number == 0 else _text(text)


def _text(value: object) -> str:
    return value if isinstance(value, str) else _json(value)


def _json(value: object) -> str:
    return jsontext.encode(value).decode("utf-8", "surrogateescape")
