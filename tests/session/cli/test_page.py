"""`refold page`, in process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from session.cli import Exit, run
from session.pages import html_page, markdown_page
from session.state import SessionState
from session.storage.blocking import BlockingEventSessionStorage

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    with BlockingEventSessionStorage(path, durability="os") as storage:
        messages = [{"role": "user", "content": "what is \x1b[2J this"}, {"role": "assistant", "content": "an \u00e9"}]
        storage.save(SessionState.new("sess_a", messages=messages, metadata={"title": "../../evil"}))
    return path


def paged(store: Path, *arguments: str) -> int:
    return run(["--store", str(store), "page", *arguments])


@pytest.mark.parametrize(("option", "making"), [("--html", html_page), ("--markdown", markdown_page)])
def test_a_page_goes_to_stdout_or_into_a_file(
    store: Path, tmp_path: Path, option: str, making: Any, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert paged(store, "sess_a", option) == Exit.OK
    printed = capfdbinary.readouterr().out
    with BlockingEventSessionStorage(store) as storage:
        assert printed.decode() == "".join(making(storage, "sess_a"))
    assert b"\x1b" not in printed
    target = tmp_path / "talk"
    assert paged(store, "sess", option, "-o", str(target)) == Exit.OK
    assert target.read_bytes() == printed
    assert {path.name for path in tmp_path.iterdir()} == {"store", "talk"}, "nothing else was written"


def test_a_file_is_only_replaced_by_force_and_whole(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "talk.html"
    target.write_text("mine")
    assert paged(store, "sess_a", "-o", str(target)) == Exit.ERROR
    assert "--force" in capsys.readouterr().err
    assert target.read_text() == "mine"
    assert paged(store, "nobody", "-o", str(target), "--force") == Exit.NOT_FOUND
    assert paged(store, "sess_a@99", "-o", str(target), "--force") == Exit.NOT_FOUND
    assert target.read_text() == "mine"
    assert paged(store, "sess_a@2", "-o", str(target), "--force") == Exit.OK
    assert "at version 2" in target.read_text()
    (tmp_path / "link").symlink_to(target)
    for bad in (tmp_path / "link", tmp_path / "no" / "such", tmp_path):
        assert paged(store, "sess_a", "-o", str(bad), "--force") == Exit.ERROR
    assert {path.name for path in tmp_path.iterdir()} == {"store", "talk.html", "link"}
