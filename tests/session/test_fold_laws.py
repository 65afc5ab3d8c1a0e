from __future__ import annotations

import gc
import itertools
import re
import sys
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings

from session.codec import decode_event, encode_event
from session.events import (
    EVENT_CLASSES,
    AnyEvent,
    BlockReceived,
    HistoryRewound,
    MetadataUpdated,
    RequestSent,
    ResponseInterrupted,
    ResponseReceived,
    ToolReturned,
    ToolStarted,
    stored,
)
from session.fold import Fold
from session.saving import plan_save
from tests.session.histories import (
    AGAIN,
    ASK,
    CALL,
    RESULT,
    USAGE,
    answered,
    folded,
    histories,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType


def test_the_generated_histories_have_every_event() -> None:
    seen: set[str] = set()

    @settings(max_examples=300, database=None)
    @given(histories)
    def look(events: list[AnyEvent]) -> None:
        seen.update(event.type for event in events)

    look()
    assert seen >= set(EVENT_CLASSES)


@given(histories, histories)
def test_folding_goes_on_from_any_state(before: list[AnyEvent], after: list[AnyEvent]) -> None:
    assert folded(*before, *after) == folded(*after, start=folded(*before))


@given(histories)
def test_the_state_at_k_is_the_fold_of_the_first_k(events: list[AnyEvent]) -> None:
    growing = Fold()
    for count, event in enumerate(stored(events, recorded_at=1_000), 1):
        growing.add(event.event, event.recorded_at)
        assert growing.state() == folded(*events[:count])


@given(histories)
def test_stored_events_fold_as_the_ones_they_were(events: list[AnyEvent]) -> None:
    assert folded(*(decode_event(*encode_event(event)) for event in events)) == folded(*events)


@given(histories)
def test_every_message_is_made_of_bytes_that_were_appended(events: list[AnyEvent]) -> None:
    given_bytes = b"".join(encode_event(event)[1] for event in events)
    for message in folded(*events).messages.entries:
        if message.raw not in given_bytes:  # it was joined, or its content came as a whole
            content = message.raw.split(b'"content":', 1)[1].removesuffix(b"}")
            joined = re.fullmatch(
                rb"\[((%b),?)*\]" % b"|".join(map(re.escape, (*CALL.values(), *RESULT.values()))), content
            )
            assert joined or content in given_bytes


@given(histories)
def test_turns_are_numbered_and_in_order(events: list[AnyEvent]) -> None:
    turns = folded(*events).turns
    assert [turn.number for turn in turns] == list(range(1, len(turns) + 1))
    assert all(turn.first <= turn.last for turn in turns)
    assert all(before.last < after.first for before, after in itertools.pairwise(turns))


@given(histories, histories)
def test_a_saved_state_is_what_the_fold_gives_back(before: list[AnyEvent], wanted: list[AnyEvent]) -> None:
    was, new = folded(*before), folded(*wanted)
    state = folded(*plan_save(was, new), start=was)
    assert plan_save(state, new) == []
    assert state.messages == new.messages
    assert (state.metadata, state.usage) == (new.metadata, new.usage)
    created = folded(*plan_save(None, new))
    assert (created.id, created.parent_id, created.messages) == (new.id, new.parent_id, new.messages)


def test_an_event_costs_the_same_at_any_length_of_history() -> None:
    """Bytecodes are counted, not time: twice the events may take twice as many, and a little."""
    turn = (
        ASK,
        RequestSent("r1", 1),
        BlockReceived("r1", 0, CALL["a"], "a"),
        USAGE,
        ResponseReceived("r1", "msg_1", "m", "tool_use", blocks=1),
        ToolStarted("a"),
        ToolReturned("a", RESULT["a"]),
        RequestSent("r2", 1),
        ResponseInterrupted("r2", "cut"),
        MetadataUpdated(b'{"title":"t"}'),
        AGAIN,
        HistoryRewound(10**9),
        answered("r3", "msg_2"),
    )
    short, long = (_bytecodes_of_fold(turn * turns) for turns in (20, 200))
    assert long < short * 10 * 1.05


def _bytecodes_of_fold(events: Sequence[AnyEvent]) -> int:
    growing = Fold()
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    gc.disable()
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        for event in events:
            growing.add(event, 1)
    finally:
        sys.settrace(before)
        gc.enable()
    return count
