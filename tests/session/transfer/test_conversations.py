"""Conversations as JSON: lines and requests, good ones and hostile ones."""

from __future__ import annotations

import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from session.places import HEAD
from session.state import Prompt, SessionState
from session.transfer import Skipped, export_line, export_messages, import_path
from session.transfer.conversations import COMMIT_EVENTS
from session.transfer.report import RefusedError
from session.transfer.source import MAX_NESTING, check_nesting, lines
from tests.session.transfer.stores import heads, imported, store

if TYPE_CHECKING:
    from session.transfer import Report

HELLO = {"role": "user", "content": "hello"}
HI = {"role": "assistant", "content": [{"type": "text", "text": "hi"}]}


def taken_in(path: Path, *given_lines: bytes | dict[str, Any], name: str = "given.jsonl") -> Report:
    file = path / name
    file.write_bytes(b"\n".join(one if isinstance(one, bytes) else json.dumps(one).encode() for one in given_lines))
    with store(path / "store") as opened:
        return imported(opened, file)


def state_of(path: Path, session_id: str) -> SessionState:
    with store(path / "store") as opened:
        return opened.state_at(session_id, HEAD)


def test_garbage_lines_are_counted_and_shown_and_the_rest_comes_in(tmp_path: Path) -> None:
    nested = b"[" * (MAX_NESTING + 1) + b"]" * (MAX_NESTING + 1)
    report = taken_in(
        tmp_path,
        b"garbage \x1b[2J",
        {"id": "first", "messages": [HELLO]},
        b"",
        b'{"id": "torn", "messages": [{"role": "us',
        b'{"id": "deep", "messages": [{"role": "user", "content": %b}]}' % nested,
        b'"a text"',
        {"id": "none"},
        {"id": "bad", "messages": "hello"},
        {"id": "bad", "messages": [{"content": "who says this?"}]},
        {"id": "bad", "model": 7, "messages": [HELLO]},
        {"id": "bad", "tools": 7, "messages": [HELLO]},
        {"id": "bad", "metadata": 7, "messages": [HELLO]},
        b"\xff\xfe",
        {"id": "last", "messages": [HELLO, HI]},
    )
    assert report.imported == {"new": 2}
    assert report.skipped == {"not_json": 3, "too_deep": 1, "not_a_conversation": 7}
    assert [skipped.line for skipped in report.first_skipped] == [1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]


def test_a_line_over_the_limit_is_passed_over_without_being_held(tmp_path: Path) -> None:
    file = tmp_path / "long"
    file.write_bytes(b"short\n" + b"x" * 10_000_000 + b"\nlast")
    with file.open("rb") as opened:
        found = list(lines(opened, limit=1_000))
    assert [(line.number, line.text) for line in found] == [(1, b"short"), (2, None), (3, b"last")]
    assert found[-1].offset == file.stat().st_size


@pytest.mark.parametrize("text", [b'"' + b'\\"' * 300_000, b"[" + b'"\\' * 200_000, b'{"":' * 200_000])
def test_measuring_the_depth_takes_linear_time(text: bytes) -> None:
    """Texts in which each quote could be looked for the end of: quadratic, that would be minutes."""
    check_nesting(b"[]" * (MAX_NESTING + 1) + text.replace(b"{", b"").replace(b"[", b""))
    with pytest.raises(RefusedError, match="nested"):
        check_nesting(b"[" * (MAX_NESTING + 1) + text)


def test_a_conversation_without_a_usable_id_gets_one_of_its_content(tmp_path: Path) -> None:
    evil = {"id": "../../etc/cron.d/x", "messages": [HELLO]}
    assert taken_in(tmp_path, evil, {"messages": [HELLO, HI]}).imported == {"new": 2}
    assert taken_in(tmp_path, evil, {"messages": [HELLO, HI]}).imported == {"unchanged": 2}
    with store(tmp_path / "store") as opened:
        states = [opened.state_at(name, HEAD) for name in opened.list()]
    assert {state.metadata.get("imported_id") for state in states} == {"../../etc/cron.d/x", None}


def test_a_file_that_has_grown_is_continued_and_one_that_differs_is_left_out(tmp_path: Path) -> None:
    taken_in(tmp_path, {"id": "s", "title": "old", "messages": [HELLO]})
    with store(tmp_path / "store") as opened:
        opened.update_metadata("s", title="mine")
    assert taken_in(tmp_path, {"id": "s", "title": "old", "messages": [HELLO, HI]}).imported == {"extended": 1}
    assert taken_in(tmp_path, {"id": "s", "messages": [HELLO]}).imported == {"unchanged": 1}
    before = state_of(tmp_path, "s")
    assert (len(before.messages), before.metadata["title"]) == (2, "mine")
    assert taken_in(tmp_path, {"id": "s", "messages": [HELLO, HELLO, HI]}).skipped == {"taken": 1}
    with store(tmp_path / "store") as opened:
        opened.delete("s")
    assert taken_in(tmp_path, {"id": "s", "messages": [HELLO]}).skipped == {"deleted": 1}


def test_a_request_keeps_its_parameters_and_its_system(tmp_path: Path) -> None:
    request = {
        "model": "claude-sonnet-5-5", "max_tokens": 100, "temperature": 0.5,
        "tools": [{"name": "f", "input_schema": {}}], "system": [{"type": "text", "text": "Be brief."}],
        "messages": [HELLO, HI], "unheard_of": [1.10],
    }  # fmt: skip
    text = json.dumps(request, indent=2).encode()
    assert taken_in(tmp_path, text, name="request.json").imported == {"new": 1}
    with store(tmp_path / "store") as opened:
        state = opened.state_at(opened.list()[0], HEAD)
    assert state.prompt.model == "claude-sonnet-5-5"
    assert state.metadata == {"unheard_of": [1.1]}
    assert json.loads(export_messages(state)) == {
        name: value for name, value in request.items() if name != "unheard_of"
    }


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
any_text = st.text(st.characters(exclude_categories=[]), max_size=9)
raw_messages = st.one_of(
    st.builds(
        lambda role, content: json.dumps({"role": role, "content": content}).encode(),
        st.sampled_from(["user", "assistant"]),
        json_values,
    ),
    st.builds(
        lambda text: json.dumps({"content": text, "role": "user"}, indent=1, ensure_ascii=False).encode(
            "utf-8", "backslashreplace"
        ),
        any_text,
    ),
    st.sampled_from([
        b'{"role":"user","content":1.10}',
        b'{"role":"user","content":NaN}',
        b'{"role":"user","content":"\\ud800"}',
        b'{"role":"user","content":[' + b"9" * 5_000 + b"]}",
    ]),
    st.binary(max_size=12).filter(lambda raw: not _is_json(raw)),  # JSON without a role is no message
)  # fmt: skip


@settings(max_examples=30)
@given(st.lists(raw_messages, max_size=5), json_values, st.booleans())
def test_hostile_messages_survive_the_way_out_and_in(messages: list[bytes], metadata: Any, as_line: bool) -> None:
    """A line keeps everything but line ends between values, a request every byte."""
    system = json.dumps(metadata if isinstance(metadata, str) else "s").encode()
    state = SessionState(id="s", messages=messages, metadata={"m": metadata}, prompt=Prompt(system=system))  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / ("x.jsonl" if as_line else "x.json")
        file.write_bytes(export_line(state) if as_line else export_messages(state))
        with store(Path(directory) / "store") as opened:
            outcomes = list(import_path(opened, file, format_name="lines" if as_line else "messages"))
            assert not [one for one in outcomes if isinstance(one, Skipped)]
            back = opened.state_at(opened.list()[0], HEAD)
    if as_line:
        assert back.metadata == state.metadata
        assert [_flat(raw) for raw in back.messages.raw] == [_flat(raw) for raw in state.messages.raw]
    else:
        assert back.messages.raw == state.messages.raw


def _is_json(raw: bytes) -> bool:
    try:
        json.loads(raw)
    except (ValueError, RecursionError):
        return False
    return True


def _flat(raw: bytes) -> bytes:
    if not _is_json(raw):
        return raw
    return raw.replace(b"\n", b" ").replace(b"\r", b" ")


def test_importing_twice_in_any_order_doubles_nothing(tmp_path: Path) -> None:
    given = [{"id": f"s{number}", "messages": [HELLO, HI] * number} for number in range(1, 6)]
    taken_in(tmp_path, *given)
    with store(tmp_path / "store") as opened:
        before = heads(opened)
    assert taken_in(tmp_path, *reversed(given)).imported == {"unchanged": 5}
    with store(tmp_path / "store") as opened:
        assert heads(opened) == before


def test_two_imports_of_one_file_at_a_time_double_nothing(tmp_path: Path) -> None:
    given = [json.dumps({"id": f"s{number}", "messages": [HELLO, HI] * 3}).encode() for number in range(60)]
    (tmp_path / "given.jsonl").write_bytes(b"\n".join(given))
    with store(tmp_path / "store") as opened, ThreadPoolExecutor(4) as threads:
        reports = list(threads.map(lambda _: imported(opened, tmp_path / "given.jsonl"), range(4)))
        assert all(report.whole for report in reports)
        assert sum(report.imported["new"] for report in reports) == 60
        assert {len(opened.state_at(name, HEAD).messages) for name in opened.list()} == {6}


@pytest.mark.slow
def test_more_messages_than_a_commit_takes_are_several_commits(tmp_path: Path) -> None:
    texts = [json.dumps({"role": "user", "content": str(number)}) for number in range(COMMIT_EVENTS + 10)]
    line = f'{{"id": "long", "messages": [{",".join(texts)}]}}'.encode()
    assert taken_in(tmp_path, line).imported == {"new": 1}
    assert taken_in(tmp_path, line).imported == {"unchanged": 1}
    assert [raw.decode() for raw in state_of(tmp_path, "long").messages.raw] == texts
