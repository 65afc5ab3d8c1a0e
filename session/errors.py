"""Everything that `session` raises on purpose, under one base class.

Each error carries its facts as attributes, says what did *not* happen, and survives pickling.
"""

from __future__ import annotations

__all__ = [
    "EventDataError",
    "InvalidMessageError",
    "InvalidMetadataError",
    "InvalidPlaceError",
    "InvalidSessionIdError",
    "PlaceNotFoundError",
    "SessionAlteredError",
    "SessionDeletedError",
    "SessionError",
    "SessionExistsError",
    "SessionFileError",
    "SessionNotFoundError",
    "StorageUnavailableError",
    "UnreadableJsonError",
]

_SHOWN_CHARACTERS = 80


class SessionError(Exception):
    """Base of every error of this package."""


class SessionNotFoundError(SessionError):
    """There is no session of this id."""

    def __init__(self, session_id: str) -> None:
        super().__init__(session_id)
        self.session_id = session_id

    def __str__(self) -> str:
        return f"Session not found: {self.session_id}"


class SessionExistsError(SessionError):
    """The id is taken by another session. Nothing was written."""

    def __init__(self, session_id: str) -> None:
        super().__init__(session_id)
        self.session_id = session_id

    def __str__(self) -> str:
        return f"Session exists already: {self.session_id}; nothing was written"


class SessionDeletedError(SessionError):
    """The session was deleted; its id is never used again. Nothing was written."""

    def __init__(self, session_id: str) -> None:
        super().__init__(session_id)
        self.session_id = session_id

    def __str__(self) -> str:
        return f"Session was deleted: {self.session_id}; its id is never used again, nothing was written"


class SessionAlteredError(SessionError):
    """No event of the session, which is at *version*, has the *digest* that was kept of it: what was recorded up to
    that event was changed, or cut off, since.
    """

    def __init__(self, session_id: str, digest: bytes, version: int) -> None:
        super().__init__(session_id, digest, version)
        self.session_id = session_id
        self.digest = digest
        self.version = version

    def __str__(self) -> str:
        return f"session {self.session_id} was altered: none of {self.version} events has digest {self.digest.hex()}"


class InvalidSessionIdError(SessionError):
    """The id cannot name a session. Nothing was read or written."""

    def __init__(self, session_id: object, reason: str) -> None:
        super().__init__(session_id, reason)
        self.session_id = session_id
        self.reason = reason

    def __str__(self) -> str:
        return f"invalid session id {_shorten(self.session_id)}: {self.reason}; nothing was read or written"


class InvalidMessageError(SessionError):
    """A message that cannot be kept; *index* is its place in the list that was given, if it was one. Nothing was
    written.
    """

    def __init__(self, reason: str, index: int | None = None) -> None:
        super().__init__(reason, index)
        self.reason = reason
        self.index = index

    def __str__(self) -> str:
        place = "" if self.index is None else f" at index {self.index}"
        return f"invalid message{place}: {self.reason}; nothing was written"


class InvalidMetadataError(SessionError):
    """Metadata that is no JSON object. Nothing was written."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"invalid metadata: {self.reason}; nothing was written"


class InvalidPlaceError(SessionError):
    """The text is no place in a session. Nothing was read."""

    def __init__(self, place: object, reason: str) -> None:
        super().__init__(place, reason)
        self.place = place
        self.reason = reason

    def __str__(self) -> str:
        return f"invalid place {_shorten(self.place)}: {self.reason}"


class PlaceNotFoundError(SessionError):
    """The session has no such place."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(place, reason)
        self.place = place
        self.reason = reason

    def __str__(self) -> str:
        return f"place not found: {_shorten(self.place)}: {self.reason}"


class SessionFileError(SessionError):
    """The file holds no session: it is torn, empty or foreign. It was left as it is."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"not a session file: {self.path}: {self.reason}; the file was left as it is"


class StorageUnavailableError(SessionError):
    """The storage cannot be reached or is locked (a Redis that is down, a SQLite that is busy). Nothing was written in
    part.
    """

    def __init__(self, storage: str, reason: str) -> None:
        super().__init__(storage, reason)
        self.storage = storage
        self.reason = reason

    def __str__(self) -> str:
        return f"storage unavailable: {self.storage}: {self.reason}; nothing was written in part"


class EventDataError(SessionError):
    """The stored data of an event of a known type is not what that type holds."""

    def __init__(self, event_type: str, reason: str) -> None:
        super().__init__(event_type, reason)
        self.event_type = event_type
        self.reason = reason

    def __str__(self) -> str:
        return f"unreadable event of type {_shorten(self.event_type)}: {self.reason}"


class UnreadableJsonError(SessionError, ValueError):
    """No parser of ours takes these bytes. They were kept as they are."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"unreadable JSON: {self.reason}"


def _shorten(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 3]}..."
