"""The view of a history, kept from request to request, is the view that repair makes of the whole."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session.lint import IN_DOUBT, lint, repair
from session.live._view import RequestView
from session.messages import Message

IDS = ("toolu_1", "toolu_2", "toolu_3")


def says(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def calls(tool_use_id: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": tool_use_id, "name": "t", "input": {}}


def answers(tool_use_id: str) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": tool_use_id, "content": "r"}


SERVER_CALL = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}}
SERVER_RESULT = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}

user_blocks = st.lists(st.sampled_from([says("Hi"), says(""), *map(answers, IDS), {"type": "new"}]), max_size=3)
assistant_blocks = st.lists(st.sampled_from([says("Hm"), *map(calls, IDS), SERVER_CALL, SERVER_RESULT]), max_size=3)
messages = st.one_of(
    user_blocks.map(lambda blocks: {"role": "user", "content": blocks}),
    st.just({"role": "user", "content": "Go on"}),
    assistant_blocks.map(lambda blocks: {"role": "assistant", "content": blocks}),
    st.just({"role": "system", "content": "Be quick"}),
)
histories = st.lists(messages, max_size=14)


@given(histories, st.data())
def test_grown_in_any_steps_it_is_the_repaired_history(history: list[dict[str, Any]], data: st.DataObject) -> None:
    view, entries, length = RequestView(), [Message.of(message) for message in history], 0
    sent = view.update([], {}, ())
    while length < len(entries):
        length += data.draw(st.integers(1, len(entries) - length))
        sent = view.update(entries[:length], {}, ())
        assert [Message.of(raw).parsed() for raw in sent] == repair(history[:length])


@given(histories, histories, st.integers(0, 14))
def test_after_a_rewind_it_is_that_of_the_new_history(
    history: list[dict[str, Any]], more: list[dict[str, Any]], kept: int
) -> None:
    view = RequestView()
    view.update([Message.of(message) for message in history], {}, ())
    other = [*history[:kept], *more]
    sent = view.update([Message.of(message) for message in other], {}, ())
    assert [Message.of(raw).parsed() for raw in sent] == repair(other)


def test_a_server_tool_that_the_user_leaves_behind_is_left_out_however_long_ago_it_was_called() -> None:
    history: list[dict[str, Any]] = [{"role": "user", "content": "Go"}]
    history += [{"role": "assistant", "content": [{"type": "server_tool_use", "id": "s", "name": "f", "input": {}}]}]
    for number in range(3):
        use = {"type": "tool_use", "id": f"t{number}", "name": "g", "input": {}}
        result = {"type": "tool_result", "tool_use_id": f"t{number}", "content": "x"}
        history += [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    view = RequestView()
    for end in range(1, len(history) + 1):
        sent = view.update([Message.of(message) for message in history[:end]], {}, ())
        assert b"server_tool_use" in b"".join(sent) or end == 1
    history.append({"role": "user", "content": "Never mind"})
    sent = view.update([Message.of(message) for message in history], {}, ())
    assert [Message.of(raw).parsed() for raw in sent] == repair(history)
    assert b"server_tool_use" not in b"".join(sent)


def test_what_needs_nothing_keeps_its_bytes() -> None:
    odd = b'{ "role":"user", "content":[{"type":"text","text":"1.10"}] }'
    broken = Message.of({"role": "user", "content": [says("")]})
    assert RequestView().update([Message.of(odd), broken], {}, ()) == [odd]


HELD_UP: list[dict[str, Any]] = [
    {"role": "user", "content": "Go"},
    {"role": "assistant", "content": [calls("toolu_1")]},
    {"role": "user", "content": "Well?"},
]


def test_a_recorded_result_stands_where_repair_would_put_its_own() -> None:
    entries = [Message.of(message) for message in HELD_UP]
    recorded = {**answers("toolu_1"), "content": "as it was recorded", "is_error": True}
    sent = RequestView().update(entries, {"toolu_1": Message.of(recorded).raw}, ())
    assert Message.of(sent[2]).parsed()["content"] == [recorded, says("Well?")]


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff",
        b'{"type":"tool_result","tool_use_id":"toolu_1","content":[[[',
        b'{"type":"tool_result","tool_use_id":"toolu_1","content":[{"type":"n","x":NaN}]}',
        b'{"type":"tool_result","tool_use_id":"toolu_2","content":"of another call"}',
        b'"r"',
    ],
)
def test_a_recorded_result_that_cannot_be_sent_stays_out_and_its_tool_is_in_doubt(raw: bytes) -> None:
    entries = [Message.of(message) for message in HELD_UP]
    sent = [Message.of(text).parsed() for text in RequestView().update(entries, {"toolu_1": raw}, ())]
    assert lint(sent, sending=True) == []
    assert sent[2]["content"][0]["content"] == IN_DOUBT
