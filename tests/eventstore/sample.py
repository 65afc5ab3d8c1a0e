"""A log with every kind of row and record, and the means to damage copies of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from eventstore import BlockingLmdbEventLog, NewEvent
from eventstore import _layout as layout
from eventstore._lmdb import Environment
from eventstore._scan import scan_environment
from eventstore.verify import Found, Problem, Progress, Task
from tests.eventstore.rows import rows

if TYPE_CHECKING:
    from pathlib import Path

    from eventstore import Checkpoint


def event(text: str = "x", meta: bytes = b"") -> NewEvent:
    return NewEvent("type", text.encode(), meta)


def fill(log: BlockingLmdbEventLog) -> None:
    """Forks of forks, deleted streams with and without what they leave, snapshots."""
    for number in range(8):
        log.append("a", [event(f"a{number}", b"meta"), NewEvent("a longer type", os.urandom(300))])
        log.append("b", [event(f"b{number}")])
    log.append("large", [NewEvent("type", os.urandom(20_000), os.urandom(5_000))])
    log.fork("a", "fork", at=5, events=[event("own 1"), event("own 2")])
    log.fork("fork", "fork of fork", at=6)
    log.fork("b", "fork of deleted", at=4, events=[event("own")])
    log.fork("a", "deleted fork", at=9, events=[event("own")])
    log.fork("a", "needed fork", at=8, events=[event("own")])
    log.fork("needed fork", "its fork", at=2)
    log.append("gone", [event("1"), event("2")])
    log.put_snapshot("fork", "fold", 1, 6, b"a snapshot of the fork")
    log.delete("b", reason="a reason", actor="an actor")
    log.delete("gone")
    log.delete("deleted fork")
    log.delete("needed fork")
    log.erase()
    log.append("a", [event("last")])


def check(path: Path, stream: str | None = None, checkpoint: Checkpoint | None = None) -> list[Problem]:
    """What `verify` finds, without its child process."""
    problems: list[Problem] = []

    def tell(message: Progress | Found) -> None:
        if isinstance(message, Found):
            problems.append(message.problem)

    environment = Environment(path, durability="os")
    try:
        scan_environment(environment, Task(str(path), stream, checkpoint), tell)
    finally:
        environment.close()
    return problems


def records(path: Path) -> list[tuple[int, bytes]]:
    """Position and bytes of every record."""
    return [(layout.key_position(key), value) for key, value in rows(path) if key[:1] == layout.LOG]


def place_of(data: bytes, value: bytes) -> int:
    """Where a row's value stands in the file."""
    place = data.find(value)
    assert place >= 0
    assert data.find(value, place + 1) < 0, "it is there only once"
    return place


def flip(path: Path, place: int, mask: int) -> None:
    with (path / "data.mdb").open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ mask]))
