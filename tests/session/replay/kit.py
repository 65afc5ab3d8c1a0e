"""What the tests of replaying share: programs, recorded once and then run against the recording, without a network."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

import anthropic
import pytest

from session.recording import Recorder
from session.replay import ReplayDivergedError, Replayer
from session.testing import ScriptedApi
from tests.session.recording.kit import ASK, in_memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from session.storage import EventSessionStorage

MODEL = "claude-sonnet-5-5"


def numbered(_body: Any, number: int) -> str:
    """A script without an end, of which no two answers are alike."""
    return f"answer {number}"


def ask(client: anthropic.Anthropic, messages: list[Any], **options: Any) -> str:
    """The whole answer."""
    return str(client.messages.create(messages=messages, **ASK, **options).to_json())


def record(program: Callable[..., Any], script: Any, *, redact: Any = None, **options: Any) -> tuple[Any, str, Any]:
    """A storage in memory with the run of *program*, the run's root, and what the program came to."""
    storage = in_memory()
    recorder = Recorder(storage, redact=redact)
    api = ScriptedApi(script)
    result = run(program, api.async_client if is_async(program) else api.client, recorder, **options)
    return storage, recorder.sessions[0], result


def replay(
    program: Callable[..., Any], storage: EventSessionStorage, session_id: str, *, options: Any = None, **settings: Any
) -> Any:
    """What *program* comes to on the recording. There is no network: the client's own transport has none."""
    with Replayer(storage, session_id, **settings) as replayer:
        return run(program, _offline_async if is_async(program) else _offline, replayer, **(options or {}))


def diverges(program: Callable[..., Any], storage: EventSessionStorage, session_id: str, **settings: Any) -> Any:
    """How the replay of *program* diverges."""
    with pytest.raises(ReplayDivergedError) as raised:
        replay(program, storage, session_id, **settings)
    return raised.value


def run(program: Callable[..., Any], make: Callable[..., Any], middleware: Any, **options: Any) -> Any:
    settings = {"max_retries": 2, **options}
    if is_async(program):

        async def main() -> Any:
            async with make(middleware=[middleware], **settings) as client:
                return await program(client)

        return asyncio.run(main())
    with make(middleware=[middleware], **settings) as client:
        return program(client)


def is_async(program: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(program)


def _offline(**options: Any) -> anthropic.Anthropic:
    return anthropic.Anthropic(api_key="none", **options)


def _offline_async(**options: Any) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(api_key="none", **options)
