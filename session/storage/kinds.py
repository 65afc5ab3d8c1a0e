"""Storages by name, and the one that is used when none is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from session.storage.events import EventSessionStorage
from session.storage.file import FileSessionStorage
from session.storage.memory import MemorySessionStorage
from session.storage.redis import RedisSessionStorage
from session.storage.sqlite import SqliteSessionStorage

if TYPE_CHECKING:
    from collections.abc import Callable

    from session.storage.base import SessionStorage

StorageKind: TypeAlias = Literal["memory", "file", "sqlite", "redis", "events"]

_KINDS: Final[dict[str, Callable[..., SessionStorage]]] = {
    "memory": MemorySessionStorage,
    "file": FileSessionStorage,
    "sqlite": SqliteSessionStorage,
    "redis": RedisSessionStorage,
    "events": EventSessionStorage,
}

_default: list[SessionStorage] = []  # none or one


def create_session_storage(kind: StorageKind, **options: Any) -> SessionStorage:  # noqa: ANN401 - those of the class
    """A storage of this kind, with the options of its class: "memory", "file" (`directory`), "sqlite" (`path`), "redis"
    (`url`, `prefix`), "events" (`path`). Raises `ValueError` for another kind, `TypeError` for options that are not
    its.
    """
    create = _KINDS.get(kind)
    if create is None:
        raise ValueError(f"no such kind of storage: {kind!r}; there are {', '.join(_KINDS)}")
    return create(**options)


def set_default_storage(storage: SessionStorage | None) -> None:
    """Use *storage* in this process wherever none is given; None: a new one in memory."""
    _default[:] = [] if storage is None else [storage]


def get_default_storage() -> SessionStorage:
    """What `set_default_storage` was given; until then a `MemorySessionStorage`, always the same one."""
    if not _default:
        _default.append(MemorySessionStorage())
    return _default[0]
