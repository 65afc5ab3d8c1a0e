"""Who may pass while the map of the file changes."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Gate:
    """Many pass at once, or one alone: transactions pass, changing the map needs it alone. Nobody enters twice."""

    def __init__(self) -> None:
        self._condition = threading.Condition(threading.Lock())
        self._inside = 0
        self._wanted_alone = 0

    def enter(self) -> None:
        """Pass, once nobody has it alone or waits for that: readers that never cease must not keep it out."""
        with self._condition:
            while self._wanted_alone:
                self._condition.wait()
            self._inside += 1

    def leave(self) -> None:
        """What was begun with `enter` is over."""
        with self._condition:
            self._inside -= 1
            if self._wanted_alone:
                self._condition.notify_all()

    @contextlib.contextmanager
    def alone(self, *, passed: bool = False) -> Iterator[None]:
        """Wait until all have left, and keep others out. *passed*: the caller is inside, and stays."""
        with self._condition:
            self._wanted_alone += 1
            try:
                while self._inside > passed:
                    self._condition.wait()
                yield
            finally:
                self._wanted_alone -= 1
                self._condition.notify_all()
