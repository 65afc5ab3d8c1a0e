"""Conversations with Claude as event-sourced sessions.

`EventSessionStorage` keeps every message and every use of tokens as an immutable event: look at a session as it was at
any version, fork it for nothing, and be told if its record was touched. `MemorySessionStorage`, `FileSessionStorage`,
`SqliteSessionStorage` and `RedisSessionStorage` keep the newest state only.

`create_session`, `resume_session` and `fork_session` open conversations that are in their storage the moment they
happen; `builtin_tools` lets them work.

Storages and live sessions are imported when they are first asked for: `import session` costs neither the event log nor
the SDK.
"""

from session import _starting  # noqa: F401 - it holds Ctrl-C while the command loads what follows

# isort: split
from importlib import import_module
from typing import TYPE_CHECKING

from session.errors import (
    AlreadyReceivingError,
    AnswerKeptInForkError,
    EventDataError,
    InvalidMessageError,
    InvalidMetadataError,
    InvalidPlaceError,
    InvalidPromptError,
    InvalidSessionIdError,
    InvalidStateError,
    MessageSetAsideError,
    NoModelError,
    NothingToAnswerError,
    PlaceNotFoundError,
    RecordingFailedError,
    RequestOpenError,
    ResponseCutError,
    SessionAlteredError,
    SessionClosedError,
    SessionDeletedError,
    SessionError,
    SessionExistsError,
    SessionFileError,
    SessionNotFoundError,
    StorageUnavailableError,
    ThinkingBoundError,
    UnreadableJsonError,
)
from session.events import AnyEvent, Meta, SessionEvent, StoredEvent, UnknownEvent
from session.fold import Fold, fold
from session.lint import Problem, lint, repair
from session.messages import Message, Messages
from session.places import Place, parse_place
from session.state import Pending, Prompt, SessionState, Status, ToolRun, Turn, UnfinishedResponse
from session.summary import Summary
from session.usage import Usage, total

if TYPE_CHECKING:
    from session.live import Received, Session, create_session, fork_session, resume_session
    from session.recording import Recorder
    from session.replay import (
        Divergence,
        NothingToReplayError,
        ReplayDivergedError,
        Replayer,
        ReplayError,
        ReplayOverError,
        ResponseNotRecordedError,
    )
    from session.storage import (
        Appended,
        BlockingEventSessionStorage,
        EventSessionStorage,
        FileSessionStorage,
        MemorySessionStorage,
        RedisSessionStorage,
        SessionStorage,
        SqliteSessionStorage,
        StorageKind,
        SummaryPage,
        Verified,
        WrongVersionError,
        check_session_id,
        create_session_storage,
        get_default_storage,
        new_session_id,
        set_default_storage,
    )
    from session.tools import Tool, builtin_tools

__all__ = [
    "AlreadyReceivingError",
    "AnswerKeptInForkError",
    "AnyEvent",
    "Appended",
    "BlockingEventSessionStorage",
    "Divergence",
    "EventDataError",
    "EventSessionStorage",
    "FileSessionStorage",
    "Fold",
    "InvalidMessageError",
    "InvalidMetadataError",
    "InvalidPlaceError",
    "InvalidPromptError",
    "InvalidSessionIdError",
    "InvalidStateError",
    "MemorySessionStorage",
    "Message",
    "MessageSetAsideError",
    "Messages",
    "Meta",
    "NoModelError",
    "NothingToAnswerError",
    "NothingToReplayError",
    "Pending",
    "Place",
    "PlaceNotFoundError",
    "Problem",
    "Prompt",
    "Received",
    "Recorder",
    "RecordingFailedError",
    "RedisSessionStorage",
    "ReplayDivergedError",
    "ReplayError",
    "ReplayOverError",
    "Replayer",
    "RequestOpenError",
    "ResponseCutError",
    "ResponseNotRecordedError",
    "Session",
    "SessionAlteredError",
    "SessionClosedError",
    "SessionDeletedError",
    "SessionError",
    "SessionEvent",
    "SessionExistsError",
    "SessionFileError",
    "SessionNotFoundError",
    "SessionState",
    "SessionStorage",
    "SqliteSessionStorage",
    "Status",
    "StorageKind",
    "StorageUnavailableError",
    "StoredEvent",
    "Summary",
    "SummaryPage",
    "ThinkingBoundError",
    "Tool",
    "ToolRun",
    "Turn",
    "UnfinishedResponse",
    "UnknownEvent",
    "UnreadableJsonError",
    "Usage",
    "Verified",
    "WrongVersionError",
    "builtin_tools",
    "check_session_id",
    "create_session",
    "create_session_storage",
    "fold",
    "fork_session",
    "get_default_storage",
    "lint",
    "new_session_id",
    "parse_place",
    "repair",
    "resume_session",
    "set_default_storage",
    "total",
]

_HOMES = {
    **dict.fromkeys(("Received", "Session", "create_session", "fork_session", "resume_session"), "session.live"),
    "Recorder": "session.recording",
    **dict.fromkeys(
        (
            "Divergence",
            "NothingToReplayError",
            "ReplayDivergedError",
            "ReplayError",
            "ReplayOverError",
            "Replayer",
            "ResponseNotRecordedError",
        ),
        "session.replay",
    ),
    **dict.fromkeys(("Tool", "builtin_tools"), "session.tools"),
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = import_module(_HOMES.get(name, "session.storage"))
    return globals().setdefault(name, getattr(home, name))
