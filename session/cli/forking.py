"""`refold fork`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import click
import msgspec

from session.cli._address import PLACE, find_place
from session.cli._failures import CommandError, explain
from session.cli._options import command
from session.cli._output import output, say
from session.cli._store import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from session.storage.blocking import BlockingEventSessionStorage

MOST_FORKS: Final = 100_000
_AT_ONCE: Final = 500  # share flushes, and their ids are printed when all of them are durable


class MadeFork(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The new session `id` shares the events of `parent` up to version `at`."""

    id: str
    parent: str
    at: int


@command("fork", example="refold fork sess_4f@turn:3\nrefold fork sess_4f@412 --count 100", prints=MadeFork)
@click.argument("place", type=PLACE)
@click.option("--id", "new_id", metavar="ID", help="The id of the new session (default: one is made up).")
@click.option("--count", default=1, show_default=True, type=click.IntRange(1, MOST_FORKS), help="So many forks.")
@click.option("--reason", default="", help="Why: recorded with the fork.")
def fork(place: str, new_id: str | None, count: int, reason: str) -> None:
    """Make a new session that shares everything up to PLACE with another, and print its id. Nothing is copied.

    Of many, the ids are printed as they are made.
    """
    if new_id and count > 1:
        raise click.UsageError("--id names one session, --count makes many")
    with open_store() as store:
        found = find_place(store, place)
        at = store.version_at(found.session_id, found.at)
        if count == 1:
            _print([MadeFork(store.fork(found.session_id, new_id, at=at, reason=reason), found.session_id, at)])
        else:
            _fork_many(store, MadeFork("", found.session_id, at), count, reason)


def _fork_many(store: BlockingEventSessionStorage, like: MadeFork, count: int, reason: str) -> None:
    """Make and print *count* forks; where that ends early, say how many there are."""
    made = 0
    try:
        for piece in _pieces(count):
            ids = store.fork_many(like.parent, piece, at=like.at, reason=reason)
            made += piece
            _print([msgspec.structs.replace(like, id=session_id) for session_id in ids])
    except OSError:  # of the output: whoever read it may have left
        say(f"refold: {made:,} of {count:,} forks were made")
        raise
    except (Exception, KeyboardInterrupt) as error:
        raise _UnfinishedError(made, count, error) from error


def _pieces(count: int) -> Iterator[int]:
    for begun in range(0, count, _AT_ONCE):
        yield min(_AT_ONCE, count - begun)


def _print(forks: list[MadeFork]) -> None:
    out = output()
    for made in forks:
        _ = out.object(made) if out.json else out.cells(made.id)
    sys.stdout.flush()


class _UnfinishedError(CommandError):
    """*error* kept all forks but *made*, and perhaps some that were under way, from being made."""

    def __init__(self, made: int, count: int, error: BaseException) -> None:
        line, self.exit_code = explain(error)
        why = line if isinstance(error, KeyboardInterrupt) else f"a fork failed ({line})"
        under_way = min(_AT_ONCE, count - made)
        perhaps = f", and perhaps some of the next {under_way:,}, which `refold tree` shows" if under_way else ""
        super().__init__(f"{why}: {made:,} of {count:,} forks were made{perhaps}")
