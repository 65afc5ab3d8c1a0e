"""Forking: P5, and P4 for forks."""

from __future__ import annotations

import asyncio

import pytest

from eventstore.errors import (
    CommitIdReusedError,
    ForkPointError,
    InvalidEventError,
    StreamDeletedError,
    StreamExistsError,
    StreamNotFoundError,
    WrongVersionError,
)
from eventstore.log import NO_DIGEST, EventLog, Expected, Forked, Head
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


class ForkContract(ContractBase):
    """P5."""

    @claim
    async def test_p5_a_fork_begins_with_its_parents_events_themselves(self, log: EventLog) -> None:
        await log.append("parent", numbered(5))
        parents = await log.read("parent")
        for at in range(6):
            head = await log.fork("parent", f"fork{at}", at=at)
            assert await log.read(f"fork{at}") == parents[:at]
            assert (head.version, head.parent, head.forked_at) == (at, "parent", at)
            assert head.digest == (parents[at - 1].digest if at else NO_DIGEST)
            assert head == await head_of(log, f"fork{at}")
        assert len(await everything(log)) == 5 + 6

    @claim
    async def test_p5_a_fork_is_made_at_the_head_by_default(self, log: EventLog) -> None:
        await log.append("parent", numbered(3))
        assert (await log.fork("parent", "fork")).forked_at == 3

    @claim
    async def test_p5_parent_and_child_never_see_each_others_later_events(self, log: EventLog) -> None:
        await log.append("parent", notes("1", "2", "3"))
        await log.fork("parent", "child", at=2)
        await log.append("child", notes("child 3"))
        await log.append("parent", notes("parent 4"))
        await log.fork("parent", "sibling", at=2, events=notes("sibling 3"))
        assert texts(await log.read("parent")) == ["1", "2", "3", "parent 4"]
        assert texts(await log.read("child")) == ["1", "2", "child 3"]
        assert texts(await log.read("sibling")) == ["1", "2", "sibling 3"]
        assert [event.stream for event in await log.read("child")] == ["parent", "parent", "child"]

    @claim
    async def test_p5_the_first_events_are_in_the_same_commit_as_the_fork(self, log: EventLog) -> None:
        await log.append("parent", numbered(2))
        head = await log.fork("parent", "child", at=1, events=notes("a", "b"), commit_id=a_commit_id(9))
        marker, first, second = await log.read_all(after=(await log.read("parent"))[-1].position)
        assert isinstance(marker, Forked)
        assert marker == head.forked == Forked("child", "parent", 1, marker.position, first.time_ns, a_commit_id(9))
        events = await log.read("child", after=1)
        assert events == [first, second]
        assert [(e.commit_id, e.commit_index, e.commit_size) for e in events] == [
            (a_commit_id(9), i, 2) for i in (0, 1)
        ]
        assert (head.version, head.position, head.digest) == (3, events[1].position, events[1].digest)

    @claim
    async def test_p5_a_fork_reaches_back_beyond_its_parents_own_fork(self, log: EventLog) -> None:
        await log.append("a", notes("a1", "a2", "a3", "a4", "a5"))
        await log.fork("a", "b", at=4, events=notes("b5", "b6"))
        await log.fork("b", "c", at=2, events=notes("c3"))
        await log.fork("c", "d", at=3, events=notes("d4"))
        await log.fork("d", "e", at=1)
        assert texts(await log.read("c")) == ["a1", "a2", "c3"]
        assert texts(await log.read("d")) == ["a1", "a2", "c3", "d4"]
        assert texts(await log.read("e")) == ["a1"]
        assert (await head_of(log, "c")).parent == "b"

    @claim
    async def test_p5_forks_can_be_deep(self, log: EventLog) -> None:
        depth = 60
        await log.append("s0", notes("0", "of s0 alone"))
        for number in range(1, depth):
            await log.fork(f"s{number - 1}", f"s{number}", at=number, events=notes(str(number), f"of s{number} alone"))
        wanted = [str(number) for number in range(depth)]
        assert texts(await log.read(f"s{depth - 1}")) == [*wanted, f"of s{depth - 1} alone"]
        assert texts(await log.read(f"s{depth - 1}", after=7, upto=20)) == wanted[7:20]
        await log.fork(f"s{depth - 1}", "early", at=3)
        assert texts(await log.read("early")) == wanted[:3]

    @claim
    async def test_p5_a_commit_can_be_forked_in_its_middle(self, log: EventLog) -> None:
        await log.append("parent", notes("1", "2", "3"), commit_id=a_commit_id(1))
        await log.fork("parent", "child", at=2)
        await log.append("child", notes("own"), commit_id=a_commit_id(1))
        events = await log.read("child")
        assert texts(events) == ["1", "2", "own"]
        assert [(event.commit_index, event.commit_size) for event in events] == [(0, 3), (1, 3), (0, 1)]

    @claim
    async def test_p3_the_inherited_events_count_as_the_forks_version(self, log: EventLog) -> None:
        await log.append("parent", numbered(3))
        await log.fork("parent", "child", at=2)
        for wrong in (Expected.NO_STREAM, 1, 3):
            with pytest.raises(WrongVersionError) as caught:
                await log.append("child", notes("x"), expected=wrong)
            assert caught.value.actual == 2
        assert (await log.append("child", notes("x"), expected=2)).version == 3

    @claim
    async def test_children_are_the_direct_forks_that_live_oldest_first(self, log: EventLog) -> None:
        await log.append("parent", numbered(3))
        assert await log.children("parent") == []
        for name, at in [("z", 3), ("a", 0), ("m", 2)]:
            await log.fork("parent", name, at=at)
        await log.fork("a", "grandchild")
        await log.append("z", notes("own"))
        assert await log.children("parent") == [await head_of(log, name) for name in "zam"]
        await log.delete("a")
        assert [head.stream for head in await log.children("parent")] == ["z", "m"]


class ForkRefusalContract(ContractBase):
    """Forks that cannot be made, and forks that were made before."""

    @claim
    async def test_a_fork_that_cannot_be_made_writes_nothing(self, log: EventLog) -> None:
        await log.append("parent", numbered(2))
        await log.append("taken", numbered(1))
        await log.append("gone", numbered(1))
        await log.delete("gone")
        await log.erase()
        before = await everything(log)
        for at in (3, 100, -1):
            with pytest.raises(ForkPointError) as beyond:
                await log.fork("parent", "child", at=at)
            assert (beyond.value.parent, beyond.value.at, beyond.value.head) == ("parent", at, 2)
        with pytest.raises(StreamNotFoundError, match="none"):
            await log.fork("none", "child")
        for taken in ("taken", "parent"):
            with pytest.raises(StreamExistsError, match=taken):
                await log.fork("parent", taken)
        with pytest.raises(StreamDeletedError, match="gone"):
            await log.fork("parent", "gone")
        with pytest.raises(StreamDeletedError, match="gone"):
            await log.fork("gone", "child")
        with pytest.raises(InvalidEventError):
            await log.fork("parent", "child", commit_id=b"short")
        assert await everything(log) == before
        assert await log.head("child") is None

    @claim
    async def test_of_many_forks_to_one_name_one_is_made(self, log: EventLog) -> None:
        await log.append("parent", numbered(2))
        forks = [log.fork("parent", "child", at=number % 3, events=notes(str(number))) for number in range(8)]
        outcomes = await asyncio.gather(*forks, return_exceptions=True)
        winners = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, Head)]
        assert len(winners) == 1
        assert sum(isinstance(outcome, StreamExistsError) for outcome in outcomes) == 7
        assert texts(await log.read("child")) == [*["1", "2"][: winners[0] % 3], str(winners[0])]

    @claim
    async def test_p4_a_repeated_fork_returns_the_head_as_the_first_one_left_it(self, log: EventLog) -> None:
        await log.append("parent", numbered(3))
        plain = await log.fork("parent", "plain", at=2, commit_id=a_commit_id(1))
        eager = await log.fork("parent", "eager", events=notes("a", "b"), commit_id=a_commit_id(2))
        for stream in ("parent", "plain", "eager"):
            await log.append(stream, notes("later"), commit_id=a_commit_id(3))
        before = await everything(log)
        for at in (2, None):
            assert await log.fork("parent", "plain", at=at, commit_id=a_commit_id(1)) == plain
        for at in (3, None):
            again = await log.fork("parent", "eager", at=at, events=notes("a", "b"), commit_id=a_commit_id(2))
            assert again == eager
        assert await everything(log) == before

    @claim
    async def test_p4_a_repeated_fork_of_other_content_is_refused(self, log: EventLog) -> None:
        await log.append("parent", numbered(3))
        await log.fork("parent", "other parent", at=2)
        await log.fork("parent", "child", at=2, events=notes("a"), commit_id=a_commit_id(1))
        before = await everything(log)
        others = [
            ("parent", 1, notes("a")),
            ("parent", 2, notes("other")),
            ("parent", 2, notes("a", "b")),
            ("parent", 2, []),
            ("other parent", 2, notes("a")),
        ]
        for parent, at, events in others:
            with pytest.raises(CommitIdReusedError):
                await log.fork(parent, "child", at=at, events=events, commit_id=a_commit_id(1))
        with pytest.raises(StreamExistsError):
            await log.fork("parent", "child", at=2, events=notes("a"), commit_id=a_commit_id(2))
        with pytest.raises(StreamExistsError):
            await log.fork("parent", "child", at=2, events=notes("a"))
        assert await everything(log) == before

    @claim
    async def test_p4_a_fork_can_be_repeated_after_its_parent_was_deleted(self, log: EventLog) -> None:
        await log.append("parent", numbered(3))
        first = await log.fork("parent", "child", at=2, commit_id=a_commit_id(1))
        await log.delete("parent")
        await log.erase()
        assert await log.fork("parent", "child", at=2, commit_id=a_commit_id(1)) == first

    @claim
    async def test_p4_forks_at_the_same_time_with_the_same_id_are_one(self, log: EventLog) -> None:
        await log.append("parent", numbered(2))
        repeated = [log.fork("parent", "child", events=notes("a"), commit_id=a_commit_id(1)) for _ in range(8)]
        heads = await asyncio.gather(*repeated)
        assert all(head == heads[0] for head in heads)
        assert texts(await log.read("child")) == ["1", "2", "a"]

    @claim
    async def test_p4_commits_inherited_by_a_fork_are_not_its_own(self, log: EventLog) -> None:
        await log.append("parent", notes("a"), commit_id=a_commit_id(1))
        await log.append("parent", notes("b"), commit_id=a_commit_id(2))
        await log.fork("parent", "child")
        with pytest.raises(WrongVersionError):
            await log.append("child", notes("b"), expected=1, commit_id=a_commit_id(2))
        assert (await log.append("child", notes("b"), commit_id=a_commit_id(2))).version == 3
        assert texts(await log.read("child")) == ["a", "b", "b"]

    @claim
    async def test_p4_the_id_of_a_fork_is_taken_for_good(self, log: EventLog) -> None:
        await log.append("parent", numbered(2))
        first = await log.fork("parent", "child", commit_id=a_commit_id(1))
        for expected in (2, 1, Expected.ANY, Expected.EXISTS):
            with pytest.raises(CommitIdReusedError):
                await log.append("child", notes("a"), expected=expected, commit_id=a_commit_id(1))
        await log.append("child", numbered(300), commit_id=a_commit_id(2))
        with pytest.raises(CommitIdReusedError):
            await log.append("child", notes("a"), commit_id=a_commit_id(1))
        assert await log.fork("parent", "child", commit_id=a_commit_id(1)) == first

    @claim
    async def test_p4_the_first_events_of_a_fork_are_a_commit_of_its_own(self, log: EventLog) -> None:
        await log.append("parent", numbered(2))
        head = await log.fork("parent", "child", events=notes("a"), commit_id=a_commit_id(1))
        for expected in (2, Expected.ANY):
            again = await log.append("child", notes("a"), expected=expected, commit_id=a_commit_id(1))
            assert (again.first, again.version, again.position, again.digest) == (3, 3, head.position, head.digest)
        with pytest.raises(CommitIdReusedError):
            await log.append("child", notes("b"), commit_id=a_commit_id(1))
