"""`refold doctor`, `refold completion` and `refold schema`."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from session.cli._failures import CommandError, Exit, NotFoundError, explain
from session.cli._group import COMMANDS
from session.cli._options import STORE_VARIABLE, Command, command
from session.cli._output import Column, output, progress
from session.cli._store import open_store, store_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SHELLS: Final = ("bash", "zsh", "fish")
_LOW_SPACE_BYTES: Final = 256 * 2**20


class Symptom(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something that was looked at. `state` is "ok", "note" or "problem"; `advice` is what to do."""

    what: str
    state: str
    found: str
    advice: str


COLUMNS: Final = (
    Column[Symptom]("", lambda symptom: symptom.state, whole=True),
    Column[Symptom]("what", lambda symptom: symptom.what, whole=True),
    Column[Symptom]("found", lambda symptom: symptom.found, wraps=True),
    Column[Symptom]("what to do", lambda symptom: symptom.advice, wraps=True),
)


@command("doctor", example="refold doctor\nrefold doctor --full --json", prints=Symptom)
@click.option("--full", is_flag=True, help="Verify every record, too.")
def doctor(*, full: bool) -> int | None:
    """Versions, paths, durability, the health of the store, and what to do. Exit code 2 if there is a problem.

    In a pipe: state (ok, note or problem), what, what was found, what to do.
    """
    problems = 0

    def counted() -> Iterator[Symptom]:
        nonlocal problems
        for symptom in _symptoms(full=full):
            problems += symptom.state == "problem"
            yield symptom

    output().rows(counted(), COLUMNS)
    return Exit.FOUND if problems else None


def _symptoms(*, full: bool) -> Iterator[Symptom]:
    yield from _versions()
    path = store_path()
    yield Symptom("store", "ok", str(path), "")
    yield from _environment()
    if not path.exists():
        yield Symptom("store", "note", "there is none yet", "it is made when something is written, or name another")
        return
    yield from _space(path)
    yield from _health(path)
    if full:
        yield _verified(path)


def _versions() -> Iterator[Symptom]:
    versions = " ".join(f"{name} {metadata.version(name)}" for name in ("refold", "lmdb", "msgspec", "anthropic"))
    yield Symptom("versions", "ok", f"{versions}, Python {platform.python_version()}, {platform.platform()}", "")


def _environment() -> Iterator[Symptom]:
    if os.environ.get(STORE_VARIABLE):
        yield Symptom(STORE_VARIABLE, "ok", os.environ[STORE_VARIABLE], "")
    prices = os.environ.get("REFOLD_PRICES")
    if prices:
        from session.pricing import PriceTableError, load_prices  # noqa: PLC0415 - for who has one

        try:
            yield Symptom("REFOLD_PRICES", "ok", load_prices().version, "")
        except PriceTableError as error:
            yield Symptom("REFOLD_PRICES", "problem", str(error), "mend the file, or unset the variable")
    if not os.environ.get("ANTHROPIC_API_KEY"):
        yield Symptom("ANTHROPIC_API_KEY", "note", "not set", "needed by `refold chat` only")


def _space(path: Path) -> Iterator[Symptom]:
    free = shutil.disk_usage(path).free
    state, advice = ("problem", "make room") if free < _LOW_SPACE_BYTES else ("ok", "")
    yield Symptom("free space", state, f"{free / 2**30:.1f} GiB", advice)
    if path.is_dir() and path.stat().st_mode & 0o077:
        yield Symptom("permissions", "note", f"others may look into {path}", f"chmod 700 {path}")


def _health(path: Path) -> Iterator[Symptom]:
    try:
        with open_store() as store:
            yield Symptom("open", "ok", "it opens, and is not locked", "")
            entries = store.log.checkpoint().entries
            living = sum(not entry.deleted for entry in entries)
            size = (path / "data.mdb").stat().st_size
            yield Symptom("sessions", "ok", f"{living:,} living, {len(entries) - living:,} deleted", "")
            yield Symptom("size", "ok", f"{size / 2**20:.1f} MiB", "")
            yield Symptom("durability", "ok", "on the disk when a command returns (two flushes per commit)", "")
            yield _unreadable(store.summaries(50).unreadable)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it is what was asked
        reason, code = explain(error)
        yield Symptom("open", "problem", reason, _ADVICE.get(code, ""))


_ADVICE: Final = {
    Exit.STORE: "end the other process, or run `refold verify` and go back to a backup",
    Exit.ERROR: "check the path and its permissions",
}


def _unreadable(found: dict[str, str]) -> Symptom:
    if not found:
        return Symptom("newest sessions", "ok", "all can be read", "")
    return Symptom("newest sessions", "problem", f"cannot be read: {', '.join(found)}", "run `refold verify`")


def _verified(path: Path) -> Symptom:
    from session.storage._log import check_log  # noqa: PLC0415 - if it is asked for

    try:
        with progress("Verifying") as step:
            report = check_log(path, progress=step)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it is what was asked
        return Symptom("record", "problem", explain(error)[0], "check the path")
    if report:
        return Symptom("record", "ok", f"{report.events:,} events, every digest follows", "")
    return Symptom(
        "record", "problem", f"{len(report.problems)} problems, first: {report.problems[0]}", "refold verify"
    )


@command(
    "completion", example="refold completion bash >> ~/.bashrc\nrefold completion fish > ~/.config/fish/refold.fish"
)
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> None:
    """Print what makes a shell complete commands, options and the ids of sessions."""
    from click.shell_completion import get_completion_class  # noqa: PLC0415 - for this command only

    from session.cli._group import refold  # noqa: PLC0415

    found = get_completion_class(shell)
    assert found is not None, "one of the choices"
    source = found(refold, {}, "refold", "_REFOLD_COMPLETE")
    sys.stdout.write(source.source_template % source.source_vars() + "\n")


@command("schema", example="refold schema list")
@click.argument("name", required=False, metavar="[COMMAND]")
def schema(name: str | None) -> None:
    """Print the JSON schema of what a command prints with --json: one object per line. Without COMMAND: those that have
    one.
    """
    out = output()
    if name is None:
        for command_name in COMMANDS:
            if _command(command_name) and _prints(command_name):
                out.cells(command_name)
        return
    out.object(schema_of(name))


def schema_of(name: str) -> dict[str, Any]:
    """The JSON schema of the lines that the command *name* prints with `--json`. Raises `NotFoundError`."""
    if name not in COMMANDS or not _prints(name):
        raise NotFoundError(f"no command {name} that prints JSON (see `refold schema`)")
    found = msgspec.json.schema(_prints(name))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


def _prints(name: str) -> Any:  # noqa: ANN401 - a type, or a union of types
    found = _command(name)
    return found.prints if isinstance(found, Command) else None


def _command(name: str) -> click.Command | None:
    from session.cli._group import refold  # noqa: PLC0415 - not while it is being made

    try:
        return refold.get_command(click.Context(refold), name)
    except CommandError:
        return None
