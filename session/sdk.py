"""Where requests leave through the anthropic SDK, and all that we rely on in it beyond its documentation.

1. The bytes that are given are the bytes on the wire, in every attempt: `client.post(content=...)`, which is public.
   The SDK's authentication, timeouts, retries and errors stay as they are; its exceptions pass through.
2. A client that has middleware of its own gets to see the body as the dict it expects. Our innermost middleware puts
   the exact bytes in its place, unless theirs has changed it: then theirs goes out. A body that no parser takes (a
   number of thousands of digits) it sees as bytes.
3. Bedrock and Vertex rewrite the body (`model` moves to the address), so these clients get a dict: equal values, not
   equal bytes.
4. anthropic is imported on the first call: it takes longer than everything else together.

What is not documented, each held by a test of `tests/session/test_sdk_seam.py`: `AsyncStream._iter_events` (the events
as they are decoded for this client; Bedrock has a framing of its own), `client._make_status_error` (the exception for
an `error` event), `request.options.content` and `.json_data`, `aclose_runnable_tool`.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import inspect
import json
import os
import time
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol, TypeAlias

import msgspec

from session import jsontext
from session.errors import UnreadableJsonError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping

    import httpx2
    from anthropic import APIRequest, APIResponse, AsyncAnthropic, AsyncAPIResponse, AsyncStream
    from anthropic.types import RawMessageStreamEvent

    AsyncCallNext: TypeAlias = Callable[[APIRequest], Awaitable[AsyncAPIResponse[Any]]]
    _Stream: TypeAlias = AsyncStream[RawMessageStreamEvent]

_PATH: Final = "/v1/messages"
_REWRITING: Final = ("AsyncAnthropicBedrock", "AsyncAnthropicBedrockMantle", "AsyncAnthropicVertex")
_HEADERS: Final = ("request-id",)
_FAILURE_HEADERS: Final = (*_HEADERS, "retry-after", "x-should-retry", "anthropic-ratelimit-")  # beginnings of names


class FailedAttempt(msgspec.Struct, frozen=True):
    """An attempt that brought no answer. *status* is 0 where no response came; *error* is the exact body of the
    response, or the text of what went wrong; *headers* a JSON object of those worth keeping.
    """

    number: int
    status: int = 0
    error: bytes = b""
    headers: bytes = b""
    duration_ms: int = 0


class Attempts(Protocol):
    """Told of each attempt of one call, counted from 1. What they raise ends the call, before it is sent if it is not
    yet.
    """

    async def sending(self, number: int) -> None:
        """Attempt *number* is about to be sent, and waits for this."""

    async def failed(self, attempt: FailedAttempt) -> None:
        """It failed. The SDK then decides whether there is another one."""


class Reply:
    """A response whose status is a success, while it is read. Read it once: `events` of a stream, `read` otherwise."""

    def __init__(self, client: AsyncAnthropic, response: httpx2.Response, stream: _Stream | None) -> None:
        self._client = client
        self._response = response
        self._stream = stream

    def __repr__(self) -> str:
        return f"<Reply {self.status} {self.request_id}>"

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._response.status_code

    @property
    def request_id(self) -> str:
        """The id that the API gave the request, "" if none."""
        return self._response.headers.get("request-id", "")

    @property
    def headers(self) -> bytes:
        """A JSON object of the headers worth keeping."""
        return kept_headers(self._response.headers)

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The exact data of each event of the stream, as it arrives.

        A connection that breaks raises what the transport raises; one that ends early may just end, in the middle of a
        character too: `Assembly.cut` tells.
        """
        assert self._stream is not None, "the request did not ask for a stream"
        with contextlib.suppress(UnicodeDecodeError):
            async for event in self._stream._iter_events():  # noqa: SLF001
                if event.data:
                    yield event.data.encode()

    async def read(self) -> bytes:
        """The exact body of a response that is not streamed."""
        return await self._response.aread()

    def error_of(self, data: bytes) -> Exception:
        """The exception the SDK raises for an `error` event with *data*."""
        body = jsontext.parse_or_show(data)
        return self._client._make_status_error(str(body), body=body, response=self._response)  # noqa: SLF001

    async def aclose(self) -> None:
        """Give the connection back; what was not read is lost."""
        await self._response.aclose()


@contextlib.asynccontextmanager
async def send_exact(
    client: AsyncAnthropic,
    body: bytes,
    *,
    stream: bool,
    attempts: Attempts | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_seconds: float | None = None,
    max_retries: int | None = None,
) -> AsyncIterator[Reply]:
    """Send *body*, in which `stream` stands as it is given here, and give the reply that succeeded; closed at the end.

    The errors of the SDK and those of *attempts* are raised as they are. *headers* are added to the client's (betas go
    in `anthropic-beta`). Raises `TypeError` for a client that is not async, and `UnreadableJsonError` for a body that
    no parser takes and the client would have to rewrite.
    """
    require_async(client)
    seam = _Seam(body, attempts)
    seam.exact = not rewrites_body(client)
    if client.middleware or not seam.exact:
        seam.shown = _parsed(body, needed=not seam.exact)
    options: dict[str, Any] = {"headers": dict(headers or {})}
    if timeout_seconds is not None:
        options["timeout"] = timeout_seconds
    if max_retries is not None:
        options["max_retries"] = max_retries
    hooked = client.with_options(middleware=[*client.middleware, seam])
    reply = await _post(hooked, seam, options, stream=stream)
    try:
        yield reply
    finally:
        await reply.aclose()


def require_async(client: object) -> None:
    """Raise `TypeError` for what is no async client of the SDK."""
    if not inspect.iscoroutinefunction(getattr(client, "post", None)):
        raise TypeError(f"a session needs an async client (AsyncAnthropic, ...), not {type(client).__name__}")


def rewrites_body(client: object) -> bool:
    """Whether the SDK itself changes the body of what *client* sends, so that exact bytes cannot go out."""
    return any(
        kind.__name__ in _REWRITING and kind.__module__.startswith("anthropic.") for kind in type(client).__mro__
    )


def kept_headers(headers: Mapping[str, str], *, failed: bool = False) -> bytes:
    """A JSON object of the response *headers* worth keeping; why and until when it was refused only if it *failed*."""
    names = _FAILURE_HEADERS if failed else _HEADERS
    kept = {name.lower(): value for name, value in headers.items() if name.lower().startswith(names)}
    return jsontext.encode(kept) if kept else b""


def gives_what_came(response: httpx2.Response, method: str) -> bool:
    """Whether *method*, `iter_bytes` or `aiter_bytes`, gives the body as it comes: there is nothing to decompress, none
    of it was read, and the method is the HTTP client's own, on the object and on its class.
    """
    if response.is_stream_consumed or "content-encoding" in response.headers:
        return False
    changed = {"_content", "_decoder", method} & vars(response).keys()
    function = getattr(type(response), method)
    return not changed and isinstance(function, FunctionType) and function.__code__.co_filename == _http_client_file()


@functools.cache
def _http_client_file() -> str:
    """Where the responses of the HTTP client are defined: code knows its file, whatever a wrapper says of itself."""
    from httpx2 import Response  # noqa: PLC0415 - see 4 above

    return inspect.getfile(Response)


def _parsed(body: bytes, *, needed: bool) -> object | None:
    try:
        parsed: object = json.loads(body)
    except (ValueError, RecursionError) as error:
        if needed:
            raise UnreadableJsonError(f"{type(error).__name__}: {error}") from error
        return None
    return parsed


async def _post(client: AsyncAnthropic, seam: _Seam, options: dict[str, Any], *, stream: bool) -> Reply:
    from anthropic import AsyncAPIResponse, AsyncStream  # noqa: PLC0415 - see 4 above
    from anthropic.types import Message, RawMessageStreamEvent  # noqa: PLC0415

    post: Any = client.post  # its overloads do not know a kind of answer that is chosen at run time
    body = {"content": seam.body} if seam.shown is None else {"body": seam.shown}
    if stream:
        kind = AsyncStream[RawMessageStreamEvent]
        answer = await post(_PATH, cast_to=Message, stream=True, stream_cls=kind, options=options, **body)
    else:
        answer = await post(_PATH, cast_to=AsyncAPIResponse[Message], options=options, **body)
    match answer:
        case AsyncStream():
            return Reply(client, answer.response, answer)
        case AsyncAPIResponse():
            return Reply(client, answer.http_response, None)
        case _:
            raise TypeError(f"a middleware of the client answered with {type(answer).__name__}, which is no response")


class _Seam:
    """The innermost middleware of one call: runs once per attempt, right before and right after the network."""

    def __init__(self, body: bytes, attempts: Attempts | None) -> None:
        self.body = body
        self.shown: object | None = None  # what other middleware gets to see of it; None: nobody looks
        self.exact = True
        self._attempts = attempts
        self._number = 0

    async def __call__(self, request: APIRequest, call_next: AsyncCallNext) -> AsyncAPIResponse[Any]:
        self._number += 1
        number = self._number
        if self._attempts:
            await self._attempts.sending(number)
        began = time.monotonic()
        try:
            response = await call_next(self._exact(request))
        except Exception as error:
            await self._failed(number, began, error=f"{type(error).__name__}: {error}".encode())
            raise
        if not response.http_response.is_success:
            await self._unsuccessful(number, began, response)
        return response

    async def _unsuccessful(self, number: int, began: float, response: AsyncAPIResponse[Any]) -> None:
        broken, error = None, b""
        try:
            error = await response.read()
        except Exception as raised:  # noqa: BLE001 - whatever the transport raises
            broken = raised
        headers = kept_headers(response.headers, failed=True)
        await self._failed(number, began, status=response.status_code, error=error, headers=headers)
        if broken is not None:  # without its body the SDK cannot make an error of it
            from anthropic import APIConnectionError  # noqa: PLC0415 - see 4 above

            raise APIConnectionError(request=response.http_request) from broken

    async def _failed(self, number: int, began: float, **facts: Any) -> None:  # noqa: ANN401 - fields of FailedAttempt
        if self._attempts:
            duration_ms = round((time.monotonic() - began) * 1000)
            await self._attempts.failed(FailedAttempt(number, duration_ms=duration_ms, **facts))

    def _exact(self, request: APIRequest) -> APIRequest:
        if self.shown is None or not self.exact or request.options.json_data != self.shown:
            return request
        exact = request.copy()
        exact.options.json_data = None
        exact.options.content = self.body
        return exact


# --- tools ------------------------------------------------------------------------------------------------------------


def agent_toolset(**context: Any) -> list[Any]:  # noqa: ANN401 - fields of the SDK's AgentToolContext
    """The SDK's own tools for agents (bash, read, write, edit, glob, grep), in a context of their own."""
    from anthropic.lib.tools import agent_toolset as toolset  # noqa: PLC0415 - see 4 above

    return list(toolset.beta_agent_toolset_20260401(toolset.AgentToolContext(**context)))


def tool_error_content(error: BaseException) -> object | None:
    """What a tool says by raising the SDK's `ToolError`: a text or blocks. None for any other exception."""
    from anthropic.lib.tools import ToolError  # noqa: PLC0415 - see 4 above

    return error.content if isinstance(error, ToolError) else None


async def close_tool(tool: object) -> None:
    """Run the hooks of *tool* that give back what it holds (`close`, or the end of its context manager).

    What goes wrong in them is logged by the SDK and not raised.
    """
    from anthropic.lib.tools._beta_functions import aclose_runnable_tool  # noqa: PLC0415 - see 4 above

    await aclose_runnable_tool(tool)


def environment_client() -> AsyncAnthropic | None:
    """A client with the key, token or profile that the SDK finds by itself, to be closed; None if it finds none."""
    import anthropic  # noqa: PLC0415 - see 4 above

    client = anthropic.AsyncAnthropic()
    known = client.api_key or client.auth_token or client.credentials or os.environ.get("ANTHROPIC_CUSTOM_HEADERS")
    return client if known else None


# --- responses that do not come from the network ----------------------------------------------------------------------


class Broken(msgspec.Struct, frozen=True):
    """An exception of the SDK (`APITimeoutError`) or of its transport (`ReadError`) by its name, that of its cause and
    the number of the operating system; 0: none.
    """

    name: str
    cause: str = ""
    errno: int = 0


def made_response(
    request: APIRequest,
    status: int,
    headers: Mapping[str, str],
    body: bytes | Iterator[bytes],
) -> APIResponse[Any]:
    """What `call_next` would return to a middleware of a synchronous client, had this come over the network."""
    response: APIResponse[Any] = _made(_own_client(), request, status, headers, body)
    return response


async def made_async_response(
    request: APIRequest,
    status: int,
    headers: Mapping[str, str],
    body: bytes | AsyncIterator[bytes],
) -> AsyncAPIResponse[Any]:
    """As `made_response`, for asynchronous clients."""
    response: AsyncAPIResponse[Any] = await _made(_own_async_client(), request, status, headers, body)
    return response


def made_error(broken: Broken, request: APIRequest, *, pause: float | None = None) -> Exception:
    """The exception that *broken* names; a connection error where there is none of that name.

    *pause*: the seconds until another attempt, if one follows. Of an exception without a response the SDK knows no time
    to wait and takes half a second and more, so this one carries a response too.
    """
    import anthropic  # noqa: PLC0415 - see 4 above
    import httpx2  # noqa: PLC0415

    cause = _transport_error(broken.cause, broken.errno)
    if not hasattr(anthropic, broken.name):
        error = _transport_error(broken.name, broken.errno) or _of_python(broken.name)
        return error or httpx2.RemoteProtocolError(broken.name)
    sent = _sent(request)
    kind = anthropic.APITimeoutError if broken.name == "APITimeoutError" else anthropic.APIConnectionError
    error = kind(request=sent) if pause is None else _retried(kind)(sent, pause)
    error.__cause__ = cause
    return error


def _of_python(name: str) -> Exception | None:
    """What Python itself raises of a request that cannot be written."""
    kinds: dict[str, type[Exception]] = {each.__name__: each for each in (TypeError, ValueError, RecursionError)}
    if name == UnicodeEncodeError.__name__:
        return UnicodeEncodeError("utf-8", "\ud800", 0, 1, "as it was recorded")
    return kinds[name]("as it was recorded") if name in kinds else None


def tool_error(content: Any) -> Exception:  # noqa: ANN401 - a text or blocks
    """The exception by which a tool says that it failed: the SDK's `ToolError`."""
    from anthropic.lib.tools import ToolError  # noqa: PLC0415 - see 4 above

    return ToolError(content)


_SHORTEST_WAIT_MS: Final = 0.001  # 0 would be no answer, for which the SDK has a wait of its own
_NOT_KEPT: Final = frozenset({"content-length", "content-encoding", "transfer-encoding"})


def seconds_to_wait(headers: Mapping[str, str]) -> float | None:
    """How long the SDK waits behind a failed attempt with these *headers*; None: they do not say it as a number."""
    for name, seconds in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with contextlib.suppress(ValueError):
            wait = float(headers.get(name, "")) * seconds
            return wait if wait > 0 else None
    return None


def retried_after(headers: Mapping[str, str], seconds: float) -> dict[str, str]:
    """*headers* of a failed attempt behind which the SDK waits so long; `retry-after` stays what it was."""
    return {**headers, "retry-after-ms": f"{max(seconds * 1000, _SHORTEST_WAIT_MS):.3f}"}


def _made(
    client: Any,  # noqa: ANN401 - of either kind
    request: APIRequest,
    status: int,
    headers: Mapping[str, str],
    body: Any,  # noqa: ANN401 - bytes, or an iterator of either kind
) -> Any:  # noqa: ANN401 - a response, or what is awaited for one
    """Not documented: `_process_response` of a client, which makes an `APIResponse` of an HTTP response whose request
    has the header that asks for one.
    """
    import httpx2  # noqa: PLC0415 - see 4 above

    kept = {name: value for name, value in headers.items() if name.lower() not in _NOT_KEPT}
    raw = httpx2.Response(status, headers=kept, content=body, request=_sent(request))
    raw.elapsed = dt.timedelta()
    return client._process_response(  # noqa: SLF001
        cast_to=request.cast_to,
        options=request.options,
        response=raw,
        stream=request.stream,
        stream_cls=request.stream_cls,
        retries_taken=request.retries_taken,
    )


def _sent(request: APIRequest) -> httpx2.Request:
    from anthropic._constants import RAW_RESPONSE_HEADER  # noqa: PLC0415 - see 4 above

    wanted = request.headers.get(RAW_RESPONSE_HEADER)
    mode = wanted if isinstance(wanted, str) else "raw"
    return _request(request.method, request.url, RAW_RESPONSE_HEADER, mode)


@functools.lru_cache(64)
def _request(method: str, url: str, header: str, mode: str) -> httpx2.Request:
    """One for all responses to the same kind of call: making an address costs as much as all else."""
    import httpx2  # noqa: PLC0415 - see 4 above

    return httpx2.Request(method, httpx2.URL(_NOWHERE).join(url), headers={header: mode})


@functools.cache
def _own_client() -> Any:  # noqa: ANN401 - anthropic is not imported yet
    """A client that a response can belong to: it parses. It never sends; its transport has no network."""
    import anthropic  # noqa: PLC0415 - see 4 above
    import httpx2  # noqa: PLC0415

    own = anthropic.DefaultHttpxClient(transport=httpx2.MockTransport(_refuse), trust_env=False)
    return anthropic.Anthropic(api_key="none", base_url=_NOWHERE, http_client=own)


@functools.cache
def _own_async_client() -> Any:  # noqa: ANN401 - anthropic is not imported yet
    import anthropic  # noqa: PLC0415 - see 4 above
    import httpx2  # noqa: PLC0415

    own = anthropic.DefaultAsyncHttpxClient(transport=httpx2.MockTransport(_refuse), trust_env=False)
    return anthropic.AsyncAnthropic(api_key="none", base_url=_NOWHERE, http_client=own)


_NOWHERE: Final = "https://api.anthropic.com"  # for the addresses in errors; nothing is sent


def _refuse(request: httpx2.Request) -> NoReturn:
    raise AssertionError(f"{request.method}: a client for made responses sends nothing")


def _transport_error(name: str, errno: int) -> Exception | None:
    import httpx2  # noqa: PLC0415 - see 4 above

    kind = getattr(httpx2, name, None) if name else None
    if not (isinstance(kind, type) and issubclass(kind, httpx2.RequestError)):
        return OSError(errno, os.strerror(errno)) if errno else None
    error = kind(f"[Errno {errno}] {os.strerror(errno)}" if errno else f"{name}, as it was recorded")
    if errno:
        error.__cause__ = OSError(errno, os.strerror(errno))
    return error


@functools.cache
def _retried(kind: Any) -> Any:  # noqa: ANN401 - anthropic is not imported yet
    """A connection error of this *kind* that carries a response, which says when to try again."""
    import anthropic  # noqa: PLC0415 - see 4 above
    import httpx2  # noqa: PLC0415

    class Retried(kind, anthropic.APIStatusError):  # type: ignore[misc]  # its class is known when it runs
        def __init__(self, request: httpx2.Request, pause: float) -> None:
            super(anthropic.APIStatusError, self).__init__("Connection error.", request, body=None)
            headers = retried_after({"x-should-retry": "true"}, pause)
            self.response = httpx2.Response(503, headers=headers, content=b"", request=request)
            self.status_code = 0

    return Retried
