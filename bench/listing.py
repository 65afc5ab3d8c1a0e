"""How long does it take to list the newest 50 of 100,000 streams, and to read one head?

Bar: at most 20 ms for the newest and for the page after them, flat in the length of the histories: a log with as many
events in a tenth of the streams may take 1.3x at most. Measured at the worst moment: the log's newest bucket of
activities has just begun, so the full one before it has to be sorted too. SQLite with a row per event has to look at
every event, unless somebody keeps a table of heads with an index: both are printed.
"""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING

from bench.harness import Contestant, Finding, Result, Size, content_hash, interleave, median_seconds, ratio
from bench.report import run_alone
from bench.rivals import Sqlite
from bench.workload import message
from eventstore import BlockingLmdbEventLog

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

QUESTION = "how long does it take to list the newest of many streams?"
PAGE = 50
BUCKET = 4_096  # positions that share a bucket in the index of activities
SQLITE_NEWEST = "select stream, max(version) from events group by stream order by max(position) desc limit ?"
SQLITE_HEADS = """
create table heads as select stream, max(version) as version, max(position) as position from events group by stream"""
SQLITE_INDEX = "create index newest on heads (position)"
SQLITE_NEWEST_HEADS = "select stream, version from heads order by position desc limit ?"

Row = tuple[str, int]
"""A stream and its version."""


def run(size: Size) -> Result:
    """Streams append one event at a time, in random order, twice."""
    streams, repeats = size.pick(full=100_000, small=300), size.pick(full=20, small=2)
    many = _order(streams, 2)
    few = _order(streams // 10, 20)
    some = random.Random(1).choices(many, k=size.pick(full=1_000, small=10))
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(size.scratch())
        log = stack.enter_context(_written(directory / "many.refold", many))
        long_histories = stack.enter_context(_written(directory / "few.refold", few))
        database = stack.enter_context(Sqlite(directory / "sqlite.db"))
        database.append([(stream, b"{}") for stream in many])
        database.connection.execute(SQLITE_HEADS)
        database.connection.execute(SQLITE_INDEX)
        cursor = log.streams(limit=PAGE).cursor

        def newest(query: str, limit: int = PAGE) -> list[Row]:
            return database.connection.execute(query, (limit,)).fetchall()

        contestants = [
            Contestant("refold, newest", "-", _round(lambda: log.streams(limit=PAGE), repeats)),
            Contestant("refold, next page", "-", _round(lambda: log.streams(limit=PAGE, cursor=cursor), repeats)),
            Contestant("refold, long histories", "-", _round(lambda: long_histories.streams(limit=PAGE), repeats)),
            Contestant("refold, one head", "-", lambda _: median_seconds(log.head, some)),
            Contestant("sqlite, a row per event", "-", _round(lambda: newest(SQLITE_NEWEST), 1)),
            Contestant("sqlite, table of heads", "-", _round(lambda: newest(SQLITE_NEWEST_HEADS), repeats)),
        ]
        series = interleave(size, contestants)
        hashes = {
            "refold": _hash([(head.stream, head.version) for head in log.streams(limit=2 * PAGE).items]),
            "sqlite, a row per event": _hash(newest(SQLITE_NEWEST, 2 * PAGE)),
            "sqlite, table of heads": _hash(newest(SQLITE_NEWEST_HEADS, 2 * PAGE)),
        }
    first, following, longer = (series[f"refold, {name}"] for name in ("newest", "next page", "long histories"))
    findings = [
        Finding(f"newest {PAGE} of {streams:,} streams", first.median, "s", at_most=0.020),
        Finding("the next page", following.median, "s", at_most=0.020),
        Finding("histories of 20 events / of 2", ratio(longer, first), at_most=1.3),
        Finding("refold / sqlite, a row per event", ratio(first, series["sqlite, a row per event"])),
    ]
    return Result(QUESTION, list(series.values()), findings, {f"newest {2 * PAGE} of {streams:,}": hashes})


def _order(streams: int, times: int) -> list[str]:
    names = [f"sess_{number:016}" for number in range(streams)]
    order = names * times
    random.Random(0).shuffle(order)
    if len(order) > BUCKET:
        order += names[: (PAGE // 2 - len(order)) % BUCKET]
    return order


def _written(path: Path, order: Sequence[str]) -> BlockingLmdbEventLog:
    log = BlockingLmdbEventLog(path, durability="os")
    for stream in order:
        log.append(stream, [message(b"{}")])
    return log


def _round(listing: Callable[[], object], repeats: int) -> Callable[[int], float]:
    return lambda _: median_seconds(lambda _: listing(), range(repeats))


def _hash(rows: list[Row]) -> str:
    return content_hash(f"{stream} {version}".encode() for stream, version in rows)


if __name__ == "__main__":
    run_alone(__file__, run)
