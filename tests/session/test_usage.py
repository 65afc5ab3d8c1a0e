import json
import math
import pickle
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session import jsontext
from session.usage import Share, Tally, Usage, shares, total

RAW = {
    "input_tokens": 10,
    "output_tokens": 200,
    "cache_creation_input_tokens": 7,
    "cache_read_input_tokens": 9,
    "cache_creation": {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 2},
    "server_tool_use": {"web_search_requests": 3, "web_fetch_requests": 0},
    "output_tokens_details": {"thinking_tokens": 150},
    "service_tier": "standard",
    "inference_geo": None,
}

counts = st.integers(-(10**30), 10**400)
names = st.sampled_from(["input_tokens", "output_tokens", "new", "a/b", "a~b", "~1", "é", ""])
raws = st.builds(
    lambda flat, nested: {**flat, **nested},
    st.dictionaries(names, counts | st.sampled_from([None, True, "standard", 1.5, float("nan")]), max_size=5),
    st.dictionaries(st.sampled_from(["nested", "deep/er"]), st.dictionaries(names, counts, max_size=3)),
)
usages = st.builds(Usage.from_raw, raws, st.none() | st.integers(0, 10**30))


def with_iterations(*entries: Any, **top: Any) -> Any:
    return {"input_tokens": 100, "output_tokens": 10, **top, "iterations": list(entries)}


def iteration(kind: Any, tokens: Any = 50, *, model: Any = None, **more: Any) -> Any:
    entry = {"type": kind, "input_tokens": tokens, "output_tokens": 5, **more}
    return entry if model is None else {**entry, "model": model}


def test_every_counter_is_kept_and_summed() -> None:
    usage = Usage.from_raw(RAW, 5) + Usage.from_raw(RAW, 6)

    assert usage.to_dict() == {
        "input_tokens": 20,
        "output_tokens": 400,
        "cache_creation_input_tokens": 14,
        "cache_read_input_tokens": 18,
        "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 4},
        "server_tool_use": {"web_search_requests": 6},
        "output_tokens_details": {"thinking_tokens": 300},
        "total_cost_usd": 1.1e-11,
    }


def test_a_counter_that_no_one_knows_yet_is_summed_too() -> None:
    usage = Usage.from_raw({"dreams": {"deep": {"counted": 2}}}, 0)

    assert (usage + usage).to_dict()["dreams"] == {"deep": {"counted": 4}}


def test_what_is_no_integer_is_no_counter() -> None:
    assert Usage.from_raw({"a": True, "b": 1.5, "c": "3", "d": None, "e": [7], "f": {"g": False}}, 0) == Usage()


def test_null_absent_and_zero_are_the_same() -> None:
    assert Usage.from_raw({"input_tokens": 0}, 0) == Usage.from_raw({"input_tokens": None}, 0) == Usage.from_raw({}, 0)


def test_the_four_token_counters_are_always_shown() -> None:
    assert Usage().to_dict() == {
        "input_tokens": 0,
        "output_tokens": 0,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "total_cost_usd": 0.0,
    }


def test_the_token_counters_have_names() -> None:
    usage = Usage.from_raw(RAW, 0)

    assert (usage.input_tokens, usage.output_tokens) == (10, 200)
    assert (usage.cache_creation_input_tokens, usage.cache_read_input_tokens) == (7, 9)
    assert usage.counter("cache_creation/ephemeral_1h_input_tokens") == 2
    assert usage.counter("never_seen") == 0


def test_an_unpriced_response_is_counted_and_costs_nothing() -> None:
    usage = Usage.from_raw(RAW, 7) + Usage.from_raw(RAW) + Usage.from_raw(RAW, None)

    assert (usage.cost_picodollars, usage.unpriced) == (7, 2)
    assert usage.to_dict()["unpriced"] == 2


def test_a_free_response_is_not_unpriced() -> None:
    assert Usage.from_raw(RAW, 0).unpriced == 0


def test_integers_of_400_digits_are_added_exactly() -> None:
    huge = 10**400 + 1
    usage = Usage.from_raw({"input_tokens": huge}, huge)

    assert (usage + usage).input_tokens == 2 * huge
    assert (usage + usage).total_cost_usd == sys.float_info.max
    assert (Usage() - usage).total_cost_usd == -sys.float_info.max
    assert math.isfinite(json.loads(json.dumps(usage.to_dict()))["total_cost_usd"])


@pytest.mark.parametrize("digits", [1_001, 4_300])
def test_what_no_one_can_have_counted_is_no_counter(digits: int) -> None:
    """Sums of such would have more digits than Python writes, and no storage could keep them."""
    huge = 10 ** (digits - 1)
    tally = Tally()
    for count in (huge, -huge, 5):
        tally.add_text(b'{"input_tokens":%d,"cache_creation":{"new":%d}}' % (count, count), 1)
        tally.add_raw({"output_tokens": count}, 1)

    assert tally.usage().counters == (("cache_creation/new", 5), ("input_tokens", 5), ("output_tokens", 5))
    assert Usage.from_dict({"input_tokens": huge, "output_tokens": 1}).counters == (("output_tokens", 1),)
    assert Usage.from_raw({"input_tokens": huge // 10**2}).input_tokens == (huge // 10**2 if digits == 1_001 else 0)


def test_usage_nested_2000_deep_is_counted() -> None:
    raw: dict[str, Any] = {"input_tokens": 1}
    for _ in range(2000):
        raw = {"deeper": raw}

    assert sum(count for _, count in Usage.from_raw(raw, 0).counters) == 1


def test_the_dollars_are_the_picodollars() -> None:
    assert Usage(cost_picodollars=1_234_567_890_123).total_cost_usd == 1.234567890123


def test_a_usage_is_a_value() -> None:
    usage = Usage.from_raw(RAW, 5)

    assert hash(usage) == hash(Usage.from_raw(RAW, 5))
    assert pickle.loads(pickle.dumps(usage)) == usage
    assert usage
    assert not Usage()
    with pytest.raises(AttributeError):
        usage.unpriced = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        usage + 1  # type: ignore[operator]


@given(usages, usages, usages)
def test_usages_form_a_group(a: Any, b: Any, c: Any) -> None:
    assert a + Usage() == a
    assert a + b == b + a
    assert (a + b) + c == a + (b + c)
    assert (a + b) - b == a
    assert total([a, b, c]) == a + b + c


@given(st.lists(st.tuples(raws, st.none() | st.integers(0, 10**30)), max_size=4))
def test_a_tally_is_the_sum(recorded: Any) -> None:
    tally = Tally()
    for raw, cost in recorded:
        tally.add_raw(raw, cost)
    before = tally.usage()
    tally.add_raw({"input_tokens": 1}, 1)

    assert before == total(Usage.from_raw(raw, cost) for raw, cost in recorded)
    assert Tally(before).usage() == before


COUNTERS = {
    "": ["input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"],
    "cache_creation": ["ephemeral_1h_input_tokens", "ephemeral_5m_input_tokens"],
    "server_tool_use": ["web_fetch_requests", "web_search_requests"],
    "output_tokens_details": ["thinking_tokens"],
}
texts = st.none() | st.sampled_from(["standard", "é"])
usual = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(COUNTERS[""][:2], counts),
        **dict.fromkeys(COUNTERS[""][2:], counts | st.none()),
        **{
            name: st.none() | st.fixed_dictionaries({}, optional=dict.fromkeys(COUNTERS[name], counts))
            for name in list(COUNTERS)[1:]
        },
        **dict.fromkeys(["service_tier", "inference_geo", "speed"], texts),
    },
)
odd = st.dictionaries(
    st.sampled_from([*COUNTERS, *COUNTERS[""], "iterations", "new", "service_tier"]),
    st.none() | st.booleans() | st.floats() | st.just([7]) | st.just({"new": 3}) | st.just("\ud800") | counts,
    max_size=2,
)


@given(usual, odd)
def test_a_usage_counts_the_same_as_text_and_as_an_object(known: Any, more: Any) -> None:
    for raw in (known, {**known, **more}):
        text = jsontext.encode(raw)
        tally = Tally()
        tally.add_text(text, 7)
        tally.add_text(text, None)

        assert tally.usage() == Usage.from_raw(raw, 7) + Usage.from_raw(raw)


@pytest.mark.parametrize("text", [b"", b"[1]", b"7", b"{", b'{"input_tokens":1}{}', b"\xff"])
def test_a_text_that_is_no_object_counts_nothing_but_its_cost(text: Any) -> None:
    tally = Tally()
    tally.add_text(text, 7)

    assert tally.usage() == Usage((), 7)


@given(st.dictionaries(names, counts), st.integers(0, 10**15), st.integers(0, 5))
def test_the_seed_s_form_of_a_usage_round_trips(raw: Any, picodollars: Any, unpriced: Any) -> None:
    usage = Usage(Usage.from_raw(raw, 0).counters, picodollars, unpriced)

    assert Usage.from_dict(json.loads(json.dumps(usage.to_dict()))) == usage


def test_a_usage_written_by_the_seed_is_read() -> None:
    stored = {
        "input_tokens": 3,
        "output_tokens": 4,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "total_cost_usd": 0.0123,
    }

    usage = Usage.from_dict(stored)

    assert (usage.input_tokens, usage.cost_picodollars, usage.to_dict()) == (3, 12_300_000_000, stored)


def test_a_stored_usage_without_a_cost_has_none() -> None:
    assert Usage.from_dict({"input_tokens": 3, "total_cost_usd": None}).cost_picodollars == 0


@pytest.mark.parametrize("cost", [float("nan"), float("inf"), "0.1", True, [1]])
def test_a_stored_cost_that_is_no_number_is_refused(cost: Any) -> None:
    with pytest.raises(ValueError, match="total_cost_usd"):
        Usage.from_dict({"total_cost_usd": cost})


def test_a_stored_unpriced_count_that_is_no_integer_is_refused() -> None:
    with pytest.raises(ValueError, match="unpriced"):
        Usage.from_dict({"unpriced": "many"})


def test_compaction_is_counted_for_the_top_level_omits_it() -> None:
    raw = with_iterations(iteration("compaction", 5000), iteration("message", 100, output_tokens=10))

    usage = Usage.from_raw(raw, 0)

    assert (usage.input_tokens, usage.output_tokens) == (5100, 15)


def test_the_iterations_that_the_top_level_holds_are_not_counted_twice() -> None:
    raw = with_iterations(iteration("message", 60), iteration("message", 40))

    assert Usage.from_raw(raw, 0).input_tokens == 100


def test_a_top_level_that_holds_the_first_iteration_only_gives_way_to_their_sum() -> None:
    raw = with_iterations(iteration("message", 100), iteration("message", 900))

    assert Usage.from_raw(raw, 0).input_tokens == 1000


def test_an_advisor_is_counted_at_its_own_model() -> None:
    found = shares(with_iterations(iteration("message", 100), iteration("advisor_message", 823, model="claude-opus-5")))

    assert found.omitted == [Share("advisor", "claude-opus-5", {"input_tokens": 823, "output_tokens": 5})]
    assert found.complete


def test_after_a_fallback_the_declined_attempt_is_counted_beside_the_top_level() -> None:
    raw = with_iterations(
        iteration("message", 535, model="claude-fable-5"),
        iteration("fallback_message", 100, model="claude-opus-4-8", output_tokens=10),
    )

    found = shares(raw)

    assert found.own.model == "claude-opus-4-8"
    assert [(share.kind, share.model) for share in found.omitted] == [("declined", "claude-fable-5")]
    assert Usage.from_raw(raw, 0).input_tokens == 635


def test_the_serving_model_s_earlier_iterations_are_its_own() -> None:
    raw = with_iterations(
        iteration("message", 70, model="claude-opus-4-8"),
        iteration("fallback_message", 30, model="claude-opus-4-8"),
    )

    assert not shares(raw).omitted


@pytest.mark.parametrize("entry", [{"type": "dream", "input_tokens": 9}, {"input_tokens": 9}, "text", None])
def test_an_iteration_of_an_unknown_kind_is_left_aside_and_said_so(entry: Any) -> None:
    raw = with_iterations(entry)

    assert not shares(raw).complete
    assert Usage.from_raw(raw, 0).input_tokens == 100


@pytest.mark.parametrize("iterations", [None, [], 0])
def test_no_iterations_are_no_iterations(iterations: Any) -> None:
    assert shares({"input_tokens": 1, "iterations": iterations}).complete


def test_usage_and_lint_do_not_import_the_sdk() -> None:
    import subprocess

    code = "import session.usage, session.lint, session.pricing, sys; sys.exit('anthropic' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
