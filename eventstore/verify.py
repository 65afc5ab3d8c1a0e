"""Is this log whole and untouched? `verify` says everything that is wrong with it, not only the first thing.

It runs py-lmdb's structural checker and then reads every record (see `_scan` for what is compared), in a child process:
a damaged file can crash LMDB, and that is then a finding and not the end of the caller. Writers may go on meanwhile;
what they append after the start is not looked at.

What it proves. Without a checkpoint: that every record is what was written, unless somebody recomputed the chain, and
that all tables agree. With a `checkpoint` kept elsewhere: that nothing up to it was changed, cut, or removed without a
tombstone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final, assert_never

import msgspec

from eventstore import errors
from eventstore._files import find_log, resolve_path
from eventstore.errors import LogNotFoundError, LogUnavailableError
from eventstore.log import Checkpoint, check_stream_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO

__all__ = ["Problem", "Report", "verify"]

_PATIENCE_SECONDS: Final = 2.0  # with a child that is told to end; it takes some milliseconds
_CHILD: Final = "from eventstore._scan import main; main()"
_CRASHES: Final = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL}


class Problem(msgspec.Struct, frozen=True):
    """Something that is not as it must be.

    *kind*: "open", "structure", "crash", "record", "digest", "lineage", "head", "name", "children", "activity",
    "erasure", "snapshot", "checkpoint". *stream* is None and *version* 0 where no stream or event can be named;
    *position* counts from 1 in this log, 0 if there is none.
    """

    kind: str
    reason: str
    stream: str | None = None
    version: int = 0
    position: int = 0

    def __str__(self) -> str:
        place = (
            "" if self.stream is None else f" {self.stream!r}" + (f" version {self.version}" if self.version else "")
        )
        return f"{self.kind}:{place}{f' (position {self.position})' if self.position else ''} {self.reason}"


class Report(msgspec.Struct, frozen=True):
    """What was looked at, and every problem found. It is true if there is none."""

    problems: list[Problem]
    events: int = 0
    streams: int = 0
    bytes: int = 0  # of events: meta and data
    seconds: float = 0.0

    def __bool__(self) -> bool:
        return not self.problems


class Task(msgspec.Struct, frozen=True):
    """What the child is asked to do."""

    path: str
    stream: str | None = None
    checkpoint: Checkpoint | None = None


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """The child has read *done* of *total* records."""

    done: int
    total: int


class Found(msgspec.Struct, frozen=True, tag="found"):
    """The child found a problem."""

    problem: Problem


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    """The child came to the end."""

    report: Report


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The child could not look at the log: the name of the error, its path and reason."""

    error: str
    path: str
    reason: str


Message = Progress | Found | Finished | Refused


def verify(
    path: str | os.PathLike[str],
    *,
    stream: str | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Look at the whole log at *path*, or only at the lineage of *stream*.

    *progress* is called with the number of records read and their total. Raises `LogNotFoundError` and `NotALogError`
    if there is no log to look at, `LogInUseError`, `LogPermissionError`, `AddressSpaceError`, `LogUnavailableError` and
    the like if it could not be looked at; whatever is wrong with a log is in the report, a newer format included. A
    stream that is deleted meanwhile is compared as far as it is there.
    """
    if stream is not None:
        check_stream_name(stream)
    resolved = resolve_path(path)
    if not find_log(resolved):
        raise LogNotFoundError(str(resolved), "there is no log")
    started = time.monotonic()
    task = msgspec.json.encode(Task(str(resolved), stream, checkpoint))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry or "." for entry in sys.path)}
    with subprocess.Popen(  # noqa: S603  (our own interpreter and code)
        [sys.executable, "-P", "-c", _CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        process_group=0,  # Ctrl-C at a terminal is for us, who end it; the child would print a traceback
    ) as child:
        try:
            assert child.stdin is not None
            assert child.stdout is not None
            with contextlib.suppress(BrokenPipeError):  # it died before it listened: its status says of what
                child.stdin.write(task)
                child.stdin.close()
            report, finished = _listen(child.stdout, progress)
            status = child.wait()
        except BaseException:
            _end(child)
            raise
    if status > 0 or (not status and not finished):
        raise LogUnavailableError(str(resolved), f"the check failed with exit status {status}, and so says nothing")
    if status:
        report = msgspec.structs.replace(report, problems=[*report.problems, _crash(-status)])
    return msgspec.structs.replace(report, seconds=time.monotonic() - started)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Let it close the log, or what it was reading would stay in use until somebody looks for dead readers."""
    child.terminate()
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_PATIENCE_SECONDS)
    finally:
        child.kill()  # unless it has ended


def _listen(lines: IO[bytes], progress: Callable[[int, int], None] | None) -> tuple[Report, bool]:
    """What the child said, and whether it came to the end."""
    problems: list[Problem] = []
    report, finished = Report(problems), False
    for line in lines:
        message: Message = msgspec.json.decode(line, type=Message)
        match message:
            case Progress(done, total):
                if progress:
                    progress(done, total)
            case Found(problem):
                problems.append(problem)
            case Finished(counted):
                report, finished = msgspec.structs.replace(counted, problems=problems), True
            case Refused(error, path, reason):
                raise getattr(errors, error)(path, reason)
            case _ as never:
                assert_never(never)
    return report, finished


def _crash(number: int) -> Problem:
    meaning = "the file is damaged beyond reading" if number in _CRASHES else "it did not come to its end"
    return Problem("crash", f"the check was ended by {signal.Signals(number).name}: {meaning}")
