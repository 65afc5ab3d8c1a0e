"""In which pieces a body arrived, and when, kept beside the content without holding it twice. Pure.

An account is a byte that names its format, and behind it, compressed with a fixed dictionary:

    number of chunks, then per chunk: milliseconds since the one before, length + 1 (0: up to the end of an event)
    the body, in which each piece that stands in the recorded blocks is COPY, bytes skipped there, bytes copied;
    and events with deltas whose texts follow each other there are RUN, bytes skipped there, number of events,
    length of `Deltas.begin`, that, then per event: length of the text, length of the padding

Formats: 1, of earlier versions, has no RUN; 2 has neither mark, for bodies that hold one of these bytes, as no JSON
does; 3 has both. All numbers are unsigned varints, of at most ten bytes.
"""

from __future__ import annotations

import re
import zlib
from operator import sub
from typing import TYPE_CHECKING, Final

import msgspec

from session import jsontext
from session.errors import EventDataError, UnreadableJsonError
from session.events import ResponseReceived
from session.recording._deltas import MOST_PADDING, Deltas, is_begin

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from session.events import ResponseInterrupted

_WITHOUT_RUNS: Final = b"\x01"
_VERBATIM: Final = b"\x02"
_DERIVED: Final = b"\x03"
_COPY: Final = b"\x00"
_RUN: Final = b"\x01"
_MARKS: Final = {  # that stand in the body, by format
    _WITHOUT_RUNS: re.compile(_COPY),
    _VERBATIM: re.compile(b"(?!)"),
    _DERIVED: re.compile(b"[%b%b]" % (_COPY, _RUN)),
}
_COPY_HERE: Final = b"\x00\x00"  # nothing skipped
_LONG_EVENT: Final = 400  # a block that comes whole in its first event: worth a look at its members
_TO_EVENT_END: Final = b"\x00"
_SEVEN_BITS: Final = 0x7F
_MOST_SHIFT: Final = 63
_SMALL: Final = [bytes([number]) for number in range(_SEVEN_BITS + 1)]  # most numbers are
_SMALL_PLAIN: Final = 16_384  # for which a quarter of a megabyte of tables, taken and given back, is not worth while
_WINDOW: Final = 65_536  # how far apart two pieces of the content may be in the blocks
_EVENT_END: Final = re.compile(rb"\n\n|\r\n\r\n|\r\r")
_FIRST: Final = b'"content_block_start"'
_DELTA: Final = re.compile(rb'("(?:text|thinking|signature|partial_json)"\s*:\s*")((?:[^"\\]++|\\.)++)(?=")')

# Part of the format: what the API's bodies look like. It must never change; another one is another format byte.
_USUAL: Final = (
    b'{"model":"claude-sonnet-opus-haiku-5-","id":"msg_01","type":"message","role":"assistant","content":[],'
    b'"stop_reason":"end_turn","stop_reason":"tool_use","stop_reason":"max_tokens","stop_sequence":null,'
    b'"stop_details":null,"usage":{"input_tokens":12,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,'
    b'"cache_creation":{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0},"output_tokens":1,'
    b'"service_tier":"standard","inference_geo":"not_available"}}\n\n'
    b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},'
    b'"request_id":"req_"}'
    b'event: message_start\ndata: {"type":"message_start","message":{"model":"claude-","id":"msg_01","type":"message",'
    b'"role":"assistant","content":[],"stop_reason":null,"stop_sequence":null,"stop_details":null,'
    b'"usage":{"input_tokens":,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"cache_creation":'
    b'{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0},"output_tokens":1,"service_tier":"standard",'
    b'"inference_geo":"not_available"}}        }\n\nevent: ping\ndata: {"type": "ping"}\n\n'
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":{"type":"thinking",'
    b'"thinking":"","signature":""}       }\n\nevent: content_block_delta\ndata: {"type":"content_block_delta",'
    b'"index":0,"delta":{"type":"thinking_delta","thinking":""}     }\n\nevent: content_block_delta\ndata: '
    b'{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":""}    }\n\n'
    b'event: content_block_start\ndata: {"type":"content_block_start","index":1,"content_block":{"type":"tool_use",'
    b'"id":"toolu_01","name":"","input":{}}   }\n\nevent: content_block_delta\ndata: {"type":"content_block_delta",'
    b'"index":1,"delta":{"type":"input_json_delta","partial_json":""}  }\n\n'
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":{"type":"text",'
    b'"text":""}            }\n\nevent: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"text_delta","text":""}          }\n\nevent: content_block_stop\ndata: '
    b'{"type":"content_block_stop","index":0           }\n\nevent: message_delta\ndata: {"type":"message_delta",'
    b'"delta":{"stop_reason":"end_turn","stop_sequence":null,"stop_details":null},"usage":{"input_tokens":,'
    b'"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":}      }\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"           }\n\n'
)


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """A piece of a body that arrived *at_ms* milliseconds after its attempt was sent."""

    at_ms: int
    data: bytes


def chunks_of(event: ResponseReceived | ResponseInterrupted, blocks: Sequence[bytes] = ()) -> list[Chunk] | None:
    """The exact body of a recorded response, as it arrived; None if it was not kept.

    *blocks* are those of the `block_received` events of the request, by index. Raises `EventDataError` for an account
    that is damaged, or of a format that this version does not know.
    """
    if not event.chunks:
        return None
    try:
        return unpack(event.chunks, source(content_of(event, blocks)))
    except (zlib.error, IndexError, ValueError) as error:
        raise EventDataError(event.type, f"its account of chunks is unreadable: {error}") from error


def content_of(event: ResponseReceived | ResponseInterrupted, blocks: Sequence[bytes]) -> list[bytes]:
    """What an account may copy from: the blocks, finished or not; the whole content of a plain response."""
    if isinstance(event, ResponseReceived):
        return [event.content] if event.content is not None else list(blocks)
    return [*blocks, *(jsontext.items(event.partial) if event.partial else [])]


def source(blocks: Iterable[bytes]) -> bytes:
    """The text that an account copies from: each block; of one with an input that, as a string, as it is streamed."""
    return b"".join(_streamed_input(block) or block for block in blocks)


def pack(
    pieces: Sequence[bytes], times_ms: Sequence[int], made_of: Sequence[bytes | Deltas], copied_from: bytes
) -> bytes:
    """The account of *pieces* that arrived at *times_ms*. *made_of* is their body once more, taken apart as far as it
    is known; *copied_from* the `source` of what is recorded beside it.
    """
    body = b"".join(pieces)
    marks = _marks(pieces, times_ms, body)
    if _COPY in body or _RUN in body:
        return _VERBATIM + _compressed(marks + body)
    return _DERIVED + _compressed(b"".join([marks, *_skeleton(made_of, copied_from)]))


def is_derived(packed: bytes, made_of: Sequence[bytes | Deltas], copied_from: bytes) -> bool:
    """Whether nothing of the content stands in *packed* itself: every delta was found in what it copies from."""
    if packed[:1] != _DERIVED:
        return False
    return all(
        part.startswith(_RUN) or all(part.startswith(_COPY, delta.start(2)) for delta in _DELTA.finditer(part))
        for part in _skeleton(made_of, copied_from)
    )


def unpack(packed: bytes, copied_from: bytes) -> list[Chunk]:
    """Inverse of `pack`. Raises `ValueError`, `IndexError` or `zlib.error`."""
    if packed[:1] not in _MARKS:
        raise ValueError(f"format {packed[:1]!r} is not known")
    decompressor = zlib.decompressobj(zdict=_USUAL)
    plain = decompressor.decompress(packed[1:])
    if not decompressor.eof or decompressor.unused_data:
        raise ValueError("it is cut off, or something stands behind it")
    count, place = _number(plain, 0)
    marks: list[tuple[int, int]] = []
    for _ in range(count):
        waited, place = _number(plain, place)
        length, place = _number(plain, place)
        marks.append((waited, length))
    return list(_cut(_rebuilt(plain[place:], copied_from, _MARKS[packed[:1]]), marks))


def _cut(body: bytes, marks: Iterable[tuple[int, int]]) -> Iterator[Chunk]:
    ends = iter(_ends(body))
    at_ms = begin = event_end = 0
    for waited, length in marks:
        while event_end <= begin < len(body):
            event_end = next(ends, len(body) + 1)
        at_ms += waited
        end = begin + length - 1 if length else event_end
        if end > len(body):
            raise ValueError("it tells of more than the body has")
        yield Chunk(at_ms, body[begin:end])
        begin = end
    if begin < len(body):
        raise ValueError("it does not tell of all of the body")


def _marks(pieces: Sequence[bytes], times_ms: Sequence[int], body: bytes) -> bytes:
    waits = list(map(sub, times_ms, [0, *times_ms]))
    if _are_events(pieces, body):
        if max(waits) <= _SEVEN_BITS:
            found = bytearray(2 * len(waits))  # of which every second byte stays `_TO_EVENT_END`
            found[::2] = bytes(waits)
            return _varint(len(pieces)) + found
        return b"".join([_varint(len(pieces)), *[_varint(wait) + _TO_EVENT_END for wait in waits]])
    marks, ends = [_varint(len(pieces))], iter(_ends(body))
    begin = event_end = 0
    for piece, wait in zip(pieces, waits, strict=True):
        end = begin + len(piece)
        while event_end <= begin < len(body):  # the event in whose middle, or before which, the piece begins
            event_end = next(ends, len(body) + 1)
        marks += (_varint(wait), _varint(0 if event_end == end else end - begin + 1))
        begin = end
    return b"".join(marks)


def _are_events(pieces: Sequence[bytes], body: bytes) -> bool:
    """Whether each of *pieces* is one event, as most bodies come. Quick, and not for every body that is so."""
    if not pieces or b"\r" in body:
        return False
    *events, rest = body.split(b"\n\n")
    return not rest and list(map(len, pieces)) == [len(event) + 2 for event in events]


def _ends(body: bytes) -> list[int]:
    """Where each server-sent event of *body* ends."""
    return [match.end() for match in _EVENT_END.finditer(body)]


def _skeleton(made_of: Sequence[bytes | Deltas], copied_from: bytes) -> list[bytes]:
    """A body with copies in place of what stands in *copied_from*, which is gone through once from front to back."""
    if len(made_of) == 1 and isinstance(message := made_of[0], bytes) and message.startswith(b"{"):
        parts = _around_content(message)
        _copy(parts, copied_from, 0)
        return [b"".join(parts)]
    found: list[bytes] = []
    between: list[bytes] = []
    place = 0
    for part in made_of:
        if isinstance(part, bytes):
            between.append(part)
            continue
        text, place = _text(b"".join(between), copied_from, place)
        run, place = _run(part, copied_from, place)
        found += (text, run)
        between.clear()
    text, place = _text(b"".join(between), copied_from, place)
    return [*found, text]


def _run(deltas: Deltas, copied_from: bytes, place: int) -> tuple[bytes, int]:
    text = deltas.text
    at = copied_from.find(text, place, place + len(text) + _WINDOW)
    if at < 0:
        return _text(deltas.body, copied_from, place)
    count = len(deltas.texts)
    lengths = [0] * (2 * count)
    lengths[::2], lengths[1::2] = map(len, deltas.texts), deltas.paddings
    numbers = _varints([at - place, count, len(deltas.begin)])
    return b"".join([_RUN, numbers, deltas.begin, _varints(lengths)]), at + len(text)


def _text(body: bytes, copied_from: bytes, place: int) -> tuple[bytes, int]:
    """*body* with copies, and the place behind what was copied last."""
    found: list[bytes] = []
    done = 0
    for begin, end in _long_blocks(body):
        before, block = _DELTA.split(body[done:begin]), [b"", b"", body[begin:end]]
        place = _copy(before, copied_from, place)
        behind = _copy(block, copied_from, place)
        if behind == place:  # it came in parts, of which this is the first
            block = _DELTA.split(body[begin:end])
            behind = _copy(block, copied_from, place)
        found += [*before, *block]
        place, done = behind, end
    parts = _DELTA.split(body[done:])
    place = _copy(parts, copied_from, place)
    return b"".join([*found, *parts]), place


def _copy(parts: list[bytes], copied_from: bytes, place: int) -> int:
    """Put a copy in place of every third one of *parts* that stands in *copied_from*, at *place* or not far behind it:
    of those that `_DELTA` splits a body into, the texts. The place behind the last copy.
    """
    for index in range(2, len(parts), 3):
        piece = parts[index]
        length = len(piece)
        if copied_from.startswith(piece, place):
            parts[index] = _COPY_HERE + _varint(length)
        elif (found := copied_from.find(piece, place, place + length + _WINDOW)) >= 0:
            parts[index] = b"".join([_COPY, _varint(found - place), _varint(length)])
            place = found
        else:
            continue
        place += length
    return place


def _rebuilt(skeleton: bytes, copied_from: bytes, marks: re.Pattern[bytes]) -> bytes:
    parts: list[bytes] = []
    done = place = 0
    while mark := marks.search(skeleton, done):
        parts.append(skeleton[done : mark.start()])
        skipped, done = _number(skeleton, mark.end())
        place += skipped
        if mark[0] == _COPY:
            length, done = _number(skeleton, done)
            parts.append(_copied(copied_from, place, length))
        else:
            deltas, done = _unpacked_run(skeleton, done, copied_from, place)
            parts.append(deltas.body)
            length = len(deltas.text)
        place += length
    parts.append(skeleton[done:])
    return b"".join(parts)


def _unpacked_run(skeleton: bytes, done: int, copied_from: bytes, place: int) -> tuple[Deltas, int]:
    """The deltas of a run, and where what tells of it ends."""
    count, done = _number(skeleton, done)
    length, done = _number(skeleton, done)
    found = Deltas(skeleton[done : done + length], [], [])
    if not is_begin(found.begin):
        raise ValueError("it has a run of something else than deltas")
    done += length
    for _ in range(count):
        length, done = _number(skeleton, done)
        padding, done = _number(skeleton, done)
        if padding > MOST_PADDING:
            raise ValueError(f"a padding of {padding} spaces")
        found.texts.append(_copied(copied_from, place, length))
        found.paddings.append(padding)
        place += length
    return found, done


def _copied(copied_from: bytes, place: int, length: int) -> bytes:
    if place + length > len(copied_from):
        raise ValueError("it copies more than is recorded")
    return copied_from[place : place + length]


def _around_content(body: bytes) -> list[bytes]:
    """The message *body*, cut for `_copy` before its content and behind."""
    try:
        content = jsontext.members(body).get("content", b"")
    except UnreadableJsonError:
        return [body]
    if not content:
        return [body]
    before, content, behind = body.partition(content)
    return [before, b"", content, behind]


def _long_blocks(body: bytes) -> Iterator[tuple[int, int]]:
    """Where blocks stand in the stream *body* that came whole, or nearly so, in their first event."""
    end = 0
    while (begin := body.find(_FIRST, end)) >= 0:
        end = body.find(b"\n", begin)
        end = end if end >= 0 else len(body)
        if end - begin > _LONG_EVENT:
            yield from _first_block(body, body.rfind(b"\n", 0, begin) + 1, end)


def _first_block(body: bytes, begin: int, end: int) -> Iterator[tuple[int, int]]:
    brace = body.find(b"{", begin, end)
    try:
        block = jsontext.members(body[brace:end]).get("content_block", b"")
    except UnreadableJsonError:
        return
    found = body.find(block, begin, end) if block else -1
    if found >= 0:
        yield found, found + len(block)


def _streamed_input(block: bytes) -> bytes:
    """The input of a tool call as the inside of a JSON string; b"" if it has none."""
    if b'"input"' not in block:
        return b""
    try:
        given = jsontext.members(block).get("input", b"")
    except UnreadableJsonError:
        return b""
    return jsontext.encode(given.decode())[1:-1]


def _compressed(plain: bytes) -> bytes:
    compressor = (_SMALL_COMPRESSOR if len(plain) < _SMALL_PLAIN else _LARGE_COMPRESSOR).copy()
    return compressor.compress(plain) + compressor.flush()


def _compressor(window: int, memory: int) -> zlib._Compress:
    return zlib.compressobj(6, zlib.DEFLATED, window, memory, zlib.Z_DEFAULT_STRATEGY, _USUAL)


_SMALL_COMPRESSOR: Final = _compressor(13, 5)  # they are copied: they have taken the dictionary in
_LARGE_COMPRESSOR: Final = _compressor(zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL)


def _varints(numbers: Sequence[int]) -> bytes:
    return bytes(numbers) if max(numbers) <= _SEVEN_BITS else b"".join(map(_varint, numbers))


def _varint(number: int) -> bytes:
    if 0 <= number <= _SEVEN_BITS:
        return _SMALL[number]
    found = bytearray()
    while number > _SEVEN_BITS:
        found.append(number & _SEVEN_BITS | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def _number(raw: bytes, place: int) -> tuple[int, int]:
    number, shift, place = raw[place], 7, place + 1
    if number <= _SEVEN_BITS:
        return number, place
    number &= _SEVEN_BITS
    while shift <= _MOST_SHIFT:
        byte = raw[place]
        place += 1
        number |= (byte & _SEVEN_BITS) << shift
        if byte <= _SEVEN_BITS:
            return number, place
        shift += 7
    raise ValueError("a number of more than ten bytes")
