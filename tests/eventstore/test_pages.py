"""Reads in pages: what a listing and a follower give, and what they look at for it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from eventstore import (
    START,
    BlockingLmdbEventLog,
    Content,
    CorruptEventError,
    Event,
    InvalidCursorError,
    NewEvent,
    Position,
    _listing,
)
from eventstore import _layout as layout
from eventstore._reader import PAGE_BYTES, PAGE_EVENTS
from tests.eventstore.rows import CountingTransaction, changing, copy_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from eventstore import Head
    from tests.eventstore.conftest import OpenLog


def event(text: str = "x") -> NewEvent:
    return NewEvent("type", text.encode())


def listed(log: BlockingLmdbEventLog, limit: int) -> list[Head]:
    heads: list[Head] = []
    cursor = None
    while True:
        page = log.streams(limit=limit, cursor=cursor)
        assert len(page.items) == limit or page.cursor is None
        heads += page.items
        cursor = page.cursor
        if cursor is None:
            return heads


@pytest.mark.parametrize("tail", [0, 1, 5, 256])
def test_a_listing_is_in_the_order_of_activity_wherever_buckets_and_pages_end(
    tail: int, broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "BUCKET_SHIFT", 3)
    monkeypatch.setattr(_listing, "_TAIL_RECORDS", tail)
    seed = random.randrange(10**6)
    print("seed", seed)
    chance = random.Random(seed)
    with BlockingLmdbEventLog(broken / "log", durability="os") as log:
        names = ["first"]
        log.append("first", [event()])
        for number in range(120):
            name = chance.choice(names)
            match chance.choice(["append", "append", "new", "fork", "fork with events", "delete"]):
                case "append":
                    log.append(name, [event() for _ in range(chance.choice([1, 1, 2, 12]))])
                case "new":
                    names.append(f"new {number}")
                    log.append(names[-1], [event()])
                case "delete" if len(names) > 1:
                    log.delete(name)
                    names.remove(name)
                case kind:
                    names.append(f"fork {number}")
                    log.fork(name, names[-1], events=[event()] if kind == "fork with events" else [])
        heads = [head for name in names if (head := log.head(name))]
        heads.sort(key=lambda head: head.position, reverse=True)
        for limit in (1, 2, 3, 7, len(names) - 1, len(names), len(names) + 1):
            if limit:
                assert listed(log, limit) == heads, limit


def test_a_listing_reads_the_facts_only_of_what_it_returns(log: BlockingLmdbEventLog, broken: Path) -> None:
    for number in range(3_000):
        log.append(f"idle {number}", [event()])
    for _ in range(20):
        log.append("busy", [event() for _ in range(50)])  # the newest records are all of one stream
    rows_looked_at = []
    with changing(copy_of(log, broken / "copy")) as transaction:
        for limit in (10, 1_000):
            counting: Any = CountingTransaction(transaction)
            heads, more = log.engine.reader.streams(counting, limit, None)
            assert (len(heads), more) == (limit, True)
            rows_looked_at.append(counting.rows)
    assert rows_looked_at[0] < 2 * 3_000 + 2 * 256 + 200
    assert rows_looked_at[1] - rows_looked_at[0] < 7 * 990


def test_a_follower_of_a_stream_gets_fat_events_in_pages_of_bounded_bytes(log: BlockingLmdbEventLog) -> None:
    size = PAGE_BYTES // 3
    data = [bytes([number]) * (size if number % 5 else 10) for number in range(20)]
    for each in data:
        log.append("fat", [NewEvent("type", each)])
    got: list[bytes] = []
    after = START
    while records := log.records_behind(after, "fat"):
        page = [record.data for record in records if isinstance(record, Event)]
        assert sum(map(len, page)) <= PAGE_BYTES + size
        got += page
        after = records[-1].position
    assert got == data
    assert len(log.records_behind(START, "fat")) < PAGE_EVENTS


@pytest.mark.parametrize(("events", "bytes_each"), [(PAGE_EVENTS + 1, 1), (4, PAGE_BYTES // 2)])
def test_what_came_behind_a_snapshot_is_given_with_it_only_if_it_fits_in_a_page(
    events: int, bytes_each: int, log: BlockingLmdbEventLog
) -> None:
    log.append("stream", [NewEvent("type", bytes(bytes_each)) for _ in range(events + 1)])
    log.put_snapshot("stream", "fold", 1, 1, b"folded")
    far = log.since_snapshot("stream", "fold", 1)
    near = log.since_snapshot("stream", "fold", 1, upto=2)
    assert far is not None
    assert near is not None
    assert far.snapshot == near.snapshot == log.get_snapshot("stream", "fold", 1)
    assert (far.contents, near.contents) == ([], log.contents("stream", after=1, upto=2))


DAMAGES = {
    "its version is another": lambda record: record[:20] + b"\0\0\0\7" + record[24:],
    "it is of another kind": lambda record: record[:5] + b"\3" + record[6:],
    "it is of another format": lambda record: record[:4] + b"\2" + record[5:],
    "it is cut": lambda record: record[:-1],
    "it is shorter than a header": lambda record: record[:100],
    "it grew": lambda record: record + b"\0",
    "its stream does not exist": lambda record: record[:16] + b"\0\0\1\0" + record[20:],
    "it points forward": lambda record: record[:32] + b"\0\0\0\1" + record[36:],
    "its type is no text": lambda record: record[:120] + b"\xff" + record[121:],
    "its stream is another": lambda record: record[:16] + b"\0\0\0\2" + record[20:],
    "it points to an event of another stream": lambda record: record[:39] + bytes([record[39] + 1]) + record[40:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_p8_contents_of_a_damaged_event_are_not_given_out(damage: str, log: BlockingLmdbEventLog, broken: Path) -> None:
    for number in range(5):
        log.append("stream", [event(f"{number}")])
        log.append("other", [event(f"other's {number}")])
    log.put_snapshot("stream", "fold", 1, 1, b"folded")
    position = int.from_bytes(log.read("stream")[2].position[8:], "big")
    copy = copy_of(log, broken / "copy")
    with changing(copy) as transaction:
        key = layout.log_key(position)
        transaction.put(key, DAMAGES[damage](bytes(transaction.get(key))))
    with BlockingLmdbEventLog(copy, durability="os") as again:
        for read in (again.contents, again.read, lambda stream: again.since_snapshot(stream, "fold", 1)):
            with pytest.raises(CorruptEventError) as caught:
                read("stream")
            assert (caught.value.stream, caught.value.version) == ("stream", 3)
        fourth = log.read("stream")[3]
        assert again.contents("stream", after=3, upto=4) == [Content(4, "type", b"3", b"", fourth.time_ns)]


def test_p8_a_pointer_into_another_stream_leads_nobody_there(log: BlockingLmdbEventLog, broken: Path) -> None:
    for number in range(15):
        for name in ("stream", "other"):
            log.append(name, [event(f"{name} {number}")])
    damaged = log.read("stream")[13]
    copy = copy_of(log, broken / "copy")
    with changing(copy) as transaction:
        key = layout.log_key(int.from_bytes(damaged.position[8:], "big"))
        record = bytearray(transaction.get(key))
        assert layout.jump_version(14) == 7
        record[47] += 1  # its jump pointer leads to version 7 of the other stream
        transaction.put(key, bytes(record))
    with BlockingLmdbEventLog(copy, durability="os") as again:
        for use in (
            lambda: again.read("stream", upto=7),
            lambda: again.contents("stream", upto=6),
            lambda: again.fork("stream", "fork", at=7),
            lambda: again.put_snapshot("stream", "fold", 1, 5, b""),
        ):
            with pytest.raises(CorruptEventError) as caught:
                use()
            assert (caught.value.stream, caught.value.version) == ("stream", 14)
        assert again.head("fork") is None, "nothing was written"
        assert again.contents("stream", after=13) == log.contents("stream", after=13)


def test_p8_a_head_row_that_leads_to_another_stream_is_damage(log: BlockingLmdbEventLog, broken: Path) -> None:
    for name in ("stream", "other"):
        log.append(name, [event(name)])
    log.fork("stream", "fork")
    copy = copy_of(log, broken / "copy")
    with changing(copy) as transaction:
        for number in (1, 3):
            transaction.put(layout.head_key(number), layout.pack_head(2, 1))
    with BlockingLmdbEventLog(copy, durability="os") as again:
        for name in ("stream", "fork"):
            for use in (again.head, again.read, again.contents, lambda stream: again.append(stream, [event()])):
                with pytest.raises(CorruptEventError, match="another stream") as caught:
                    use(name)
                assert (caught.value.stream, caught.value.version) == (name, 1)
        assert again.append("other", [event()]).version == 2


def test_p8_a_damaged_record_keeps_only_its_own_stream_from_being_listed(
    log: BlockingLmdbEventLog, broken: Path
) -> None:
    for number in range(3):
        for name in ("stream", "other"):
            log.append(name, [event(f"{name} {number}")])
    copy = copy_of(log, broken / "copy")
    heads = log.streams().items

    def damage(position: int) -> None:
        with changing(copy) as transaction:
            record = bytearray(transaction.get(layout.log_key(position)))
            record[80] ^= 1
            transaction.put(layout.log_key(position), bytes(record))

    damage(4)  # an event of the past
    with BlockingLmdbEventLog(copy, durability="os") as again:
        assert again.streams().items == heads
        assert [listed(again, 1), listed(again, 2)] == [heads, heads]
    damage(5)  # a head
    with BlockingLmdbEventLog(copy, durability="os") as again:
        with pytest.raises(CorruptEventError) as caught:
            again.streams()
        assert (caught.value.stream, caught.value.version) == ("stream", 3)
        assert again.streams(limit=1).items == heads[:1]


def test_a_position_that_a_restored_backup_has_not_reached_is_refused(
    log: BlockingLmdbEventLog, open_log: OpenLog, tmp_path: Path
) -> None:
    """What comes now would be skipped up to there."""
    kept = log.append("stream", [event()]).position
    log.backup(tmp_path / "backup")
    lost = log.append("stream", [event()]).position
    put_back = open_log("backup")
    assert put_back.read_all(after=kept) == put_back.records_behind(kept, "stream") == []
    uses: list[Callable[[Position], object]] = [
        lambda position: put_back.read_all(after=position),
        lambda position: put_back.records_behind(position, None),
        lambda position: put_back.records_behind(position, "stream"),
        lambda position: put_back.streams(cursor=position),
        lambda position: next(put_back.follow(after=position)),
    ]
    for beyond in (lost, Position(lost[:8] + b"\xff" * 8)):
        for use in uses:
            with pytest.raises(InvalidCursorError, match="beyond the newest record"):
                use(beyond)
    follower = put_back.follow(after=kept)
    put_back.append("stream", [event("new")])
    assert next(follower).data == b"new"  # type: ignore[union-attr]
