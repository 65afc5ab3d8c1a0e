"""What a process that is about to die has said, line by line, and the events by which its word can be checked.

An acknowledgement is written only after the call it speaks of has returned: what it says must be true in whatever the
death leaves behind. An event's data follows from its meta, so that anybody can tell a whole event from a torn one.
"""

from __future__ import annotations

import os
import random
import struct
from typing import TYPE_CHECKING, TypeAlias, assert_never

import msgspec

from eventstore import NewEvent

if TYPE_CHECKING:
    from collections.abc import Iterable

_META = struct.Struct(">QI")  # seed and size of the data


class Starting(msgspec.Struct, frozen=True, tag="starting"):
    """About to open the log."""


class Opened(msgspec.Struct, frozen=True, tag="opened"):
    """The log is open, and this is its identity."""

    log_id: bytes


class Appended(msgspec.Struct, frozen=True, tag="appended"):
    """An append or a fork returned: *stream* reached *version*, whose digest stands for its whole lineage."""

    stream: str
    version: int
    digest: bytes


class Deleting(msgspec.Struct, frozen=True, tag="deleting"):
    """About to delete *stream*: from now on it may be gone."""

    stream: str


class Deleted(msgspec.Struct, frozen=True, tag="deleted"):
    """A deletion returned."""

    stream: str


class Erased(msgspec.Struct, frozen=True, tag="erased"):
    """`erase` returned."""

    events: int


Acknowledgement: TypeAlias = Starting | Opened | Appended | Deleting | Deleted | Erased

_decoder = msgspec.json.Decoder(Acknowledgement)


def say(acknowledgement: Acknowledgement) -> None:
    """Write one line to standard output, in one piece, also from several threads (it is shorter than PIPE_BUF)."""
    os.write(1, msgspec.json.encode(acknowledgement) + b"\n")


class Word(msgspec.Struct):
    """Everything said so far."""

    log_id: bytes | None = None
    digests: dict[str, dict[int, bytes]] = msgspec.field(default_factory=dict)  # stream, version
    doomed: set[str] = msgspec.field(default_factory=set)  # streams that may be gone
    deleted: set[str] = msgspec.field(default_factory=set)

    def hear(self, lines: Iterable[bytes]) -> None:
        """Take in what was said."""
        for line in lines:
            match _decoder.decode(line):
                case Opened(log_id=log_id):
                    assert self.log_id in {None, log_id}, "a log was replaced"
                    self.log_id = log_id
                case Appended(stream=stream, version=version, digest=digest):
                    self.digests.setdefault(stream, {})[version] = digest
                case Deleting(stream=stream):
                    self.doomed.add(stream)
                case Deleted(stream=stream):
                    self.deleted.add(stream)
                case Starting() | Erased():
                    pass
                case _ as never:
                    assert_never(never)


def event(choices: random.Random, size: int) -> NewEvent:
    """An event that can be told from a torn one."""
    seed = choices.getrandbits(64)
    return NewEvent("crash.event", _data(seed, size), _META.pack(seed, size))


def is_whole(meta: bytes, data: bytes) -> bool:
    """Whether these are the meta and data of an `event`, untouched."""
    return len(meta) == _META.size and data == _data(*_META.unpack(meta))


def _data(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)
