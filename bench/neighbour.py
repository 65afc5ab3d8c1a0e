"""Other processes that write to the same file while a bench measures."""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import time
from typing import TYPE_CHECKING

from bench.rivals import Sqlite
from bench.workload import kilobytes, message
from eventstore import BlockingLmdbEventLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection
    from pathlib import Path

EVENTS_PER_COMMIT = 64
BUSY_STREAM = "busy"
STAMPED_STREAM = "stamped"
STAMP_BYTES = 8
PATIENCE_SECONDS = 60


@contextlib.contextmanager
def neighbour(work: Callable[[Path, Connection], None], path: Path) -> Iterator[Connection]:
    """A process that does *work* with the file at *path*, once it has reported that it is ready; it ends when our side
    of the connection is closed.
    """
    context = multiprocessing.get_context("spawn")  # no forked copy of our open files, locks and threads
    here, there = context.Pipe()
    process = context.Process(target=work, args=(path, there), daemon=True)
    process.start()
    there.close()
    try:
        if not here.poll(PATIENCE_SECONDS):
            raise TimeoutError("the other process does not start")
        here.recv()
        yield here
    finally:
        here.close()
        process.join()
        process.close()


@contextlib.contextmanager
def busy(link: Connection) -> Iterator[None]:
    """Let a neighbour write that has `write_busily`, and stop it afterwards."""
    link.send("write")
    link.recv()
    yield
    link.send("hold")
    link.recv()


def write_busily(path: Path, link: Connection) -> None:
    """Commit durably to a log of ours, without a pause, as long as `busy` lasts."""
    events = [message(data) for data in kilobytes(0, EVENTS_PER_COMMIT)]
    with BlockingLmdbEventLog(path, durability="disk") as log:
        _write_on_demand(link, lambda: log.append(BUSY_STREAM, events))


def write_busily_to_sqlite(path: Path, link: Connection) -> None:
    """Commit durably to an SQLite file, without a pause, as long as `busy` lasts."""
    batch = [(BUSY_STREAM, data) for data in kilobytes(0, EVENTS_PER_COMMIT)]
    with Sqlite(path) as database:
        _write_on_demand(link, lambda: database.append(batch))


def _write_on_demand(link: Connection, append: Callable[[], object]) -> None:
    with contextlib.suppress(EOFError, BrokenPipeError):
        link.send("ready")
        while link.recv():
            append()
            link.send("writing")
            while not link.poll():
                append()
            link.recv()
            link.send("held")


def write_stamps(path: Path, link: Connection) -> None:
    """For every message, append an event that says when its append began, after a random part of 100 ms: a follower
    that looks now and then is met at any moment of its pause.
    """
    pauses = random.Random(0)
    with BlockingLmdbEventLog(path, durability="disk") as log, contextlib.suppress(EOFError, BrokenPipeError):
        link.send("ready")
        while link.recv():
            time.sleep(pauses.random() / 10)
            # One clock for all processes of a machine.
            log.append(STAMPED_STREAM, [message(time.monotonic_ns().to_bytes(STAMP_BYTES, "big"))])
