"""What happens on a full disk. Run by `test_limits` in a process of its own, whose file system is small and its own.

Each function gets an empty directory on it; what it asserts is the test.
"""

from __future__ import annotations

import itertools
import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from eventstore import BlockingLmdbEventLog, DiskFullError, Expected, NewEvent, _requests
from tests.eventstore.soundness import problems_of

if TYPE_CHECKING:
    from collections.abc import Callable

COUNTS = {"small": 1, "large": 60}
BALLAST_BYTES = 256 * 1024
PATIENCE_SECONDS = 20


def fill(directory: Path) -> None:
    """Leave no room at all."""
    with (directory / "filler").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        file.writelines(itertools.repeat(bytes(4096)))


def event(size: int = 4_000) -> NewEvent:
    return NewEvent("type", b"x" * size)


def append_until_full(log: BlockingLmdbEventLog, count: int) -> int:
    """The version that was acknowledged last."""
    version = 0
    with pytest.raises(DiskFullError) as caught:  # noqa: PT012  (some append raises it)
        while True:
            version = log.append("stream", [event() for _ in range(count)]).version
    assert caught.value.path == str(log.path)
    return version


def acknowledged_events_stay(directory: Path, durability: str, size: str) -> None:
    assert durability in {"disk", "os"}
    (directory / "ballast").write_bytes(bytes(BALLAST_BYTES))
    with BlockingLmdbEventLog(directory / "log", durability="disk" if durability == "disk" else "os") as log:
        count = COUNTS[size]
        version = append_until_full(log, count)
        assert version > 0
        assert log.head("stream").version == version  # type: ignore[union-attr]
        assert len(log.read("stream", verify=True)) == version
        assert append_until_full(log, 100) == 0, "there is still no room for much"
        assert len(log.read("stream", verify=True)) >= version
        assert problems_of(log) == []
        (directory / "ballast").unlink()
        again = log.append("stream", [event() for _ in range(count)])
        assert again.first == version + 1
        assert len(log.read("stream", verify=True)) == version + count
    with BlockingLmdbEventLog(directory / "log") as log:
        assert len(log.read("stream", verify=True)) == version + count
        assert problems_of(log) == []


def a_log_that_is_opened_stays_readable(directory: Path) -> None:
    with BlockingLmdbEventLog(directory / "log") as log:
        log.append("stream", [event()])
    fill(directory)
    with BlockingLmdbEventLog(directory / "log") as log:
        assert len(log.read("stream", verify=True)) == 1
        assert append_until_full(log, 100) == 0
        assert len(log.read("stream", verify=True)) == 1
        assert problems_of(log) == []


def a_log_without_a_lock_file_cannot_be_opened(directory: Path) -> None:
    with BlockingLmdbEventLog(directory / "log") as log:
        log.append("stream", [event()])
    (directory / "log/lock.mdb").unlink()
    fill(directory)
    with pytest.raises(DiskFullError):
        BlockingLmdbEventLog(directory / "log")
    (directory / "filler").unlink()
    with BlockingLmdbEventLog(directory / "log") as log:
        assert problems_of(log) == []


def a_new_log_leaves_nothing_behind(directory: Path) -> None:
    fill(directory)
    with pytest.raises(DiskFullError):
        BlockingLmdbEventLog(directory / "log")
    assert [path.name for path in directory.iterdir()] == ["filler"]


def a_compaction_changes_nothing(directory: Path) -> None:
    with BlockingLmdbEventLog(directory / "log") as log:
        log.append("stream", [event() for _ in range(100)])
        fill(directory)
        with pytest.raises(DiskFullError):
            log.compact()
        assert sorted(path.name for path in log.path.iterdir()) == ["data.mdb", "lock.mdb", "refold.lock"]
        assert len(log.read("stream", verify=True)) == 100
        (directory / "filler").unlink()
        log.append("stream", [event()], expected=100)
        log.compact()
        assert problems_of(log) == []


def a_backup_leaves_nothing_behind(directory: Path) -> None:
    with BlockingLmdbEventLog(directory / "log") as log:
        log.append("stream", [event() for _ in range(100)])
        (directory / "ballast").write_bytes(bytes(BALLAST_BYTES))
        fill(directory)
        (directory / "ballast").unlink()
        with pytest.raises(DiskFullError):
            log.backup(directory / "backup")
        assert sorted(path.name for path in directory.iterdir()) == ["filler", "log"]
        log.append("stream", [event()], expected=100)
        assert problems_of(log) == []


class Heard(logging.Handler):
    """What is logged, by level."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.messages: dict[int, list[str]] = {logging.WARNING: [], logging.DEBUG: []}

    def emit(self, record: logging.LogRecord) -> None:
        self.messages[record.levelno].append(record.getMessage())


def erasure_waits_for_room(directory: Path) -> None:
    """It is tried again and again, with growing pauses, and warned of once; appends are not kept waiting."""
    heard = Heard()
    logging.getLogger("eventstore").addHandler(heard)
    logging.getLogger("eventstore").setLevel(logging.DEBUG)
    with BlockingLmdbEventLog(directory / "log") as log:
        for _ in range(60):  # side by side, so that erasure has to copy what stays
            for stream in ("kept", "stream"):
                log.append(stream, [event(900) for _ in range(4)])
        writer = log.engine.writer
        writer.call(_requests.delete(lambda: None, "stream", Expected.ANY, "", ""))  # its erasure is not begun yet
        fill(directory)
        writer.call(_requests.Request(lambda _: writer.owe_erasure()))
        wait_until(lambda: len(heard.messages[logging.DEBUG]) >= 3)
        assert len(heard.messages[logging.WARNING]) == 1, heard.messages
        assert "no space left" in heard.messages[logging.WARNING][0]
        pauses = [float(message.split(" for ")[1].split()[0]) for message in heard.messages[logging.DEBUG][:3]]
        assert pauses == [0.2, 0.4, 0.8]
        with pytest.raises(DiskFullError):
            log.append("stream of many", [event() for _ in range(100)])
        (directory / "filler").unlink()
        log.append("kept", [event()], expected=240)
        wait_until(lambda: len(log.read_all()) == 242)  # with the tombstone
        assert log.erase() == 0
        assert len(heard.messages[logging.WARNING]) == 1, heard.messages
        assert problems_of(log) == []


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not done():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.01)


if __name__ == "__main__":
    globals()[sys.argv[2]](Path(sys.argv[1]), *sys.argv[3:])
