"""A session as a transcript of Claude Code: lines that Claude Code and its SDK read as the same messages.

A fork is written with what it shares with its parent, as Claude Code itself does it. Put the file, named
`<uuid>.jsonl`, into the folder of a project below ~/.claude/projects.
"""

from __future__ import annotations

import datetime as dt
import uuid
from typing import TYPE_CHECKING, Any, Final

from session import jsontext
from session.errors import UnreadableJsonError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from session.messages import Message
    from session.state import SessionState

_NAMESPACE: Final = uuid.UUID("6f1bbd0c-30a6-5b6e-9d0f-8a4d2b4f7c11")
_VERSION: Final = "2.0.0"  # of Claude Code: the first whose lines look like these


def transcript_id(session_id: str) -> str:
    """The uuid that names the transcript of *session_id*: itself, if it is one."""
    try:
        return str(uuid.UUID(session_id)) if len(session_id) == 36 else str(uuid.uuid5(_NAMESPACE, session_id))  # noqa: PLR2004
    except ValueError:
        return str(uuid.uuid5(_NAMESPACE, session_id))


def transcript(state: SessionState) -> Iterator[bytes]:
    """The lines of the transcript of *state*, each with its line end. The same state gives the same lines.

    Raises `UnreadableJsonError` for a message that is no JSON object with a role and a content: Claude Code would pass
    over such a line in silence.
    """
    name = transcript_id(state.id)
    where: dict[str, Any] = state.metadata.get("claude_code") or {}
    parent: str | None = None
    for number, message in enumerate(state.messages.entries):
        own = str(uuid.uuid5(_NAMESPACE, f"{name}/{number}"))
        head = {
            "parentUuid": parent,
            "isSidechain": False,
            "userType": "external",
            "cwd": str(where.get("cwd") or "/"),
            "sessionId": name,
            "version": str(where.get("version") or _VERSION),
            "gitBranch": str(where.get("git_branch") or ""),
            "type": message.role,
            "uuid": own,
            "timestamp": _time(state, number),
        }
        yield jsontext.encode(head)[:-1] + b',"message":' + _message(message, own, state.prompt.model) + b"}\n"
        parent = own
    title = state.metadata.get("title")
    if isinstance(title, str) and title:
        yield jsontext.encode({"type": "custom-title", "customTitle": title, "sessionId": name}) + b"\n"


def _message(message: Message, own: str, model: str) -> bytes:
    """The bytes of the message, and for one of the assistant, what Claude Code wants of a response."""
    members = jsontext.members(message.raw)
    if "content" not in members or message.role not in {"user", "assistant"}:
        raise UnreadableJsonError("a message without a role of user or assistant, or without content")
    if b"\n" in message.raw or b"\r" in message.raw:
        members = {key: _one_line(value) for key, value in members.items()}
    said = b'{"role":"' + message.role.encode() + b'","content":' + members["content"]
    if message.role == "assistant":
        about = {"id": f"msg_{own.replace('-', '')[:24]}", "type": "message", "model": model or "unknown"}
        ended = {"stop_reason": message.stop_reason, "stop_sequence": None, "usage": _NO_USAGE}
        said += b"," + jsontext.encode({**about, **ended})[1:-1]
    return said + b"}"


_NO_USAGE: Final = {"input_tokens": 0, "output_tokens": 0}


def _one_line(value: bytes) -> bytes:
    """Line ends between JSON tokens are only blanks; inside strings they cannot stand."""
    return value.replace(b"\r", b" ").replace(b"\n", b" ")


def _time(state: SessionState, number: int) -> str:
    """A time for each line, in order: the format knows one, and readers sort by it."""
    moment = dt.datetime.fromtimestamp((state.created_at + number) / 1_000, dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
