"""The import of transcripts as one of the formats of `refold import`."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from session.claude_code.importing import TranscriptImport
from session.transfer import Importer, RefusedError, Skipped, Source
from session.transfer.source import files_below

if TYPE_CHECKING:
    from collections.abc import Iterator

    from session.transfer import Outcome, Target

_PROBED_FILES: Final = 20
_MARKS: Final = (b'"sessionId"', b'"parentUuid"', b'"leafUuid"', b'"isSidechain"')


def _recognizes(source: Source) -> bool:
    """A transcript, or a folder in which every file that could be one is."""
    if not source.is_folder:
        found = source.first_record
        return found is not None and "type" in found[1] and any(mark in found[0] for mark in _MARKS)
    probed = list(islice(_jsonl_below(source), _PROBED_FILES))
    return bool(probed) and all(_is_transcript(file) for file in probed)


def _is_transcript(file: Source) -> bool:
    try:
        return not file.size or _recognizes(file)
    except (RefusedError, OSError):
        return False


def _jsonl_below(source: Source) -> Iterator[Source]:
    for found in files_below(source.path):
        if not isinstance(found, Skipped) and found.suffix == ".jsonl":
            yield Source(found)


def _read(source: Source, target: Target) -> Iterator[Outcome]:
    done = 0

    def progress(more: int) -> None:
        nonlocal done
        done += more
        target.progress(done, work.total_bytes)

    work = TranscriptImport(target.storage, source.path, progress=progress)
    yield from work.run()


CLAUDE_CODE: Final = Importer(
    "claude-code", "transcripts of Claude Code: a file, or ~/.claude/projects", _recognizes, _read
)
