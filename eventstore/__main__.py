"""The log at work, in a temporary directory: `python -m eventstore`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from eventstore.blocking_lmdb_log import BlockingLmdbEventLog
from eventstore.log import NewEvent
from eventstore.verify import verify

_WRITER = """
import sys
from eventstore import BlockingLmdbEventLog, NewEvent
with BlockingLmdbEventLog(sys.argv[1]) as log:
    while True:
        print(log.append("crashed", [NewEvent("note", b"x" * 1000)] * 3).version, flush=True)
"""


def main() -> None:
    """Append, fork, crash, verify, damage, verify again."""
    with tempfile.TemporaryDirectory(prefix="refold-", dir=Path.cwd()) as directory:
        path = Path(directory) / "log"
        with BlockingLmdbEventLog(path) as log:
            _append(log)
            _fork(log, path)
            _crash(log, path)
            _verify(log, path)
        _damage(path)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _append(log: BlockingLmdbEventLog) -> None:
    begun = time.perf_counter()
    for turn in range(200):
        log.append("conversation", [NewEvent("message", b"%d" % turn)], expected=turn)
    each = (time.perf_counter() - begun) / 200
    _say(f"200 appends, each on disk when it returned: {each * 1e6:,.0f} microseconds each")
    for _ in range(10):
        log.append("long", [NewEvent("message", os.urandom(1000))] * 1000)


def _fork(log: BlockingLmdbEventLog, path: Path) -> None:
    before, begun = (path / "data.mdb").stat().st_size, time.perf_counter()
    for number in range(100):
        log.fork("long", f"try-{number}", at=10_000 - number)
    each = (time.perf_counter() - begun) / 100
    grown = (path / "data.mdb").stat().st_size - before
    _say(f"100 forks of a stream of 10,000 events (10 MB): {each * 1e6:,.0f} microseconds each, {grown:,} bytes in all")


def _crash(log: BlockingLmdbEventLog, path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE) as writer:  # noqa: S603
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(50)]
        os.kill(writer.pid, signal.SIGKILL)
        acknowledged = int([*lines, *writer.stdout][-1])
    head = log.head("crashed")
    assert head is not None
    _say(f"a second process, killed with -9 in mid-append: {acknowledged} events acknowledged, {head.version} there")


def _verify(log: BlockingLmdbEventLog, path: Path) -> None:
    report = verify(path, checkpoint=log.checkpoint())
    _say(f"verify: {report.events:,} events in {report.seconds:.1f} s, {len(report.problems)} problems")


def _damage(path: Path) -> None:
    copy = path.with_name("damaged")
    shutil.copytree(path, copy)
    data = (copy / "data.mdb").read_bytes()
    (copy / "data.mdb").write_bytes(data.replace(b"message150", b"message151"))  # also where old pages linger
    for problem in verify(copy).problems:
        _say(f"verify, after one bit was flipped in a copy: {problem}")


if __name__ == "__main__":
    main()
