"""JSON as other programs write it: what is quick is the same as what is slow."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from session import jsontext

TEXTS = st.text(st.characters(exclude_categories=()), max_size=8)
OBJECTS: st.SearchStrategy[Any] = st.dictionaries(TEXTS, TEXTS) | st.dictionaries(
    TEXTS | st.integers(), TEXTS | st.floats()
)


@given(OBJECTS)
def test_an_object_of_strings_is_written_as_the_standard_library_writes_it(value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    assert jsontext.encode(value) == text.encode("utf-8", "backslashreplace")


def test_every_character_is_written_as_the_standard_library_writes_it() -> None:
    text = "".join(map(chr, range(0xD800))) + "".join(map(chr, range(0xE000, 0x110000)))

    assert jsontext.encode({text: text}) == json.dumps({text: text}, ensure_ascii=False, separators=(",", ":")).encode()
