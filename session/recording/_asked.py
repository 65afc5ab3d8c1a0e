"""A request as the program makes it, before the SDK sends it: the only look that recording takes at it.

What is stored of it is the body, the kind of endpoint and the headers of an allow-list. The rest of the address, the
other headers and the client, where keys live, are never read.
"""

from __future__ import annotations

import json
import marshal
import threading
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import parse_qs, urlsplit

import msgspec

from session import jsontext
from session.errors import UnreadableJsonError
from session.recording._redaction import redacted, redacted_bytes, redacted_text
from session.recording.digests import message_digest, parameters_digest, prompt_digest
from session.state import Prompt

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anthropic import APIRequest

MESSAGES: Final = "/v1/messages"
_BETA: Final = f"{MESSAGES}?beta=true"
_ENDPOINTS: Final = frozenset({MESSAGES, _BETA})
KEPT_HEADERS: Final = frozenset({"anthropic-beta", "anthropic-version"})
_AROUND: Final = frozenset({"tools", "system", "messages", "stream", "thread"})
_APART: Final = _AROUND | {"model"}
_PARTS_KEPT: Final = 64
_KEY_FORMAT: Final = 2  # the newest of `marshal` in which equal values have equal bytes
_ESCAPED: Final = b"\x00"  # which no msgpack map begins with

_UNPACKABLE: Final = (TypeError, ValueError, OverflowError, RecursionError)  # lone surrogates, large integers

_pack: Final = msgspec.msgpack.Encoder().encode

Part = TypeVar("Part")


class Thread(msgspec.Struct, frozen=True):
    """The `thread` of a request: its exact text, and the message it continues, "" if it begins."""

    raw: bytes
    previous_message_id: str = ""


class PromptPart(msgspec.Struct, frozen=True):
    """Tools and system: exact bytes, b"" where absent, and what they are recognised by."""

    tools: bytes
    system: bytes
    digest: bytes


class ParameterPart(msgspec.Struct, frozen=True):
    """Model and parameters, these as a JSON object, b"" if there are none, and what both are recognised by."""

    model: str
    raw: bytes
    digest: bytes

    def prompt(self, part: PromptPart) -> Prompt:
        """Everything that stands around the messages."""
        return Prompt(self.model, part.system, part.tools, self.raw)


class Asked:
    """One attempt's request, with values that can be looked at and bytes that can be kept.

    `packed` are the messages in a form that is quick to compare: equal bytes are equal messages.
    """

    def __init__(
        self, body: Mapping[str, Any], exact: Mapping[str, bytes], redact: Callable[[str], str] | None
    ) -> None:
        self._body = body
        self._exact = exact
        self._redact = redact
        messages = body.get("messages")
        self._messages: list[Any] = messages if isinstance(messages, list) else []
        spans = exact.get("messages", b"")
        self._spans = jsontext.items(spans) if spans[:1] == b"[" else []
        self.packed = _all_packed(self._messages)
        self._digests: dict[int, bytes] = {}
        self.path = MESSAGES
        self.headers = b""
        self.key = ""
        self.retries_taken = 0

    @property
    def streams(self) -> bool:
        """Whether a stream is asked for."""
        return self._body.get("stream") is True

    @property
    def thread(self) -> Thread | None:
        """What it says about a thread of messages that the server keeps."""
        thread = self._body.get("thread")
        if not isinstance(thread, dict):
            return None
        previous = thread.get("previous_message_id") if thread.get("type") == "continue" else ""
        kept = redacted_bytes(jsontext.encode({"thread": thread}), self._redact)
        return Thread(kept, redacted_text(previous, self._redact) if isinstance(previous, str) else "")

    @property
    def prompt_key(self) -> bytes | None:
        """The same for the same texts of tools and system only; None if there is none that is quick to tell."""
        return self._key([name for name in ("tools", "system") if name in self._body])

    @property
    def parameters_key(self) -> bytes | None:
        """The same for the same texts of model and parameters only; None if there is none that is quick to tell."""
        return self._key([name for name in self._body if name not in _AROUND])

    def _key(self, names: list[str]) -> bytes | None:
        if self._redact is not None:  # it is asked each time
            return None
        try:
            return marshal.dumps([(name, self._exact.get(name, self._body[name])) for name in names], _KEY_FORMAT)
        except ValueError:  # something in it is no plain value
            return None

    @property
    def model(self) -> str:
        """The model's name, as it will be stored."""
        model = self._body.get("model")
        return redacted_text(model, self._redact) if isinstance(model, str) else ""

    @property
    def parameters(self) -> dict[str, Any]:
        """Everything else in the body, as it will be stored, parsed."""
        return {name: self._member(name) for name in self._body if name not in _APART}

    def message(self, index: int) -> Any:  # noqa: ANN401 - any JSON value
        """A message as it will be stored, parsed."""
        value = self._messages[index]
        return value if self._redact is None else redacted(value, self._redact)

    def message_bytes(self, index: int) -> bytes:
        """A message as it will be stored: the exact bytes that are sent, unless they are redacted."""
        return redacted_bytes(self._spans[index], self._redact) if self._spans else _bytes(self.message(index))

    def message_digest(self, index: int) -> bytes:
        """Of a message as it will be stored."""
        known = self._digests.get(index)
        if known is None:
            known = self._digests[index] = message_digest(self.message(index))
        return known

    def prompt_part(self) -> PromptPart:
        """Tools and system as they will be stored."""
        tools, system = self._member("tools"), self._member("system")
        return PromptPart(
            b"" if tools in (None, []) else self._member_bytes("tools", tools),
            b"" if system in (None, "", []) else self._member_bytes("system", system),
            prompt_digest(tools, system),
        )

    def parameter_part(self) -> ParameterPart:
        """Model and parameters as they will be stored."""
        model, values = self.model, self.parameters
        texts = {name: self._member_bytes(name, value) for name, value in values.items()}
        return ParameterPart(model, jsontext.joined_members(texts) if texts else b"", parameters_digest(model, values))

    def _member(self, name: str) -> Any:  # noqa: ANN401 - any JSON value
        value = self._body.get(name)
        return value if self._redact is None else redacted(value, self._redact)

    def _member_bytes(self, name: str, value: Any) -> bytes:  # noqa: ANN401 - any JSON value
        exact = self._exact.get(name)
        return _bytes(value) if exact is None else redacted_bytes(exact, self._redact)


class Parts:
    """What stands around the messages of requests, made once for as long as it stays the same. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._prompts: dict[bytes | None, PromptPart] = {}
        self._parameters: dict[bytes | None, ParameterPart] = {}

    def prompt(self, asked: Asked) -> PromptPart:
        """Tools and system."""
        key = asked.prompt_key
        return self._prompts.get(key) or self._keep(self._prompts, key, asked.prompt_part())

    def parameters(self, asked: Asked) -> ParameterPart:
        """Model and parameters."""
        key = asked.parameters_key
        return self._parameters.get(key) or self._keep(self._parameters, key, asked.parameter_part())

    def _keep(self, known: dict[bytes | None, Part], key: bytes | None, part: Part) -> Part:
        if key is not None:
            with self._lock:
                known[key] = part
                if len(known) > _PARTS_KEPT:
                    del known[next(iter(known))]
        return part


def asked(request: APIRequest, redact: Callable[[str], str] | None) -> Asked | None:
    """What *request* asks the Messages API; None if it is for another endpoint, or no JSON object."""
    path = _endpoint(request.url)
    if not path or request.method.lower() != "post":
        return None
    body, exact = _body_of(request)
    if body is None:
        return None
    found = Asked(body, exact, redact)
    found.path = _BETA if dict(request.query_params).get("beta") == "true" else path
    found.headers = redacted_bytes(_kept_headers(request), redact)
    found.key = request.options.idempotency_key or ""
    found.retries_taken = request.retries_taken
    return found


def _endpoint(address: str) -> str:
    """That of the Messages API, as it is stored; "" for any other."""
    if address in _ENDPOINTS:
        return address
    parts = urlsplit(address)
    if not parts.path.endswith(MESSAGES):
        return ""
    return _BETA if parse_qs(parts.query).get("beta") == ["true"] else MESSAGES


def _all_packed(values: list[Any]) -> list[bytes]:
    try:
        return list(map(_pack, values))  # thousands in a long chat
    except _UNPACKABLE:
        return [packed(value) for value in values]


def packed(value: object) -> bytes:
    """*value* as bytes that are equal for the same JSON text only; quick."""
    try:
        return _pack(value)
    except _UNPACKABLE:
        return _ESCAPED + _bytes(value)


def _bytes(value: object) -> bytes:
    try:
        return jsontext.encode(value)
    except (TypeError, ValueError) as error:  # the SDK refuses it too, or knows a way of its own to write it
        return jsontext.encode({"unreadable": f"{type(error).__name__}: {error}"})


def _body_of(request: APIRequest) -> tuple[Mapping[str, Any] | None, dict[str, bytes]]:
    content = request.options.content
    if content is None:
        body = request.json
        return (body if isinstance(body, dict) else None), {}
    raw = content.encode() if isinstance(content, str) else content
    if not isinstance(raw, bytes):
        return None, {}
    try:
        exact = jsontext.members(raw)
        body = {name: jsontext.parse_or_show(value) for name, value in exact.items()}
        if b'"messages"' in raw and isinstance(body.get("messages"), jsontext.Unreadable):
            body["messages"] = [jsontext.parse_or_show(span) for span in jsontext.items(exact["messages"])]
    except (UnreadableJsonError, json.JSONDecodeError):
        return None, {}
    return body, exact


def _kept_headers(request: APIRequest) -> bytes:
    kept = {
        name.lower(): value
        for name, value in request.headers.items()
        if name.lower() in KEPT_HEADERS and isinstance(value, str)
    }
    return jsontext.encode(kept) if kept else b""
