"""The messages of a request as bytes, kept from one request to the next.

Almost always that is the history, byte for byte. Where `session.lint` finds something that the API would refuse, it is
the view that repair makes of it. Only what is new since the last request is looked at, together with the exchange
before it, so a request costs a look at each message's identity and no parsing of the old ones. While a server tool is
without its result, from there on: what the user says next leaves it behind.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from session import jsontext
from session._history import SERVER_TOOL_USES
from session.lint import lint, plan

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from session.messages import Message

_ASK: Final = {"role": "user", "content": "."}  # stands for everything before a window


class RequestView:
    """Grows with the history. `update` gives the messages to send."""

    def __init__(self) -> None:
        self._entries: list[Message] = []
        self._raw: list[bytes] = []
        self._calls: set[object] = set()  # ids of tools that were called, the server's too
        self._flaws_end: float = 0  # behind the newest message that is not sent as it is
        self._waiting_from: float = math.inf  # where an exchange begins in which a server tool has no result yet

    @property
    def is_repaired(self) -> bool:
        """Whether it differs from the history."""
        return self._flaws_end > 0

    def update(
        self, entries: Sequence[Message], results: Mapping[str, bytes], in_doubt: Collection[str]
    ) -> list[bytes]:
        """The exact text of each message to send for the history *entries*. To be read only.

        *results*: recorded results of tool_uses that no message answers, by id; they stand where repair would put its
        own. *in_doubt*: tool_uses whose outcome is not known.
        """
        known = len(self._entries)
        # Comparing a list with itself in front compares identities: 50 us for 10,000 messages.
        if self._entries == entries[:known] and self._take(entries, known):
            self._raw += [entry.raw for entry in entries[known:]]
        else:
            self._repair(entries, results, in_doubt)
        self._entries = list(entries)
        return self._raw

    def _take(self, entries: Sequence[Message], known: int) -> bool:
        """Whether the messages from *known* on are as they should be, and so is what they may answer."""
        start = int(min(_window_start(entries, known), self._waiting_from))
        if start < self._flaws_end:
            return False
        window: list[dict[str, Any]] = [entry.parsed() for entry in entries[start:]]
        new_calls = _calls(window[known - start :])
        if not self._calls.isdisjoint(new_calls) or lint([_ASK, *window] if start else window):
            return False
        self._calls.update(new_calls)
        self._waiting_from = start if _waits_for_server(window) else math.inf
        return True

    def _repair(self, entries: Sequence[Message], results: Mapping[str, bytes], in_doubt: Collection[str]) -> None:
        messages = [entry.parsed() for entry in entries]
        shown = {tool_use_id: jsontext.parse_or_show(raw) for tool_use_id, raw in results.items()}
        recorded = {tool_use_id: block for tool_use_id, block in shown.items() if _is_result(tool_use_id, block)}
        planned = plan(messages, in_doubt={*in_doubt, *(results.keys() - recorded.keys())})
        self._calls = set(_calls(messages))
        self._waiting_from = 0 if _waits_for_server(messages) else math.inf
        self._flaws_end = _flaws_end(entries, [viewed.origin for viewed in planned.view])
        added = {addition.tool_use_id for addition in planned.additions}
        recorded = {tool_use_id: block for tool_use_id, block in recorded.items() if tool_use_id in added}
        self._raw = [
            entries[viewed.origin].raw if viewed.origin is not None else _encoded(viewed.message, recorded)
            for viewed in planned.view
        ]


def _flaws_end(entries: Sequence[Message], origins: Sequence[int | None]) -> float:
    """Behind the newest of *entries* that is not where it was, *origins* being those of the view."""
    sent = set(origins)
    if any(entry.role == "system" and place not in sent for place, entry in enumerate(entries)):
        return math.inf  # it comes in behind a message that is still to be said
    end = len(entries)
    for origin in reversed(origins):
        if origin != end - 1:
            break
        end -= 1
    return end


def _window_start(entries: Sequence[Message], known: int) -> int:
    """Where the run of assistant's messages begins that the messages from *known* on may answer."""
    place = known
    while place and entries[place - 1].role != "assistant":
        place -= 1
    while place and entries[place - 1].role == "assistant":
        place -= 1
    return place


def _calls(messages: Sequence[dict[str, Any]]) -> list[object]:
    return [str(block.get("id")) for block in _blocks(messages) if str(block.get("type")).endswith("tool_use")]


def _waits_for_server(messages: Sequence[dict[str, Any]]) -> bool:
    asked = {str(block.get("id")) for block in _blocks(messages) if block.get("type") in SERVER_TOOL_USES}
    return bool(asked) and not asked <= {str(block.get("tool_use_id")) for block in _blocks(messages)}


def _blocks(messages: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for message in messages:
        content = message.get("content")
        yield from (block for block in content if isinstance(block, dict)) if isinstance(content, list) else ()


def _is_result(tool_use_id: str, block: object) -> bool:
    """Whether *block* can be sent as the result: what no parser takes, or the API would refuse, is left out."""
    call = {"type": "tool_use", "id": tool_use_id, "name": "any", "input": {}}
    return not lint([_ASK, {"role": "assistant", "content": [call]}, {"role": "user", "content": [block]}])


def _encoded(message: dict[str, Any], recorded: Mapping[str, Any]) -> bytes:
    content = message.get("content")
    if not isinstance(content, list):
        return jsontext.encode(message)
    return jsontext.encode({**message, "content": [recorded.get(_answered(block), block) for block in content]})


def _answered(block: dict[str, Any]) -> str:
    return str(block.get("tool_use_id")) if block.get("type") == "tool_result" else ""
