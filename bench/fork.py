"""Does a fork cost the same whatever its parent is: 100,000 events or 100, the 1,000th fork in a row or the first?

Bars: at most 1.5x each, and at most 400 bytes a fork. The long and the short parent are forked in the middle, where the
event at that version has to be found first. Judged with `durability="os"` too, where no flush hides what is computed.
"""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING, Literal, NamedTuple

from bench.harness import Contestant, Finding, Result, Size, content_hash, file_bytes, interleave, median_seconds, ratio
from bench.ours import fill, used_bytes
from bench.report import run_alone
from bench.workload import kilobytes, message
from eventstore import BlockingLmdbEventLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.harness import Series
    from eventstore import NewEvent

QUESTION = "does a fork cost the same whatever its parent is?"
PERIOD = 10  # the data repeats: the newest events are the same before every fork point
SHORT = 100
MODES: tuple[Literal["disk", "os"], ...] = ("disk", "os")


def run(size: Size) -> Result:
    """Parents of every kind are forked in turn, and the newest events of their children compared."""
    long, deep = size.pick(full=100_000, small=400), size.pick(full=1_000, small=20)
    count = size.pick(full=100, small=3)
    contestants = []
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(size.scratch())
        points: dict[str, _Point] = {}
        for mode in MODES:
            log = stack.enter_context(BlockingLmdbEventLog(directory / f"{mode}.refold", durability=mode))
            for name, (parent, at) in _write_parents(log, long, deep).items():
                points[f"{name}, {mode}"] = point = _Point(log, parent, at)
                contestants.append(Contestant(f"{name}, {mode}", mode, _round(point, count)))
        series = interleave(size, contestants)
        hashes = {name: content_hash(_newest(point)) for name, point in points.items()}
    findings = _ratios(series, f"parent of {long:,}", f"parent of {SHORT}")
    findings += _ratios(series, f"depth {deep:,}", "depth 1")
    findings += _bytes_per_fork(size)
    return Result(QUESTION, list(series.values()), findings, {"the newest events of a child": hashes})


class _Point(NamedTuple):
    """Where to fork."""

    log: BlockingLmdbEventLog
    parent: str
    at: int

    def child(self, number: int, index: int) -> str:
        """A name for the child number *index* of round *number*."""
        return f"{self.parent}@{self.at}, {number}-{index}"


def _events(first: int, count: int) -> Iterator[NewEvent]:
    """Events for versions *first* and following, of 1 KB each."""
    period = [message(data) for data in kilobytes(0, PERIOD)]
    return (period[version % PERIOD] for version in range(first, first + count))


def _write_parents(log: BlockingLmdbEventLog, long: int, deep: int) -> dict[str, tuple[str, int]]:
    """Parents and where to fork them, by the name of the contestant."""
    for stream, length in (("long", long), ("short", SHORT)):
        fill(log, stream, _events(1, length))
    for depth in range(1, deep + 1):
        version = SHORT + depth - 1
        log.fork(f"deep {depth - 1}" if depth > 1 else "short", f"deep {depth}", events=list(_events(version + 1, 1)))
    fill(log, "deep 1", _events(SHORT + 2, PERIOD - 1))
    return {
        f"parent of {long:,}": ("long", long // 2),
        f"parent of {SHORT}": ("short", SHORT // 2),
        f"depth {deep:,}": (f"deep {deep}", SHORT + deep),
        "depth 1": ("deep 1", SHORT + PERIOD),
    }


def _round(point: _Point, count: int) -> Callable[[int], float]:
    def play(number: int) -> float:
        children = [point.child(number, index) for index in range(count)]
        return median_seconds(lambda child: point.log.fork(point.parent, child, at=point.at), children)

    return play


def _newest(point: _Point) -> list[bytes]:
    return [event.data for event in point.log.read(point.child(0, 0), limit=PERIOD, reverse=True)]


def _ratios(series: dict[str, Series], far: str, near: str) -> list[Finding]:
    return [
        Finding(f"{far} / {near}, {mode}", ratio(series[f"{far}, {mode}"], series[f"{near}, {mode}"]), at_most=1.5)
        for mode in MODES
    ]


def _bytes_per_fork(size: Size) -> list[Finding]:
    """For generated ids, and for names in their order, which fill the pages otherwise."""
    forks = size.pick(full=10_000, small=200)
    generator = random.Random(0)
    names = {
        "generated ids": [f"sess_{generator.getrandbits(64):016x}" for _ in range(forks)],
        "names in order": [f"sess_{number:016x}" for number in range(forks)],
    }
    findings = []
    for kind, children in names.items():
        used, file = _growth(size, children)
        findings.append(Finding(f"pages in use per fork, {forks:,} {kind}", used / forks, "bytes", at_most=400))
        findings.append(Finding(f"file growth per fork, {forks:,} {kind}", file / forks, "bytes", at_most=400))
    return findings


def _growth(size: Size, children: list[str]) -> tuple[int, int]:
    """What forking them adds to the pages in use, and to the file, with the pages that copying on write left free."""
    with size.scratch() as directory:
        path = directory / "space.refold"
        with BlockingLmdbEventLog(path, durability="os") as log:
            fill(log, "parent", _events(1, SHORT))
        before = used_bytes(path), file_bytes(path)
        with BlockingLmdbEventLog(path, durability="os") as log:
            for child in children:
                log.fork("parent", child)
        return used_bytes(path) - before[0], file_bytes(path) - before[1]


if __name__ == "__main__":
    run_alone(__file__, run)
