"""On a terminal: tables and colours, and nothing of what others wrote controls anything."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st

from session.cli._output import Column, column_widths
from tests.session.cli.cli_kit import COLUMNS, Cli, seed_hostile
from tests.session.cli.test_commands import EVERY, FOUND_SOMETHING, arguments_of

if TYPE_CHECKING:
    from pathlib import Path

CORPUS = [
    "\x1b]0;owned\x07", "\x1b]2;owned\x1b\\", "\x1b]52;c;b3duZWQ=\x07", "\x1b]8;;http://x\x1b\\y\x1b]8;;\x1b\\",
    "\x1b]1337;File=:\x07", "\x1b[2J", "\x1b[H", "\x1b[31;1m", "\x1b[?1049h", "\x1b[?25l", "\x1b[?1000h", "\x1b[10;10H",
    "\x1b[3A", "\x1b[6n", "\x1b[!p", "\x1bc", "\x1b7", "\x1b(0", "\x1b#8", "\x1bP+q544e\x1b\\", "\x1b_G\x1b\\",
    "\x1b^x\x1b\\", "\x1b=", "\x1bM", "\x1b", "\x9b31m", "\x9d0;owned\x9c", "\x90x\x9c", "\x9f", "\x85", "\x00", "\x07",
    "\x08\x08\x08", "\x0b", "\x0c", "\x0e", "\x7f", "\r", "\n", "\r\nforged\trow", "\t", "\u202e", "\u2066", "\u200b",
    "\u200d", "\ufeff", "\u2028", "\U000e0041", "\xad", "\ufe0f", "[bold red]x[/]", "[link=http://x]y[/link]",
    ":skull:", "%s %n", "\\x1b[31m",
]  # fmt: skip
EVIL = "".join(CORPUS)
HOSTILE = [
    "list", "show sess_hostile", "show sess_hostile --raw", "show sess_hostile_fork --last 2", "log sess_hostile",
    "tail sess_hostile", "tree sess_hostile", "diff sess_hostile sess_hostile_fork", "stats", "cost sess_hostile",
    "lint sess_hostile", "resume sess_hostile", "rename sess_hostile {evil}", "tag sess_hostile {evil}", "verify",
    "list --tag {evil}", "show {evil}", "fork sess_hostile --reason {evil}", "delete {evil} --yes", "{evil}",
    "list --{evil}", "schema {evil}", "cleanup --older-than {evil}", "verify sess_hostile --expect {evil}",
    "checkpoint", "doctor",
]  # fmt: skip

# All that rich does: colours and weights. No cursor, no title, no mode.
HARMLESS = re.compile("(?:\x1b\\[[0-9;]*m|\n|[^\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff])*")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    path = tmp_path_factory.mktemp("hostile") / "store"
    seed_hostile(path, EVIL)
    return Cli(path)


class Watched(pyte.Screen):
    """A terminal that notices what output does to it."""

    def __init__(self) -> None:
        self.reports: list[str] = []
        super().__init__(COLUMNS, 300)

    def set_title(self, param: str) -> None:
        self.reports.append(f"title {param}")

    def set_icon_name(self, param: str) -> None:
        self.reports.append(f"icon {param}")

    def write_process_input(self, data: str) -> None:
        self.reports.append(f"answered {data!r}")

    def bell(self, *_: object) -> None:
        self.reports.append("bell")


def assert_untouched(printed: str) -> None:
    """A terminal that showed *printed* is as it was: its first line stands, its modes and colours are the same."""
    screen, fresh = Watched(), Watched()
    stream = pyte.Stream(screen)
    stream.feed("the line before\r\n")
    stream.feed(printed.replace("\n", "\r\n"))
    assert screen.reports == []
    assert "".join(screen.buffer[0][column].data for column in range(15)) == "the line before"
    assert screen.mode == fresh.mode
    assert screen.margins == fresh.margins
    assert screen.charset == fresh.charset
    assert screen.cursor.attrs == fresh.cursor.attrs
    assert not screen.cursor.hidden
    assert HARMLESS.fullmatch(printed), printed


@pytest.mark.parametrize("line", HOSTILE)
def test_what_others_wrote_changes_nothing_on_the_terminal(line: str, hostile: Cli) -> None:
    arguments = [word.replace("{evil}", EVIL.replace("\0", "")) for word in line.split()]
    ran = hostile.on_terminal(*arguments)
    assert ran.out or ran.err
    assert "internal error" not in ran.err
    assert_untouched(ran.out)
    assert_untouched(ran.err)
    assert "\x1b" not in ran.err


@pytest.mark.parametrize("line", HOSTILE)
def test_in_a_pipe_and_as_json_it_forges_no_row_and_no_cell(line: str, hostile: Cli) -> None:
    arguments = [word.replace("{evil}", EVIL.replace("\0", "")) for word in line.split()]
    raw_bytes = "--raw" in line or line.startswith("resume")
    plain, as_json = hostile(*arguments), hostile(*arguments, "--json")
    if not raw_bytes:
        assert re.fullmatch(f"(?:\t|{HARMLESS.pattern})*", plain.out.replace("\x1b", "ESC")), plain.out
        assert "\x1b" not in plain.out
    assert as_json.out.isascii() or raw_bytes
    assert "\x1b" not in plain.err + as_json.err


def test_the_rows_of_hostile_content_have_as_many_cells_as_others(hostile: Cli) -> None:
    assert {len(row) for row in hostile.ok("list").rows} == {7}
    assert {len(row) for row in hostile.ok("log", "sess_hostile").rows} == {6}
    assert {len(row) for row in hostile.ok("show", "sess_hostile").rows} == {3}
    assert [row[0] for row in hostile.ok("log", "sess_hostile").rows][-1] == str(
        len(hostile.ok("log", "sess_hostile").rows)
    )


@pytest.mark.parametrize("name", EVERY)
def test_every_command_works_on_a_terminal(name: str, cli: Cli) -> None:
    ran = cli.on_terminal(*arguments_of(name, cli))
    assert ran.code == (2 if name in FOUND_SOMETHING else 0), ran
    assert ran.out.strip()
    assert_untouched(ran.out)


def test_a_table_has_a_header_on_a_terminal(cli: Cli) -> None:
    out = cli.on_terminal("list").out
    assert "title" in out
    assert "the main one" in out
    assert "\t" not in out


widths = st.lists(st.tuples(st.booleans(), st.integers(0, 60)), min_size=1, max_size=6)


@given(widths, st.integers(10, 200))
def test_a_table_fits_its_terminal_unless_its_whole_columns_do_not(cells: list[tuple[bool, int]], room: int) -> None:
    columns = [Column[object]("", lambda _: "", whole=whole) for whole, _ in cells]
    needed = [width for _, width in cells]
    drawn = column_widths(columns, needed, room)
    for (whole, width), got in zip(cells, drawn, strict=True):
        assert got == width if whole else min(width, 12) <= got <= width
    least = sum(width if whole else min(width, 12) for whole, width in cells) + 2 * len(cells)
    assert sum(drawn) + 2 * len(cells) <= max(room, least)


def test_a_cell_of_wide_characters_has_the_room_it_needs(cli: Cli) -> None:
    cli.ok("rename", "sess_other", "日本語の題名です")
    assert "日本語の題名です" in cli.on_terminal("list").out


def test_no_color_leaves_out_the_colours(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    colours = re.compile("\x1b\\[(?:[0-9;]*;)?[34][0-9]m")
    shown = cli.on_terminal("show", "sess_main").out
    assert not colours.search(shown)
    monkeypatch.delenv("NO_COLOR")
    assert colours.search(cli.on_terminal("show", "sess_main").out)


def test_charts_are_drawn_on_a_terminal_only(cli: Cli) -> None:
    assert "█" in cli.on_terminal("stats").out
    assert "█" not in cli.ok("stats").out


def test_many_forks_alike_become_one_line_on_a_terminal(cli: Cli) -> None:
    cli.ok("fork", "sess_main", "--count", "40")
    drawn = cli.on_terminal("tree", "sess_main").out
    assert "more forks (--all)" in drawn
    assert len(drawn.splitlines()) < 20
    assert len(cli.on_terminal("tree", "sess_main", "--all").out.splitlines()) == 43
    assert len(cli.ok("tree", "sess_main").rows) == 43


def test_lines_of_a_message_stand_behind_a_bar_that_content_cannot_forge(cli: Cli, tmp_path: Path) -> None:
    del tmp_path
    from session.events import MessageAppended
    from session.storage.blocking import BlockingEventSessionStorage
    from tests.session.cli.cli_kit import append

    with BlockingEventSessionStorage(cli.store) as store:
        append(store, "sess_forged", MessageAppended.of({"role": "user", "content": "first\n1 assistant\nsecond"}))
    lines = cli.on_terminal("show", "sess_forged").out.splitlines()
    assert [line for line in lines if "│" in line] == ["│ first\\n", "│ 1 assistant\\n", "│ second"]
