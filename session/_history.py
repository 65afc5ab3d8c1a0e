"""A history taken apart for `session.lint`: items, turns, and what the Messages API would refuse in them.

A *finder* looks at all items and says what is wrong; it changes nothing. What each rule rests on is said in
`session.testing.rules`, which enforces the same rules by other means.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from session.jsontext import Unreadable, is_sendable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

Block: TypeAlias = "dict[str, Any]"
Finder: TypeAlias = "Callable[[list[Item]], Iterable[Finding]]"

Code: TypeAlias = Literal[
    "before_fallback",
    "block_without_type",
    "broken_block",
    "cut_response",
    "duplicate_tool_result",
    "duplicate_tool_use",
    "empty_content",
    "empty_error_result",
    "empty_text",
    "error_result_not_text",
    "first_not_user",
    "invalid_json",
    "misplaced_system_message",
    "misplaced_tool_result",
    "no_messages",
    "not_a_message",
    "orphan_tool_result",
    "prefill",
    "refused_turn",
    "response_fields",
    "thinking_without_signature",
    "tool_input_not_object",
    "trailing_whitespace",
    "unanswered_server_tool",
    "unanswered_tool_use",
    "unreadable_message",
    "wrong_block_for_role",
    "wrong_content",
    "wrong_role",
]

Remedy: TypeAlias = Literal["add", "move", "leave_out", "none"]
"""What `repair` does about a problem."""

SERVER_TOOL_USES: Final = ("server_tool_use", "mcp_tool_use")

NO_WORDS: Final = "The tool failed without saying why."
_ROLES: Final = ("user", "assistant", "system")
_ASSISTANT_BLOCKS: Final = ("tool_use", "thinking", "redacted_thinking", *SERVER_TOOL_USES)
_SYSTEM_BLOCKS: Final = ("text", "tool_addition", "tool_removal")
# https://platform.claude.com/docs/en/build-with-claude/refusals-and-fallback#continuing-the-conversation
_NOT_BEFORE_FALLBACK: Final = ("tool_use", "thinking", "redacted_thinking", "connector_text")
_RESPONSE_FIELDS: Final = frozenset({"id", "model", "stop_details", "stop_reason", "stop_sequence", "type", "usage"})
_ID: Final = re.compile(r"[a-zA-Z0-9_-]+")
_MAX_NAME_LENGTH: Final = 200
_INVALID_JSON: Final = "it holds NaN, an infinity or half of a surrogate pair, and the API reads no body with one"


@dataclass(slots=True, eq=False)
class Part:
    """A content block; *index* is its place in the message as recorded, None where it is not one of its blocks."""

    index: int | None
    value: Block

    @property
    def kind(self) -> str:
        """Its type; "" where it has none."""
        kind = self.value.get("type") if isinstance(self.value, dict) else None
        return kind if isinstance(kind, str) else ""

    @property
    def answers(self) -> str | None:
        """The tool_use that it is the result of."""
        answers = self.value.get("tool_use_id") if self.kind == "tool_result" else None
        return answers if isinstance(answers, str) else None


@dataclass(slots=True, eq=False)
class Item:
    """A message while it is worked on; *index* is its place in the history, None if repair made it."""

    index: int | None
    message: Any
    role: str
    parts: list[Part] = field(default_factory=list)
    fault: tuple[Code, str] | None = None
    changed: bool = False

    @property
    def is_ask(self) -> bool:
        """Whether the user says something in it, tool results aside."""
        return self.role == "user" and any(part.kind != "tool_result" for part in self.parts)

    @property
    def is_directive(self) -> bool:
        """Whether it is a system message without content, which may stand anywhere."""
        return self.role == "system" and not self.parts and bool(self.message.get("output_config"))


@dataclass(slots=True, eq=False)
class Exchange:
    """An assistant's turn and the user's turn after it; either may be missing."""

    asking: list[Item]
    answering: list[Item]


@dataclass(slots=True, eq=False)
class Finding:
    """A problem, with the objects that it is about."""

    code: Code
    item: Item
    part: Part | None
    text: str
    remedy: Remedy = "leave_out"
    replacement: Block | None = None
    exchange: Exchange | None = None


def read(messages: Sequence[Any]) -> list[Item]:
    """The history as items. Never fails: what is no message becomes an item with a fault."""
    return [_item(index, message) for index, message in enumerate(messages)]


def finders(cut: Collection[int], refused: Collection[int]) -> list[Finder]:
    """All of them, in the order in which repair acts on what they find."""
    return [
        find_faults,
        lambda items: find_cut(items, cut),
        lambda items: find_refused(items, refused),
        find_bad_parts,
        find_before_fallback,
        find_empty,
        find_first,
        find_duplicate_tool_uses,
        find_server_tools,
        find_pairing,
        find_system_places,
    ]


def _item(index: int, message: Any) -> Item:  # noqa: ANN401 - anything that stands in a history
    if isinstance(message, Unreadable):
        return Item(index, message, "", fault=("unreadable_message", "no parser takes its bytes"))
    if not isinstance(message, dict):
        return Item(index, message, "", fault=("not_a_message", "it is no JSON object"))
    role = message.get("role")
    if role not in _ROLES:
        return Item(
            index, message, "", fault=("wrong_role", f"the role is {role!r:.40}, not one of {', '.join(_ROLES)}")
        )
    content = message.get("content", [] if message.get("output_config") else None)
    if isinstance(content, str):
        parts = [Part(None, {"type": "text", "text": content})] if content else []
        return Item(index, message, role, parts)
    if isinstance(content, list):
        return Item(index, message, role, [Part(number, block) for number, block in enumerate(content)])
    return Item(index, message, role, fault=("wrong_content", "the content is neither a string nor a list"))


# --- whole messages ---------------------------------------------------------------------------------------------------


def find_faults(items: list[Item]) -> Iterator[Finding]:
    """What is no message at all, and messages with fields that only responses have."""
    for item in items:
        if item.fault:
            yield Finding(item.fault[0], item, None, item.fault[1])
        elif not is_sendable({key: value for key, value in item.message.items() if key != "content"}):
            yield Finding("invalid_json", item, None, _INVALID_JSON)
        elif extra := sorted(_RESPONSE_FIELDS & item.message.keys()):
            kept = {key: value for key, value in item.message.items() if key not in _RESPONSE_FIELDS}
            text = f"fields of a response, which no message takes: {', '.join(extra)}"
            yield Finding("response_fields", item, None, text, replacement=kept)


def find_cut(items: list[Item], cut: Collection[int]) -> Iterator[Finding]:
    """Responses that did not complete."""
    for item in items:
        if item.index in cut:
            yield Finding("cut_response", item, None, "the response was cut before it was complete")


def find_refused(items: list[Item], refused: Collection[int]) -> Iterator[Finding]:
    """Refused responses, with everything back to the ask that was refused."""
    for end, item in enumerate(items):
        if item.index not in refused:
            continue
        start = next((place for place in range(end, -1, -1) if items[place].is_ask), end)
        while start and items[start - 1].is_ask:
            start -= 1
        for member in items[start : end + 1]:
            yield Finding("refused_turn", member, None, "the model refused this turn")


def find_empty(items: list[Item]) -> Iterator[Finding]:
    """Messages without content, but for an assistant's that came without."""
    for item in items:
        kept = item.fault or item.parts or item.is_directive or (item.role == "assistant" and not item.changed)
        if not kept:
            yield Finding("empty_content", item, None, "the content is empty")


def find_first(items: list[Item]) -> Iterator[Finding]:
    """What the user and the assistant say before the first ask."""
    spoken = [item for item in items if item.role in ("user", "assistant")]
    for item in itertools.takewhile(lambda item: not item.is_ask, spoken):
        yield Finding("first_not_user", item, None, "the conversation does not begin with the user's ask")


def find_system_places(items: list[Item]) -> Iterator[Finding]:
    """System messages that do not stand between a user's message and an assistant's, or at the end."""
    placed = [item for item in items if not item.is_directive]
    runs = [(role, list(run)) for role, run in itertools.groupby(placed, key=lambda item: item.role)]
    before_a_user = set(itertools.dropwhile(lambda item: item.role != "user", reversed(placed)))
    for before, (role, run), after in zip([None, *runs], runs, [*runs[1:], None], strict=False):
        if role != "system":
            continue
        follows = before is not None and (before[0] == "user" or _ends_in_server_result(before[1][-1]))
        if follows and (after is None or after[0] == "assistant"):
            continue
        for item in run:
            text = "a system message stands after the user's turn, before the assistant's or at the end"
            remedy: Remedy = "move" if item in before_a_user else "leave_out"
            yield Finding("misplaced_system_message", item, None, text, remedy)


def _ends_in_server_result(item: Item) -> bool:
    return item.role == "assistant" and bool(item.parts) and item.parts[-1].kind.endswith("_tool_result")


def find_unsendable(items: list[Item]) -> Iterator[Finding]:
    """Why the messages are no request: there are none, or the assistant had the last word and has not paused."""
    spoken = [item for item in items if item.role in ("user", "assistant")]
    if not spoken:
        yield Finding("no_messages", Item(0, {}, ""), None, "there is no message to send", "none")
        return
    last = spoken[-1]
    final = last.parts[-1] if last.parts else None
    if last.role == "user" or (
        final and (final.kind in SERVER_TOOL_USES or final.kind.endswith(("_tool_result", "compaction")))
    ):
        return
    yield Finding("prefill", last, None, "the conversation ends with the assistant's message", "none")
    text = final.value.get("text") if final and final.kind == "text" else None
    if isinstance(text, str) and text != text.rstrip():
        yield Finding("trailing_whitespace", last, final, "the assistant's last text ends in whitespace", "none")


# --- single blocks ----------------------------------------------------------------------------------------------------


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
                yield Finding("invalid_json", item, part, _INVALID_JSON)


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
    if not _is_id(block.get("id")):
        return "broken_block", "the id of a tool_use is made of letters, digits, _ and -"
    if not isinstance(block.get("input"), dict):
        return "tool_input_not_object", "the input of a tool is an object"
    return None


def _tool_result_fault(block: Block) -> tuple[Code, str] | None:
    if not _is_id(block.get("tool_use_id")):
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


def _is_id(value: object) -> bool:
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def _bad_inner(item: Item, part: Part) -> Iterator[Finding]:
    """What is wrong inside a tool_result: that alone is left out. The result stays, for the tool did run."""
    content = part.value.get("content")
    rest = {key: value for key, value in part.value.items() if key != "content"}
    if not is_sendable(rest):
        yield Finding("invalid_json", item, part, _INVALID_JSON)
        return
    if not isinstance(content, list):
        if not is_sendable(content):
            assert isinstance(content, str)
            said = content.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            text = f"inside the result: {_INVALID_JSON}"
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
        return "invalid_json", _INVALID_JSON
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


# --- tools ------------------------------------------------------------------------------------------------------------


def find_duplicate_tool_uses(items: list[Item]) -> Iterator[Finding]:
    """tool_use blocks whose id was used before."""
    seen: set[object] = set()
    for item in items:
        for part in item.parts:
            if part.kind in ("tool_use", *SERVER_TOOL_USES) and _is_id(part.value.get("id")):
                if part.value["id"] in seen:
                    yield Finding("duplicate_tool_use", item, part, f"the id {part.value['id']} was used before")
                seen.add(part.value["id"])


def find_server_tools(items: list[Item]) -> Iterator[Finding]:
    """Server tools without a result, where the user spoke before it came. Until then the server would go on."""
    waiting: dict[str, tuple[Item, Part]] = {}
    for item in items:
        for part in item.parts:
            if part.kind in SERVER_TOOL_USES:
                waiting[str(part.value.get("id"))] = (item, part)
            elif item.role == "assistant" and part.kind.endswith("_tool_result"):
                waiting.pop(str(part.value.get("tool_use_id")), None)
            elif item.role == "user" and part.kind != "tool_result":
                for use_item, use in waiting.values():
                    text = f"the server tool {use.value.get('id')} has no result, and the conversation went on"
                    yield Finding("unanswered_server_tool", use_item, use, text)
                waiting = {}


def find_pairing(items: list[Item]) -> Iterator[Finding]:
    """tool_uses and tool_results that do not match one to one, results first."""
    for exchange in _exchanges(items):
        yield from _find_in_exchange(exchange)


def _exchanges(items: list[Item]) -> list[Exchange]:
    exchanges: list[Exchange] = []
    for role, run in itertools.groupby(
        (item for item in items if item.role in ("user", "assistant")), lambda item: item.role
    ):
        if role == "assistant":
            exchanges.append(Exchange(list(run), []))
        elif exchanges:
            exchanges[-1].answering = list(run)
        else:
            exchanges.append(Exchange([], list(run)))
    return exchanges


def tool_uses(exchange: Exchange) -> dict[str, Item]:
    """The ids that an assistant's turn asks for, in order, and the message each stands in."""
    return {
        part.value["id"]: item
        for item in exchange.asking
        for part in item.parts
        if part.kind == "tool_use" and _is_id(part.value.get("id"))
    }


def _find_in_exchange(exchange: Exchange) -> Iterator[Finding]:
    asked = tool_uses(exchange)
    seen: set[str] = set()
    opening = True
    for item in exchange.answering:
        for part in item.parts:
            answers = part.answers
            opening = opening and answers is not None
            if answers is None:
                continue
            if answers not in asked:
                yield Finding(
                    "orphan_tool_result", item, part, f"no tool_use {answers} in the assistant's turn before it"
                )
            elif answers in seen:
                yield Finding("duplicate_tool_result", item, part, f"a second result of the tool_use {answers}")
            elif not opening:
                text = f"the result of the tool_use {answers} stands behind something else"
                yield Finding("misplaced_tool_result", item, part, text, "move", exchange=exchange)
            seen.add(answers)
    for item in exchange.asking:
        for part in item.parts:
            if part.kind == "tool_use" and _is_id(part.value.get("id")) and part.value["id"] not in seen:
                text = f"the tool_use {part.value['id']} has no result"
                yield Finding("unanswered_tool_use", item, part, text, "add", exchange=exchange)
