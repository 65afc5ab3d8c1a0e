"""Everything that `session` raises on purpose, under one base class.

Each error carries its facts as attributes, says what did *not* happen, and survives pickling.
"""

from __future__ import annotations

__all__ = [
    "AlreadyReceivingError",
    "AnswerKeptInForkError",
    "EventDataError",
    "InvalidMessageError",
    "InvalidMetadataError",
    "InvalidPlaceError",
    "InvalidPromptError",
    "InvalidSessionIdError",
    "InvalidStateError",
    "MessageSetAsideError",
    "NoModelError",
    "NothingToAnswerError",
    "PlaceNotFoundError",
    "RecordingFailedError",
    "RequestOpenError",
    "ResponseCutError",
    "SessionAlteredError",
    "SessionClosedError",
    "SessionDeletedError",
    "SessionError",
    "SessionExistsError",
    "SessionFileError",
    "SessionNotFoundError",
    "StorageUnavailableError",
    "ThinkingBoundError",
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


class SessionClosedError(SessionError):
    """The session object was closed. Nothing was done; `resume_session` goes on with the session."""

    def __init__(self, session_id: str) -> None:
        super().__init__(session_id)
        self.session_id = session_id

    def __str__(self) -> str:
        return f"session {self.session_id} is closed; nothing was done, resume it to go on"


class AlreadyReceivingError(SessionError):
    """The answer is being received already. Nothing was done."""

    def __init__(self, session_id: str) -> None:
        super().__init__(session_id)
        self.session_id = session_id

    def __str__(self) -> str:
        return (
            f"session {self.session_id} is receiving an answer already; nothing was done, "
            "iterate that `receive()` to its end or cancel it first"
        )


class NothingToAnswerError(SessionError):
    """There is no message of the user's without an answer. Nothing was sent."""

    def __init__(self, session_id: str) -> None:
        super().__init__(session_id)
        self.session_id = session_id

    def __str__(self) -> str:
        return f"session {self.session_id} has nothing to answer; nothing was sent, `send` a message first"


class NoModelError(SessionError):
    """No model is given, and the session knows none. Nothing was written or sent."""

    def __init__(self, session_id: str) -> None:
        super().__init__(session_id)
        self.session_id = session_id

    def __str__(self) -> str:
        return f"session {self.session_id} has no model and its storage keeps none; pass `model=`; nothing was written"


class RequestOpenError(SessionError):
    """A request that another process sent has no answer yet: that process may be receiving it now, or be dead, which
    the log cannot tell. Nothing was written or sent.
    """

    def __init__(self, session_id: str, request_id: str) -> None:
        super().__init__(session_id, request_id)
        self.session_id = session_id
        self.request_id = request_id

    def __str__(self) -> str:
        return (
            f"session {self.session_id} has an open request {self.request_id} of another process; nothing was written "
            "or sent. If that process is gone, resume with `take_over=True`"
        )


class AnswerKeptInForkError(SessionError):
    """While an answer came in, another writer went on with the session. What came is in the fork *fork_id*; the session
    has what the other one wrote.
    """

    def __init__(self, session_id: str, fork_id: str) -> None:
        super().__init__(session_id, fork_id)
        self.session_id = session_id
        self.fork_id = fork_id

    def __str__(self) -> str:
        return (
            f"another writer went on with session {self.session_id}: this answer was kept in its fork {self.fork_id}, "
            "the session itself has what the other one wrote"
        )


class RecordingFailedError(SessionError):
    """A call could not be recorded in *session_id*, for the *reason* (the cause has it as an exception). *sent*: the
    request was sent already, and what came of it since is not in the log; otherwise nothing was sent or written.
    """

    def __init__(self, session_id: str, reason: str, sent: bool) -> None:
        super().__init__(session_id, reason, sent)
        self.session_id = session_id
        self.reason = reason
        self.sent = sent

    def __str__(self) -> str:
        if self.sent:
            return f"session {self.session_id} could not be recorded further: {self.reason}; the request had been sent"
        return f"session {self.session_id} could not be recorded: {self.reason}; nothing was sent"


class ResponseCutError(SessionError):
    """The response to *request_id* ended before it was complete. It is recorded as interrupted and stays out of the
    messages; `receive` asks again.
    """

    def __init__(self, session_id: str, request_id: str, reason: str) -> None:
        super().__init__(session_id, request_id, reason)
        self.session_id = session_id
        self.request_id = request_id
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"session {self.session_id}: the response to {self.request_id} was cut: {self.reason}; it is recorded as "
            "interrupted, `receive` asks again"
        )


class MessageSetAsideError(SessionError):
    """The API refused the request with *status*, and its newest part, the user's message, may be why. That message was
    set aside, so that the session can go on without it; the log still has it.
    """

    def __init__(self, session_id: str, status: int, reason: str) -> None:
        super().__init__(session_id, status, reason)
        self.session_id = session_id
        self.status = status
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"session {self.session_id}: the API refused the request ({self.status}: {self.reason}); its newest "
            "message was set aside, the session goes on without it"
        )


class ThinkingBoundError(SessionError):
    """A change of *changed* (`system`, `tools`) would invalidate the thinking in the history. Nothing was written."""

    def __init__(self, session_id: str, changed: tuple[str, ...]) -> None:
        super().__init__(session_id, changed)
        self.session_id = session_id
        self.changed = changed

    def __str__(self) -> str:
        return (
            f"session {self.session_id} has thinking blocks, which the API takes back only behind exactly the system, "
            f"tools and messages they were produced behind; a changed {' and '.join(self.changed)} would make every "
            "request a 400. Nothing was written. Leave the change out, fork where it was not made yet, or pass "
            "`strip_thinking=True` to send the history without its thinking from now on"
        )


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


class InvalidPromptError(SessionError):
    """The *part* of a prompt (`model`, `system`, `tools`, `parameters`) is nothing that a request can carry. Nothing
    was written or sent.
    """

    def __init__(self, part: str, reason: str) -> None:
        super().__init__(part, reason)
        self.part = part
        self.reason = reason

    def __str__(self) -> str:
        return f"invalid {self.part}: {self.reason}; nothing was written or sent"


class InvalidMetadataError(SessionError):
    """Metadata that is no JSON object. Nothing was written."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"invalid metadata: {self.reason}; nothing was written"


class InvalidStateError(SessionError):
    """The *field* of a state is nothing that can be kept: a counter of thousands of digits, a time that is no number.
    Nothing was written.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field = field
        self.reason = reason

    def __str__(self) -> str:
        return f"invalid state: {self.field}: {_shorten(self.reason)}; nothing was written"


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
