"""`refold fork`."""

from __future__ import annotations

import click
import msgspec

from session.cli._address import PLACE, find_place
from session.cli._options import MOST, command
from session.cli._output import output
from session.cli._store import open_store


class MadeFork(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The new session `id` shares the events of `parent` up to version `at`."""

    id: str
    parent: str
    at: int


@command("fork", example="refold fork sess_4f@turn:3\nrefold fork sess_4f@412 --count 100", prints=MadeFork)
@click.argument("place", type=PLACE)
@click.option("--id", "new_id", metavar="ID", help="The id of the new session (default: one is made up).")
@click.option("--count", default=1, show_default=True, type=click.IntRange(1, MOST), help="So many forks.")
@click.option("--reason", default="", help="Why: recorded with the fork.")
def fork(place: str, new_id: str | None, count: int, reason: str) -> None:
    """Make a new session that shares everything up to PLACE with another, and print its id. Nothing is copied."""
    if new_id and count > 1:
        raise click.UsageError("--id names one session, --count makes many")
    with open_store() as store:
        found = find_place(store, place)
        at = store.version_at(found.session_id, found.at)
        if count == 1:
            made = [store.fork(found.session_id, new_id, at=at, reason=reason)]
        else:
            made = store.fork_many(found.session_id, count, at=at, reason=reason)
        out = output()
        for session_id in made:
            _ = out.object(MadeFork(session_id, found.session_id, at)) if out.json else out.cells(session_id)
