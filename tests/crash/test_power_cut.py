"""A power cut at any moment loses nothing that was acknowledged with `durability="disk"`, the first open included.

SIGKILL cannot see a missing flush: what the kernel has, it keeps. So a process is traced, and from what it wrote and
synced the images are built that a power cut could have left (`images` says by which rules). Each is opened, compared
with what had been acknowledged, verified, and used for one more append.

The controls show that the proof bites: the same process with `durability="os"`, and the same trace with one kind of
flush taken out of it, must fail.
"""

from __future__ import annotations

import collections
import itertools
import random
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import msgspec
import pytest

from tests.crash.acknowledgements import Opened
from tests.crash.images import History, Image
from tests.crash.opener import REPOSITORY, Opener
from tests.crash.operations import MAPPED_FILE, ROOT, Acknowledged, Operation, Synced, Written, watch
from tests.crash.syscalls import parse, strace_command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Self

_LOG: Final = "log"
_TURNS: Final = 500  # at which to give up looking for different images


class Recording(msgspec.Struct, frozen=True):
    """What a process did from its first open to its last close."""

    seed: int
    operations: list[Operation]
    mapped: bytes

    def opened(self, times: int = 1) -> int:
        """The moment at which the log had been opened so many times."""
        marker = msgspec.json.encode(Opened(b""))[:16]
        moments = (o.end for o in self.operations if isinstance(o, Acknowledged) and o.data.startswith(marker))
        return next(itertools.islice(moments, times - 1, None))


class Tally:
    """What became of the images."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._opener = Opener()
        self._number = 0
        self.problems: collections.Counter[str] = collections.Counter()
        self.images = 0
        self.spoiled = 0

    def examine(self, image: Image, label: str) -> None:
        """Open one image; print what is wrong with it."""
        self._number += 1
        directory = self._directory / f"image-{self._number}"
        image.write(directory)
        problems = self._opener.examine(directory / _LOG, image.acknowledged)
        self.images += 1
        self.spoiled += bool(problems)
        for problem in problems:
            self.problems[problem.split(":")[0]] += 1
        for problem in problems[:3]:
            print(f"{label}: {problem[:400]}")
        shutil.rmtree(directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._opener.__exit__(None, None, None)
        print(f"{self.images} images, {self.spoiled} spoiled: {dict(self.problems)}")


def record(directory: Path, *, durability: str, threads: int, steps: int, seed: int) -> Recording:
    """Run the workload under strace, opening the log twice and compacting it now and then."""
    root = (directory / "root").resolve()
    root.mkdir()
    output = directory / "trace"
    command = [sys.executable, "-m", "tests.crash.workload", str(root / _LOG), "--reopen", "--compact"]
    command += ["--seed", str(seed), "--durability", durability, "--threads", str(threads), "--steps", str(steps)]
    subprocess.run([*strace_command(output), *command], cwd=REPOSITORY, stdout=subprocess.DEVNULL, check=True)
    with output.open() as lines:
        operations = watch(parse(lines), root)
    return Recording(seed, operations, (root / _LOG / MAPPED_FILE).read_bytes())


def images(recording: Recording, name: str, *, after: int = 0, upto: int = sys.maxsize) -> Iterator[tuple[str, Image]]:
    """Different images of cuts at all moments of a time: first one of each moment, then another of each, and so on."""
    history = History(recording.operations, mapped=recording.mapped)
    cuts = [cut for cut in history.cuts() if after <= cut <= upto]
    choices = random.Random(f"{name}-{recording.seed}")
    seen: set[bytes] = set()
    for turn in range(_TURNS):
        choices.shuffle(cuts)
        for cut in cuts:
            label = f"{name}-{recording.seed}/{cut}/{turn}"
            image = history.image(cut, random.Random(label))
            if (digest := image.digest()) not in seen:
                seen.add(digest)
                yield label, image


def without(recording: Recording, *, syncs_of: int | None = None, upto: int = sys.maxsize) -> Recording:
    """The same history by a process that forgot a flush: of a directory, or without *syncs_of* the second flush of each
    commit (the write through the O_DSYNC descriptor).
    """
    kept: list[Operation] = []
    for operation in recording.operations:
        match operation:
            case Synced(node=node, end=end) if node == syncs_of and end <= upto:
                pass
            case Written() if syncs_of is None:
                kept.append(msgspec.structs.replace(operation, through=False))
            case _:
                kept.append(operation)
    return msgspec.structs.replace(recording, operations=kept)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """A short history, for the tests of the default run."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    return record(tmp_path_factory.mktemp("recording"), durability="disk", threads=2, steps=25, seed=seed)


def test_a_power_cut_loses_nothing_that_was_acknowledged(recording: Recording, tmp_path: Path) -> None:
    opened = recording.opened()
    first_open = images(recording, "open", upto=opened)
    later = images(recording, "work", after=opened)
    with Tally(tmp_path) as tally:
        for label, image in itertools.chain(itertools.islice(first_open, 20), itertools.islice(later, 40)):
            tally.examine(image, label)
    assert (tally.images, tally.problems) == (60, {})


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 4])
def test_a_thousand_power_cuts_lose_nothing_that_was_acknowledged(threads: int, tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    recording = record(tmp_path, durability="disk", threads=threads, steps=200 // threads, seed=seed)
    opened = recording.opened()
    first_open = images(recording, "open", upto=opened)
    later = images(recording, "work", after=opened)
    with Tally(tmp_path) as tally:
        for label, image in itertools.chain(itertools.islice(first_open, 100), itertools.islice(later, 450)):
            tally.examine(image, label)
    assert (tally.images, tally.problems) == (550, {})


def test_with_durability_os_a_power_cut_loses_what_was_acknowledged(tmp_path: Path) -> None:
    recording = record(tmp_path, durability="os", threads=2, steps=25, seed=1)
    assert_spoiled(images(recording, "os", after=recording.opened()), tmp_path)


def test_a_log_that_left_out_the_second_flush_would_be_caught(recording: Recording, tmp_path: Path) -> None:
    assert_spoiled(images(without(recording), "meta", after=recording.opened()), tmp_path)


def test_a_log_that_did_not_sync_the_directory_it_is_in_would_be_caught(recording: Recording, tmp_path: Path) -> None:
    assert_spoiled(images(without(recording, syncs_of=ROOT), "parent", after=recording.opened()), tmp_path)


def test_a_log_whose_creator_died_before_syncing_the_directory_is_made_safe_by_the_next_open(
    recording: Recording, tmp_path: Path
) -> None:
    reopened = recording.opened(2)
    interrupted = without(recording, syncs_of=ROOT, upto=recording.opened())
    with Tally(tmp_path) as tally:
        for label, image in itertools.islice(images(interrupted, "interrupted", after=reopened), 10):
            tally.examine(image, label)
    assert not tally.problems


def assert_spoiled(spoiled: Iterator[tuple[str, Image]], directory: Path, attempts: int = 40) -> None:
    """At least one of the images loses something, or does not open."""
    with Tally(directory) as tally:
        for label, image in itertools.islice(spoiled, attempts):
            tally.examine(image, label)
            if tally.problems["lost"] or tally.problems["failed"] or tally.problems["crashed"]:
                return
    pytest.fail(f"{attempts} images without the flush, and none lost anything: the proof does not bite")
