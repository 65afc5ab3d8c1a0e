"""Transcripts of Claude Code: taken in as sessions, and written so that Claude Code's SDK reads them."""

from session.claude_code.exporting import transcript, transcript_id
from session.claude_code.importer import CLAUDE_CODE
from session.claude_code.importing import TranscriptImport
from session.claude_code.transcripts import MAX_LINE_BYTES, Transcript, transcripts_at

__all__ = [
    "CLAUDE_CODE",
    "MAX_LINE_BYTES",
    "Transcript",
    "TranscriptImport",
    "transcript",
    "transcript_id",
    "transcripts_at",
]
