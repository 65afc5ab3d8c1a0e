"""Reading: one stream, the whole log, and the list of streams."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

import pytest

from eventstore.errors import InvalidCursorError, StreamNotFoundError
from eventstore.log import NO_DIGEST, START, Content, Deletion, Event, EventLog, Forked, Position
from eventstore.testing.contract_base import (
    ContractBase,
    a_commit_id,
    all_heads,
    claim,
    everything,
    head_of,
    notes,
    numbered,
    texts,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class ReadContract(ContractBase):
    """`head` and `read`."""

    @claim
    async def test_reads_give_exactly_the_range_that_was_asked_for(self, log: EventLog) -> None:
        await log.append("root", numbered(3))
        await log.fork("root", "fork", at=2, events=numbered(2, start=3))
        for stream, count in [("root", 3), ("fork", 4)]:
            lineage = await log.read(stream)
            assert texts(lineage) == [str(version) for version in range(1, count + 1)]
            bounds = itertools.product(range(6), [None, *range(6)], [None, *range(6)], [False, True])
            for after, upto, limit, reverse in bounds:
                wanted = [e for e in lineage if after < e.version <= (count if upto is None else upto)]
                wanted = (wanted[::-1] if reverse else wanted)[:limit]
                read = await log.read(stream, after=after, upto=upto, limit=limit, reverse=reverse)
                assert read == wanted, (after, upto, limit, reverse)
                if not reverse:
                    contents = await log.contents(stream, after=after, upto=upto, limit=limit)
                    assert contents == [Content(e.version, e.type, e.data, e.meta, e.time_ns) for e in wanted]

    @claim
    async def test_a_long_stream_is_read_whole_in_both_directions(self, log: EventLog) -> None:
        for start in range(1, 1001, 100):
            await log.append("s", numbered(100, start))
        wanted = [str(version) for version in range(1, 1001)]
        assert texts(await log.read("s")) == wanted
        assert texts(await log.read("s", reverse=True)) == wanted[::-1]
        assert texts(await log.read("s", after=300, upto=900, limit=500)) == wanted[300:800]
        assert texts(await log.read("s", after=300, upto=900, limit=500, reverse=True)) == wanted[400:900][::-1]
        assert [content.data.decode() for content in await log.contents("s")] == wanted

    @claim
    async def test_p7_a_verified_read_gives_the_same_events(self, log: EventLog) -> None:
        await log.append("root", numbered(5))
        await log.fork("root", "fork", at=4, events=numbered(2, start=5))
        assert await log.read("fork", verify=True) == await log.read("fork")
        assert await log.read("fork", after=2, upto=5, verify=True) == await log.read("fork", after=2, upto=5)

    @claim
    async def test_a_negative_bound_is_refused(self, log: EventLog) -> None:
        await log.append("s", notes("x"))
        for bounds in ({"after": -1}, {"upto": -1}, {"limit": -1}):
            with pytest.raises(ValueError, match=next(iter(bounds))):
                await log.read("s", **bounds)  # type: ignore[arg-type]
            with pytest.raises(ValueError, match=next(iter(bounds))):
                await log.contents("s", **bounds)

    @claim
    async def test_a_stream_that_was_never_created_is_not_found(self, log: EventLog) -> None:
        assert await log.head("none") is None
        attempts: list[Callable[[], Awaitable[object]]] = [
            lambda: log.read("none"),
            lambda: log.contents("none"),
            lambda: log.children("none"),
            lambda: log.fork("none", "child"),
            lambda: log.delete("none"),
            lambda: log.get_snapshot("none", "state", 1),
            lambda: log.put_snapshot("none", "state", 1, 0, b""),
        ]
        for attempt in attempts:
            with pytest.raises(StreamNotFoundError) as caught:
                await attempt()
            assert caught.value.stream == "none"
        assert await everything(log) == []

    @claim
    async def test_a_head_tells_where_the_stream_stands(self, log: EventLog) -> None:
        now = 1_000
        log = self.another(clock=lambda: now)
        await log.append("s", notes("a", "b"))
        now = 2_000
        commit = await log.append("s", notes("c"))
        head = await head_of(log, "s")
        assert (head.stream, head.version, head.digest, head.position) == ("s", 3, commit.digest, commit.position)
        assert (head.created_ns, head.updated_ns) == (1_000, 2_000)
        assert (head.forked, head.parent, head.forked_at) == (None, None, 0)
        now = 3_000
        fork = await log.fork("s", "fork", at=0)
        assert fork == await head_of(log, "fork")
        assert (fork.version, fork.digest, fork.created_ns, fork.updated_ns) == (0, NO_DIGEST, 3_000, 3_000)
        now = 4_000
        commit = await log.append("fork", notes("d"))
        fork = await head_of(log, "fork")
        assert (fork.version, fork.digest, fork.position) == (1, commit.digest, commit.position)
        assert (fork.created_ns, fork.updated_ns, fork.parent, fork.forked_at) == (3_000, 4_000, "s", 0)


class WholeLogContract(ContractBase):
    """`read_all`."""

    @claim
    async def test_p2_the_whole_log_is_read_in_the_order_of_commits(self, log: EventLog) -> None:
        await log.append("a", notes("1", "2"))
        await log.append("b", notes("3"))
        await log.append("a", notes("4"))
        await log.fork("a", "c", at=1, events=notes("5"))
        await log.fork("b", "d")
        deletion = await log.delete("b")
        records = await log.read_all()
        assert [(type(r), r.stream) for r in records] == [
            *[(Event, "a")] * 2,
            (Event, "b"),
            (Event, "a"),
            (Forked, "c"),
            (Event, "c"),
            (Forked, "d"),
            (Deletion, "b"),
        ]
        assert texts(records) == ["1", "2", "3", "4", "5"]
        assert records[-1] == deletion
        assert await log.read("a") == [records[0], records[1], records[3]]
        assert (records[4], records[6]) == ((await head_of(log, "c")).forked, (await head_of(log, "d")).forked)

    @claim
    async def test_the_whole_log_can_be_read_from_every_position_in_pages_of_any_size(self, log: EventLog) -> None:
        for number in range(4):
            await log.append(f"s{number % 2}", numbered(number + 1))
        await log.fork("s0", "fork")
        records = await log.read_all()
        assert len(records) == 11
        for index in range(len(records) + 1):
            after = records[index - 1].position if index else START
            for limit in range(len(records) + 2):
                assert await log.read_all(after=after, limit=limit) == records[index : index + limit]

    @claim
    async def test_a_page_of_the_whole_log_has_a_thousand_records(self, log: EventLog) -> None:
        await log.append("s", numbered(1_200))
        page = await log.read_all()
        assert len(page) == 1_000
        assert [record.position for record in page] == [e.position for e in await log.read("s", limit=1_000)]

    @claim
    async def test_a_position_of_another_log_is_refused(self, log: EventLog) -> None:
        await log.append("s", notes("x"))
        foreign = (await self.another().append("s", notes("x"))).position
        for cursor in (foreign, Position(b"x"), Position(os.urandom(16)), Position(bytes(17))):
            with pytest.raises(InvalidCursorError):
                await log.read_all(after=cursor)
            with pytest.raises(InvalidCursorError):
                await anext(aiter(log.follow(after=cursor)))

    @claim
    async def test_a_position_that_the_log_has_not_reached_is_refused(self, log: EventLog) -> None:
        """It was handed out before the log was put back to an earlier state: what comes next would be missed."""
        log, lost = (self.another(name, entropy=lambda count: b"\x07" * count) for name in ("log again", "lost"))
        await lost.append("s", numbered(5))
        await log.append("s", numbered(1))
        beyond = (await head_of(lost, "s")).position
        for _ in range(2):
            with pytest.raises(InvalidCursorError):
                await log.read_all(after=beyond)
            with pytest.raises(InvalidCursorError):
                await log.streams(cursor=beyond)
            for stream in (None, "s"):
                with pytest.raises(InvalidCursorError):
                    await anext(aiter(log.follow(after=beyond, stream=stream)))
            assert await log.read_all(after=(await everything(log))[-1].position) == []
            await log.delete("s")  # a deleted stream is followed otherwise


class StreamsContract(ContractBase):
    """`streams`."""

    @claim
    async def test_streams_are_listed_newest_activity_first(self, log: EventLog) -> None:
        times = itertools.count(2**60, -10)  # a clock that runs backwards: activity is order, not time
        log = self.another(clock=lambda: next(times))
        for name in "abcd":
            await log.append(name, notes("x"))
        await log.append("b", notes("y"))
        await log.fork("a", "e", at=0)
        await log.delete("d")
        assert [head.stream for head in await all_heads(log)] == ["e", "b", "c", "a"]
        assert await all_heads(log) == [await head_of(log, name) for name in "ebca"]

    @claim
    async def test_pages_of_any_size_list_every_stream_once(self, log: EventLog) -> None:
        names = [f"s{number:02}" for number in range(25)]
        for name in names:
            await log.append(name, notes("x"))
        for name in names[::3]:
            await log.append(name, notes("y"))
        wanted = names[::3][::-1] + [name for name in names[::-1] if name not in names[::3]]
        for limit in (1, 2, 7, 24, 25, 26):
            assert [head.stream for head in await all_heads(log, limit)] == wanted, limit
        page = await log.streams(limit=26)
        assert page.cursor is None
        assert len((await log.streams(limit=7)).items) == 7

    @claim
    async def test_a_page_that_could_hold_nothing_is_refused(self, log: EventLog) -> None:
        await log.append("s", notes("x"))
        for limit in (0, -1):
            with pytest.raises(ValueError, match="limit"):
                await log.streams(limit=limit)
        with pytest.raises(ValueError, match="limit"):
            await log.read_all(limit=-1)
        assert await log.read_all(limit=0) == []

    @claim
    async def test_a_stream_that_stays_quiet_between_pages_is_met_once(self, log: EventLog) -> None:
        for name in "abcdef":
            await log.append(name, notes("x"))
        page = await log.streams(limit=2)
        await log.append("e", notes("y"))  # met already, moves to the front
        await log.append("a", notes("y"))  # not met yet, moves to the front
        rest = await log.streams(limit=10, cursor=page.cursor)
        assert [head.stream for head in page.items] == ["f", "e"]
        assert [head.stream for head in rest.items] == ["d", "c", "b"]

    @claim
    async def test_a_log_without_streams_lists_none(self, log: EventLog) -> None:
        page = await log.streams()
        assert (page.items, page.cursor) == ([], None)
        assert await log.read_all() == []
        assert (await log.checkpoint()).entries == []

    @claim
    async def test_a_cursor_of_another_log_is_refused(self, log: EventLog) -> None:
        other = self.another()
        for number in range(3):
            await log.append(f"s{number}", notes("x"), commit_id=a_commit_id(number))
            await other.append(f"s{number}", notes("x"), commit_id=a_commit_id(number))
        foreign = (await other.streams(limit=1)).cursor
        assert foreign is not None
        for cursor in (foreign, b"x", os.urandom(16)):
            with pytest.raises(InvalidCursorError):
                await log.streams(cursor=cursor)
