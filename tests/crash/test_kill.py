"""SIGKILL at any moment loses nothing that was acknowledged, and leaves no commit in part.

A child process works on a log and says through a pipe what was acknowledged, after the fact; it is killed after a
random number of lines and a moment more. A kill cannot see a missing flush: for that there is `test_power_cut`.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import lmdb
import pytest

from eventstore import BlockingLmdbEventLog, Event
from eventstore.verify import verify
from tests.crash.acknowledgements import Word
from tests.crash.opener import REPOSITORY, Opener

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_PATIENCE_SECONDS = 30.0
_KILLS_OF_ONE_LOG = 12
_ATTEMPTS = 10


class Child:
    """A running workload, and what it has said."""

    def __init__(self, path: Path, seed: int, *options: str) -> None:
        command = [sys.executable, "-m", "tests.crash.workload", str(path), "--seed", str(seed), *options]
        self._process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._pipe = self._process.stdout.fileno()
        self._said = b""
        self._ended = False

    def lines(self) -> list[bytes]:
        return self._said.splitlines()

    def listen_until(self, enough: Callable[[list[bytes]], bool]) -> None:
        """Returns as soon as it has said enough."""
        while not enough(self.lines()):
            assert self._listen(_PATIENCE_SECONDS), f"it ended or hung, having said {len(self.lines())} lines"

    def listen_for(self, seconds: float) -> None:
        """Returns when the time is up, or when it has ended."""
        deadline = time.perf_counter() + seconds
        while (left := deadline - time.perf_counter()) > 0 and not self._ended:
            self._listen(left)

    def kill(self) -> list[bytes]:
        """All that it said before it died of SIGKILL, or ended by itself just before."""
        self._process.kill()
        return self._rest({-signal.SIGKILL, 0})

    def finish(self) -> list[bytes]:
        """All that it said until it ended by itself."""
        return self._rest({0})

    def _rest(self, codes: set[int]) -> list[bytes]:
        while self._listen(_PATIENCE_SECONDS):
            pass
        with self._process:
            assert self._ended, "it hangs"
            assert self._process.wait() in codes
        assert not self._said or self._said.endswith(b"\n")
        return self.lines()

    def _listen(self, seconds: float) -> bool:
        if self._ended or not select.select([self._pipe], [], [], seconds)[0]:
            return False
        heard = os.read(self._pipe, 1 << 16)
        self._ended = not heard
        self._said += heard
        return bool(heard)


@pytest.mark.parametrize("kills", [6, pytest.param(200, marks=pytest.mark.slow)])
def test_a_kill_loses_nothing_that_was_acknowledged(kills: int, tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    choices = random.Random(seed)
    said: list[bytes] = []
    with Opener() as opener:
        for number in range(kills):
            if number % _KILLS_OF_ONE_LOG == 0:
                said, path = [], tmp_path / f"log-{number}"
            child = Child(path, seed + number, "--threads", "3", "--compact")
            lines = choices.choice((1, 2, choices.randint(3, 150)))  # while it opens, at once, or later
            child.listen_until(lambda heard, lines=lines: len(heard) >= lines)  # type: ignore[misc]
            child.listen_for(choices.random() * 0.01)
            said += child.kill()
            assert not opener.examine(path, said), f"kill {number} after {lines} lines"


@pytest.mark.parametrize("rounds", [1, pytest.param(15, marks=pytest.mark.slow)])
def test_a_killed_writer_does_not_hold_up_the_others(rounds: int, tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    choices = random.Random(seed)
    with Opener() as opener:
        for number in range(rounds):
            path = tmp_path / f"log-{number}"
            survivor = Child(path, 2 * number, "--threads", "2")
            survivor.listen_until(lambda heard: len(heard) > 2)
            victim = Child(path, 2 * number + 1, "--threads", "2")
            victim.listen_until(lambda heard: len(heard) > 10)
            victim.listen_for(choices.random() * 0.01)
            said = victim.kill()
            before = len(survivor.lines())
            survivor.listen_until(lambda heard, before=before: len(heard) > before + 30)  # type: ignore[misc]
            said += survivor.kill()
            assert not opener.examine(path, said)


@pytest.mark.parametrize(("logs", "kills"), [(1, 2), pytest.param(6, 6, marks=pytest.mark.slow)])
def test_an_erasure_that_was_killed_goes_on_and_spares_what_forks_reach(logs: int, kills: int, tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    choices = random.Random(seed)
    for number in range(logs):
        path, said = erase_and_kill(tmp_path, number, kills, choices)
        with Opener() as opener:
            assert not opener.examine(path, said)
        assert_forks_hold_the_rest(path, said)


def erase_and_kill(directory: Path, number: int, kills: int, choices: random.Random) -> tuple[Path, list[bytes]]:
    """A log whose erasure was killed so many times before it came to its end, and all that was said meanwhile. A kill
    that came too late, for this process had to wait for its turn, interrupted nothing: then again, with another log.
    """
    for attempt in range(_ATTEMPTS):
        path = directory / f"log-{number}-{attempt}"
        said: list[bytes] = []
        rows: list[int] = []
        for kill in range(kills):
            child = Child(path, number, "--erasure")
            due = b'"deleted"' if kill == 0 else b'"opened"'
            child.listen_until(lambda heard, due=due: any(due in line for line in heard))  # type: ignore[misc]
            child.listen_for(choices.random() * 0.05 / (attempt + 1))
            said += child.kill()
            rows.append(rows_of(path))
        said += Child(path, number, "--erasure").finish()
        print(f"rows after each kill: {rows}, in the end: {rows_of(path)}")
        if rows[0] > rows_of(path):
            return path, said
    raise AssertionError("each first kill came too late to interrupt anything")


def assert_forks_hold_the_rest(path: Path, said: list[bytes]) -> None:
    """What the forks reach is all that is left, and nothing once they are gone."""
    word = Word()
    word.hear(said)
    forks = word.digests.keys() - word.deleted
    with contextlib.closing(BlockingLmdbEventLog(path)) as log:
        reached = {event.position for fork in forks for event in log.read(fork)}
        assert reached
        assert {event.position for event in events_of(log) if event.type == "crash.event"} == reached
        for fork in forks:
            log.delete(fork)
        log.erase()
        assert not [event for event in events_of(log) if event.type == "crash.event"]
    assert not verify(path).problems


def rows_of(path: Path) -> int:
    """How many rows the file has, without opening the log: that would go on with the erasure."""
    with lmdb.open(str(path), readonly=True, lib_version=0) as environment:
        return int(environment.stat()["entries"])


def events_of(log: BlockingLmdbEventLog) -> list[Event]:
    """All events in the log."""
    return [record for record in log.read_all(limit=1_000_000) if isinstance(record, Event)]
