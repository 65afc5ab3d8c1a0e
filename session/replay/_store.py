"""The storage that a recording is in, read without waiting for an event loop, from any thread."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeAlias

from session.storage import BlockingEventSessionStorage, EventSessionStorage
from session.storage._log import blocking_side

if TYPE_CHECKING:
    import os

Given: TypeAlias = "str | os.PathLike[str] | EventSessionStorage | BlockingEventSessionStorage"


class Store:
    """*given* is a storage, *now* the same as coroutines that never wait."""

    def __init__(
        self,
        given: EventSessionStorage | BlockingEventSessionStorage,
        now: EventSessionStorage,
        owned: BlockingEventSessionStorage | None = None,
    ) -> None:
        self.given = given
        self.now = now
        self._owned = owned

    def close(self) -> None:
        """Close what was opened here."""
        if self._owned is not None:
            self._owned.close()


def opened(given: Given) -> Store:
    """The storage *given*, or the existing one at that path. Raises `TypeError`, and what opening a log raises."""
    if isinstance(given, BlockingEventSessionStorage):
        return Store(given, given.sessions)
    if isinstance(given, EventSessionStorage):
        side = blocking_side(given.log)
        if side is not None:
            return Store(given, EventSessionStorage.over(side, time.time_ns))
        if given.log.capabilities.durability == "memory":  # its coroutines never wait
            return Store(given, given)
        raise TypeError("the log of this storage needs an event loop: copy the sessions to a local one")
    if not isinstance(given, str) and not hasattr(given, "__fspath__"):
        raise TypeError(
            "a replay needs a path or an event-sourced storage (EventSessionStorage, BlockingEventSessionStorage), "
            f"not {type(given).__name__}"
        )
    storage = BlockingEventSessionStorage(given, create=False)
    return Store(storage, storage.sessions, storage)
