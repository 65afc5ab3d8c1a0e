"""How long does the command line keep a person waiting?

Bars, against `python -c 'import click, asyncio, msgspec, lmdb'` in the same rounds: `refold --help` and `refold list`
on 100 sessions at most 2x; `list` of the newest 50 of 100,000 and `show` of the last 20 messages of a session with
100,000 at most 3x, in at most 1.5x the memory of the same in a store of 100; `fork` at most 2x, at any length.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.harness import Contestant, Durability, Finding, Result, Series, Size, content_hash, interleave, ratio
from bench.report import run_alone
from eventstore import BlockingLmdbEventLog, NewEvent
from session.codec import encode_event
from session.events import MessageAppended, MetadataUpdated, SessionCreated
from session.storage.blocking import BlockingEventSessionStorage

if TYPE_CHECKING:
    from collections.abc import Callable

QUESTION = "how long does the command line keep a person waiting?"
ROOT = Path(__file__).parents[1]
IMPORTS: Final = "import click, asyncio, msgspec, lmdb"
LIST: Final = ("list", "--limit", "50")
SHOW: Final = ("show", "sess_long", "--last", "20")
FORK: Final = ("fork", "sess_long")
_BATCH: Final = 1_000


def run(size: Size) -> Result:
    """Each command as a process of its own, from its start to its end; the first round compiles the modules."""
    many, few = size.pick(full=100_000, small=300), 100
    with size.scratch() as directory:
        short, long = directory / "short", directory / "long"
        _write(short, few, few)
        _write(long, many, many)
        runner = _Runner(directory / "compiled", size.pick(full=3, small=1))
        contestants = [
            Contestant(IMPORTS, "-", runner.play("imports", ["-c", IMPORTS])),
            Contestant("refold --help", "-", runner.play("help", ["-m", "session", "--help"])),
            *(
                Contestant(f"{command[0]}, {count:,}", _durability(command), runner.refold(count, path, command))
                for path, count in ((short, few), (long, many))
                for command in (LIST, SHOW, FORK)
            ),
        ]
        series = interleave(size, contestants)
    return Result(QUESTION, list(series.values()), _findings(series, runner, few, many), runner.hashes(few, many))


def _findings(series: dict[str, Series], runner: _Runner, few: int, many: int) -> list[Finding]:
    imports = series[IMPORTS]

    def times(name: str, at_most: float) -> Finding:
        return Finding(f"{name} / imports", ratio(series[name], imports), at_most=at_most)

    def memory(command: str) -> Finding:
        long, short = runner.kilobytes[f"{command} {many}"], runner.kilobytes[f"{command} {few}"]
        return Finding(f"memory of {command}, {many:,} / {few:,}", long / short, at_most=1.5)

    return [
        times("refold --help", 2),
        times(f"list, {few:,}", 2),
        times(f"list, {many:,}", 3),
        times(f"show, {many:,}", 3),
        times(f"fork, {few:,}", 2),
        times(f"fork, {many:,}", 2),
        memory("list"),
        memory("show"),
    ]


class _Runner:
    """Runs processes, and keeps what they printed and the most memory that each had."""

    def __init__(self, compiled: Path, count: int) -> None:
        self._count = count
        self._environment = os.environ | {"PYTHONPYCACHEPREFIX": str(compiled), "PYTHONDONTWRITEBYTECODE": ""}
        self.printed: dict[str, str] = {}
        self.kilobytes: dict[str, int] = {}

    def refold(self, count: int, store: Path, command: tuple[str, ...]) -> Callable[[int], float]:
        return self.play(f"{command[0]} {count}", ["-m", "session", "--store", str(store), *command])

    def play(self, name: str, arguments: list[str]) -> Callable[[int], float]:
        def played(_: int) -> float:
            return min(self._run(name, arguments) for _ in range(self._count))

        return played

    def _run(self, name: str, arguments: list[str]) -> float:
        began = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env=self._environment, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            printed = process.stdout.read()
            _, status, used = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - began
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, f"{name}: exit code {process.returncode}"
        self.printed[name] = printed
        self.kilobytes[name] = used.ru_maxrss
        return seconds

    def hashes(self, few: int, many: int) -> dict[str, dict[str, str]]:
        """Both stores have the same newest sessions and messages: the lists and the ends of the history are alike."""
        return {
            "titles": {str(count): self._hash(f"list {count}", 50) for count in (few, many)},
            "messages": {str(count): self._hash(f"show {count}", 20) for count in (few, many)},
        }

    def _hash(self, name: str, count: int) -> str:
        """Of the last column: ids of forks and indexes of messages are not the same in both."""
        rows = [line.split("\t") for line in self.printed[name].splitlines()]
        assert len(rows) == count, name
        return content_hash(row[-1].encode() for row in rows)


def _durability(command: tuple[str, ...]) -> Durability:
    return "disk" if command is FORK else "-"


def _write(path: Path, sessions: int, messages: int) -> None:
    """So many sessions, the newest of which have titles, and one with so many messages."""
    with BlockingLmdbEventLog(path, durability="os") as log:
        for number in range(sessions - 60):
            session = f"idle_{number:016}"
            log.append(session, [NewEvent(*encode_event(SessionCreated(session)))])
    with BlockingEventSessionStorage(path, durability="os") as storage:
        storage.append("sess_long", [SessionCreated("sess_long")], expected=0)
        for first in range(0, messages, _BATCH):
            left = range(messages - first, max(0, messages - first - _BATCH), -1)
            storage.append("sess_long", [_message(number) for number in left])
        for number in range(60):
            session = f"sess_{number:016}"
            title = MetadataUpdated(b'{"title":"Session %d"}' % number)
            storage.append(session, [SessionCreated(session), title], expected=0)


def _message(from_the_end: int) -> MessageAppended:
    role = "user" if from_the_end % 2 else "assistant"
    return MessageAppended.of({"role": role, "content": f"message {from_the_end} " + "lorem ipsum " * 40})


if __name__ == "__main__":
    run_alone(__file__, run)
