"""Rows changed behind the log's back: `verify` reports each, and no other call fails but with an error of ours."""

from __future__ import annotations

import contextlib
import hashlib
import struct
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from eventstore import START, BlockingLmdbEventLog, Checkpoint, CheckpointEntry, EventStoreError
from eventstore import _layout as layout
from eventstore._layout import Erasure, StoredSnapshot
from eventstore.verify import verify
from tests.eventstore.rows import changing, copy_of
from tests.eventstore.sample import check, event, records

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.eventstore.conftest import OpenLog

Numbers: TypeAlias = dict[str, int]
"""Every stream's number by its name; and the position of a tombstone."""
Change: TypeAlias = "Callable[[Any, Numbers], object]"
KeyOf: TypeAlias = "Callable[[Numbers], bytes]"


def numbers_in(transaction: Any) -> Numbers:
    numbers = {}
    for key, value in transaction.cursor():
        if key[:1] == layout.FACTS:
            facts = layout.unpack_facts(value)
            numbers[facts.name.decode()] = layout.key_stream(key)
            numbers[f"tombstone of {facts.name.decode()}"] = facts.deleted
    return numbers


def change_rows(path: Path, change: Change) -> None:
    with changing(path) as transaction:
        change(transaction, numbers_in(transaction))


def change_facts(stream: str, **fields: Any) -> Change:
    def change(transaction: Any, number: Numbers) -> None:
        key = layout.facts_key(number[stream])
        facts = layout.unpack_facts(transaction.get(key))._replace(**fields)
        transaction.put(key, layout.pack_facts(facts))

    return change


def put(key: KeyOf, value: bytes) -> Change:
    return lambda transaction, number: transaction.put(key(number), value)


def remove(key: KeyOf) -> Change:
    def change(transaction: Any, number: Numbers) -> None:
        assert transaction.delete(key(number)), "there was such a row"

    return change


def cut(key: KeyOf, length: int) -> Change:
    def change(transaction: Any, number: Numbers) -> None:
        value = transaction.get(key(number))
        assert len(value) > length
        transaction.put(key(number), value[:length])

    return change


def move_head(stream: str, steps: int) -> Change:
    """The head of *stream* goes *steps* events back."""

    def change(transaction: Any, number: Numbers) -> None:
        key = layout.head_key(number[stream])
        position, version = layout.unpack_head(transaction.get(key))
        for _ in range(steps):
            position = layout.unpack_header(position, transaction.get(layout.log_key(position))).previous
        transaction.put(key, layout.pack_head(position, version - steps))

    return change


def a_later_version(transaction: Any, number: Numbers) -> None:
    key = layout.head_key(number["a"])
    position, version = layout.unpack_head(transaction.get(key))
    transaction.put(key, layout.pack_head(position, version + 1))


def another_streams_event(transaction: Any, number: Numbers) -> None:
    position, _ = layout.unpack_head(transaction.get(layout.head_key(number["a"])))
    transaction.put(layout.head_key(number["large"]), layout.pack_head(position, 1))


def remove_a_record(transaction: Any, number: Numbers) -> None:
    position, _ = layout.unpack_head(transaction.get(layout.head_key(number["a"])))
    previous = layout.unpack_header(position, transaction.get(layout.log_key(position))).previous
    assert transaction.delete(layout.log_key(previous))


def remove_what_a_fork_needs_of_a_deleted_stream(transaction: Any, number: Numbers) -> None:
    position, version = layout.unpack_erasure(transaction.get(layout.erasure_key(layout.KEPT, number["b"])))
    while version:
        record = transaction.get(layout.log_key(position))
        transaction.delete(layout.log_key(position))
        position, version = layout.unpack_header(position, record).previous, version - 1
    transaction.delete(layout.erasure_key(layout.KEPT, number["b"]))


def swap_names(transaction: Any, number: Numbers) -> None:
    for name, other in (("a", "large"), ("large", "a")):
        transaction.put(layout.name_key(name.encode()), layout.pack_numbers([number[other]]))


def active_nowhere(transaction: Any, number: Numbers) -> None:
    for key, _ in list(transaction.cursor()):
        if key[:1] == layout.ACTIVITY and layout.key_activity(key)[1] == number["a"]:
            transaction.delete(key)


def snapshot_of_another_history(transaction: Any, number: Numbers) -> None:
    key = layout.snapshot_key(number["fork"], b"fold")
    snapshot = layout.unpack_snapshot(transaction.get(key))._replace(digest=bytes(32))
    transaction.put(key, layout.pack_snapshot(snapshot))


NOBODY = 999
CHANGES: dict[str, tuple[Change, str, str | None]] = {
    # what is done, the kind of problem it must give, and the stream it must name
    "a head of nobody": (put(lambda _: layout.head_key(NOBODY), layout.pack_head(1, 1)), "head", None),
    "a head is gone": (remove(lambda n: layout.head_key(n["a"])), "head", "a"),
    "a head is cut": (cut(lambda n: layout.head_key(n["a"]), 7), "structure", None),
    "a head goes back": (move_head("a", 2), "head", "a"),
    "a head claims a later version": (a_later_version, "record", "a"),
    "a head leads to another stream": (another_streams_event, "head", "large"),
    "facts are gone": (remove(lambda n: layout.facts_key(n["a"])), "name", None),
    "facts are cut": (cut(lambda n: layout.facts_key(n["a"]), 5), "structure", None),
    "facts have another name": (change_facts("a", name=b"other"), "name", "other"),
    "facts have another beginning": (change_facts("a", created=2), "lineage", "a"),
    "facts have a beginning that is not there": (change_facts("a", created=10**6 - 1, deleted=0), "head", "a"),
    "facts say that it was deleted": (change_facts("a", deleted=3), "record", "a"),
    "facts deny that it was deleted": (change_facts("gone", deleted=0), "head", "gone"),
    "a name is gone": (remove(lambda _: layout.name_key(b"a")), "name", "a"),
    "a name of nobody": (put(lambda _: layout.name_key(b"x"), layout.pack_numbers([NOBODY])), "name", None),
    "names are swapped": (swap_names, "name", "a"),
    "a name is cut": (cut(lambda _: layout.name_key(b"a"), 3), "structure", None),
    "a fork is not listed": (remove(lambda n: layout.child_key(n["a"], 5, n["fork"])), "children", "fork"),
    "a fork is listed elsewhere": (put(lambda n: layout.child_key(n["large"], 1, n["fork"]), b""), "children", "fork"),
    "a fork is listed twice": (put(lambda n: layout.child_key(n["a"], 3, n["fork"]), b""), "children", "fork"),
    "a fork that is not there is listed": (put(lambda n: layout.child_key(n["a"], 3, NOBODY), b""), "structure", None),
    "a deleted fork of which nothing is left is listed": (
        put(lambda n: layout.child_key(n["a"], 9, n["deleted fork"]), b""), "children", "deleted fork",
    ),
    "a deleted fork that others need is not listed": (
        remove(lambda n: layout.child_key(n["a"], 2, n["needed fork"])), "children", "needed fork",
    ),
    "a deleted fork is listed with more than it needs": (
        put(lambda n: layout.child_key(n["a"], 7, n["needed fork"]), b""), "children", "needed fork",
    ),
    "a stream is active nowhere": (active_nowhere, "activity", "a"),
    "nobody is active": (put(lambda _: layout.activity_key(1, NOBODY), b""), "activity", None),
    "a fork is active elsewhere": (
        put(lambda n: layout.activity_key(1, n["fork of fork"]), layout.pack_fork_position(1)),
        "activity", "fork of fork",
    ),
    "a fork is active where no fork was made": (
        put(lambda n: layout.activity_key(1, n["fork of fork"]), b""), "activity", "fork of fork",
    ),
    "an activity is cut": (put(lambda n: layout.activity_key(1, n["a"]), b"123"), "structure", None),
    "a living stream is erased": (
        put(lambda n: layout.erasure_key(layout.OWED, n["large"]), layout.pack_erasure(Erasure(1, 1))),
        "erasure", "large",
    ),
    "an erasure went too far": (
        put(lambda n: layout.erasure_key(layout.KEPT, n["b"]), layout.pack_erasure(Erasure(1, 1))), "erasure", "b",
    ),
    "an erasure is behind": (
        put(lambda n: layout.erasure_key(layout.OWED, n["gone"]), layout.pack_erasure(Erasure(30, 2))),
        "erasure", "gone",
    ),
    "an erasure is in two states": (
        put(lambda n: layout.erasure_key(layout.OWED, n["b"]), layout.pack_erasure(Erasure(7, 4))), "erasure", "b",
    ),
    "an erasure is in an unknown state": (
        put(lambda n: layout.erasure_key(3, n["gone"]), layout.pack_erasure(Erasure(0, 0))), "erasure", "gone",
    ),
    "an erasure was stopped": (
        put(lambda n: layout.erasure_key(layout.STOPPED, n["gone"]), layout.pack_erasure(Erasure(0, 0))),
        "erasure", "gone",
    ),
    "an erasure is cut": (cut(lambda n: layout.erasure_key(layout.KEPT, n["b"]), 3), "structure", None),
    "a snapshot is of another history": (snapshot_of_another_history, "snapshot", "fork"),
    "a snapshot is of the future": (
        put(
            lambda n: layout.snapshot_key(n["fork"], b"fold"),
            layout.pack_snapshot(StoredSnapshot(1, 50, bytes(32), b"")),
        ),
        "snapshot", "fork",
    ),
    "a snapshot is cut": (cut(lambda n: layout.snapshot_key(n["fork"], b"fold"), 50), "snapshot", "fork"),
    "a snapshot of nobody": (
        put(lambda _: layout.snapshot_key(NOBODY, b"fold"), layout.pack_snapshot(StoredSnapshot(1, 1, bytes(32), b""))),
        "snapshot", None,
    ),
    "a record is gone": (remove_a_record, "lineage", "a"),
    "what a fork needs is gone": (remove_what_a_fork_needs_of_a_deleted_stream, "lineage", "fork of deleted"),
    "a tombstone is gone": (remove(lambda n: layout.log_key(n["tombstone of gone"])), "record", "gone"),
    "a row of no table": (put(lambda _: b"b", b""), "structure", None),
    "a row before all tables": (put(lambda _: b"\0", b""), "structure", None),
    "a row behind all tables": (put(lambda _: b"\xff" * 9, b""), "structure", None),
    "a row right behind the log": (put(lambda _: b"{" + bytes(8), b""), "structure", None),
    "a second identity": (put(lambda _: b"ii", b""), "structure", None),
}  # fmt: skip


def put_a_key(key: bytes) -> Change:
    return lambda transaction, _: transaction.put(key, b"")


CHANGES |= {
    f"a key of {len(key)} bytes in table {key[:1].decode()}": (put_a_key(key), "structure", None)
    for key in [bytes([table, *bytes(size)]) for table in b"acefhnz" for size in (1, 14)] + [b"s\0\0\0\0"]
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_row_that_is_not_as_it_must_be_is_reported(change: str, damaged: Path) -> None:
    apply, kind, stream = CHANGES[change]
    change_rows(damaged, apply)
    problems = check(damaged)
    assert (kind, stream) in {(problem.kind, problem.stream) for problem in problems}, problems
    assert all(str(problem) for problem in problems)


def test_every_change_was_made_to_a_sound_log(damaged: Path) -> None:
    assert check(damaged) == []


STREAMS = ["a", "large", "fork", "fork of fork", "fork of deleted", "gone", "nobody"]
CALLS: list[Callable[[BlockingLmdbEventLog], object]] = [
    lambda log: log.read_all(),
    lambda log: log.streams(),
    lambda log: log.streams(limit=1),
    lambda log: log.checkpoint(),
    lambda log: log.get_snapshot("fork", "fold", 1),
    lambda log: log.since_snapshot("fork", "fold", 1),
    lambda log: log.records_behind(START, "fork"),
    lambda log: log.put_snapshot("fork", "fold", 2, 7, b"new"),
    lambda log: log.fork("a", "new fork", at=3),
    lambda log: log.delete("fork"),
    lambda log: log.delete("a"),
    lambda log: log.erase(),
]


def call_everything(log: BlockingLmdbEventLog) -> None:
    """Whatever it raises must be an error of ours."""
    for stream in STREAMS:
        for use in (log.read, log.head, log.children):
            with contextlib.suppress(EventStoreError):
                use(stream)
        with contextlib.suppress(EventStoreError):
            log.append(stream, [event()])
    for call in CALLS:
        with contextlib.suppress(EventStoreError):
            call(log)


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_is_damaged_each_call_works_or_raises_an_error_of_ours(change: str, damaged: Path) -> None:
    change_rows(damaged, CHANGES[change][0])
    with contextlib.suppress(EventStoreError), BlockingLmdbEventLog(damaged, durability="os") as log:
        call_everything(log)


@pytest.mark.parametrize("change", CHANGES)
def test_one_stream_of_a_damaged_log_can_be_verified(change: str, damaged: Path) -> None:
    change_rows(damaged, CHANGES[change][0])
    for stream in ("a", "fork", "fork of deleted", "large"):
        with contextlib.suppress(EventStoreError):
            check(damaged, stream)


# ------------------------------------------------------------------------------------------------------ checkpoints


def checkpoint_of(path: Path) -> Checkpoint:
    with BlockingLmdbEventLog(path, durability="os") as log:
        return log.checkpoint()


def test_a_log_that_went_on_is_what_the_checkpoint_says(damaged: Path) -> None:
    checkpoint = checkpoint_of(damaged)
    assert verify(damaged, checkpoint=Checkpoint.from_json(checkpoint.to_json()))
    with BlockingLmdbEventLog(damaged, durability="os") as log:
        log.append("a", [event()])
        log.append("new", [event()])
        log.fork("large", "another")
        log.delete("fork")
        log.erase()
    assert check(damaged, checkpoint=checkpoint) == []


def test_a_cut_tail_is_reported_against_a_checkpoint(open_log: OpenLog, broken: Path) -> None:
    log = open_log()
    log.append("cut", [event("1"), event("2")])
    log.append("same", [event("1")])
    old = copy_of(log, broken / "old")
    log.append("cut", [event("3")])
    log.append("born since", [event("1")])
    log.fork("same", "forked since")
    log.delete("same")
    checkpoint = log.checkpoint()
    assert check(old) == []
    assert verify(log.path, checkpoint=checkpoint)
    problems = check(old, checkpoint=checkpoint)
    assert {problem.kind for problem in problems} == {"checkpoint"}
    assert {(problem.stream, problem.version) for problem in problems} == {
        ("cut", 3), ("born since", 1), ("forked since", 1), ("same", 1),
    }  # fmt: skip
    assert [problem.stream for problem in check(old, "cut", checkpoint)] == ["cut"]


def test_a_checkpoint_of_another_log_is_reported(open_log: OpenLog, damaged: Path) -> None:
    checkpoint = open_log().checkpoint()
    assert [problem.kind for problem in check(damaged, checkpoint=checkpoint)] == ["checkpoint"]


def remove_without_a_trace(path: Path, stream: str) -> None:
    """All that there is of a stream that has no forks."""
    with changing(path) as transaction:
        number = numbers_in(transaction)[stream]
        transaction.delete(layout.name_key(stream.encode()))
        transaction.delete(layout.facts_key(number))
        transaction.delete(layout.head_key(number))
        for key, value in list(transaction.cursor()):
            if key[:1] == layout.ACTIVITY and layout.key_activity(key)[1] == number:
                transaction.delete(key)
            if key[:1] == layout.LOG and layout.unpack_header(layout.key_position(key), value).stream == number:
                transaction.delete(key)


def test_a_stream_removed_without_a_tombstone_is_reported_against_a_checkpoint(damaged: Path) -> None:
    checkpoint = checkpoint_of(damaged)
    remove_without_a_trace(damaged, "large")
    assert check(damaged) == [], "without a checkpoint nobody can tell"
    problems = verify(damaged, checkpoint=checkpoint).problems
    assert [(problem.kind, problem.stream, problem.version) for problem in problems] == [("checkpoint", "large", 1)]
    assert "without a tombstone" in problems[0].reason


def recompute_chain(path: Path, stream: str, version: int, data: bytes) -> None:
    """What a forger does: another *data* at *version*, and every digest behind it made to fit."""
    previous = bytes(32)
    own = [(position, value) for position, value in records(path) if value[5] == layout.EVENT]
    with changing(path) as transaction:
        number = numbers_in(transaction)[stream]
        for position, value in own:
            header = layout.unpack_header(position, value)
            if header.stream != number:
                continue
            type_, meta, old = layout.payload(header, value)
            new = data if header.version == version else old
            previous = digest_of(previous, header, stream.encode(), type_, meta, new)
            header = header._replace(data_length=len(new), digest=previous)
            transaction.put(layout.log_key(position), layout.pack_record(position, header, type_, meta, new))


def digest_of(  # noqa: PLR0917  (the order is that of P7)
    previous: bytes, header: layout.Header, stream: bytes, type_: bytes, meta: bytes, data: bytes
) -> bytes:
    parts = [b"refold1", previous, struct.pack(">Qq", header.version, header.time_ns)]
    for part in (header.commit_id, stream, type_):
        parts += [struct.pack(">I", len(part)), part]
    parts += [hashlib.sha256(meta).digest(), hashlib.sha256(header.salt + data).digest()]
    return hashlib.sha256(b"".join(parts)).digest()


def test_a_recomputed_chain_is_reported_against_a_checkpoint(open_log: OpenLog, broken: Path) -> None:
    log = open_log()
    for number in range(5):
        log.append("stream", [event(f"{number}")])
    log.append("other", [event()])
    checkpoint = log.checkpoint()
    forged = copy_of(log, broken / "forged")
    recompute_chain(forged, "stream", 2, b"what was never said")
    with BlockingLmdbEventLog(forged, durability="os") as again:
        assert again.read("stream", verify=True)[1].data == b"what was never said"
        again.append("stream", [event("and it goes on")])
    assert check(forged) == [], "the chain has no key: without a checkpoint nobody can tell"
    problems = check(forged, checkpoint=checkpoint)
    assert [(problem.kind, problem.stream, problem.version) for problem in problems] == [("checkpoint", "stream", 5)]
    assert "history was changed" in problems[0].reason


@pytest.mark.parametrize("change", [{"version": 3}, {"version": 1}, {"digest": bytes(32)}])
def test_a_changed_tombstone_is_reported_against_a_checkpoint(change: dict[str, Any], damaged: Path) -> None:
    checkpoint = checkpoint_of(damaged)
    with changing(damaged) as transaction:
        position = numbers_in(transaction)["tombstone of gone"]
        value = transaction.get(layout.log_key(position))
        header = layout.unpack_header(position, value)
        assert header.version == 2
        parts = layout.payload(header, value)
        changed = layout.pack_record(position, header._replace(**change), *parts)
        transaction.put(layout.log_key(position), changed)
    assert [(problem.kind, problem.stream) for problem in check(damaged, checkpoint=checkpoint)] == [
        ("checkpoint", "gone")
    ]


def test_a_deleted_stream_that_lives_again_is_reported_against_a_checkpoint(open_log: OpenLog, broken: Path) -> None:
    log = open_log()
    log.append("stream", [event()])
    old = copy_of(log, broken / "old")
    log.delete("stream")
    problems = check(old, checkpoint=log.checkpoint())
    assert [(problem.kind, problem.stream) for problem in problems] == [("checkpoint", "stream")]
    assert "lives again" in problems[0].reason


def test_an_entry_of_a_stream_that_is_damaged_is_reported_and_not_raised(damaged: Path) -> None:
    checkpoint = checkpoint_of(damaged)
    change_rows(damaged, CHANGES["a head is gone"][0])
    assert ("checkpoint", "a") in {(problem.kind, problem.stream) for problem in check(damaged, checkpoint=checkpoint)}


def test_a_checkpoint_entry_keeps_what_was(damaged: Path) -> None:
    entries = {entry.stream: entry for entry in checkpoint_of(damaged).entries}
    assert set(entries) == {
        "a", "b", "large", "fork", "fork of fork", "fork of deleted", "deleted fork", "needed fork", "its fork", "gone"
    }  # fmt: skip
    assert [name for name, entry in entries.items() if entry.deleted] == ["b", "deleted fork", "needed fork", "gone"]
    with BlockingLmdbEventLog(damaged, durability="os") as log:
        head = log.head("fork")
        assert head is not None
        assert entries["fork"] == CheckpointEntry("fork", head.version, head.digest)
