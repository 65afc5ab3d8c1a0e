from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session.events import (
    AnyEvent,
    BlockReceived,
    HistoryRewound,
    MessageAppended,
    PromptChanged,
    RequestSent,
    ResponseReceived,
    ToolReturned,
)
from session.fold import Fold
from session.summary import from_snapshot, summarize, summary_of, to_snapshot
from tests.session.histories import (
    ASK,
    USAGE,
    answered,
    called,
    folded,
    forward,
    histories,
    results,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


@given(st.lists(forward, max_size=30), st.lists(forward, max_size=30))
def test_a_snapshot_goes_on_as_the_fold_of_everything(before: list[AnyEvent], after: list[AnyEvent]) -> None:
    resumed = _resumed(before, after)
    assert summary_of(resumed) == summarize(folded(*before, *after))


@given(histories, histories)
def test_a_snapshot_is_right_or_says_that_it_cannot_know(before: list[AnyEvent], after: list[AnyEvent]) -> None:
    summary = summary_of(_resumed(before, after))
    assert summary is None or summary == summarize(folded(*before, *after))


@given(histories)
def test_a_snapshot_of_a_resumed_fold_goes_on_like_any(events: list[AnyEvent]) -> None:
    growing: Fold | None = Fold()
    for event in events:
        assert growing is not None
        growing.add(event, 1_000)
        data = to_snapshot(growing)
        if data is None:
            return
        growing = from_snapshot(data)
    assert growing is not None
    assert summary_of(growing) == summarize(folded(*events))


def test_a_rewind_behind_a_snapshot_needs_the_whole_history() -> None:
    before = (ASK, called("a"), MessageAppended.of(results("a")), answered())
    for kept in (1, 2, 3):
        assert summary_of(_resumed(before, [HistoryRewound(kept)])) is None
        assert to_snapshot(_resumed(before, [HistoryRewound(kept)])) is None
    for kept in (0, 4):
        summary = summary_of(_resumed(before, [HistoryRewound(kept)]))
        assert summary == summarize(folded(*before, HistoryRewound(kept)))


def test_a_snapshot_holds_no_bytes_of_messages() -> None:
    marker = b"MARKER-OF-CONTENT"
    block = b'{"type":"tool_use","id":"a","x":"' + marker + b'"}'
    growing = Fold()
    for event in (
        MessageAppended.of({"role": "user", "content": marker.decode()}),
        ResponseReceived("r", content=b"[" + block + b"]", tool_uses=("a",)),
        ToolReturned("a", marker),
        BlockReceived("r2", 0, marker),
        PromptChanged(system=marker, tools=marker, parameters=marker),
    ):
        growing.add(event, 1)
        assert marker not in (to_snapshot(growing) or marker)


def test_the_size_of_a_snapshot_does_not_grow_with_the_history() -> None:
    growing = Fold()
    sizes = []
    for _ in range(2_000):
        for event in (ASK, RequestSent("r1", 1), USAGE, answered("r1", "msg_1")):
            growing.add(event, 1_700_000_000_000)
        sizes.append(len(to_snapshot(growing) or b""))
    assert sizes[-1] - sizes[1] < 40


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x80", b"{}", b"\x81\xa2id\x01"])
def test_what_is_no_snapshot_is_none(data: bytes) -> None:
    assert from_snapshot(data) is None


def _resumed(before: Sequence[AnyEvent], after: Sequence[AnyEvent]) -> Fold:
    growing = Fold()
    for event in before:
        growing.add(event, 1_000)
    data = to_snapshot(growing)
    assert data is not None
    resumed = from_snapshot(data)
    assert resumed is not None
    for event in after:
        resumed.add(event, 1_000)
    return resumed
