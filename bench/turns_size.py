"""How large is the file of one conversation of 1,000 turns?

A turn is 250 B asked, a request, and 900 B answered with response and usage. Bar: at most 3.0 MB, for 1.75 MB of data
in 5,000 events. SQLite is printed beside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.harness import Finding, Result, Series, Size, content_hash, file_bytes
from bench.ours import contents, used_bytes
from bench.report import run_alone
from bench.rivals import Sqlite
from bench.workload import Text, turn
from eventstore import BlockingLmdbEventLog

if TYPE_CHECKING:
    from pathlib import Path

    from eventstore import NewEvent

QUESTION = "how large is the file of one conversation of 1,000 turns?"
STREAM = "sess_0123456789abcdef"
BYTES_PER_TURN = 3_000


def run(size: Size) -> Result:
    """One run, without rounds; every turn is written as it happens, in three commits."""
    turns = size.pick(full=1_000, small=100)
    text = Text(0)
    commits = [commit for _ in range(turns) for commit in turn(text)]
    data_bytes = sum(len(event.data) for commit in commits for event in commit)
    with size.scratch() as directory:
        ours, rival = directory / "log.refold", directory / "sqlite.db"
        hashes = {"refold": _write(ours, commits), "sqlite": _write_sqlite(rival, commits)}
        series = [
            Series("data", "-", "bytes", [data_bytes]),
            Series("refold", "disk", "bytes", [file_bytes(ours)]),
            Series("refold, pages in use", "disk", "bytes", [used_bytes(ours)]),
            Series("sqlite", "disk", "bytes", [file_bytes(rival)]),
        ]
    refold = series[1].median
    findings = [
        Finding(f"file of {turns:,} turns", refold, "bytes", at_most=BYTES_PER_TURN * turns),
        Finding("refold / data", refold / data_bytes),
        Finding("refold / sqlite", refold / series[3].median),
    ]
    return Result(QUESTION, series, findings, {f"{turns:,} turns": hashes})


def _write(path: Path, commits: list[list[NewEvent]]) -> str:
    with BlockingLmdbEventLog(path, durability="disk") as log:
        for commit in commits:
            log.append(STREAM, commit)
        return content_hash(contents(log, STREAM))


def _write_sqlite(path: Path, commits: list[list[NewEvent]]) -> str:
    with Sqlite(path) as database:
        for commit in commits:
            database.append([(STREAM, event.data) for event in commit])
        database.connection.execute("pragma wal_checkpoint(truncate)")
        return content_hash(database.read(STREAM))


if __name__ == "__main__":
    run_alone(__file__, run)
