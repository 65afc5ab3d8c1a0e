"""Deleting and erasing: P6."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from eventstore.errors import (
    EventTooLargeError,
    InvalidEventError,
    StreamDeletedError,
    StreamNotFoundError,
    WrongVersionError,
)
from eventstore.log import START, CheckpointEntry, Deletion, Event, EventLog, Expected, Forked
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


class DeleteContract(ContractBase):
    """The tombstone."""

    @claim
    async def test_p6_a_tombstone_keeps_where_the_stream_stood_why_and_by_whom(self, log: EventLog) -> None:
        log = self.another(clock=lambda: 1_234)
        await log.append("s", numbered(3))
        head = await head_of(log, "s")
        deletion = await log.delete("s", reason="asked to ✂", actor="someone")
        assert deletion == Deletion("s", 3, head.digest, "asked to ✂", "someone", deletion.position, 1_234)
        assert deletion.position > head.position
        assert (await everything(log))[-1] == deletion
        assert (await log.checkpoint()).entries == [CheckpointEntry("s", 3, head.digest, deleted=True)]

    @claim
    async def test_p6_a_deleted_stream_answers_nothing_but_that(self, log: EventLog) -> None:
        await log.append("s", notes("x"), commit_id=a_commit_id(1))
        await log.put_snapshot("s", "state", 1, 1, b"x")
        records = await log.read("s")
        await log.append("t", notes("x"))
        await log.delete("s")
        attempts: list[Callable[[], Awaitable[object]]] = [
            lambda: log.append("s", notes("late")),
            lambda: log.append("s", notes("late"), expected=Expected.NO_STREAM),
            lambda: log.append("s", notes("x"), commit_id=a_commit_id(1)),
            lambda: log.head("s"),
            lambda: log.read("s"),
            lambda: log.contents("s"),
            lambda: log.children("s"),
            lambda: log.fork("s", "child"),
            lambda: log.fork("t", "s"),
            lambda: log.restore("s", records),
            lambda: log.get_snapshot("s", "state", 1),
            lambda: log.put_snapshot("s", "state", 1, 0, b""),
        ]
        for _ in range(2):  # before and after erasure
            for attempt in attempts:
                with pytest.raises(StreamDeletedError) as caught:
                    await attempt()
                assert caught.value.stream == "s"
            await log.erase()
        assert [(type(record), record.stream) for record in await everything(log)] == [(Event, "t"), (Deletion, "s")]
        assert [head.stream for head in await all_heads(log)] == ["t"]

    @claim
    async def test_p6_deleting_again_returns_the_first_tombstone(self, log: EventLog) -> None:
        await log.append("s", numbered(2))
        first = await log.delete("s", reason="first")
        assert await log.delete("s", reason="second", expected=7) == first
        await log.erase()
        assert await log.delete("s") == first
        assert [record for record in await everything(log) if isinstance(record, Deletion)] == [first]

    @claim
    async def test_p3_a_delete_with_a_wrong_expectation_deletes_nothing(self, log: EventLog) -> None:
        await log.append("s", numbered(2))
        for wrong in (Expected.NO_STREAM, 1, 3):
            with pytest.raises(WrongVersionError) as caught:
                await log.delete("s", expected=wrong)
            assert (caught.value.stream, caught.value.expected, caught.value.actual) == ("s", wrong, 2)
        assert texts(await everything(log)) == ["1", "2"]
        await log.delete("s", expected=2)
        await log.append("t", notes("x"))
        await log.delete("t", expected=Expected.EXISTS)

    @claim
    async def test_what_a_tombstone_cannot_keep_is_refused(self, log: EventLog) -> None:
        await log.append("s", notes("x"))
        for text in ("x" * 4_097, "é" * 2_049):
            with pytest.raises(EventTooLargeError):
                await log.delete("s", reason=text)
            with pytest.raises(EventTooLargeError):
                await log.delete("s", actor=text)
        with pytest.raises(InvalidEventError):
            await log.delete("s", reason="\ud800")
        assert texts(await log.read("s")) == ["x"]
        assert (await log.delete("s", reason="é" * 2_048, actor="x" * 4_096)).reason == "é" * 2_048

    @claim
    async def test_a_stream_that_was_never_created_cannot_be_deleted(self, log: EventLog) -> None:
        for expected in (Expected.ANY, Expected.NO_STREAM):
            with pytest.raises(StreamNotFoundError):
                await log.delete("none", expected=expected)
        assert (await log.append("none", notes("x"))).version == 1


class EraseContract(ContractBase):
    """What erasure takes, and what it spares."""

    @claim
    async def test_p6_the_events_of_a_deleted_stream_are_erased(self, log: EventLog) -> None:
        await log.append("s", numbered(500))
        await log.append("t", notes("x"))
        await log.fork("t", "u")
        await log.delete("s")
        assert 0 <= await log.erase() <= 500
        records = await everything(log)
        assert [(type(record), record.stream) for record in records] == [(Event, "t"), (Forked, "u"), (Deletion, "s")]
        assert await log.erase() == 0

    @claim
    async def test_p6_erasure_spares_exactly_what_a_living_fork_reaches(self, log: EventLog) -> None:
        await log.append("parent", notes("1", "2", "3", "4", "5"))
        await log.fork("parent", "early", at=1)
        await log.fork("parent", "child", at=3, events=notes("own"))
        child = await log.read("child")
        await log.delete("parent")
        await log.erase()
        assert texts(await everything(log)) == ["1", "2", "3", "own"]
        assert await log.read("child", verify=True) == child
        assert texts(await log.read("early", verify=True)) == ["1"]

    @claim
    async def test_p6_the_last_fork_frees_what_it_reached(self, log: EventLog) -> None:
        for order in ("ab", "ba"):
            await log.append("parent" + order, notes("1", "2", "3", "4"))
            await log.fork("parent" + order, "a" + order, at=1)
            await log.fork("parent" + order, "b" + order, at=3)
            await log.delete("parent" + order)
            await log.delete(order[0] + order)
            await log.erase()
            assert texts(await everything(log)) == (["1", "2", "3"] if order == "ab" else ["1"])
            await log.delete(order[1] + order)
            await log.erase()
            assert texts(await everything(log)) == []

    @claim
    async def test_p6_a_fork_of_a_deleted_fork_keeps_its_whole_lineage(self, log: EventLog) -> None:
        await log.append("a", notes("a1", "a2", "a3"))
        await log.fork("a", "b", at=2, events=notes("b3", "b4"))
        await log.fork("b", "c", at=3, events=notes("c4"))
        await log.delete("b")
        await log.delete("a")
        await log.erase()
        assert texts(await log.read("c", verify=True)) == ["a1", "a2", "b3", "c4"]
        assert texts(await everything(log)) == ["a1", "a2", "b3", "c4"]
        await log.append("c", notes("c5"))
        await log.fork("c", "d", at=1)
        await log.delete("c")
        await log.erase()
        assert texts(await everything(log)) == ["a1"]
        await log.delete("d")
        await log.erase()
        assert texts(await everything(log)) == []

    @claim
    async def test_p6_deleting_a_fork_leaves_its_parent_whole(self, log: EventLog) -> None:
        await log.append("parent", notes("1", "2", "3"))
        await log.fork("parent", "child", at=2, events=notes("own"))
        await log.fork("parent", "empty", at=3)
        await log.delete("child")
        await log.delete("empty")
        await log.erase()
        assert texts(await everything(log)) == ["1", "2", "3"]
        assert texts(await log.read("parent", verify=True)) == ["1", "2", "3"]

    @claim
    async def test_p6_a_fork_at_nothing_spares_nothing(self, log: EventLog) -> None:
        await log.append("parent", notes("1", "2"))
        await log.fork("parent", "child", at=0)
        await log.delete("parent")
        await log.erase()
        assert texts(await everything(log)) == []
        assert (await log.append("child", notes("own"), expected=0)).version == 1

    @claim
    async def test_p2_the_positions_of_what_was_erased_are_not_given_out_again(self, log: EventLog) -> None:
        await log.append("s", numbered(3))
        used = [record.position for record in await everything(log)]
        used.append((await log.delete("s")).position)
        await log.erase()
        commit = await log.append("t", notes("x"))
        assert commit.position > max(used)
        assert texts(await log.read_all(after=used[1])) == ["x"]  # a cursor outlives its record

    @claim
    async def test_the_names_of_deleted_streams_stand_in_the_checkpoint(self, log: EventLog) -> None:
        await log.append("a", numbered(2))
        await log.fork("a", "b", at=1)
        heads = {name: await head_of(log, name) for name in "ab"}
        await log.delete("a")
        await log.erase()
        entries = sorted((await log.checkpoint()).entries, key=lambda entry: entry.stream)
        assert entries == [
            CheckpointEntry("a", 2, heads["a"].digest, deleted=True),
            CheckpointEntry("b", 1, heads["b"].digest),
        ]

    @claim
    async def test_a_reader_from_the_start_of_the_log_passes_what_was_erased(self, log: EventLog) -> None:
        for name in "abc":
            await log.append(name, notes(f"{name}1", f"{name}2"))
        await log.delete("a")
        await log.delete("c")
        await log.erase()
        page = await log.read_all(after=START, limit=1)
        assert texts(page) == ["b1"]
        assert texts(await log.read_all(after=page[0].position)) == ["b2"]
