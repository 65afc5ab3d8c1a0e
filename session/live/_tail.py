"""The newest part of a fold, looked at without freezing it: `Fold.state` copies the list of messages, a turn needs to
know its end only. Nothing here keeps or changes what it is shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from session.state import PAUSES, pending_of, unanswered_tool_uses

if TYPE_CHECKING:
    from session.fold import Fold
    from session.messages import Message
    from session.state import Pending


def entries(fold: Fold) -> list[Message]:
    """All messages, as `fold.state().messages.entries`: a copy of the list."""
    return [*fold.settled, *_growing(fold)]


def newest(fold: Fold) -> tuple[Message, ...]:
    """The newest assistant message and what follows it; the newest message, if there is none."""
    settled = fold.settled
    for place in range(len(settled) - 1, -1, -1):
        if settled[place].role == "assistant":
            return (*settled[place:], *_growing(fold))
    return tuple(settled[-1:])


def pending(fold: Fold) -> Pending | None:
    """As `fold.state().pending`."""
    tail = newest(fold)
    ended = outcomes(fold)
    unanswered = tuple(id_ for id_ in unanswered_tool_uses(tail) if id_ not in ended)
    return pending_of(tail[-1:], unanswered, fold.responses())


def is_paused(fold: Fold) -> bool:
    """Whether the newest assistant message is one after which the same request goes on."""
    return any(message.stop_reason in PAUSES for message in newest(fold) if message.role == "assistant")


def outcomes(fold: Fold) -> dict[str, bytes]:
    """The results of tools that no settled message holds, by tool_use."""
    return {run.tool_use_id: run.result for run in fold.tool_runs() if run.result is not None}


def in_doubt(fold: Fold) -> frozenset[str]:
    """The tool_uses that were started and have no outcome."""
    return frozenset(run.tool_use_id for run in fold.tool_runs() if run.result is None)


def joined_calls(fold: Fold) -> tuple[str, ...]:
    """The tool_uses whose results the fold still joins into the message at the end."""
    settled = fold.settled[-1:]
    return settled[0].tool_uses if settled and settled[0].role == "assistant" else ()


def _growing(fold: Fold) -> tuple[Message, ...]:
    growing = fold.growing_results()
    return (growing,) if growing else ()
