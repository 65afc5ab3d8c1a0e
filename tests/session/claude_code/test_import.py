"""What transcripts of Claude Code come to: which sessions, forks, messages, usage and counts."""

from __future__ import annotations

import json
import os
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from session import BlockingEventSessionStorage
from session.claude_code import MAX_LINE_BYTES, TranscriptImport
from session.events import SourceRecorded
from session.transfer import Imported, Report, Skipped
from tests.session.claude_code.project import Conversation, call, text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from session import SessionState
    from session.events import StoredEvent
    from session.transfer import Outcome


@contextmanager
def opened(store: Path) -> Iterator[BlockingEventSessionStorage]:
    with BlockingEventSessionStorage(store, durability="os") as storage:
        yield storage


def imported(store: Path, source: Path) -> list[Outcome]:
    with opened(store) as storage:
        return list(TranscriptImport(storage, source).run())


def states(store: Path) -> dict[str, SessionState]:
    with opened(store) as storage:
        return {session_id: _loaded(storage, session_id) for session_id in storage.list()}


def _loaded(storage: BlockingEventSessionStorage, session_id: str) -> SessionState:
    state = storage.load(session_id)
    assert state is not None
    storage.verify(session_id)
    return state


def said(state: SessionState) -> list[Any]:
    return [(message["role"], message["content"]) for message in state.messages]


def known(store: Path) -> dict[str, Any]:
    """All that must not depend on how often, and when, the files were imported."""
    return {
        session_id: (said(state), state.usage, state.own_usage, state.parent_id, state.metadata)
        for session_id, state in states(store).items()
    }


def rich() -> Conversation:
    """One file with parallel tools, a rewind, a rewind of the rewind, a compaction, a side chain and other lines."""
    it = Conversation(1)
    it.bare("file-history-snapshot", messageId="m")
    ask = it.user(None, "Hello")
    other = it.other("attachment", ask, attachment={"type": "hook"})
    think = it.assistant(other, "msg_1", {"type": "thinking", "thinking": "hm", "signature": "c2ln"})
    one = it.assistant(think, "msg_1", call("toolu_1"), usage={"input_tokens": 100, "output_tokens": 20})
    first = it.result(one, "toolu_1", "first")
    two = it.assistant(one, "msg_1", call("toolu_2"), usage={"input_tokens": 100, "output_tokens": 33})
    second = it.result(two, "toolu_2", "second")
    assert first != second
    done = it.assistant(second, "msg_2", text("Done."))
    it.bare("ai-title", aiTitle="A guess")
    way = it.user(done, "One way")
    it.assistant(way, "msg_3", text("One."))
    back = it.user(done, "Another way")
    answer = it.assistant(back, "msg_4", text("Another."))
    it.bare("custom-title", customTitle="Two ways")
    it.bare("ai-title", aiTitle="A later guess")
    side = it.user(None, "Look for it", isSidechain=True)
    it.assistant(side, "msg_s", text("Found."), isSidechain=True)
    boundary = it.other("system", None, subtype="compact_boundary", logicalParentUuid=answer)
    summary = it.user(boundary, "What was said: two ways.", isCompactSummary=True)
    on = it.user(summary, "Go on")
    it.assistant(on, "msg_5", text("Going on."), usage={"input_tokens": 7, "output_tokens": 3})
    it.user(back, "Or a third")
    return it


def test_a_file_becomes_a_session_with_its_rewinds_as_forks(tmp_path: Path) -> None:
    conversation = rich()
    conversation.write(tmp_path / "projects" / "-home-ann")
    report = Report(imported(tmp_path / "store", tmp_path / "projects"))
    assert report.imported == {"new": 1}
    assert report.whole
    found = states(tmp_path / "store")
    home = found.pop(conversation.session_id)
    calls = [{"type": "thinking", "thinking": "hm", "signature": "c2ln"}, call("toolu_1"), call("toolu_2")]
    results = [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": "first"},
        {"type": "tool_result", "tool_use_id": "toolu_2", "content": "second"},
    ]
    shared = [("user", "Hello"), ("assistant", calls), ("user", results), ("assistant", [text("Done.")])]
    assert said(home) == [*shared, ("user", "One way"), ("assistant", [text("One.")])]
    assert home.usage.input_tokens == 300
    assert home.usage.output_tokens == 33 + 10 + 10
    assert home.metadata["title"] == "Two ways"
    assert home.metadata["claude_code"] == {"cwd": "/home/ann/work", "git_branch": "main", "version": "2.0.14"}
    side = next(state for state in found.values() if said(state)[0][1] == "Look for it")
    assert said(side) == [("user", "Look for it"), ("assistant", [text("Found.")])]
    assert side.parent_id is None
    rewound = next(state for state in found.values() if said(state)[-1] == ("assistant", [text("Going on.")]))
    assert rewound.parent_id == home.id
    assert said(rewound) == [("user", "What was said: two ways."), ("user", "Go on"), said(rewound)[-1]]
    assert rewound.own_usage.input_tokens == 107
    third = next(state for state in found.values() if said(state)[-1] == ("user", "Or a third"))
    assert third.parent_id == rewound.id
    assert said(third) == [*shared, ("user", "Another way"), ("user", "Or a third")]
    assert len(found) == 3
    assert report.noticed == {
        "lines": len(conversation.lines),
        "messages": 17,
        "forks": 2,
        "side chains": 1,
        "compactions": 1,
        "titles": 3,
        "kept only: file-history-snapshot": 1,
        "kept only: attachment": 1,
        "kept only: system": 1,
    }


def test_the_evidence_is_every_byte_of_the_file(tmp_path: Path) -> None:
    conversation = rich()
    path = conversation.write(tmp_path / "projects")
    path.write_bytes(path.read_bytes() + b'not JSON \xff\x00\r\n\n  \n{"type":"new-kind","x":1}\n')
    imported(tmp_path / "store", path)
    with opened(tmp_path / "store") as storage:
        parts = [stored.event for stored in storage.events(conversation.session_id)]
    evidence = [event for event in parts if isinstance(event, SourceRecorded)]
    assert b"".join(zlib.decompress(event.data) for event in evidence if event.data) == path.read_bytes()


def test_a_second_run_adds_nothing_and_an_appended_tail_only_itself(tmp_path: Path) -> None:
    conversation = rich()
    path = conversation.write(tmp_path / "projects")
    imported(tmp_path / "store", tmp_path / "projects")
    before = {name: state.version for name, state in states(tmp_path / "store").items()}
    assert Report(imported(tmp_path / "store", tmp_path / "projects")).imported == {"unchanged": 1}
    assert {name: state.version for name, state in states(tmp_path / "store").items()} == before
    known_before = known(tmp_path / "store")
    leaf = next(line["uuid"] for line in conversation.lines if line.get("message", {}).get("id") == "msg_3")
    conversation.user(leaf, "And then?")
    path.write_text(conversation.text())
    [outcome] = imported(tmp_path / "store", tmp_path / "projects")
    assert isinstance(outcome, Imported)
    assert outcome.outcome == "extended"
    assert outcome.noticed == {"lines": 1, "messages": 1}
    after = known(tmp_path / "store")
    assert said(states(tmp_path / "store")[conversation.session_id])[-1] == ("user", "And then?")
    del after[conversation.session_id], known_before[conversation.session_id]
    assert after == known_before


def test_what_rewinds_share_is_not_read_again_for_each_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time a file has grown: or a second run would be quadratic in the number of rewinds."""
    reading, read = BlockingEventSessionStorage.events, 0

    def counting(*values: Any, **options: Any) -> Iterator[StoredEvent]:
        nonlocal read
        for event in reading(*values, **options):
            read += 1
            yield event

    it, turns = Conversation(1), 60
    parent = it.user(None, "Hello")
    for number in range(turns):
        parent = it.assistant(parent, f"msg_{number}", text("Yes."))
        it.user(parent, "not this")
        parent = it.user(parent, "but that")
    it.write(tmp_path / "projects")
    imported(tmp_path / "store", tmp_path / "projects")
    it.assistant(parent, "msg_last", text("And on."))
    it.write(tmp_path / "projects")
    monkeypatch.setattr(BlockingEventSessionStorage, "events", counting)
    assert Report(imported(tmp_path / "store", tmp_path / "projects")).imported == {"extended": 1}
    assert read < 20 * turns
    again = tmp_path / "again"
    imported(again, tmp_path / "projects")
    assert known(again) == known(tmp_path / "store")


def test_it_does_not_matter_at_which_line_an_earlier_run_met_the_end(tmp_path: Path) -> None:
    conversation = rich()
    whole = conversation.text()
    lines = whole.splitlines(keepends=True)
    path = conversation.write(tmp_path / "projects")
    imported(tmp_path / "once", path)
    expected = known(tmp_path / "once")
    for cut in range(1, len(lines)):
        store = tmp_path / f"cut{cut}"
        torn = lines[cut][: len(lines[cut]) // 2]
        path.write_text("".join(lines[:cut]) + torn)
        imported(store, path)
        path.write_text(whole)
        imported(store, path)
        assert known(store) == expected, cut


def test_a_run_that_is_stopped_at_any_write_is_made_good_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = rich()
    path = conversation.write(tmp_path / "projects")
    imported(tmp_path / "once", path)
    expected = known(tmp_path / "once")
    stopped = 0
    while stopped < 100:
        store = tmp_path / f"stop{stopped}"
        with monkeypatch.context() as patched:
            _stop_after(patched, stopped)
            try:
                imported(store, path)
            except KeyboardInterrupt:
                pass
            else:
                break
        imported(store, path)
        assert known(store) == expected, stopped
        stopped += 1
    assert stopped > 4


def _stop_after(patched: pytest.MonkeyPatch, writes: int) -> None:
    """Ctrl-C before the write that follows *writes* others."""
    left = [writes]

    def stopping(method: Any) -> Any:
        def stopped(*arguments: Any, **options: Any) -> Any:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return method(*arguments, **options)

        return stopped

    for name in ("append", "fork"):
        patched.setattr(BlockingEventSessionStorage, name, stopping(getattr(BlockingEventSessionStorage, name)))


def test_sub_agents_are_sessions_that_name_the_call_that_began_them(tmp_path: Path) -> None:
    project = tmp_path / "projects" / "-home-ann"
    main = Conversation(1)
    ask = main.user(None, "Search")
    task = main.assistant(ask, "msg_1", call("toolu_task", "Task"))
    main.result(task, "toolu_task", "found", toolUseResult={"agentId": "a1b2", "status": "completed"})
    main.write(project)
    agent = Conversation(2, sidechain=True, agent="a1b2")
    begun = agent.user(None, "Search it")
    agent.assistant(begun, "msg_a", text("Found it."))
    folder = project / main.session_id / "subagents"
    folder.mkdir(parents=True)
    (folder / "agent-a1b2.jsonl").write_text(agent.text())
    old = Conversation(3, sidechain=True, agent="old1")
    old.user(None, "An older one", sessionId=main.session_id)
    (project / "agent-old1.jsonl").write_text(old.text())
    assert Report(imported(tmp_path / "store", tmp_path / "projects")).imported == {"new": 3}
    with opened(tmp_path / "store") as storage:
        created = next(storage.events(f"{main.session_id}.agent-a1b2")).event
        older = next(storage.events(f"{main.session_id}.agent-old1")).event
        caller, _, version = created.cause.partition("@")  # type: ignore[union-attr]
        at_call = storage.state_at(caller, int(version))
    assert older.cause == main.session_id  # type: ignore[union-attr]
    assert said(at_call)[-1] == ("assistant", [call("toolu_task", "Task")])
    assert said(states(tmp_path / "store")[f"{main.session_id}.agent-a1b2"]) == [
        ("user", "Search it"),
        ("assistant", [text("Found it.")]),
    ]


@pytest.mark.parametrize("copied", ["same uuids", "forkedFrom"])
def test_a_copy_of_a_conversation_is_a_fork_where_it_went_its_own_way(tmp_path: Path, copied: str) -> None:
    project = tmp_path / "projects"
    first = Conversation(1)
    ask = first.user(None, "Hello")
    done = first.assistant(ask, "msg_1", text("Hi."))
    on = first.user(done, "More")
    first.assistant(on, "msg_2", text("No."))
    os.utime(first.write(project), (1_000, 1_000))
    second = Conversation(2)
    names: dict[str, str] = {}
    for number, line in enumerate(first.lines[:2]):
        new = line["uuid"] if copied == "same uuids" else f"{number:08}-0000-4000-8000-000000000000"
        names[line["uuid"]] = new
        more = {} if copied == "same uuids" else {"forkedFrom": {"messageUuid": line["uuid"]}}
        moved = {"uuid": new, "parentUuid": names.get(line["parentUuid"]), "sessionId": second.session_id}
        second.lines.append({**line, **moved, **more})
    second.user(names[done], "Otherwise")
    path = second.write(project)
    imported(tmp_path / "store", project)
    copy = states(tmp_path / "store")[second.session_id]
    assert copy.parent_id == first.session_id
    assert said(copy) == [("user", "Hello"), ("assistant", [text("Hi.")]), ("user", "Otherwise")]
    assert copy.own_usage.input_tokens == 0
    assert copy.usage.input_tokens == 100
    second.assistant(second.lines[-1]["uuid"], "msg_9", text("Yes."))
    path.write_text(second.text())
    imported(tmp_path / "store", project)
    grown = states(tmp_path / "store")[second.session_id]
    assert said(grown) == [*said(copy), ("assistant", [text("Yes.")])]
    assert len(states(tmp_path / "store")) == 2


def test_a_missing_parent_a_cycle_and_a_second_beginning_lose_nothing(tmp_path: Path) -> None:
    conversation = Conversation(1)
    ask = conversation.user("11111111-2222-4333-8444-555555555555", "Its beginning was cleaned away")
    conversation.assistant(ask, "msg_1", text("So it goes."))
    one = conversation.user("not yet there", "One of a cycle")
    conversation.lines[-1]["parentUuid"] = "cycle"
    two = conversation.user(one, "The other")
    conversation.lines[-2]["parentUuid"] = two
    conversation.user(None, "A second beginning")
    conversation.write(tmp_path)
    [outcome] = imported(tmp_path / "store", tmp_path)
    assert isinstance(outcome, Imported)
    assert outcome.noticed["parent missing"] == 2
    everything = [message for state in states(tmp_path / "store").values() for message in said(state)]
    for words in ("Its beginning was cleaned away", "One of a cycle", "The other", "A second beginning"):
        assert everything.count(("user", words)) == 1


def test_garbage_and_long_lines_are_said_and_the_rest_is_taken_in(tmp_path: Path) -> None:
    conversation = Conversation(1)
    ask = conversation.user(None, "Hello")
    conversation.assistant(ask, "msg_1", text("Hi."))
    head, tail = conversation.text().splitlines(keepends=True)
    path = tmp_path / f"{conversation.session_id}.jsonl"
    with path.open("wb") as file:
        file.write(head.encode() + b"{garbage\n[1,2]\n")
        file.write(b'{"type":"user","message":{"content":"' + b"x" * MAX_LINE_BYTES + b'"}}\n')
        for levels in (1_001, 900):
            content = b"[" * levels + b"]" * levels
            file.write(b'{"type":"user","uuid":"%d","message":{"role":"user","content":%s}}\n' % (levels, content))
        file.write(tail.encode() + b'{"type":"assistant","torn')
    outcomes = imported(tmp_path / "store", tmp_path)
    skipped = [(outcome.reason, outcome.line) for outcome in outcomes if isinstance(outcome, Skipped)]
    assert skipped == [("not_json", 2), ("not_json", 3), ("too_long", 4), ("too_deep", 5)]
    assert isinstance(outcomes[-1], Imported)
    assert outcomes[-1].noticed["torn last line, left for the next time"] == 1
    assert said(states(tmp_path / "store")[conversation.session_id]) == [
        ("user", "Hello"),
        ("assistant", [text("Hi.")]),
    ]
    with path.open("ab") as file:
        file.write(b'":1}\n')
    again = imported(tmp_path / "store", tmp_path)
    assert [type(outcome) for outcome in again] == [Imported]


def test_a_link_out_of_the_tree_and_a_pipe_are_passed_over(tmp_path: Path) -> None:
    outside = Conversation(1).write(tmp_path / "elsewhere")
    project = tmp_path / "projects"
    inside = Conversation(2)
    inside.user(None, "Hello")
    inside.write(project)
    (project / "link.jsonl").symlink_to(outside)
    os.mkfifo(project / "pipe.jsonl")
    report = Report(imported(tmp_path / "store", project))
    assert report.imported == {"new": 1}
    assert report.skipped == {"outside": 1, "not_a_file": 1}


def test_what_was_done_in_the_store_since_is_respected(tmp_path: Path) -> None:
    conversation = Conversation(1)
    ask = conversation.user(None, "Hello")
    path = conversation.write(tmp_path)
    imported(tmp_path / "store", tmp_path)
    with opened(tmp_path / "store") as storage:
        storage.update_metadata(conversation.session_id, title="Mine")
    conversation.assistant(ask, "msg_1", text("Hi."))
    path.write_text(conversation.text())
    imported(tmp_path / "store", tmp_path)
    renamed = states(tmp_path / "store")[conversation.session_id]
    assert renamed.metadata["title"] == "Mine"
    assert len(renamed.messages) == 2
    with opened(tmp_path / "store") as storage:
        storage.save(renamed.adding({"role": "user", "content": "Said here"}))
    conversation.user(conversation.lines[-1]["uuid"], "Said there")
    path.write_text(conversation.text())
    [outcome] = imported(tmp_path / "store", tmp_path)
    assert isinstance(outcome, Skipped)
    assert outcome.reason == "taken"
    assert said(states(tmp_path / "store")[conversation.session_id])[-1] == ("user", "Said here")
    with opened(tmp_path / "store") as storage:
        storage.delete(conversation.session_id)
    [outcome] = imported(tmp_path / "store", tmp_path)
    assert isinstance(outcome, Skipped)
    assert outcome.reason == "deleted"


def test_a_file_whose_beginning_was_changed_is_left_alone(tmp_path: Path) -> None:
    conversation = Conversation(1)
    conversation.user(None, "Hello")
    path = conversation.write(tmp_path)
    imported(tmp_path / "store", tmp_path)
    path.write_text(conversation.text().replace("Hello", "Olleh"))
    [outcome] = imported(tmp_path / "store", tmp_path)
    assert isinstance(outcome, Skipped)
    assert outcome.reason == "altered"


def test_odd_numbers_and_lone_surrogates_keep_their_bytes(tmp_path: Path) -> None:
    conversation = Conversation(1)
    content = '[{"type":"text","text":"\\ud800 \\u001b[2J","score":1.10,"big":' + "9" * 400 + "}]"
    conversation.user(None, "PLACE")
    path = conversation.write(tmp_path)
    path.write_text(path.read_text().replace('"PLACE"', content))
    imported(tmp_path / "store", tmp_path)
    [raw] = states(tmp_path / "store")[conversation.session_id].messages.raw
    assert raw == b'{"role":"user","content":' + content.encode() + b"}"
    json.loads(raw)
