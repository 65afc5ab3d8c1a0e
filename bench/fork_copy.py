"""How much faster is a durable fork of 10,000 messages of 1 KB than copying them?

Bar: at least 100x faster than loading and saving the same session with our `FileSessionStorage`. The same by hand with
the standard library's JSON (flushed and renamed as a careful program does), `cp` (with a flush) and SQLite copying the
rows are printed beside.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import time
from typing import TYPE_CHECKING

import msgspec

from bench.harness import Contestant, Finding, Result, Size, content_hash, interleave, median_seconds, ratio
from bench.ours import contents, fill
from bench.report import run_alone
from bench.rivals import Sqlite
from bench.workload import kilobytes, message
from eventstore import BlockingLmdbEventLog
from session import FileSessionStorage, SessionState

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bench.harness import Hashes

QUESTION = "how much faster is a durable fork than copying the messages?"
SQLITE_FORK = """
insert into events (stream, version, type, data)
select ?2, version, type, data from events where stream = ?1 order by version"""


def run(size: Size) -> Result:
    """Every round forks the same session once more; ours, being quick, several times."""
    messages = _messages(size.pick(full=10_000, small=50))
    forks = size.pick(full=20, small=2)
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(size.scratch())
        log = stack.enter_context(BlockingLmdbEventLog(directory / "log.refold", durability="disk"))
        fill(log, "parent", map(message, messages))
        database = stack.enter_context(Sqlite(directory / "sqlite.db"))
        database.append([("parent", data) for data in messages])
        _save(directory / "parent.json", [json.loads(data) for data in messages])
        runner = stack.enter_context(asyncio.Runner())
        files = FileSessionStorage(directory / "sessions")
        runner.run(files.save(SessionState.new("parent", messages=messages)))
        contestants = [
            Contestant("refold fork", "disk", _fork_round(log, forks)),
            Contestant("FileSessionStorage load + save", "disk", _timed(lambda child: runner.run(_copy(files, child)))),
            Contestant("json load + save", "disk", _timed(lambda child: _copy_json(directory, child))),
            Contestant("cp + fsync", "disk", _timed(lambda child: _copy_file(directory, child))),
            Contestant("sqlite insert .. select", "disk", _timed(lambda child: _copy_rows(database, child))),
        ]
        series = interleave(size, contestants)
        hashes: Hashes = {
            f"a child of {len(messages):,} messages": {
                "refold fork": content_hash(contents(log, "child_1-0")),
                "FileSessionStorage load + save": content_hash(runner.run(_loaded(files, "child_1")).messages.raw),
                "json load + save": content_hash(_read_json(directory / "child_1.json")),
                "cp + fsync": content_hash(_read_json(directory / "child_1.copy")),
                "sqlite insert .. select": content_hash(database.read("child_1")),
            }
        }
    ours, *copies = (series[contestant.name] for contestant in contestants)
    bars = (100, None, None, None)
    findings = [
        Finding(f"{copy.contestant} / fork", ratio(copy, ours), at_least=bar)
        for copy, bar in zip(copies, bars, strict=True)
    ]
    return Result(QUESTION, list(series.values()), findings, hashes)


def _messages(count: int) -> list[bytes]:
    """Messages as JSON, of about 1 KB."""
    texts = [data[:980].decode() for data in kilobytes(0, count)]
    roles = ("user", "assistant")
    return [_compact({"role": roles[index % 2], "content": text}) for index, text in enumerate(texts)]


def _compact(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _fork_round(log: BlockingLmdbEventLog, forks: int) -> Callable[[int], float]:
    return lambda number: median_seconds(
        lambda child: log.fork("parent", child), [f"child_{number}-{index}" for index in range(forks)]
    )


def _timed(copy: Callable[[str], None]) -> Callable[[int], float]:
    def play(number: int) -> float:
        began = time.perf_counter()
        copy(f"child_{number}")
        return time.perf_counter() - began

    return play


async def _copy(files: FileSessionStorage, child: str) -> None:
    await files.save(msgspec.structs.replace(await _loaded(files, "parent"), id=child))


async def _loaded(files: FileSessionStorage, session: str) -> SessionState:
    state = await files.load(session)
    assert state is not None
    return state


def _copy_json(directory: Path, child: str) -> None:
    session = json.loads((directory / "parent.json").read_bytes())
    _save(directory / f"{child}.json", session["messages"])


def _save(path: Path, messages: list[object]) -> None:
    """Replace atomically and durably."""
    new = path.with_suffix(".new")
    with new.open("wb") as file:
        file.write(json.dumps({"id": path.stem, "messages": messages}).encode())
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    _flush(path.parent)


def _copy_file(directory: Path, child: str) -> None:
    target = directory / f"{child}.copy"
    shutil.copyfile(directory / "parent.json", target)
    _flush(target)
    _flush(directory)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _copy_rows(database: Sqlite, child: str) -> None:
    database.connection.execute(SQLITE_FORK, ("parent", child))


def _read_json(path: Path) -> list[bytes]:
    return [_compact(value) for value in json.loads(path.read_bytes())["messages"]]


if __name__ == "__main__":
    run_alone(__file__, run)
