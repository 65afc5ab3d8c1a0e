"""Ctrl-C while the command is being loaded, at any module on its way: one line, as at any other time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = """\
#!{python}
import sys
from session.cli import main
if __name__ == "__main__":
    sys.exit(main())
"""
# Python runs it before anything of ours: Ctrl-C comes when the module is looked for.
INTERRUPTING = """\
import os, signal, sys
class Interrupting:
    @staticmethod
    def find_spec(name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)  # `uv run` passes it on, beside the terminal
sys.meta_path.insert(0, Interrupting)
"""


def command(how: str, tmp_path: Path) -> list[str]:
    if how == "module":
        return [sys.executable, "-m", "session"]
    script = tmp_path / how
    script.write_text(SCRIPT.format(python=sys.executable))
    return [sys.executable, str(script)]


def started(arguments: list[str], tmp_path: Path, *, at: str, before: str = "") -> subprocess.CompletedProcess[str]:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTING.format(module=at))
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    line = ["sh", "-c", f'{before} exec "$@"', "sh", *arguments]
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(line, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)


@pytest.mark.parametrize("how", ["module", "refold"])
@pytest.mark.parametrize("at", ["session.errors", "msgspec._core", "session.summary", "session.cli", "click"])
def test_ctrl_c_while_the_command_is_loaded_is_one_line(how: str, at: str, tmp_path: Path) -> None:
    done = started([*command(how, tmp_path), "--version"], tmp_path, at=at)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "refold: interrupted\n")


def test_ctrl_c_that_is_ignored_stays_so(tmp_path: Path) -> None:
    done = started([*command("module", tmp_path), "--version"], tmp_path, at="msgspec", before="trap '' INT;")
    assert (done.returncode, done.stdout[:7], done.stderr) == (0, "refold ", "")


@pytest.mark.parametrize("name", ["refold", "other"])
def test_other_programs_keep_their_ctrl_c(name: str, tmp_path: Path) -> None:
    """Whatever they are called, and while they load the package, too."""
    script = tmp_path / name
    script.write_text("try:\n    import session\nexcept KeyboardInterrupt:\n    print('theirs')\n")
    done = started([sys.executable, str(script)], tmp_path, at="session.summary")
    assert (done.returncode, done.stdout, done.stderr) == (0, "theirs\n", "")
