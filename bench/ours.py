"""Opening, filling and measuring logs of our own."""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING

import lmdb

from eventstore import LmdbEventLog

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import Literal

    from eventstore import BlockingLmdbEventLog, NewEvent

EVENTS_PER_APPEND = 1000


@contextlib.contextmanager
def opened(runner: asyncio.Runner, path: Path, durability: Literal["disk", "os"]) -> Iterator[LmdbEventLog]:
    """A log for coroutines that *runner* runs."""
    log = LmdbEventLog(path, durability=durability)
    try:
        yield log
    finally:
        runner.run(log.aclose())


def fill(log: BlockingLmdbEventLog, stream: str, events: Iterable[NewEvent]) -> None:
    """Append many events in few commits."""
    rest = iter(events)
    while batch := list(itertools.islice(rest, EVENTS_PER_APPEND)):
        log.append(stream, batch)


def contents(log: BlockingLmdbEventLog, stream: str) -> list[bytes]:
    """The data of its lineage."""
    return [event.data for event in log.read(stream)]


def used_bytes(path: Path) -> int:
    """The pages in use of a log that nobody has open; its file may be larger by pages that are free again."""
    with lmdb.open(str(path), readonly=True, lock=False, lib_version=0) as env:
        pages = env.stat()
    return pages["psize"] * (pages["branch_pages"] + pages["leaf_pages"] + pages["overflow_pages"])
