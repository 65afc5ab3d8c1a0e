"""What only an event-sourced storage can promise."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import pytest

from session.errors import InvalidSessionIdError, PlaceNotFoundError, SessionDeletedError, SessionNotFoundError
from session.events import HistoryRewound, MessageAppended, ToolReturned, ToolStarted
from session.fold import fold
from session.state import SessionState
from session.storage import WrongVersionError
from session.testing._storage_claims import HOSTILE_IDS, claim, loaded_from, only_if, rich_state, saved

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from session.storage import EventSessionStorage, SessionStorage


class EventClaims:
    """Versions, places, tool facts, burnt ids."""

    directory: Path

    async def within(self, path: Path, use: Callable[[SessionStorage], Awaitable[None]]) -> None:
        """Open a storage at *path*, use it, close it."""
        raise NotImplementedError

    @only_if("event_sourced")
    @claim
    async def test_a_stale_save_loses_nothing_and_says_so(self, storage: SessionStorage) -> None:
        first = await saved(storage, SessionState.new("sess_a", messages=[{"role": "user", "content": "ask"}]))
        second = await saved(storage, first.adding({"role": "assistant", "content": "the other's turn"}))
        for stale in (first.adding({"role": "assistant", "content": "mine"}), first, SessionState(id="sess_a")):
            with pytest.raises(WrongVersionError) as caught:
                await storage.save(stale)
            assert (caught.value.expected, caught.value.actual) == (stale.version, second.version)
        loaded = await storage.load("sess_a")
        assert loaded is not None
        assert (loaded.messages, loaded.version) == (second.messages, second.version)

    @only_if("event_sourced")
    @claim
    async def test_of_two_savers_from_one_version_one_wins(self, storage: SessionStorage) -> None:
        first = await saved(storage, SessionState(id="sess_a"))
        both = [first.adding({"role": "user", "content": word}) for word in ("one", "two")]
        outcomes = await asyncio.gather(*map(storage.save, both), return_exceptions=True)
        winners = [outcome for outcome in outcomes if isinstance(outcome, SessionState)]
        losers = [outcome for outcome in outcomes if isinstance(outcome, WrongVersionError)]
        assert (len(winners), len(losers)) == (1, 1)
        loaded = await storage.load("sess_a")
        assert loaded is not None
        assert loaded.messages == winners[0].messages

    @only_if("event_sourced")
    @claim
    async def test_saving_what_is_stored_already_writes_nothing(self, storage: SessionStorage) -> None:
        state = await saved(storage, rich_state("sess_rich"))
        assert (await saved(storage, state)).version == state.version
        assert (await saved(storage, rich_state("sess_rich"))).version == state.version

    @only_if("event_sourced")
    @claim
    async def test_an_edited_history_is_still_there_as_it_was(self, storage: SessionStorage) -> None:
        log = cast("EventSessionStorage", storage)
        state = await saved(log, rich_state("sess_rich"))
        edited = state.replace(messages=state.messages[:2]).adding({"role": "user", "content": "edited"})
        after = await saved(log, edited)
        assert after.messages == edited.messages
        assert (await log.state_at("sess_rich", state.version)).messages == state.messages
        events = [stored.event async for stored in log.events("sess_rich", after=state.version)]
        assert events[0] == HistoryRewound(2, reason="save")
        assert len(events) == 2

    @only_if("event_sourced")
    @claim
    async def test_the_state_at_each_version_is_the_fold_of_that_many_events(self, storage: SessionStorage) -> None:
        log = cast("EventSessionStorage", storage)
        state = await saved(log, rich_state("sess_rich"))
        events = [stored async for stored in log.events("sess_rich")]
        assert [stored.version for stored in events] == list(range(1, state.version + 1))
        for version in range(1, state.version + 1):
            assert await log.state_at("sess_rich", version) == fold(events[:version])
        assert await log.state_at("sess_rich", -2) == fold(events[:-2])
        assert [stored async for stored in log.events("sess_rich", reverse=True)] == events[::-1]
        with pytest.raises(PlaceNotFoundError):
            await log.state_at("sess_rich", state.version + 1)

    @only_if("event_sourced")
    @claim
    async def test_what_became_of_a_tool_is_kept(self, storage: SessionStorage) -> None:
        log = cast("EventSessionStorage", storage)
        call = b'{"role":"assistant","content":[{"type":"tool_use","id":"t1","name":"f","input":{"n":1.10}}]}'
        result = b'{"type":"tool_result","tool_use_id":"t1","content":"1.10"}'
        state = await saved(log, SessionState.new("sess_a", messages=[{"role": "user", "content": "ask"}, call]))
        started = await log.append("sess_a", [ToolStarted("t1", "f")], expected=state.version)
        in_doubt = await loaded_from(log, "sess_a")
        assert [run.tool_use_id for run in in_doubt.in_doubt] == ["t1"]
        assert in_doubt.status == "running"
        await log.append("sess_a", [ToolReturned("t1", result)], expected=started.version)
        done = await loaded_from(log, "sess_a")
        assert done.in_doubt == ()
        assert done.messages.raw[2] == b'{"role":"user","content":[' + result + b"]}"

    @only_if("event_sourced")
    @claim
    async def test_a_stale_append_writes_nothing(self, storage: SessionStorage) -> None:
        log = cast("EventSessionStorage", storage)
        state = await saved(log, SessionState(id="sess_a"))
        event = MessageAppended.of({"role": "user", "content": "mine"})
        with pytest.raises(WrongVersionError):
            await log.append("sess_a", [event], expected=state.version - 1)
        with pytest.raises(SessionNotFoundError):
            await log.append("sess_b", [event])
        assert (await loaded_from(log, "sess_a")).version == state.version
        assert await log.list() == ["sess_a"]

    @only_if("event_sourced")
    @claim
    async def test_hostile_ids_are_refused_wherever_an_id_is_taken(self, storage: SessionStorage) -> None:
        log = cast("EventSessionStorage", storage)
        await saved(log, SessionState(id="sess_a"))
        attempts: tuple[Callable[[str], Awaitable[object]], ...] = (
            lambda hostile: log.append(hostile, [ToolStarted("t")]),
            lambda hostile: anext(log.events(hostile)),
            lambda hostile: anext(log.follow(hostile)),
            lambda hostile: log.state_at(hostile, 1),
            log.turns,
            log.fork,
            lambda hostile: log.fork("sess_a", hostile),
            lambda hostile: log.fork_many(hostile, 2),
            lambda hostile: log.update_metadata(hostile, title="t"),
            lambda hostile: log.newest_messages(hostile, 1),
            log.family,
            log.verify,
        )
        for hostile in HOSTILE_IDS:
            for attempt in attempts:
                with pytest.raises(InvalidSessionIdError):
                    await attempt(hostile)
        assert await log.list() == ["sess_a"]

    @only_if("event_sourced")
    @claim
    async def test_the_id_of_a_deleted_session_is_never_used_again(self, storage: SessionStorage) -> None:
        log = cast("EventSessionStorage", storage)
        state = await saved(log, SessionState(id="sess_a"))
        await log.delete("sess_a")
        attempts: tuple[Callable[[], Awaitable[object]], ...] = (
            lambda: log.save(SessionState(id="sess_a")),
            lambda: log.save(state),
            lambda: log.append("sess_a", [ToolStarted("t")]),
            lambda: log.state_at("sess_a", 1),
            lambda: log.fork("sess_a"),
            lambda: log.update_metadata("sess_a", title="t"),
        )
        for attempt in attempts:
            with pytest.raises(SessionDeletedError):
                await attempt()
        assert await log.list() == []
