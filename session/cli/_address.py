"""Places as they are typed: `ID`, `ID@412`, `ID@-3`, `ID@msg_01...`, `ID@turn:7`; the beginning of an id is enough."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click
import msgspec

from session.cli._failures import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from click.shell_completion import CompletionItem

    from session.places import Place
    from session.storage.blocking import BlockingEventSessionStorage

SHOWN_CANDIDATES: Final = 10


class AmbiguousIdError(CommandError):
    """More than one session has an id that begins with *prefix*."""

    def __init__(self, prefix: str, candidates: list[str]) -> None:
        super().__init__(_ambiguity(prefix, candidates))
        self.prefix = prefix
        self.candidates = candidates


class _Typed(click.types.StringParamType):
    """A text that the shell can complete to the id of a session."""

    def __init__(self, name: str) -> None:
        self.name = name

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002
        """The ids that begin so."""
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - while a shell asks

        from session.cli._store import open_store  # noqa: PLC0415

        try:
            with ctx, open_store() as store:
                found = _beginning_with(incomplete, store)
        except Exception:  # noqa: BLE001 - no store, a locked one: there is nothing to complete
            return []
        return [CompletionItem(session_id) for session_id in found]


SESSION: Final = _Typed("session")
"""The type of an argument that names a session: `click.argument("session", type=SESSION)`, then `find_session`."""

PLACE: Final = _Typed("place")
"""The type of an argument that names a place in a session: then `find_place`."""


def find_session(store: BlockingEventSessionStorage, text: str) -> str:
    """The id of the living session that *text* is, or that alone begins with it.

    Raises `SessionNotFoundError`, `SessionDeletedError`, `InvalidSessionIdError` or `AmbiguousIdError`.
    """
    from session.errors import SessionNotFoundError  # noqa: PLC0415 - with the store

    try:
        store.version_at(text, 0)
    except SessionNotFoundError:
        found = _beginning_with(text, store)
        if not found:
            raise
        if len(found) > 1:
            raise AmbiguousIdError(text, found) from None
        return found[0]
    return text


def find_place(store: BlockingEventSessionStorage, text: str) -> Place:
    """The place that the address *text* names, with the whole id. Raises as `find_session`, and `InvalidPlaceError`;
    whether the session has such a place is not looked at.
    """
    from session.places import parse_place  # noqa: PLC0415 - with the store

    place = parse_place(text)
    return msgspec.structs.replace(place, session_id=find_session(store, place.session_id))


def find_sessions(store: BlockingEventSessionStorage, texts: Iterable[str]) -> list[str]:
    """`find_session` for each, once per session."""
    return list(dict.fromkeys(find_session(store, text) for text in texts))


def _beginning_with(text: str, store: BlockingEventSessionStorage) -> list[str]:
    return sorted(session_id for session_id in store.list() if session_id.startswith(text))


def _ambiguity(prefix: str, candidates: list[str]) -> str:
    shown = ", ".join(candidates[:SHOWN_CANDIDATES])
    more = ", ..." if len(candidates) > SHOWN_CANDIDATES else ""
    return f"{len(candidates)} sessions begin with {prefix}: {shown}{more}"
