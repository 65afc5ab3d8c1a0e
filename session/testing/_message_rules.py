"""What the Messages API requires of `messages`, in its own words. See `session.testing.rules` for where they are from.

Consecutive messages of one role are one turn to the API ("roles must alternate" is gone), so everything but the shape
of a single message is judged on turns.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator

NO_JSON: Final = "The request body is not valid JSON"
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_ID: Final = re.compile(r"[a-zA-Z0-9_-]+")
_NAME_LENGTH: Final = 200
_MESSAGE_FIELDS: Final = {
    "user": {"role", "content"},
    "assistant": {"role", "content"},
    "system": {"role", "content", "clear_at", "output_config"},
}
_SYSTEM_BLOCKS: Final = {"text", "tool_addition", "tool_removal"}
_ONLY_ASSISTANT: Final = {"tool_use", "server_tool_use", "mcp_tool_use", "thinking", "redacted_thinking"}
_SERVER_TOOL_USES: Final = {"server_tool_use", "mcp_tool_use"}
_TOOL_USES: Final = {"tool_use", *_SERVER_TOOL_USES}
# Kinds that are not here are not judged: the API's list grows faster than this module.
_STRINGS: Final = {"text": ["text"], "thinking": ["signature", "thinking"], "redacted_thinking": ["data"]}
_OBJECTS: Final = {**dict.fromkeys(_TOOL_USES, ("input",)), "image": ("source",), "document": ("source",)}
_ANYWHERE: Final = "; the directive-only form (content: [] with output_config) is accepted at any position"


class Refused(Exception):  # noqa: N818 - the API's answer, not a failure of ours
    """The API's text."""


class Place(NamedTuple):
    """A block and where it stands."""

    message: int
    number: int
    block: dict[str, Any]

    def __str__(self) -> str:
        return f"messages.{self.message}.content.{self.number}"


class Turn(NamedTuple):
    """Consecutive messages of one role."""

    role: str
    blocks: list[Place]


def check_json(body: Any) -> None:  # noqa: ANN401 - any JSON
    """No NaN, no infinity and no half of a surrogate pair, which Python's parser takes and the API's does not."""
    waiting = [body]
    for value in waiting:  # grows meanwhile
        match value:
            case float() if value - value != 0:  # so of NaN and the infinities only
                refuse(f"{NO_JSON}: unexpected character")
            case str() if _SURROGATE.search(value):
                refuse(f"{NO_JSON}: no low surrogate in string")
            case dict():
                waiting += [*value.keys(), *value.values()]
            case list():
                waiting += value


def check_messages(messages: Any, *, system_allowed: bool, prefill_allowed: bool) -> None:  # noqa: ANN401 - any JSON
    """Raise `Refused` unless the API takes them."""
    check_shapes(messages, system_allowed=system_allowed)
    check_conversation(messages)
    _check_end(turns(messages), prefill_allowed=prefill_allowed)


def check_shapes(messages: Any, *, system_allowed: bool) -> None:  # noqa: ANN401 - any JSON
    """Each message for itself."""
    if not isinstance(messages, list):
        refuse("messages: Input should be a valid list")
    if not messages:
        refuse("messages: at least one message is required")
    for number, message in enumerate(messages):
        _check_message(number, message, system_allowed=system_allowed)
    for number, message in enumerate(messages):
        _check_emptiness(number, message)


def check_conversation(messages: list[dict[str, Any]]) -> None:
    """All messages together."""
    _check_system_places(messages)
    taken = turns(messages)
    if taken and taken[0].role != "user":
        refuse('messages: first message must use the "user" role')
    _check_unique_tool_uses(taken)
    _check_tool_results(taken)
    _check_server_tools(taken)


def turns(messages: list[dict[str, Any]]) -> list[Turn]:
    """The user's and the assistant's turns; system messages stand between them."""
    taken: list[Turn] = []
    for number, message in enumerate(messages):
        if message["role"] == "system":
            continue
        if not taken or taken[-1].role != message["role"]:
            taken.append(Turn(message["role"], []))
        taken[-1].blocks.extend(Place(number, index, block) for index, block in enumerate(blocks_of(message)))
    return taken


def blocks_of(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The content as blocks: a string is short for one text block, "" for none."""
    content = message.get("content") or []
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def refuse(text: str) -> NoReturn:
    """Answer 400 with *text*."""
    raise Refused(text)


# --- one message ------------------------------------------------------------------------------------------------------


def _check_message(number: int, message: Any, *, system_allowed: bool) -> None:  # noqa: ANN401 - any JSON
    place = f"messages.{number}"
    if not isinstance(message, dict):
        refuse(f"{place}: Input should be a valid dictionary or object to extract fields from")
    role = message.get("role")
    if role == "system" and not system_allowed:
        refuse(
            'messages: Unexpected role "system". The Messages API accepts a top-level `system` parameter, '
            'not "system" as an input message role.'
        )
    if not isinstance(role, str) or role not in _MESSAGE_FIELDS:
        refuse(f"{place}.role: {'Field required' if role is None else _one_of(_MESSAGE_FIELDS)}")
    for field in message.keys() - _MESSAGE_FIELDS[role]:
        refuse(f"{place}.{field}: Extra inputs are not permitted")
    if "content" not in message and not message.get("output_config"):
        refuse(f"{place}.content: Field required")
    content = message.get("content", [])
    if not isinstance(content, str | list):
        refuse(f"{place}.content: Input should be a valid list")
    for index, block in enumerate(content if isinstance(content, list) else []):
        _check_block(f"{place}.content.{index}", block)
        _check_role_of_block(number, role, block["type"])


def _check_role_of_block(number: int, role: str, kind: str) -> None:
    if role == "system" and kind not in _SYSTEM_BLOCKS:
        refuse(f"messages.{number}: role 'system' supports text, tool_addition, and tool_removal blocks only")
    if role == "assistant" and kind == "tool_result":
        refuse(f"messages.{number}: `tool_result` blocks can only be in `user` messages")
    if role == "user" and kind in _ONLY_ASSISTANT:
        refuse(f"messages.{number}: `{kind}` blocks can only be in `assistant` messages")


def _check_block(place: str, block: Any) -> None:  # noqa: ANN401 - any JSON
    if not isinstance(block, dict):
        refuse(f"{place}: Input should be a valid dictionary or object to extract fields from")
    kind = block.get("type")
    if not isinstance(kind, str):
        refuse(f"{place}: Unable to extract tag using discriminator 'type'")
    place = f"{place}.{kind}"
    for field in _STRINGS.get(kind, ()):
        _string(place, block, field)
    for field in _OBJECTS.get(kind, ()):
        if not isinstance(_required(place, block, field), dict):
            refuse(f"{place}.{field}: Input should be a valid dictionary")
    if kind in _TOOL_USES:
        _identifier(place, block, "id")
        _check_tool_name(place, block)
    if kind == "tool_result":
        _identifier(place, block, "tool_use_id")
        _check_result_content(place, block)


def _check_tool_name(place: str, block: dict[str, Any]) -> None:
    name = _string(place, block, "name")
    if not name:
        refuse(f"{place}.name: String should have at least 1 character")
    if len(name) > _NAME_LENGTH:
        refuse(f"{place}.name: String should have at most {_NAME_LENGTH} characters")


def _check_result_content(place: str, block: dict[str, Any]) -> None:
    content = block.get("content")
    if content is not None and not isinstance(content, str | list):
        refuse(f"{place}.content: Input should be a valid list")
    for index, inner in enumerate(content if isinstance(content, list) else []):
        _check_block(f"{place}.content.{index}", inner)
    if block.get("is_error") is True:
        if not content:
            refuse(f"{place}: content cannot be empty if `is_error` is true")
        if any(inner["type"] != "text" for inner in content if isinstance(inner, dict)):
            refuse(f"{place}: all content must be type `text` if `is_error` is true")


def _required(place: str, block: dict[str, Any], field: str) -> Any:  # noqa: ANN401 - any JSON
    if field not in block:
        refuse(f"{place}.{field}: Field required")
    return block[field]


def _string(place: str, block: dict[str, Any], field: str) -> str:
    value = _required(place, block, field)
    if not isinstance(value, str):
        refuse(f"{place}.{field}: Input should be a valid string")
    return value


def _identifier(place: str, block: dict[str, Any], field: str) -> None:
    if not _ID.fullmatch(_string(place, block, field)):
        refuse(f"{place}.{field}: String should match pattern '^[a-zA-Z0-9_-]+$'")


def _one_of(values: Any) -> str:  # noqa: ANN401 - any collection
    *most, last = (f"'{value}'" for value in values)
    return f"Input should be {', '.join(most)} or {last}"


def _check_emptiness(number: int, message: dict[str, Any]) -> None:
    """An assistant message without content is taken (it is what some responses are), nobody else's is."""
    content = message.get("content")
    if not content and message["role"] == "user":
        refuse(f"messages.{number}: user messages must have non-empty content")
    if not content and message["role"] == "system" and not message.get("output_config"):
        refuse(f"messages.{number}: system content must contain at least one block")
    for text in _texts(blocks_of(message)):
        if not text:
            refuse("messages: text content blocks must be non-empty")
        if not text.strip():
            refuse("messages: text content blocks must contain non-whitespace text")
    for block in blocks_of(message):
        inner = block.get("content") if block["type"] == "tool_result" else None
        if isinstance(inner, list) and "" in _texts(inner):
            refuse("messages: text content blocks must be non-empty")


def _texts(blocks: list[dict[str, Any]]) -> list[str]:
    return [block["text"] for block in blocks if block["type"] == "text"]


# --- the conversation -------------------------------------------------------------------------------------------------


def _check_system_places(messages: list[dict[str, Any]]) -> None:
    """System messages stand, alone or several, between a user's message and an assistant's, or at the end."""
    placed = [(number, message) for number, message in enumerate(messages) if not _is_directive(message)]
    runs = [(role, list(run)) for role, run in itertools.groupby(placed, key=lambda entry: entry[1]["role"])]
    for before, (role, run), after in zip([None, *runs], runs, [*runs[1:], None], strict=False):
        if role != "system":
            continue
        if before is None:
            text = "use the top-level 'system' parameter for the initial system prompt"
            refuse(f"messages.{run[0][0]}: {text}{_ANYWHERE}")
        if before[0] == "assistant" and not _ends_in_server_result(before[1][-1][1]):
            text = "role 'system' must follow a 'user' message or an 'assistant' message ending in a server tool result"
            refuse(f"messages.{run[0][0]}: {text}{_ANYWHERE}")
        if after is not None and after[0] != "assistant":
            text = "role 'system' must precede an 'assistant' message or end the array"
            refuse(f"messages.{run[-1][0]}: {text}{_ANYWHERE}")


def _is_directive(message: dict[str, Any]) -> bool:
    return message["role"] == "system" and not message.get("content")


def _ends_in_server_result(message: dict[str, Any]) -> bool:
    blocks = blocks_of(message)
    return bool(blocks) and blocks[-1]["type"].endswith("_tool_result")


def _check_unique_tool_uses(taken: list[Turn]) -> None:
    seen: set[str] = set()
    for place in _places(taken):
        if place.block["type"] in _TOOL_USES:
            if place.block["id"] in seen:
                refuse(f"{place}: `tool_use` ids must be unique")
            seen.add(place.block["id"])


def _check_tool_results(taken: list[Turn]) -> None:
    """Every tool_use is answered in the run of tool_result blocks that opens the user's next turn, once, and nothing
    else is.
    """
    for before, turn, after in zip([None, *taken], taken, [*taken[1:], None], strict=False):
        if turn.role == "user":
            _check_answers(turn, before)
        else:
            _check_answered(turn, after)


def _check_answered(turn: Turn, after: Turn | None) -> None:
    opening = itertools.takewhile(lambda place: place.block["type"] == "tool_result", after.blocks if after else [])
    answered = {place.block["tool_use_id"] for place in opening}
    missing = [
        place for place in turn.blocks if place.block["type"] == "tool_use" and place.block["id"] not in answered
    ]
    if missing:
        refuse(
            f"messages.{missing[0].message}: `tool_use` ids were found without `tool_result` blocks immediately after: "
            f"{', '.join(place.block['id'] for place in missing)}. Each `tool_use` block must have a corresponding "
            "`tool_result` block in the next message."
        )


def _check_answers(turn: Turn, before: Turn | None) -> None:
    asked = {place.block["id"] for place in (before.blocks if before else []) if place.block["type"] == "tool_use"}
    seen: set[str] = set()
    for place in turn.blocks:
        if place.block["type"] != "tool_result":
            continue
        answers = place.block["tool_use_id"]
        if answers not in asked:
            refuse(
                f"{place}: unexpected `tool_use_id` found in `tool_result` blocks: {answers}. Each `tool_result` block "
                "must have a corresponding `tool_use` block in the previous message."
            )
        if answers in seen:
            refuse(
                f"{place}: each tool_use must have a single result. Found multiple `tool_result` blocks with id: "
                f"{answers}"
            )
        seen.add(answers)


def _check_server_tools(taken: list[Turn]) -> None:
    """A server tool may stay without its result only while nothing but tool results followed: the server goes on."""
    waiting: dict[str, Place] = {}
    for turn in taken:
        for place in turn.blocks:
            kind = place.block["type"]
            if kind in _SERVER_TOOL_USES:
                waiting[place.block["id"]] = place
            elif turn.role == "assistant" and kind.endswith("_tool_result"):
                waiting.pop(str(place.block.get("tool_use_id")), None)
            elif turn.role == "user" and kind != "tool_result" and waiting:
                _refuse_server_tool(next(iter(waiting.values())))


def _refuse_server_tool(place: Place) -> NoReturn:
    name = place.block["name"]
    result = "mcp" if place.block["type"] == "mcp_tool_use" else name
    refuse(
        f"messages.{place.message}: `{name}` tool use with id `{place.block['id']}` was found without a corresponding "
        f"`{result}_tool_result` block"
    )


def _check_end(taken: list[Turn], *, prefill_allowed: bool) -> None:
    """A request ends with the user's turn, or with an assistant's that the server itself goes on with (pause_turn).

    What the API says where nobody speaks (nothing but directive-only system messages) was never quoted. There is
    nothing to answer, so it is refused here, in the words for no messages at all.
    """
    if not taken:
        refuse("messages: at least one message is required")
    last = taken[-1].blocks[-1] if taken[-1].blocks else None
    if taken[-1].role == "user" or (last and _server_goes_on(last.block["type"])):
        return
    if last and last.block["type"] in {"thinking", "redacted_thinking"}:
        refuse(f"messages.{last.message}: The final block in an assistant message cannot be `{last.block['type']}`.")
    if not prefill_allowed:
        refuse("This model does not support assistant message prefill. The conversation must end with a user message.")
    if last and last.block["type"] == "text" and last.block["text"] != last.block["text"].rstrip():
        refuse("messages: final assistant content cannot end with trailing whitespace")


def _server_goes_on(kind: str) -> bool:
    return kind in _SERVER_TOOL_USES or kind == "compaction" or kind.endswith("_tool_result")


def _places(taken: list[Turn]) -> Iterator[Place]:
    return (place for turn in taken for place in turn.blocks)
