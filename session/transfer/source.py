"""What lies at a path that somebody wants to import, read with care.

1. Only regular files are opened, never through a symbolic link that leads out of the folder that was named. What was
   named itself may be a link: that is its owner's wish.
2. A line, or a file that must be read as a whole, is at most `MAX_LINE_BYTES` long; what is longer is passed over
   without being held in memory.
3. JSON nests at most `MAX_NESTING` deep.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

import msgspec

from session import jsontext
from session.errors import UnreadableJsonError
from session.transfer.report import RefusedError, Skipped

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_LINE_BYTES: Final = 256 * 2**20
MAX_NESTING: Final = 1_000

_PROBED_LINES: Final = 50
_PIECE_BYTES: Final = 2**20
_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # NONBLOCK: a pipe must not hold us up
# A string without an end runs to the end of the text: else each later quote would look for one, too.
_BRACKETS: Final = re.compile(rb'"(?:[^"\\]++|\\.|\\\Z)*+(?:"|\Z)|[\[{]|[\]}]', re.DOTALL)
_decode_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Line(NamedTuple):
    """A line, numbered from 1; *text* is None if it is too long. The file was read up to *offset*."""

    number: int
    text: bytes | None
    offset: int


class Source:
    """A file or a folder at *path*, and what is looked up in it to tell its format. *shown* is how reports call it."""

    def __init__(self, path: Path, shown: str | None = None) -> None:
        self.path = path
        self.shown = str(path) if shown is None else shown

    def __repr__(self) -> str:
        return f"<Source {self.shown!r}>"

    @cached_property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return self.path.is_dir()

    @cached_property
    def size(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size

    @cached_property
    def first_record(self) -> tuple[bytes, dict[str, bytes]] | None:
        """The first line that is a JSON object, and its members; None if the first lines have none."""
        with self.open() as file:
            for line in lines(file):
                if line.number > _PROBED_LINES:
                    return None
                try:
                    return line.text or b"", members(line.text or b"")
                except RefusedError:
                    continue
        return None

    @cached_property
    def document(self) -> bytes | None:
        """The whole file, if it is one JSON object or array within the limits."""
        try:
            text = self.read()
            if text.lstrip()[:1] == b"[":
                check_nesting(text)
                jsontext.items(text)
            else:
                members(text)
        except (RefusedError, UnreadableJsonError):
            return None
        return text

    def open(self) -> BinaryIO:
        """The file, open for reading. Raises `RefusedError`."""
        return open_regular(self.path)

    def read(self) -> bytes:
        """The whole file. Raises `RefusedError`."""
        with self.open() as file:
            text = file.read(MAX_LINE_BYTES + 1)
        if len(text) > MAX_LINE_BYTES:
            raise RefusedError("too_long", f"more than {MAX_LINE_BYTES:,} bytes")
        return text


def open_regular(path: Path) -> BinaryIO:
    """The regular file at *path*, not through a link. Raises `RefusedError`."""
    try:
        descriptor = os.open(path, _FLAGS)
    except OSError as error:
        reason = "not_a_file" if error.errno in {errno.ELOOP, errno.ENXIO} else "unreadable"
        raise RefusedError(reason, error.strerror or "") from error  # type: ignore[arg-type]
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RefusedError("not_a_file")
    return open(descriptor, "rb")  # noqa: PTH123 - a descriptor, not a path


def lines(file: BinaryIO, limit: int = MAX_LINE_BYTES) -> Iterator[Line]:
    """The lines of *file* that are not blank, without their ends; what is longer than *limit* is not held in memory."""
    number, offset = 0, 0
    while piece := file.readline(limit + 1):
        number += 1
        offset += len(piece)
        text: bytes | None = piece.strip(b" \t\r\n")
        if len(piece) > limit and not piece.endswith(b"\n"):
            text = None
            while piece and not piece.endswith(b"\n"):
                piece = file.readline(_PIECE_BYTES)
                offset += len(piece)
        if text is None or text:
            yield Line(number, text, offset)


def files_below(folder: Path, *, deep: bool = True) -> Iterator[Path | Skipped]:
    """Every regular file below *folder* by name, links that stay inside followed; what may not be opened is a
    `Skipped`. Hidden entries are passed over; with *deep* its folders are entered, but not through links.
    """
    root = folder.resolve()
    waiting = [root]
    while waiting:
        here = waiting.pop()
        try:
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            yield Skipped(str(here), "unreadable", detail=error.strerror or "")
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                waiting += [Path(entry.path)] if deep else []
            elif entry.is_file(follow_symlinks=False):
                yield Path(entry.path)
            elif entry.is_symlink():
                yield from _followed(Path(entry.path), root, deep=deep)
            else:
                yield Skipped(entry.path, "not_a_file")


def _followed(link: Path, root: Path, *, deep: bool) -> Iterator[Path | Skipped]:
    try:
        target = link.resolve(strict=True)
    except OSError as error:
        yield Skipped(str(link), "not_a_file", detail=error.strerror or "")
        return
    except RuntimeError:  # a loop, before Python 3.13
        yield Skipped(str(link), "not_a_file", detail="a loop of links")
        return
    if not target.is_relative_to(root):
        yield Skipped(str(link), "outside")
    elif not target.is_file() and not target.is_dir():
        yield Skipped(str(link), "not_a_file")
    elif target.is_file() and not deep and target.parent != root:
        yield target
    # Otherwise it is met where it lies: taken in once.


def members(text: bytes) -> dict[str, bytes]:
    """The members of the JSON object *text*, each as its exact bytes. Raises `RefusedError`."""
    try:
        return {key: bytes(value) for key, value in _decode_members(text).items()}
    except RecursionError as error:
        raise RefusedError("too_deep", f"more than {MAX_NESTING:,} levels") from error
    except (ValueError, msgspec.MsgspecError):
        check_nesting(text)
    try:
        found = jsontext.members(text)
    except UnreadableJsonError as error:
        raise RefusedError("not_a_conversation" if _is_json(text) else "not_json", error.reason[:200]) from error
    return found


def check_nesting(text: bytes) -> None:
    """Raises `RefusedError` if *text* nests deeper than `MAX_NESTING`."""
    if text.count(b"[") + text.count(b"{") <= MAX_NESTING:
        return
    depth = 0
    for bracket in _BRACKETS.finditer(text):
        match bracket[0]:
            case b"[" | b"{":
                depth += 1
            case b"]" | b"}":
                depth -= 1
        if depth > MAX_NESTING:
            raise RefusedError("too_deep", f"more than {MAX_NESTING:,} levels")


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
