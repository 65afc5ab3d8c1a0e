"""Responses, taken apart without changing a byte. Pure; nothing of the SDK.

1. A block is put together from spans of the events it came in. Texts are joined as they are escaped, so a surrogate
   pair whose halves came in two events is what it was; a tool's input is the concatenated `partial_json`, verbatim.
   Numbers, members and kinds of block that this version does not know are never parsed. One thing is changed, as the
   API would refuse to take it back: the input of a tool_use that is no JSON object, or one that no request can carry
   (see `INVALID_JSON`).
2. A response is complete when `message_stop` has come behind the end of every block, and not before: a stream that was
   cut ends without an error.
3. Nothing raises. What is no event of a response is a `fault`, and the response is cut.

A kind of delta that is not known is applied as most known ones are: a string extends the member of its name, anything
else replaces it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import msgspec

from session import jsontext
from session.errors import UnreadableJsonError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

INVALID_JSON: Final = "INVALID_JSON"
"""Streamed tool inputs can be no JSON, or no object (cut by `max_tokens`, or streamed without validation): then the
input is an object with the text under this name, as in
https://platform.claude.com/docs/en/agents-and-tools/tool-use/fine-grained-tool-streaming.
"""

_FACTS: Final = frozenset({"type", "role", "id", "model", "content", "stop_reason", "usage"})
_SHOWN: Final[Mapping[str, Literal["text", "thinking"]]] = {"text": "text", "thinking": "thinking"}
_WHOLE: Final = frozenset({"signature_delta", "compaction_delta"})  # these bring all of a member at once
_MAX_INDEX_DIGITS: Final = 9
_CALL: Final = "tool_use"
_NULL: Final = b"null"
_EMPTY_OBJECT: Final = b"{}"

Members: TypeAlias = "dict[str, bytes]"


class Delta(msgspec.Struct, frozen=True, gc=False):
    """Something to show as it arrives. It promises nothing; lone surrogates are replaced, so that it can be printed."""

    kind: Literal["text", "thinking"]
    text: str
    index: int


class FinishedBlock(msgspec.Struct, frozen=True, gc=False):
    """A content block with its exact bytes. *kind* is its `type`.

    *tool_use_id*, *name* and *input* (exact JSON) are those of a tool_use block, which asks for a tool of the caller;
    all other kinds have none.
    """

    index: int
    block: bytes
    kind: str = ""
    tool_use_id: str = ""
    name: str = ""
    input: bytes = b""


Part: TypeAlias = Delta | FinishedBlock
"""What an event of a stream adds."""


class Completed(msgspec.Struct, frozen=True):
    """The facts of a response around its content.

    *usage* is exact JSON, b"" if there was none; *rest* is a JSON object of what else the message had, b"" if nothing.
    """

    message_id: str = ""
    model: str = ""
    stop_reason: str | None = None
    usage: bytes = b""
    rest: bytes = b""

    @property
    def stop_details(self) -> bytes:
        """The exact JSON of that member of the rest; b"" if there is none."""
        return jsontext.members(self.rest).get("stop_details", b"") if self.rest else b""


class PlainResponse(msgspec.Struct, frozen=True):
    """A response that came whole: *content* is the exact span of its content array."""

    content: bytes
    blocks: tuple[FinishedBlock, ...]
    completed: Completed


def read_plain(body: bytes) -> PlainResponse:
    """The message that *body* is. Raises `UnreadableJsonError` if it is none."""
    message = jsontext.members(body)
    content = message.get("content", b"")
    blocks = tuple(_described(index, block) for index, block in enumerate(jsontext.items(content)))
    return PlainResponse(content, blocks, _completed(message, message.get("usage", b"")))


class Assembly:
    """A response while it is streamed: `feed` it the data of each event.

    `blocks` are the finished ones in the order in which they ended; `error` is the exact data of an `error` event,
    `fault` says what was no event of a response. Neither: the stream was well, as far as it came. *shows*: whether
    somebody wants the `Delta`s.
    """

    def __init__(self, *, shows: bool = True) -> None:
        self.blocks: list[FinishedBlock] = []
        self.complete = False
        self.error = b""
        self.fault = ""
        self._shows = shows
        self._message: Members = {}
        self._usage: Members | None = None
        self._model = ""
        self._open: dict[int, _GrowingBlock] = {}

    def __repr__(self) -> str:
        how = "complete" if self.complete else "error" if self.error else self.fault or "open"
        return f"<Assembly: {len(self.blocks)} blocks, {how}>"

    @property
    def cut(self) -> bool:
        """If the stream has ended: whether it ended before the response was complete."""
        return not self.complete

    @property
    def partial(self) -> bytes:
        """What there is of the blocks that are not finished, as a JSON array; b"" if there is nothing."""
        unfinished = [growing.finish(index).block for index, growing in sorted(self._open.items())]
        return b"[" + b",".join(unfinished) + b"]" if unfinished else b""

    def completed(self) -> Completed:
        """The facts, as far as they came. Usage is cumulative: later counts replace earlier ones, null does not."""
        usage = b"" if self._usage is None else jsontext.joined_members(self._usage)
        found = _completed(self._message, usage)
        return msgspec.structs.replace(found, model=self._model) if self._model else found

    def feed(self, data: bytes) -> list[Part]:
        """The next event's data: what it adds. After the end, an error or a fault, nothing is added any more."""
        if self.complete or self.error or self.fault:
            return []
        try:
            return self._take(data, jsontext.members(data))
        except UnreadableJsonError as error:
            self.fault = f"{error}: {data[:80]!r}"
        except KeyError as error:
            self.fault = f"an event without {error}: {data[:80]!r}"
        return []

    def _take(self, data: bytes, event: Members) -> list[Part]:
        match jsontext.string(event["type"]):
            case "content_block_delta":
                return self._delta(_index(event), jsontext.members(event["delta"]))
            case "content_block_start":
                return self._start(_index(event), event["content_block"])
            case "content_block_stop":
                return self._stop(_index(event))
            case "message_start":
                self._message = jsontext.members(event["message"])
                self._usage = _members_or_none(self._message.get("usage", b""))
            case "message_delta":
                self._message_delta(event)
            case "message_stop":
                self._end()
            case "error":
                self.error = data
            case _:  # ping, and what is still to come
                pass
        return []

    def _start(self, index: int, block: bytes) -> list[Part]:
        growing = self._open[index] = _GrowingBlock(block)
        if growing.kind == "fallback":  # from here on another model answers, and is billed
            self._model = _string(_members_or_none(growing.members.get("to", b"")) or {}, "model")
        return self._shown(growing.kind, growing.members, index)

    def _delta(self, index: int, delta: Members) -> list[Part]:
        growing = self._open.get(index)
        if growing is None:
            self.fault = f"a delta for block {index}, which is not open"
            return []
        kind = jsontext.string(delta.pop("type")) or ""
        growing.extend(kind, delta)
        return self._shown(kind.removesuffix("_delta"), delta, index)

    def _shown(self, kind: str, members: Members, index: int) -> list[Part]:
        shown = _SHOWN.get(kind) if self._shows else None
        text = _string(members, kind) if shown else ""
        if shown is None or not text:
            return []
        if not text.isascii():
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return [Delta(shown, text, index)]

    def _stop(self, index: int) -> list[Part]:
        growing = self._open.pop(index, None)
        if growing is None:
            self.fault = f"the end of block {index}, which is not open"
            return []
        self.blocks.append(growing.finish(index))
        return [self.blocks[-1]]

    def _message_delta(self, event: Members) -> None:
        facts = {name: value for name, value in event.items() if name not in {"type", "delta", "usage"}}
        _overlay(self._message, jsontext.members(event["delta"]) | facts)
        usage = _members_or_none(event.get("usage", b""))
        if usage is not None:
            self._usage = self._usage or {}
            _overlay(self._usage, usage)

    def _end(self) -> None:
        if self._open or not self._message or len({block.index for block in self.blocks}) != len(self.blocks):
            self.fault = "message_stop, and the message is not complete"
        else:
            self.complete = True


class _GrowingBlock:
    """A block while its deltas come in."""

    def __init__(self, start: bytes) -> None:
        self.members = jsontext.members(start)
        self.kind = _string(self.members, "type")
        self._start = start
        self._texts: dict[str, list[bytes]] = {}  # the insides of strings, still escaped
        self._lists: dict[str, list[bytes]] = {}

    def extend(self, kind: str, delta: Members) -> None:
        for name, value in delta.items():
            if kind == "citations_delta" and name == "citation":
                self._lists.setdefault("citations", []).append(value)
            elif kind not in _WHOLE and value[:1] == b'"':
                self._texts.setdefault(name, []).append(value[1:-1])
            else:
                self.members[name] = value

    def finish(self, index: int) -> FinishedBlock:
        whole = not self._texts and not self._lists and self.members == jsontext.members(self._start)
        calls = self.kind.endswith(_CALL)  # a tool of the server's too
        if whole and (not calls or _is_carried(self.members.get("input", _EMPTY_OBJECT))):
            return _described(index, self._start)
        members = dict(self.members)
        for name, texts in self._texts.items():
            if name == "partial_json":
                members["input"] = _input(texts, members.get("input", _EMPTY_OBJECT))
            else:
                before = members.get(name, b"")
                members[name] = b'"%b%b"' % (before[1:-1] if before[:1] == b'"' else b"", b"".join(texts))
        for name, values in self._lists.items():
            before = members.get(name, _NULL)
            items = jsontext.items(before) if before[:1] == b"[" else []
            members[name] = b"[" + b",".join([*items, *values]) + b"]"
        if calls:
            members["input"] = _object_or_text(members.get("input", _EMPTY_OBJECT))
        return _facts_of(index, jsontext.joined_members(members), members)


def _input(texts: Iterable[bytes], start: bytes) -> bytes:
    """The input that *texts* spell; without any text, the one the block began with."""
    text = jsontext.string(b'"' + b"".join(texts) + b'"') or ""
    if not text:
        return start
    raw = text.encode("utf-8", "backslashreplace")  # a lone surrogate as the JSON escape it came as
    return raw if is_strict(raw) else _as_text(raw)


def _object_or_text(raw: bytes) -> bytes:
    return raw if _is_carried(raw) else _as_text(raw)


def _as_text(raw: bytes) -> bytes:
    return jsontext.encode({INVALID_JSON: raw.decode("utf-8", "backslashreplace")})


def _is_carried(raw: bytes) -> bool:
    """Whether *raw* is an object that a request can carry as the input of a tool."""
    if not raw.lstrip().startswith(b"{"):
        return False
    try:
        return jsontext.is_sendable(jsontext.parse(raw))
    except UnreadableJsonError:
        return False


def is_strict(raw: bytes) -> bool:
    """Whether *raw* is one JSON value that a request can carry: no NaN, no infinity, which Python's parser takes."""
    try:
        json.loads(raw.decode(), parse_constant=_refuse, parse_int=len, parse_float=len)  # numbers are not converted
    except RecursionError:
        return _nests(raw)
    except ValueError:
        return False
    return True


def _nests(raw: bytes) -> bool:
    try:
        return len(jsontext.items(b"[" + raw + b"]")) == 1
    except UnreadableJsonError:
        return False


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _described(index: int, block: bytes) -> FinishedBlock:
    try:
        return _facts_of(index, block, jsontext.members(block))
    except UnreadableJsonError:
        return FinishedBlock(index, block)


def _facts_of(index: int, block: bytes, members: Members) -> FinishedBlock:
    kind = _string(members, "type")
    if kind != _CALL:
        return FinishedBlock(index, block, kind)
    return FinishedBlock(
        index, block, kind, _string(members, "id"), _string(members, "name"), members.get("input", _EMPTY_OBJECT)
    )


def _completed(message: Members, usage: bytes) -> Completed:
    rest = {name: value for name, value in message.items() if name not in _FACTS}
    return Completed(
        message_id=_string(message, "id"),
        model=_string(message, "model"),
        stop_reason=jsontext.string(message.get("stop_reason", b"")),
        usage=b"" if usage == _NULL else usage,
        rest=jsontext.joined_members(rest) if rest else b"",
    )


def _overlay(members: Members, later: Mapping[str, bytes]) -> None:
    """What was said later holds, unless it is null and something was said before."""
    for name, value in later.items():
        if value != _NULL or name not in members:
            members[name] = value


def _index(event: Members) -> int:
    raw = event["index"]
    if not raw.isdigit() or len(raw) > _MAX_INDEX_DIGITS:
        raise UnreadableJsonError("an index is a small number")
    return int(raw)


def _string(members: Mapping[str, bytes], name: str) -> str:
    return jsontext.string(members.get(name, b"")) or ""


def _members_or_none(raw: bytes) -> Members | None:
    return jsontext.members(raw) if raw[:1] == b"{" else None
