"""How a session comes to another prompt: by events, and only if the thinking in its history survives it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from session.errors import NoModelError, ThinkingBoundError
from session.events import HistoryCompacted
from session.request import changed_prefix, changes, check_sendable, first_thinking, prompt_of, revised, strip_thinking

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from session.events import SessionEvent
    from session.messages import Message
    from session.request import Given
    from session.state import Prompt

DEFAULT_MAX_TOKENS: Final = 8192
"""What every current model takes."""


class GivenPrompt(msgspec.Struct, frozen=True):
    """What a caller gives of a prompt; None (for *tools*: UNSET) is what the session has already. *tools* are the
    exact definitions; a parameter of None is taken away.
    """

    model: str | None = None
    system: Given = None
    tools: bytes | UnsetType = UNSET
    parameters: Mapping[str, Any] = {}

    def on(self, session_id: str, old: Prompt) -> Prompt:
        """The prompt from now on: parts of equal value keep the bytes they have in *old*. Raises `NoModelError`, and
        `InvalidPromptError` for what no request can carry.
        """
        if not (self.model or old.model):
            raise NoModelError(session_id)
        prompt = self._on(old)
        check_sendable(prompt)
        return prompt

    def _on(self, old: Prompt) -> Prompt:
        if not old.model:
            parameters = {"max_tokens": DEFAULT_MAX_TOKENS, **self.parameters}
            tools = None if self.tools is UNSET else self.tools
            return prompt_of(model=self.model or "", system=self.system, tools=tools, **parameters)
        system = UNSET if self.system is None else self.system
        return revised(old, model=self.model, system=system, tools=self.tools, **self.parameters)


def plan_prompt_change(
    session_id: str, old: Prompt, new: Prompt, entries: Sequence[Message], *, strip: bool
) -> list[SessionEvent]:
    """The events after which a session with the messages *entries* has the prompt *new*.

    Raises `ThinkingBoundError` if that would invalidate thinking among them, unless *strip*: then the history stands
    without its thinking from now on. Where *old* is not known (its storage keeps none) nothing is refused.
    """
    changed = changes(old, new)
    if changed is None:
        return []
    raws = [entry.raw for entry in entries]
    bound = changed_prefix(old, new, raws) if old.model else ()
    if not bound:
        return [changed]
    if not strip:
        raise ThinkingBoundError(session_id, bound)
    return [_stripped(entries), changed]


def without_thinking(entries: Sequence[Message]) -> list[Message]:
    """*entries* without their thinking. What holds none keeps its bytes."""
    stripped = ((entry, strip_thinking([entry.raw])) for entry in entries)
    return [msgspec.structs.replace(entry, raw=raw[0]) for entry, raw in stripped if raw]


def _stripped(entries: Sequence[Message]) -> HistoryCompacted:
    """The history without its thinking in place of that with it."""
    end = 1 + max(index for index, entry in enumerate(entries) if first_thinking([entry.raw]) is not None)
    return HistoryCompacted(end, tuple(without_thinking(entries[:end])), reason="strip_thinking")
