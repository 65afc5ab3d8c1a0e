"""What ties transcripts to each other: calls of sub-agents, sessions that go on in another file, titles elsewhere."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from session.claude_code import TranscriptImport
from session.events import SessionCreated
from session.storage import BlockingEventSessionStorage
from session.transfer import Imported
from tests.session.claude_code.project import Conversation, call, text
from tests.session.claude_code.test_import import imported, known, opened, said, states

if TYPE_CHECKING:
    from pathlib import Path


def cause_of(store: Path, session_id: str) -> str:
    with opened(store) as storage:
        created = next(storage.events(session_id)).event
    assert isinstance(created, SessionCreated)
    return created.cause


def at_cause(store: Path, session_id: str) -> object:
    """The newest message at the place that caused the session."""
    caller, _, version = cause_of(store, session_id).partition("@")
    with opened(store) as storage:
        return said(storage.state_at(caller, int(version)))[-1]


def write_agent(project: Path, owner: Conversation, agent: Conversation, name: str, **about: object) -> None:
    folder = project / owner.session_id / "subagents" / "workflows" / "wf_1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"agent-{name}.jsonl").write_text(agent.text())
    if about:
        (folder / f"agent-{name}.meta.json").write_text(json.dumps(about))


def calling(number: int, tool_use_id: str, **more: object) -> Conversation:
    it = Conversation(number, **more)  # type: ignore[arg-type]
    ask = it.user(None, f"Ask {number}")
    asked = it.assistant(ask, f"msg_{number}", call(tool_use_id, "Agent"))
    it.result(asked, tool_use_id, "launched")
    return it


def test_the_file_beside_a_sub_agent_names_the_call_that_began_it(tmp_path: Path) -> None:
    project, store = tmp_path / "projects", tmp_path / "store"
    main = calling(1, "toolu_1")
    main.write(project)
    agent = calling(2, "toolu_2", sidechain=True, agent="aa")
    write_agent(project, main, agent, "aa", toolUseId="toolu_1", spawnDepth=1)
    nested = Conversation(3, sidechain=True, agent="bb")
    nested.user(None, "Nested")
    write_agent(project, main, nested, "bb", toolUseId="toolu_2", parentAgentId="aa", spawnDepth=2)
    for path in project.rglob("agent-bb.jsonl"):
        os.utime(path, (1, 1))  # written before the one that called it
    imported(store, project)
    assert at_cause(store, f"{main.session_id}.agent-aa") == ("assistant", [call("toolu_1", "Agent")])
    assert cause_of(store, f"{main.session_id}.agent-bb").startswith(f"{main.session_id}.agent-aa@")
    assert at_cause(store, f"{main.session_id}.agent-bb") == ("assistant", [call("toolu_2", "Agent")])


def test_a_sub_agent_that_comes_later_finds_its_call_in_the_store(tmp_path: Path) -> None:
    project, store = tmp_path / "projects", tmp_path / "store"
    main = calling(1, "toolu_1")
    main.write(project)
    imported(store, project)
    late = Conversation(2, sidechain=True, agent="aa")
    late.user(None, "Late")
    write_agent(project, main, late, "aa", toolUseId="toolu_1")
    imported(store, project)
    assert at_cause(store, f"{main.session_id}.agent-aa") == ("assistant", [call("toolu_1", "Agent")])


def test_the_sub_agents_of_a_workflow_are_caused_by_the_call_that_ran_it(tmp_path: Path) -> None:
    project, store = tmp_path / "projects", tmp_path / "store"
    main, agent = Conversation(1), Conversation(2, sidechain=True, agent="aa")
    asked = main.assistant(main.user(None, "Ask"), "msg_1", call("toolu_1", "Workflow"))
    main.result(asked, "toolu_1", "launched", toolUseResult={"isAsync": True, "runId": "wf_1"})
    main.write(project)
    agent.user(None, "Sweep")
    write_agent(project, main, agent, "aa")
    imported(store, project)
    assert at_cause(store, f"{main.session_id}.agent-aa") == ("assistant", [call("toolu_1", "Workflow")])


@pytest.mark.parametrize("about", ["[]", "{", '{"toolUseId":7}', "null", "[" * 100_000])
def test_what_cannot_be_read_beside_a_sub_agent_is_as_if_it_were_not_there(tmp_path: Path, about: str) -> None:
    project, store = tmp_path / "projects", tmp_path / "store"
    main, agent = calling(1, "toolu_1"), Conversation(2, sidechain=True, agent="aa")
    main.write(project)
    agent.user(None, "Search")
    write_agent(project, main, agent, "aa", toolUseId="")
    for path in project.rglob("*.meta.json"):
        path.write_text(about)
    imported(store, project)
    assert cause_of(store, f"{main.session_id}.agent-aa") == main.session_id


def test_a_session_that_begins_behind_a_line_of_another_file_is_caused_by_it(tmp_path: Path) -> None:
    project, store = tmp_path / "projects", tmp_path / "store"
    first = Conversation(1)
    ask = first.user(None, "Hello")
    answer = first.assistant(ask, "msg_1", text("Hi."))
    first.user(answer, "And later")
    os.utime(first.write(project), (1_000, 1_000))
    second = Conversation(2)
    boundary = second.other("system", None, subtype="compact_boundary", logicalParentUuid=answer)
    second.user(boundary, "What was said.", isCompactSummary=True)
    second.write(project)
    imported(store, project)
    assert at_cause(store, second.session_id) == ("assistant", [text("Hi.")])
    assert said(states(store)[second.session_id]) == [("user", "What was said.")]


def test_a_title_that_stands_in_another_file_is_given_once_to_a_session_without_one(tmp_path: Path) -> None:
    project, store = tmp_path / "projects", tmp_path / "store"
    untitled, titled, later = Conversation(1), Conversation(2), Conversation(3)
    leaf, other = untitled.user(None, "One"), titled.user(None, "Two")
    titled.bare("custom-title", customTitle="Its own")
    later.bare("summary", summary="About one", leafUuid=leaf)
    later.bare("summary", summary="About two", leafUuid=other)
    own = later.user(None, "Three")
    later.lines.insert(0, {"type": "summary", "summary": "About itself", "leafUuid": own})
    for number, conversation in enumerate((later, untitled, titled), 1):  # the one with the titles comes first
        os.utime(conversation.write(project), (number, number))
    rows = {row.session_id: row for row in imported(store, project) if isinstance(row, Imported)}
    assert rows[later.session_id].version == states(store)[later.session_id].version, "with all that was written"
    counts = rows[later.session_id].noticed
    assert (counts["titles"], counts["titles of other sessions"]) == (1, 2), "its own may stand above its line"

    def titles() -> list[object]:
        found = states(store)
        return [found[it.session_id].metadata.get("title") for it in (untitled, titled, later)]

    assert titles() == ["About one", "Its own", "About itself"]
    before = {name: state.version for name, state in states(store).items()}
    imported(store, project)
    assert {name: state.version for name, state in states(store).items()} == before
    untitled.user(leaf, "On")
    untitled.bare("ai-title", aiTitle="A newer one")
    untitled.write(project)
    imported(store, project)
    assert titles()[0] == "A newer one"
    assert said(states(store)[untitled.session_id]) == [("user", "One"), ("user", "On")]


def test_titles_for_others_are_given_by_the_next_run_if_the_first_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "projects"
    untitled, later = Conversation(1), Conversation(2)
    leaf = untitled.user(None, "One")
    later.bare("summary", summary="About one", leafUuid=leaf)
    later.user(None, "Two")
    untitled.write(project)
    later.write(project)
    imported(tmp_path / "once", project)
    for stopped in range(8):
        store = tmp_path / f"stop{stopped}"
        with monkeypatch.context() as patched, opened(store) as storage:
            stop_after(patched, stopped)
            try:
                list(TranscriptImport(storage, project).run())
            except KeyboardInterrupt:
                pass
            else:
                break
        imported(store, project)
        assert known(store) == known(tmp_path / "once"), stopped
    assert stopped > 2


def stop_after(patched: pytest.MonkeyPatch, writes: int) -> None:
    """Ctrl-C in the place of an append that follows *writes* others."""
    append, left = BlockingEventSessionStorage.append, iter(range(writes))

    def stopping(*arguments: object, **options: object) -> object:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return append(*arguments, **options)  # type: ignore[arg-type]

    patched.setattr(BlockingEventSessionStorage, "append", stopping)
