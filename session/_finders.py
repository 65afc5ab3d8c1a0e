"""What the Messages API would refuse in a history, rule by rule.

A *finder* looks at all items and says what is wrong; it changes nothing. What each rule rests on is said in
`session.testing.rules`, which enforces the same rules by other means.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final, TypeAlias

from session._block_faults import find_bad_parts, find_before_fallback
from session._history import INVALID_JSON, SERVER_TOOL_USES, Exchange, Finding, Item, is_id, tool_uses
from session.jsontext import is_sendable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from session._history import Part, Remedy

    Finder: TypeAlias = Callable[[list[Item]], Iterable[Finding]]

_RESPONSE_FIELDS: Final = frozenset({"id", "model", "stop_details", "stop_reason", "stop_sequence", "type", "usage"})


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


# --- whole messages ---------------------------------------------------------------------------------------------------


def find_faults(items: list[Item]) -> Iterator[Finding]:
    """What is no message at all, and messages with fields that only responses have."""
    for item in items:
        if item.fault:
            yield Finding(item.fault[0], item, None, item.fault[1])
        elif not is_sendable({key: value for key, value in item.message.items() if key != "content"}):
            yield Finding("invalid_json", item, None, INVALID_JSON)
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
    turn = itertools.takewhile(lambda item: item.role == last.role, reversed(spoken))
    ending = next((item for item in turn if item.parts), last)  # one without content ends nothing
    final = ending.parts[-1] if ending.parts else None
    if last.role == "user" or (
        final and (final.kind in SERVER_TOOL_USES or final.kind.endswith(("_tool_result", "compaction")))
    ):
        return
    yield Finding("prefill", last, None, "the conversation ends with the assistant's message", "none")
    text = final.value.get("text") if final and final.kind == "text" else None
    if isinstance(text, str) and text != text.rstrip():
        yield Finding("trailing_whitespace", ending, final, "the assistant's last text ends in whitespace", "none")


# --- tools ------------------------------------------------------------------------------------------------------------


def find_duplicate_tool_uses(items: list[Item]) -> Iterator[Finding]:
    """tool_use blocks whose id was used before."""
    seen: set[object] = set()
    for item in items:
        for part in item.parts:
            if part.kind in ("tool_use", *SERVER_TOOL_USES) and is_id(part.value.get("id")):
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
            if part.kind == "tool_use" and is_id(part.value.get("id")) and part.value["id"] not in seen:
                text = f"the tool_use {part.value['id']} has no result"
                yield Finding("unanswered_tool_use", item, part, text, "add", exchange=exchange)
