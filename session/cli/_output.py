"""What a command prints: for a person at a terminal, for a pipe, or as JSON.

- On a terminal: tables and trees by rich, in colour unless `NO_COLOR` is set.
- In a pipe: one line per row, cells separated by tabs, no header, the full text of each cell.
- With `--json`: one JSON object per line, in ASCII.

Each cell is made visible: nothing that others wrote controls the terminal, or makes two rows or cells of one.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import sys
from itertools import compress, islice
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeAlias, TypeVar

import msgspec

from session.cli._options import chosen
from session.cli._visible import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rich.console import Console
    from rich.table import Table

T = TypeVar("T")
Cell: TypeAlias = "str | int | float | None"

_BATCH_ROWS: Final = 200  # a table on a terminal is laid out so many rows at a time
_GAP: Final = 2  # blanks between two columns
_LEAST_WIDTH: Final = 12  # of a column that is shortened
_MILLISECONDS: Final = 1_000


class Column(msgspec.Struct, Generic[T], frozen=True):
    """A column of a table: its *title*, and the *cell* of an item.

    On a terminal a cell is shortened to fit, unless it is *whole* (ids, digests) or *wraps*. *shown* is what a terminal
    shows instead, for people; None in *cell* leaves the column to terminals, None in *shown* to pipes.
    """

    title: str
    cell: Callable[[T], Cell] | None
    style: str = ""
    right: bool = False
    whole: bool = False
    wraps: bool = False
    shown: Callable[[T], Cell] | Literal["cell"] | None = "cell"

    def on_terminal(self, item: T) -> str:
        """The cell that a terminal shows."""
        found = self.cell if self.shown == "cell" else self.shown
        return _text(found(item)) if found else ""


class Output:
    """Where a command prints. Made by `output()`."""

    def __init__(self, *, as_json: bool) -> None:
        self.json = as_json
        self.terminal = sys.stdout.isatty() and not as_json

    def rows(self, items: Iterable[T], columns: Sequence[Column[T]]) -> int:
        """Print *items*, structs, a row or a JSON object each, as they come; return how many there were."""
        if self.json:
            return sum(1 for item in items if self.object(item))
        if self.terminal:
            return self._tables(iter(items), [column for column in columns if column.shown])
        return sum(1 for item in items if self.cells(*(column.cell(item) for column in columns if column.cell)))

    def object(self, item: object, *, flush: bool = False) -> bool:
        """Print a struct as a line of JSON."""
        print(to_json(item), file=sys.stdout, flush=flush)  # noqa: T201 - the one place for it
        return True

    def cells(self, *cells: Cell, flush: bool = False) -> bool:
        """Print a line of cells, separated by tabs, or on a terminal by blanks."""
        print(*map(_text, cells), sep="  " if self.terminal else "\t", file=sys.stdout, flush=flush)  # noqa: T201 - the one place for it
        return True

    def line(self, text: str = "", *, style: str = "") -> None:
        """Print one line for people; with `--json`, nothing. *style* is one of rich's, for a terminal."""
        if self.json:
            return
        if self.terminal and style:
            self.console().print(visible(text), style=style, markup=False, highlight=False, emoji=False, soft_wrap=True)
        else:
            sys.stdout.write(visible(text) + "\n")

    def console(self) -> Console:
        """A rich console on stdout that takes text as text. Only on a terminal."""
        from rich.console import Console  # noqa: PLC0415 - rich is loaded for terminals only

        sys.stdout.flush()
        return Console(markup=False, highlight=False, emoji=False)

    def _tables(self, items: Iterator[T], columns: Sequence[Column[T]]) -> int:
        from rich.cells import cell_len  # noqa: PLC0415 - rich is loaded for terminals only

        count, widths = 0, [len(column.title) for column in columns]
        while batch := list(islice(items, _BATCH_ROWS)):
            cells = [[column.on_terminal(item) for column in columns] for item in batch]
            if count == 0 and len(batch) < _BATCH_ROWS:  # that is all: a column without a word in it is left out
                said = [columns[place].whole or any(row[place] for row in cells) for place in range(len(columns))]
                columns, widths = list(compress(columns, said)), list(compress(widths, said))
                cells = [list(compress(row, said)) for row in cells]
            widths = [max(width, *(cell_len(row[place]) for row in cells)) for place, width in enumerate(widths)]
            self._print_table(columns, cells, widths, header=count == 0)
            count += len(batch)
        return count

    def _print_table(
        self, columns: Sequence[Column[T]], cells: list[list[str]], widths: list[int], *, header: bool
    ) -> None:
        """A table that is wider than the terminal, for its whole columns, is left for the terminal to wrap."""
        console = self.console()
        drawn = column_widths(columns, widths, console.width)
        console.width = max(console.width, sum(drawn) + _GAP * len(columns))
        console.print(_table(columns, cells, drawn, header=header), crop=False, no_wrap=True)


def output() -> Output:
    """The output of the command that is running."""
    return Output(as_json=chosen().json)


@contextlib.contextmanager
def progress(label: str) -> Iterator[Callable[[int, int | None], None]]:
    """A function to be called with how much is done, and of how much (None: nobody knows). It draws a bar on stderr, if
    that is a terminal.
    """
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console  # noqa: PLC0415 - rich is loaded for terminals only
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(visible(label), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def say(text: str) -> None:
    """A line on stderr: what a person should know, and no program reads."""
    sys.stderr.write(visible(text) + "\n")


def to_json(item: object) -> str:
    """*item* as JSON in ASCII, so that nothing in it does anything to a terminal."""
    text = json.dumps(msgspec.to_builtins(item), ensure_ascii=True)
    return text.replace("\x7f", "\\u007f")


def when(milliseconds: int) -> str:
    """A time, as ISO 8601 in UTC; the number itself where no calendar has it."""
    if not milliseconds:
        return ""
    try:
        seconds, rest = divmod(milliseconds, _MILLISECONDS)
        moment = dt.datetime.fromtimestamp(seconds, dt.UTC)
    except (ValueError, OverflowError, OSError):
        return str(milliseconds)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:03}Z"


def when_shown(milliseconds: int) -> str:
    """A time for people: to the minute, in UTC."""
    text = when(milliseconds)
    return f"{text[:10]} {text[11:16]}" if text.endswith("Z") else text


def compact_number(number: int) -> str:
    """A number for people, in three digits or a few more."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if abs(number) >= 10 * size:
            return f"{number // size:,}{unit}"
        if abs(number) >= size:
            return f"{number / size:.1f}{unit}"
    return str(number)


def money(dollars: float, unpriced: int = 0) -> str:
    """A cost for people: a lower bound where something was *unpriced*."""
    if unpriced and not dollars:
        return "unpriced"
    return f"{'≥' if unpriced else ''}${dollars:,.4f}"


def bar(value: float, most: float, width: int = 24) -> str:
    """A bar as long as *value* is of *most*."""
    if value <= 0 or most <= 0:
        return ""
    eighths = max(1, round(8 * width * min(value / most, 1)))
    rest = eighths % 8
    return "█" * (eighths // 8) + ("▏▎▍▌▋▊▉"[rest - 1] if rest else "")


def column_widths(columns: Sequence[Column[Any]], widths: Sequence[int], room: int) -> list[int]:
    """How wide each column is drawn in *room*, given the *widths* of their cells: whole ones as they are, the others
    share what is left, though none gets more than it needs or less than a little.
    """
    found = list(widths)
    sharing = sorted((place for place in range(len(widths)) if not columns[place].whole), key=widths.__getitem__)
    left = room - _GAP * len(columns) - sum(widths[place] for place in range(len(widths)) if columns[place].whole)
    for number, place in enumerate(sharing):
        found[place] = max(min(widths[place], _LEAST_WIDTH), min(widths[place], left // (len(sharing) - number)))
        left -= found[place]
    return found


def _table(columns: Sequence[Column[Any]], cells: list[list[str]], widths: list[int], *, header: bool) -> Table:
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - rich is loaded for terminals only
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=SIMPLE_HEAD, show_header=header, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for column, width in zip(columns, widths, strict=True):
        table.add_column(
            Text(column.title),
            style=column.style,
            justify="right" if column.right else "left",
            no_wrap=not column.wraps,
            overflow="fold" if column.wraps else "ellipsis",
            width=width,
        )
    for row in cells:
        table.add_row(*map(Text, row))
    return table


def _text(cell: Cell) -> str:
    return "" if cell is None else visible(str(cell))
