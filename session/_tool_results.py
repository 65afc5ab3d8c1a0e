"""What goes into a tool and what comes out of it: inputs as dicts, results as blocks that a request can carry.

1. A block is strict JSON (no NaN), in UTF-8 without lone surrogates, and an error holds nothing but text: the API
   refuses a request with anything else, and a result is part of every later one.
2. Text is cut at `MAX_TEXT_BYTES`, which the text then says; images and documents cannot be cut, and are refused as a
   whole beyond `MAX_BLOCK_BYTES`.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from session import jsontext, sdk
from session._history import NO_WORDS
from session.errors import UnreadableJsonError
from session.response import INVALID_JSON, is_strict

MAX_TEXT_BYTES: Final = 1_000_000
"""Of text in one result. A request holds 32 MB, and each later one carries the result again."""

MAX_BLOCK_BYTES: Final = 24_000_000
"""Of images and documents in one result, which cannot be cut."""

_MAX_ERROR_CHARACTERS: Final = 4_096
_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class Said(msgspec.Struct, frozen=True):
    """What a tool had to say: the exact JSON of a result's content; b"" is none."""

    content: bytes
    is_error: bool = False

    def block(self, tool_use_id: str) -> bytes:
        """The tool_result block."""
        parts = [b'{"type":"tool_result","tool_use_id":', jsontext.encode(tool_use_id)]
        if self.content:
            parts += (b',"content":', self.content)
        parts.append(b',"is_error":true}' if self.is_error else b"}")
        return b"".join(parts)


def input_of(raw: bytes) -> dict[str, Any] | str:
    """The input as a new dict, or what is wrong with it."""
    try:
        given = jsontext.parse(raw)
    except UnreadableJsonError as error:
        return f"The input cannot be read ({error}). Call the tool again with a JSON object."
    if not isinstance(given, dict):
        return f"The input of a tool is a JSON object, and this is none: {raw[:80]!r}. Call the tool again with one."
    if given.keys() == {INVALID_JSON}:
        return "The input is no valid JSON; it may have been cut off. Call the tool again with valid JSON."
    return given


def said(result: object) -> Said:
    """*result* as the content of a tool_result. Raises `TypeError` for what is no JSON."""
    if result is None:
        return Said(b"")
    if isinstance(result, str):
        return _text(result)
    if isinstance(result, bytes | bytearray | memoryview):
        return said_wrong(
            f"The tool returned {len(result):,} bytes of binary data, which is neither text nor content blocks."
        )
    if not isinstance(result, Iterable) or isinstance(result, Mapping) or hasattr(result, "model_dump"):
        return _text(_encoded(result).decode())
    items = [_encoded(item) for item in result]
    if items and all(_type_of(item) for item in items):
        return _blocks(items)
    return _text(_array(items).decode())


def said_by_raising(error: BaseException) -> Said:
    """What went wrong, for the model to act on: the content of the SDK's `ToolError`, else the exception's text."""
    try:
        content = sdk.tool_error_content(error)
        return said_wrong(_shown(error) if content is None else _plain(content))
    except Exception as raised:  # noqa: BLE001 - whatever an exception of somebody else's does when it is looked at
        return said_wrong(f"{type(error).__name__}, which cannot be shown: {type(raised).__name__}")


def _shown(error: BaseException) -> str:
    lines = traceback.format_exception_only(error)
    if error.__cause__ is not None:  # which arguments were wrong, where the SDK says only that they were
        lines += traceback.format_exception_only(error.__cause__)
    return "".join(lines)[:_MAX_ERROR_CHARACTERS]


def said_wrong(text: str) -> Said:
    """*text* as an error. The API takes none that is blank: a command that fails without a word is one."""
    return msgspec.structs.replace(_text(text.strip() or NO_WORDS), is_error=True)


def _plain(content: object) -> str:
    """The texts of *content*; an error can hold nothing else."""
    if isinstance(content, str) or not isinstance(content, Iterable):
        return str(content)
    blocks = [block for block in content if isinstance(block, Mapping)]
    return "\n".join(str(block.get("text") or f"[{block.get('type')} left out]") for block in blocks)


def _blocks(blocks: list[bytes]) -> Said:
    """Empty texts are left out, which the API does not take as blocks."""
    texts = [_text_of(block) for block in blocks]
    others = [block for block, text in zip(blocks, texts, strict=True) if text is None]
    size = sum(map(len, others))
    if size > MAX_BLOCK_BYTES:
        return said_wrong(f"The tool returned {size:,} bytes of images and such; a result holds {MAX_BLOCK_BYTES:,}.")
    cut, was_cut = _cut("\n".join(text for text in texts if text))
    if was_cut:  # not as an error where that would lose the other blocks
        return Said(_array([jsontext.encode({"type": "text", "text": cut}), *others]), is_error=not others)
    return Said(_array([block for block, text in zip(blocks, texts, strict=True) if text != ""]))


def _text(text: str) -> Said:
    shown, was_cut = _cut(_LONE_SURROGATE.sub("\ufffd", text))
    return Said(jsontext.encode(shown), is_error=was_cut)


def _cut(text: str) -> tuple[str, bool]:
    raw = text.encode()
    if len(raw) <= MAX_TEXT_BYTES:
        return text, False
    kept = raw[:MAX_TEXT_BYTES].decode(errors="ignore")
    return f"{kept}\n[Cut off here: the tool returned {len(raw):,} bytes, a result holds {MAX_TEXT_BYTES:,}.]", True


def _encoded(value: object) -> bytes:
    """Compact JSON that a request can carry: no lone surrogates, which the API does not read."""
    try:
        raw = jsontext.encode(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"the tool returned what is no JSON: {error}") from None
    if rb"\ud" in raw:
        raw = jsontext.encode(_well_formed(jsontext.parse(raw)))
    if not is_strict(raw):
        raise TypeError("the tool returned NaN or an infinity, which is no JSON")
    return raw


def _well_formed(value: object) -> object:
    match value:
        case str():
            return _LONE_SURROGATE.sub("\ufffd", value)
        case dict():
            return {_well_formed(key): _well_formed(inner) for key, inner in value.items()}
        case list():
            return [_well_formed(inner) for inner in value]
        case _:
            return value


def _type_of(block: bytes) -> str:
    try:
        return jsontext.string(jsontext.members(block).get("type", b"")) or ""
    except UnreadableJsonError:
        return ""


def _text_of(block: bytes) -> str | None:
    members = jsontext.members(block)
    return jsontext.string(members.get("text", b"")) if _type_of(block) == "text" else None


def _array(items: list[bytes]) -> bytes:
    return b"[" + b",".join(items) + b"]"
