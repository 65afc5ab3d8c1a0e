"""The scripted API as a transport of httpx2, and the real SDK clients on it or on a server. Slow to import."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import anthropic
import anyio
import httpx2

from session.testing import _answers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from session.testing.api import ScriptedApi
    from session.testing.script import How

_POLL_SECONDS: Final = 0.001
_DEFAULTS: Final[dict[str, Any]] = {"api_key": "sk-ant-scripted", "max_retries": 0}


class ScriptedTransport(httpx2.BaseTransport, httpx2.AsyncBaseTransport):
    """Answers in the process, with what a socket would have shown: statuses, chunks, broken bodies."""

    def __init__(self, api: ScriptedApi) -> None:
        self.api = api

    def __repr__(self) -> str:
        return f"<ScriptedTransport: {self.api!r}>"

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """The answer to *request*, its body still to be read. Raises what httpx2 raises for a broken connection."""
        request.read()
        answer = self._respond(request)
        time.sleep(answer.delay.before_seconds)
        return _response(answer, self.api)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """As `handle_request`."""
        await request.aread()
        answer = self._respond(request)
        await anyio.sleep(answer.delay.before_seconds)
        return _response(answer, self.api)

    def _respond(self, request: httpx2.Request) -> _answers.Answer:
        headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw)
        answer = self.api.respond(request.method, request.url.raw_path.decode("ascii"), headers, request.content)
        if isinstance(answer, _answers.NoAnswer):
            raise _broken(answer.how, "Server disconnected without sending a response.")
        return answer


class _Body(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """The body of an answer as it arrives."""

    def __init__(self, answer: _answers.Answer, api: ScriptedApi) -> None:
        self._answer = answer
        self._api = api

    def __iter__(self) -> Iterator[bytes]:
        for part in self._answer.schedule():
            if part is None:
                while self._api.held(_POLL_SECONDS):
                    pass
            elif isinstance(part, float):
                time.sleep(part)
            elif part:
                yield part
        self._finish()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._answer.schedule():
            if part is None:
                while self._api.held(0):  # noqa: ASYNC110 - another thread, or another loop, releases it
                    await anyio.sleep(_POLL_SECONDS)
            elif isinstance(part, float):
                await anyio.sleep(part)
            elif part:
                yield part
        self._finish()

    def _finish(self) -> None:
        if self._answer.ends != "end":
            detail = "incomplete chunked read" if self._answer.length is None else "body shorter than announced"
            raise _broken(self._answer.ends, f"peer closed connection without sending complete message body ({detail})")


def _response(answer: _answers.Answer, api: ScriptedApi) -> httpx2.Response:
    length = ("transfer-encoding", "chunked") if answer.length is None else ("content-length", str(answer.length))
    return httpx2.Response(answer.status, headers=[*answer.headers, length], stream=_Body(answer, api))


def _broken(how: How, closed: str) -> httpx2.TransportError:
    return httpx2.ReadError("Connection reset by peer") if how == "reset" else httpx2.RemoteProtocolError(closed)


def client(
    transport: ScriptedTransport | None,
    *,
    base_url: str,
    **options: Any,  # noqa: ANN401 - the SDK's own options
) -> anthropic.Anthropic:
    """The SDK's client on *transport*, or on the network. Proxies and keys of the environment are not used."""
    own = anthropic.DefaultHttpxClient(transport=transport or httpx2.HTTPTransport(verify=False), trust_env=False)
    given = _DEFAULTS | {"base_url": base_url, "http_client": own} | options
    return anthropic.Anthropic(**given)


def async_client(
    transport: ScriptedTransport | None,
    *,
    base_url: str,
    **options: Any,  # noqa: ANN401 - the SDK's own options
) -> anthropic.AsyncAnthropic:
    """As `client`."""
    wires = transport or httpx2.AsyncHTTPTransport(verify=False)
    own = anthropic.DefaultAsyncHttpxClient(transport=wires, trust_env=False)
    given = _DEFAULTS | {"base_url": base_url, "http_client": own} | options
    return anthropic.AsyncAnthropic(**given)
