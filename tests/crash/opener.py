"""Opens what a crash left, in a process of its own: a damaged file may kill whoever maps it.

`Opener` is the tests' end, `main` the process: it examines one log after another until it dies of one, and is then
started anew.
"""

from __future__ import annotations

import contextlib
import select
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import msgspec

from eventstore import BlockingLmdbEventLog, EventStoreError, NewEvent, StreamDeletedError
from eventstore._scan import scan
from eventstore.verify import Found, Progress, Task
from tests.crash.acknowledgements import Word, is_whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from eventstore import Event, Head

REPOSITORY: Final = Path(__file__).parents[2]
_PATIENCE_SECONDS: Final = 60.0
_AFTERWARDS: Final = "after the crash"


class Request(msgspec.Struct, frozen=True):
    """Look at the log at *path*, of which *said* was acknowledged."""

    path: str
    said: list[bytes]


class Opener:
    """A process that examines logs."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def examine(self, path: Path, said: Sequence[bytes]) -> list[str]:
        """What is wrong with the log at *path*; nothing, if the list is empty. The log is opened and appended to."""
        self._process = self._process or subprocess.Popen(
            [sys.executable, "-m", "tests.crash.opener"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=REPOSITORY,
        )
        request = msgspec.json.encode(Request(str(path), list(said)))
        stdin, stdout = _pipes(self._process)
        stdin.write(request + b"\n")
        stdin.flush()
        answered = select.select([stdout], [], [], _PATIENCE_SECONDS)[0]
        if answered and (answer := stdout.readline()):
            return msgspec.json.decode(answer, type=list[str])
        return [f"{'crashed' if answered else 'hung'}: the process that opened it ended with {self._end()}"]

    def _end(self) -> str:
        assert self._process is not None
        process, self._process = self._process, None
        if process.poll() is None and not select.select([_pipes(process)[1]], [], [], 0)[0]:
            process.kill()
        with process:
            code = process.wait()
        return signal.Signals(-code).name if code < 0 else str(code)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            _pipes(self._process)[0].close()
            with self._process:
                pass


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


def main() -> None:
    """Answer each request with the list of problems."""
    warnings.simplefilter("error")
    for line in sys.stdin.buffer:
        request = msgspec.json.decode(line, type=Request)
        word = Word()
        word.hear(request.said)
        answer = list(_problems(request.path, word))
        sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
        sys.stdout.buffer.flush()


def _problems(path: str, word: Word) -> Iterator[str]:
    try:
        with contextlib.closing(BlockingLmdbEventLog(path)) as log:
            if word.log_id not in {None, log.checkpoint().log_id}:
                yield "lost: the whole log; there is a new one"
            yield from _lost_streams(log, word)
            yield from _living_streams(log)
            yield from _use(log)
        yield from _verify(path)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
        yield f"failed: {type(error).__name__}: {error}"


def _verify(path: str) -> list[str]:
    """What `verify` would say. It would start a child process for each log; this is one already."""
    problems: list[str] = []

    def hear(message: Progress | Found) -> None:
        if isinstance(message, Found):
            problems.append(f"verify: {message.problem}")

    scan(Task(path), hear)
    return problems


def _lost_streams(log: BlockingLmdbEventLog, word: Word) -> Iterator[str]:
    """What was acknowledged must be there, digests and all, or deleted if it may be."""
    for stream, digests in word.digests.items():
        try:
            found = {event.version: event.digest for event in log.read(stream, verify=True)}
        except StreamDeletedError:
            if stream not in word.doomed:
                yield f"lost: {stream!r} is deleted, which nobody asked for"
            continue
        except EventStoreError as error:
            yield f"lost: {stream!r}: {type(error).__name__}: {error}"
            continue
        if stream in word.deleted:
            yield f"lost: the deletion of {stream!r}"
        lost = [version for version, digest in digests.items() if found.get(version) != digest]
        if lost:
            yield f"lost: {stream!r} at {lost}, it has {len(found)} events"


def _living_streams(log: BlockingLmdbEventLog) -> Iterator[str]:
    """What is there, acknowledged or not, is whole: every event, and every commit."""
    cursor: bytes | None = None
    while True:
        page = log.streams(limit=50, cursor=cursor)
        for head in page.items:
            events = log.read(head.stream, verify=True)
            if not all(event.stream == _AFTERWARDS or is_whole(event.meta, event.data) for event in events):
                yield f"torn: an event of {head.stream!r}"
            if [event.version for event in events] != list(range(1, head.version + 1)):
                yield f"torn: the versions of {head.stream!r} are not 1 to {head.version}"
            if not _whole_commits(head, events):
                yield f"torn: a commit of {head.stream!r} is there in part"
        if (cursor := page.cursor) is None:
            return


def _whole_commits(head: Head, events: Sequence[Event]) -> bool:
    """A fork may begin in the middle of its parent's commit; own commits are complete."""
    due = 0
    for event in events[head.forked_at :]:
        if event.commit_index != due:
            return False
        due = 0 if due + 1 == event.commit_size else due + 1
    return due == 0


def _use(log: BlockingLmdbEventLog) -> Iterator[str]:
    """The log goes on."""
    commit = log.append(_AFTERWARDS, [NewEvent("crash.after", b"still here")])
    newest = log.read(_AFTERWARDS, limit=1, reverse=True)[0]
    if (newest.version, newest.digest, newest.data) != (commit.version, commit.digest, b"still here"):
        yield "unusable: an append afterwards is not read back"


if __name__ == "__main__":
    main()
