"""Characters that cannot be seen, or that change how others are shown, made visible. Pure.

Line ends and tabs stay; so do the joiners and the variation selectors that emoji and some scripts are written with.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

# General categories Cc, Cf, Cs, Zl and Zp, noncharacters, fillers and selectors that leave no mark.
HARMFUL: Final = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5"
    "\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufdd0-\ufdef\ufe00-\ufe0d\ufeff"
    "\uffa0\ufff0-\ufffb\ufffe\uffff\U000110bd\U000110cd\U00013430-\U0001345f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    "]"
)
_PICTURES: Final = 0x2400  # of the controls below the space
_SPACE: Final = 0x20
_DELETE: Final = 0x7F


def visible(text: str, mark: Callable[[str], str] = str) -> str:
    """*text* with each such character replaced by what `mark` makes of its visible form."""
    return HARMFUL.sub(lambda found: mark(_shown(ord(found[0]))), text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """*text* in one line, visible."""
    return " ".join(visible(text).split())


def _shown(number: int) -> str:
    if number < _SPACE:
        return chr(_PICTURES + number)
    return "\u2421" if number == _DELETE else f"\u27e8U+{number:04X}\u27e9"
