"""`refold search`, in process."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import jsonschema  # type: ignore[import-untyped]  # it ships no types
import pytest

from session.cli import Exit, run
from session.cli.about import schema_of
from session.cli.search import ROLES, FoundPart
from session.search import ROLES as INDEXED_ROLES
from session.state import SessionState
from session.storage.blocking import BlockingEventSessionStorage

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = "disk full \x1b[2J\u202e\n\tend"
TALK: list[dict[str, Any]] = [
    {"role": "user", "content": "why is the disk full"},
    {
        "role": "assistant",
        "content": [{"type": "tool_use", "id": "t", "name": "bash", "input": {"command": "df disk"}}],
    },
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": HOSTILE, "is_error": True}]},
]


@pytest.fixture
def store(tmp_path: Path) -> str:
    path = tmp_path / "store"
    with BlockingEventSessionStorage(path, durability="os", clock=lambda: 1_790_000_000_000_000_000) as storage:
        storage.save(SessionState.new("a", messages=TALK))
    return str(path)


def searched(store: str, *arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str], str]:
    code = run(["--store", store, "search", *arguments])
    said = capsys.readouterr()
    return code, said.out.splitlines(), said.err


def test_hits_are_rows_with_a_place_and_nothing_in_them_controls_the_terminal(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, rows, said = searched(store, "disk", "full", capsys=capsys)
    assert code == Exit.OK
    assert [row.split("\t")[0] for row in rows] == ["a@4", "a@2"]
    assert rows[0].split("\t")[1:4] == ["2026-09-21T14:13:20.000Z", "tool", "bash"]
    assert r"\x1b[2J\u202e" in rows[0]
    assert "there was none" in said
    assert searched(store, "disk", "full", capsys=capsys) == (code, rows, ""), "it is said once"


@pytest.mark.parametrize(
    ("arguments", "places"),
    [
        (["--role", "user", "disk"], ["a@2"]),
        (["--tool", "bash"], ["a@4", "a@3"]),
        (["--errors"], ["a@4"]),
        (["--since", "2026-09-21", "fu*"], ["a@4", "a@2"]),
        (["--before", "2026-09-21"], []),
        (["--since", "2026-09-21T16:13:20+02:00", "why"], ["a@2"]),
        (["--model", "x"], []),
        (['"full disk"'], []),
        (["--", "-", "(", '"'], []),
    ],
)
def test_options_narrow_the_search(
    store: str, arguments: list[str], places: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, rows, _ = searched(store, *arguments, capsys=capsys)
    assert [row.split("\t")[0] for row in rows] == places
    assert code == (Exit.OK if places else Exit.NOT_FOUND)


def test_json_is_of_the_documented_schema(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, rows, _ = searched(store, "--json", "FULL", capsys=capsys)
    found = [json.loads(row) for row in rows]
    for one in found:
        jsonschema.validate(one, schema_of("search"))
    assert code == Exit.OK
    assert found[0]["found"] == ["full"]
    assert found[0]["text"] == HOSTILE
    assert set(found[0]) == set(FoundPart.__struct_fields__)


def test_more_hits_than_the_limit_are_told_of(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, rows, said = searched(store, "--limit", "1", "disk", capsys=capsys)
    assert (code, len(rows)) == (Exit.OK, 1)
    assert "there is more" in said


def test_the_index_may_be_elsewhere_and_be_made_anew(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    searched(store, "--index", str(elsewhere), "disk", capsys=capsys)
    assert (elsewhere / "index.sqlite3").exists()
    assert not (tmp_path / "store.search").exists()
    _, rows, said = searched(store, "--index", str(elsewhere), "--rebuild", "disk", capsys=capsys)
    assert "it was asked for" in said
    assert len(rows) == 3


def test_a_bad_day_and_a_missing_store_have_their_errors(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, said = searched(store, "--since", "yesterday", capsys=capsys)
    assert (code, "neither a day" in said) == (Exit.ERROR, True)
    code, _, said = searched(str(tmp_path / "none"), "x", capsys=capsys)
    assert (code, "no store" in said) == (Exit.NOT_FOUND, True)
    assert not (tmp_path / "none.search").exists()


def test_the_roles_offered_are_those_of_the_index() -> None:
    assert ROLES == INDEXED_ROLES
