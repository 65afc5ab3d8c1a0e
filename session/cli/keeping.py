"""`refold rename`, `tag`, `delete`, `cleanup`, `backup` and `compact`: what changes the store."""

from __future__ import annotations

import datetime as dt
import os
import re
import sys
from typing import TYPE_CHECKING, Final

import click
import msgspec

from session.cli._address import SESSION, find_session, find_sessions
from session.cli._failures import CommandError
from session.cli._options import command
from session.cli._output import output, say
from session.cli._store import open_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from session.storage.blocking import BlockingEventSessionStorage

_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}  # seconds
_MOST_DAYS: Final = 36_500
_ATTEMPTS: Final = 50  # to change tags: each that fails is one at which another got further


class Changed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The session `id` is at `version` now, with this title and these tags."""

    id: str
    version: int
    title: str
    tags: list[str]


@command("rename", example="refold rename sess_4f 'The one that worked'", prints=Changed)
@click.argument("session", type=SESSION)
@click.argument("title")
def rename(session: str, title: str) -> None:
    """Give a session a title. The old one stays in the log."""
    with open_store() as store:
        session_id = find_session(store, session)
        store.update_metadata(session_id, title=title)
        _print_changed(store, session_id)


@command("tag", example="refold tag sess_4f good eval-7\nrefold tag sess_4f --remove good", prints=Changed)
@click.argument("session", type=SESSION)
@click.argument("tags", nargs=-1)
@click.option("--remove", metavar="TAG", multiple=True, help="Take this tag away; may be repeated.")
def tag(session: str, tags: Sequence[str], remove: Sequence[str]) -> None:
    """Add TAGS to a session, or take some away; print its id, title and tags. Without either: only print them."""
    with open_store() as store:
        session_id = find_session(store, session)
        _change_tags(store, session_id, tags, remove)
        _print_changed(store, session_id)


def _change_tags(
    store: BlockingEventSessionStorage, session_id: str, added: Sequence[str], removed: Sequence[str]
) -> None:
    """Change the list of tags as a whole, at the version it was read at, so that none that others add meanwhile is
    lost.
    """
    from session.events import MetadataUpdated  # noqa: PLC0415 - with the store
    from session.jsontext import encode  # noqa: PLC0415
    from session.storage import WrongVersionError  # noqa: PLC0415

    for _ in range(_ATTEMPTS):
        found = store.summary(session_id)
        new = [tag for tag in dict.fromkeys((*found.tags, *added)) if tag not in removed]
        if new == list(found.tags):
            return
        try:
            store.append(session_id, [MetadataUpdated(encode({"tags": new}))], expected=found.version)
        except WrongVersionError:  # somebody wrote in between
            continue
        return
    raise CommandError(f"{session_id} is being written to all the time: its tags were not changed, try again")


def _print_changed(store: BlockingEventSessionStorage, session_id: str) -> None:
    found = store.summary(session_id)
    changed = Changed(session_id, found.version, found.title, list(found.tags))
    out = output()
    if out.json:
        out.object(changed)
    else:
        out.cells(changed.id, changed.title, *changed.tags)


class Deleted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The session `id` was deleted; with `cleanup --dry-run` it would be."""

    id: str


@command("delete", example="refold delete sess_4f --reason 'asked to'\nrefold delete sess_4f --yes", prints=Deleted)
@click.argument("sessions", type=SESSION, nargs=-1, required=True)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--reason", default="", help="Why: stays on the tombstone.")
@click.option("--actor", default="", help="Who: stays on the tombstone.")
def delete(sessions: Sequence[str], reason: str, actor: str, *, yes: bool) -> None:
    """Delete sessions for good; their ids are never used again. Forks keep what they share with them.

    At a terminal it asks first; elsewhere --yes is needed. Erased bytes stay in the file until `refold compact`.
    """
    with open_store() as store:
        found = find_sessions(store, sessions)
        _confirm(f"Delete {len(found)} sessions ({', '.join(found[:3])}{', ...' if len(found) > 3 else ''})?", yes=yes)  # noqa: PLR2004 - three are shown
        for session_id in found:
            store.delete(session_id, reason=reason, actor=actor)
            _print_deleted(session_id)


@command("cleanup", example="refold cleanup --older-than 30d --dry-run", prints=Deleted)
@click.option("--older-than", metavar="AGE", required=True, help="30d, 12h, 8w, ...: nothing happened for so long.")
@click.option("--dry-run", is_flag=True, help="Only print what would be deleted.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def cleanup(older_than: str, *, dry_run: bool, yes: bool) -> None:
    """Delete the sessions in which nothing has happened for some time, and print their ids.

    One that becomes active meanwhile stays; forks keep what they share with a deleted parent.
    """
    age = _age(older_than)
    with open_store() as store:
        if dry_run:
            gone = _idle(store, age)
        else:
            _confirm(f"Delete the sessions in which nothing happened for {older_than}?", yes=yes)
            gone = store.cleanup(age)
        for session_id in gone:
            _print_deleted(session_id)
    say(f"refold: {len(gone)} sessions{' would be' if dry_run else ''} deleted")


def _idle(store: BlockingEventSessionStorage, age: dt.timedelta) -> list[str]:
    limit_ns = (dt.datetime.now(dt.UTC) - age).timestamp() * 1e9
    heads = ((session_id, store.log.head(session_id)) for session_id in store.list())
    return [session_id for session_id, head in heads if head is not None and head.updated_ns < limit_ns]


def _age(text: str) -> dt.timedelta:
    found = re.fullmatch(r"([0-9]{1,9})([smhdw])", text)
    if found is None:
        raise CommandError(f"--older-than: not an age: {text} (30d, 12h, 8w, 90m, 60s)")
    seconds = int(found[1]) * _UNITS[found[2]]
    if seconds > _MOST_DAYS * _UNITS["d"]:
        raise CommandError(f"--older-than: more than {_MOST_DAYS} days: {text}")
    return dt.timedelta(seconds=seconds)


def _print_deleted(session_id: str) -> None:
    out = output()
    _ = out.object(Deleted(session_id)) if out.json else out.cells(session_id)


def _confirm(question: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError("nothing was deleted: there is nobody to ask, say --yes")
    if not click.confirm(question, err=True):
        raise CommandError("nothing was deleted")


class Copied(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A complete copy of the store is at `path`, with so many `bytes`."""

    path: str
    bytes: int


@command("backup", example="refold backup ~/backups/refold-monday", prints=Copied)
@click.argument("target", type=click.Path())
@click.option("--exact", is_flag=True, help="Copy the free pages too: faster, and larger.")
def backup(target: str, *, exact: bool) -> None:
    """Write a consistent copy of the store into the new directory TARGET, while others go on writing.

    The copy is a store: `refold --store TARGET list`.
    """
    if not target:
        raise click.UsageError("an empty TARGET names no directory")
    if os.path.lexists(target):
        raise CommandError(f"{target} is there already: a backup makes a new directory")
    with open_store() as store:
        size = _back_up(store, target, exact=exact)
    out = output()
    _ = out.object(Copied(target, size)) if out.json else out.cells(target, size)


def _back_up(store: BlockingEventSessionStorage, target: str, *, exact: bool) -> int:
    """The bytes of the copy. What is wrong at *target* is not wrong with the store."""
    from session.storage._log import DiskFullError, LogNotFoundError, NotALogError  # noqa: PLC0415 - with the store

    try:
        return store.log.backup(target, compact=not exact)
    except DiskFullError as error:
        raise CommandError(f"{target}: no space left on the device; there is no backup") from error
    except (NotALogError, LogNotFoundError) as error:
        raise CommandError(str(error)) from error


class Compacted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file of the store had so many bytes `before` and `after`."""

    before: int
    after: int


@command("compact", example="refold delete sess_4f --yes; refold compact", prints=Compacted)
def compact() -> None:
    """Rewrite the file of the store without its free pages, in which erased events linger.

    Nobody else may have the store open meanwhile (exit code 4).
    """
    with open_store() as store:
        store.log.erase()
        before, after = store.log.compact()
    out = output()
    _ = out.object(Compacted(before, after)) if out.json else out.cells(before, after)
