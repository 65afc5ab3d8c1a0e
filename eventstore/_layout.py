"""Format 1: the bytes of the log. Pure: values in, bytes out, and back.

One keyspace (LMDB's unnamed database), a prefix byte per table. The log's prefix is the last one, so that a new record
is always the greatest key. All integers are big-endian.

| table    | key                                | value                                                              |
|----------|------------------------------------|--------------------------------------------------------------------|
| activity | "a" bucket u64, stream u32         | `bucket = position >> 10`; a row for each bucket a stream was      |
|          |                                    | active in. The newest one counts, older ones are leftovers. If a   |
|          |                                    | fork put it: position u64 of the fork; else nothing                |
| children | "c" parent u32, version u32, child | nothing. The child needs its parent up to this version             |
|          | u32                                |                                                                    |
| erasure  | "e" state u8, stream u32           | what is left of a deleted stream. Newest event of its own: position|
|          |                                    | u64, version u32; or 0 and the version its forks need of its parent|
| facts    | "f" stream u32                     | created position u64, its top bit set if the stream was deleted:   |
|          |                                    | then deleted position u64; name                                    |
| heads    | "h" stream u32                     | head position u64, version u32                                     |
| identity | "i"                                | "refold", format u16, log id 8 bytes                               |
| names    | "n" first 8 bytes of sha256(name)  | stream u32, of each stream whose name hashes to this               |
| snapshot | "s" stream u32, name               | crc u32, revision u32, version u32, digest 32, data                |
| log      | "z" position u64                   | header (120 bytes), type, meta, data                               |

Hashed names spread over their table. In order they would all go in beside the log's first, fat records, and leave a
page behind for every dozen.

Header: crc u32, format u8, kind u8, type length u16, meta length u32, data length u32, stream u32, version u32, index
in the commit u32, size of the commit u32, previous position u64, jump position u64, time_ns i64, commit id 16, salt 16,
digest 32. The crc (crc32, starting from the low 32 bits of the position) covers the header behind it and, except in
events, whose payload the digest covers, the payload. A fork has 52 bytes instead: crc u32, format u8, kind u8, 0 u16,
child u32, parent u32, version u32, previous position u64, time_ns i64, commit id 16.

States of an erasure: 0 owed (more is to go), 1 kept (what is left, forks need), 2 stopped (damage was met).

Kinds of record:
1 event   version, previous and jump pointer as in the lineage; digest as in P7.
2 forked  version: where the child forks; previous: the parent's event there. The child's own events follow, in the same
          commit.
3 deleted stream; version, previous and digest: its head's; data: the reason; meta: the actor.

Invariants (tests and `verify` cite the numbers):
L1  Positions begin at 1 and are never used twice. The last record of the log is never erased (deletions stay), so the
    greatest key says which position is next.
L2  `previous` of an event is the position of the event before it in the lineage (0 at version 1), and smaller than its
    own. Pointers only ever go into the event's own lineage.
L3  `jump` of the event at version v is the position of version `jump_version(v)` (0 for 0): O(log n) to any version.
L4  A living stream has one row each in names, facts, heads, and an activity row for the bucket of its last activity; a
    deleted one keeps names and facts.
L5  A fork has one children row under the stream it was forked from, until it is deleted and nothing needs it. Its
    version is the fork point; of a deleted fork, the version in its erasure row if that is smaller.
L6  Stream numbers are never used twice: facts rows stay.
"""

from __future__ import annotations

import struct
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Iterable

FORMAT: Final = 1
MAGIC: Final = b"refold"
LOG_ID_BYTES: Final = 8
BUCKET_SHIFT: Final = 10

ACTIVITY: Final = b"a"
CHILDREN: Final = b"c"
ERASURE: Final = b"e"
FACTS: Final = b"f"
HEADS: Final = b"h"
IDENTITY: Final = b"i"
NAMES: Final = b"n"
SNAPSHOTS: Final = b"s"
LOG: Final = b"z"

EVENT: Final = 1
FORKED: Final = 2
DELETED: Final = 3

OWED: Final = 0
KEPT: Final = 1
STOPPED: Final = 2
ERASURE_STATES: Final = (OWED, KEPT, STOPPED)

_HEADER: Final = struct.Struct(">IBBHIIIIIIQQq16s16s32s")
_HEADER_BODY: Final = struct.Struct(">BBHIIIIIIQQq16s16s32s")  # all but the crc
HEADER_BYTES: Final = _HEADER.size
_U32: Final = struct.Struct(">I")
_U64: Final = struct.Struct(">Q")
_POINTERS: Final = struct.Struct(">QQ")
_HEAD: Final = struct.Struct(">QI")
_ERASURE: Final = struct.Struct(">QI")
_FORK: Final = struct.Struct(">IBBHIIIQq16s")
_FORK_BODY: Final = struct.Struct(">BBHIIIQq16s")  # all but the crc
_DELETED_BIT: Final = 1 << 63
_IDENTITY: Final = struct.Struct(">6sH8s")
_SNAPSHOT: Final = struct.Struct(">III32s")
_STREAM_KEY: Final = struct.Struct(">cI")
_CHILD_KEY: Final = struct.Struct(">cIII")
_ERASURE_KEY: Final = struct.Struct(">cBI")
_ACTIVITY_KEY: Final = struct.Struct(">cQI")
_LOG_KEY: Final = struct.Struct(">cQ")
LOG_KEY_BYTES: Final = _LOG_KEY.size
CHILD_KEY_BYTES: Final = _CHILD_KEY.size
ERASURE_KEY_BYTES: Final = _ERASURE_KEY.size


class DamagedRecord(Exception):  # noqa: N818  (never leaves the package: callers turn it into `CorruptEventError`)
    """These bytes are not what was written. *version* and *position* of the event that was looked for, where known."""

    def __init__(self, reason: str, *, version: int = 0, position: int = 0) -> None:
        super().__init__(reason)
        self.version = version
        self.position = position


class Header(NamedTuple):
    """The fixed part of a log record, checked."""

    kind: int
    type_length: int
    meta_length: int
    data_length: int
    stream: int
    version: int
    commit_index: int
    commit_size: int
    previous: int
    jump: int
    time_ns: int
    commit_id: bytes
    salt: bytes
    digest: bytes


class Facts(NamedTuple):
    """What never changes of a stream, but for its deletion."""

    created: int
    deleted: int
    name: bytes


class Erasure(NamedTuple):
    """What is left of a deleted stream: its newest own event; or position 0, and what its forks need of its parent."""

    position: int
    version: int


class StoredSnapshot(NamedTuple):
    """A snapshot row, checked."""

    revision: int
    version: int
    digest: bytes
    data: bytes


def log_key(position: int) -> bytes:
    """Key of a log record."""
    return _LOG_KEY.pack(LOG, position)


def key_position(key: bytes | memoryview) -> int:
    """Position in a log key."""
    position: int = _U64.unpack_from(key, 1)[0]
    return position


def head_key(stream: int) -> bytes:
    """Key of a heads row."""
    return _STREAM_KEY.pack(HEADS, stream)


def facts_key(stream: int) -> bytes:
    """Key of a facts row."""
    return _STREAM_KEY.pack(FACTS, stream)


def erasure_key(state: int, stream: int) -> bytes:
    """Key of an erasure row."""
    return _ERASURE_KEY.pack(ERASURE, state, stream)


def key_erasure(key: bytes | memoryview) -> tuple[int, int]:
    """State and stream number in the key of an erasure row."""
    _, state, stream = _exactly(_ERASURE_KEY, key)
    return state, stream  # type: ignore[return-value]


def key_stream(key: bytes | memoryview) -> int:
    """Stream number in the key of a heads, facts or snapshot row."""
    stream: int = _U32.unpack_from(key, 1)[0]
    return stream


def child_key(parent: int, version: int, child: int) -> bytes:
    """Key of a children row."""
    return _CHILD_KEY.pack(CHILDREN, parent, version, child)


def children_prefix(parent: int) -> bytes:
    """What the keys of all children of *parent* begin with."""
    return _STREAM_KEY.pack(CHILDREN, parent)


def key_child(key: bytes | memoryview) -> tuple[int, int, int]:
    """Parent, the version that is needed of it, and child in the key of a children row."""
    _, parent, version, child = _exactly(_CHILD_KEY, key)
    return parent, version, child  # type: ignore[return-value]


def activity_key(position: int, stream: int) -> bytes:
    """Key of the activity row of *stream* for the bucket of *position*."""
    return _ACTIVITY_KEY.pack(ACTIVITY, position >> BUCKET_SHIFT, stream)


def key_activity(key: bytes | memoryview) -> tuple[int, int]:
    """Bucket and stream in an activity key."""
    _, bucket, stream = _ACTIVITY_KEY.unpack_from(key)
    return bucket, stream


def name_key(name: bytes) -> bytes:
    """Key of a names row."""
    return NAMES + sha256(name).digest()[:8]


def snapshot_key(stream: int, name: bytes) -> bytes:
    """Key of a snapshot row."""
    return _STREAM_KEY.pack(SNAPSHOTS, stream) + name


def pack_head(position: int, version: int) -> bytes:
    """Value of a heads row."""
    return _HEAD.pack(position, version)


def unpack_head(value: bytes | memoryview) -> tuple[int, int]:
    """Position and version in a heads row."""
    return _exactly(_HEAD, value)  # type: ignore[return-value]


def pack_fork_position(position: int) -> bytes:
    """Value of an activity row that a fork put."""
    return _U64.pack(position)


def unpack_fork_position(value: bytes | memoryview) -> int:
    """Position in an activity row; 0 in one that an event put."""
    return _exactly(_U64, value)[0] if len(value) else 0  # type: ignore[return-value]


def pack_erasure(erasure: Erasure) -> bytes:
    """Value of an erasure row."""
    return _ERASURE.pack(*erasure)


def unpack_erasure(value: bytes | memoryview) -> Erasure:
    """Inverse of `pack_erasure`."""
    return Erasure(*_exactly(_ERASURE, value))  # type: ignore[arg-type]


def pack_numbers(numbers: Iterable[int]) -> bytes:
    """Value of a names row."""
    return b"".join(map(_U32.pack, numbers))


def unpack_numbers(value: bytes | memoryview) -> list[int]:
    """Inverse of `pack_numbers`."""
    if not len(value) or len(value) % _U32.size:
        raise DamagedRecord(f"a names row of {len(value)} bytes")
    return [number for (number,) in _U32.iter_unpack(value)]


def pack_facts(facts: Facts) -> bytes:
    """Value of a facts row."""
    if facts.deleted:
        return _U64.pack(facts.created | _DELETED_BIT) + _U64.pack(facts.deleted) + facts.name
    return _U64.pack(facts.created) + facts.name


def unpack_facts(value: bytes | memoryview) -> Facts:
    """Inverse of `pack_facts`."""
    created = _U64.unpack_from(value)[0] if len(value) > _U64.size else 0
    start = 2 * _U64.size if created & _DELETED_BIT else _U64.size
    if len(value) <= start:
        raise DamagedRecord(f"a facts row of {len(value)} bytes")
    deleted = _U64.unpack_from(value, _U64.size)[0] if created & _DELETED_BIT else 0
    return Facts(created & ~_DELETED_BIT, deleted, bytes(value[start:]))


def pack_identity(log_id: bytes, format_number: int = FORMAT) -> bytes:
    """Value of the identity row."""
    return _IDENTITY.pack(MAGIC, format_number, log_id)


def unpack_identity(value: bytes | memoryview) -> tuple[int, bytes]:
    """Format number and log id. Raises `DamagedRecord` if this is no log of ours."""
    if len(value) < _IDENTITY.size:
        raise DamagedRecord("the identity row is too short")
    magic, format_number, log_id = _IDENTITY.unpack_from(value)
    if magic != MAGIC:
        raise DamagedRecord("the identity row does not begin with 'refold'")
    return format_number, log_id


def pack_snapshot(snapshot: StoredSnapshot) -> bytes:
    """Value of a snapshot row."""
    revision, version, digest, data = snapshot
    body = _SNAPSHOT.pack(0, revision, version, digest)[4:] + data
    return _U32.pack(crc32(body)) + body


def unpack_snapshot(value: bytes | memoryview) -> StoredSnapshot:
    """Inverse of `pack_snapshot`."""
    if len(value) < _SNAPSHOT.size:
        raise DamagedRecord("a snapshot row is too short")
    crc, revision, version, digest = _SNAPSHOT.unpack_from(value)
    if crc != crc32(value[4:]):
        raise DamagedRecord("a snapshot row does not match its checksum")
    return StoredSnapshot(revision, version, digest, bytes(value[_SNAPSHOT.size :]))


def pack_record(position: int, header: Header, type_: bytes, meta: bytes, data: bytes) -> bytes:
    """Value of a log record; the lengths in *header* must be those of the parts."""
    body = _HEADER_BODY.pack(FORMAT, *header)
    crc = crc32(body, position & 0xFFFFFFFF)
    if header[0] != EVENT:
        crc = crc32(type_ + meta + data, crc)
    return b"".join((_U32.pack(crc), body, type_, meta, data))


def pack_fork(position: int, stream: int, parent: int, header: Header) -> bytes:
    """Value of the record of a fork."""
    body = _FORK_BODY.pack(
        FORMAT, FORKED, 0, stream, parent, header.version, header.previous, header.time_ns, header.commit_id
    )
    return _U32.pack(crc32(body, position & 0xFFFFFFFF)) + body


def parent_of(fork: bytes | memoryview) -> int:
    """The parent's number in the record of a fork."""
    parent: int = _U32.unpack_from(fork, 12)[0]
    return parent


def unpack_header(position: int, value: bytes | memoryview) -> Header:
    """The header of the record at *position*; that of a fork has neither salt nor digest.

    Raises `DamagedRecord` if the checksum, a length or the format is off.
    """
    if len(value) == _FORK.size:
        return _unpack_fork(position, value)
    if len(value) < HEADER_BYTES:
        raise DamagedRecord(f"the record has {len(value)} bytes, less than a header")
    crc, format_number, *fields = _HEADER.unpack_from(value)
    header = Header(*fields)
    found = crc32(value[4:HEADER_BYTES], position & 0xFFFFFFFF)
    if header.kind != EVENT:
        found = crc32(value[HEADER_BYTES:], found)
    _check_header(crc == found, format_number, header.kind, (EVENT, DELETED))
    if len(value) != HEADER_BYTES + header.type_length + header.meta_length + header.data_length:
        raise DamagedRecord("the record is not as long as its header says")
    return header


def _unpack_fork(position: int, value: bytes | memoryview) -> Header:
    crc, format_number, kind, _, stream, _, version, previous, time_ns, commit_id = _FORK.unpack(value)
    _check_header(crc == crc32(value[4:], position & 0xFFFFFFFF), format_number, kind, (FORKED,))
    return Header(FORKED, 0, 0, 0, stream, version, 0, 0, previous, 0, time_ns, commit_id, b"", b"")


def _check_header(sound: bool, format_number: int, kind: int, kinds: tuple[int, ...]) -> None:
    if not sound:
        raise DamagedRecord("the header does not match its checksum")
    if format_number != FORMAT or kind not in kinds:
        raise DamagedRecord(f"a record of format {format_number}, kind {kind}")


def unpack_stream(value: bytes | memoryview) -> int:
    """The stream number in the header of any record, unchecked."""
    stream: int = _U32.unpack_from(value, 8 if len(value) == _FORK.size else 16)[0]
    return stream


def unpack_version(value: bytes | memoryview) -> int:
    """The version in the header of an event, unchecked."""
    version: int = _U32.unpack_from(value, 20)[0]
    return version


def unpack_pointers(value: bytes | memoryview) -> tuple[int, int]:
    """Previous and jump pointer in the header of an event, unchecked."""
    previous, jump = _POINTERS.unpack_from(value, 32)
    return previous, jump


unpack_content_fields: Final = struct.Struct(">4xBBHIIII8xQ8xq").unpack_from
"""Some fields of an event's header, unchecked: format number, kind, the lengths, stream, version, previous, time."""
unpack_head_fields: Final = _HEAD.unpack
"""As `unpack_head`, for a hot loop: raises `struct.error` for a row of another length."""
unpack_fields: Final = _HEADER.unpack_from
"""The fields of a header, unchecked: crc, format number, and then those of `Header`."""


def payload(header: Header, value: bytes | memoryview) -> tuple[bytes, bytes, bytes]:
    """Type, meta and data of a record, copied out of the map."""
    meta = HEADER_BYTES + header.type_length
    data = meta + header.meta_length
    return bytes(value[HEADER_BYTES:meta]), bytes(value[meta:data]), bytes(value[data:])


def jump_version(version: int) -> int:
    """The version that the jump pointer of *version* leads to (Myers' skew-binary ancestors; 0 is before version 1).

    Greedy decomposition into trees of 2^k - 1 versions: a jump leaves out the last, smallest one.
    """
    rest = version
    tree = 0
    while rest:
        tree = (1 << ((rest + 1).bit_length() - 1)) - 1
        rest -= tree
    return version - tree


def _exactly(form: struct.Struct, value: bytes | memoryview) -> tuple[object, ...]:
    if len(value) != form.size:
        raise DamagedRecord(f"a row of {len(value)} bytes where {form.size} belong")
    return form.unpack(value)
