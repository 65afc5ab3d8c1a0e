from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import inspect
import itertools
import threading
import time
from typing import TYPE_CHECKING, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import BlockingLmdbEventLog, EventStoreError, LmdbEventLog, MemoryEventLog, NewEvent
from eventstore.errors import ClosedError, CorruptEventError
from session.errors import (
    InvalidMetadataError,
    InvalidPlaceError,
    PlaceNotFoundError,
    SessionAlteredError,
    SessionDeletedError,
    SessionExistsError,
    SessionNotFoundError,
)
from session.events import (
    HistoryRewound,
    MessageAppended,
    Meta,
    MetadataUpdated,
    SessionClosed,
    SessionCreated,
    SessionForked,
    StoredEvent,
    UsageRecorded,
)
from session.state import SessionState
from session.storage import BlockingEventSessionStorage, EventSessionStorage, WrongVersionError
from session.storage._now import run_now, together_in_threads
from session.testing._storage_claims import loaded_from
from session.testing.storage_contract import SessionStorageContract, rich_state
from session.usage import Tally, Usage, total
from tests.eventstore.soundness import problems_of
from tests.session.histories import ASK, USAGE, answered

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

CONVERSATION = (ASK, USAGE, answered("r1", "msg_1"), ASK, USAGE, answered("r2", "msg_2"))


class TestEventSessionStorage(SessionStorageContract):
    event_sourced = True

    def open(self, path: Path) -> EventSessionStorage:
        return EventSessionStorage(path)

    @pytest.fixture(autouse=True)
    def _verified(self, tmp_path: Path) -> Iterator[None]:
        yield
        if (tmp_path / "storage").exists():
            check_sound(tmp_path / "storage")


class TestEventSessionStorageInMemory(SessionStorageContract):
    event_sourced = True
    persistent = False

    def open(self, path: Path) -> EventSessionStorage:
        del path  # it lives in memory
        return EventSessionStorage(MemoryEventLog())


class Awaited:
    """The blocking twin, awaited, so that it can be put to the contract."""

    def __init__(self, blocking: BlockingEventSessionStorage) -> None:
        self._blocking = blocking

    def __getattr__(self, name: str) -> Any:
        async def call(*values: Any, **options: Any) -> Any:
            return getattr(self._blocking, name)(*values, **options)

        return call

    async def events(self, *values: Any, **options: Any) -> Any:
        for event in self._blocking.events(*values, **options):
            yield event

    async def follow(self, *values: Any, **options: Any) -> Any:
        for event in self._blocking.follow(*values, **options):
            yield event

    async def aclose(self) -> None:
        self._blocking.close()


class TestBlockingEventSessionStorage(SessionStorageContract):
    event_sourced = True

    def open(self, path: Path) -> Any:
        return Awaited(BlockingEventSessionStorage(path, durability="os"))


def run(
    path: Path,
    use: Callable[[EventSessionStorage], Awaitable[None]],
    *,
    durability: Literal["disk", "os"] = "os",
    clock: Callable[[], int] = time.time_ns,
) -> None:
    """Use a storage on disk, and verify its log afterwards."""

    async def main() -> None:
        async with EventSessionStorage(path / "log", durability=durability, clock=clock) as storage:
            await use(storage)

    asyncio.run(main())
    check_sound(path / "log")


def check_sound(path: Path) -> None:
    with BlockingLmdbEventLog(path) as log:
        assert problems_of(log) == []


async def conversation(storage: EventSessionStorage, session_id: str = "sess_a") -> int:
    """A session of two turns; its version."""
    state = await storage.save(SessionState(id=session_id))
    return (await storage.append(session_id, CONVERSATION, expected=state.version)).version


# --- events -----------------------------------------------------------------------------------------------------------


def test_events_are_read_with_who_when_and_digest(tmp_path: Path) -> None:
    async def use(storage: EventSessionStorage) -> None:
        meta = Meta(actor="ann", correlation_id="c", causation_id="d", more={"k": "v"})
        await storage.save(SessionState(id="sess_a"), meta=meta)
        appended = await storage.append("sess_a", [ASK], meta=meta)
        found = [event async for event in storage.events("sess_a")]
        assert [event.type for event in found] == ["session_created", "message_appended"]
        assert found[1] == StoredEvent(2, appended.recorded_at, ASK, meta, appended.digest, found[1].position)
        assert found[0].meta == meta

    run(tmp_path, use)


def test_positions_tell_the_order_of_events_across_sessions_when_the_clock_is_set_back(tmp_path: Path) -> None:
    times = itertools.count(10**18, -(10**12))
    with BlockingEventSessionStorage(tmp_path / "storage", clock=lambda: next(times)) as storage:
        storage.append("sess_b", [ASK], expected=0)
        storage.append("sess_a", [ASK, ASK], expected=0)
        fork = storage.fork("sess_b")
        storage.append("sess_b", [ASK])
        happened = {
            (event.position, event.version) for each in ("sess_a", "sess_b", fork) for event in storage.events(each)
        }
    assert [version for _, version in sorted(happened)] == [1, 1, 2, 2, 2]


def test_events_take_bounds_in_either_direction(tmp_path: Path) -> None:
    async def use(storage: EventSessionStorage) -> None:
        await storage.append("sess_a", [ASK] * 1_200, expected=0)  # several pages
        for after, upto, reverse in itertools.product((0, 600, 1_200), (None, 3, 601, 9_999), (False, True)):
            versions = [e.version async for e in storage.events("sess_a", after=after, upto=upto, reverse=reverse)]
            expected = list(range(after + 1, min(upto or 1_200, 1_200) + 1))
            assert versions == (expected[::-1] if reverse else expected)

    run(tmp_path, use)


def test_events_of_no_session_is_an_error_not_an_empty_list(tmp_path: Path) -> None:
    async def use(storage: EventSessionStorage) -> None:
        for attempt in (storage.events("sess_a"), storage.follow("sess_a")):
            with pytest.raises(SessionNotFoundError, match=r"^Session not found: sess_a$"):
                await anext(attempt)
        for place in (storage.state_at("sess_a", 0), storage.turns("sess_a"), storage.verify("sess_a")):
            with pytest.raises(SessionNotFoundError):
                await place

    run(tmp_path, use)


def test_an_append_repeated_with_its_commit_id_is_written_once(tmp_path: Path) -> None:
    async def use(storage: EventSessionStorage) -> None:
        first = await storage.append("sess_a", [ASK], expected=0, commit_id=b"i" * 16)
        assert await storage.append("sess_a", [ASK], expected=0, commit_id=b"i" * 16) == first
        assert first.version == 1

    run(tmp_path, use)


def test_an_expected_version_below_nought_is_never_taken_for_any(tmp_path: Path) -> None:
    async def use(storage: EventSessionStorage) -> None:
        await conversation(storage)
        for expected in (-1, -2, -3):
            with pytest.raises(ValueError, match="expected is a version"):
                await storage.append("sess_a", [ASK], expected=expected)
            with pytest.raises(ValueError, match="expected is a version"):
                await storage.save(SessionState.new("sess_b", messages=[ASK.message], version=expected))
        assert await storage.list() == ["sess_a"]

    run(tmp_path, use)


def test_followers_see_the_past_then_each_new_event_and_end_with_the_session(tmp_path: Path) -> None:
    async def use(storage: EventSessionStorage) -> None:
        version = await conversation(storage)
        seen: list[int] = []

        async def follow() -> None:
            async for event in storage.follow("sess_a", after=2):
                seen.append(event.version)
                if event.version == version:
                    await storage.append("sess_a", [SessionClosed()])
                if event.version == version + 1:
                    await storage.delete("sess_a")

        await asyncio.wait_for(follow(), 30)
        assert seen == list(range(3, version + 2))

    run(tmp_path, use)


def test_following_from_beyond_the_head_is_refused(tmp_path: Path) -> None:
    async def use(storage: EventSessionStorage) -> None:
        version = await conversation(storage)
        with pytest.raises(PlaceNotFoundError):
            await anext(storage.follow("sess_a", after=version + 1))

    run(tmp_path, use)


def test_a_stream_that_is_no_session_is_left_out(tmp_path: Path) -> None:
    async def use(storage: EventSessionStorage) -> None:
        await conversation(storage)
        assert await storage.list() == ["sess_a"]
        assert [item.id for item in (await storage.summaries()).items] == ["sess_a"]

    async def main() -> None:
        async with LmdbEventLog(tmp_path) as log:
            await log.append("not a session", [NewEvent("x", b"")])
            await use(EventSessionStorage(log))

    asyncio.run(main())


# --- places, turns ----------------------------------------------------------------------------------------------------


def test_a_state_is_found_by_version_distance_message_and_turn(tmp_path: Path) -> None:
    async def use(storage: EventSessionStorage) -> None:
        version = await conversation(storage)
        for at, expected in ((4, 4), ("4", 4), (-3, 4), ("-3", 4), ("msg_1", 4), ("turn:1", 4), (0, 0), (-version, 0)):
            state = await storage.state_at("sess_a", at)
            assert (state.version, len(state.messages)) == (expected, 2 if expected else 0)
            assert await storage.version_at("sess_a", at) == expected
        assert (await storage.state_at("sess_a", "turn:2")).version == version
        assert [(turn.first, turn.last) for turn in await storage.turns("sess_a")] == [(2, 4), (5, 7)]

    run(tmp_path, use)


def test_a_place_that_is_not_there_is_said(tmp_path: Path) -> None:
    async def use(storage: EventSessionStorage) -> None:
        version = await conversation(storage)
        for at in (version + 1, -version - 1, "turn:3", "msg_3"):
            for attempt in (storage.state_at("sess_a", at), storage.fork("sess_a", at=at)):
                with pytest.raises(PlaceNotFoundError):
                    await attempt
        for nowhere in ("yesterday", 10**5_000, -(10**5_000), True):
            with pytest.raises(InvalidPlaceError):
                await storage.state_at("sess_a", nowhere)

    run(tmp_path, use)


# --- forks ------------------------------------------------------------------------------------------------------------


def test_a_fork_has_its_parents_past_and_a_future_of_its_own(tmp_path: Path) -> None:
    async def use(storage: EventSessionStorage) -> None:
        version = await conversation(storage)
        assert await storage.fork("sess_a", "sess_b", at="turn:1", reason="try", meta=Meta(actor="ann")) == "sess_b"
        newest = [event async for event in storage.events("sess_b", after=4)]
        assert [(event.event, event.meta.actor) for event in newest] == [
            (SessionForked("sess_b", "sess_a", 4, "try"), "ann")
        ]
        child = await storage.load("sess_b")
        assert child is not None
        assert (child.id, child.parent_id, child.forked_at, child.version) == ("sess_b", "sess_a", 4, 5)
        assert child.messages == (await storage.state_at("sess_a", 4)).messages
        await storage.append("sess_b", [ASK])
        parent = await storage.load("sess_a")
        assert parent is not None
        assert parent.version == version

    run(tmp_path, use)


STEPS = st.tuples(
    st.sampled_from(["turn", "usage", "usage", "fork", "fork", "rewind", "delete", "save"]),
    st.integers(0, 9),
    st.integers(0, 40),
)


@given(st.lists(STEPS, max_size=25))
def test_usage_of_any_tree_of_forks_adds_up_to_exactly_what_was_billed(steps: list[tuple[str, int, int]]) -> None:
    """Forks at any version, of forks too; usage that comes live, negative corrections; rewinds; deletions."""

    async def main() -> None:
        storage, billed, gone = EventSessionStorage(MemoryEventLog()), Tally(), Tally()
        living = ["sess_root"]
        await storage.append("sess_root", [SessionCreated("sess_root")], expected=0)
        for step, which, number in steps:
            name = living[which % len(living)]
            state = await loaded_from(storage, name)
            recorded = UsageRecorded(
                b'{"input_tokens":%d,"server_tool_use":{"web_search_requests":%d}}' % (number, number % 3),
                cost_picodollars=None if number % 5 == 0 else number - 7,
            )
            match step:
                case "turn" | "usage":
                    await storage.append(name, (ASK, recorded, answered()) if step == "turn" else (recorded,))
                    billed.add_text(recorded.usage, recorded.cost_picodollars)
                case "fork":
                    living.append(await storage.fork(name, at=number % (state.version + 1)))
                case "rewind":
                    await storage.append(name, [HistoryRewound(number % 4)])
                case "save":
                    more = Usage((("output_tokens", number - 20),), cost_picodollars=number)
                    await storage.save(state.adding(ASK.message).replace(usage=state.usage + more))
                    billed.add(more)
                case _ if len(living) > 1:
                    gone.add(state.own_usage)
                    await storage.delete(name)
                    living.remove(name)
        states = [await loaded_from(storage, name) for name in await storage.list()]
        assert sorted(state.id for state in states) == sorted(living)
        assert total([gone.usage(), *(state.own_usage for state in states)]) == billed.usage()
        listed = (await storage.summaries()).items
        assert {each.id: each.own_usage for each in listed} == {state.id: state.own_usage for state in states}
        for state in states:
            assert state.inherited_usage == (await storage.state_at(state.id, state.forked_at)).usage

    asyncio.run(main())


def test_many_forks_are_made_at_one_place(tmp_path: Path) -> None:
    async def use(storage: EventSessionStorage) -> None:
        await conversation(storage)
        children = await storage.fork_many("sess_a", 200, at="msg_1")
        assert len(set(children)) == 200
        assert sorted(await storage.list()) == sorted([*children, "sess_a"])
        for child in children[::50]:
            state = await storage.load(child)
            assert state is not None
            assert (len(state.messages), state.forked_at) == (2, 4)
        assert await storage.fork_many("sess_a", 0) == []
        with pytest.raises(ValueError, match="a number of forks"):
            await storage.fork_many("sess_a", -1)
        with pytest.raises(ValueError, match="of 100,000 at most"):
            await storage.fork_many("sess_a", 10**20)
        with pytest.raises(ValueError, match="a number of messages"):
            await storage.newest_messages("sess_a", -1)

    run(tmp_path, use)


def test_works_that_wait_never_begin_where_one_of_them_failed() -> None:
    """And none is left behind: Python would warn of a coroutine that was never awaited."""
    cancelled, begun = threading.Event(), []

    async def work(number: int) -> None:
        begun.append(number)
        if number == 0:
            raise ZeroDivisionError
        cancelled.wait(0.1)

    works = [work(number) for number in range(1_000)]
    with pytest.raises(ZeroDivisionError):
        run_now(together_in_threads(works))
    assert len(begun) < len(works)
    assert {inspect.getcoroutinestate(each) for each in works} == {inspect.CORO_CLOSED}


def test_many_forks_share_a_few_flushes(tmp_path: Path) -> None:
    async def use(storage: EventSessionStorage) -> None:
        await conversation(storage)
        log = storage.log
        assert isinstance(log, LmdbEventLog)
        before = log.blocking.last_transaction()
        await storage.fork_many("sess_a", 500)
        assert log.blocking.last_transaction() - before < 50

    run(tmp_path, use, durability="disk")


def test_a_fork_onto_a_name_that_was_ever_used_is_refused(tmp_path: Path) -> None:
    async def use(storage: EventSessionStorage) -> None:
        for name in ("sess_a", "sess_b", "sess_c"):
            await conversation(storage, name)
        await storage.delete("sess_c")
        with pytest.raises(SessionExistsError):
            await storage.fork("sess_a", "sess_b")
        with pytest.raises(SessionDeletedError):
            await storage.fork("sess_a", "sess_c")
        with pytest.raises(SessionNotFoundError):
            await storage.fork("sess_d")

    run(tmp_path, use)


def test_a_fork_that_does_not_say_its_name_is_never_taken_for_its_parent(tmp_path: Path) -> None:
    async def use(storage: EventSessionStorage) -> None:
        await conversation(storage)
        await storage.log.fork("sess_a", "sess_b")
        child = await storage.load("sess_b")
        assert child is not None
        assert child.id == "sess_b"
        assert sorted(item.id for item in (await storage.summaries()).items) == ["sess_a", "sess_b"]

    run(tmp_path, use)


def test_a_fork_outlives_its_parent(tmp_path: Path) -> None:
    async def use(storage: EventSessionStorage) -> None:
        await conversation(storage)
        child = await storage.fork("sess_a", at=4)
        await storage.delete("sess_a", reason="r", actor="ann")
        state = await storage.load(child)
        assert state is not None
        assert len(state.messages) == 2
        assert [item.messages for item in (await storage.summaries()).items] == [2]

    run(tmp_path, use)


# --- metadata, cleanup ------------------------------------------------------------------------------------------------


def test_metadata_is_updated_key_by_key(tmp_path: Path) -> None:
    async def use(storage: EventSessionStorage) -> None:
        await storage.save(rich_state("sess_a").replace(messages=[]))
        await storage.update_metadata("sess_a", {"remove": 1, "meta": None}, remove=["nested"], title="new", tags=["x"])
        state = await storage.load("sess_a")
        assert state is not None
        assert state.metadata == {"title": "new", "a": "", "remove": 1, "meta": None, "tags": ["x"]}
        refused: tuple[dict[Any, Any], ...] = ({"a": object()}, {1: "a"})
        for bad in refused:
            with pytest.raises(InvalidMetadataError):
                await storage.update_metadata("sess_a", bad)
        not_keys: tuple[Any, ...] = ("title", b"title", ["title", 1])  # a string would be its letters
        for remove in not_keys:
            with pytest.raises(InvalidMetadataError):
                await storage.update_metadata("sess_a", remove=remove)
        assert (await loaded_from(storage, "sess_a")).version == state.version
        with pytest.raises(SessionNotFoundError):
            await storage.update_metadata("sess_b", title="t")

    run(tmp_path, use)


def test_cleanup_deletes_what_has_been_idle_and_nothing_else(tmp_path: Path) -> None:
    days = iter([10, 10, 20, 30])
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)

    def clock() -> int:
        return int((now + dt.timedelta(days=next(days, 30))).timestamp()) * 10**9

    async def use(storage: EventSessionStorage) -> None:
        for name in ("day10", "day10b", "day20", "day30"):
            await storage.append(name, [ASK], expected=0)
        assert await storage.cleanup(now) == []
        assert sorted(await storage.cleanup(dt.timedelta(days=15))) == ["day10", "day10b"]
        assert sorted(await storage.list()) == ["day20", "day30"]
        assert await storage.cleanup(now + dt.timedelta(days=25)) == ["day20"]
        with pytest.raises(ValueError, match="is an age"):
            await storage.cleanup(dt.timedelta(days=-1))
        with pytest.raises(ValueError, match="time zone"):
            await storage.cleanup(dt.datetime(2026, 1, 1))  # noqa: DTZ001 - that is the point

    run(tmp_path, use, clock=clock)


def test_of_two_cleanups_at_once_each_tells_what_it_deleted_itself(tmp_path: Path) -> None:
    async def use(storage: EventSessionStorage) -> None:
        names = [f"sess_{number}" for number in range(30)]
        for name in names:
            await storage.append(name, [ASK], expected=0)
        told = await asyncio.gather(*(storage.cleanup(dt.timedelta(0)) for _ in range(3)))
        assert sorted(name for names in told for name in names) == sorted(names)
        assert await storage.list() == []

    run(tmp_path, use)


def test_cleanup_spares_a_session_that_became_active_meanwhile() -> None:
    class Busy(MemoryEventLog):
        """Somebody appends between the look and the deletion."""

        async def delete(self, stream: str, **options: Any) -> Any:
            await self.append(stream, [NewEvent("message_appended", b"")])
            return await super().delete(stream, **options)

    async def main() -> None:
        storage = EventSessionStorage(Busy())
        await storage.append("sess_a", [ASK], expected=0)
        assert await storage.cleanup(dt.timedelta(0)) == []
        assert await storage.list() == ["sess_a"]

    asyncio.run(main())


# --- verification -----------------------------------------------------------------------------------------------------


def test_a_digest_that_was_kept_proves_the_history_up_to_it(tmp_path: Path) -> None:
    async def use(storage: EventSessionStorage) -> None:
        version = await conversation(storage)
        kept = await storage.verify("sess_a")
        assert kept.version == version
        await storage.append("sess_a", [ASK] * 1_000)
        assert (await storage.verify("sess_a", expect=kept.digest)).version == version + 1_000
        assert (await storage.verify("sess_a", expect=kept.digest.hex())).digest != kept.digest
        child = await storage.fork("sess_a", at=version)
        await storage.verify(child, expect=kept.digest)
        with pytest.raises(SessionAlteredError):
            await storage.verify(await storage.fork("sess_a", at=version - 1), expect=kept.digest)
        with pytest.raises(SessionAlteredError):
            await storage.verify("sess_a", expect=bytes(32))
        for no_digest in ("", b"", kept.digest[:-1], kept.digest.hex()[:-2], "no hexadecimal digits"):
            with pytest.raises(ValueError, match=r"a digest of 32 bytes|non-hexadecimal"):
                await storage.verify("sess_a", expect=no_digest)

    run(tmp_path, use)


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    async def use(storage: EventSessionStorage) -> None:
        await storage.append("sess_a", [MessageAppended.of({"role": "user", "content": "the original"})], expected=0)

    run(tmp_path, use)
    data = tmp_path / "log" / "data.mdb"
    data.write_bytes(data.read_bytes().replace(b"the original", b"the 0riginal"))
    with BlockingEventSessionStorage(tmp_path / "log") as storage, pytest.raises(CorruptEventError):
        storage.verify("sess_a")


# --- lifetime ---------------------------------------------------------------------------------------------------------


def test_a_log_that_was_given_is_left_open_and_one_that_was_opened_is_closed(tmp_path: Path) -> None:
    async def main() -> None:
        log = MemoryEventLog()
        async with EventSessionStorage(log) as storage:
            await conversation(storage)
        assert await log.head("sess_a")
        async with EventSessionStorage(tmp_path) as storage:
            await conversation(storage)
        await storage.aclose()
        with pytest.raises(ClosedError):
            await storage.load("sess_a")
        with pytest.raises(EventStoreError):
            await storage.save(SessionState(id="sess_b"))

    asyncio.run(main())


def test_the_blocking_twin_and_the_async_one_share_a_log(tmp_path: Path) -> None:
    async def main() -> None:
        async with LmdbEventLog(tmp_path) as log:
            storage, twin = EventSessionStorage(log), BlockingEventSessionStorage(log.blocking)
            await conversation(storage)
            twin.close()  # it was given the log
            assert twin.load("sess_a") == await storage.load("sess_a")
            assert list(twin.events("sess_a")) == [event async for event in storage.events("sess_a")]
            assert twin.summaries() == await storage.summaries()
            assert twin.turns("sess_a") == await storage.turns("sess_a")
            assert twin.version_at("sess_a", "msg_1") == 4

    asyncio.run(main())


def test_the_blocking_twin_needs_no_event_loop_and_makes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio, "new_event_loop", lambda: pytest.fail("a hidden event loop"))
    with BlockingEventSessionStorage(tmp_path) as storage:
        first = storage.save(SessionState.new("sess_a", messages=[{"role": "user", "content": "ask"}]))
        storage.append("sess_a", [ASK], expected=first.version)
        with pytest.raises(WrongVersionError):
            storage.save(first.adding({"role": "user", "content": "stale"}))
        storage.update_metadata("sess_a", title="t")
        children = storage.fork_many("sess_a", 100, at=1)
        followed = storage.follow("sess_a")
        assert [next(followed).type for _ in range(4)] == [event.type for event in storage.events("sess_a")]
        with contextlib.closing(storage.follow("sess_a")) as early:  # type: ignore[type-var]  # it is a generator
            next(early)
        storage.delete("sess_a")
        assert list(followed) == []
        assert len(storage.summaries(200).items) == len(children)
        assert storage.verify(children[0]).version == 2
        assert len(storage.cleanup(dt.timedelta(0))) == 100


def test_a_blocking_log_may_be_given(tmp_path: Path) -> None:
    with BlockingLmdbEventLog(tmp_path) as log:
        with BlockingEventSessionStorage(log) as storage:
            storage.append("sess_a", [MetadataUpdated()], expected=0)
            assert "BlockingEventSessionStorage" in repr(storage)
        assert log.head("sess_a")
