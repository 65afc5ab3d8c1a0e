"""Several processes on one file: nothing is lost, and each sees the others at once."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from typing import TYPE_CHECKING

import pytest

from eventstore import (
    START,
    BlockingLmdbEventLog,
    Event,
    EventStoreError,
    LmdbEventLog,
    NewEvent,
    Record,
    StreamDeletedError,
    WrongVersionError,
)
from eventstore.verify import verify
from tests.eventstore.other_process import OtherProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection
    from pathlib import Path

PROCESSES = 4


def event(text: str = "x") -> NewEvent:
    return NewEvent("type", text.encode())


def texts(log: BlockingLmdbEventLog, stream: str) -> list[str]:
    return [each.data.decode() for each in log.read(stream, verify=True)]


@contextlib.contextmanager
def neighbours(work: object, path: Path, count: int, *arguments: object) -> Iterator[list[OtherProcess]]:
    """*count* processes that run *work*, all ready and none begun."""
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(OtherProcess(work, path, n, *arguments)) for n in range(count)]  # type: ignore[arg-type]
        assert [process.hear() for process in found] == ["ready"] * count
        yield found


# ---------------------------------------------------------------------------------------------------- nothing lost


def append_many(pipe: Connection, path: Path, number: int, count: int) -> None:
    with BlockingLmdbEventLog(path, durability="os") as log:
        pipe.send("ready")
        pipe.recv()
        for version in range(count):
            if version % 2:
                log.append(f"own {number}", [event(f"{version}")], expected=version)
            else:
                log.append(f"own {number}", [event(f"{version}")])
            log.append("together", [event(f"{number}:{version}")])
        pipe.send(count)


@pytest.mark.parametrize("count", [150, pytest.param(2_000, marks=pytest.mark.slow)])
def test_appends_of_several_processes_are_all_there(count: int, tmp_path: Path) -> None:
    with neighbours(append_many, tmp_path / "log", PROCESSES, count) as processes:
        for process in processes:
            process.tell("go")
        assert [process.hear() for process in processes] == [count] * PROCESSES
    assert verify(tmp_path / "log")
    with BlockingLmdbEventLog(tmp_path / "log", durability="os") as log:
        for number in range(PROCESSES):
            assert texts(log, f"own {number}") == [f"{version}" for version in range(count)]
        together = log.read("together")
        assert [each.version for each in together] == list(range(1, PROCESSES * count + 1))
        for number in range(PROCESSES):
            own = [each.data.decode() for each in together if each.data.startswith(b"%d:" % number)]
            assert own == [f"{number}:{version}" for version in range(count)]
        everything = log.read_all(limit=10**6)
        assert len({record.position for record in everything}) == len(everything) == 2 * PROCESSES * count


def append_until_it_fits(pipe: Connection, path: Path, number: int, count: int) -> None:
    """Append *count* events to one stream, each at the version that was read; count the races that were lost."""
    with BlockingLmdbEventLog(path, durability="os") as log:
        pipe.send("ready")
        pipe.recv()
        lost = done = 0
        while done < count:
            head = log.head("contended")
            version = head.version if head else 0
            try:
                log.append("contended", [event(f"{number}:{done}")], expected=version)
            except WrongVersionError as error:
                assert error.actual > version  # noqa: PT017
                lost += 1
            else:
                done += 1
        pipe.send(lost)


def test_of_two_processes_that_expect_the_same_version_one_wins(tmp_path: Path) -> None:
    with neighbours(append_until_it_fits, tmp_path / "log", 3, 100) as processes:
        for process in processes:
            process.tell("go")
        lost = [process.hear() for process in processes]
    print("races lost:", lost)
    with BlockingLmdbEventLog(tmp_path / "log", durability="os") as log:
        found = texts(log, "contended")
    assert sorted(found) == sorted(f"{number}:{done}" for number in range(3) for done in range(100))


# ------------------------------------------------------------------------------------------- what is remembered


def obey(pipe: Connection, path: Path, _number: int) -> None:
    """Call what it is told to, and send what that returns."""
    with BlockingLmdbEventLog(path, durability="os") as log:
        pipe.send("ready")
        while (call := pipe.recv()) is not None:
            name, arguments, options = call
            try:
                pipe.send(getattr(log, name)(*arguments, **options))
            except EventStoreError as error:
                pipe.send(error)


def call(process: OtherProcess, name: str, *arguments: object, **options: object) -> object:
    answer = process.ask((name, arguments, options))
    if isinstance(answer, EventStoreError):
        raise answer
    return answer


def test_writers_that_take_turns_see_each_others_heads(log: BlockingLmdbEventLog) -> None:
    """What a process remembers of heads, digests and pointers is worth nothing once another has written."""
    with neighbours(obey, log.path, 1) as (other,):
        for version in range(0, 60, 3):
            log.append("stream", [event("ours"), event("ours")], expected=version)
            call(other, "append", "stream", [event("theirs")], expected=version + 2)
            assert call(other, "head", "stream") == log.head("stream")
        other.tell(None)
    assert texts(log, "stream") == ["ours", "ours", "theirs"] * 20


def test_what_another_process_created_forked_or_deleted_is_seen(log: BlockingLmdbEventLog) -> None:
    with neighbours(obey, log.path, 1) as (other,):
        log.append("ours", [event("1"), event("2")])
        call(other, "append", "theirs", [event("1")])
        log.append("new", [event()], expected=0)
        call(other, "fork", "ours", "fork", at=1, events=[event("own")])
        log.append("fork", [event("ours")], expected=2)
        call(other, "append", "fork", [event("theirs")], expected=3)
        log.delete("theirs")
        with pytest.raises(StreamDeletedError):
            call(other, "append", "theirs", [event()])
        with pytest.raises(StreamDeletedError):
            call(other, "fork", "ours", "theirs")
        other.tell(None)
    assert texts(log, "fork") == ["1", "own", "ours", "theirs"]
    assert [head.stream for head in log.children("ours")] == ["fork"]


def test_a_commit_repeated_by_another_process_is_the_same_commit(log: BlockingLmdbEventLog) -> None:
    with neighbours(obey, log.path, 1) as (other,):
        for number in range(20):
            commit_id = number.to_bytes(16, "big")
            first = log.append("stream", [event(f"{number}")], commit_id=commit_id)
            assert call(other, "append", "stream", [event(f"{number}")], commit_id=commit_id) == first
            theirs = (number + 100).to_bytes(16, "big")
            second = call(other, "append", "stream", [event("theirs")], commit_id=theirs)
            assert log.append("stream", [event("theirs")], commit_id=theirs) == second
        other.tell(None)
    assert len(log.read("stream")) == 40


def test_two_writers_in_one_process_and_one_in_another_never_confuse_their_numbers(log: BlockingLmdbEventLog) -> None:
    """Streams that are created by turns: numbers and positions are given out once."""
    with neighbours(obey, log.path, 1) as (other,):
        for number in range(30):
            log.append(f"ours {number}", [event(f"ours {number}")], expected=0)
            call(other, "append", f"theirs {number}", [event(f"theirs {number}")], expected=0)
            if number % 3 == 0:
                log.delete(f"ours {number}")
                log.erase()
        other.tell(None)
    for number in range(30):
        assert texts(log, f"theirs {number}") == [f"theirs {number}"]
        assert number % 3 == 0 or texts(log, f"ours {number}") == [f"ours {number}"]


# ---------------------------------------------------------------------------------------------------------- follow


def append_at_leisure(pipe: Connection, path: Path, _number: int) -> None:
    """Append an event that says when, whenever told to."""
    with BlockingLmdbEventLog(path, durability="os") as log:
        pipe.send("ready")
        while pipe.recv() is not None:
            log.append("stream", [event(f"{time.monotonic()}")])


def delay(record: object) -> float:
    """Since the append began; `time.monotonic` is one clock for all processes."""
    assert isinstance(record, Event)
    return time.monotonic() - float(record.data)


def test_following_sees_another_processs_commits_within_100_ms(log: BlockingLmdbEventLog) -> None:
    with neighbours(append_at_leisure, log.path, 1) as (other,):
        following = log.follow()
        delays = []
        for _ in range(15):
            other.tell("append")
            delays.append(delay(next(following)))
        other.tell(None)
    print(f"seen after {statistics.median(delays) * 1000:.0f} ms, at most {max(delays) * 1000:.0f} ms")
    assert statistics.median(delays) <= 0.1
    assert max(delays) <= 2  # a loaded machine may stop a process for a while


def test_following_in_an_event_loop_does_too(tmp_path: Path) -> None:
    async def main() -> list[float]:
        async with LmdbEventLog(tmp_path / "log", durability="os") as log:
            following = aiter(log.follow())
            with neighbours(append_at_leisure, log.path, 1) as (other,):
                delays = []
                for _ in range(10):
                    other.tell("append")
                    delays.append(delay(await anext(following)))
                other.tell(None)
            return delays

    delays = asyncio.run(main())
    assert statistics.median(delays) <= 0.1
    assert max(delays) <= 2


def test_no_event_appears_behind_a_position_that_was_handed_out(tmp_path: Path) -> None:
    """P2, beside several processes that write: whoever reads on from where it stood misses nothing."""
    with (
        BlockingLmdbEventLog(tmp_path / "log", durability="os") as log,
        neighbours(append_many, tmp_path / "log", 3, 120) as processes,
    ):
        for process in processes:
            process.tell("go")
        seen: list[Record] = []
        after, pages = START, 0
        while len(seen) < 3 * 2 * 120:
            page = log.read_all(after=after, limit=7)
            pages += bool(page)
            seen += page
            after = seen[-1].position if seen else START
        assert [process.hear() for process in processes] == [120] * 3
        assert pages > 50
        assert seen == log.read_all(limit=10**6)
        assert [record.position for record in seen] == sorted(record.position for record in seen)
