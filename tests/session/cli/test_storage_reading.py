"""Looking at a store as a whole: families of forks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import MemoryEventLog
from session.errors import SessionDeletedError, SessionNotFoundError
from session.events import MessageAppended
from session.storage._log import SessionLog
from session.storage._now import run_now
from session.storage._reading import family
from session.storage.blocking import BlockingEventSessionStorage
from session.storage.events import EventSessionStorage
from tests.session.cli.cli_kit import append, turn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BlockingEventSessionStorage]:
    with BlockingEventSessionStorage(tmp_path / "store", durability="os") as storage:
        append(storage, "a", *turn(1), *turn(2))
        yield storage


@given(st.lists(st.integers(0, 20), max_size=12), st.data())
def test_a_family_is_everyone_who_is_reached_through_the_living(parents: list[int], data: st.DataObject) -> None:
    log = MemoryEventLog()
    storage = EventSessionStorage.over(SessionLog(log), lambda: 0)
    names, parent_of = ["s"], dict[str, str | None]({"s": None})
    run_now(storage.append("s", [MessageAppended.of({"role": "user", "content": "x"})], expected=0))
    for parent in parents:
        child = f"s{len(names)}"
        parent_of[child] = names[parent % len(names)]
        run_now(storage.fork(names[parent % len(names)], child))
        names.append(child)
    dead = set(data.draw(st.lists(st.sampled_from(names), max_size=3))) - {"s"}
    for name in dead:
        run_now(storage.delete(name))

    def root(name: str) -> str:
        while (above := parent_of[name]) is not None and above not in dead:
            name = above
        return name

    for name in set(names) - dead:
        found, unreadable = run_now(family(SessionLog(log), name))
        assert {member.id for member in found} == {other for other in set(names) - dead if root(other) == root(name)}
        assert len(found) == len({member.id for member in found})
        places = {member.id: place for place, member in enumerate(found)}
        for member in found[1:]:
            assert member.parent_id is not None
            assert places[member.parent_id] < places[member.id], "parents come first"
        assert unreadable == {}


def test_a_session_that_is_not_there_has_no_family(store: BlockingEventSessionStorage) -> None:
    with pytest.raises(SessionNotFoundError):
        store.family("nobody")
    store.fork("a", "b")
    store.delete("b")
    with pytest.raises(SessionDeletedError):
        store.family("b")


def test_a_store_that_is_not_to_be_made_is_not_made(tmp_path: Path) -> None:
    from session.storage._log import LogNotFoundError

    with pytest.raises(LogNotFoundError):
        BlockingEventSessionStorage(tmp_path / "nothing", create=False)
    assert not (tmp_path / "nothing").exists()
