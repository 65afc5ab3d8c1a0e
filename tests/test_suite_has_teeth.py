"""Logs that are broken on purpose: each must be caught by the claim that is meant to catch it, and by the machine."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from eventstore.errors import CommitIdReusedError, EventStoreError, StreamExistsError
from eventstore.log import NO_DIGEST, START, Commit, Deletion, Event, Expected, Forked, NewEvent, Page
from eventstore.memory import MemoryEventLog, _Stream
from eventstore.testing import EventLogContract
from eventstore.testing.contract_base import digest_of
from eventstore.testing.machine import log_machine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path
    from typing import Any

    from eventstore.log import Checkpoint, EventLog, Head, Position, Record, SinceSnapshot

CATCHES = (AssertionError, pytest.fail.Exception, EventStoreError)


class LeavesGaps(MemoryEventLog):
    """P2: a version is left out after the second."""

    async def read(self, stream: str, **bounds: Any) -> list[Event]:
        events = await super().read(stream, **bounds)
        return [msgspec.structs.replace(e, version=e.version + 1) if e.version > 2 else e for e in events]


class TearsCommits(MemoryEventLog):
    """P1: each event of an append is a commit of its own."""

    async def append(self, stream: str, events: Sequence[NewEvent], **options: Any) -> Commit:
        commit = await super().append(stream, events[:1], **options)
        for event in events[1:]:
            commit = await super().append(stream, [event])
        return commit


class GoesBack(MemoryEventLog):
    """P2: the positions of every third record lie behind those of the record before."""

    def _next_position(self) -> Position:
        position = super()._next_position()
        swapped = {0: 0, 1: 1, 2: -1}[self._counter % 3]
        return msgspec.convert(position[:8] + (self._counter + swapped).to_bytes(8, "big"), bytes)  # type: ignore[return-value]


class IgnoresExpectations(MemoryEventLog):
    """P3: any version will do."""

    def _check_expected(self, name: str, expected: int) -> None:
        pass


class ChecksBeforeItWrites(MemoryEventLog):
    """P3: between the check and the write others may write."""

    async def append(self, stream: str, events: Sequence[NewEvent], **options: Any) -> Commit:
        expected = options.get("expected", Expected.ANY)
        if stream in self._streams:
            self._check_expected(stream, expected)
        await asyncio.sleep(0)
        return await super().append(stream, events, **{**options, "expected": Expected.ANY})


class WritesRepetitions(MemoryEventLog):
    """P4: a commit id means nothing."""

    def _repeated(self, *_args: Any) -> list[Event] | None:
        return None


class TakesAnyRepetition(MemoryEventLog):
    """P4: the same id with other content passes for a repetition."""

    def _repeated(
        self, stream: _Stream, events: Sequence[NewEvent], expected: int, commit_id: bytes
    ) -> list[Event] | None:
        try:
            return super()._repeated(stream, events, expected, commit_id)
        except CommitIdReusedError:
            return [event for event in stream.own if event.commit_id == commit_id]


class ForgetsSoon(MemoryEventLog):
    """P4: an append to any version is recognised among the newest ten events only."""

    def _repeated(
        self, stream: _Stream, events: Sequence[NewEvent], expected: int, commit_id: bytes
    ) -> list[Event] | None:
        first = super()._repeated(stream, events, expected, commit_id)
        old = first and expected < 0 and first[0].version <= len(self._lineage(stream)) - 10
        return None if old else first


class NeverForgets(MemoryEventLog):
    """P4: a commit id that is no longer recent is still taken for a repetition."""

    def _repeated(
        self, stream: _Stream, events: Sequence[NewEvent], expected: int, commit_id: bytes
    ) -> list[Event] | None:
        first = super()._repeated(stream, events, expected, commit_id)
        return first or [event for event in stream.own if expected < 0 and event.commit_id == commit_id]


class CountsInheritedCommits(MemoryEventLog):
    """P4: a fork takes its parent's commits for its own."""

    def _repeated(
        self, stream: _Stream, events: Sequence[NewEvent], expected: int, commit_id: bytes
    ) -> list[Event] | None:
        whole = _Stream(stream.name, None, 0, own=self._lineage(stream))
        return super()._repeated(whole, events, expected, commit_id)


class RefusesRepeatedForks(MemoryEventLog):
    """P4: the second of two equal forks finds that the name is taken."""

    def _repeated_fork(self, child: _Stream, *_args: Any) -> Head:
        raise StreamExistsError(child.name)


class ReturnsTheHeadOfToday(MemoryEventLog):
    """P4: a repeated fork returns the head as it is now."""

    def _repeated_fork(self, child: _Stream, *args: Any) -> Head:
        super()._repeated_fork(child, *args)
        return self._head(child)


class SeesLaterEvents(MemoryEventLog):
    """P5: as long as a fork has no events of its own, it sees what its parent appends."""

    def _lineage(self, stream: _Stream) -> list[Event]:
        if stream.forked and stream.forked.at and not stream.own:
            return super()._lineage(self._streams[stream.forked.parent])
        return super()._lineage(stream)


class ForksTooEarly(MemoryEventLog):
    """P5: a fork begins with one event less than it was asked for."""

    def _begin_fork(self, child: str, parent: str, at: int, time_ns: int, commit_id: bytes) -> _Stream:
        return super()._begin_fork(child, parent, max(0, at - 1), time_ns, commit_id)


class ClipsOnlyTheParent(MemoryEventLog):
    """P5: a fork of a fork inherits the grandparent's events up to where the parent was forked."""

    def _lineage(self, stream: _Stream) -> list[Event]:
        if stream.forked is None:
            return list(stream.own)
        parent = self._streams[stream.forked.parent]
        inherited = [event for event in parent.own if event.version <= stream.forked.at]
        if parent.forked:
            inherited = self._lineage(_Stream(parent.name, parent.forked, 0)) + inherited
        return inherited + stream.own


class ErasesWhatForksNeed(MemoryEventLog):
    """P6: all events of a deleted stream are erased."""

    async def erase(self) -> int:
        gone = {name for name, stream in self._streams.items() if stream.deletion}
        for name in gone:
            self._streams[name].own.clear()
        self._records = [r for r in self._records if not (isinstance(r, Event) and r.stream in gone)]
        return 0


class SparesTooMuch(MemoryEventLog):
    """P6: a deleted stream stays whole while it has any living fork."""

    async def erase(self) -> int:
        spared = {s.forked.parent for name, s in self._streams.items() if s.forked and self._is_living(name)}
        gone = {name for name, stream in self._streams.items() if stream.deletion and name not in spared}
        self._records = [r for r in self._records if not (isinstance(r, Event) and r.stream in gone)]
        return 0


class NeverErases(MemoryEventLog):
    """P6: what was deleted stays."""

    async def erase(self) -> int:
        return 0


class ReusesNames(MemoryEventLog):
    """P6: a deleted name can be created anew."""

    async def append(self, stream: str, events: Sequence[NewEvent], **options: Any) -> Commit:
        if stream not in self._streams or self._is_living(stream):
            return await super().append(stream, events, **options)
        deleted = self._streams.pop(stream)
        try:
            return await super().append(stream, events, **options)
        except EventStoreError:
            self._streams[stream] = deleted  # whose forks still reach it
            raise


class ReplacesTombstones(MemoryEventLog):
    """P6: deleting again puts up a second tombstone."""

    async def delete(self, stream: str, **options: Any) -> Deletion:
        if stream in self._streams:
            self._streams[stream].deletion = None
        return await super().delete(stream, **options)


class ReusesPositions(MemoryEventLog):
    """P2: the positions of an erased tail are given out again."""

    async def erase(self) -> int:
        erased = await super().erase()
        self._counter = sum(not isinstance(record, Deletion) for record in self._records)
        return erased


class HashesLess(MemoryEventLog):
    """P7: something is missing from what a digest commits to."""

    left_out: ClassVar[dict[str, object]]

    def _add(self, stream: _Stream, events: Sequence[NewEvent], commit_id: bytes, time_ns: int) -> list[Event]:
        before = self._lineage(stream)
        digest = before[-1].digest if before else NO_DIGEST
        added = []
        for event in super()._add(stream, events, commit_id, time_ns):
            digest = self.digest(event, digest)
            added.append(msgspec.structs.replace(event, digest=digest))
        stream.own[-len(added) :] = added
        self._records[-len(added) :] = added
        return added

    def digest(self, event: Event, previous: bytes) -> bytes:
        return digest_of(msgspec.structs.replace(event, **self.left_out), previous)


class HashesNoTime(HashesLess):
    """P7: the time can be changed."""

    left_out: ClassVar = {"time_ns": 0}


class HashesNoMeta(HashesLess):
    """P7: the meta can be changed."""

    left_out: ClassVar = {"meta": b""}


class HashesNoSalt(HashesLess):
    """P7: short data can be guessed from the digest."""

    left_out: ClassVar = {"salt": b""}


class HashesNoPrevious(HashesLess):
    """P7: events before this one can be changed."""

    def digest(self, event: Event, _previous: bytes) -> bytes:
        return digest_of(event, NO_DIGEST)


class BelievesExports(MemoryEventLog):
    """P7: what is restored gets new digests instead of being compared with its own."""

    async def restore(self, stream: str, records: Sequence[Event | Forked]) -> Head:
        digest = NO_DIGEST
        believed: list[Event | Forked] = []
        for record in records:
            if isinstance(record, Event):
                digest = digest_of(record, digest)
                believed.append(msgspec.structs.replace(record, digest=digest))
            else:
                believed.append(record)
        return await super().restore(stream, believed)


class RestoresAnew(MemoryEventLog):
    """P7: restored events get the time of their restoration."""

    def _restore_segment(self, segment: Any, previous: str | None, lineage: list[Event]) -> None:
        segment.own = [msgspec.structs.replace(event, time_ns=self._clock()) for event in segment.own]
        super()._restore_segment(segment, previous, lineage)


class RestoresOverAnything(MemoryEventLog):
    """P7: a tail is added whatever it is added to."""

    def _check_history(self, *_args: Any) -> None:
        pass


class LosesARecord(MemoryEventLog):
    """A page of the whole log that begins behind a position begins one record too late."""

    async def read_all(self, *, after: Position = START, limit: int = 1000) -> list[Record]:
        records = await super().read_all(after=after, limit=limit + 1)
        return records[:limit] if after == START else records[1 : limit + 1]


class StopsTooEarly(MemoryEventLog):
    """The upper bound of a read is left out of it."""

    async def read(self, stream: str, *, upto: int | None = None, **bounds: Any) -> list[Event]:
        return await super().read(stream, upto=upto and upto - 1, **bounds)


class LimitsTheWrongEnd(MemoryEventLog):
    """A limited read in reverse gives the oldest events."""

    async def read(self, stream: str, *, limit: int | None = None, reverse: bool = False, **bounds: Any) -> list[Event]:
        events = await super().read(stream, limit=limit, **bounds)
        return events[::-1] if reverse else events


class ListsByTime(MemoryEventLog):
    """Streams are listed by the time of their newest event, which clocks do not order."""

    async def streams(self, *, limit: int = 100, cursor: bytes | None = None) -> Page[Head]:
        page = await super().streams(limit=limit, cursor=cursor)
        return Page(sorted(page.items, key=lambda head: -head.updated_ns), page.cursor)


class LosesAStreamBetweenPages(MemoryEventLog):
    """The first stream of the second page is left out."""

    async def streams(self, *, limit: int = 100, cursor: bytes | None = None) -> Page[Head]:
        page = await super().streams(limit=limit, cursor=cursor)
        return Page(page.items[1:] if cursor else page.items, page.cursor)


class ListsDeadChildren(MemoryEventLog):
    """A deleted fork is still listed among the children."""

    async def children(self, stream: str) -> list[Head]:
        await super().children(stream)
        forks = [r for r in self._records if isinstance(r, Forked) and r.parent == stream]
        return [self._head(self._streams[fork.stream]) for fork in forks]


class TakesAnyCursor(MemoryEventLog):
    """Positions of other logs are taken."""

    def _check_cursor(self, cursor: bytes) -> None:
        pass


class TakesLostPositions(MemoryEventLog):
    """A position that was handed out before the log was put back is taken."""

    def _check_cursor(self, cursor: bytes) -> None:
        newest, self._counter = self._counter, 2**60
        try:
            super()._check_cursor(cursor)
        finally:
            self._counter = newest


class FollowsToTheEnd(MemoryEventLog):
    """Following ends with what is there."""

    async def follow(self, *, after: Position = START, stream: str | None = None) -> AsyncIterator[Record]:
        for record in await self.read_all(after=after):
            if stream is None or self._concerns(record, stream):
                yield record


class FollowsTooMuch(MemoryEventLog):
    """Following a stream gives all events."""

    def _concerns(self, _record: Record, _name: str) -> bool:
        return True


class KeepsStaleSnapshots(MemoryEventLog):
    """A snapshot is given to any revision."""

    async def get_snapshot(self, stream: str, name: str, revision: int) -> Any:
        found = self._living(stream).snapshots.get(name)
        return await super().get_snapshot(stream, name, found.revision if found else revision)


class LosesWhatCameBehind(MemoryEventLog):
    """The first event behind a snapshot is not given with it."""

    async def since_snapshot(
        self, stream: str, name: str, revision: int, *, upto: int | None = None
    ) -> SinceSnapshot | None:
        found = await super().since_snapshot(stream, name, revision, upto=upto)
        return found and msgspec.structs.replace(found, contents=found.contents[1:])


class ForgetsTheDeleted(MemoryEventLog):
    """P6: a checkpoint leaves the deleted streams out."""

    async def checkpoint(self) -> Checkpoint:
        checkpoint = await super().checkpoint()
        living = [entry for entry in checkpoint.entries if not entry.deleted]
        return msgspec.structs.replace(checkpoint, entries=living)


class NeverCloses(MemoryEventLog):
    """Use after close works."""

    async def aclose(self) -> None:
        pass


class HandsOutTheNewestCommit(MemoryEventLog):
    """P4: a repetition returns the newest commit in place of the first."""

    def _repeated(
        self, stream: _Stream, events: Sequence[NewEvent], expected: int, commit_id: bytes
    ) -> list[Event] | None:
        first = super()._repeated(stream, events, expected, commit_id)
        return first and stream.own[-1:]


class Broken(NamedTuple):
    """A broken log, the claim that catches it, and whether the machine can: it puts no bad cursors, and closes only at
    the end.
    """

    log: type[MemoryEventLog]
    caught_by: str
    by_machine: bool = True


BROKEN = [
    Broken(LeavesGaps, "test_p2_versions_are_dense_from_one_in_every_stream"),
    Broken(TearsCommits, "test_p1_what_append_returned_for_can_be_read"),
    Broken(GoesBack, "test_p2_positions_follow_the_order_of_commits"),
    Broken(IgnoresExpectations, "test_p3_a_wrong_expectation_writes_nothing"),
    Broken(ChecksBeforeItWrites, "test_p3_of_many_with_the_same_expectation_one_wins"),
    Broken(WritesRepetitions, "test_p4_a_numbered_append_is_repeated_at_any_age"),
    Broken(TakesAnyRepetition, "test_p4_the_same_id_with_other_content_is_refused"),
    Broken(ForgetsSoon, "test_p4_an_append_to_any_version_is_repeated_while_its_commit_is_recent"),
    Broken(NeverForgets, "test_p4_a_commit_that_began_before_the_recent_events_is_forgotten"),
    Broken(CountsInheritedCommits, "test_p4_commits_inherited_by_a_fork_are_not_its_own"),
    Broken(HandsOutTheNewestCommit, "test_p4_the_kind_of_expectation_may_change_in_a_repetition"),
    Broken(RefusesRepeatedForks, "test_p4_forks_at_the_same_time_with_the_same_id_are_one"),
    Broken(ReturnsTheHeadOfToday, "test_p4_a_repeated_fork_returns_the_head_as_the_first_one_left_it"),
    Broken(SeesLaterEvents, "test_p5_parent_and_child_never_see_each_others_later_events"),
    Broken(ForksTooEarly, "test_p5_a_fork_begins_with_its_parents_events_themselves"),
    Broken(ClipsOnlyTheParent, "test_p5_a_fork_reaches_back_beyond_its_parents_own_fork"),
    Broken(ErasesWhatForksNeed, "test_p6_erasure_spares_exactly_what_a_living_fork_reaches"),
    Broken(SparesTooMuch, "test_p6_erasure_spares_exactly_what_a_living_fork_reaches"),
    Broken(NeverErases, "test_p6_the_events_of_a_deleted_stream_are_erased"),
    Broken(ReusesNames, "test_p6_a_deleted_stream_answers_nothing_but_that"),
    Broken(ReplacesTombstones, "test_p6_deleting_again_returns_the_first_tombstone"),
    Broken(ReusesPositions, "test_p2_the_positions_of_what_was_erased_are_not_given_out_again"),
    Broken(HashesNoTime, "test_p7_digests_are_what_the_promise_says"),
    Broken(HashesNoMeta, "test_p7_the_digests_of_a_known_history_are_known"),
    Broken(HashesNoSalt, "test_p7_digests_are_what_the_promise_says"),
    Broken(HashesNoPrevious, "test_p7_the_digests_of_a_known_history_are_known"),
    Broken(BelievesExports, "test_p7_a_tampered_record_is_refused_and_nothing_written"),
    Broken(RestoresAnew, "test_p7_a_restored_stream_has_equal_digests"),
    Broken(RestoresOverAnything, "test_a_tail_is_not_added_behind_other_events", by_machine=False),
    Broken(LosesARecord, "test_the_whole_log_can_be_read_from_every_position_in_pages_of_any_size"),
    Broken(StopsTooEarly, "test_reads_give_exactly_the_range_that_was_asked_for"),
    Broken(LimitsTheWrongEnd, "test_a_long_stream_is_read_whole_in_both_directions"),
    Broken(ListsByTime, "test_streams_are_listed_newest_activity_first"),
    Broken(LosesAStreamBetweenPages, "test_pages_of_any_size_list_every_stream_once"),
    Broken(ListsDeadChildren, "test_children_are_the_direct_forks_that_live_oldest_first"),
    Broken(TakesAnyCursor, "test_a_position_of_another_log_is_refused", by_machine=False),
    Broken(TakesLostPositions, "test_a_position_that_the_log_has_not_reached_is_refused", by_machine=False),
    Broken(FollowsToTheEnd, "test_following_gives_what_is_there_and_then_what_comes", by_machine=False),
    Broken(FollowsTooMuch, "test_following_a_stream_can_go_on_behind_any_position", by_machine=False),
    Broken(KeepsStaleSnapshots, "test_a_snapshot_is_given_back_to_the_revision_that_made_it"),
    Broken(LosesWhatCameBehind, "test_what_came_behind_a_snapshot_is_given_with_it"),
    Broken(ForgetsTheDeleted, "test_the_names_of_deleted_streams_stand_in_the_checkpoint"),
    Broken(NeverCloses, "test_a_closed_log_does_nothing_and_says_so", by_machine=False),
]


def put_to(claim: str, log: type[MemoryEventLog], directory: Path) -> None:
    """Run one test of the contract on a log of this class, as pytest would."""

    class Contract(EventLogContract):
        def open(
            self, path: Path, *, clock: Callable[[], int] = time.time_ns, entropy: Callable[[int], bytes] = os.urandom
        ) -> EventLog:
            del path
            return log(clock=clock, entropy=entropy)

    contract = Contract()
    contract.directory = directory
    getattr(contract, claim)()


def put_to_machine(log: type[MemoryEventLog], *, rounds: int) -> None:
    """Run the state machine on a log of this class, in short rounds: new beginnings find more than long searches."""

    def open_log(path: Path, *, clock: Callable[[], int], entropy: Callable[[int], bytes]) -> EventLog:
        del path
        return log(clock=clock, entropy=entropy)

    for number in range(rounds):
        run_state_machine_as_test(
            seed(number)(log_machine(open_log)),
            settings=settings(
                max_examples=20,
                phases=[Phase.generate],  # a smaller example is of no use here
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: f"{broken.log.__name__}-{broken.caught_by}")
def test_a_broken_log_is_caught_by_the_claim_that_is_meant_to(broken: Broken, tmp_path: Path) -> None:
    with pytest.raises(CATCHES):
        put_to(broken.caught_by, broken.log, tmp_path)


@pytest.mark.parametrize("claim", sorted({broken.caught_by for broken in BROKEN}))
def test_the_unbroken_log_passes_by_the_same_route(claim: str, tmp_path: Path) -> None:
    put_to(claim, MemoryEventLog, tmp_path)


@pytest.mark.parametrize("broken", [b for b in BROKEN if b.by_machine], ids=lambda broken: broken.log.__name__)
def test_a_broken_log_is_caught_by_the_machine(broken: Broken) -> None:
    with pytest.raises(CATCHES):
        put_to_machine(broken.log, rounds=10)


def test_the_unbroken_log_passes_the_machine() -> None:
    put_to_machine(MemoryEventLog, rounds=1)
