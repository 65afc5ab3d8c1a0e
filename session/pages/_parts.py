"""What a message is made of, for a reader: parts, from the exact bytes of its blocks. Pure; never fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from session import jsontext
from session.errors import UnreadableJsonError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_MEDIA: Final = ("image", "document", "container_upload", "file")


class Text(msgspec.Struct, frozen=True):
    """Something said."""

    text: str


class Thinking(msgspec.Struct, frozen=True):
    """Something thought; *redacted*: only the API can read it."""

    text: str
    redacted: bool = False


class Media(msgspec.Struct, frozen=True):
    """An image or a document, which a page names and does not show."""

    label: str


class Other(msgspec.Struct, frozen=True):
    """A block of another *kind*, or bytes that cannot be read (*kind* "unreadable"), as they are."""

    kind: str
    text: str


class Result(msgspec.Struct, frozen=True):
    """What came of the call *call*."""

    call: str
    parts: tuple[Text | Media | Other, ...]
    is_error: bool = False


class Call(msgspec.Struct, frozen=True):
    """A call of a tool. *fields*: name and value of each member of its input, strings as they are, the rest as JSON."""

    call: str
    name: str
    fields: tuple[tuple[str, str], ...]
    result: Result | None = None


Part: TypeAlias = Text | Thinking | Call | Result | Media | Other


def parts_of_message(raw: bytes) -> list[Part]:
    """The parts of the message *raw*."""
    try:
        return parts_of_content(jsontext.members(raw).get("content", b""))
    except UnreadableJsonError:
        return [_unreadable(raw)]


def parts_of_content(raw: bytes) -> list[Part]:
    """The parts of a content: a string, or an array of blocks."""
    text = jsontext.string(raw)
    if text is not None:
        return [Text(text)] if text else []
    try:
        return parts_of_blocks(jsontext.items(raw))
    except UnreadableJsonError:
        return [_unreadable(raw)] if raw else []


def parts_of_blocks(blocks: Iterable[bytes]) -> list[Part]:
    """The parts that the blocks are, results joined to the calls before them."""
    return paired([part_of_block(block) for block in blocks])


def paired(parts: Iterable[Part]) -> list[Part]:
    """*parts*, with each result in the call it belongs to, where that stands before it."""
    found: list[Part] = []
    waiting: dict[str, int] = {}
    for part in parts:
        if isinstance(part, Result) and part.call in waiting:
            place = waiting.pop(part.call)
            call = found[place]
            assert isinstance(call, Call)
            found[place] = msgspec.structs.replace(call, result=part)
            continue
        if isinstance(part, Call) and part.result is None and part.call:
            waiting[part.call] = len(found)
        found.append(part)
    return found


def part_of_block(raw: bytes) -> Part:  # noqa: PLR0911 - one per kind of block
    """The part that the block *raw* is."""
    try:
        members = jsontext.members(raw)
    except UnreadableJsonError:
        return _unreadable(raw)
    kind = _string(members, "type")
    match kind:
        case "text" if "text" in members:
            return Text(_string(members, "text"))
        case "thinking":
            return Thinking(_string(members, "thinking"))
        case "redacted_thinking":
            return Thinking("", redacted=True)
        case _ if kind.endswith("tool_use"):
            return Call(_string(members, "id"), _string(members, "name"), _fields(members.get("input", b"{}")))
        case _ if kind.endswith("tool_result"):
            return _result(members)
        case _ if kind in _MEDIA:
            return Media(_label(kind, members))
    return Other(kind, _shown(raw))


def _result(members: Mapping[str, bytes]) -> Result:
    inner = [_flat(part) for part in parts_of_content(members.get("content", b""))]
    return Result(_string(members, "tool_use_id"), tuple(inner), members.get("is_error", b"").strip() == b"true")


def _flat(part: Part) -> Text | Media | Other:
    match part:
        case Text() | Media() | Other():
            return part
        case Thinking(text):
            return Other("thinking", text)
        case Call(_, name) | Result(name):
            return Other(type(part).__name__.lower(), name)


def _fields(raw: bytes) -> tuple[tuple[str, str], ...]:
    try:
        members = jsontext.members(raw)
    except UnreadableJsonError:
        return (("", _shown(raw)),)
    return tuple((key, _value(value)) for key, value in members.items())


def _value(raw: bytes) -> str:
    text = jsontext.string(raw)
    return _shown(raw) if text is None else text


def _label(kind: str, members: Mapping[str, bytes]) -> str:
    try:
        source = jsontext.members(members.get("source", b"{}"))
    except UnreadableJsonError:
        source = {}
    known = [_string(source, key) for key in ("media_type", "url", "file_id")] + [_string(members, "title")]
    data = source.get("data")
    size = [f"{len(data):,} bytes of data"] if data else []
    return ", ".join([kind, *filter(None, known), *size])


def _string(members: Mapping[str, bytes], key: str) -> str:
    return jsontext.string(members.get(key, b"")) or ""


def _unreadable(raw: bytes) -> Other:
    return Other("unreadable", _shown(raw))


def _shown(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
