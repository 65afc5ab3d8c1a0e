"""Replay: a program on the anthropic SDK, run against its recording. Nothing reaches the network.

`Replayer` is a middleware of the client. It answers each call with what was recorded, and raises
`ReplayDivergedError` at the first call that is not the recorded one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from session.replay.errors import (
    Divergence,
    NothingToReplayError,
    ReplayDivergedError,
    ReplayError,
    ReplayOverError,
    ResponseNotRecordedError,
)

if TYPE_CHECKING:
    from session.replay._replayer import Replayer

__all__ = [
    "Divergence",
    "NothingToReplayError",
    "ReplayDivergedError",
    "ReplayError",
    "ReplayOverError",
    "Replayer",
    "ResponseNotRecordedError",
]


def __getattr__(name: str) -> object:
    if name != "Replayer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from session.replay._replayer import Replayer  # noqa: PLC0415 - who only reads recordings needs no SDK

    return globals().setdefault(name, Replayer)
