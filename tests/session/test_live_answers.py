"""What an API may answer: every way to stop, odd streams, odd counters, refusals that somebody mends on the way."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest

from session.errors import ResponseCutError
from session.events import ResponseInterrupted, UsageRecorded
from session.live import Stop, create_session, resume_session
from session.testing import Cut, Exact, Failure, Reply, ScriptedApi, StreamError, calls, says, thinks
from tests.session.live_kit import MODEL, add, events_of, in_loop, in_memory, kinds, shown, streamed, talk

RAN = ["tool_use", "message", "tool_result", "message", "stop"]


@pytest.mark.parametrize(
    ("stop_reason", "content", "received"),
    [
        ("end_turn", [], ["message", "stop"]),
        ("end_turn", [says("  \n")], ["message", "stop"]),
        ("end_turn", [thinks("Only that.")], ["message", "stop"]),
        ("end_turn", [says("One."), calls("add", {"a": 1, "b": 2})], ["tool_use", "message", "stop"]),
        ("tool_use", [], ["message", "stop"]),
        ("tool_use", [says(""), calls("add", {"a": 1, "b": 2})], RAN),
        ("max_tokens", [thinks("Half")], ["message", "stop"]),
        ("stop_sequence", [says("One.")], ["message", "stop"]),
        ("model_context_window_exceeded", [says("One.")], ["message", "stop"]),
        ("refusal", [says("No."), calls("add", {"a": 1, "b": 2})], ["tool_use", "message", "stop"]),
        ("compaction", [{"type": "compaction", "content": "So far."}], ["message", "message", "stop"]),
        ("pause_turn", [says("Searching.")], ["message", "message", "stop"]),
        # A call of ours has to be answered before the server can go on.
        ("pause_turn", [calls("add", {"a": 1, "b": 2})], RAN),
        ("of_the_future", [says("One.")], ["message", "stop"]),
    ],
)  # fmt: skip
@in_loop
async def test_however_a_response_stops_the_session_goes_on(
    stop_reason: str, content: list[Any], received: list[str]
) -> None:
    model = "claude-sonnet-4-5" if content == [says("Searching.")] else MODEL  # which takes a prefill
    api = ScriptedApi([Reply(content=content, stop_reason=stop_reason), "Two.", "Three.", "Four."])
    storage = in_memory()
    async with api.async_client() as client:
        chat = await create_session(
            model=model, tools=[add], session_storage=storage, client=client, parameters={"cache_control": None}
        )
        assert kinds(await talk(chat, "Go")) == received
        await talk(chat, "More")
        await talk(await resume_session(chat.id, tools=[add], session_storage=storage, client=client), "On")
    assert [call.error for call in api.calls] == [None] * len(api.calls)


@pytest.mark.parametrize(
    "answer",
    [
        Exact(body=b'{"id":"m","type":"message","role":"assistant","content":[]}', content_type="application/json"),
        Exact(body=b"<html>A proxy's page</html>", content_type="text/html"),
        Exact(body=b""),
        Exact(body=b"", status=204),
        Exact(body=b"data: [DONE]\n\n"),
        Exact(body=b"data: 5\n\n"),
        Exact(body=b"\xff\xfe\n\n"),
        Exact(body=b"event: error\ndata: no JSON\n\n"),
        Exact(body=b'event: error\ndata: {"type":"error","error":"no object"}\n\n'),
        Exact(body=b"\xff\xfe", status=500),
    ],
)
@in_loop
async def test_what_is_no_answer_is_an_error_and_the_message_is_kept(answer: Exact) -> None:
    api, storage = ScriptedApi([answer, "Two."]), in_memory()
    async with (
        api.async_client() as client,
        create_session(model=MODEL, session_storage=storage, client=client) as chat,
    ):
        with pytest.raises((ResponseCutError, anthropic.APIStatusError)):
            await talk(chat, "Go")
        assert isinstance((await events_of(storage, chat.id))[-1], ResponseInterrupted)
        assert shown(await talk(chat)) == "Two."


# --- usage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "usage",
    [
        "null", "[]", '"x"', '{"input_tokens":"5","output_tokens":null}', '{"input_tokens":-1,"output_tokens":1.5}',
        '{"input_tokens":1e400}', '{"input_tokens":true}', '{"input_tokens":' + "9" * 400 + "}",
        '{"input_tokens":' + "9" * 5_000 + "}", '{"deep":' + "[" * 3_000 + "]" * 3_000 + "}",
        '{"cache_creation":[],"server_tool_use":5,"service_tier":{"a":1}}',
        '{"iterations":[1,null,{"input_tokens":[]}]}',
    ],
)  # fmt: skip
@in_loop
async def test_a_message_is_kept_whatever_its_counters_are(usage: str) -> None:
    """And whatever fields it lacks: this one has nothing but the content and them."""
    api, storage = ScriptedApi([streamed('{"type":"text","text":"One."}', usage=usage), "Two."]), in_memory()
    async with api.async_client() as client:
        chat = await create_session(model=MODEL, session_storage=storage, client=client)
        assert shown(await talk(chat, "Go")) == "One."
        again = await resume_session(chat.id, session_storage=storage, client=client)
        assert shown(await talk(again, "More")) == "Two."
        recorded = [event.usage for event in await events_of(storage, chat.id) if isinstance(event, UsageRecorded)]
        assert recorded[0] == (usage.encode() if usage.startswith("{") else b"{}")


@pytest.mark.parametrize("way", [Cut(after_events=5), StreamError(after_events=5), None])
@in_loop
async def test_what_the_api_charged_for_a_response_that_did_not_complete_is_recorded(way: Any) -> None:
    options = {"cut": way} if isinstance(way, Cut) else {"error": way}
    api, storage = ScriptedApi([Reply(content="One, two, three and four.", delta_chars=4, **options)]), in_memory()
    async with api.async_client() as client:
        chat = await create_session(model=MODEL, session_storage=storage, client=client)
        await chat.send("Go")
        if way is None:
            async for _ in chat.receive():
                break
        else:
            with pytest.raises((ResponseCutError, anthropic.APIStatusError)):
                await talk(chat)
        await chat.close()
        usage, interrupted = [e for e in await events_of(storage, chat.id) if e.type != "block_received"][-3:-1]
        assert isinstance(usage, UsageRecorded)
        assert isinstance(interrupted, ResponseInterrupted)
        assert usage.request_id == interrupted.request_id
        assert chat.state.usage.cache_creation_input_tokens > 0
        assert chat.state.usage.cost_picodollars == usage.cost_picodollars != 0


# --- refusals ---------------------------------------------------------------------------------------------------------


@in_loop
async def test_a_refusal_that_a_middleware_mended_sets_nothing_aside() -> None:
    async def try_again(request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        return response if response.http_response.is_success else await call_next(request)

    api = ScriptedApi([Failure(status=400), Reply(content="One.", cut=Cut(after_events=3)), "Two."])
    async with (
        api.async_client(middleware=[try_again]) as client,
        create_session(model=MODEL, session_storage=in_memory(), client=client) as chat,
    ):
        with pytest.raises(ResponseCutError):
            await talk(chat, "Go")
        assert chat.state.messages == [{"role": "user", "content": "Go"}]
        parts = await talk(chat)
        assert shown(parts) == "Two."
        assert isinstance(parts[-1], Stop)
