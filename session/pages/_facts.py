"""Times, costs and counts as pages say them. Pure."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final

from session.usage import PICODOLLARS_PER_DOLLAR

if TYPE_CHECKING:
    from session.usage import Usage

_COUNTERS: Final = (
    ("input_tokens", "in"),
    ("cache_read_input_tokens", "from cache"),
    ("cache_creation_input_tokens", "to cache"),
    ("output_tokens", "out"),
)
_MILLISECONDS: Final = 1_000


def when(milliseconds: int) -> str:
    """A time in UTC; the number itself where no calendar has it."""
    try:
        moment = dt.datetime.fromtimestamp(milliseconds // _MILLISECONDS, dt.UTC)
    except (ValueError, OverflowError, OSError):
        return f"{milliseconds} ms"
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def used(usage: Usage) -> str:
    """Tokens and cost, in a line; "" for nothing. What has no known price is said, not counted as 0."""
    tokens = [f"{usage.counter(path):,} {name}" for path, name in _COUNTERS if usage.counter(path)]
    parts = [" · ".join(tokens) + " tokens"] if tokens else []
    if usage.cost_picodollars or (tokens and not usage.unpriced):
        parts.append(dollars(usage.cost_picodollars))
    if usage.unpriced:
        parts.append(f"{usage.unpriced} response{'s' * (usage.unpriced != 1)} without a known price")
    return " · ".join(parts)


def dollars(picodollars: int) -> str:
    """Exact to the hundredth of a cent, and below that to the last digit that counts."""
    sign, amount = ("-", -picodollars) if picodollars < 0 else ("", picodollars)
    whole, rest = divmod(amount, PICODOLLARS_PER_DOLLAR)
    digits = f"{rest:012}"
    shown = digits[:4] if rest % 10**8 == 0 or whole else digits.rstrip("0")
    return f"{sign}${whole:,}.{shown}"
