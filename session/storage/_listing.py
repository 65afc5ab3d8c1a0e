"""Summaries without folding histories: from the nearest snapshot, only what came after it is folded.

1. Whoever appends past a multiple of `SNAPSHOT_EVENTS` leaves a snapshot, so a summary costs at most that many events.
2. A fork has none at first. It goes on from the newest one of an ancestor that lies before the fork. What is missing up
   to the fork is folded, and remembered in this process every `STRIDE_EVENTS` events (see `_prefixes`): forks of one
   place share that fold, and each of many forks along a history takes little more than what it alone has. So neither a
   list of them nor an import that makes them is quadratic.
3. Where neither helped (a first list after an upgrade, a rewind to before the snapshot), the history is folded once and
   a snapshot left behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from session.errors import EventDataError, SessionDeletedError, SessionNotFoundError
from session.storage._log import CorruptEventError, EventStoreError, add_contents
from session.summary import Summary, from_snapshot, summary_of, to_snapshot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from session.fold import Fold
    from session.storage._log import Content, Head, SessionLog

SNAPSHOT_EVENTS: Final = 8
STRIDE_EVENTS: Final = 1_024
_ANCESTORS: Final = 32  # how far back a fork looks for a snapshot


class SummaryPage(msgspec.Struct, frozen=True):
    """Some summaries, and the cursor that asks for the next ones; None: there are no more.

    *unreadable* names the sessions of the page that have none, and why: damage to one hides no other.
    """

    items: list[Summary]
    cursor: bytes | None
    unreadable: dict[str, str] = {}


async def summaries(log: SessionLog, limit: int, cursor: bytes | None) -> SummaryPage:
    """A page of summaries, newest activity first."""
    page = await log.newest(limit, cursor)
    listing = Listing(log)
    found: list[Summary] = []
    unreadable: dict[str, str] = {}
    for head in page.items:
        try:
            found.append(await listing.summarize(head))
        except SessionDeletedError:  # since the page was read
            continue
        except (CorruptEventError, EventDataError, ValueError) as error:  # a number too long to be written out, too
            unreadable[head.stream] = str(error)
    return SummaryPage(found, page.cursor, unreadable)


async def renew_snapshot(log: SessionLog, session_id: str) -> None:
    """Leave a snapshot of the session where it stands now. A cache: where it cannot be made, nothing is lost."""
    try:
        head = await log.head(session_id)
        fold, _ = await Listing(log).fold(head)
        await _keep(log, head, fold)
    except (SessionDeletedError, EventStoreError, EventDataError, ValueError):
        return


class _Ancestor(NamedTuple):
    """The fork's history has the events of *session_id* up to version *most*."""

    session_id: str
    most: int


class Listing:
    """Summaries in the making."""

    def __init__(self, log: SessionLog) -> None:
        self._log = log

    async def summarize(self, head: Head) -> Summary:
        """The summary of the session at *head*. Leaves a snapshot if much had to be folded."""
        fold, events = await self.fold(head)
        if events >= SNAPSHOT_EVENTS:
            await _keep(self._log, head, fold)
        summary = summary_of(fold)
        assert summary is not None, "the fold is complete"
        return summary if summary.id == head.stream else msgspec.structs.replace(summary, id=head.stream)

    async def fold(self, head: Head) -> tuple[Fold, int]:
        """A complete fold at *head* (though without most messages), and how many events it took."""
        fold, behind, taken = await self._nearest(head)
        begun = fold.version
        add_contents(fold, behind)
        await self._log.grow(fold, head.stream, head.version)
        if fold.complete:
            return fold, head.version - begun + taken
        return await self._log.folded(head.stream, head.version), head.version

    async def _nearest(self, head: Head) -> tuple[Fold, Sequence[Content], int]:
        """A fold from a snapshot, or from the beginning; what is known of that which follows on it; and how many events
        were folded to get there.
        """
        own = await self._log.since_snapshot(head.stream, head.version)
        if own is not None and (fold := from_snapshot(own[0])):
            return fold, own[1], 0
        if own is None and head.parent is not None:
            fold, taken = await self._prefix(head)
            return fold, [], taken
        return await self._log.folded(head.stream, 0), [], 0

    async def _prefix(self, head: Head) -> tuple[Fold, int]:
        """A fold of what a fork shares with its parent, and how many events it took."""
        ancestors, data = await self._ancestors(head)
        fold = (from_snapshot(data) if data else None) or await self._log.folded(head.stream, 0)
        begun = fold.version
        for upto in (*range(begun + STRIDE_EVENTS, head.forked_at, STRIDE_EVENTS), head.forked_at):
            await self._log.grow(fold, head.stream, upto)
            if not fold.complete:  # a rewind to before the snapshot
                return await self._log.folded(head.stream, head.forked_at), head.forked_at
            self._remember(ancestors, fold)
        return fold, fold.version - begun

    async def _ancestors(self, head: Head) -> tuple[list[_Ancestor], bytes | None]:
        """The nearest ancestors of a fork, up to one that has a snapshot at the fork or before; and that snapshot."""
        found: list[_Ancestor] = []
        name, most = head.parent, head.forked_at
        while name is not None and len(found) < _ANCESTORS:
            found.append(_Ancestor(name, most))
            known = [self._log.prefixes.nearest(name, most)]
            try:
                kept = await self._log.snapshot(name)
                known += [kept if kept and kept[0] <= most else None]
                above = await self._log.head(name)
            except (SessionDeletedError, SessionNotFoundError):
                above = None
            if nearest := max(filter(None, known), default=None):
                return found, nearest[1]
            name, most = (above.parent, min(most, above.forked_at)) if above else (None, 0)
        return found, None

    def _remember(self, ancestors: Sequence[_Ancestor], fold: Fold) -> None:
        """Remember *fold*, of a prefix, with the ancestor whose own event is its last: for all forks that share it."""
        if data := to_snapshot(fold):
            owner = [ancestor for ancestor in ancestors if ancestor.most >= fold.version][-1]
            self._log.prefixes.add(owner.session_id, fold.version, data)


async def _keep(log: SessionLog, head: Head, fold: Fold) -> None:
    data = to_snapshot(fold)
    if data is not None:
        await log.keep_snapshot(head.stream, fold.version, data)  # which may be beyond *head*: see `_nearest`
