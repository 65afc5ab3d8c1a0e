"""Which recorded attempt a request is. Pure: values in, values out; the caller holds a lock.

1. An attempt is served if it is the next one of its lane and the digests of the requests are equal. Nothing else is
   ever served: there is no "nearly".
2. Lanes are independent: calls that ran at the same time, or in other conversations, may come in any order. Of several
   lanes that go on with the same request, the one of this very call (a retry), then the oldest.
3. A program that makes all its calls from one thread or task has an order of its own: what it does after a call that
   was recorded after it is told of (`Taken.overtaken_by`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import msgspec

from session.replay._lanes import Exchange  # noqa: TC001 - msgspec looks it up

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from session.replay._lanes import Lane

_KEYS_KEPT: Final = 4096


class Taken(msgspec.Struct, frozen=True):
    """The attempt to serve; *retried*: the recording has another attempt of this call behind it. *overtaken_by* was
    recorded after it and made before it, by a program that makes one call after the other.
    """

    exchange: Exchange
    retried: bool = False
    overtaken_by: Exchange | None = None


class Missed(msgspec.Struct, frozen=True):
    """There is nothing to serve. "skipped": it is a later attempt of a lane whose *next* one was not made. "again": it
    equals one that was served. "unknown": neither.
    """

    kind: Literal["skipped", "again", "unknown"]
    next: Exchange | None = None
    same: Exchange | None = None


class Script:
    """The lanes of a recording, and how far each has been replayed."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self.lanes = {lane.session_id: lane for lane in lanes}
        self._places = dict.fromkeys(self.lanes, 0)
        self._waiting: dict[bytes, dict[str, None]] = {}  # lanes whose next attempt has this digest, in order
        self._by_digest: dict[bytes, list[Exchange]] = {}
        self._keys: dict[str, str] = {}
        self._strands: set[object] = set()
        self._overtaken: dict[str, Exchange] = {}
        for lane in lanes:
            self._await(lane.session_id)
            for exchange in lane.exchanges:
                self._by_digest.setdefault(exchange.digest, []).append(exchange)

    def next_of(self, session_id: str) -> Exchange | None:
        """The next attempt of a lane; None: it is at its end."""
        exchanges, place = self.lanes[session_id].exchanges, self._places[session_id]
        return exchanges[place] if place < len(exchanges) else None

    def last_of(self, session_id: str) -> Exchange | None:
        """The attempt of a lane that was served last."""
        place = self._places[session_id]
        return self.lanes[session_id].exchanges[place - 1] if place else None

    def not_made(self) -> list[Exchange]:
        """The attempts that must be made and were not, those that were recorded first at the front."""
        rest = [
            exchange
            for name, lane in self.lanes.items()
            if lane.required
            for exchange in lane.exchanges[self._places[name] :]
        ]
        return sorted(rest, key=lambda exchange: exchange.sent_at)

    def take(self, digest: bytes, *, key: str, attempt: int, strand: object) -> Taken | Missed:
        """The next attempt with this *digest*. All attempts of a call have one *key*; *strand* is what makes it."""
        self._strands.add(strand)
        found = self._choose(list(self._waiting.get(digest, ())), key, attempt)
        if found is None:
            return self._missed(digest)
        overtaken_by = self._overtaken.pop(found.session_id, None) if len(self._strands) == 1 else None
        self._advance(found, key)
        if len(self._strands) == 1:
            self._overtake(found)
        following = self.next_of(found.session_id)
        retried = following is not None and following.request.request_id == found.request.request_id
        return Taken(found, retried, overtaken_by)

    def _choose(self, names: Iterable[str], key: str, attempt: int) -> Exchange | None:
        found = [exchange for name in names if (exchange := self.next_of(name)) is not None]
        if not found:
            return None
        known = self._keys.get(key, "") if key else ""
        return min(found, key=lambda each: (each.session_id != known, each.request.attempt != attempt))

    def _advance(self, served: Exchange, key: str) -> None:
        name = served.session_id
        del self._waiting[served.digest][name]
        self._places[name] += 1
        self._await(name)
        if key:
            self._keys[key] = name
            if len(self._keys) > _KEYS_KEPT:
                del self._keys[next(iter(self._keys))]

    def _await(self, name: str) -> None:
        if (following := self.next_of(name)) is not None:
            self._waiting.setdefault(following.digest, {})[name] = None

    def _overtake(self, served: Exchange) -> None:
        """Other lanes whose next call was over, when it was recorded, before that of *served* began."""
        if served.request.attempt > 1:  # that the SDK tries again is no act of the program
            return
        earlier = True  # it stands before the lane of what was served: of two in one millisecond it was first
        for name, lane in self.lanes.items():
            earlier = earlier and name != served.session_id
            waiting = self.next_of(name)
            if waiting is None or name == served.session_id or not lane.required:
                continue
            last = self._last_attempt(waiting)
            if last.ended and last.ended_at < served.sent_at + earlier:
                self._overtaken.setdefault(name, served)

    def _last_attempt(self, first: Exchange) -> Exchange:
        """That of the call whose next attempt is *first*."""
        exchanges, place = self.lanes[first.session_id].exchanges, first.number
        while place + 1 < len(exchanges) and exchanges[place + 1].request.request_id == first.request.request_id:
            place += 1
        return exchanges[place]

    def _missed(self, digest: bytes) -> Missed:
        same = self._by_digest.get(digest, [])
        for exchange in same:
            if exchange.number >= self._places[exchange.session_id]:
                return Missed("skipped", self.next_of(exchange.session_id), exchange)
        return Missed("again", self.next_of(same[-1].session_id), same[-1]) if same else Missed("unknown")
