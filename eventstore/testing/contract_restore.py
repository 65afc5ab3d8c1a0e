"""Export and restore, and the digests that make a restored history the same (P7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec
import pytest

from eventstore.errors import RestoreError, WrongVersionError
from eventstore.log import NO_DIGEST, Event, EventLog, Forked, NewEvent, Position, export
from eventstore.testing.contract_base import (
    ContractBase,
    a_commit_id,
    all_heads,
    claim,
    digest_of,
    everything,
    head_of,
    notes,
    numbered,
    texts,
)

Records: TypeAlias = Sequence[Event | Forked]


class DigestContract(ContractBase):
    """P7."""

    @claim
    async def test_p7_digests_are_what_the_promise_says(self, log: EventLog) -> None:
        await log.append("größe", [NewEvent("ü", b"\x00", b"meta"), NewEvent("t", b"", b"")])
        await log.append("größe", numbered(3))
        await log.fork("größe", "fork", at=4, events=notes("own"))
        for stream in ("größe", "fork"):
            digest = NO_DIGEST
            for event in await log.read(stream):
                digest = digest_of(event, digest)
                assert event.digest == digest
            assert (await head_of(log, stream)).digest == digest

    @claim
    async def test_p7_the_digests_of_a_known_history_are_known(self, log: EventLog) -> None:
        log = self.another(clock=lambda: 1_700_000_000_123_456_789, entropy=lambda count: b"\x07" * count)
        first = [NewEvent("said", b'{"text":"hello"}', b"m"), NewEvent("grüßte", b"")]
        await log.append("golden", first, commit_id=bytes(range(16)))
        await log.fork("golden", "gölden/fork", at=1, events=[NewEvent("said", b"bye")], commit_id=bytes(range(16, 32)))
        assert [event.digest.hex() for event in await log.read("golden")] == GOLDEN[:2]
        assert [event.digest.hex() for event in await log.read("gölden/fork")] == [GOLDEN[0], GOLDEN[2]]

    @claim
    async def test_p7_the_salts_and_commit_ids_come_from_the_entropy_given(self, log: EventLog) -> None:
        log = self.another(entropy=lambda count: b"\x07" * count)
        commit = await log.append("s", numbered(2))
        assert commit.commit_id == b"\x07" * 16
        assert [event.salt for event in await log.read("s")] == [b"\x07" * 16] * 2


class RestoreContract(ContractBase):
    """Restoring what was exported."""

    @claim
    async def test_p7_a_restored_stream_has_equal_digests(self, log: EventLog) -> None:
        await log.append("s", notes("a", "b"))
        await log.append("s", [NewEvent("grüßte", b"\x00", b""), NewEvent("t", b"")])
        head = await head_of(log, "s")
        other = self.another()
        restored = await other.restore("s", await export(log, "s"))
        assert restored == await head_of(other, "s")
        assert (restored.version, restored.digest, restored.forked) == (4, head.digest, None)
        assert (restored.created_ns, restored.updated_ns) == (head.created_ns, head.updated_ns)
        assert _unplaced(await other.read("s", verify=True)) == _unplaced(await log.read("s"))

    @claim
    async def test_p7_a_restored_fork_brings_its_ancestors_as_far_as_it_reaches(self, log: EventLog) -> None:
        await log.append("a", notes("a1", "a2", "a3", "a4"))
        await log.fork("a", "b", at=3, events=notes("b4", "b5"))
        head = await log.fork("b", "c", at=4, commit_id=a_commit_id(1))
        await log.append("c", notes("c5"))
        other = self.another()
        restored = await other.restore("c", await export(log, "c"))
        assert restored.digest == (await head_of(log, "c")).digest
        assert _unplaced(await other.read("c", verify=True)) == _unplaced(await log.read("c"))
        assert texts(await other.read("a")) == ["a1", "a2", "a3"]
        assert texts(await other.read("b")) == ["a1", "a2", "a3", "b4"]
        assert (await head_of(other, "b")).parent == "a"
        assert restored.forked is not None
        assert head.forked is not None
        assert _unplaced([restored.forked]) == _unplaced([head.forked])
        assert restored.created_ns == head.created_ns

    @claim
    async def test_an_ancestor_that_was_cut_in_a_commit_can_be_completed(self, log: EventLog) -> None:
        await log.append("parent", notes("1", "2", "3"), expected=0, commit_id=a_commit_id(1))
        await log.append("parent", notes("4"))
        await log.fork("parent", "child", at=2, events=notes("own"))
        other = self.another()
        await other.restore("child", await export(log, "child"))
        assert texts(await other.read("parent")) == ["1", "2"]
        await other.restore("parent", await export(log, "parent"))
        assert _unplaced(await other.read("parent", verify=True)) == _unplaced(await log.read("parent"))
        assert texts(await other.read("child", verify=True)) == ["1", "2", "own"]
        repeated = await other.append("parent", notes("1", "2", "3"), expected=0, commit_id=a_commit_id(1))
        assert (repeated.first, repeated.version) == (1, 3)

    @claim
    async def test_an_interrupted_restore_is_simply_repeated(self, log: EventLog) -> None:
        await log.append("parent", notes("1", "2", "3"))
        await log.fork("parent", "child", at=2, events=notes("own 3", "own 4"))
        await log.append("child", notes("own 5"))
        records = await export(log, "child")
        for written in range(1, len(records) + 1):
            other = self.another(f"interrupted {written}")
            stream = "parent" if written <= 2 else "child"
            await other.restore(stream, records[:written])
            await other.restore("child", records)
            assert (await head_of(other, "child")).digest == (await head_of(log, "child")).digest
            assert len(await everything(other)) == len(records)

    @claim
    async def test_a_lineage_can_be_restored_part_by_part(self, log: EventLog) -> None:
        await log.append("parent", numbered(4))
        await log.append("parent", numbered(2))
        await log.fork("parent", "child", at=3, events=notes("own 4", "own 5"))
        await log.append("child", notes("own 6"))
        parent, child = await export(log, "parent"), await export(log, "child")
        other = self.another()
        for place in range(len(parent)):
            await other.restore("parent", parent[place : place + 1])
        for _ in range(2):  # what is there already is compared
            for place in range(3, len(child)):
                await other.restore("child", child[place : place + 1])
        assert _unplaced(await export(other, "parent")) == _unplaced(parent)
        assert _unplaced(await export(other, "child")) == _unplaced(child)

    @claim
    async def test_a_part_that_follows_from_nothing_is_refused_and_nothing_written(self, log: EventLog) -> None:
        await log.append("parent", numbered(4))
        await log.fork("parent", "child", at=3, events=notes("own 4", "own 5"))
        parent, child = await export(log, "parent"), await export(log, "child")
        other, foreign = self.another(), self.another("foreign")
        await other.restore("parent", parent[:2])
        await foreign.append("parent", notes("1", "2", "3", "4"))
        for target, stream, part in [
            (other, "parent", parent[3:]),
            (other, "child", child[3:]),
            (other, "child", child[4:]),
            (foreign, "parent", parent[2:]),
            (foreign, "child", child[3:]),
        ]:
            before = await everything(target)
            with pytest.raises(RestoreError):
                await target.restore(stream, part)
            assert await everything(target) == before

    @claim
    async def test_restoring_what_is_there_writes_nothing(self, log: EventLog) -> None:
        await log.append("parent", numbered(3))
        await log.fork("parent", "child", at=2, events=notes("own"))
        early = {name: await export(log, name) for name in ("parent", "child")}
        await log.append("parent", notes("later"))
        await log.append("child", notes("later"))
        late = {name: await export(log, name) for name in ("parent", "child")}
        before = await everything(log)
        for exported in (early, late):
            for name, records in exported.items():
                assert await log.restore(name, records) == await head_of(log, name)
        assert await everything(log) == before

    @claim
    async def test_forks_of_one_parent_share_it_again(self, log: EventLog) -> None:
        await log.append("parent", numbered(4))
        for at in (3, 1, 4, 0):
            await log.fork("parent", f"child{at}", at=at, events=notes(f"own {at}"))
        other = self.another()
        for at in (3, 1, 4, 0):
            await other.restore(f"child{at}", await export(log, f"child{at}"))
        for at in (3, 1, 4):
            assert (await head_of(other, f"child{at}")).parent == "parent"
        for at in (3, 1, 4, 0):
            assert (await head_of(other, f"child{at}")).digest == (await head_of(log, f"child{at}")).digest
        assert texts(await other.read("parent")) == ["1", "2", "3", "4"]

    @claim
    async def test_a_fork_at_nothing_is_restored_below_its_parent_if_that_is_there(self, log: EventLog) -> None:
        await log.append("parent", numbered(1))
        await log.fork("parent", "child", at=0)
        await log.append("child", notes("own"))
        other = self.another()
        await other.restore("parent", await export(log, "parent"))
        restored = await other.restore("child", await export(log, "child"))
        assert (restored.parent, restored.digest) == ("parent", (await head_of(log, "child")).digest)

    @claim
    async def test_a_fork_at_nothing_is_restored_without_its_parent_if_that_is_missing(self, log: EventLog) -> None:
        await log.append("parent", numbered(1))
        await log.fork("parent", "child", at=0, events=notes("own"))
        restored = await self.another().restore("child", await export(log, "child"))
        assert (restored.parent, restored.digest) == (None, (await head_of(log, "child")).digest)

    @claim
    async def test_a_parent_that_left_no_event_in_the_lineage_is_skipped_if_it_is_missing(self, log: EventLog) -> None:
        await log.append("a", numbered(3))
        await log.fork("a", "b", at=2)
        await log.fork("b", "c", at=1, events=notes("own"))
        without, beside = self.another("without"), self.another("beside")
        await beside.restore("b", await export(log, "b"))
        for other, parent in [(without, "a"), (beside, "b")]:
            restored = await other.restore("c", await export(log, "c"))
            assert (restored.parent, restored.forked_at, restored.version) == (parent, 1, 2)
            assert texts(await other.read("c", verify=True)) == ["1", "own"]
            assert [head.stream for head in await other.children(parent)][-1] == "c"

    @claim
    async def test_a_restored_stream_goes_on(self, log: EventLog) -> None:
        first = await log.append("s", notes("1", "2"), expected=0, commit_id=a_commit_id(1))
        await log.append("s", notes("3"), commit_id=a_commit_id(2))
        other = self.another()
        await other.append("t", notes("before"))
        await other.restore("s", await export(log, "s"))
        again = await other.append("s", notes("1", "2"), expected=0, commit_id=a_commit_id(1))
        assert (again.first, again.version, again.digest) == (first.first, first.version, first.digest)
        assert (await other.append("s", notes("3"), commit_id=a_commit_id(2))).version == 3
        with pytest.raises(WrongVersionError):
            await other.append("s", notes("x"), expected=2, commit_id=a_commit_id(3))
        assert (await other.append("s", notes("4"), expected=3)).version == 4
        await other.fork("s", "fork", at=2, events=notes("own"))
        assert texts(await other.read("fork", verify=True)) == ["1", "2", "own"]
        assert [head.stream for head in await all_heads(other)] == ["fork", "s", "t"]

    @claim
    async def test_p6_an_export_outlives_its_stream(self, log: EventLog) -> None:
        await log.append("parent", numbered(3))
        await log.fork("parent", "child", at=2, events=notes("own"))
        await log.delete("parent")
        await log.erase()
        digest = (await head_of(log, "child")).digest
        records = await export(log, "child")
        await log.restore("child", records)
        await log.delete("child")
        other = self.another()
        assert (await other.restore("child", records)).digest == digest


class RestoreRefusalContract(ContractBase):
    """What restore refuses."""

    @claim
    async def test_p7_a_tampered_record_is_refused_and_nothing_written(self, log: EventLog) -> None:
        await log.append("s", numbered(3))
        await log.append("s", numbered(2))
        records = await log.read("s")
        changes: list[dict[str, object]] = [
            {"data": b"tampered"},
            {"meta": b"tampered"},
            {"type": "tampered"},
            {"time_ns": records[0].time_ns + 1},
            {"commit_id": a_commit_id(99)},
            {"salt": bytes(16)},
            {"salt": b""},
            {"digest": bytes(32)},
            {"digest": b""},
            {"version": 9},
            {"commit_index": 5},
            {"commit_size": 0},
            {"commit_id": b""},
            {"type": ""},
        ]
        other = self.another()
        for index, change in [(index, change) for index in range(5) for change in changes]:
            tampered = [*records[:index], msgspec.structs.replace(records[index], **change), *records[index + 1 :]]
            with pytest.raises(RestoreError) as caught:
                await other.restore("s", tampered)
            assert caught.value.version in (index, index + 1, 9), change
            assert await everything(other) == []

    @claim
    async def test_p7_records_that_are_no_lineage_are_refused_and_nothing_written(self, log: EventLog) -> None:
        await log.append("a", notes("a1", "a2", "a3"))
        await log.fork("a", "b", at=2, events=notes("b3", "b4"))
        a, b = await export(log, "a"), await export(log, "b")
        marker = b[2]
        assert isinstance(marker, Forked)
        broken: list[tuple[str, Records]] = [
            ("a", []),
            ("a", a[1:]),
            ("a", [a[1], a[0], a[2]]),
            ("a", [a[0], a[2]]),
            ("a", [a[0], a[0], a[1]]),
            ("other", a),
            ("a", b),
            ("b", b[3:]),
            ("b", [marker, *b[3:]]),
            ("b", [marker, *b[:2], *b[3:]]),
            ("b", [*b[:2], msgspec.structs.replace(marker, at=1), *b[3:]]),
            ("b", [*b[:3], *a[2:]]),
        ]
        other = self.another()
        for number, (stream, records) in enumerate(broken):
            with pytest.raises(RestoreError):
                await other.restore(stream, records)
            assert await everything(other) == [], number

    @claim
    async def test_another_history_under_the_name_is_kept(self, log: EventLog) -> None:
        await log.append("parent", numbered(3))
        await log.fork("parent", "child", at=2, events=notes("own"))
        for name, existing in [("parent", 1), ("parent", 2), ("parent", 5), ("child", 1), ("child", 4)]:
            other = self.another(f"{name} {existing}")
            await other.append(name, numbered(existing))
            before = await other.read(name)
            for stream in {name, "child"}:
                with pytest.raises(RestoreError):
                    await other.restore(stream, await export(log, stream))
            assert await other.read(name) == before

    @claim
    async def test_a_tail_is_not_added_behind_other_events(self, log: EventLog) -> None:
        await log.append("s", numbered(2))
        records = await export(log, "s")
        await log.append("s", notes("3", "4"))
        other = self.another()
        await other.restore("s", records)
        await other.append("s", notes("another 3"))
        before = await everything(other)
        with pytest.raises(RestoreError):
            await other.restore("s", await export(log, "s"))
        assert await everything(other) == before

    @claim
    async def test_a_fork_made_elsewhere_is_another_history(self, log: EventLog) -> None:
        await log.append("parent", numbered(4))
        parent = await export(log, "parent")
        await log.fork("parent", "child", at=3)
        empty = await export(log, "child")
        await log.append("child", notes("own"))
        for records in (empty, await export(log, "child")):
            other = self.another(f"{len(records)}")
            await other.restore("parent", parent)
            await other.fork("parent", "child", at=2)
            before = await everything(other)
            with pytest.raises(RestoreError):
                await other.restore("child", records)
            assert await everything(other) == before


def _unplaced(records: Records) -> list[Event | Forked]:
    """The records without their positions, which are those of another log after a restore."""
    return [msgspec.structs.replace(record, position=Position(b"")) for record in records]


# Computed once from the words of P7, not by an engine.
GOLDEN = [
    "838b9194838a3b465dd69c8d929fac6f5be12f8d9b2ca45db9f17801ed8bfffb",
    "91bac654d7bb5ea49373a99feb65c13c5f556ad357c726457583cf9d78b75f7d",
    "9567f0de99c8d4bf301e86809e514da0e03052b6bee763fc41051d726964f7f3",
]
