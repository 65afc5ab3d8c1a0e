"""The README's examples of live sessions, word for word, as programs of their own, against the scripted API."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from session.storage import BlockingEventSessionStorage
from session.testing import Reply, ScriptedApi, calls

if TYPE_CHECKING:
    from session.testing._server import LoopbackServer

REPOSITORY = Path(__file__).parents[2]
FENCE = "```"
EXAMPLES = ("quick start", "resume and fork", "tools and permissions", "record")


def example(name: str) -> str:
    """The program behind this mark of the README."""
    readme = (REPOSITORY / "README.md").read_text()
    mark = f"<!-- example: {name} -->\n{FENCE}python\n"
    assert readme.count(mark) == 1, f"the README has no example called {name!r}"
    return readme.partition(mark)[2].partition(FENCE)[0]


def run(program: str, directory: Path, server: LoopbackServer, *arguments: str) -> str:
    """What it prints, as a process of its own in *directory*."""
    environment = {
        **os.environ,
        "ANTHROPIC_API_KEY": "none",
        "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{server.port}",
        "PYTHONPATH": str(REPOSITORY),
        "NO_PROXY": "127.0.0.1",
    }
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", program, *arguments]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_quick_start_runs_and_another_process_resumes_with_full_context_and_forks(tmp_path: Path) -> None:
    api = ScriptedApi(["Hello! How can I help?", "You said: Hello", "Bonjour"])
    with api.serve() as server:
        printed = run(example("quick start"), tmp_path, server).splitlines()
        assert printed[0] == "Hello! How can I help?"
        session_id = printed[-1]
        later = run(example("resume and fork"), tmp_path, server, session_id).splitlines()
    assert later[0].startswith("You said: Hello")
    assert later[0].split()[-2] == "Helloend_turn"
    assert later[-1].split()[-1] == "session_closed"
    first, second, third = api.calls
    assert [message["content"] for message in second.json["messages"]] == [
        "Hello",
        [{"type": "text", "text": "Hello! How can I help?"}],
        "What did I say?",
    ]
    for call in (second, third):
        assert call.body.startswith(first.body.removesuffix(b"]}"))
    with BlockingEventSessionStorage(tmp_path / "agent.refold") as storage:
        assert len(storage.list()) == 2
        assert storage.verify(session_id).version == len(later) - 1


def test_the_example_of_recording_runs(tmp_path: Path) -> None:
    with ScriptedApi(["Hello!"]).serve() as server:
        run(example("record"), tmp_path, server)
    with BlockingEventSessionStorage(tmp_path / "agent.refold") as storage:
        [session_id] = storage.list()
        state = storage.load(session_id)
        assert state is not None
        assert [message["role"] for message in state.messages] == ["user", "assistant"]


def test_the_example_of_tools_and_permissions_runs(tmp_path: Path) -> None:
    asked = Reply(content=[calls("temperature", {"city": "Rome"}), calls("bash", {"command": "date"})])
    api = ScriptedApi([asked, "It is 21 degrees."])
    with api.serve() as server:
        printed = run(example("tools and permissions"), tmp_path, server)
    assert printed.splitlines() == [
        "temperature {'city': 'Rome'}",
        "bash {'command': 'date'}",
        "21",
        "No shell today.",
        "It is 21 degrees.",
    ]


@pytest.mark.slow  # mypy reads the whole SDK
def test_the_examples_are_typed(tmp_path: Path) -> None:
    programs = []
    for name in EXAMPLES:
        programs.append(tmp_path / f"{name.replace(' ', '_')}.py")
        programs[-1].write_text(example(name))
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", *map(str, programs)]
    checked = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert checked.stdout == ""
