"""What we rely on in the anthropic SDK: the real client, above a scripted API or a transport of our own.

If one of these fails with a new version of the SDK, `session/sdk.py` is what has to change.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import anthropic
import httpx2
import pytest

from session import sdk
from session.errors import UnreadableJsonError
from session.request import build_body, prompt_of
from session.response import Assembly, Completed, read_plain
from session.sdk import FailedAttempt, kept_headers, rewrites_body, send_exact
from session.testing import Cut, Exact, Failure, Reply, ScriptedApi, StreamError, calls, says, thinks

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from session.testing.script import Step

MODEL = "claude-sonnet-5-5"
ODD = rb'{ "role":"user" ,"content":[{"type":"text","text":"\u00e9 \ud83d\ude00","cache_control":null} ]}'
TOOL = {"name": "f", "input_schema": {"type": "object"}}
THINKING = {"type": "enabled", "budget_tokens": 1024}


def body_of(*, stream: bool, message: bytes = ODD) -> bytes:
    prompt = prompt_of(model="claude-haiku-4-5", max_tokens=2048, tools=[TOOL], thinking=THINKING)
    return build_body(prompt, [message], stream=stream)


class Told:
    """Keeps what it is told of attempts."""

    def __init__(self, refuses: int = 0) -> None:
        self.sent: list[int] = []
        self.failures: list[FailedAttempt] = []
        self._refuses = refuses

    async def sending(self, number: int) -> None:
        if number == self._refuses:
            raise PermissionError(number)
        self.sent.append(number)

    async def failed(self, attempt: FailedAttempt) -> None:
        self.failures.append(attempt)


async def received(client: anthropic.AsyncAnthropic, body: bytes, told: Told | None = None) -> Assembly:
    assembly = Assembly()
    async with send_exact(client, body, stream=True, attempts=told) as reply:
        async for data in reply.events():
            assembly.feed(data)
    return assembly


def stream(api: ScriptedApi, told: Told | None = None, **options: Any) -> Assembly:
    async def scenario() -> Assembly:
        async with api.async_client(**options) as client:
            return await received(client, body_of(stream=True), told)

    return asyncio.run(scenario())


# --- exact requests ---------------------------------------------------------------------------------------------------


def test_the_bytes_that_are_given_are_the_bytes_on_the_wire() -> None:
    api = ScriptedApi(["hello"])
    assert stream(api).complete
    (call,) = api.calls
    assert call.body == body_of(stream=True)
    assert (call.method, call.target) == ("POST", "/v1/messages")
    assert call.header("content-type") == "application/json"
    assert call.header("authorization") == "Bearer sk-ant-scripted"


@pytest.mark.parametrize(
    "failure", [Failure(status=429), Failure(status=529), Failure(status=500), Cut(how="close"), Cut(how="reset")]
)
def test_every_attempt_sends_the_same_bytes_and_is_told_of_before(
    failure: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anthropic._base_client.INITIAL_RETRY_DELAY", 0)
    api, told = ScriptedApi([failure, failure, "hello"]), Told()
    assert stream(api, told, max_retries=2).complete
    assert [call.body for call in api.calls] == [body_of(stream=True)] * 3
    assert told.sent == [1, 2, 3]
    assert [attempt.number for attempt in told.failures] == [1, 2]


def test_an_attempt_that_is_not_wanted_is_not_sent() -> None:
    api, told = ScriptedApi([Failure(status=529), "hello"]), Told(refuses=2)
    with pytest.raises(PermissionError):
        stream(api, told, max_retries=2)
    assert len(api.calls) == 1


def test_a_refused_request_raises_the_sdks_error_once_its_body_is_kept() -> None:
    api, told = (
        ScriptedApi([Failure(status=429, headers={"anthropic-ratelimit-requests-remaining": "0", "x-other": "1"})]),
        Told(),
    )
    with pytest.raises(anthropic.RateLimitError) as raised:
        stream(api, told)
    (failure,) = told.failures
    assert failure.status == 429
    assert json.loads(failure.error) == raised.value.body
    kept = json.loads(failure.headers)
    assert kept["anthropic-ratelimit-requests-remaining"] == "0"
    assert kept["retry-after"] == "0.001"
    assert "request-id" in kept
    assert "x-other" not in kept


def test_a_lost_connection_is_told_without_a_status() -> None:
    told = Told()
    with pytest.raises(anthropic.APIConnectionError):
        stream(ScriptedApi([Cut(how="reset")]), told)
    (failure,) = told.failures
    assert (failure.status, failure.number) == (0, 1)
    assert failure.error.startswith(b"APIConnectionError")


def test_an_error_whose_body_breaks_off_is_a_lost_connection_with_a_status() -> None:
    told = Told()
    with pytest.raises(anthropic.APIConnectionError):
        stream(ScriptedApi([Failure(status=400, cut=Cut(after_bytes=5, how="close"))]), told)
    assert [failure.status for failure in told.failures] == [400]


def test_a_missing_key_raises_and_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    api, told = ScriptedApi(["hello"]), Told()
    with pytest.raises(TypeError, match="authentication"):
        stream(api, told, api_key=None)
    assert api.calls == []
    assert [failure.status for failure in told.failures] == [0]


def test_headers_timeout_and_retries_of_a_call_are_its_own() -> None:
    api = ScriptedApi([Failure(status=529), "hello"])

    async def scenario() -> None:
        async with api.async_client(max_retries=0) as client:
            headers = {"anthropic-beta": "one,two"}
            body = body_of(stream=False)
            async with send_exact(client, body, stream=False, headers=headers, timeout_seconds=7, max_retries=1):
                pass

    asyncio.run(scenario())
    assert [call.header("anthropic-beta") for call in api.calls] == ["one,two"] * 2
    assert api.calls[0].header("x-stainless-read-timeout") == "7"


def test_a_client_that_is_not_async_is_refused() -> None:
    async def scenario(client: Any) -> None:
        async with send_exact(client, b"{}", stream=True):
            pass

    with ScriptedApi([]).client() as client, pytest.raises(TypeError, match="async client"):
        asyncio.run(scenario(client))


def test_the_session_package_does_not_import_the_sdk() -> None:
    code = "import session, session.response, session.sdk, session.tools, sys; print('anthropic' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


# --- middleware of the caller -----------------------------------------------------------------------------------------


def with_middleware(change: Callable[[anthropic.APIRequest], anthropic.APIRequest], seen: list[Any]) -> dict[str, Any]:
    async def middleware(request: anthropic.APIRequest, call_next: Any) -> Any:
        seen.append(request.json)
        return await call_next(change(request))

    return {"middleware": [middleware]}


def test_middleware_sees_the_body_as_a_dict_and_the_wire_the_exact_bytes() -> None:
    seen: list[Any] = []
    api = ScriptedApi(["hello"])
    assert stream(api, **with_middleware(lambda request: request, seen)).complete
    assert seen == [json.loads(body_of(stream=True))]
    assert api.calls[0].body == body_of(stream=True)
    assert api.calls[0].header("content-type") == "application/json"


def test_middleware_may_add_a_header_to_the_exact_bytes() -> None:
    seen: list[Any] = []
    api = ScriptedApi(["hello"])
    tagged = with_middleware(lambda request: request.copy(headers={**request.headers, "x-tag": "1"}), seen)
    assert stream(api, **tagged).complete
    assert (api.calls[0].body, api.calls[0].header("x-tag")) == (body_of(stream=True), "1")


def test_middleware_that_changes_the_body_has_the_last_word() -> None:
    seen: list[Any] = []
    api = ScriptedApi(["hello"])

    def change(request: anthropic.APIRequest) -> anthropic.APIRequest:
        body: Any = request.json
        return request.copy(body={**body, "max_tokens": 1999})

    assert stream(api, **with_middleware(change, seen)).complete
    assert api.calls[0].json == json.loads(body_of(stream=True)) | {"max_tokens": 1999}


UNREADABLE = b'{"role":"user","content":[{"type":"text","text":"x","n":' + b"7" * 5_000 + b"}]}"


def test_a_body_that_no_parser_takes_passes_middleware_as_bytes() -> None:
    async def passes(request: anthropic.APIRequest, call_next: Any) -> Any:
        return await call_next(request)

    api, body = ScriptedApi([]), body_of(stream=True, message=UNREADABLE)

    async def scenario() -> None:
        async with api.async_client(middleware=[passes]) as client:
            await received(client, body)

    with pytest.raises(anthropic.BadRequestError):  # the scripted API is a parser too
        asyncio.run(scenario())
    assert api.calls[0].body == body


def test_middleware_that_answers_with_no_response_is_named() -> None:
    async def middleware(_request: anthropic.APIRequest, _call_next: Any) -> Any:
        return "made up"

    with pytest.raises(TypeError, match="str, which is no response"):
        stream(ScriptedApi([]), middleware=[middleware])


def test_each_call_of_a_retrying_middleware_is_an_attempt() -> None:
    async def twice(request: anthropic.APIRequest, call_next: Any) -> Any:
        await (await call_next(request)).close()
        return await call_next(request)

    api, told = ScriptedApi(["one", "two"]), Told()
    assert stream(api, told, middleware=[twice]).blocks[0].block == b'{"type":"text","text":"two"}'
    assert told.sent == [1, 2]
    assert [call.body for call in api.calls] == [body_of(stream=True)] * 2


# --- responses --------------------------------------------------------------------------------------------------------

BIG = '{"x": 1.10, "big": 123456789012345678901234567890}'
CONTENT: list[Any] = [thinks("hm, é"), says('say "é"\n😀'), calls("f", BIG)]


@pytest.mark.parametrize("split", [{}, {"chunk_bytes": 1}, {"chunk_seed": 3}])
@pytest.mark.parametrize("delta_chars", [1, 3, 1000])
def test_a_stream_gives_the_message_the_sdk_makes_of_it(split: dict[str, Any], delta_chars: int) -> None:
    reply = Reply(content=CONTENT, id="msg_1", extra={"container": None}, delta_chars=delta_chars)
    step = Exact(body=_wire_bytes(reply), **split)
    assembly = stream(ScriptedApi([step]))
    assert assembly.complete

    async def by_the_sdk() -> anthropic.types.Message:
        async with ScriptedApi([step]).async_client() as client:
            given = json.loads(body_of(stream=True))
            del given["stream"]
            async with client.messages.stream(**given) as events:
                return await events.get_final_message()

    theirs = json.loads(asyncio.run(by_the_sdk()).model_dump_json(exclude_unset=True))
    ours = [json.loads(block.block) for block in assembly.blocks]
    assert ours == theirs["content"]
    assert assembly.blocks[2].input == BIG.encode()
    facts = assembly.completed()
    assert (facts.message_id, facts.model, facts.stop_reason) == ("msg_1", theirs["model"], theirs["stop_reason"])
    assert json.loads(facts.usage) == theirs["usage"]


def test_a_whole_response_is_given_in_its_exact_bytes() -> None:
    api = ScriptedApi([Reply(content=CONTENT, id="msg_1")])

    async def scenario() -> tuple[bytes, str, bytes]:
        async with api.async_client() as client, send_exact(client, body_of(stream=False), stream=False) as reply:
            return await reply.read(), reply.request_id, reply.headers

    body, request_id, headers = asyncio.run(scenario())
    plain = read_plain(body)
    assert plain.blocks[2].input == BIG.encode()
    assert plain.completed == Completed(
        "msg_1", "claude-haiku-4-5", "tool_use", plain.completed.usage, plain.completed.rest
    )
    assert request_id.startswith("req_")
    assert json.loads(headers) == {"request-id": request_id}


SHORT = Reply(content=[says("é😀"), calls("f", '{"a":"é"}')], id="msg_1")


@pytest.mark.parametrize("apart", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_a_stream_that_ends_early_at_any_byte_is_cut_and_raises_nothing(apart: int) -> None:
    whole = _wire_bytes(SHORT)
    places = sorted({*range(0, len(whole), apart), *range(len(whole) - 9, len(whole) + 1)})
    steps = [Exact(body=whole, cut=Cut(after_bytes=kept, how="end")) for kept in places]

    async def scenario() -> list[Assembly]:
        client = ScriptedApi(steps).async_client()
        return [await received(client, body_of(stream=True)) for _ in steps]

    assemblies = asyncio.run(scenario())
    assert not any(assembly.error or assembly.fault for assembly in assemblies)
    complete = [kept for kept, assembly in zip(places, assemblies, strict=True) if assembly.complete]
    assert complete == list(range(complete[0], len(whole) + 1))
    assert complete[0] >= len(whole.rstrip())


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_stream_whose_connection_breaks_raises_what_the_transport_raises(how: Any) -> None:
    step = Exact(body=_wire_bytes(SHORT), cut=Cut(after_events=3, how=how))
    with pytest.raises(httpx2.TransportError):
        stream(ScriptedApi([step]))


def _wire_bytes(step: Reply) -> bytes:
    async def scenario() -> bytes:
        async with ScriptedApi([step]).async_client() as client:
            given = json.loads(body_of(stream=True))
            response: httpx2.Response = (await client.messages.with_raw_response.create(**given)).http_response
            return await response.aread()

    return asyncio.run(scenario())


def test_an_error_event_becomes_the_exception_that_the_sdk_raises() -> None:
    step = Reply(content="some words", error=StreamError(after_events=3))

    async def ours() -> Exception:
        client, assembly = ScriptedApi([step]).async_client(), Assembly()
        async with client, send_exact(client, body_of(stream=True), stream=True) as reply:
            async for data in reply.events():
                assembly.feed(data)
            return reply.error_of(assembly.error)

    async def theirs() -> Exception:
        async with ScriptedApi([step]).async_client() as client:
            events = await client.messages.create(**json.loads(body_of(stream=True)))
            with pytest.raises(anthropic.APIStatusError) as raised:
                async for _ in events:
                    pass
            return raised.value

    one, other = asyncio.run(ours()), asyncio.run(theirs())
    assert type(one) is type(other)
    assert isinstance(one, anthropic.APIStatusError)
    assert isinstance(other, anthropic.APIStatusError)
    assert isinstance(one.body, dict)
    assert isinstance(other.body, dict)
    assert one.body["error"] == other.body["error"]
    assert one.message.partition("req_")[0] == other.message.partition("req_")[0]


def test_a_reply_that_is_left_early_is_closed() -> None:
    async def scenario() -> httpx2.Response:
        async with ScriptedApi(["hello"]).async_client() as client:
            async with send_exact(client, body_of(stream=True), stream=True) as reply:
                async for _ in reply.events():
                    break
                assert not reply._response.is_closed
            return reply._response

    assert asyncio.run(scenario()).is_closed


def test_a_cancelled_reader_closes_the_reply() -> None:
    async def scenario() -> httpx2.Response:
        reading: asyncio.Future[sdk.Reply] = asyncio.get_running_loop().create_future()

        async def read() -> None:
            async with send_exact(client, body_of(stream=True), stream=True) as reply:
                reading.set_result(reply)
                await asyncio.Event().wait()

        async with ScriptedApi(["hello"]).async_client() as client:
            task = asyncio.create_task(read())
            reply = await reading
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled()
            return reply._response

    assert asyncio.run(scenario()).is_closed


def test_only_headers_worth_their_place_are_kept() -> None:
    headers = {"Request-Id": "req_1", "anthropic-ratelimit-tokens-limit": "9", "Retry-After": "1", "set-cookie": "s"}
    assert kept_headers(headers) == b'{"request-id":"req_1"}'
    assert set(json.loads(kept_headers(headers, failed=True))) == {
        "request-id",
        "anthropic-ratelimit-tokens-limit",
        "retry-after",
    }
    assert kept_headers({}) == b""


# --- clients of other platforms ---------------------------------------------------------------------------------------


def over(answer: bytes, content_type: str, seen: list[httpx2.Request]) -> httpx2.AsyncClient:
    def respond(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, content=answer, headers={"content-type": content_type})

    return httpx2.AsyncClient(transport=httpx2.MockTransport(respond))


def vertex(http: httpx2.AsyncClient) -> Any:
    return anthropic.AsyncAnthropicVertex(region="r", project_id="p", access_token="t", http_client=http)


def bedrock(http: httpx2.AsyncClient) -> Any:
    return anthropic.AsyncAnthropicBedrock(aws_region="r", api_key="k", http_client=http)


def foundry(http: httpx2.AsyncClient) -> Any:
    return anthropic.AsyncAnthropicFoundry(api_key="k", resource="r", http_client=http)


def aws(http: httpx2.AsyncClient) -> Any:
    return anthropic.AsyncAnthropicAWS(
        api_key="k", aws_region="us-east-1", workspace_id="w", base_url="https://aws.example", http_client=http
    )


def run(scenario: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(scenario)


async def streamed(client: Any) -> Assembly:
    return await received(client, body_of(stream=True))


def test_vertex_gets_equal_values_and_its_stream_is_read() -> None:
    seen: list[httpx2.Request] = []
    client = vertex(over(_wire_bytes(SHORT), "text/event-stream", seen))
    assembly = run(streamed(client))
    assert [block.kind for block in assembly.blocks] == ["text", "tool_use"]
    assert assembly.complete
    sent = json.loads(seen[0].content)
    expected = json.loads(body_of(stream=True))
    assert "streamRawPredict" in str(seen[0].url)
    assert expected.pop("model") in str(seen[0].url)
    assert sent.pop("anthropic_version")
    assert sent == expected


def test_bedrock_gets_equal_values() -> None:
    seen: list[httpx2.Request] = []
    answer = b'{"id":"msg_1","content":[{"type":"text","text":"1.10"}]}'
    client = bedrock(over(answer, "application/json", seen))

    async def scenario() -> bytes:
        async with client, send_exact(client, body_of(stream=False), stream=False) as reply:
            return await reply.read()

    assert run(scenario()) == answer
    sent = json.loads(seen[0].content)
    expected = json.loads(body_of(stream=False))
    assert expected.pop("model") in str(seen[0].url)
    assert sent.pop("anthropic_version")
    assert sent == expected


def test_a_body_that_no_parser_takes_cannot_be_rewritten() -> None:
    seen: list[httpx2.Request] = []
    client = bedrock(over(b"{}", "application/json", seen))
    with pytest.raises(UnreadableJsonError):
        run(received(client, body_of(stream=True, message=UNREADABLE)))
    assert seen == []


def google(http: httpx2.AsyncClient) -> Any:
    return anthropic.AsyncAnthropicGoogleCloud(
        project="p", location="r", workspace_id="w", skip_auth=True, base_url="https://google.example", http_client=http
    )


@pytest.mark.parametrize("make", [foundry, aws, google])
def test_platforms_that_leave_the_body_alone_get_the_exact_bytes(make: Callable[[httpx2.AsyncClient], Any]) -> None:
    seen: list[httpx2.Request] = []
    client = make(over(_wire_bytes(SHORT), "text/event-stream", seen))
    assert run(streamed(client)).complete
    assert seen[0].content == body_of(stream=True)


def test_the_clients_that_rewrite_the_body_are_known() -> None:
    # A client that takes the body apart does so in `_prepare_options`; what is said of each name here is tested above.
    for name in sdk._REWRITING:
        assert hasattr(anthropic, name), f"the SDK has no {name} any more"
    exact = {"AsyncAnthropic", "AsyncAnthropicAWS", "AsyncAnthropicFoundry", "AsyncAnthropicGoogleCloud"}
    known = {name for name in dir(anthropic) if name.startswith("AsyncAnthropic")}
    assert known == exact | set(sdk._REWRITING), "a new client: does it change the body?"
    assert not rewrites_body(ScriptedApi([]).async_client())
