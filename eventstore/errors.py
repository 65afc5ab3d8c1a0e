"""Everything that `eventstore` raises on purpose, under one base class.

Each error carries its facts as attributes, says what did *not* happen, and survives pickling (it crosses process
boundaries in `verify` and in tests). Errors of the storage engine are translated into these at one boundary, with
`raise ... from`.
"""

from __future__ import annotations

__all__ = [
    "AddressSpaceError",
    "ClosedError",
    "CommitIdReusedError",
    "CorruptEventError",
    "CorruptLogError",
    "DiskFullError",
    "EventStoreError",
    "EventTooLargeError",
    "ForkPointError",
    "ForkedProcessError",
    "InvalidCursorError",
    "InvalidEventError",
    "InvalidPathError",
    "InvalidStreamNameError",
    "LogFailedError",
    "LogInUseError",
    "LogNotFoundError",
    "LogPermissionError",
    "LogReplacedError",
    "LogUnavailableError",
    "MapFullError",
    "NetworkFileSystemError",
    "NewerFormatError",
    "NotALogError",
    "ReadersFullError",
    "RestoreError",
    "StreamDeletedError",
    "StreamExistsError",
    "StreamNotFoundError",
    "WrongVersionError",
]


class EventStoreError(Exception):
    """Base of every error of this package."""


class InvalidStreamNameError(EventStoreError):
    """The name cannot name a stream. Nothing was read or written."""

    def __init__(self, stream: object, reason: str) -> None:
        super().__init__(stream, reason)
        self.stream = stream
        self.reason = reason

    def __str__(self) -> str:
        return f"invalid stream name {_shorten(self.stream)}: {self.reason}"


class InvalidEventError(EventStoreError):
    """An event, a commit id or an append that no engine could take. Nothing was written."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"invalid append, nothing was written: {self.reason}"


class EventTooLargeError(EventStoreError):
    """*what* ("event", "commit") has *size* bytes or events, and the limit is *limit*. Nothing was written."""

    def __init__(self, what: str, size: int, limit: int) -> None:
        super().__init__(what, size, limit)
        self.what = what
        self.size = size
        self.limit = limit

    def __str__(self) -> str:
        return f"{self.what} too large, nothing was written: {self.size:,}, the limit is {self.limit:,}"


class InvalidCursorError(EventStoreError):
    """The cursor or position was not handed out by this log, or it was before the log was put back to an earlier state:
    who has read what the log no longer holds has to begin anew.
    """

    def __init__(self, cursor: object, reason: str) -> None:
        super().__init__(cursor, reason)
        self.cursor = cursor
        self.reason = reason

    def __str__(self) -> str:
        return f"invalid cursor {_shorten(self.cursor)}: {self.reason}"


class StreamNotFoundError(EventStoreError):
    """No stream of this name was ever created in this log."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.stream = stream

    def __str__(self) -> str:
        return f"stream not found: {self.stream!r}"


class StreamExistsError(EventStoreError):
    """The name is taken by a living stream. Nothing was written."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.stream = stream

    def __str__(self) -> str:
        return f"stream {self.stream!r} exists already; nothing was written"


class StreamDeletedError(EventStoreError):
    """The stream was deleted; its name is never used again. Nothing was written."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.stream = stream

    def __str__(self) -> str:
        return f"stream {self.stream!r} was deleted; its name is never used again"


class WrongVersionError(EventStoreError):
    """The stream is at version *actual* (0: it is empty or does not exist), not where *expected* says. Nothing was
    written.
    """

    def __init__(self, stream: str, expected: int, actual: int) -> None:
        super().__init__(stream, expected, actual)
        self.stream = stream
        self.expected = expected
        self.actual = actual

    def __str__(self) -> str:
        wanted = "an existing stream" if self.expected == -2 else f"version {self.expected}"  # noqa: PLR2004
        return f"stream {self.stream!r} is at version {self.actual}, expected {wanted}; nothing was written"


class CommitIdReusedError(EventStoreError):
    """The commit id belongs to an earlier commit of the stream with other content or another place. Nothing was
    written.
    """

    def __init__(self, stream: str, commit_id: bytes) -> None:
        super().__init__(stream, commit_id)
        self.stream = stream
        self.commit_id = commit_id

    def __str__(self) -> str:
        return (
            f"commit id {self.commit_id.hex()} was used before on stream {self.stream!r} for something else; "
            "nothing was written"
        )


class ForkPointError(EventStoreError):
    """The parent has no version *at*: it is at *head*. Nothing was written."""

    def __init__(self, parent: str, at: int, head: int) -> None:
        super().__init__(parent, at, head)
        self.parent = parent
        self.at = at
        self.head = head

    def __str__(self) -> str:
        return f"cannot fork {self.parent!r} at version {self.at}: it is at {self.head}; nothing was written"


class RestoreError(EventStoreError):
    """The records do not restore *stream*: *reason*, found at *version*. What came before that version may have been
    written if the records conflict with the log; nothing was written if they contradict themselves.
    """

    def __init__(self, stream: str, version: int, reason: str) -> None:
        super().__init__(stream, version, reason)
        self.stream = stream
        self.version = version
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot restore {self.stream!r} at version {self.version}: {self.reason}"


class CorruptEventError(EventStoreError):
    """The record of this event is damaged. Nothing was changed; run `verify` for the whole picture."""

    def __init__(self, stream: str, version: int, position: bytes, reason: str = "") -> None:
        super().__init__(stream, version, position, reason)
        self.stream = stream
        self.version = version
        self.position = position
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"corrupt event: stream {self.stream!r}, version {self.version}, position {self.position.hex()}"
            f"{': ' + self.reason if self.reason else ''}"
        )


class _PathError(EventStoreError):
    """An error about the log at *path*, with a *reason*."""

    consequence = "nothing was changed"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}; {self.consequence}"


class CorruptLogError(_PathError):
    """The files are damaged so that the log cannot be opened or used safely."""


class NotALogError(_PathError):
    """There is something at the path, and it is not a Refold log."""


class LogNotFoundError(_PathError):
    """There is nothing at the path."""


class InvalidPathError(_PathError):
    """The path cannot name a log: a name is too long or has a NUL, or symbolic links lead in a circle."""


class NewerFormatError(_PathError):
    """The log was written in a format that this version does not know."""


class LogInUseError(_PathError):
    """The files are in use in a way that excludes what was asked."""


class LogReplacedError(_PathError):
    """The log is open, and its files are no longer those at the path: they were removed or replaced. What would be
    written now nobody would find. Close it, and open what is there.
    """

    consequence = "nothing was written"


class LogUnavailableError(_PathError):
    """The operating system did not do what was needed: too many open files, no memory, an error of the disk while
    reading. It may be tried again.
    """


class LogPermissionError(_PathError):
    """The operating system denies access."""


class NetworkFileSystemError(_PathError):
    """The path is on a network file system, where LMDB's locks and maps are not safe."""


class AddressSpaceError(_PathError):
    """The process may not map the file (RLIMIT_AS too small)."""


class ReadersFullError(_PathError):
    """All reader slots of the file are taken."""


class MapFullError(_PathError):
    """The map is full and could not be grown."""

    consequence = "nothing was written, what is stored stays readable"


class DiskFullError(_PathError):
    """No space left on the device."""

    consequence = "nothing was written, what is stored stays readable"


class LogFailedError(_PathError):
    """The operating system failed in the middle of a commit (for example an I/O error while flushing)."""

    consequence = "the last append may be there or not: reopen the log, and retry with the same commit id"


class ClosedError(EventStoreError):
    """The log was closed. Nothing was done."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"{self.path}: the log is closed; nothing was done"


class ForkedProcessError(EventStoreError):
    """The log was opened before `os.fork()` and is used in the child, where LMDB is undefined. Nothing was done: open
    the log anew in the child.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return (
            f"{self.path}: opened before os.fork() and used in the child; nothing was done, open it anew in the child"
        )


def _shorten(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."  # noqa: PLR2004
