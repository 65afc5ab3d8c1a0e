"""Which recorded attempt a request was meant to be: the one that it equals, or else the one with most in common."""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING

from session import jsontext
from session.events import RequestSent
from session.fold import Fold
from session.recording.digests import message_digest
from session.replay._lineages import followed
from session.replay._requests import digests_of
from session.state import SessionState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from session.events import StoredEvent
    from session.messages import Message
    from session.replay._lanes import Exchange
    from session.replay._requests import LogicalRequest
    from session.storage import EventSessionStorage


async def nearest_attempt(
    storage: EventSessionStorage, attempts: Sequence[Exchange], asked: LogicalRequest
) -> tuple[Exchange, bool]:
    """Of *attempts*, and whether it asks the same: the first that does, or else the one that has most messages in
    common with *asked*, at the same length if any. Reads each event of their sessions at most once.
    """
    digest = asked.digest()
    same = next((each for each in attempts if each.digest == digest), None)
    if same is not None:
        return same, True
    wanted = digests_of(asked)
    sessions = dict.fromkeys(each.session_id for each in attempts)
    shared = {
        name: overlap.shared async for name, overlap in followed(storage, sessions, partial(Overlap, frozenset(wanted)))
    }

    def likeness(attempt: Exchange) -> tuple[int, int]:
        return shared[attempt.session_id].get(attempt.version, 0), -abs(attempt.request.messages - len(wanted))

    return max(attempts, key=likeness), False


class Overlap:
    """How many different ones of the messages that a session's requests sent are *wanted*, given their digests: in
    `shared`, by the version of the request. It is a `Follower`.
    """

    def __init__(self, wanted: frozenset[bytes], session_id: str) -> None:
        self.shared: dict[int, int] = {}
        self._wanted = wanted
        self._fold = Fold(SessionState(id=session_id))
        self._known: list[Message] = []
        self._counts = [0]  # how many were wanted of those before each message, and of all
        self._first: dict[bytes, int] = {}  # where each of them stands

    def fork(self, session_id: str) -> Overlap:  # noqa: ARG002 - it makes no difference
        """See `Follower`."""
        other = copy.copy(self)
        other.part()
        return other

    def part(self) -> None:
        """Share nothing that grows with the one that this was copied from."""
        self.shared, self._fold = dict(self.shared), Fold(self._fold.state())
        self._known, self._counts, self._first = list(self._known), list(self._counts), dict(self._first)

    def add(self, stored: StoredEvent) -> None:
        """The next event."""
        event = stored.event
        self._fold.add(event, stored.recorded_at)
        if isinstance(event, RequestSent):
            self._follow_messages()
            self.shared[stored.version] = self._counts[min(event.messages, len(self._known))]

    def _follow_messages(self) -> None:
        settled = self._fold.settled
        same = min(len(self._known), len(settled))
        while same and self._known[same - 1] is not settled[same - 1]:
            same -= 1
        if same < len(self._known):
            del self._known[same:], self._counts[same + 1 :]
            self._first = {digest: place for digest, place in self._first.items() if place < same}
        for message in settled[same:]:
            digest = message_digest(jsontext.parse_or_show(message.raw))
            if digest in self._wanted:
                self._first.setdefault(digest, len(self._known))
            self._known.append(message)
            self._counts.append(len(self._first))
