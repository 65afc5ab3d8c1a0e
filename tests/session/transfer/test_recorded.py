"""Conversations recorded by other programs: in, listed, out, in again, and nothing was lost."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from session.places import HEAD
from session.transfer import export_folder, export_line, export_messages
from tests.session.transfer.stores import exported, heads, imported, recorded_lines, store

if TYPE_CHECKING:
    from pathlib import Path


def test_thirteen_sessions_come_in_and_go_out_and_come_in_with_equal_digests(tmp_path: Path) -> None:
    given = tmp_path / "agent-sessions.jsonl"
    given.write_bytes(recorded_lines())
    originals = {line["id"]: line for line in map(json.loads, recorded_lines().splitlines())}
    with store(tmp_path / "first") as first, store(tmp_path / "second") as second:
        report = imported(first, given)
        assert (report.imported, report.whole) == ({"new": 13}, True)
        assert {summary.id: summary.messages for summary in first.summaries().items} == {
            name: len(line["messages"]) for name, line in originals.items()
        }
        for name, line in originals.items():
            state = first.state_at(name, HEAD)
            assert state.messages == line["messages"]
            assert json.loads(state.prompt.system) == line["system"]
            assert state.metadata == {"source": line["source"]}

        (tmp_path / "all.jsonl").write_bytes(exported(first))
        assert imported(second, tmp_path / "all.jsonl").imported == {"new": 13}
        assert heads(second) == heads(first)
        assert exported(second) == exported(first)
        for again in (given, tmp_path / "all.jsonl"):
            assert imported(second, again).imported == {"unchanged": 13}
        assert heads(second) == heads(first)


def test_each_format_that_keeps_messages_keeps_their_bytes(tmp_path: Path) -> None:
    (tmp_path / "given.jsonl").write_bytes(recorded_lines())
    with store(tmp_path / "store") as first:
        imported(first, tmp_path / "given.jsonl")
        states = [first.state_at(name, HEAD) for name in first.list()]
    (tmp_path / "lines.jsonl").write_bytes(b"".join(map(export_line, states)))
    assert all(written for _, written in export_folder(states, tmp_path / "folder"))
    (tmp_path / "request.json").write_bytes(export_messages(states[0]))
    with store(tmp_path / "by line") as by_line, store(tmp_path / "by file") as by_file:
        assert imported(by_line, tmp_path / "lines.jsonl").imported == {"new": 13}
        assert imported(by_file, tmp_path / "folder").imported == {"new": 13}
        assert imported(by_line, tmp_path / "request.json").imported == {"new": 1}
        for state in states:
            told, filed = by_line.state_at(state.id, HEAD), by_file.state_at(state.id, HEAD)
            assert told.messages.raw == filed.messages.raw == state.messages.raw
            assert (told.prompt, told.metadata, filed.metadata) == (state.prompt, state.metadata, state.metadata)
        asked = [found for found in by_line.list() if found not in {state.id for state in states}]
        assert export_messages(by_line.state_at(asked[0], HEAD)) == export_messages(states[0])
