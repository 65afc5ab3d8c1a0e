"""Metadata as JSON: what a program attaches to a session, encoded and checked here for every storage.

Python parses and writes JSON only as deep as what is left of its stack, so a value near that depth would be read in one
place and could not be written again in another. Beyond `MAX_DEPTH` levels none is taken, and none is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from session import jsontext
from session.errors import InvalidMetadataError

MAX_DEPTH: Final = 128
"""Of arrays and objects inside one another."""


def texts(metadata: Mapping[str, Any]) -> dict[str, bytes]:
    """The exact text of each value. Raises `InvalidMetadataError` for what is no JSON object: no mapping, a key that is
    no string, an object of a program, what nests too deep.
    """
    check_mapping(metadata)
    try:
        return {_key(key): _text(value) for key, value in metadata.items()}
    except (TypeError, ValueError) as error:
        raise InvalidMetadataError(str(error)) from error


def check_mapping(metadata: object) -> None:
    """Raises `InvalidMetadataError` unless *metadata* is a mapping."""
    if not isinstance(metadata, Mapping):
        raise InvalidMetadataError(f"it is a mapping of names to values, not {type(metadata).__name__}")


def value_of(text: bytes) -> Any:  # noqa: ANN401 - any JSON value
    """What *text* says; an `Unreadable`, whose text it stays, where no parser takes it or it nests too deep."""
    return jsontext.Unreadable(text) if jsontext.nests_deeper(text, MAX_DEPTH) else jsontext.parse_or_show(text)


def plain_object(metadata: Mapping[str, Any]) -> bytes:
    """All of it as a JSON object that every parser takes. Raises `InvalidMetadataError` for NaN and infinities, too."""
    found = texts(metadata)
    for key, text in found.items():
        if not jsontext.is_plain(text):
            raise InvalidMetadataError(f"not every parser takes the value of {key!r:.80} (NaN, or too deep)")
    return jsontext.joined_members(found)


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise TypeError(f"a key is a string, not {type(key).__name__}")
    return key


def _text(value: object) -> bytes:
    text = jsontext.encode(value)
    if jsontext.nests_deeper(text, MAX_DEPTH) and not isinstance(value, jsontext.Unreadable):
        raise ValueError(f"a value nests more than {MAX_DEPTH} levels deep")
    return text
