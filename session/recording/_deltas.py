r"""Most of a stream: events with deltas that follow each other and differ in their text and padding only. Pure.

    event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"
    Hel
    "}    }\n\n

Only events as the API writes them are looked for; in any other form they are what the rest of a body is.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

_EVENT: Final = rb"event: content_block_delta\ndata: "
_BEGIN: Final = _EVENT + (
    rb'\{"type":"content_block_delta","index":[0-9]{1,9},"delta":'
    rb'\{"type":"(?:text_delta","text|thinking_delta","thinking|input_json_delta","partial_json)":"'
)
_TEXT: Final = rb'(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*+'
MOST_PADDING: Final = 255
_PADDING: Final = rb" {0,%d}+" % MOST_PADDING
_RUN: Final = re.compile(rb'(%b)%b"\}%b\}\n\n(?:\1%b"\}%b\}\n\n)*+' % (_BEGIN, _TEXT, _PADDING, _TEXT, _PADDING))
_BETWEEN: Final = re.compile(rb'"\}(%b)\}\n\n' % _PADDING + _BEGIN)

is_begin: Final = re.compile(_BEGIN).fullmatch
"""Whether these bytes can be `Deltas.begin`."""


class Deltas(msgspec.Struct, frozen=True, gc=False):
    """Events with deltas of one kind for one block. All of each event up to its text is *begin*; the *texts* are the
    insides of JSON strings, the *paddings* numbers of spaces, up to `MOST_PADDING`.
    """

    begin: bytes
    texts: list[bytes]
    paddings: list[int]

    @property
    def text(self) -> bytes:
        """All texts."""
        return b"".join(self.texts)

    @property
    def together(self) -> bytes:
        """The data of one event that says the same."""
        return b'%b%b"}}' % (self.begin.partition(b"data: ")[2], self.text)

    @property
    def body(self) -> bytes:
        """The events as they came."""
        events = [
            b'%b%b"}%b}\n\n' % (self.begin, text, b" " * padding)
            for text, padding in zip(self.texts, self.paddings, strict=True)
        ]
        return b"".join(events)


def deltas_at(body: bytes, place: int) -> tuple[Deltas, int] | None:
    """The deltas of one kind for one block that stand in *body* at *place*, and where they end; None if none do."""
    found = _RUN.match(body, place)
    if found is None:
        return None
    begin = found[1]
    texts = _BETWEEN.split(body[place + len(begin) : found.end()])
    texts[-1], _, end = texts[-1].rpartition(b'"')
    return Deltas(begin, texts[::2], [*map(len, texts[1::2]), len(end) - len("}}\n\n")]), found.end()
