"""What answers an attempt: the recorded body in its recorded pieces, or one put together from its blocks. Pure.

A body is put together where none was kept (live sessions, redacted recordings), or where a stream is asked for and a
plain response was recorded, or the other way round: then it says the same, in other pieces.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from session import jsontext
from session.errors import EventDataError, UnreadableJsonError
from session.events import ResponseInterrupted, ResponseReceived
from session.recording import Chunk, chunks_of
from session.recording._kinds import JSON, likely
from session.replay.errors import ResponseNotRecordedError
from session.sdk import Broken

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from session.replay._lanes import Exchange

_STREAM: Final = "text/event-stream; charset=utf-8"
_SUCCESS: Final = range(200, 300)
_NO_USAGE: Final = b'{"input_tokens":0,"output_tokens":0}'
_NULL: Final = b"null"
_IN_DELTA: Final = ("stop_sequence", "stop_details", "container")
_RECORDED: Final = re.compile(r'\{"type":"(_*[A-Z]\w*)"(?:,"cause":"(\w+)")?(?:,"errno":(-?\d+))?\}')
_WRITTEN: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::|$)")
_PIECES: Final = {"text": "text_delta", "thinking": "thinking_delta", "signature": "signature_delta"}


class Answer(msgspec.Struct, frozen=True):
    """A response to serve. *broken* is raised behind the chunks; where *status* is 0, in place of a response.

    *left*: the program left this stream here, and nobody knows what would have come next.
    """

    status: int
    headers: dict[str, str]
    chunks: tuple[Chunk, ...] = ()
    broken: Broken | None = None
    left: bool = False

    @property
    def body(self) -> bytes:
        """All chunks."""
        return b"".join(chunk.data for chunk in self.chunks)

    @property
    def failed(self) -> bool:
        """Whether it is a response, and no success."""
        return self.status != 0 and self.status not in _SUCCESS


def answer_of(exchange: Exchange, *, stream: bool) -> Answer:
    """How the attempt was answered, as a stream or not. Raises `ResponseNotRecordedError`, and `EventDataError` for an
    account of chunks that this version cannot read.
    """
    match exchange.end:
        case ResponseReceived() as end:
            return _whole(exchange, end, stream=stream)
        case ResponseInterrupted() as end:
            return _interrupted(exchange, end, stream=stream)
        case None:
            raise _missing(exchange, "it was still being received, or its process died")


def _whole(exchange: Exchange, end: ResponseReceived, *, stream: bool) -> Answer:
    chunks = _kept(exchange, end) if exchange.request.stream == stream else None
    if chunks is None:
        blocks = _blocks(exchange, end)
        bodies = list(_streamed(exchange, end, blocks)) if stream else [_plain(exchange, end, blocks)]
        chunks = _spread(bodies, end.duration_ms)
    return Answer(end.status, _headers(end.headers, _STREAM if stream else JSON), tuple(chunks))


def _interrupted(exchange: Exchange, end: ResponseInterrupted, *, stream: bool) -> Answer:
    if end.reason == "lost":
        raise _missing(exchange, "the process that recorded it died before it came")
    if end.status == 0 and end.reason == "cancelled":
        raise _missing(exchange, "the program cancelled the call before an answer came")
    if end.status == 0:
        return Answer(0, {}, (Chunk(end.duration_ms, b""),), _named(end.error) or Broken("APIConnectionError"))
    failed = end.status not in _SUCCESS
    if failed and (broken := _recorded(end.error)):  # its body did not come: to the SDK no answer
        lost = Broken("APIConnectionError", broken.name, broken.errno)
        return Answer(0, {}, (Chunk(end.duration_ms, b""),), lost)
    if failed:
        return Answer(end.status, _headers(end.headers, likely(end.error)), (Chunk(end.duration_ms, end.error),))
    return _partial(exchange, end, stream=stream)


def _partial(exchange: Exchange, end: ResponseInterrupted, *, stream: bool) -> Answer:
    """A response that began well and was not complete."""
    streamed = exchange.request.stream
    if end.reason == "cancelled" and not streamed:
        raise _missing(exchange, "the program cancelled the call before an answer came")
    if stream != streamed:
        asked = "as a stream" if streamed else "as a whole"
        raise _missing(exchange, f"it did not come to its end, and can only be asked for {asked}, as it was")
    chunks = _kept(exchange, end)
    if chunks is None:
        chunks = _spread([*_begun(exchange, end)], end.duration_ms) if _is_stream(exchange, end) else []
    headers = _headers(end.headers, _STREAM if stream else likely(b"".join(chunk.data for chunk in chunks)))
    broken = None if _was_told(exchange, end) else _named(end.error)
    return Answer(end.status, headers, tuple(chunks), broken, left=end.reason == "cancelled")


def _was_told(exchange: Exchange, end: ResponseInterrupted) -> bool:
    """Whether the API itself ended the stream, by an `error` event: whatever is in it, it is no exception's name."""
    return _is_stream(exchange, end) and end.reason == "error"


def _is_stream(exchange: Exchange, end: ResponseInterrupted) -> bool:
    """Whether a stream came: one that was asked for, and of no other kind."""
    return exchange.request.stream and "content-type" not in _headers(end.headers)


def _kept(exchange: Exchange, end: ResponseReceived | ResponseInterrupted) -> list[Chunk] | None:
    try:
        return chunks_of(end, exchange.blocks)
    except EventDataError as error:
        raise _missing(exchange, str(error)) from error


def _missing(exchange: Exchange, reason: str) -> ResponseNotRecordedError:
    return ResponseNotRecordedError(exchange.session_id, exchange.version, reason)


def _headers(recorded: bytes, kind: str = "") -> dict[str, str]:
    """What was kept; with the content type *kind*, if none was."""
    known = jsontext.parse_or_show(recorded) if recorded else {}
    kept = {str(name): value for name, value in known.items() if isinstance(value, str) and value.isascii()}
    return {"content-type": kind, **kept} if kind else kept


def _recorded(error: bytes) -> Broken | None:
    """The exception, where *error* is exactly what a recorder writes of one; None where the API or a proxy said it.

    One thing cannot be told apart: a body that is an exception's name in that very form, `{"type":"ReadError"}`.
    """
    found = _RECORDED.fullmatch(error.decode("utf-8", "replace"))
    return Broken(found[1], found[2] or "", int(found[3] or 0)) if found else None


def _named(error: bytes) -> Broken | None:
    """The exception that ended it, as a recorder or a live session (its name, and its text) writes it; None: none."""
    if recorded := _recorded(error):
        return recorded
    if not error or not isinstance(jsontext.parse_or_show(error), jsontext.Unreadable):
        return None
    found = _WRITTEN.match(error.decode("utf-8", "replace"))
    return Broken(found[1]) if found else Broken("RemoteProtocolError")


# --- bodies that are put together -------------------------------------------------------------------------------------


def _spread(bodies: Sequence[bytes], duration_ms: int) -> list[Chunk]:
    return [Chunk(duration_ms * (place + 1) // len(bodies), body) for place, body in enumerate(bodies)]


def _blocks(exchange: Exchange, end: ResponseReceived) -> list[bytes]:
    if end.content is None:
        return list(exchange.blocks)
    try:
        return jsontext.items(end.content)
    except UnreadableJsonError as error:
        raise _missing(exchange, str(error)) from error


def _plain(exchange: Exchange, end: ResponseReceived, blocks: Sequence[bytes]) -> bytes:
    content = end.content if end.content is not None else b"[" + b",".join(blocks) + b"]"
    return jsontext.joined_members(
        _message(exchange, end) | {"content": content, "stop_reason": jsontext.encode(end.stop_reason)}
    )


def _message(exchange: Exchange, end: ResponseReceived) -> dict[str, bytes]:
    """The members of the message, its content empty."""
    return {
        "id": jsontext.encode(end.message_id),
        "type": b'"message"',
        "role": b'"assistant"',
        "model": jsontext.encode(end.model or exchange.model),
        "content": b"[]",
        "stop_reason": _NULL,
        "stop_sequence": _NULL,
        "usage": exchange.usage or _NO_USAGE,
        **_rest(end),
    }


def _rest(end: ResponseReceived) -> dict[str, bytes]:
    return jsontext.members(end.rest) if end.rest else {}


def _streamed(exchange: Exchange, end: ResponseReceived, blocks: Sequence[bytes]) -> Iterator[bytes]:
    yield _event("message_start", {"message": jsontext.joined_members(_message(exchange, end))})
    yield from _block_events(blocks)
    rest = _rest(end)
    delta = {"stop_reason": jsontext.encode(end.stop_reason), "stop_sequence": _NULL}
    delta |= {name: rest[name] for name in _IN_DELTA if name in rest}
    facts = {"delta": jsontext.joined_members(delta), "usage": exchange.usage or _NO_USAGE}
    if "context_management" in rest:
        facts["context_management"] = rest["context_management"]
    yield _event("message_delta", facts)
    yield _event("message_stop", {})


def _begun(exchange: Exchange, end: ResponseInterrupted) -> Iterator[bytes]:
    """A stream that was not complete: what there is of it, and the error event that ended it, if one did."""
    started = _message(exchange, ResponseReceived(end.request_id))
    yield _event("message_start", {"message": jsontext.joined_members(started)})
    yield from _block_events(exchange.blocks)
    if end.error and _was_told(exchange, end):
        yield b"event: error\ndata: " + end.error.replace(b"\n", b"\ndata: ") + b"\n\n"


def _block_events(blocks: Sequence[bytes]) -> Iterator[bytes]:
    for index, block in enumerate(blocks):
        place = str(index).encode()
        start, deltas = _taken_apart(block)
        yield _event("content_block_start", {"index": place, "content_block": start})
        for delta in deltas:
            yield _event("content_block_delta", {"index": place, "delta": delta})
        yield _event("content_block_stop", {"index": place})


def _taken_apart(block: bytes) -> tuple[bytes, list[bytes]]:
    """A block as it begins, and the deltas that complete it: texts and inputs come in one piece each."""
    try:
        members = jsontext.members(block)
    except UnreadableJsonError:
        return block, []
    deltas: list[bytes] = []
    for name, kind in _PIECES.items():
        if members.get(name, b"")[:1] == b'"':
            deltas.append(b'{"type":"%b","%b":%b}' % (kind.encode(), name.encode(), members[name]))
            members[name] = b'""'
    if "input" in members and members.get("type", b"").endswith(b'tool_use"'):
        text = jsontext.encode(members["input"].decode("utf-8", "surrogateescape"))
        deltas.append(b'{"type":"input_json_delta","partial_json":%b}' % text)
        members["input"] = b"{}"
    return jsontext.joined_members(members), deltas


def _event(name: str, members: dict[str, bytes]) -> bytes:
    data = jsontext.joined_members({"type": jsontext.encode(name), **members})
    data = data.replace(b"\r", b" ").replace(b"\n", b" ")  # which stand between tokens only
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)
