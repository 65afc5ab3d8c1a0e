"""What programs built on `session` test themselves with: a Messages API on this machine that answers from a script, and
the rules of the real one as an independent judge.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from session.testing.rules import ApiError, check_body, check_request
from session.testing.script import Cut, Delay, Exact, Failure, Reply, StreamError, calls, says, thinks
from session.testing.thinking import ThinkingLedger, prefix_digest

if TYPE_CHECKING:
    from session.testing.agent import tool_using_model
    from session.testing.api import Call, ScriptedApi

__all__ = [
    "ApiError",
    "Call",
    "Cut",
    "Delay",
    "Exact",
    "Failure",
    "Reply",
    "ScriptedApi",
    "StreamError",
    "ThinkingLedger",
    "calls",
    "check_body",
    "check_request",
    "prefix_digest",
    "says",
    "thinks",
    "tool_using_model",
]

# Late, so that `python -m session.testing.api` runs a module that is not imported yet.
_LATE: Final = {"Call": "api", "ScriptedApi": "api", "tool_using_model": "agent"}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - what the module holds
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
