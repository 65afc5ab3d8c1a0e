"""How large is the file for what was put into it? The mix of an agent's session, 1,000 sessions writing in turns.

Bar: at most 1.35 bytes of file per byte of event data. Judged for sessions that write at the same time (group commits)
and for one append at a time. SQLite's file and a plain JSON line per event are printed beside.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import TYPE_CHECKING

from bench.harness import Finding, Result, Series, Size, content_hash, file_bytes
from bench.ours import contents, opened, used_bytes
from bench.report import run_alone
from bench.rivals import Sqlite
from bench.workload import mixed_events
from eventstore import BlockingLmdbEventLog

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.harness import Durability
    from eventstore import LmdbEventLog, NewEvent

QUESTION = "how large is the file for what was put into it?"


def run(size: Size) -> Result:
    """One run, without rounds: sizes are not noisy."""
    sessions, each = size.pick(full=1_000, small=20), size.pick(full=40, small=8)
    work = _work(sessions, each)
    data_bytes = sum(len(event.data) for events in work.values() for event in events)
    with size.scratch() as directory:
        paths = {name: directory / name for name in ("together", "in turn", "sqlite", "lines")}
        hashes = {
            "together": _write_together(paths["together"], work),
            "in turn": _write_in_turn(paths["in turn"], work),
            "sqlite": _write_sqlite(paths["sqlite"], work),
            "lines": _write_lines(paths["lines"], work),
        }
        sizes = {name: float(file_bytes(path)) for name, path in paths.items()}
        used = {f"{name}, pages in use": float(used_bytes(paths[name])) for name in ("together", "in turn")}
    series = [Series("data", "-", "bytes", [data_bytes])]
    series += [Series(name, _durability(name), "bytes", [value]) for name, value in (sizes | used).items()]
    bars = {"together": 1.35, "in turn": 1.35}
    findings = [
        Finding(f"{name} / data", value / data_bytes, at_most=bars.get(name)) for name, value in (sizes | used).items()
    ]
    return Result(QUESTION, series, findings, {f"{sessions:,} sessions of {each} events": hashes})


def _work(sessions: int, each: int) -> dict[str, list[NewEvent]]:
    """Per session its events. They begin anywhere in the mix, so that a step of all sessions holds every kind."""
    return {
        f"sess_{session:016}": list(itertools.islice(mixed_events(session), session % 4, session % 4 + each))
        for session in range(sessions)
    }


def _durability(name: str) -> Durability:
    return "disk" if name == "sqlite" else "os"


def _steps(work: dict[str, list[NewEvent]]) -> Iterator[list[tuple[str, NewEvent]]]:
    """Every session's first event, every session's second, and so on."""
    for events in zip(*work.values(), strict=True):
        yield list(zip(work, events, strict=True))


def _write_together(path: Path, work: dict[str, list[NewEvent]]) -> str:
    async def session(log: LmdbEventLog, stream: str, events: list[NewEvent]) -> None:
        for event in events:
            await log.append(stream, [event])

    async def sessions(log: LmdbEventLog) -> None:
        async with asyncio.TaskGroup() as group:
            for stream, events in work.items():
                group.create_task(session(log, stream, events))

    with asyncio.Runner() as runner, opened(runner, path, "os") as log:
        runner.run(sessions(log))
        return content_hash(data for stream in work for data in contents(log.blocking, stream))


def _write_in_turn(path: Path, work: dict[str, list[NewEvent]]) -> str:
    with BlockingLmdbEventLog(path, durability="os") as log:
        for step in _steps(work):
            for stream, event in step:
                log.append(stream, [event])
        return content_hash(data for stream in work for data in contents(log, stream))


def _write_sqlite(path: Path, work: dict[str, list[NewEvent]]) -> str:
    with Sqlite(path) as database:
        for step in _steps(work):
            database.append([(stream, event.data) for stream, event in step])
        database.connection.execute("pragma wal_checkpoint(truncate)")
        return content_hash(data for stream in work for data in database.read(stream))


def _write_lines(path: Path, work: dict[str, list[NewEvent]]) -> str:
    with path.open("w") as file:
        for step in _steps(work):
            for stream, event in step:
                file.write(json.dumps({"stream": stream, "type": event.type, "data": event.data.decode()}) + "\n")
    found: dict[str, list[bytes]] = {stream: [] for stream in work}
    with path.open() as file:
        for line in file:
            record = json.loads(line)
            found[record["stream"]].append(record["data"].encode())
    return content_hash(data for events in found.values() for data in events)


if __name__ == "__main__":
    run_alone(__file__, run)
