"""A log that is open loses its file for a moment, or for good: it comes back by itself, or says what happened."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import shutil
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import lmdb
import pytest

from eventstore import (
    BlockingLmdbEventLog,
    ClosedError,
    EventStoreError,
    LogInUseError,
    LogReplacedError,
    LogUnavailableError,
    NewEvent,
)
from eventstore._files import SharedLock
from eventstore.verify import verify
from tests.eventstore.other_process import OtherProcess, run
from tests.eventstore.test_sharing import PATIENCE_SECONDS, event, fork, hold_open, texts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection
    from pathlib import Path

    from tests.eventstore.conftest import OpenLog


# ------------------------------------------------------------------------------------------- a reopening that fails


@contextlib.contextmanager
def no_more_files() -> Iterator[None]:
    """Nobody may open a file; those that are open stay."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def fork_without_free_files(path: Path) -> int:
    with BlockingLmdbEventLog(path, durability="os") as log:
        log.append("stream", [event("before")])
        with no_more_files():
            pid = fork()
            if not pid:
                os._exit(0)
            for use in (lambda: log.head("stream"), lambda: log.append("stream", [event()])):
                with pytest.raises(LogUnavailableError, match="too many open files"):
                    use()
        assert os.waitpid(pid, 0)[1] == 0
        log.append("stream", [event("after")], expected=1)
        assert texts(log) == ["before", "after"]
    with pytest.raises(ClosedError):
        log.head("stream")
    return 0


def test_a_log_that_could_not_be_reopened_after_a_fork_is_when_it_is_used(tmp_path: Path) -> None:
    assert run(fork_without_free_files, tmp_path / "log") == 0


def refuse_to_open(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """LMDB opens nothing, that often."""
    left, really = [None] * times, lmdb.open

    def open_(*arguments: Any, **options: Any) -> Any:
        if left:
            left.pop()
            raise lmdb.Error("refused by the test")
        return really(*arguments, **options)

    monkeypatch.setattr(lmdb, "open", open_)


def test_a_compaction_is_done_even_if_the_file_cannot_be_reopened_at_once(
    log: BlockingLmdbEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        log.append("stream", [NewEvent("type", bytes(10_000))], expected=number)
    refuse_to_open(monkeypatch, 2)
    before, after = log.compact()
    assert after < before
    with pytest.raises(LogUnavailableError, match="refused by the test"):
        log.head("stream")
    log.append("stream", [event()], expected=20)
    assert len(texts(log)) == 21


def test_a_map_that_could_not_be_changed_nor_reopened_is_when_it_is_used(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log(map_size_bytes=2**17)
    log.append("stream", [event()])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    refuse_to_open(monkeypatch, 1)
    resource.setrlimit(resource.RLIMIT_AS, (2**20, hard))  # nothing more can be mapped
    try:
        with pytest.raises(EventStoreError):
            log.engine.environment._resize(2**40)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert log.append("stream", [NewEvent("type", bytes(2**20))], expected=1).version == 2


# --------------------------------------------------------------------------------------------- replaced, or removed


def remove(path: Path) -> None:
    shutil.rmtree(path)


def put_a_backup_in_its_place(path: Path) -> None:
    path.rename(path.with_name("moved"))
    shutil.copytree(path.with_name("backup"), path)


def remove_the_data_file(path: Path) -> None:
    (path / "data.mdb").unlink()


def remove_the_lock_file(path: Path) -> None:
    """Of LMDB: whoever opens the log now makes a new one, and the two would not wait for each other's commits."""
    (path / "lock.mdb").unlink()


@pytest.mark.parametrize("settled", [True, False])
@pytest.mark.parametrize("replace", [remove, put_a_backup_in_its_place, remove_the_data_file, remove_the_lock_file])
def test_nothing_is_acknowledged_that_is_not_in_the_file_at_the_path(
    replace: Callable[[Path], None], open_log: OpenLog, tmp_path: Path, *, settled: bool
) -> None:
    log = open_log()
    log.append("stream", [event("1")])
    log.backup(tmp_path / "backup")
    if settled:  # the directory has not changed for long: then one look at it is enough
        long_ago = time.time_ns() - 10**10
        os.utime(tmp_path / "log", ns=(long_ago, long_ago))
        log.append("other", [event()])
        assert log.engine.environment._looked_at is not None
    replace(tmp_path / "log")
    there = sorted((path.name, path.stat().st_size) for path in (tmp_path / "log").glob("*"))
    uses: list[Callable[[], object]] = [
        lambda: log.append("stream", [event("2")]),
        lambda: log.fork("stream", "fork"),
        lambda: log.delete("stream"),
        log.compact,
        open_log,
    ]
    for use in uses:
        with pytest.raises(LogReplacedError, match="replaced"):
            use()
    assert texts(log) == ["1"]
    assert sorted((path.name, path.stat().st_size) for path in (tmp_path / "log").glob("*")) == there
    log.close()
    if replace is remove_the_data_file:
        shutil.rmtree(tmp_path / "log")
    with open_log() as anew:
        anew.append("stream", [event("anew")])
        assert texts(anew) in (["anew"], ["1", "anew"])


def test_a_log_that_was_replaced_during_a_fork_is_not_mistaken_for_the_new_one(
    open_log: OpenLog, tmp_path: Path
) -> None:
    log = open_log()
    log.append("stream", [event("1")])
    log.backup(tmp_path / "backup")
    environment = log.engine.environment
    with environment.suspended():  # as it is during an `os.fork()`
        put_a_backup_in_its_place(tmp_path / "log")
    for use in (lambda: log.append("stream", [event("2")]), lambda: log.head("stream")):
        with pytest.raises(LogReplacedError):
            use()
    log.close()
    with open_log() as other:
        assert texts(other) == ["1"]


def test_a_log_whose_lock_was_removed_is_not_compacted(log: BlockingLmdbEventLog) -> None:
    log.append("stream", [event()])
    (log.path / "refold.lock").unlink()
    with OtherProcess(hold_open, log.path) as process:
        assert process.hear() == "open"
        with pytest.raises(LogInUseError, match=r"refold\.lock"):
            log.compact()
        assert process.ask("go") == texts(log)
        assert process.end() == "exit status 0"


# ----------------------------------------------------------------------------------------------- unequal durability


def test_a_log_is_open_with_one_durability_only(tmp_path: Path) -> None:
    with BlockingLmdbEventLog(tmp_path / "log", durability="disk") as log:
        with pytest.raises(LogInUseError, match="durability"):
            run(append_and_close, tmp_path / "log")
        assert verify(log.path), "who only looks is in nobody's way"
        log.append("stream", [event()])
    with OtherProcess(hold_open, tmp_path / "log") as process:
        assert process.hear() == "open"
        with pytest.raises(LogInUseError, match="durability"):
            BlockingLmdbEventLog(tmp_path / "log", durability="disk")
        assert run(append_and_close, tmp_path / "log") == 3
        process.tell("go")
        process.hear()
        assert process.end() == "exit status 0"
    BlockingLmdbEventLog(tmp_path / "log", durability="disk").close()


def test_who_agrees_about_durability_is_never_in_the_way(tmp_path: Path) -> None:
    """Whenever one of them claims it, even in the middle of another's claim."""
    claims = []

    def claim_too(_frame: object, happening: str, called: object) -> None:
        if happening == "c_return" and called is fcntl.fcntl:
            sys.setprofile(None)
            claim("disk")
            sys.setprofile(claim_too)

    def claim(durability: str) -> None:
        lock = SharedLock(tmp_path)
        try:
            lock.claim(durability)
            claims.append(durability)
        finally:
            lock.close()

    sys.setprofile(claim_too)
    try:
        claim("disk")
    finally:
        sys.setprofile(None)
    assert len(claims) > 1


def append_and_close(path: Path) -> int:
    with BlockingLmdbEventLog(path, durability="os") as log:
        return log.append("stream", [event()]).version


# ----------------------------------------------------------------------------------------------------------- debris


def test_what_a_killed_compaction_left_is_removed_when_the_log_is_opened(open_log: OpenLog) -> None:
    log = open_log()
    log.append("stream", [event()])
    debris = log.path / "compact.tmp"
    debris.mkdir()
    log.engine.environment.copy(debris, compact=True)
    log.close()
    with open_log() as again:
        assert sorted(path.name for path in again.path.iterdir()) == ["data.mdb", "lock.mdb", "refold.lock"]


def die(_descriptor: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_a_backup(_pipe: Connection, path: Path, target: Path) -> None:
    with BlockingLmdbEventLog(path, durability="os") as log, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", die)
        log.backup(target)


def test_what_a_killed_backup_left_is_removed_by_the_next_one(log: BlockingLmdbEventLog, tmp_path: Path) -> None:
    log.append("stream", [event()])
    target = tmp_path / "backups/of today/log"
    target.parent.mkdir(parents=True)
    with OtherProcess(die_in_a_backup, log.path, target) as process:
        assert process.end() == "SIGKILL"
    assert [path.name[:9] for path in target.parent.iterdir()] == [".log.new-"]
    log.backup(target)
    assert [path.name for path in target.parent.iterdir()] == ["log"]


def test_a_backup_makes_the_directories_above_it_durable(
    log: BlockingLmdbEventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[int, int]] = []
    really = os.fsync

    def fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        synced.append((status.st_dev, status.st_ino))
        really(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    log.backup(tmp_path / "one/two/backup")
    for directory in (tmp_path, tmp_path / "one", tmp_path / "one/two", tmp_path / "one/two/backup"):
        status = directory.stat()
        assert (status.st_dev, status.st_ino) in synced, directory


# ---------------------------------------------------------------------------------------------------------- closing


def close_in_signal_handlers(path: Path, rounds: int) -> int:
    """Close a log from a signal handler, at any moment of another use of it; a handler that waits for the code that it
    interrupted waits for ever.
    """
    written = 0
    for round_ in range(rounds):
        log = BlockingLmdbEventLog(path, durability="os")
        signal.signal(signal.SIGALRM, lambda *_, log=log: log.close())
        signal.setitimer(signal.ITIMER_REAL, 0.0002 + round_ % 20 * 0.0001)
        with contextlib.suppress(ClosedError):
            while True:
                log.read("stream", limit=30)
                log.head("stream")
                if round_ % 2:
                    written = log.append("written", [event()]).version
        for thread in threading.enumerate():
            if thread.name == "refold-closer":
                thread.join()
    return written


def test_a_log_can_be_closed_in_a_signal_handler(open_log: OpenLog, tmp_path: Path) -> None:
    with open_log() as log:
        log.append("stream", [event() for _ in range(100)])
    written = run(close_in_signal_handlers, tmp_path / "log", 150)
    with open_log() as log:
        assert len(log.read("written")) >= written


def test_many_threads_that_close_a_log_at_once_close_it_once(open_log: OpenLog) -> None:
    stays = open_log()
    stays.append("stream", [event()])
    for _ in range(50):
        log = open_log()
        together = threading.Barrier(4)

        def close(log: BlockingLmdbEventLog = log, together: threading.Barrier = together) -> None:
            together.wait(PATIENCE_SECONDS)
            log.close()

        threads = [threading.Thread(target=close) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(texts(stays)) == 1
