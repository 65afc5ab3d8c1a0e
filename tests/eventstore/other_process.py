"""Run a function in a process of its own, so that a crash of it is a fact that a test can look at."""

from __future__ import annotations

import multiprocessing
import signal
from typing import TYPE_CHECKING, Any, TypeVar

from eventstore import EventStoreError

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from types import TracebackType
    from typing import Self

T = TypeVar("T")
_PATIENCE_SECONDS = 60.0  # only a broken log makes a test wait this long
# Forked from a process that has no threads and no log open, but has imported what takes long.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["hypothesis", "pytest", "eventstore.verify", "tests.eventstore.other_process"])


class OtherProcess:
    """A process that runs *work* with one end of a pipe, and *arguments*; killed at the end of the block if it still
    runs.
    """

    def __init__(self, work: Callable[..., None], *arguments: object) -> None:
        self._pipe, theirs = _processes.Pipe()
        self._process = _processes.Process(target=work, args=(theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def tell(self, message: object) -> None:
        self._pipe.send(message)

    def hear(self) -> Any:
        """What it sends next."""
        if not self._pipe.poll(_PATIENCE_SECONDS):
            raise TimeoutError("the other process hangs")
        try:
            return self._pipe.recv()
        except EOFError:
            raise AssertionError(f"the other process ended: {self.end()}") from None

    def has_spoken(self) -> bool:
        """Whether `hear` would answer at once."""
        return self._pipe.poll()

    def ask(self, message: object) -> Any:
        self.tell(message)
        return self.hear()

    def end(self) -> str:
        """How it ended, once it has."""
        self._process.join(_PATIENCE_SECONDS)
        code = self._process.exitcode
        assert code is not None, "the other process hangs"
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"

    def kill(self) -> None:
        self._process.kill()
        assert self.end() == "SIGKILL"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._process.close()
        self._pipe.close()


def run(work: Callable[..., T], *arguments: object) -> T:
    """What *work* returns in a process of its own; an `EventStoreError` there is raised here, and a crash fails."""
    with OtherProcess(_answer, work, arguments) as process:
        result, error = process.hear()
        assert process.end() == "exit status 0"
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]


def _answer(pipe: Connection, work: Callable[..., object], arguments: tuple[object, ...]) -> None:
    try:
        pipe.send((work(*arguments), None))
    except EventStoreError as error:
        pipe.send((None, error))
