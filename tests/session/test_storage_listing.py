from __future__ import annotations

import asyncio
import itertools
import random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import BlockingLmdbEventLog, MemoryEventLog, NewEvent
from session.errors import SessionDeletedError
from session.events import AnyEvent, HistoryRewound, MessageAppended, MetadataUpdated, SessionClosed, SessionCreated
from session.fold import FOLD_REVISION
from session.storage import BlockingEventSessionStorage, EventSessionStorage
from session.storage._listing import SNAPSHOT_EVENTS, STRIDE_EVENTS
from session.storage._prefixes import Prefixes
from session.summary import SNAPSHOT_NAME, summarize
from tests.session.histories import ASK, USAGE, answered, histories

if TYPE_CHECKING:
    from pathlib import Path

TURN: tuple[AnyEvent, ...] = (ASK, USAGE, answered())


class Counted(MemoryEventLog):
    """Counts the events that are read."""

    reads = 0

    async def read(self, stream: str, **options: Any) -> Any:
        events = await super().read(stream, **options)
        self.reads += len(events)
        return events


async def check_summaries(storage: EventSessionStorage) -> None:
    """Each summary is that of the whole fold."""
    page = await storage.summaries(1_000)
    assert page.unreadable == {}
    assert sorted(item.id for item in page.items) == sorted(await storage.list())
    for item in page.items:
        state = await storage.load(item.id)
        assert state is not None
        assert item == summarize(state)


def test_sessions_are_listed_newest_activity_first_in_pages(tmp_path: Path) -> None:
    with BlockingEventSessionStorage(tmp_path) as storage:
        for number in range(7):
            storage.append(f"sess_{number}", TURN, expected=0)
        storage.update_metadata("sess_2", title="two", tags=["x", "y"])
        first = storage.summaries(3)
        assert [(item.id, item.title, item.tags) for item in first.items] == [
            ("sess_2", "two", ("x", "y")),
            ("sess_6", "", ()),
            ("sess_5", "", ()),
        ]
        assert (first.items[0].messages, first.items[0].turns, first.items[0].status) == (2, 1, "idle")
        assert first.items[0].usage.cost_picodollars == 11
        second = storage.summaries(3, first.cursor)
        third = storage.summaries(3, second.cursor)
        assert [item.id for page in (second, third) for item in page.items] == ["sess_4", "sess_3", "sess_1", "sess_0"]
        assert third.cursor is None


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 2), histories, st.booleans(), st.integers(0, 60)), max_size=8))
def test_a_summary_is_that_of_the_whole_fold(steps: list[tuple[int, list[AnyEvent], bool, int]]) -> None:
    async def main() -> None:
        storage = EventSessionStorage(MemoryEventLog())
        names = ["sess_0", "sess_1", "sess_2"]
        for name in names:
            await storage.append(name, [SessionCreated(name)], expected=0)
        for number, events, forked, at in steps:
            name = names[number % len(names)]
            if events:
                await storage.append(name, events)
            if forked:
                place = min(at, await storage.version_at(name, "-0"))
                names.append(await storage.fork(name, at=place))
            await check_summaries(storage)

    asyncio.run(main())


def test_a_list_reads_a_few_events_of_each_session_however_long_it_is() -> None:
    async def main() -> None:
        log = Counted()
        storage = EventSessionStorage(log)
        for number in range(10):
            for _ in range(40):
                await storage.append(f"sess_{number}", TURN, expected=None if _ else 0)
            await storage.append(f"sess_{number}", [SessionClosed()] * (SNAPSHOT_EVENTS - 1))  # none is due yet
        log.reads = 0
        assert len((await storage.summaries()).items) == 10
        assert log.reads <= 10 * SNAPSHOT_EVENTS
        await check_summaries(storage)

    asyncio.run(main())


def test_a_long_history_saved_in_one_go_is_listed_without_folding_it() -> None:
    async def main() -> None:
        log = Counted()
        storage = EventSessionStorage(log)
        await storage.append("sess_a", [ASK] * 1_000, expected=0)
        log.reads = 0
        assert (await storage.summaries()).items[0].messages == 1_000
        assert log.reads <= SNAPSHOT_EVENTS

    asyncio.run(main())


@pytest.mark.parametrize("at", [300, 299, 150])
def test_a_list_of_many_forks_of_one_place_folds_their_common_past_once(at: int) -> None:
    async def main() -> None:
        log = Counted()
        storage = EventSessionStorage(log)
        for _ in range(100):
            await storage.append("sess_a", TURN, expected=None if _ else 0)
        children = await storage.fork_many("sess_a", 50, at=at)
        for child in children[:10]:
            await storage.append(child, TURN)
        log.reads = 0
        page = await storage.summaries(60)
        assert len(page.items) == 51
        assert log.reads <= 300 + 51 * (SNAPSHOT_EVENTS + len(TURN))
        await check_summaries(storage)

    asyncio.run(main())


def test_a_chain_of_forks_is_listed_from_its_ancestors_snapshots() -> None:
    async def main() -> None:
        log = Counted()
        storage = EventSessionStorage(log)
        await storage.append("sess_0", TURN * 100, expected=0)
        for number in range(20):
            await storage.fork(f"sess_{number}", f"sess_{number + 1}")
        log.reads = 0
        assert len((await storage.summaries()).items) == 21
        assert log.reads <= 21 * (20 + SNAPSHOT_EVENTS)
        await storage.delete("sess_10")
        await check_summaries(storage)

    asyncio.run(main())


def test_what_a_new_fork_costs_does_not_grow_with_what_is_before_it() -> None:
    """A conversation that is rewound again and again: each fork begins before the snapshot of the one before it."""

    async def main() -> None:
        log = Counted()
        storage = EventSessionStorage(log)
        await storage.append("sess_0", TURN * 30, expected=0)
        for number in range(60):
            at = await storage.version_at(f"sess_{number}", -len(TURN))
            await storage.fork(f"sess_{number}", f"sess_{number + 1}", at=at)
            log.reads = 0
            await storage.append(f"sess_{number + 1}", TURN * 8)
            assert log.reads <= (120 if number == 0 else 3 * 8 * len(TURN)), number
        await check_summaries(storage)

    asyncio.run(main())


def test_a_list_of_forks_at_many_places_folds_their_common_past_once_and_then_no_more() -> None:
    length, count = 3_000, 40

    async def main() -> None:
        log = Counted()
        storage = EventSessionStorage(log)
        await storage.append("sess_a", TURN * (length // 3), expected=0)
        for number in range(count):  # far from each other, and the newest of them at the end
            await storage.fork("sess_a", f"sess_{number}", at=(number + 1) * length // count)
        again = EventSessionStorage(log)  # as another process
        log.reads = 0
        await again.summaries(100)
        assert log.reads <= length + count * (STRIDE_EVENTS + SNAPSHOT_EVENTS)
        another = EventSessionStorage(log)
        log.reads = 0
        await another.summaries(100)
        assert log.reads <= (count + 1) * SNAPSHOT_EVENTS
        await check_summaries(another)

    asyncio.run(main())


def test_what_is_known_of_prefixes_is_bounded() -> None:
    prefixes = Prefixes(max_bytes=4_000)
    for version in range(20, 0, -1):
        prefixes.add("sess_a", version, bytes(500))
        prefixes.add("sess_a", version, b"it is known")
    assert prefixes.nearest("sess_a", 10) == (4, bytes(500))
    assert prefixes.nearest("sess_a", 2) == (2, bytes(500))
    assert prefixes.nearest("sess_a", 0) is None
    prefixes.add("sess_b", 1, bytes(5_000))
    assert prefixes.nearest("sess_a", 20) is None, "the oldest are forgotten first"
    assert prefixes.nearest("sess_b", 20) is None, "one that is larger than all that may be kept, too"


def test_a_rewind_to_before_the_snapshot_is_counted_right() -> None:
    async def main() -> None:
        log = Counted()
        storage = EventSessionStorage(log)
        await storage.append("sess_a", TURN * 50, expected=0)
        await storage.append("sess_a", [HistoryRewound(3)])
        await check_summaries(storage)
        assert (await storage.summaries()).items[0].messages == 3
        log.reads = 0
        await storage.summaries()
        assert log.reads <= 151, "folded once more at most"

    asyncio.run(main())


def test_damage_to_one_session_hides_no_other_and_is_told() -> None:
    async def main() -> None:
        log = MemoryEventLog()
        storage = EventSessionStorage(log)
        await storage.append("sess_good", TURN, expected=0)
        await log.append("sess_bad", [NewEvent("message_appended", b"no msgpack")])
        page = await storage.summaries()
        assert [item.id for item in page.items] == ["sess_good"]
        assert list(page.unreadable) == ["sess_bad"]
        assert "message_appended" in page.unreadable["sess_bad"]
        await storage.append("sess_bad", [ASK] * SNAPSHOT_EVENTS)  # no snapshot, no error

    asyncio.run(main())


def test_metadata_that_nests_deep_hides_no_session() -> None:
    async def main() -> None:
        storage = EventSessionStorage(MemoryEventLog())
        for depth in range(860, 1_000):  # somewhere here the stack ends
            deep = MetadataUpdated(b'{"title":"deep","tags":' + b"[" * depth + b"]" * depth + b"}")
            await storage.append(f"sess_{depth}", [deep] * SNAPSHOT_EVENTS, expected=0)
        for _ in range(2):  # without a snapshot, and from one
            page = await storage.summaries(limit=200)
            assert [item.title for item in page.items] == ["deep"] * 140
            assert page.unreadable == {}

    asyncio.run(main())


def test_a_snapshot_that_is_damaged_or_of_another_revision_changes_nothing(tmp_path: Path) -> None:
    with BlockingLmdbEventLog(tmp_path) as log, BlockingEventSessionStorage(log) as storage:
        storage.append("sess_a", TURN * 10, expected=0)
        expected = storage.summaries()
        for revision, data in ((FOLD_REVISION, b"damaged"), (FOLD_REVISION + 1, b"newer")):
            log.put_snapshot("sess_a", SNAPSHOT_NAME, revision, 30, data)
            assert storage.summaries() == expected


def test_a_snapshot_that_cannot_be_kept_fails_no_append() -> None:
    class Full(MemoryEventLog):
        async def put_snapshot(self, stream: str, *_: Any, **__: Any) -> None:
            raise SessionDeletedError(stream) if stream == "gone" else _full()

    async def main() -> None:
        storage = EventSessionStorage(Full())
        appended = await storage.append("sess_a", TURN * 10, expected=0)
        assert appended.version == 30
        await check_summaries(storage)

    asyncio.run(main())


def test_a_session_deleted_while_it_is_listed_is_left_out() -> None:
    class Deleting(MemoryEventLog):
        """Somebody deletes a session just before it is looked at."""

        async def get_snapshot(self, stream: str, name: str, revision: int) -> Any:
            if stream == "sess_b":
                await self.delete(stream)
            return await super().get_snapshot(stream, name, revision)

    async def main() -> None:
        storage = EventSessionStorage(Deleting())
        for name in ("sess_a", "sess_b", "sess_c"):
            await storage.append(name, TURN, expected=0)
        assert [item.id for item in (await storage.summaries()).items] == ["sess_c", "sess_a"]

    asyncio.run(main())


def test_summaries_keep_up_with_random_work_on_disk(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)

    async def main() -> None:
        async with EventSessionStorage(tmp_path, durability="os") as storage:
            names = [f"sess_{number}" for number in range(5)]
            for name in names:
                await storage.append(name, [SessionCreated(name)], expected=0)
            for step in itertools.count():
                if step == 60:
                    break
                name = chance.choice(names)
                spoken = [MessageAppended.of({"role": "user", "content": str(step)})] * chance.randrange(1, 12)
                await storage.append(name, [*spoken, USAGE])
                if chance.random() < 0.2:
                    names.append(await storage.fork(name, at=chance.randrange(await storage.version_at(name, "-0"))))
            await check_summaries(storage)
            await check_summaries(storage)

    asyncio.run(main())


def _full() -> Exception:
    from eventstore.errors import DiskFullError

    return DiskFullError("log", "full")
