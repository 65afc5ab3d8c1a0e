"""An import that is killed with -9 at any moment is made good by the next run; nothing is doubled."""

from __future__ import annotations

import random
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.session.claude_code.project import Conversation, call, text
from tests.session.claude_code.test_import import imported, known

if TYPE_CHECKING:
    from pathlib import Path

KILLS = 40
PROGRAM = """
import sys
from pathlib import Path
from session import BlockingEventSessionStorage
from session.claude_code import TranscriptImport
with BlockingEventSessionStorage(sys.argv[1], durability="os") as storage:
    print("begun", flush=True)
    for outcome in TranscriptImport(storage, Path(sys.argv[2])).run():
        print(outcome, flush=True)
"""


@pytest.mark.slow
def test_a_killed_import_is_finished_by_the_next_run(tmp_path: Path) -> None:
    projects = tmp_path / "projects"
    for number in range(1, 8):
        long_with_rewinds(number).write(projects)
    imported(tmp_path / "once", projects)
    expected = known(tmp_path / "once")
    chance = random.Random(20261122)
    kills = 0
    for attempt in range(KILLS):
        store = tmp_path / f"store{attempt}"
        kills += killed(store, projects, after_lines=1 + chance.randrange(4), after_s=chance.random() * 0.02)
        imported(store, projects)
        assert known(store) == expected, attempt
    print(f"{kills} of {KILLS} runs were killed before their end")
    assert kills > KILLS // 2


def long_with_rewinds(number: int) -> Conversation:
    """A conversation with a rewind every few turns."""
    it = Conversation(number)
    at = None
    for turn in range(30):
        at = it.user(at, f"Ask {turn}")
        asked = it.assistant(at, f"msg_{number}_{turn}", text("Well."), call(f"toolu_{number}_{turn}"))
        at = it.result(asked, f"toolu_{number}_{turn}", "x" * 3_000)
        if turn % 7 == 3:
            it.user(asked, f"Rewound {turn}")
    return it


def killed(store: Path, projects: Path, *, after_lines: int, after_s: float) -> bool:
    """Import in another process, and kill it after so many outcomes and seconds; whether it was not done by then."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(store), str(projects)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for _ in range(after_lines):
            process.stdout.readline()
        try:
            process.wait(after_s)
        except subprocess.TimeoutExpired:
            process.kill()
        return process.wait() != 0
