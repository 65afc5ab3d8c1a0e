"""Folders of session files: forks are found, and nothing that is no plain file is opened."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from session.places import HEAD
from session.state import SessionState
from session.storage import FileSessionStorage
from session.transfer import export_folder
from session.usage import Usage
from tests.session.transfer.stores import heads, imported, store

if TYPE_CHECKING:
    from session.storage import BlockingEventSessionStorage


def messages(*texts: str) -> list[dict[str, Any]]:
    return [{"role": "assistant" if n % 2 else "user", "content": text} for n, text in enumerate(texts)]


def save(folder: Path, session_id: str, texts: str, parent_id: str | None = None, **fields: Any) -> None:
    state = SessionState(session_id, messages(*texts), parent_id=parent_id, **fields)  # type: ignore[arg-type]
    asyncio.run(FileSessionStorage(folder).save(state))


def told(opened: BlockingEventSessionStorage, session_id: str) -> tuple[str, str | None, int]:
    """The texts of its messages, its parent, and how many messages it shares with that."""
    state = opened.state_at(session_id, HEAD)
    shared = opened.state_at(state.parent_id, state.forked_at) if state.parent_id and state.forked_at else None
    return "".join(m["content"] for m in state.messages), state.parent_id, len(shared.messages) if shared else 0


def test_forks_are_found_at_the_longest_common_prefix_whatever_the_order_of_the_files(tmp_path: Path) -> None:
    folder = tmp_path / "sessions"
    save(folder, "m-root", "abcdef", metadata={"title": "root"}, created_at=1_000)
    save(folder, "a-child", "abcdXY", "m-root", created_at=2_000, usage=Usage.from_dict({"input_tokens": 7}))
    save(folder, "z-grandchild", "abcdXZ", "a-child")
    save(folder, "b-whole", "abcdef", "m-root")
    save(folder, "c-longer", "abcdefgh", "m-root")
    save(folder, "d-apart", "zzz", "m-root")
    save(folder, "e-orphan", "abc", "nobody")
    save(folder, "f-own", "abc", "f-own")
    save(folder, "g-circle", "abc", "h-circle")
    save(folder, "h-circle", "abd", "g-circle")
    with store(tmp_path / "store") as opened:
        assert imported(opened, folder).imported == {"new": 10}
        assert told(opened, "m-root") == ("abcdef", None, 0)
        assert told(opened, "a-child") == ("abcdXY", "m-root", 4)
        assert told(opened, "z-grandchild") == ("abcdXZ", "a-child", 5)
        assert told(opened, "b-whole") == ("abcdef", "m-root", 6)
        assert told(opened, "c-longer") == ("abcdefgh", "m-root", 6)
        assert told(opened, "d-apart") == ("zzz", "m-root", 0)
        assert told(opened, "e-orphan") == ("abc", "nobody", 0)
        assert {told(opened, "g-circle")[0], told(opened, "h-circle")[0]} == {"abc", "abd"}
        child = opened.state_at("a-child", HEAD)
        assert (child.created_at, child.usage.to_dict()["input_tokens"], child.metadata) == (2_000, 7, {})
        before = heads(opened)
        assert imported(opened, folder).imported == {"unchanged": 10}
        assert heads(opened) == before


def test_a_folder_comes_in_and_goes_out_as_it_was(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    chance = random.Random(5)
    for number in range(30):
        parent = f"s{chance.randrange(number)}" if number else None
        save(first, f"s{number}", "".join(chance.choices("ab", k=8)), parent, metadata={"n": number}, created_at=number)
    with store(tmp_path / "store") as opened:
        assert imported(opened, first).imported == {"new": 30}
        states = [opened.state_at(name, HEAD) for name in opened.list()]
    assert all(written for _, written in export_folder(states, second))
    assert not any(written for _, written in export_folder(states, second))
    for path in first.iterdir():
        one, other = json.loads(path.read_bytes()), json.loads((second / path.name).read_bytes())
        assert {**one, "updatedAt": 0, "createdAt": 0} == {**other, "updatedAt": 0, "createdAt": 0}
        assert one["createdAt"] in (0, other["createdAt"])  # 0: not known, so when it was taken in


def test_a_fork_that_was_only_begun_is_completed(tmp_path: Path) -> None:
    folder = tmp_path / "sessions"
    save(folder, "root", "abcdef")
    save(folder, "child", "abc", "root", usage=Usage.from_dict({"input_tokens": 7}))
    with store(tmp_path / "store") as whole, store(tmp_path / "cut") as cut:
        imported(whole, folder)
        imported(cut, folder / "root.json")
        cut.fork("root", "child", at=whole.state_at("child", HEAD).forked_at, reason="import")
        assert imported(cut, folder).imported == {"unchanged": 1, "extended": 1}
        one, other = cut.state_at("child", HEAD), whole.state_at("child", HEAD)
        assert (one.messages, one.usage, one.forked_at) == (other.messages, other.usage, other.forked_at)


def test_only_plain_files_of_the_folder_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, outside = tmp_path / "sessions", tmp_path / "outside"
    save(folder, "good", "abc")
    save(outside, "secret", "abc")
    save(folder / "below", "inside", "abc")
    os.mkfifo(folder / "pipe.json")
    (folder / "out.json").symlink_to(outside / "secret.json")
    (folder / "in.json").symlink_to(folder / "good.json")
    (folder / "far.json").symlink_to(folder / "below" / "inside.json")
    (folder / "broken.json").symlink_to(folder / "nothing")
    (folder / "loop.json").symlink_to(folder / "loop.json")
    (folder / "device.json").symlink_to("/dev/zero")
    (folder / "closet").symlink_to(outside)
    (folder / "torn.json").write_bytes(b'{"id": "torn", "messages": [')
    (folder / "notes.txt").write_text("not looked at")
    (folder / "bad id.json").write_bytes(b'{"id": "../bad", "messages": [], "createdAt": 1}')
    monkeypatch.chdir(folder)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("sock.json")
        with store(tmp_path / "store") as opened:
            report = imported(opened, folder)
            assert sorted(opened.list()) == ["good", "inside"]
    assert report.skipped == {"not_a_file": 4, "outside": 3, "not_json": 1, "bad_id": 1}


def test_a_folder_of_any_files_is_taken_in_file_by_file(tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    (folder / "a" / "b").mkdir(parents=True)
    lines = b"".join(json.dumps({"id": f"s{n}", "messages": messages("x")}).encode() + b"\n" for n in range(3))
    (folder / "a" / "lines.jsonl").write_bytes(lines)
    (folder / "a" / "b" / "one.json").write_text(json.dumps({"model": "m", "messages": messages("y")}))
    (folder / "a" / "other.json").write_text("[1, 2]")
    (folder / "a" / "out").symlink_to(tmp_path)
    with store(tmp_path / "store") as opened:
        report = imported(opened, folder)
    assert report.imported == {"new": 4}
    assert report.skipped == {"unknown_format": 1, "outside": 1}


@pytest.mark.parametrize("name", ["pipe", "folder of nothing", "text"])
def test_what_is_of_no_format_is_said_to_be(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder of nothing").mkdir()
    (tmp_path / "text").write_text("Dear diary")
    os.mkfifo(tmp_path / "pipe")
    expected = {"pipe": {"not_a_file": 1}, "folder of nothing": {}, "text": {"unknown_format": 1}}
    with store(tmp_path / "store") as opened:
        report = imported(opened, tmp_path / name)
    assert (report.imported, report.skipped) == ({}, expected[name])


values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from(["good", "../x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
documents = st.fixed_dictionaries(
    {},
    optional={
        "id": values | st.just("s"),
        "messages": values | st.lists(st.fixed_dictionaries({"role": values, "content": values}), max_size=3),
        "usage": values | st.dictionaries(st.sampled_from(["input_tokens", "total_cost_usd", "iterations"]), values),
        "metadata": values,
        "createdAt": values,
        "parentId": values | st.just("good"),
        "model": values,
        "system": values,
        "tools": values,
        "parameters": values,
    },
)


@settings(max_examples=25)
@given(st.lists(documents | values, max_size=4))
def test_no_file_however_hostile_ends_the_import(hostile: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory) / "sessions"
        save(folder, "good", "abc")
        for number, document in enumerate(hostile):
            (folder / f"h{number}.json").write_text(json.dumps(document))
        (folder / "lines.jsonl").write_text("\n".join(map(json.dumps, hostile)))
        with store(Path(directory) / "store") as opened:
            for path in (folder, folder / "lines.jsonl", *folder.glob("h*.json")):
                report = imported(opened, path)
                assert imported(opened, path).imported.keys() <= {"unchanged"}, report
            assert "good" in opened.list()
            assert not opened.summaries().unreadable
