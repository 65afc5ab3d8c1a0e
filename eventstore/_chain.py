"""The digest chain of P7, as the LMDB engine and `verify` compute it. Pure."""

from __future__ import annotations

import struct
from hashlib import sha256
from typing import Final

_PREFIX: Final = b"refold1"
_NUMBERS: Final = struct.Struct(">Qq")
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


def link(  # noqa: PLR0917  (called once per event on the hot path; the order is that of P7)
    previous: bytes, version: int, time_ns: int, commit_id: bytes, stream: bytes, type_: bytes, meta: bytes, data: bytes
) -> bytes:
    """The digest of an event: *stream* and *type_* length-prefixed, *meta* as its hash, *data* as its commitment."""
    return sha256(
        b"".join((_PREFIX, previous, _NUMBERS.pack(version, time_ns), prefixed(commit_id), stream, type_, meta, data))
    ).digest()
