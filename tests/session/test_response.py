r"""What comes in a stream, however it is cut into events, is put together byte for byte.

The streams are written by hand from exact pieces: `1.10`, big integers, `\ud83d` alone, members that nobody knows.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session import jsontext
from session.errors import UnreadableJsonError
from session.response import INVALID_JSON, Assembly, Delta, FinishedBlock, is_strict, read_plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

START = (
    b'{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-x",'
    b'"content":[],"stop_reason":null,"stop_sequence":null,"new":1.10,'
    b'"usage":{"input_tokens":25,"cache_read_input_tokens":7,"output_tokens":1,"odd":12345678901234567890123}}}'
)
DELTA = (
    b'{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},'
    b'"usage":{"input_tokens":null,"cache_read_input_tokens":9,"output_tokens":15}}'
)
STOP = b'{"type":"message_stop"}'
TEXT = b'{"type":"text","text":""}'


def begin(index: int, block: bytes) -> bytes:
    return b'{"type":"content_block_start","index":%d,"content_block":%b}' % (index, block)


def delta(index: int, kind: str, name: str, value: bytes) -> bytes:
    return b'{"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":%b}}' % (
        index,
        kind.encode(),
        name.encode(),
        value,
    )


def end(index: int) -> bytes:
    return b'{"type":"content_block_stop","index":%d}' % index


def text_of(index: int, *pieces: bytes) -> list[bytes]:
    return [
        begin(index, TEXT),
        *(delta(index, "text_delta", "text", b'"' + piece + b'"') for piece in pieces),
        end(index),
    ]


def call_of(index: int, *pieces: str, start: bytes = b"{}") -> list[bytes]:
    opening = b'{"type":"tool_use","id":"toolu_1","name":"f","input":' + start + b',"caller":{"type":"direct"}}'
    deltas = (delta(index, "input_json_delta", "partial_json", json.dumps(piece).encode()) for piece in pieces)
    return [begin(index, opening), *deltas, end(index)]


def called_with(text: bytes) -> bytes:
    return b'{"type":"tool_use","id":"toolu_1","name":"f","input":' + text + b',"caller":{"type":"direct"}}'


def fed(events: Iterable[bytes]) -> Assembly:
    assembly = Assembly()
    for event in events:
        assembly.feed(event)
    return assembly


def one(events: Sequence[bytes]) -> bytes:
    """The only block of a stream of *events*."""
    assembly = fed([START, *events, DELTA, STOP])
    assert assembly.complete, assembly
    (block,) = assembly.blocks
    return block.block


# --- exact bytes ------------------------------------------------------------------------------------------------------

atoms = st.sampled_from(
    [b"a", b"\\n", b'\\"', b"\\\\", b"\\u00e9", "é😀".encode(), b"\\ud83d", b"\\ude00", b"\\/", b"0"]
)
pieces = st.lists(st.lists(atoms, max_size=4).map(b"".join), max_size=5)
inputs = st.sampled_from(
    [
        '{"n":1.10,"big":123456789012345678901234567890,"e":1E+5}',
        '{ "b" : [ ] ,"a":null,"a":2}',
        '{"s":"\\ud83d\\ude00é😀\\"\\\\"}',
        '{"deep":' + "[" * 90 + "]" * 90 + "}",
    ]
)
untouched = st.sampled_from(
    [
        b'{"type":"redacted_thinking","data":"ZGF0YQ=="}',
        b'{ "type" : "x_future" , "n":1.10,"big":12345678901234567890,"s":"\\ud83d", "none":null }',
        b'{"type":"web_search_tool_result","tool_use_id":"srvtoolu_1","content":[{"encrypted_content":"abc=="}]}',
        b'{"type":"tool_use","id":"toolu_2","name":"g","input":{}}',
    ]
)


@st.composite
def streamed_blocks(draw: st.DrawFn, index: int) -> tuple[list[bytes], bytes]:
    """The events of a block, cut anywhere, and the bytes it has to become."""
    kind = draw(st.sampled_from(["text", "thinking", "tool_use", "untouched"]))
    match kind:
        case "text":
            parts = draw(pieces)
            return text_of(index, *parts), b'{"type":"text","text":"' + b"".join(parts) + b'"}'
        case "thinking":
            parts = draw(pieces)
            events = [
                begin(index, b'{"type":"thinking","thinking":"","signature":""}'),
                *(delta(index, "thinking_delta", "thinking", b'"' + part + b'"') for part in parts),
                delta(index, "signature_delta", "signature", b'"c2ln\\/"'),
                end(index),
            ]
            return events, b'{"type":"thinking","thinking":"' + b"".join(parts) + b'","signature":"c2ln\\/"}'
        case "tool_use":
            text = draw(inputs)
            places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=5)))
            cut = [text[i:j] for i, j in zip([0, *places], [*places, len(text)], strict=True)]
            return call_of(index, *cut), called_with(text.encode())
        case _:
            block = draw(untouched)
            return [begin(index, block), end(index)], block


@given(st.data())
def test_every_block_is_byte_for_byte_what_its_events_spell(data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 4))
    blocks = [data.draw(streamed_blocks(index)) for index in range(count)]
    ping = b'{"type": "ping"}'
    assembly = fed([START, ping, *(event for events, _ in blocks for event in events), ping, DELTA, STOP])
    assert assembly.complete, assembly
    assert [block.block for block in assembly.blocks] == [expected for _, expected in blocks]
    assert [block.index for block in assembly.blocks] == list(range(count))


@given(st.data())
def test_where_a_stream_is_cut_its_finished_blocks_are_whole_and_it_is_not_complete(data: st.DataObject) -> None:
    blocks = [data.draw(streamed_blocks(index)) for index in range(data.draw(st.integers(0, 3)))]
    events = [START, *(event for parts, _ in blocks for event in parts), DELTA, STOP]
    kept = data.draw(st.integers(0, len(events) - 1))
    assembly = fed(events[:kept])
    assert assembly.cut
    assert not assembly.fault
    finished = [expected for _, expected in blocks][: len(assembly.blocks)]
    assert [block.block for block in assembly.blocks] == finished
    assert not assembly.partial or len(jsontext.items(assembly.partial)) == 1


def test_a_surrogate_pair_whose_halves_came_apart_is_whole_again() -> None:
    assert one(text_of(0, b"\\ud83d", b"\\ude00")) == b'{"type":"text","text":"\\ud83d\\ude00"}'
    events = [
        begin(0, called_with(b"{}")),
        *(_raw_input(0, half) for half in (b'{\\"s\\":\\"\\ud83d', b'\\ude00\\"}')),
        end(0),
    ]
    assert one(events) == called_with('{"s":"😀"}'.encode())


def _raw_input(index: int, escaped: bytes) -> bytes:
    return delta(index, "input_json_delta", "partial_json", b'"' + escaped + b'"')


def test_a_text_goes_on_from_what_its_block_began_with() -> None:
    events = [begin(0, b'{"text":"a\\u00e9","type":"text","x":1.10}'), delta(0, "text_delta", "text", b'"b"'), end(0)]
    assert one(events) == b'{"text":"a\\u00e9b","type":"text","x":1.10}'


@pytest.mark.parametrize("before", [b"", b',"citations":null', b',"citations":[]', b',"citations":[{"n":0}]'])
def test_citations_are_collected_as_they_are(before: bytes) -> None:
    cited = [b'{"cited_text":"x","n":1.10}', b'{"n":2}']
    events = [
        begin(0, b'{"type":"text","text":""' + before + b"}"),
        *(delta(0, "citations_delta", "citation", citation) for citation in cited),
        delta(0, "text_delta", "text", b'"a"'),
        end(0),
    ]
    known = [b'{"n":0}'] if b"n" in before.removeprefix(b',"citations":null').removeprefix(b',"citations":[]') else []
    assert jsontext.items(jsontext.members(one(events))["citations"]) == [*known, *cited]


def test_what_comes_whole_replaces_and_is_not_added() -> None:
    compaction = [
        begin(0, b'{"type":"compaction","content":"long","encrypted_content":null}'),
        b'{"type":"content_block_delta","index":0,"delta":{"type":"compaction_delta","content":"short","encrypted_content":"e"}}',
        end(0),
    ]
    assert one(compaction) == b'{"type":"compaction","content":"short","encrypted_content":"e"}'


def test_a_later_signature_replaces_the_earlier_one() -> None:
    events = [
        begin(0, b'{"type":"thinking","thinking":"","signature":"old"}'),
        delta(0, "signature_delta", "signature", b'"newer"'),
        delta(0, "signature_delta", "signature", b'"newest"'),
        end(0),
    ]
    assert one(events) == b'{"type":"thinking","thinking":"","signature":"newest"}'


def test_a_kind_of_delta_that_nobody_knows_extends_texts_and_replaces_the_rest() -> None:
    events = [
        begin(0, b'{"type":"song","verse":"la"}'),
        delta(0, "verse_delta", "verse", b'"\\u006ca"'),
        delta(0, "tempo_delta", "tempo", b"1.10"),
        delta(0, "tempo_delta", "tempo", b"1.20"),
        end(0),
    ]
    assert one(events) == b'{"type":"song","verse":"la\\u006ca","tempo":1.20}'


def test_blocks_may_grow_at_the_same_time() -> None:
    first, second = text_of(0, b"a"), text_of(1, b"b")
    mixed = [first[0], second[0], second[1], first[1], second[2], first[2]]
    assembly = fed([START, *mixed, DELTA, STOP])
    assert assembly.complete
    assert [(block.index, block.block) for block in assembly.blocks] == [
        (1, b'{"type":"text","text":"b"}'),
        (0, b'{"type":"text","text":"a"}'),
    ]


# --- tool inputs ------------------------------------------------------------------------------------------------------


def test_a_tool_use_says_what_it_asks_for() -> None:
    assembly = Assembly()
    parts = [part for event in [START, *call_of(0, '{"x":', "1.10}")] for part in assembly.feed(event)]
    assert parts == [FinishedBlock(0, called_with(b'{"x":1.10}'), "tool_use", "toolu_1", "f", b'{"x":1.10}')]


@pytest.mark.parametrize("texts", [(), ("",), ("", "")])
def test_a_tool_without_arguments_keeps_the_input_it_began_with(texts: tuple[str, ...]) -> None:
    assert one(call_of(0, *texts)) == called_with(b"{}")
    assert one(call_of(0, *texts, start=b'{"n": 1.10}')) == called_with(b'{"n": 1.10}')


@pytest.mark.parametrize(
    "broken",
    [
        '{"x": 1', "{'x': 1}", '{"x": NaN}', "-Infinity", "{} {}", "1,2", "\ufeff{}", '{"\t":1}',
        '"no object"', "[1.10]", "7", "null",
        '{"half a pair": "\\ud83d"}', '{"beyond a float": 1e400}', '{"digits": ' + "7" * 5_000 + "}",
        '{"deep":' + "[" * 5_000 + "]" * 5_000 + "}",
    ],
)  # fmt: skip
def test_an_input_that_no_request_can_carry_is_kept_as_a_text_that_one_can(broken: str) -> None:
    block = one(call_of(0, broken))
    assert jsontext.parse(block)["input"] == {INVALID_JSON: broken}
    assert is_strict(block)
    if is_strict(broken.encode()):  # then it may also come with the beginning of the block
        assert one(call_of(0, start=broken.encode())) == block
        server = b'{"type":"server_tool_use","id":"srvtoolu_1","name":"f","input":' + broken.encode() + b"}"
        assert jsontext.parse(one([begin(0, server), end(0)]))["input"] == {INVALID_JSON: broken}


def test_half_a_surrogate_pair_among_the_pieces_of_an_input_is_shown_as_an_escape() -> None:
    assert jsontext.parse(one(call_of(0, '{"x": "', "\ud83d", '"}')))["input"] == {INVALID_JSON: '{"x": "\\ud83d"}'}


def test_only_tools_of_the_caller_are_asked_for() -> None:
    server = b'{"type":"server_tool_use","id":"srvtoolu_1","name":"web_search","input":{}}'
    assembly = fed([START, begin(0, server), _raw_input(0, b'{\\"query\\":1.10}'), end(0)])
    assert assembly.blocks == [
        FinishedBlock(0, server.replace(b"{}", b'{"query":1.10}'), "server_tool_use"),
    ]


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_texts_and_thinking_are_shown_as_they_arrive() -> None:
    assembly = Assembly()
    thinking = begin(1, b'{"type":"thinking","thinking":"","signature":""}')
    events = [START, *text_of(0, b"a\\n", b"", b"\\u00e9"), thinking, delta(1, "thinking_delta", "thinking", b'"hm"')]
    shown = [part for event in events for part in assembly.feed(event) if isinstance(part, Delta)]
    assert shown == [Delta("text", "a\n", 0), Delta("text", "é", 0), Delta("thinking", "hm", 1)]


def test_what_is_shown_can_be_printed() -> None:
    assembly = fed([START, begin(0, TEXT)])
    (shown,) = assembly.feed(delta(0, "text_delta", "text", b'"x\\ud83d"'))
    assert isinstance(shown, Delta)
    assert shown.text.encode().decode() == "x\ufffd"


# --- facts ------------------------------------------------------------------------------------------------------------


def test_usage_is_cumulative_and_null_takes_nothing_away() -> None:
    facts = fed([START, DELTA, STOP]).completed()
    assert facts.usage == (
        b'{"input_tokens":25,"cache_read_input_tokens":9,"output_tokens":15,"odd":12345678901234567890123}'
    )


def test_the_facts_around_the_content_are_exact() -> None:
    facts = fed([START, DELTA, STOP]).completed()
    assert (facts.message_id, facts.model, facts.stop_reason) == ("msg_1", "claude-x", "end_turn")
    assert facts.rest == b'{"stop_sequence":null,"new":1.10}'


def test_what_a_message_delta_tells_beside_the_usage_is_kept() -> None:
    more = (
        b'{"type":"message_delta","delta":{"stop_reason":"tool_use","container":{"id":"c","n":1.10}},'
        b'"context_management":{"applied_edits":[]},"usage":{"output_tokens":2}}'
    )
    facts = fed([START, DELTA, more, STOP]).completed()
    assert facts.stop_reason == "tool_use"
    rest = jsontext.members(facts.rest)
    assert rest["container"] == b'{"id":"c","n":1.10}'
    assert rest["context_management"] == b'{"applied_edits":[]}'


def test_the_model_is_the_one_that_took_over() -> None:
    fallback = b'{"type":"fallback","from":{"model":"claude-x"},"to":{"model":"claude-y"}}'
    assert fed([START, begin(0, fallback), end(0), DELTA, STOP]).completed().model == "claude-y"


def test_a_message_without_usage_has_none() -> None:
    start = b'{"type":"message_start","message":{"id":"msg_1","content":[]}}'
    assert fed([start, STOP]).completed().usage == b""


# --- ends -------------------------------------------------------------------------------------------------------------


def test_an_error_event_ends_the_response_and_is_kept_exactly() -> None:
    error = b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"n":1.10}'
    assembly = fed([START, *text_of(0, b"a"), error, *text_of(1, b"b"), DELTA, STOP])
    assert assembly.error == error
    assert assembly.cut
    assert [block.index for block in assembly.blocks] == [0]


def test_a_partial_block_shows_how_far_it_came() -> None:
    assembly = fed([START, *text_of(0, b"done"), *text_of(1, b"hal\\u0066")[:-1], *call_of(2, '{"x":')[:-1]])
    text, call = jsontext.items(assembly.partial)
    assert text == b'{"type":"text","text":"hal\\u0066"}'
    assert jsontext.parse(call)["input"] == {INVALID_JSON: '{"x":'}
    assert fed([START, *text_of(0, b"done")]).partial == b""


@pytest.mark.parametrize(
    "wrong",
    [
        b"no json",
        b"\xff",
        b"[]",
        b"{}",
        b'{"type":"content_block_start","index":0}',
        b'{"type":"content_block_start","index":"0","content_block":{}}',
        b'{"type":"content_block_start","index":' + b"9" * 5_000 + b',"content_block":{}}',
        b'{"type":"content_block_start","index":0,"content_block":[]}',
        b'{"type":"content_block_delta","index":7,"delta":{"type":"text_delta","text":"x"}}',
        b'{"type":"content_block_delta","index":7}',
        b'{"type":"content_block_stop","index":7}',
        b'{"type":"message_start"}',
        b'{"type":"message_delta","usage":{}}',
    ],
)
def test_what_is_no_event_of_a_response_is_a_fault_and_the_response_is_cut(wrong: bytes) -> None:
    assembly = fed([START, wrong, DELTA, STOP])
    assert assembly.fault
    assert assembly.cut


@pytest.mark.parametrize("broken", [[*text_of(0, b"a")[:-1]], [*text_of(0, b"a"), *text_of(0, b"b")]])
def test_a_message_stop_among_open_or_repeated_blocks_completes_nothing(broken: list[bytes]) -> None:
    assert fed([START, *broken, DELTA, STOP]).cut


def test_a_message_stop_without_a_message_completes_nothing() -> None:
    assert fed([STOP]).cut


def test_events_that_nobody_knows_are_passed_over() -> None:
    assert fed([START, b'{"type":"x_future","index":{}}', *text_of(0, b"a"), DELTA, STOP]).complete


def test_nothing_is_added_behind_the_end() -> None:
    assembly = fed([START, *text_of(0, b"a"), DELTA, STOP])
    assert assembly.feed(begin(1, TEXT)) == []
    assert assembly.complete


@given(st.lists(st.binary(max_size=40) | st.sampled_from([START, DELTA, STOP, *text_of(0, b"a"), *call_of(1, "{")])))
def test_no_stream_raises(events: list[bytes]) -> None:
    assembly = fed(events)
    assembly.completed()
    assert isinstance(assembly.partial, bytes)
    assert repr(assembly).startswith("<Assembly")


# --- whole responses --------------------------------------------------------------------------------------------------


def test_a_whole_response_keeps_the_span_of_its_content() -> None:
    content = (
        b'[ {"type":"text","text":"\\ud83d"} , {"type":"tool_use","id":"toolu_1","name":"f","input":{"x": 1.10}} ]'
    )
    body = (
        b'{"id":"msg_1", "model":"m","content": '
        + content
        + b' ,"stop_reason":"tool_use","usage":{"n":1.10},"x":null}\n'
    )
    plain = read_plain(body)
    assert plain.content == content
    assert [(block.kind, block.tool_use_id, block.input) for block in plain.blocks] == [
        ("text", "", b""),
        ("tool_use", "toolu_1", b'{"x": 1.10}'),
    ]
    facts = plain.completed
    assert (facts.message_id, facts.model, facts.stop_reason) == ("msg_1", "m", "tool_use")
    assert (facts.usage, facts.rest) == (b'{"n":1.10}', b'{"x":null}')


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"content":"text"}', b"<html>", b'{"content":['])
def test_a_body_that_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(UnreadableJsonError):
        read_plain(body)
