"""Bodies are spliced from exact bytes, in an order that lets a longer session begin as the shorter one did."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session import jsontext
from session.errors import UnreadableJsonError
from session.events import PromptChanged, stored
from session.fold import fold
from session.request import (
    build_body,
    changed_prefix,
    changes,
    first_thinking,
    prompt_of,
    revised,
    strip_thinking,
    thinking_conflict,
)
from session.state import Prompt

MODEL = "claude-sonnet-5-5"
ODD = b'{"role": "assistant","content":[{"type":"x-new","n":1.10,"big":123456789012345678901234567890,"s":"\\ud83d"}]}'
ASK = b'{"role":"user","content":"hi"}'
THOUGHT = b'{"type":"thinking","thinking":"hm","signature":"c2ln"}'
REDACTED = b'{"type":"redacted_thinking","data":"ZGF0YQ=="}'
CALL = b'{"type":"tool_use","id":"toolu_1","name":"f","input":{"x":1.10}}'
TOOLS = [{"name": "f", "input_schema": {"type": "object"}}]


def said(*blocks: bytes) -> bytes:
    return b'{"role":"assistant","content":[' + b",".join(blocks) + b"]}"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
message_bytes = st.builds(
    lambda value, blank: json.dumps({"role": "user", "content": value}, ensure_ascii=blank).encode("utf-8", "replace"),
    json_values,
    st.booleans(),
) | st.just(ODD)
prompts = st.builds(
    prompt_of,
    model=st.text(),
    system=st.none() | st.text() | st.just([{"type": "text", "text": "be brief"}]),
    tools=st.none() | st.just(TOOLS),
    max_tokens=st.none() | st.integers(1, 9),
    temperature=st.none() | st.floats(0, 1),
    metadata=st.none() | st.dictionaries(st.text(), st.text(), max_size=2),
)


def test_a_body_is_its_parts_in_order_and_messages_last() -> None:
    prompt = prompt_of(model=MODEL, system="be brief", tools=TOOLS, max_tokens=99)
    assert build_body(prompt, [ASK, ODD], stream=True) == (
        b'{"model":"claude-sonnet-5-5","max_tokens":99,"cache_control":{"type":"ephemeral"},'
        b'"tools":[{"name":"f","input_schema":{"type":"object"}}],"system":"be brief","stream":true,'
        b'"messages":[' + ASK + b"," + ODD + b"]}"
    )


def test_what_is_absent_stays_out_of_the_body() -> None:
    assert build_body(Prompt(model=MODEL), [], stream=False) == b'{"model":"claude-sonnet-5-5","messages":[]}'


@given(prompts, st.lists(message_bytes, max_size=5), st.lists(message_bytes, max_size=5), st.booleans())
def test_a_longer_history_begins_byte_for_byte_as_the_shorter_one(
    prompt: Prompt, history: list[bytes], more: list[bytes], stream: bool
) -> None:
    shorter, longer = (build_body(prompt, messages, stream=stream) for messages in (history, history + more))
    assert shorter.endswith(b"]}")
    assert longer.startswith(shorter.removesuffix(b"]}"))


@given(prompts, st.lists(message_bytes, max_size=5), st.booleans())
def test_a_body_has_the_values_of_its_parts(prompt: Prompt, history: list[bytes], stream: bool) -> None:
    body = json.loads(build_body(prompt, history, stream=stream))
    assert body.pop("model") == prompt.model
    assert body.pop("messages") == [json.loads(message) for message in history]
    assert body.pop("stream", False) is stream
    assert body.pop("system", None) == (json.loads(prompt.system) if prompt.system else None)
    assert body.pop("tools", None) == (json.loads(prompt.tools) if prompt.tools else None)
    assert body == json.loads(prompt.parameters or b"{}")


def test_recorded_parameters_cannot_take_a_part_of_their_own_place() -> None:
    prompt = Prompt(model=MODEL, parameters=b'{ "stream" : true, "messages":[], "top_k" : 1.10 }')
    assert build_body(prompt, [], stream=False) == b'{"model":"claude-sonnet-5-5","top_k":1.10,"messages":[]}'


def test_parameters_that_are_no_object_are_refused() -> None:
    with pytest.raises(UnreadableJsonError):
        build_body(Prompt(model=MODEL, parameters=b"[1]"), [], stream=False)


# --- prompts ----------------------------------------------------------------------------------------------------------


def test_prompt_caching_is_on_until_it_is_turned_off() -> None:
    assert prompt_of(model=MODEL).parameters == b'{"cache_control":{"type":"ephemeral"}}'
    assert prompt_of(model=MODEL, cache_control=None).parameters == b""
    longer = {"type": "ephemeral", "ttl": "1h"}
    assert jsontext.parse(prompt_of(model=MODEL, cache_control=longer).parameters) == {"cache_control": longer}


def test_new_text_is_encoded_compactly_and_as_itself() -> None:
    prompt = prompt_of(model=MODEL, system="grüß dich \ud800", tools=[{"name": "ü", "n": 1}])
    assert prompt.system == '"grüß dich '.encode() + b'\\ud800"'
    assert prompt.tools == '[{"name":"ü","n":1}]'.encode()


@pytest.mark.parametrize("none", [None, "", [], b"", b"null", b"[]"])
def test_no_system_and_no_tools_are_absent(none: Any) -> None:
    prompt = prompt_of(model=MODEL, system=none, tools=none, cache_control=None)
    assert prompt == Prompt(model=MODEL)


def test_bytes_stay_what_they_are() -> None:
    assert prompt_of(model=MODEL, tools=b'[ {"name" : "f"} ]').tools == b'[ {"name" : "f"} ]'


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"stream": True}, ValueError),
        ({"messages": []}, ValueError),
        ({"metadata": object()}, TypeError),
        ({"system": object()}, TypeError),
        ({"system": b"be brief"}, UnreadableJsonError),
        ({"tools": b'{"name":"f"}'}, UnreadableJsonError),
    ],
)
def test_what_is_no_prompt_is_refused(wrong: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        prompt_of(model=MODEL, **wrong)


def test_a_part_of_equal_value_keeps_its_old_bytes() -> None:
    old = Prompt(MODEL, b'[ {"type":"text","text":"a"} ]', b'[{"b":1.10,"name":"f"}]', b'{"max_tokens" : 5, "x":1.10}')
    again = revised(old, system=[{"text": "a", "type": "text"}], tools=[{"name": "f", "b": 1.1}], max_tokens=5, x=1.1)
    assert again == old
    assert changes(old, again) is None


def test_a_revision_changes_what_it_names_and_nothing_else() -> None:
    old = prompt_of(model=MODEL, system="a", tools=TOOLS, max_tokens=5, temperature=0.5)
    new = revised(old, system="b", max_tokens=6, temperature=None)
    assert (new.model, new.tools) == (old.model, old.tools)
    assert new.system == b'"b"'
    assert new.parameters == b'{"max_tokens":6,"cache_control":{"type":"ephemeral"}}'
    assert revised(old, system=None, tools=None).system == b""


def test_only_other_values_are_recorded_as_changes() -> None:
    old = Prompt(MODEL, b'"a"', b'[{"name":"f"}]')
    assert changes(old, old) is None
    assert changes(old, Prompt(MODEL, b'"a"', b'[ {"name":"f"} ]')) is None
    assert changes(old, Prompt("other", b'"a"', b"[]")) == PromptChanged(model="other", tools=b"[]")
    assert changes(old, Prompt(MODEL, b"", old.tools)) == PromptChanged(system=b"")


@given(prompts, prompts)
def test_a_recorded_change_leads_to_the_values_of_the_new_prompt(old: Prompt, new: Prompt) -> None:
    recorded = [event for event in (changes(Prompt(), old), changes(old, new)) if event]
    found = fold(stored(recorded)).prompt
    assert build_body_values(found) == build_body_values(new)


def build_body_values(prompt: Prompt) -> Any:
    return json.loads(build_body(prompt, [], stream=False))


# --- thinking ---------------------------------------------------------------------------------------------------------

PROMPT = prompt_of(model=MODEL, system="a", tools=TOOLS)
WITH_THINKING = [ASK, said(THOUGHT, CALL)]


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ({"system": "b"}, ("system",)),
        ({"system": None}, ("system",)),
        ({"tools": [*TOOLS, {"name": "g"}]}, ("tools",)),
        ({"system": "b", "tools": None}, ("system", "tools")),
    ],
)
def test_a_changed_system_or_tool_before_thinking_is_a_conflict(
    change: dict[str, Any], changed: tuple[str, ...]
) -> None:
    new = revised(PROMPT, **change)
    assert changed_prefix(PROMPT, new, WITH_THINKING) == changed
    conflict = thinking_conflict(PROMPT, new, WITH_THINKING)
    assert conflict is not None
    assert all(part in conflict for part in changed)
    assert thinking_conflict(PROMPT, new, [ASK, said(CALL)]) is None


@pytest.mark.parametrize(
    "change",
    [
        {"model": "another"},
        {"max_tokens": 7},
        {"cache_control": None},
        {"system": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]},
        {"tools": [{**TOOLS[0], "cache_control": {"type": "ephemeral"}}, {"name": "late", "defer_loading": True}]},
        {"system": "b", "thinking": {"type": "adaptive", "block_binding": {"prefix_mismatch_behavior": "drop_block"}}},
    ],
)
def test_what_is_no_part_of_the_prefix_may_change(change: dict[str, Any]) -> None:
    assert thinking_conflict(PROMPT, revised(PROMPT, **change), WITH_THINKING) is None


def test_tools_are_a_set_and_system_blocks_a_sequence() -> None:
    texts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    tools = [{"name": "f"}, {"name": "g"}]
    old = prompt_of(model=MODEL, system=texts, tools=tools)
    assert changed_prefix(old, revised(old, tools=tools[::-1]), WITH_THINKING) == ()
    assert changed_prefix(old, revised(old, system=texts[::-1]), WITH_THINKING) == ("system",)


def test_thinking_behind_an_edit_is_a_conflict_and_before_it_is_none() -> None:
    history = [ASK, said(THOUGHT), ASK, said(b'{"type":"text","text":"ok"}')]
    assert changed_prefix(PROMPT, PROMPT, history, edited_at=1) == ("messages",)
    assert changed_prefix(PROMPT, PROMPT, history, edited_at=2) == ()
    assert changed_prefix(PROMPT, PROMPT, history) == ()


def test_the_word_alone_is_no_thinking() -> None:
    talk = [b'{"role":"user","content":"thinking"}', said(b'{"type":"text","text":"thinking","x":{"type":"thinking"}}')]
    assert first_thinking(talk) is None
    assert first_thinking([*talk, said(CALL, REDACTED)]) == 2
    assert strip_thinking(talk) == talk
    assert first_thinking([b"\xff thinking", b'{"content":[1,"thinking"]}']) is None


def test_stripping_takes_thinking_away_and_no_other_byte() -> None:
    odd = b'{ "role":"assistant", "content":[ ' + THOUGHT + b" , " + CALL + b' ], "n" : 1.10 }'
    history = [said(THOUGHT), ASK, odd, said(REDACTED), ODD]
    assert strip_thinking(history, start=1) == [
        said(THOUGHT),
        ASK,
        b'{"role":"assistant","content":[' + CALL + b'],"n":1.10}',
        ODD,
    ]
    assert first_thinking(strip_thinking(history)) is None
