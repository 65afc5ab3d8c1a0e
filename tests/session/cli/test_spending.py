"""What was used and what it cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session.events import (
    AnyEvent,
    BlockReceived,
    MessageAppended,
    RequestSent,
    ResponseReceived,
    ToolReturned,
    ToolStarted,
    UsageRecorded,
    stored,
)
from session.fold import fold
from session.spending import NO_TOOL, Line, Spending, cache_hit_share, shared
from session.usage import Usage, total
from tests.session.cli.cli_kit import MODEL, turn
from tests.session.histories import histories

DAY = 86_400_000
usages = st.builds(
    lambda counters, cost, unpriced: Usage(tuple(sorted((k, v) for k, v in counters.items() if v)), cost, unpriced),
    st.dictionaries(st.sampled_from("abc"), st.integers(-9, 10**20)),
    st.integers(-9, 10**15),
    st.integers(0, 5),
)


def spent(*histories: list[AnyEvent], recorded_at: int = 0) -> dict[tuple[str, str], Line]:
    spending = Spending()
    for number, history in enumerate(histories):
        for event in history:
            spending.add(f"s{number}", event, recorded_at)
    return {(line.by, line.key): line for line in spending.lines()}


@given(st.lists(histories, max_size=3))
def test_every_group_adds_up_to_the_whole_and_the_whole_to_what_the_folds_say(histories: list[list[AnyEvent]]) -> None:
    lines = spent(*histories).values()
    whole = next(line for line in lines if line.by == "total")
    folds = [fold(stored(history)) for history in histories]
    assert whole.usage == total(state.usage for state in folds)
    for group in ("day", "model", "tool", "session"):
        assert total(line.usage for line in lines if line.by == group) == whole.usage


@given(usages, st.integers(1, 7))
def test_a_shared_usage_adds_up_exactly_and_is_shared_evenly(usage: Usage, count: int) -> None:
    parts = shared(usage, count)
    assert len(parts) == count
    assert total(parts) == usage
    costs = [part.cost_picodollars for part in parts]
    assert max(costs) - min(costs) <= 1


def test_a_response_is_paid_for_by_the_tools_it_called() -> None:
    lines = spent([*turn(1, tools=("bash", "read")), *turn(2)])
    assert lines["tool", "bash"].usage.cost_picodollars == lines["tool", "read"].usage.cost_picodollars == 500_000_000
    assert lines["tool", NO_TOOL].usage.cost_picodollars == 1_000_000_000
    assert lines["tool", "bash"].calls == 1
    assert lines["model", MODEL].responses == 2


def test_tools_of_a_streamed_response_and_of_an_imported_message_are_known_too() -> None:
    block = b'{"type":"tool_use","id":"t1","name":"grep","input":{}}'
    streamed: list[AnyEvent] = [
        RequestSent("r1", 1),
        BlockReceived("r1", 0, block, "t1"),
        UsageRecorded(b'{"input_tokens":6}', model=MODEL, cost_picodollars=6, request_id="r1"),
        ResponseReceived("r1", blocks=1),
    ]
    imported: list[AnyEvent] = [
        UsageRecorded(b'{"input_tokens":1}', model=MODEL, cost_picodollars=1),
        MessageAppended.of(b'{"role":"assistant","content":[' + block + b"]}", said_at=3 * DAY),
    ]
    lines = spent(streamed, imported, recorded_at=DAY)
    assert lines["tool", "grep"].usage.cost_picodollars == 7
    assert lines["tool", "grep"].calls == 2
    assert lines["day", "1970-01-02"].usage.cost_picodollars == 6
    assert lines["day", "1970-01-04"].usage.cost_picodollars == 1, "when it was said, not when it was imported"


def test_failed_tools_and_their_time_are_counted() -> None:
    lines = spent([*turn(1, tools=("bash",)), ToolStarted("t9", "bash"), ToolReturned("t9", b"{}", True, 1_500)])  # noqa: FBT003
    assert (lines["tool", "bash"].errors, lines["tool", "bash"].seconds) == (1, 1.5)


def test_an_unpriced_response_is_counted_and_costs_nothing() -> None:
    line = spent([UsageRecorded(b'{"input_tokens":5}', model="m")])["model", "m"]
    assert (line.usage.cost_picodollars, line.usage.unpriced, line.usage.input_tokens) == (0, 1, 5)


@pytest.mark.parametrize(
    ("counters", "share"),
    [((), None), ((("input_tokens", 1),), 0.0), ((("cache_read_input_tokens", 3), ("input_tokens", 1)), 0.75)],
)
def test_the_cache_hit_share_is_of_all_input(counters: tuple[tuple[str, int], ...], share: float | None) -> None:
    assert cache_hit_share(Usage(counters)) == share
