"""A session as one JSON document: the seed's session file, and what the SQLite and Redis storages hold.

    {"id": ..., "messages": [...], "usage": {...}, "metadata": {...}, "createdAt": ms, "updatedAt": ms, "parentId": ...}

1. Exactly these keys; `parentId` is left out where there is none. What else a `SessionState` knows is not kept.
2. Each message is spliced in byte for byte and taken out the same way; nothing parses and rewrites it.
3. The document is JSON that any parser takes: a message that is not (and one with blanks around it, which would not
   come back) stands in it as `{"type": "unreadable", "base64": ...}`, and comes back as the bytes it was.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final

from session import jsontext, metadata
from session.errors import InvalidStateError, SessionFileError, UnreadableJsonError
from session.messages import Message, Messages
from session.saving import check_state
from session.state import SessionState
from session.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Mapping

_BLANK: Final = b" \t\n\r"
_WRAPPED: Final = {"type", "base64"}
_WRAPPED_TYPE: Final = "unreadable"


def to_document(state: SessionState) -> bytes:
    """The document of *state*, from which `from_document` gives it back. Raises `InvalidMetadataError`, and
    `InvalidStateError` for what it could not give back.
    """
    check_state(state)
    members = {
        "id": jsontext.encode(state.id),
        "messages": b"[" + b",".join(map(spliced, state.messages.entries)) + b"]",
        "usage": _encoded("usage", state.usage.to_dict()),
        "metadata": metadata.plain_object(state.metadata),
        "createdAt": _encoded("created_at", state.created_at),
        "updatedAt": _encoded("updated_at", state.updated_at),
    }
    if state.parent_id is not None:
        members["parentId"] = jsontext.encode(state.parent_id)
    return b"{" + b",".join(b'"%b":%b' % (key.encode(), value) for key, value in members.items()) + b"}"


def from_document(document: bytes, session_id: str, source: str) -> SessionState:
    """Inverse of `to_document`, for the session *session_id*.

    Missing usage, metadata and times are empty and 0. Raises `SessionFileError`, which names *source*, if *document* is
    torn, empty, no session, or another session's.
    """
    try:
        return _read(document, session_id)
    except (UnreadableJsonError, ValueError) as error:
        raise SessionFileError(source, str(error)) from error


def kept(state: SessionState) -> SessionState:
    """What a document would keep of *state*, without making one. Shares the messages, copies the metadata. Raises as
    `to_document` does.
    """
    check_state(state)
    _encoded("usage", state.usage.to_dict())
    return SessionState(
        id=state.id,
        messages=Messages(state.messages),
        usage=state.usage,
        metadata=jsontext.parse(metadata.plain_object(state.metadata)),
        created_at=state.created_at,
        updated_at=state.updated_at,
        parent_id=state.parent_id,
    )


def _read(document: bytes, session_id: str) -> SessionState:
    if not document.strip(_BLANK):
        raise ValueError("it is empty")
    members = jsontext.members(document)
    found = jsontext.string(members.get("id", b""))
    if found is None or "messages" not in members:
        raise ValueError("it has no id or no messages")
    if found != session_id:
        raise ValueError(f"it holds the session {found!r}")
    return SessionState(
        id=session_id,
        messages=Messages(Message.of(unspliced(raw)) for raw in jsontext.items(members["messages"])),
        usage=Usage.from_dict(_object(members, "usage")),
        metadata=_object(members, "metadata"),
        created_at=_milliseconds(members, "createdAt"),
        updated_at=_milliseconds(members, "updatedAt"),
        parent_id=_parent_id(members),
    )


def _encoded(field: str, value: object) -> bytes:
    try:
        text = jsontext.encode(value)
    except (TypeError, ValueError) as error:
        raise InvalidStateError(field, str(error)) from error
    if not jsontext.is_plain(text):
        raise InvalidStateError(field, "it is no JSON to every parser")
    return text


def _object(members: Mapping[str, bytes], key: str) -> dict[str, Any]:
    value = jsontext.parse(members.get(key, b"{}"))
    if not isinstance(value, dict):
        raise ValueError(f"{key} is no object")  # noqa: TRY004 - bad data, not a bad call
    return value


def _milliseconds(members: Mapping[str, bytes], key: str) -> int:
    value = jsontext.parse(members.get(key, b"0"))
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise ValueError(f"{key} is no whole number")
    return int(value)


def _parent_id(members: Mapping[str, bytes]) -> str | None:
    raw = members.get("parentId", b"null")
    parent_id = jsontext.string(raw)
    if parent_id is None and raw != b"null":
        raise ValueError("parentId is no string")
    return parent_id


def spliced(message: Message) -> bytes:
    """*message* as JSON that any parser takes: its own bytes, or what stands for them (rule 3)."""
    raw = message.raw
    if raw == raw.strip(_BLANK) and jsontext.is_plain(raw) and not _is_wrapped(raw):
        return raw
    return jsontext.encode({"type": _WRAPPED_TYPE, "base64": base64.b64encode(raw).decode()})


def unspliced(raw: bytes) -> bytes:
    """Inverse of `spliced`."""
    if not _is_wrapped(raw):
        return raw
    try:
        return base64.b64decode(jsontext.parse(raw)["base64"], validate=True)
    except (ValueError, TypeError):
        return raw  # somebody else's message, which only looks like it


def _is_wrapped(raw: bytes) -> bool:
    if b'"base64"' not in raw or _WRAPPED_TYPE.encode() not in raw:
        return False
    value = jsontext.parse_or_show(raw)
    return isinstance(value, dict) and value.keys() == _WRAPPED and value["type"] == _WRAPPED_TYPE
