"""From a path to sessions: which format it is, and the importer that reads it."""

from __future__ import annotations

import errno
import shutil
import sys
import tempfile
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from session.transfer import event_lines, folder
from session.transfer.conversations import Target, keep, parse_conversation
from session.transfer.report import Outcome, RefusedError, Skipped
from session.transfer.source import Source, files_below, lines, members

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from session.state import SessionState
    from session.storage.blocking import BlockingEventSessionStorage
    from session.transfer.source import Line

__all__ = ["IMPORTERS", "FormatError", "Importer", "Target", "found_path", "import_path"]

_AT_ONCE: Final = 16
_BYTES_AT_ONCE: Final = 64 * 2**20
_LINES_SUFFIXES: Final = frozenset({".jsonl", ".ndjson"})


class FormatError(Exception):
    """There is no importer of this name. Nothing was read."""

    def __init__(self, name: str, names: tuple[str, ...]) -> None:
        super().__init__(name, names)
        self.name = name
        self.names = names

    def __str__(self) -> str:
        return f"no format {self.name!r}; there are {', '.join(self.names)}"


class Importer(msgspec.Struct, frozen=True):
    """A format: whether a `Source` is of it, and how it is taken in.

    *read* yields what became of each thing it finds. It raises nothing but what the storage raises, which ends the
    import; run again it finds what is there, and goes on. It holds one conversation in memory, not all.
    """

    name: str
    about: str
    recognizes: Callable[[Source], bool]
    read: Callable[[Source, Target], Iterator[Outcome]]


def import_path(
    storage: BlockingEventSessionStorage,
    path: str | os.PathLike[str],
    *,
    format_name: str | None = None,
    importers: Sequence[Importer] | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Iterator[Outcome]:
    """Take in what is at *path*: a file, a folder, or "-", the standard input. Yields what became of each thing.

    *format_name* names the importer; None: it is found out, for each file of a folder by itself where the folder as a
    whole is of no format. Raises `FormatError`, `FileNotFoundError`.
    """
    known = IMPORTERS if importers is None else tuple(importers)
    chosen = _named(known, format_name)
    target = Target(storage, progress)
    if str(path) == "-":
        yield from _import_standard_input(known, chosen, target)
        return
    yield from _import(Source(found_path(path), str(path)), known, chosen, target)


def found_path(path: str | os.PathLike[str]) -> Path:
    """Where *path* leads. Raises `FileNotFoundError` and other `OSError`s, which name it."""
    try:
        if str(path):  # else it would be the current folder
            return Path(path).expanduser().resolve(strict=True)
    except RuntimeError as error:  # no such home directory; a loop of links, before Python 3.13
        raise FileNotFoundError(errno.ENOENT, str(error), str(path)) from error
    raise FileNotFoundError(errno.ENOENT, "an empty path", "''")


def detect(source: Source, importers: Sequence[Importer] | None = None) -> Importer | None:
    """The first of *importers* that recognizes *source*. Raises `RefusedError` for what cannot be read."""
    return next((one for one in importers or IMPORTERS if one.recognizes(source)), None)


def _named(importers: tuple[Importer, ...], name: str | None) -> Importer | None:
    if name is None:
        return None
    for importer in importers:
        if importer.name == name:
            return importer
    raise FormatError(name, tuple(importer.name for importer in importers))


def _import(source: Source, known: tuple[Importer, ...], chosen: Importer | None, target: Target) -> Iterator[Outcome]:
    try:
        importer = chosen or detect(source, known)
    except RefusedError as refused:
        yield refused.at(source.shown)
        return
    if importer is not None:
        yield from importer.read(source, target)
    elif source.is_folder:
        yield from _import_each(source, known, target)
    else:
        yield Skipped(source.shown, "unknown_format")


def _import_each(source: Source, known: tuple[Importer, ...], target: Target) -> Iterator[Outcome]:
    for path in files_below(source.path):
        if isinstance(path, Skipped):
            yield path
        elif path.suffix in _LINES_SUFFIXES | {folder.SUFFIX}:
            yield from _import(Source(path), known, None, target)


def _import_standard_input(known: tuple[Importer, ...], chosen: Importer | None, target: Target) -> Iterator[Outcome]:
    """By way of a file: a format is found out by looking twice."""
    with tempfile.NamedTemporaryFile(prefix="refold-", suffix=".input") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.flush()
        yield from _import(Source(Path(file.name), "-"), known, chosen, target)


# --- the formats ------------------------------------------------------------------------------------------------------


def _is_export(source: Source) -> bool:
    found = None if source.is_folder else source.first_record
    return found is not None and event_lines.is_export(found[0])


def _is_folder(source: Source) -> bool:
    if source.is_folder:
        return any(path.suffix == folder.SUFFIX for path in _files_in(source.path))
    text = source.document
    return text is not None and text.lstrip()[:1] == b"{" and folder.is_session_document(members(text))


def _files_in(path: Path) -> Iterator[Path]:
    return (found for found in files_below(path, deep=False) if isinstance(found, Path))


def _is_one_conversation(source: Source) -> bool:
    if source.is_folder or source.path.suffix in _LINES_SUFFIXES:
        return False
    text = source.document
    return text is not None and _is_conversation(text)


def _is_lines(source: Source) -> bool:
    if source.is_folder:
        return False
    with source.open() as file:
        looked_at = (line.text for line, _ in zip(lines(file), range(50), strict=False) if line.text)
        return any(_is_conversation(text) for text in looked_at)


def _is_conversation(text: bytes) -> bool:
    try:
        parse_conversation(text)
    except RefusedError:
        return False
    return True


def _import_folder(source: Source, target: Target) -> Iterator[Outcome]:
    yield from (folder.import_folder if source.is_folder else folder.import_document)(source, target)


def _import_one(source: Source, target: Target) -> Iterator[Outcome]:
    try:
        yield keep(target, parse_conversation(source.read()), source.shown)
    except RefusedError as refused:
        yield refused.at(source.shown)
    else:
        target.progress(1, 1)


def _import_lines(source: Source, target: Target) -> Iterator[Outcome]:
    try:
        with source.open() as file, ThreadPoolExecutor(_AT_ONCE) as threads:
            window = _Window(source, target)
            for line in lines(file):
                yield from window.take(line, threads)
            yield from window.drain(0)
    except RefusedError as refused:
        yield refused.at(source.shown)


class _Window:
    """A few conversations on their way into the store at a time, so that they share flushes of the disk. Outcomes come
    in the order of the lines; two of one id never overtake each other.
    """

    def __init__(self, source: Source, target: Target) -> None:
        self._source = source
        self._target = target
        self._waiting: deque[tuple[Line, str, Future[Outcome]]] = deque()

    def take(self, line: Line, threads: ThreadPoolExecutor) -> Iterator[Outcome]:
        """Begin with *line*; what ended meanwhile."""
        try:
            if line.text is None:
                raise RefusedError("too_long")  # noqa: TRY301 - one place says what becomes of a refused line
            state = parse_conversation(line.text)
        except RefusedError as refused:
            yield from self.drain(0)
            yield refused.at(self._source.shown, line.number)
            return
        if any(session_id == state.id for _, session_id, _ in self._waiting):
            yield from self.drain(0)
        self._waiting.append((line, state.id, threads.submit(self._keep, state, line.number)))
        yield from self.drain(_AT_ONCE)

    def drain(self, left: int) -> Iterator[Outcome]:
        """Wait until only *left* are on their way, and no more bytes than `_BYTES_AT_ONCE`."""
        while len(self._waiting) > left or sum(len(line.text or b"") for line, _, _ in self._waiting) > _BYTES_AT_ONCE:
            line, _, kept = self._waiting.popleft()
            yield kept.result()
            self._target.progress(line.offset, self._source.size)

    def _keep(self, state: SessionState, number: int) -> Outcome:
        try:
            return keep(self._target, state, self._source.shown)
        except RefusedError as refused:
            return refused.at(self._source.shown, number)


IMPORTERS: Final = (
    Importer(
        "events", "JSON lines, event by event, as `refold export` writes them", _is_export, event_lines.import_events
    ),
    Importer("folder", "<id>.json files of the TypeScript session SDKs", _is_folder, _import_folder),
    Importer(
        "messages", "one request of the Messages API: model, system, tools, messages", _is_one_conversation, _import_one
    ),
    Importer("lines", "JSON lines, one conversation each", _is_lines, _import_lines),
)
