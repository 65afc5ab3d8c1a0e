"""The contract that every `EventLog` keeps, as pytest classes to subclass.

    class TestMyLog(EventLogContract):
        def open(self, path, *, clock=time.time_ns, entropy=os.urandom):
            return MyLog(path, clock=clock, entropy=entropy)

Each test is a claim, and is called after the promise it puts to the test (P1 to P8, see `eventstore.log`). What only a
particular engine can show is left to it: that a power cut spares what was acknowledged (P1), that a fork costs the same
at any size (P5), that damage is told (P8).
"""

from __future__ import annotations

from eventstore.testing.contract_append import ExpectationContract, LimitContract, OrderContract, RepetitionContract
from eventstore.testing.contract_cache import CheckpointContract, SnapshotContract
from eventstore.testing.contract_delete import DeleteContract, EraseContract
from eventstore.testing.contract_follow import FollowContract
from eventstore.testing.contract_fork import ForkContract, ForkRefusalContract
from eventstore.testing.contract_life import ClosingContract, NameContract, ReopeningContract
from eventstore.testing.contract_read import ReadContract, StreamsContract, WholeLogContract
from eventstore.testing.contract_restore import DigestContract, RestoreContract, RestoreRefusalContract

__all__ = ["EventLogContract", "PersistentEventLogContract"]


class EventLogContract(
    OrderContract,
    ExpectationContract,
    RepetitionContract,
    LimitContract,
    ReadContract,
    WholeLogContract,
    StreamsContract,
    ForkContract,
    ForkRefusalContract,
    DeleteContract,
    EraseContract,
    FollowContract,
    DigestContract,
    RestoreContract,
    RestoreRefusalContract,
    SnapshotContract,
    CheckpointContract,
    NameContract,
    ClosingContract,
):
    """What any log does. Override `open`, and `check` if the engine can look deeper than `check_log`."""


class PersistentEventLogContract(EventLogContract, ReopeningContract):
    """And what a log does that outlives its object: `open` at the path of a closed log finds what that held."""
