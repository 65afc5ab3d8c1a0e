"""JSON as bytes that other people wrote: read it without changing it, take it apart without parsing it.

Three readers, each for what the one before refuses:

1. msgspec: fast, and refuses lone surrogates, NaN, numbers beyond a float and what nests deeper than the stack;
2. the standard library's json: takes all of these but the last;
3. `members` and `items`: no values, only the spans of a text's parts. They do not recurse, so they take any depth.

What 1 and 2 refuse is *unreadable*: kept, passed on byte for byte, and shown as an `Unreadable`.
"""

from __future__ import annotations

import json
import math
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NoReturn

import msgspec

from session.errors import UnreadableJsonError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_decode = msgspec.json.Decoder().decode
_encode_texts = msgspec.json.Encoder().encode  # for an object of strings, which all write alike
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_REFUSED: Final = (ValueError, RecursionError, msgspec.MsgspecError)

# The whole grammar of RFC 8259, and NaN and the infinities, which Python and JavaScript programs write.
_TOKEN: Final = re.compile(
    rb"[ \t\n\r]*+(?:"
    rb'(?P<string>"(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*+")|'
    rb"(?P<mark>[\[\]{},:])|"
    rb"(?P<plain>-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?|true|false|null|NaN|-?Infinity)"
    rb")"
)
_BRACKET: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|(?P<opening>[\[{])|(?P<closing>[\]}])', re.DOTALL)
_USUAL_KEY: Final = 64  # characters: a longer one is not kept
_SHORT: Final = 32  # bytes: types and kinds, which come again and again
_BLANK: Final = b" \t\n\r"


class Unreadable(dict[str, Any]):
    """Stands where a value would, for bytes that no parser takes. `encode` turns it back into exactly these bytes."""

    def __init__(self, raw: bytes, shown: dict[str, Any] | None = None) -> None:
        super().__init__({"unreadable": raw.decode("utf-8", "backslashreplace")} if shown is None else shown)
        self.raw = raw

    def __reduce__(self) -> tuple[type[Unreadable], tuple[bytes, dict[str, Any]]]:
        return Unreadable, (self.raw, dict(self))


def parse(raw: bytes) -> Any:  # noqa: ANN401 - any JSON value
    """The value of the JSON text *raw*, a new one each time.

    A repeated key keeps its last value; a number beyond the floats becomes an infinity. Raises `UnreadableJsonError`
    for what is no JSON in UTF-8, nests deeper than the stack or has an integer of more digits than Python converts.
    """
    try:
        return _decode(raw)
    except _REFUSED:
        return _parse_slowly(raw)


def parse_or_show(raw: bytes) -> Any:  # noqa: ANN401 - any JSON value
    """`parse`, or an `Unreadable` where it raises."""
    try:
        return _decode(raw)
    except _REFUSED:
        pass
    try:
        return _parse_slowly(raw)
    except UnreadableJsonError:
        return Unreadable(raw)


def encode(value: object) -> bytes:
    r"""*value* as compact JSON in UTF-8; `\uXXXX` escapes only for lone surrogates, which UTF-8 cannot hold.

    Pydantic models inside (the SDK's content blocks) are dumped as the SDK does it: set fields only, by alias. Raises
    `TypeError` for what is no JSON value, and `ValueError` for what contains itself or nests deeper than the stack.
    """
    if type(value) is dict and {*map(type, value), *map(type, value.values())} == {str}:
        try:
            return _encode_texts(value)
        except UnicodeEncodeError:  # a half of a surrogate pair
            pass
    if isinstance(value, Unreadable):
        return value.raw
    try:
        text = _write(value)
    except RecursionError as error:
        raise ValueError("it nests too deep") from error
    # A surrogate can only stand inside a JSON string, where the backslash form is the JSON escape for it.
    return text.encode("utf-8", "backslashreplace")


def is_plain(raw: bytes) -> bool:
    """Whether every parser takes *raw*: by the letter of RFC 8259, which has no NaN, not nested beyond the stack, no
    integer too long to convert.
    """
    try:
        _decode(raw)
    except _REFUSED:
        try:
            json.loads(raw.decode(), parse_constant=_refuse)
        except _REFUSED:
            return False
    return True


def is_sendable(value: object) -> bool:
    """Whether *value* has a text that a request can carry: no NaN, no infinity, no half of a surrogate pair."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            if not part.isascii() and not _is_text(part):
                return False
        elif isinstance(part, dict):
            waiting += part.keys()
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
        elif isinstance(part, float) and not math.isfinite(part):
            return False
    return True


def nests_deeper(raw: bytes, levels: int) -> bool:
    """Whether arrays and objects stand more than *levels* deep inside one another in the JSON text *raw*."""
    if raw.count(b"[") + raw.count(b"{") <= levels:
        return False
    depth = 0
    for found in _BRACKET.finditer(raw):
        if found["opening"]:
            depth += 1
            if depth > levels:
                return True
        elif found["closing"]:
            depth -= 1
    return False


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def canonical(raw: bytes) -> bytes:
    """Equal for texts of equal value: compact, keys sorted. Unreadable text is its own canonical form."""
    try:
        value = parse(raw)
        return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
    except (UnreadableJsonError, RecursionError):
        return raw


def members(raw: bytes) -> dict[str, bytes]:
    """The exact text of each member of the JSON object *raw*, in order; a repeated key keeps its last value.

    Raises `UnreadableJsonError` if *raw* is no JSON object.
    """
    try:
        return {key: bytes(value) for key, value in _decode_members(raw).items()}
    except _REFUSED:
        return {_text(key): value for key, value in _parts(raw, b"{")}


def joined_members(parts: Mapping[str, bytes]) -> bytes:
    """Inverse of `members`: a JSON object of these texts, each byte for byte."""
    return b"{" + b",".join([_key(key) + value for key, value in parts.items()]) + b"}"


def _key(key: str) -> bytes:
    return _usual_key(key) if len(key) <= _USUAL_KEY else encode(key) + b":"


@lru_cache(maxsize=1_024)
def _usual_key(key: str) -> bytes:
    return encode(key) + b":"


def items(raw: bytes) -> list[bytes]:
    """The exact text of each item of the JSON array *raw*. Raises `UnreadableJsonError` if it is none."""
    try:
        return [bytes(value) for value in _decode_items(raw)]
    except _REFUSED:
        return [value for _, value in _parts(raw, b"[")]


def string(raw: bytes) -> str | None:
    """The string that *raw* is; None if it is anything else."""
    return _short_string(raw) if len(raw) <= _SHORT else _string(raw)


@lru_cache(maxsize=1_024)
def _short_string(raw: bytes) -> str | None:
    return _string(raw)


def _string(raw: bytes) -> str | None:
    if not raw.lstrip(_BLANK).startswith(b'"'):
        return None
    try:
        return _text(raw)
    except UnreadableJsonError:
        return None


def _parse_slowly(raw: bytes) -> Any:  # noqa: ANN401 - any JSON value
    try:
        return json.loads(raw.decode())  # decoded here: `loads` would guess UTF-16 and UTF-32 from bytes
    except _REFUSED as error:
        raise UnreadableJsonError(f"{type(error).__name__}: {error}") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _text(raw: bytes) -> str:
    value = parse(raw)
    assert isinstance(value, str)
    return value


def _dump_model(value: object) -> object:
    dump = getattr(value, "model_dump", None)
    if dump is None:
        raise TypeError(f"{type(value).__name__} is no JSON value")
    return dump(mode="json", by_alias=True, exclude_unset=True)


_write: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_dump_model).encode
"""Made once: `json.dumps` makes one for each call with such options."""


def _parts(raw: bytes, opening: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The spans (key, value) of the members of the container *raw*, the key b"" in an array."""
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        raise UnreadableJsonError(f"not UTF-8: {error}") from error
    if raw.lstrip(_BLANK)[:1] != opening:
        raise UnreadableJsonError(f"it does not begin with {opening.decode()}")
    return iter(_scan(raw))


def _scan(raw: bytes) -> list[tuple[bytes, bytes]]:
    """Walk the text once, with a stack of our own, and note where the outermost container's parts begin and end."""
    parts: list[tuple[bytes, bytes]] = []
    stack: list[bytes] = []
    wanted = "value"  # what may come next: value, first (value or end), key, first_key (key or end), colon, rest
    key, key_at_top, begin, place = b"", b"", 0, 0
    while wanted != "done":
        token = _TOKEN.match(raw, place)
        if token is None:
            raise UnreadableJsonError(f"unexpected byte at {place}")
        kind, place = token.lastgroup, token.end()
        text = token[kind] if kind else b""
        if len(stack) == 1 and wanted in {"value", "first"}:
            begin, key_at_top = place - len(text), key
        wanted = _step(kind, text, wanted, stack)
        if wanted == "colon" and kind == "string":
            key = text
        if len(stack) == 1 and wanted == "rest":
            parts.append((key_at_top, raw[begin:place]))
    if raw[place:].strip(_BLANK):
        raise UnreadableJsonError(f"unexpected byte at {place}")
    return parts


def _step(kind: str | None, text: bytes, wanted: str, stack: list[bytes]) -> str:  # noqa: PLR0911 - one return per transition
    """What may come after this token. Raises `UnreadableJsonError` if it may not come here."""
    if wanted in {"value", "first"} and kind != "mark":
        return "rest" if stack else "done"
    if wanted in {"key", "first_key"} and kind == "string":
        return "colon"
    match wanted, text:
        case "value" | "first", b"{":
            stack.append(text)
            return "first_key"
        case "value" | "first", b"[":
            stack.append(text)
            return "first"
        case "colon", b":":
            return "value"
        case "rest", b",":
            return "key" if stack[-1] == b"{" else "value"
        case ("rest" | "first_key", b"}") | ("rest" | "first", b"]") if stack.pop() == (b"{" if text == b"}" else b"["):
            return "rest" if stack else "done"
    raise UnreadableJsonError(f"unexpected {text.decode()!r}")
