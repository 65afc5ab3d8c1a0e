"""How long does it take to list the newest 50 of 100,000 sessions, with title, counts, usage, cost and status?

Bar: at most 20 ms, measured just before snapshots are due, and flat in the length of the histories: sessions of ten
times as many events may take 1.3x.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING

from bench.conversations import agent_events
from bench.harness import Contestant, Finding, Result, Size, content_hash, interleave, median_seconds, ratio
from bench.report import run_alone
from eventstore import BlockingLmdbEventLog, NewEvent
from session.codec import encode_event
from session.events import MetadataUpdated, SessionCreated
from session.storage._listing import SNAPSHOT_EVENTS
from session.storage.blocking import BlockingEventSessionStorage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from session.events import SessionEvent

QUESTION = "how long does it take to list the newest of many sessions?"
PAGE = 50


def run(size: Size) -> Result:
    """Many sessions that nobody looks at, and a page of newer ones whose snapshots are as old as they get."""
    idle, repeats = size.pick(full=100_000, small=200), size.pick(full=10, small=2)
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(size.scratch())
        short, long = (stack.enter_context(_written(directory / f"{events}", idle, events)) for events in (40, 400))
        contestants = [
            Contestant("short histories", "-", _round(short, repeats)),
            Contestant("long histories", "-", _round(long, repeats)),
        ]
        series = interleave(size, contestants)
        hashes = {name: _hash(storage) for name, storage in (("short histories", short), ("long histories", long))}
    first, second = series.values()
    findings = [
        Finding(f"newest {PAGE} of {idle:,} sessions", first.median, "s", at_most=0.020),
        Finding("histories of 400 events / of 40", ratio(second, first), at_most=1.3),
    ]
    return Result(QUESTION, list(series.values()), findings, {"titles": hashes})


def _written(path: Path, idle: int, events: int) -> BlockingEventSessionStorage:
    with BlockingLmdbEventLog(path, durability="os") as log:
        for number in range(idle):
            session = f"idle_{number:016}"
            log.append(session, [NewEvent(*encode_event(SessionCreated(session)))])
    storage = BlockingEventSessionStorage(path, durability="os")
    for number in range(PAGE):
        _write(storage, f"sess_{number:016}", number, events)
    return storage


def _write(storage: BlockingEventSessionStorage, session: str, number: int, count: int) -> None:
    """*count* events up to the last snapshot, and then as many as come before the next."""
    title = MetadataUpdated(b'{"title":"Session %d","tags":["bench"]}' % number)
    first: list[SessionEvent] = [SessionCreated(session), title]
    events = itertools.chain(first, agent_events(number))
    version, total = 0, count - count % SNAPSHOT_EVENTS + SNAPSHOT_EVENTS - 1
    while version < total:
        batch = list(itertools.islice(events, min(SNAPSHOT_EVENTS, total - version)))
        version = storage.append(session, batch, expected=version).version


def _round(storage: BlockingEventSessionStorage, repeats: int) -> Callable[[int], float]:
    return lambda _: median_seconds(lambda _: storage.summaries(PAGE), range(repeats))


def _hash(storage: BlockingEventSessionStorage) -> str:
    page = storage.summaries(PAGE)
    assert not page.unreadable
    assert all(summary.messages and summary.usage for summary in page.items)
    return content_hash(f"{summary.id} {summary.title}".encode() for summary in page.items)


if __name__ == "__main__":
    run_alone(__file__, run)
