"""How long does `verify` take for 100,000 mixed events, at least 455 MB of data?

Bar: at most 5 s, the child process that does it included. Beside it: sha256 over the same data (what no checker of the
chain can do without), and SQLite's integrity check, which looks at structure only.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from typing import TYPE_CHECKING

from bench.harness import Contestant, Finding, Result, Size, content_hash, interleave, ratio
from bench.report import run_alone
from bench.rivals import Sqlite
from bench.workload import mixed_events
from eventstore import BlockingLmdbEventLog
from eventstore.verify import verify

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from eventstore import NewEvent

QUESTION = "how long does it take to verify a log?"
SESSIONS = 1_000
BATCH = 1_000


def run(size: Size) -> Result:
    """The files are in the page cache, as they are after being written."""
    events = _events(size.pick(full=100_000, small=200), size.pick(full=455_000_000, small=0))
    data_bytes = sum(len(event.data) for event in events)
    with size.scratch() as directory:
        path, rival = directory / "log.refold", directory / "sqlite.db"
        sessions = min(SESSIONS, len(events) // 4)
        hashes = {"refold": _write(path, events, sessions)}
        with Sqlite(rival) as database:
            hashes["sqlite"] = _write_sqlite(database, events, sessions)
            contestants = [
                Contestant("refold verify", "-", _timed(lambda: _check(path, len(events)))),
                Contestant("sha256 of the data", "-", _timed(lambda: _hash_each(events))),
                Contestant("sqlite integrity_check", "-", _timed(lambda: _check_sqlite(database))),
            ]
            series = interleave(size, contestants)
    ours = series["refold verify"]
    findings = [
        Finding(f"verify of {len(events):,} events, {data_bytes / 1e6:,.0f} MB", ours.median, "s", at_most=5),
        Finding("verify / sha256 of the data", ratio(ours, series["sha256 of the data"])),
    ]
    return Result(QUESTION, list(series.values()), findings, {f"{len(events):,} events": hashes})


def _events(at_least: int, data_bytes: int) -> list[NewEvent]:
    events: list[NewEvent] = []
    total = 0
    for event in mixed_events(0):
        if len(events) >= at_least and total >= data_bytes:
            return events
        events.append(event)
        total += len(event.data)
    raise AssertionError("the mix has no end")


def _batches(events: list[NewEvent], sessions: int) -> list[list[tuple[str, NewEvent]]]:
    """Sessions take turns, four events each; some hundred turns are a batch."""
    turns = [events[start : start + 4] for start in range(0, len(events), 4)]
    placed = [(f"sess_{number % sessions:016}", event) for number, turn in enumerate(turns) for event in turn]
    return [placed[start : start + BATCH] for start in range(0, len(placed), BATCH)]


def _write(path: Path, events: list[NewEvent], sessions: int) -> str:
    with BlockingLmdbEventLog(path, durability="os") as log:
        for batch in _batches(events, sessions):
            for stream, turn in itertools.groupby(batch, key=lambda placed: placed[0]):
                log.append(stream, [event for _, event in turn])
        return content_hash(event.data for session in range(sessions) for event in log.read(f"sess_{session:016}"))


def _write_sqlite(database: Sqlite, events: list[NewEvent], sessions: int) -> str:
    for batch in _batches(events, sessions):
        database.append([(stream, event.data) for stream, event in batch])
    return content_hash(data for session in range(sessions) for data in database.read(f"sess_{session:016}"))


def _timed(work: Callable[[], None]) -> Callable[[int], float]:
    def play(_: int) -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return play


def _check(path: Path, events: int) -> None:
    report = verify(path)
    assert not report.problems, report.problems
    assert report.events == events, f"verified {report.events} events of {events}"


def _check_sqlite(database: Sqlite) -> None:
    assert database.connection.execute("pragma integrity_check").fetchall() == [("ok",)]


def _hash_each(events: list[NewEvent]) -> None:
    for event in events:
        hashlib.sha256(event.data).digest()


if __name__ == "__main__":
    run_alone(__file__, run)
