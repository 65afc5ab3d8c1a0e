"""`refold page`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import click

from session.cli._address import PLACE, find_place
from session.cli._options import command
from session.cli._store import open_store
from session.cli._target import whole_file

if TYPE_CHECKING:
    from collections.abc import Iterable

_TO_PASS_ON: Final = 0o666  # who else may read it is left to the umask, as with `> talk.html`


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
            with whole_file(target, replace=force, mode=_TO_PASS_ON) as write:
                for piece in encoded:
                    write(piece)


def _to_stdout(pieces: Iterable[bytes]) -> None:
    sys.stdout.flush()
    for piece in pieces:
        sys.stdout.buffer.write(piece)  # UTF-8, whatever the terminal's encoding: the page says so of itself
    sys.stdout.buffer.flush()
