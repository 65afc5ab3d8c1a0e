"""What a caller decides about a session for as long as it is open. Nothing of it is recorded."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from session.events import NO_META, Meta

if TYPE_CHECKING:
    from session.tools import CanUseTool


class Settings(msgspec.Struct, frozen=True):
    """See `Options` of `session.live`."""

    client: Any = None  # an AsyncAnthropic; None: one is made when it is needed first
    max_turns: int | None = None
    can_use_tool: Any = None  # a CanUseTool
    tool_timeout_seconds: float | None = None
    take_over: bool = False
    meta: Meta = NO_META

    def __post_init__(self) -> None:
        if self.max_turns is not None and self.max_turns < 1:
            raise ValueError(f"max_turns is at least 1, not {self.max_turns}")
        if self.tool_timeout_seconds is not None and not self.tool_timeout_seconds > 0:  # so of NaN, too
            raise ValueError(f"tool_timeout_seconds is more than 0, not {self.tool_timeout_seconds}")


def one_at_a_time(can_use_tool: CanUseTool | None) -> CanUseTool | None:
    """*can_use_tool*, never asked while it is being asked: whoever answers sees one question after the other."""
    if can_use_tool is None:
        return None
    turn = asyncio.Lock()

    async def ask(name: str, tool_input: dict[str, Any]) -> bool | str:
        async with turn:
            return await can_use_tool(name, tool_input)

    return ask
