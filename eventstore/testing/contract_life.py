"""Names, closing, and reopening."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from eventstore.errors import ClosedError, CommitIdReusedError, InvalidStreamNameError, StreamDeletedError
from eventstore.log import START, EventLog, Expected
from eventstore.testing.contract_base import (
    ContractBase,
    a_commit_id,
    all_heads,
    claim,
    everything,
    head_of,
    notes,
    numbered,
    take,
    texts,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class NameContract(ContractBase):
    """What a stream may be called."""

    @claim
    async def test_a_name_that_cannot_be_one_is_refused_everywhere(self, log: EventLog) -> None:
        await log.append("s", notes("x"))

        def attempts(name: str) -> list[Callable[[], Awaitable[object]]]:
            return [
                lambda: log.append(name, notes("x")),
                lambda: log.head(name),
                lambda: log.read(name),
                lambda: log.fork(name, "child"),
                lambda: log.fork("s", name),
                lambda: log.children(name),
                lambda: log.delete(name),
                lambda: anext(aiter(log.follow(stream=name))),
                lambda: log.restore(name, []),
                lambda: log.get_snapshot(name, "state", 1),
                lambda: log.put_snapshot(name, "state", 1, 0, b""),
            ]

        for name in ("", "x" * 256, "é" * 128, "a\nb", "\x00", "\x7f", "\x85", "\ud800"):
            for attempt in attempts(name):
                with pytest.raises(InvalidStreamNameError) as caught:
                    await attempt()
                assert caught.value.stream == name
        for other in (b"bytes", None, 7):
            with pytest.raises(InvalidStreamNameError):
                await log.append(other, notes("x"))  # type: ignore[arg-type]
        assert texts(await everything(log)) == ["x"]

    @claim
    async def test_any_other_name_is_a_stream_of_its_own(self, log: EventLog) -> None:
        names = [
            "x" * 255,
            "é" * 127,
            " ",
            ".",
            "..",
            "a/b",
            "a\\b",
            "🙂",
            "e\u0301",
            "\u00e9",
            "E\u0301",
            "\u202e",
            "a",
            "A",
        ]
        for name in names:
            await log.append(name, notes(name), expected=Expected.NO_STREAM)
        for name in names:
            assert texts(await log.read(name)) == [name]
        assert [head.stream for head in await all_heads(log)] == names[::-1]


class ClosingContract(ContractBase):
    """`aclose`."""

    @claim
    async def test_a_closed_log_does_nothing_and_says_so(self, log: EventLog) -> None:
        await log.append("s", notes("x"))
        records = await log.read("s")
        await log.aclose()
        attempts: list[Callable[[], Awaitable[object]]] = [
            lambda: log.append("s", notes("x")),
            lambda: log.head("s"),
            lambda: log.read("s"),
            log.read_all,
            lambda: log.fork("s", "child"),
            lambda: log.children("s"),
            log.streams,
            lambda: log.delete("s"),
            log.erase,
            lambda: anext(aiter(log.follow())),
            lambda: anext(aiter(log.follow(stream="s"))),
            lambda: log.restore("s", records),
            log.checkpoint,
            lambda: log.get_snapshot("s", "state", 1),
            lambda: log.put_snapshot("s", "state", 1, 0, b""),
        ]
        for attempt in attempts:
            with pytest.raises(ClosedError):
                await attempt()

    @claim
    async def test_closing_twice_is_fine(self, log: EventLog) -> None:
        await log.aclose()
        await log.aclose()
        await asyncio.gather(log.aclose(), log.aclose())

    @claim
    async def test_a_log_is_its_own_context_and_closed_behind_it(self, log: EventLog) -> None:
        async with log as entered:
            assert entered is log
            await entered.append("s", notes("x"))
        with pytest.raises(ClosedError):
            await log.head("s")

    @claim
    async def test_p1_closing_finishes_what_was_begun(self, log: EventLog) -> None:
        appends = [asyncio.create_task(log.append("s", notes(str(number)))) for number in range(5)]
        await asyncio.sleep(0)
        await log.aclose()
        for outcome in await asyncio.gather(*appends, return_exceptions=True):
            assert not isinstance(outcome, BaseException) or isinstance(outcome, ClosedError)


class ReopeningContract(ContractBase):
    """For logs that outlive the object: what was closed is found again."""

    persistent = True

    @claim
    async def test_p1_everything_is_found_again(self, log: EventLog) -> None:
        await log.append("a", numbered(4))
        await log.fork("a", "b", at=2, events=notes("own"))
        await log.fork("b", "c", at=0)
        await log.append("gone", notes("x"))
        deletion = await log.delete("gone", reason="why", actor="who")
        await log.erase()
        await log.put_snapshot("a", "state", 1, 3, b"folded")
        records, heads, snapshot = await everything(log), await all_heads(log), await log.get_snapshot("a", "state", 1)
        checkpoint, children = await log.checkpoint(), await log.children("a")
        again = await self.reopen(log)
        assert await everything(again) == records
        assert await all_heads(again) == heads
        assert await again.children("a") == children
        assert await again.get_snapshot("a", "state", 1) == snapshot
        assert (await again.checkpoint()).entries == checkpoint.entries
        assert (await again.checkpoint()).log_id == checkpoint.log_id
        assert await again.delete("gone") == deletion

    @claim
    async def test_p2_a_position_outlives_the_object_that_handed_it_out(self, log: EventLog) -> None:
        await log.append("a", notes("1", "2"))
        await log.append("b", notes("3"))
        records = await everything(log)
        cursor = (await log.streams(limit=1)).cursor
        again = await self.reopen(log)
        assert await again.read_all(after=records[0].position) == records[1:]
        assert await take(aiter(again.follow(after=records[1].position)), 1) == records[2:]
        assert [head.stream for head in (await again.streams(cursor=cursor)).items] == ["a"]

    @claim
    async def test_p4_a_repetition_is_known_after_reopening(self, log: EventLog) -> None:
        first = await log.append("s", notes("a", "b"), commit_id=a_commit_id(1))
        fork = await log.fork("s", "fork", at=1, commit_id=a_commit_id(2))
        await log.append("s", notes("later"))
        long = numbered(2 * log.capabilities.recent_events)
        newest = await log.append("long", long, commit_id=a_commit_id(3))
        again = await self.reopen(log)
        assert await again.append("long", long, commit_id=a_commit_id(3)) == newest
        for expected in (Expected.ANY, Expected.EXISTS, Expected.NO_STREAM):
            assert await again.append("s", notes("a", "b"), expected=expected, commit_id=a_commit_id(1)) == first
            with pytest.raises(CommitIdReusedError):
                await again.append("s", notes("other"), expected=expected, commit_id=a_commit_id(1))
        assert await again.fork("s", "fork", at=1, commit_id=a_commit_id(2)) == fork
        assert (await head_of(again, "s")).version == 3

    @claim
    async def test_p6_a_deleted_name_stays_taken_and_its_positions_used(self, log: EventLog) -> None:
        await log.append("s", numbered(3))
        deletion = await log.delete("s")
        await log.erase()
        again = await self.reopen(log)
        with pytest.raises(StreamDeletedError):
            await again.append("s", notes("x"))
        assert (await again.append("t", notes("x"))).position > deletion.position
        assert texts(await again.read_all(after=START)) == ["x"]

    @claim
    async def test_p6_erasure_that_was_owed_is_done_after_reopening(self, log: EventLog) -> None:
        await log.append("parent", numbered(3))
        await log.fork("parent", "child", at=1)
        await log.delete("parent")
        again = await self.reopen(log)
        await again.erase()
        assert texts(await everything(again)) == ["1"]

    @claim
    async def test_a_log_can_be_reopened_many_times(self, log: EventLog) -> None:
        for number in range(1, 6):
            await log.append("s", notes(str(number)), expected=number - 1)
            log = await self.reopen(log)
        assert texts(await log.read("s", verify=True)) == ["1", "2", "3", "4", "5"]
