"""The installed command, as a process under a real terminal session and in a pipe."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pexpect  # type: ignore[import-untyped]
import pytest

from tests.session.cli.cli_kit import COLUMNS, seed_hostile
from tests.session.cli.test_commands import EVERY, FOUND_SOMETHING, arguments_of
from tests.session.cli.test_terminal import EVIL, assert_untouched

if TYPE_CHECKING:
    from tests.session.cli.cli_kit import Cli

ROOT = Path(__file__).parents[3]
# Progress is drawn on stderr by moving the cursor within its own line, hidden meanwhile: nothing of it is content.
PROGRESS = re.compile("\x1b\\[\\?25[lh]|\x1b\\[[0-9]*[AK]|\r")


def spawn(cli: Cli, arguments: list[str]) -> pexpect.spawn:
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
    everything = ["-m", "session", "--store", str(cli.store), *arguments]
    return pexpect.spawn(
        sys.executable,
        everything,
        env=environment,
        dimensions=(50, COLUMNS),
        encoding="utf-8",
        timeout=60,
        cwd=str(ROOT),
    )


def on_terminal(cli: Cli, arguments: list[str]) -> tuple[int, str]:
    child = spawn(cli, arguments)
    printed = child.read()
    child.close()
    return child.exitstatus, printed


def test_a_person_at_a_terminal_is_asked_before_anything_is_deleted(cli: Cli) -> None:
    child = spawn(cli, ["delete", "sess_other"])
    child.expect_exact("Delete 1 sessions (sess_other)?")
    child.sendline("n")
    assert child.read().splitlines()[-1] == "refold: nothing was deleted"
    child.close()
    assert child.exitstatus == 1
    assert cli("show", "sess_other").code == 0
    child = spawn(cli, ["delete", "sess_other"])
    child.expect_exact("Delete")
    child.sendline("y")
    child.read()
    child.close()
    assert child.exitstatus == 0
    assert cli("show", "sess_other").code == 3


def test_the_group_is_there_without_loading_what_it_leads_to() -> None:
    code = (
        "import sys; from session.cli import run; run(['--help']); "
        "print(*sorted({'rich', 'lmdb', 'eventstore', 'anthropic', 'session.cli.looking'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == ""


def test_a_list_in_a_pipe_loads_neither_rich_nor_the_sdk(cli: Cli) -> None:
    code = (
        f"import sys; from session.cli import run; run(['--store', {str(cli.store)!r}, 'list']); "
        "print(*sorted({'rich', 'anthropic', 'sqlite3', 'redis', 'httpx2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_every_command_works_under_a_real_terminal(name: str, cli: Cli) -> None:
    code, printed = on_terminal(cli, arguments_of(name, cli))
    assert code == (2 if name in FOUND_SOMETHING else 0), printed
    assert "Traceback" not in printed
    assert_untouched(PROGRESS.sub("", printed))


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_every_command_works_in_a_real_pipe(name: str, cli: Cli) -> None:
    command = [sys.executable, "-m", "session", "--store", str(cli.store), *arguments_of(name, cli)]
    done = subprocess.run(command, capture_output=True, check=False, cwd=ROOT)
    assert done.returncode == (2 if name in FOUND_SOMETHING else 0), done.stderr
    assert done.stdout
    assert b"\x1b" not in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", ["list", "show sess_hostile", "log sess_hostile", "tree sess_hostile", "stats"])
def test_what_others_wrote_changes_nothing_on_a_real_terminal(command: str, cli: Cli, tmp_path: Path) -> None:
    cli.store = tmp_path / "hostile"
    seed_hostile(cli.store, EVIL)
    code, printed = on_terminal(cli, command.split())
    assert code == 0
    assert_untouched(PROGRESS.sub("", printed))
