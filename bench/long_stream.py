"""Does a turn cost the same at 10,000 events as at 100: three appends (five events), a head, and reading what is new?

Bar: at most 1.3x. Judged with `durability="os"` too, where no flush hides what is computed, and for the first turn
after opening, when nothing is in any cache.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Literal, NamedTuple

from bench.harness import Contestant, Finding, Result, Size, content_hash, interleave, median_seconds, ratio
from bench.ours import fill
from bench.report import run_alone
from bench.workload import Text, turn
from eventstore import BlockingLmdbEventLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bench.harness import Series
    from eventstore import NewEvent

QUESTION = "does a turn cost the same in a long stream as in a short one?"
SHORT = 100
MODES: tuple[Literal["disk", "os"], ...] = ("disk", "os")


class _Streams(NamedTuple):
    """Streams of one length, so that none of them grows much while it is measured."""

    length: int
    names: list[str]


def run(size: Size) -> Result:
    """A round is two turns in each of ten streams."""
    long, count = size.pick(full=10_000, small=300), size.pick(full=10, small=2)
    kinds = [_Streams(length, [f"{length}-{number}" for number in range(count)]) for length in (SHORT, long)]
    contestants = []
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(size.scratch())
        logs: dict[str, BlockingLmdbEventLog] = {}
        for mode in MODES:
            log = logs[mode] = stack.enter_context(BlockingLmdbEventLog(directory / f"{mode}.refold", durability=mode))
            _write(log, kinds)
            contestants += [
                Contestant(f"at {kind.length:,}, {mode}", mode, _warm_round(log, kind.names)) for kind in kinds
            ]
        cold = directory / "cold.refold"
        with BlockingLmdbEventLog(cold, durability="os") as log:
            _write(log, kinds)
        contestants += [
            Contestant(f"at {kind.length:,}, just opened", "os", _cold_round(cold, kind.names)) for kind in kinds
        ]
        series = interleave(size, contestants)
        hashes = {f"at {kind.length:,}, {mode}": _hash(log, kind) for mode, log in logs.items() for kind in kinds}
    findings = [_finding(series, long, which) for which in (*MODES, "just opened")]
    return Result(QUESTION, list(series.values()), findings, {"what the turns added": hashes})


def _finding(series: dict[str, Series], long: int, which: str) -> Finding:
    what = f"a turn at {long:,} / at {SHORT}, {which}"
    return Finding(what, ratio(series[f"at {long:,}, {which}"], series[f"at {SHORT}, {which}"]), at_most=1.3)


def _write(log: BlockingLmdbEventLog, kinds: list[_Streams]) -> None:
    for length, names in kinds:
        for name in names:
            fill(log, name, itertools.islice(_turn_events(), length))


def _turn_events() -> Iterator[NewEvent]:
    text = Text(0)
    while True:
        for commit in turn(text):
            yield from commit


def _take_turn(log: BlockingLmdbEventLog, stream: str, commits: list[list[NewEvent]]) -> None:
    head = log.head(stream)
    assert head is not None
    version = head.version
    for commit in commits:
        version = log.append(stream, commit, expected=version).version
    assert len(log.read(stream, after=head.version)) == version - head.version


def _warm_round(log: BlockingLmdbEventLog, names: list[str]) -> Callable[[int], float]:
    def play(number: int) -> float:
        commits = turn(Text(number))
        return median_seconds(lambda name: _take_turn(log, name, commits), names * 2)

    return play


def _cold_round(path: Path, names: list[str]) -> Callable[[int], float]:
    def play(number: int) -> float:
        commits = turn(Text(number))
        with BlockingLmdbEventLog(path, durability="os") as log:
            return median_seconds(lambda name: _take_turn(log, name, commits), names)

    return play


def _hash(log: BlockingLmdbEventLog, kind: _Streams) -> str:
    return content_hash(event.data for name in kind.names for event in log.read(name, after=kind.length))


if __name__ == "__main__":
    run_alone(__file__, run)
