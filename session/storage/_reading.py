"""Ways to look at a store that need no history folded: the newest messages of a session, families of forks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from session.errors import EventDataError, SessionDeletedError, SessionNotFoundError
from session.messages import Message  # noqa: TC001 - msgspec looks it up
from session.recent import has_distant_effects, messages_in_window
from session.storage._listing import Listing
from session.storage._log import CorruptEventError

if TYPE_CHECKING:
    from session.events import StoredEvent
    from session.storage._log import Head, SessionLog
    from session.summary import Summary

_EVENTS_PER_MESSAGE: Final = 4  # a first guess; a window that has too few messages is doubled
_LEAST_WINDOW: Final = 64


class NewestMessages(msgspec.Struct, frozen=True):
    """The newest *messages* of a session at *version*; *first* is the index of the first of them."""

    session_id: str
    version: int
    first: int
    messages: tuple[Message, ...]


async def newest_messages(log: SessionLog, session_id: str, count: int) -> NewestMessages:
    """The newest *count* messages: reads few more events than they took, unless a rewind or a compaction is among
    them.
    """
    if count < 0:
        raise ValueError(f"count is a number of messages, and not {count}")
    head = await log.head(session_id)
    window = max(_LEAST_WINDOW, _EVENTS_PER_MESSAGE * count)
    events: list[StoredEvent] = []  # oldest first
    found: list[Message] | None = []
    while head.version - len(events) > 0 and found is not None and len(found) < count:
        events = await _older(log, session_id, events, head, window) + events
        found = messages_in_window(events)
        if found is None and not has_distant_effects(events):
            found = []  # it began in the middle of something: look further back
        window = len(events)
    if not found or len(found) < count or len(events) == head.version:
        found = list((await log.folded(session_id, head.version)).state().messages.entries)
        first = max(0, len(found) - count)
    else:
        summary = await Listing(log).summarize(head)
        if summary.version != head.version:  # a writer was faster, and left a snapshot
            return await newest_messages(log, session_id, count)
        first = summary.messages - count
    return NewestMessages(session_id, head.version, first, tuple(found[max(0, len(found) - count) :]))


async def _older(
    log: SessionLog, session_id: str, events: list[StoredEvent], head: Head, window: int
) -> list[StoredEvent]:
    """At least *window* events before *events*, oldest first."""
    upto = events[0].version - 1 if events else head.version
    older: list[StoredEvent] = []  # newest first
    while upto > 0 and len(older) < window:
        older += await log.read(session_id, after=max(0, upto - window + len(older)), upto=upto, reverse=True)
        upto = older[-1].version - 1
    return older[::-1]


async def summary(log: SessionLog, session_id: str) -> Summary:
    """What a list shows of the session."""
    return await Listing(log).summarize(await log.head(session_id))


async def family(log: SessionLog, session_id: str) -> tuple[list[Summary], dict[str, str]]:
    """The topmost living ancestor that is reached through living ones, and all living forks below it, parents before
    their forks; and those that cannot be read, with the reason.
    """
    head = await log.head(session_id)
    while (above := await _living(log, head.parent)) is not None:
        head = above
    listing, found, unreadable = Listing(log), [], {}
    waiting = [head]
    for member in waiting:  # grows meanwhile
        try:
            found.append(await listing.summarize(member))
            waiting += await log.children(member.stream)
        except SessionDeletedError:  # since it was found
            continue
        except (CorruptEventError, EventDataError, ValueError) as error:
            unreadable[member.stream] = str(error)
    return found, unreadable


async def _living(log: SessionLog, session_id: str | None) -> Head | None:
    try:
        return None if session_id is None else await log.head(session_id)
    except (SessionDeletedError, SessionNotFoundError):
        return None
