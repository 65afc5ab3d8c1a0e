"""What a conversation used: the API's counters, summed, and what they cost.

`Usage` is a group under addition: `Usage()` is zero and `(a + b) - b == a`. So the own usage of a fork is the whole
minus the inherited, exactly, and a tree of forks adds up to what was used. Two rules make that hold:

1. Every integer the API counts is kept under its path, known to this version or not. A counter of 0, null and absent
   are the same, and none of them is stored. What no one can have counted, an integer of more than `MAX_DIGITS` digits,
   is no counter: Python would not write their sums out again.
2. Money is an integer of picodollars (10^-12 USD: one token at 1 USD per million costs 1,000,000 of them). Floats only
   leave, in `total_cost_usd`; they are never added.

The cost of a response is computed elsewhere (`session.pricing`), once, when it is recorded; here it is only added.

What a response's `usage` says is not one number per counter. Where the server ran several inferences for it, they stand
in `usage.iterations`, and the top level tells of some of them only (`shares`):

- `message`: its own; included. Earlier servers took the input of the first one only, so the larger of the top level and
  their sum counts. https://platform.claude.com/docs/en/agents-and-tools/tool-use/advisor-tool#usage-and-billing
- `compaction`: left out ("A `compaction` entry's tokens are not included in the top-level `usage` fields", the
  docstring of anthropic 2.12's `BetaUsage.iterations`).
- `advisor_message`: left out, and at another model's rates (same page as above).
- `fallback_message`: its own, and then every `message` of another model is a declined attempt, left out ("The top-level
  `usage` counts describe only the attempt that produced the returned message",
  https://platform.claude.com/docs/en/build-with-claude/refusals-and-fallback#billing-and-rate-limits).
- any other kind: not counted, for no one knows yet what the top level makes of it; `Shares.complete` is False.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias, TypeGuard

import msgspec

from session import jsontext

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PICODOLLARS_PER_DOLLAR: Final = 10**12
MAX_DIGITS: Final = 1_000

_TOKEN_COUNTERS: Final = (
    "input_tokens",
    "output_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
)
_COST_KEY: Final = "total_cost_usd"
_UNPRICED_KEY: Final = "unpriced"
_TOO_MANY: Final = 10**MAX_DIGITS
_NO_COUNTERS: Final = frozenset({_COST_KEY, _UNPRICED_KEY, "iterations"})

Counters: TypeAlias = tuple[tuple[str, int], ...]
"""(path, count), sorted by path. A path is a JSON pointer without its first slash."""


class Usage(msgspec.Struct, frozen=True):
    """Counters and cost of one response, or the sum of many.

    `cost_picodollars` covers the priced ones only: while `unpriced` is not 0, that many were left out and the cost is a
    lower bound. Build it with `from_raw`; `counters` is sorted and holds no zero.
    """

    counters: Counters = ()
    cost_picodollars: int = 0
    unpriced: int = 0

    @classmethod
    def from_raw(cls, raw: Mapping[str, object], cost_picodollars: int | None = None) -> Usage:
        """The usage of one response from the API's `usage` object; a cost of None means that it has no known price.

        Iterations that the top level omits are added to its counters. What is not an integer (service tier, geography,
        null, lists), or one that no one can have counted, is no counter and stays in the raw usage only.
        """
        tally = Tally()
        tally.add_raw(raw, cost_picodollars)
        return tally.usage()

    @classmethod
    def from_text(cls, raw: bytes, cost_picodollars: int | None = None) -> Usage:
        """As `from_raw`, from the text of the object; any other text counts nothing."""
        tally = Tally()
        tally.add_text(raw, cost_picodollars)
        return tally.usage()

    @classmethod
    def from_dict(cls, stored: Mapping[str, object]) -> Usage:
        """Inverse of `to_dict`; reads the usage of the seed's session files.

        Exact for costs below 1,000 USD, above that within the precision of a float. Raises `ValueError` if the cost is
        not a finite number or the unpriced count is not an integer.
        """
        cost, unpriced = stored.get(_COST_KEY), stored.get(_UNPRICED_KEY, 0)
        if not is_count(unpriced):
            raise ValueError(f"{_UNPRICED_KEY} is no count")
        return cls(
            counters=_sorted(_leaves(stored)),
            cost_picodollars=_picodollars(0 if cost is None else cost),
            unpriced=unpriced,
        )

    def to_dict(self) -> dict[str, object]:
        """The API's snake_case keys, nested as the API nests them, and `total_cost_usd`.

        The four token counters are always there; `unpriced` only where it is not 0.
        """
        nested: dict[str, object] = dict.fromkeys(_TOKEN_COUNTERS, 0)
        for path, count in self.counters:
            _put(nested, path, count)
        nested[_COST_KEY] = self.total_cost_usd
        if self.unpriced:
            nested[_UNPRICED_KEY] = self.unpriced
        return nested

    @property
    def total_cost_usd(self) -> float:
        """The cost in dollars, nearest float; beyond the floats, the largest of them."""
        try:
            return self.cost_picodollars / PICODOLLARS_PER_DOLLAR
        except OverflowError:
            return sys.float_info.max if self.cost_picodollars > 0 else -sys.float_info.max

    def counter(self, path: str) -> int:
        """The sum of one counter, 0 if it never appeared: `counter("cache_creation/ephemeral_1h_input_tokens")`."""
        return dict(self.counters).get(path, 0)

    @property
    def input_tokens(self) -> int:
        """Input tokens that were neither written to the cache nor read from it."""
        return self.counter("input_tokens")

    @property
    def output_tokens(self) -> int:
        """Output tokens, thinking included."""
        return self.counter("output_tokens")

    @property
    def cache_creation_input_tokens(self) -> int:
        """Input tokens written to the cache."""
        return self.counter("cache_creation_input_tokens")

    @property
    def cache_read_input_tokens(self) -> int:
        """Input tokens read from the cache."""
        return self.counter("cache_read_input_tokens")

    def __add__(self, other: Usage) -> Usage:
        return self._combined(other, 1) if isinstance(other, Usage) else NotImplemented

    def __sub__(self, other: Usage) -> Usage:
        return self._combined(other, -1) if isinstance(other, Usage) else NotImplemented

    def __bool__(self) -> bool:
        return self != Usage()

    def _combined(self, other: Usage, sign: int) -> Usage:
        counters = dict(self.counters)
        _add(counters, ((path, sign * count) for path, count in other.counters))
        return Usage(
            counters=_sorted(counters),
            cost_picodollars=self.cost_picodollars + sign * other.cost_picodollars,
            unpriced=self.unpriced + sign * other.unpriced,
        )


class Tally:
    """A sum that grows in place: what a fold over many responses uses, where `Usage + Usage` would sort every time."""

    def __init__(self, start: Usage | None = None) -> None:
        start = start or Usage()
        self._counters = defaultdict(int, start.counters)
        self._cost_picodollars = start.cost_picodollars
        self._unpriced = start.unpriced

    def add(self, usage: Usage) -> None:
        """Add *usage*."""
        _add(self._counters, usage.counters)
        self._cost_picodollars += usage.cost_picodollars
        self._unpriced += usage.unpriced

    def add_raw(self, raw: Mapping[str, object], cost_picodollars: int | None) -> None:
        """Add one response's, as `Usage.from_raw` reads it."""
        if "iterations" in raw:
            found = shares(raw)
            for share in (found.own, *found.omitted):
                _add(self._counters, share.counters.items())
        else:
            _add(self._counters, _leaves(raw).items())
        self._add_cost(cost_picodollars)

    def add_text(self, raw: bytes, cost_picodollars: int | None) -> None:
        """As `add_raw`, from the text of the object; any other text counts nothing."""
        usual = usual_usage(raw)
        if usual is None:
            parsed = jsontext.parse_or_show(raw)
            self.add_raw(parsed if isinstance(parsed, dict) else {}, cost_picodollars)
        else:
            _add_usual(self._counters, usual)
            self._add_cost(cost_picodollars)

    def _add_cost(self, cost_picodollars: int | None) -> None:
        if cost_picodollars is None:
            self._unpriced += 1
        else:
            self._cost_picodollars += cost_picodollars

    def usage(self) -> Usage:
        """The sum so far; later additions do not change it."""
        return Usage(
            counters=_sorted(self._counters),
            cost_picodollars=self._cost_picodollars,
            unpriced=self._unpriced,
        )


_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _CacheCreation(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    ephemeral_1h_input_tokens: _Count = 0
    ephemeral_5m_input_tokens: _Count = 0


class _ServerToolUse(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    web_fetch_requests: _Count = 0
    web_search_requests: _Count = 0


class _OutputDetails(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    thinking_tokens: _Count = 0


class UsualUsage(msgspec.Struct, forbid_unknown_fields=True):
    """A usage object with the fields that nearly every one has: summed at a fifth of what `_leaves` costs.

    An object with anything else in it, or with a negative count, is none: it is read by `_leaves`, which needs to know
    no field.
    """

    input_tokens: _Count
    output_tokens: _Count
    cache_creation_input_tokens: _Count | None = 0
    cache_read_input_tokens: _Count | None = 0
    cache_creation: _CacheCreation | None = None
    server_tool_use: _ServerToolUse | None = None
    output_tokens_details: _OutputDetails | None = None
    service_tier: str | None = None
    inference_geo: str | None = None
    speed: str | None = None


def _add_usual(counters: defaultdict[str, int], usual: UsualUsage) -> None:
    counters["input_tokens"] += usual.input_tokens
    counters["output_tokens"] += usual.output_tokens
    counters["cache_creation_input_tokens"] += usual.cache_creation_input_tokens or 0
    counters["cache_read_input_tokens"] += usual.cache_read_input_tokens or 0
    if usual.cache_creation is not None:
        counters["cache_creation/ephemeral_1h_input_tokens"] += usual.cache_creation.ephemeral_1h_input_tokens
        counters["cache_creation/ephemeral_5m_input_tokens"] += usual.cache_creation.ephemeral_5m_input_tokens
    if usual.server_tool_use is not None:
        counters["server_tool_use/web_fetch_requests"] += usual.server_tool_use.web_fetch_requests
        counters["server_tool_use/web_search_requests"] += usual.server_tool_use.web_search_requests
    if usual.output_tokens_details is not None:
        counters["output_tokens_details/thinking_tokens"] += usual.output_tokens_details.thinking_tokens


_decode_usual: Final = msgspec.json.Decoder(UsualUsage).decode


def usual_usage(raw: bytes) -> UsualUsage | None:
    """The usage object with the text *raw*, if it is a usual one."""
    try:
        return _decode_usual(raw)
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return None


def total(usages: Iterable[Usage]) -> Usage:
    """The sum of *usages*."""
    tally = Tally()
    for usage in usages:
        tally.add(usage)
    return tally.usage()


class Share(msgspec.Struct, frozen=True):
    """What one model did for a response, in so many *inferences*; a model of None is the response's own."""

    kind: Literal["own", "compaction", "advisor", "declined"]
    model: str | None
    counters: dict[str, int]
    inferences: int = 1


class Shares(msgspec.Struct, frozen=True):
    """A response's usage taken apart: its own, and what its top level omits. *complete*: nothing was left aside."""

    own: Share
    omitted: list[Share]
    complete: bool = True


def shares(raw: Mapping[str, object]) -> Shares:
    """Take *raw* apart by the rules in the module's head."""
    counters = _leaves(raw)
    iterations = raw.get("iterations")
    if not isinstance(iterations, list) or not iterations:
        return Shares(Share("own", None, counters), [], complete=not iterations)
    served_by = _fallback_model(iterations)
    summed: dict[str, int] = {}
    omitted: list[Share] = []
    inferences = 0
    complete = True
    for entry in iterations:
        share = _share(entry, served_by)
        if share is None:
            complete = False
        elif share.kind == "own":
            inferences += 1
            _add(summed, share.counters.items())
        else:
            omitted.append(share)
    for path, count in summed.items():
        counters[path] = max(count, counters.get(path, 0))
    return Shares(Share("own", served_by, counters, inferences or 1), omitted, complete)


def _share(entry: object, served_by: str | None) -> Share | None:
    """One iteration's; None if its kind is not known."""
    if not isinstance(entry, dict):
        return None
    model = _model(entry)
    counters = _leaves(entry)
    match entry.get("type"):
        case "message" if served_by is not None and model not in (None, served_by):
            return Share("declined", model, counters)
        case "message" | "fallback_message":
            return Share("own", model, counters)
        case "compaction":
            return Share("compaction", model, counters)
        case "advisor_message":
            return Share("advisor", model, counters)
        case _:
            return None


def _fallback_model(iterations: list[object]) -> str | None:
    entries = [entry for entry in iterations if isinstance(entry, dict)]
    return next((_model(entry) for entry in reversed(entries) if entry.get("type") == "fallback_message"), None)


def _model(entry: Mapping[str, object]) -> str | None:
    model = entry.get("model")
    return model if isinstance(model, str) else None


def is_count(value: object) -> TypeGuard[int]:
    """Whether *value* is something that can have been counted. A bool is not."""
    return type(value) is int and -_TOO_MANY < value < _TOO_MANY


def _leaves(raw: Mapping[str, object]) -> dict[str, int]:
    """Every integer in *raw*, by path; keys that are no counters aside. Not recursive: it may nest as deep as JSON."""
    found: dict[str, int] = {}
    waiting: list[tuple[str, Mapping[str, object]]] = [("", raw)]
    for prefix, level in waiting:  # grows meanwhile
        for key, value in level.items():
            if is_count(value):
                found[_path(prefix, key)] = value
            elif isinstance(value, dict):
                waiting.append((_path(prefix, key) + "/", value))
    for key in _NO_COUNTERS & found.keys():
        del found[key]
    return found


@lru_cache(maxsize=1_024)
def _path(prefix: str, key: str) -> str:
    return prefix + key.replace("~", "~0").replace("/", "~1")


def _add(counters: dict[str, int], more: Iterable[tuple[str, int]]) -> None:
    for path, count in more:
        counters[path] = counters.get(path, 0) + count


def _sorted(counters: dict[str, int]) -> Counters:
    return tuple(sorted(item for item in counters.items() if item[1]))


def _put(nested: dict[str, object], path: str, count: int) -> None:
    *parents, last = (key.replace("~1", "/").replace("~0", "~") for key in path.split("/"))
    for key in parents:
        inner = nested.get(key)
        if not isinstance(
            inner, dict
        ):  # the API counted `key` as a number once and as an object later: show the object
            inner = nested[key] = {}
        nested = inner
    nested[last] = count


def _picodollars(dollars: object) -> int:
    if isinstance(dollars, bool) or not isinstance(dollars, int | float):
        raise ValueError(f"{_COST_KEY} is not a number: {dollars!r:.80}")  # noqa: TRY004 - bad data, not a bad call
    try:
        numerator, denominator = dollars.as_integer_ratio()
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{_COST_KEY} is not finite: {dollars!r}") from error
    return (2 * numerator * PICODOLLARS_PER_DOLLAR + denominator) // (2 * denominator)  # rounds to the nearest
