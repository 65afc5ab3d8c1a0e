"""The process that is killed, or whose writes are traced: it uses a log hard and says what was acknowledged.

    python -m tests.crash.workload PATH --seed N [--durability os] [--threads N] [--steps N] [--reopen] [--compact]
                                     [--erasure]

Without --steps it goes on until it is killed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import random
import threading
from typing import TYPE_CHECKING, Literal

import msgspec

from eventstore import BlockingLmdbEventLog, StreamDeletedError
from tests.crash.acknowledgements import Appended, Deleted, Deleting, Erased, Opened, Starting, event, say

if TYPE_CHECKING:
    from eventstore import NewEvent

_MAX_STREAMS = 4  # alive, of one thread
_SHARED = "shared"
_STEPS_TO_COMPACTION = 20
_BIG_COMMITS = 30
_BIG_COMMIT_EVENTS = 1_000


class Options(msgspec.Struct, frozen=True):
    """The command line."""

    path: str
    seed: int
    durability: Literal["disk", "os"]
    threads: int
    steps: int | None
    reopen: bool
    compact: bool
    erasure: bool


class _Worker:
    """One thread's streams, and what it does to them. Nobody else touches them, but for the shared one."""

    def __init__(self, log: BlockingLmdbEventLog, name: str, choices: random.Random) -> None:
        self._log = log
        self._name = name
        self._choices = choices
        self._versions: dict[str, int] = {}
        self._named = 0

    def step(self) -> None:
        kind = self._choices.random()
        if len(self._versions) < 2 or (kind < 0.1 and len(self._versions) < _MAX_STREAMS):
            self._append(self._new_name(), 0)
        elif kind < 0.2:
            commit = self._log.append(_SHARED, self._events())
            say(Appended(_SHARED, commit.version, commit.digest))
        elif kind < 0.3:
            self._fork()
        elif kind < 0.37 or len(self._versions) > _MAX_STREAMS:
            self._delete()
        else:
            stream = self._choices.choice(list(self._versions))
            self._append(stream, self._versions[stream])

    def _append(self, stream: str, expected: int) -> None:
        commit = self._log.append(stream, self._events(), expected=expected)
        self._versions[stream] = commit.version
        say(Appended(stream, commit.version, commit.digest))

    def _fork(self) -> None:
        parent = self._choices.choice(list(self._versions))
        at = self._choices.randint(1, self._versions[parent])
        child = self._new_name()
        events = self._events() if self._choices.random() < 0.5 else []
        head = self._log.fork(parent, child, at=at, events=events)
        self._versions[child] = head.version
        say(Appended(child, head.version, head.digest))

    def _delete(self) -> None:
        stream = self._choices.choice(list(self._versions))
        del self._versions[stream]
        say(Deleting(stream))
        self._log.delete(stream, reason="crash test")
        say(Deleted(stream))

    def _events(self) -> list[NewEvent]:
        sizes = [self._choices.choice((20, 200, 200, 1_000, 2_500)) for _ in range(self._choices.randint(1, 4))]
        if self._choices.random() < 0.05:
            sizes.append(self._choices.randint(5_000, 30_000))
        return [event(self._choices, size) for size in sizes]

    def _new_name(self) -> str:
        self._named += 1
        return f"{self._name}/{self._named}"


def main() -> None:
    """Open the log, work on it, close it."""
    options = _options()
    say(Starting())
    for opening in range(2 if options.reopen else 1):
        with contextlib.closing(BlockingLmdbEventLog(options.path, durability=options.durability)) as log:
            say(Opened(log.checkpoint().log_id))
            if options.erasure:
                _erase(log, options)
            else:
                _work(log, options, opening)


def _work(log: BlockingLmdbEventLog, options: Options, opening: int) -> None:
    threads = [
        threading.Thread(target=_steps, args=(log, options, opening, number)) for number in range(options.threads)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _steps(log: BlockingLmdbEventLog, options: Options, opening: int, thread: int) -> None:
    name = f"{options.seed}-{opening}-{thread}"
    worker = _Worker(log, name, random.Random(name))
    for number in itertools.count(1) if options.steps is None else range(1, options.steps + 1):
        worker.step()
        if options.compact and thread == 0 and number % _STEPS_TO_COMPACTION == 0:
            log.compact()


def _erase(log: BlockingLmdbEventLog, options: Options) -> None:
    """A long stream, forks that live on it, its deletion; and, now or after a kill, its erasure."""
    big = f"{options.seed}/big"
    with contextlib.suppress(StreamDeletedError):
        if log.head(big) is None:
            _grow(log, big, random.Random(options.seed))
        say(Deleting(big))
        log.delete(big, reason="crash test")
        say(Deleted(big))
    say(Erased(log.erase()))


def _grow(log: BlockingLmdbEventLog, big: str, choices: random.Random) -> None:
    """Forks in the first quarter: what is above it is erased, in many batches."""
    for number in range(_BIG_COMMITS):
        commit = log.append(big, [event(choices, 40) for _ in range(_BIG_COMMIT_EVENTS)])
        say(Appended(big, commit.version, commit.digest))
        if number % 3 == 1 and number < _BIG_COMMITS // 4:
            middle = commit.version - _BIG_COMMIT_EVENTS // 2
            child = log.fork(big, f"{big}/fork-{number}", at=middle, events=[event(choices, 40)])
            say(Appended(child.stream, child.version, child.digest))


def _options() -> Options:
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--durability", default="disk")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--reopen", action="store_true")
    parser.add_argument("--compact", action="store_true")
    parser.add_argument("--erasure", action="store_true")
    return msgspec.convert(vars(parser.parse_args()), Options)


if __name__ == "__main__":
    main()
