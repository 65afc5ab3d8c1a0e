"""Every bench runs, small: whether it does the work it claims, not how fast."""

from __future__ import annotations

import importlib
import json
import math
import pkgutil
from typing import TYPE_CHECKING

import pytest

import bench
from bench.__main__ import BENCHES
from bench.harness import Contestant, Finding, Result, Series, Size, interleave, ratio
from bench.report import CONTENT_DIFFERS, MISSED, describe_environment, main, result_text
from bench.rivals import BareLmdb, RawFile, Sqlite

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.bench
@pytest.mark.parametrize("name", BENCHES)
def test_a_bench_does_the_work_it_claims_and_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    """All that is to be seen of one in one test: two workers would run it twice."""
    result = BENCHES[name](Size(tmp_path, small=True, rounds=2))
    assert list(tmp_path.iterdir()) == [], "it left files behind"
    check_contents(result)
    check_measurements(result)
    check_text(result)


def check_contents(result: Result) -> None:
    """Contestants that do the same work have the same content."""
    assert result.hashes
    assert result.agreed, result.hashes
    assert any(len(by_contestant) > 1 for by_contestant in result.hashes.values()), "nobody to compare with"


def check_measurements(result: Result) -> None:
    """It measures something, and judges it."""
    assert result.question.endswith("?")
    assert any(finding.judged for finding in result.findings)
    for series in result.series:
        assert series.values
        assert all(math.isfinite(value) and value >= 0 for value in series.values), series


def check_text(result: Result) -> None:
    """It prints every contestant with its durability, and every bar."""
    text = result_text("some", result)
    for series in result.series:
        assert any(series.contestant in line and f" {series.durability} " in line for line in text.splitlines())
    assert sum("=>" in line for line in text.splitlines()) == len(result.findings)


def test_every_module_that_answers_a_question_is_run_by_the_command() -> None:
    names = [module.name for module in pkgutil.iter_modules(bench.__path__) if module.name != "__main__"]
    answering = {name for name in names if hasattr(importlib.import_module(f"bench.{name}"), "run")}
    assert answering == set(BENCHES)


def test_contestants_take_turns_and_the_first_round_does_not_count(tmp_path: Path) -> None:
    played = []

    def play(name: str, number: int) -> float:
        played.append((name, number))
        return number + 1.0

    contestants = [
        Contestant("a", "disk", lambda number: play("a", number)),
        Contestant("b", "os", lambda number: 2 * play("b", number)),
    ]
    series = interleave(Size(tmp_path, rounds=2), contestants)
    assert played == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert series["a"] == Series("a", "disk", "s", [2.0, 3.0])
    assert ratio(series["b"], series["a"]) == 2.0


def test_ratios_are_taken_within_a_round() -> None:
    # Rounds grow slower: the ratio of the medians would be 1, within each round it is 2 or 10.
    slow = Series("slow", "-", "s", [2, 100, 200])
    quick = Series("quick", "-", "s", [1, 10, 100])
    assert ratio(slow, quick) == 2


@pytest.mark.parametrize("store", [RawFile, BareLmdb, Sqlite])
def test_a_rival_gives_back_what_it_was_given(store: type[RawFile | BareLmdb | Sqlite], tmp_path: Path) -> None:
    with store(tmp_path / "rival") as rival:
        rival.append([("a", b"1"), ("b", b"2")])
        rival.append([("a", b"3")])
        assert (rival.read("a"), rival.read("b")) == ([b"1", b"3"], [b"2"])


def _answer(value: float, *, agreed: bool = True) -> Result:
    hashes = {"work": {"ours": "1", "theirs": "1" if agreed else "2"}}
    return Result("how much?", [Series("ours", "disk", "s", [value])], [Finding("all", value, at_most=1)], hashes)


def test_a_missed_bar_is_printed_and_fails_only_a_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--dir", str(tmp_path)]
    assert main({"some": lambda _: _answer(2)}, arguments) == 0
    assert "MISSED" in capsys.readouterr().out
    assert main({"some": lambda _: _answer(2)}, [*arguments, "--check"]) == MISSED
    assert main({"some": lambda _: _answer(1)}, [*arguments, "--check"]) == 0


def test_a_small_run_is_not_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main({"some": lambda _: _answer(2)}, ["--small", "--dir", str(tmp_path)]) == 0
    assert "MISSED" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main({"some": lambda _: _answer(2)}, ["--small", "--check"])


def test_content_that_differs_always_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main({"some": lambda _: _answer(0, agreed=False)}, ["--dir", str(tmp_path)]) == CONTENT_DIFFERS
    assert "CONTENT DIFFERS" in capsys.readouterr().out


def test_json_holds_the_environment_and_every_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main({"some": lambda _: _answer(2)}, ["--json", "--dir", str(tmp_path)])
    report = json.loads(capsys.readouterr().out)
    assert report["environment"]["file_system"] == describe_environment(tmp_path).file_system
    assert report["results"]["some"]["series"][0]["values"] == [2]
    assert report["size"]["directory"] == str(tmp_path)


def test_only_the_benches_named_are_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = {"one": lambda _: _answer(1), "other": lambda _: _answer(1)}
    assert main(run, ["other", "--dir", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "other: how much?" in printed
    assert "one: how much?" not in printed
    with pytest.raises(SystemExit):
        main(run, ["third"])
