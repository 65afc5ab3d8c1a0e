"""Tools that say what they said when the program was recorded, without running.

1. An outcome can be served once the response that calls the tool has been: outcomes queue up by the tool's name and its
   input, in the order of the calls.
2. What is known of an outcome is the tool_result block that the program made of it. Its content is what is returned, or
   raised as the SDK's `ToolError` if it is an error; a *decode* turns a text back into what the function returned.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec

from session import jsontext
from session.errors import UnreadableJsonError
from session.sdk import tool_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from session.replay._lanes import Lane


class Outcome(msgspec.Struct, frozen=True):
    """The tool_result *block* of a call that was made by the response that ends at *place*."""

    block: bytes
    place: str


class Outcomes:
    """What the recorded tools said. Not thread-safe."""

    def __init__(self, lanes: Iterable[Lane]) -> None:
        self._results: dict[str, deque[bytes]] = {}
        self._waiting: dict[tuple[str, bytes], deque[Outcome]] = {}
        self._left: dict[str, int] = {}  # of the tools that were called at a place, those that did not say anything yet
        for lane in lanes:
            for tool_use_id, block in lane.outcomes.items():
                known = self._results.setdefault(tool_use_id, deque())
                if block not in known:
                    known.append(block)

    def called(self, blocks: Iterable[bytes], place: str) -> None:
        """A response with these blocks was served, which ends at *place*: the tools it calls have their outcomes."""
        for block in blocks:
            if b'"tool_use"' not in block:
                continue
            members = jsontext.members(block)
            name, tool_use_id = (jsontext.string(members.get(each, b"")) or "" for each in ("name", "id"))
            if results := self._results.get(tool_use_id):
                result = results.popleft() if len(results) > 1 else results[0]
                waiting = self._waiting.setdefault(_key(name, members.get("input", b"{}")), deque())
                waiting.append(Outcome(result, place))
                self._left[place] = self._left.get(place, 0) + 1

    def take(self, name: str, inputs: Sequence[bytes]) -> Outcome | None:
        """The oldest outcome of a call with one of these *inputs*; None: there is none."""
        for each in inputs:
            if waiting := self._waiting.get(_key(name, each)):
                found = waiting.popleft()
                self._left[found.place] -= 1
                return found
        return None

    def none_runs(self, place: str) -> bool:
        """Whether all tools that were called at *place* have said what they said, and none has run."""
        return not self._left[place]


def wrapped(tool: Any, call: Callable[..., Any], decode: Callable[[str], Any] | None, name: str | None) -> Any:  # noqa: ANN401 - whatever it is, and the same again
    """A tool as *tool*, whose outcomes *call* gives: `call(name, inputs)` is a tool_result block, or None to run it."""
    known = name or getattr(tool, "name", None) or getattr(tool, "__name__", None)
    if not isinstance(known, str):
        raise TypeError(f"{tool!r:.80} has no name: pass `name=`")
    own = getattr(tool, "call", None)
    if own is not None and hasattr(tool, "to_dict"):
        found = copy.copy(tool)
        found.call = _serving(own, lambda given: [_encoded(given)], known, call, None)
        return found
    if not callable(tool):
        raise TypeError(f"{tool!r:.80} is no tool: a function, or what @beta_tool makes of one")
    return _serving(tool, functools.partial(_inputs, inspect.signature(tool)), known, call, decode)


def _serving(
    function: Callable[..., Any],
    inputs: Callable[..., list[bytes]],
    name: str,
    call: Callable[..., Any],
    decode: Callable[[str], Any] | None,
) -> Callable[..., Any]:
    if _is_asynchronous(function):

        @functools.wraps(function)
        async def serve_async(*args: Any, **named: Any) -> Any:  # noqa: ANN401 - as the tool's own
            block = call(name, inputs(*args, **named))
            return await function(*args, **named) if block is None else _outcome(block, decode)

        return serve_async

    @functools.wraps(function)
    def serve(*args: Any, **named: Any) -> Any:  # noqa: ANN401 - as the tool's own
        block = call(name, inputs(*args, **named))
        return function(*args, **named) if block is None else _outcome(block, decode)

    return serve


def _is_asynchronous(tool: Callable[..., Any]) -> bool:
    """Whether it is defined so, it or its `__call__`. That it returns an awaitable could be known only once it ran."""
    while isinstance(tool, functools.partial):
        tool = tool.func
    return inspect.iscoroutinefunction(tool) or inspect.iscoroutinefunction(type(tool).__call__)


def _inputs(signature: inspect.Signature, *args: Any, **named: Any) -> list[bytes]:  # noqa: ANN401 - any arguments
    """The inputs that a call may stand for: its arguments by name, or its only argument, a dict."""
    bound = signature.bind(*args, **named)
    given: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            given.update(value)
        else:
            given[name] = value
    found = [given, *(value for value in given.values() if isinstance(value, dict) and len(given) == 1)]
    return [_encoded(each) for each in found]


def _encoded(value: object) -> bytes:
    try:
        return jsontext.encode(value)
    except (TypeError, ValueError):
        return repr(value).encode()


def _key(name: str, given: bytes) -> tuple[str, bytes]:
    return name, jsontext.canonical(given)


def _outcome(block: bytes, decode: Callable[[str], Any] | None) -> Any:  # noqa: ANN401 - what the tool returned
    try:
        members = jsontext.members(block)
    except UnreadableJsonError:
        return block.decode("utf-8", "backslashreplace")
    content = jsontext.parse_or_show(members["content"]) if "content" in members else ""
    if members.get("is_error") == b"true":
        raise tool_error(content)
    return decode(content) if decode is not None and isinstance(content, str) else content
