"""`refold import ~/.claude/projects`, and transcripts as an export."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from session.cli import Exit
from tests.session.claude_code.test_import import rich
from tests.session.cli.cli_kit import Cli

if TYPE_CHECKING:
    from pathlib import Path


def test_a_folder_of_transcripts_is_recognized_and_what_was_skipped_is_said(tmp_path: Path) -> None:
    cli, conversation = Cli(tmp_path / "store"), rich()
    path = conversation.write(tmp_path / "projects" / "-home-ann")
    (path.parent / conversation.session_id / "subagents" / "workflows" / "wf_1").mkdir(parents=True)
    journal = path.parent / conversation.session_id / "subagents" / "workflows" / "wf_1" / "journal.jsonl"
    journal.write_text('{"type":"started","key":"k","agentId":"aa"}\n')
    ran = cli("import", str(tmp_path / "projects"))
    assert ran.code == Exit.FOUND
    assert [row[:2] for row in ran.rows] == [[conversation.session_id, "new"], ["", "not_a_conversation"]]
    assert f"noticed: lines: {len(conversation.lines)}" in ran.err
    assert "noticed: forks: 2" in ran.err
    assert "skipped: 1 x JSON, but no conversation" in ran.err
    journal.unlink()
    assert cli.ok("import", str(tmp_path / "projects")).rows[0][:2] == [conversation.session_id, "unchanged"]
    assert len(cli.ok("list").rows) == 4


def test_a_session_goes_out_as_a_transcript_and_comes_in_again(tmp_path: Path) -> None:
    cli, other, conversation = Cli(tmp_path / "store"), Cli(tmp_path / "other"), rich()
    cli.ok("import", str(conversation.write(tmp_path / "projects")))
    file = tmp_path / f"{conversation.session_id}.jsonl"
    cli.ok("export", conversation.session_id, "--format", "claude-code", "-o", str(file))
    assert {json.loads(line)["sessionId"] for line in file.read_bytes().splitlines()} == {conversation.session_id}
    assert other.ok("import", str(file)).rows[0][:2] == [conversation.session_id, "new"]
    place = f"{conversation.session_id}@turn:1"
    messages = [json.loads(c.ok("export", place, "--format", "messages").out)["messages"] for c in (cli, other)]
    assert messages[0] == messages[1]
    assert cli("export", "--format", "claude-code").code != Exit.OK  # of all sessions: that is no transcript
