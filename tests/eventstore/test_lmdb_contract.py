"""The log on LMDB keeps the contract, and does what the log in memory does."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from eventstore import LmdbEventLog
from eventstore.testing import PersistentEventLogContract
from eventstore.testing.machine import log_machine
from tests.eventstore.soundness import problems_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from eventstore.log import EventLog


def open_log(
    path: Path, *, clock: Callable[[], int] = time.time_ns, entropy: Callable[[int], bytes] = os.urandom
) -> EventLog:
    return LmdbEventLog(path, durability="os", clock=clock, entropy=entropy)


async def check(log: EventLog) -> None:
    assert isinstance(log, LmdbEventLog)
    assert problems_of(log.blocking) == []


class TestLmdbEventLog(PersistentEventLogContract):
    def open(
        self, path: Path, *, clock: Callable[[], int] = time.time_ns, entropy: Callable[[int], bytes] = os.urandom
    ) -> EventLog:
        return open_log(path, clock=clock, entropy=entropy)

    async def check(self, log: EventLog) -> None:
        await check(log)


_machine = log_machine(open_log, persistent=True, check=check)


class TestLmdbMachine(_machine.TestCase):  # type: ignore[name-defined,misc]
    settings = settings(max_examples=12)


@pytest.mark.slow
class TestLmdbMachineAtLength(_machine.TestCase):  # type: ignore[name-defined,misc]
    """As many runs as the profile says."""
