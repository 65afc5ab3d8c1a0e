"""Who may pass while the map of the file changes, and locks that know whether this thread holds them.

A signal handler runs in the middle of whatever the main thread was at. One that closes a log must not wait there for a
lock that the code it interrupted holds: so these locks can be asked.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType


class WouldWaitError(Exception):
    """The gate is not free, and the caller does not want to wait. Never leaves the package."""


class OwnedLock:
    """A lock that can tell its holder so."""

    def __init__(self) -> None:
        self._lock: Final = threading.Lock()
        self._takers: Final[list[int]] = []  # threads

    def is_held_here(self) -> bool:
        """Whether this thread holds it, or is about to."""
        return threading.get_ident() in self._takers

    def __enter__(self) -> None:
        self._takers.append(threading.get_ident())
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
        self._takers.remove(threading.get_ident())


class Gate:
    """Many pass at once, or one alone: transactions pass, changing the map needs it alone. Nobody enters twice."""

    def __init__(self) -> None:
        self._condition = threading.Condition()  # on a lock that its holder may take again: in a signal handler
        self._inside: list[int] = []  # threads
        self._wanted_alone = 0
        self._alone = False

    def enter(self, *, wait: bool = True) -> None:
        """Pass, once nobody has it alone or waits for that: readers that never cease must not keep it out.

        Raises `WouldWaitError` instead of waiting, if that was asked.
        """
        with self._condition:
            while self._wanted_alone:
                if not wait:
                    raise WouldWaitError
                self._condition.wait()
            self._inside.append(threading.get_ident())

    def leave(self) -> None:
        """What was begun with `enter` is over."""
        with self._condition:
            self._inside.remove(threading.get_ident())
            if self._wanted_alone:
                self._condition.notify_all()

    def forget(self) -> None:
        """In a forked child: those who were inside are not here, nor who held the lock."""
        self._condition = threading.Condition()
        self._inside = []

    def is_passed_here(self) -> bool:
        """Whether this thread is inside."""
        return threading.get_ident() in self._inside

    @contextlib.contextmanager
    def alone(self, *, passed: bool = False) -> Iterator[None]:
        """Wait until all have left, and keep others out. *passed*: the caller is inside, and stays."""
        assert passed == self.is_passed_here(), "it would wait for itself"
        with self._condition:
            self._wanted_alone += 1
            try:
                while self._alone or len(self._inside) > passed:
                    self._condition.wait()
                self._alone = True
            except BaseException:  # an interrupt
                self._wanted_alone -= 1
                self._condition.notify_all()
                raise
        try:
            yield
        finally:
            with self._condition:
                self._alone = False
                self._wanted_alone -= 1
                self._condition.notify_all()
