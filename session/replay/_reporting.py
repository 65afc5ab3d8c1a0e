"""Where a program parted from its recording: the attempt that should have come, compared with what did.

Nothing here decides what is served; that is `session.replay._script`, by equal digests only. To say something useful,
the recorded request with the most messages in common is taken for the one that was meant.
"""

from __future__ import annotations

import sys
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import msgspec

from session import jsontext
from session.replay._requests import Difference, LogicalRequest, common_messages, digests_of, explain
from session.replay.errors import Divergence

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from session.recording._asked import Asked
    from session.replay._lanes import Exchange, Lane
    from session.replay._script import Missed, Script
    from session.state import SessionState

    StateAt = Callable[[str, int], SessionState]

_COMPARED: Final = 64  # lanes that a request without a recorded twin is compared with
_NOT_THE_PROGRAM: Final = frozenset({"anthropic", "anyio", "httpx2", "pydantic", "session"}) | sys.stdlib_module_names
_LOOP: Final = frozenset({"asyncio.base_events", "asyncio.events", "asyncio.runners", "uvloop"})
_HEADERS: Final = ("anthropic-version", "anthropic-beta")


class Nearest(msgspec.Struct, frozen=True):
    """The recorded attempt that a request was most likely meant to be: the *next* one of its lane, None if that is at
    its end. *common* messages are in both.
    """

    session_id: str
    next: Exchange | None
    common: int


def nearest(script: Script, asked: LogicalRequest, state_at: StateAt) -> Nearest:
    """Of the lanes of *script*: the one with the most messages in common, those that are not at their end first."""
    wanted = digests_of(asked)
    found = []
    for name, lane in islice(script.lanes.items(), _COMPARED):
        following = script.next_of(name)
        if following is None:
            messages = list(state_at(name, lane.head).messages)
        else:
            messages = recorded(following, state_at).messages
        common = common_messages(wanted, digests_of(LogicalRequest(messages=messages)))
        found.append(Nearest(name, following, common))
    return max(found, key=lambda each: (each.common, each.next is not None, _is_fresh(each)))


def recorded(exchange: Exchange, state_at: StateAt) -> LogicalRequest:
    """What was asked."""
    return LogicalRequest.recorded(state_at(exchange.session_id, exchange.version), exchange.request.messages)


def of_request(script: Script, asked: Asked, logical: LogicalRequest, missed: Missed, state_at: StateAt) -> Divergence:
    """A request for which there was nothing to serve."""
    if missed.kind == "skipped" and missed.next is not None:
        was = f"the call that came instead is {missed.same.place if missed.same else ''}, which was recorded after it"
        return _at(script, missed.next, Difference("missing call", notes=(was,)))
    if missed.kind == "again" and missed.same is not None:
        lane = script.lanes[missed.same.session_id]
        note = f"it equals {missed.same.place}, which was made already"
        return _extra(script, lane, logical, note)
    found = nearest(script, logical, state_at)
    lane = script.lanes[found.session_id]
    if found.next is None:
        return _extra(script, lane, logical, "the recording of this conversation ends before it")
    if not found.common and not _is_fresh(found):
        return _extra(script, lane, logical, "it has nothing in common with the call that was recorded next")
    difference = explain(recorded(found.next, state_at), logical)
    if difference is None:
        difference = Difference("message edited", notes=("equal values, written in another way",))
    notes = (*difference.notes, *_header_notes(found.next, asked))
    return _at(script, found.next, msgspec.structs.replace(difference, notes=notes))


def of_missing(script: Script, exchange: Exchange, count: int) -> Divergence:
    """*exchange* was not made, nor were *count* - 1 others."""
    notes = (f"{count} recorded calls were not made",) if count > 1 else ()
    return _at(script, exchange, Difference("missing call", notes=notes))


def of_order(script: Script, exchange: Exchange, overtaken_by: Exchange) -> Divergence:
    """*exchange* was made after *overtaken_by*, and recorded before it."""
    difference = Difference("order", "", f"before {overtaken_by.place}", f"after {overtaken_by.place}")
    return _at(script, exchange, difference)


def of_endpoint(script: Script, method: str, address: str) -> Divergence:
    """A call of something that no recorder keeps."""
    lane = next(iter(script.lanes.values()))
    note = f"{method.upper()} {address.partition('?')[0]}: only calls of the Messages API are recorded"
    return Divergence(lane.session_id, lane.head, "extra call", notes=(note,), fork_at=lane.head)


def of_tool(script: Script, name: str, arguments: str) -> Divergence:
    """A wrapped tool was called as it was not recorded."""
    lane = next(iter(script.lanes.values()))
    last = script.last_of(lane.session_id)
    version = last.ended if last else lane.start
    note = "no recorded call of this tool with these arguments is left; `run=True` lets it run"
    return Divergence(
        lane.session_id, version, "extra call", after=arguments, call=f"tool {name}", notes=(note,), fork_at=version
    )


def caller() -> str:
    """The line of the program that is being run, and its function: the innermost frame that is not of a library. "" in
    a task that has none, as `asyncio.gather(client.messages.create(...))` makes them: what is below runs the loop.
    """
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - documented, and the only way
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module in _LOOP:
            return ""
        if module.partition(".")[0] not in _NOT_THE_PROGRAM:
            return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
        frame = frame.f_back
    return ""


def described(lane: Lane, exchange: Exchange) -> str:
    """Which call it is, for people."""
    request = exchange.request
    attempt = f", attempt {request.attempt}" if request.attempt > 1 else ""
    return (
        f"{exchange.number + 1} of {len(lane.exchanges)} in {lane.session_id} "
        f"({exchange.model}, {request.messages} message{'' if request.messages == 1 else 's'}{attempt})"
    )


def _is_fresh(found: Nearest) -> bool:
    return found.next is not None and found.next.number == 0


def _at(script: Script, exchange: Exchange, difference: Difference) -> Divergence:
    lane = script.lanes[exchange.session_id]
    return Divergence(
        exchange.session_id,
        exchange.version,
        difference.cause,
        difference.pointer,
        difference.before,
        difference.after,
        described(lane, exchange),
        notes=difference.notes,
        fork_at=max(exchange.after, lane.start),
    )


def _extra(script: Script, lane: Lane, asked: LogicalRequest, note: str) -> Divergence:
    following = script.next_of(lane.session_id)
    last = script.last_of(lane.session_id)
    version = following.version if following else lane.head
    fork_at = max(following.after, lane.start) if following else lane.head
    newest = jsontext.encode(asked.messages[-1]).decode("utf-8", "backslashreplace") if asked.messages else ""
    made = f"behind call {last.number + 1 if last else 0} of {len(lane.exchanges)} in {lane.session_id}"
    pointer = f"/messages/{len(asked.messages) - 1}" if asked.messages else ""
    return Divergence(
        lane.session_id, version, "extra call", pointer, after=newest, call=made, notes=(note,), fork_at=fork_at
    )


def _header_notes(exchange: Exchange, asked: Asked) -> tuple[str, ...]:
    """Another version of the SDK, or other betas: not compared, and worth a look."""
    before, after = (jsontext.parse_or_show(raw) if raw else {} for raw in (exchange.request.headers, asked.headers))
    if not exchange.request.headers:
        return ()
    return tuple(_header_note(name, before, after) for name in _HEADERS if before.get(name) != after.get(name))


def _header_note(name: str, before: dict[str, Any], after: dict[str, Any]) -> str:
    return f"{name} was {before.get(name, 'absent')}, is {after.get(name, 'absent')}: another version of the SDK?"
