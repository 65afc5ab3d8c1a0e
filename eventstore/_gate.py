"""Who may pass while the map of the file changes, and locks that know whether this thread holds them.

A signal handler runs in the middle of whatever the main thread was at. Two things follow:
- One that closes a log must not wait there for what the code it interrupted holds: so it can be asked.
- One that raises (Ctrl-C) can end a function between any two calls. What is held must not stay held then, or `close`
  would wait for it for ever: so it is taken inside a `try`, and given back in its `finally` by one call of a function
  written in C, before which no handler runs. A function written in Python can be left before its first line, a context
  manager's `__exit__` too; `with` on a lock of `threading` is safe.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_SHORTEST_PAUSE_SECONDS: Final = 0.000_05
_LONGEST_PAUSE_SECONDS: Final = 0.005


class WouldWaitError(Exception):
    """The gate is not free, and the caller does not want to wait. Never leaves the package."""


class OwnedLock:
    """A lock that can tell its holder so: `with lock.held: ...`."""

    def __init__(self) -> None:
        self.held: Final = threading.RLock()
        self.is_held_here: Final[Callable[[], bool]] = self.held._is_owned  # type: ignore[attr-defined]  # noqa: SLF001
        """Whether this thread holds it. (`threading.Condition` asks this of its lock, too.)"""


class Passage:
    """One use of the gate, by the thread that makes it."""

    __slots__ = ("thread",)

    def __init__(self) -> None:
        self.thread = threading.get_ident()


class Gate:
    """Many pass at once, or one alone: transactions pass, changing the map needs it alone. Nobody enters twice.

    ```
    passage = Passage()
    try:
        gate.enter(passage)  # or gate.enter_alone(passage)
        ...
    finally:
        gate.leave(passage)  # or gate.leave_alone(passage, None)
    ```
    Who waits looks again and again: to be woken would be a second step of leaving, which an interrupt could leave out.
    Waits are rare, and short but for a compaction.
    """

    def __init__(self) -> None:
        self._inside: Final[set[Passage]] = set()
        self._alone: Final[dict[Passage, None]] = {}  # who has it alone, or wants to, in the order in which they came
        self.leave: Final = self._inside.discard
        """What was begun with `enter` is over, or never came to be."""
        self.leave_alone: Final = self._alone.pop
        """What was begun with `enter_alone` is over, or never came to be."""

    def enter(self, passage: Passage, *, wait: bool = True) -> None:
        """Pass, once nobody has it alone or waits for that: readers that never cease must not keep it out.

        Raises `WouldWaitError` instead of waiting, if that was asked.
        """
        while True:
            self._inside.add(passage)  # before looking: of two who come at once, one sees the other
            if not self._alone:
                return
            self.leave(passage)
            if not wait:
                raise WouldWaitError
            _wait_until(lambda: not self._alone)

    def enter_alone(self, alone: Passage, *, passed: bool = False) -> None:
        """Wait until all have left, and keep others out. *passed*: the caller is inside, and stays."""
        assert passed == self.is_passed_here(), "it would wait for itself"
        self._alone[alone] = None
        if passed:  # nobody has it alone as long as the caller is inside
            _wait_until(lambda: len(self._inside) == 1)
        else:
            _wait_until(lambda: next(iter(self._alone.copy())) is alone and not self._inside)

    def forget(self) -> None:
        """In a forked child: those who were inside are not here."""
        self._inside.clear()
        self._alone.clear()

    def is_passed_here(self) -> bool:
        """Whether this thread is inside, or has it alone."""
        thread = threading.get_ident()
        return any(passage.thread == thread for passage in (*self._inside.copy(), *self._alone.copy()))


def _wait_until(done: Callable[[], bool]) -> None:
    pause = _SHORTEST_PAUSE_SECONDS
    while not done():
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
