"""Proof for any `EventLog`: its contract as pytest classes, and a state machine that compares it with the oracle.

Needs pytest, and hypothesis for the machine.
"""

import pytest

# Before the imports, so that a failed claim shows its values.
_NOUNS = ("append", "base", "cache", "delete", "follow", "fork", "life", "read", "restore")
pytest.register_assert_rewrite(*(f"{__name__}.contract_{noun}" for noun in _NOUNS))

from eventstore.testing.contract import EventLogContract, PersistentEventLogContract  # noqa: E402
from eventstore.testing.contract_base import check_log  # noqa: E402

__all__ = ["EventLogContract", "PersistentEventLogContract", "check_log"]
