"""One `receive`: answers and tools in turns, until the model has said what it has to say.

going on   take over, repairs    (what was left unanswered before)
asking     `Answer`              message durable
running    `ToolRuns`            each result durable; then asking again
paused     asking again, unchanged
stopped    anything else, or `max_turns` answers
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from session._finishing import finished
from session.errors import NothingToAnswerError, RequestOpenError
from session.events import ResponseInterrupted
from session.live import _tail
from session.live._answer import Answer
from session.live._repairs import plan_repairs
from session.live._tool_runs import ToolRuns
from session.live.received import Stop
from session.state import PAUSES
from session.usage import Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection

    from session.events import SessionEvent
    from session.live._context import Context
    from session.live.received import Received

MAX_TURNS: Final = "max_turns"
_CALLS: Final = "tool_use"


async def turn(context: Context) -> AsyncGenerator[Received, None]:
    """What is received until the turn ends. Raises `NothingToAnswerError`, `RequestOpenError`, and what `Answer` and
    `ToolRuns` raise.
    """
    if _tail.pending(context.journal.fold) is None:
        raise NothingToAnswerError(context.journal.session_id)
    if events := await plan_going_on(context):
        await context.journal.record(*events)
    usage, answers = Usage(), 0
    while answers != context.settings.max_turns:
        answer = Answer(context)
        async with contextlib.aclosing(answer.parts()) as parts:
            async for part in parts:
                yield part
        usage, answers = usage + answer.usage, answers + 1
        calls = [block for block in answer.blocks if block.tool_use_id]
        if calls and (answer.stop_reason == _CALLS or answer.stop_reason in PAUSES):
            async with contextlib.aclosing(ToolRuns(context, calls).parts()) as results:
                async for result in results:
                    yield result
        elif answer.stop_reason not in PAUSES:
            yield Stop(answer.stop_reason, usage, context.journal.fold.version)
            return
    yield Stop(MAX_TURNS, usage, context.journal.fold.version)


async def plan_going_on(context: Context, *, answered: Collection[str] = ()) -> list[SessionEvent]:
    """What to record before the session goes on: an open request given up, results for the tool_uses without one.

    *answered*: tool_uses that the message to be appended answers. Raises `RequestOpenError`.
    """
    fold = context.journal.fold
    pending = _tail.pending(fold)
    events: list[SessionEvent] = []
    if pending and pending.kind == "request":
        if pending.request_id not in context.own_requests and not context.settings.take_over:
            raise RequestOpenError(context.journal.session_id, pending.request_id)
        events.append(ResponseInterrupted(pending.request_id, "lost"))
    if context.unchecked:
        await finished(_look_through(context))
        if context.view.is_repaired:
            return [*events, *plan_repairs(fold, answered=answered, whole=True)]
    elif (pending and pending.kind == "tool_use") or _tail.in_doubt(fold):
        events += plan_repairs(fold, answered=answered)
    return events


async def _look_through(context: Context) -> None:
    """Once for a history that was loaded: that is long work, so it is done beside the loop."""
    fold = context.journal.fold
    await asyncio.to_thread(context.view.update, _tail.entries(fold), _tail.outcomes(fold), _tail.in_doubt(fold))
    context.unchecked = False
