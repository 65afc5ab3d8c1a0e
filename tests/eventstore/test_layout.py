"""Format 1 is what `_layout` says it is, byte for byte."""

from __future__ import annotations

import hashlib
import itertools
import shutil
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import BlockingLmdbEventLog, Event, NewerFormatError, NewEvent, StreamDeletedError
from eventstore import _layout as layout
from eventstore._layout import DamagedRecord, Erasure, Facts, Header, StoredSnapshot
from eventstore._lineage import Spine, jump_of_next
from eventstore.verify import verify
from tests.eventstore.rows import changing, rows
from tests.eventstore.soundness import problems_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GOLDEN = Path(__file__).with_name("golden_format_1.txt")
LOG_ID = bytes(range(0xA0, 0xA8))
quick = settings(max_examples=300, deadline=None)


def write_golden_log(path: Path) -> None:
    """A log that has every kind of row and record, and is the same every time."""
    times = itertools.count(1_700_000_000_000_000_000, 1_000_000_007)
    counter = itertools.count(1)

    def entropy(size: int) -> bytes:
        if size == len(LOG_ID):
            return LOG_ID
        return (hashlib.sha256(b"entropy %d" % next(counter)).digest() * 2)[:size]

    with BlockingLmdbEventLog(path, durability="os", clock=lambda: next(times), entropy=entropy) as log:
        log.append("stream", [NewEvent("type", b"data", b"meta"), NewEvent("type", b"")], commit_id=b"0123456789abcdef")
        log.append("ström \N{SNOWMAN}", [NewEvent("\N{SNOWMAN}", bytes(range(256)))])
        log.append("stream", [NewEvent("last", b"3")], expected=2)
        log.fork("stream", "fork", at=2, events=[NewEvent("own", b"after the fork")])
        log.fork("stream", "empty fork", at=0)
        log.put_snapshot("fork", "fold", 7, 3, b"snapshot")
        log.delete("stream", reason="why", actor="who")
        log.delete("ström \N{SNOWMAN}", reason="grün")
        log.erase()


def test_a_log_is_written_as_format_1(tmp_path: Path) -> None:
    write_golden_log(tmp_path / "log")
    found = [f"{key.hex()} {value.hex()}" for key, value in rows(tmp_path / "log")]
    assert found == GOLDEN.read_text().splitlines()


def test_the_golden_log_has_every_kind_of_row_and_record() -> None:
    golden = [tuple(map(bytes.fromhex, line.split(" "))) for line in GOLDEN.read_text().splitlines()]
    assert {key[:1] for key, _ in golden} == set(map(bytes, zip(b"acefhinsz", strict=True)))
    assert {value[5] for key, value in golden if key[:1] == b"z"} == {layout.EVENT, layout.FORKED, layout.DELETED}


def test_an_event_is_the_bytes_of_the_table() -> None:
    header = Header(
        kind=1, type_length=2, meta_length=3, data_length=4, stream=5, version=6, commit_index=7, commit_size=8,
        previous=9, jump=10, time_ns=-11, commit_id=b"c" * 16, salt=b"s" * 16, digest=b"d" * 32,
    )  # fmt: skip
    body = bytes.fromhex(
        "01 01 0002 00000003 00000004 00000005 00000006 00000007 00000008"
        "0000000000000009 000000000000000a fffffffffffffff5"
    )
    body += b"c" * 16 + b"s" * 16 + b"d" * 32
    record = layout.pack_record(12, header, b"ty", b"met", b"data")
    assert record == bytes.fromhex("f416ee1d") + body + b"tymetdata"
    assert layout.HEADER_BYTES == 120
    assert layout.unpack_header(12, record) == header
    assert layout.payload(header, record) == (b"ty", b"met", b"data")


def test_a_fork_is_the_bytes_of_the_table() -> None:
    header = Header(2, 0, 0, 0, 3, 5, 0, 0, 6, 0, 7, b"c" * 16, b"", b"")
    body = bytes.fromhex("01 02 0000 00000003 00000004 00000005 0000000000000006 0000000000000007") + b"c" * 16
    record = layout.pack_fork(12, 3, 4, header)
    assert record == bytes.fromhex("72b35a98") + body
    assert len(record) == 52
    assert layout.unpack_header(12, record) == header
    assert layout.parent_of(record) == 4


@pytest.mark.parametrize(
    ("packed", "golden"),
    [
        (layout.activity_key(1024 * 3 + 1, 2), "61 0000000000000003 00000002"),
        (layout.child_key(1, 2, 3), "63 00000001 00000002 00000003"),
        (layout.children_prefix(1), "63 00000001"),
        (layout.erasure_key(layout.OWED, 1), "65 00 00000001"),
        (layout.erasure_key(layout.KEPT, 1), "65 01 00000001"),
        (layout.erasure_key(layout.STOPPED, 1), "65 02 00000001"),
        (layout.facts_key(258), "66 00000102"),
        (layout.head_key(1), "68 00000001"),
        (layout.IDENTITY, "69"),
        (layout.name_key(b"name"), "6e 82a3537ff0dbce7e"),
        (layout.snapshot_key(1, b"fold"), "73 00000001 666f6c64"),
        (layout.log_key(2**40), "7a 0000010000000000"),
        (layout.pack_erasure(Erasure(1, 2)), "0000000000000001 00000002"),
        (layout.pack_facts(Facts(1, 0, b"name")), "0000000000000001 6e616d65"),
        (layout.pack_facts(Facts(1, 2, b"name")), "8000000000000001 0000000000000002 6e616d65"),
        (layout.pack_head(1, 2), "0000000000000001 00000002"),
        (layout.pack_identity(LOG_ID), "7265666f6c64 0001 a0a1a2a3a4a5a6a7"),
        (layout.pack_fork_position(3), "0000000000000003"),
        (layout.pack_numbers([3, 4]), "00000003 00000004"),
        (
            layout.pack_snapshot(StoredSnapshot(1, 2, b"d" * 32, b"data")),
            "de33dffd 00000001 00000002" + "64" * 32 + "64617461",
        ),
    ],
)
def test_each_key_and_row_is_the_bytes_of_the_table(packed: bytes, golden: str) -> None:
    assert packed == bytes.fromhex(golden)


def test_names_that_hash_alike_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, BlockingLmdbEventLog(tmp_path / "log", durability="os") as log:
        patch.setattr(layout, "sha256", lambda _: hashlib.sha256())  # eight bytes of it: nobody finds two alike
        for name in ("one", "two", "three"):
            log.append(name, [NewEvent("type", name.encode())], expected=0)
        log.fork("two", "fork", events=[NewEvent("type", b"own")])
        log.delete("one")
        assert log.head("unknown") is None
        for name in ("two", "three"):
            assert [event.stream for event in log.read(name, verify=True)] == [name]
        with pytest.raises(StreamDeletedError):
            log.append("one", [NewEvent("type", b"")])
        assert {entry.stream for entry in log.checkpoint().entries} == {"one", "two", "three", "fork"}
        assert problems_of(log) == []
    shutil.rmtree(tmp_path / "log")  # where the hash is another, the names are elsewhere


def test_a_digest_is_what_p7_says(tmp_path: Path) -> None:
    write_golden_log(tmp_path / "log")
    with BlockingLmdbEventLog(tmp_path / "log", durability="os") as log:
        previous = bytes(32)
        for event in log.read("fork"):
            assert event.digest == digest_of(event, previous)
            previous = event.digest


def digest_of(event: Event, previous: bytes) -> bytes:
    commitment = hashlib.sha256(event.salt + event.data).digest()
    parts = [b"refold1", previous, struct.pack(">Qq", event.version, event.time_ns)]
    for part in (event.commit_id, event.stream.encode(), event.type.encode()):
        parts += [struct.pack(">I", len(part)), part]
    parts += [hashlib.sha256(event.meta).digest(), commitment]
    return hashlib.sha256(b"".join(parts)).digest()


numbers = st.integers(0, 2**32 - 1)
positions = st.integers(0, 2**64 - 1)


@st.composite
def records(draw: st.DrawFn) -> tuple[int, Header, bytes]:
    """Position, header and bytes of some record."""
    kind = draw(st.sampled_from([layout.EVENT, layout.FORKED, layout.DELETED]))
    position, stream, version, previous = draw(positions), draw(numbers), draw(numbers), draw(positions)
    time_ns = draw(st.integers(-(2**63), 2**63 - 1))
    commit_id, salt, digest = (draw(st.binary(min_size=size, max_size=size)) for size in (16, 16, 32))
    if kind == layout.FORKED:
        header = Header(kind, 0, 0, 0, stream, version, 0, 0, previous, 0, time_ns, commit_id, b"", b"")
        return position, header, layout.pack_fork(position, stream, draw(numbers), header)
    type_, meta, data = (draw(st.binary(max_size=size)) for size in (20, 40, 80))
    header = Header(
        kind, len(type_), len(meta), len(data), stream, version, draw(numbers), draw(numbers), previous,
        draw(positions), time_ns, commit_id, salt, digest,
    )  # fmt: skip
    return position, header, layout.pack_record(position, header, type_, meta, data)


@quick
@given(records())
def test_a_record_is_read_as_it_was_written(made: tuple[int, Header, bytes]) -> None:
    position, header, record = made
    assert layout.unpack_header(position, record) == header
    assert layout.unpack_header(position, memoryview(record)) == header
    if header.kind != layout.FORKED:
        assert b"".join(layout.payload(header, memoryview(record))) == record[layout.HEADER_BYTES :]


@quick
@given(records(), st.data())
def test_a_header_with_any_flipped_bit_is_refused(made: tuple[int, Header, bytes], data: st.DataObject) -> None:
    position, header, record = made
    # The crc of an event covers its header only: what lies behind is covered by the digest.
    covered = layout.HEADER_BYTES if header.kind == layout.EVENT else len(record)
    bit = data.draw(st.integers(0, 8 * covered - 1))
    flipped = bytearray(record)
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DamagedRecord):
        layout.unpack_header(position, bytes(flipped))


@quick
@given(records(), st.data())
def test_a_record_that_is_cut_or_grew_or_moved_is_refused(made: tuple[int, Header, bytes], data: st.DataObject) -> None:
    position, _, record = made
    with pytest.raises(DamagedRecord):
        layout.unpack_header(position, record[: data.draw(st.integers(0, len(record) - 1))])
    with pytest.raises(DamagedRecord):
        layout.unpack_header(position, record + b"\0")
    with pytest.raises(DamagedRecord):
        layout.unpack_header(position ^ (1 << data.draw(st.integers(0, 31))), record)


def test_a_record_of_another_format_or_kind_is_refused() -> None:
    header = Header(4, 0, 0, 0, 1, 1, 0, 1, 0, 0, 0, bytes(16), bytes(16), bytes(32))
    with pytest.raises(DamagedRecord, match="kind 4"):
        layout.unpack_header(1, layout.pack_record(1, header, b"", b"", b""))


@pytest.mark.parametrize(
    ("unpack", "value"),
    [
        (layout.unpack_head, layout.pack_head(1, 2)),
        (layout.key_child, layout.child_key(1, 2, 3)),
        (layout.key_erasure, layout.erasure_key(layout.OWED, 1)),
        (layout.unpack_erasure, layout.pack_erasure(Erasure(1, 2))),
        (layout.unpack_numbers, layout.pack_numbers([1])),
        (layout.unpack_facts, layout.pack_facts(Facts(1, 0, b"n"))),
        (layout.unpack_facts, layout.pack_facts(Facts(1, 2, b"n"))),
        (layout.unpack_identity, layout.pack_identity(LOG_ID)),
        (layout.unpack_snapshot, layout.pack_snapshot(StoredSnapshot(1, 2, b"d" * 32, b""))),
    ],
)
def test_a_row_that_was_cut_is_refused(unpack: Callable[[bytes], Any], value: bytes) -> None:
    unpack(value)
    for length in range(len(value)):
        with pytest.raises(DamagedRecord):
            unpack(value[:length])


@given(st.binary(max_size=60), st.data())
def test_a_snapshot_with_any_flipped_bit_is_refused(content: bytes, data: st.DataObject) -> None:
    row = bytearray(layout.pack_snapshot(StoredSnapshot(1, 2, b"d" * 32, content)))
    assert layout.unpack_snapshot(bytes(row)).data == content
    bit = data.draw(st.integers(0, 8 * len(row) - 1))
    row[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DamagedRecord):
        layout.unpack_snapshot(bytes(row))


# ------------------------------------------------------------------------------------------------------- pointers


def myers_jumps(upto: int) -> Iterator[tuple[int, int]]:
    """Myers, "An applicative random-access stack" (1983): over two trees of equal size, or to the parent."""
    jump = [0, 0]
    yield 1, 0
    for version in range(2, upto + 1):
        parent = version - 1
        near, far = jump[parent], jump[jump[parent]]
        jump.append(far if parent - near == near - far and parent != near else parent)
        yield version, jump[version]


def test_jump_pointers_are_myers() -> None:
    assert all(layout.jump_version(version) == jump for version, jump in myers_jumps(20_000))


def test_the_spine_gives_the_jumps_of_the_next_version() -> None:
    spine: Spine | None = None
    for version in range(1, 5_000):
        jump = jump_of_next(spine)
        assert (jump[0] if jump else 0) == layout.jump_version(version)
        spine = (version, version + 1000, jump)


@given(st.integers(1, 2**32 - 1), st.data())
def test_any_version_is_a_few_jumps_away(head: int, data: st.DataObject) -> None:
    wanted = data.draw(st.integers(1, head))
    version = head
    hops = 0
    while version > wanted:
        jump = layout.jump_version(version)
        version = jump if jump >= wanted else version - 1
        hops += 1
    assert hops <= 3 * head.bit_length()


# ------------------------------------------------------------------------------------------------------- identity


def rewrite_identity(path: Path, value: bytes) -> None:
    with changing(path) as transaction:
        transaction.put(layout.IDENTITY, value)


def test_a_newer_format_is_refused_and_left_alone(broken: Path) -> None:
    write_golden_log(broken / "log")
    before = rows(broken / "log")
    rewrite_identity(broken / "log", layout.pack_identity(LOG_ID, layout.FORMAT + 1))
    with pytest.raises(NewerFormatError, match="format 2"):
        BlockingLmdbEventLog(broken / "log")
    assert [problem.kind for problem in verify(broken / "log").problems] == ["open"]
    rewrite_identity(broken / "log", layout.pack_identity(LOG_ID))
    assert rows(broken / "log") == before
    assert verify(broken / "log")


def test_the_identity_row_may_grow_in_a_newer_format(broken: Path) -> None:
    write_golden_log(broken / "log")
    rewrite_identity(broken / "log", layout.pack_identity(LOG_ID, 9) + b"what version 9 adds")
    with pytest.raises(NewerFormatError):
        BlockingLmdbEventLog(broken / "log")
