"""Coroutines that never wait, run without an event loop.

The logic of the event-sourced storage is written once, as coroutines over a log. Over a blocking log nothing in them
waits for a loop, so stepping a coroutine once runs it to its end, in the caller's thread.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence

T = TypeVar("T")

_THREADS: Final = 64
_END: Final = object()


def run_now(work: Coroutine[Any, Any, T]) -> T:
    """The result of *work*."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    work.close()
    raise AssertionError("it waited for an event loop")


def iterate_now(items: AsyncGenerator[T, None]) -> Iterator[T]:
    """The items of *items*, one at a time."""

    async def step() -> T | object:
        return await anext(items, _END)

    try:
        while (item := run_now(step())) is not _END:
            yield item  # type: ignore[misc]  # it is not `_END`
    finally:
        run_now(items.aclose())


async def together_in_threads(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of *works*, of which up to 64 run at a time. Where one fails, or the caller is interrupted, those
    that run come to their end, and those that wait never begin.
    """
    try:
        with ThreadPoolExecutor(_THREADS) as threads:
            try:
                return list(threads.map(run_now, works))
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        for work in works:
            with contextlib.suppress(ValueError):  # it runs still: the caller was interrupted while waiting for it
                work.close()
