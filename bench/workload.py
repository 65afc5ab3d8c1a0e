"""What is written: the same bytes for every contestant, from seeds."""

from __future__ import annotations

import functools
import math
import random
import string
from typing import TYPE_CHECKING

from eventstore import NewEvent

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXT_BYTES = 2**20
KILOBYTE = 1024


@functools.cache
def _megabyte() -> bytes:
    letters = string.ascii_letters + string.digits + " "
    return "".join(random.Random(0).choices(letters, k=TEXT_BYTES)).encode()


class Text:
    """Printable text of any length that does not repeat soon: slices of one megabyte at random places."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._text = _megabyte()

    def take(self, size: int) -> bytes:
        """The next *size* bytes."""
        start = self._random.randrange(TEXT_BYTES - size)
        return self._text[start : start + size]

    def between(self, low: int, high: int) -> int:
        """A length: small ones are as likely as large ones are, decade by decade."""
        return round(low * math.pow(high / low, self._random.random()))


def kilobytes(seed: int, count: int) -> list[bytes]:
    """*count* pieces of data of 1 KB."""
    text = Text(seed)
    return [text.take(KILOBYTE) for _ in range(count)]


def message(data: bytes) -> NewEvent:
    """The event that carries *data*."""
    return NewEvent("message_appended", data)


def mixed_events(seed: int) -> Iterator[NewEvent]:
    """The mix of an agent's session, without end: 200 B user text, 1.5 KB assistant text, 3-30 KB tool results, 300 B
    usage; 3.4 KB per event on average.
    """
    text = Text(seed)
    while True:
        yield NewEvent("message_appended", text.take(200))
        yield NewEvent("message_appended", text.take(1500))
        yield NewEvent("tool_returned", text.take(text.between(3_000, 30_000)))
        yield NewEvent("usage_recorded", text.take(300))


def turn(text: Text) -> list[list[NewEvent]]:
    """The commits of one turn of a chat: the ask of 250 B, the request (what is new in it), and the answer of 900 B
    with its response and usage. 1,750 B in 5 events.
    """
    return [
        [NewEvent("message_appended", text.take(250))],
        [NewEvent("request_sent", text.take(150))],
        [
            NewEvent("message_appended", text.take(900)),
            NewEvent("response_received", text.take(150)),
            NewEvent("usage_recorded", text.take(300)),
        ],
    ]
