"""Requests: the prompt that stands around the messages, and the exact bytes of a body. Pure; nothing of the SDK.

1. A body is spliced, never re-serialised: model, parameters, tools, system, stream, and `messages` last. So the body of
   a session that only grows, or of a fork at any point, begins byte for byte with the earlier one up to its closing
   `]}`: what the prompt cache and preserved thinking ask for.
2. What was sent once keeps its bytes: `revised` replaces a part only by one of another *value*. The same tools, listed
   again by another process with their keys in another order, change nothing.
3. Thinking blocks are good only behind exactly the system, tools and blocks they were produced behind; another model,
   other parameters and `cache_control` are no part of that (a block that a model cannot read is dropped, no error).
   https://platform.claude.com/docs/en/build-with-claude/preserved-thinking
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

from msgspec import UNSET, UnsetType

from session import jsontext
from session._history import INVALID_JSON
from session.errors import InvalidPromptError, UnreadableJsonError
from session.events import PromptChanged
from session.state import Prompt

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

Given: TypeAlias = "bytes | str | Sequence[Mapping[str, Any]] | None"
"""A system prompt or a list of tool definitions: bytes are exact JSON and stay as they are; None is none."""

DEFAULT_CACHE_CONTROL: Final[Mapping[str, str]] = {"type": "ephemeral"}
"""At the top level of a request: the API puts its cache breakpoint behind the newest block, each turn anew."""

_RESERVED: Final = frozenset({"model", "tools", "system", "stream", "messages"})
_NONE: Final = frozenset({b"", b"null", b'""', b"[]"})
_THINKING: Final = frozenset({"thinking", "redacted_thinking"})


def build_body(prompt: Prompt, messages: Iterable[bytes], *, stream: bool) -> bytes:
    """The body that sends *messages*, each byte for byte, with *prompt*. Linear, in one copy.

    Raises `UnreadableJsonError` if the prompt's parameters are no JSON object.
    """
    parts = [b'{"model":', jsontext.encode(prompt.model)]
    for name, value in _members(prompt.parameters).items():
        if name not in _RESERVED:
            parts += (b",", jsontext.encode(name), b":", value)
    if prompt.tools:
        parts += (b',"tools":', prompt.tools)
    if prompt.system:
        parts += (b',"system":', prompt.system)
    if stream:
        parts.append(b',"stream":true')
    parts += (b',"messages":[', b",".join(messages), b"]}")
    return b"".join(parts)


def check_sendable(prompt: Prompt) -> None:
    """Raises `InvalidPromptError` for a part that no request can carry: NaN, infinities and halves of surrogate pairs,
    which make a body that the API does not read, whatever the messages are; and what no parser takes.
    """
    parts = {
        "model": jsontext.encode(prompt.model),
        "system": prompt.system,
        "tools": prompt.tools,
        "parameters": prompt.parameters,
    }
    for part, raw in parts.items():
        value = jsontext.parse_or_show(raw) if raw else None
        if isinstance(value, jsontext.Unreadable):
            raise InvalidPromptError(part, "no parser takes it")
        if not jsontext.is_sendable(value):
            raise InvalidPromptError(part, INVALID_JSON)


# --- prompts ----------------------------------------------------------------------------------------------------------


def prompt_of(
    *,
    model: str,
    system: Given = None,
    tools: Given = None,
    max_tokens: int | None = None,
    **parameters: Any,  # noqa: ANN401 - any parameter of the Messages API
) -> Prompt:
    """A new prompt, encoded once. *parameters* are whatever else the Messages API takes; None leaves one out.

    Prompt caching is on: `cache_control={...}` changes how, `cache_control=None` turns it off. Raises `TypeError` for
    what is no JSON, `ValueError` for a parameter that has a place of its own (`stream`, `messages`), and
    `UnreadableJsonError` for bytes that are no JSON of their kind.
    """
    parameters.setdefault("cache_control", DEFAULT_CACHE_CONTROL)
    return revised(Prompt(), model=model, system=system, tools=tools, max_tokens=max_tokens, **parameters)


def revised(
    old: Prompt,
    *,
    model: str | None = None,
    system: Given | UnsetType = UNSET,
    tools: Given | UnsetType = UNSET,
    **parameters: Any,  # noqa: ANN401 - any parameter of the Messages API
) -> Prompt:
    """*old* with what is given: a part of equal value keeps its old bytes, a parameter of None is taken away.

    Raises as `prompt_of` does.
    """
    return Prompt(
        model=model or old.model,
        system=old.system if system is UNSET else _part(old.system, system),
        tools=old.tools if tools is UNSET else _part(old.tools, tools),
        parameters=_parameters(old.parameters, parameters),
    )


def changes(old: Prompt, new: Prompt) -> PromptChanged | None:
    """The event after which a session with the prompt *old* has *new*; None if no value differs.

    Its fields are those of another value: where only the bytes differ, the old ones hold.
    """
    if old == new:
        return None
    changed = {
        name: getattr(new, name)
        for name in ("system", "tools", "parameters")
        if not _same(getattr(old, name), getattr(new, name))
    }
    if new.model != old.model:
        changed["model"] = new.model
    return PromptChanged(**changed) if changed else None


def _part(old: bytes, given: Given) -> bytes:
    raw = given if isinstance(given, bytes) else jsontext.encode(given)
    if raw in _NONE:
        return b""
    if jsontext.string(raw) is None:
        jsontext.items(raw)  # raises for what is neither a string nor an array
    return old if _same(old, raw) else raw


def _parameters(old: bytes, given: Mapping[str, object]) -> bytes:
    if taken := sorted(_RESERVED & given.keys()):
        raise ValueError(f"{', '.join(taken)}: not a parameter, it has a place of its own")
    merged = dict(_members(old))
    for name, value in given.items():
        if value is None:
            merged.pop(name, None)
        elif not _same(merged.get(name, b""), raw := jsontext.encode(value)):
            merged[name] = raw
    return old if merged == _members(old) else jsontext.joined_members(merged)


def _same(one: bytes, other: bytes) -> bool:
    return one == other or (bool(one) and bool(other) and jsontext.canonical(one) == jsontext.canonical(other))


def _members(raw: bytes) -> dict[str, bytes]:
    return jsontext.members(raw) if raw else {}


# --- thinking ---------------------------------------------------------------------------------------------------------


def thinking_conflict(
    old: Prompt, new: Prompt, messages: Sequence[bytes], *, edited_at: int | None = None
) -> str | None:
    """Why the API would refuse *messages*, sent with *new*, for the thinking in them; None if it would not.

    They were produced under *old*, and are what they were up to the index *edited_at* (None: all of them). Cautious: an
    account or a model that does not enforce the prefix would take them, which cannot be known here.
    """
    changed = changed_prefix(old, new, messages, edited_at=edited_at)
    if not changed:
        return None
    return (
        f"the messages hold thinking blocks, which the API takes back only behind exactly the system, tools and "
        f"messages they were produced behind, and {' and '.join(changed)} changed"
    )


def changed_prefix(
    old: Prompt, new: Prompt, messages: Sequence[bytes], *, edited_at: int | None = None
) -> tuple[str, ...]:
    """As `thinking_conflict`: which of "system", "tools" and "messages" changed before a thinking block."""
    if _drops_blocks(new):
        return ()
    changed = []
    if _blocks(old.system) != _blocks(new.system):
        changed.append("system")
    if sorted(_blocks(old.tools)) != sorted(_blocks(new.tools)):
        changed.append("tools")
    if changed and first_thinking(messages) is None:
        changed = []
    if edited_at is not None and first_thinking(messages, start=edited_at) is not None:
        changed.append("messages")
    return tuple(changed)


def first_thinking(messages: Sequence[bytes], *, start: int = 0) -> int | None:
    """The index of the first message from *start* on that holds a thinking block; None: none does."""
    for index in range(start, len(messages)):
        if any(_is_thinking(block) for block in _suspects(messages[index])):
            return index
    return None


def strip_thinking(messages: Iterable[bytes], *, start: int = 0) -> list[bytes]:
    """*messages* without the thinking blocks from index *start* on; a message that held nothing else is left out.

    All other blocks keep their bytes, and a message without thinking is the same object.
    """
    stripped = (raw if index < start else _without_thinking(raw) for index, raw in enumerate(messages))
    return [raw for raw in stripped if raw is not None]


def _without_thinking(raw: bytes) -> bytes | None:
    blocks = list(_suspects(raw))
    kept = [block for block in blocks if not _is_thinking(block)]
    if len(kept) == len(blocks):
        return raw
    if not kept:
        return None
    return jsontext.joined_members({**jsontext.members(raw), "content": b"[" + b",".join(kept) + b"]"})


def _suspects(raw: bytes) -> Iterator[bytes]:
    """The blocks of a message in which the word stands at all: most messages cost one search."""
    if b"thinking" not in raw:
        return
    try:
        yield from jsontext.items(jsontext.members(raw).get("content", b""))
    except UnreadableJsonError:  # a string, or nothing that can be taken apart
        return


def _is_thinking(block: bytes) -> bool:
    try:
        return jsontext.string(jsontext.members(block).get("type", b"")) in _THINKING
    except UnreadableJsonError:
        return False


def _drops_blocks(prompt: Prompt) -> bool:
    thinking = jsontext.parse_or_show(_members(prompt.parameters).get("thinking", b"null"))
    binding = thinking.get("block_binding") if isinstance(thinking, dict) else None
    return isinstance(binding, dict) and binding.get("prefix_mismatch_behavior") == "drop_block"


def _blocks(raw: bytes) -> list[bytes]:
    """What the API compares of system or tools: no `cache_control`, no deferred tools; a string is a block."""
    value = jsontext.parse_or_show(raw) if raw else []
    blocks = [{"type": "text", "text": value}] if isinstance(value, str) else value
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        return [raw]
    kept = [{key: part for key, part in block.items() if key != "cache_control"} for block in blocks]
    return [jsontext.canonical(jsontext.encode(block)) for block in kept if not block.get("defer_loading")]
