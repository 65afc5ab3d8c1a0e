"""The contract that every `SessionStorage` keeps, as a pytest class to subclass.

    class TestMyStorage(SessionStorageContract):
        def open(self, path):
            return MyStorage(path)

Each test is a claim. Flags say which claims are made: a test whose flag is not set does not exist, it is not skipped.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from session.errors import InvalidMetadataError, InvalidSessionIdError, InvalidStateError
from session.metadata import MAX_DEPTH
from session.state import SessionState
from session.storage import check_session_id, new_session_id
from session.testing._event_claims import EventClaims
from session.testing._storage_claims import (
    BAD_FIELDS,
    BAD_METADATA,
    EXACT_MESSAGES,
    HOSTILE_IDS,
    check_same,
    claim,
    nested,
    only_if,
    rich_state,
    saved,
)
from session.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from session.storage import SessionStorage

__all__ = ["EXACT_MESSAGES", "HOSTILE_IDS", "SessionStorageContract", "check_same", "rich_state"]


class SessionStorageContract(EventClaims):
    """What any storage does. Override `open`, set the flags, and override `close` if there is more to it than `aclose`.

    Each test opens a storage at a new path inside `directory`, uses it in one event loop, and closes it.
    """

    persistent: ClassVar[bool] = True
    """A storage opened where one was closed has its sessions."""
    event_sourced: ClassVar[bool] = False
    """It keeps versions and events, and has the methods of `EventSessionStorage`."""
    last_writer_wins: ClassVar[bool] = True
    """It keeps no versions: `not event_sourced`, and set with it."""

    directory: Path

    def __init_subclass__(cls, **options: Any) -> None:  # noqa: ANN401 - those of any other base
        super().__init_subclass__(**options)
        cls.last_writer_wins = not cls.event_sourced
        for name in dir(cls):
            flag = getattr(getattr(cls, name), "only_if", "")
            if flag and not getattr(cls, flag):
                setattr(cls, name, None)

    @pytest.fixture(autouse=True)
    def _stand_in(self, tmp_path: Path) -> None:
        self.directory = tmp_path

    def open(self, path: Path) -> SessionStorage:
        """To be overridden: a storage at *path*, where nothing is yet, or what a closed one of this kind left there."""
        raise NotImplementedError

    async def close(self, storage: SessionStorage) -> None:
        """`aclose`, where the storage has it."""
        close = getattr(storage, "aclose", None)
        if close is not None:
            await close()

    async def within(self, path: Path, use: Callable[[SessionStorage], Awaitable[None]]) -> None:
        """Open a storage at *path*, use it, close it."""
        storage = self.open(path)
        try:
            await use(storage)
        finally:
            await self.close(storage)

    # --- what is saved is loaded --------------------------------------------------------------------------------------

    @claim
    async def test_a_saved_state_is_loaded_as_it_was(self, storage: SessionStorage) -> None:
        state = rich_state("sess_rich")
        await storage.save(state)
        check_same(await storage.load("sess_rich"), state)

    @claim
    async def test_every_message_keeps_its_exact_bytes(self, storage: SessionStorage) -> None:
        for place, raw in enumerate(EXACT_MESSAGES):
            await storage.save(SessionState.new(f"sess_{place}", messages=[raw]))
            loaded = await storage.load(f"sess_{place}")
            assert loaded is not None
            assert loaded.messages.raw == [raw]

    @claim
    async def test_a_state_with_nothing_in_it_is_loaded_as_it_was(self, storage: SessionStorage) -> None:
        await storage.save(SessionState(id="sess_empty"))
        loaded = await storage.load("sess_empty")
        assert loaded is not None
        assert (loaded.id, loaded.parent_id, loaded.metadata, loaded.usage) == ("sess_empty", None, {}, Usage())
        assert loaded.messages == []

    @claim
    async def test_a_session_that_was_never_saved_is_none(self, storage: SessionStorage) -> None:
        assert await storage.load("sess_unknown") is None
        assert await storage.list() == []

    @claim
    async def test_a_state_that_grew_is_loaded_as_it_grew(self, storage: SessionStorage) -> None:
        state = await saved(storage, rich_state("sess_rich"))
        for word in ("one", "two"):
            state = await saved(storage, state.adding({"role": "user", "content": word}))
        loaded = await storage.load("sess_rich")
        assert loaded is not None
        assert loaded.messages.raw[:-2] == list(EXACT_MESSAGES)
        assert [message["content"] for message in loaded.messages[-2:]] == ["one", "two"]

    @claim
    async def test_what_was_taken_out_of_a_state_is_gone(self, storage: SessionStorage) -> None:
        state = await saved(storage, rich_state("sess_rich"))
        less = state.replace(messages=state.messages[:1], metadata={"title": "other"})
        await storage.save(less)
        loaded = await storage.load("sess_rich")
        assert loaded is not None
        assert loaded.messages.raw == list(EXACT_MESSAGES[:1])
        assert loaded.metadata == {"title": "other"}

    @claim
    async def test_metadata_that_is_no_json_is_refused_and_nothing_is_written(self, storage: SessionStorage) -> None:
        deep = nested(5_000)
        no_json: tuple[dict[Any, Any], ...] = ({"a": object()}, {1: "a"}, {"a": {1, 2}}, {"a": b"bytes"})
        await _refuses(storage, (*no_json, {"a": deep}, {"a": nested(MAX_DEPTH + 1)}, {"a": 10**5_000}))

    @claim
    async def test_metadata_at_the_limit_of_depth_is_kept(self, storage: SessionStorage) -> None:
        state = SessionState.new("sess_deep", metadata={"a": nested(MAX_DEPTH)}, now=1)
        await storage.save(await saved(storage, state))
        check_same(await storage.load("sess_deep"), state)

    @only_if("last_writer_wins")
    @claim
    async def test_metadata_that_some_parsers_refuse_is_refused(self, storage: SessionStorage) -> None:
        bad = ({"a": float("nan")}, {"a": [{"b": float("inf")}]}, {"a": {"b": float("-inf")}})
        await _refuses(storage, bad)

    @claim
    async def test_usage_beyond_counting_is_refused_and_what_was_there_stays(self, storage: SessionStorage) -> None:
        state = await saved(storage, rich_state("sess_rich"))
        for path, count in (("input_tokens", 10**5_000), ("a/" * 5_000 + "b", 1)):
            with pytest.raises(InvalidStateError, match="nothing was written"):
                await storage.save(state.replace(usage=Usage(((path, count),)), messages=[]))
        check_same(await storage.load("sess_rich"), rich_state("sess_rich"))

    @claim
    async def test_what_could_not_be_loaded_again_is_refused_and_what_was_there_stays(
        self, storage: SessionStorage
    ) -> None:
        state = await saved(storage, rich_state("sess_rich"))
        for field, bad in BAD_FIELDS:
            with pytest.raises(InvalidStateError, match="nothing was written") as caught:
                await storage.save(state.replace(**{field: bad}, messages=[]))
            assert caught.value.field == field
        for bad in BAD_METADATA:
            with pytest.raises(InvalidMetadataError, match="nothing was written"):
                await storage.save(state.replace(metadata=bad, messages=[]))
        check_same(await storage.load("sess_rich"), rich_state("sess_rich"))

    @only_if("persistent")
    def test_sessions_outlive_the_storage(self) -> None:
        path = self.directory / "storage"

        async def write(storage: SessionStorage) -> None:
            await storage.save(rich_state("sess_rich"))

        async def read(storage: SessionStorage) -> None:
            check_same(await storage.load("sess_rich"), rich_state("sess_rich"))
            assert await storage.list() == ["sess_rich"]

        asyncio.run(self.within(path, write))
        asyncio.run(self.within(path, read))

    # --- isolation ----------------------------------------------------------------------------------------------------

    @claim
    async def test_changing_what_was_saved_changes_nothing_stored(self, storage: SessionStorage) -> None:
        message = {"role": "user", "content": [{"type": "text", "text": "before"}]}
        state = SessionState.new("sess_a", messages=[message], metadata={"tags": ["before"]})
        await storage.save(state)
        message["content"] = "after"
        state.metadata["tags"].append("after")
        loaded = await storage.load("sess_a")
        assert loaded is not None
        assert loaded.messages == [{"role": "user", "content": [{"type": "text", "text": "before"}]}]
        assert loaded.metadata == {"tags": ["before"]}

    @claim
    async def test_changing_what_was_loaded_changes_nothing_stored(self, storage: SessionStorage) -> None:
        await storage.save(rich_state("sess_rich"))
        loaded = await storage.load("sess_rich")
        assert loaded is not None
        loaded.metadata["nested"]["b"].append("after")
        loaded.messages[0]["content"] = "after"
        check_same(await storage.load("sess_rich"), rich_state("sess_rich"))

    @claim
    async def test_sessions_are_apart(self, storage: SessionStorage) -> None:
        ids = [new_session_id() for _ in range(20)]
        states = [SessionState.new(name, messages=[{"role": "user", "content": name}]) for name in ids]
        await asyncio.gather(*map(storage.save, states))
        assert sorted(await storage.list()) == sorted(ids)
        for state, loaded in zip(states, await asyncio.gather(*map(storage.load, ids)), strict=True):
            assert loaded is not None
            assert loaded.messages == state.messages

    # --- deletion -----------------------------------------------------------------------------------------------------

    @claim
    async def test_a_deleted_session_is_gone_and_the_others_stay(self, storage: SessionStorage) -> None:
        for name in ("sess_a", "sess_b"):
            await storage.save(SessionState(id=name))
        await storage.delete("sess_a")
        assert await storage.load("sess_a") is None
        assert await storage.list() == ["sess_b"]
        assert await storage.load("sess_b") is not None

    @claim
    async def test_deleting_what_is_not_there_does_nothing(self, storage: SessionStorage) -> None:
        await storage.delete("sess_never")
        await storage.save(SessionState(id="sess_a"))
        await storage.delete("sess_a")
        await storage.delete("sess_a")
        assert await storage.list() == []

    # --- ids ----------------------------------------------------------------------------------------------------------

    @claim
    async def test_hostile_ids_are_refused_and_touch_nothing(self, storage: SessionStorage) -> None:
        await storage.save(SessionState(id="sess_a"))
        before = _files_outside(self.directory)
        for hostile in HOSTILE_IDS:
            attempts: tuple[Callable[[], Awaitable[object]], ...] = (
                partial(storage.save, SessionState(id=hostile)),
                partial(storage.load, hostile),
                partial(storage.delete, hostile),
            )
            for attempt in attempts:
                with pytest.raises(InvalidSessionIdError):
                    await attempt()
        assert _files_outside(self.directory) == before
        assert await storage.list() == ["sess_a"]

    @claim
    async def test_ids_at_the_limits_are_taken(self, storage: SessionStorage) -> None:
        ids = ["a", "A" * 128, "0", "a.b-c_D", "-", "_", "console", "x.con", new_session_id()]
        for name in ids:
            assert check_session_id(name) == name
            await storage.save(SessionState.new(name, messages=[{"role": "user", "content": name}]))
        assert sorted(await storage.list()) == sorted(ids)
        for name in ids:
            loaded = await storage.load(name)
            assert loaded is not None
            assert loaded.messages[0]["content"] == name

    # --- two writers --------------------------------------------------------------------------------------------------

    @only_if("last_writer_wins")
    @claim
    async def test_the_last_writer_wins_whole(self, storage: SessionStorage) -> None:
        long = SessionState.new("sess_a", messages=[{"role": "user", "content": "x" * 100_000}] * 3)
        short = SessionState.new("sess_a", messages=[{"role": "user", "content": "y"}])
        await asyncio.gather(*(storage.save(state) for state in (long, short, long, short)))
        loaded = await storage.load("sess_a")
        assert loaded is not None
        assert loaded.messages in (long.messages, short.messages)
        await storage.save(short)
        loaded = await storage.load("sess_a")
        assert loaded is not None
        assert (loaded.messages, loaded.version) == (short.messages, 0)


async def _refuses(storage: SessionStorage, bad: tuple[dict[Any, Any], ...]) -> None:
    for metadata in bad:
        with pytest.raises(InvalidMetadataError, match="nothing was written"):
            await storage.save(SessionState(id="sess_bad", metadata=metadata))
    assert await storage.load("sess_bad") is None


def _files_outside(directory: Path) -> list[str]:
    """Every file under *directory* that is not in the storage's own, and around it."""
    inside = {path for path in directory.rglob("*") if path.is_relative_to(directory / "storage")}
    return sorted(str(path) for path in (*directory.parent.iterdir(), *directory.rglob("*")) if path not in inside)
