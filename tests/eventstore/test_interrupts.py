"""A signal handler that raises, as Ctrl-C does, leaves nothing held, wherever it comes."""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from eventstore import BlockingLmdbEventLog, LogInUseError, LogReplacedError, NewEvent, _engine

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
PATIENCE_SECONDS = 30


class Interrupt(BaseException):
    """What the handler raises."""


def interrupt(work: Callable[[], object], at: int) -> str:
    """Run *work*, and raise at the *at*-th moment at which CPython would run a signal handler of this thread: when a
    function written in Python begins, and when one written in C has returned. Says where that was; nowhere if *work*
    was over before.
    """
    moments = itertools.count()
    place = ""

    def look(frame: FrameType, what: str, function: object) -> None:
        nonlocal place
        if what in {"call", "c_return"} and next(moments) == at:
            place = f"{frame.f_code.co_filename}:{frame.f_lineno} {what} {function}"
            raise Interrupt

    try:
        sys.setprofile(look)
        work()
    except Interrupt:
        pass
    finally:
        sys.setprofile(None)
    return place


def event() -> NewEvent:
    return NewEvent("type", b"x")


def another_thread_can(work: Callable[[], object]) -> bool:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    return not thread.is_alive()


@pytest.mark.parametrize("use", ["head", "read", "append", "check_in_place", "compact", "refused"])
def test_an_interrupt_at_any_moment_leaves_nothing_held(use: str, log: BlockingLmdbEventLog) -> None:
    log.append("stream", [event()])

    def refused() -> None:
        with pytest.raises(LogInUseError):
            BlockingLmdbEventLog(log.path, durability="disk")

    def compact() -> None:
        with contextlib.suppress(LogReplacedError):  # of one that was interrupted as it put the new file in its place
            log.compact()

    uses: dict[str, Callable[[], object]] = {
        "head": lambda: log.head("stream"),
        "read": lambda: log.read("stream"),
        "append": lambda: log.append("another", [event()]),
        "check_in_place": log.engine.environment.check_in_place,
        "compact": compact,
        "refused": refused,
    }
    for at in itertools.count():
        place = interrupt(uses[use], at)
        if not place:
            break
        assert not _engine._engines_lock.is_held_here(), place
        assert not log.engine.is_used_here(), place
    assert at > 1
    if use != "compact":
        assert another_thread_can(lambda: log.append("stream", [event()], expected=1))
    assert another_thread_can(log.close)
