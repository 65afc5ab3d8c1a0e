"""What does it cost to load a session of 10,000 mixed events: read, decode, fold?

Bars, against `msgspec.json.decode` of every message's bytes to builtins, with the garbage collector as the loader has
it: at most 2.0x with messages as exact bytes that are parsed when looked at, at most 2.5x with every message parsed;
and at most 3x the bytes of its messages in memory. The text is that of `bench.conversations`: random letters with
newlines, quotes and escapes at the rates of real transcripts, for they decide how long a decoder takes.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bench.conversations import agent_events
from bench.harness import Contestant, Finding, Result, Series, Size, content_hash, interleave, ratio
from bench.report import run_alone
from session.events import SessionCreated
from session.storage.blocking import BlockingEventSessionStorage

if TYPE_CHECKING:
    from collections.abc import Callable

    from session.state import SessionState

QUESTION = "what does it cost to load a long session?"
SESSION = "sess_0123456789abcdef"
ROOT = Path(__file__).parents[1]
MEMORY_SCRIPT = """
import sys
from session.storage.blocking import BlockingEventSessionStorage

def resident(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name)) * 1024

def forget_peak():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")

with BlockingEventSessionStorage(sys.argv[1], durability="os") as storage:
    storage.load(sys.argv[2] + "-small")
    forget_peak()
    before = resident("RssAnon")
    state = storage.load(sys.argv[2])
    print(resident("RssAnon") - before, state.messages.size_bytes)
"""


def run(size: Size) -> Result:
    """The session is written once; every round loads it anew from the log."""
    count = size.pick(full=10_000, small=200)
    with size.scratch() as directory, BlockingEventSessionStorage(directory / "log", durability="os") as storage:
        for session, events in ((SESSION, count), (SESSION + "-small", 100)):
            _write(storage, session, events)
        state = _loaded(storage)
        raw = state.messages.raw
        series = interleave(
            size,
            [
                Contestant("msgspec.json.decode of its messages", "-", _timed(lambda: [_decode(text) for text in raw])),
                Contestant("load, messages as bytes", "-", _timed(lambda: _loaded(storage))),
                Contestant("load, every message parsed", "-", _timed(lambda: list(_loaded(storage).messages))),
            ],
        )
        memory = _memory(directory / "log", state.messages.size_bytes)
        hashes = {
            "written": content_hash(state.messages.raw),
            "loaded": content_hash(_loaded(storage).messages.raw),
        }
    decode, lazily, parsed = series.values()
    findings = [
        Finding("messages as bytes / decode", ratio(lazily, decode), at_most=2.0),
        Finding("every message parsed / decode", ratio(parsed, decode), at_most=2.5),
        Finding("memory / bytes of the messages", memory.median / state.messages.size_bytes, at_most=3.0),
    ]
    return Result(QUESTION, [*series.values(), memory], findings, {f"{count:,} events": hashes})


_decode = msgspec.json.Decoder().decode


def _write(storage: BlockingEventSessionStorage, session: str, count: int) -> None:
    storage.append(session, [SessionCreated(session)], expected=0)
    events = itertools.islice(agent_events(0), count - 1)
    while batch := list(itertools.islice(events, 500)):
        storage.append(session, batch)


def _loaded(storage: BlockingEventSessionStorage) -> SessionState:
    state = storage.load(SESSION)
    assert state is not None
    return state


def _timed(work: Callable[[], object]) -> Callable[[int], float]:
    def play(_: int) -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return play


def _memory(path: Path, messages: int) -> Series:
    """What the process grew by (anonymous pages: the map of the file is the page cache's), in a process of its own."""
    command = [sys.executable, "-c", MEMORY_SCRIPT, str(path), SESSION]
    grown, loaded = map(int, subprocess.check_output(command, cwd=ROOT, text=True).split())
    assert loaded == messages
    return Series("load, memory", "-", "bytes", [float(grown)])


if __name__ == "__main__":
    run_alone(__file__, run)
