"""Erasure after a deletion: in bounded batches, resumed after a crash, sparing what forks need."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from eventstore import BlockingLmdbEventLog, CorruptEventError, Deletion, Event, NewEvent, StreamDeletedError
from eventstore import _layout as layout
from eventstore._erasure import BATCH_BYTES, BATCH_EVENTS, BATCH_STREAMS, erase_some
from eventstore._ledger import Ledger
from eventstore.verify import verify
from tests.eventstore.other_process import OtherProcess
from tests.eventstore.rows import CountingTransaction, changing, copy_of, rows
from tests.eventstore.sample import check, records

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from pathlib import Path

    from tests.eventstore.conftest import OpenLog


def event(size: int = 10) -> NewEvent:
    return NewEvent("type", os.urandom(size))


def fill_forks(log: BlockingLmdbEventLog) -> dict[str, list[bytes]]:
    """A tree of forks, of which those that live are to be spared: stream -> the data of its lineage."""
    log.append("root", [event() for _ in range(1_500)])
    log.append("root", [event() for _ in range(1_500)])
    log.fork("root", "low", at=100, events=[event() for _ in range(20)])
    log.fork("root", "high", at=2_100, events=[event() for _ in range(1_200)])
    log.fork("high", "higher", at=2_500, events=[event() for _ in range(30)])
    log.fork("low", "empty", at=110)
    log.append("alone", [event() for _ in range(1_200)])
    return {head.stream: [each.data for each in log.read(head.stream)] for head in log.streams(limit=10).items}


def assert_spared(log: BlockingLmdbEventLog, before: dict[str, list[bytes]]) -> None:
    for stream, data in before.items():
        try:
            assert [each.data for each in log.read(stream, verify=True)] == data
        except StreamDeletedError:
            continue


def count_events(path: Path) -> int:
    return sum(value[5] == layout.EVENT for _, value in records(path))


def test_a_batch_is_bounded_in_events(log: BlockingLmdbEventLog, broken: Path) -> None:
    for _ in range(3):
        log.append("stream", [event() for _ in range(1_000)])
    log.close()
    with BlockingLmdbEventLog(log.path, durability="os") as again:
        copy = copy_of(again, broken / "copy")
    tombstone(copy, "stream")
    with changing(copy) as transaction:
        steps = [erase_some(transaction) for _ in range(4)]
    assert [step and (step.erased, step.more) for step in steps] == [(1000, True), (1000, True), (1000, False), None]
    assert count_events(copy) == 0
    assert BATCH_EVENTS == 1_000


def test_a_batch_is_bounded_in_bytes(log: BlockingLmdbEventLog, broken: Path) -> None:
    size = BATCH_BYTES // 4
    for _ in range(10):
        log.append("stream", [event(size)])
    copy = copy_of(log, broken / "copy")
    tombstone(copy, "stream")
    with changing(copy) as transaction:
        steps = [erase_some(transaction) for _ in range(3)]
    assert [step and (step.erased, step.more) for step in steps] == [(4, True), (4, True), (2, False)]


def tombstone(path: Path, *streams: str) -> None:
    """Delete *streams* in the closed log at *path*, and erase nothing yet."""
    with changing(path) as transaction:
        ledger = Ledger(str(path), bytes(8), clock=lambda: 0)
        ledger.begin(transaction, 0)
        for stream in streams:
            ledger.delete(stream.encode(), -1, "", "")
        ledger.finish()


def rows_per_batch(path: Path) -> list[int]:
    """Erase all that is owed, and say how many rows each batch had to do with."""
    counted = []
    with changing(path) as transaction:
        counting: Any = CountingTransaction(transaction)
        while erase_some(counting):
            counted.append(counting.rows)
            counting.rows = 0
    return counted


def fork_and_delete_all(log: BlockingLmdbEventLog, copy: Path, forks: int, depth: int) -> list[int]:
    """Forks of one parent, of which each is forked *depth* times in a row; all are deleted, then erased."""
    log.append("parent", [event() for _ in range(50)])
    names = ["parent"]
    for number in range(forks):
        parent = names[0]
        for level in range(depth):
            names.append(f"fork {number}, {level}")
            log.fork(parent, names[-1], at=number % 50, events=[event()] if number % 3 else [])
            parent = names[-1]
    copy_of(log, copy)
    random.Random(forks).shuffle(names)
    tombstone(copy, *names)
    return rows_per_batch(copy)


@pytest.mark.parametrize(("forks", "depth"), [(400, 1), (100, 4), (4, 100)])
def test_erasing_forks_costs_the_same_however_many_were_deleted(
    forks: int, depth: int, open_log: OpenLog, broken: Path
) -> None:
    few = fork_and_delete_all(open_log("few"), broken / "few", forks, depth)
    many = fork_and_delete_all(open_log("many"), broken / "many", 3 * forks, depth)
    assert sum(many) <= 3.3 * sum(few), "linear"
    assert max(many) <= 30 * BATCH_STREAMS, "and no batch holds up the writers for long"
    assert check(broken / "many") == []
    left = {key[:1] for key, _ in rows(broken / "many")}
    assert not left & {layout.CHILDREN, layout.ERASURE}


@pytest.mark.slow
def test_thousands_of_deleted_forks_are_erased_while_appends_go_on(log: BlockingLmdbEventLog) -> None:
    forks = [f"fork {number}" for number in range(8_000)]
    log.append("parent", [event() for _ in range(100)])
    for number, fork in enumerate(forks):
        log.fork("parent", fork, at=number % 100, events=[event()])
    for number, fork in enumerate(["parent", *forks], start=1):
        log.delete(fork)
        assert log.append("beside", [event()]).version == number
    log.erase()
    left = [record.stream for record in log.read_all(limit=10**6) if isinstance(record, Event)]
    assert left == ["beside"] * (len(forks) + 1)


def mend(path: Path, sound: dict[bytes, bytes], third: int) -> None:
    """Put back what was damaged of stream number 4, as a restored disk would."""
    stopped = layout.erasure_key(layout.STOPPED, 4)
    with changing(path) as transaction:
        for key in (layout.log_key(third), layout.facts_key(4), layout.child_key(1, 1, 4)):
            transaction.put(key, sound[key])
        if len(transaction.get(stopped)) == 3:
            transaction.put(stopped, sound[layout.erasure_key(layout.OWED, 4)])


def test_a_row_that_leads_to_another_stream_erases_nothing_of_it(log: BlockingLmdbEventLog, broken: Path) -> None:
    for name in ("living", "gone"):
        log.append(name, [event() for _ in range(5)])
    copy = copy_of(log, broken / "copy")
    tombstone(copy, "gone")
    with changing(copy) as transaction:
        transaction.put(layout.erasure_key(layout.OWED, 2), layout.pack_erasure(layout.Erasure(5, 5)))
    with BlockingLmdbEventLog(copy, durability="os") as again:
        with pytest.raises(CorruptEventError, match="cannot be erased") as caught:
            again.erase()
        assert caught.value.stream == "gone"
        assert again.read("living", verify=True) == log.read("living")


DAMAGES: dict[str, Callable[[Any, int, int], object]] = {
    # what is done to the raw transaction, with the number of the stream and the position of its third event
    "an event is gone": lambda transaction, _, third: transaction.delete(layout.log_key(third)),
    "an event is cut": lambda transaction, _, third: transaction.put(layout.log_key(third), bytes(50)),
    "its facts are gone": lambda transaction, number, _: transaction.delete(layout.facts_key(number)),
    "its facts are cut": lambda transaction, number, _: transaction.put(layout.facts_key(number), b"123"),
    "its row is cut": lambda transaction, number, _: transaction.put(layout.erasure_key(layout.OWED, number), b"123"),
    "its parent does not list it": lambda transaction, number, _: transaction.delete(layout.child_key(1, 1, number)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_stream_is_set_aside_and_reported_and_all_others_are_erased(
    damage: str, log: BlockingLmdbEventLog, broken: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"stream {number}" for number in range(6)]
    log.append("root", [event()])
    for name in names:
        log.fork("root", name, at=1, events=[event() for _ in range(4)])
    third = int.from_bytes(log.read("stream 2")[2].position[8:], "big")
    copy = copy_of(log, broken / "copy")
    tombstone(copy, *names)
    sound = dict(rows(copy))
    with changing(copy) as transaction:
        DAMAGES[damage](transaction, 4, third)
    with BlockingLmdbEventLog(copy, durability="os") as again:
        for _ in range(2):
            with pytest.raises(CorruptEventError, match="cannot be erased") as caught:
                again.erase()
            assert caught.value.stream in {"stream 2", "number 4"}
            assert again.append("root", [event()])
    assert "erasure stopped" in caplog.text or not caplog.records, "the background may have been first"
    left = records(copy)
    assert {layout.unpack_stream(value) for _, value in left if value[5] == layout.EVENT} <= {1, 4}
    stopped = [key for key, _ in rows(copy) if key[:1] == layout.ERASURE]
    assert stopped == [layout.erasure_key(layout.STOPPED, 4)]
    assert {problem.stream for problem in check(copy) if problem.kind == "erasure"} <= {"stream 2", None}
    assert check(copy)
    mend(copy, sound, third)
    with BlockingLmdbEventLog(copy, durability="os") as again:
        again.erase()
    assert check(copy) == []
    assert {layout.unpack_stream(value) for _, value in records(copy) if value[5] == layout.EVENT} == {1}


def test_the_tombstone_is_there_before_anything_is_erased(log: BlockingLmdbEventLog, broken: Path) -> None:
    log.append("stream", [event() for _ in range(100)])
    copy = copy_of(log, broken / "copy")
    tombstone(copy, "stream")
    assert count_events(copy) == 100
    assert check(copy) == []
    with BlockingLmdbEventLog(copy, durability="os") as again:
        with pytest.raises(StreamDeletedError):
            again.read("stream")
        again.erase()
        assert [type(record) for record in again.read_all()] == [Deletion]


def test_living_forks_are_spared_whatever_is_deleted_in_whatever_order(open_log: OpenLog, broken: Path) -> None:
    log = open_log("original")
    before = fill_forks(log)
    order = list(before)
    seed = random.randrange(10**6)
    print("seed", seed)
    random.Random(seed).shuffle(order)
    for stream in order:
        log.delete(stream)
        log.erase()
        assert_spared(log, before)
    copy = copy_of(log, broken / "copy")
    assert check(copy) == []
    assert count_events(copy) == 0, "the last fork frees what it needed"
    assert not [key for key, _ in rows(copy) if key[:1] in {layout.CHILDREN, layout.ERASURE, layout.ACTIVITY}]


def test_erasure_goes_on_when_the_log_is_opened_again_between_any_two_batches(open_log: OpenLog, broken: Path) -> None:
    log = open_log("original")
    before = fill_forks(log)
    copy = copy_of(log, broken / "copy")
    tombstone(copy, "high", "root", "alone")
    owed = [count_events(copy)]
    for batches in itertools.count():
        assert check(copy) == [], f"after {batches} batches"
        with changing(copy) as transaction:
            if erase_some(transaction) is None:
                break
        owed.append(count_events(copy))
    assert batches == 3
    assert owed == sorted(owed, reverse=True)
    with BlockingLmdbEventLog(copy, durability="os") as again:
        assert_spared(again, before)
        assert again.erase() == 0
        again.delete("low")
        again.delete("higher")
        again.delete("empty")
        again.erase()
    assert count_events(copy) == 0


def delete_and_die(pipe: Connection, path: Path, streams: list[str]) -> None:
    with BlockingLmdbEventLog(path, durability="os") as log:
        for stream in streams:
            log.delete(stream, reason="to be erased", actor="a test")
        pipe.send("deleted")
        pipe.recv()  # it is killed here, while its writer erases


def test_a_process_killed_in_mid_erasure_loses_nothing_and_the_next_one_goes_on(
    open_log: OpenLog, tmp_path: Path
) -> None:
    log = open_log()
    before = fill_forks(log)
    log.append("long", [event() for _ in range(20_000)])
    log.close()
    caught_in_the_middle = 0
    for streams in (["alone", "high"], ["root", "long"]):
        with OtherProcess(delete_and_die, tmp_path / "log", streams) as process:
            assert process.hear() == "deleted"
            os.kill(process.pid, signal.SIGKILL)
            assert process.end() == "SIGKILL"
        caught_in_the_middle += any(
            key[:2] == layout.erasure_key(layout.OWED, 0)[:2] for key, _ in rows(tmp_path / "log")
        )
        assert verify(tmp_path / "log")
    assert caught_in_the_middle
    with BlockingLmdbEventLog(tmp_path / "log", durability="os") as again:
        again.erase()
        assert_spared(again, before)
        tombstones = [record for record in again.read_all(limit=10**6) if isinstance(record, Deletion)]
        assert [(each.stream, each.reason, each.actor) for each in tombstones] == [
            (stream, "to be erased", "a test") for stream in ("alone", "high", "root", "long")
        ]
    assert verify(tmp_path / "log")
    assert count_events(tmp_path / "log") == 2_100 + 20 + (2_500 - 2_100) + 30


def test_erasure_owed_is_done_in_the_background_after_an_open(log: BlockingLmdbEventLog, broken: Path) -> None:
    log.append("stream", [event() for _ in range(2_500)])
    log.append("other", [event()])
    copy = copy_of(log, broken / "copy")
    tombstone(copy, "stream")
    deadline = time.monotonic() + 30
    with BlockingLmdbEventLog(copy, durability="os") as again:
        while len(again.read_all(limit=3)) > 2:  # the other event and the tombstone stay
            assert time.monotonic() < deadline, "nobody erases"
    assert count_events(copy) == 1


def test_writers_go_on_between_the_batches(log: BlockingLmdbEventLog) -> None:
    for _ in range(20):
        log.append("long", [event() for _ in range(1_000)])
    log.delete("long")
    behind = [log.append("other", [event()]).version for _ in range(20)]
    assert behind == list(range(1, 21))
    assert log.erase() >= 0
    assert [record.stream for record in log.read_all(limit=10**6)] == ["long"] + ["other"] * 20


# ----------------------------------------------------------------------------------------------------------- bytes


def test_freed_bytes_are_used_again_and_compact_gives_them_back(log: BlockingLmdbEventLog) -> None:
    data = log.path / "data.mdb"
    for _ in range(20):
        log.append("first", [event(10_000) for _ in range(10)])
    full = data.stat().st_size
    assert full > 2_000_000
    log.delete("first")
    log.erase()
    assert data.stat().st_size <= full * 1.2, "LMDB copies on write: erased bytes linger in free pages"
    for _ in range(20):
        log.append("second", [event(10_000) for _ in range(9)])
    assert data.stat().st_size <= full * 1.3, "and are used again"
    log.delete("second")
    log.erase()
    before, after = log.compact()
    assert before > 2_000_000
    assert after == data.stat().st_size < 100_000
    assert log.append("third", [event()]).version == 1


def test_erased_data_is_not_in_the_file_after_compact(log: BlockingLmdbEventLog) -> None:
    secret = b"a secret that must go away"
    log.append("stream", [NewEvent("type", secret)])
    log.append("other", [event()])
    log.put_snapshot("stream", "fold", 1, 1, secret)
    log.delete("stream")
    log.erase()
    log.compact()
    assert secret not in (log.path / "data.mdb").read_bytes()
