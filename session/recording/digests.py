"""What identifies a request and every prefix of it. Pure: the same values give the same digests, in any process.

    tools -> system -> message 1 -> message 2 -> ... -> message n -> model and parameters
             `prompt_digest`  `chain` after each message            `parameters_digest`, `request_digest`

Two requests that mean the same to the API have the same digests: `cache_control` and how a number is written are left
out, a text stands for the one text block it is, a member of a block that is null for one that is absent (the SDK's
`model_dump` writes nulls). 1, 1.0 and true differ.
"""

from __future__ import annotations

import hashlib
import json
from json.encoder import encode_basestring_ascii as _as_json
from typing import TYPE_CHECKING, Any, Final

from session import jsontext

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

START: Final = hashlib.sha256(b"refold messages 1").digest()
"""The chain before the first message."""

_PROMPT: Final = b"refold prompt 1"
_REQUEST: Final = b"refold request 1"
_MEMBERS: Final = {"role", "content"}
_TEXT_MEMBERS: Final = {"type", "text"}
_HOLD_BLOCKS: Final = ("content", "source")
_MAX_DEPTH: Final = 32
_END: Final = object()
_sorted_text: Final = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode


def message_digest(message: Any) -> bytes:  # noqa: ANN401 - any JSON value
    """Of one message, parsed."""
    if isinstance(message, jsontext.Unreadable):
        return hashlib.sha256(message.raw).digest()
    text = _one_text(message)
    if text is None:
        return _digest(_block(message, 0))
    return hashlib.sha256(b'{"content":[{"text":%b,"type":"text"}],"role":%b}' % text).digest()


def prompt_digest(tools: Any, system: Any) -> bytes:  # noqa: ANN401 - any JSON value
    """Of what stands before the messages, parsed; None, "" and [] are absent."""
    return hashlib.sha256(_PROMPT + _digest(_blocks(tools or [], 0)) + _digest(_blocks(system or [], 0))).digest()


def chained(before: bytes, message: bytes) -> bytes:
    """The chain behind *before* and the digest of one more *message*."""
    return hashlib.sha256(before + message).digest()


def chain(messages: Iterable[Any]) -> list[bytes]:
    """`START`, and the chain after each message."""
    found = [START]
    for message in messages:
        found.append(chained(found[-1], message_digest(message)))
    return found


def prefix_digest(prompt: bytes, after: bytes) -> bytes:
    """Of tools, system and the messages up to *after*, which is of a chain: what the prompt cache keeps."""
    return hashlib.sha256(prompt + after).digest()


def parameters_digest(model: str, parameters: Mapping[str, Any]) -> bytes:
    """Of what stands behind the messages: but for `stream`, `thread` and `cache_control` among the *parameters*."""
    kept = {key: value for key, value in parameters.items() if key not in {"cache_control", "stream", "thread"}}
    return _digest([model, kept])


def request_digest(parameters: bytes, prompt: bytes, after: bytes) -> bytes:
    """Of a whole request, by those of its parts."""
    return hashlib.sha256(_REQUEST + parameters + prefix_digest(prompt, after)).digest()


def _digest(value: object) -> bytes:
    try:
        text = _sorted_text(value)
    except (TypeError, ValueError, RecursionError):  # keys of several types, or it nests beyond the stack
        try:
            text = repr(value)
        except RecursionError:
            text = _nested_text(value)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).digest()


def _nested_text(value: object) -> str:
    """What `_sorted_text` would give, however deep it nests; of anything but JSON some text that is its own."""
    written: list[str] = []
    waiting: list[tuple[str, object]] = [("", value)]  # what stands before a value, and the value; or an end
    while waiting:
        before, part = waiting.pop()
        written.append(before)
        if isinstance(part, dict):
            written.append("{")
            members = [(f"{_as_json(str(key))}:", held) for key, held in sorted(part.items(), key=_key_text)]
            waiting += [("}", _END), *_with_commas(members)]
        elif isinstance(part, list | tuple):
            written.append("[")
            waiting += [("]", _END), *_with_commas([("", held) for held in part])]
        elif part is not _END:
            written.append(_leaf_text(part))
    return "".join(written)


def _with_commas(parts: list[tuple[str, object]]) -> list[tuple[str, object]]:
    """The last one first."""
    return [(f",{before}" if place else before, part) for place, (before, part) in enumerate(parts)][::-1]


def _key_text(member: tuple[object, object]) -> str:
    return str(member[0])


def _leaf_text(value: object) -> str:
    try:
        return _sorted_text(value)
    except (TypeError, ValueError):
        return repr(value)


def _one_text(message: Any) -> tuple[bytes, bytes] | None:  # noqa: ANN401 - any JSON value
    """The text and the role of a message that has nothing else, as most have: as they stand in what is digested."""
    if not isinstance(message, dict) or message.keys() != _MEMBERS:
        return None
    role, text = message["role"], message["content"]
    if isinstance(text, list) and len(text) == 1 and isinstance(block := text[0], dict):
        text = block["text"] if block.keys() == _TEXT_MEMBERS and block["type"] == "text" else None
    if type(role) is not str or type(text) is not str or not text:
        return None
    return _as_json(text).encode(), _as_json(role).encode()


def _block(block: Any, depth: int) -> Any:  # noqa: ANN401 - any JSON value
    if not isinstance(block, dict):
        return block
    return {
        key: _blocks(value, depth + 1) if key in _HOLD_BLOCKS and depth < _MAX_DEPTH else value
        for key, value in block.items()
        if key != "cache_control" and value is not None
    }


def _blocks(held: Any, depth: int) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(held, str):
        return [{"type": "text", "text": held}] if held else []
    return [_block(block, depth) for block in held] if isinstance(held, list) else _block(held, depth)
