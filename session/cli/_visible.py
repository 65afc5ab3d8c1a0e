r"""Text that others wrote, made harmless for a terminal: what cannot be seen, or would do something, becomes text.

Controls (escape sequences begin with one), line ends, tabs, characters that turn the direction of writing, that have no
width, or that are no characters at all (lone surrogates) are written as `\n`, `\t`, `\x1b`, `\u202e`, `\U000e0041`.
"""

from __future__ import annotations

import re
from typing import Final

# General categories Cc, Cf, Cs, Zl and Zp, variation selectors, and letters that leave no mark (fillers, joiners).
_HARMFUL: Final = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890-\u0891\u08e2\u115f\u1160\u17b4\u17b5"
    "\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0"
    "\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001345f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff"
    "]"
)
_NAMED: Final = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def visible(text: str) -> str:
    """*text* in one line that controls nothing."""
    return _HARMFUL.sub(_shown, text)


def shortened(text: str, most: int) -> str:
    """The beginning of *text*, made visible, in at most *most* characters."""
    shown = visible(text[: most + 1])
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def _shown(found: re.Match[str]) -> str:
    character = found[0]
    number = ord(character)
    if number <= 0xFF:  # noqa: PLR2004 - two digits
        return _NAMED.get(character) or f"\\x{number:02x}"
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"  # noqa: PLR2004 - four digits
