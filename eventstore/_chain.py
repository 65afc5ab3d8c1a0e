"""The digest chain of P7, as the LMDB engine and `verify` compute it. Pure."""

from __future__ import annotations

import struct
from hashlib import sha256
from typing import Final

_PREFIX: Final = b"refold1"
_PLACE: Final = struct.Struct(">QqI")  # version, time, length of the commit id
_LENGTH: Final = struct.Struct(">I")
_NO_META: Final = sha256(b"").digest()


def commitment(salt: bytes, data: bytes | memoryview) -> bytes:
    """What the chain keeps of *data*: it can be dropped with its salt, and the chain still verifies."""
    hashed = sha256(salt)
    hashed.update(data)  # not `salt + data`: 64 MiB need no copy
    return hashed.digest()


def hash_meta(meta: bytes) -> bytes:
    """sha256 of *meta*."""
    return sha256(meta).digest() if meta else _NO_META


def prefixed(text: bytes) -> bytes:
    """*text* behind its length."""
    return _LENGTH.pack(len(text)) + text


def content(type_: bytes, meta: bytes, committed: bytes) -> bytes:
    """What the chain says of an event besides its place: type, hash of meta, *committed* data."""
    return b"".join((_LENGTH.pack(len(type_)), type_, hash_meta(meta), committed))


def link(previous: bytes, version: int, time_ns: int, commit_id: bytes, stream: bytes, content: bytes) -> bytes:  # noqa: PLR0917
    """The digest of an event, its parts in the order of P7: *stream* with its length, *content* as above."""
    place = _PLACE.pack(version, time_ns, len(commit_id))
    return sha256(b"".join((_PREFIX, previous, place, commit_id, stream, content))).digest()
