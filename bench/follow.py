"""How long after another process began to append an event does a follower have it?

Bar: at most 100 ms for the slowest of each round. Printed beside is what waiting costs: the processor time of a
follower for whom nothing comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from statistics import median
from typing import TYPE_CHECKING

from bench.harness import Contestant, Finding, Result, Series, Size, content_hash, interleave
from bench.neighbour import STAMPED_STREAM, neighbour, write_stamps
from bench.ours import contents, opened
from bench.report import run_alone
from eventstore import Event
from eventstore.log import START

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from multiprocessing.connection import Connection

    from eventstore import LmdbEventLog, Record

PATIENCE_SECONDS = 10  # then the event was missed, and the bench fails
QUESTION = "how long after another process began to append does a follower have the event?"


def run(size: Size) -> Result:
    """The follower asks for an event, the other process appends it at a random moment; latency includes its flush."""
    count = size.pick(full=20, small=3)
    followed: list[bytes] = []
    slowest: list[float] = []
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(size.scratch())
        runner = stack.enter_context(asyncio.Runner())
        log = stack.enter_context(opened(runner, directory / "log.refold", "disk"))
        writer = stack.enter_context(neighbour(write_stamps, directory / "log.refold"))
        records = log.follow()
        stack.callback(lambda: runner.run(_end(records)))

        def latencies(_: int) -> float:
            found = [runner.run(_latency(records, writer, followed)) for _ in range(count)]
            slowest.append(max(found))
            return median(found)

        idle = _idle(runner, log, size.pick(full=2_000, small=100) / 1_000)
        contestants = [Contestant("latency", "disk", latencies), Contestant("idle follower", "-", idle, unit="%")]
        series = interleave(size, contestants)
        hashes = {"followed": content_hash(followed), "read": content_hash(contents(log.blocking, STAMPED_STREAM))}
    worst = Series("slowest of a round", "disk", "s", slowest[1:])
    findings = [
        Finding("the slowest of a round", worst.median, "s", at_most=0.100),
        Finding("slowest of all", max(worst.values), "s"),
        Finding("an idle follower, of one core", series["idle follower"].median, "%"),
    ]
    return Result(QUESTION, [*series.values(), worst], findings, {"the events followed": hashes})


async def _latency(records: AsyncIterator[Record], writer: Connection, followed: list[bytes]) -> float:
    writer.send("append")
    async with asyncio.timeout(PATIENCE_SECONDS):
        record = await anext(records)
    assert isinstance(record, Event)
    followed.append(record.data)
    return (time.monotonic_ns() - int.from_bytes(record.data, "big")) / 1e9


async def _end(records: AsyncIterator[Record]) -> None:
    assert isinstance(records, AsyncGenerator)
    await records.aclose()


def _idle(runner: asyncio.Runner, log: LmdbEventLog, seconds: float) -> Callable[[int], float]:
    async def wait_in_vain() -> float:
        head = await log.head(STAMPED_STREAM)
        records = log.follow(after=head.position if head else START)
        began = time.process_time()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(anext(records), seconds)
        return 100 * (time.process_time() - began) / seconds

    return lambda _: runner.run(wait_in_vain())


if __name__ == "__main__":
    run_alone(__file__, run)
