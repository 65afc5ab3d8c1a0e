"""What is derived from the log: snapshots and checkpoints."""

from __future__ import annotations

import pytest

from eventstore.errors import StreamNotFoundError
from eventstore.log import NO_DIGEST, Checkpoint, CheckpointEntry, EventLog, SinceSnapshot, Snapshot
from eventstore.testing.contract_base import ContractBase, claim, everything, head_of, notes, numbered


class SnapshotContract(ContractBase):
    """`get_snapshot`, `since_snapshot` and `put_snapshot`."""

    @claim
    async def test_a_snapshot_is_given_back_to_the_revision_that_made_it(self, log: EventLog) -> None:
        await log.append("s", numbered(3))
        events = await log.read("s")
        await log.put_snapshot("s", "state", 7, 2, b"folded")
        assert await log.get_snapshot("s", "state", 7) == Snapshot("s", "state", 7, 2, events[1].digest, b"folded")
        assert await log.get_snapshot("s", "state", 8) is None
        assert await log.get_snapshot("s", "other", 7) is None
        await log.append("s", notes("later"))
        assert await log.get_snapshot("s", "state", 7) is not None

    @claim
    async def test_a_newer_snapshot_replaces_the_one_of_its_name(self, log: EventLog) -> None:
        await log.append("s", numbered(3))
        await log.put_snapshot("s", "state", 1, 1, b"1")
        await log.put_snapshot("s", "other", 1, 1, b"other")
        await log.put_snapshot("s", "state", 2, 3, b"2")
        assert await log.get_snapshot("s", "state", 1) is None
        newest = await log.get_snapshot("s", "state", 2)
        other = await log.get_snapshot("s", "other", 1)
        assert newest is not None
        assert other is not None
        assert (newest.version, newest.data, other.data) == (3, b"2", b"other")

    @claim
    async def test_a_snapshot_belongs_to_its_stream_alone(self, log: EventLog) -> None:
        await log.append("s", numbered(3))
        await log.put_snapshot("s", "state", 1, 2, b"s")
        await log.fork("s", "fork")
        assert await log.get_snapshot("fork", "state", 1) is None
        await log.put_snapshot("fork", "state", 1, 3, b"fork")
        kept = await log.get_snapshot("s", "state", 1)
        assert kept is not None
        assert kept.data == b"s"

    @claim
    async def test_a_snapshot_needs_a_version_that_is_there(self, log: EventLog) -> None:
        await log.append("s", numbered(3))
        for version in (4, -1):
            with pytest.raises(ValueError, match=str(version)):
                await log.put_snapshot("s", "state", 1, version, b"")
        assert await log.get_snapshot("s", "state", 1) is None
        await log.put_snapshot("s", "state", 1, 0, b"")
        assert await log.get_snapshot("s", "state", 1) == Snapshot("s", "state", 1, 0, NO_DIGEST, b"")

    @claim
    async def test_a_snapshot_is_no_event(self, log: EventLog) -> None:
        await log.append("s", numbered(3))
        before, head = await everything(log), await head_of(log, "s")
        await log.put_snapshot("s", "state", 1, 3, b"x" * 10_000)
        assert await everything(log) == before
        assert await head_of(log, "s") == head

    @claim
    async def test_what_came_behind_a_snapshot_is_given_with_it(self, log: EventLog) -> None:
        await log.append("s", numbered(5))
        assert await log.since_snapshot("s", "state", 7) is None
        await log.put_snapshot("s", "state", 7, 2, b"folded")
        snapshot = await log.get_snapshot("s", "state", 7)
        behind = await log.contents("s", after=2)
        assert snapshot is not None
        assert await log.since_snapshot("s", "state", 7) == SinceSnapshot(snapshot, behind)
        assert await log.since_snapshot("s", "state", 7, upto=4) == SinceSnapshot(snapshot, behind[:2])
        for upto in (0, 1, 2):
            assert await log.since_snapshot("s", "state", 7, upto=upto) == SinceSnapshot(snapshot, [])
        assert await log.since_snapshot("s", "state", 8) is None
        assert await log.since_snapshot("s", "other", 7) is None
        await log.put_snapshot("s", "state", 7, 0, b"nothing")
        nothing = Snapshot("s", "state", 7, 0, NO_DIGEST, b"nothing")
        assert await log.since_snapshot("s", "state", 7) == SinceSnapshot(nothing, await log.contents("s"))

    @claim
    async def test_what_came_behind_the_snapshot_of_a_fork_begins_in_its_parent(self, log: EventLog) -> None:
        await log.append("s", numbered(5))
        await log.fork("s", "fork", at=4, events=notes("own"))
        await log.append("s", notes("of the parent alone"))
        await log.put_snapshot("fork", "state", 1, 2, b"")
        found = await log.since_snapshot("fork", "state", 1)
        assert found is not None
        assert found.contents == await log.contents("fork", after=2)
        assert [content.version for content in found.contents] == [3, 4, 5]

    @claim
    async def test_many_events_behind_a_snapshot_come_with_it_or_not_at_all(self, log: EventLog) -> None:
        await log.append("s", numbered(2_000))
        await log.put_snapshot("s", "state", 1, 1, b"")
        found = await log.since_snapshot("s", "state", 1)
        assert found is not None
        assert found.contents in ([], await log.contents("s", after=1))

    @claim
    async def test_a_stream_that_never_was_has_nothing_behind_a_snapshot(self, log: EventLog) -> None:
        with pytest.raises(StreamNotFoundError):
            await log.since_snapshot("s", "state", 1)
        await log.append("s", numbered(2))
        with pytest.raises(ValueError, match="upto"):
            await log.since_snapshot("s", "state", 1, upto=-1)


class CheckpointContract(ContractBase):
    """`checkpoint`."""

    @claim
    async def test_p7_a_checkpoint_holds_every_head(self, log: EventLog) -> None:
        log = self.another(clock=lambda: 1_234)
        await log.append("a", numbered(3))
        await log.fork("a", "b", at=2)
        await log.fork("a", "ü", at=0)
        checkpoint = await log.checkpoint()
        assert checkpoint.time_ns == 1_234
        entries = {entry.stream: entry for entry in checkpoint.entries}
        heads = [await head_of(log, name) for name in ("a", "b", "ü")]
        assert entries == {head.stream: CheckpointEntry(head.stream, head.version, head.digest) for head in heads}
        assert len(checkpoint.entries) == 3

    @claim
    async def test_a_checkpoint_survives_as_json(self, log: EventLog) -> None:
        await log.append("größe", numbered(3))
        await log.append("gone", numbered(1))
        await log.delete("gone")
        checkpoint = await log.checkpoint()
        assert Checkpoint.from_json(checkpoint.to_json()) == checkpoint
        with pytest.raises(ValueError, match="JSON"):
            Checkpoint.from_json(b"no checkpoint")

    @claim
    async def test_a_checkpoint_names_its_log(self, log: EventLog) -> None:
        first = await log.checkpoint()
        await log.append("s", notes("x"))
        assert (await log.checkpoint()).log_id == first.log_id
        assert (await self.another().checkpoint()).log_id != first.log_id
