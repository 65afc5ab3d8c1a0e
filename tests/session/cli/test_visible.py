"""What others wrote, made harmless."""

from __future__ import annotations

import sys
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from session.cli._visible import shortened, visible

WITHOUT_WIDTH_OR_MARK = "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0\ufe0f\U000e0100"


def test_every_character_that_controls_turns_or_hides_is_shown_as_text() -> None:
    harmful = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    left = [
        hex(n)
        for n in range(sys.maxunicode + 1)
        if unicodedata.category(chr(n)) in harmful and visible(chr(n)) == chr(n)
    ]
    assert left == []
    assert all(visible(character) != character for character in WITHOUT_WIDTH_OR_MARK)


def test_letters_digits_signs_and_blanks_stay() -> None:
    text = "Grüße, 日本語, עברית, e\u0301, 😀, ~ \\ / $%"
    assert visible(text) == text


def test_the_usual_ones_have_the_names_that_programmers_know() -> None:
    assert visible("a\nb\tc\r\x1b[0m\u202e\ud800\U000e0041") == r"a\nb\tc\r\x1b[0m\u202e\ud800\U000e0041"


@given(st.text(st.characters()), st.integers(1, 50))
def test_what_is_visible_is_one_line_and_stays_as_it_is(text: str, most: int) -> None:
    shown = visible(text)
    assert visible(shown) == shown
    assert len(shown.splitlines()) <= 1
    assert len(shortened(text, most)) <= most
    assert shown.startswith(shortened(text, most).removesuffix("…"))
