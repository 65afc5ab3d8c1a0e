"""A session that was recorded before, as a line to go on with."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from session import jsontext
from session.errors import SessionNotFoundError
from session.events import HistoryCompacted, PromptChanged, SessionRepaired, ToolRefused, ToolReturned
from session.fold import Fold
from session.recording._lines import Line
from session.recording.digests import chained, message_digest, prompt_digest
from session.state import SessionState

if TYPE_CHECKING:
    from session.events import StoredEvent
    from session.recording._journal import Journal
    from session.state import Prompt


async def resumed(journal: Journal, session_id: str, upto: int | None = None) -> Line | None:
    """The line of an existing session, as it was at version *upto*; None if there is none. Raises
    `SessionDeletedError`.
    """
    fold, line, versions = Fold(SessionState(id=session_id)), Line(session_id), list[int]()
    try:
        async for stored in journal.events(session_id, 0):
            if upto is not None and stored.version > upto:
                continue
            fold.add(stored.event, stored.recorded_at)
            _follow(versions, fold, stored)
            if isinstance(stored.event, PromptChanged):
                line.prompts.append((stored.version, fold.prompt, _digest_of(fold.prompt)))
    except SessionNotFoundError:
        return None
    _fill(line, fold.state(), versions)
    return line


def _follow(versions: list[int], fold: Fold, stored: StoredEvent) -> None:
    """At which version each message was complete, after one more event."""
    growing = fold.growing_results() is not None
    count = len(fold.settled) + growing
    if isinstance(stored.event, HistoryCompacted):
        versions.clear()
    del versions[count:]
    versions += [stored.version] * (count - len(versions))
    if growing and isinstance(stored.event, ToolReturned | ToolRefused | SessionRepaired):
        versions[-1] = stored.version


def _fill(line: Line, state: SessionState, versions: list[int]) -> None:
    line.version = state.version
    for entry, version in zip(state.messages.entries, versions, strict=True):
        chain = chained(line.chain[-1], message_digest(jsontext.parse_or_show(entry.raw)))
        if entry.role == "assistant" and line.first_response is None:
            line.first_response = len(line)
        line.say(None, chain, version, entry.role, entry.tool_uses)
    line.asks = [(turn.message_index - state.compacted, turn.first) for turn in state.turns]
    line.message_ids = {mark.message_id: bisect_right(versions, mark.version) for mark in state.landmarks}
    if state.pending is not None and state.pending.kind == "request":
        line.lost = state.pending.request_id


def _digest_of(prompt: Prompt) -> bytes:
    return prompt_digest(_parsed(prompt.tools), _parsed(prompt.system))


def _parsed(raw: bytes) -> object:
    return jsontext.parse_or_show(raw) if raw else None
