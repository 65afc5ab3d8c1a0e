"""Metadata as JSON: what a program attaches to a session, encoded and checked here for every storage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from session import jsontext
from session.errors import InvalidMetadataError

if TYPE_CHECKING:
    from collections.abc import Mapping


def texts(metadata: Mapping[str, Any]) -> dict[str, bytes]:
    """The exact text of each value. Raises `InvalidMetadataError` for what is no JSON object: a key that is no string,
    an object of a program, what nests too deep.
    """
    try:
        return {_key(key): jsontext.encode(value) for key, value in metadata.items()}
    except (TypeError, ValueError) as error:
        raise InvalidMetadataError(str(error)) from error


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
