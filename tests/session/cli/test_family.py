"""Forks, drawn."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from session.family import draw


class Member(msgspec.Struct, frozen=True):
    id: str
    parent_id: str | None = None
    forked_at: int = 0
    created_at: int = 0


parents = st.lists(st.none() | st.integers(0, 12), max_size=12)


def members_of(parents: list[int | None]) -> list[Member]:
    return [Member(str(n), None if p is None else str(p), n % 3, n) for n, p in enumerate(parents)]


@given(parents)
def test_every_session_stands_once_whoever_names_whom_as_parent(parents: list[int | None]) -> None:
    lines = list(draw(members_of(parents), most=None))
    assert sorted(line.place for line in lines if line.place is not None) == list(range(len(parents)))
    assert all(line.hidden == 0 for line in lines)


@given(parents)
def test_a_fork_stands_below_its_parent(parents: list[int | None]) -> None:
    members, way = members_of(parents), dict[int, str]()
    for line in draw(members, most=None):
        assert line.place is not None
        member = members[line.place]
        way[line.depth] = member.id
        assert line.depth == 0 or member.parent_id == way[line.depth - 1]


@given(parents, st.integers(0, 3))
def test_what_is_not_drawn_is_counted(parents: list[int | None], most: int) -> None:
    lines = list(draw(members_of(parents), most=most))
    assert sum(line.place is not None for line in lines) + sum(line.hidden for line in lines) == len(parents)
    assert all(line.hidden != 1 for line in lines), "one line for one fork says less than the fork"


def test_a_tree_looks_like_one() -> None:
    members = [Member("a"), Member("b", "a", 5), Member("c", "a", 2), Member("d", "c", 3), Member("other")]
    assert [line.branches + members[line.place or 0].id for line in draw(members)] == [
        "a",
        "├─ c",
        "│  └─ d",
        "└─ b",
        "other",
    ]


def test_a_long_chain_of_forks_is_no_recursion() -> None:
    chain = [Member(str(n), str(n - 1) if n else None) for n in range(3_000)]
    assert [line.place for line in draw(chain)] == list(range(3_000))
