"""Proof for any `EventLog`: its contract as pytest classes, and a state machine that compares it with the oracle.

`EventLogContract` and `PersistentEventLogContract` are to be subclassed; a test of one's own in such a class takes a
log and is marked with `claim`. `eventstore.testing.machine.log_machine` makes the state machine. Needs pytest, and the
machine hypothesis.
"""

import pytest

# Before the imports, so that a failed claim shows its values.
_NOUNS = ("append", "base", "cache", "delete", "follow", "fork", "life", "read", "restore")
pytest.register_assert_rewrite(*(f"{__name__}.contract_{noun}" for noun in _NOUNS), f"{__name__}.machine")

from eventstore.testing.contract import EventLogContract, PersistentEventLogContract  # noqa: E402
from eventstore.testing.contract_base import check_log, claim  # noqa: E402

__all__ = ["EventLogContract", "PersistentEventLogContract", "check_log", "claim"]
