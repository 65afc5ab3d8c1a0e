"""How many durable appends per second do 64 and 512 concurrent sessions get acknowledged, against a lone one?

Bars: 64 sessions at least 10x the same log's lone rate, 512 at least 15x, and 512 at least half of what they get with
`durability="os"`. Beside them, the same events on the rivals, one durable step per batch of as many events as sessions:
what a program could get that had collected the batch by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Literal

from bench.harness import Contestant, Finding, Result, Size, content_hash, interleave, ratio
from bench.ours import contents, opened
from bench.report import run_alone
from bench.rivals import BareLmdb, RawFile, Sqlite
from bench.workload import kilobytes, message
from eventstore import LmdbEventLog

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bench.harness import Durability, Hashes, Series
    from bench.rivals import Rival
QUESTION = "how many appends per second do concurrent sessions get acknowledged?"
RIVALS: dict[str, Callable[[Path], Rival]] = {"raw": RawFile, "bare py-lmdb": BareLmdb, "sqlite": Sqlite}
APPENDS_EACH = {1: 400, 64: 20, 512: 10}  # by the number of sessions: a round has to last long enough to be timed
SESSIONS = tuple(APPENDS_EACH)


def run(size: Size) -> Result:
    """Every session has a stream of its own and waits for each of its appends."""
    contestants: list[Contestant] = []
    stores: dict[str, tuple[int, Rival | LmdbEventLog]] = {}
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(size.scratch())
        runner = stack.enter_context(asyncio.Runner())

        def enter(name: str, sessions: int, durability: Durability, store: Rival | LmdbEventLog) -> None:
            play = _round(runner, store, sessions, size.pick(full=APPENDS_EACH[sessions], small=2))
            contestants.append(Contestant(name, durability, play, unit="1/s"))
            stores[name] = (sessions, store)

        modes: tuple[Literal["disk", "os"], ...] = ("disk", "os")
        for durability in modes:
            log = stack.enter_context(opened(runner, directory / f"{durability}.refold", durability))
            for sessions in SESSIONS:
                enter(f"refold {durability}, {sessions}", sessions, durability, log)
        for kind, store in RIVALS.items():
            for sessions in SESSIONS:
                rival = stack.enter_context(store(directory / f"{kind} {sessions}"))
                enter(f"{kind}, batches of {sessions}", sessions, "disk", rival)
        series = interleave(size, contestants)
        hashes = _hashes(stores)
    return Result(QUESTION, list(series.values()), _findings(series), hashes)


def _findings(series: dict[str, Series]) -> list[Finding]:
    lone, few, many = (series[f"refold disk, {sessions}"] for sessions in SESSIONS)
    return [
        Finding("64 sessions / lone", ratio(few, lone), at_least=10),
        Finding("512 sessions / lone", ratio(many, lone), at_least=15),
        Finding("512 sessions, disk / os", ratio(many, series["refold os, 512"]), at_least=0.5),
        Finding("512 sessions / raw batches of 512", ratio(many, series["raw, batches of 512"])),
        Finding("512 sessions / sqlite batches of 512", ratio(many, series["sqlite, batches of 512"])),
        Finding("512 sessions / sqlite autocommit", ratio(many, series["sqlite, batches of 1"])),
    ]


def _stream(sessions: int, session: int) -> str:
    return f"{sessions}-{session}"


def _work(number: int, sessions: int, each: int) -> list[list[bytes]]:
    """Per session, the data of its appends in round *number*."""
    data = kilobytes(number, sessions * each)
    return [data[session::sessions] for session in range(sessions)]


def _round(runner: asyncio.Runner, store: Rival | LmdbEventLog, sessions: int, each: int) -> Callable[[int], float]:
    def play(number: int) -> float:
        work = _work(number, sessions, each)
        if isinstance(store, LmdbEventLog):
            seconds = runner.run(_concurrently(store, work))
        else:
            seconds = _in_batches(store, work)
        return sessions * each / seconds

    return play


def _in_batches(rival: Rival, work: list[list[bytes]]) -> float:
    began = time.perf_counter()
    for step in zip(*work, strict=True):
        rival.append([(_stream(len(work), session), data) for session, data in enumerate(step)])
    return time.perf_counter() - began


async def _concurrently(log: LmdbEventLog, work: list[list[bytes]]) -> float:
    async def session(stream: str, appends: list[bytes]) -> None:
        for data in appends:
            await log.append(stream, [message(data)])

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number, appends in enumerate(work):
            group.create_task(session(_stream(len(work), number), appends))
    return time.perf_counter() - began


def _hashes(stores: dict[str, tuple[int, Rival | LmdbEventLog]]) -> Hashes:
    hashes: Hashes = {f"{sessions} sessions": {} for sessions in SESSIONS}
    for name, (sessions, store) in stores.items():
        streams = [_stream(sessions, session) for session in range(sessions)]
        if isinstance(store, LmdbEventLog):
            found = [data for stream in streams for data in contents(store.blocking, stream)]
        else:
            found = [data for stream in streams for data in store.read(stream)]
        hashes[f"{sessions} sessions"][name] = content_hash(found)
    return hashes


if __name__ == "__main__":
    run_alone(__file__, run)
