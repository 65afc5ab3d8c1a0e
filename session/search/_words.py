"""Text as the index takes it, and queries that are never a syntax error. Pure.

1. A query is words, "phrases in quotes", and beginnings (`exec*`, `"git com"*`). All of them must be found. Everything
   else that FTS5 would read as an operator is text.
2. Words are runs of letters and digits, without regard to case and accents. Chinese and Japanese, which are written
   without spaces, are found by any run of their characters: each is a word of its own, set apart by a `MARK`, which is
   no part of what is shown.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FOUND: Final = "\x02"  # stand around what was found in a snippet, and nowhere else
FOUND_END: Final = "\x03"
MARK: Final = "\u200b"
PIECE_CHARACTERS: Final = 65_536  # so that a snippet never looks at more text than this

_UNSTORABLE: Final = re.compile(r"[\x00\x02\x03\ud800-\udfff\u200b]")
_UNSPACED: Final = re.compile(
    "([\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003fffd])"
)
_TERM: Final = re.compile(r'"(?P<phrase>[^"]*)"?(?P<begun>\*?)|(?P<word>[^\s"]+)')
_ROOM_FOR_A_SPACE: Final = 256  # a piece ends at a space, if there is one so near its end


class Term(msgspec.Struct, frozen=True):
    """A word or phrase that must be found; *prefix*: its last word may go on."""

    text: str
    prefix: bool = False


class Fragment(msgspec.Struct, frozen=True):
    """A part of a snippet; *found*: it is what was searched for."""

    text: str
    found: bool = False


def terms(query: str) -> list[Term]:
    """What *query* asks for, each once. Empty: it has no word in it."""
    found = (_term(match) for match in _TERM.finditer(_UNSTORABLE.sub(" ", query)))
    return list(dict.fromkeys(term for term in found if _has_word(term.text)))


def match_expression(asked: Iterable[Term], facts: Iterable[str]) -> str:
    """The FTS5 expression: all terms in the column `text`, all *facts* (single words) in the column `facts`."""
    wanted = " ".join(f'"{as_indexed(term.text)}"{" *" if term.prefix else ""}' for term in asked)
    known = " ".join(f'"{fact}"' for fact in facts)
    columns = (("text", wanted), ("facts", known))
    return " AND ".join(f"({column} : ({phrases}))" for column, phrases in columns if phrases)


def as_indexed(text: str) -> str:
    """*text* with what SQLite cannot store replaced, and a mark around each character that is a word."""
    return _UNSPACED.sub(rf"{MARK}\1{MARK}", _UNSTORABLE.sub(" ", text))


def fragments(snippet: str) -> tuple[Fragment, ...]:
    """A snippet of indexed text, without the marks."""
    parts = re.split(f"({FOUND}[^{FOUND_END}]*{FOUND_END})", snippet.replace(MARK, ""))
    return tuple(Fragment(part.strip(FOUND + FOUND_END), part.startswith(FOUND)) for part in parts if part)


def pieces(text: str) -> Iterator[str]:
    """*text* in pieces of at most `PIECE_CHARACTERS`, cut at spaces where there are any."""
    start = 0
    while start < len(text):
        end = start + PIECE_CHARACTERS
        if end < len(text):
            space = text.rfind(" ", end - _ROOM_FOR_A_SPACE, end)
            end = space + 1 if space > start else end
        yield text[start:end]
        start = end


def _term(match: re.Match[str]) -> Term:
    if match["word"] is None:
        return Term(match["phrase"].strip(), prefix=bool(match["begun"]))
    return Term(match["word"].rstrip("*"), prefix=match["word"].endswith("*"))


def _has_word(text: str) -> bool:
    return any(unicodedata.category(character)[0] in "LN" for character in text)
