"""`refold page`."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from session.cli._address import PLACE, find_place
from session.cli._failures import CommandError
from session.cli._options import command
from session.cli._store import open_store

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@command("page", example="refold page sess_4f -o talk.html\nrefold page sess_4f@turn:3 --markdown | less")
@click.argument("place", type=PLACE)
@click.option(
    "--html", "form", flag_value="html", default="html", help="One HTML page that needs nothing else. (default)"
)
@click.option("--markdown", "form", flag_value="markdown", help="Markdown.")
@click.option("--output", "-o", "target", type=click.Path(), help="The file to write; otherwise stdout.")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
def page(*, place: str, form: str, target: str | None, force: bool) -> None:
    """A session to read and to pass on: turns, messages, tools with their results, usage and cost.

    The page holds no script and loads nothing; it names the digest of the newest event, by which its session can be
    checked. The file appears when it is whole.
    """
    from session.pages import html_page, markdown_page  # noqa: PLC0415 - `--help` needs no pages

    with open_store() as store:
        found = find_place(store, place)
        if form == "html":
            pieces = html_page(store, found.session_id, found.at)
        else:
            pieces = markdown_page(store, found.session_id, found.at)
        encoded = (piece.encode() for piece in pieces)
        if target is None or target == "-":
            _to_stdout(encoded)
        else:
            _to_file(Path(target), encoded, replace=force)


def _to_stdout(pieces: Iterable[bytes]) -> None:
    sys.stdout.flush()
    for piece in pieces:
        sys.stdout.buffer.write(piece)  # UTF-8, whatever the terminal's encoding: the page says so of itself
    sys.stdout.buffer.flush()


def _to_file(target: Path, pieces: Iterator[bytes], *, replace: bool) -> None:
    """Write *target* whole or not at all; one that exists only to *replace* it."""
    _check(target, replace=replace)
    nursery = target.with_name(f".refold-{secrets.token_hex(8)}.part")
    try:
        with nursery.open("xb") as file:
            for piece in pieces:
                file.write(piece)
        _check(target, replace=replace)
        if replace:
            nursery.replace(target)
        else:
            os.link(nursery, target)  # fails if it has come to be meanwhile
    except FileExistsError as error:
        raise _exists(target) from error
    finally:
        nursery.unlink(missing_ok=True)


def _check(target: Path, *, replace: bool) -> None:
    if target.is_symlink() or (target.exists() and not target.is_file()):
        raise CommandError(f"{target} is no plain file; nothing was written")
    if target.exists() and not replace:
        raise _exists(target)


def _exists(target: Path) -> CommandError:
    return CommandError(f"{target} exists; nothing was written (--force replaces it)")
