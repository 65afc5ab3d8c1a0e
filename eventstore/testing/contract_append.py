"""Appending: P1 to P4, and what an append refuses."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from eventstore.errors import (
    CommitIdReusedError,
    EventTooLargeError,
    InvalidEventError,
    StreamNotFoundError,
    WrongVersionError,
)
from eventstore.log import START, Commit, EventLog, Expected, NewEvent
from eventstore.testing.contract_base import (
    ContractBase,
    a_commit_id,
    claim,
    everything,
    head_of,
    notes,
    numbered,
    texts,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventstore.log import Record


class OrderContract(ContractBase):
    """P1 and P2."""

    @claim
    async def test_p1_what_append_returned_for_can_be_read(self, log: EventLog) -> None:
        new = [NewEvent("größe", b"\x00\xff", b""), NewEvent("t" * 255, b"", b"meta"), *notes("third")]
        commit = await log.append("s", new, commit_id=a_commit_id(1))
        events = await log.read("s")
        assert [NewEvent(e.type, e.data, e.meta) for e in events] == new
        assert [(e.commit_id, e.commit_index, e.commit_size) for e in events] == [
            (a_commit_id(1), i, 3) for i in range(3)
        ]
        assert {(e.stream, e.time_ns, len(e.salt)) for e in events} == {("s", commit.time_ns, 16)}

    @claim
    async def test_p2_versions_are_dense_from_one_in_every_stream(self, log: EventLog) -> None:
        for number in range(6):
            await log.append("a", numbered(number % 3 + 1))
            await log.append("b", notes("x"))
        assert [event.version for event in await log.read("a")] == list(range(1, 13))
        assert [event.version for event in await log.read("b")] == list(range(1, 7))

    @claim
    async def test_p2_positions_follow_the_order_of_commits(self, log: EventLog) -> None:
        positions = []
        for number in range(6):
            await log.append(f"s{number % 2}", numbered(2))
            positions.extend([event.position for event in (await log.read(f"s{number % 2}"))[-2:]])
        assert positions == sorted(set(positions))
        assert [record.position for record in await everything(log)] == positions

    @claim
    async def test_a_commit_tells_where_its_events_stand(self, log: EventLog) -> None:
        await log.append("s", notes("before"))
        commit = await log.append("s", notes("a", "b", "c"), commit_id=a_commit_id(7))
        last = (await log.read("s"))[-1]
        assert commit == Commit("s", 2, 4, last.position, last.time_ns, a_commit_id(7), last.digest)

    @claim
    async def test_p2_nothing_appears_behind_a_position_that_was_handed_out(self, log: EventLog) -> None:
        async def write(stream: str) -> None:
            for number in range(1, 26):
                await log.append(stream, numbered(number % 3 + 1))
                await asyncio.sleep(0)

        seen: list[Record] = []

        async def read_on() -> int:
            page = await log.read_all(after=seen[-1].position if seen else START, limit=7)
            seen.extend(page)
            await asyncio.sleep(0)
            return len(page)

        writers = [asyncio.create_task(write(f"s{number}")) for number in range(4)]
        while not all(writer.done() for writer in writers):
            await read_on()
        await asyncio.gather(*writers)
        while await read_on():
            pass
        assert seen == await everything(log)

    @claim
    async def test_p2_threads_with_loops_of_their_own_can_append(self, log: EventLog) -> None:
        async def write(name: str) -> None:
            for number in range(20):
                await log.append("s", notes(f"{name}{number}", "and"))

        threads = [threading.Thread(target=asyncio.run, args=(write(name),)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        said = texts(await log.read("s"))
        assert sorted(said[0::2]) == sorted(f"{name}{number}" for name in "abcd" for number in range(20))
        assert said[1::2] == ["and"] * 80

    @claim
    async def test_p1_a_cancelled_append_is_there_or_not_and_can_be_repeated(self, log: EventLog) -> None:
        for number in range(10):
            task = asyncio.create_task(log.append("s", numbered(3), commit_id=a_commit_id(number)))
            for _ in range(number % 4):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await log.append("s", numbered(3), commit_id=a_commit_id(number))
        events = await log.read("s")
        assert [event.commit_id for event in events] == [a_commit_id(n) for n in range(10) for _ in range(3)]


class ExpectationContract(ContractBase):
    """P3."""

    @claim
    async def test_p3_a_right_expectation_is_met(self, log: EventLog) -> None:
        await log.append("s", notes("1"), expected=Expected.NO_STREAM)
        await log.append("s", notes("2"), expected=1)
        await log.append("s", notes("3"), expected=Expected.EXISTS)
        await log.append("s", notes("4"), expected=Expected.ANY)
        await log.append("t", notes("1"), expected=0)
        assert texts(await log.read("s")) == ["1", "2", "3", "4"]

    @claim
    async def test_p3_a_wrong_expectation_writes_nothing(self, log: EventLog) -> None:
        await log.append("two", notes("1", "2"))
        before = await everything(log)
        wrong = [("two", 0, 2), ("two", 1, 2), ("two", 3, 2), ("none", 1, 0), ("none", Expected.EXISTS, 0)]
        for stream, expected, actual in wrong:
            with pytest.raises(WrongVersionError) as caught:
                await log.append(stream, notes("x"), expected=expected)
            assert (caught.value.stream, caught.value.expected, caught.value.actual) == (stream, expected, actual)
        assert await everything(log) == before
        assert await log.head("none") is None

    @claim
    async def test_p3_an_empty_stream_is_no_stream_and_exists(self, log: EventLog) -> None:
        await log.append("parent", notes("1"))
        for child, expected in [("a", Expected.NO_STREAM), ("b", Expected.EXISTS)]:
            await log.fork("parent", child, at=0)
            assert (await log.append(child, notes("own"), expected=expected)).version == 1

    @claim
    async def test_p3_of_many_with_the_same_expectation_one_wins(self, log: EventLog) -> None:
        for version in range(5):
            racers = [log.append("s", notes(str(number)), expected=version) for number in range(8)]
            outcomes = await asyncio.gather(*racers, return_exceptions=True)
            winners = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, Commit)]
            losers = [outcome for outcome in outcomes if isinstance(outcome, WrongVersionError)]
            assert (len(winners), len(losers)) == (1, 7)
            assert texts(await log.read("s", after=version)) == [str(winners[0])]

    @claim
    async def test_an_expectation_that_is_none_is_refused(self, log: EventLog) -> None:
        for expected in (-3, 2**32):
            with pytest.raises(InvalidEventError):
                await log.append("s", notes("x"), expected=expected)
        assert await everything(log) == []


class RepetitionContract(ContractBase):
    """P4, for appends."""

    @claim
    async def test_p4_a_numbered_append_is_repeated_at_any_age(self, log: EventLog) -> None:
        first = await log.append("s", notes("a", "b"), expected=0, commit_id=a_commit_id(1))
        second = await log.append("s", notes("c"), expected=2, commit_id=a_commit_id(2))
        await log.append("s", numbered(log.capabilities.recent_events + 10))
        before = await everything(log)
        assert await log.append("s", notes("a", "b"), expected=0, commit_id=a_commit_id(1)) == first
        assert await log.append("s", notes("c"), expected=2, commit_id=a_commit_id(2)) == second
        assert await everything(log) == before

    @claim
    async def test_p4_an_append_to_any_version_is_repeated_while_its_commit_is_recent(self, log: EventLog) -> None:
        for stream, expected in [("any", Expected.ANY), ("exists", Expected.EXISTS)]:
            await log.append(stream, notes("before"))
            first = await log.append(stream, notes("a", "b"), expected=expected, commit_id=a_commit_id(1))
            await log.append(stream, numbered(log.capabilities.recent_events - 2))
            before = await everything(log)
            assert await log.append(stream, notes("a", "b"), expected=expected, commit_id=a_commit_id(1)) == first
            assert await everything(log) == before

    @claim
    async def test_p4_a_commit_that_began_before_the_recent_events_is_forgotten(self, log: EventLog) -> None:
        recent = log.capabilities.recent_events
        await log.append("s", notes("a", "b"), commit_id=a_commit_id(1))
        await log.append("s", numbered(recent - 1))
        assert (await log.append("s", notes("a", "b"), commit_id=a_commit_id(1))).first == recent + 2
        assert (
            await log.append("s", notes("other"), expected=recent + 3, commit_id=a_commit_id(2))
        ).first == recent + 4

    @claim
    async def test_p4_the_newest_commit_is_known_however_long_it_is(self, log: EventLog) -> None:
        long = numbered(2 * log.capabilities.recent_events)
        await log.append("s", notes("before"))
        first = await log.append("s", long, commit_id=a_commit_id(1))
        assert await log.append("s", long, commit_id=a_commit_id(1)) == first
        with pytest.raises(CommitIdReusedError):
            await log.append("s", notes("other"), commit_id=a_commit_id(1))
        await log.append("s", notes("after"))
        assert (await log.append("s", long, commit_id=a_commit_id(1))).first == first.version + 2

    @claim
    async def test_p4_the_kind_of_expectation_may_change_in_a_repetition(self, log: EventLog) -> None:
        first = await log.append("s", notes("a"), commit_id=a_commit_id(1))
        second = await log.append("s", notes("b"), expected=1, commit_id=a_commit_id(2))
        assert await log.append("s", notes("a"), expected=0, commit_id=a_commit_id(1)) == first
        assert await log.append("s", notes("a"), expected=Expected.EXISTS, commit_id=a_commit_id(1)) == first
        assert await log.append("s", notes("b"), expected=Expected.ANY, commit_id=a_commit_id(2)) == second

    @claim
    async def test_p4_the_same_id_with_other_content_is_refused(self, log: EventLog) -> None:
        await log.append("s", [NewEvent("t", b"d", b"m"), NewEvent("u", b"e", b"n")], commit_id=a_commit_id(1))
        before = await everything(log)
        others: list[Sequence[NewEvent]] = [
            [NewEvent("t", b"d", b"m"), NewEvent("u", b"e", b"other")],
            [NewEvent("t", b"d", b"m"), NewEvent("u", b"other", b"n")],
            [NewEvent("other", b"d", b"m"), NewEvent("u", b"e", b"n")],
            [NewEvent("t", b"d", b"m")],
            [NewEvent("t", b"d", b"m"), NewEvent("u", b"e", b"n"), NewEvent("u", b"e", b"n")],
            [NewEvent("u", b"e", b"n"), NewEvent("t", b"d", b"m")],
        ]
        for events in others:
            for expected in (Expected.ANY, Expected.EXISTS, Expected.NO_STREAM):
                with pytest.raises(CommitIdReusedError) as caught:
                    await log.append("s", events, expected=expected, commit_id=a_commit_id(1))
                assert (caught.value.stream, caught.value.commit_id) == ("s", a_commit_id(1))
        assert await everything(log) == before

    @claim
    async def test_p4_the_same_id_at_another_place_is_refused(self, log: EventLog) -> None:
        await log.append("s", notes("a", "b"), commit_id=a_commit_id(1))
        await log.append("s", notes("c"), commit_id=a_commit_id(2))
        before = await everything(log)
        for elsewhere in (1, 2, 3):  # in the middle of it, where another commit stands, and at the head
            with pytest.raises(CommitIdReusedError):
                await log.append("s", notes("a", "b"), expected=elsewhere, commit_id=a_commit_id(1))
        assert await everything(log) == before

    @claim
    async def test_p4_a_new_id_where_another_commit_stands_is_a_wrong_version(self, log: EventLog) -> None:
        await log.append("s", notes("a"), expected=0, commit_id=a_commit_id(1))
        with pytest.raises(WrongVersionError):
            await log.append("s", notes("a"), expected=0, commit_id=a_commit_id(2))

    @claim
    async def test_p4_an_old_id_where_another_commit_stands_is_a_wrong_version(self, log: EventLog) -> None:
        await log.append("s", notes("a"), commit_id=a_commit_id(1))
        await log.append("s", notes("b"), commit_id=a_commit_id(2))
        await log.append("s", numbered(log.capabilities.recent_events))
        with pytest.raises(WrongVersionError):
            await log.append("s", notes("a"), expected=1, commit_id=a_commit_id(1))

    @claim
    async def test_p4_commit_ids_belong_to_their_stream(self, log: EventLog) -> None:
        await log.append("a", notes("x"), commit_id=a_commit_id(1))
        await log.append("b", notes("other"), commit_id=a_commit_id(1))
        assert texts(await everything(log)) == ["x", "other"]

    @claim
    async def test_p4_without_an_id_equal_appends_are_two(self, log: EventLog) -> None:
        commits = [await log.append("s", notes("x")) for _ in range(2)]
        assert [commit.version for commit in commits] == [1, 2]
        assert commits[0].commit_id != commits[1].commit_id

    @claim
    async def test_p4_repetitions_at_the_same_time_are_written_once(self, log: EventLog) -> None:
        for expected in (Expected.ANY, 1):
            repeated = [
                log.append("s", notes("x"), expected=expected, commit_id=a_commit_id(expected + 2)) for _ in range(8)
            ]
            commits = await asyncio.gather(*repeated)
            assert all(commit == commits[0] for commit in commits)
        assert (await head_of(log, "s")).version == 2


class LimitContract(ContractBase):
    """What no append takes, and that everything within the limits is taken."""

    @claim
    async def test_an_event_of_64_mib_is_kept(self, log: EventLog) -> None:
        data = b"refold" * (64 * 2**20 // 6)
        await log.append("s", [NewEvent("large", data, b"meta")])
        (event,) = await log.read("s", verify=True)
        assert event.data == data
        assert event.meta == b"meta"

    @claim
    async def test_an_append_beyond_a_limit_is_refused_and_says_the_limit(self, log: EventLog) -> None:
        limits = log.capabilities
        large = bytes(limits.max_event_bytes)
        too_large: list[tuple[Sequence[NewEvent], int]] = [
            ([NewEvent("t", large, b"m")], limits.max_event_bytes),
            ([NewEvent("t", large)] * (limits.max_commit_bytes // len(large) + 1), limits.max_commit_bytes),
            ([NewEvent("t", b"")] * (limits.max_commit_events + 1), limits.max_commit_events),
            ([NewEvent("t" * 256, b"")], 255),
            ([NewEvent("é" * 128, b"")], 255),
        ]
        for events, limit in too_large:
            with pytest.raises(EventTooLargeError) as caught:
                await log.append("s", events)
            assert caught.value.limit == limit
        assert await everything(log) == []

    @claim
    async def test_a_commit_of_many_events_is_one_commit(self, log: EventLog) -> None:
        count = min(log.capabilities.max_commit_events, 5_000)
        commit = await log.append("s", [NewEvent("t", b"%d" % number) for number in range(count)])
        assert (commit.first, commit.version) == (1, count)
        assert [int(event.data) for event in await log.read("s")] == list(range(count))

    @claim
    async def test_an_append_that_no_log_could_take_is_refused(self, log: EventLog) -> None:
        invalid: list[Sequence[NewEvent]] = [
            [],
            [NewEvent("", b"")],
            [NewEvent("\ud800", b"")],
            [NewEvent("t", "text")],  # type: ignore[arg-type]
            [NewEvent("t", bytearray(b"x"))],  # type: ignore[arg-type]
            [NewEvent("t", b"", "meta")],  # type: ignore[arg-type]
            [NewEvent(b"t", b"")],  # type: ignore[arg-type]
            [*notes("fine"), NewEvent("", b"")],
        ]
        for events in invalid:
            with pytest.raises(InvalidEventError):
                await log.append("s", events)
        for commit_id in (b"", bytes(15), bytes(17), "0123456789abcdef"):
            with pytest.raises(InvalidEventError):
                await log.append("s", notes("x"), commit_id=commit_id)  # type: ignore[arg-type]
        assert await everything(log) == []
        with pytest.raises(StreamNotFoundError):
            await log.read("s")
