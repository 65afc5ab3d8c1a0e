"""Sessions of a store, each event read once: a fork goes on from what its parent had come to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

from session.storage._log import StreamDeletedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from typing import Self

    from session.events import StoredEvent
    from session.storage import EventSessionStorage
    from session.storage._log import Head


class Follower(Protocol):
    """What somebody makes of the events of a session."""

    def add(self, stored: StoredEvent) -> None:
        """The next event."""

    def fork(self, session_id: str) -> Self:
        """One for the fork *session_id* with all that was added so far; neither sees what is added to the other."""


F = TypeVar("F", bound=Follower)
_Forks: TypeAlias = "dict[str, list[tuple[int, str]]]"


async def followed(
    storage: EventSessionStorage, session_ids: Iterable[str], begin: Callable[[str], F]
) -> AsyncIterator[tuple[str, F]]:
    """Each session with what `begin(session_id)` has become by all events of its lineage; a parent comes behind forks
    that were made before its end.

    Raises `SessionNotFoundError`, `SessionDeletedError` and `EventDataError`.
    """
    roots, forks = await _family(storage, session_ids)
    for root in roots:
        async for found in _descended(storage, root, begin(root), forks):
            yield found


async def _descended(
    storage: EventSessionStorage, root: str, follower: F, forks: _Forks
) -> AsyncIterator[tuple[str, F]]:
    """*root* and all forks of it and of these. Takes out of *forks* what it has read."""
    # The newest last: while a fork is read, what its parent had come to waits below it, and no copy of it is needed.
    waiting = [(root, follower, 0, False)]
    while waiting:
        session_id, follower, after, is_new = waiting.pop()
        if is_new:
            follower = follower.fork(session_id)
        leaving = forks[session_id]
        upto = leaving[-1][0] if leaving else None
        async for stored in storage.events(session_id, after=after, upto=upto):
            follower.add(stored)
        if upto is None:
            yield session_id, follower
            continue
        waiting.append((session_id, follower, upto, False))
        while leaving and leaving[-1][0] == upto:
            waiting.append((leaving.pop()[1], follower, upto, True))


async def _family(storage: EventSessionStorage, session_ids: Iterable[str]) -> tuple[list[str], _Forks]:
    """Those that are no fork of another one, and the forks of each, the earliest last."""
    heads = {each: await head_of(storage, each) for each in session_ids}
    roots: list[str] = []
    forks: _Forks = {each: [] for each in heads}
    for each, head in heads.items():
        parent = _parent(head, heads)
        if head is None or parent is None:
            roots.append(each)
        else:
            forks[parent].append((head.forked_at, each))
    for leaving in forks.values():
        leaving.sort(key=lambda fork: fork[0], reverse=True)
    return roots, forks


def _parent(head: Head | None, heads: dict[str, Head | None]) -> str | None:
    """The session among *heads* that has the event at which it was forked as its own, or begins with it."""
    forked_at = head.forked_at if head else 0
    while head is not None and head.parent is not None:
        parent = heads.get(head.parent)
        if parent is None or parent.forked_at <= forked_at:
            return parent.stream if parent else None
        head = parent
    return None


async def head_of(storage: EventSessionStorage, session_id: str) -> Head | None:
    """Where the session stands; None: it never was, or was deleted."""
    try:
        return await storage.log.head(session_id)
    except StreamDeletedError:
        return None
