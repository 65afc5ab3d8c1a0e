"""The lanes of a recorded run, read from a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from session.events import SessionCreated, SessionForked
from session.recording import run_of
from session.recording._runs import run_id
from session.replay._attempts import Reading
from session.replay._lanes import in_log_order, place_of_time, placed_by_time
from session.replay._lineages import followed, head_of
from session.replay.errors import NothingToReplayError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from session.replay._lanes import Exchange, Lane
    from session.storage import EventSessionStorage


async def read_lanes(storage: EventSessionStorage, session_id: str, after: int = 0) -> list[Lane]:
    """The lanes of the run of *session_id*: its own attempts behind version *after*, and those of the run's other
    sessions that were not over by then. Sessions that were over when *session_id* went on need not be replayed. What
    another run of the same name did in sessions of its own is no part of it.

    Raises `SessionNotFoundError`, `SessionDeletedError`, `EventDataError` and `NothingToReplayError`.
    """
    await storage.version_at(session_id, 0)
    runs, ancestors = await _runs(storage, session_id)
    lanes = await _read(storage, runs)
    by_time = not all(in_log_order([lanes[each] for each in run]) for run in runs)
    if by_time:
        for lane in lanes.values():
            placed_by_time(lane)
    since, until = await _places(storage, session_id, after, by_time=by_time)
    run = _made_together([lanes.pop(each) for each in runs[0]], session_id, after)
    for lane in run:
        if lane.session_id == session_id:
            lane.start = max(after, lane.start)
            lane.exchanges = [each for each in lane.exchanges if each.version > lane.start]
        else:
            lane.required = not until or not all(_was_over(each, until) for each in lane.exchanges)
            lane.exchanges = [each for each in lane.exchanges if not _was_over(each, since)]
    if not any(lane.exchanges for lane in run if lane.required):
        raise NothingToReplayError(session_id, *([f"no request is behind version {after}"] if after else []))
    before = [lane for lane in lanes.values() if lane.session_id not in ancestors]
    for lane in before:
        lane.required = False
    for lane in (*run, *before):
        lane.exchanges = [msgspec.structs.replace(each, number=place) for place, each in enumerate(lane.exchanges)]
    return [*run, *before]


def _made_together(lanes: list[Lane], session_id: str, after: int) -> list[Lane]:
    """Of the *lanes* of one name, those of the runs that made the attempts of *session_id* behind version *after*, and
    of runs that went on with one of theirs.
    """
    made_by = {lane.session_id: _run_ids(lane.exchanges) for lane in lanes}
    own = next(lane for lane in lanes if lane.session_id == session_id)
    known = _run_ids(each for each in own.exchanges if each.version > max(after, own.start))
    if not known:
        return lanes
    while more := {each for runs in made_by.values() if not known.isdisjoint(runs) for each in runs} - known:
        known |= more
    return [
        lane for lane in lanes if lane is own or not (runs := made_by[lane.session_id]) or not known.isdisjoint(runs)
    ]


def _run_ids(exchanges: Iterable[Exchange]) -> set[str]:
    """The runs that made them; none for those of live sessions."""
    return {run_id(each.request.request_id) for each in exchanges} - {""}


async def _read(storage: EventSessionStorage, runs: list[list[str]]) -> dict[str, Lane]:
    """All lanes of *runs*, in this order."""
    run_of_each: dict[str, Collection[str]] = {}
    for run in runs:
        run_of_each.update(dict.fromkeys(run, frozenset(run)))
    found = {each: reading.lane(run_of_each[each]) async for each, reading in followed(storage, run_of_each, Reading)}
    return {each: found[each] for each in run_of_each}


async def _runs(storage: EventSessionStorage, session_id: str) -> tuple[list[list[str]], set[str]]:
    """The run of *session_id*, then the runs that its first session was forked from, or is due to, and so on; and
    the sessions that it was forked from: what they share with it, it has itself.

    What it was forked from may have been deleted: its own events tell as much as they know.
    """
    ids = await storage.list()
    run = run_of(ids, session_id)
    runs, ancestors, living, known = [run], set[str](), set(ids), set(run)
    waiting = [run[0]]
    for each in waiting:  # grows meanwhile
        parents, cause = await _origins(storage, each)
        ancestors.update(name for name in parents if name not in (each, *run))
        for name in [*parents, *cause]:
            if name in known:
                continue
            known.add(name)
            waiting += [name] if name in living else []
            if (others := run_of(ids, name)) not in runs:
                runs.append(others)
    return [each for each in runs if each], ancestors


async def _origins(storage: EventSessionStorage, session_id: str) -> tuple[list[str], list[str]]:
    """The sessions that its lineage tells of up to the event by which it began, the nearest first; and the one that it
    is due to, if any.
    """
    head = await head_of(storage, session_id)
    names: list[str] = []
    cause = ""
    async for stored in storage.events(session_id, upto=(head.forked_at if head else 0) + 1):
        match stored.event:
            case SessionForked() as event:
                names += [event.parent_id, event.session_id]
            case SessionCreated() as event:
                names.append(event.session_id)
                cause = event.cause.rpartition("@")[0]
    return names[::-1], [cause] if cause else []


async def _places(storage: EventSessionStorage, session_id: str, after: int, *, by_time: bool) -> tuple[bytes, bytes]:
    """Where the event at version *after* stands, and the one behind it; b"" where there is none."""
    if not after:
        return b"", b""
    places = [
        place_of_time(stored.recorded_at) if by_time else stored.position
        async for stored in storage.events(session_id, after=after - 1, upto=after + 1)
    ]
    return places[0], places[-1]


def _was_over(exchange: Exchange, place: bytes) -> bool:
    """Whether it had ended when what stands at *place* was recorded."""
    return place != b"" and exchange.ended > 0 and exchange.ended_place <= place
