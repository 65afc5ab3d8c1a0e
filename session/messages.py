"""Messages as exact bytes, looked at as plain dicts.

1. The bytes of a message are what was first sent or received; nothing here re-serialises them.
2. A dict becomes bytes once, when it is handed in; each look at a message parses it anew, so that no caller can change
   what another one sees.
3. What the fold must know of a message (who spoke, which tools it calls, which results it brings) is found once, when
   the message is handed in, and kept beside the bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias, overload

import msgspec

from session import jsontext
from session.errors import InvalidMessageError, UnreadableJsonError

RawMessage: TypeAlias = "bytes | Mapping[str, Any] | Message"
"""What a program may hand in as a message."""

_UNREADABLE_ROLE: Final = ""


class Message(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One message: its exact bytes and what the fold must know of them.

    `role` is "" where the bytes are no JSON object with a role. `tool_uses` are the ids of its tool_use blocks,
    `tool_results` the ids its tool_result blocks answer, both in order; `stop_reason` is that of the response it came
    as.
    """

    raw: bytes
    role: str
    tool_uses: tuple[str, ...] = ()
    tool_results: tuple[str, ...] = ()
    stop_reason: str | None = None

    @classmethod
    def of(cls, given: RawMessage) -> Message:
        """The message *given*: bytes are kept exactly, a dict is encoded. Raises `InvalidMessageError` for a dict that
        is no JSON.
        """
        if isinstance(given, Message):
            return given
        return describe(given if isinstance(given, bytes) else _encoded(given))

    def parsed(self) -> dict[str, Any]:
        """A new dict of the message; an `Unreadable` that still holds the bytes, where they are no JSON object."""
        value = jsontext.parse_or_show(self.raw)
        if type(value) is dict:  # not an `Unreadable`
            return value
        shown = {"type": "unreadable", "raw": self.raw.decode("utf-8", "backslashreplace")}
        return jsontext.Unreadable(self.raw, {"role": self.role or "unreadable", "content": [shown]})


class Messages(Sequence[dict[str, Any]]):
    """The messages of a session: reads as a list of plain dicts, holds exact bytes. Immutable.

    A dict taken out of it is the caller's own: changing it changes nothing here. `messages + [{...}]` keeps the bytes
    of what was there.
    """

    __slots__ = ("_entries",)

    def __init__(self, messages: Iterable[RawMessage] = ()) -> None:
        self._entries: tuple[Message, ...] = (
            messages.entries if isinstance(messages, Messages) else tuple(_numbered(messages))
        )

    @classmethod
    def of(cls, entries: Iterable[Message]) -> Messages:
        """*entries*, which are known to be messages: a fold that has many of them looks at none."""
        self = cls.__new__(cls)
        self._entries = tuple(entries)
        return self

    @property
    def entries(self) -> tuple[Message, ...]:
        """The messages with their bytes and facts."""
        return self._entries

    @property
    def raw(self) -> list[bytes]:
        """The exact bytes of each message."""
        return [entry.raw for entry in self._entries]

    @property
    def size_bytes(self) -> int:
        """The bytes of all messages together."""
        return sum(len(entry.raw) for entry in self._entries)

    def to_json(self) -> bytes:
        """All messages as one JSON array, spliced from their exact bytes."""
        return b"[" + b",".join(entry.raw for entry in self._entries) + b"]"

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Messages: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | Messages:
        if isinstance(index, slice):
            return Messages.of(self._entries[index])
        return self._entries[index].parsed()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(Message.parsed, self._entries)

    def __add__(self, more: Iterable[RawMessage]) -> Messages:
        if isinstance(more, str | bytes | Mapping):
            return NotImplemented
        return Messages.of((*self._entries, *Messages(more).entries))

    def __eq__(self, other: object) -> bool:
        """Against `Messages`: the same bytes. Against a list: equal values."""
        if isinstance(other, Messages):
            return self.raw == other.raw
        if isinstance(other, list | tuple):
            return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal to lists, which have no hash

    def __copy__(self) -> Messages:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Messages:
        return self

    def __reduce__(self) -> tuple[type[Messages], tuple[tuple[Message, ...]]]:
        return Messages, (self._entries,)

    def __repr__(self) -> str:
        return f"<{len(self)} messages, {self.size_bytes} bytes>"


def describe(raw: bytes, stop_reason: str | None = None) -> Message:
    """*raw* with the facts found in it: the same for the same bytes, at any depth of the stack.

    Ids and roles in which UTF-8 cannot hold a lone surrogate have a backslash escape in its place.
    """
    try:
        found = _decode_facts(raw)
        content = found.content if isinstance(found.content, list) else []
        role = found.role
    except (ValueError, RecursionError, msgspec.MsgspecError):
        role, content = _facts_in_spans(raw)
    return Message(
        raw=raw,
        role=role,
        tool_uses=tuple(block.id for block in content if block.type == "tool_use"),
        tool_results=tuple(block.tool_use_id for block in content if block.type == "tool_result"),
        stop_reason=stop_reason,
    )


def assistant_message(content: bytes) -> bytes:
    """The message that sends the exact text *content* of a response back."""
    return b"".join((b'{"role":"assistant","content":', content, b"}"))  # one copy; `+` makes two


def joined(role: str, blocks: Iterable[bytes]) -> bytes:
    """The message that holds *blocks*, each byte for byte."""
    parts = [b'{"role":"' + role.encode() + b'","content":[']
    for block in blocks:
        parts += (block, b",")
    parts[-1 if len(parts) > 1 else 1 :] = [b"]}"]
    return b"".join(parts)  # one copy of the blocks


def escaped(text: str) -> str:
    """*text* with a backslash escape for each lone surrogate, which neither UTF-8 nor msgpack can hold."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


class _Block(msgspec.Struct):
    type: str = ""
    id: str = ""
    tool_use_id: str = ""


class _Facts(msgspec.Struct):
    role: str = _UNREADABLE_ROLE
    content: str | list[_Block] = ""


_decode_facts: Final = msgspec.json.Decoder(_Facts).decode


def _facts_in_spans(raw: bytes) -> tuple[str, list[_Block]]:
    """The slow way, for what msgspec refuses: ill-typed fields count as absent."""
    try:
        message = jsontext.members(raw)
    except UnreadableJsonError:
        return _UNREADABLE_ROLE, []
    try:
        blocks = [_block_in_spans(block) for block in jsontext.items(message.get("content", b""))]
    except UnreadableJsonError:
        blocks = []
    return _string_of(message, "role"), blocks


def _block_in_spans(raw: bytes) -> _Block:
    try:
        block = jsontext.members(raw)
    except UnreadableJsonError:
        return _Block()
    return _Block(*(_string_of(block, key) for key in ("type", "id", "tool_use_id")))


def _string_of(members: Mapping[str, bytes], key: str) -> str:
    return escaped(jsontext.string(members.get(key, b"")) or "")


def _encoded(given: object) -> bytes:
    if not isinstance(given, Mapping):
        raise InvalidMessageError(f"a message is a dict or the bytes of one, not {type(given).__name__}")
    try:
        return jsontext.encode(given if isinstance(given, dict) else dict(given))
    except (TypeError, ValueError) as error:
        raise InvalidMessageError(str(error)) from error


def _numbered(given: Iterable[RawMessage]) -> Iterable[Message]:
    for index, message in enumerate(given):
        try:
            yield Message.of(message)
        except InvalidMessageError as error:
            raise InvalidMessageError(error.reason, index) from error.__cause__
