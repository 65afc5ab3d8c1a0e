"""A log's rows, read and changed behind its back."""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING, Any

import lmdb

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from eventstore import BlockingLmdbEventLog


def copy_of(log: BlockingLmdbEventLog, target: Path) -> Path:
    """A copy whose file holds each record once: none of the pages that LMDB has freed."""
    shutil.rmtree(target, ignore_errors=True)
    log.backup(target)
    return target


@contextlib.contextmanager
def changing(path: Path) -> Iterator[Any]:
    """A raw write transaction in the log at *path*."""
    with (
        lmdb.open(str(path), lib_version=0, create=False, map_size=2**30) as environment,
        environment.begin(write=True) as transaction,
    ):
        yield transaction


def rows(path: Path) -> list[tuple[bytes, bytes]]:
    with (
        lmdb.open(str(path), lib_version=0, create=False, lock=False, readonly=True) as environment,
        environment.begin() as transaction,
    ):
        return list(transaction.cursor())


class CountingTransaction:
    """A raw transaction that counts the rows it is asked for: what a piece of work costs, on any machine."""

    def __init__(self, transaction: Any) -> None:
        self._transaction = transaction
        self.rows = 0

    def __getattr__(self, name: str) -> Any:
        self.rows += 1
        return getattr(self._transaction, name)

    def cursor(self) -> CountingCursor:
        return CountingCursor(self, self._transaction.cursor())


class CountingCursor:
    """A cursor whose every step counts."""

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        for row in self._cursor:
            self._counting.rows += 1
            yield row

    def __init__(self, counting: CountingTransaction, cursor: Any) -> None:
        self._counting = counting
        self._cursor = cursor

    def __getattr__(self, name: str) -> Any:
        if name not in {"key", "value"}:
            self._counting.rows += 1
        return getattr(self._cursor, name)
