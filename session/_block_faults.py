"""What the Messages API would refuse in a content block, whatever stands around it: finders of `session._finders`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from session._history import INVALID_JSON, NO_WORDS, SERVER_TOOL_USES, Finding, is_id
from session.jsontext import is_sendable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from session._history import Block, Code, Item, Part

_ASSISTANT_BLOCKS: Final = ("tool_use", "thinking", "redacted_thinking", *SERVER_TOOL_USES)
_SYSTEM_BLOCKS: Final = ("text", "tool_addition", "tool_removal")
# https://platform.claude.com/docs/en/build-with-claude/refusals-and-fallback#continuing-the-conversation
_NOT_BEFORE_FALLBACK: Final = ("tool_use", "thinking", "redacted_thinking", "connector_text")
_MAX_NAME_LENGTH: Final = 200


def find_bad_parts(items: list[Item]) -> Iterator[Finding]:
    """Blocks that no message, or none of this role, can carry. Kinds that are not known pass."""
    for item in items:
        for part in item.parts:
            fault = _fault(part.value, item.role)
            if fault:
                yield Finding(fault[0], item, part, fault[1])
            elif part.kind == "tool_result":
                yield from _bad_inner(item, part)
                yield from _bad_error(item, part)
            elif not is_sendable(part.value):
                yield Finding("invalid_json", item, part, INVALID_JSON)


def _fault(block: Any, role: str) -> tuple[Code, str] | None:  # noqa: ANN401 - anything that stands in a message
    kind = block.get("type") if isinstance(block, dict) else None
    if not isinstance(kind, str):
        return "block_without_type", "a block is an object with a string `type`"
    if not _fits(kind, role):
        return "wrong_block_for_role", f"a {kind} block cannot stand in a message of role {role}"
    find = _FAULTS.get(kind)
    return find(block) if find else None


def _fits(kind: str, role: str) -> bool:
    match role:
        case "system":
            return kind in _SYSTEM_BLOCKS
        case "assistant":
            return kind != "tool_result"
        case _:
            return kind not in _ASSISTANT_BLOCKS


def _text_fault(block: Block) -> tuple[Code, str] | None:
    text = block.get("text")
    if not isinstance(text, str):
        return "broken_block", "a text block has its text as a string"
    return None if text.strip() else ("empty_text", "a text block is empty or blank")


def _tool_use_fault(block: Block) -> tuple[Code, str] | None:
    name = block.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME_LENGTH:
        return "broken_block", f"a tool has a name of 1 to {_MAX_NAME_LENGTH} characters"
    if not is_id(block.get("id")):
        return "broken_block", "the id of a tool_use is made of letters, digits, _ and -"
    if not isinstance(block.get("input"), dict):
        return "tool_input_not_object", "the input of a tool is an object"
    return None


def _tool_result_fault(block: Block) -> tuple[Code, str] | None:
    if not is_id(block.get("tool_use_id")):
        return "broken_block", "the tool_use_id of a tool_result is made of letters, digits, _ and -"
    if not isinstance(block.get("content"), str | list | None):
        return "broken_block", "the content of a tool_result is neither a string nor a list"
    return None


def _thinking_fault(block: Block) -> tuple[Code, str] | None:
    if not (isinstance(block.get("signature"), str) and block["signature"]):
        return "thinking_without_signature", "thinking without its signature is not taken back"
    return None if isinstance(block.get("thinking"), str) else ("broken_block", "thinking is a string")


def _redacted_thinking_fault(block: Block) -> tuple[Code, str] | None:
    return (
        None if isinstance(block.get("data"), str) else ("broken_block", "redacted thinking has its data as a string")
    )


def _source_fault(block: Block) -> tuple[Code, str] | None:
    return None if isinstance(block.get("source"), dict) else ("broken_block", "the source is an object")


_FAULTS: Final[dict[str, Callable[[Block], tuple[Code, str] | None]]] = {
    "text": _text_fault,
    "tool_use": _tool_use_fault,
    "server_tool_use": _tool_use_fault,
    "mcp_tool_use": _tool_use_fault,
    "tool_result": _tool_result_fault,
    "thinking": _thinking_fault,
    "redacted_thinking": _redacted_thinking_fault,
    "image": _source_fault,
    "document": _source_fault,
}


def _bad_inner(item: Item, part: Part) -> Iterator[Finding]:
    """What is wrong inside a tool_result: that alone is left out. The result stays, for the tool did run."""
    content = part.value.get("content")
    rest = {key: value for key, value in part.value.items() if key != "content"}
    if not is_sendable(rest):
        yield Finding("invalid_json", item, part, INVALID_JSON)
        return
    if not isinstance(content, list):
        if not is_sendable(content):
            assert isinstance(content, str)
            said = content.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            text = f"inside the result: {INVALID_JSON}"
            yield Finding("invalid_json", item, part, text, replacement={**part.value, "content": said})
        return
    faults = [_inner_fault(block) for block in content]
    kept = [block for block, fault in zip(content, faults, strict=True) if not fault]
    for fault in faults:
        if fault:
            replacement = {**part.value, "content": kept}
            yield Finding(fault[0], item, part, f"inside the result: {fault[1]}", replacement=replacement)


def _bad_error(item: Item, part: Part) -> Iterator[Finding]:
    """Results of tools that failed hold text, and nothing else."""
    content = part.value.get("content")
    if part.value.get("is_error") is not True:
        return
    if not content:
        text, told = "the result of a tool that failed says nothing", {**part.value, "content": NO_WORDS}
        yield Finding("empty_error_result", item, part, text, "add", replacement=told)
    elif isinstance(content, list):
        texts = [block for block in content if not isinstance(block, dict) or block.get("type") == "text"]
        if len(texts) < len(content):
            text = "the result of a tool that failed holds something other than text"
            yield Finding("error_result_not_text", item, part, text, replacement={**part.value, "content": texts})


def _inner_fault(block: Any) -> tuple[Code, str] | None:  # noqa: ANN401 - anything that stands in a result
    """As for any block, but blank text is some tools' honest output, and is taken."""
    fault = _fault(block, "user")
    if not fault and not is_sendable(block):
        return "invalid_json", INVALID_JSON
    return fault if fault and not (fault[0] == "empty_text" and block["text"]) else None


def find_before_fallback(items: list[Item]) -> Iterator[Finding]:
    """What a model that declined had begun: the model that took over does not go on with it."""
    for item in items:
        last = max((place for place, part in enumerate(item.parts) if part.kind == "fallback"), default=0)
        results = {str(part.value.get("tool_use_id")) for part in item.parts if part.kind.endswith("_tool_result")}
        for part in item.parts[:last]:
            abandoned = part.kind in SERVER_TOOL_USES and str(part.value.get("id")) not in results
            if part.kind in _NOT_BEFORE_FALLBACK or abandoned:
                text = f"a {part.kind} block stands before the block that marks the change to another model"
                yield Finding("before_fallback", item, part, text)
