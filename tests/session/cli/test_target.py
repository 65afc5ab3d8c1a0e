"""Files that `refold export` and `refold page` write: whole or not at all, and nothing is destroyed for them."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from session.cli import Exit
from session.cli._failures import CommandError
from session.cli._target import whole_file

if TYPE_CHECKING:
    from pathlib import Path

    from tests.session.cli.cli_kit import Cli

WRITERS = [("export",), ("page", "sess_main")]


def test_a_file_that_came_to_be_meanwhile_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "file"
    with pytest.raises(CommandError, match="is there already; nothing was written"):  # noqa: PT012, SIM117 - it ends badly
        with whole_file(str(target), replace=False) as write:
            write(b"ours")
            target.write_text("theirs")
    assert target.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("replace", [False, True])
def test_a_pipe_that_came_to_be_meanwhile_is_left_alone(replace: bool, tmp_path: Path) -> None:
    target = tmp_path / "pipe"
    with pytest.raises(CommandError, match="is no plain file; nothing was written"):  # noqa: PT012, SIM117 - as above
        with whole_file(str(target), replace=replace) as write:
            write(b"ours")
            os.mkfifo(target)
    assert target.is_fifo()
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("arguments", WRITERS)
def test_force_replaces_files_and_nothing_else(arguments: tuple[str, ...], cli: Cli, tmp_path: Path) -> None:
    pipe, link, file = tmp_path / "pipe", tmp_path / "link", tmp_path / "file"
    os.mkfifo(pipe)
    file.write_text("mine")
    link.symlink_to(file)
    for target in (pipe, link, tmp_path / "store", tmp_path / "dangling"):
        if target.name == "dangling":
            target.symlink_to(tmp_path / "nowhere")
        ran = cli(*arguments, "--force", "-o", str(target))
        assert (ran.code, ran.out) == (Exit.ERROR, "")
        assert ran.err == f"refold: {target} is no plain file; nothing was written\n"
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert file.read_text() == "mine"
    cli.ok(*arguments, "--force", "-o", str(file))
    assert file.read_text() != "mine"


@pytest.mark.parametrize("arguments", WRITERS)
def test_a_home_directory_is_found_and_its_absence_said(
    arguments: tuple[str, ...], cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    cli.ok(*arguments, "-o", "~/written")
    assert (tmp_path / "written").stat().st_size
    assert "no such home directory" in cli(*arguments, "-o", "~nobody-of-this-name/file").err


def test_a_file_system_without_links_gets_its_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    target = tmp_path / "file"
    with whole_file(str(target), replace=False) as write:
        write(b"ours")
    assert target.read_bytes() == b"ours"
    with pytest.raises(CommandError, match="is there already"), whole_file(str(target), replace=False):
        pass


def test_what_was_not_finished_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), whole_file(str(tmp_path / "file"), replace=True) as write:
        write(bytes(1 // 0))
    assert list(tmp_path.iterdir()) == []


def test_an_export_is_for_its_owner_and_a_page_to_be_passed_on(cli: Cli, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        for arguments, mode in zip(WRITERS, (0o600, 0o644), strict=True):
            target = tmp_path / arguments[0]
            cli.ok(*arguments, "-o", str(target))
            assert stat.S_IMODE(target.stat().st_mode) == mode
    finally:
        os.umask(before)
