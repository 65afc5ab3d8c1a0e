"""How a question is measured: the values that an answer is made of, interleaved rounds, and scratch space.

1. Contestants take turns: round 1 of A, of B, ..., round 2 of A, of B, ... A noisy minute hits them all alike.
2. Ratios are taken within a round, then their median: never a median over a median of other minutes.
3. The first round only warms up. It does the same work and is not counted.
4. Every contestant proves that it did the work: what it stored is read back and hashed; equal work has equal hashes.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

T = TypeVar("T")

Durability = Literal["disk", "os", "-"]
"""What an acknowledged write survives: a power cut, the death of its process; "-" for a contestant that only reads."""

Unit = Literal["s", "1/s", "bytes", "x", "%"]

Hashes = dict[str, dict[str, str]]
"""Per piece of work, the contestants that did it and the hash of what each had in its store afterwards."""


class Size(msgspec.Struct, frozen=True):
    """How much work a bench does, and in which directory: files on tmpfs would make every flush free."""

    directory: Path
    small: bool = False
    rounds: int = 7

    def pick(self, *, full: int, small: int) -> int:
        """The figure of this size."""
        return small if self.small else full

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A new directory of its own, removed at the end."""
        with tempfile.TemporaryDirectory(prefix="refold-bench-", dir=self.directory) as name:
            yield Path(name)


class Contestant(msgspec.Struct, frozen=True):
    """Someone who plays rounds: `play(n)` does the work of round n (0 warms up) and returns what was measured."""

    name: str
    durability: Durability
    play: Callable[[int], float]
    unit: Unit = "s"


class Series(msgspec.Struct, frozen=True):
    """What a contestant measured, one value per round."""

    contestant: str
    durability: Durability
    unit: Unit
    values: list[float]

    @property
    def median(self) -> float:
        """The middle one of its rounds."""
        return statistics.median(self.values)


class Finding(msgspec.Struct, frozen=True):
    """An answer, and the bar it has to meet, if there is one."""

    what: str
    value: float
    unit: Unit = "x"
    at_most: float | None = None
    at_least: float | None = None

    @property
    def judged(self) -> bool:
        """There is a bar."""
        return self.at_most is not None or self.at_least is not None

    @property
    def met(self) -> bool:
        """No bar is missed."""
        too_much = self.at_most is not None and self.value > self.at_most
        too_little = self.at_least is not None and self.value < self.at_least
        return not (too_much or too_little)


class Result(msgspec.Struct, frozen=True):
    """The answer to a question."""

    question: str
    series: list[Series]
    findings: list[Finding]
    hashes: Hashes
    notes: list[str] = []

    @property
    def met(self) -> bool:
        """No bar is missed."""
        return all(finding.met for finding in self.findings)

    @property
    def agreed(self) -> bool:
        """Contestants that did the same work had the same content afterwards."""
        return all(len(set(by_contestant.values())) == 1 for by_contestant in self.hashes.values())


def interleave(size: Size, contestants: Sequence[Contestant]) -> dict[str, Series]:
    """Let them play in turns, and return their series by name."""
    values: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    assert len(values) == len(contestants), "two contestants of one name"
    for number in range(size.rounds + 1):
        for contestant in contestants:
            gc.collect()  # one contestant's garbage is not collected at the cost of the next
            measured = contestant.play(number)
            if number > 0:
                values[contestant.name].append(measured)
    return {c.name: Series(c.name, c.durability, c.unit, values[c.name]) for c in contestants}


def ratio(numerator: Series, denominator: Series) -> float:
    """The median of the ratios of each round."""
    return statistics.median(a / b for a, b in zip(numerator.values, denominator.values, strict=True))


def median_seconds(operation: Callable[[T], object], items: Iterable[T]) -> float:
    """The median time of one call with one item."""
    seconds = []
    for item in items:
        began = time.perf_counter()
        operation(item)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def content_hash(contents: Iterable[bytes]) -> str:
    """One hash of byte strings in their order, each behind its length."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(len(content).to_bytes(8, "big"))
        digest.update(content)
    return digest.hexdigest()


def file_bytes(path: Path) -> int:
    """The size of a file, or of all files in a directory."""
    return sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())
