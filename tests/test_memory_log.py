"""The log in memory keeps the contract."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from eventstore.memory import MemoryEventLog
from eventstore.testing import EventLogContract

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from eventstore.log import EventLog


class TestMemoryEventLog(EventLogContract):
    def open(
        self, path: Path, *, clock: Callable[[], int] = time.time_ns, entropy: Callable[[int], bytes] = os.urandom
    ) -> EventLog:
        del path  # it lives in memory
        return MemoryEventLog(clock=clock, entropy=entropy)
