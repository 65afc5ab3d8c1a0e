"""What every command takes: where the store is, and whether to print JSON. And how a command is made."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from session.cli._failures import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable

Decorated = TypeVar("Decorated", bound="Callable[..., Any]")

STORE_VARIABLE: Final = "REFOLD_STORE"
DEFAULT_STORE: Final = "~/.refold"
MOST: Final = 2**31 - 1  # of anything that is counted

COUNT: Final = click.IntRange(0, MOST)
"""The type of an option that says how many."""


class Chosen:
    """What the user chose for the whole command line."""

    def __init__(self) -> None:
        self.named: str | None = None  # by `--store`
        self.json = False

    @property
    def store(self) -> Path:
        """Where the store is. Raises `CommandError` where `~` leads nowhere."""
        return expanded(self.named or os.environ.get(STORE_VARIABLE) or DEFAULT_STORE)


def expanded(path: str) -> Path:
    """*path* with the home directory for `~`. Raises `CommandError` if there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise CommandError(f"{path}: there is no such home directory") from error


def chosen() -> Chosen:
    """The choices of the command that is running."""
    context = click.get_current_context()
    return context.ensure_object(Chosen)


def _choose_store(ctx: click.Context, _: click.Parameter, value: Any) -> None:  # noqa: ANN401 - click's signature
    if value == "":  # an empty variable in a script: the default would not be the store that was meant
        raise click.UsageError("--store: an empty path names no store", ctx)
    if value is not None:
        ctx.ensure_object(Chosen).named = value


def _choose_json(ctx: click.Context, _: click.Parameter, value: Any) -> None:  # noqa: ANN401 - click's signature
    if value:
        ctx.ensure_object(Chosen).json = True


def shared_options(function: Decorated) -> Decorated:
    """`--store` and `--json`, before the name of a command or behind it."""
    store = click.option(
        "--store",
        metavar="PATH",
        type=click.Path(),
        expose_value=False,
        is_eager=True,
        callback=_choose_store,
        help=f"The store (default: ${STORE_VARIABLE}, or {DEFAULT_STORE}).",
    )
    json = click.option("--json", is_flag=True, expose_value=False, callback=_choose_json, help="Print JSON.")
    return store(json(function))


class Command(click.Command):
    """A command that says what it prints with `--json`: a JSON object of this type per line, or nothing."""

    prints: Any = None


def command(
    name: str,
    *,
    example: str,
    prints: Any = None,  # noqa: ANN401 - a type, or a union of types
) -> Callable[[Callable[..., int | None]], Command]:
    """Make a function a command, with `--store` and `--json`. It returns an exit code, or None for 0.

    *prints* is the msgspec.Struct (or union of them) that it prints, one JSON object per line: `refold schema NAME`
    shows it. *example* is the end of its help text.
    """

    def made(function: Callable[..., int | None]) -> Command:
        epilog = "\b\nExample:\n" + "\n".join(f"  {line.strip()}" for line in example.strip().splitlines())
        found = click.command(name, cls=Command, epilog=epilog)(shared_options(function))
        found.prints = prints
        return found

    return made
