"""What is asked of the writer: checked and hashed in the caller's thread, so that the writer only chains and writes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeAlias, TypeVar

import msgspec

from eventstore._ledger import Ledger, Prepared, prepare
from eventstore.errors import InvalidEventError
from eventstore.log import (
    COMMIT_ID_BYTES,
    MAX_COMMIT_BYTES,
    SALT_BYTES,
    Commit,
    Deletion,
    Head,
    NewEvent,
    Position,
    check_bounds,
    check_commit_id,
    check_events,
    check_expected,
    check_fork_point,
    check_snapshot_data,
    check_snapshot_name,
    check_stream_name,
    check_tombstone,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventstore._lmdb import Transaction
    from eventstore._reader import Reader
    from eventstore._restore import Segment

T = TypeVar("T")
_BYTES_FOR_ONE: Final = SALT_BYTES + COMMIT_ID_BYTES
_DRAWS_FETCHED: Final = 128
Query: TypeAlias = "Callable[[Reader, Transaction], T]"
"""What reads a few rows, in a transaction."""


class Request(NamedTuple, Generic[T]):
    """What the writer runs in its transaction; its size in bytes, by which batches are bounded; and whose events it
    reads, in case they are damaged.
    """

    work: Callable[[Ledger], T]
    size: int = 0
    stream: str | None = None


class Append(msgspec.Struct, gc=False):
    """The `Request` of an append. Not a closure: hundreds wait at a time, and the collector would look at each cell."""

    name: bytes
    events: list[Prepared]
    expected: int
    commit_id: bytes
    named: bool
    size: int

    @property
    def stream(self) -> str:
        """See `Request`."""
        return self.name.decode()

    def work(self, ledger: Ledger) -> Commit:
        """Append."""
        return ledger.append(self.name, self.events, self.expected, self.commit_id, named=self.named)


def append(
    entropy: Callable[[int], bytes], stream: str, events: Sequence[NewEvent], expected: int, commit_id: bytes | None
) -> Append:
    """See `EventLog.append`."""
    name = check_stream_name(stream)
    check_expected(expected)
    prepared, chosen, size = _prepare(entropy, events, commit_id, at_least=1)
    return Append(name, prepared, expected, chosen, commit_id is not None, size)


def fork(  # noqa: PLR0917  (the order of `EventLog.fork`)
    entropy: Callable[[int], bytes],
    parent: str,
    child: str,
    at: int | None,
    events: Sequence[NewEvent],
    commit_id: bytes | None,
) -> Request[Head]:
    """See `EventLog.fork`."""
    source, name = check_stream_name(parent), check_stream_name(child)
    check_fork_point(at)
    prepared, chosen, size = _prepare(entropy, events, commit_id, at_least=0)
    named = commit_id is not None
    return Request(lambda ledger: ledger.fork(source, name, at, prepared, chosen, named=named), size, parent)


def delete(owe_erasure: Callable[[], None], stream: str, expected: int, reason: str, actor: str) -> Request[Deletion]:
    """See `EventLog.delete`."""
    name = check_stream_name(stream)
    check_expected(expected)
    check_tombstone(reason, actor)

    def work(ledger: Ledger) -> Deletion:
        deletion = ledger.delete(name, expected, reason, actor)
        owe_erasure()
        return deletion

    return Request(work, stream=stream)


def head(stream: str) -> Query[Head | None]:
    """See `EventLog.head`."""
    check_stream_name(stream)
    return lambda reader, transaction: reader.head(transaction, stream)


def is_over(stream: str, after: Position) -> Query[bool]:
    """Whether *stream* was deleted, and its tombstone stands at or before *after*."""
    check_stream_name(stream)
    return lambda reader, transaction: reader.is_deleted_before(transaction, stream, reader.number(after))


def restore(part: Segment) -> Request[None]:
    """A part of `EventLog.restore`."""
    return Request(lambda ledger: ledger.restore(part), MAX_COMMIT_BYTES, part.stream)


def put_snapshot(stream: str, name: str, revision: int, version: int, data: bytes) -> Request[None]:
    """See `EventLog.put_snapshot`."""
    encoded, label = check_stream_name(stream), check_snapshot_name(name, revision)
    check_bounds(version=version)
    check_snapshot_data(data)
    return Request(lambda ledger: ledger.put_snapshot(encoded, label, revision, version, data), len(data), stream)


class RandomPool:
    """`os.urandom` for appends of one event, of which it fetches many at a time: a system call costs what a tenth of an
    append does. Thread-safe.
    """

    def __init__(self) -> None:
        self._draws: list[bytes] = []

    def __call__(self, wanted: int) -> bytes:
        """That many random bytes."""
        if wanted != _BYTES_FOR_ONE:
            return os.urandom(wanted)
        try:
            return self._draws.pop()
        except IndexError:
            random = os.urandom(_BYTES_FOR_ONE * _DRAWS_FETCHED)
            draws = [random[place : place + _BYTES_FOR_ONE] for place in range(0, len(random), _BYTES_FOR_ONE)]
            drawn = draws.pop()
            self._draws += draws
            return drawn


def draw(entropy: Callable[[int], bytes], wanted: int) -> bytes:
    """That many random bytes. Raises `InvalidEventError` if *entropy* gives anything else."""
    random = entropy(wanted)
    if type(random) is not bytes or len(random) != wanted:
        raise InvalidEventError(f"the log's entropy did not give {wanted} bytes")
    return random


def _prepare(
    entropy: Callable[[int], bytes], events: Sequence[NewEvent], commit_id: bytes | None, *, at_least: int
) -> tuple[list[Prepared], bytes, int]:
    """The events, the commit id and the bytes; one call for random bytes serves all salts and the id."""
    size = check_events(events, at_least=at_least)
    if commit_id is not None:
        check_commit_id(commit_id)
    random = draw(entropy, SALT_BYTES * len(events) + COMMIT_ID_BYTES)
    return prepare(events, random), commit_id or random[-COMMIT_ID_BYTES:], size
