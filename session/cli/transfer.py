"""`refold import` and `refold export`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import msgspec

from session.claude_code import CLAUDE_CODE, transcript
from session.cli._address import PLACE, find_place
from session.cli._failures import CommandError, Exit, silence
from session.cli._options import command, expanded
from session.cli._output import Column, output, progress, say
from session.cli._store import open_store
from session.cli._target import whole_file
from session.errors import StorageUnavailableError
from session.places import HEAD
from session.transfer import (
    IMPORTERS,
    FormatError,
    Imported,
    Outcome,
    Report,
    Skipped,
    export_events,
    export_folder,
    export_line,
    export_messages,
    import_path,
)
from session.transfer.importing import found_path
from session.transfer.report import REASONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from session.cli._target import Write
    from session.places import Place
    from session.state import SessionState
    from session.storage.blocking import BlockingEventSessionStorage

EXPORTS: Final = ("events", "messages", "lines", "folder", "claude-code")
FORMATS: Final = (CLAUDE_CODE, *IMPORTERS)
_OF_ONE: Final = {"messages": "a request", "claude-code": "a transcript"}
_STANDARD: Final = "-"

# --- import -----------------------------------------------------------------------------------------------------------


def _place(outcome: Outcome) -> str:
    line = outcome.line if isinstance(outcome, Skipped) else 0
    return f"{outcome.source}:{line}" if line else outcome.source


COLUMNS: Final = (
    Column[Outcome]("session", lambda one: one.session_id if isinstance(one, Imported) else "", whole=True),
    Column[Outcome]("outcome", lambda one: one.outcome if isinstance(one, Imported) else one.reason, whole=True),
    Column[Outcome]("version", lambda one: one.version if isinstance(one, Imported) else None, right=True, whole=True),
    Column[Outcome]("source", _place),
    Column[Outcome]("detail", lambda one: one.detail if isinstance(one, Skipped) else ""),
)


@command(
    "import",
    example="""refold import ~/.claude/projects
    refold import conversations.jsonl
    refold import ~/.sessions ./backup.refold.jsonl
    zcat backup.jsonl.gz | refold import -""",
    prints=Imported | Skipped,
)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "--format",
    "format_name",
    type=click.Choice([importer.name for importer in FORMATS]),
    help="Take everything as this, instead of finding it out.",
)
def import_sessions(paths: tuple[str, ...], format_name: str | None) -> int | None:
    """Sessions from files and folders; - is the standard input.

    The format is found out: transcripts of Claude Code, what `refold export` writes, a request of the Messages API,
    lines of one conversation each, a folder of <id>.json files of the session SDKs (its forks are found). What is in
    the store already is not taken in twice, and nothing is overwritten: an import that was interrupted is simply run
    again.
    """
    _check_there(paths)  # before a store is made for nothing
    report = Report()
    try:
        with open_store(create=True) as store:
            for path in paths:
                _import(store, path, format_name, report)
    except KeyboardInterrupt:
        _say_report(report, ended=False)
        raise CommandError("interrupted: what was taken in stays; run the same command again to go on") from None
    except Exception:  # a full disk, say: what was taken in before stays
        if report.imported or report.skipped:
            _say_report(report, ended=False)
        raise
    _say_report(report)
    return None if report.whole else Exit.FOUND


def _check_there(paths: Iterable[str]) -> None:
    """Raises `FileNotFoundError` and the like, of the first that cannot be looked at."""
    for path in paths:
        if path != _STANDARD:
            found_path(path)


def _import(store: BlockingEventSessionStorage, path: str, format_name: str | None, report: Report) -> None:
    try:
        with progress(f"Importing {Path(path).name}") as step:
            outcomes = import_path(store, path, format_name=format_name, importers=FORMATS, progress=step)
            found = _counted(outcomes, report)
            if not output().terminal:
                _print_rows(found)
            for _ in found:
                pass
    except FormatError as error:
        raise CommandError(str(error)) from error


def _print_rows(found: Iterator[Outcome]) -> None:
    """Print them until the reader leaves: what is left of *found* is then imported all the same."""
    try:
        output().rows(found, COLUMNS)
        sys.stdout.flush()
    except BrokenPipeError:
        silence()


def _counted(outcomes: Iterable[Outcome], report: Report) -> Iterator[Outcome]:
    for outcome in outcomes:
        report.add(outcome)
        yield outcome


def _say_report(report: Report, *, ended: bool = True) -> None:
    """Where it has not *ended*, what was under way may be in the store, too."""
    counts = [f"{report.imported[name]:,} {name}" for name in ("new", "extended", "unchanged") if report.imported[name]]
    say(f"imported: {', '.join(counts) or 'nothing'}{'' if ended else ', and perhaps some more'}")
    for name, count in report.noticed.items():
        say(f"noticed: {name}: {count:,}")
    for reason, count in report.skipped.items():
        say(f"skipped: {count:,} x {REASONS[reason]}")
    if not output().terminal and not sys.stderr.isatty():
        return  # each stands in the rows
    for one in report.first_skipped:
        say(f"  {_place(one)}: {REASONS[one.reason]}{': ' if one.detail else ''}{one.detail}")
    if (more := sum(report.skipped.values()) - len(report.first_skipped)) > 0:
        say(f"  and {more:,} more")


# --- export -----------------------------------------------------------------------------------------------------------


class Exported(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was written to *path*. *events* is 0 for formats that keep none; *left* counts files that were there."""

    path: str
    format: str
    sessions: int
    events: int
    bytes: int
    left: int = 0


@command(
    "export",
    example="""refold export -o backup.jsonl
    refold export sess_4f@turn:3 --format messages -o request.json
    refold export --format folder -o ./sessions""",
    prints=Exported,
)
@click.argument("places", nargs=-1, type=PLACE, metavar="[PLACE]...")
@click.option(
    "--format",
    "format_name",
    type=click.Choice(EXPORTS),
    default="events",
    show_default=True,
    help="events: without loss, with digests. messages: a request of the Messages API. lines: a conversation per line."
    " folder: <id>.json files of the session SDKs. claude-code: a transcript of Claude Code.",
)
@click.option("-o", "--output", "target", default=_STANDARD, metavar="PATH", help="A file, or the folder; - is stdout.")
@click.option("--force", is_flag=True, help="Replace files that are there.")
def export_sessions(places: tuple[str, ...], format_name: str, target: str, *, force: bool) -> int | None:
    """Sessions as files: all, or those named.

    With `events` forks bring what they share with their parents, and `refold import` gives equal digests.
    """
    with open_store() as store:
        chosen = [find_place(store, text) for text in places]
        if format_name == "folder":
            return _to_folder(store, chosen, target, force=force)
        if format_name == "events" and any(place.at != HEAD for place in chosen):
            raise CommandError("events are exported for whole sessions: name them without @, or choose another format")
        if format_name in _OF_ONE and len(chosen) != 1:
            raise CommandError(f"{_OF_ONE[format_name]} is made of one session: name it")
        with _writing(target, force=force) as write, progress("Exporting") as step:
            sizes: list[int] = []

            def counting(part: bytes) -> None:
                sizes.append(len(part))
                write(part)

            sessions, events = _export(store, chosen, format_name, counting, step)
        if target != _STANDARD:
            _say_exported(Exported(target, format_name, sessions, events, sum(sizes)))
        return None


def _export(
    store: BlockingEventSessionStorage,
    chosen: list[Place],
    format_name: str,
    write: Write,
    step: Callable[[int, int], None],
) -> tuple[int, int]:
    """Write; return how many sessions and events."""
    if format_name == "events":
        ids = [place.session_id for place in chosen] or store.list()
        return len(ids), export_events(store.log, ids, write, step)
    count = 0
    for state in _states(store, chosen, step):
        for part in _parts(state, format_name):
            write(part)
        count += 1
    return count, 0


def _parts(state: SessionState, format_name: str) -> Iterable[bytes]:
    """*state* in a format that is made of states."""
    match format_name:
        case "messages":
            return [export_messages(state) + b"\n"]
        case "claude-code":
            return transcript(state)
        case _:
            return [export_line(state)]


def _to_folder(store: BlockingEventSessionStorage, chosen: list[Place], target: str, *, force: bool) -> int | None:
    if target == _STANDARD:
        raise CommandError("name the folder with -o")
    with progress("Exporting") as step:
        written = left = 0
        try:
            for state, done in export_folder(_states(store, chosen, step), expanded(target), replace=force):
                written, left = written + done, left + (not done)
                if not done:
                    say(f"left alone: {state.id}.json is there already (--force replaces it)")
        except StorageUnavailableError as error:  # the folder's; the store is not to blame
            raise CommandError(f"{error.storage}: {error.reason}; {written:,} sessions are written") from error
    _say_exported(Exported(target, "folder", written, 0, 0, left))
    return Exit.FOUND if left else None


def _states(
    store: BlockingEventSessionStorage, chosen: list[Place], step: Callable[[int, int], None]
) -> Iterator[SessionState]:
    """One at a time."""
    if chosen:
        for done, place in enumerate(chosen, 1):
            yield store.state_at(place.session_id, place.at)
            step(done, len(chosen))
        return
    ids = store.list()
    for done, session_id in enumerate(ids, 1):
        state = store.load(session_id)
        if state is not None:  # else it was deleted meanwhile
            yield state
        step(done, len(ids))


@contextlib.contextmanager
def _writing(target: str, *, force: bool) -> Iterator[Write]:
    """A function that writes to *target*: the standard output, or a file (see `whole_file`)."""
    if target == _STANDARD:
        if sys.stdout.isatty():
            raise CommandError("exports are not written to a terminal: name a file with -o, or use a pipe")
        yield sys.stdout.buffer.write
        sys.stdout.buffer.flush()
        return
    with whole_file(target, replace=force) as write:
        yield write


def _say_exported(exported: Exported) -> None:
    if output().json:
        output().object(exported)
        return
    counts = [f"{exported.sessions:,} sessions"]
    counts += [f"{exported.events:,} events"] if exported.events else []
    counts += [f"{exported.bytes:,} bytes"] if exported.bytes else []
    say(f"exported to {exported.path}: {', '.join(counts)}")
