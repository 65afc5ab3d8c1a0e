"""`python -m bench`: every question, or those named."""

from __future__ import annotations

import sys

from bench import (
    append,
    cli,
    follow,
    fork,
    fork_copy,
    group_commit,
    import_time,
    listing,
    live_turn,
    long_stream,
    open_busy,
    recording,
    replay,
    request_body,
    search,
    session_listing,
    session_load,
    session_size,
    space,
    transcripts,
    turns_size,
    verify,
)
from bench.report import main

BENCHES = {
    "append": append.run,
    "group_commit": group_commit.run,
    "long_stream": long_stream.run,
    "fork": fork.run,
    "fork_copy": fork_copy.run,
    "space": space.run,
    "turns_size": turns_size.run,
    "open_busy": open_busy.run,
    "verify": verify.run,
    "listing": listing.run,
    "follow": follow.run,
    "import_time": import_time.run,
    "live_turn": live_turn.run,
    "recording": recording.run,
    "replay": replay.run,
    "request_body": request_body.run,
    "search": search.run,
    "session_load": session_load.run,
    "session_listing": session_listing.run,
    "session_size": session_size.run,
    "cli": cli.run,
    "transcripts": transcripts.run,
}

if __name__ == "__main__":
    sys.exit(main(BENCHES))
