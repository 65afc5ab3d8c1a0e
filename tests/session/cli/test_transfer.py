"""`refold import` and `refold export`: what they print, what they end with, and being interrupted for real."""

from __future__ import annotations

import io
import itertools
import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import jsonschema  # type: ignore[import-untyped]
import pytest

from eventstore.verify import verify
from session.cli import Exit
from session.cli.about import schema_of
from session.places import HEAD
from session.storage import BlockingEventSessionStorage
from tests.session.cli.cli_kit import Cli
from tests.session.transfer.stores import exported, heads, imported, recorded_lines, store

if TYPE_CHECKING:
    from pathlib import Path

EVIL = "\x1b]0;owned\x07\u202e\t\n"


def heads_of(path: Path) -> dict[str, tuple[int, bytes]]:
    with BlockingEventSessionStorage(path) as opened:
        return heads(opened)


def test_a_store_goes_through_a_file_into_another_with_equal_digests(cli: Cli, tmp_path: Path) -> None:
    file, other = tmp_path / "all.jsonl", Cli(tmp_path / "other")
    ran = cli.ok("export", "-o", str(file))
    assert ran.out == ""
    assert ran.err.startswith(f"exported to {file}: 4 sessions, ")
    assert other.ok("import", str(file)).rows[0][1:3] == ["new", str(len(cli.ok("log", "sess_main").rows))]
    assert heads_of(other.store) == heads_of(cli.store)
    assert {row[1] for row in other.ok("import", str(file)).rows} == {"unchanged"}
    assert cli.ok("export").out.encode() == file.read_bytes()  # the same through a pipe


def test_thirteen_recorded_sessions_are_listed_shown_and_compared(tmp_path: Path) -> None:
    (tmp_path / "recorded.jsonl").write_bytes(recorded_lines())
    cli = Cli(tmp_path / "store")
    assert [row[1] for row in cli.ok("import", str(tmp_path / "recorded.jsonl")).rows] == ["new"] * 13
    assert sorted(row[0] for row in cli.ok("list", "--limit", "20").rows) == [f"swe-{n:02}" for n in range(1, 14)]
    assert cli.ok("show", "swe-01").out
    assert cli("diff", "swe-05", "swe-05").code == Exit.OK
    assert cli("diff", "swe-05", "swe-06").code == Exit.FOUND
    cli.ok("verify")


def test_a_place_goes_out_as_the_request_of_that_time(cli: Cli) -> None:
    request = json.loads(cli.ok("export", "sess_main@turn:1", "--format", "messages").out)
    assert request["model"] == "claude-sonnet-5-5"
    assert request["system"] == "be kind"
    assert [message["role"] for message in request["messages"]] == ["user", "assistant"]
    lines = [json.loads(line) for line in cli.ok("export", "sess_m", "sess_o", "--format", "lines").out.splitlines()]
    assert [line["id"] for line in lines] == ["sess_main", "sess_other"]


def test_what_was_skipped_is_shown_counted_and_the_exit_code(tmp_path: Path) -> None:
    cli, file = Cli(tmp_path / "store"), tmp_path / "some\x1b[2J.jsonl"
    good = json.dumps({"id": "good", "messages": [{"role": "user", "content": "hi"}]})
    file.write_text(f'{good}\n{{"id": {json.dumps(EVIL)}, "messages": 7}}\ngarbage \x1b[2J\n')
    ran = cli("import", str(file))
    assert ran.code == Exit.FOUND
    assert [row[:2] for row in ran.rows] == [["good", "new"], ["", "not_a_conversation"], ["", "not_json"]]
    assert ran.rows[2][3].endswith("some\\x1b[2J.jsonl:3")
    assert "skipped: 1 x no JSON" in ran.err.splitlines()

    told = cli("import", str(file), "--json")
    assert [json.loads(line)["type"] for line in told.out.splitlines()] == ["imported", "skipped", "skipped"]
    for line in told.out.splitlines():
        jsonschema.validate(json.loads(line), schema_of("import"))

    shown = cli.on_terminal("import", str(file))
    assert not set(shown.out + shown.err) & {"\x1b", "\x07", "\u202e"}
    assert "some\\x1b[2J.jsonl:3: no JSON" in shown.err


def test_the_standard_input_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(recorded_lines())))
    assert len(Cli(tmp_path / "store").ok("import", "-").rows) == 13


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["import", "nothing here"], "nothing here: no such file or directory"),
        (["export", "nobody"], "Session not found: nobody"),
        (["export", "sess_main@3"], "events are exported for whole sessions"),
        (["export", "--format", "messages"], "a request is made of one session: name it"),
        (["export", "--format", "folder"], "name the folder with -o"),
        (["export", "-o", "there"], "there is there already; nothing was written (--force replaces it)"),
        (["export", "-o", "nowhere/file"], "no such file or directory"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    arguments: list[str], line: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").write_text("mine")
    ran = cli(*arguments)
    assert ran.code in (Exit.ERROR, Exit.NOT_FOUND)
    assert ran.out == ""
    assert ran.err.startswith("refold: ")
    assert line in ran.err
    assert ran.err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store", "there"]
    assert (tmp_path / "there").read_text() == "mine"


def test_files_that_are_there_are_left_alone_unless_forced(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    arguments = ["export", "--format", "folder", "-o", str(folder)]
    told = json.loads(cli.ok(*arguments, "--json").out)
    jsonschema.validate(told, schema_of("export"))
    assert (told["sessions"], told["left"]) == (4, 0)
    (folder / "sess_main.json").write_text("mine")
    again = cli(*arguments)
    assert again.code == Exit.FOUND
    assert "left alone: sess_main.json" in again.err
    assert (folder / "sess_main.json").read_text() == "mine"
    (folder / "sess_other.json").unlink()
    (folder / "sess_other.json").symlink_to(tmp_path / "nowhere")
    assert json.loads(cli(*arguments, "--json").out)["left"] == 4
    assert (folder / "sess_other.json").is_symlink()
    cli.ok(*arguments, "--force")
    assert json.loads((folder / "sess_main.json").read_bytes())["id"] == "sess_main"
    other = Cli(tmp_path / "other")
    assert len(other.ok("import", str(folder)).rows) == 4
    assert [row[0] for row in other.ok("tree", "sess_main").rows if row] != []


def test_nothing_is_exported_to_a_terminal(cli: Cli) -> None:
    ran = cli.on_terminal("export")
    assert (ran.code, ran.out) == (Exit.ERROR, "")
    assert "not written to a terminal" in ran.err


@pytest.mark.parametrize(
    ("how", "as_events"),
    [
        (signal.SIGINT, False),
        pytest.param(signal.SIGINT, True, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, False, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, True, marks=pytest.mark.slow),
    ],
)
def test_an_import_that_was_stopped_goes_on_when_it_is_run_again(
    how: signal.Signals, as_events: bool, tmp_path: Path
) -> None:
    given, cut = tmp_path / "given.jsonl", tmp_path / "cut"
    message = {"role": "user", "content": "x" * 2_000}
    lines = [json.dumps({"id": f"s{number:04}", "messages": [message] * 20}) for number in range(150)]
    given.write_text("\n".join(lines))
    if as_events:
        with store(tmp_path / "whole") as whole:
            imported(whole, given)
            given.write_bytes(exported(whole))
    with BlockingEventSessionStorage(cut) as opened:
        command = [sys.executable, "-m", "session", "--store", str(cut), "import", str(given)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            assert len(list(itertools.islice(opened.log.follow(), 200))) == 200
            process.send_signal(how)
            _, told = process.communicate(timeout=60)
        there = len(opened.list())
        assert 0 < there < len(lines)
        if how == signal.SIGINT:
            assert process.returncode == Exit.ERROR
            assert told.splitlines()[-1].startswith(
                "refold: interrupted: what was taken in stays; run the same command"
            )
        Cli(cut).ok("import", str(given))
        assert len(opened.list()) == len(lines)
        assert all(list(opened.state_at(name, HEAD).messages) == [message] * 20 for name in opened.list())
    assert verify(cut).problems == []
