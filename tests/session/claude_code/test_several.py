"""Several files of one session, several imports at once, and files that are no transcripts."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from session.claude_code import CLAUDE_CODE
from session.transfer import Imported, Report, Skipped
from session.transfer.source import Source
from tests.session.claude_code.project import Conversation, text
from tests.session.claude_code.test_import import _stop_after, imported, known, said, states
from tests.session.claude_code.test_import_kill import PROGRAM, long_with_rewinds

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def conversation() -> Conversation:
    it = Conversation(1)
    it.assistant(it.user(None, "Hello"), "msg_1", text("Hi."))
    return it


def test_processes_that_import_the_same_files_at_once_make_what_one_makes(tmp_path: Path) -> None:
    projects = tmp_path / "projects"
    for number in range(1, 9):
        long_with_rewinds(number).write(projects)
    imported(tmp_path / "once", projects)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "store"), str(projects)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in running:
        out, errors = process.communicate()
        assert process.returncode == 0, errors
        assert "Skipped" not in out
    assert known(tmp_path / "store") == known(tmp_path / "once")


def test_two_files_of_one_session_are_one_and_a_further_run_adds_nothing(tmp_path: Path) -> None:
    it, project, store = conversation(), tmp_path / "projects", tmp_path / "store"
    os.utime(it.write(project / "a"), (1, 1))
    it.write(project / "b")
    assert Report(imported(store, project)).imported == {"new": 1, "unchanged": 1}
    version = states(store)[it.session_id].version
    for _ in range(2):
        assert Report(imported(store, project)).imported == {"unchanged": 2}
    assert states(store)[it.session_id].version == version


def test_an_older_copy_of_a_file_has_nothing_new(tmp_path: Path) -> None:
    it, project, store = conversation(), tmp_path / "projects", tmp_path / "store"
    path = it.write(project)
    imported(store, project)
    path.write_text(it.text().splitlines(keepends=True)[0])
    [outcome] = imported(store, project)
    assert isinstance(outcome, Imported)
    assert outcome.noticed == {"shorter than what was imported before": 1}
    path.write_text(it.text().splitlines(keepends=True)[0].replace("Hello", "Other"))
    [outcome] = imported(store, project)
    assert isinstance(outcome, Skipped)
    assert outcome.reason == "altered"


def test_a_copy_that_was_stopped_at_any_write_is_made_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, project = conversation(), Conversation(2), tmp_path / "projects"
    second.lines = list(first.lines)
    second.user(first.lines[-1]["uuid"], "Otherwise")
    first.user(first.lines[-1]["uuid"], "More")
    os.utime(first.write(project), (1, 1))
    second.write(project)
    imported(tmp_path / "once", project)
    for stopped in range(20):
        with monkeypatch.context() as patched:
            _stop_after(patched, stopped)
            try:
                imported(tmp_path / f"stop{stopped}", project)
            except KeyboardInterrupt:
                pass
            else:
                break
        imported(tmp_path / f"stop{stopped}", project)
        assert known(tmp_path / f"stop{stopped}") == known(tmp_path / "once"), stopped
    assert stopped == 3


def test_a_copy_of_a_session_whose_name_ends_as_that_of_a_fork_goes_on(tmp_path: Path) -> None:
    it, project, store = conversation(), tmp_path / "projects", tmp_path / "store"
    project.mkdir()
    (project / "foo.deadbeef.jsonl").write_text(it.text())
    os.utime(project / "foo.deadbeef.jsonl", (1, 1))
    for words in ("Otherwise", "And on"):
        it.user(it.lines[-1]["uuid"], words)
        (project / "bar.jsonl").write_text(it.text())
        assert Report(imported(store, project)).whole
    assert said(states(store)["bar"])[-2:] == [("user", "Otherwise"), ("user", "And on")]
    assert states(store)["bar"].parent_id == "foo.deadbeef"


def test_files_of_other_kinds_do_not_hide_transcripts_and_become_no_sessions(tmp_path: Path) -> None:
    it, project, store = conversation(), tmp_path / "projects", tmp_path / "store"
    it.write(project)
    for run in ("wf_1", "wf_2"):
        folder = project / it.session_id / "subagents" / "workflows" / run
        folder.mkdir(parents=True)
        (folder / "journal.jsonl").write_text(f'{{"type":"started","key":"{run}","agentId":"aa"}}\n')
    (project / "0.jsonl").write_bytes("Hello\n".encode("utf-16"))
    (project / "1.jsonl").write_bytes(b"")
    assert CLAUDE_CODE.recognizes(Source(project))
    report = Report(imported(store, project))
    assert (report.imported, report.skipped) == ({"new": 1}, {"not_a_conversation": 4})
    assert list(states(store)) == [it.session_id]


def test_a_byte_order_mark_and_windows_line_ends_hide_nothing(tmp_path: Path) -> None:
    it = conversation()
    (tmp_path / "w.jsonl").write_bytes(b"\xef\xbb\xbf" + it.text().replace("\n", "\r\n").encode())
    [outcome] = imported(tmp_path / "store", tmp_path / "w.jsonl")
    assert isinstance(outcome, Imported)
    assert outcome.noticed == {"lines": 2, "messages": 2}
    assert said(states(tmp_path / "store")["w"]) == [("user", "Hello"), ("assistant", [text("Hi.")])]
