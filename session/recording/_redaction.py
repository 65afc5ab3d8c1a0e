"""What the `redact` of a program does to what it is going to be stored: texts, values and exact bytes. Pure but for it.

Bytes in which it changes nothing are kept as they are. JSON in which a key stands twice is not: a parser shows only the
last value, so nobody was asked about the others.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from session import jsontext
from session.errors import UnreadableJsonError

if TYPE_CHECKING:
    from collections.abc import Callable


def redacted_text(text: str, redact: Callable[[str], str] | None) -> str:
    """What is stored in place of *text*. Raises `TypeError` if *redact* gives no text."""
    if redact is None:
        return text
    replaced = redact(text)
    if not isinstance(replaced, str):
        raise TypeError(f"redact returned {type(replaced).__name__}, not a str")
    return replaced


def redacted(value: Any, redact: Callable[[str], str]) -> Any:  # noqa: ANN401 - any JSON value
    """*value* with every string in it, keys too, replaced by what *redact* makes of it."""
    if isinstance(value, str):
        return redacted_text(value, redact)
    if isinstance(value, jsontext.Unreadable):
        return redacted(dict(value), redact)
    if isinstance(value, dict):
        return {redacted(key, redact): redacted(item, redact) for key, item in value.items()}
    if isinstance(value, list):
        return [redacted(item, redact) for item in value]
    return value


def redacted_bytes(raw: bytes, redact: Callable[[str], str] | None) -> bytes:
    """JSON *raw* with its strings redacted: the same bytes if that changes nothing. Any other text is redacted as a
    whole.
    """
    if redact is None or not raw:
        return raw
    try:
        value = jsontext.parse(raw)
    except UnreadableJsonError:
        text = raw.decode("utf-8", "backslashreplace")
        replaced = redacted_text(text, redact)
        return raw if replaced == text else replaced.encode("utf-8", "backslashreplace")
    replaced_value = redacted(value, redact)
    return raw if replaced_value == value and not _repeats_a_key(raw) else jsontext.encode(replaced_value)


def _repeats_a_key(raw: bytes) -> bool:
    repeated = False

    def look(pairs: list[tuple[str, Any]]) -> None:
        nonlocal repeated
        repeated = repeated or len(dict(pairs)) < len(pairs)

    json.loads(raw.decode(), object_pairs_hook=look)
    return repeated
