"""`refold demo`, the first thing that anybody sees: what it says is so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from session.cli import Exit
from session.cli.about import schema_of
from session.demo import STEPS, Stage, staged
from session.lint import lint
from session.places import HEAD
from session.storage import BlockingEventSessionStorage
from tests.session.cli.cli_kit import Cli

REPOSITORY = Path(__file__).parents[3]


def played(stage: Stage, *names: str) -> dict[str, list[str]]:
    return {step.name: list(step.play(stage)) for step in STEPS if step.name in names}


def test_the_quick_steps_show_what_happens(tmp_path: Path) -> None:
    with staged(keep=tmp_path / "kept") as stage:
        shown = played(stage, "converse", "look_back", "verify", "take_in")
        assert "  On the roof 31.4 °C, in the cellar 12.8 °C." in shown["converse"]
        assert shown["look_back"][-1] == "  On the roof 31.4 °C, in the cellar 12.8 °C."
        assert shown["verify"][0].endswith(": no problems")
        assert shown["verify"][1].endswith(": 1 problem")
        assert "digest: 'demo-station' version" in shown["verify"][2]
        assert any("a fork of example-flaky-test@" in line for line in shown["take_in"])
        assert stage.figures["imported"] == 3
    with BlockingEventSessionStorage(tmp_path / "kept" / "store") as store:
        states = [store.state_at(name, HEAD) for name in store.list()]
    assert len(states) == 4
    assert [lint(state.messages) for state in states] == [[]] * 4


def test_it_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ANTHROPIC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    cli = Cli(tmp_path / "store")
    for arguments, line in ((["--live"], "--live needs a key"), (["--keep", str(tmp_path)], "is there already")):
        ran = cli("demo", *arguments)
        assert (ran.code, ran.out) == (Exit.ERROR, "")
        assert line in ran.err
        assert ran.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_play_that_ends_early_leaves_no_folder_for_the_next_to_stumble_over(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), staged(keep=tmp_path / "kept") as stage:  # noqa: PT012
            stage.blocking().close()
            raise KeyboardInterrupt
        assert list(tmp_path.iterdir()) == []


def without_a_network() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANTHROPIC_", "PYTHON"))}
    proxies = dict.fromkeys(
        ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9"
    )
    return kept | proxies


@pytest.mark.slow
def test_the_whole_demo_runs_without_a_network_or_a_key_and_its_commands_work(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "session", "demo", "--json", "--keep", "demo"]
    environment = without_a_network() | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True, timeout=300
    )
    steps: dict[str, Any] = {line["step"]: line for line in map(json.loads, done.stdout.splitlines())}
    for step in steps.values():
        jsonschema.validate(step, schema_of("demo"))
    assert list(steps) == [step.name for step in STEPS]

    survived = steps["survive"]
    assert survived["figures"]["exit_status"] == -9
    assert survived["lines"][2].endswith("tool_started, tool_started, tool_returned")
    assert "  in doubt: calibrate (started, no outcome)" in survived["lines"]
    assert any("The other was interrupted" in line for line in survived["lines"])

    forked = steps["fork"]["figures"]
    assert forked["forks"] == 1_000
    assert forked["fork_bytes"] < forked["message_bytes"] / 10  # 1,000 copies of half of it would be 500 times as much

    cli = Cli(tmp_path / "demo" / "store")
    assert len(cli.ok("list", "--limit", "5").rows) == 5
    assert "31.4" in cli.ok("show", "demo-station@turn:1").out
    cli.ok("verify")


@pytest.mark.slow
def test_the_demo_needs_nothing_that_only_tests_need() -> None:
    """Its modules, imported where neither pytest nor hypothesis can be."""
    blocked = "import sys; sys.modules.update(pytest=None, hypothesis=None, pexpect=None)\n"
    code = (
        blocked
        + "import session.demo, session.demo.killed, session.testing.api, session.testing._server, session.cli.demo"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, timeout=120)
