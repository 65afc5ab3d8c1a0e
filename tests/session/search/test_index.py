"""The index: what is found, what is forgotten, and that it is the same however it came to be."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import BlockingLmdbEventLog, NewEvent
from session.errors import SessionDeletedError, StorageUnavailableError
from session.events import (
    BlockReceived,
    MessageAppended,
    RequestSent,
    ResponseInterrupted,
    ResponseReceived,
    ToolReturned,
)
from session.search import Filters, Hit, SearchIndex
from session.search._parts import parts_of
from session.search._words import PIECE_CHARACTERS, as_indexed
from session.state import SessionState
from session.storage.blocking import BlockingEventSessionStorage
from tests.eventstore.rows import changing
from tests.session.histories import backward, forward
from tests.session.search.test_words import QUERIES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from session.events import AnyEvent

REPOSITORY = Path(__file__).parents[3]
TALK: list[dict[str, Any]] = [
    {"role": "user", "content": "Please list the files of 今天的会议"},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "A listing, then.", "signature": "c2lnbmF0dXJl"},
            {"type": "text", "text": "Listing them"},
            {"type": "tool_use", "id": "t1", "name": "bash", "input": {"command": "ls -la /srv", "tries": 4711}},
        ],
    },
    {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": "t1", "is_error": True, "content": "disk full"}],
    },
]


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[BlockingEventSessionStorage]:
    with BlockingEventSessionStorage(tmp_path / "store", durability="os") as opened:
        yield opened


@pytest.fixture
def index(storage: BlockingEventSessionStorage) -> Iterator[SearchIndex]:
    with SearchIndex(storage) as opened:
        yield opened


def places(index: SearchIndex, query: str, **filters: Any) -> list[str]:
    return [hit.place for hit in index.search(query, Filters(**filters)).items]


def everything(index: SearchIndex) -> list[Hit]:
    return index.search("", limit=10_000).items


# ------------------------------------------------------------------------------------------------------ what is found


@pytest.mark.parametrize(
    ("query", "filters", "found"),
    [
        ("FILES", {}, ["a@2"]),
        ("会议", {}, ["a@2"]),
        ("listing then", {}, ["a@3"]),
        ('"listing them"', {}, ["a@3"]),
        ('"them listing"', {}, []),
        ("list*", {}, ["a@3", "a@2"]),
        ("srv", {}, ["a@3"]),
        ("4711", {}, ["a@3"]),
        ("bash", {}, ["a@3"]),
        ("disk", {}, ["a@4"]),
        ("c2lnbmF0dXJl", {}, []),  # a signature is no text
        ("!?", {}, []),
        ("", {"role": "user"}, ["a@2"]),
        ("", {"role": "tool"}, ["a@4"]),
        ("", {"tool": "bash"}, ["a@4", "a@3"]),
        ("", {"tool": "bash", "errors": True}, ["a@4"]),
        ("", {"tool": 'no "such" tool'}, []),
        ("list*", {"role": "assistant"}, ["a@3"]),
        ("", {"since": 5_000, "before": 5_001}, ["a@4", "a@3", "a@3", "a@2"]),
        ("", {"since": 5_001}, []),
        ("", {"before": 5_000}, []),
        ("", {"since": 10**30}, []),
        ("", {"model": "some"}, []),
    ],
)
def test_what_is_found(tmp_path: Path, query: str, filters: dict[str, Any], found: list[str]) -> None:
    with BlockingEventSessionStorage(tmp_path / "store", durability="os", clock=lambda: 5_000_000_000) as storage:
        storage.save(SessionState.new("a", messages=TALK))
        with SearchIndex(storage) as index:
            index.update()
            assert places(index, query, **filters) == found


def test_hits_come_page_by_page_newest_first(storage: BlockingEventSessionStorage, index: SearchIndex) -> None:
    storage.save(SessionState.new("a", messages=[{"role": "user", "content": f"word {n}"} for n in range(7)]))
    index.update()
    for query in ("word", ""):
        cursor, seen = None, []
        while True:
            page = index.search(query, limit=3, cursor=cursor)
            seen += [hit.version for hit in page.items]
            cursor = page.cursor
            if cursor is None:
                break
        assert seen == [8, 7, 6, 5, 4, 3, 2]


def test_a_hit_shows_where_the_words_are(storage: BlockingEventSessionStorage, index: SearchIndex) -> None:
    storage.save(SessionState.new("a", messages=[{"role": "user", "content": "x " * 500 + "Needle" + " y" * 500}]))
    index.update()
    [hit] = index.search("needle").items
    assert [fragment.text for fragment in hit.snippet if fragment.found] == ["Needle"]
    assert len(hit.text) < 100


def test_the_end_of_a_long_text_is_found(storage: BlockingEventSessionStorage, index: SearchIndex) -> None:
    text = "filler " * PIECE_CHARACTERS + "needle"
    storage.append("a", [MessageAppended.of({"role": "user", "content": text})], expected=0)
    index.update()
    assert places(index, "needle") == ["a@1"]


def test_blocks_are_found_where_their_message_is_complete(
    storage: BlockingEventSessionStorage, index: SearchIndex
) -> None:
    events: list[AnyEvent] = [
        RequestSent("r", 1),
        BlockReceived("r", 0, b'{"type":"text","text":"first try"}'),
        RequestSent("r", 1, attempt=2),
        BlockReceived("r", 0, b'{"type":"text","text":"second try"}'),
        BlockReceived("r", 1, b'{"type":"tool_use","id":"t","name":"grep","input":{}}', "t"),
        ResponseReceived("r", "msg_1", "claude-x", "tool_use", blocks=2),
        ToolReturned("t", b'{"type":"tool_result","tool_use_id":"t","content":"no match"}'),
        ResponseInterrupted("r2", "error", 529, b'{"type":"error","error":{"message":"Overloaded, try later"}}'),
    ]
    storage.append("a", events, expected=0)
    index.update()
    assert places(index, "try") == ["a@8", "a@6", "a@2"]
    assert places(index, "", model="claude-x") == ["a@7", "a@6", "a@6"]
    assert places(index, "", tool="grep") == ["a@7", "a@6"]
    assert places(index, "", role="error") == ["a@8"]


def test_what_a_fork_shares_is_found_once(storage: BlockingEventSessionStorage, index: SearchIndex) -> None:
    storage.save(SessionState.new("a", messages=TALK[:2]))
    for child in ("b", "c"):
        storage.fork("a", child)
        storage.append(
            child, [ToolReturned("t1", b'{"type":"tool_result","tool_use_id":"t1","content":"%b"}' % child.encode())]
        )
    index.update()
    assert places(index, "listing") == ["a@3"]
    assert places(index, "", role="tool", tool="bash") == ["c@5", "b@5"], "a call in the shared part names the tool"


def test_what_was_deleted_is_forgotten_except_what_a_fork_still_has(
    storage: BlockingEventSessionStorage, index: SearchIndex
) -> None:
    storage.save(SessionState.new("a", messages=TALK))
    storage.fork("a", "b", at=3)
    storage.fork("b", "c", at=2)
    storage.delete("a")
    index.update()
    assert places(index, "disk") == []
    assert places(index, "listing them") == ["b@3"]
    assert places(index, "files") == ["b@2"]
    storage.delete("b")
    index.update()
    assert places(index, "listing") == []
    assert places(index, "files") == ["c@2"]
    storage.delete("c")
    index.update()
    assert everything(index) == []


def test_a_damaged_event_hides_no_other(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with BlockingEventSessionStorage(path, durability="os") as storage:
        for name in ("a", "b", "c"):
            storage.save(SessionState.new(name, messages=[{"role": "user", "content": f"word of {name}"}]))
    with changing(path) as transaction:
        [(key, value)] = [row for row in transaction.cursor() if b"word of b" in row[1]]
        transaction.put(key, value[:-3])
    with BlockingEventSessionStorage(path, durability="os") as storage, SearchIndex(storage) as index:
        assert index.update().unreadable == 1
        assert places(index, "word") == ["c@2", "a@2"]
        assert index.update().rebuilt == ""


def test_an_event_that_is_not_what_its_type_holds_hides_no_other(tmp_path: Path) -> None:
    with BlockingLmdbEventLog(tmp_path / "store", durability="os") as log:
        log.append("a", [NewEvent("message_appended", b"\xc1"), NewEvent("session_closed", b"", b"\xc1")])
        log.append("not a session", [NewEvent("message_appended", b"")])
        with BlockingEventSessionStorage(log) as storage, SearchIndex(storage) as index:
            storage.append("a", [MessageAppended.of(TALK[0])])
            assert index.update().unreadable == 2
            assert places(index, "files") == ["a@3"]
            storage.delete("a")
            assert index.update().unreadable == 0


def test_a_role_that_there_is_not_is_refused(index: SearchIndex) -> None:
    with pytest.raises(ValueError, match="no role"):
        index.search("x", Filters(role='tool" OR "'))


# ------------------------------------------------------------------------------------------- however it came to be


class Script:
    """Random things that happen to a few sessions."""

    def __init__(self, storage: BlockingEventSessionStorage) -> None:
        self.storage = storage
        self.names = ["s0"]
        storage.append("s0", [MessageAppended.of({"role": "user", "content": "begin"})], expected=0)

    def step(self, kind: str, place: int, events: list[AnyEvent]) -> None:
        name = self.names[place % len(self.names)]
        with contextlib.suppress(SessionDeletedError):
            match kind:
                case "append":
                    self.storage.append(name, events)
                case "fork":
                    head = self.storage.version_at(name, -0)
                    self.names.append(self.storage.fork(name, f"s{len(self.names)}", at=place % (head + 1)))
                case "delete":
                    self.storage.delete(name)
                case "erase":
                    self.storage.log.erase()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["append", "append", "append", "fork", "fork", "delete", "erase", "update"]),
        st.integers(0, 30),
        st.lists(forward | backward, min_size=1, max_size=4),
    ),
    max_size=14,
)


@settings(max_examples=40)
@given(steps=STEPS)
def test_an_index_kept_current_is_the_index_rebuilt(
    steps: list[tuple[str, int, list[AnyEvent]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("random")
    with BlockingEventSessionStorage(path / "store", durability="os") as storage:
        script = Script(storage)
        with SearchIndex(storage) as kept, SearchIndex(storage, path / "new") as rebuilt:
            for kind, place, events in steps:
                kept.update() if kind == "update" else script.step(kind, place, events)
            kept.update()
            rebuilt.update()
            assert everything(kept) == everything(rebuilt)
            storage.log.erase()
            assert rebuilt.rebuild().rebuilt == "it was asked for"
            assert everything(kept) == everything(rebuilt)
            assert found_texts(kept) == said_texts(storage), "and it is what reading every living session finds"
            for hit in everything(kept):
                assert storage.version_at(hit.session_id, hit.version) == hit.version
    shutil.rmtree(path)


def found_texts(index: SearchIndex) -> set[str]:
    rows = index._file.run(lambda connection: connection.execute("select text from words").fetchall())
    return {text for (text,) in rows}


def said_texts(storage: BlockingEventSessionStorage) -> set[str]:
    events = (stored.event for session in storage.list() for stored in storage.events(session))
    return {as_indexed(part.text) for event in events for part in parts_of(event)}


# --------------------------------------------------------------------------------------------------- files, processes


def test_the_index_is_beside_the_store_and_for_its_owner_only(
    storage: BlockingEventSessionStorage, index: SearchIndex, tmp_path: Path
) -> None:
    assert index.directory == tmp_path / "store.search"
    assert index.directory.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in index.directory.iterdir()} == {0o600}
    assert not {file.name for file in storage.log.path.iterdir()} & {file.name for file in index.directory.iterdir()}


def _overwrite(file: Path, at: int, data: bytes) -> None:
    with file.open("r+b") as opened:
        opened.seek(at)
        opened.write(data)


DAMAGES: dict[str, Any] = {
    "gone": lambda file: file.unlink(),
    "empty": lambda file: file.write_bytes(b""),
    "no database": lambda file: file.write_bytes(b"not a database, but longer than its header is" * 100),
    "cut": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "another program's": lambda file: _overwrite(file, 68, b"ABCD"),
    "another version's": lambda file: _overwrite(file, 60, b"\x00\x00\x7f\x00"),
    "overwritten": lambda file: _overwrite(file, 4096, b"\xff" * (file.stat().st_size - 4096)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_index_that_is_missing_foreign_outdated_or_damaged_is_rebuilt_and_says_so(
    storage: BlockingEventSessionStorage, damage: str
) -> None:
    storage.save(SessionState.new("a", messages=TALK))
    with SearchIndex(storage) as index:
        assert index.update().rebuilt == "there was none"
        before = everything(index)
        assert index.update().rebuilt == ""
    DAMAGES[damage](index.directory / "index.sqlite3")
    with SearchIndex(storage) as index:
        assert index.update().rebuilt
        assert everything(index) == before
        assert index.update().rebuilt == ""


def test_damage_that_a_search_meets_is_mended(storage: BlockingEventSessionStorage, index: SearchIndex) -> None:
    storage.save(SessionState.new("a", messages=TALK))
    with SearchIndex(storage) as earlier:
        earlier.update()
    file = index.directory / "index.sqlite3"
    _overwrite(file, 4096, b"\xff" * (file.stat().st_size - 4096))
    found = index.search("files")
    assert [hit.place for hit in found.items] == ["a@2"]
    assert "damaged" in found.rebuilt


def test_an_index_of_another_log_or_a_later_state_is_rebuilt(tmp_path: Path) -> None:
    with BlockingEventSessionStorage(tmp_path / "one", durability="os") as one:
        one.save(SessionState.new("a", messages=TALK[:1]))
        one.log.backup(tmp_path / "older")
        one.save(one.load("a").adding({"role": "assistant", "content": "later"}))  # type: ignore[union-attr]
        with SearchIndex(one, tmp_path / "index") as index:
            index.update()
            assert places(index, "later") == ["a@3"]
    with BlockingEventSessionStorage(tmp_path / "older", durability="os") as older:
        with SearchIndex(older, tmp_path / "index") as index:
            assert "later state" in index.update().rebuilt
            assert places(index, "later") == []
        older.delete("a")
        older.log.erase()
        with SearchIndex(older, tmp_path / "index") as index:
            assert index.update().rebuilt == "", "an erased event is no other log"
            assert everything(index) == []
    with BlockingEventSessionStorage(tmp_path / "two", durability="os") as two:
        two.save(SessionState.new("b", messages=TALK[:1]))
        with SearchIndex(two, tmp_path / "index") as index:
            assert "another log" in index.update().rebuilt
            assert places(index, "files") == ["b@2"]


def test_where_no_index_can_be_written_the_error_says_so(storage: BlockingEventSessionStorage, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageUnavailableError, match="file"):
        SearchIndex(storage, tmp_path / "file")


CHILD = """
import os, signal, sys
from session.search import SearchIndex, index as module
from session.storage.blocking import BlockingEventSessionStorage
module.PAGE_RECORDS, module.BATCH_PAGES = 8, 4
mode, path, directory = sys.argv[1:]
apply, seen = module.Tables.apply, 0
def dying(self, happening):
    global seen
    seen += 1
    if seen == 50:  # in the second transaction
        os.kill(os.getpid(), signal.SIGKILL)
    apply(self, happening)
if mode == "die":
    module.Tables.apply = dying
with BlockingEventSessionStorage(path, durability="os") as storage, SearchIndex(storage, directory) as index:
    if mode == "remake":
        index.rebuild()
    for _ in range(20):
        index.update()
        assert index.search("word").items
"""


def _child(mode: str, storage: BlockingEventSessionStorage, index: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    arguments = [sys.executable, "-c", textwrap.dedent(CHILD), mode, str(storage.log.path), str(index)]
    return subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE)


def _same_as_new(storage: BlockingEventSessionStorage, tmp_path: Path) -> bool:
    with SearchIndex(storage, tmp_path / "index") as kept, SearchIndex(storage, tmp_path / "new") as new:
        assert kept.update().rebuilt == ""
        new.update()
        return everything(kept) == everything(new) != []


def _many(storage: BlockingEventSessionStorage) -> None:
    for number in range(20):
        messages = [{"role": "user", "content": f"word {n}"} for n in range(9)]
        storage.save(SessionState.new(f"s{number}", messages=messages))


def test_after_a_kill_in_the_midst_of_an_update_the_next_one_goes_on(
    storage: BlockingEventSessionStorage, tmp_path: Path
) -> None:
    _many(storage)
    killed = _child("die", storage, tmp_path / "index")
    _, _ = killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    with SearchIndex(storage, tmp_path / "index") as index:
        assert len(everything(index)) in range(1, 50), "the first transaction is there, the second is not"
    assert _same_as_new(storage, tmp_path)


def test_processes_may_update_rebuild_and_search_at_once(storage: BlockingEventSessionStorage, tmp_path: Path) -> None:
    _many(storage)
    children = [_child(mode, storage, tmp_path / "index") for mode in ("update", "update", "remake")]
    for child in children:
        _, said = child.communicate()
        assert child.returncode == 0, said.decode()
    assert _same_as_new(storage, tmp_path)


@given(query=QUERIES | st.text(st.characters()))
def test_any_text_is_a_query(query: str, any_index: SearchIndex) -> None:
    found = any_index.search(query)
    assert found.rebuilt == ""
    assert all(hit.session_id == "a" for hit in found.items)
    assert (
        any_index.search(query, Filters(role="user", tool=query, model=query, errors=True, since=-(10**40))).items == []
    )


@pytest.fixture(scope="module")
def any_index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SearchIndex]:
    path = tmp_path_factory.mktemp("queries") / "store"
    with BlockingEventSessionStorage(path, durability="os") as storage:
        storage.save(SessionState.new("a", messages=TALK))
        with SearchIndex(storage) as index:
            index.update()
            yield index
