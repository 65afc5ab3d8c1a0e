"""`verify` without its child process, for the teardown of every test that has a log open."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventstore._scan import scan_environment
from eventstore.verify import Found, Problem, Progress, Task

if TYPE_CHECKING:
    from eventstore import BlockingLmdbEventLog


def problems_of(log: BlockingLmdbEventLog) -> list[Problem]:
    """Everything that is wrong with an open log."""
    problems: list[Problem] = []

    def tell(message: Progress | Found) -> None:
        if isinstance(message, Found):
            problems.append(message.problem)

    scan_environment(log.engine.environment, Task(str(log.path)), tell)
    return problems
