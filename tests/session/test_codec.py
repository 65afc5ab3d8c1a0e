from __future__ import annotations

import copy
import inspect
import json
import math
import pickle
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session import errors, jsontext
from session.codec import decode_event, decode_meta, encode_event, encode_meta
from session.errors import EventDataError, InvalidMessageError, SessionError, UnreadableJsonError
from session.events import (
    EVENT_CLASSES,
    BlockReceived,
    MessageAppended,
    Meta,
    ResponseReceived,
    ToolReturned,
    ToolStarted,
    UnknownEvent,
    UsageRecorded,
)
from session.messages import Message, Messages, describe
from session.state import SessionState
from session.storage import BlockingEventSessionStorage

if TYPE_CHECKING:
    from pathlib import Path

DEEP = b"[" * 2_000 + b"]" * 2_000

EXACT = {
    "signature": b'{"role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":"Eo8B+/=\\/"}]}',
    "redacted thinking": b'{"role":"assistant","content":[{"type":"redacted_thinking","data":"EmwKAhgBEgy3va3p"}]}',
    "key order": b'{"content":"z","role":"user"}',
    "spaces": b' {"role" : "user",\n\t"content": "x" } ',
    "1.10": b'{"role":"user","content":[{"type":"x","n":1.10,"m":1.1,"e":1E+2}]}',
    "400 digits": b'{"role":"user","content":[{"type":"x","n":' + b"9" * 400 + b"}]}",
    "5,000 digits": b'{"role":"user","content":[{"type":"x","n":' + b"9" * 5_000 + b"}]}",
    "null": b'{"role":"user","content":[{"type":"text","text":"x","citations":null}]}',
    "absent": b'{"role":"user","content":[{"type":"text","text":"x"}]}',
    "repeated key": b'{"role":"user","content":"a","content":"b","content":"b"}',
    "lone surrogate": rb'{"role":"user","content":"\ud83d \udc00"}',
    "escapes": rb'{"role":"user","content":"\u00e9\/\u0000"}',
    "NaN": b'{"role":"user","content":[{"type":"x","n":NaN,"m":-Infinity,"k":1e999}]}',
    "nesting of 2,000": b'{"role":"user","content":[{"type":"x","deep":' + DEEP + b"}]}",
    "unknown block": b'{"role":"assistant","content":[{"type":"hologram_v2","phase":[[]],"id":7}],"extra":{}}',
    "not UTF-8": b'{"role":"user","content":"\xff\xfe"}',
    "no JSON": b"\x00{]",
    "nothing": b"",
}

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**399, max_value=10**400)
    | st.floats()
    | st.text(st.characters(codec="utf-8") | st.sampled_from('\ud800\udfff\\"/\x00é\u2028')),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("raw", EXACT.values(), ids=EXACT)
def test_the_bytes_of_a_message_survive_the_codec_and_the_messages(raw: bytes) -> None:
    event = MessageAppended.of(raw)
    again = decode_event(*encode_event(event))
    assert again == event
    assert isinstance(again, MessageAppended)
    assert again.message.raw == raw
    assert Messages([raw]).raw == [raw]
    assert Messages([raw]).to_json() == b"[" + raw + b"]"


@pytest.mark.parametrize("raw", EXACT.values(), ids=EXACT)
def test_a_message_copied_by_looking_at_it_keeps_its_bytes_if_it_is_unreadable(raw: bytes) -> None:
    looked_at = Messages([raw])[0]
    again = Message.of(looked_at).raw
    if isinstance(looked_at, jsontext.Unreadable):
        assert again == raw
        assert Message.of(copy.deepcopy(looked_at)).raw == raw
        assert Message.of(pickle.loads(pickle.dumps(looked_at))).raw == raw
        assert looked_at["content"][0]["type"] == "unreadable"
    else:
        assert jsontext.canonical(again) == jsontext.canonical(raw)


@given(st.binary())
def test_any_bytes_survive_in_every_field_that_holds_bytes(raw: bytes) -> None:
    for event in (
        BlockReceived("r", 0, raw),
        ResponseReceived("r", content=raw, rest=raw, headers=raw, chunks=raw),
        ToolReturned("t", raw),
        UsageRecorded(raw),
        UnknownEvent("later_invention", raw),
    ):
        assert decode_event(*encode_event(event)) == event


def test_an_event_of_an_unknown_type_round_trips() -> None:
    event = decode_event("message_translated", b"\xc1 not even msgpack")
    assert event == UnknownEvent("message_translated", b"\xc1 not even msgpack")
    assert encode_event(event) == ("message_translated", b"\xc1 not even msgpack")


@pytest.mark.parametrize("event_type", EVENT_CLASSES)
@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x80\x80", b"\x01", b"\x91" * 5_000, b"\x81\xa1"])
def test_foreign_data_under_a_known_type_is_an_error_or_a_default(event_type: str, data: bytes) -> None:
    with pytest.raises(EventDataError) as caught:
        decode_event(event_type, data)
    assert caught.value.event_type == event_type


def test_a_field_that_a_later_version_added_is_no_obstacle() -> None:
    later = b"\x83\xabtool_use_id\xa1t\xa4name\xa1n\xa6mirror\x01"
    assert decode_event("tool_started", later) == ToolStarted("t", "n")


def test_a_lone_surrogate_in_a_name_becomes_an_escape() -> None:
    name, data = encode_event(ToolStarted("t\ud800", "näme"))
    assert decode_event(name, data) == ToolStarted("t\\ud800", "näme")
    assert decode_meta(encode_meta(Meta(actor="\udfff", more={"k": "v"}))) == Meta(actor="\\udfff", more={"k": "v"})


def test_a_cost_beyond_64_bits_is_an_error() -> None:
    with pytest.raises(EventDataError, match="64 bits"):
        encode_event(UsageRecorded(b"{}", cost_picodollars=2**64))


@pytest.mark.parametrize(
    "meta",
    [
        Meta(actor=42),  # type: ignore[arg-type]
        Meta(correlation_id=None),  # type: ignore[arg-type]
        Meta(causation_id=b"s@4"),  # type: ignore[arg-type]
        Meta(more={"n": 1}),  # type: ignore[dict-item]
        Meta(more={1: "n"}),  # type: ignore[dict-item]
        Meta(more=None),  # type: ignore[arg-type]
        {"actor": 7},
        {"actor": "ann"},
        {},
        None,
    ],
)
def test_meta_that_could_not_be_read_again_is_refused_and_the_events_stay_readable(meta: Any, tmp_path: Path) -> None:
    with pytest.raises(EventDataError):
        encode_meta(meta)
    with BlockingEventSessionStorage(tmp_path) as storage:
        storage.save(SessionState.new("sess_a", messages=[{"role": "user", "content": "Hello"}]))
        before = list(storage.events("sess_a"))
        for attempt in (
            lambda: storage.append("sess_a", [ToolStarted("t")], meta=meta),
            lambda: storage.update_metadata("sess_a", title="x", meta=meta),
            lambda: storage.save(SessionState(id="sess_b"), meta=meta),
            lambda: storage.fork("sess_a", meta=meta),
        ):
            with pytest.raises(EventDataError):
                attempt()
        assert list(storage.events("sess_a")) == before
        assert storage.list() == ["sess_a"]


def test_meta_that_says_nothing_takes_no_bytes() -> None:
    assert encode_meta(Meta()) == b""
    assert decode_meta(b"") == Meta()
    meta = Meta(actor="ann", correlation_id="c", causation_id="s@4")
    assert decode_meta(encode_meta(meta)) == meta
    with pytest.raises(EventDataError):
        decode_meta(b"\x93")


@given(json_values)
def test_what_is_encoded_parses_to_the_same_value(value: Any) -> None:
    raw = jsontext.encode(value)
    again = jsontext.parse(raw)
    assert json.dumps(again) == json.dumps(json.loads(json.dumps(value)))  # NaN is not equal to itself


@given(st.text(st.characters(codec="utf-8")))
def test_new_text_is_utf_8_without_escapes(text: str) -> None:
    printable = "".join(c for c in text if c.isprintable())
    assert printable.replace("\\", "\\\\").replace('"', '\\"').encode() in jsontext.encode(printable)


def test_a_lone_surrogate_in_new_text_is_an_escape() -> None:
    assert jsontext.encode({"text": "é \ud800 \U0001f600"}) == '{"text":"é \\ud800 😀"}'.encode()


def test_parsed_numbers_keep_their_kind() -> None:
    assert jsontext.parse(b"9" * 400) == int("9" * 400)
    assert jsontext.parse(b"[1.10,1,1.0]") == [1.1, 1, 1.0]
    assert math.isnan(jsontext.parse(b"NaN"))
    assert jsontext.parse(b'{"a":1,"a":2}') == {"a": 2}


@pytest.mark.parametrize(
    "raw", [b"[" * 200_000 + b"]" * 200_000, b"9" * 5_000, b'"\xff"', b"", b"{", "﻿{}".encode(), "{}".encode("utf-16")]
)
def test_what_no_parser_takes_is_an_error_and_shown_as_unreadable(raw: bytes) -> None:
    with pytest.raises(UnreadableJsonError):
        jsontext.parse(raw)
    shown = jsontext.parse_or_show(raw)
    assert isinstance(shown, jsontext.Unreadable)
    assert jsontext.encode(shown) == raw


@pytest.mark.parametrize("value", [object(), {1, 2}, b"x", {("a",): 1}])
def test_what_is_no_json_cannot_be_encoded(value: object) -> None:
    with pytest.raises(TypeError):
        jsontext.encode(value)


def test_a_string_that_never_ends_is_looked_at_once() -> None:
    """Were it looked at again from each quote in it, this would take minutes."""
    raw = b"[[[" + b'"' + rb"\"" * 200_000
    began = time.process_time()
    assert jsontext.nests_deeper(raw, 2)
    assert not jsontext.nests_deeper(raw, 3)
    assert not jsontext.nests_deeper(raw + b"[" * 10, 3), "those are in the string"
    assert time.process_time() - began < 5


def test_a_value_too_deep_or_within_itself_cannot_be_encoded() -> None:
    loop: list[object] = []
    loop.append(loop)
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (loop, deep):
        with pytest.raises(ValueError, match=r"deep|Circular"):
            jsontext.encode(value)
        with pytest.raises(InvalidMessageError) as caught:
            Messages([{"role": "user", "content": "x"}, {"role": "user", "content": value}])
        assert caught.value.index == 1


@given(json_values)
def test_parts_of_a_text_are_its_exact_spans(value: Any) -> None:
    raw = jsontext.encode(value)
    deep = b"[" * 1_500 + raw + b"]" * 1_500  # past the parsers that recurse
    assert jsontext.items(b" [ %b ,%b , 1.10 ] " % (raw, deep)) == [raw, deep, b"1.10"]
    assert jsontext.members(rb' { "a" : %b, "\ud800":%b,"a" :NaN } ' % (raw, deep)) == {"a": b"NaN", "\ud800": deep}


@given(json_values, st.integers(min_value=0), st.binary(min_size=1, max_size=2))
def test_the_scanner_takes_exactly_what_the_standard_library_takes(value: Any, place: int, noise: bytes) -> None:
    text = jsontext.encode([value, float("nan")])  # NaN: msgspec leaves it to the scanner
    place %= len(text)
    spoiled = text[:place] + noise + text[place + 1 :]
    try:
        expected = json.loads(spoiled.decode())
        expected = len(expected) if isinstance(expected, list) else None
    except ValueError:
        expected = None
    try:
        found: int | None = len(jsontext.items(spoiled))
    except UnreadableJsonError:
        found = None
    assert found == expected


@pytest.mark.parametrize(
    "raw", [b"[]", b" [ ] ", b'"x"', b"{}x", b"{,}", b'{"a":1,}', b'{"a" 1}', b'{"a":[}', b"{1:2}"]
)
def test_members_of_what_is_no_object_is_an_error(raw: bytes) -> None:
    with pytest.raises(UnreadableJsonError):
        jsontext.members(raw)


def test_facts_are_the_same_for_every_depth_and_way_of_reading() -> None:
    def message(value: bytes) -> bytes:
        return b'{"role":"assistant","content":[{"type":"tool_use","id":"t1","input":%b},{"type":"text"}]}' % value

    facts = {(describe(message(value)).role, describe(message(value)).tool_uses) for value in (b"{}", b"NaN", DEEP)}
    assert facts == {("assistant", ("t1",))}


def test_facts_of_ill_typed_messages_are_absent() -> None:
    raw = b'{"role":5,"content":[7,{"type":"tool_use","id":3},{"type":"tool_result","tool_use_id":"a"}]}'
    assert describe(raw) == Message(raw, "", tool_uses=("",), tool_results=("a",))
    assert describe(b"[]") == Message(b"[]", "")


def test_models_of_the_sdk_are_dumped_as_it_dumps_them() -> None:
    types = pytest.importorskip("anthropic.types")
    block = types.TextBlock.construct(type="text", text="hi", later=1.5)
    raw = jsontext.encode({"content": [block]})  # set fields only, so no `"citations":null`
    assert jsontext.parse(raw) == {"content": [{"type": "text", "text": "hi", "later": 1.5}]}


_WORDS = ("one", "two", "three", "four")


def test_every_error_survives_pickling_and_tells_its_facts() -> None:
    assert str(pickle.loads(pickle.dumps(SessionError("fact one")))) == "fact one"
    for kind in (getattr(errors, name) for name in errors.__all__ if name != "SessionError"):
        required = [each for each in inspect.signature(kind).parameters.values() if each.default is each.empty]
        words = [b"fact" if each.annotation == "bytes" else f"fact {word}" for each, word in zip(required, _WORDS)]  # noqa: B905
        error = kind(*words)
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is kind
        assert str(again) == str(error)
        assert isinstance(error, SessionError)
        assert "fact one" in str(error)
    assert str(errors.SessionNotFoundError("s1")) == "Session not found: s1"


def test_the_pure_core_imports_nothing_heavy() -> None:
    script = (
        "import sys, session, session.fold, session.codec, session.places, session.saving, session.summary\n"
        "print(sorted({'anthropic', 'redis', 'sqlite3', 'click', 'lmdb'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    heavy = set(json.loads(ran.stdout.replace("'", '"')))
    assert not heavy - {"lmdb"}
