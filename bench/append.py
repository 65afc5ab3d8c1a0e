"""What does a durable append of one 1 KB event cost, the whole path from an `await` to the flushed disk?

Bars: at most 3.3x a plain write + fdatasync, at most 1.8x a bare py-lmdb transaction with the same data.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from statistics import median
from typing import TYPE_CHECKING

from bench.harness import Contestant, Finding, Result, Size, content_hash, interleave, median_seconds, ratio
from bench.ours import contents, opened
from bench.report import run_alone
from bench.rivals import BareLmdb, RawFile, Sqlite
from bench.workload import kilobytes, message

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.rivals import Rival
    from eventstore import BlockingLmdbEventLog, LmdbEventLog

QUESTION = "what does a durable append of one 1 KB event cost?"
STREAM = "conversation"
CAVEAT = (
    "sqlite flushes into a log file that it overwrites again and again, which is cheaper than growing a file; "
    "what its checkpoints cost does not show in a median"
)


def run(size: Size) -> Result:
    """Lone appends, one after the other, to one stream."""
    count = size.pick(full=300, small=5)
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(size.scratch())
        runner = stack.enter_context(asyncio.Runner())
        rivals: dict[str, Rival] = {
            "raw write + fdatasync": stack.enter_context(RawFile(directory / "raw")),
            "bare py-lmdb": stack.enter_context(BareLmdb(directory / "lmdb")),
            "sqlite autocommit": stack.enter_context(Sqlite(directory / "sqlite.db")),
        }
        logs = {
            "refold": stack.enter_context(opened(runner, directory / "async.refold", "disk")),
            "refold blocking": stack.enter_context(opened(runner, directory / "blocking.refold", "disk")),
            "refold os": stack.enter_context(opened(runner, directory / "os.refold", "os")),
        }
        contestants = [Contestant(name, "disk", _rival_round(rival, count)) for name, rival in rivals.items()]
        contestants += [
            Contestant("refold", "disk", _async_round(runner, logs["refold"], count)),
            Contestant("refold blocking", "disk", _blocking_round(logs["refold blocking"].blocking, count)),
            Contestant("refold os", "os", _async_round(runner, logs["refold os"], count)),
        ]
        series = interleave(size, contestants)
        hashes = {name: content_hash(rival.read(STREAM)) for name, rival in rivals.items()}
        hashes |= {name: content_hash(contents(log.blocking, STREAM)) for name, log in logs.items()}
    ours, blocking, bare = series["refold"], series["refold blocking"], series["bare py-lmdb"]
    findings = [
        Finding("refold / raw write + fdatasync", ratio(ours, series["raw write + fdatasync"]), at_most=3.3),
        Finding("refold / bare py-lmdb", ratio(ours, bare), at_most=1.8),
        Finding("refold blocking / bare py-lmdb", ratio(blocking, bare)),
        Finding("refold / sqlite autocommit", ratio(ours, series["sqlite autocommit"])),
    ]
    return Result(QUESTION, list(series.values()), findings, {f"{count} appends a round": hashes}, [CAVEAT])


def _rival_round(rival: Rival, count: int) -> Callable[[int], float]:
    return lambda number: median_seconds(lambda data: rival.append([(STREAM, data)]), kilobytes(number, count))


def _blocking_round(log: BlockingLmdbEventLog, count: int) -> Callable[[int], float]:
    return lambda number: median_seconds(lambda data: log.append(STREAM, [message(data)]), kilobytes(number, count))


def _async_round(runner: asyncio.Runner, log: LmdbEventLog, count: int) -> Callable[[int], float]:
    async def appends(number: int) -> float:
        seconds = []
        for data in kilobytes(number, count):
            began = time.perf_counter()
            await log.append(STREAM, [message(data)])
            seconds.append(time.perf_counter() - began)
        return median(seconds)

    return lambda number: runner.run(appends(number))


if __name__ == "__main__":
    run_alone(__file__, run)
