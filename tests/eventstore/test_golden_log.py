"""An export of format 1's first days restores, and finds the digests that were written then.

The file is never written anew: what it holds must be restored by every later version.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from eventstore import BlockingLmdbEventLog, Event, Forked, LmdbEventLog, MemoryEventLog, RestoreError, export

if TYPE_CHECKING:
    from eventstore import EventLog

GOLDEN = Path(__file__).with_name("golden_export_1.json")
STREAMS = {"conversation": 6, "fork": 8, "fork of fork": 7, "ström ☃": 1}  # and their versions


class Exported(msgspec.Struct):
    """One stream's lineage, oldest first, and the digest of its head."""

    stream: str
    digest: bytes
    records: list[Event | Forked]


def golden() -> list[Exported]:
    return msgspec.json.decode(GOLDEN.read_bytes(), type=list[Exported])


async def restore_all(log: EventLog) -> None:
    for exported in golden():
        head = await log.restore(exported.stream, exported.records)
        assert (head.version, head.digest) == (STREAMS[exported.stream], exported.digest)


def test_the_golden_export_is_what_it_always_was() -> None:
    assert {each.stream: len([r for r in each.records if isinstance(r, Event)]) for each in golden()} == STREAMS


def test_a_golden_export_restores_with_equal_digests(tmp_path: Path) -> None:
    async def main() -> None:
        async with LmdbEventLog(tmp_path / "log", durability="os") as log:
            await restore_all(log)
            await restore_all(log)  # what is there already is compared
            for exported in golden():
                records = await export(log, exported.stream)
                assert [without_place(record) for record in records] == [without_place(r) for r in exported.records]

    asyncio.run(main())


def without_place(record: Event | Forked) -> Event | Forked:
    """Positions are the log's, not the event's."""
    return msgspec.structs.replace(record, position=b"")


def test_it_restores_in_memory_too() -> None:
    async def main() -> None:
        async with MemoryEventLog() as log:
            await restore_all(log)

    asyncio.run(main())


@pytest.mark.parametrize("part", [0, 1, 2, 3])
def test_a_golden_export_that_was_changed_is_refused(part: int, tmp_path: Path) -> None:
    exported = golden()[part]
    first = next(index for index, record in enumerate(exported.records) if isinstance(record, Event))
    changed = list(exported.records)
    changed[first] = msgspec.structs.replace(changed[first], data=b"changed")
    with BlockingLmdbEventLog(tmp_path / "log", durability="os") as log:
        with pytest.raises(RestoreError):
            log.restore(exported.stream, changed)
        assert log.read_all() == []
