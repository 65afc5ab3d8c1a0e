"""Replay: a program on the anthropic SDK, run against its recording. Nothing reaches the network.

`Replayer` is a middleware of the client. It answers each call with what was recorded, and raises
`ReplayDivergedError` at the first call that is not the recorded one.
"""

from __future__ import annotations

from session.replay._replayer import Replayer
from session.replay.errors import (
    Divergence,
    NothingToReplayError,
    ReplayDivergedError,
    ReplayError,
    ReplayOverError,
    ResponseNotRecordedError,
)

__all__ = [
    "Divergence",
    "NothingToReplayError",
    "ReplayDivergedError",
    "ReplayError",
    "ReplayOverError",
    "Replayer",
    "ResponseNotRecordedError",
]
