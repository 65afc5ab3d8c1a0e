"""Sessions as JSON files in a directory, in the format of the TypeScript SDK's session files."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import secrets
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from session.errors import SessionFileError, StorageUnavailableError
from session.storage.base import check_session_id, is_session_id
from session.storage.document import from_document, to_document

if TYPE_CHECKING:
    import builtins
    from collections.abc import Iterator

    from session.state import SessionState

_SUFFIX: Final = ".json"
_READ_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # NONBLOCK: a pipe must not hold us up
_NO_FILE: Final = "it is no regular file"
_UNFINISHED: Final = re.compile(r"\..+\.json\.[0-9a-f]{16}")
_ABANDONED_SECONDS: Final = 3_600  # no save takes an hour
_WRITE_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class FileSessionStorage:
    """One file per session, `<id>.json` in *directory*, which is made when it is first written to.

    A save replaces the file as a whole, and both file and directory have been flushed when it returns: a crash leaves
    the old file or the new one. The format is `session.storage.document`'s; `version` is not kept, the last writer
    wins. A file that is torn, empty or foreign raises `SessionFileError`, and is left alone; `list` goes by the names
    only. Symbolic links are never followed; a save replaces one, and nothing else that is no file. Files 0600,
    directory 0700.

    A save that was killed leaves its unfinished file, `.<id>.json.<16 hexadecimal digits>`. The first save through a
    storage object removes those that have not been written to for an hour.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = Path(directory).expanduser().absolute()
        self._is_swept = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {str(self._directory)!r}>"

    @property
    def directory(self) -> Path:
        """Where the files are."""
        return self._directory

    async def save(self, state: SessionState, /) -> SessionState:
        """See `SessionStorage.save`. Durable when it returns. Raises `InvalidMetadataError`, `InvalidStateError`, and
        `SessionFileError` if something that is no file has its name.
        """
        path = self._path(state.id)
        await asyncio.to_thread(lambda: self._replace(path, to_document(state)))
        return state

    async def load(self, session_id: str, /) -> SessionState | None:
        """See `SessionStorage.load`. Raises `SessionFileError`."""
        path = self._path(session_id)
        return await asyncio.to_thread(lambda: self._load(path, session_id))

    async def delete(self, session_id: str, /) -> None:
        """See `SessionStorage.delete`. Durable when it returns."""
        path = self._path(session_id)
        await asyncio.to_thread(lambda: self._remove(path))

    async def list(self) -> builtins.list[str]:
        """See `SessionStorage.list`: every file that could be a session's, unread."""
        return await asyncio.to_thread(self._names)

    def _path(self, session_id: str) -> Path:
        return self._directory / (check_session_id(session_id) + _SUFFIX)

    def _load(self, path: Path, session_id: str) -> SessionState | None:
        document = self._read(path)
        return None if document is None else from_document(document, session_id, str(path))

    def _read(self, path: Path) -> bytes | None:
        with self._translated():
            try:
                descriptor = os.open(path, _READ_FLAGS)
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise SessionFileError(str(path), "it is a symbolic link") from error
                if error.errno in (errno.ENXIO, errno.EOPNOTSUPP):  # a socket
                    raise SessionFileError(str(path), _NO_FILE) from error
                raise
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise SessionFileError(str(path), _NO_FILE)
            with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
                return file.read()

    def _replace(self, path: Path, document: bytes) -> None:
        """A name that begins with a dot is no session's: neither `load` nor `list` can meet the unfinished file."""
        unfinished = self._directory / f".{path.name}.{secrets.token_hex(8)}"
        with self._translated():
            self._prepare(path)
            try:
                with open(os.open(unfinished, _WRITE_FLAGS, 0o600), "wb") as file:  # noqa: PTH123 - as above
                    file.write(document)
                    file.flush()
                    os.fsync(file.fileno())
                unfinished.replace(path)
            except BaseException:
                unfinished.unlink(missing_ok=True)
                raise
            _sync(self._directory)

    def _prepare(self, path: Path) -> None:
        _make_durably(self._directory)
        with contextlib.suppress(FileNotFoundError):
            kind = stat.S_IFMT(path.lstat().st_mode)
            if kind not in (stat.S_IFREG, stat.S_IFLNK):
                raise SessionFileError(str(path), _NO_FILE)
        if not self._is_swept:
            self._is_swept = True
            self._remove_abandoned()

    def _remove_abandoned(self) -> None:
        limit = time.time() - _ABANDONED_SECONDS
        with os.scandir(self._directory) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # another process sweeps too
                    if _UNFINISHED.fullmatch(entry.name) and entry.stat(follow_symlinks=False).st_mtime < limit:
                        os.unlink(entry)  # noqa: PTH108 - it is no `Path`

    def _remove(self, path: Path) -> None:
        with self._translated():
            try:
                path.unlink()
            except FileNotFoundError:
                return
            _sync(self._directory)

    def _names(self) -> builtins.list[str]:
        with self._translated():
            try:
                with os.scandir(self._directory) as entries:
                    names = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
            except FileNotFoundError:
                return []
        stems = (name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))
        return [stem for stem in stems if is_session_id(stem)]

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageUnavailableError(str(self._directory), str(error)) from error


def _make_durably(directory: Path) -> None:
    """Make *directory* and what is missing above it; the name of each has reached the disk when this returns."""
    missing = [place for place in (directory, *directory.parents) if not place.exists()]
    for place in reversed(missing):
        place.mkdir(mode=0o700 if place == directory else 0o777, exist_ok=True)
        _sync(place.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
