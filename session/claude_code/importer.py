"""The import of transcripts as one of the formats of `refold import`."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from session.claude_code.importing import TranscriptImport
from session.claude_code.lines import parse_line
from session.claude_code.transcripts import MAX_LINE_BYTES
from session.transfer import Importer, RefusedError, Skipped, Source
from session.transfer.source import files_below, lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from session.transfer import Outcome, Target

_PROBED_FILES: Final = 20
_PROBED_LINES: Final = 50  # the first ones can be snapshots of files, which say nothing of Claude Code


def _recognizes(source: Source) -> bool:
    """A transcript, or a folder with one among the first files that could be."""
    if source.is_folder:
        return any(_is_transcript(file) for file in islice(_jsonl_below(source), _PROBED_FILES))
    with source.open() as file:
        found = (parse_line(line.text or b"") for line in islice(lines(file, MAX_LINE_BYTES), _PROBED_LINES))
        return any(line.type and (line.session_id or line.parent or line.leaf) for line in found if line is not None)


def _is_transcript(file: Source) -> bool:
    try:
        return _recognizes(file)
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
