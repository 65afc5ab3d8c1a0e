"""An event loop goes on while the log is held; one bad request concerns nobody else; nothing leaks or lingers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from eventstore import BlockingLmdbEventLog, LmdbEventLog, NewEvent, WrongVersionError
from eventstore._gate import Passage
from tests.eventstore.other_process import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE_SECONDS = 60


def event(size: int = 1) -> NewEvent:
    return NewEvent("type", bytes(size))


# ------------------------------------------------------------------------------------------------- the loop goes on


@contextlib.contextmanager
def held(log: LmdbEventLog) -> Iterator[threading.Event]:
    """Keep everybody out, as a compaction does, until told otherwise."""
    taken, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        gate, alone = log.blocking.engine.environment._gate, Passage()
        try:
            gate.enter_alone(alone)
            taken.set()
            assert let_go.wait(PATIENCE_SECONDS)
        finally:
            gate.leave_alone(alone, None)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert taken.wait(PATIENCE_SECONDS)
        yield let_go
    finally:
        let_go.set()
        thread.join()


def test_a_loop_goes_on_while_the_log_is_held(tmp_path: Path) -> None:
    """Whoever asks for a head, or follows, waits; the loop does not: it lets go itself."""

    async def main() -> None:
        async with LmdbEventLog(tmp_path / "log", durability="os") as log:
            await log.append("stream", [event()])
            head = await log.head("stream")
            follower = aiter(log.follow(stream="stream"))
            await anext(follower)
            with held(log) as let_go:
                asked: list[asyncio.Future[Any]] = [
                    asyncio.ensure_future(log.head("stream")),
                    asyncio.ensure_future(log.read("stream")),
                    asyncio.ensure_future(anext(follower)),
                    asyncio.ensure_future(log.append("stream", [event()])),
                ]
                done, _ = await asyncio.wait(asked, timeout=0.05)
                assert not done
                let_go.set()
                async with asyncio.timeout(PATIENCE_SECONDS):
                    found = await asyncio.gather(*asked)
            assert found[0] in {head, await log.head("stream")}
            assert found[2].version == 2

    asyncio.run(main())


async def worst_lag(busy: asyncio.Future[Any], log: LmdbEventLog) -> float:
    """The longest time between two turns of a loop that asks for a head in each, until *busy* is done."""
    worst, last = 0.0, time.perf_counter()
    pending: set[asyncio.Future[Any]] = set()
    while not busy.done():
        if len(pending) < 4:
            pending.add(asyncio.ensure_future(log.head("stream")))
        await asyncio.sleep(0)
        pending = {head for head in pending if not head.done()}
        now = time.perf_counter()
        worst, last = max(worst, now - last), now
    await asyncio.gather(busy, *pending)
    return worst


@pytest.mark.parametrize("work", ["compact", "backup"])
def test_a_loop_does_not_wait_for_a_compaction_or_a_backup(work: str, tmp_path: Path) -> None:
    async def main() -> tuple[float, float]:
        async with LmdbEventLog(tmp_path / "log", durability="os") as log:
            for _ in range(8):
                await log.append("stream", [event(2**22) for _ in range(4)])
            started = time.perf_counter()
            todo = log.compact() if work == "compact" else log.backup(tmp_path / "backup")
            lag = await worst_lag(asyncio.ensure_future(todo), log)
            return lag, time.perf_counter() - started

    lag, seconds = asyncio.run(main())
    print(f"{work}: {seconds * 1000:.0f} ms, the loop waited at most {lag * 1000:.1f} ms")
    assert lag < max(0.1, seconds / 2)  # it is 1 or 2 ms: a loaded machine may stop the process for a while


# ------------------------------------------------------------------------------------------ one request, and the rest


def test_an_error_of_the_clock_is_the_error_of_one_append(tmp_path: Path) -> None:
    """And does not make the others of its batch go one by one."""
    times = iter(range(100, 200))

    def clock() -> int:
        now = next(times)
        if now == 130:
            raise ZeroDivisionError
        return now

    async def main() -> None:
        async with LmdbEventLog(tmp_path / "log", durability="os", clock=clock) as log:
            before = log.blocking.last_transaction()
            outcomes = await asyncio.gather(
                *(log.append(f"stream {number}", [event()]) for number in range(60)), return_exceptions=True
            )
            failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
            assert [type(error) for error in failed] == [ZeroDivisionError]
            assert log.blocking.last_transaction() - before < 20
            assert len((await log.streams()).items) == 59

    asyncio.run(main())


def test_a_wait_for_another_process_does_not_make_the_writer_linger(tmp_path: Path) -> None:
    """It waits a quarter of the last commit's time for more to come, which may have been a minute."""
    with BlockingLmdbEventLog(tmp_path / "log", durability="os") as log:
        log.append("stream", [event()])
        writer = log.engine.writer
        writer._last_seconds, writer._last_batch = 4.0 * PATIENCE_SECONDS, 100
        started = time.perf_counter()
        log.append("stream", [event()])
        assert time.perf_counter() - started < PATIENCE_SECONDS / 6


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def fail_to_write(path: Path, times: int) -> int:
    """How much memory so many refused appends of a megabyte each leave behind."""
    with BlockingLmdbEventLog(path, durability="os") as log:
        log.append("stream", [event()])
        before = 0
        for number in range(times):
            if number == times // 4:
                before = resident_bytes()
            with pytest.raises(WrongVersionError):
                log.append("stream", [event(2**20)], expected=7)
        return resident_bytes() - before


async def fail_to_write_in_a_loop(path: Path, times: int) -> int:
    async with LmdbEventLog(path, durability="os") as log:
        await log.append("stream", [event()])
        before = 0
        for number in range(times // 4):
            if number == times // 16:
                before = resident_bytes()
            attempts = (log.append("stream", [event(2**20)], expected=7) for _ in range(4))
            outcomes = await asyncio.gather(*attempts, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {WrongVersionError}
            del outcomes
        return resident_bytes() - before


def run_in_a_loop(path: Path, times: int) -> int:
    return asyncio.run(fail_to_write_in_a_loop(path, times))


@pytest.mark.parametrize("fail", [fail_to_write, run_in_a_loop])
def test_refused_appends_leave_nothing_in_memory(fail: Callable[[Path, int], int], tmp_path: Path) -> None:
    grown = run(fail, tmp_path / "log", 120)
    assert grown < 30 * 2**20  # of 90 MiB
