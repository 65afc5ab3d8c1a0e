"""What a response cost, by a dated price table that ships as data (`prices.toml`).

Nothing here guesses. A response is *unpriced* (None, never 0) when any part of it has no price with a source: a model
not in the table by its exact id, a time before its first price, the priority tier, an unknown speed, place, kind of
iteration or cache lifetime, a server tool that is billed by other means than the count. Of what the API counts, only
the tokens and the web searches are billed by the table; a counter it does not know costs nothing, unless it stands
under `server_tool_use` or `cache_creation`, where everything is billed.

Costs are integers of picodollars and exact; only an override with prices finer than 10^-6 USD per million tokens is
rounded, half up, once per response.
"""

from __future__ import annotations

import datetime as dt
import math
import operator
import os
import tomllib
from decimal import Decimal
from fractions import Fraction
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import msgspec

from session import jsontext
from session.events import UsageRecorded
from session.messages import escaped
from session.usage import PICODOLLARS_PER_DOLLAR, Share, Shares, UsualUsage, shares, usual_usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

OVERRIDE_VARIABLE: Final = "REFOLD_PRICES"

_MOST_PICODOLLARS: Final = 2**63 - 1  # what an event can hold: nine million dollars
_TOKENS_PER_PRICE: Final = 1_000_000
_SEARCHES_PER_PRICE: Final = 1_000
_NO_CATEGORY: Final = "none"
_NO_DETAILS: Final = frozenset({b"", b"null"})
_TERMS_KEPT: Final = 1_024
_ONE: Final = Fraction(1)
_PLACES_AT_STANDARD_PRICE: Final = ("global", "not_available")
_FREE_SERVER_TOOLS: Final = frozenset({"server_tool_use/web_fetch_requests"})
_WEB_SEARCHES: Final = "server_tool_use/web_search_requests"
_CACHE_WRITES_5M: Final = "cache_creation/ephemeral_5m_input_tokens"
_CACHE_WRITES_1H: Final = "cache_creation/ephemeral_1h_input_tokens"
_EPOCH_ORDINAL: Final = dt.date(1970, 1, 1).toordinal()
_MILLISECONDS_PER_DAY: Final = 86_400_000

Time: TypeAlias = "dt.datetime | int"
"""An aware datetime, or Unix milliseconds."""


class PriceTableError(ValueError):
    """The price table at *path* cannot be used: *reason*. Nothing was priced with it."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"price table {self.path}: {self.reason}; nothing was priced with it"


class Cost(msgspec.Struct, frozen=True):
    """A cost and the version of the price table that gave it."""

    picodollars: int
    table_version: str


class Rates(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """US dollars per million tokens."""

    input: Decimal
    output: Decimal
    cache_write_5m: Decimal
    cache_write_1h: Decimal
    cache_read: Decimal

    @cached_property
    def fractions(self) -> tuple[tuple[int, ...], int]:
        """Numerators, in the order of the fields, over a common denominator."""
        ratios = [rate.as_integer_ratio() for rate in msgspec.structs.astuple(self)]
        common = math.lcm(*[denominator for _, denominator in ratios])
        return tuple(numerator * common // denominator for numerator, denominator in ratios), common


class LongPrompt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rates for the whole request once its prompt has more than `over_tokens` tokens."""

    over_tokens: int
    rates: Rates


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of the table: see the head of `prices.toml`."""

    models: list[str]
    effective_from: dt.date
    sources: list[str]
    rates: Rates
    batch: Decimal | None = None
    us_inference: Decimal | None = None
    fast: Rates | None = None
    long_prompt: LongPrompt | None = None


class SearchPrice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """US dollars for a thousand web searches."""

    effective_from: dt.date
    sources: list[str]
    per_thousand: Decimal


class RefusalRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which categories of refusals before any output are free, and which are billed like any response."""

    effective_from: dt.date
    sources: list[str]
    free: list[str]
    billed: list[str]


class Source(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where prices were found, and when."""

    address: str
    retrieved: dt.date
    copy: str = ""


_Dated = TypeVar("_Dated", Price, SearchPrice, RefusalRule)
_effective_from: Final = operator.attrgetter("effective_from")

_Ratio: TypeAlias = tuple[int, int]
"""Dollars, numerator over denominator, not reduced, as a `Fraction` is at each step."""


class PriceTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """Prices with their dates and sources. `version` names all of them; every cost carries it. Once something was
    priced with it, its lists must stay as they are.
    """

    version: str
    sources: dict[str, Source] = {}
    price: list[Price] = []
    web_search: list[SearchPrice] = []
    refusals: list[RefusalRule] = []

    @cached_property
    def by_model(self) -> dict[str, list[Price]]:
        """The prices of each model."""
        found: dict[str, list[Price]] = {}
        for entry in self.price:
            for model in entry.models:
                found.setdefault(model, []).append(entry)
        return found

    @cached_property
    def on_terms(self) -> dict[_Terms, _PricesOnTerms]:
        """What holds on terms that came up: nearly all responses of a program are served on the same."""
        return {}


class RecordedUsage(msgspec.Struct, frozen=True):
    """What `reprice` needs of a recorded response; `stop_details` as in its message, if it has any."""

    raw: dict[str, Any]
    model: str
    tier: str | None
    at: Time
    stop_details: dict[str, Any] | None = None


def load_prices(override: str | Path | None = None) -> PriceTable:
    """The shipped table, with the entries of *override* (default: the file that `REFOLD_PRICES` names) in place of it.

    An override is a file of the same form. Each model it names loses all its shipped entries; its web searches and
    refusal rules replace the shipped ones if it has any. The version becomes "<shipped>+<override's>". Raises
    `PriceTableError` for a file that is missing, malformed, without a version, or whose entries lack a source.
    """
    path = override or os.environ.get(OVERRIDE_VARIABLE)
    return _overridden(_shipped(), _read(Path(path))) if path else _shipped()


def price(
    raw: Mapping[str, object],
    model: str,
    tier: str | None,
    at: Time,
    *,
    table: PriceTable | None = None,
    stop_details: Mapping[str, object] | None = None,
) -> Cost | None:
    """What a response with the usage *raw* cost, or None: unpriced.

    *tier* is the service tier it was served at; None takes what *raw* says. *stop_details* is the response's: a refusal
    before any output may be free. Pure but for a missing *table*, which is `load_prices()`. A usage without
    `input_tokens` or `output_tokens` is unpriced. Raises `ValueError` for a naive datetime.
    """
    table = load_prices() if table is None else table
    found = shares(raw)
    own = found.own.counters
    if not found.complete or min(own.values(), default=0) < 0 or not {"input_tokens", "output_tokens"} <= own.keys():
        return None
    terms = _terms(model, tier or raw.get("service_tier"), raw.get("speed"), raw.get("inference_geo"), _day(at))
    if stop_details and stop_details.get("type") == "refusal" and not own["output_tokens"]:
        billed = _billed_refusal(table, terms.day, stop_details.get("category") or _NO_CATEGORY)
        if not billed:
            return None if billed is None else Cost(0, table.version)
    dollars = _dollars(table, found, terms)
    return None if dollars is None else Cost(_picodollars(dollars), table.version)


def usage_recorded(
    usage: bytes,
    model: str,
    at: Time | None,
    *,
    table: PriceTable | None = None,
    request_id: str = "",
    stop_details: bytes = b"",
) -> UsageRecorded:
    """The event that says what a response used, the exact text *usage*, and what that cost by *table*.

    *at* is when the response was given; None, unknown: it is unpriced. *stop_details* is the text of that member of the
    response, b"" if it has none.
    """
    usual = usual_usage(usage) if at is not None and stop_details in _NO_DETAILS else None
    if usual is None or usual.server_tool_use is not None or at is None:
        raw = _object(usage)
        tier, details = str(raw.get("service_tier") or ""), _object(stop_details) or None
        cost = None if at is None else price(raw, model, None, at, table=table, stop_details=details)
    else:
        tier, cost = usual.service_tier or "", _cost_of_usual(usual, model, _day(at), table or load_prices())
    cost = _recordable(cost)
    return UsageRecorded(
        usage,
        escaped(model),
        tier=escaped(tier),
        cost_picodollars=cost.picodollars if cost else None,
        prices=cost.table_version if cost else "",
        request_id=request_id,
    )


def _recordable(cost: Cost | None) -> Cost | None:
    """None too where no event could hold the cost, so that a count out of this world loses no response."""
    return cost if cost is not None and cost.picodollars <= _MOST_PICODOLLARS else None


def _object(text: bytes) -> dict[str, Any]:
    value = jsontext.parse_or_show(text) if text else None
    return value if isinstance(value, dict) else {}


def reprice(recorded: Iterable[RecordedUsage], table: PriceTable) -> Iterator[Cost | None]:
    """What each recorded response costs by *table*, in order. Pure: what was recorded keeps the cost it was given."""
    for usage in recorded:
        yield price(usage.raw, usage.model, usage.tier, usage.at, table=table, stop_details=usage.stop_details)


class _Terms(msgspec.Struct, frozen=True, kw_only=True):
    """On what terms a response was served."""

    model: str
    tier: str
    speed: str
    place: str
    day: dt.date


def _terms(model: str, tier: object, speed: object, place: object, day: dt.date) -> _Terms:
    """Of what a usage object has under these names."""
    return _Terms(
        model=model,
        tier=str(tier or "standard"),
        speed=str(speed or "standard"),
        place=str(place or "global"),
        day=day,
    )


class _PricesOnTerms(msgspec.Struct, frozen=True):
    """On certain terms, for a response of one inference: by which rates times *factor* up to so many tokens of its
    prompt, and by which beyond.
    """

    rates: Rates
    factor: Fraction
    long_prompt: LongPrompt | None


def _prices_on_terms(table: PriceTable, terms: _Terms) -> _PricesOnTerms | None:
    entry = _newest(table.by_model.get(terms.model, ()), terms.day)
    if entry is None:
        return None
    rates, factor = _rates(entry, Share("own", None, {}), terms.speed), _factor(entry, terms)
    if rates is None or factor is None:
        return None
    if len(table.on_terms) >= _TERMS_KEPT:
        table.on_terms.clear()
    found = table.on_terms[terms] = _PricesOnTerms(
        rates, factor, entry.long_prompt if terms.speed == "standard" else None
    )
    return found


def _cost_of_usual(usual: UsualUsage, model: str, day: dt.date, table: PriceTable) -> Cost | None:
    """The same as `price`, which takes a usage apart number by number."""
    terms = _terms(model, usual.service_tier, usual.speed, usual.inference_geo, day)
    prices = table.on_terms.get(terms) or _prices_on_terms(table, terms)
    if prices is None:
        return None
    split = usual.cache_creation
    short, long = (split.ephemeral_5m_input_tokens, split.ephemeral_1h_input_tokens) if split else (0, 0)
    written, read = usual.cache_creation_input_tokens or 0, usual.cache_read_input_tokens or 0
    rates, beyond = prices.rates, prices.long_prompt
    if beyond is not None and usual.input_tokens + written + read > beyond.over_tokens:
        rates = beyond.rates
    tokens = (usual.input_tokens, usual.output_tokens, _short_writes(written, short, long), long, read)
    return Cost(_picodollars(_token_ratio(rates, prices.factor, tokens)), table.version)


def _dollars(table: PriceTable, found: Shares, terms: _Terms) -> _Ratio | None:
    if terms.speed != "standard" and found.omitted:
        return None  # at what speed did the other inferences run?
    total = _search_dollars(table, found.own.counters, terms.day)
    for share in (found.own, *found.omitted):
        dollars = _token_dollars(table, share, terms)
        if total is None or dollars is None:
            return None
        total = _sum(total, dollars)
    return total


def _sum(one: _Ratio, other: _Ratio) -> _Ratio:
    if one[1] == other[1]:
        return one[0] + other[0], one[1]
    common = math.lcm(one[1], other[1])
    return one[0] * (common // one[1]) + other[0] * (common // other[1]), common


def _token_dollars(table: PriceTable, share: Share, terms: _Terms) -> _Ratio | None:
    entry = _newest(table.by_model.get(share.model or terms.model, ()), terms.day)
    if entry is None:
        return None
    rates, factor, tokens = _rates(entry, share, terms.speed), _factor(entry, terms), _tokens(share)
    if rates is None or factor is None or tokens is None:
        return None
    return _token_ratio(rates, factor, tokens)


def _token_ratio(rates: Rates, factor: Fraction, tokens: tuple[int, ...]) -> _Ratio:
    numerators, denominator = rates.fractions
    numerator = sum(map(operator.mul, tokens, numerators))
    return numerator * factor.numerator, denominator * factor.denominator * _TOKENS_PER_PRICE


def _newest(entries: Iterable[_Dated], day: dt.date) -> _Dated | None:
    """The one that holds on *day*."""
    return max([entry for entry in entries if entry.effective_from <= day], key=_effective_from, default=None)


def _rates(entry: Price, share: Share, speed: str) -> Rates | None:
    """The rates of *share*; None if there are none, or if it cannot be told whether its prompt counts as long."""
    if share.kind == "declined" and not share.counters.get("output_tokens"):
        return None  # billed or free by the category of its refusal, which its usage does not tell
    if speed != "standard":
        return entry.fast if speed == "fast" else None
    long_prompt = entry.long_prompt
    if long_prompt is None or _prompt_tokens(share.counters) <= long_prompt.over_tokens:
        return entry.rates
    # Several inferences in one sum: each may have had a short prompt.
    return long_prompt.rates if share.inferences == 1 else None


def _factor(entry: Price, terms: _Terms) -> Fraction | None:
    if terms.tier == "standard":
        by_tier: Fraction | None = _ONE
    elif terms.tier == "batch" and terms.speed == "standard":
        by_tier = _fraction(entry.batch)
    else:
        by_tier = None  # priority is paid by commitment, not by the token
    if terms.place in _PLACES_AT_STANDARD_PRICE:
        return by_tier
    by_place = _fraction(entry.us_inference) if terms.place == "us" else None
    return None if by_tier is None or by_place is None else by_tier * by_place


def _fraction(number: Decimal | None) -> Fraction | None:
    return None if number is None else Fraction(number)


def _tokens(share: Share) -> tuple[int, ...] | None:
    """How many tokens are billed at each of the `Rates`; None if some were written to a cache of unknown lifetime."""
    counters = share.counters
    split = {path: count for path, count in counters.items() if path.startswith("cache_creation/") and count}
    if split.keys() - {_CACHE_WRITES_5M, _CACHE_WRITES_1H}:
        return None
    short, long = split.get(_CACHE_WRITES_5M, 0), split.get(_CACHE_WRITES_1H, 0)
    return (
        counters.get("input_tokens", 0),
        counters.get("output_tokens", 0),
        _short_writes(counters.get("cache_creation_input_tokens", 0), short, long),
        long,
        counters.get("cache_read_input_tokens", 0),
    )


def _short_writes(written: int, short: int, long: int) -> int:
    """Of all tokens *written* to the cache, those that the split by lifetime leaves out too: the API's default."""
    return short + max(0, written - short - long)


def _search_dollars(table: PriceTable, counters: Mapping[str, int], day: dt.date) -> _Ratio | None:
    """What the server tools cost beside their tokens; None if one of them has no price per use."""
    used = {path: count for path, count in counters.items() if count and path.startswith("server_tool_use/")}
    searches = used.pop(_WEB_SEARCHES, 0)
    if used.keys() - _FREE_SERVER_TOOLS:
        return None
    if not searches:
        return 0, 1
    newest = _newest(table.web_search, day)
    if newest is None:
        return None
    numerator, denominator = newest.per_thousand.as_integer_ratio()
    return searches * numerator, denominator * _SEARCHES_PER_PRICE


def _billed_refusal(table: PriceTable, day: dt.date, category: object) -> bool | None:
    rule = _newest(table.refusals, day)
    if rule is None or category not in (*rule.free, *rule.billed):
        return None
    return category in rule.billed


def _prompt_tokens(counters: Mapping[str, int]) -> int:
    return sum(
        counters.get(path, 0) for path in ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    )


def _day(at: Time) -> dt.date:
    if isinstance(at, int):
        ordinal = _EPOCH_ORDINAL + at // _MILLISECONDS_PER_DAY
        return dt.date.fromordinal(min(max(ordinal, 1), dt.date.max.toordinal()))
    if at.tzinfo is None:
        raise ValueError("a time without a time zone has no price")
    return at.astimezone(dt.UTC).date()


def _picodollars(dollars: _Ratio) -> int:
    """Rounded to the nearest, halves up."""
    numerator, denominator = dollars
    return (2 * numerator * PICODOLLARS_PER_DOLLAR + denominator) // (2 * denominator)


@cache
def _shipped() -> PriceTable:
    resource = resources.files("session").joinpath("prices.toml")
    return _parsed(resource.read_text("utf-8"), "session/prices.toml")


def _read(path: Path) -> PriceTable:
    try:
        return _parsed(path.read_text("utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise PriceTableError(str(path), str(error)) from error


def _parsed(text: str, path: str) -> PriceTable:
    try:
        table = msgspec.convert(tomllib.loads(text, parse_float=Decimal), PriceTable)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise PriceTableError(path, str(error)) from error
    _check(table, path)
    return table


def _check(table: PriceTable, path: str) -> None:
    if not table.version:
        raise PriceTableError(path, "the version is empty")
    dated: list[Price | SearchPrice | RefusalRule] = [*table.price, *table.web_search, *table.refusals]
    for entry in dated:
        if not entry.sources or not set(entry.sources) <= table.sources.keys():
            raise PriceTableError(path, f"an entry effective from {entry.effective_from} names no known source")
    seen: set[tuple[str, dt.date]] = set()
    for model, day in ((model, entry.effective_from) for entry in table.price for model in entry.models):
        if (model, day) in seen:
            raise PriceTableError(path, f"two prices for {model} from {day}")
        seen.add((model, day))
    if not all(amount.is_finite() and amount >= 0 for amount in _amounts(table)):
        raise PriceTableError(path, "a price is negative or no number")


def _amounts(table: PriceTable) -> Iterator[Decimal]:
    waiting: list[object] = [*table.price, *table.web_search]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Decimal):
            yield value
        elif isinstance(value, msgspec.Struct):
            waiting.extend(msgspec.structs.asdict(value).values())


def _overridden(shipped: PriceTable, override: PriceTable) -> PriceTable:
    renewed = {model for entry in override.price for model in entry.models}
    kept = (
        msgspec.structs.replace(entry, models=[model for model in entry.models if model not in renewed])
        for entry in shipped.price
    )
    return PriceTable(
        version=f"{shipped.version}+{override.version}",
        sources=shipped.sources | override.sources,
        price=[*(entry for entry in kept if entry.models), *override.price],
        web_search=override.web_search or shipped.web_search,
        refusals=override.refusals or shipped.refusals,
    )
