"""Recording: what any program on the anthropic SDK says to the Messages API, as sessions.

`Recorder` is a middleware of the client. What a recording holds can be read with `chunks_of` (the exact bodies, in the
pieces in which they came) and compared by `session.recording.digests`.
"""

from __future__ import annotations

from session.recording._recorder import Recorder
from session.recording._runs import run_of
from session.recording.chunks import Chunk, chunks_of

__all__ = ["Chunk", "Recorder", "chunks_of", "run_of"]
