"""Work that a cancelled caller still waits for, so that what is recorded and what is known never part."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


async def finished(work: Coroutine[Any, Any, T]) -> T:
    """The result of *work*, which runs to its end even if the caller is cancelled meanwhile: the cancellation, as many
    times as it came, is raised once after it.

    Where every task is cancelled, as when a loop ends, *work* is begun nevertheless; if it waits by then, it is cut.
    """
    task = asyncio.ensure_future(_awaited(work))
    cancelled: asyncio.CancelledError | None = None
    while not task.done() or inspect.getcoroutinestate(work) == inspect.CORO_CREATED:
        if task.done():  # cancelled before its first step
            task = asyncio.ensure_future(_awaited(work))
        try:
            await asyncio.wait([task])  # which, unlike `await task`, leaves the task alone when it is cancelled
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # seen: the cancellation is what the caller asked for
        raise cancelled
    return task.result()


async def _awaited(work: Coroutine[Any, Any, T]) -> T:
    """*work*, in a coroutine of its own: what is cancelled before it begins does not close *work*."""
    return await work
