from __future__ import annotations

import pickle
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

import session
import session.storage
from eventstore import WrongVersionError
from session.errors import InvalidSessionIdError, SessionAlteredError
from session.storage import (
    EventSessionStorage,
    FileSessionStorage,
    MemorySessionStorage,
    RedisSessionStorage,
    SqliteSessionStorage,
    check_session_id,
    create_session_storage,
    get_default_storage,
    new_session_id,
    set_default_storage,
)
from session.storage.base import is_session_id
from session.testing.storage_contract import HOSTILE_IDS

if TYPE_CHECKING:
    from pathlib import Path


def test_each_kind_is_created_with_its_own_options(tmp_path: Path) -> None:
    assert isinstance(create_session_storage("memory"), MemorySessionStorage)
    file = create_session_storage("file", directory=tmp_path / "files")
    assert isinstance(file, FileSessionStorage)
    assert file.directory == tmp_path / "files"
    assert isinstance(create_session_storage("sqlite", path=tmp_path / "s.db"), SqliteSessionStorage)
    redis = create_session_storage("redis", url="redis://127.0.0.1:1", prefix="p:")
    assert isinstance(redis, RedisSessionStorage)
    assert "p:" in repr(redis)
    events = create_session_storage("events", path=tmp_path / "log")
    assert isinstance(events, EventSessionStorage)
    assert (tmp_path / "log").is_dir()


def test_another_kind_or_option_is_refused() -> None:
    with pytest.raises(ValueError, match="memory, file, sqlite, redis, events"):
        create_session_storage("floppy")  # type: ignore[arg-type]  # that is the point
    with pytest.raises(TypeError):
        create_session_storage("memory", directory="x")


def test_the_default_is_one_storage_in_memory_until_another_is_set() -> None:
    try:
        set_default_storage(None)
        first = get_default_storage()
        assert isinstance(first, MemorySessionStorage)
        assert get_default_storage() is first
        mine = MemorySessionStorage()
        set_default_storage(mine)
        assert get_default_storage() is mine
        set_default_storage(None)
        assert get_default_storage() not in (first, mine)
    finally:
        set_default_storage(None)


@pytest.mark.parametrize("hostile", [*HOSTILE_IDS, None, 7, b"bytes"], ids=ascii)
def test_hostile_ids_are_refused_and_shown_safely(hostile: str) -> None:
    with pytest.raises(InvalidSessionIdError) as caught:
        check_session_id(hostile)
    assert str(caught.value).isascii()
    assert len(str(caught.value)) < 250
    assert not is_session_id(hostile)


@given(st.text(max_size=12) | st.text("conCON.-_a1", max_size=12))
def test_an_id_is_taken_only_if_it_is_a_plain_file_name_everywhere(name: str) -> None:
    device = re.fullmatch(r"(con|prn|aux|nul|com\d|lpt\d)", name.partition(".")[0].lower())
    plain = name.isascii() and re.fullmatch(r"[\w.-]+", name) and name.strip(".") == name and not device
    assert is_session_id(name) == bool(plain)


def test_new_ids_are_ids_of_their_form_and_never_repeat() -> None:
    made = {new_session_id() for _ in range(1_000)}
    assert len(made) == 1_000
    assert all(re.fullmatch(r"sess_[A-Za-z0-9]{16}", name) and check_session_id(name) for name in made)


def modules_after(statement: str) -> set[str]:
    script = f"{statement}; import sys; print(*sorted(sys.modules))"
    return set(subprocess.check_output([sys.executable, "-c", script], text=True).split())


def test_importing_session_loads_no_engine_and_no_client() -> None:
    engines = {"anthropic", "redis", "sqlite3", "click", "pytest", "hypothesis", "pydantic", "httpx2"}
    assert not (engines | {"eventstore", "lmdb", "asyncio"}) & modules_after("import session")
    loaded = modules_after("from session import EventSessionStorage, RedisSessionStorage, SqliteSessionStorage")
    assert {"eventstore", "lmdb"} <= loaded
    assert not engines & loaded


def test_a_name_that_session_does_not_have_is_an_attribute_error() -> None:
    assert not hasattr(session, "no_such_name")
    assert session.WrongVersionError is WrongVersionError


@pytest.mark.parametrize("package", [session, session.storage])
def test_every_public_name_is_there(package: object) -> None:
    names = package.__all__  # type: ignore[attr-defined]
    assert sorted(set(names)) == sorted(names)
    for name in names:
        assert getattr(package, name) is not None


def test_errors_of_storages_survive_pickling() -> None:
    error = SessionAlteredError("sess_a", b"\1" * 32, 7)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert error.digest.hex() in str(error)
