"""The newest part of a fold, looked at without freezing it: `Fold.state` copies the list of messages, a turn needs to
know its end only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from session.state import pending_of, unanswered_tool_uses

if TYPE_CHECKING:
    from session.fold import Fold
    from session.messages import Message
    from session.state import Pending, Prompt, ToolRun

# The fold offers no look at itself but `state()`. Nothing here keeps or changes what it is shown.


def entries(fold: Fold) -> list[Message]:
    """All messages, as `fold.state().messages.entries`: a copy of the list."""
    return [*fold._messages, *_growing(fold)]  # noqa: SLF001


def newest(fold: Fold) -> tuple[Message, ...]:
    """The newest assistant message and what follows it; the newest message, if there is none."""
    settled = fold._messages  # noqa: SLF001
    for place in range(len(settled) - 1, -1, -1):
        if settled[place].role == "assistant":
            return (*settled[place:], *_growing(fold))
    return tuple(settled[-1:])


def message_count(fold: Fold) -> int:
    """How many messages there are."""
    return len(fold._messages) + len(_growing(fold))  # noqa: SLF001


def pending(fold: Fold) -> Pending | None:
    """As `fold.state().pending`."""
    tail = newest(fold)
    ended = outcomes(fold)
    unanswered = tuple(id_ for id_ in unanswered_tool_uses(tail) if id_ not in ended)
    responses = tuple(response.freeze() for response in fold._responses.values())  # noqa: SLF001
    return pending_of(tail[-1:], unanswered, responses)


def prompt(fold: Fold) -> Prompt:
    """As `fold.state().prompt`."""
    return fold._prompt  # noqa: SLF001


def runs(fold: Fold) -> list[ToolRun]:
    """As `fold.state().tools`."""
    return list(fold._tools.values())  # noqa: SLF001


def outcomes(fold: Fold) -> dict[str, bytes]:
    """The results of tools that no settled message holds, by tool_use."""
    return {run.tool_use_id: run.result for run in runs(fold) if run.result is not None}


def joined_calls(fold: Fold) -> tuple[str, ...]:
    """The tool_uses whose results the fold still joins into the message at the end."""
    settled = fold._messages[-1:]  # noqa: SLF001
    return settled[0].tool_uses if settled and settled[0].role == "assistant" else ()


def in_doubt(fold: Fold) -> frozenset[str]:
    """The tool_uses that were started and have no outcome."""
    return frozenset(run.tool_use_id for run in runs(fold) if run.result is None)


def _growing(fold: Fold) -> tuple[Message, ...]:
    growing = fold._growing_results()  # noqa: SLF001
    return (growing,) if growing else ()


def is_running(fold: Fold, request_id: str) -> bool:
    """Whether this request was sent and neither completed nor interrupted."""
    response = fold._responses.get(request_id)  # noqa: SLF001
    return response is not None and not response.cut
