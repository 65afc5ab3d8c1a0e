from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session import jsontext
from session.errors import InvalidMessageError, InvalidMetadataError, InvalidStateError
from session.events import (
    HistoryRewound,
    MessageAppended,
    MetadataUpdated,
    PromptChanged,
    SessionCreated,
    ToolReturned,
    stored,
)
from session.fold import fold
from session.jsontext import Unreadable
from session.messages import Message, Messages
from session.saving import common_prefix, plan_save
from session.state import Pending, Prompt, SessionState
from session.usage import Usage

ASK = {"role": "user", "content": "é"}
CALL = {
    "role": "assistant",
    "content": [{"type": "tool_use", "id": "t1", "name": "f", "input": {}}, {"type": "tool_use", "id": "t2"}],
}
RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t2", "content": "2"}]}
EXACT = b'{ "role":"assistant", "content":[{"type":"x","n":1.10}]}'

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
messages = st.lists(
    st.builds(lambda role, content: {"role": role, "content": content}, st.text(), json_values), max_size=6
)
states = st.builds(
    lambda given, metadata, tokens, cost: SessionState(
        id="s", messages=Messages(given), metadata=metadata, usage=Usage((("input_tokens", tokens),), cost, tokens)
    ),
    messages,
    st.dictionaries(st.text(max_size=3), json_values, max_size=4),
    st.integers(1, 10**30),
    st.integers(0, 10**12),
)


def saved(new: SessionState, stored_state: SessionState | None = None) -> SessionState:
    after = stored_state.version if stored_state else 0
    return fold(stored(plan_save(stored_state, new), after=after, recorded_at=9), stored_state)


# --- messages ---------------------------------------------------------------------------------------------------------


def test_a_state_is_made_by_hand_from_dicts_and_bytes() -> None:
    state = SessionState(id="s", messages=[ASK, EXACT])  # type: ignore[arg-type]  # `new` is the typed way
    assert state == SessionState.new("s", messages=[ASK, EXACT])
    assert state.messages == [ASK, {"role": "assistant", "content": [{"type": "x", "n": 1.1}]}]
    assert state.messages.raw == ['{"role":"user","content":"é"}'.encode(), EXACT]
    assert (state.version, state.usage, state.metadata, state.parent_id) == (0, Usage(), {}, None)


def test_messages_read_as_a_list() -> None:
    both = Messages([ASK, RESULT])
    assert len(both) == 2
    assert both[0] == ASK
    assert both[-1] == RESULT
    assert list(both) == [ASK, RESULT]
    assert RESULT in both
    assert both.index(RESULT) == 1
    assert both[1:] == [RESULT]
    more = [CALL]
    assert both + more == [ASK, RESULT, CALL]
    assert both != [ASK]
    assert both != [RESULT, ASK]
    assert both != "text"
    assert not Messages()
    with pytest.raises(IndexError):
        both[2]
    with pytest.raises(TypeError):
        both + "text"  # type: ignore[operator]


def test_adding_to_messages_keeps_the_bytes_of_what_was_there() -> None:
    state = SessionState.new("s", messages=[EXACT])
    longer = state.adding(ASK)
    assert longer.messages.raw[0] == EXACT
    assert state.replace(messages=[*state.messages.entries, ASK]) == longer


def test_changing_a_message_taken_out_changes_nothing_inside() -> None:
    state = SessionState.new("s", messages=[ASK])
    state.messages[0]["content"] = "changed"
    assert state.messages[0] == ASK
    given_dict = {"role": "user", "content": ["before"]}
    state = SessionState.new("s", messages=[given_dict])
    given_dict["content"] = ["after"]
    assert state.messages[0]["content"] == ["before"]


def test_messages_of_other_bytes_are_other_messages_though_they_look_the_same() -> None:
    one, other = Messages([b'{"role":"user","n":1.10}']), Messages([b'{"role":"user","n":1.1}'])
    assert one != other
    assert list(one) == list(other)


def test_a_message_that_no_parser_takes_is_shown_and_kept() -> None:
    state = SessionState.new("s", messages=[b"\xff{", b"[1]"])
    assert [message["role"] for message in state.messages] == ["unreadable", "unreadable"]
    assert isinstance(state.messages[0], Unreadable)
    assert SessionState.new("s", messages=list(state.messages)).messages.raw == [b"\xff{", b"[1]"]
    assert state.messages.to_json() == b"[\xff{,[1]]"


@pytest.mark.parametrize("bad", [5, None, "text", [], {"role": object()}])
def test_what_is_no_message_is_refused_by_its_index(bad: object) -> None:
    with pytest.raises(InvalidMessageError) as caught:
        SessionState.new("s", messages=[ASK, bad])  # type: ignore[list-item]
    assert caught.value.index == 1


def test_states_and_messages_survive_copying_and_pickling() -> None:
    state = SessionState.new("s", messages=[ASK, EXACT], metadata={"a": [1]}, now=5)
    assert copy.deepcopy(state) == state
    assert pickle.loads(pickle.dumps(state)) == state
    assert copy.copy(state.messages) is state.messages
    assert repr(state) == "<SessionState s: version 0, 2 messages, idle>"
    assert repr(state.messages) == f"<2 messages, {state.messages.size_bytes} bytes>"


# --- what follows from the messages -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("history", "pending"),
    [
        ([], None),
        ([ASK], Pending("message")),
        ([ASK, {"role": "assistant", "content": "done"}], None),
        ([ASK, CALL], Pending("tool_use", ("t1", "t2"))),
        ([ASK, CALL, RESULT], Pending("tool_use", ("t1",))),
        ([ASK, CALL, RESULT, {"role": "user", "content": "?"}], Pending("tool_use", ("t1",))),
        ([CALL, {"role": "assistant", "content": "done"}], None),
        ([{"role": "system", "content": "rules"}], Pending("message")),
    ],
)
def test_what_is_pending_follows_from_the_messages_of_any_state(history: list[object], pending: Pending | None) -> None:
    state = SessionState.new("s", messages=history)  # type: ignore[arg-type]
    assert state.pending == pending
    assert state.status == ("waiting" if pending else "idle")


def test_own_usage_is_what_was_not_inherited() -> None:
    state = SessionState.new("s", usage=Usage((("x", 5),), 7, 1), inherited_usage=Usage((("x", 2),), 3, 1))
    assert state.own_usage == Usage((("x", 3),), 4)


# --- saving -----------------------------------------------------------------------------------------------------------


def test_saving_a_new_state_says_who_it_is() -> None:
    new = SessionState.new("s", messages=[ASK], metadata={"title": "t"}, now=4, parent_id="p", prompt=Prompt("m"))
    events = plan_save(None, new)
    assert [event.type for event in events] == [
        "session_created",
        "prompt_changed",
        "metadata_updated",
        "message_appended",
    ]
    state = saved(new)
    assert (state.id, state.created_at, state.parent_id, state.prompt) == ("s", 4, "p", Prompt("m"))


def test_saving_what_is_stored_appends_nothing() -> None:
    state = saved(SessionState.new("s", messages=[ASK, EXACT], metadata={"nan": float("nan")}))
    assert plan_save(state, state) == []
    looked_at = SessionState.new("s", messages=list(state.messages), metadata=state.metadata)  # 1.10 has become 1.1
    assert looked_at.messages != state.messages
    assert plan_save(state, looked_at) == []


def test_saving_a_longer_history_appends_only_what_is_new() -> None:
    state = saved(SessionState.new("s", messages=[ASK]))
    assert plan_save(state, state.adding(CALL)) == [MessageAppended.of(CALL)]


def test_saving_an_edited_history_rewinds_to_what_is_common() -> None:
    state = saved(SessionState.new("s", messages=[ASK, CALL, RESULT]))
    edited = state.replace(messages=[ASK, RESULT])
    assert plan_save(state, edited) == [HistoryRewound(1, "save"), MessageAppended.of(RESULT)]
    assert plan_save(state, state.replace(messages=[])) == [HistoryRewound(0, "save")]


def test_an_outcome_that_waits_for_its_message_does_not_join_a_saved_one() -> None:
    waiting = fold(stored([ToolReturned("t1", b'{"type":"tool_result","tool_use_id":"t1"}')]))
    wanted = SessionState.new("s", messages=[ASK, CALL, ASK])
    assert saved(wanted, waiting).messages == wanted.messages


def test_one_and_true_and_one_point_nought_are_not_the_same_message() -> None:
    entries = Messages([b"[1]", b"[1.0]", b"[true]", b'{"a":1,"b":2}']).entries
    for one in entries:
        assert [common_prefix((one,), (other,)) for other in entries] == [int(one is other) for other in entries]
    assert common_prefix(Messages([b'{"b": 2, "a": 1}']).entries, entries[3:]) == 1


def test_metadata_changes_by_kind_of_value_too() -> None:
    state = saved(SessionState.new("s", metadata={"a": 1, "b": None, "c": "x"}))
    (event,) = plan_save(state, state.replace(metadata={"a": True, "b": None}))
    assert event == MetadataUpdated(b'{"a":true}', b'["c"]')


@pytest.mark.parametrize("metadata", [{1: 2}, {"a": object()}, {"a": {1, 2}}])
def test_metadata_that_is_no_json_is_refused(metadata: dict[str, object]) -> None:
    with pytest.raises(InvalidMetadataError):
        plan_save(None, SessionState.new("s", metadata=metadata))


def test_a_counter_at_the_path_of_an_object_is_saved_beside_it() -> None:
    usage = Usage((("a", 1), ("a/b", 2), ("a/b/c", 3)), cost_picodollars=5, unpriced=1)
    state = saved(SessionState(id="s", usage=usage))
    assert state.usage == usage
    assert plan_save(state, state) == []


@pytest.mark.parametrize(
    "usage",
    [
        Usage((("input_tokens", 10**1_000),)),
        Usage((("input_tokens", 10**5_000),)),
        Usage((("iterations", 1),)),
        Usage((("a/" * 20_000, 1),)),
    ],
    ids=range(4),
)
def test_usage_that_no_fold_would_count_is_refused(usage: Usage) -> None:
    with pytest.raises(InvalidStateError, match=r"usage.*nothing was written"):
        plan_save(None, SessionState(id="s", usage=usage))


def test_a_state_without_a_prompt_leaves_the_stored_one_alone() -> None:
    state = saved(SessionState.new("s", prompt=Prompt("m", b'"be brief"')))
    assert plan_save(state, SessionState.new("s")) == []
    assert plan_save(state, SessionState.new("s", prompt=Prompt("n", b'"be brief"'))) == [PromptChanged(model="n")]


def test_the_beginning_of_a_stored_session_stays() -> None:
    state = saved(SessionState.new("s", now=4))
    assert plan_save(state, SessionState.new("s", now=8, parent_id="other")) == []
    assert plan_save(None, SessionState.new("s")) == [SessionCreated("s", origin="save")]


@given(states, states)
def test_what_was_saved_is_what_the_fold_gives_back(one: SessionState, other: SessionState) -> None:
    state = saved(one)
    assert (state.messages, state.usage) == (one.messages, one.usage)
    assert state.metadata == one.metadata
    over = saved(other, state)
    assert list(over.messages) == list(other.messages)
    assert (over.usage, over.metadata) == (other.usage, other.metadata)
    assert plan_save(over, other) == []


def test_recorded_conversations_keep_every_byte() -> None:
    recorded = Path(__file__).parents[3] / "shared" / "data" / "agent-sessions.jsonl"
    lines = recorded.read_bytes().splitlines() if recorded.exists() else [b'{"messages":[%b]}' % EXACT]
    for line in lines:
        raw = jsontext.items(jsontext.members(line)["messages"])
        state = saved(SessionState.new("s", messages=raw))
        assert state.messages.raw == raw
        assert b", ".join(state.messages.raw) in line
        assert plan_save(state, SessionState.new("s", messages=list(state.messages))) == []


@given(st.lists(st.binary(max_size=8), max_size=6), st.lists(st.binary(max_size=8), max_size=6))
def test_any_bytes_are_saved_exactly(one: list[bytes], other: list[bytes]) -> None:
    state = saved(SessionState.new("s", messages=one))
    assert state.messages.raw == one
    again = saved(SessionState.new("s", messages=other), state)
    assert all(
        mine == theirs or Message.of(mine).parsed() == Message.of(theirs).parsed()
        for mine, theirs in zip(again.messages.raw, other, strict=True)
    )
