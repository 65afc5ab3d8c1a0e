"""Messages as the bytes the Messages API sends. Pure: the same values give the same bytes.

The shapes (order of fields, `ping` after the first block's start, the empty first `partial_json`, the spaces before a
closing brace, `cache_creation` only in `message_start`) are those of streams recorded from the API in public
repositories in 2026.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from session.testing.script import Block, Reply, StreamError

TOOL_USES: Final = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_ONLY_AT_THE_END: Final = frozenset({"container", "stop_details"})
_ONLY_AT_THE_START: Final = frozenset({"cache_creation", "service_tier", "inference_geo"})


class ScriptError(Exception):
    """The script asks for what cannot be sent."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A `Reply` with everything filled in."""

    id: str
    model: str
    content: list[dict[str, Any] | str]
    stop_reason: str
    stop_sequence: str | None
    usage: dict[str, Any]
    extra: dict[str, Any]


# --- JSON -------------------------------------------------------------------------------------------------------------


def dumps(value: Any, *, spaced: bool = False) -> str:  # noqa: ANN401 - any JSON
    """*value* as JSON text, compact as bodies are, or spaced as a model writes the input of a tool."""
    return json.dumps(value, ensure_ascii=False, separators=None if spaced else (",", ":"))


def block_json(block: Block) -> str:
    """*block* as it stands in a body."""
    if isinstance(block, str):
        return block
    if not isinstance(block.get("input"), str) or block["type"] not in TOOL_USES:
        return dumps(block)
    text = _checked(block["input"])
    return "{" + ",".join(f"{dumps(key)}:{text if key == 'input' else dumps(block[key])}" for key in block) + "}"


def parsed_block(block: Block) -> dict[str, Any]:
    """*block* as values. An input that is no JSON (a tool call that was cut off) stays text."""
    parsed: dict[str, Any] = json.loads(block) if isinstance(block, str) else dict(block)
    if isinstance(parsed.get("input"), str) and parsed.get("type") in TOOL_USES:
        try:
            parsed["input"] = json.loads(parsed["input"])
        except ValueError:
            return parsed
    return parsed


def _checked(text: str) -> str:
    try:
        json.loads(text)
    except ValueError as error:
        raise ScriptError(f"a tool's input that is no JSON can only be streamed: {text!r}") from error
    return text


def _utf8(text: str) -> bytes:
    return _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text).encode()


# --- messages ---------------------------------------------------------------------------------------------------------


def message(reply: Reply, *, model: str, key: bytes, usage: dict[str, Any]) -> Message:
    """*reply* with everything filled in. What is made up (ids, signatures) depends on *key* alone."""
    given: list[Block] = [{"type": "text", "text": reply.content}] if isinstance(reply.content, str) else reply.content
    content = [_signed(block, key + bytes([number % 256])) for number, block in enumerate(given)]
    kinds = [parsed_block(block).get("type") for block in content]
    return Message(
        id=reply.id or f"msg_01{_name(key, 'message')}",
        model=reply.model or model,
        content=content,
        stop_reason=reply.stop_reason or ("tool_use" if "tool_use" in kinds else "end_turn"),
        stop_sequence=reply.stop_sequence,
        usage={**usage, **reply.usage},
        extra=reply.extra,
    )


def message_json(whole: Message) -> bytes:
    """The body of an answer that is not streamed."""
    envelope = _envelope(whole, stop_reason=whole.stop_reason, usage=whole.usage)
    content = "[" + ",".join(block_json(block) for block in whole.content) + "]"
    return _utf8("{" + ",".join(f"{dumps(key)}:{value or content}" for key, value in envelope) + "}")


def usage(read: int, written_5m: int, written_1h: int, rest: int, output: int) -> dict[str, Any]:
    """The counters of a message, in the API's order."""
    return {
        "input_tokens": rest,
        "cache_creation_input_tokens": written_5m + written_1h,
        "cache_read_input_tokens": read,
        "cache_creation": {"ephemeral_5m_input_tokens": written_5m, "ephemeral_1h_input_tokens": written_1h},
        "output_tokens": output,
        "service_tier": "standard",
        "inference_geo": "not_available",
    }


def _envelope(whole: Message, *, stop_reason: str | None, usage: dict[str, Any]) -> list[tuple[str, str | None]]:
    """The fields of a message as JSON texts; None where the content stands."""
    fields: dict[str, Any] = {
        "model": whole.model,
        "id": whole.id,
        "type": "message",
        "role": "assistant",
        "content": None,
        "stop_reason": stop_reason,
        "stop_sequence": whole.stop_sequence if stop_reason else None,
        "stop_details": None,
        "usage": usage,
        **{key: value for key, value in whole.extra.items() if stop_reason or key not in _ONLY_AT_THE_END},
    }
    return [(key, None if key == "content" else dumps(value)) for key, value in fields.items()]


def _signed(block: Block, key: bytes) -> Block:
    if isinstance(block, str):
        return block
    if block.get("type") == "thinking" and "signature" not in block:
        return {**block, "signature": base64.b64encode(hashlib.shake_256(key).digest(96)).decode()}
    if block.get("type") in TOOL_USES and "id" not in block:
        prefix = {"tool_use": "toolu_01", "server_tool_use": "srvtoolu_01", "mcp_tool_use": "mcptoolu_01"}
        return {"type": block["type"], "id": prefix[block["type"]] + _name(key, "tool"), **block}
    return block


def _name(key: bytes, purpose: str) -> str:
    digits = base64.b32encode(hashlib.sha256(purpose.encode() + key).digest()).decode()
    return digits[:22].swapcase()


def request_id(key: bytes) -> str:
    """The id of the request with this *key*."""
    return f"req_011C{_name(key, 'request')[:20]}"


# --- streams ----------------------------------------------------------------------------------------------------------


def events(whole: Message, *, delta_chars: int = 24) -> list[bytes]:
    """The server-sent events of a streamed message."""
    taken = [_message_start(whole)]
    for index, block in enumerate(whole.content):
        block_events = list(_block_events(index, block, delta_chars))
        if index == 0:
            block_events.insert(1, _event("ping", '{"type": "ping"}'))
        taken += block_events
    delta = {"stop_reason": whole.stop_reason, "stop_sequence": whole.stop_sequence, "stop_details": None}
    delta |= {key: value for key, value in whole.extra.items() if key in _ONLY_AT_THE_END}
    counters = {key: value for key, value in whole.usage.items() if key not in _ONLY_AT_THE_START}
    taken.append(_padded({"type": "message_delta", "delta": delta, "usage": counters}, len(taken)))
    taken.append(_padded({"type": "message_stop"}, len(taken)))
    return taken


def error_event(error: StreamError, identifier: str) -> bytes:
    """The event that ends a stream with *error*."""
    return _event("error", error_json(error.type, error.message, identifier).decode())


def error_json(kind: str, text: str, identifier: str, details: dict[str, Any] | None = None) -> bytes:
    """The body of an error."""
    error = {"type": kind, "message": text} | ({} if details is None else {"details": details})
    return _utf8(dumps({"type": "error", "error": error, "request_id": identifier}))


def _message_start(whole: Message) -> bytes:
    counters = {
        key: value
        for key, value in whole.usage.items()
        if key in ("input_tokens", "output_tokens") or key.startswith("cache_") or key in _ONLY_AT_THE_START
    }
    counters["output_tokens"] = min(1, whole.usage.get("output_tokens") or 0)
    envelope = _envelope(whole, stop_reason=None, usage=counters)
    text = ",".join(f"{dumps(key)}:{value or '[]'}" for key, value in envelope)
    return _event("message_start", f'{{"type":"message_start","message":{{{text}}}}}')


def _block_events(index: int, block: Block, delta_chars: int) -> Iterator[bytes]:
    start, deltas = _taken_apart(block)
    name = "content_block_start"
    yield _event(name, f'{{"type":"{name}","index":{index},"content_block":{start}{_padding(index)}}}')
    for number, delta in enumerate(_cut_small(deltas, delta_chars)):
        yield _padded({"type": "content_block_delta", "index": index, "delta": delta}, number)
    yield _padded({"type": "content_block_stop", "index": index}, index)


def _taken_apart(block: Block) -> tuple[str, list[dict[str, Any]]]:
    """A block's start as JSON text, and its deltas, each still in one piece."""
    parsed = json.loads(block) if isinstance(block, str) else block
    match parsed["type"]:
        case "text":
            cited = parsed.get("citations") or []
            begin = parsed | {"text": ""} | ({"citations": []} if cited else {})
            citations = [{"type": "citations_delta", "citation": citation} for citation in cited]
            return dumps(begin), [*citations, {"type": "text_delta", "text": parsed["text"]}]
        case "thinking":
            thought = {"type": "thinking_delta", "thinking": parsed["thinking"]}
            seal = {"type": "signature_delta", "signature": parsed["signature"]}
            return dumps(parsed | {"thinking": "", "signature": ""}), [thought, seal]
        case kind if kind in TOOL_USES:
            given = parsed["input"]
            text = given if isinstance(given, str) else dumps(given, spaced=True) if given else ""
            return dumps(parsed | {"input": {}}), [{"type": "input_json_delta", "partial_json": text}]
    return block_json(block), []


def _cut_small(deltas: list[dict[str, Any]], size: int) -> Iterator[dict[str, Any]]:
    fields = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}
    for delta in deltas:
        field = fields.get(delta["type"])
        if field is None:
            yield delta
            continue
        if field == "partial_json":
            yield delta | {field: ""}
        for start in range(0, len(delta[field]), size):
            yield delta | {field: delta[field][start : start + size]}


def _padded(value: dict[str, Any], number: int) -> bytes:
    return _event(value["type"], dumps(value)[:-1] + _padding(number) + "}")


def _padding(number: int) -> str:
    """The API hides the lengths of tokens behind spaces."""
    return " " * (number * 7 % 16)


def _event(name: str, data: str) -> bytes:
    return _utf8(f"event: {name}\ndata: {data}\n\n")
