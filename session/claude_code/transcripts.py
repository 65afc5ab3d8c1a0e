"""The transcripts below a folder, and their lines in batches that are read with care."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

import msgspec

from session.claude_code.lines import TITLES, Line, parse_line, uuid_key
from session.storage.base import is_session_id
from session.transfer.report import RefusedError, Skipped
from session.transfer.source import files_below, open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_LINE_BYTES: Final = 32 * 2**20
"""A longer line is counted and left out. With the batch, it bounds the memory that reading takes."""

BATCH_BYTES: Final = 2**20
_MAX_ID: Final = 100  # leaves room for what names a fork
_PROBED_LINES: Final = 100
_MAX_ABOUT_BYTES: Final = 2**16


class About(msgspec.Struct, rename="camel", frozen=True):
    """What stands beside the transcript of a sub-agent: the tool call that began it, the agent that made the call (""
    is the session itself), and how deep that is.
    """

    tool_use_id: str = ""
    parent_agent_id: str = ""
    spawn_depth: int = 1


_NOTHING: Final = About()
_decode_about: Final = msgspec.json.Decoder(About).decode


class Transcript(NamedTuple):
    """A file of Claude Code, and the session that it becomes. *agent_of*: the session whose sub-agent it tells of."""

    path: Path
    session_id: str
    agent_of: str
    agent: str
    size: int
    modified_ns: int
    about: About = _NOTHING

    @property
    def owner(self) -> str:
        """The session that it belongs to: its own, unless it is of a sub-agent."""
        return self.agent_of or self.session_id

    @property
    def run(self) -> str:
        """The run of a workflow that it is of, if it is the sub-agent of one."""
        folder = self.path.parent
        return folder.name if self.agent and folder.parent.name == "workflows" else ""


class Batch(NamedTuple):
    """Whole lines, from byte *offset* of the file on: *text* as it stands there. A line that was left out is a batch
    with *left_out* bytes and no text. *first_line* counts from 1.
    """

    offset: int
    text: bytes
    first_line: int
    left_out: int = 0

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self.text) or self.left_out


def transcripts_at(path: Path) -> Iterator[Transcript | Skipped]:
    """The transcripts at *path*: sessions before their sub-agents, and these before theirs; then, the ones that were
    written first before others.
    """
    found: list[Transcript] = []
    for file in files_below(path) if path.is_dir() else [path]:
        if isinstance(file, Skipped):
            yield file
        elif file.suffix == ".jsonl" or not path.is_dir():
            try:
                found.append(_transcript(file))
            except (OSError, RefusedError) as error:
                yield Skipped(str(file), "unreadable", detail=str(error))
    yield from sorted(found, key=lambda it: (bool(it.agent), it.about.spawn_depth, it.modified_ns, str(it.path)))


def batches(file: BinaryIO, offset: int, first_line: int) -> Iterator[Batch]:
    """The whole lines of *file* behind byte *offset*, in batches. What follows the last line end is left for later."""
    file.seek(offset)
    held: list[bytes] = []
    size, line = 0, first_line
    while piece := file.readline(MAX_LINE_BYTES + 1):
        too_long = len(piece) > MAX_LINE_BYTES and not piece.endswith(b"\n")
        if not too_long and not piece.endswith(b"\n"):
            break
        if held and (too_long or size + len(piece) > BATCH_BYTES):
            yield Batch(offset, b"".join(held), first_line)
            offset, first_line, held, size = offset + size, line, [], 0
        if too_long:
            skipped = _rest_of_line(file, len(piece))
            if skipped is None:
                return
            yield Batch(offset, b"", first_line, skipped)
            offset, first_line = offset + skipped, line + 1
        else:
            held.append(piece)
            size += len(piece)
        line += 1
    if held:
        yield Batch(offset, b"".join(held), first_line)


def lines_of(text: bytes) -> Iterator[tuple[int, Line | None]]:
    """What each line that is not blank says, with its number from 0; None for what is no JSON object."""
    for number, raw in enumerate(text.split(b"\n")):
        if raw.strip():
            yield number, parse_line(raw)


def first_line(transcript: Transcript) -> Line | None:
    """The first line of its tree. None: there is none near the beginning."""
    return next((line for line in _probed(transcript) if line.uuid), None)


def first_key(transcript: Transcript) -> bytes | None:
    """What identifies the first message, equal in copies of a conversation. None: there is none near the beginning."""
    for line in _probed(transcript):
        if line.said is not None and line.uuid:
            return uuid_key(line.copied_from or line.uuid)
    return None


def is_transcript(text: bytes) -> bool:
    """Whether a line of *text* could be one of Claude Code's."""
    lines = (line for _, line in lines_of(text) if line is not None)
    return any(line.uuid or line.said or line.session_id or line.type in TITLES for line in lines)


def agent_session_id(owner: str, agent: str) -> str:
    """The session that the sub-agent *agent* of the session *owner* becomes."""
    return _session_id(f"{owner}.agent-{agent}")


def is_agent_session_id(session_id: str) -> bool:
    """Whether it could be one that `agent_session_id` gave."""
    return ".agent-" in session_id


def _probed(transcript: Transcript) -> Iterator[Line]:
    with open_regular(transcript.path) as file:
        for _ in range(_PROBED_LINES):
            line = parse_line(file.readline(BATCH_BYTES))
            if line is not None:
                yield line


def _rest_of_line(file: BinaryIO, size: int) -> int | None:
    """The bytes of the line of which *size* were read; None if its end is not there yet."""
    while piece := file.readline(BATCH_BYTES):
        size += len(piece)
        if piece.endswith(b"\n"):
            return size
    return None


def _transcript(path: Path) -> Transcript:
    with open_regular(path) as file:
        status = os.fstat(file.fileno())
        agent = path.stem.removeprefix("agent-") if path.stem.startswith("agent-") else ""
        owner = _owner(path, file) if agent else ""
    return Transcript(
        path=path,
        session_id=agent_session_id(owner, agent) if owner else _session_id(path.stem),
        agent_of=owner,
        agent=agent,
        size=status.st_size,
        modified_ns=status.st_mtime_ns,
        about=_about(path) if agent else _NOTHING,
    )


def _about(path: Path) -> About:
    """What the file beside the transcript of a sub-agent says: nothing, if it is not there or says something else."""
    try:
        with open_regular(path.with_suffix(".meta.json")) as file:
            return _decode_about(file.read(_MAX_ABOUT_BYTES))
    except (OSError, RefusedError, ValueError, RecursionError, msgspec.MsgspecError):
        return _NOTHING


def _owner(path: Path, file: BinaryIO) -> str:
    """The session of a sub-agent: the folder it lies in says it, or in older versions its first line."""
    for folder in path.parents:
        if folder.name == "subagents":
            return _session_id(folder.parent.name)
    line = parse_line(file.readline(BATCH_BYTES))
    return _session_id(line.session_id) if line and line.session_id else ""


def _session_id(name: str) -> str:
    """*name*, or what stands for it where it cannot name a session."""
    if is_session_id(name) and len(name) <= _MAX_ID:
        return name
    return "cc-" + hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
