"""Which recorded attempt a request is. Pure: values in, values out; the caller holds a lock.

1. An attempt is served if it is the next one of its lane and the digests of the requests are equal. Nothing else is
   ever served: there is no "nearly".
2. Lanes are independent: calls that ran at the same time, or in other conversations, may come in any order. Of several
   lanes that go on with the same request, the one of this very call (a retry), then the one that was recorded first;
   but, once a call of a later run was made, what an earlier run recorded only where nothing else is left.
3. A program that makes all its calls from one thread or task has an order of its own: what it does after a call that
   was recorded after it is told of (`Taken.overtaken_by`).
4. A call costs the same in a recording of any number of lanes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from session.recording._runs import run_id
from session.replay._lanes import Exchange, in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from session.replay._lanes import Lane

_KEYS_KEPT: Final = 4096


class Taken(msgspec.Struct, frozen=True):
    """The attempt to serve; *retry* is the next attempt of this call, if there was one. *overtaken_by* was recorded
    after it and made before it, by a program that makes one call after the other.
    """

    exchange: Exchange
    retry: Exchange | None = None
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
        self._waiting: dict[bytes, _Waiting] = {}  # the next attempts of the lanes, by digest
        self._by_digest: dict[bytes, list[Exchange]] = {}
        self._keys: dict[str, str] = {}
        self._strands: set[object] = set()
        self._runs = _begun(lanes)
        self._since = b""  # where the newest run began of which a call was made
        self._made = _Made()
        self._excused: list[Lane] = []
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
        required = [lane for lane in self.lanes.values() if lane.required]
        return [each for each in in_order(required) if each.number >= self._places[each.session_id]]

    def excuse(self, place: str) -> None:
        """The tools that were called at *place* do not run: the conversations that are due to them need not be had."""
        excused: set[str] = set()
        for lane in self.lanes.values():  # what a lane is due to stands before it
            due = lane.cause == place or not excused.isdisjoint({lane.cause.rpartition("@")[0], lane.parent})
            if due and not self._places[lane.session_id]:
                lane.required = False
                excused.add(lane.session_id)
                self._excused.append(lane)

    def not_asked_for(self) -> list[Exchange]:
        """The attempts that were not made and were excused."""
        return [each for each in in_order(self._excused) if each.number >= self._places[each.session_id]]

    def take(self, digest: bytes, *, key: str, attempt: int, strand: object) -> Taken | Missed:
        """The next attempt with this *digest*. All attempts of a call have one *key*; *strand* is what makes it."""
        self._strands.add(strand)
        found = self._choose(digest, key, attempt)
        if found is None:
            return self._missed(digest)
        overtaken_by = self._overtaken_by(found) if len(self._strands) == 1 else None
        self._advance(found, key)
        if len(self._strands) == 1 and found.request.attempt == 1:  # that the SDK tries again is no act of the program
            self._made.add(found)
        following = self.next_of(found.session_id)
        retried = following is not None and following.request.request_id == found.request.request_id
        return Taken(found, following if retried else None, overtaken_by)

    def _choose(self, digest: bytes, key: str, attempt: int) -> Exchange | None:
        known = self.next_of(self._keys[key]) if key in self._keys else None
        if known is not None and known.digest == digest:
            return known
        waiting = self._waiting.get(digest)
        return waiting.first(attempt, self._since, self._is_waiting) if waiting else None

    def _is_waiting(self, exchange: Exchange) -> bool:
        return self._places[exchange.session_id] == exchange.number

    def _advance(self, served: Exchange, key: str) -> None:
        name = served.session_id
        self._since = max(self._since, self._began(served))
        self._places[name] += 1
        self._await(name)
        if key:
            self._keys[key] = name
            if len(self._keys) > _KEYS_KEPT:
                del self._keys[next(iter(self._keys))]

    def _await(self, name: str) -> None:
        if (following := self.next_of(name)) is not None:
            self._waiting.setdefault(following.digest, _Waiting()).add(following, self._began(following))

    def _began(self, exchange: Exchange) -> bytes:
        """Where the run began that made it."""
        return self._runs.get(run_id(exchange.request.request_id), b"")

    def _overtaken_by(self, exchange: Exchange) -> Exchange | None:
        """A call that was made before this one, which was over, when it was recorded, before that one began."""
        last = self._last_attempt(exchange)
        if not self.lanes[exchange.session_id].required or not last.ended:
            return None
        return self._made.later_than(last)

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


def _begun(lanes: Sequence[Lane]) -> dict[str, bytes]:
    """Where each run began."""
    found: dict[str, bytes] = {}
    for lane in lanes:
        for exchange in lane.exchanges:
            run = run_id(exchange.request.request_id)
            found[run] = min(exchange.sent_place, found.get(run, exchange.sent_place))
    return found


class _Waiting:
    """Attempts with one digest, each the next one of its lane when it was added. By where the run began that made it,
    and by the number of the attempt: a program that asks for the first time means no retry, if it has the choice.
    """

    def __init__(self) -> None:
        # Heaps, those recorded first at the front.
        self._heaps: dict[tuple[bytes, int], list[tuple[bytes, int, Exchange]]] = {}
        self._count = 0

    def add(self, exchange: Exchange, began: bytes) -> None:
        """One more."""
        self._count += 1  # in the order of the lanes, where places do not tell
        heap = self._heaps.setdefault((began, exchange.request.attempt), [])
        heappush(heap, (exchange.sent_place, self._count, exchange))

    def first(self, attempt: int, since: bytes, still: Callable[[Exchange], bool]) -> Exchange | None:
        """The one that was recorded first of those that are *still* waiting: of runs that did not begin before *since*,
        among the equally numbered, if any.
        """
        found = []
        for (began, number), heap in self._heaps.items():
            while heap and not still(heap[0][-1]):
                heappop(heap)
            if heap:
                found.append((began < since, number != attempt, *heap[0]))
        return min(found)[-1] if found else None


class _Made:
    """The calls of a program in the order in which it makes them: which was the first to be as late as another one?

    Late by its place in the log and by the clock: where a clock was set, or sessions were imported one after the other,
    the two disagree, and then nothing is said.
    """

    def __init__(self) -> None:
        self._calls: list[Exchange] = []
        self._latest_place = [b""]  # of all calls up to each, behind one before the first
        self._latest_time = [0]

    def add(self, exchange: Exchange) -> None:
        """It was made."""
        self._calls.append(exchange)
        self._latest_place.append(max(exchange.sent_place, self._latest_place[-1]))
        self._latest_time.append(max(exchange.sent_at, self._latest_time[-1]))

    def later_than(self, ended: Exchange) -> Exchange | None:
        """The first call made so far by which there was one that began when that attempt had *ended*."""
        behind = bisect_right(self._latest_place, ended.ended_place)
        after = bisect_left(self._latest_time, ended.ended_at)
        first = max(behind, after) - 1
        return self._calls[first] if first < len(self._calls) else None
