"""The account of a body: any body, in any pieces, comes back byte for byte and piece for piece."""

from __future__ import annotations

import base64
import itertools
import re
import time
import zlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from session import jsontext
from session.errors import EventDataError
from session.events import ResponseReceived
from session.recording import chunks
from session.recording._deltas import MOST_PADDING, Deltas, deltas_at
from session.recording._server_sent import Splitter
from session.recording.chunks import Chunk, chunks_of, is_derived, pack, source, unpack
from session.response import Assembly
from session.testing import Reply, calls, says, thinks, wire

OF_THE_FIRST_FORMAT = base64.b85decode(
    "0a&Et#XGALW?<kZ0#dj3gtp#Hbxl$0(W1mk^E|VHg3{8ew4&U+qRb4_v?TLEQoEWEh(A+2@n=Y4^=gE-dNrnU^*SJh5G8dv%?c+5aaJXq!9hD)8C"
    "dDmRv=*cz`J4Ky*~ghU{u1_8X>td9KhBVQez8L3Zgf-s2jdyHo6Ab0SruRG|24aIfa3pc3GcH7qL;jARyBrjKmcSq~=aTnlw|<N2Dlerc&6>L2H<p"
    "Vy1O+TB;BO043#+RR"
)
BEGIN = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":7,"delta":{"type":"text_delta","text":"'
)
TEXTS = st.text(max_size=60) | st.sampled_from(["", "\u0000", '"\\/\n', "\ud800", "é" * 50, "a" * 300])
BLOCKS = st.one_of(
    TEXTS.map(says),
    st.builds(thinks, TEXTS, st.just("c2ln")),
    st.builds(calls, st.just("t"), st.dictionaries(TEXTS, TEXTS | st.integers(), max_size=3), st.just("toolu_1")),
    st.builds(
        lambda text: {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"encrypted_content": text}]},
        TEXTS | st.just("opaque " * 200),
    ),
)


def streamed(content: list[Any], delta_chars: int = 5) -> tuple[list[bytes], bytes]:
    """The events of an answer, and what an account of them copies from."""
    usage = wire.usage(1, 2, 3, 4, 5)
    whole = wire.message(Reply(content=content), model="claude-sonnet-5-5", key=b"k", usage=usage)
    events = wire.events(whole, delta_chars=delta_chars)
    return events, source(_assembled(events))


def taken_apart(pieces: list[bytes]) -> list[bytes | Deltas]:
    """The body of *pieces*, its deltas found."""
    body, place = b"".join(pieces), 0
    made_of: list[bytes | Deltas] = []
    while place < len(body):
        if found := deltas_at(body, place):
            made_of.append(found[0])
            place = found[1]
        else:
            end = body.find(b"\n\n", place) + 2
            end = end if end > 1 else len(body)
            made_of.append(body[place:end])
            place = end
    assert b"".join(part if isinstance(part, bytes) else part.body for part in made_of) == body
    return made_of


def _assembled(events: list[bytes]) -> list[bytes]:
    splitter, assembly = Splitter(), Assembly()
    for event in events:
        for sent in splitter.feed(event):
            assembly.feed(sent.data)
    assert assembly.complete
    return [block.block for block in assembly.blocks]


@given(st.lists(BLOCKS, min_size=1, max_size=4), st.integers(1, 9), st.lists(st.integers(1, 200)), st.data())
def test_a_stream_in_any_pieces_comes_back(
    content: list[Any], chars: int, sizes: list[int], data: st.DataObject
) -> None:
    events, copied_from = streamed(content, chars)
    pieces = events if data.draw(st.booleans()) else list(_cut(b"".join(events), sizes))
    times = sorted(data.draw(st.lists(st.integers(0, 10**7), min_size=len(pieces), max_size=len(pieces))))
    assert unpack(pack(pieces, times, taken_apart(pieces), copied_from), copied_from) == list(map(Chunk, times, pieces))


@given(st.lists(st.binary(max_size=300), max_size=5), st.binary(max_size=300))
def test_any_bytes_at_all_come_back(pieces: list[bytes], copied_from: bytes) -> None:
    pieces = [piece for piece in pieces if piece]
    times = range(len(pieces))
    assert unpack(pack(pieces, times, taken_apart(pieces), copied_from), copied_from) == list(map(Chunk, times, pieces))


@pytest.mark.parametrize("content", [b"", b'"content":"content_block_start",', b'"content":[],'])
@pytest.mark.parametrize("filler", [b"x", b"x" * 500])
def test_an_event_that_looks_like_the_first_of_a_block_comes_back(content: bytes, filler: bytes) -> None:
    block = b'{"type":"text","text":"%b"}' % filler
    event = b'data: {"type":"content_block_start",%b"again":"content_block_start","content_block":%b}\n\n' % (
        content,
        block,
    )
    for body in (event, event * 3, event[:-2], event.replace(b"\n", b"\r") * 2, event[6:], event[6:-1] + event):
        for copied_from in (block, block * 3, filler, b""):
            assert unpack(pack([body], [0], taken_apart([body]), copied_from), copied_from) == [Chunk(0, body)]


def _cut(body: bytes, sizes: list[int]) -> Any:
    begin = 0
    for size in itertools.chain(sizes, itertools.repeat(1000)):
        if begin >= len(body):
            return
        yield body[begin : begin + size]
        begin += size


def test_content_is_not_held_twice() -> None:
    words = [f"word{number * 7919 % 10007}" for number in range(2000)]
    content = [says(" ".join(words)), calls("write", {"text": " ".join(reversed(words)), "quote": '"' * 99})]
    events, copied_from = streamed(content, 24)
    made_of = taken_apart(events)
    account = pack(events, range(0, 11 * len(events), 11), made_of, copied_from)
    assert is_derived(account, made_of, copied_from)
    assert len(account) < 6 * len(events), "a few bytes per chunk"
    assert len(account) < 0.3 * len(copied_from)


def test_an_account_of_the_first_format_is_still_read() -> None:
    answer = [says("Some text, said in pieces."), calls("read", {"path": "a.md"}, "toolu_1")]
    events, copied_from = streamed(answer)
    assert unpack(OF_THE_FIRST_FORMAT, copied_from) == [
        Chunk(11 * number, piece) for number, piece in enumerate(events)
    ]


@given(st.lists(st.tuples(TEXTS, st.integers(0, MOST_PADDING)), min_size=1, max_size=9), st.binary(max_size=20))
def test_deltas_are_found_as_they_are(said: list[tuple[str, int]], rest: bytes) -> None:
    texts = [jsontext.encode(text)[1:-1] for text, _ in said]
    deltas = Deltas(BEGIN, texts, [padding for _, padding in said])
    assert deltas_at(b"before" + deltas.body + rest, 6) == (deltas, 6 + len(deltas.body))
    assert jsontext.parse(deltas.together)["delta"]["text"] == jsontext.parse(b'"' + deltas.text + b'"')
    copied_from = b"...." + deltas.text
    account = pack([deltas.body], [3], [deltas], copied_from)
    assert unpack(account, copied_from) == [Chunk(3, deltas.body)]
    assert is_derived(account, [deltas], copied_from)
    assert is_derived(account, [deltas], b"") == (not deltas.text)


@pytest.mark.parametrize(
    ("usual", "other"),
    [
        (b"event: content_block_delta\n", b""),
        (b"\n\n", b"\n"),
        (b'"a"', rb'"\x"'),
        (b'"a"}', b'"a"},"x":1'),
        (b'"a"}', b'"a"}' + b" " * (MOST_PADDING + 1)),
        (b'text_delta","text"', b'signature_delta","signature"'),
    ],
)
def test_an_event_of_another_form_is_left_alone(usual: bytes, other: bytes) -> None:
    event = (
        b"event: content_block_delta\n"
        b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"}}\n\n'
    )
    assert deltas_at(event, 0) is not None
    assert deltas_at(event.replace(usual, other), 0) is None


def test_deltas_of_two_blocks_are_two() -> None:
    events = [
        b"event: content_block_delta\ndata: "
        b'{"type":"content_block_delta","index":%d,"delta":{"type":"text_delta","text":"a"}}\n\n' % index
        for index in (0, 0, 1)
    ]
    first, end = deltas_at(b"".join(events), 0) or pytest.fail("none found")
    assert (first.texts, end) == ([b"a", b"a"], len(events[0]) * 2)


def test_a_plain_body_costs_a_hundred_bytes() -> None:
    usage = wire.usage(1, 2, 3, 4, 5)
    whole = wire.message(Reply(content=[says("x y z " * 500)]), model="claude-sonnet-5-5", key=b"k", usage=usage)
    body = wire.message_json(whole)
    content = jsontext.members(body)["content"]
    account = pack([body], [5], [body], source([content]))
    assert unpack(account, source([content])) == [Chunk(5, body)]
    assert len(account) < 120


def test_a_damaged_account_is_an_error() -> None:
    events, copied_from = streamed([says("Some text.")])
    account = pack([b"".join(events)], [0], taken_apart(events), copied_from)
    received = ResponseReceived("call_1", blocks=1, chunks=account)
    (block,) = _assembled(events)
    assert chunks_of(received, [block]) == [Chunk(0, b"".join(events))]
    assert chunks_of(msgspec.structs.replace(received, chunks=b"")) is None
    for damaged in (b"\x09" + account[1:], account[:-3], account[:1] + b"x" * 40):
        with pytest.raises(EventDataError, match="account of chunks"):
            chunks_of(msgspec.structs.replace(received, chunks=damaged), [block])


@given(
    st.lists(BLOCKS, min_size=1, max_size=2),
    st.sampled_from([1, 2, 3]),
    st.lists(st.tuples(st.integers(0, 2_000), st.binary(max_size=12)), max_size=3),
    st.booleans(),
)
def test_whatever_a_damaged_account_claims_it_is_an_error_or_a_body(
    content: list[Any], format_number: int, damage: list[tuple[int, bytes]], complete: bool
) -> None:
    """Damage that the checksum of the compression does not see: each number may claim anything."""
    events, _ = streamed(content)
    blocks = _assembled(events) if complete else []
    account = pack(events, range(len(events)), taken_apart(events), source(_assembled(events)))
    decompressor = zlib.decompressobj(zdict=chunks._USUAL)
    plain = bytearray(decompressor.decompress(account[1:]))
    for place, put in damage:
        plain[place : place + len(put)] = put
    received = ResponseReceived("call_1", blocks=1, chunks=bytes([format_number]) + chunks._compressed(bytes(plain)))
    try:
        found = chunks_of(received, blocks) or []
    except EventDataError:
        return
    assert sum(len(chunk.data) for chunk in found) < 1_000_000


@pytest.mark.parametrize(
    "claim",
    [
        [0, 1, 1, b"x", 0, 2**40],
        [0, 2**40, len(BEGIN), BEGIN, 0, 0],
        [0, 1, len(BEGIN), BEGIN, 2**40, 0],
        [0, 1, len(BEGIN), BEGIN, 0, 2**40],
        [2**40, 1, len(BEGIN), BEGIN, 1, 1],
        [b"\xff" * 400_000],
    ],
)
def test_a_run_that_claims_too_much_is_refused_at_once(claim: list[int | bytes]) -> None:
    body = b"".join(part if isinstance(part, bytes) else chunks._varint(part) for part in claim)
    account = b"\x03" + chunks._compressed(b"\x01\x00\x00\x01" + body)
    began = time.process_time()
    with pytest.raises(EventDataError, match="account of chunks"):
        chunks_of(ResponseReceived("call_1", blocks=0, chunks=account))
    assert time.process_time() - began < 1


def test_an_account_that_does_not_fit_its_blocks_is_an_error() -> None:
    events, copied_from = streamed([says("Some text.")])
    account = pack(events, range(len(events)), taken_apart(events), copied_from)
    received = ResponseReceived("call_1", blocks=1, chunks=account)
    for blocks in ([], [b'{"type":"text","text":"Some"}']):
        with pytest.raises(EventDataError, match="copies more"):
            chunks_of(received, blocks)
    for pieces in (events[:-1], [*events, b"more"]):
        marks = pack(pieces, range(len(pieces)), taken_apart(events), copied_from)
        with pytest.raises(EventDataError, match=r"all of the body|more than the body"):
            chunks_of(msgspec.structs.replace(received, chunks=marks), _assembled(events))
    with pytest.raises(EventDataError, match="stands behind"):
        chunks_of(msgspec.structs.replace(received, chunks=account + b"more"), _assembled(events))


@given(
    st.lists(
        st.sampled_from(
            [b"event: x", b"data: 1", b"data:2", b"data", b": comment", b"id: 7", b"", b"", b"retry: 1", b"data:  \xc3"]
        ),
        max_size=12,
    ),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.data(),
)
def test_events_are_those_of_the_sdk_wherever_the_stream_is_cut(
    lines: list[bytes], end: bytes, data: st.DataObject
) -> None:
    from anthropic._streaming import SSEDecoder

    body = end.join([*lines, b"", b""])
    sizes = data.draw(st.lists(st.integers(1, 9)))
    splitter = Splitter()
    ours = [(event.name, event.data) for piece in _cut(body, sizes) for event in splitter.feed(piece)]
    if re.search(rb"\xc3", body):
        return  # the SDK's decoder raises for half a character; ours goes on
    theirs = [
        ((event.event or "").encode(), event.data.encode())
        for event in SSEDecoder().iter_bytes(iter([body]))
        if event.data
    ]
    assert ours == theirs
