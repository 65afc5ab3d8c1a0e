"""What the contract's tests stand on: a place for logs, their end, and a few values to put in."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from typing import TYPE_CHECKING, TypeVar

import pytest

from eventstore.errors import ClosedError
from eventstore.log import NO_DIGEST, START, Deletion, Event, EventLog, Head, NewEvent, Record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

C = TypeVar("C", bound="ContractBase")

PATIENCE_SECONDS = 30  # only a broken log makes a test wait this long


class ContractBase:
    """Opens logs for a test, and checks and closes them at its end."""

    persistent = False
    """Whether a log opened where one was closed holds what that held."""

    directory: Path
    _opened: list[tuple[Path, EventLog]]

    @pytest.fixture(autouse=True)
    def _stand_in(self, tmp_path: Path) -> None:
        self.directory = tmp_path

    def open(
        self, path: Path, *, clock: Callable[[], int] = time.time_ns, entropy: Callable[[int], bytes] = os.urandom
    ) -> EventLog:
        """To be overridden: a log at *path*, where nothing is yet, or what a closed log of this kind left there."""
        raise NotImplementedError

    async def check(self, log: EventLog) -> None:
        """May be overridden: raise if *log*, still open, is damaged. Called at the end of every test, for every log
        that it used, after `check_log`.
        """

    def another(
        self,
        name: str = "another",
        *,
        clock: Callable[[], int] = time.time_ns,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> EventLog:
        """A log called *name*, besides the one that every test is given; checked and closed with it."""
        path = self.directory / name
        log = self.open(path, clock=clock, entropy=entropy)
        self._opened.append((path, log))
        return log

    async def reopen(self, log: EventLog) -> EventLog:
        """Close *log*, and open its place again."""
        path = next(path for path, opened in self._opened if opened is log)
        await log.aclose()
        return self.another(path.name)

    async def _make_good(self, test: Callable[[C, EventLog], Awaitable[None]]) -> None:
        assert isinstance(self, ContractBase)
        self._opened = []
        try:
            await test(self, self.another("log"))  # type: ignore[arg-type]  # `self` is what the test is a method of
            for path, log in list(self._opened):
                await self._check(path, log)
        finally:
            for _path, log in self._opened:
                await log.aclose()

    async def _check(self, path: Path, log: EventLog) -> None:
        if not await is_open(log):
            if not self.persistent or [other for at, other in self._opened if at == path and await is_open(other)]:
                return
            log = self.another(path.name)
        await check_log(log)
        await self.check(log)


def claim(test: Callable[[C, EventLog], Awaitable[None]]) -> Callable[[C], None]:
    """Make *test*, a claim about a log, a test that pytest runs on a new log."""

    def run(self: C) -> None:
        asyncio.run(self._make_good(test))

    # Not functools.wraps: pytest would look through it and ask for a fixture called "log".
    run.__name__, run.__qualname__, run.__doc__ = test.__name__, test.__qualname__, test.__doc__
    run.__module__ = test.__module__
    return run


async def is_open(log: EventLog) -> bool:
    """Whether *log* still answers."""
    try:
        await log.head("open?")
    except ClosedError:
        return False
    return True


def notes(*texts: str) -> list[NewEvent]:
    """An event for each text."""
    return [NewEvent("noted", text.encode(), b"meta of " + text.encode()) for text in texts]


def numbered(count: int, start: int = 1) -> list[NewEvent]:
    """*count* events that say *start*, *start* + 1, ..."""
    return notes(*(str(number) for number in range(start, start + count)))


def texts(records: Sequence[Record]) -> list[str]:
    """What the events among *records* say."""
    return [record.data.decode() for record in records if isinstance(record, Event)]


def a_commit_id(number: int) -> bytes:
    """The same 16 bytes for the same number."""
    return number.to_bytes(16, "big")


async def everything(log: EventLog) -> list[Record]:
    """All records of *log*, page by page."""
    records: list[Record] = []
    while page := await log.read_all(after=records[-1].position if records else START, limit=100):
        records.extend(page)
    return records


async def all_heads(log: EventLog, limit: int = 100) -> list[Head]:
    """All living streams of *log*, page by page."""
    page = await log.streams(limit=limit)
    heads = page.items
    while page.cursor is not None:
        page = await log.streams(limit=limit, cursor=page.cursor)
        heads = heads + page.items
    return heads


async def head_of(log: EventLog, stream: str) -> Head:
    """The head of a stream that is there."""
    head = await log.head(stream)
    assert head is not None, f"stream {stream!r} is missing"
    return head


async def take(records: AsyncIterator[Record], count: int) -> list[Record]:
    """The next *count* records of a `follow`."""

    async def collect() -> list[Record]:
        taken: list[Record] = []
        while len(taken) < count and (record := await anext(records, None)):
            taken.append(record)
        return taken

    taken = await asyncio.wait_for(collect(), PATIENCE_SECONDS)
    assert len(taken) == count, f"following ended after {len(taken)} records, {count} were due"
    return taken


async def take_all(records: AsyncIterator[Record]) -> list[Record]:
    """Every record of a `follow` that ends."""

    async def collect() -> list[Record]:
        return [record async for record in records]

    return await asyncio.wait_for(collect(), PATIENCE_SECONDS)


def digest_of(event: Event, previous: bytes) -> bytes:
    """What P7 says the digest of *event* is, behind one whose digest is *previous*."""
    return hashlib.sha256(
        b"refold1"
        + previous
        + event.version.to_bytes(8, "big")
        + event.time_ns.to_bytes(8, "big")
        + len(event.commit_id).to_bytes(4, "big")
        + event.commit_id
        + len(event.stream.encode()).to_bytes(4, "big")
        + event.stream.encode()
        + len(event.type.encode()).to_bytes(4, "big")
        + event.type.encode()
        + hashlib.sha256(event.meta).digest()
        + hashlib.sha256(event.salt + event.data).digest()
    ).digest()


async def check_log(log: EventLog) -> None:
    """Raise `AssertionError` unless what *log* shows agrees with itself: order, density, digests, heads."""
    records = await everything(log)
    positions = [record.position for record in records]
    assert positions == sorted(set(positions)), "P2: read_all is in order, each position once"
    stored = {record.position: record for record in records}
    heads = await all_heads(log)
    for head in heads:
        lineage = await log.read(head.stream, verify=True)
        _check_lineage(head, lineage)
        assert all(stored.get(event.position) == event for event in lineage), "read_all has every living event"
        if head.forked:
            assert stored.get(head.forked.position) == head.forked, "read_all has every fork"
        assert head == await log.head(head.stream), "streams and head agree"
    standing = {head.stream: (head.version, head.digest, False) for head in heads}
    standing |= {r.stream: (r.version, r.digest, True) for r in records if isinstance(r, Deletion)}
    checkpoint = await log.checkpoint()
    assert {e.stream: (e.version, e.digest, e.deleted) for e in checkpoint.entries} == standing


def _check_lineage(head: Head, lineage: list[Event]) -> None:
    assert [event.version for event in lineage] == list(range(1, head.version + 1)), "P2: versions are dense"
    positions = [event.position for event in lineage]
    assert positions == sorted(set(positions)), "P2: positions follow the order of commits"
    digest = NO_DIGEST
    for event in lineage:
        digest = digest_of(event, digest)
        assert event.digest == digest, f"P7: the digest of {event.stream!r} version {event.version}"
    assert head.digest == digest, "P7: the head's digest is its newest event's"
    own = [event.version for event in lineage if event.stream == head.stream]
    assert own == list(range(head.forked_at + 1, head.version + 1)), "a fork's own events come after its fork point"
