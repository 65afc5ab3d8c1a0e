"""A file that a command writes: it appears whole, or not at all, and takes the place of nothing by accident."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from typing import TYPE_CHECKING, Final, TypeAlias

from session.cli._failures import CommandError
from session.cli._options import expanded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Write: TypeAlias = Callable[[bytes], object]

_SHOWN_NAME: Final = 100  # characters of the target's name in that of the unfinished file
_NO_LINKS: Final = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}  # of a file system without hard links, such as exFAT


@contextlib.contextmanager
def whole_file(target: str, *, replace: bool, mode: int = 0o600) -> Iterator[Write]:
    """A function that writes to *target*, which is there, whole and flushed, when the block ends without an error.
    *mode* says who may read it, less the umask.

    A file that is there, or came to be there meanwhile, is left alone, unless it is to be *replaced*. A link, a pipe, a
    device or a folder always is. Raises `CommandError`, which names *target* and no file of ours.
    """
    path = expanded(target)
    with _naming(target):
        _check(path, target, replace=replace)
        unfinished = path.with_name(f".{path.name[:_SHOWN_NAME]}.{secrets.token_hex(8)}")
        try:
            with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:  # noqa: PTH123 - a descriptor
                yield file.write
                file.flush()
                os.fsync(file.fileno())
            _check(path, target, replace=replace)
            if replace:
                unfinished.replace(path)
            else:
                _put(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def _naming(target: str) -> Iterator[None]:
    try:
        yield
    except FileExistsError as error:
        raise _exists(target) from error
    except OSError as error:
        raise CommandError(f"{target}: {(error.strerror or str(error)).lower()}; it was not written") from error


def _check(path: Path, target: str, *, replace: bool) -> None:
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise CommandError(f"{target} is no plain file; nothing was written")
    if path.exists() and not replace:
        raise _exists(target)


def _put(unfinished: Path, path: Path) -> None:
    """Give *unfinished* the name *path*, which nothing must have. Raises `FileExistsError`."""
    try:
        os.link(unfinished, path)  # where `rename` would replace what came to be there meanwhile
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        path.touch(0o600, exist_ok=False)  # an empty file holds the name, for a moment
        unfinished.replace(path)


def _exists(target: str) -> CommandError:
    return CommandError(f"{target} is there already; nothing was written (--force replaces it)")
