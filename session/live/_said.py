"""The user's message: made from what `send` was given, and refused if no API version could take it. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

import msgspec

from session import jsontext
from session.errors import InvalidMessageError, UnreadableJsonError
from session.lint import lint
from session.messages import Message

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from session.state import Pending

MAX_MESSAGE_BYTES: Final = 32 * 2**20
"""What the Messages API takes as a whole request (https://platform.claude.com/docs/en/api/errors: 32 MB)."""

Said: TypeAlias = "str | bytes | Mapping[str, Any] | Sequence[Mapping[str, Any]] | Message"
"""A text, the content blocks of a user's message, or a whole message: a dict or its exact bytes."""

_ROLES: Final = ("user", "system")
_REFUSED: Final = frozenset(
    {
        "block_without_type",
        "broken_block",
        "empty_content",
        "empty_error_result",
        "empty_text",
        "error_result_not_text",
        "invalid_json",
        "not_a_message",
        "response_fields",
        "thinking_without_signature",
        "tool_input_not_object",
        "unreadable_message",
        "wrong_block_for_role",
        "wrong_content",
        "wrong_role",
    }
)


def said(given: Said, pending: Pending | None) -> Message:
    """The message *given*. Bytes are kept exactly, block types that are not known pass.

    Raises `InvalidMessageError` for a wrong role, empty content, a block without a string `type`, a known block that is
    broken, a tool_result without its tool_use in *pending*, what is no JSON, and more than `MAX_MESSAGE_BYTES`.
    """
    message = Message.of(_whole(given))
    if len(message.raw) > MAX_MESSAGE_BYTES:
        raise InvalidMessageError(f"{len(message.raw)} bytes, the limit is {MAX_MESSAGE_BYTES}")
    parsed = _strictly_parsed(message.raw)
    problem = next((problem for problem in lint([parsed]) if problem.code in _REFUSED), None)
    if problem:
        raise InvalidMessageError(problem.text)
    if message.role not in _ROLES:
        raise InvalidMessageError(f"the role is {message.role!r:.40}; what is sent is said by {' or '.join(_ROLES)}")
    open_calls = pending.tool_use_ids if pending else ()
    for answered in message.tool_results:
        if answered not in open_calls:
            raise InvalidMessageError(f"no tool_use {answered!r:.80} waits for a result")
    return message


def _whole(given: Any) -> Any:  # noqa: ANN401 - anything a caller may hand in
    if isinstance(given, str):
        return {"role": "user", "content": given}
    if isinstance(given, list | tuple):
        return {"role": "user", "content": list(given)}
    return given


def _strictly_parsed(raw: bytes) -> Any:  # noqa: ANN401 - any JSON
    """By the letter of RFC 8259, which has no NaN."""
    try:
        return msgspec.json.decode(raw)
    except (ValueError, RecursionError, msgspec.MsgspecError):
        pass
    try:
        json.loads(raw.decode(), parse_constant=_refuse)
        return jsontext.parse(raw)
    except (ValueError, RecursionError, UnreadableJsonError) as error:
        raise InvalidMessageError(f"it is no JSON: {error}") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON value")
