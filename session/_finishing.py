"""Work that a cancelled caller still waits for, so that what is recorded and what is known never part."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


async def finished(work: Coroutine[Any, Any, T]) -> T:
    """The result of *work*, which runs to its end even if the caller is cancelled meanwhile: the cancellation, as many
    times as it came, is raised once after it.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])  # which, unlike `await task`, leaves the task alone when it is cancelled
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # seen: the cancellation is what the caller asked for
        raise cancelled
    return task.result()
