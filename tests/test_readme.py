"""What the README shows is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def example(name: str) -> str:
    """The code block behind the comment `<!-- example: NAME -->`."""
    found = re.search(rf"<!-- example: {name} -->\n```python\n(.*?)```", README, re.DOTALL)
    assert found, f"the README has no example {name!r}"
    return found[1]


def run(directory: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=directory, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_of_the_log_runs(tmp_path: Path) -> None:
    lines = run(tmp_path, "-W", "error", "-c", example("log")).splitlines()
    assert lines[:2] == ["conversation 1 b'Hello'", "another try 2 b'Good day.'"]
    assert re.fullmatch("[0-9a-f]{64}", lines[2])


def test_the_example_of_sessions_runs(tmp_path: Path) -> None:
    lines = run(tmp_path, "-W", "error", "-c", example("sessions")).splitlines()
    assert lines[:3] == ["1 message before the answer", "100 branches of one conversation", "A greeting idle"]
    assert re.fullmatch("1 session_created [0-9a-f]{8}", lines[3])


def test_the_example_of_replay_prints_what_the_readme_says(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text(example("replay"))
    printed = README.partition("only the second call was sent):\n\n```\n")[2].partition("```")[0]
    lines = [line for line in printed.splitlines() if "called at" not in line]
    found = run(tmp_path, "agent.py").splitlines()
    assert [line for line in found if "called at" not in line] == lines
    assert any(re.fullmatch(r"  called at .*agent\.py:\d+ in agent", line) for line in found)


def test_the_example_of_search_runs_on_what_the_example_of_sessions_left(tmp_path: Path) -> None:
    run(tmp_path, "-c", example("sessions"))
    searched = example("search").replace("""'disk "no space" rebui*', Filters(tool="bash", errors=True)""", '"hell*"')
    assert "hell*" in searched
    assert re.search(r"sess_demo@\d+ ", run(tmp_path, "-W", "error", "-c", searched))
    assert "Hello" in (tmp_path / "page.html").read_text()


def test_the_storage_of_ones_own_passes_the_contract(tmp_path: Path) -> None:
    (tmp_path / "test_bucket.py").write_text(example("own storage"))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    printed = run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_bucket.py")
    passed = re.search(r"(\d+) passed", printed)
    assert passed
    assert int(passed[1]) > 10
    assert "failed" not in printed


@pytest.mark.parametrize("name", ["main", "test"])
def test_each_command_is_one_line_of_shell(name: str) -> None:
    command = subprocess.check_output([ROOT / ".ci" / "readme-command", name], text=True)
    assert command.startswith("python3 -m venv .venv && .venv/bin/pip install ")
    assert command.count("\n") == 1
