"""Sessions and their forks, arranged as trees and drawn. Pure.

Each session stands once: below its parent where that is among them, otherwise as the root of a tree. Forks stand in the
order of the place they were made at, then of their making. Sessions that name each other as parents (an import can) are
roots from the first of them on, so that none is lost.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

SHOWN_FORKS: Final = 12  # of one parent without forks of their own, unless all are asked for


class Member(Protocol):
    """A session in a family: see `session.Summary`."""

    @property
    def id(self) -> str:
        """Its id."""
        ...

    @property
    def parent_id(self) -> str | None:
        """The session it was forked from."""
        ...

    @property
    def forked_at(self) -> int:
        """The version it was forked at."""
        ...

    @property
    def created_at(self) -> int:
        """When (Unix milliseconds)."""
        ...


M = TypeVar("M", bound=Member)


class Drawn(msgspec.Struct, frozen=True):
    """A line of a drawn tree: the branches before it, and the place in the list of sessions; None: so many *hidden*
    forks.
    """

    branches: str
    place: int | None
    depth: int
    hidden: int = 0


def draw(members: Sequence[Member], *, most: int | None = SHOWN_FORKS) -> Iterator[Drawn]:
    """The lines of the trees of *members*. Of more than *most* forks of one parent that have no forks themselves, the
    rest is one line; None: never.
    """
    below = _children(members)
    waiting = [(place, "", "", 0) for place in reversed(below[None])]
    while waiting:  # not recursive: a chain of forks may be long
        place, branches, indent, depth = waiting.pop()
        if place < 0:
            yield Drawn(branches, None, depth, hidden=-place)
            continue
        yield Drawn(branches, place, depth)
        lines = _abridged(below[place], below, most)
        for number, child in enumerate(reversed(lines)):
            joint, more = ("└─ ", "   ") if number == 0 else ("├─ ", "│  ")
            waiting.append((child, indent + joint, indent + more, depth + 1))


def _children(members: Sequence[Member]) -> defaultdict[int | None, list[int]]:
    """The places of the forks of each place, in order; None: of the roots."""
    places = {member.id: place for place, member in enumerate(members)}
    parents = [places.get(member.parent_id) if member.parent_id else None for member in members]
    for place in _turned_roots(parents):
        parents[place] = None
    below: defaultdict[int | None, list[int]] = defaultdict(list)
    order = sorted(range(len(members)), key=lambda place: (members[place].forked_at, members[place].created_at))
    for place in order:
        below[parents[place]].append(place)
    below[None].sort()  # roots stand as they were given
    return below


def _turned_roots(parents: Sequence[int | None]) -> Iterable[int]:
    """One of each circle."""
    state = [0] * len(parents)  # 0: not met, 1: on the way up, 2: done
    found = []
    for start in range(len(parents)):
        way: list[int] = []
        place: int | None = start
        while place is not None and state[place] == 0:
            state[place] = 1
            way.append(place)
            place = parents[place]
        if place is not None and state[place] == 1:
            found.append(place)
        for done in way:
            state[done] = 2
    return found


def _abridged(children: list[int], below: defaultdict[int | None, list[int]], most: int | None) -> list[int]:
    """The children to draw; a number below 0 stands for so many leaves that are not."""
    leaves = [child for child in children if child not in below]
    if most is None or len(leaves) <= most + 1:
        return children
    hidden = set(leaves[most:])
    return [*(child for child in children if child not in hidden), -len(hidden)]
