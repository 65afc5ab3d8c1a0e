"""How long does it take to open an existing log and read one head, while another process writes without a pause?

Bar: at most 5 ms. SQLite and its busy writer do the same beside.
"""

from __future__ import annotations

import contextlib
import time
from statistics import median
from typing import TYPE_CHECKING

from bench.harness import Contestant, Finding, Result, Size, content_hash, interleave
from bench.neighbour import busy, neighbour, write_busily, write_busily_to_sqlite
from bench.ours import contents, fill
from bench.report import run_alone
from bench.rivals import Sqlite
from bench.workload import kilobytes, message
from eventstore import BlockingLmdbEventLog

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from pathlib import Path

QUESTION = "how long does it take to open a log and read a head, beside a busy writer?"
STREAM = "conversation"
SQLITE_HEAD = "select version, data from events where stream = ? order by version desc limit 1"


def run(size: Size) -> Result:
    """Each open is timed alone; the closing is not timed."""
    events, count = size.pick(full=10_000, small=20), size.pick(full=20, small=2)
    data = kilobytes(0, events)
    worst: list[float] = []
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(size.scratch())
        ours, rival = directory / "log.refold", directory / "sqlite.db"
        with BlockingLmdbEventLog(ours, durability="disk") as log:
            fill(log, STREAM, map(message, data))
        with Sqlite(rival) as database:
            database.append([(STREAM, each) for each in data])
        writer = stack.enter_context(neighbour(write_busily, ours))
        rival_writer = stack.enter_context(neighbour(write_busily_to_sqlite, rival))
        contestants = [
            Contestant("refold, busy", "-", _beside(writer, _round(lambda: _open_ours(ours), count, worst))),
            Contestant("refold, idle", "-", _round(lambda: _open_ours(ours), count, [])),
            Contestant("sqlite, busy", "-", _beside(rival_writer, _round(lambda: _open_sqlite(rival), count, []))),
        ]
        series = interleave(size, contestants)
        with BlockingLmdbEventLog(ours) as log, Sqlite(rival) as database:
            hashes = {"refold": content_hash(contents(log, STREAM)), "sqlite": content_hash(database.read(STREAM))}
    findings = [
        Finding("open + head beside a busy writer", series["refold, busy"].median, "s", at_most=0.005),
        Finding("the slowest of all", max(worst), "s"),
    ]
    return Result(QUESTION, list(series.values()), findings, {f"{events:,} events": hashes})


def _round(opening: Callable[[], float], count: int, seen: list[float]) -> Callable[[int], float]:
    def play(_: int) -> float:
        seconds = [opening() for _ in range(count)]
        seen.extend(seconds)
        return median(seconds)

    return play


def _beside(writer: Connection, play: Callable[[int], float]) -> Callable[[int], float]:
    def play_beside(number: int) -> float:
        with busy(writer):
            return play(number)

    return play_beside


def _open_ours(path: Path) -> float:
    began = time.perf_counter()
    log = BlockingLmdbEventLog(path)
    head = log.head(STREAM)
    seconds = time.perf_counter() - began
    log.close()
    assert head is not None, "no head"
    return seconds


def _open_sqlite(path: Path) -> float:
    began = time.perf_counter()
    database = Sqlite(path)
    head = database.connection.execute(SQLITE_HEAD, (STREAM,)).fetchone()
    seconds = time.perf_counter() - began
    database.connection.close()
    assert head is not None, "no head"
    return seconds


if __name__ == "__main__":
    run_alone(__file__, run)
