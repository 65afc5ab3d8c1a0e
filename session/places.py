"""Places in a session: `id@412` (a version), `id@-3` (three before the head), `id@msg_01...` (a message), `id@turn:7`
(the end of turn 7), `id` (the head).

Reading one is pure text; finding it needs what the fold knows (`SessionState.turns` and `.landmarks`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeAlias, assert_never

import msgspec

from session.errors import InvalidPlaceError, PlaceNotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from session.state import Landmark, Turn


class AtVersion(msgspec.Struct, frozen=True):
    """Behind the event of this version; 0: before the first."""

    version: int

    def __str__(self) -> str:
        return str(self.version)


class BeforeHead(msgspec.Struct, frozen=True):
    """So many events before the head."""

    events: int

    def __str__(self) -> str:
        return f"-{self.events}"


class AtMessage(msgspec.Struct, frozen=True):
    """Behind the message that the API gave this id, its usage recorded."""

    message_id: str

    def __str__(self) -> str:
        return self.message_id


class AtTurnEnd(msgspec.Struct, frozen=True):
    """At the end of this turn, counted from 1."""

    number: int

    def __str__(self) -> str:
        return f"turn:{self.number}"


At: TypeAlias = AtVersion | BeforeHead | AtMessage | AtTurnEnd
"""A place within a session."""

HEAD: Final = BeforeHead(0)

_MOST: Final = 2**63
_FORMS: Final = re.compile(
    r"(?P<version>[0-9]{1,10})|-(?P<before>[0-9]{1,10})|(?P<message>msg_[A-Za-z0-9_-]{1,200})|turn:(?P<turn>[0-9]{1,10})"
)


class Place(msgspec.Struct, frozen=True):
    """A place in a session: `str()` of it is the address it was read from."""

    session_id: str
    at: At = HEAD

    def __str__(self) -> str:
        return self.session_id if self.at == HEAD else f"{self.session_id}@{self.at}"


def parse_place(text: str) -> Place:
    """The place that the address *text* names. Raises `InvalidPlaceError`; the session id is not looked at."""
    session_id, separator, at = text.partition("@")
    if not session_id:
        raise InvalidPlaceError(text, "it names no session")
    try:
        return Place(session_id, parse_at(at) if separator else HEAD)
    except InvalidPlaceError as error:
        raise InvalidPlaceError(text, error.reason) from None


def parse_at(at: int | str | At) -> At:
    """What Python callers give as `at=`: a version, a negative number of events before the head, or the text behind the
    `@` of an address. Raises `InvalidPlaceError`.
    """
    if isinstance(at, AtVersion | BeforeHead | AtMessage | AtTurnEnd):
        return at
    if isinstance(at, int) and not isinstance(at, bool):
        if not -_MOST < at < _MOST:
            raise InvalidPlaceError(hex(at)[:20], "no session has so many events")
        return AtVersion(at) if at >= 0 else BeforeHead(-at)
    found = _FORMS.fullmatch(at) if isinstance(at, str) else None
    if found is None:
        raise InvalidPlaceError(at, "a place is a version (412), -3, msg_... or turn:7")
    return _from_groups(found)


def resolve(at: At, *, head: int, turns: Sequence[Turn] = (), landmarks: Sequence[Landmark] = ()) -> int:
    """The version of *at* in a session at version *head*. *turns* and *landmarks* are needed for the forms that name
    them. Raises `PlaceNotFoundError`.
    """
    match at:
        case AtVersion(version):
            return _within(at, version, head)
        case BeforeHead(events):
            return _within(at, head - events, head)
        case AtMessage(message_id):
            return _landmark(at, message_id, landmarks)
        case AtTurnEnd(number):
            return _turn_end(at, number, turns)
        case _:
            assert_never(at)


def needs_facts(at: At) -> bool:
    """Whether `resolve` needs turns or landmarks, so a fold."""
    return isinstance(at, AtMessage | AtTurnEnd)


def _from_groups(found: re.Match[str]) -> At:
    value = found[found.lastgroup or 0]
    match found.lastgroup:
        case "version":
            return AtVersion(int(value))
        case "before":
            return BeforeHead(int(value))
        case "turn":
            return AtTurnEnd(int(value))
        case _:
            return AtMessage(value)


def _within(at: At, version: int, head: int) -> int:
    if not 0 <= version <= head:
        raise PlaceNotFoundError(str(at), f"the session is at version {head}")
    return version


def _landmark(at: At, message_id: str, landmarks: Sequence[Landmark]) -> int:
    for landmark in reversed(landmarks):
        if landmark.message_id == message_id:
            return landmark.version
    raise PlaceNotFoundError(str(at), "the session never had this message")


def _turn_end(at: At, number: int, turns: Sequence[Turn]) -> int:
    for turn in reversed(turns):
        if turn.number == number:
            return turn.last
    raise PlaceNotFoundError(str(at), f"the session has {turns[-1].number if turns else 0} turns")
