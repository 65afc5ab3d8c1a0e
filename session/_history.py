"""A history taken apart for `session.lint`: items and their parts, turns, and the words for what is wrong with them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from session.jsontext import Unreadable

if TYPE_CHECKING:
    from collections.abc import Sequence

Block: TypeAlias = "dict[str, Any]"

Code: TypeAlias = Literal[
    "before_fallback",
    "block_without_type",
    "broken_block",
    "cut_response",
    "duplicate_tool_result",
    "duplicate_tool_use",
    "empty_content",
    "empty_error_result",
    "empty_text",
    "error_result_not_text",
    "first_not_user",
    "invalid_json",
    "misplaced_system_message",
    "misplaced_tool_result",
    "no_messages",
    "not_a_message",
    "orphan_tool_result",
    "prefill",
    "refused_turn",
    "response_fields",
    "thinking_without_signature",
    "tool_input_not_object",
    "trailing_whitespace",
    "unanswered_server_tool",
    "unanswered_tool_use",
    "unreadable_message",
    "wrong_block_for_role",
    "wrong_content",
    "wrong_role",
]

Remedy: TypeAlias = Literal["add", "move", "leave_out", "none"]
"""What `repair` does about a problem."""

SERVER_TOOL_USES: Final = ("server_tool_use", "mcp_tool_use")

NO_WORDS: Final = "The tool failed without saying why."
INVALID_JSON: Final = "it holds NaN, an infinity or half of a surrogate pair, and the API reads no body with one"
_ROLES: Final = ("user", "assistant", "system")
_ID: Final = re.compile(r"[a-zA-Z0-9_-]+")


@dataclass(slots=True, eq=False)
class Part:
    """A content block; *index* is its place in the message as recorded, None where it is not one of its blocks."""

    index: int | None
    value: Block

    @property
    def kind(self) -> str:
        """Its type; "" where it has none."""
        kind = self.value.get("type") if isinstance(self.value, dict) else None
        return kind if isinstance(kind, str) else ""

    @property
    def answers(self) -> str | None:
        """The tool_use that it is the result of."""
        answers = self.value.get("tool_use_id") if self.kind == "tool_result" else None
        return answers if isinstance(answers, str) else None


@dataclass(slots=True, eq=False)
class Item:
    """A message while it is worked on; *index* is its place in the history, None if repair made it."""

    index: int | None
    message: Any
    role: str
    parts: list[Part] = field(default_factory=list)
    fault: tuple[Code, str] | None = None
    changed: bool = False

    @property
    def is_ask(self) -> bool:
        """Whether the user says something in it, tool results aside."""
        return self.role == "user" and any(part.kind != "tool_result" for part in self.parts)

    @property
    def is_directive(self) -> bool:
        """Whether it is a system message without content, which may stand anywhere."""
        return self.role == "system" and not self.parts and bool(self.message.get("output_config"))


@dataclass(slots=True, eq=False)
class Exchange:
    """An assistant's turn and the user's turn after it; either may be missing."""

    asking: list[Item]
    answering: list[Item]


@dataclass(slots=True, eq=False)
class Finding:
    """A problem, with the objects that it is about."""

    code: Code
    item: Item
    part: Part | None
    text: str
    remedy: Remedy = "leave_out"
    replacement: Block | None = None
    exchange: Exchange | None = None


def read(messages: Sequence[Any]) -> list[Item]:
    """The history as items. Never fails: what is no message becomes an item with a fault."""
    return [_item(index, message) for index, message in enumerate(messages)]


def _item(index: int, message: Any) -> Item:  # noqa: ANN401 - anything that stands in a history
    if isinstance(message, Unreadable):
        return Item(index, message, "", fault=("unreadable_message", "no parser takes its bytes"))
    if not isinstance(message, dict):
        return Item(index, message, "", fault=("not_a_message", "it is no JSON object"))
    role = message.get("role")
    if role not in _ROLES:
        return Item(
            index, message, "", fault=("wrong_role", f"the role is {role!r:.40}, not one of {', '.join(_ROLES)}")
        )
    content = message.get("content", [] if message.get("output_config") else None)
    if isinstance(content, str):
        parts = [Part(None, {"type": "text", "text": content})] if content else []
        return Item(index, message, role, parts)
    if isinstance(content, list):
        return Item(index, message, role, [Part(number, block) for number, block in enumerate(content)])
    return Item(index, message, role, fault=("wrong_content", "the content is neither a string nor a list"))


def tool_uses(exchange: Exchange) -> dict[str, Item]:
    """The ids that an assistant's turn asks for, in order, and the message each stands in."""
    return {
        part.value["id"]: item
        for item in exchange.asking
        for part in item.parts
        if part.kind == "tool_use" and is_id(part.value.get("id"))
    }


def is_id(value: object) -> bool:
    """Whether it can name a tool_use."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None
