"""Events as the log keeps them: type, data (a msgpack map) and meta (a msgpack map, or nothing).

Message bytes are a `bytes` field of the map: copied, never looked at. Texts in which stands a lone surrogate, which
msgpack cannot hold (ids, names and reasons; never messages), get a backslash escape in its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from session.errors import EventDataError
from session.events import EVENT_CLASSES, NO_META, Meta, UnknownEvent
from session.messages import escaped

if TYPE_CHECKING:
    from collections.abc import Callable

    from session.events import AnyEvent, SessionEvent

T = TypeVar("T")

_encode: Final = msgspec.msgpack.Encoder().encode
_decoders: Final[dict[str, Callable[[bytes], SessionEvent]]] = {
    name: msgspec.msgpack.Decoder(event).decode for name, event in EVENT_CLASSES.items()
}
_decode_meta: Final = msgspec.msgpack.Decoder(Meta).decode


def encode_event(event: AnyEvent) -> tuple[str, bytes]:
    """Type and data of *event*. Raises `EventDataError` for what `decode_event` would not take back: a number beyond 64
    bits, a field of another type, foreign data under a known type.
    """
    data = event.data if isinstance(event, UnknownEvent) else _encoded(event, event.type)
    decode_event(event.type, data)  # what could not be read again would make the session unreadable for good
    return event.type, data


def decode_event(event_type: str, data: bytes) -> AnyEvent:
    """Inverse of `encode_event`. Raises `EventDataError` for data that a known type cannot have."""
    decode = _decoders.get(event_type)
    if decode is None:
        return UnknownEvent(event_type, data)
    try:
        return decode(data)
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise EventDataError(event_type, str(error)) from error


def encode_meta(meta: Meta) -> bytes:
    """*meta* as bytes; none at all where it says nothing. Raises `EventDataError` for what `decode_meta` would not take
    back: what is no `Meta`, and a field of another type.
    """
    if not isinstance(meta, Meta):
        raise EventDataError("meta", f"it is a Meta, not {type(meta).__name__}")
    if meta == NO_META:
        return b""
    encoded = _encoded(meta, "meta")
    decode_meta(encoded)  # as for an event: one that cannot be read again hides all the others
    return encoded


def decode_meta(meta: bytes) -> Meta:
    """Inverse of `encode_meta`. Raises `EventDataError`."""
    if not meta:
        return NO_META
    try:
        return _decode_meta(meta)
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise EventDataError("meta", str(error)) from error


def _encoded(value: msgspec.Struct, name: str) -> bytes:
    try:
        try:
            return _encode(value)
        except UnicodeEncodeError:
            return _encode(_escaped(msgspec.to_builtins(value, builtin_types=(bytes,))))
    except OverflowError as error:
        raise EventDataError(name, "a number beyond 64 bits") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise EventDataError(name, str(error)) from error


def _escaped(value: object) -> object:
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, dict):
        return {_escaped(key): _escaped(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(item) for item in value]
    return value
