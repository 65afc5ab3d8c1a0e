"""Opening the store of a command."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from session.cli._failures import NotFoundError
from session.cli._options import DEFAULT_STORE, STORE_VARIABLE, chosen

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from session.storage.blocking import BlockingEventSessionStorage


def store_path() -> Path:
    """Where the store is: `--store`, `REFOLD_STORE`, or `~/.refold`."""
    return chosen().store


@contextlib.contextmanager
def open_store(*, create: bool = False) -> Iterator[BlockingEventSessionStorage]:
    """The store, closed at the end. With *create* it is made if it is missing, otherwise that is a `NotFoundError`."""
    from session.storage._log import LogNotFoundError  # noqa: PLC0415 - `--help` needs no store
    from session.storage.blocking import BlockingEventSessionStorage  # noqa: PLC0415

    path = store_path()
    try:
        storage = BlockingEventSessionStorage(path, create=create)
    except LogNotFoundError as error:
        raise missing_store(path) from error
    with storage:
        yield storage


def missing_store(path: Path) -> NotFoundError:
    """The error that says that there is no store at *path*, and what to do."""
    return NotFoundError(
        f"there is no store at {path}: name one with --store PATH or {STORE_VARIABLE} (default {DEFAULT_STORE})"
    )
