"""The rules of the Messages API, enforced with the API's own error texts: an independent judge of what we send.

It imports nothing of `session.lint` and shares no code with it, so that a mistake in how we repair a history is not
also a mistake in how we test it. Only the standard library.

Where the texts are from (looked up 2026-11-22); where the API was never quoted, a text follows the form of its others:
- Tool calls: anthropics/claude-code#3003 (no results), and the many public reports of "unexpected `tool_use_id`", "each
  tool_use must have a single result" and "`tool_use` ids must be unique".
- That only the *leading run* of results counts, that it may cross messages, that consecutive messages of one role are
  fine, that text may be neither empty nor blank, and that an assistant's content may be empty while a user's may not:
  sent to the API one by one, and recorded with its answers on 2026-07-25 in a public repository. Older servers refused
  the assistant's too ("all messages must have non-empty content except for the optional final assistant message").
- Thinking: anthropics/claude-code#63412 (cannot be modified), SigmaNight/basiliskLLM#1185 (`enabled` refused),
  ProfSynapse/nexus#17 (`max_tokens` and the budget), the extended thinking notebook of Anthropic's cookbook (budget,
  temperature), many public reports of "thinking.signature: Field required", "The final block in an assistant message
  cannot be `thinking`" and "must start with a thinking block".
- Results with `is_error`: many public reports of both refusals ("content cannot be empty", "must be type `text`").
- System messages: what the API answered on 2026-10-06 to each wrong place, recorded in a public test.
- Server tools: Anthropic's documentation of tool use (copy of October 2026).
- JSON: anthropics/claude-code#60394 (surrogates; NaN follows the form).
- Fields: tickernelz/opencode-mem#50 (max_tokens); the others from the errors that programs quote in their comments.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from session.testing import _message_rules as rules
from session.testing._message_rules import Refused, refuse

__all__ = ["ApiError", "check_body", "check_request"]

_FIELDS: Final = frozenset(
    {
        "billing_policy",
        "cache_control",
        "compaction",
        "container",
        "context_management",
        "diagnostics",
        "fallback_credit_token",
        "fallbacks",
        "inference_geo",
        "max_tokens",
        "mcp_servers",
        "messages",
        "metadata",
        "model",
        "output_config",
        "output_format",
        "service_tier",
        "speed",
        "stop_sequences",
        "stream",
        "system",
        "temperature",
        "thinking",
        "thread",
        "tool_choice",
        "tools",
        "top_k",
        "top_p",
        "user_profile_id",
        "workspace_id",
    }
)
_TOOL_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_MAX_CACHE_BLOCKS: Final = 4
_MIN_THINKING_BUDGET: Final = 1024
_TOOL_CHOICES: Final = ("any", "auto", "none", "tool")
_THINKING_TYPES: Final = ("adaptive", "between_tools", "disabled", "enabled")

# What older models do otherwise. A model that is not here is taken for a current one.
_TAKES_PREFILL: Final = frozenset(
    {
        "claude-haiku-4-5",
        "claude-haiku-4-5-20251001",
        "claude-opus-4-5",
        "claude-opus-4-5-20251101",
        "claude-sonnet-4-5",
        "claude-sonnet-4-5-20250929",
        "claude-opus-4-1-20250805",
        "claude-opus-4-20250514",
        "claude-sonnet-4-20250514",
    }
)
_NO_SYSTEM_MESSAGES: Final = _TAKES_PREFILL | {"claude-opus-4-6", "claude-sonnet-4-6", "claude-opus-4-7"}
_TAKES_MANUAL_THINKING: Final = _TAKES_PREFILL | {"claude-opus-4-6", "claude-sonnet-4-6"}


@dataclass(frozen=True)
class ApiError:
    """What the API answers to a request that it does not take."""

    message: str
    type: str = "invalid_request_error"
    status: int = 400

    def to_dict(self) -> dict[str, Any]:
        """The body of the answer."""
        return {"type": "error", "error": {"type": self.type, "message": self.message}}


def check_request(body: Any) -> ApiError | None:  # noqa: ANN401 - any JSON
    """The error that the Messages API gives to the request *body*, parsed JSON; None: it takes it.

    Checked are shapes and places, not what only the server knows: signatures (`ThinkingLedger` does), token counts,
    whether a model exists. Blocks and tools of unknown types pass. A request that continues a thread (`thread.type`
    "continue") brings new messages only, so their conversation is not judged.
    """
    try:
        rules.check_json(body)
        _check_parameters(body)
        _check_system(body.get("system"))
        _check_tools(body)
        _check_thinking(body)
        _check_all_messages(body)
        _check_cache_control(body)
    except Refused as refused:
        return ApiError(str(refused))
    return None


def check_body(raw: bytes) -> ApiError | None:
    """As `check_request`, for the body as it arrives: bytes that are not strict JSON in UTF-8 are refused too."""
    try:
        return check_request(json.loads(raw.decode()))
    except UnicodeDecodeError:
        return ApiError(f"{rules.NO_JSON}: invalid UTF-8")
    except (ValueError, RecursionError) as error:
        return ApiError(f"{rules.NO_JSON}: {error}")


def _check_all_messages(body: dict[str, Any]) -> None:
    model = body["model"]
    system_allowed = model not in _NO_SYSTEM_MESSAGES
    if _kind(body.get("thread")) == "continue":
        rules.check_shapes(body["messages"], system_allowed=system_allowed)
        return
    rules.check_messages(body["messages"], system_allowed=system_allowed, prefill_allowed=model in _TAKES_PREFILL)
    if _kind(body.get("thinking")) == "enabled":
        _check_last_thinking(body["messages"])


def _check_parameters(body: Any) -> None:  # noqa: ANN401 - any JSON
    if not isinstance(body, dict):
        refuse("Input should be a valid dictionary or object to extract fields from")
    for field in ("model", "max_tokens", "messages"):
        if field not in body:
            refuse(f"{field}: Field required")
    for field in sorted(body.keys() - _FIELDS):
        refuse(f"{field}: Extra inputs are not permitted")
    if not isinstance(body["model"], str):
        refuse("model: Input should be a valid string")
    if not body["model"]:
        refuse("model: String should have at least 1 character")
    if type(body["max_tokens"]) is not int:
        refuse("max_tokens: Input should be a valid integer")
    if body["max_tokens"] < 0:
        refuse("max_tokens: Input should be greater than or equal to 0")


def _check_system(system: Any) -> None:  # noqa: ANN401 - any JSON
    if system is None or isinstance(system, str):
        return  # an empty string is no system prompt
    if not isinstance(system, list):
        refuse("system: Input should be a valid list")
    for number, block in enumerate(system):
        if not isinstance(block, dict) or block.get("type") != "text":
            refuse(f"system.{number}.type: Input should be 'text'")
        if not isinstance(block.get("text"), str):
            refuse(f"system.{number}.text: {'Input should be a valid string' if 'text' in block else 'Field required'}")
        if not block["text"] and block.get("cache_control"):
            refuse(f"system.{number}: cache_control cannot be set for empty text blocks")
        if not block["text"]:
            refuse("system: text content blocks must be non-empty")


def _check_tools(body: dict[str, Any]) -> None:
    tools = body.get("tools") or []
    if not isinstance(tools, list):
        refuse("tools: Input should be a valid list")
    names: list[str] = []
    for number, tool in enumerate(tools):
        if not isinstance(tool, dict):
            refuse(f"tools.{number}: Input should be a valid dictionary or object to extract fields from")
        if tool.get("type") in (None, "custom"):
            _check_custom_tool(f"tools.{number}.custom", tool)
        if isinstance(tool.get("name"), str):
            names.append(tool["name"])
    if len(names) != len(set(names)):
        refuse("tools: Tool names must be unique.")
    _check_tool_choice(body, names)


def _check_custom_tool(place: str, tool: dict[str, Any]) -> None:
    name = tool.get("name")
    if name is None:
        refuse(f"{place}.name: Field required")
    if not isinstance(name, str) or not _TOOL_NAME.fullmatch(name):
        refuse(f"{place}.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'")
    if "input_schema" not in tool:
        refuse(f"{place}.input_schema: Field required")
    if not isinstance(tool["input_schema"], dict):
        refuse(f"{place}.input_schema: Input should be a valid dictionary")
    if tool["input_schema"].get("type") != "object":
        refuse(f"{place}.input_schema.type: Input should be 'object'")


def _check_tool_choice(body: dict[str, Any], names: list[str]) -> None:
    choice = body.get("tool_choice")
    if choice is None:
        return
    kind = _kind(choice)
    if kind not in _TOOL_CHOICES:
        refuse(f"tool_choice: {_unknown_tag(kind, _TOOL_CHOICES)}")
    if not body.get("tools") and kind != "none":
        refuse("tool_choice may only be specified while providing tools.")
    if kind == "tool" and choice.get("name") not in names:
        refuse(f"Tool '{choice.get('name')}' not found in provided tools")
    if kind in ("any", "tool") and _kind(body.get("thinking")) == "enabled":
        refuse("Thinking may not be enabled when tool_choice forces tool use.")


def _check_thinking(body: dict[str, Any]) -> None:
    thinking = body.get("thinking")
    if thinking is None:
        return
    kind = _kind(thinking)
    if kind not in _THINKING_TYPES:
        refuse(f"thinking: {_unknown_tag(kind, _THINKING_TYPES)}")
    if kind != "enabled":
        return
    if body["model"] not in _TAKES_MANUAL_THINKING:
        refuse(
            '"thinking.type.enabled" is not supported for this model. Use "thinking.type.adaptive" and '
            '"output_config.effort" to control thinking behavior.'
        )
    budget = thinking.get("budget_tokens")
    if type(budget) is not int:
        fault = "Field required" if budget is None else "Input should be a valid integer"
        refuse(f"thinking.enabled.budget_tokens: {fault}")
    if budget < _MIN_THINKING_BUDGET:
        refuse(f"thinking.enabled.budget_tokens: Input should be greater than or equal to {_MIN_THINKING_BUDGET}")
    if body["max_tokens"] <= budget:
        refuse("`max_tokens` must be greater than `thinking.budget_tokens`")
    if body.get("temperature") not in (None, 1):
        refuse("`temperature` may only be set to 1 when thinking is enabled.")


def _check_last_thinking(messages: list[dict[str, Any]]) -> None:
    """With manual thinking, a turn that the tool results at the end go on with begins with its thinking."""
    taken = rules.turns(messages)
    if len(taken) < 2 or taken[-2].role != "assistant" or not taken[-2].blocks:
        return
    first, answer = taken[-2].blocks[0], taken[-1].blocks[0].block
    kind = first.block["type"]
    if answer["type"] == "tool_result" and kind not in ("thinking", "redacted_thinking"):
        refuse(
            f"{first}.type: Expected `thinking` or `redacted_thinking`, but found `{kind}`. When `thinking` is "
            "enabled, a final `assistant` message must start with a thinking block (preceeding the lastmost set of "
            "`tool_use` and `tool_result` blocks). We recommend you include thinking blocks from previous turns. To "
            "avoid this requirement, disable `thinking`."
        )


def _check_cache_control(body: dict[str, Any]) -> None:
    marked = [part for part in (body, *_cacheable(body)) if part.get("cache_control")]
    if len(marked) > _MAX_CACHE_BLOCKS:
        refuse(f"A maximum of {_MAX_CACHE_BLOCKS} blocks with cache_control may be provided. Found {len(marked)}.")


def _cacheable(body: dict[str, Any]) -> list[dict[str, Any]]:
    system = body.get("system")
    parts: list[Any] = [*(body.get("tools") or []), *(system if isinstance(system, list) else [])]
    for message in body["messages"]:
        for block in rules.blocks_of(message):
            inner = block.get("content")
            parts += [block, *(inner if isinstance(inner, list) else [])]
    return [part for part in parts if isinstance(part, dict)]


def _kind(value: Any) -> Any:  # noqa: ANN401 - any JSON
    return value.get("type") if isinstance(value, dict) else None


def _unknown_tag(found: object, expected: tuple[str, ...]) -> str:
    if found is None:
        return "Unable to extract tag using discriminator 'type'"
    tags = ", ".join(f"'{tag}'" for tag in expected)
    return f"Input tag '{found}' found using 'type' does not match any of the expected tags: {tags}"
