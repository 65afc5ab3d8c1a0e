"""The real SDK clients against the scripted API, over HTTP and in the process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

import anthropic
import httpx2
import msgspec
import pytest
from anthropic.types import ThreadNotFoundError
from hypothesis import given
from hypothesis import strategies as st

from session.testing import (
    Cut,
    Delay,
    Exact,
    Failure,
    Reply,
    ScriptedApi,
    StreamError,
    ThinkingLedger,
    calls,
    says,
    thinks,
    tool_using_model,
    wire,
)
from session.testing._answers import Answer
from session.testing.api import load_script

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

    from anthropic.types import Message
    from anthropic.types.beta import BetaMessage

    from session.testing.script import Step

Face = Literal["http", "transport"]
FACES: tuple[Face, ...] = ("http", "transport")
MODEL = "claude-sonnet-5-5"
SEARCH = {
    "name": "search",
    "input_schema": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
}


@contextmanager
def client_of(api: ScriptedApi, face: Face, **options: Any) -> Iterator[anthropic.Anthropic]:
    with ExitStack() as stack:
        yield stack.enter_context(
            api.client(**options) if face == "transport" else stack.enter_context(api.serve()).client(**options)
        )


@asynccontextmanager
async def async_client_of(api: ScriptedApi, face: Face, **options: Any) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with AsyncExitStack() as stack:
        maker = api if face == "transport" else stack.enter_context(api.serve())
        yield await stack.enter_async_context(maker.async_client(**options))


def user(content: Any) -> Any:
    return {"role": "user", "content": content}


def content_of(message: Message) -> Any:
    return message.to_dict(warnings=False)["content"]


def text_of(message: Message) -> Any:
    return content_of(message)[0]["text"]


def ask(client: anthropic.Anthropic, *messages: Any, stream: bool = False, **more: Any) -> Message:
    request: dict[str, Any] = {"model": MODEL, "max_tokens": 100, "messages": list(messages) or [user("hi")], **more}
    if not stream:
        answer: Message = client.messages.create(**request)
        return answer
    with client.messages.stream(**request) as events:
        return events.get_final_message()


async def ask_async(client: anthropic.AsyncAnthropic, *messages: Any, stream: bool, **more: Any) -> Message:
    request: dict[str, Any] = {"model": MODEL, "max_tokens": 100, "messages": list(messages) or [user("hi")], **more}
    if not stream:
        answer: Message = await client.messages.create(**request)
        return answer
    async with client.messages.stream(**request) as events:
        return await events.get_final_message()


def body_of(api: ScriptedApi, number: int = -1) -> bytes:
    answer = api.calls[number].answer
    assert isinstance(answer, Answer)
    return answer.body


def data_of(event: bytes) -> Any:
    return json.loads(event.partition(b"data: ")[2])


RICH = Reply(
    content=[
        thinks("Let me think about it: ünï 思考"),
        {"type": "redacted_thinking", "data": "opaque=="},
        {"type": "text", "text": "See [1].", "citations": [{"type": "char_location", "cited_text": "x"}]},
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "q"}},
        {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []},
        {"type": "hologram", "shape": {"sides": 7}},
        calls("search", {"query": 'a "quoted" thing\nand more of it'}),
        calls("search", {}),
    ]
)


# --- what the clients make of it --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("face", FACES)
def test_the_sdk_reads_every_kind_of_block(face: Face, *, stream: bool) -> None:
    api = ScriptedApi([RICH])
    with client_of(api, face) as client:
        message = ask(client, stream=stream)

    kinds = [block.type for block in message.content]
    assert kinds == [block["type"] for block in RICH.content if isinstance(block, dict)]
    found = content_of(message)
    assert found[0]["thinking"] == "Let me think about it: ünï 思考"
    assert found[0]["signature"]
    assert found[2]["citations"][0]["cited_text"] == "x"
    assert found[5]["shape"] == {"sides": 7}
    assert found[6]["input"] == {"query": 'a "quoted" thing\nand more of it'}
    assert found[7]["input"] == {}
    assert message.stop_reason == "tool_use"
    assert message.usage.output_tokens > 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("face", FACES)
def test_the_asynchronous_sdk_reads_the_same(face: Face, *, stream: bool) -> None:
    async def run() -> Message:
        async with async_client_of(ScriptedApi([RICH]), face) as client:
            return await ask_async(client, stream=stream)

    with client_of(ScriptedApi([RICH]), face) as client:
        message = ask(client, stream=stream)
    assert asyncio.run(run()).to_dict(warnings=False) == message.to_dict(warnings=False)


def test_both_faces_send_the_same_bytes() -> None:
    bodies = []
    for face in FACES:
        api = ScriptedApi([RICH], seed=7)
        with client_of(api, face) as client:
            raw = client.messages.with_raw_response.create(model=MODEL, max_tokens=5, messages=[user("hi")])
        assert raw.http_response.content == body_of(api)
        bodies.append(body_of(api))

    assert bodies[0] == bodies[1]


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_s_input_given_as_text_is_sent_letter_for_letter(*, stream: bool) -> None:
    text = '{"a" : 1.10, "big":123456789012345678901234567890,"s":"\\ud800 \\u00e9","a":2}'
    api = ScriptedApi([Reply(content=[calls("search", text, "toolu_1")], delta_chars=3)])
    with api.client() as client:  # not `messages.stream`: its parser of inputs takes no lone surrogates
        answer = client.messages.create(model=MODEL, max_tokens=5, messages=[user("hi")], stream=stream)
        assert list(answer) if stream else answer

    if stream:
        pieces = [data_of(event) for event in body_of(api).split(b"\n\n") if b"input_json_delta" in event]
        assert pieces[0]["delta"]["partial_json"] == ""
        assert "".join(piece["delta"]["partial_json"] for piece in pieces) == text
        assert len(pieces) > 5
    else:
        assert b'"input":' + text.encode() + b"}" in body_of(api)


@pytest.mark.parametrize("stream", [False, True])
def test_a_block_given_as_text_is_sent_letter_for_letter(*, stream: bool) -> None:
    text = '{"type":"odd" , "n":1.10, "n":null}'
    api = ScriptedApi([Reply(content=[text, says("after")])])
    with api.client() as client:
        ask(client, stream=stream)

    assert text.encode() in body_of(api)


def test_a_lone_surrogate_is_sent_as_an_escape() -> None:
    api = ScriptedApi([Reply(content=[says("a\ud800b")])] * 2)
    with api.client() as client:
        assert [text_of(ask(client, stream=stream)) for stream in (False, True)] == [
            "a\ud800b",
            "a\ud800b",
        ]

    assert rb"a\ud800b" in body_of(api)


def test_a_stream_has_the_events_of_the_real_one_in_their_order() -> None:
    api = ScriptedApi([Reply(content=[thinks("hm"), says("ok")], delta_chars=100)])
    with api.client() as client:
        ask(client, stream=True)

    events = body_of(api).split(b"\n\n")[:-1]
    assert [event.splitlines()[0].removeprefix(b"event: ").decode() for event in events] == [
        "message_start",
        "content_block_start",
        "ping",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    start, end = data_of(events[0])["message"], data_of(events[-2])
    assert start["content"] == []
    assert start["stop_reason"] is None
    assert start["usage"]["output_tokens"] == 1
    assert end["delta"]["stop_reason"] == "end_turn"
    assert end["usage"]["output_tokens"] > 1
    assert end["usage"]["input_tokens"] == start["usage"]["input_tokens"]


@pytest.mark.parametrize("stream", [False, True])
def test_counters_and_fields_of_the_script_reach_the_client(*, stream: bool) -> None:
    reply = Reply(
        content="x",
        usage={"output_tokens": 70, "server_tool_use": {"web_search_requests": 3}, "novel_tokens": 5},
        stop_reason="refusal",
        extra={"stop_details": {"type": "refusal", "category": "cyber", "explanation": None}, "novel": [1]},
        model="claude-other",
        id="msg_mine",
    )
    with ScriptedApi([reply]).client() as client:
        message = ask(client, stream=stream)

    assert (message.id, message.model, message.stop_reason) == ("msg_mine", "claude-other", "refusal")
    assert message.usage.output_tokens == 70
    assert message.usage.server_tool_use is not None
    assert message.usage.server_tool_use.web_search_requests == 3
    assert message.stop_details is not None
    assert message.to_dict()["novel"] == [1]


def test_a_seed_makes_the_same_answers_again() -> None:
    def bodies(seed: int) -> list[bytes]:
        api = ScriptedApi([RICH, RICH], seed=seed)
        with api.client() as client:
            ask(client)
            ask(client)
        return [body_of(api, 0), body_of(api, 1)]

    assert bodies(1) == bodies(1)
    assert len({*bodies(1), *bodies(2)}) == 4


def test_the_headers_name_the_request_and_its_limits() -> None:
    with ScriptedApi(["x"]).client() as client:
        raw = client.messages.with_raw_response.create(model=MODEL, max_tokens=5, messages=[user("hi")])

    assert raw.request_id is not None
    assert raw.request_id.startswith("req_011C")
    assert raw.headers["anthropic-ratelimit-requests-limit"] == "4000"


@pytest.mark.parametrize("face", FACES)
def test_exact_bytes_are_answered_as_they_are(face: Face) -> None:
    body = b"".join(
        wire.events(wire.message(Reply(content="hello"), model=MODEL, key=b"k", usage=wire.usage(0, 0, 0, 3, 4)))
    )
    odd = b": a comment\r\n\r\nevent: tea\ndata: {}\n\n" + body.replace(b"\n", b"\r\n")
    api = ScriptedApi([Exact(body=odd, chunk_bytes=7)])
    with (
        client_of(api, face) as client,
        client.messages.stream(model=MODEL, max_tokens=5, messages=[user("hi")]) as events,
    ):
        assert events.get_final_text() == "hello"

    assert body_of(api) == odd


@given(st.integers(0, 10_000))
def test_chunks_cut_a_stream_anywhere_and_change_nothing(seed: int) -> None:
    whole = wire.message(RICH, model=MODEL, key=b"k", usage=wire.usage(0, 0, 0, 3, 4))
    api = ScriptedApi([msgspec.structs.replace(RICH, chunk_seed=seed, id=whole.id)])
    with api.client() as client:
        message = ask(client, stream=True)
    answer = api.calls[0].answer

    assert isinstance(answer, Answer)
    assert len(answer.chunks) > 20
    assert [block.type for block in message.content][-1] == "tool_use"


# --- requests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("face", FACES)
def test_every_request_is_recorded_byte_for_byte(face: Face) -> None:
    body = b'{"max_tokens" : 5,"model":"m", "messages":[{"role":"user","content":"\xc3\xa9 1.10"}]}'
    api = ScriptedApi(["x"])
    with client_of(api, face) as client:
        client.post("/v1/messages", cast_to=object, content=body)

    (call,) = api.calls
    assert (call.body, call.method, call.target) == (body, "POST", "/v1/messages")
    assert "sk-ant-scripted" in (call.header("authorization") or call.header("x-api-key") or "")
    assert call.header("Anthropic-Version")
    assert (call.number, call.status, call.accepted, call.error) == (1, 200, True, None)


def test_a_chunked_request_is_read() -> None:
    api = ScriptedApi(["x", "y"])
    body = json.dumps({"model": MODEL, "max_tokens": 5, "messages": [user("hi")]}).encode()
    headers = {"x-api-key": "k", "anthropic-version": "2023-06-01"}
    with api.serve() as server, httpx2.Client(base_url=server.base_url, trust_env=False) as http:
        for _ in range(2):
            pieces = iter([body[:9], body[9:]])
            assert http.post("/v1/messages", content=pieces, headers=headers).status_code == 200

    assert [call.body for call in api.calls] == [body, body]
    assert server.connections == 1


@pytest.mark.parametrize("face", FACES)
def test_a_bad_request_is_refused_in_the_api_s_words_and_takes_no_step(face: Face) -> None:
    api = ScriptedApi(["only one"])
    with client_of(api, face) as client:
        with pytest.raises(anthropic.BadRequestError, match="first message must use") as caught:
            ask(client, {"role": "assistant", "content": "x"}, user("y"))
        answered = ask(client)

    assert caught.value.body == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": 'messages: first message must use the "user" role'},
        "request_id": caught.value.request_id,
    }
    assert text_of(answered) == "only one"
    assert [call.accepted for call in api.calls] == [False, True]
    assert api.calls[0].error == 'messages: first message must use the "user" role'


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status"),
    [
        ("POST", "/v1/elsewhere", {}, b"{}", 404),
        ("GET", "/v1/messages", {}, b"", 405),
        ("POST", "/v1/messages", {"x-api-key": ""}, b"{}", 401),
        ("POST", "/v1/messages", {"anthropic-version": ""}, b"{}", 400),
        ("POST", "/v1/messages", {}, b"{not json", 400),
        ("POST", "/v1/messages", {}, b"[]", 400),
        ("POST", "/v1/messages", {}, b"[" * 200_000, 400),
        ("POST", "/v1/messages", {}, b" " * (32 * 1024 * 1024 + 1), 413),
    ],
)
def test_what_is_no_request_gets_the_api_s_error(
    method: str, path: str, headers: dict[str, str], body: bytes, status: int
) -> None:
    api = ScriptedApi([])
    sent = {"x-api-key": "k", "anthropic-version": "2023-06-01"} | headers
    with httpx2.Client(transport=api.transport(), base_url="http://api") as http:
        answer = http.request(method, path, headers=sent, content=body)

    assert answer.status_code == status
    assert answer.json()["type"] == "error"
    assert answer.json()["error"]["type"]


@pytest.mark.parametrize("face", FACES)
def test_a_script_that_ended_says_so_and_is_not_asked_again(face: Face) -> None:
    api = ScriptedApi([])
    ended = pytest.raises(anthropic.InternalServerError, match="The script has ended: it has 0 steps")
    with client_of(api, face, max_retries=3) as client, ended:
        ask(client)

    assert len(api.calls) == 1


def test_a_function_gets_the_request_and_its_number() -> None:
    api = ScriptedApi(lambda body, number: f"{number}: {body['messages'][-1]['content']}")
    with api.client() as client:
        texts = [text_of(ask(client, user(text))) for text in ("a", "b")]

    assert texts == ["1: a", "2: b"]


def test_a_function_that_raises_is_told_to_the_client() -> None:
    def script(_body: dict[str, Any], _number: int) -> Reply:
        raise LookupError("no idea")

    with ScriptedApi(script).client() as client, pytest.raises(anthropic.InternalServerError, match="no idea"):
        ask(client)


def test_an_input_that_is_no_json_can_only_be_streamed() -> None:
    broken = Reply(content=[calls("search", '{"query": "cut of')], stop_reason="max_tokens")
    with ScriptedApi([broken, broken]).client() as client:
        assert ask(client, stream=True).stop_reason == "max_tokens"
        with pytest.raises(anthropic.InternalServerError, match="can only be streamed"):
            ask(client)


@pytest.mark.parametrize("face", FACES)
def test_many_threads_are_answered_at_once_and_none_is_lost(face: Face) -> None:
    api = ScriptedApi(lambda body, _: str(body["messages"][0]["content"]))
    with client_of(api, face) as client, ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda n: text_of(ask(client, user(f"n{n}"))), range(64)))

    assert texts == [f"n{n}" for n in range(64)]
    assert sorted(call.number for call in api.calls) == list(range(1, 65))


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("face", FACES)
def test_failures_are_retried_by_the_client(face: Face) -> None:
    api = ScriptedApi([Failure(status=429), Failure(status=529), Failure(status=500), "at last"])
    with client_of(api, face, max_retries=3) as client:
        assert text_of(ask(client)) == "at last"

    assert [call.status for call in api.calls] == [429, 529, 500, 200]
    assert [call.header("x-stainless-retry-count") for call in api.calls] == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (401, anthropic.AuthenticationError, "authentication_error"),
        (403, anthropic.PermissionDeniedError, "permission_error"),
        (404, anthropic.NotFoundError, "not_found_error"),
        (413, anthropic.RequestTooLargeError, "request_too_large"),
        (429, anthropic.RateLimitError, "rate_limit_error"),
        (500, anthropic.InternalServerError, "api_error"),
        (529, anthropic.OverloadedError, "overloaded_error"),
    ],
)
@pytest.mark.parametrize("face", FACES)
def test_a_failure_is_the_sdk_s_error_for_its_status(
    face: Face, status: int, error: type[anthropic.APIStatusError], kind: str
) -> None:
    with client_of(ScriptedApi([Failure(status=status)]), face) as client, pytest.raises(error) as caught:
        ask(client)

    assert caught.value.type == kind
    assert caught.value.request_id


def test_a_failure_says_what_the_script_says() -> None:
    headers = {"Request-Id": "req_mine"}
    failure = Failure(status=400, type="odd_error", message="so it is", details={"error_code": "odd"}, headers=headers)
    with ScriptedApi([failure]).client() as client, pytest.raises(anthropic.BadRequestError) as caught:
        ask(client)

    assert (caught.value.type, caught.value.api_message, caught.value.error_code) == ("odd_error", "so it is", "odd")
    assert caught.value.request_id == "req_mine"


@pytest.mark.parametrize("face", FACES)
def test_an_error_in_the_middle_of_a_stream_is_raised_there(face: Face) -> None:
    api = ScriptedApi([Reply(content="partial", error=StreamError())])
    seen: list[str] = []
    with client_of(api, face) as client, pytest.raises(anthropic.APIStatusError, match="Overloaded") as caught:  # noqa: SIM117
        with client.messages.stream(model=MODEL, max_tokens=5, messages=[user("hi")]) as events:
            seen.extend(event.type for event in events)

    assert "text" in seen
    assert "message_stop" not in seen
    assert caught.value.type == "overloaded_error"


def test_an_error_comes_after_as_many_events_as_asked() -> None:
    api = ScriptedApi(
        [Reply(content="partial", error=StreamError(after_events=2, type="api_error", message="oops"))] * 2
    )
    with api.client() as client:
        for stream in (True, False):
            with pytest.raises(anthropic.APIStatusError, match="oops") as caught:
                ask(client, stream=stream)
            assert caught.value.type == "api_error"

    assert body_of(api, 0).count(b"event: ") == 3
    assert api.calls[1].status == 500


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("how", ["end", "close", "reset"])
def test_no_answer_at_all_is_a_connection_error(face: Face, how: Any) -> None:
    with client_of(ScriptedApi([Cut(how=how), "x"]), face) as client:
        with pytest.raises(anthropic.APIConnectionError):
            ask(client)
        assert ask(client).stop_reason == "end_turn"


# --- cuts -------------------------------------------------------------------------------------------------------------

SMALL = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant",'
    b'"model":"m","content":[],"stop_reason":null,"usage":{"input_tokens":1,"output_tokens":1}}}\n\n'
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":{"type":"tool_use",'
    b'"id":"t","name":"n","input":{}}}\n\n'
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta",'
    b'"partial_json":"{\\"a\\":\\"\xc3\xa9\\"}"}}\n\n'
    b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"tool_use"},"usage":'
    b'{"output_tokens":9}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)
REQUEST = json.dumps({"model": MODEL, "max_tokens": 5, "messages": [user("hi")], "stream": True}).encode()
HEADERS = {"x-api-key": "k", "anthropic-version": "2023-06-01"}


EVERYWHERE = range(len(SMALL))
NEAR_ENDS = [at for at in EVERYWHERE if at % 13 == 0 or b"\n\n" in SMALL[max(at - 3, 0) : at + 2]]
PLACES = pytest.mark.parametrize(
    "places", [pytest.param(NEAR_ENDS, id="some"), pytest.param(EVERYWHERE, id="all", marks=pytest.mark.slow)]
)


def cuts(how: Any, places: Sequence[int]) -> list[Step]:
    return [Exact(body=SMALL, cut=Cut(after_bytes=at, how=how)) for at in places]


@pytest.mark.parametrize("face", FACES)
def test_the_sdk_raises_nothing_for_a_stream_that_ends_early_between_events(face: Face) -> None:
    reply = Reply(content=[says("hello"), calls("search", {"query": "q"})], delta_chars=3)
    sizes = range(1, 14)
    api = ScriptedApi([msgspec.structs.replace(reply, cut=Cut(after_events=size)) for size in sizes])
    with client_of(api, face) as client:
        messages = [ask(client, stream=True) for _ in sizes]

    assert [message.stop_reason for message in messages] == [None] * len(sizes)
    assert [text_of(message) for message in messages[1:6]] == ["", "", "hel", "hello", "hello"]
    assert content_of(messages[-1])[1]["input"] == {"query": "q"}


@PLACES
@pytest.mark.parametrize("face", FACES)
def test_the_sdk_has_no_stop_reason_after_a_stream_that_ends_early_at_any_byte(
    face: Face, places: Sequence[int]
) -> None:
    finished = SMALL.index(b"\n\n", SMALL.index(b"event: message_delta"))
    with client_of(ScriptedApi(cuts("end", places)), face) as client:
        for at in places:
            reason = None
            with client.messages.stream(model=MODEL, max_tokens=5, messages=[user("hi")]) as events:
                try:
                    for event in events:
                        assert event.type != "message_stop" or at >= len(SMALL) - 1
                        reason = events.current_message_snapshot.stop_reason
                except (json.JSONDecodeError, UnicodeDecodeError):
                    pass  # the SDK tries to read the line that was cut
            assert reason is None or at > finished


@PLACES
@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize(
    ("how", "error"), [("end", None), ("close", httpx2.RemoteProtocolError), ("reset", httpx2.ReadError)]
)
def test_exactly_the_bytes_before_the_cut_arrive(
    face: Face, how: Any, error: type[Exception] | None, places: Sequence[int]
) -> None:
    api = ScriptedApi(cuts(how, places))
    with ExitStack() as stack:
        url = stack.enter_context(api.serve()).base_url if face == "http" else "http://api"
        wires = httpx2.HTTPTransport(verify=False) if face == "http" else api.transport()
        http = stack.enter_context(httpx2.Client(base_url=url, transport=wires))
        for at in places:
            arrived: list[bytes] = []
            ends = pytest.raises(error) if error else nullcontext()
            with http.stream("POST", "/v1/messages", content=REQUEST, headers=HEADERS) as response, ends:
                arrived.extend(response.iter_raw())
            assert b"".join(arrived) == SMALL[:at]


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("how", ["end", "close", "reset"])
def test_the_asynchronous_client_meets_the_same_cuts(face: Face, how: Any) -> None:
    places = EVERYWHERE[::23]

    async def run() -> None:
        async with async_client_of(ScriptedApi(cuts(how, places)), face) as client:
            for at in places:
                async with client.messages.with_streaming_response.create(
                    model=MODEL, max_tokens=5, messages=[user("hi")], stream=True
                ) as response:
                    with nullcontext() if how == "end" else pytest.raises(httpx2.TransportError):
                        assert await response.read() == SMALL[:at]

    asyncio.run(run())


@pytest.mark.parametrize("face", FACES)
def test_a_whole_answer_is_cut_too(face: Face) -> None:
    api = ScriptedApi([Reply(content="x", cut=Cut(after_bytes=30, how=how)) for how in ("end", "close", "reset")])
    with client_of(api, face) as client:
        with pytest.raises((ValueError, anthropic.APIError)):
            ask(client)
        for _ in range(2):
            with pytest.raises((anthropic.APIConnectionError, httpx2.TransportError)):
                ask(client)


def test_a_cut_counts_whole_events_or_bytes_not_both() -> None:
    api = ScriptedApi([Reply(content="x", cut=Cut(after_events=3))])
    with api.client() as client:
        ask(client, stream=True)

    assert body_of(api).count(b"\n\n") == 3
    with pytest.raises(ValueError, match="not both"):
        Cut(after_bytes=1, after_events=1)


# --- connections and waiting ------------------------------------------------------------------------------------------


def test_connections_are_kept_alive_and_dropped_only_when_cut() -> None:
    cut = Reply(content="x", cut=Cut(after_events=2, how="close"))
    api = ScriptedApi(["a", "b", Failure(status=400), "c", cut, "d"])
    with api.serve() as server, server.client() as client:
        for stream in (False, True):
            ask(client, stream=stream)
        with pytest.raises(anthropic.BadRequestError):
            ask(client)
        ask(client)
        assert server.connections == 1
        with pytest.raises(httpx2.RemoteProtocolError):
            ask(client, stream=True)
        ask(client)
        assert server.connections == 2


@pytest.mark.parametrize("face", FACES)
def test_a_held_stream_goes_on_when_released(face: Face) -> None:
    api = ScriptedApi([Reply(content="hello", delay=Delay(hold_after_events=4))])
    with (
        client_of(api, face) as client,
        client.messages.stream(model=MODEL, max_tokens=5, messages=[user("hi")]) as events,
    ):
        assert next(event.text for event in events if event.type == "text") == "hello"
        api.release()
        assert events.get_final_message().stop_reason == "end_turn"


@pytest.mark.parametrize("face", FACES)
def test_a_held_stream_can_be_cancelled(face: Face) -> None:
    api = ScriptedApi([Reply(content="hello", delay=Delay(hold_after_events=4)), "next"])

    async def run() -> str:
        async with async_client_of(api, face) as client:
            arrived = asyncio.Event()

            async def read() -> None:
                async with client.messages.stream(model=MODEL, max_tokens=5, messages=[user("hi")]) as events:
                    async for _ in events.text_stream:
                        arrived.set()

            reading = asyncio.create_task(read())
            await arrived.wait()
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            message = await ask_async(client, stream=False)
        return str(text_of(message))

    assert asyncio.run(run()) == "next"


@pytest.mark.parametrize("face", FACES)
def test_delays_are_waited_out(face: Face) -> None:
    api = ScriptedApi([Reply(content="x", delay=Delay(before_seconds=0.002, between_seconds=0.001))])
    with client_of(api, face) as client:
        assert ask(client, stream=True).stop_reason == "end_turn"


def test_a_server_that_closes_lets_nobody_wait() -> None:
    api = ScriptedApi([Reply(content="hello", delay=Delay(hold_after_events=4))])
    server = api.serve()
    with server.client() as client:  # noqa: SIM117
        with client.messages.stream(model=MODEL, max_tokens=5, messages=[user("hi")]) as events:
            assert next(event.text for event in events if event.type == "text") == "hello"
            server.close()
            with pytest.raises(httpx2.TransportError):
                events.get_final_message()
    server.close()

    assert not [thread for thread in threading.enumerate() if "_serve_connection" in thread.name]


# --- thinking ---------------------------------------------------------------------------------------------------------


def conversation(client: anthropic.Anthropic, *, stream: bool) -> list[dict[str, Any]]:
    """Two tool rounds and an answer, each thought about, sent back as the SDK gave it."""
    messages = [user("What is new?")]
    while True:
        answer = ask(client, *messages, stream=stream, tools=[SEARCH], system="Be brief.")
        content = content_of(answer)
        messages.append({"role": "assistant", "content": content})
        used = [block["id"] for block in content if block["type"] == "tool_use"]
        if not used:
            return messages
        messages.append(user([{"type": "tool_result", "tool_use_id": name, "content": "found it"} for name in used]))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("face", FACES)
def test_an_agent_with_tools_and_thinking_runs_to_its_end(face: Face, *, stream: bool) -> None:
    api = ScriptedApi(tool_using_model(rounds=2, parallel=2))
    with client_of(api, face) as client:
        messages = conversation(client, stream=stream)

    assert len(messages) == 6
    assert messages[-1]["content"][-1]["text"].startswith("Done: What is new?")
    assert [len([b for b in m["content"] if b["type"] == "tool_use"]) for m in messages[1::2]] == [2, 2, 0]
    assert all(call.status == 200 for call in api.calls)


def test_thinking_under_another_prefix_is_refused() -> None:
    api = ScriptedApi(tool_using_model(rounds=1))
    with api.client() as client:
        messages = conversation(client, stream=True)
        follow = [*messages, user("and now?")]
        assert ask(client, *follow, tools=[SEARCH], system="Be brief.").stop_reason == "tool_use"
        changes: list[Any] = [
            {"system": "Be long."},
            {"system": "Be brief.", "tools": [{**SEARCH, "description": "x"}]},
        ]
        for changed in changes:
            with pytest.raises(anthropic.BadRequestError, match="bound to a different conversation"):
                ask(client, *follow, **{"tools": [SEARCH], **changed})


def test_thinking_of_somebody_else_is_refused_unless_the_ledger_knows_it() -> None:
    ledger = ThinkingLedger()
    with ScriptedApi(tool_using_model(rounds=1), ledger=ledger).client() as client:
        messages = [*conversation(client, stream=False), user("go on")]
    request: dict[str, Any] = {"tools": [SEARCH], "system": "Be brief."}
    with ScriptedApi(["x"]).client() as client, pytest.raises(anthropic.BadRequestError, match="Invalid `signature`"):
        ask(client, *messages, **request)
    for api in (ScriptedApi(["x"], ledger=ledger), ScriptedApi(["x"], check_thinking=False)):
        with api.client() as client:
            assert ask(client, *messages, **request).stop_reason == "end_turn"


def test_a_fork_from_any_message_is_accepted() -> None:
    api = ScriptedApi(tool_using_model(rounds=3))
    with api.client() as client:
        messages = conversation(client, stream=True)
        for end in range(1, len(messages), 2):
            ask(client, *messages[:end], tools=[SEARCH], system="Be brief.")

    assert {call.status for call in api.calls} == {200}


def test_a_thread_is_continued_with_new_messages_only() -> None:
    api = ScriptedApi([Reply(content=[thinks("hm"), says("one")]), "two", "three"])

    def said(text: str, thread: Any) -> BetaMessage:
        return client.beta.messages.create(model=MODEL, max_tokens=5, messages=[user(text)], thread=thread)

    with api.client() as client:
        first = said("a", {"type": "create"})
        second = said("b", {"type": "continue", "previous_message_id": first.id})
        with pytest.raises(ThreadNotFoundError):
            said("b", {"type": "continue", "previous_message_id": "msg_unknown"})

    assert second.usage.input_tokens > 3 * first.usage.input_tokens / 2


# --- the prompt cache -------------------------------------------------------------------------------------------------

CACHE: dict[str, Any] = {"cache_control": {"type": "ephemeral"}}


def charged(message: Message) -> tuple[int, int, int]:
    usage = message.usage
    assert usage.cache_read_input_tokens is not None
    assert usage.cache_creation_input_tokens is not None
    return usage.cache_read_input_tokens, usage.cache_creation_input_tokens, usage.input_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_what_one_request_writes_the_next_reads(*, stream: bool) -> None:
    api = ScriptedApi(lambda *_: "answer")
    with api.client() as client:
        first = charged(ask(client, user("a" * 400), stream=stream, system="s" * 400, **CACHE))
        history = [user("a" * 400), {"role": "assistant", "content": "answer"}, user("b" * 40)]
        second = charged(ask(client, *history, stream=stream, system="s" * 400, **CACHE))
        third = charged(ask(client, *history, stream=stream, system="s" * 400, **CACHE))

    assert first[0] == first[2] == 0
    assert first[1] > 200
    assert second[0] == first[1]
    assert 0 < second[1] < 60
    assert third == (second[0] + second[1], 0, 0)


def test_a_change_in_the_prefix_is_a_cold_cache_from_there_on() -> None:
    marked = [{"type": "text", "text": "s" * 400, **CACHE}]
    api = ScriptedApi(lambda *_: "answer")
    with api.client() as client:
        written = charged(ask(client, user("a" * 400), system=marked, **CACHE))[1]
        other_message = charged(ask(client, user("b" * 400), system=marked, **CACHE))
        other_tools = charged(ask(client, user("a" * 400), system=marked, tools=[SEARCH], **CACHE))
        other_model = charged(ask(client, user("a" * 400), system=marked, model="claude-opus-5-5", **CACHE))
        other_effort = charged(ask(client, user("a" * 400), system=marked, thinking={"type": "adaptive"}, **CACHE))

    assert 100 < other_message[0] < written
    assert other_message[0] + other_message[1] == written
    assert other_tools[0] == 0
    assert other_model == (0, written, 0)
    assert other_effort[:2] == other_message[:2]


def test_without_cache_control_nothing_is_cached() -> None:
    api = ScriptedApi(lambda *_: "answer")
    with api.client() as client:
        assert [charged(ask(client, user("a" * 400)))[:2] for _ in range(2)] == [(0, 0), (0, 0)]


def test_what_follows_the_last_mark_is_charged_in_full() -> None:
    messages = [user([{"type": "text", "text": "a" * 400, **CACHE}, {"type": "text", "text": "b" * 400}])]
    with ScriptedApi(lambda *_: "answer").client() as client:
        read, written, rest = charged(ask(client, *messages))
        assert (read, written > 100, rest > 100) == (0, True, True)
        assert charged(ask(client, *messages)) == (written, 0, rest)


def test_the_lifetimes_are_told_apart_and_end() -> None:
    now = [1_000_000.0]
    hour = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    request: dict[str, Any] = {"system": [{"type": "text", "text": "s" * 400, **hour}], **CACHE}
    with ScriptedApi(lambda *_: "answer", clock=lambda: now[0]).client() as client:
        usage = ask(client, user("a" * 40), **request).usage
        assert usage.cache_creation is not None
        long, short = usage.cache_creation.ephemeral_1h_input_tokens, usage.cache_creation.ephemeral_5m_input_tokens
        assert long > 100 > short > 0
        for seconds, read in ((299, long + short), (299, long + short), (301, long), (3601, 0)):
            now[0] += seconds
            assert charged(ask(client, user("a" * 40), **request))[0] == read


def test_a_prefix_is_found_at_most_twenty_blocks_back() -> None:
    blocks = [{"type": "text", "text": f"block {number}"} for number in range(40)]
    for further, hit in ((19, True), (20, False)):
        with ScriptedApi(lambda *_: "answer").client() as client:
            written = charged(ask(client, user(blocks[:10]), **CACHE))[1]
            assert charged(ask(client, user(blocks[: 10 + further]), **CACHE))[0] == (written if hit else 0)


def test_short_prefixes_are_not_cached_where_the_api_has_a_minimum() -> None:
    with ScriptedApi(lambda *_: "answer", min_cache_tokens=1024).client() as client:
        assert charged(ask(client, user("short"), **CACHE))[:2] == (0, 0)
        assert charged(ask(client, user("long " * 1000), **CACHE))[1] > 1024


# --- the small model --------------------------------------------------------------------------------------------------


def test_the_model_says_the_same_to_the_same_history() -> None:
    model = tool_using_model(seed=3)
    body = {"messages": [user("hi")], "tools": [SEARCH, {"type": "bash_20250124", "name": "bash"}]}

    assert model(body, 1) == model(body, 99)
    assert model(body, 1) != tool_using_model(thinking=False)(body, 1)


def test_the_model_fills_in_what_a_schema_requires() -> None:
    schema = {
        "type": "object",
        "properties": {
            "unit": {"enum": ["c", "f"]},
            "days": {"type": "integer", "minimum": 3},
            "ratio": {"type": "number"},
            "deep": {"type": "object", "properties": {"on": {"type": "boolean"}}},
            "names": {"type": "array", "items": {"type": "string"}},
            "limit": {"default": 10},
            "optional": {"type": "string"},
        },
        "required": ["unit", "days", "ratio", "deep", "names", "limit"],
    }
    reply = tool_using_model()({"messages": [user("hi")], "tools": [{"name": "t", "input_schema": schema}]}, 1)
    block = reply.content[-1]

    assert isinstance(block, dict)
    found = block["input"]
    assert found.keys() == set(schema["required"])
    assert found["unit"] in ("c", "f")
    assert found["days"] >= 3
    assert isinstance(found["deep"]["on"], bool)
    assert isinstance(found["names"][0], str)
    assert found["limit"] == 10


def test_the_model_talks_where_there_are_no_tools() -> None:
    with ScriptedApi(tool_using_model(thinking=False)).client() as client:
        assert text_of(ask(client, user("hello"))) == "You said: hello"


# --- as a process -----------------------------------------------------------------------------------------------------


@contextmanager
def served_elsewhere(directory: Path, script: Path) -> Iterator[str]:
    ports, record = directory / "port", directory / "calls"
    command = [sys.executable, "-W", "error", "-m", "session.testing.api", "--script", str(script)]
    with subprocess.Popen([*command, "--port-file", str(ports), "--calls-file", str(record)]) as process:
        try:
            while not ports.exists():
                assert process.poll() is None, "the server did not start"
                os.sched_yield()
            yield f"http://127.0.0.1:{ports.read_text()}"
        finally:
            process.send_signal(signal.SIGTERM)
    assert process.returncode == 0


def test_a_server_process_answers_and_writes_down_its_calls(tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    script.write_text('[{"step": "reply", "content": "hello"}, {"step": "failure", "status": 400}]')
    with served_elsewhere(tmp_path, script) as url:
        transport = httpx2.HTTPTransport(verify=False)
        http = anthropic.DefaultHttpxClient(transport=transport, trust_env=False)
        with anthropic.Anthropic(api_key="k", base_url=url, http_client=http, max_retries=0) as client:
            assert text_of(ask(client, stream=True)) == "hello"
            with pytest.raises(anthropic.BadRequestError):
                ask(client)

    first, second = map(json.loads, (tmp_path / "calls").read_text().splitlines())
    assert (first["status"], first["accepted"], json.loads(first["body"])["stream"]) == (200, True, True)
    assert (second["status"], second["error"], second["number"]) == (400, "Error", 2)


def test_a_script_file_may_be_a_program(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text("def script(body, number):\n    return f'call {number}'\n")
    with ScriptedApi(load_script(path)).client() as client:
        assert text_of(ask(client)) == "call 1"


def test_a_script_file_with_a_mistake_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "script.json"
    path.write_text('[{"step": "reply", "contents": "typo"}]')
    with pytest.raises(msgspec.ValidationError, match="contents"):
        load_script(path)


def test_the_package_imports_neither_the_sdk_nor_its_http_client() -> None:
    program = (
        "import sys, session, session.testing, session.testing.api; "
        "sys.exit(bool({'anthropic', 'httpx2'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-W", "error", "-c", program], check=False).returncode == 0


def test_the_objects_say_what_they_are() -> None:
    api = ScriptedApi(["x"])
    with api.serve() as server, api.client() as client:
        ask(client)
        assert repr(api) == "<ScriptedApi: 1 calls, 1 accepted>"
        assert repr(server) == f"<LoopbackServer: {server.base_url}>"
