"""What a session appends before it goes on from where something was left unfinished. Pure.

A response that did not complete stays out by itself (the fold keeps it so). A tool_use without a result gets one that
says so (`session.lint`): of those at the end of the history the fold makes the message of results, those further back
stand in the view of the user's next message (`RequestView`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from session import jsontext
from session.events import MessageAppended, RepairedResult, SessionRepaired
from session.lint import plan
from session.live import _tail

if TYPE_CHECKING:
    from collections.abc import Collection

    from session.events import SessionEvent
    from session.fold import Fold
    from session.lint import Addition

_ASK: Final = {"role": "user", "content": "."}  # stands for everything before


def plan_repairs(fold: Fold, *, answered: Collection[str] = (), whole: bool = False) -> list[SessionEvent]:
    """The events that give each tool_use without a result one.

    *answered*: tool_uses that a message to be appended answers. *whole*: look through the whole history, otherwise at
    the end of it.
    """
    entries = _tail.entries(fold) if whole else _tail.newest(fold)
    messages = [entry.parsed() for entry in entries]
    planned = plan(messages if whole else [_ASK, *messages], in_doubt=_tail.in_doubt(fold))
    known = {*_tail.outcomes(fold), *answered}
    additions = [addition for addition in planned.additions if addition.tool_use_id not in known]
    if not additions:
        return []
    joined = _tail.joined_calls(fold)
    kept_apart = [addition for addition in additions if addition.appended and addition.tool_use_id not in joined]
    results = tuple(_result(addition) for addition in additions if addition not in kept_apart)
    problems = tuple(sorted({problem.code for problem in planned.problems}))
    events: list[SessionEvent] = [SessionRepaired(problems, results)]
    if kept_apart:  # the message of results came as a whole: the rest of its turn follows it
        events.append(MessageAppended.of({"role": "user", "content": [addition.block for addition in kept_apart]}))
    return events


def _result(addition: Addition) -> RepairedResult:
    block: dict[str, Any] = addition.block
    return RepairedResult(addition.tool_use_id, jsontext.encode(block))
