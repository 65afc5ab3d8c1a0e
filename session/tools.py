"""Tools: their definitions, encoded once, and running them so that every call has a result that the API takes.

1. `run` raises nothing that a tool, its input or its result can cause: each becomes a tool_result with `is_error`, in
   words the model can act on. What `can_use_tool` or *starting* raise is the program's own, and passes through.
2. Nothing runs that was not allowed, and nothing before *starting* has returned (that is where a start is recorded).
3. A cancelled or timed out async tool is cancelled and waited for (`_GRACE_SECONDS`, then given up). A thread cannot be
   stopped: a sync tool that was cancelled or timed out goes on behind our back, and its result is dropped. It keeps
   neither the session nor the interpreter from ending.
4. A result is no larger than a request can carry, again and again (`session/_tool_results.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias, runtime_checkable

import msgspec

from session import jsontext, sdk
from session._tool_results import Said, input_of, said, said_by_raising, said_wrong

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable

_GRACE_SECONDS: Final = 5.0

CanUseTool: TypeAlias = "Callable[[str, dict[str, Any]], Awaitable[bool | str]]"
"""Asked before each tool with its name and input: True allows it, a string is the refusal the model reads."""

Starting: TypeAlias = "Callable[[bool], Awaitable[None]]"
"""Awaited right before a tool runs; whether `can_use_tool` was asked."""


@runtime_checkable
class Tool(Protocol):
    """What can be run: the SDK's `@beta_tool` and `@beta_async_tool` functions and its built-in tools, or your own."""

    @property
    def name(self) -> str:
        """What the model calls it."""

    def to_dict(self) -> Any:  # noqa: ANN401 - a TypedDict of the SDK
        """Its definition, as a request carries it."""

    def call(self, input: object) -> Any:  # noqa: A002, ANN401 - as the SDK has it; a result, or what is awaited for it
        """Run it: a text, or a list of content blocks."""


class ToolOutcome(msgspec.Struct, frozen=True):
    """How a call ended; *result_block* is the tool_result block, as it will be sent.

    "returned": the tool ran. "refused": `can_use_tool` said no, for *reason*. "not_run": there is no such tool, or its
    input is no object.
    """

    status: Literal["returned", "refused", "not_run"]
    result_block: bytes
    is_error: bool = False
    duration_ms: int = 0
    reason: str = ""


class Toolbox:
    """The tools of a session. *timeout_seconds* is for each call.

    Plain dicts are definitions without anything to run: server tools. Raises `TypeError` for what is no tool or no
    JSON, `ValueError` for two of one name.
    """

    def __init__(
        self,
        tools: Iterable[Tool | Mapping[str, Any]] = (),
        can_use_tool: CanUseTool | None = None,
        timeout_seconds: float | None = None,
    ) -> None:
        self._tools: dict[str, Tool] = {}
        self._can_use_tool = can_use_tool
        self._timeout_seconds = timeout_seconds
        self._users = 1
        self._open: list[Tool] = []
        self._names: set[str] = set()
        self._definitions = jsontext.encode([self._add(tool) for tool in tools])

    def __repr__(self) -> str:
        return f"<Toolbox: {', '.join(self._tools) or 'nothing to run'}>"

    def definitions(self) -> bytes:
        """The exact JSON of all definitions, in their order; b"" if there are none."""
        return b"" if self._definitions == b"[]" else self._definitions

    def retain(self) -> Toolbox:
        """The same toolbox for one more user (a fork): only the last `aclose` closes its tools."""
        self._users += 1
        return self

    async def aclose(self) -> None:
        """Run the tools' hooks that give back what they hold; a shell is ended. What goes wrong in them is logged."""
        self._users = max(self._users - 1, 0)
        while self._users == 0 and self._open:
            await sdk.close_tool(self._open.pop())

    async def run(
        self, tool_use_id: str, name: str, input_json: bytes, *, starting: Starting | None = None
    ) -> ToolOutcome:
        """Run the tool *name* with the input that the model gave, if it may. Cancelling it leaves no result.

        Raises what `can_use_tool` and *starting* raise, and nothing else.
        """
        assert self._users > 0, "the toolbox is closed"
        tool = self._tools.get(name)
        if tool is None:
            return _not_run(
                tool_use_id, f"There is no tool {name!r} here. There are: {', '.join(self._tools) or 'none'}."
            )
        given = input_of(input_json)
        if isinstance(given, str):
            return _not_run(tool_use_id, given)
        if self._can_use_tool is not None:
            allowed = await self._can_use_tool(name, given)
            if allowed is not True:
                return _refused(tool_use_id, allowed)
        if starting is not None:
            await starting(self._can_use_tool is not None)
        began = time.monotonic()
        found = await _within(self._timeout_seconds, tool, input_of(input_json))
        duration_ms = round((time.monotonic() - began) * 1000)
        return ToolOutcome("returned", found.block(tool_use_id), found.is_error, duration_ms)

    def _add(self, tool: Tool | Mapping[str, Any]) -> object:
        if not isinstance(tool, Mapping | Tool):
            raise TypeError(f"{tool!r:.80} is no tool: decorate a function with anthropic's @beta_tool, or pass a dict")
        name = tool.get("name") if isinstance(tool, Mapping) else tool.name
        if name in self._names:
            raise ValueError(f"two tools are called {name!r}")
        if isinstance(name, str):  # some server tools have none
            self._names.add(name)
        if isinstance(tool, Mapping):
            return tool
        self._tools[tool.name] = tool
        self._open.append(tool)
        return tool.to_dict()


def builtin_tools(
    workdir: str | os.PathLike[str] | None = None,
    *,
    only: Iterable[str] | None = None,
    **context: Any,  # noqa: ANN401 - fields of the SDK's AgentToolContext
) -> list[Tool]:
    """The SDK's own tools for agents: bash, read, write, edit, glob, grep; *only* those named.

    The file tools keep to *workdir* (default: the current directory); bash does not, and runs what the model says: see
    `anthropic.lib.tools.agent_toolset`. *context* is what its `AgentToolContext` takes (`env`, `allowed_roots`, ...).
    Each call gives tools with a shell of their own, which is ended when their session is closed. Raises `ValueError`
    for a name that there is not.
    """
    if workdir is not None:
        context["workdir"] = workdir
    tools = {tool.name: tool for tool in sdk.agent_toolset(**context)}
    names = list(tools) if only is None else list(only)
    if unknown := [name for name in names if name not in tools]:
        raise ValueError(f"no built-in tool {', '.join(unknown)}; there are {', '.join(tools)}")
    return [OneAtATime(tools[name]) if name == "bash" else tools[name] for name in names]


class OneAtATime:
    """A tool whose calls wait for each other: two commands at once in one shell would mix their outputs."""

    def __init__(self, tool: Tool) -> None:
        self._tool = tool
        self._turn = asyncio.Lock()

    @property
    def name(self) -> str:
        """As the tool's own."""
        return self._tool.name

    def to_dict(self) -> Any:  # noqa: ANN401 - a TypedDict of the SDK
        """As the tool's own."""
        return self._tool.to_dict()

    async def call(self, input: object) -> Any:  # noqa: A002, ANN401 - as the SDK has it
        """As the tool's own, once the calls before have ended."""
        async with self._turn:
            return await _called(self._tool, input)

    async def aclose(self) -> None:
        """Run the tool's hooks."""
        await sdk.close_tool(self._tool)


# --- running ----------------------------------------------------------------------------------------------------------


_given_up: Final[set[asyncio.Task[Said]]] = set()  # asyncio itself holds tasks only weakly


async def _within(timeout_seconds: float | None, tool: Tool, given: object) -> Said:
    task = asyncio.create_task(_attempt(tool, given))
    try:
        done, _ = await asyncio.wait({task}, timeout=timeout_seconds)
    except asyncio.CancelledError:
        await _stop(task)
        raise
    if not done:
        await _stop(task)
        return said_wrong(
            f"The tool did not end within {timeout_seconds:g} seconds and was given up. It may have done its work, or "
            "a part of it."
        )
    return said_wrong("The tool was cancelled.") if task.cancelled() else task.result()


async def _stop(task: asyncio.Task[Said]) -> None:
    """Cancel *task* and see it off, so that what it holds is given back; not for ever."""
    _given_up.add(task)
    task.add_done_callback(_given_up.discard)
    task.cancel()
    await asyncio.wait({task}, timeout=_GRACE_SECONDS)


async def _attempt(tool: Tool, given: object) -> Said:
    try:
        return said(await _called(tool, given))
    except (asyncio.CancelledError, KeyboardInterrupt):
        raise
    except BaseException as error:  # noqa: BLE001 - whatever it is, `SystemExit` too: it is the tool's, and the model's
        return said_by_raising(error)


async def _called(tool: Tool, given: object) -> object:
    if inspect.iscoroutinefunction(tool.call):
        return await tool.call(given)
    result = await _in_thread(lambda: _collected(tool.call(given)))
    return await result if inspect.isawaitable(result) else result


def _collected(result: object) -> object:
    """A generator runs where its tool ran, not on the event loop."""
    return list(result) if isinstance(result, Iterator) else result


async def _in_thread(function: Callable[[], object]) -> object:
    """What *function* returns or raises, in a thread of its own.

    Not of a pool: a tool that never returns would keep one of its few threads, and the interpreter waits for them.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[tuple[object, BaseException | None]] = loop.create_future()
    context = contextvars.copy_context()

    def deliver(result: object, error: BaseException | None) -> None:
        if not ended.done():
            ended.set_result((result, error))

    def work() -> None:
        result, error = None, None
        try:
            result = context.run(function)
        except BaseException as raised:  # noqa: BLE001 - it belongs to whoever waits
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(deliver, result, error)

    threading.Thread(target=work, name="tool", daemon=True).start()
    result, error = await ended
    if isinstance(error, Exception):
        raise error
    if error is not None:  # `SystemExit` and the like end a thread, not the program
        raise RuntimeError(repr(error)) from error
    return result


def _not_run(tool_use_id: str, text: str) -> ToolOutcome:
    return ToolOutcome("not_run", said_wrong(text).block(tool_use_id), is_error=True, reason=text)


def _refused(tool_use_id: str, answer: object) -> ToolOutcome:
    reason = answer if isinstance(answer, str) and answer else "This tool was not allowed to run."
    return ToolOutcome("refused", said_wrong(reason).block(tool_use_id), is_error=True, reason=reason)
