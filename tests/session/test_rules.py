import ast
import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session.testing import ApiError, ThinkingLedger, check_request, prefix_digest, rules, thinking

OLD = "claude-sonnet-4-5"
NEW = "claude-opus-5-5"
MANUAL = {"type": "enabled", "budget_tokens": 1024}


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks) if len(blocks) != 1 or isinstance(blocks[0], dict) else blocks[0]}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {**user(*blocks), "role": "assistant"}


def system(*blocks: Any) -> dict[str, Any]:
    return {**user(*blocks), "role": "system"}


def text(value: str = "hi") -> dict[str, Any]:
    return {"type": "text", "text": value}


def use(tool_use_id: str = "toolu_1", **more: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": tool_use_id, "name": "bash", "input": {}, **more}


def result(tool_use_id: str = "toolu_1", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": tool_use_id, "content": "ok", **more}


def search(tool_use_id: str = "srvtoolu_1") -> dict[str, Any]:
    return {"type": "server_tool_use", "id": tool_use_id, "name": "web_search", "input": {}}


def found(tool_use_id: str = "srvtoolu_1") -> dict[str, Any]:
    return {"type": "web_search_tool_result", "tool_use_id": tool_use_id, "content": []}


def thought(signature: str = "sig", value: str = "hm") -> dict[str, Any]:
    return {"type": "thinking", "thinking": value, "signature": signature}


def request(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"model": NEW, "max_tokens": 1024, "messages": list(messages), **more}


def said(body: Any) -> str | None:
    error = check_request(body)
    return None if error is None else error.message


ANY_PLACE = "; the directive-only form (content: [] with output_config) is accepted at any position"
FOLLOW = (
    "role 'system' must follow a 'user' message or an 'assistant' message ending in a server tool result" + ANY_PLACE
)
RESULT = "messages.2.content.0.tool_result"
EMPTY = "content cannot be empty if `is_error` is true"
TEXT_ONLY = "all content must be type `text` if `is_error` is true"
IMAGE = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
PRECEDE = "role 'system' must precede an 'assistant' message or end the array" + ANY_PLACE
MISSING = (
    "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: {}. Each `tool_use` block "
    "must have a corresponding `tool_result` block in the next message."
)


@pytest.mark.parametrize(
    "messages",
    [
        [user("hi")],
        [user("a"), user("b"), user("c")],
        [user("a"), assistant("b"), assistant("c"), user("d")],
        [user("a"), assistant(use()), user(result())],
        [user("a"), assistant(use()), user(result(), text())],
        [user("a"), assistant(use()), user(result()), user("more")],
        [user("a"), assistant(use("a"), use("b")), user(result("b")), user(result("a"), text())],
        [user("a"), assistant(thought(), use()), user(result(is_error=True, content=[text("x")]))],
        [user("a"), assistant(use()), user(result(is_error=False, content=[IMAGE]))],
        [user("a"), {"role": "assistant", "content": []}, user("b")],
        [user("a"), {"role": "assistant", "content": ""}, user("b")],
        [user("a"), assistant(search(), found(), text()), user("b")],
        [user("a"), assistant(search())],
        [user("a"), assistant(text(), search(), found())],
        [user("a"), assistant(search(), use()), user(result())],
        [user("a"), assistant(search(), use()), user(result()), assistant(found(), text()), user("b")],
        [user("a"), system("one"), system("two"), assistant("b"), user("c"), system("last")],
        [user("a"), assistant("b"), {"role": "system", "content": [], "output_config": {"effort": "low"}}, user("c")],
        [user("a"), assistant({"type": "hologram", "depth": 3}), user({"type": "smell"})],
        [user(result(content=None)) | {"content": [text()]}],
    ],
)
def test_what_the_api_takes_is_taken(messages: Any) -> None:
    assert said(request(*messages)) is None


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "messages: at least one message is required"),
        ([assistant("a"), user("b")], 'messages: first message must use the "user" role'),
        ([user("a"), assistant(use())], MISSING.format("toolu_1")),
        ([user("a"), assistant(use()), user("b")], MISSING.format("toolu_1")),
        ([user("a"), assistant(use("a"), use("b")), user(text(), result("a"))], MISSING.format("a, b")),
        ([user("a"), assistant(use("a"), use("b")), user(result("a"), text()), user(result("b"))], MISSING.format("b")),
        (
            [user("a"), assistant("b"), user(text(), result("toolu_9"))],
            (
                "messages.2.content.1: unexpected `tool_use_id` found in `tool_result` blocks: toolu_9. Each "
                "`tool_result` block must have a corresponding `tool_use` block in the previous message."
            ),
        ),
        (
            [user("a"), assistant(use()), user(result(), result())],
            (
                "messages.2.content.1: each tool_use must have a single result. Found multiple `tool_result` blocks "
                "with id: toolu_1"
            ),
        ),
        (
            [user("a"), assistant(use()), user(result()), assistant(text(), use()), user(result())],
            "messages.3.content.1: `tool_use` ids must be unique",
        ),
        (
            [user("a"), assistant(search()), user("b")],
            (
                "messages.1: `web_search` tool use with id `srvtoolu_1` was found without a corresponding "
                "`web_search_tool_result` block"
            ),
        ),
        (
            [user("a"), assistant(search(), use()), user(result(), text())],
            (
                "messages.1: `web_search` tool use with id `srvtoolu_1` was found without a corresponding "
                "`web_search_tool_result` block"
            ),
        ),
        ([{"role": "user", "content": ""}], "messages.0: user messages must have non-empty content"),
        ([{"role": "user", "content": []}], "messages.0: user messages must have non-empty content"),
        ([user(text(""))], "messages: text content blocks must be non-empty"),
        ([user("a"), assistant(text("")), user("b")], "messages: text content blocks must be non-empty"),
        ([user("  \n")], "messages: text content blocks must contain non-whitespace text"),
        (
            [user("a"), assistant(use()), user(result(content=[text("")]))],
            "messages: text content blocks must be non-empty",
        ),
        ([user(result()), user("x")], None),
        ([user("a"), assistant(result())], "messages.1: `tool_result` blocks can only be in `user` messages"),
        ([user(use())], "messages.0: `tool_use` blocks can only be in `assistant` messages"),
        (
            [user("a"), assistant({"type": "thinking", "thinking": "x"}), user("b")],
            "thinking.signature: Field required",
        ),
        (
            [user("a"), assistant({"type": "thinking", "signature": "x"}), user("b")],
            "thinking.thinking: Field required",
        ),
        ([user("a"), assistant({"type": "redacted_thinking"}), user("b")], "redacted_thinking.data: Field required"),
        ([user("a"), assistant(use(input="{}")), user(result())], "tool_use.input: Input should be a valid dictionary"),
        ([user("a"), assistant(use("a.b")), user("b")], "tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'"),
        ([user("a"), assistant(use(name="")), user("b")], "tool_use.name: String should have at least 1 character"),
        ([user({"type": "tool_result"})], "messages.0.content.0.tool_result.tool_use_id: Field required"),
        ([user("a"), assistant(use()), user(result(is_error=True, content=""))], f"{RESULT}: {EMPTY}"),
        ([user("a"), assistant(use()), user(result(is_error=True, content=[]))], f"{RESULT}: {EMPTY}"),
        ([user("a"), assistant(use()), user(result(is_error=True, content=None))], f"{RESULT}: {EMPTY}"),
        ([user("a"), assistant(use()), user(result(is_error=True, content=[text(), IMAGE]))], f"{RESULT}: {TEXT_ONLY}"),
        ([user({"text": "x"})], "messages.0.content.0: Unable to extract tag using discriminator 'type'"),
        ([user({"type": 5})], "messages.0.content.0: Unable to extract tag using discriminator 'type'"),
        ([user({"type": "text"})], "messages.0.content.0.text.text: Field required"),
        ([{"role": "user", "content": ["x"]}], "messages.0.content.0: Input should be a valid dictionary or object"),
        ([{"role": "user"}], "messages.0.content: Field required"),
        ([{"role": "user", "content": None}], "messages.0.content: Input should be a valid list"),
        ([{"role": "tool", "content": "x"}], "messages.0.role: Input should be 'user', 'assistant' or 'system'"),
        ([user("a") | {"usage": {}}], "messages.0.usage: Extra inputs are not permitted"),
        (["hi"], "messages.0: Input should be a valid dictionary or object"),
        ([user("a"), assistant("b"), system("x"), user("c")], f"messages.2: {FOLLOW}"),
        ([user("a"), assistant("b"), system("x"), system("y"), user("c")], f"messages.2: {FOLLOW}"),
        ([user("a"), assistant(use()), system("x"), user(result())], f"messages.2: {FOLLOW}"),
        ([user("a"), system("x"), system("y"), user("c")], f"messages.2: {PRECEDE}"),
        (
            [system("x"), user("a")],
            f"messages.0: use the top-level 'system' parameter for the initial system prompt{ANY_PLACE}",
        ),
        ([user("a"), {"role": "system", "content": ""}], "messages.1: system content must contain at least one block"),
        (
            [user("a"), system({"type": "image", "source": {}})],
            "messages.1: role 'system' supports text, tool_addition, and tool_removal blocks only",
        ),
        (
            [user("a"), assistant("b")],
            "This model does not support assistant message prefill. The conversation must end with a user message.",
        ),
        (
            [user("a"), assistant(text(), thought())],
            "messages.1: The final block in an assistant message cannot be `thinking`.",
        ),
    ],
)
def test_what_the_api_refuses_is_refused_in_its_words(messages: Any, message: str | None) -> None:
    answer = said(request(*messages))

    if message is None:
        assert answer is not None
        assert answer.startswith("messages.0.content.0: unexpected `tool_use_id`")
    else:
        assert answer is not None
        assert message in answer


def test_an_error_has_the_api_s_form() -> None:
    error = check_request(request())

    assert error == ApiError("messages: at least one message is required", "invalid_request_error", 400)
    assert error.to_dict() == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "messages: at least one message is required"},
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": None}, "model: Input should be a valid string"),
        ({"model": ""}, "model: String should have at least 1 character"),
        ({"max_tokens": "9"}, "max_tokens: Input should be a valid integer"),
        ({"max_tokens": True}, "max_tokens: Input should be a valid integer"),
        ({"messages": {}}, "messages: Input should be a valid list"),
        ({"session_id": "x"}, "session_id: Extra inputs are not permitted"),
        ({"system": 5}, "system: Input should be a valid list"),
        ({"system": [text("")]}, "system: text content blocks must be non-empty"),
        (
            {"system": [text("") | {"cache_control": {"type": "ephemeral"}}]},
            "system.0: cache_control cannot be set for empty text blocks",
        ),
        ({"system": [{"type": "image"}]}, "system.0.type: Input should be 'text'"),
        ({"tools": {}}, None),
        ({"tools": [{"input_schema": {"type": "object"}}]}, "tools.0.custom.name: Field required"),
        ({"tools": [{"name": "x"}]}, "tools.0.custom.input_schema: Field required"),
        (
            {"tools": [{"name": "a.b", "input_schema": {"type": "object"}}]},
            "tools.0.custom.name: String should match pattern '^[a-zA-Z0-9_-]{1,128}$'",
        ),
        ({"tools": [{"name": "x", "input_schema": {"type": "object"}}] * 2}, "tools: Tool names must be unique."),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, None),
        ({"tool_choice": {"type": "auto"}}, "tool_choice may only be specified while providing tools."),
        (
            {"tools": [{"type": "bash_20250124", "name": "bash"}], "tool_choice": {"type": "tool", "name": "sh"}},
            "Tool 'sh' not found in provided tools",
        ),
        (
            {"tool_choice": {"type": "must"}},
            (
                "tool_choice: Input tag 'must' found using 'type' does not match any of the expected tags: 'any', "
                "'auto', 'none', 'tool'"
            ),
        ),
        ({"thinking": {"type": "adaptive"}}, None),
        ({"thinking": {"type": "on"}}, "thinking: Input tag 'on' found using 'type' does not match"),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 2000}},
            (
                '"thinking.type.enabled" is not supported for this model. Use "thinking.type.adaptive" and '
                '"output_config.effort" to control thinking behavior.'
            ),
        ),
        (
            {"model": OLD, "thinking": {"type": "enabled", "budget_tokens": 1000}},
            "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024",
        ),
        (
            {"model": OLD, "thinking": {"type": "enabled"}},
            "thinking.enabled.budget_tokens: Field required",
        ),
        (
            {"model": OLD, "thinking": MANUAL},
            "`max_tokens` must be greater than `thinking.budget_tokens`",
        ),
        (
            {
                "model": OLD,
                "max_tokens": 5000,
                "temperature": 0,
                "thinking": MANUAL,
            },
            "`temperature` may only be set to 1 when thinking is enabled",
        ),
        (
            {
                "model": OLD,
                "max_tokens": 5000,
                "thinking": MANUAL,
                "tools": [{"type": "bash_20250124", "name": "bash"}],
                "tool_choice": {"type": "any"},
            },
            "Thinking may not be enabled when tool_choice forces tool use.",
        ),
    ],
)
def test_parameters_are_judged_in_the_api_s_words(change: Any, message: str | None) -> None:
    answer = said({**request(user("hi")), **change})

    assert answer is None if message is None else message in str(answer)


@pytest.mark.parametrize("field", ["model", "max_tokens", "messages"])
def test_a_required_field_that_is_missing_is_named(field: str) -> None:
    body = request(user("hi"))
    del body[field]

    assert said(body) == f"{field}: Field required"


@pytest.mark.parametrize("body", [None, [], "x", 5])
def test_a_body_that_is_no_object_is_refused(body: Any) -> None:
    assert said(body) == "Input should be a valid dictionary or object to extract fields from"


def test_older_models_take_a_prefill_without_trailing_whitespace() -> None:
    body = request(user("a"), assistant("b"), model=OLD)

    assert said(body) is None
    body["messages"][-1] = assistant("b ")
    assert said(body) == "messages: final assistant content cannot end with trailing whitespace"


def test_older_models_know_no_system_messages() -> None:
    assert said(request(user("a"), system("b"), model=OLD)) == (
        'messages: Unexpected role "system". The Messages API accepts a top-level `system` parameter, not "system" as '
        "an input message role."
    )


def test_with_manual_thinking_a_turn_of_tools_begins_with_its_thinking() -> None:
    thinking_config = {"type": "enabled", "budget_tokens": 1024}
    body = request(user("a"), assistant(use()), user(result()), model=OLD, max_tokens=5000, thinking=thinking_config)

    assert "messages.1.content.0.type: Expected `thinking` or `redacted_thinking`, but found `tool_use`." in str(
        said(body)
    )
    body["messages"][1] = assistant(thought(), use())
    assert said(body) is None


def test_four_cache_marks_are_taken_and_a_fifth_is_not() -> None:
    marked = text() | {"cache_control": {"type": "ephemeral"}}

    assert said(request(user(*[marked] * 3), system=[marked])) is None
    assert said(request(user(*[marked] * 4), system=[marked])) == (
        "A maximum of 4 blocks with cache_control may be provided. Found 5."
    )


def test_a_continued_thread_brings_new_messages_only() -> None:
    continued = {"type": "continue", "previous_message_id": "msg_1"}

    assert said(request(user(result()), thread=continued)) is None
    assert said(request(user(text("")), thread=continued)) == "messages: text content blocks must be non-empty"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["role", "content", "type", "text", "id", "input", "messages", "name"]), inner
            )
        ),
        max_leaves=12,
    )
)
def test_the_judge_answers_whatever_it_is_given(value: Any) -> None:
    bodies = [value, request(value), request(user("a"), value)]
    fields = ("tools", "tool_choice", "system", "thinking", "thread", "model", "cache_control")
    bodies += [{**request(user("a")), field: value} for field in fields]
    for body in bodies:
        error = check_request(body)
        assert error is None or error.status == 400


def test_the_judge_imports_nothing_of_what_it_judges() -> None:
    allowed = {"session.testing", "session.testing._message_rules", "session.testing.rules"}
    for module in (rules, thinking, sys.modules["session.testing._message_rules"]):
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)} | {
            alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
        }
        foreign = {name for name in imported if name and name.partition(".")[0] not in sys.stdlib_module_names}
        assert foreign <= allowed


# --- preserved thinking -----------------------------------------------------------------------------------------------

BOUND = (
    "Invalid `signature` in `thinking` block. The block is bound to a different conversation. Remove the block, or set "
    '`thinking.block_binding.prefix_mismatch_behavior` to "drop_block".'
)


def conversation(ledger: ThinkingLedger, turns: int = 3) -> dict[str, Any]:
    """A request after some turns, each of which thought twice around a tool."""
    body = request(user("start"), system=[text("You are kind.")], tools=[{"type": "bash_20250124", "name": "bash"}])
    for turn in range(turns):
        for content in (
            [thought(f"a{turn}"), text("let me look"), use(f"t{turn}")],
            [thought(f"b{turn}"), text("done")],
        ):
            ledger.record(body, content)
            asks = content[-1]["type"] == "tool_use"
            answer = user(result(f"t{turn}")) if asks else user(text(f"next {turn}"))
            body = {**body, "messages": [*body["messages"], assistant(*content), answer]}
    return body


def refused(ledger: ThinkingLedger, body: dict[str, Any]) -> str | None:
    error = ledger.check(body)
    return None if error is None else error.message


def test_thinking_is_good_after_exactly_what_it_was_produced_after() -> None:
    ledger = ThinkingLedger()
    body = conversation(ledger)

    assert check_request(body) is None
    assert ledger.check(body) is None
    assert ledger.check(json.loads(json.dumps(body))) is None


@pytest.mark.parametrize(
    "edit",
    [
        lambda body: body.update(system="You are kind!"),
        lambda body: body.update(system=None),
        lambda body: body.update(tools=[]),
        lambda body: body["messages"].insert(0, user("before")),
        lambda body: body["messages"][0].update(content="Start"),
        lambda body: body["messages"][1]["content"][1].update(text="let me see"),
        lambda body: body["messages"][2]["content"].append(text("a reminder")),
        lambda body: body["messages"].pop(2) and body["messages"].insert(2, user(result("t0", content="other"))),
    ],
)
def test_an_edit_before_a_thinking_block_is_refused_at_that_block(edit: Any) -> None:
    ledger = ThinkingLedger()
    body = copy.deepcopy(conversation(ledger))
    edit(body)

    assert BOUND in str(refused(ledger, body))


@pytest.mark.parametrize(
    "edit",
    [
        lambda body: body.update(max_tokens=7, tool_choice={"type": "none"}, output_config={"effort": "low"}),
        lambda body: body.update(system="You are kind."),
        lambda body: body["system"][0].update(cache_control={"type": "ephemeral"}),
        lambda body: body["messages"][2]["content"][0].update(cache_control={"type": "ephemeral"}),
        lambda body: body["messages"][0].update(content=[text("start")]),
        lambda body: body["messages"].append(user("more")),
        lambda body: body["tools"].append({"name": "later", "input_schema": {}, "defer_loading": True}),
        lambda body: body["messages"][1]["content"].pop(0),
        lambda body: body["messages"][-2]["content"].pop(0),
        lambda body: (
            [message["content"].pop(0) for message in body["messages"] if message["content"][0].get("signature")]
            if body["messages"].pop(0)
            else None
        ),
    ],
)
def test_what_is_no_edit_of_the_prefix_is_taken(edit: Any) -> None:
    ledger = ThinkingLedger()
    body = copy.deepcopy(conversation(ledger))
    body["messages"][0] = user(text("start"))
    edit(body)

    assert refused(ledger, body) is None


def test_thinking_left_out_of_the_middle_is_refused_at_the_next_block() -> None:
    ledger = ThinkingLedger()
    body = copy.deepcopy(conversation(ledger))
    body["messages"][3]["content"].pop(0)

    assert refused(ledger, body) == f"messages.5.content.0: {BOUND}"


def test_thinking_of_an_unknown_signature_is_refused() -> None:
    ledger = ThinkingLedger()
    body = request(user("a"), assistant(thought("forged"), text()), user("b"))

    assert refused(ledger, body) == "messages.1.content.0: Invalid `signature` in `thinking` block"


def test_thinking_that_was_changed_is_refused_in_the_words_for_its_place() -> None:
    ledger = ThinkingLedger()
    body = copy.deepcopy(conversation(ledger, turns=1))
    body["messages"][3]["content"][0]["thinking"] = "altered"

    assert refused(ledger, body) == (
        "messages.3.content.0: `thinking` or `redacted_thinking` blocks in the latest assistant message cannot be "
        "modified. These blocks must remain as they were in the original response."
    )
    body["messages"] += [assistant("later"), user("on")]
    assert refused(ledger, body) == "messages.3.content.0: Invalid `signature` in `thinking` block"


def test_redacted_thinking_is_bound_by_its_data() -> None:
    ledger = ThinkingLedger()
    body = request(user("a"))
    content = [{"type": "redacted_thinking", "data": "opaque"}, text()]
    ledger.record(body, content)
    body["messages"] += [assistant(*content), user("b")]

    assert refused(ledger, body) is None
    body["messages"][1]["content"][0]["data"] = "other"
    assert refused(ledger, body) == "messages.1.content.0: Invalid `data` in `redacted_thinking` block"


def test_a_request_may_ask_to_have_stale_thinking_dropped() -> None:
    ledger = ThinkingLedger()
    body = copy.deepcopy(conversation(ledger))
    body["system"] = "changed"
    body["thinking"] = {"type": "adaptive", "block_binding": {"prefix_mismatch_behavior": "drop_block"}}

    assert refused(ledger, body) is None


def test_compaction_begins_a_new_prefix() -> None:
    ledger = ThinkingLedger()
    body = request(user("long ago"), assistant({"type": "compaction", "content": "summary"}), user("now"))
    content = [thought(), text()]
    ledger.record(body, content)
    body["messages"] += [assistant(*content), user("b")]
    body["messages"][0] = user("edited")

    assert refused(ledger, body) is None


def test_a_block_can_be_registered_by_the_digest_of_its_prefix() -> None:
    ledger = ThinkingLedger()
    body = request(user("a"), system="s")
    ledger.register(prefix_digest(body), thought("x"))

    assert refused(ledger, request(user("a"), assistant(thought("x"), text()), user("b"), system="s")) is None
    assert refused(ledger, request(user("A"), assistant(thought("x"), text()), user("b"), system="s")) is not None
    assert repr(ledger) == "<ThinkingLedger: 1 blocks>"


def test_a_fork_may_go_on_from_any_prefix() -> None:
    ledger = ThinkingLedger()
    body = conversation(ledger)
    fork = {**body, "messages": [*body["messages"][:5], assistant("another way"), user("go")]}

    assert ledger.check(fork) is None
