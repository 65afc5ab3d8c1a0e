"""An answer while it is iterated: by two tasks, through generators, left half way, closed under way."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import pytest
from anthropic import beta_async_tool

from session.errors import AlreadyReceivingError, SessionClosedError
from session.events import ToolReturned
from session.live import Session, create_session, resume_session
from session.storage import EventSessionStorage
from session.testing import Delay, Reply, ScriptedApi, calls
from tests.session.live_kit import MODEL, add, events_of, in_loop, in_memory, shown, talk, types_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from session.live import Received

LONG = "A rather long answer, in several pieces."


class Hook:
    """A tool that says when it is closed."""

    name = "hook"

    def __init__(self) -> None:
        self.closed = 0

    def to_dict(self) -> dict[str, Any]:
        return {"name": "hook", "input_schema": {"type": "object"}}

    def call(self, input: object) -> str:  # noqa: A002 - as the SDK has it
        return str(input)

    def close(self) -> None:
        self.closed += 1


@in_loop
async def test_one_answer_is_iterated_by_one_task_and_another_disturbs_nothing() -> None:
    api = ScriptedApi([Reply(content=LONG, delay=Delay(hold_after_events=4))])
    async with (
        api.async_client() as client,
        create_session(model=MODEL, session_storage=in_memory(), client=client) as chat,
    ):
        await chat.send("Go")
        receiving = chat.receive()
        parts: list[Received] = []

        async def iterate() -> None:
            async for part in receiving:
                parts.append(part)  # noqa: PERF401 - to be looked at meanwhile

        task = asyncio.ensure_future(iterate())
        while not parts:  # noqa: ASYNC110 - until the other task waits for the rest of the answer
            await asyncio.sleep(0)
        for use in (lambda: anext(receiving), receiving.aclose, chat.close, lambda: chat.send("x")):
            with pytest.raises(AlreadyReceivingError):
                await use()
        api.release()
        await task
        assert shown(parts) == LONG
        assert parts[-1].type == "stop"
        assert chat.pending is None


@in_loop
async def test_a_generator_around_an_answer_may_be_left_by_break() -> None:
    async def texts(chat: Session) -> AsyncGenerator[str, None]:
        async for part in chat.receive():
            if part.type == "text":
                yield part.text

    async def louder(chat: Session) -> AsyncGenerator[str, None]:
        async for text in texts(chat):
            yield text.upper()

    api, storage = ScriptedApi([LONG, LONG, "Three."]), in_memory()
    async with (
        api.async_client() as client,
        create_session(model=MODEL, session_storage=storage, client=client) as chat,
    ):
        await chat.send("Go")
        async for _ in texts(chat):
            break
        await chat.send("Or")
        assert (await types_of(storage, chat.id))[-2:] == ["response_interrupted", "message_appended"]
        async for _ in louder(chat):
            break
        assert shown(await talk(chat, "No, that")) == "Three."


@in_loop
async def test_an_answer_left_by_break_is_recorded_without_another_call() -> None:
    api, storage = ScriptedApi([Reply(content=LONG, delay=Delay(hold_after_events=4))]), in_memory()
    async with (
        api.async_client() as client,
        create_session(model=MODEL, session_storage=storage, client=client) as chat,
    ):
        await chat.send("Go")
        async for _ in chat.receive():
            break
        await _rounds()
        assert (await types_of(storage, chat.id))[-1] == "response_interrupted"
        other = await resume_session(chat.id, session_storage=storage)
        await other.send("From elsewhere")  # no request is open


@in_loop
async def test_tools_of_an_answer_left_by_break_are_stopped_without_another_call() -> None:
    waiting, stopped = asyncio.Event(), asyncio.Event()

    @beta_async_tool
    async def wait() -> str:
        """Wait."""
        waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return "never"

    api, storage = ScriptedApi([Reply(content=[calls("add", {"a": 1, "b": 1}), calls("wait", {})])]), in_memory()
    async with (
        api.async_client() as client,
        create_session(model=MODEL, tools=[add, wait], session_storage=storage, client=client) as chat,
    ):
        await chat.send("Go")
        async for part in chat.receive():
            if part.type == "tool_result":
                await waiting.wait()
                break
        await _rounds()
        assert stopped.is_set()
        assert (await types_of(storage, chat.id))[-1] == "session_repaired"


@pytest.mark.parametrize("rounds", range(6))
def test_an_answer_left_by_break_is_recorded_even_if_the_loop_ends(
    rounds: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody closes the session here; the loop cancels all tasks, and complains of none that was lost."""
    api, storage, ids = ScriptedApi([Reply(content=LONG, delay=Delay(hold_after_events=4))]), in_memory(), []

    async def leave() -> None:
        async with api.async_client() as client:
            chat = await create_session(model=MODEL, session_storage=storage, client=client)
            ids.append(chat.id)
            await chat.send("Go")
            async for _ in chat.receive():
                break
            await _rounds(rounds)

    asyncio.run(leave())
    gc.collect()
    assert asyncio.run(types_of(storage, ids[0]))[-1] == "response_interrupted"
    assert caplog.messages == []


@in_loop
async def test_what_goes_wrong_when_a_left_answer_is_recorded_is_logged(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    api = ScriptedApi([Reply(content=LONG, delay=Delay(hold_after_events=4))])
    async with api.async_client() as client, EventSessionStorage(tmp_path) as storage:
        chat = await create_session(model=MODEL, session_storage=storage, client=client)
        await chat.send("Go")
        async for _ in chat.receive():
            await storage.aclose()
            break
        await _rounds()
    assert chat.id in caplog.text
    assert "is not recorded" in caplog.text


async def _rounds(count: int = 50) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@in_loop
async def test_a_close_that_is_cancelled_still_closes() -> None:
    """It waits here for a `send` that is being recorded."""
    storage, hook, entered, go_on = in_memory(), Hook(), asyncio.Event(), asyncio.Event()
    chat = await create_session(model=MODEL, tools=[hook], session_storage=_Held(storage, entered, go_on))
    sending = asyncio.ensure_future(chat.send("Go"))
    await entered.wait()
    closing = asyncio.ensure_future(chat.close())
    await asyncio.sleep(0)
    closing.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await sending
    assert hook.closed == 1
    assert (await types_of(storage, chat.id))[-2:] == ["message_appended", "session_closed"]


class _Held(EventSessionStorage):
    """Appends of messages wait until they may go on."""

    def __init__(self, storage: EventSessionStorage, entered: asyncio.Event, go_on: asyncio.Event) -> None:
        super().__init__(storage.log)
        self._entered, self._go_on = entered, go_on

    async def append(self, session_id: str, events: Any, **options: Any) -> Any:
        if events[-1].type == "message_appended":
            self._entered.set()
            await self._go_on.wait()
        return await super().append(session_id, events, **options)


@in_loop
async def test_a_fork_is_not_opened_on_the_tools_of_a_session_that_was_closed_since() -> None:
    storage, hook = in_memory(), Hook()
    chat = await create_session(model=MODEL, tools=[hook], session_storage=storage)
    opening = chat.fork()
    await chat.close()
    with pytest.raises(SessionClosedError):
        await opening
    assert await storage.list() == [chat.id]
    assert hook.closed == 1


@in_loop
async def test_a_session_that_was_deleted_meanwhile_can_be_closed() -> None:
    storage, hook = in_memory(), Hook()
    async with create_session(model=MODEL, tools=[hook], session_storage=storage) as chat:
        await chat.send("Go")
        await storage.delete(chat.id)
    assert hook.closed == 1


@in_loop
async def test_tools_whose_answer_was_left_complain_nowhere() -> None:
    """What `can_use_tool` raised is known: nobody is told a second time by the loop's handler of lost exceptions."""
    lost: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: lost.append(context))

    async def ask(_name: str, tool_input: dict[str, Any]) -> bool:
        if tool_input["a"] == 1:
            return True
        raise OSError("no terminal")

    api, storage = ScriptedApi([Reply(content=[calls("add", {"a": a, "b": 1}) for a in (1, 2, 3)])]), in_memory()
    async with (
        api.async_client() as client,
        create_session(model=MODEL, tools=[add], can_use_tool=ask, session_storage=storage, client=client) as chat,
    ):
        await chat.send("Go")
        async for part in chat.receive():
            if part.type == "tool_result":
                for _ in range(9):
                    await asyncio.sleep(0)
                break
    assert sum(isinstance(event, ToolReturned) for event in await events_of(storage, chat.id)) == 1
    gc.collect()
    await asyncio.sleep(0)
    assert lost == []
