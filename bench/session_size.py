"""How large is the file of one session of 1,000 turns, in the events that a session really has?

A turn is an ask of 250 B, its request, an answer of 900 B with response and usage; summaries are kept on the way. Bar:
at most 3.0 MB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.conversations import chat_turn
from bench.harness import Finding, Result, Series, Size, content_hash, file_bytes
from bench.report import run_alone
from bench.workload import Text
from session.events import SessionCreated
from session.storage.blocking import BlockingEventSessionStorage

if TYPE_CHECKING:
    from pathlib import Path

QUESTION = "how large is the file of one session of 1,000 turns?"
SESSION = "sess_0123456789abcdef"
BYTES_PER_TURN = 3_000


def run(size: Size) -> Result:
    """One run, without rounds; every turn is written as it happens, in three commits."""
    turns = size.pick(full=1_000, small=50)
    with size.scratch() as directory:
        path = directory / "log"
        messages, hashes = _write(path, turns)
        series = [
            Series("messages", "-", "bytes", [messages]),
            Series("refold", "disk", "bytes", [file_bytes(path)]),
        ]
    findings = [Finding(f"file of {turns:,} turns", series[1].median, "bytes", at_most=BYTES_PER_TURN * turns)]
    return Result(QUESTION, series, findings, {f"{turns:,} turns": hashes})


def _write(path: Path, turns: int) -> tuple[int, dict[str, str]]:
    text = Text(0)
    commits = [commit for number in range(turns) for commit in chat_turn(text, number)]
    with BlockingEventSessionStorage(path) as storage:
        version = storage.append(SESSION, [SessionCreated(SESSION)], expected=0).version
        for commit in commits:
            version = storage.append(SESSION, commit, expected=version).version
        stored = [event.event for event in storage.events(SESSION)]
        state = storage.load(SESSION)
    assert state is not None
    events = [event for commit in commits for event in commit]
    hashes = {"written": content_hash(map(_text, events)), "read back": content_hash(map(_text, stored[1:]))}
    return state.messages.size_bytes, hashes


def _text(event: object) -> bytes:
    return repr(event).encode()


if __name__ == "__main__":
    run_alone(__file__, run)
