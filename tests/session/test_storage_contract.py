"""The contract has teeth: it catches storages that are deliberately broken, and its flags take tests away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from session.errors import InvalidSessionIdError
from session.messages import Messages
from session.storage import EventSessionStorage, FileSessionStorage, MemorySessionStorage
from session.storage.document import kept
from session.testing.storage_contract import SessionStorageContract

if TYPE_CHECKING:
    import builtins
    from collections.abc import Iterator
    from pathlib import Path

    from session.state import SessionState
    from session.storage import SessionStorage


class Aliasing(MemorySessionStorage):
    """Gives out what it holds."""

    async def load(self, session_id: str, /) -> SessionState | None:
        await super().load(session_id)
        return self._states.get(session_id)


class Holding(MemorySessionStorage):
    """Holds what it was given."""

    async def save(self, state: SessionState, /) -> SessionState:
        await super().save(state)
        self._states[state.id] = state
        return state


class Rewriting(MemorySessionStorage):
    """Parses messages and writes them again."""

    async def save(self, state: SessionState, /) -> SessionState:
        return await super().save(state.replace(messages=Messages([dict(message) for message in state.messages])))


class Forgetting(MemorySessionStorage):
    """Has no place for the parent."""

    async def save(self, state: SessionState, /) -> SessionState:
        return await super().save(state.replace(parent_id=None))


class Trusting(MemorySessionStorage):
    """Takes any id."""

    async def load(self, session_id: str, /) -> SessionState | None:
        try:
            return await super().load(session_id)
        except InvalidSessionIdError:
            return None


class Growing(MemorySessionStorage):
    """Never takes a message away."""

    async def save(self, state: SessionState, /) -> SessionState:
        old = await self.load(state.id)
        if old and len(old.messages) > len(state.messages):
            return state
        return await super().save(state)


class Strict(MemorySessionStorage):
    """Deletes only what is there."""

    async def delete(self, session_id: str, /) -> None:
        if await self.load(session_id) is None:
            raise KeyError(session_id)
        await super().delete(session_id)


class Lingering(MemorySessionStorage):
    """Lists what it has deleted."""

    def __init__(self) -> None:
        super().__init__()
        self._ever: set[str] = set()

    async def save(self, state: SessionState, /) -> SessionState:
        saved = await super().save(state)
        self._ever.add(state.id)
        return saved

    async def list(self) -> builtins.list[str]:
        return list(self._ever)


class Lax(MemorySessionStorage):
    """Takes metadata that is no JSON, or drops it."""

    async def save(self, state: SessionState, /) -> SessionState:
        try:
            kept(state)
        except Exception:  # noqa: BLE001 - it is broken
            state = state.replace(metadata={})
        return await super().save(state)


class Converting(MemorySessionStorage):
    """Makes something of whatever it is given."""

    async def save(self, state: SessionState, /) -> SessionState:
        if not isinstance(state.created_at, str | None):
            state = state.replace(created_at=int(state.created_at))
        return await super().save(state)


class Overwriting(EventSessionStorage):
    """Brings every writer's version up to date."""

    async def save(self, state: SessionState, /, **options: Any) -> SessionState:
        stored = await self.load(state.id)
        return await super().save(state.replace(version=stored.version if stored else 0), **options)


class Escaping(FileSessionStorage):
    """Writes wherever the id says."""

    def _path(self, session_id: str) -> Path:
        return self.directory / f"{session_id}.json"


def claims(contract: type[SessionStorageContract]) -> Iterator[str]:
    return (name for name in dir(contract) if name.startswith("test_") and callable(getattr(contract, name)))


def caught(broken: type[Any], directory: Path) -> list[str]:
    """The claims of the contract that *broken* does not keep."""
    takes_path = broken is Escaping

    class Tested(SessionStorageContract):
        persistent = False

        def open(self, path: Path) -> SessionStorage:
            storage: SessionStorage = broken(path) if takes_path else broken()
            return storage

    failed = []
    for name in claims(Tested):
        test = Tested()
        test.directory = directory / name
        test.directory.mkdir()
        try:
            getattr(test, name)()
        except (Exception, pytest.fail.Exception):  # noqa: BLE001 - any failure is one
            failed.append(name)
    return failed


@pytest.mark.parametrize(
    ("broken", "claim"),
    [
        (Aliasing, "test_changing_what_was_loaded_changes_nothing_stored"),
        (Holding, "test_changing_what_was_saved_changes_nothing_stored"),
        (Rewriting, "test_every_message_keeps_its_exact_bytes"),
        (Forgetting, "test_a_saved_state_is_loaded_as_it_was"),
        (Trusting, "test_hostile_ids_are_refused_and_touch_nothing"),
        (Growing, "test_what_was_taken_out_of_a_state_is_gone"),
        (Strict, "test_deleting_what_is_not_there_does_nothing"),
        (Lingering, "test_a_deleted_session_is_gone_and_the_others_stay"),
        (Lax, "test_metadata_that_is_no_json_is_refused_and_nothing_is_written"),
        (Converting, "test_what_could_not_be_loaded_again_is_refused_and_what_was_there_stays"),
        (Escaping, "test_hostile_ids_are_refused_and_touch_nothing"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_broken_storage_is_caught(broken: type[Any], claim: str, tmp_path: Path) -> None:
    assert claim in caught(broken, tmp_path)


def test_a_storage_that_loses_the_other_writers_turn_is_caught(tmp_path: Path) -> None:
    class EventContract(SessionStorageContract):
        event_sourced = True

        def open(self, path: Path) -> EventSessionStorage:
            return Overwriting(path)

    test = EventContract()
    test.directory = tmp_path
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test.test_a_stale_save_loses_nothing_and_says_so()


def test_flags_take_tests_away_instead_of_skipping_them() -> None:
    class Plain(SessionStorageContract):
        persistent = False

    class EventSourced(SessionStorageContract):
        event_sourced = True

    assert "test_a_stale_save_loses_nothing_and_says_so" in set(claims(EventSourced)) - set(claims(Plain))
    assert "test_the_last_writer_wins_whole" in set(claims(Plain)) - set(claims(EventSourced))
    assert "test_sessions_outlive_the_storage" in set(claims(EventSourced)) - set(claims(Plain))
