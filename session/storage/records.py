"""Sessions as the records of their log: how they leave a store and come back with equal digests.

`session.transfer` reads and restores these; everybody else has `session.events`.
"""

from __future__ import annotations

from session.storage._log import (
    BlockingLmdbEventLog,
    Event,
    EventTooLargeError,
    Forked,
    Head,
    InvalidStreamNameError,
    Position,
    RestoreError,
    StreamDeletedError,
)
from session.storage.base import is_session_id

__all__ = [
    "BlockingLmdbEventLog",
    "Event",
    "EventTooLargeError",
    "Forked",
    "Head",
    "InvalidStreamNameError",
    "Position",
    "RestoreError",
    "StreamDeletedError",
    "is_session_id",
]
