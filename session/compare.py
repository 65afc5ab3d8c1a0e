"""Where two conversations part, and what each said after that. Pure.

1. The common prefix are the messages that are the same, byte for byte; it is as long as it can be.
2. The first difference names a place in the first message that differs: a JSON pointer (RFC 6901), with what stands
   there in each. Where the values are equal and only the bytes are not (the order of keys, blanks, 1.0 for 1.00), it
   says so. Values of other types differ: 1, 1.0, true and "1" are four values.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from session import jsontext

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ABSENT: Final = object()


class Difference(msgspec.Struct, frozen=True):
    """The first difference: in the message with this *index*, at *pointer* ("": the message as a whole).

    *kind*: "changed", "only_a" and "only_b" (the other one has nothing there), "bytes" (equal values). *a* and *b* are
    what stands there, as JSON; "" where nothing does.
    """

    index: int
    kind: Literal["changed", "only_a", "only_b", "bytes"]
    pointer: str = ""
    a: str = ""
    b: str = ""


class Comparison(msgspec.Struct, frozen=True):
    """The first *common* messages are the same; None: so are all."""

    common: int
    difference: Difference | None


def compare(a: Sequence[bytes], b: Sequence[bytes]) -> Comparison:
    """Compare two lists of messages by their exact bytes."""
    common = common_prefix(a, b)
    if common == len(a) == len(b):
        return Comparison(common, None)
    if common == len(b):
        return Comparison(common, Difference(common, "only_a", a=_shown(a[common])))
    if common == len(a):
        return Comparison(common, Difference(common, "only_b", b=_shown(b[common])))
    return Comparison(common, _within(common, a[common], b[common]))


def common_prefix(a: Sequence[bytes], b: Sequence[bytes]) -> int:
    """How many messages at the beginning are the same."""
    for place, (one, other) in enumerate(zip(a, b, strict=False)):
        if one != other:
            return place
    return min(len(a), len(b))


def first_difference(a: object, b: object) -> tuple[str, object, object] | None:
    """The pointer of the first place where two JSON values differ, and what stands there (`ABSENT`: nothing). None if
    they are equal. Members are compared in the order of *a*, those that only *b* has come last.
    """
    waiting: list[tuple[str, object, object]] = [("", a, b)]
    while waiting:  # not recursive: they may nest as deep as JSON
        pointer, one, other = waiting.pop()
        if type(one) is not type(other):
            return pointer, one, other
        if isinstance(one, dict | list):
            waiting += reversed(list(_parts(pointer, one, other)))
        elif not _equal(one, other):
            return pointer, one, other
    return None


def _within(index: int, a: bytes, b: bytes) -> Difference:
    one, other = jsontext.parse_or_show(a), jsontext.parse_or_show(b)
    found = first_difference(one, other)
    if found is None:
        return Difference(index, "bytes", a=_shown(a), b=_shown(b))
    pointer, in_a, in_b = found
    if in_b is ABSENT:
        return Difference(index, "only_a", pointer, a=_text(in_a))
    if in_a is ABSENT:
        return Difference(index, "only_b", pointer, b=_text(in_b))
    return Difference(index, "changed", pointer, _text(in_a), _text(in_b))


def _parts(pointer: str, one: Any, other: Any) -> Iterator[tuple[str, object, object]]:  # noqa: ANN401 - JSON values
    if isinstance(one, dict):
        for key in [*one, *(key for key in other if key not in one)]:
            escaped = key.replace("~", "~0").replace("/", "~1")
            yield f"{pointer}/{escaped}", one.get(key, ABSENT), other.get(key, ABSENT)
    else:
        for place in range(max(len(one), len(other))):
            in_one = one[place] if place < len(one) else ABSENT
            yield f"{pointer}/{place}", in_one, other[place] if place < len(other) else ABSENT


def _equal(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    return one == other


def _text(value: object) -> str:
    return _shown(jsontext.encode(value))


def _shown(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
