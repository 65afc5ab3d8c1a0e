"""`refold search`."""

from __future__ import annotations

import contextlib
import datetime as dt
from typing import TYPE_CHECKING, Final

import click
import msgspec

from session.cli._failures import CommandError, Exit
from session.cli._options import MOST, command
from session.cli._output import Column, output, progress, say, when, when_shown
from session.cli._store import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from session.search import Filters, Hit, Hits, Updated
    from session.storage.blocking import BlockingEventSessionStorage

ROLES: Final = ("user", "assistant", "system", "tool", "error", "other")


class FoundPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was found, at the place `id@version`: what a message says, a call of a tool, a result of one (role "tool"),
    or an error of the API. *said_at* is in Unix milliseconds, *text* is what stands around the words that were *found*.
    """

    place: str
    session_id: str
    version: int
    role: str
    tool: str
    model: str
    is_error: bool
    said_at: int
    text: str
    found: list[str]


COLUMNS: Final = (
    Column[FoundPart]("place", lambda part: part.place, whole=True),
    Column[FoundPart]("said", lambda part: when(part.said_at), shown=lambda part: when_shown(part.said_at), whole=True),
    Column[FoundPart]("by", lambda part: part.role, whole=True),
    Column[FoundPart]("tool", lambda part: part.tool),
    Column[FoundPart]("text", lambda part: part.text, shown=lambda part: " ".join(part.text.split())),
)


def _moment(_: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """A day (its beginning) or a time, in UTC unless it says otherwise, as Unix milliseconds."""
    if value is None:
        return None
    try:
        moment = dt.datetime.fromisoformat(value)
        aware = moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
        return round(aware.timestamp() * 1_000)
    except (ValueError, OverflowError) as error:
        reason = f"{value!r} is neither a day (2026-11-30) nor a time (2026-11-30T18:00)"
        raise click.BadParameter(reason, param=param) from error


@command(
    "search",
    example="refold search disk full --tool bash --errors\nrefold search '\"disk full\"' 'rebui*' --since 2026-11-01",
    prints=FoundPart,
)
@click.argument("words", nargs=-1)
@click.option("--role", type=click.Choice(ROLES), help="Who said it; `tool` is what tools returned.")
@click.option("--tool", default="", help="Only calls of this tool and their results.")
@click.option("--model", default="", help="Only what this model said and called.")
@click.option("--since", metavar="TIME", callback=_moment, help="Said at this day or time, or later.")
@click.option("--before", metavar="TIME", callback=_moment, help="Said before this day or time.")
@click.option("--errors", is_flag=True, help="Only failed tools and errors of the API.")
@click.option(
    "--limit", default=20, show_default=True, type=click.IntRange(1, MOST), help="At most so many, newest first."
)
@click.option("--index", type=click.Path(file_okay=False), help="Where the index is; by default beside the store.")
@click.option("--rebuild", is_flag=True, help="Make the index from the beginning.")
def search(
    *,
    words: tuple[str, ...],
    role: str | None,
    tool: str,
    model: str,
    since: int | None,
    before: int | None,
    errors: bool,
    limit: int,
    index: str | None,
    rebuild: bool,
) -> int | None:
    """Find text in all sessions: messages, calls of tools and their results.

    All WORDS must be found, in any case; a "phrase in quotes" as it stands, and `rebui*` is a beginning. Without words
    it lists whatever passes the options. What was rewound is found too; what a fork shares with its parent is found
    once, in the parent.
    """
    from session.search import Filters  # noqa: PLC0415 - SQLite is loaded by who searches

    filters = Filters(role=role or "", tool=tool, model=model, since=since, before=before, errors=errors)
    with open_store() as store:
        hits = _search(store, index, " ".join(words), filters, limit, rebuild=rebuild)
    output().rows(map(_part, hits.items), COLUMNS)
    if hits.cursor is not None:
        say(f"there is more: raise --limit above {limit}")
    return None if hits.items else Exit.NOT_FOUND


def _search(
    store: BlockingEventSessionStorage,
    directory: str | Path | None,
    query: str,
    filters: Filters,
    limit: int,
    *,
    rebuild: bool,
) -> Hits:
    from session.search import SearchIndex  # noqa: PLC0415 - as above

    with _not_the_store(), SearchIndex(store, directory) as index:
        with progress("Indexing") as step:
            renew = index.rebuild if rebuild else index.update
            updated = renew(lambda records: step(records, 0))
        hits = index.search(query, filters, limit=limit)
        for reason in filter(None, (updated.rebuilt, hits.rebuilt)):
            say(f"the search index in {index.directory} was made anew: {reason}")
    _tell(updated)
    return hits


@contextlib.contextmanager
def _not_the_store() -> Iterator[None]:
    """A directory of the index that cannot be written, or is full, says nothing of the store."""
    from session.errors import StorageUnavailableError  # noqa: PLC0415 - as above

    try:
        yield
    except StorageUnavailableError as error:
        raise CommandError(f"the search index {error.storage}: {error.reason} (--index puts it elsewhere)") from error


def _tell(updated: Updated) -> None:
    if updated.unreadable:
        say(f"{updated.unreadable} damaged events cannot be searched: see `refold verify`")


def _part(hit: Hit) -> FoundPart:
    return FoundPart(
        place=hit.place,
        session_id=hit.session_id,
        version=hit.version,
        role=hit.role,
        tool=hit.tool,
        model=hit.model,
        is_error=hit.is_error,
        said_at=hit.said_at,
        text=hit.text,
        found=[fragment.text for fragment in hit.snippet if fragment.found],
    )
