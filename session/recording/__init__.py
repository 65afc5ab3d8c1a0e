"""Recording: what any program on the anthropic SDK says to the Messages API, as sessions.

`Recorder` is a middleware of the client. What a recording holds can be read with `chunks_of` (the exact bodies, in the
pieces in which they came) and compared by `session.recording.digests`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from session.recording._runs import run_of
from session.recording.chunks import Chunk, chunks_of

if TYPE_CHECKING:
    from session.recording._recorder import Recorder

__all__ = ["Chunk", "Recorder", "chunks_of", "run_of"]


def __getattr__(name: str) -> object:
    if name != "Recorder":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from session.recording._recorder import Recorder  # noqa: PLC0415 - who only reads recordings needs no SDK

    return globals().setdefault(name, Recorder)
