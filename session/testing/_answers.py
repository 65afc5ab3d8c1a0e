"""The answer to one request: status, headers, and the body in the pieces in which it is sent, or cut. Pure.

The names of the headers are those of answers recorded from the API in public repositories in 2026.
"""

from __future__ import annotations

import email.utils
import itertools
import random
import re
import time
from typing import TYPE_CHECKING, Final

import msgspec

from session.testing import wire
from session.testing.script import Cut, Delay, Exact, Failure, How, Reply, StreamError

if TYPE_CHECKING:
    from collections.abc import Iterator

_EVENT: Final = re.compile(rb".*?(?:\r\n\r\n|\n\n|\r\r|\Z)", re.DOTALL)
_LARGEST_RANDOM_CHUNK: Final = 64
_ERRORS: Final = {
    400: ("invalid_request_error", "Error"),
    401: ("authentication_error", "invalid x-api-key"),
    402: ("billing_error", "Your credit balance is too low to access the Anthropic API."),
    403: ("permission_error", "Request not allowed"),
    404: ("not_found_error", "Not found"),
    409: ("invalid_request_error", "Conflict"),
    413: ("request_too_large", "Request exceeds the maximum size"),
    429: ("rate_limit_error", "This request would exceed your account's rate limit. Please try again later."),
    500: ("api_error", "Internal server error"),
    504: ("timeout_error", "Request timed out"),
    529: ("overloaded_error", "Overloaded"),
}
_LIMITS: Final = {"requests": "4000", "tokens": "2400000", "input-tokens": "2000000", "output-tokens": "400000"}
_RETRIED: Final = frozenset({408, 409, 429})


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent, piece by piece. *length*: of the whole body as announced; None: the body is chunked."""

    status: int
    headers: tuple[tuple[str, str], ...]
    chunks: tuple[bytes, ...]
    length: int | None
    ends: How
    delay: Delay
    hold_at: int | None

    @property
    def body(self) -> bytes:
        """All that is sent of the body."""
        return b"".join(self.chunks)

    def schedule(self) -> Iterator[bytes | float | None]:
        """Bytes to send, seconds to wait, None: to be held until released."""
        for number, chunk in enumerate(self.chunks):
            if number == self.hold_at:
                yield None
            if self.delay.between_seconds:
                yield float(self.delay.between_seconds)
            yield chunk
        if self.hold_at == len(self.chunks):
            yield None


class NoAnswer(msgspec.Struct, frozen=True):
    """The connection ends before the first byte of an answer."""

    how: How


def of_reply(reply: Reply, whole: wire.Message, *, stream: bool, key: bytes, now: float) -> Answer:
    """*reply*, streamed or not."""
    if reply.error is not None and not stream:
        return of_failure(_failure_of(reply.error), key=key, now=now)
    parts = wire.events(whole, delta_chars=reply.delta_chars) if stream else [wire.message_json(whole)]
    if reply.error is not None:
        kept = len(parts) - 2 if reply.error.after_events is None else reply.error.after_events
        parts = [*parts[:kept], wire.error_event(reply.error, wire.request_id(key))]
    kind = "text/event-stream; charset=utf-8" if stream else "application/json"
    return _answer(reply, parts, status=200, headers=_headers(kind, key, now) | reply.headers, chunked=stream)


def of_failure(failure: Failure, *, key: bytes, now: float) -> Answer:
    """*failure* as the API's error."""
    kind, text = _ERRORS.get(failure.status, ("api_error", "Error"))
    body = wire.error_json(failure.type or kind, failure.message or text, wire.request_id(key), failure.details)
    headers = _headers("application/json", key, now)
    headers["x-should-retry"] = "true" if failure.status in _RETRIED or failure.status >= 500 else "false"
    if failure.retry_after_seconds is not None and headers["x-should-retry"] == "true":
        headers["retry-after"] = str(failure.retry_after_seconds)
    return _answer(failure, [body], status=failure.status, headers=headers | failure.headers, chunked=False)


def of_exact(exact: Exact, *, key: bytes, now: float) -> Answer:
    """*exact*, chunked if it is a stream of events."""
    chunked = exact.content_type.startswith("text/event-stream")
    headers = _headers(exact.content_type, key, now) | exact.headers
    return _answer(exact, _split_events(exact.body), status=exact.status, headers=headers, chunked=chunked)


def _failure_of(error: StreamError) -> Failure:
    status = next((status for status, (kind, _) in _ERRORS.items() if kind == error.type), 500)
    return Failure(status=status, type=error.type, message=error.message)


def _answer(
    step: Reply | Failure | Exact, parts: list[bytes], *, status: int, headers: dict[str, str], chunked: bool
) -> Answer:
    kept = _cut(parts, step.cut)
    ends: How = step.cut.how if step.cut else "end"
    hold = step.delay.hold_after_events
    held = _chunks(kept[:hold], step) if hold is not None else []
    announced = kept if ends == "end" else parts
    return Answer(
        status=status,
        headers=tuple({name.lower(): value for name, value in headers.items()}.items()),
        chunks=(*held, *_chunks(kept[hold:], step)),
        length=None if chunked else sum(map(len, announced)),
        ends=ends,
        delay=step.delay,
        hold_at=None if hold is None else len(held),
    )


def _cut(parts: list[bytes], cut: Cut | None) -> list[bytes]:
    if cut is None:
        return parts
    if cut.after_bytes is None:
        return parts[: cut.after_events or 0]
    ends = itertools.accumulate(map(len, parts))
    shortened = [part[: max(0, cut.after_bytes - end + len(part))] for part, end in zip(parts, ends, strict=True)]
    return [part for part in shortened if part]


def _chunks(parts: list[bytes], step: Reply | Failure | Exact) -> list[bytes]:
    body = b"".join(parts)
    size, seed = getattr(step, "chunk_bytes", None), getattr(step, "chunk_seed", None)
    if seed is not None:
        return list(_random_chunks(body, random.Random(seed)))
    if size is None:
        return parts
    return [body[start : start + size] for start in range(0, len(body), size)]


def _random_chunks(body: bytes, generator: random.Random) -> Iterator[bytes]:
    start = 0
    while start < len(body):
        size = generator.randint(1, _LARGEST_RANDOM_CHUNK)
        yield body[start : start + size]
        start += size


def _headers(content_type: str, key: bytes, now: float) -> dict[str, str]:
    reset = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now + 60))
    limits = {
        f"anthropic-ratelimit-{name}-{field}": value
        for name, limit in _LIMITS.items()
        for field, value in (("limit", limit), ("remaining", limit), ("reset", reset))
    }
    return {
        "date": email.utils.formatdate(now, usegmt=True),
        "content-type": content_type,
        "cache-control": "no-cache",
        **limits,
        "request-id": wire.request_id(key),
        "anthropic-organization-id": "00000000-0000-0000-0000-000000000000",
    }


def _split_events(body: bytes) -> list[bytes]:
    """*body* after each blank line."""
    return [found for found in _EVENT.findall(body) if found]
