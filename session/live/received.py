"""What `Session.receive` yields. Tell them apart by `type`, or by `isinstance`."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, TypeAlias

import msgspec

from session.usage import Usage  # noqa: TC001 - a field of a struct


class Text(msgspec.Struct, frozen=True):
    """A piece of text as it arrives. It promises nothing: the response may yet be cut."""

    type: ClassVar[Literal["text"]] = "text"
    text: str


class Thinking(msgspec.Struct, frozen=True):
    """A piece of thinking as it arrives. It promises nothing."""

    type: ClassVar[Literal["thinking"]] = "thinking"
    thinking: str


class ToolUse(msgspec.Struct, frozen=True):
    """The model calls a tool; the message that says so is complete and durable."""

    type: ClassVar[Literal["tool_use"]] = "tool_use"
    id: str
    name: str
    input: Any  # what the model gave: an object, if it keeps to the rules


class ToolResult(msgspec.Struct, frozen=True):
    """A tool has ended, or was refused; durable. *content* as it will be sent: a text, or a list of blocks."""

    type: ClassVar[Literal["tool_result"]] = "tool_result"
    tool_use_id: str
    content: Any
    is_error: bool = False


class MessageReceived(msgspec.Struct, frozen=True):
    """The model's message, complete and durable, as it will be sent back."""

    type: ClassVar[Literal["message"]] = "message"
    message: dict[str, Any]


class Stop(msgspec.Struct, frozen=True):
    """The turn ended; the last object of every `receive` that raises nothing.

    *stop_reason* is the API's, or "max_turns". *usage* is that of all responses since `receive` began, *version* the
    session's now.
    """

    type: ClassVar[Literal["stop"]] = "stop"
    stop_reason: str
    usage: Usage
    version: int


class Retried(msgspec.Struct, frozen=True):
    """An attempt failed, is recorded, and is made again. *status* is 0 where there was no response."""

    type: ClassVar[Literal["error"]] = "error"
    status: int
    message: str
    attempt: int


Received: TypeAlias = Text | Thinking | ToolUse | ToolResult | MessageReceived | Stop | Retried
"""Everything that `receive` yields."""
