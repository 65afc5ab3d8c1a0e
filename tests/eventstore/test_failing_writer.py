"""The writer thread goes on whatever is logged; if it ends before its time, nobody waits for it."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import pytest

from eventstore import BlockingLmdbEventLog, LogFailedError, NewEvent
from eventstore import _layout as layout
from eventstore._requests import Request
from eventstore._writer import Job
from tests.eventstore.rows import changing, copy_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENCE_SECONDS = 30


def event() -> NewEvent:
    return NewEvent("type", b"x")


def outcome_of(work: Callable[[], object]) -> Future[object]:
    """What becomes of *work*, in a thread of its own that may hang."""
    outcome: Future[object] = Future()

    def do() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001  (told to the test)
            outcome.set_exception(error)

    threading.Thread(target=do, daemon=True).start()
    return outcome


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not done():
        assert time.monotonic() < deadline, "it does not happen"


class FailingHandler(logging.Handler):
    """Raises what would end a thread."""

    def __init__(self) -> None:
        super().__init__()
        self.told = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.told.set()
        raise SystemExit(record.getMessage())


@pytest.fixture
def handler() -> Iterator[FailingHandler]:
    handler = FailingHandler()
    logging.getLogger("eventstore").addHandler(handler)
    yield handler
    logging.getLogger("eventstore").removeHandler(handler)


def test_a_logging_handler_that_raises_does_not_end_the_writer(
    log: BlockingLmdbEventLog, handler: FailingHandler, broken: Path
) -> None:
    log.append("stream", [event() for _ in range(10)])
    position = int.from_bytes(log.read("stream")[4].position[8:], "big")
    copy = copy_of(log, broken / "copy")
    with changing(copy) as transaction:
        record = bytearray(transaction.get(layout.log_key(position)))
        record[30] ^= 1
        transaction.put(layout.log_key(position), bytes(record))
    again = BlockingLmdbEventLog(copy, durability="os")
    again.delete("stream")
    assert handler.told.wait(PATIENCE_SECONDS), "erasure stops at the damage, and says so"
    assert outcome_of(lambda: again.append("other", [event()]).version).result(PATIENCE_SECONDS) == 1
    outcome_of(again.close).result(PATIENCE_SECONDS)


class BrokenWaiter:
    """Cannot be woken."""

    def wake(self, job: Job[Any]) -> None:  # noqa: ARG002
        raise ZeroDivisionError


def test_a_writer_that_fails_fails_whatever_waits_and_whatever_comes_later(log: BlockingLmdbEventLog) -> None:
    log.append("stream", [event()])
    writer, go_on = log.engine.writer, threading.Event()
    first = outcome_of(lambda: writer.call(Request(lambda _: go_on.wait(PATIENCE_SECONDS))))
    wait_until(lambda: writer._environment._gate._inside != set())
    wait_until(writer._queue.empty)
    writer._submit(Job(Request(lambda _: None, size=2**30), BrokenWaiter()))  # so large that it is a batch of its own
    waiting = outcome_of(lambda: log.append("stream", [event()]))
    wait_until(lambda: writer._queue.qsize() == 2)
    go_on.set()
    assert first.result(PATIENCE_SECONDS)
    for outcome in (waiting, outcome_of(lambda: log.append("stream", [event()]))):
        with pytest.raises(LogFailedError, match="ZeroDivisionError"):
            outcome.result(PATIENCE_SECONDS)
    assert len(log.read("stream")) == 1, "what is there can be read"
    outcome_of(log.close).result(PATIENCE_SECONDS)
