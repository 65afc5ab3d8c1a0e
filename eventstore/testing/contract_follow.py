"""Following the log as it grows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from eventstore.errors import ClosedError
from eventstore.log import START, EventLog, Forked
from eventstore.testing.contract_base import (
    PATIENCE_SECONDS,
    ContractBase,
    claim,
    everything,
    notes,
    numbered,
    take,
    take_all,
    texts,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from eventstore.log import Record


class FollowContract(ContractBase):
    """`follow`."""

    @claim
    async def test_following_gives_what_is_there_and_then_what_comes(self, log: EventLog) -> None:
        await log.append("a", notes("1"))
        followed = aiter(log.follow())
        assert texts(await take(followed, 1)) == ["1"]
        waiting = asyncio.create_task(take(followed, 4))
        await log.append("b", notes("2", "3"))
        await log.fork("b", "c")  # needs both, so that the deletion erases nothing that is yet to come
        deletion = await log.delete("b")
        records = await waiting
        assert texts(records) == ["2", "3"]
        assert isinstance(records[2], Forked)
        assert records[3] == deletion

    @claim
    async def test_following_can_go_on_behind_any_position(self, log: EventLog) -> None:
        await log.append("a", numbered(3))
        await log.fork("a", "b", events=notes("4"))
        records = await everything(log)
        for index in range(len(records)):
            after = records[index - 1].position if index else START
            assert await take(aiter(log.follow(after=after)), len(records) - index) == records[index:]
        newest = asyncio.create_task(take(aiter(log.follow(after=records[-1].position)), 1))
        await log.append("a", notes("new"))
        assert texts(await newest) == ["new"]

    @claim
    async def test_p2_followers_miss_nothing_that_many_writers_commit(self, log: EventLog) -> None:
        async def write(stream: str) -> None:
            for number in range(10):
                await log.append(stream, numbered(number % 3 + 1))

        followers = [asyncio.create_task(take(aiter(log.follow()), 4 * 19)) for _ in range(2)]
        await asyncio.gather(*(write(f"s{number}") for number in range(4)))
        wanted = await everything(log)
        assert len(wanted) == 4 * 19
        for follower in followers:
            assert await follower == wanted

    @claim
    async def test_following_a_stream_gives_the_events_of_its_lineage_and_ends_with_its_deletion(
        self, log: EventLog
    ) -> None:
        await log.append("parent", notes("1", "2", "3"))
        await log.fork("parent", "child", at=2)
        followed = aiter(log.follow(stream="child"))
        waiting = asyncio.create_task(take(followed, 5))
        await log.append("parent", notes("not seen"))
        await log.append("child", notes("own 3", "own 4"))
        await log.fork("child", "grandchild", events=notes("not seen either"))
        await log.delete("parent")
        await log.append("child", notes("own 5"))
        assert await waiting == await log.read("child")
        deletion = await log.delete("child")
        assert await take_all(followed) == [deletion]

    @claim
    async def test_following_a_stream_can_go_on_behind_any_position(self, log: EventLog) -> None:
        await log.append("parent", numbered(3))
        await log.fork("parent", "child", at=2, events=notes("own"))
        lineage = await log.read("child")
        for index in range(1, 3):
            after = lineage[index - 1].position
            assert await take(aiter(log.follow(after=after, stream="child")), 3 - index) == lineage[index:]

    @claim
    async def test_following_a_deleted_stream_ends_with_its_deletion(self, log: EventLog) -> None:
        await log.append("s", numbered(2))
        deletion = await log.delete("s")
        assert await take_all(aiter(log.follow(stream="s"))) == [deletion], "whether it is erased yet or not"
        await log.erase()
        await log.append("t", notes("x"))
        assert await take_all(aiter(log.follow(stream="s"))) == [deletion]
        assert await take_all(aiter(log.follow(after=deletion.position, stream="s"))) == []

    @claim
    async def test_a_follower_can_leave_at_any_time(self, log: EventLog) -> None:
        await log.append("s", notes("1", "2"))
        followed: AsyncGenerator[Record] = log.follow()  # type: ignore[assignment]  # an iterator that can be closed
        assert texts([await anext(followed)]) == ["1"]
        await followed.aclose()
        waiting = asyncio.create_task(take(aiter(log.follow(after=(await everything(log))[-1].position)), 1))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert (await log.append("s", notes("3"))).version == 3

    @claim
    async def test_following_a_log_that_is_closed_ends_with_an_error(self, log: EventLog) -> None:
        await log.append("s", notes("1"))
        followed = aiter(log.follow())
        await take(followed, 1)
        waiting = asyncio.ensure_future(anext(followed))
        await asyncio.sleep(0)
        await log.aclose()
        with pytest.raises(ClosedError):
            await asyncio.wait_for(waiting, PATIENCE_SECONDS)
        with pytest.raises(ClosedError):
            await anext(aiter(log.follow()))
