"""Snapshots of prefixes that this process had to fold, for the forks that it meets next. A cache in memory, bounded.

A prefix of a session never changes: what is known of it stays true, even when the session is deleted.
"""

from __future__ import annotations

import threading
from bisect import bisect_right, insort
from typing import Final

MAX_BYTES: Final = 4 * 2**20
_ENTRY_BYTES: Final = 500  # that Python takes for an entry, beside its data


class Prefixes:
    """What is known, the oldest forgotten first. Thread-safe."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._data: dict[tuple[str, int], bytes] = {}  # in the order they came
        self._versions: dict[str, list[int]] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def add(self, session_id: str, version: int, data: bytes) -> None:
        """*data* is the snapshot of the session at *version*."""
        with self._lock:
            if (session_id, version) in self._data:
                return
            self._data[session_id, version] = data
            insort(self._versions.setdefault(session_id, []), version)
            self._bytes += len(data) + _ENTRY_BYTES
            while self._bytes > self._max_bytes:
                self._forget(*next(iter(self._data)))

    def nearest(self, session_id: str, most: int) -> tuple[int, bytes] | None:
        """The newest one at version *most* or before."""
        with self._lock:
            versions = self._versions.get(session_id, [])
            place = bisect_right(versions, most)
            return (versions[place - 1], self._data[session_id, versions[place - 1]]) if place else None

    def _forget(self, session_id: str, version: int) -> None:
        self._bytes -= len(self._data.pop((session_id, version))) + _ENTRY_BYTES
        versions = self._versions[session_id]
        versions.remove(version)
        if not versions:
            del self._versions[session_id]
