"""What is exported is read back by the SDK of Claude Code as the same messages, and by our own import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from claude_agent_sdk import get_session_messages
from hypothesis import given
from hypothesis import strategies as st

from session import BlockingEventSessionStorage, SessionState, UnreadableJsonError
from session.claude_code import TranscriptImport, transcript, transcript_id
from tests.session.claude_code.test_import import rich, said

if TYPE_CHECKING:
    from pathlib import Path

WORDS = st.text(st.characters(codec="utf-8"), max_size=20)
BLOCKS = st.lists(st.builds(lambda words: {"type": "text", "text": words}, WORDS), min_size=1, max_size=3)
CONVERSATIONS = st.lists(
    st.builds(lambda role, content: {"role": role, "content": content}, st.sampled_from(["user", "assistant"]), BLOCKS),
    min_size=1,
    max_size=8,
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of Claude Code."""
    return tmp_path_factory.mktemp("claude")


@pytest.fixture(autouse=True)
def claude_code_here(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(config))


def written(config: Path, state: SessionState) -> str:
    """The uuid of the transcript, written to where the SDK looks."""
    folder = config / "projects" / "-home-ann"
    folder.mkdir(parents=True, exist_ok=True)
    name = transcript_id(state.id)
    (folder / f"{name}.jsonl").write_bytes(b"".join(transcript(state)))
    return name


def read_by_sdk(name: str) -> list[Any]:
    return [(it.message["role"], it.message["content"]) for it in get_session_messages(name)]


@given(messages=CONVERSATIONS)
def test_the_sdk_reads_back_equal_messages(config: Path, messages: list[dict[str, Any]]) -> None:
    state = SessionState.new("sess_0123456789abcdef", messages=messages)
    assert read_by_sdk(written(config, state)) == said(state)


def test_imported_sessions_and_their_forks_go_out_again(config: Path, tmp_path: Path) -> None:
    rich().write(tmp_path / "projects")
    with BlockingEventSessionStorage(tmp_path / "store", durability="os") as storage:
        list(TranscriptImport(storage, tmp_path / "projects").run())
        for session_id in storage.list():
            state = storage.load(session_id)
            assert state is not None
            name = written(config, state)
            expected = said(state)
            assert read_by_sdk(name) == expected
    with BlockingEventSessionStorage(tmp_path / "again", durability="os") as storage:
        list(TranscriptImport(storage, config / "projects" / "-home-ann" / f"{name}.jsonl").run())
        again = storage.load(name)
    assert again is not None
    assert said(again) == expected


def test_line_ends_between_tokens_do_not_break_the_lines(config: Path) -> None:
    raw = b'{"role":"user",\r\n "content":\n [{"type":"text",\n"text":"a\\nb"}]}'
    state = SessionState.new("sess_0123456789abcdee", messages=[raw])
    assert read_by_sdk(written(config, state)) == [("user", [{"type": "text", "text": "a\nb"}])]


def test_a_message_that_no_reader_would_take_is_refused(config: Path) -> None:
    state = SessionState.new("sess_0123456789abcded", messages=[b'{"role":"user","content":"cut'])
    with pytest.raises(UnreadableJsonError):
        written(config, state)
