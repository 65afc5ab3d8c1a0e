"""Who may have a log open together: objects, threads, forked children, other processes, a compaction, a backup."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import signal
import threading
import time
import warnings
from typing import TYPE_CHECKING

import pytest

from eventstore import (
    BlockingLmdbEventLog,
    ClosedError,
    EventStoreError,
    ForkedProcessError,
    LmdbEventLog,
    LogInUseError,
    NewEvent,
)
from eventstore._files import SharedLock, create_log, nursery_of
from eventstore.verify import verify
from tests.eventstore.other_process import OtherProcess, run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from multiprocessing.connection import Connection
    from pathlib import Path

    from tests.eventstore.conftest import OpenLog

PATIENCE_SECONDS = 60


def event(text: str = "x") -> NewEvent:
    return NewEvent("type", text.encode())


def texts(log: BlockingLmdbEventLog, stream: str = "stream") -> list[str]:
    return [each.data.decode() for each in log.read(stream, verify=True)]


# ------------------------------------------------------------------------------------------------- in one process


def test_a_path_opened_twice_shares_one_environment(open_log: OpenLog, tmp_path: Path) -> None:
    first, second = open_log(), open_log()
    (tmp_path / "link").symlink_to(tmp_path / "log")
    third = open_log("link")
    engine = first.engine
    assert engine is second.engine is third.engine
    first.append("stream", [event("1")])
    first.close()
    second.append("stream", [event("2")], expected=1)
    second.close()
    assert texts(third) == ["1", "2"]
    third.close()
    with open_log() as anew:
        assert anew.engine is not engine
        assert texts(anew) == ["1", "2"]


def test_both_faces_share_one_environment(open_log: OpenLog, tmp_path: Path) -> None:
    blocking = open_log()

    async def main() -> None:
        async with LmdbEventLog(tmp_path / "log", durability="os") as log:
            await log.append("stream", [event("awaited")])
            assert texts(blocking) == ["awaited"]

    asyncio.run(main())
    blocking.append("stream", [event("blocking")], expected=1)


def test_a_path_opened_with_other_options_is_in_use(log: BlockingLmdbEventLog) -> None:
    with pytest.raises(LogInUseError, match="other options"):
        BlockingLmdbEventLog(log.path, durability="disk")
    with pytest.raises(LogInUseError, match="other options"):
        BlockingLmdbEventLog(log.path, durability="os", clock=lambda: 0)
    log.append("stream", [event()])


def follow_on(log: BlockingLmdbEventLog) -> None:
    next(iter(log.follow()))


USES: list[Callable[[BlockingLmdbEventLog], object]] = [
    lambda log: log.append("stream", [event()]),
    lambda log: log.head("stream"),
    lambda log: log.read("stream"),
    lambda log: log.read_all(),
    lambda log: log.fork("stream", "fork"),
    lambda log: log.children("stream"),
    lambda log: log.streams(),
    lambda log: log.delete("stream"),
    lambda log: log.erase(),
    lambda log: log.checkpoint(),
    lambda log: log.get_snapshot("stream", "fold", 1),
    lambda log: log.put_snapshot("stream", "fold", 1, 1, b""),
    lambda log: log.backup(log.path.with_name("backup")),
    lambda log: log.compact(),
    lambda log: log.last_transaction(),
    follow_on,
]


@pytest.mark.parametrize("use", [*USES, lambda log: log.capabilities])
@pytest.mark.parametrize("shared", [True, False])
def test_use_after_close_is_an_error(
    use: Callable[[BlockingLmdbEventLog], object], open_log: OpenLog, *, shared: bool
) -> None:
    log = open_log()
    log.append("stream", [event()])
    if shared:
        open_log()  # stays open
    log.close()
    with pytest.raises(ClosedError) as caught:
        use(log)
    assert caught.value.path == str(log.path)
    log.close()
    assert "closed" in repr(log)


# -------------------------------------------------------------------------------------------------- in forked children


def fork() -> int:
    """`os.fork`, beside our own threads: of that Python warns since 3.12, and that it does no harm is the claim."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


@contextlib.contextmanager
def forked(*, leave: Callable[[int], None] = os._exit) -> Iterator[bool]:
    """Runs the block twice: in a forked child (True), which must come to its end, and here (False)."""
    pid = fork()
    if not pid:
        status = 1
        signal.alarm(PATIENCE_SECONDS // 3)  # a child that hangs is a failure too
        try:
            yield True
            status = 0
        finally:
            leave(status)
    yield False
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("use", USES)
def test_use_in_a_forked_child_is_an_error(
    use: Callable[[BlockingLmdbEventLog], object], log: BlockingLmdbEventLog
) -> None:
    log.append("stream", [event("before")])
    with forked() as child:
        if child:
            with pytest.raises(ForkedProcessError) as caught:
                use(log)
            assert caught.value.path == str(log.path)
            log.close()
    log.append("stream", [event("after")])
    assert texts(log) == ["before", "after"]


AWAITED_USES: list[Callable[[LmdbEventLog], Awaitable[object]]] = [
    lambda log: log.append("stream", [event()]),
    lambda log: log.head("stream"),
    lambda log: log.read("stream"),
    lambda log: log.streams(),
    lambda log: log.delete("stream"),
    lambda log: log.checkpoint(),
    lambda log: anext(aiter(log.follow())),
]


def test_use_in_a_forked_child_is_an_error_in_event_loops_too(tmp_path: Path) -> None:
    """The threads that would answer are not there: whoever waited for them would wait for ever."""
    log = asyncio.run(opened(tmp_path / "log"))
    try:
        with forked() as child:
            if child:
                for use in AWAITED_USES:
                    with pytest.raises(ForkedProcessError):
                        asyncio.run(awaited(use(log)))
                asyncio.run(log.aclose())
        assert len(asyncio.run(log.read("stream"))) == 1
    finally:
        asyncio.run(log.aclose())


async def opened(path: Path) -> LmdbEventLog:
    log = LmdbEventLog(path, durability="os")
    await log.append("stream", [event()])
    await log.read("stream")  # starts a thread
    return log


async def awaited(what: Awaitable[object]) -> object:
    return await what


def test_a_forked_child_opens_the_log_anew(log: BlockingLmdbEventLog) -> None:
    log.append("stream", [event("parent")])
    with forked() as child:
        if child:
            with BlockingLmdbEventLog(log.path, durability="os") as own:
                own.append("stream", [event("child")], expected=1)
                assert texts(own) == ["parent", "child"]
    log.append("stream", [event("parent")], expected=2)
    assert texts(log) == ["parent", "child", "parent"]


def test_a_child_that_leaves_does_no_harm(log: BlockingLmdbEventLog) -> None:
    for round_ in range(5):
        log.append("stream", [event()], expected=round_)
        pid = fork()
        if not pid:
            os.execv("/bin/true", ["true"])
        assert os.waitpid(pid, 0)[1] == 0
        assert len(texts(log)) == round_ + 1


def test_a_log_may_be_compacted_while_a_forked_child_lives(log: BlockingLmdbEventLog) -> None:
    log.append("stream", [event()])
    come, go = os.pipe()
    pid = fork()
    if not pid:
        os.close(go)
        os.read(come, 1)
        os._exit(0)
    log.compact()
    os.close(go)
    os.close(come)
    assert os.waitpid(pid, 0)[1] == 0
    log.append("stream", [event()], expected=1)


def test_forks_between_busy_threads_lose_nothing(log: BlockingLmdbEventLog) -> None:
    done = threading.Event()
    failed: list[BaseException] = []

    def work(stream: str) -> None:
        version = 0
        try:
            while not done.is_set():
                version = log.append(stream, [event()], expected=version).version
                assert len(log.read(stream, after=version - 1)) == 1
        except BaseException as error:  # noqa: BLE001  (told to the test's own thread)
            failed.append(error)

    threads = [threading.Thread(target=work, args=(f"stream {n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        with forked() as child:
            if child:
                with BlockingLmdbEventLog(log.path, durability="os") as own:
                    own.append("children", [event()])
    done.set()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(texts(log, "children")) == 20


# -------------------------------------------------------------------------------------------------- other processes


def hold_open(pipe: Connection, path: Path) -> None:
    with BlockingLmdbEventLog(path, durability="os") as log:
        log.append("stream", [event("theirs")])
        pipe.send("open")
        pipe.recv()
        pipe.send(texts(log))


def test_compaction_beside_another_process_changes_nothing(log: BlockingLmdbEventLog) -> None:
    with OtherProcess(hold_open, log.path) as process:
        assert process.hear() == "open"
        log.append("stream", [event("ours")])
        before = (log.path / "data.mdb").stat()
        with pytest.raises(LogInUseError, match="nothing was changed"):
            log.compact()
        after = (log.path / "data.mdb").stat()
        assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)
        assert sorted(path.name for path in log.path.iterdir()) == ["data.mdb", "lock.mdb", "refold.lock"]
        log.append("stream", [event("ours")])
        assert process.ask("go") == texts(log) == ["theirs", "ours", "ours"]
        assert process.end() == "exit status 0"
    log.compact()
    log.append("stream", [event("ours")], expected=3)


def test_compaction_between_threads_loses_nothing(log: BlockingLmdbEventLog) -> None:
    log.append("read", [event(str(n)) for n in range(300)])
    done = threading.Event()
    failed: list[BaseException] = []
    counts = {"one": 0, "two": 0}

    def append(stream: str) -> None:
        try:
            while not done.is_set():
                counts[stream] = log.append(stream, [event()], expected=counts[stream]).version
        except BaseException as error:  # noqa: BLE001  (told to the test's own thread)
            failed.append(error)

    def read() -> None:
        try:
            while not done.is_set():
                assert len(log.read("read")) == 300
        except BaseException as error:  # noqa: BLE001  (told to the test's own thread)
            failed.append(error)

    threads = [threading.Thread(target=append, args=(stream,)) for stream in counts]
    threads.append(threading.Thread(target=read))
    for thread in threads:
        thread.start()
    for _ in range(10):
        log.compact()
    done.set()
    for thread in threads:
        thread.join()
    assert not failed
    assert {stream: len(texts(log, stream)) for stream in counts} == counts


def test_a_log_is_opened_again_beside_its_compaction(log: BlockingLmdbEventLog, open_log: OpenLog) -> None:
    """The files that are open are others for a moment, and that is no replacement."""
    log.append("stream", [event()])
    done = threading.Event()
    failed: list[BaseException] = []

    def open_and_close() -> None:
        try:
            while not done.is_set():
                open_log().close()
        except BaseException as error:  # noqa: BLE001  (told to the test's own thread)
            failed.append(error)

    thread = threading.Thread(target=open_and_close)
    thread.start()
    for _ in range(60):
        log.compact()
    done.set()
    thread.join()
    assert not failed


def test_a_follower_misses_nothing_when_the_log_is_compacted(log: BlockingLmdbEventLog) -> None:
    """A compacted file counts its transactions anew, and so may come to the number that the follower saw last."""
    log.append("stream", [event("0")])
    heard: queue.SimpleQueue[str] = queue.SimpleQueue()

    def follow() -> None:
        with contextlib.suppress(ClosedError):
            for record in log.follow():
                heard.put(record.data.decode())  # type: ignore[union-attr]

    thread = threading.Thread(target=follow)
    thread.start()
    for number in range(10):
        assert heard.get(timeout=PATIENCE_SECONDS / 6) == str(number)
        log.compact()
        log.append("stream", [event(str(number + 1))])
    log.close()
    thread.join()


def test_the_number_of_the_last_transaction_tells_every_commit_apart(log: BlockingLmdbEventLog) -> None:
    """A follower waits until it changes."""
    numbers = [log.last_transaction()]
    for _ in range(4):
        log.append("stream", [event()])
        numbers.append(log.last_transaction())
        log.compact()
        numbers.append(log.last_transaction())
    assert numbers == sorted(set(numbers))


def test_two_that_compact_at_once_never_both_believe_they_may(tmp_path: Path) -> None:
    """A failed conversion of a `flock` lets go of it: whoever is told "in use" must have held the lock all along."""
    locks = [SharedLock(tmp_path), SharedLock(tmp_path)]
    inside = [0, 0]
    overlapped: list[int] = []

    def contend(own: int) -> None:
        for _ in range(3_000):
            seen = inside[1 - own]
            try:
                with locks[own].exclusively():
                    inside[own] += 1
            except LogInUseError:
                if inside[1 - own] != seen:
                    overlapped.append(own)

    threads = [threading.Thread(target=contend, args=(own,)) for own in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for lock in locks:
        lock.close()
    assert inside == [0, 0], "each holds the shared lock, so neither may ever have it alone"
    assert not overlapped


def test_an_open_waits_for_a_short_compaction_and_not_for_a_long_one(tmp_path: Path) -> None:
    with BlockingLmdbEventLog(tmp_path / "log", durability="os") as log:
        log.append("stream", [event()])
    lock = SharedLock(tmp_path / "log")
    with lock.exclusively(), pytest.raises(LogInUseError, match="replacing"):
        BlockingLmdbEventLog(tmp_path / "log", durability="os")
    lock.close()
    BlockingLmdbEventLog(tmp_path / "log", durability="os").close()


# ---------------------------------------------------------------------------------------------------------- backup


def append_without_end(pipe: Connection, path: Path) -> None:
    with BlockingLmdbEventLog(path, durability="os") as log:
        pipe.send("open")
        version = 0
        while not pipe.poll():
            version = log.append("theirs", [event(f"{version + 1}")], expected=version).version
        pipe.send(version)


@pytest.mark.parametrize("compact", [True, False])
def test_a_backup_beside_writers_is_a_prefix_and_sound(
    log: BlockingLmdbEventLog, tmp_path: Path, *, compact: bool
) -> None:
    done = threading.Event()

    def append() -> None:
        version = 0
        while not done.is_set():
            version = log.append("ours", [event(f"{version + 1}")], expected=version).version

    with OtherProcess(append_without_end, log.path) as process:
        assert process.hear() == "open"
        thread = threading.Thread(target=append)
        thread.start()
        sizes = [log.backup(tmp_path / f"backup {number}", compact=compact) for number in range(4)]
        done.set()
        thread.join()
        assert process.ask("stop") > 0
        assert process.end() == "exit status 0"
    whole = log.read_all(limit=10**6)
    counts = []
    for number, size in enumerate(sizes):
        assert (tmp_path / f"backup {number}/data.mdb").stat().st_size == size
        assert verify(tmp_path / f"backup {number}")
        with BlockingLmdbEventLog(tmp_path / f"backup {number}", durability="os") as backup:
            records = backup.read_all(limit=10**6)
            assert records == whole[: len(records)]
            counts.append(len(records))
            backup.append("ours", [event("the backup is a log of its own")])
    assert counts == sorted(counts)
    assert len(whole) > counts[0]
    assert len(log.read_all(limit=10**6)) == len(whole)


def test_a_backup_does_not_replace_anything(log: BlockingLmdbEventLog, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for target in (tmp_path / "there", log.path):
        with pytest.raises(LogInUseError):
            log.backup(target)
    assert list((tmp_path / "there").iterdir()) == []


# -------------------------------------------------------------------------------------------------------- creation


def open_when_told(pipe: Connection, path: Path, name: str) -> None:
    pipe.send("ready")
    pipe.recv()
    try:
        with BlockingLmdbEventLog(path, durability="os") as log:
            for version in range(20):
                log.append(name, [event()], expected=version)
                log.append("together", [event(name)])
        pipe.send("done")
    except EventStoreError as error:
        pipe.send(repr(error))


def test_many_that_create_one_log_at_once_share_it(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(OtherProcess(open_when_told, tmp_path / "log", f"process {number}"))
            for number in range(8)
        ]
        assert [process.hear() for process in processes] == ["ready"] * 8
        for process in processes:
            process.tell("go")
        assert [process.hear() for process in processes] == ["done"] * 8
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
    with BlockingLmdbEventLog(tmp_path / "log", durability="os") as log:
        assert len(texts(log, "together")) == 160
        assert all(len(texts(log, f"process {number}")) == 20 for number in range(8))
    assert verify(tmp_path / "log")


def test_many_that_begin_at_once_are_not_in_the_way_of_each_others_cleaning(tmp_path: Path) -> None:
    """Each looks for abandoned directories while those of the others come and go."""
    failures: list[BaseException] = []

    def begin() -> None:
        try:
            for _ in range(150):
                with nursery_of(tmp_path / "log") as nursery:
                    assert nursery.is_dir()
        except BaseException as error:  # noqa: BLE001  (any of them is the failure)
            failures.append(error)

    threads = [threading.Thread(target=begin) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert list(tmp_path.iterdir()) == []


def die_while_creating(path: Path) -> int:
    create_log(path, lambda _: os.kill(os.getpid(), signal.SIGKILL))
    return 0


def test_what_a_creation_that_died_left_behind_is_removed(tmp_path: Path) -> None:
    with OtherProcess(_run_and_forget, die_while_creating, tmp_path / "log") as process:
        assert process.end() == "SIGKILL"
    assert len([path.name for path in tmp_path.iterdir() if path.name.startswith(".log.new-")]) == 1
    with BlockingLmdbEventLog(tmp_path / "log", durability="os") as log:
        log.append("stream", [event()])
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def _run_and_forget(_pipe: Connection, work: Callable[[Path], int], path: Path) -> None:
    work(path)


def create_and_wait(pipe: Connection, path: Path) -> None:
    def fill(_nursery: Path) -> None:
        pipe.send("creating")
        pipe.recv()
        raise PermissionError(13, "stop here")

    with contextlib.suppress(EventStoreError):
        create_log(path, fill)
    pipe.send("cleaned up")


def test_what_a_living_creation_has_begun_is_left_alone(tmp_path: Path) -> None:
    with OtherProcess(create_and_wait, tmp_path / "log") as process:
        assert process.hear() == "creating"
        begun = [path for path in tmp_path.iterdir() if path.name.startswith(".log.new-")]
        BlockingLmdbEventLog(tmp_path / "log", durability="os").close()
        assert begun
        assert begun[0].is_dir()
        assert process.ask("go") == "cleaned up"
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def measure_open(path: Path) -> float:
    started = time.perf_counter()
    with BlockingLmdbEventLog(path, durability="os") as log:
        log.head("stream")
        return time.perf_counter() - started


def test_a_log_opens_in_a_moment_beside_a_busy_writer(tmp_path: Path) -> None:
    with BlockingLmdbEventLog(tmp_path / "log", durability="os") as log:
        log.append("stream", [event()])
    with OtherProcess(append_without_end, tmp_path / "log") as process:
        assert process.hear() == "open"
        assert run(measure_open, tmp_path / "log") < 1  # 0.4 ms; this only tells it from waiting for the writer
        assert process.ask("stop") > 0
