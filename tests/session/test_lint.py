import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from session import jsontext
from session.lint import IN_DOUBT, NOT_RUN, Addition, lint, plan, repair, repair_additions
from session.testing import check_request

SESSIONS = Path(__file__).parents[3] / "shared" / "data" / "agent-sessions.jsonl"
MODEL = "claude-opus-5-5"


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks) if len(blocks) != 1 or isinstance(blocks[0], dict) else blocks[0]}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {**user(*blocks), "role": "assistant"}


def system(*blocks: Any) -> dict[str, Any]:
    return {**user(*blocks), "role": "system"}


def text(value: str = "hi") -> dict[str, Any]:
    return {"type": "text", "text": value}


def use(tool_use_id: str = "toolu_1", **more: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": tool_use_id, "name": "bash", "input": {"command": "ls"}, **more}


def result(tool_use_id: str = "toolu_1", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": tool_use_id, "content": "ok", **more}


def added(tool_use_id: str = "toolu_1", content: str = NOT_RUN) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": tool_use_id, "content": content, "is_error": True}


def search(tool_use_id: str = "srvtoolu_1") -> dict[str, Any]:
    return {"type": "server_tool_use", "id": tool_use_id, "name": "web_search", "input": {}}


def found(tool_use_id: str = "srvtoolu_1") -> dict[str, Any]:
    return {"type": "web_search_tool_result", "tool_use_id": tool_use_id, "content": []}


def thought(signature: str = "sig") -> dict[str, Any]:
    return {"type": "thinking", "thinking": "hm", "signature": signature}


def codes(messages: Any, **more: Any) -> list[str]:
    return [problem.code for problem in lint(messages, **more)]


def accepted(view: list[dict[str, Any]]) -> bool:
    """Whether both judges take *view* as a history that the user goes on with, and as a request where it is one."""
    goes_on = [*view, user("and now?")]
    if not view:
        return True
    for messages in ([view] if not lint(view, sending=True) else []) + [repair(goes_on)]:
        assert lint(messages) == []
        assert lint(messages, sending=True) == []
        error = check_request({"model": MODEL, "max_tokens": 100, "messages": messages})
        assert error is None, error.message
    return True


# --- what is wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([], []),
        ([user("a"), assistant("b"), user("c")], []),
        ([user("a"), user("b"), assistant("c"), assistant("d")], []),
        ([user("a"), assistant(use()), user(result(), text())], []),
        ([user("a"), assistant(use("x"), use("y")), user(result("y")), user(result("x"), text())], []),
        ([user("a"), assistant(search())], []),
        ([user("a"), assistant(search(), use()), user(result())], []),
        ([user("a"), {"role": "assistant", "content": []}, user("b")], []),
        ([user("a"), system("s"), assistant("b")], []),
        ([user("a"), assistant("b"), {"role": "system", "content": [], "output_config": {"effort": "low"}}], []),
        ([user("a"), assistant({"type": "hologram"}), user({"type": "smell", "tool_use_id": 5})], []),
        ([user("a"), assistant(use()), user(result(content=[text(" \n")]))], []),
        ([user("a"), assistant(use())], [("unanswered_tool_use", 1, 0)]),
        ([user("a"), assistant(text(), use()), user("b")], [("unanswered_tool_use", 1, 1)]),
        ([user("a"), assistant(use()), user(text(), result())], [("misplaced_tool_result", 2, 1)]),
        ([user("a"), assistant("b"), user(text(), result())], [("orphan_tool_result", 2, 1)]),
        ([user("a"), assistant(use()), user(result(), result())], [("duplicate_tool_result", 2, 1)]),
        (
            [user("a"), assistant(use()), user(result()), assistant(use()), user(result())],
            [("duplicate_tool_use", 3, 0)],
        ),
        ([user("a"), assistant(search()), user("b")], [("unanswered_server_tool", 1, 0)]),
        ([assistant("a"), user("b")], [("first_not_user", 0, None)]),
        ([{"role": "user", "content": ""}, user("b")], [("empty_content", 0, None), ("first_not_user", 0, None)]),
        ([user("a"), assistant("b"), {"role": "user", "content": []}], [("empty_content", 2, None)]),
        ([user(text(""), text())], [("empty_text", 0, 0)]),
        ([user("a"), assistant(text(" \n"))], [("empty_text", 1, 0)]),
        ([user("a"), assistant("  ")], [("empty_text", 1, None)]),
        ([user("a"), assistant(use()), user(result(content=[text("")]))], [("empty_text", 2, 0)]),
        ([user({"text": "x"}, text())], [("block_without_type", 0, 0)]),
        ([user("x"), assistant("y", "z")], [("block_without_type", 1, 0), ("block_without_type", 1, 1)]),
        ([user("x"), assistant({"type": "text"})], [("broken_block", 1, 0)]),
        ([user({"type": "image"}, text())], [("broken_block", 0, 0)]),
        ([user("a"), assistant(use(name="")), user("b")], [("broken_block", 1, 0), ("unanswered_tool_use", 1, 0)]),
        ([user("a"), assistant(use("a.b"))], [("broken_block", 1, 0)]),
        ([user(text(), {"type": "tool_result"})], [("broken_block", 0, 1)]),
        ([user("a"), assistant(use(input="{")), user(result())], [("tool_input_not_object", 1, 0)]),
        ([user("a"), assistant(use(input=None)), user(result())], [("tool_input_not_object", 1, 0)]),
        (
            [user("a"), assistant({"type": "thinking", "thinking": "x"}, text())],
            [("thinking_without_signature", 1, 0)],
        ),
        ([user("a"), assistant(thought(""), text())], [("thinking_without_signature", 1, 0)]),
        ([user("a"), assistant({"type": "redacted_thinking"}, text())], [("broken_block", 1, 0)]),
        ([user(text(), use())], [("wrong_block_for_role", 0, 1)]),
        ([user("a"), assistant(text(), result())], [("wrong_block_for_role", 1, 1)]),
        ([user("a"), {"role": "tool", "content": "x"}], [("wrong_role", 1, None)]),
        ([user("a"), {"role": ["user"], "content": "x"}], [("wrong_role", 1, None)]),
        ([user("a"), {"content": "x"}], [("wrong_role", 1, None)]),
        ([user("a"), "hi", None], [("not_a_message", 1, None), ("not_a_message", 2, None)]),
        ([user("a"), {"role": "assistant"}], [("wrong_content", 1, None)]),
        ([user("a"), {"role": "assistant", "content": {}}], [("wrong_content", 1, None)]),
        ([user("a"), assistant("b") | {"stop_reason": "end_turn", "usage": {}}], [("response_fields", 1, None)]),
        ([user("a"), assistant("b"), system("s"), user("c")], [("misplaced_system_message", 2, None)]),
        ([system("s"), user("c")], [("misplaced_system_message", 0, None)]),
        (
            [user("a"), assistant(use(), {"type": "fallback"}, text()), user("b")],
            [("before_fallback", 1, 0), ("unanswered_tool_use", 1, 0)],
        ),
        ([user("a"), jsontext.Unreadable(b"\xff", user("b"))], [("unreadable_message", 1, None)]),
        ([user("a"), user(text("\ud83d"), text())], [("invalid_json", 1, 0)]),
        ([user("a"), user("\udc00 b")], [("invalid_json", 1, None)]),
        ([user("a"), assistant(use(input={"n": [math.nan]})), user(result())], [("invalid_json", 1, 0)]),
        ([user("a"), assistant(use(input={"\ud800": 1})), user(result())], [("invalid_json", 1, 0)]),
        ([user("a"), assistant(use()), user(result(content="\ud800"))], [("invalid_json", 2, 0)]),
        ([user("a"), assistant(use()), user(result(content=[text("\ud800")]))], [("invalid_json", 2, 0)]),
        ([user("a"), assistant(use()), user(result(new=math.inf))], [("invalid_json", 2, 0)]),
        ([user("a"), user("b") | {"new": -math.inf}], [("invalid_json", 1, None)]),
    ],
)
def test_each_problem_is_found_where_it_is(messages: Any, expected: list[tuple[str, int, int | None]]) -> None:
    assert [(problem.code, problem.message_index, problem.block_index) for problem in lint(messages)] == expected
    assert all(problem.text and problem.remedy != "none" for problem in lint(messages))


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([], ["no_messages"]),
        ([user("a")], []),
        ([user("a"), assistant("b")], ["prefill"]),
        ([user("a"), assistant("b ")], ["prefill", "trailing_whitespace"]),
        ([user("a"), {"role": "assistant", "content": []}], ["prefill"]),
        ([user("a"), assistant(text(), search())], []),
        ([user("a"), assistant(search(), found())], []),
        ([user("a"), assistant({"type": "compaction", "content": "s"})], []),
        ([user("a"), assistant({"type": "compaction", "content": "s"}), assistant()], []),
        ([user("a"), assistant(search(), found()), assistant()], []),
        ([user("a"), assistant("b "), assistant()], ["trailing_whitespace", "prefill"]),
        ([{"role": "system", "content": [], "output_config": {"effort": "low"}}], ["no_messages"]),
    ],
)
def test_a_request_must_end_with_the_user_or_a_pause(messages: Any, expected: list[str]) -> None:
    problems = lint(messages, sending=True)

    assert [problem.code for problem in problems] == expected
    assert {problem.remedy for problem in problems} <= {"none"}
    judged = check_request({"model": "claude-sonnet-5-5", "max_tokens": 10, "messages": messages})
    assert (judged is None) is (expected == [])


def test_lint_changes_nothing() -> None:
    messages = [assistant(use()), user(text(""), result("x")), "junk"]
    before = copy.deepcopy(messages)

    lint(messages, sending=True, cut={0}, refused={1})
    repair(messages, cut={0}, refused={1}, in_doubt={"toolu_1"})

    assert messages == before


# --- what repair adds -------------------------------------------------------------------------------------------------


def test_unanswered_tools_at_the_end_get_one_message_of_results_in_their_order() -> None:
    messages = [user("a"), assistant(text(), use("x"), use("y"))]

    assert repair(messages) == [*messages, user(added("x"), added("y"))]
    assert repair_additions(messages) == [
        Addition(1, "x", added("x"), appended=True),
        Addition(1, "y", added("y"), appended=True),
    ]


def test_a_missing_result_joins_the_results_that_are_there_in_the_order_of_the_tool_uses() -> None:
    messages = [user("a"), assistant(use("x"), use("y"), use("z")), user(result("y"))]

    assert repair(messages) == [*messages[:2], user(added("x"), result("y"), added("z"))]
    assert [addition.appended for addition in repair_additions(messages)] == [True, True]


def test_in_the_middle_the_view_of_the_next_user_message_begins_with_the_results() -> None:
    messages = [user("a"), assistant(use()), user("never mind"), assistant("fine")]

    assert repair(messages) == [messages[0], messages[1], user(added(), text("never mind")), messages[3]]
    assert repair_additions(messages) == [Addition(1, "toolu_1", added(), appended=False)]


def test_what_follows_in_the_record_is_followed_by_no_result_even_if_the_view_leaves_it_out() -> None:
    for left_out in (user(text("")), jsontext.Unreadable(b"\xff"), assistant(use("y", input=5))):
        messages = [user("a"), assistant(use()), left_out]

        assert [addition.appended for addition in repair_additions(messages)] == [False]
        assert repair(messages)[-1]["content"][0]["tool_use_id"] == "toolu_1"


def test_a_system_message_between_a_tool_and_its_end_goes_behind_the_results() -> None:
    messages = [user("a"), assistant(use()), system("s")]

    assert repair(messages) == [messages[0], messages[1], user(added()), system("s")]


def test_a_tool_in_doubt_is_flagged_and_its_result_says_so() -> None:
    messages = [user("a"), assistant(use("x"), use("y"))]

    additions = repair_additions(messages, in_doubt={"y"})

    assert [(addition.tool_use_id, addition.in_doubt) for addition in additions] == [("x", False), ("y", True)]
    assert repair(messages, in_doubt={"y"})[-1] == user(added("x"), added("y", IN_DOUBT))


def test_a_healthy_history_is_passed_on_as_the_same_objects() -> None:
    messages = [user("a"), assistant(thought(), use()), user(result(), text()), assistant("b")]
    done = plan(messages)

    assert [entry.origin for entry in done.view] == [0, 1, 2, 3]
    assert all(entry.message is message for entry, message in zip(done.view, messages, strict=True))
    assert (done.problems, done.additions) == ([], [])


def test_only_what_must_differ_differs() -> None:
    messages = [user("a"), assistant(thought(), use()), user("b"), assistant("c"), user("d")]
    done = plan(messages)

    assert [entry.origin for entry in done.view] == [0, 1, None, 3, 4]
    assert done.view[1].message is messages[1]


def test_what_was_added_is_not_added_for_a_tool_use_that_is_left_out() -> None:
    messages = [user("a"), assistant(use(input=[])), user("b")]

    assert repair_additions(messages) == []
    assert repair(messages) == [user("a"), user("b")]


# --- what repair moves and leaves out ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "view"),
    [
        ([user("a"), assistant(use()), user(text(), result())], [user("a"), assistant(use()), user(result(), text())]),
        (
            [user("a"), assistant(use("x"), use("y")), user(result("y"), text()), user(result("x"))],
            [user("a"), assistant(use("x"), use("y")), user(result("x"), result("y"), text())],
        ),
        ([user("a"), assistant("b"), user(result(), text())], [user("a"), assistant("b"), user(text())]),
        ([user("a"), assistant("b"), user(result())], [user("a"), assistant("b")]),
        ([user("a"), assistant(use()), user(result(), result())], [user("a"), assistant(use()), user(result())]),
        (
            [user("a"), assistant(use()), user(result()), assistant(text(), use()), user(result(), text())],
            [user("a"), assistant(use()), user(result()), assistant(text()), user(text())],
        ),
        ([assistant("x"), user("a")], [user("a")]),
        ([assistant(use()), user(result()), assistant("x"), user("a")], [user("a")]),
        ([system("s"), user("a"), assistant("b")], [user("a"), system("s"), assistant("b")]),
        (
            [user("a"), assistant("b"), system("s"), user("c"), user("d"), assistant("e")],
            [user("a"), assistant("b"), user("c"), user("d"), system("s"), assistant("e")],
        ),
        ([user("a"), assistant("b"), system("s")], [user("a"), assistant("b")]),
        ([user("a"), assistant(search(), text()), user("b")], [user("a"), assistant(text()), user("b")]),
        ([user("a"), assistant(search()), user("b")], [user("a"), user("b")]),
        ([user("a"), assistant(text(""), text("b"))], [user("a"), assistant(text("b"))]),
        ([user("a"), assistant(use()), user(result(content=[text(""), text("x")]))], None),
        ([user("a"), assistant("b") | {"id": "msg_1", "usage": {}}], [user("a"), assistant(text("b"))]),
        ([user("a"), None, {"role": "tool"}, assistant({"nothing": 1})], [user("a")]),
        ([result(), 5], []),
        ([user("a"), user(text("\ud83d"), text()), jsontext.Unreadable(b"\xff", user("b"))], [user("a"), user(text())]),
        ([user("a"), assistant(use(input={"n": math.nan})), user(result(), text())], [user("a"), user(text())]),
        (
            [user("a"), assistant(use()), user(result(content="a\ud800b"))],
            [user("a"), assistant(use()), user(result(content="a\ufffdb"))],
        ),
        (
            [user("a"), assistant(use()), user(result(content=[text("\ud800"), text("x")]))],
            [user("a"), assistant(use()), user(result(content=[text("x")]))],
        ),
        (
            [user("a"), assistant(use()), jsontext.Unreadable(b"\xff", user(result()))],
            [user("a"), assistant(use()), user(added(content=IN_DOUBT))],
        ),
    ],
)
def test_what_no_request_may_carry_is_moved_or_left_out(messages: Any, view: Any) -> None:
    if view is None:
        view = [*messages[:2], user(result(content=[text("x")]))]

    assert repair(messages) == view


def test_a_cut_response_is_left_out_and_the_turn_asked_again() -> None:
    messages = [user("a"), assistant("b"), user("c"), assistant(thought(""), use(input={}))]

    assert codes(messages, cut={3})[0] == "cut_response"
    assert repair(messages, cut={3}) == messages[:3]
    assert repair_additions(messages, cut={3}) == []


def test_a_refused_turn_stays_out_with_its_ask_and_its_tools() -> None:
    turn = [user("b"), user("please"), assistant(use()), user(result()), assistant("no")]
    messages = [user("a"), assistant("ok"), *turn, user("c")]

    assert repair(messages, refused={6}) == [user("a"), assistant("ok"), user("c")]
    assert codes(messages, refused={6}) == ["refused_turn"] * 5


def test_a_paused_turn_resumes_unchanged() -> None:
    messages = [user("a"), assistant(thought(), search())]

    assert repair(messages) == messages
    assert check_request({"model": MODEL, "max_tokens": 9, "messages": repair(messages)}) is None


def test_what_a_declining_model_began_is_left_out() -> None:
    fallback = {"type": "fallback", "from": {"model": "x"}, "to": {"model": "y"}}
    messages = [user("a"), assistant(thought(), text("so"), use(), search(), fallback, text("b"))]

    assert repair(messages) == [user("a"), assistant(text("so"), fallback, text("b"))]


def test_a_history_of_ten_thousand_messages_is_repaired_in_one_go() -> None:
    messages: list[Any] = []
    for turn in range(2500):
        messages += [user("go"), assistant(use(f"t{turn}")), user("oh"), assistant("ok")]

    view = repair(messages)

    assert len(view) == 10_000
    assert lint(view) == []


def test_a_history_that_begins_with_answers_only_does_not_take_quadratic_time() -> None:
    messages: list[Any] = []
    for turn in range(5000):
        messages += [assistant(use(f"t{turn}")), user(result(f"t{turn}"))]

    assert repair(messages) == []


# --- both judges ------------------------------------------------------------------------------------------------------

RICH = [
    user("start"),
    assistant(thought("s1"), text("let me look"), use("t1"), use("t2")),
    user(result("t1"), result("t2", is_error=True)),
    system("be brief"),
    assistant(thought("s2"), search("v1"), found("v1"), use("t3")),
    user(result("t3", content=[text("x"), {"type": "image", "source": {"type": "url"}}])),
    assistant(search("v2"), use("t4")),
    user(result("t4")),
    assistant(found("v2"), text("so"), {"type": "redacted_thinking", "data": "opaque"}),
    {"role": "system", "content": [], "output_config": {"effort": "low"}},
    user(text("next"), {"type": "document", "source": {"type": "text"}}),
    system("note"),
    assistant({"type": "compaction", "content": "summary"}, text("ok"), {"type": "hologram"}),
    user("more"),
    user("and more"),
    assistant(use("t5"), use("t6"), use("t7")),
    user(result("t6")),
    user(result("t5"), result("t7")),
    {"role": "assistant", "content": []},
    user("end"),
    assistant(search("v3")),
]


@pytest.mark.parametrize("length", range(len(RICH) + 1))
def test_a_rich_history_cut_anywhere_is_repaired_to_what_both_judges_take(length: int) -> None:
    view = repair(RICH[:length])

    assert view[: length - 1] == RICH[: max(0, length - 1)]
    assert accepted(view)


@pytest.mark.parametrize("length", range(len(RICH) + 1))
def test_a_rich_history_with_a_message_lost_is_repaired_to_what_both_judges_take(length: int) -> None:
    assert accepted(repair(RICH[:length] + RICH[length + 1 :]))


def blocks_of_the_rich_history() -> list[tuple[int, int]]:
    return [(index, number) for index, message in enumerate(RICH) for number in range(len(message["content"]))]


@pytest.mark.parametrize(("index", "number"), blocks_of_the_rich_history())
def test_a_rich_history_cut_inside_a_message_is_repaired_to_what_both_judges_take(index: int, number: int) -> None:
    torn = {**RICH[index], "content": RICH[index]["content"][: number + 1]}

    assert accepted(repair([*RICH[:index], torn]))


def recorded_sessions() -> list[list[dict[str, Any]]]:
    """The recorded sessions beside this repository; without them, histories of the same form."""
    if SESSIONS.exists():
        with SESSIONS.open(encoding="utf-8") as lines:
            return [json.loads(line)["messages"] for line in lines]
    made = []
    for turns in range(1, 14):
        messages = [user("Fix the bug.")]
        for turn in range(turns):
            messages += [assistant(text("I look."), use(f"t{turn}")), user(result(f"t{turn}"))]
        made.append(messages[: -1 if turns % 2 else None])
    return made


@pytest.mark.parametrize("number", range(13))
def test_each_recorded_session_cut_anywhere_is_repaired_to_what_both_judges_take(number: int) -> None:
    messages = recorded_sessions()[number]

    for length in range(1, len(messages) + 1):
        view = repair(messages[:length])
        assert view[:length] == messages[:length]
        assert accepted(view)
        assert all(addition.appended for addition in repair_additions(messages[:length]))


ids = st.sampled_from(["t1", "t2", "t3", "bad id", ""])
junk = st.none() | st.floats() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
inner_blocks = st.sampled_from([text(""), use(), {}, 5, text(), {"type": "new", "n": math.nan}, text("\udc00")])
broken_blocks = st.one_of(
    st.builds(text, st.sampled_from(["x", "", " ", "y ", "\ud83d"])),
    st.builds(use, ids),
    st.builds(lambda tool_use_id, value: use(tool_use_id, input=value), ids, junk),
    st.builds(lambda tool_use_id, name: use(tool_use_id, name=name), ids, junk),
    st.builds(result, ids),
    st.builds(lambda tool_use_id, value: result(tool_use_id, content=value), ids, junk),
    st.builds(lambda tool_use_id, inner: result(tool_use_id, content=[inner, text()]), ids, inner_blocks),
    st.builds(search, st.sampled_from(["v1", "v2"])),
    st.builds(found, st.sampled_from(["v1", "v2"])),
    st.builds(thought, st.sampled_from(["", "s"])),
    st.sampled_from(
        [
            {"type": "thinking", "thinking": "x"},
            {"type": "thinking", "signature": 5},
            {"type": "redacted_thinking"},
            {"type": "fallback"},
            {"type": "hologram", "id": ["t1"], "tool_use_id": {}},
            {"type": "hologram", "n": [math.inf]},
            use("t1", input={"n": math.nan}),
            result("t1", new="\ud800"),
            {"type": "server_tool_use", "id": [], "name": "x", "input": {}},
            {"type": "mcp_tool_use", "id": "m1", "name": "x", "input": {}},
            {"type": "odd_tool_result", "tool_use_id": []},
            {"type": "image", "source": 5},
            {"type": ["text"]},
            {"text": "x"},
            {},
            "text",
            None,
        ]
    ),
)
contents = st.lists(broken_blocks, max_size=5) | st.sampled_from(["", " ", "hello", "hello "]) | junk
broken_messages = st.one_of(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "user", "assistant", "system", "tool"]), "content": contents},
        optional={"id": st.just("msg"), "usage": st.just({}), "output_config": st.just({"effort": "low"})},
    ).filter(lambda message: message["role"] == "system" or "output_config" not in message),
    st.sampled_from([{}, {"role": "user"}, {"role": "assistant"}, {"role": {}, "content": "x"}, None, "message", 5]),
    st.builds(lambda role: jsontext.Unreadable(b"\xff", {"role": role, "content": []}), st.sampled_from(["user", ""])),
)
indexes = st.sets(st.integers(0, 9), max_size=2)


some_examples = pytest.mark.parametrize("examples", [100, pytest.param(3_000, marks=pytest.mark.slow)])


@some_examples
def test_any_broken_history_is_repaired_to_what_both_judges_take(examples: int) -> None:
    @settings(max_examples=examples)
    @given(st.lists(broken_messages, max_size=10), indexes, indexes, st.sets(ids))
    def look(messages: Any, cut: Any, refused: Any, in_doubt: Any) -> None:
        view = repair(messages, cut=cut, refused=refused, in_doubt=in_doubt)

        assert lint(view) == []
        assert repair(view) == view
        assert all(one is other for one, other in zip(repair(view), view, strict=True))
        assert accepted(view)

    look()


@some_examples
def test_what_one_judge_takes_the_other_takes_and_repair_leaves_alone(examples: int) -> None:
    @settings(max_examples=examples)
    @given(st.lists(broken_messages, max_size=10))
    def look(messages: Any) -> None:
        check_untouched(messages)
        check_rules_take(messages)
        check_lint_takes(messages)

    look()


def check_untouched(messages: Any) -> None:
    done = plan(messages)
    untouched = [entry.origin for entry in done.view] == list(range(len(messages)))

    assert untouched == (lint(messages) == [])
    assert untouched <= (done.additions == [])


def check_rules_take(messages: Any) -> None:
    if lint(messages, sending=True) == []:
        error = check_request({"model": MODEL, "max_tokens": 100, "messages": messages})
        assert error is None, error.message


def check_lint_takes(messages: Any) -> None:
    if check_request({"model": MODEL, "max_tokens": 100, "messages": messages}) is None:
        unsure = {
            "thinking_without_signature",
            "before_fallback",
            "first_not_user",
        }  # an empty signature; our own caution
        assert set(codes(messages)) <= unsure
