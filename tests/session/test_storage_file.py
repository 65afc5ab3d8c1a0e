from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session import jsontext
from session.errors import SessionFileError, StorageUnavailableError
from session.messages import Messages
from session.state import SessionState
from session.storage import FileSessionStorage
from session.storage.document import from_document, to_document
from session.testing.storage_contract import SessionStorageContract, rich_state
from session.usage import Usage

# What the TypeScript SDK writes: its keys, its order, its spaces.
SEED_FILE = """{
  "id": "sess_abcdefgh12345678",
  "messages": [
    {
      "role": "user",
      "content": "Hello"
    },
    {"role": "assistant", "content": [{"type": "text", "text": "Hi", "citations": null}]}
  ],
  "usage": {
    "input_tokens": 12,
    "output_tokens": 34,
    "cache_creation_input_tokens": 5,
    "cache_read_input_tokens": 6,
    "total_cost_usd": 0.001234
  },
  "metadata": {"title": "first"},
  "createdAt": 1700000000000,
  "updatedAt": 1700000001000,
  "parentId": "sess_parent"
}
"""
TORN = {
    "empty": b"",
    "blank": b" \n",
    "torn": SEED_FILE.encode()[:200],
    "zeros": b"\0" * 100,
    "list": b"[]",
    "foreign": b'{"name": "refold", "version": "1"}',
    "no-messages": b'{"id": "no-messages"}',
    "odd-messages": b'{"id": "odd-messages", "messages": {}}',
    "odd-time": b'{"id": "odd-time", "messages": [], "createdAt": "yesterday"}',
    "odd-usage": b'{"id": "odd-usage", "messages": [], "usage": {"total_cost_usd": "much"}}',
    "odd-parent": b'{"id": "odd-parent", "messages": [], "parentId": 1}',
    "other": b'{"id": "another", "messages": []}',
    "two": SEED_FILE.encode() * 2,
}


class TestFileSessionStorage(SessionStorageContract):
    def open(self, path: Path) -> FileSessionStorage:
        return FileSessionStorage(path)


@pytest.fixture
def storage(tmp_path: Path) -> FileSessionStorage:
    return FileSessionStorage(tmp_path / "sessions")


def written(storage: FileSessionStorage, name: str, content: bytes) -> Path:
    storage.directory.mkdir(exist_ok=True)
    path = storage.directory / name
    path.write_bytes(content)
    return path


def test_a_file_of_the_seed_is_loaded(storage: FileSessionStorage) -> None:
    written(storage, "sess_abcdefgh12345678.json", SEED_FILE.encode())
    state = asyncio.run(storage.load("sess_abcdefgh12345678"))
    assert state is not None
    assert state.messages == json.loads(SEED_FILE)["messages"]
    assert state.messages.raw[1].endswith(b'"citations": null}]}')
    assert (state.usage.input_tokens, state.usage.cost_picodollars) == (12, 1_234_000_000)
    assert (state.metadata, state.parent_id) == ({"title": "first"}, "sess_parent")
    assert (state.created_at, state.updated_at) == (1_700_000_000_000, 1_700_000_001_000)


def test_our_file_has_exactly_the_keys_of_the_seed(storage: FileSessionStorage) -> None:
    asyncio.run(storage.save(rich_state("sess_a")))
    asyncio.run(storage.save(SessionState(id="sess_b")))
    keys = ["id", "messages", "usage", "metadata", "createdAt", "updatedAt", "parentId"]
    ours = json.loads((storage.directory / "sess_a.json").read_bytes())
    assert list(ours) == keys
    assert list(json.loads((storage.directory / "sess_b.json").read_bytes())) == keys[:-1]
    assert ours["usage"] == {
        "input_tokens": 7,
        "output_tokens": 0,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "cache_creation": {"ephemeral_5m_input_tokens": 3},
        "new": 10**20,
        "total_cost_usd": 12e-12,
    }
    assert (ours["createdAt"], ours["parentId"]) == (1_700_000_000_123, "sess_parent")


def test_our_file_is_json_to_any_parser_whatever_the_messages_are(storage: FileSessionStorage) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    asyncio.run(storage.save(rich_state("sess_a")))
    document = (storage.directory / "sess_a.json").read_text("utf-8")
    assert len(json.loads(document, parse_constant=refuse, parse_int=str)["messages"]) == len(rich_state("a").messages)


@pytest.mark.parametrize("name", TORN)
def test_a_file_that_holds_no_session_is_named_and_left_alone(storage: FileSessionStorage, name: str) -> None:
    asyncio.run(storage.save(SessionState(id="sess_good")))
    path = written(storage, f"{name}.json", TORN[name])
    with pytest.raises(SessionFileError) as caught:
        asyncio.run(storage.load(name))
    assert caught.value.path == str(path)
    assert path.read_bytes() == TORN[name]
    assert asyncio.run(storage.load("sess_good")) is not None
    assert sorted(asyncio.run(storage.list())) == sorted([name, "sess_good"])


@given(st.integers(0, len(SEED_FILE.rstrip()) - 1))
def test_a_file_torn_anywhere_is_no_session(end: int) -> None:
    with pytest.raises(SessionFileError):
        from_document(SEED_FILE.encode()[:end], "sess_abcdefgh12345678", "x")


@given(st.lists(st.binary(max_size=30) | st.sampled_from([b"{}", b" {}", b"[1]", b'"\\ud800"', b"NaN"]), max_size=5))
def test_any_bytes_come_back_from_a_document_that_any_parser_takes(raws: list[bytes]) -> None:
    document = to_document(SessionState(id="a", messages=Messages(raws)))
    json.loads(document.decode(), parse_constant=pytest.fail)
    assert from_document(document, "a", "x").messages.raw == raws


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda i: st.lists(i, max_size=3)))
def test_any_metadata_comes_back(value: Any) -> None:
    assert from_document(to_document(SessionState(id="a", metadata={"k": value})), "a", "x").metadata == {"k": value}


def test_symbolic_links_are_never_followed(storage: FileSessionStorage, tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    outside.write_bytes(to_document(SessionState(id="link")))
    storage.directory.mkdir()
    (storage.directory / "link.json").symlink_to(outside)
    assert asyncio.run(storage.list()) == []
    with pytest.raises(SessionFileError, match="symbolic link"):
        asyncio.run(storage.load("link"))
    before = outside.read_bytes()
    asyncio.run(storage.save(SessionState.new("link", messages=[{"role": "user", "content": "mine"}])))
    assert outside.read_bytes() == before
    assert not (storage.directory / "link.json").is_symlink()
    (storage.directory / "other.json").symlink_to(outside)
    asyncio.run(storage.delete("other"))
    assert outside.read_bytes() == before


def test_what_is_no_regular_file_does_not_hold_anybody_up(
    storage: FileSessionStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.directory.mkdir()
    os.mkfifo(storage.directory / "pipe.json")
    (storage.directory / "folder.json").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(storage.directory)  # the address of a socket is short
        listening.bind("socket.json")
    before = sorted(storage.directory.iterdir())
    assert asyncio.run(storage.list()) == []
    for name in ("pipe", "folder", "socket"):
        for attempt in (storage.load(name), storage.save(SessionState(id=name))):
            with pytest.raises(SessionFileError, match="no regular file"):
                asyncio.run(attempt)
    assert sorted(storage.directory.iterdir()) == before


def test_what_a_killed_save_left_is_removed_once_it_is_surely_abandoned(storage: FileSessionStorage) -> None:
    abandoned, recent = ".sess_a.json.0123456789abcdef", ".sess_b.json.0123456789abcdef"
    others = [".sess_a.json", ".sess_a.json.bak", "notes.0123456789abcdef", ".a.txt.0123456789abcdef"]
    for name in (abandoned, recent, *others):
        path = written(storage, name, b"{")
        if name != recent:
            os.utime(path, (0, path.stat().st_mtime - 3_700))
    asyncio.run(storage.load("sess_a"))
    assert (storage.directory / abandoned).exists()
    asyncio.run(storage.save(SessionState(id="sess_c")))
    assert {path.name for path in storage.directory.iterdir()} == {recent, *others, "sess_c.json"}


def test_files_that_cannot_be_sessions_are_not_listed(storage: FileSessionStorage) -> None:
    for name in (".hidden.json", "a b.json", "CON.json", "notes.txt", ".sess_a.json.0123", "sess_a.json"):
        written(storage, name, b"{}")
    assert asyncio.run(storage.list()) == ["sess_a"]


def test_files_are_the_owners_only_and_nothing_unfinished_stays(storage: FileSessionStorage) -> None:
    asyncio.run(storage.save(rich_state("sess_a")))
    assert [path.name for path in storage.directory.iterdir()] == ["sess_a.json"]
    assert stat.S_IMODE((storage.directory / "sess_a.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(storage.directory.stat().st_mode) == 0o700


def test_a_save_reaches_the_disk_before_and_after_each_name_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names of new directories too: without theirs, the file would be lost with them."""
    calls: list[str] = []
    fsync, replace, mkdir = os.fsync, os.replace, os.mkdir

    def noted_fsync(descriptor: int) -> None:
        found = os.fstat(descriptor)
        directories = {place.stat().st_ino: place for place in (tmp_path, *tmp_path.rglob("*")) if place.is_dir()}
        synced = directories.get(found.st_ino)
        calls.append(f"fsync {synced.relative_to(tmp_path) if synced else 'file'}")
        fsync(descriptor)

    def noted_replace(*names: Any) -> None:
        calls.append("replace")
        replace(*names)

    def noted_mkdir(path: Any, *more: Any) -> None:
        calls.append(f"mkdir {Path(path).relative_to(tmp_path)}")
        mkdir(path, *more)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    monkeypatch.setattr(os, "mkdir", noted_mkdir)
    storage = FileSessionStorage(tmp_path / "a" / "b")
    asyncio.run(storage.save(SessionState(id="sess_a")))
    asyncio.run(storage.save(SessionState(id="sess_a")))
    save = ["fsync file", "replace", "fsync a/b"]
    assert calls == ["mkdir a", "fsync .", "mkdir a/b", "fsync a", *save, *save]


def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(
    storage: FileSessionStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(storage.save(rich_state("sess_a")))
    before = (storage.directory / "sess_a.json").read_bytes()

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(StorageUnavailableError, match="No space left"):
            asyncio.run(storage.save(SessionState(id="sess_a")))
    assert (storage.directory / "sess_a.json").read_bytes() == before
    assert len(list(storage.directory.iterdir())) == 1


def test_a_directory_that_is_a_file_is_a_storage_that_cannot_be_reached(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    storage = FileSessionStorage(tmp_path / "file")
    for attempt in (storage.save(SessionState(id="a")), storage.load("a"), storage.list()):
        with pytest.raises(StorageUnavailableError):
            asyncio.run(attempt)


def test_the_usage_of_a_file_is_exact_below_a_thousand_dollars(storage: FileSessionStorage) -> None:
    usage = Usage((("input_tokens", 2**60),), cost_picodollars=999_999_999_999_999, unpriced=2)
    asyncio.run(storage.save(SessionState(id="a", usage=usage)))
    loaded = asyncio.run(storage.load("a"))
    assert loaded is not None
    assert loaded.usage == usage
    assert jsontext.parse(to_document(loaded))["usage"]["unpriced"] == 2
