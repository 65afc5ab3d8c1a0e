from __future__ import annotations

import pytest

from session import jsontext
from session.events import (
    BlockReceived,
    HistoryCompacted,
    HistoryRewound,
    MessageAppended,
    MetadataUpdated,
    PromptChanged,
    RepairedResult,
    RequestSent,
    ResponseInterrupted,
    ResponseReceived,
    SessionClosed,
    SessionCreated,
    SessionForked,
    SessionRepaired,
    ToolRefused,
    ToolReturned,
    ToolStarted,
    UnknownEvent,
    UsageRecorded,
    stored,
)
from session.fold import Fold, fold
from session.messages import Message
from session.metadata import MAX_DEPTH
from session.state import Pending, Prompt
from session.usage import Usage, total
from tests.session.histories import (
    AGAIN,
    ANSWER,
    ASK,
    CALL,
    RESULT,
    TEXT,
    USAGE,
    answered,
    called,
    folded,
    results,
)

# --- responses ------------------------------------------------------------------------------------------------------


def test_a_streamed_response_is_a_message_only_when_it_is_complete() -> None:
    running = (ASK, RequestSent("r1", 1), BlockReceived("r1", 0, TEXT), BlockReceived("r1", 1, CALL["a"], "a"))
    state = folded(*running)
    assert state.messages.raw == [ASK.message.raw]
    assert state.pending == Pending("request", request_id="r1")
    assert state.status == "running"
    assert [block.block for block in state.responses[0].blocks] == [TEXT, CALL["a"]]
    state = folded(*running, ResponseReceived("r1", "msg_1", "m", "tool_use", blocks=2))
    assert state.messages.raw[1] == b'{"role":"assistant","content":[' + TEXT + b"," + CALL["a"] + b"]}"
    assert state.pending == Pending("tool_use", ("a",))
    assert state.responses == ()


def test_blocks_are_joined_by_their_index() -> None:
    blocks = (BlockReceived("r1", 1, CALL["a"], "a"), BlockReceived("r1", 0, CALL["b"], "b"))
    state = folded(ASK, *blocks, ResponseReceived("r1", blocks=2))
    assert state.messages.entries[1].tool_uses == ("b", "a")


def test_a_response_that_misses_a_block_is_no_message() -> None:
    state = folded(ASK, BlockReceived("r1", 0, TEXT), ResponseReceived("r1", stop_reason="end_turn", blocks=2))
    assert len(state.messages) == 1
    assert state.pending == Pending("cut_response", request_id="r1")


def test_a_response_without_blocks_is_a_message_without_content() -> None:
    state = folded(ASK, RequestSent("r1", 1), ResponseReceived("r1", stop_reason="end_turn"))
    assert state.messages[1] == {"role": "assistant", "content": []}


def test_an_interrupted_response_stays_out_of_the_messages() -> None:
    events = (ASK, RequestSent("r1", 1), BlockReceived("r1", 0, CALL["a"], "a"), ResponseInterrupted("r1", "cut"))
    state = folded(*events)
    assert state.messages.raw == [ASK.message.raw]
    assert state.pending == Pending("cut_response", request_id="r1")
    assert state.status == "waiting"
    assert state.responses[0].blocks[0].block == CALL["a"]
    again = folded(*events, RequestSent("r2", 1), answered("r2"))
    assert len(again.messages) == 2
    assert again.responses == ()
    assert again.pending is None


def test_the_next_attempt_begins_without_the_blocks_of_the_one_before() -> None:
    failed = (RequestSent("r1", 1), BlockReceived("r1", 0, TEXT), ResponseInterrupted("r1", "error", 529))
    state = folded(ASK, *failed, RequestSent("r1", 1, attempt=2), BlockReceived("r1", 0, CALL["a"], "a"))
    assert [block.block for block in state.responses[0].blocks] == [CALL["a"]]


def test_an_interruption_of_what_is_complete_changes_nothing() -> None:
    state = folded(ASK, RequestSent("r1", 1), answered(), ResponseInterrupted("r1", "lost"))
    assert state.pending is None


@pytest.mark.parametrize("stop_reason", ["pause_turn", "compaction"])
def test_a_paused_turn_is_pending_unchanged(stop_reason: str) -> None:
    state = folded(ASK, answered(stop_reason=stop_reason))
    assert state.pending == Pending("pause_turn")
    assert state.messages.raw[1] == b'{"role":"assistant","content":' + ANSWER + b"}"


def test_a_refused_turn_stays_out_of_the_messages_and_in_the_turns() -> None:
    before = folded(ASK, answered())
    refused = (AGAIN, called("a"), ToolReturned("a", RESULT["a"]), answered("r2", "msg_no", "refusal"))
    state = folded(*refused, start=before)
    assert state.messages == before.messages
    assert state.refused_turns == 1
    assert state.stop_reason == "refusal"
    assert state.pending is None
    assert [turn.number for turn in state.turns] == [1, 2]
    assert folded(ASK, start=state).turns[-1].number == 3


# --- tools ----------------------------------------------------------------------------------------------------------


def test_results_are_joined_in_the_order_of_the_tool_uses() -> None:
    state = folded(ASK, called("a", "b", "c"), *(ToolReturned(name, RESULT[name]) for name in "cab"), USAGE)
    assert state.messages.raw[2:] == [results("a", "b", "c")]
    assert state.pending == Pending("message")
    assert state.tools
    assert not state.in_doubt


def test_a_partial_result_is_seen_and_the_rest_is_pending() -> None:
    state = folded(ASK, called("a", "b"), ToolStarted("a", "f"), ToolStarted("b", "f"), ToolReturned("b", RESULT["b"]))
    assert state.messages.raw[2:] == [results("b")]
    assert state.results_open
    assert state.pending == Pending("tool_use", ("a",))
    assert [(run.tool_use_id, run.name, run.started_version) for run in state.in_doubt] == [("a", "f", 3)]
    assert state.status == "running"


def test_a_refused_tool_has_its_result_in_the_message() -> None:
    state = folded(ASK, called("a"), ToolRefused("a", RESULT["a"], "not today"))
    assert state.messages.raw[2:] == [results("a")]
    assert state.tools[0].is_error


def test_repair_gives_the_missing_results_their_place() -> None:
    broken = folded(ASK, called("a", "b", "c"), ToolStarted("a"), ToolReturned("b", RESULT["b"]))
    added = tuple(RepairedResult(name, RESULT[name]) for name in "ca")
    state = folded(SessionRepaired(("tool_use_without_result",), added), start=broken)
    assert state.messages.raw[2:] == [results("a", "b", "c")]
    assert not state.in_doubt
    state = folded(AGAIN, start=state)
    assert state.messages.raw[2:] == [results("a", "b", "c"), AGAIN.message.raw]
    assert state.tools == ()


def test_the_tool_result_message_is_final_once_it_was_sent() -> None:
    sent = folded(ASK, called("a", "b"), ToolReturned("a", RESULT["a"]), RequestSent("r2", 3))
    assert not sent.results_open
    late = folded(ToolReturned("b", RESULT["b"]), start=sent)
    assert late.messages.raw == sent.messages.raw
    assert [run.tool_use_id for run in late.in_doubt] == ["b"]
    assert (sent.pending, late.pending) == (Pending("request", request_id="r2"), Pending("request", request_id="r2"))
    cut = folded(ResponseInterrupted("r2", "lost"), HistoryRewound(9), start=sent)
    assert cut.pending == Pending("tool_use", ("b",))
    assert folded(ToolReturned("b", RESULT["b"]), start=cut).pending == Pending("message")


def test_an_outcome_before_its_message_waits_for_it() -> None:
    early = folded(ASK, BlockReceived("r1", 0, CALL["a"], "a"), ToolStarted("a"), ToolReturned("a", RESULT["a"]))
    assert len(early.messages) == 1
    assert [run.tool_use_id for run in early.in_doubt] == ["a"]
    whole = folded(ResponseReceived("r1", stop_reason="tool_use", blocks=1), start=early)
    assert whole.messages.raw[2:] == [results("a")]
    assert not whole.in_doubt


def test_an_outcome_of_a_cut_response_is_in_doubt_and_not_sent() -> None:
    early = (BlockReceived("r1", 0, CALL["a"], "a"), ToolReturned("a", RESULT["a"]), ResponseInterrupted("r1", "cut"))
    state = folded(ASK, *early, RequestSent("r2", 1), answered("r2"))
    assert len(state.messages) == 2
    assert [(run.tool_use_id, run.result) for run in state.in_doubt] == [("a", RESULT["a"])]


def test_a_message_that_brings_results_replaces_the_collected_ones() -> None:
    own = MessageAppended.of(results("b", "a"))
    state = folded(ASK, called("a", "b"), ToolReturned("a", RESULT["a"]), ToolStarted("b"), own)
    assert state.messages.raw[2:] == [own.message.raw]
    assert state.tools == ()
    assert state.pending == Pending("message")


def test_collected_results_stand_before_a_message_without_them() -> None:
    state = folded(ASK, called("a", "b"), ToolReturned("a", RESULT["a"]), AGAIN)
    assert state.messages.raw[2:] == [results("a"), AGAIN.message.raw]
    assert state.pending == Pending("tool_use", ("b",))


# --- usage, metadata, prompt ----------------------------------------------------------------------------------------


def test_usage_adds_up_and_an_unknown_price_is_counted() -> None:
    unpriced = UsageRecorded(b'{"input_tokens":1,"later_counter":{"x":2}}')
    state = folded(USAGE, USAGE, unpriced, UsageRecorded(b"[", cost_picodollars=1))
    assert state.usage.counter("input_tokens") == 15
    assert state.usage.counter("later_counter/x") == 2
    assert (state.usage.cost_picodollars, state.usage.unpriced) == (23, 1)


def test_usage_of_a_tree_of_forks_counts_nothing_twice() -> None:
    root = folded(SessionCreated("root"), ASK, USAGE, USAGE)
    child = folded(SessionForked("child", "root", root.version), USAGE, start=root)
    grandchild = folded(SessionForked("grandchild", "child", child.version), USAGE, start=child)
    assert grandchild.usage.counter("input_tokens") == 28
    assert total([root.own_usage, child.own_usage, grandchild.own_usage]).counter("input_tokens") == 28
    assert grandchild.own_usage == child.own_usage


def test_a_fork_has_its_own_id_parent_and_beginning() -> None:
    parent = folded(SessionCreated("p", 5, "grand"), ASK, RequestSent("r1", 1), BlockReceived("r1", 0, TEXT))
    assert (parent.id, parent.parent_id, parent.created_at) == ("p", "grand", 5)
    child = fold(stored([SessionForked("c", "p", 4)], after=4, recorded_at=9), parent)
    assert (child.id, child.parent_id, child.forked_at, child.created_at, child.updated_at) == ("c", "p", 4, 9, 9)
    assert child.pending == Pending("cut_response", request_id="r1")  # the rest of it comes to the parent
    assert child.messages == parent.messages


def test_metadata_is_set_and_removed_key_by_key() -> None:
    state = folded(
        MetadataUpdated(rb'{"title":"x","\ud800":1.10,"n":null}'),
        MetadataUpdated(b'{"n":[1]}', rb'["title","never there"]'),
        MetadataUpdated(b"{", b"[]"),
    )
    assert state.metadata == {"\ud800": 1.1, "n": [1]}
    assert state.unknown_events == 1


@pytest.mark.parametrize("depth", [1, MAX_DEPTH, MAX_DEPTH + 1, *range(900, 1_000, 7), 5_000])
@pytest.mark.parametrize("marks", [(b"[", b"]"), (b'{"]":', b"}")])
def test_metadata_of_any_depth_has_a_state_that_is_gone_on_from(depth: int, marks: tuple[bytes, bytes]) -> None:
    text = marks[0] * depth + b"0" + marks[1] * depth
    state = folded(MetadataUpdated(b'{"tags":' + text + b"}"))
    assert isinstance(state.metadata["tags"], jsontext.Unreadable) == (depth > MAX_DEPTH)
    assert folded(ASK, start=state).metadata == state.metadata
    assert jsontext.encode(state.metadata["tags"]) == text


def test_the_prompt_keeps_what_a_change_does_not_name() -> None:
    state = folded(PromptChanged(model="m", system=b'"s"', tools=b"[]"), PromptChanged(system=b""))
    assert state.prompt == Prompt("m", b"", b"[]", b"")


def test_unknown_events_are_counted_and_skipped() -> None:
    state = folded(ASK, UnknownEvent("later", b"?"), UnknownEvent("later", b"?"), answered())
    assert state.unknown_events == 2
    assert state.version == 4
    assert len(state.messages) == 2


def test_a_closed_session_is_opened_by_the_next_message() -> None:
    closed = folded(ASK, answered(), SessionClosed(), USAGE, MetadataUpdated())
    assert closed.status == "closed"
    assert folded(AGAIN, start=closed).status == "waiting"


# --- rewinding and compaction ---------------------------------------------------------------------------------------


def test_a_rewind_keeps_the_first_messages() -> None:
    state = folded(ASK, answered(), AGAIN, RequestSent("r2", 3), BlockReceived("r2", 0, TEXT), HistoryRewound(2))
    assert state.messages.raw == folded(ASK, answered()).messages.raw
    assert state.responses == ()
    assert state.pending is None


def test_a_rewind_behind_results_makes_the_tool_uses_unanswered() -> None:
    state = folded(ASK, called("a"), ToolStarted("a"), ToolReturned("a", RESULT["a"]), HistoryRewound(2))
    assert state.pending == Pending("tool_use", ("a",))
    assert state.tools == ()


def test_a_rewind_leaves_no_late_outcome_that_would_add_a_message() -> None:
    late = folded(ASK, called("a"), AGAIN, ToolReturned("a", RESULT["a"]))
    assert len(folded(HistoryRewound(2), start=late).messages) == 2


def test_a_rewind_takes_the_tools_with_it_that_the_dropped_messages_called() -> None:
    running = (ToolStarted("a"), RequestSent("r2", 1), BlockReceived("r2", 0, CALL["b"], "b"), ToolStarted("b"))
    events = (ASK, answered(), AGAIN, called("a"), *running, ToolStarted("c"))
    assert [run.tool_use_id for run in folded(*events).in_doubt] == ["a", "b", "c"]
    assert [run.tool_use_id for run in folded(*events, HistoryRewound(4)).in_doubt] == ["a", "c"]
    for went_on in ((), (AGAIN, answered("r3"))):
        assert [run.tool_use_id for run in folded(*events, *went_on, HistoryRewound(2)).in_doubt] == ["c"]


def test_a_refused_turn_takes_its_tools_with_it() -> None:
    events = (ASK, called("a"), ToolStarted("a"), RequestSent("r2", 2), ToolStarted("b"))
    assert folded(*events, called("b", request_id="r2", stop_reason="refusal")).in_doubt == ()


@pytest.mark.parametrize("kept", [2, 3, 10**9])
def test_a_rewind_to_what_there_is_only_drops_the_running_response(kept: int) -> None:
    state = folded(ASK, answered(), RequestSent("r2", 2), HistoryRewound(kept))
    assert len(state.messages) == 2
    assert state.responses == ()


@pytest.mark.parametrize("kept", [0, -1])
def test_a_rewind_to_nothing_leaves_nothing(kept: int) -> None:
    state = folded(ASK, answered(), HistoryCompacted(1), HistoryRewound(kept))
    assert len(state.messages) == 0
    assert state.turns == ()
    assert folded(ASK, start=state).turns[0].message_index == 0


def test_a_compaction_puts_its_summary_in_place_of_the_first_messages() -> None:
    summary = Message.of({"role": "user", "content": "so far: ..."})
    state = folded(ASK, answered(), AGAIN, answered(), HistoryCompacted(3, (summary,)))
    assert state.messages.raw == [summary.raw, folded(answered()).messages.raw[0]]
    assert [turn.number for turn in state.turns] == [1, 2]
    after = folded(ASK, answered(), start=state)
    assert [turn.number for turn in after.turns] == [1, 2, 3]
    assert [turn.number for turn in folded(HistoryRewound(2), start=after).turns] == [1, 2]


def test_turns_end_where_their_last_event_is() -> None:
    state = folded(
        SessionCreated("s"),
        PromptChanged(model="m"),
        ASK,  # 3
        RequestSent("r1", 1),
        called("a"),
        USAGE,
        ToolReturned("a", RESULT["a"]),
        RequestSent("r2", 3),
        USAGE,
        answered("r2", "msg_2"),  # 10
        MetadataUpdated(b'{"title":"t"}'),
        PromptChanged(model="n"),
        AGAIN,  # 13
        RequestSent("r3", 5),
    )
    assert [(turn.number, turn.first, turn.last) for turn in state.turns] == [(1, 3, 10), (2, 13, 14)]
    assert state.landmarks[0].message_id == "msg_2"
    assert state.landmarks[0].version == 10


def test_a_second_ask_before_any_answer_belongs_to_the_same_turn() -> None:
    assert len(folded(ASK, AGAIN, answered(), ASK).turns) == 2


def test_a_turn_cut_by_a_rewind_ends_at_it_and_one_before_it_does_not() -> None:
    two_turns = (ASK, answered(), AGAIN, called("a"), ToolReturned("a", RESULT["a"]), answered())
    cut = folded(*two_turns, HistoryRewound(3))
    assert [(turn.first, turn.last) for turn in cut.turns] == [(1, 2), (3, 7)]
    exact = folded(*two_turns, HistoryRewound(2))
    assert [(turn.first, turn.last) for turn in exact.turns] == [(1, 2)]
    inside = folded(*two_turns, HistoryRewound(1))
    assert [(turn.first, turn.last) for turn in inside.turns] == [(1, 7)]


def test_a_frozen_state_does_not_change_when_its_fold_goes_on() -> None:
    growing = Fold()
    growing.add(ASK, 1)
    growing.add(MetadataUpdated(b'{"tags":["a"]}'), 1)
    state = growing.state()
    state.metadata["tags"].append("by the caller")
    for event in (called("a"), USAGE, ToolReturned("a", RESULT["a"])):
        growing.add(event, 2)
    assert (state.version, len(state.messages), state.usage) == (2, 1, Usage())
    assert growing.state().metadata == {"tags": ["a"]}
