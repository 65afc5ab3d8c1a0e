"""What a scripted Messages API answers: values, one per call. Nothing here sends anything.

JSON text: wherever a block, or the input of a tool, is a `str`, it is JSON text and goes out exactly as it stands (odd
numbers, key order, escapes, repeated keys). In a stream, such an input is what the `partial_json` pieces spell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

Block: TypeAlias = dict[str, Any] | str
How: TypeAlias = Literal["end", "close", "reset"]


class Cut(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="step", tag="cut"):
    """The answer's body ends too early: after so many bytes, or so many whole server-sent events.

    - "end": the body ends in good order, as it does behind a proxy whose own connection broke. The SDK raises nothing:
      its message has a `stop_reason` of None.
    - "close": the connection is closed in the middle of the body.
    - "reset": the connection is reset.

    In place of an answer: the connection is closed (or reset) before the first byte of one.
    """

    after_bytes: int | None = None
    after_events: int | None = None
    how: How = "end"

    def __post_init__(self) -> None:
        if self.after_bytes is not None and self.after_events is not None:
            raise ValueError("a cut is after so many bytes or after so many events, not both")


class Delay(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="step", tag="delay"):
    """Seconds before the answer's first byte, and before each chunk of its body.

    *hold_after_events*: after so many whole events the answer waits until `ScriptedApi.release`.
    """

    before_seconds: float = 0.0
    between_seconds: float = 0.0
    hold_after_events: int | None = None


class StreamError(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="step", tag="stream_error"
):
    """An `error` event in place of the rest of a stream.

    It comes after so many whole events; None: where `message_delta` would come. An answer that is not streamed is the
    `Failure` of this type.
    """

    after_events: int | None = None
    type: str = "overloaded_error"
    message: str = "Overloaded"


class Reply(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="step", tag="reply"):
    """A message of the model.

    - *content*: blocks, or the text of a single one. Missing ids of tool calls and signatures of thinking are made up.
    - *stop_reason*: None is "tool_use" if there is a tool call, else "end_turn".
    - *usage*: counters in place of those computed from the request and the prompt cache, or beside them.
    - *model*: None is the request's. *id*: None is made up.
    - *extra*: more fields of the message (`container`, `stop_details`, ...).
    - *delta_chars*: characters per delta of a stream.
    - *chunk_bytes*, *chunk_seed*: cut the body into chunks of so many bytes, or anywhere, by a random generator of this
      seed. Neither: one chunk per event.
    """

    content: str | list[Block] = ""
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: dict[str, Any] = {}
    model: str | None = None
    id: str | None = None
    extra: dict[str, Any] = {}
    headers: dict[str, str] = {}
    error: StreamError | None = None
    cut: Cut | None = None
    delay: Delay = Delay()
    delta_chars: int = 24
    chunk_bytes: int | None = None
    chunk_seed: int | None = None


class Failure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="step", tag="failure"):
    """An error of the API: `{"type": "error", "error": {...}, "request_id": ...}`.

    *type* and *message* of None are the API's own for this status. *retry_after_seconds* is so small that tests do not
    wait; the real API asks for whole seconds. None: no such header.
    """

    status: int
    type: str | None = None
    message: str | None = None
    details: dict[str, Any] | None = None
    headers: dict[str, str] = {}
    retry_after_seconds: float | None = 0.001
    cut: Cut | None = None
    delay: Delay = Delay()


class Exact(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="step", tag="exact"):
    """These bytes as the body, whatever was asked."""

    body: bytes
    status: int = 200
    content_type: str = "text/event-stream; charset=utf-8"
    headers: dict[str, str] = {}
    cut: Cut | None = None
    delay: Delay = Delay()
    chunk_bytes: int | None = None
    chunk_seed: int | None = None


Step: TypeAlias = Reply | Failure | Exact | Cut
Script: TypeAlias = Sequence[Step | str] | Callable[[dict[str, Any], int], Step | str]


def says(text: str) -> dict[str, Any]:
    """A text block."""
    return {"type": "text", "text": text}


def thinks(thinking: str, signature: str | None = None) -> dict[str, Any]:
    """A thinking block; without *signature* the scripted API signs it."""
    block = {"type": "thinking", "thinking": thinking}
    return block if signature is None else {**block, "signature": signature}


def calls(name: str, tool_input: dict[str, Any] | str, tool_id: str | None = None) -> dict[str, Any]:
    """A tool_use block; *tool_input* is a dictionary or JSON text. Without *tool_id* the scripted API makes one up."""
    named = {} if tool_id is None else {"id": tool_id}
    return {"type": "tool_use", **named, "name": name, "input": tool_input}


def steps_from_json(text: bytes) -> list[Step]:
    """The script in *text*: a JSON array of steps, each with its `step`: reply, failure, exact (body in base64) or cut.

    Raises `msgspec.ValidationError` for anything else.
    """
    return msgspec.json.decode(text, type=list[Step])
