"""Logs to test with; whatever a test leaves in its directory is verified when it ends."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Protocol

import pytest

from eventstore import BlockingLmdbEventLog, _engine
from eventstore._lmdb import LARGEST_MAP_BYTES
from tests.eventstore.rows import copy_of
from tests.eventstore.sample import check, fill
from tests.eventstore.soundness import problems_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class OpenLog(Protocol):
    """Opens the log *name* below the test's directory; it is closed when the test ends."""

    def __call__(self, name: str = "log", *, map_size_bytes: int = LARGEST_MAP_BYTES) -> BlockingLmdbEventLog: ...


@pytest.fixture(autouse=True)
def _logs_are_sound(tmp_path: Path) -> Iterator[None]:
    """Verifies every log that a test leaves behind, but for those below `broken`, which are damaged on purpose."""
    yield
    assert not [path for path in _engine._engines if path.is_relative_to(tmp_path)], "a log was left open"
    shutil.rmtree(tmp_path / "broken", ignore_errors=True)
    for data in sorted(tmp_path.rglob("data.mdb")):
        with BlockingLmdbEventLog(data.parent, durability="os") as log:
            assert problems_of(log) == []


@pytest.fixture
def open_log(tmp_path: Path, _logs_are_sound: None) -> Iterator[OpenLog]:
    opened: list[BlockingLmdbEventLog] = []

    def open_(name: str = "log", *, map_size_bytes: int = LARGEST_MAP_BYTES) -> BlockingLmdbEventLog:
        opened.append(BlockingLmdbEventLog(tmp_path / name, durability="os", map_size_bytes=map_size_bytes))
        return opened[-1]

    yield open_
    for log in opened:
        log.close()


@pytest.fixture
def log(open_log: OpenLog) -> BlockingLmdbEventLog:
    return open_log()


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Where a test may damage logs."""
    directory = tmp_path / "broken"
    directory.mkdir()
    return directory


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample log, never changed: its file holds each record once."""
    directory = tmp_path_factory.mktemp("sample")
    with BlockingLmdbEventLog(directory / "log", durability="os") as log:
        fill(log)
        copy_of(log, directory / "original")
    assert check(directory / "original") == []
    return directory / "original"


@pytest.fixture
def damaged(original: Path, broken: Path) -> Path:
    """A copy of the sample log to damage."""
    shutil.copytree(original, broken / "log")
    return broken / "log"
