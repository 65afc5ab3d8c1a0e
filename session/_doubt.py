"""Which tools may have run. Pure.

A live session records each start before its tool runs, so a tool_use without a start was not run. Where nobody records
starts (a storage that keeps no events, an import, a recorder, which does not see them), that says nothing: each
tool_use without a result is in doubt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from session.events import SessionCreated
from session.state import ToolRun

if TYPE_CHECKING:
    from session.events import AnyEvent
    from session.state import SessionState

LIVE: Final = "live"
"""The origin of a session that began as a live one."""


def records_starts(first: AnyEvent | None) -> bool:
    """Whether a session whose lineage begins with the event *first* knows of each tool that was started."""
    return isinstance(first, SessionCreated) and first.origin == LIVE


def doubting(state: SessionState) -> SessionState:
    """*state* with each tool_use that has neither a start nor a result in doubt; the same object, if there is none."""
    known = {run.tool_use_id for run in state.tools}
    for entry in state.messages.entries:
        known.update(entry.tool_results)
    calls = (call for entry in state.messages.entries for call in entry.tool_uses)
    doubtful = tuple(ToolRun(call) for call in dict.fromkeys(calls) if call not in known)
    return state.replace(tools=(*state.tools, *doubtful)) if doubtful else state
