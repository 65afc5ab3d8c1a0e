"""One line of a Claude Code transcript: what the importer must know of it, and the exact bytes of its message.

The format has no published description and moves; what stands here follows the public readers of it. Fields of an
unexpected type count as absent, so that a line is never refused for what the importer does not need.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import Final

import msgspec

from session import jsontext
from session.errors import UnreadableJsonError
from session.transfer.report import RefusedError
from session.transfer.source import check_nesting

TITLES: Final = {"custom-title": "customTitle", "ai-title": "aiTitle", "summary": "summary"}
"""The types of lines that give a title, the strongest first, and the field it stands in."""


class Said(msgspec.Struct, frozen=True):
    """The message of a line. *content* is the exact text of its content, *usage* that of its usage (b"": none)."""

    role: str
    content: bytes
    id: str = ""
    model: str = ""
    stop_reason: str | None = None
    usage: bytes = b""


class Line(msgspec.Struct, frozen=True):
    """What a line says. Texts are "" where the line has none; *said_at* is in Unix milliseconds, 0 where unknown."""

    type: str
    uuid: str = ""
    parent: str = ""
    logical_parent: str = ""
    said: Said | None = None
    sidechain: bool = False
    compacted: bool = False
    said_at: int = 0
    request_id: str = ""
    place: tuple[tuple[str, str], ...] = ()
    title: str = ""
    leaf: str = ""
    copied_from: str = ""
    session_id: str = ""
    spawned: str = ""


class _Message(msgspec.Struct):
    role: str = ""
    content: msgspec.Raw = msgspec.Raw()
    id: str | None = None
    model: str | None = None
    stop_reason: str | None = None
    usage: msgspec.Raw = msgspec.Raw()


class _Origin(msgspec.Struct):
    messageUuid: str = ""  # noqa: N815 - the name in the file


class _Outcome(msgspec.Struct):
    agentId: str = ""  # noqa: N815 - the name in the file
    runId: str = ""  # noqa: N815 - the name in the file


class _Wire(msgspec.Struct, rename="camel"):
    type: str = ""
    uuid: str | None = None
    parent_uuid: str | None = None
    logical_parent_uuid: str | None = None
    is_sidechain: bool | None = None
    is_compact_summary: bool | None = None
    message: _Message | None = None
    timestamp: str | None = None
    request_id: str | None = None
    cwd: str | None = None
    git_branch: str | None = None
    version: str | None = None
    summary: str | None = None
    custom_title: str | None = None
    ai_title: str | None = None
    leaf_uuid: str | None = None
    forked_from: _Origin | None = None
    session_id: str | None = None
    agent_id: str | None = None
    tool_use_result: msgspec.Raw = msgspec.Raw()


_decode: Final = msgspec.json.Decoder(_Wire).decode
_decode_outcome: Final = msgspec.json.Decoder(_Outcome).decode
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_FIELDS: Final = {field.encode_name: field.name for field in msgspec.structs.fields(_Wire)}


def parse_line(raw: bytes) -> Line | None:
    """What the line *raw* says; None if it is no JSON object, or nests too deep."""
    wire: _Wire | None
    raw = raw.removeprefix(_BYTE_ORDER_MARK)
    try:
        wire = _decode(raw)
    except (ValueError, RecursionError, msgspec.MsgspecError):
        wire = None if nests_too_deep(raw) else _in_spans(raw)
    return None if wire is None else _line(wire)


def nests_too_deep(raw: bytes) -> bool:
    """Whether *raw* nests deeper than an import takes: the slow way would go through all of it, each time."""
    try:
        check_nesting(raw)
    except RefusedError:
        return True
    return False


def uuid_key(uuid: str) -> bytes:
    """A short key for *uuid*, which may be any text."""
    try:
        return bytes.fromhex(uuid.replace("-", "")) if len(uuid) == _UUID_LENGTH else _hashed(uuid)
    except ValueError:
        return _hashed(uuid)


_UUID_LENGTH: Final = 36


def _hashed(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=17).digest()  # no uuid has 17 bytes


def _line(wire: _Wire) -> Line:
    return Line(
        type=wire.type,
        uuid=wire.uuid or "",
        parent=wire.parent_uuid or "",
        logical_parent=wire.logical_parent_uuid or "",
        said=_said(wire),
        sidechain=bool(wire.is_sidechain),
        compacted=bool(wire.is_compact_summary),
        said_at=_milliseconds(wire.timestamp),
        request_id=wire.request_id or "",
        place=_where(wire),
        title=(wire.custom_title or wire.ai_title or wire.summary or "") if wire.type in TITLES else "",
        leaf=wire.leaf_uuid or "",
        copied_from=wire.forked_from.messageUuid if wire.forked_from else "",
        session_id=wire.session_id or "",
        spawned=_spawned(wire.tool_use_result) or ("" if wire.is_sidechain else wire.agent_id or ""),
    )


def _said(wire: _Wire) -> Said | None:
    message = wire.message
    if message is None or wire.type not in {"user", "assistant"} or not bytes(message.content):
        return None
    return Said(
        role=wire.type,
        content=bytes(message.content),
        id=message.id or "",
        model=message.model or "",
        stop_reason=message.stop_reason,
        usage=b"" if bytes(message.usage) == b"null" else bytes(message.usage),
    )


def _where(wire: _Wire) -> tuple[tuple[str, str], ...]:
    named = (("cwd", wire.cwd), ("git_branch", wire.git_branch), ("version", wire.version))
    return tuple((name, value) for name, value in named if value)


def _spawned(outcome: msgspec.Raw) -> str:
    """The id of the sub-agent that a tool's outcome tells of, or that of a run of several."""
    raw = bytes(outcome)
    if b'"agentId"' not in raw and b'"runId"' not in raw:
        return ""
    try:
        told = _decode_outcome(outcome)
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return ""
    return told.agentId or told.runId


def _milliseconds(timestamp: str | None) -> int:
    try:
        told = dt.datetime.fromisoformat(timestamp or "")
    except ValueError:
        return 0
    return max(0, round((told if told.tzinfo else told.replace(tzinfo=dt.UTC)).timestamp() * 1_000))


def _in_spans(raw: bytes) -> _Wire | None:
    """The slow way, for what msgspec refuses: odd numbers, lone surrogates, and fields of another type."""
    try:
        members = jsontext.members(raw)
    except UnreadableJsonError:
        return None
    fields = {_FIELDS[key]: value for key, value in members.items() if key in _FIELDS}
    wire = _Wire(type=jsontext.string(fields.pop("type", b"")) or "")
    for name in fields.keys() - _NOT_TEXT:
        setattr(wire, name, jsontext.string(fields[name]))
    wire.is_sidechain = fields.get("is_sidechain") == b"true"
    wire.is_compact_summary = fields.get("is_compact_summary") == b"true"
    wire.message = _message_in_spans(fields.get("message", b""))
    return wire


_NOT_TEXT: Final = {"is_sidechain", "is_compact_summary", "message", "forked_from", "tool_use_result"}


def _message_in_spans(raw: bytes) -> _Message | None:
    try:
        members = jsontext.members(raw)
    except UnreadableJsonError:
        return None
    text = {key: jsontext.string(members.get(key, b"")) for key in ("role", "id", "model", "stop_reason")}
    return _Message(
        role=text["role"] or "",
        content=msgspec.Raw(members.get("content", b"")),
        id=text["id"],
        model=text["model"],
        stop_reason=text["stop_reason"],
        usage=msgspec.Raw(members.get("usage", b"")),
    )
