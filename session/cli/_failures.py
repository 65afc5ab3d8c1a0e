"""Every failure of a command as one line on stderr and an exit code."""

from __future__ import annotations

import contextlib
import enum
import os
import sys
from pathlib import Path
from typing import Final

import click

from session.cli._visible import visible

TRACEBACK_VARIABLE: Final = "REFOLD_TRACEBACK"


class Exit(enum.IntEnum):
    """What a command ends with."""

    OK = 0
    ERROR = 1
    FOUND = 2  # a difference, or a problem
    NOT_FOUND = 3
    STORE = 4  # locked or corrupt


class CommandError(Exception):
    """A command could not do what it was asked: *reason*, in one line."""

    exit_code = Exit.ERROR

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotFoundError(CommandError):
    """What was asked for is not there."""

    exit_code = Exit.NOT_FOUND


def fail(error: BaseException) -> int:
    """Say on stderr what *error* means, and return the exit code. A reader who left (`| head`) needs no line."""
    if os.environ.get(TRACEBACK_VARIABLE):
        import traceback  # noqa: PLC0415 - for who asks for it

        traceback.print_exception(error)
    if isinstance(error, BrokenPipeError):
        silence()
        return Exit.ERROR
    if isinstance(error, OSError):
        silence()
    line, code = explain(error)
    with contextlib.suppress(OSError):
        sys.stderr.write(f"refold: {visible(line)}\n")
        sys.stderr.flush()
    return code


def silence() -> None:
    """Let nothing more be written to stdout: what is still in its buffer would fail again when Python ends."""
    with contextlib.suppress(OSError, ValueError):
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
        os.close(devnull)


def explain(error: BaseException) -> tuple[str, Exit]:
    """What *error* means, in a line of text that is not yet made visible, and the exit code."""
    match error:
        case CommandError():
            return error.reason, error.exit_code
        case click.ClickException():
            return _of_click(error), Exit.ERROR
        case KeyboardInterrupt() | click.Abort():
            return "interrupted", Exit.ERROR
        case OSError():
            return _of_system(error), Exit.ERROR
    return _of_ours(error)


def _of_click(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    advice = f" (see `{context.command_path} --help`)" if context else ""
    return error.format_message() + advice


def _of_system(error: OSError) -> str:
    reason = (error.strerror or str(error)).lower()
    return f"{os.fsdecode(error.filename)}: {reason}" if error.filename else f"cannot go on: {reason}"


def _of_ours(error: BaseException) -> tuple[str, Exit]:
    from session.errors import SessionError  # noqa: PLC0415 - only who fails needs it
    from session.pricing import PriceTableError  # noqa: PLC0415
    from session.storage._log import EventStoreError  # noqa: PLC0415

    if isinstance(error, SessionError | EventStoreError):
        return str(error), _exit_of(error)
    if isinstance(error, PriceTableError):
        return str(error), Exit.ERROR
    if isinstance(error, MemoryError):
        return "out of memory", Exit.ERROR
    text = f"internal error: {type(error).__name__}: {error}"
    return f"{text} (set {TRACEBACK_VARIABLE}=1 to see where)", Exit.ERROR


def _exit_of(error: Exception) -> Exit:
    from session import errors  # noqa: PLC0415
    from session.storage import _log  # noqa: PLC0415

    if isinstance(error, _log.NotALogError):  # a damaged first page looks like the file of somebody else
        return Exit.STORE if (Path(error.path) / "data.mdb").exists() else Exit.ERROR
    codes: dict[Exit, tuple[type[Exception], ...]] = {
        Exit.FOUND: (errors.SessionAlteredError,),
        Exit.NOT_FOUND: (
            errors.SessionNotFoundError,
            errors.SessionDeletedError,
            errors.PlaceNotFoundError,
            _log.LogNotFoundError,
        ),
        Exit.STORE: (
            errors.EventDataError,
            errors.StorageUnavailableError,
            _log.CorruptEventError,
            _log.CorruptLogError,
            _log.LogInUseError,
            _log.NewerFormatError,
            _log.ReadersFullError,
        ),
    }
    return next((code for code, classes in codes.items() if isinstance(error, classes)), Exit.ERROR)
