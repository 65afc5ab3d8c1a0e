"""Cancelled wherever it waits, a turn leaves a session that is whole, and goes on."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from anthropic import beta_async_tool, beta_tool

from session.events import ToolReturned
from session.fold import fold
from session.live import create_session, resume_session
from session.places import HEAD
from session.state import SessionState
from session.storage import MemorySessionStorage
from session.testing import Delay, ScriptedApi, tool_using_model
from tests.session.live_kit import MODEL, in_loop, in_memory, talk

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from session.live import Session
    from session.storage import EventSessionStorage, SessionStorage


_WAYS = ("receive", "send", "resume")


class CancelledAt:
    """Awaits *work* and cancels the task when it waits for the *n*-th time, as `task.cancel()` at that moment does;
    *again*: and each time it waits after that.
    """

    def __init__(self, work: Coroutine[Any, Any, None], n: int, *, again: bool = False) -> None:
        self._work = work
        self._n = n
        self._again = again
        self.waits = 0

    def __await__(self) -> Generator[Any, Any, None]:
        steps = self._work.__await__()
        resume: Callable[[], Any] = lambda: next(steps)  # noqa: E731
        while True:
            try:
                waited_for = resume()
            except StopIteration:
                return
            self.waits += 1
            if self.waits == self._n or (self._again and self.waits > self._n):
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            try:
                yield waited_for
            except BaseException as error:  # noqa: BLE001 - handed on
                resume = _throwing(steps, error)
            else:
                resume = lambda: next(steps)  # noqa: E731


def _throwing(steps: Generator[Any, Any, None], error: BaseException) -> Callable[[], Any]:
    return lambda: steps.throw(error)


@beta_async_tool
async def slow(word: str) -> str:
    """Takes a few rounds of the loop."""
    for _ in range(3):
        await asyncio.sleep(0)
    return word


@beta_tool
def threaded(word: str) -> str:
    """Runs in a thread."""
    time.sleep(0.002)  # long enough to be waited for
    return word


async def allow(_name: str, _input: dict[str, Any]) -> bool:
    await asyncio.sleep(0)
    return True


def scripted() -> ScriptedApi:
    """Two rounds of two tools, thinking included; every chunk of an answer is waited for."""
    model = tool_using_model(rounds=2, parallel=2)
    delay = Delay(before_seconds=1e-6, between_seconds=1e-6)
    return ScriptedApi(lambda body, number: msgspec.structs.replace(model(body, number), delay=delay))


def options(client: Any, storage: SessionStorage) -> dict[str, Any]:
    return {"tools": [slow, threaded], "can_use_tool": allow, "client": client, "session_storage": storage}


async def cancelled(chat: Session, n: int, *, again: bool = False) -> bool:
    """A turn, cancelled at its *n*-th wait. False: it ended before."""
    cancelling = CancelledAt(_turn(chat), n, again=again)
    try:
        await cancelling
    except asyncio.CancelledError:
        return True
    assert cancelling.waits < n, "the cancellation was swallowed"
    return False


async def _turn(chat: Session) -> None:
    await talk(chat, "Go")


async def check_whole(storage: EventSessionStorage, chat: Session) -> None:
    """What the session knows is what the log says, and nothing is left running in it."""
    stored = [event async for event in storage.events(chat.id)]
    assert fold(stored, SessionState(id=chat.id)) == chat.state
    assert chat.state.status != "running"
    assert chat.state.in_doubt == ()


async def check_results_are_sent(storage: EventSessionStorage, chat: Session, api: ScriptedApi) -> None:
    """Every result that was recorded reached the API."""
    recorded = {e.event.tool_use_id async for e in storage.events(chat.id) if isinstance(e.event, ToolReturned)}
    newest = api.calls[-1]
    assert newest.status == 200, newest.error
    assert all(tool_use_id.encode() in newest.body for tool_use_id in recorded)


@pytest.mark.parametrize(
    ("first_way", "apart"),
    [(0, 4), *(pytest.param(way, 1, marks=pytest.mark.slow) for way in range(len(_WAYS)))],
)
@in_loop
async def test_a_turn_cancelled_at_any_wait_leaves_a_session_that_goes_on(first_way: int, apart: int) -> None:
    """Each wait in each way of going on; by default every fourth wait, one way after the other."""
    for n in itertools.count(1, apart):
        api, storage = scripted(), in_memory()
        async with api.async_client() as client:
            chat = await create_session(model=MODEL, **options(client, storage))
            if not await cancelled(chat, n):
                break
            await check_whole(storage, chat)
            goes_on = _WAYS[(first_way + n) % 3]
            if goes_on == "resume":
                chat = await resume_session(chat.id, **options(client, storage))
            if goes_on == "send" or not chat.state.messages:
                await chat.send("Go")
            if chat.pending is not None:
                await talk(chat)
            assert chat.pending is None
            await check_whole(storage, chat)
            await check_results_are_sent(storage, chat, api)
            assert all(call.status == 200 for call in api.calls)
    assert n > 60, "the turn hardly waits: the test has lost its point"
    print(f"cancelled at {n - 1} waits")


@in_loop
async def test_a_turn_cancelled_again_at_every_further_wait_is_as_whole() -> None:
    for n in itertools.count(1, 7):
        api, storage = scripted(), in_memory()
        async with api.async_client() as client:
            chat = await create_session(model=MODEL, **options(client, storage))
            if not await cancelled(chat, n, again=True):
                break
            await check_whole(storage, chat)
            if not chat.state.messages:
                await chat.send("Go")
            if chat.pending is not None:
                await talk(chat)
            await check_results_are_sent(storage, chat, api)


@in_loop
async def test_over_a_plain_storage_a_cancelled_turn_keeps_what_was_saved() -> None:
    for n in itertools.count(1, 8):
        api, storage = scripted(), MemorySessionStorage()
        async with api.async_client() as client:
            chat = await create_session(model=MODEL, **options(client, storage))
            if not await cancelled(chat, n):
                break
            stored = await storage.load(chat.id)
            assert stored is not None
            assert stored.messages == chat.state.messages
            again = await resume_session(chat.id, model=MODEL, **options(client, storage))
            if not again.state.messages:
                await again.send("Go")
            if again.pending is not None:
                await talk(again)
            assert all(call.status == 200 for call in api.calls)


@in_loop
async def test_a_session_cancelled_while_it_is_opened_leaves_the_log_whole() -> None:
    for n in itertools.count(1):
        storage = in_memory()
        created = CancelledAt(_opened(storage), n)
        try:
            await created
        except asyncio.CancelledError:
            for session_id in await storage.list():
                assert (await storage.state_at(session_id, HEAD)).prompt.model == MODEL
        else:
            break


async def _opened(storage: EventSessionStorage) -> None:
    await create_session(model=MODEL, session_storage=storage)
