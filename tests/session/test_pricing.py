import datetime as dt
import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from session.codec import encode_event
from session.pricing import (
    OVERRIDE_VARIABLE,
    Cost,
    PriceTableError,
    RecordedUsage,
    load_prices,
    price,
    reprice,
    usage_recorded,
)

FEBRUARY = dt.datetime(2026, 2, 19, tzinfo=dt.UTC)
NOVEMBER = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
MILLION = 1_000_000
DOLLAR = 10**12

OVERRIDE = """
version = "house-1"
[sources.contract]
address = "https://example.com/contract"
retrieved = 2026-11-01
[[price]]
models = ["claude-opus-5", "house-model"]
effective_from = 2026-01-01
sources = ["contract"]
rates = { input = 1, output = 2, cache_write_5m = 3, cache_write_1h = 4, cache_read = 5 }
"""


@pytest.fixture
def table() -> Any:
    return load_prices()


def tokens(**counters: Any) -> Any:
    return {"input_tokens": 0, "output_tokens": 0, **counters}


def text_of(**counters: Any) -> bytes:
    return json.dumps(tokens(**counters)).encode()


def dollars(raw: Any, model: Any = "claude-opus-5", tier: Any = None, at: Any = NOVEMBER, **more: Any) -> Any:
    cost = price(raw, model, tier, at, **more)
    return None if cost is None else Decimal(cost.picodollars) / DOLLAR


def test_each_kind_of_token_has_its_price() -> None:
    assert dollars(tokens(input_tokens=MILLION)) == 5
    assert dollars(tokens(output_tokens=MILLION)) == 25
    assert dollars(tokens(cache_read_input_tokens=MILLION)) == Decimal("0.5")
    assert dollars(tokens(cache_creation_input_tokens=MILLION)) == Decimal("6.25")


def test_cache_writes_are_priced_by_their_lifetime() -> None:
    split = {"ephemeral_5m_input_tokens": 400_000, "ephemeral_1h_input_tokens": 500_000}
    raw = tokens(cache_creation_input_tokens=MILLION, cache_creation=split)

    assert dollars(raw) == Decimal("6.25") / 2 + 5  # what the split leaves out is written for 5 minutes


def test_a_cache_lifetime_without_a_price_is_unpriced() -> None:
    raw = tokens(cache_creation_input_tokens=5, cache_creation={"ephemeral_1d_input_tokens": 5})

    assert price(raw, "claude-opus-5", None, NOVEMBER) is None


def test_thinking_is_part_of_the_output_and_not_paid_twice() -> None:
    raw = tokens(output_tokens=MILLION, output_tokens_details={"thinking_tokens": 900_000})

    assert dollars(raw) == 25


def test_web_searches_are_priced_by_the_thousand_and_fetches_are_free() -> None:
    raw = tokens(server_tool_use={"web_search_requests": 1, "web_fetch_requests": 9})

    assert dollars(raw) == Decimal("0.01")


def test_a_server_tool_that_is_billed_by_other_means_is_unpriced() -> None:
    assert dollars(tokens(server_tool_use={"code_execution_requests": 1})) is None


def test_the_cost_of_one_token_is_exact() -> None:
    assert price(tokens(input_tokens=1), "claude-haiku-5-5", None, NOVEMBER) == Cost(100_000, load_prices().version)


@pytest.mark.parametrize(
    "model",
    ["claude-opus-9", "gpt-5", "", "claude-opus-5-20260724", "claude-opus", "Claude-Opus-5", "claude-fable-5-2"],
)
def test_a_model_that_is_not_listed_by_its_exact_id_is_unpriced(model: Any) -> None:
    assert price(tokens(input_tokens=1), model, None, NOVEMBER) is None


def test_a_time_before_the_first_price_is_unpriced() -> None:
    before = dt.datetime(2026, 7, 23, 23, 59, tzinfo=dt.UTC)

    assert dollars(tokens(input_tokens=MILLION), at=before) is None
    assert dollars(tokens(input_tokens=MILLION), at=before + dt.timedelta(minutes=1)) == 5


def test_a_price_holds_from_its_date() -> None:
    raw = tokens(cache_read_input_tokens=MILLION)

    assert dollars(raw, "claude-sonnet-5-5", at=dt.datetime(2026, 10, 6, tzinfo=dt.UTC)) == Decimal("0.2")
    assert dollars(raw, "claude-sonnet-5-5", at=dt.datetime(2026, 10, 7, tzinfo=dt.UTC)) == Decimal("0.1")


def test_the_date_is_that_of_utc_whatever_the_zone() -> None:
    zone = dt.timezone(dt.timedelta(hours=9))
    raw = tokens(cache_read_input_tokens=MILLION)

    assert dollars(raw, "claude-sonnet-5-5", at=dt.datetime(2026, 10, 7, 8, tzinfo=zone)) == Decimal("0.2")


def test_milliseconds_and_datetimes_mean_the_same() -> None:
    milliseconds = int(NOVEMBER.timestamp() * 1000)

    assert dollars(tokens(input_tokens=7), at=milliseconds) == dollars(tokens(input_tokens=7))
    assert dollars(tokens(input_tokens=7), at=-(10**30)) is None
    assert dollars(tokens(input_tokens=7), at=10**30) == dollars(tokens(input_tokens=7))


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        price(tokens(), "claude-opus-5", None, dt.datetime(2026, 11, 1))  # noqa: DTZ001 - the point of the test


def test_the_tier_decides_and_priority_has_no_price_by_the_token() -> None:
    raw = tokens(input_tokens=MILLION, service_tier="batch")

    assert dollars(raw) == Decimal("2.5")
    assert dollars(raw, tier="standard") == 5
    assert dollars(raw, tier="priority") is None
    assert dollars(raw, tier="express") is None


def test_a_place_has_its_factor_or_no_price() -> None:
    raw = tokens(input_tokens=MILLION)

    assert dollars({**raw, "inference_geo": "global"}) == 5
    assert dollars({**raw, "inference_geo": "us"}) == Decimal("5.5")
    assert dollars({**raw, "inference_geo": "us", "service_tier": "batch"}) == Decimal("2.75")
    assert dollars({**raw, "inference_geo": "mars"}) is None
    assert dollars({**raw, "inference_geo": "us"}, "claude-opus-4-5") is None


def test_fast_mode_has_its_own_rates_or_no_price() -> None:
    raw = tokens(input_tokens=MILLION, cache_read_input_tokens=MILLION, speed="fast")

    assert dollars(raw, "claude-opus-5-5") == Decimal("8.4")
    assert dollars(raw, "claude-sonnet-5-5") is None
    assert dollars({**raw, "speed": "warp"}) is None
    assert dollars(raw, "claude-opus-5-5", tier="batch") is None


def test_a_long_prompt_raises_the_price_of_the_whole_request() -> None:
    short = tokens(input_tokens=60_000, cache_read_input_tokens=40_000, output_tokens=MILLION)
    long = {**short, "input_tokens": 60_001}

    assert dollars(short, "claude-haiku-5-5") == Decimal("0.5064")
    assert dollars(long, "claude-haiku-5-5") == Decimal("2.5") + Decimal("0.0300005") + Decimal("0.002")


def test_a_prompt_that_is_long_only_as_a_sum_of_several_is_unpriced() -> None:
    entry = {"type": "message", "input_tokens": 60_000, "output_tokens": 1}
    raw = tokens(input_tokens=120_000, output_tokens=2, iterations=[entry, entry])

    assert dollars(raw, "claude-haiku-5-5") is None
    assert dollars(raw, "claude-sonnet-5-5") is not None
    assert dollars({**raw, "iterations": [{**entry, "input_tokens": 120_000}]}, "claude-haiku-5-5") is not None


def test_compaction_and_the_advisor_are_paid_at_their_own_models() -> None:
    raw = tokens(
        input_tokens=MILLION,
        iterations=[
            {"type": "message", "input_tokens": MILLION, "output_tokens": 0},
            {"type": "compaction", "input_tokens": MILLION, "output_tokens": 0},
            {"type": "advisor_message", "model": "claude-fable-5", "input_tokens": MILLION, "output_tokens": 0},
        ],
    )

    assert dollars(raw) == 5 + 5 + 10
    raw["iterations"][2]["model"] = "claude-unknown"
    assert dollars(raw) is None
    raw["iterations"] = [{"type": "dream"}]
    assert dollars(raw) is None


def fallback(declined_output: Any) -> Any:
    return tokens(
        input_tokens=MILLION,
        iterations=[
            {"type": "message", "model": "claude-fable-5", "input_tokens": MILLION, "output_tokens": declined_output},
            {"type": "fallback_message", "model": "claude-opus-4-8", "input_tokens": MILLION, "output_tokens": 0},
        ],
    )


def test_a_fallback_is_paid_at_the_model_that_served_it() -> None:
    assert dollars(fallback(declined_output=MILLION), "claude-fable-5") == 5 + 10 + 50


def test_a_declined_attempt_without_output_is_unpriced_for_its_category_decides() -> None:
    assert dollars(fallback(declined_output=0), "claude-fable-5") is None


@pytest.mark.parametrize(
    ("category", "expected"), [("cyber", 0), (None, 0), ("general_harms", 0), ("bio", 5), ("novel", None)]
)
def test_a_refusal_before_any_output_is_free_or_billed_by_its_category(category: Any, expected: Any) -> None:
    details = {"type": "refusal", "category": category}

    assert dollars(tokens(input_tokens=MILLION), stop_details=details) == expected
    assert dollars(tokens(output_tokens=MILLION), stop_details=details) == 25


def test_a_refusal_before_the_first_rule_is_unpriced() -> None:
    at = dt.datetime(2026, 5, 29, tzinfo=dt.UTC)
    details = {"type": "refusal", "category": "cyber"}

    assert dollars(tokens(input_tokens=1), "claude-opus-4-8", at=at, stop_details=details) is None


@pytest.mark.parametrize("raw", [{}, {"input_tokens": 5}, {"output_tokens": 5}, {"input_tokens": None}])
def test_a_usage_that_does_not_tell_is_unpriced(raw: Any) -> None:
    assert price(raw, "claude-opus-5", None, NOVEMBER) is None


def test_a_negative_counter_is_unpriced() -> None:
    assert price(tokens(input_tokens=-1), "claude-opus-5", None, NOVEMBER) is None


@given(st.integers(0, 10**400), st.integers(0, 10**400))
def test_the_cost_is_exact_for_counts_of_any_size(read: Any, written: Any) -> None:
    cost = price(tokens(input_tokens=read, output_tokens=written), "claude-opus-5", None, NOVEMBER)

    assert cost is not None
    assert cost.picodollars == 5_000_000 * read + 25_000_000 * written


def test_a_cost_that_no_event_can_hold_is_recorded_as_unpriced() -> None:
    """A count out of this world must not lose the response that told it."""
    most = (2**63 - 1) // 5_000_000
    for read, expected in ((most, most * 5_000_000), (most + 1, None)):
        for more in ({}, {"odd": 1}):
            event = usage_recorded(text_of(input_tokens=read, **more), "claude-opus-5", NOVEMBER)
            assert event.cost_picodollars == expected
            encode_event(event)


COUNTS = st.integers(0, 2**30) | st.sampled_from([0, 1, 100_000, 100_001])
USUAL: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"input_tokens": COUNTS, "output_tokens": COUNTS},
    optional={
        "cache_creation_input_tokens": COUNTS | st.none(),
        "cache_read_input_tokens": COUNTS | st.none(),
        "cache_creation": st.none()
        | st.fixed_dictionaries({}, optional={f"ephemeral_{life}_input_tokens": COUNTS for life in ("5m", "1h")}),
        "server_tool_use": st.none() | st.fixed_dictionaries({}, optional={"web_search_requests": st.integers(0, 9)}),
        "output_tokens_details": st.none() | st.fixed_dictionaries({"thinking_tokens": st.integers(-1, 9)}),
        "service_tier": st.sampled_from([None, "", *["standard"] * 4, "batch", "priority"]),
        "inference_geo": st.sampled_from([None, *["not_available"] * 4, "global", "us", "eu"]),
        "speed": st.sampled_from([None, *["standard"] * 4, "fast", "slow"]),
        "iterations": st.none() | st.just([]),
    },
)


@settings(max_examples=1_000)
@example({"input_tokens": 99_999, "output_tokens": 9, "cache_read_input_tokens": 1}, "claude-haiku-5-5", NOVEMBER, b"")
@example({"input_tokens": 200_001, "output_tokens": 9, "speed": "fast"}, "claude-opus-4-6", FEBRUARY, b"null")
@example({"input_tokens": 1, "output_tokens": 1, "cache_creation_input_tokens": 2}, "claude-opus-5", NOVEMBER, b"")
@given(
    USUAL,
    st.sampled_from(["claude-opus-5", "claude-opus-4-6", "claude-haiku-5-5", "claude-sonnet-5-5", "unheard-of"]),
    st.integers(1_704_067_200_000, 1_798_761_600_000),  # 2024 to 2026
    st.sampled_from([b"", b"null", b'{"type":"refusal","category":"cyber"}']),
)
def test_what_is_recorded_costs_what_the_table_says(raw: Any, model: Any, at: Any, stop_details: Any) -> None:
    """Usual responses are priced in a quicker way."""
    details = json.loads(stop_details or b"null")

    event = usage_recorded(json.dumps(raw).encode(), model, at, stop_details=stop_details)

    cost = price(raw, model, None, at, stop_details=details)
    assert event.cost_picodollars == (cost.picodollars if cost else None)
    assert event.prices == (cost.table_version if cost else "")
    assert event.tier == (raw.get("service_tier") or "")


def test_every_shipped_price_names_its_sources_and_halves_in_batches(table: Any) -> None:
    assert table.version
    assert all(source.address.startswith("https://") and source.retrieved for source in table.sources.values())
    for entry in table.price:
        assert entry.sources
        assert entry.batch == Decimal("0.5")
        assert entry.rates.output == 5 * entry.rates.input


def test_shipped_cache_writes_follow_the_published_multipliers(table: Any) -> None:
    cards = [card for entry in table.price for card in (entry.rates, entry.fast) if card]
    cards += [entry.long_prompt.rates for entry in table.price if entry.long_prompt]

    for card in cards:
        if card.input != Decimal("0.25"):  # Haiku 3's are rounded
            assert card.cache_write_5m == card.input * Decimal("1.25")
        assert card.cache_write_1h == 2 * card.input
        assert card.cache_read <= card.input * Decimal("0.12")


def test_repricing_gives_each_recorded_usage_its_cost_by_another_table(tmp_path: Any) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(OVERRIDE)
    recorded = [
        RecordedUsage(tokens(input_tokens=MILLION), "claude-opus-5", "standard", NOVEMBER),
        RecordedUsage(tokens(input_tokens=MILLION), "claude-unknown", None, 0),
    ]

    new = load_prices(path)

    assert list(reprice(recorded, load_prices())) == [Cost(5 * DOLLAR, load_prices().version), None]
    assert list(reprice(recorded, new)) == [Cost(DOLLAR, new.version), None]


def test_an_override_replaces_the_models_it_names_and_leaves_the_others(tmp_path: Any) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(OVERRIDE)
    new = load_prices(path)

    assert new.version == f"{load_prices().version}+house-1"
    assert dollars(tokens(output_tokens=MILLION), table=new) == 2
    assert dollars(tokens(output_tokens=MILLION), "house-model", table=new) == 2
    assert dollars(tokens(output_tokens=MILLION), "claude-opus-4-8", table=new) == 25
    assert dollars(tokens(server_tool_use={"web_search_requests": 100}), table=new) == 1
    assert dollars(tokens(input_tokens=1), tier="batch", table=new) is None


def test_the_environment_names_an_override(tmp_path: Any, monkeypatch: Any) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(OVERRIDE)
    monkeypatch.setenv(OVERRIDE_VARIABLE, str(path))

    assert dollars(tokens(output_tokens=MILLION)) == 2


def test_a_price_below_a_picodollar_a_token_is_rounded_once(tmp_path: Any) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(OVERRIDE.replace("input = 1", "input = 0.0000005"))

    cost = price(tokens(input_tokens=3), "house-model", None, NOVEMBER, table=load_prices(path))

    assert cost is not None
    assert cost.picodollars == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda _: "", "version"),
        (lambda _: "][", "nothing was priced"),
        (lambda text: text.replace('version = "house-1"', 'version = ""'), "version"),
        (lambda text: text.replace('sources = ["contract"]', "sources = []"), "source"),
        (lambda text: text.replace('["contract"]', '["rumour"]'), "source"),
        (lambda text: text.replace("input = 1", "input = -1"), "negative"),
        (lambda text: text.replace("input = 1", "input = nan"), "no number"),
        (lambda text: text.replace("input = 1", 'input = "x"'), "input"),
        (lambda text: text.replace("input = 1", "inputs = 1"), "input"),
        (lambda text: text.replace('"house-model"', '"claude-opus-5", "claude-opus-5"'), "two prices for"),
        (lambda text: f"{text}[[price]]{text.split('[[price]]')[1]}", "two prices for"),
    ],
)
def test_an_override_that_cannot_be_used_is_an_error_that_names_it(tmp_path: Any, change: Any, reason: Any) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(change(OVERRIDE))

    with pytest.raises(PriceTableError, match=reason) as raised:
        load_prices(path)
    assert str(path) in str(raised.value)


def test_a_missing_override_is_an_error_that_names_it(tmp_path: Any) -> None:
    with pytest.raises(PriceTableError, match=r"nowhere\.toml"):
        load_prices(tmp_path / "nowhere.toml")
