"""What a query is, and that none is an error of syntax."""

from __future__ import annotations

import sqlite3
import unicodedata
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session.search._words import (
    PIECE_CHARACTERS,
    Fragment,
    Term,
    as_indexed,
    fragments,
    match_expression,
    pieces,
    terms,
)

# Every character there is, lone surrogates and NUL too, and what FTS5 gives a meaning to.
OPERATORS = st.sampled_from(
    ['"', "'", "*", "^", ":", "-", "+", "(", ")", "{", "}", ",", " AND ", " OR ", " NOT ", " NEAR(", "text:", "facts :",
     "\x00", "\x02", "\x03", "\ud800", "\u200b", "会议", " a ", "é", "\\", ";", "--", "rowid", "%", "?"]
)  # fmt: skip
QUERIES = st.lists(OPERATORS | st.text(st.characters(), max_size=5), max_size=12).map("".join)


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ("one two", [Term("one"), Term("two")]),
        ('"one two" three', [Term("one two"), Term("three")]),
        ('exec* "git com"*', [Term("exec", prefix=True), Term("git com", prefix=True)]),
        ("one one", [Term("one")]),
        ('"never closed', [Term("never closed")]),
        ("a OR b", [Term("a"), Term("OR"), Term("b")]),
        ('x"y z"', [Term("x"), Term("y z")]),
        ('*** "" "!" -', []),
        ("", []),
    ],
)
def test_a_query_is_words_phrases_and_beginnings(query: str, asked: list[Term]) -> None:
    assert terms(query) == asked


@given(QUERIES, st.text(st.characters()))
def test_no_query_is_an_error_of_syntax(query: str, text: str) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("create virtual table words using fts5(text, facts, tokenize = 'unicode61')")
        connection.execute("insert into words values (?, 'roleuser')", (as_indexed(text),))
        asked = terms(query)
        if asked:
            connection.execute("select * from words where words match ?", (match_expression(asked, []),)).fetchall()
        rows = connection.execute(
            "select * from words where words match ?", (match_expression(asked, ["roleuser"]),)
        ).fetchall()
        assert len(rows) <= 1
        assert asked or rows


@given(st.lists(st.text("abcdeé会议のxyz", min_size=1, max_size=4), min_size=1, max_size=6), st.data())
def test_every_word_of_a_text_finds_it(words: list[str], data: st.DataObject) -> None:
    text, word = " ".join(words), data.draw(st.sampled_from(words))
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("create virtual table words using fts5(text, facts, tokenize = 'unicode61')")
        connection.execute("insert into words values (?, '')", (as_indexed(text),))
        for query in (word, f'"{word}"', f"{word[0]}*", f'"{text}"', text.upper()):
            found = connection.execute(
                "select snippet(words, 0, char(2), char(3), '…', 60) from words where words match ?",
                (match_expression(terms(query), []),),
            ).fetchall()
            assert len(found) == 1, query
            shown = fragments(found[0][0])
            assert "".join(fragment.text for fragment in shown) == text
            assert any(fragment.found for fragment in shown)


@given(st.text(st.characters()))
def test_what_is_indexed_reads_as_the_text_did(text: str) -> None:
    shown = "".join(fragment.text for fragment in fragments(as_indexed(text)))
    assert len(shown) <= len(text)
    visible = [c for c in text if c not in "\x00\x02\x03\u200b" and unicodedata.category(c) != "Cs"]
    assert [c for c in shown if c != " "] == [c for c in visible if c != " "]


@pytest.mark.parametrize("text", ["x" * (3 * PIECE_CHARACTERS + 1), "words and " * PIECE_CHARACTERS, "a", ""])
def test_pieces_are_bounded_and_lose_nothing(text: str) -> None:
    found = list(pieces(text))
    assert "".join(found) == text
    assert all(0 < len(piece) <= PIECE_CHARACTERS for piece in found)
    if " " in text:
        assert all(piece.endswith(" ") for piece in found), "no word is cut"


def test_a_snippet_says_what_was_found() -> None:
    assert fragments("a \x02b\x03 c") == (Fragment("a "), Fragment("b", found=True), Fragment(" c"))
