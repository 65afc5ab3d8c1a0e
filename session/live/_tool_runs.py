"""The tools that one message calls: run side by side, recorded as they start and end, shown in the order of the calls.

A tool's outcome is durable as soon as there is one, whatever happens to the others. What a cancellation leaves without
an outcome gets a result that says so at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from session import jsontext
from session._finishing import finished
from session.events import ToolRefused, ToolReturned, ToolStarted
from session.live._keeping import Keeping
from session.live._repairs import plan_repairs
from session.live.received import ToolResult

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from session.events import SessionEvent
    from session.live._context import Context
    from session.response import FinishedBlock
    from session.tools import ToolOutcome


class ToolRuns:
    """Run *calls*, once. Iterate `parts` to its end."""

    def __init__(self, context: Context, calls: Sequence[FinishedBlock]) -> None:
        self._context = context
        self._calls = calls
        self._keeping = Keeping(context.journal)
        self._recording = asyncio.Lock()  # one version after the other

    async def parts(self) -> AsyncGenerator[ToolResult, None]:
        """The results, durable. Raises what `can_use_tool` raises, once the other tools have ended, and
        `AnswerKeptInForkError`.
        """
        runs = [asyncio.ensure_future(self._run(call)) for call in self._calls]
        try:
            for run in runs:
                await asyncio.wait([run])
                if run.exception() is None:
                    yield run.result()
            for run in runs:
                run.result()
        finally:
            await self._given_up(runs)
        self._keeping.check()

    async def _run(self, call: FinishedBlock) -> ToolResult:
        async def starting(asked: bool) -> None:
            await self._record(ToolStarted(call.tool_use_id, call.name, asked))

        outcome = await self._context.toolbox.run(call.tool_use_id, call.name, call.input, starting=starting)
        # Finished even if it is cancelled now: the tool has run, and this is the only account of it.
        await finished(self._record(_event(call.tool_use_id, outcome)))
        return _shown(call.tool_use_id, outcome)

    async def _record(self, event: SessionEvent) -> None:
        async with self._recording:
            await self._keeping.record(event)

    async def _given_up(self, runs: Sequence[asyncio.Future[ToolResult]]) -> None:
        """Stop what still runs, and record that it was stopped."""
        unfinished = [run for run in runs if not run.done()]
        for run in runs:
            if run.done() and not run.cancelled():
                run.exception()  # seen: who left does not want to know
            else:
                run.cancel()
        if unfinished:
            await finished(self._stopped(unfinished))

    async def _stopped(self, runs: Sequence[asyncio.Future[ToolResult]]) -> None:
        await asyncio.gather(*runs, return_exceptions=True)
        if events := plan_repairs(self._keeping.journal.fold):
            with contextlib.suppress(Exception):  # the cancellation is what is raised; resuming repairs it too
                await self._keeping.note(*events)


def _event(tool_use_id: str, outcome: ToolOutcome) -> SessionEvent:
    if outcome.status == "refused":
        return ToolRefused(tool_use_id, outcome.result_block, outcome.reason)
    return ToolReturned(tool_use_id, outcome.result_block, outcome.is_error, outcome.duration_ms)


def _shown(tool_use_id: str, outcome: ToolOutcome) -> ToolResult:
    block = jsontext.parse_or_show(outcome.result_block)
    return ToolResult(tool_use_id, block.get("content", ""), outcome.is_error or outcome.status == "refused")
