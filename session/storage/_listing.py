"""Summaries without folding histories: from the nearest snapshot, only what came after it is folded.

1. Whoever appends past a multiple of `SNAPSHOT_EVENTS` leaves a snapshot, so a summary costs at most that many events.
2. A fork has none at first. It goes on from the newest one of an ancestor that lies before the fork, or from a fold of
   the prefix; forks made at one place share that fold within a page of the list.
3. Where neither helped (a first list after an upgrade, a rewind to before the snapshot), the history is folded once and
   a snapshot left behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from session.errors import EventDataError, SessionDeletedError, SessionNotFoundError
from session.storage._log import CorruptEventError, EventStoreError, add_contents
from session.summary import Summary, from_snapshot, summary_of, to_snapshot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from session.fold import Fold
    from session.storage._log import Content, Head, SessionLog

SNAPSHOT_EVENTS: Final = 8
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


class Listing:
    """One page of summaries in the making."""

    def __init__(self, log: SessionLog) -> None:
        self._log = log
        self._prefixes: dict[tuple[str, int], bytes | None] = {}  # (parent, fork point) -> snapshot of a prefix

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
        fold, behind = await self._nearest(head)
        begun = fold.version
        add_contents(fold, behind)
        await self._log.grow(fold, head.stream, head.version)
        if fold.complete:
            return fold, head.version - begun
        return await self._log.folded(head.stream, head.version), head.version

    async def _nearest(self, head: Head) -> tuple[Fold, Sequence[Content]]:
        """A fold from a snapshot, or from the beginning, and what is known of that which follows on it."""
        data, behind = await self._log.since_snapshot(head.stream, head.version) or (await self._inherited(head), [])
        fold = from_snapshot(data) if data else None
        return (fold, behind) if fold else (await self._log.folded(head.stream, 0), [])

    async def _inherited(self, head: Head) -> bytes | None:
        """A snapshot of the lineage of a fork at its fork point or before."""
        if head.parent is None:
            return None
        place = head.parent, head.forked_at
        if place not in self._prefixes:
            self._prefixes[place] = await self._of_ancestor(head) or await self._of_prefix(head)
        return self._prefixes[place]

    async def _of_ancestor(self, head: Head) -> bytes | None:
        ancestor, most = head.parent, head.forked_at
        for _ in range(_ANCESTORS):
            if ancestor is None:
                return None
            try:
                found = await self._log.snapshot(ancestor)
                if found and found[0] <= most:
                    return found[1]
                above = await self._log.head(ancestor)
            except (SessionDeletedError, SessionNotFoundError):
                return None
            ancestor, most = above.parent, min(most, above.forked_at)
        return None

    async def _of_prefix(self, head: Head) -> bytes | None:
        return to_snapshot(await self._log.folded(head.stream, head.forked_at))


async def _keep(log: SessionLog, head: Head, fold: Fold) -> None:
    data = to_snapshot(fold)
    if data is not None:
        await log.keep_snapshot(head.stream, fold.version, data)  # which may be beyond *head*: see `_nearest`
