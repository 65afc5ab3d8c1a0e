"""Where two conversations part."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session.compare import ABSENT, Difference, common_prefix, compare, first_difference

values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=True) | st.text("ab/~", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab/~", max_size=2), inner, max_size=3),
    max_leaves=8,
)
messages = st.lists(st.sampled_from([b'{"role":"user"}', b'{"role":"user","content":1}', b"{", b'{ "role":"user"}']))


def at(value: Any, pointer: str) -> Any:
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        inside = value if isinstance(value, dict) else dict(zip(map(str, range(len(value))), value, strict=True))
        value = inside.get(key, ABSENT)
    return value


@given(messages, messages)
def test_the_common_prefix_is_common_and_cannot_be_longer(a: list[bytes], b: list[bytes]) -> None:
    found = compare(a, b)
    common = found.common
    assert a[:common] == b[:common]
    assert len(a) == common or len(b) == common or a[common] != b[common]
    assert (found.difference is None) == (a == b)
    assert found.difference is None or found.difference.index == common
    assert common == common_prefix(b, a)


@given(messages, messages)
def test_the_other_way_round_it_is_the_same_difference_with_the_sides_exchanged(a: list[bytes], b: list[bytes]) -> None:
    one, other = compare(a, b).difference, compare(b, a).difference
    swapped = {"only_a": "only_b", "only_b": "only_a", "changed": "changed", "bytes": "bytes"}
    assert (one is None) == (other is None)
    if one and other and one.pointer == other.pointer:
        assert (swapped[one.kind], one.a, one.b) == (other.kind, other.b, other.a)


@given(values, values)
def test_the_pointer_leads_to_what_stands_there_in_each(a: Any, b: Any) -> None:
    found = first_difference(a, b)
    if found is None:
        assert json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
    else:
        pointer, in_a, in_b = found
        assert json.dumps([None if v is ABSENT else v for v in (at(a, pointer), at(b, pointer))]) == json.dumps(
            [None if v is ABSENT else v for v in (in_a, in_b)]
        )
        assert in_a is ABSENT or in_b is ABSENT or json.dumps(in_a) != json.dumps(in_b) or type(in_a) is not type(in_b)


@given(values)
def test_a_value_does_not_differ_from_itself(value: Any) -> None:
    assert first_difference(value, json.loads(json.dumps(value))) is None


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (b'{"content":"x"}', b'{"content":"y"}', Difference(0, "changed", "/content", '"x"', '"y"')),
        (b'{"a":1,"b":2}', b'{"b":2,"a":1}', Difference(0, "bytes", "", '{"a":1,"b":2}', '{"b":2,"a":1}')),
        (b'{"n":1}', b'{"n":1.0}', Difference(0, "changed", "/n", "1", "1.0")),
        (b'{"n":1}', b'{"n":true}', Difference(0, "changed", "/n", "1", "true")),
        (b'{"x/y":[1,2]}', b'{"x/y":[1]}', Difference(0, "only_a", "/x~1y/1", a="2")),
        (b"{}", b'{"new":null}', Difference(0, "only_b", "/new", b="null")),
    ],
)
def test_differences_are_told_by_kind_and_place(a: bytes, b: bytes, expected: Difference) -> None:
    assert compare([a], [b]).difference == expected


def test_messages_that_no_parser_takes_are_compared_by_their_bytes() -> None:
    deep = b'{"content":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    found = compare([deep], [deep[:-1] + b" }"]).difference
    assert found is not None
    assert found.index == 0
