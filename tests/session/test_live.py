"""One session, one process: what is durable when, what is received, and what gets an error."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import anthropic
import pytest

from session.errors import (
    AlreadyReceivingError,
    InvalidMessageError,
    InvalidMetadataError,
    InvalidPromptError,
    MessageSetAsideError,
    NoModelError,
    NothingToAnswerError,
    ResponseCutError,
    SessionClosedError,
    SessionExistsError,
    SessionNotFoundError,
)
from session.events import (
    BlockReceived,
    HistoryRewound,
    MessageAppended,
    RequestSent,
    ResponseInterrupted,
    ResponseReceived,
)
from session.live import Retried, Stop, create_session, fork_session, resume_session
from session.live._refusals import may_be_the_message
from session.places import HEAD
from session.state import Prompt, SessionState
from session.storage import EventSessionStorage, MemorySessionStorage
from session.testing import Cut, Delay, Failure, Reply, ScriptedApi, StreamError, calls, says, thinks
from tests.session.live_kit import MODEL, events_of, in_loop, in_memory, kinds, shown, talk, types_of

if TYPE_CHECKING:
    from pathlib import Path


# --- durability -------------------------------------------------------------------------------------------------------


@in_loop
async def test_a_message_is_in_the_log_when_send_returns(tmp_path: Path) -> None:
    async with (
        EventSessionStorage(tmp_path / "log") as storage,
        create_session(model=MODEL, session_storage=storage) as chat,
    ):
        await chat.send("Hello")
        stored = await storage.state_at(chat.id, HEAD)
        assert stored.messages == [{"role": "user", "content": "Hello"}]
        assert stored == chat.state


@in_loop
async def test_a_turn_is_these_events_in_this_order() -> None:
    api, storage = ScriptedApi([Reply(content=[thinks("Hm."), says("Hi.")])]), in_memory()
    async with (
        api.async_client() as client,
        create_session(model=MODEL, session_storage=storage, client=client) as chat,
    ):
        await talk(chat, "Hello")
        assert await types_of(storage, chat.id) == [
            "session_created",
            "prompt_changed",
            "message_appended",
            "request_sent",
            "block_received",
            "block_received",
            "usage_recorded",
            "response_received",
        ]


@in_loop
async def test_the_usage_is_in_the_commit_of_its_response_and_before_it() -> None:
    log_storage = in_memory()
    api = ScriptedApi(["Hi."])
    async with (
        api.async_client() as client,
        create_session(model=MODEL, session_storage=log_storage, client=client) as chat,
    ):
        await talk(chat, "Hello")
        stored = [event async for event in log_storage.events(chat.id)]
        usage, response = stored[-2:]
        assert (usage.type, response.type) == ("usage_recorded", "response_received")
        assert usage.recorded_at == response.recorded_at
        message_id = chat.state.landmarks[-1].message_id
        assert (await log_storage.state_at(chat.id, message_id)).usage == chat.state.usage != type(chat.state.usage)()


@in_loop
async def test_what_is_received_is_durable_when_it_is_seen() -> None:
    api, storage = ScriptedApi([Reply(content=[says("One."), calls("nothing", {}, "toolu_1")]), "Two."]), in_memory()
    async with (
        api.async_client() as client,
        create_session(model=MODEL, session_storage=storage, client=client) as chat,
    ):
        await chat.send("Go")
        async for part in chat.receive():
            stored = await storage.state_at(chat.id, chat.state.version)
            match part.type:
                case "tool_use":
                    assert stored.messages[-1]["content"][-1]["id"] == part.id
                case "message":
                    assert stored.messages[-1] == part.message
                case "tool_result":
                    assert stored.messages[-1]["content"][0]["tool_use_id"] == part.tool_use_id
                case "stop":
                    assert stored.version == part.version
                    assert stored.pending is None


@in_loop
async def test_a_finished_block_is_in_the_log_before_the_response_ends() -> None:
    reply = Reply(content=[says("One."), says("Two.")], delay=Delay(hold_after_events=7))
    api, storage = ScriptedApi([reply]), in_memory()
    async with (
        api.async_client() as client,
        create_session(model=MODEL, session_storage=storage, client=client) as chat,
    ):
        await chat.send("Go")
        async for part in chat.receive():
            if part.type == "text" and part.text == "Two.":
                blocks = [event for event in await events_of(storage, chat.id) if isinstance(event, BlockReceived)]
                assert [json.loads(block.block) for block in blocks] == [says("One.")]
                assert chat.state.status == "running"
                api.release()


@in_loop
async def test_the_stop_says_why_what_it_cost_and_where() -> None:
    api = ScriptedApi([Reply(content="Hi.", stop_reason="max_tokens", usage={"output_tokens": 7})])
    async with (
        api.async_client() as client,
        create_session(model=MODEL, session_storage=in_memory(), client=client) as c,
    ):
        parts = await talk(c, "Hello")
        stop = parts[-1]
        assert isinstance(stop, Stop)
        assert (stop.stop_reason, stop.usage.output_tokens, stop.version) == ("max_tokens", 7, c.state.version)
        assert stop.usage == c.state.usage


# --- requests ---------------------------------------------------------------------------------------------------------


@in_loop
async def test_every_request_begins_byte_for_byte_with_the_one_before() -> None:
    api = ScriptedApi(["One.", "Two.", "Three."])
    async with (
        api.async_client() as client,
        create_session(model=MODEL, system="Be brief.", session_storage=in_memory(), client=client) as chat,
    ):
        for number in range(3):
            await talk(chat, f"Ask {number}")
    first, second, third = (call.body for call in api.calls)
    assert second.startswith(first.removesuffix(b"]}"))
    assert third.startswith(second.removesuffix(b"]}"))


@in_loop
async def test_prompt_caching_is_on_by_default_and_read_by_the_second_request() -> None:
    api = ScriptedApi(["One.", "Two."])
    async with (
        api.async_client() as client,
        create_session(model=MODEL, session_storage=in_memory(), client=client) as c,
    ):
        await talk(c, "Hello")
        parts = await talk(c, "More")
        assert isinstance(parts[-1], Stop)
        assert parts[-1].usage.cache_read_input_tokens > 0
    assert all(call.json["cache_control"] == {"type": "ephemeral"} for call in api.calls)


@in_loop
async def test_prompt_caching_can_be_turned_off() -> None:
    api = ScriptedApi(["One."])
    async with (
        api.async_client() as client,
        create_session(
            model=MODEL,
            session_storage=in_memory(),
            client=client,
            parameters={"cache_control": None, "temperature": 1.0},
        ) as chat,
    ):
        await talk(chat, "Hello")
    assert "cache_control" not in api.calls[0].json
    assert b'"temperature":1.0' in api.calls[0].body


@in_loop
async def test_nothing_of_ours_enters_a_request() -> None:
    api = ScriptedApi(["One."])
    async with (
        api.async_client() as client,
        create_session(
            model=MODEL, max_tokens=50, session_storage=in_memory(), client=client, metadata={"title": "secret"}
        ) as chat,
    ):
        await talk(chat, "Hello")
    assert api.calls[0].json == {
        "model": MODEL,
        "max_tokens": 50,
        "cache_control": {"type": "ephemeral"},
        "stream": True,
        "messages": [{"role": "user", "content": "Hello"}],
    }


# --- how a turn goes --------------------------------------------------------------------------------------------------


@in_loop
async def test_a_paused_turn_goes_on_unchanged() -> None:
    search = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}}
    found = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}
    tools = [{"type": "web_search_20250305", "name": "web_search"}]
    api = ScriptedApi([Reply(content=[search], stop_reason="pause_turn"), Reply(content=[found, says("Done.")])])
    async with (
        api.async_client() as client,
        create_session(model=MODEL, tools=tools, session_storage=in_memory(), client=client) as chat,
    ):
        parts = await talk(chat, "Search")
        assert kinds(parts) == ["message", "message", "stop"]
        assert [message["role"] for message in chat.state.messages] == ["user", "assistant", "assistant"]
    first, second = api.calls
    assert second.json["messages"] == [*first.json["messages"], {"role": "assistant", "content": [search]}]


@in_loop
async def test_a_session_that_paused_goes_on_when_it_is_resumed() -> None:
    search = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}}
    tools = [{"type": "web_search_20250305", "name": "web_search"}]
    storage = in_memory()
    api = ScriptedApi([Reply(content=[search], stop_reason="pause_turn"), "Done."])
    async with api.async_client() as client:
        chat = await create_session(model=MODEL, tools=tools, session_storage=storage, client=client, max_turns=1)
        assert kinds(await talk(chat, "Search")) == ["message", "stop"]
        again = await resume_session(chat.id, session_storage=storage, client=client)
        assert again.pending is not None
        assert again.pending.kind == "pause_turn"
        await talk(again)
    assert api.calls[1].json["messages"][-1] == {"role": "assistant", "content": [search]}


@in_loop
async def test_a_refused_turn_stays_out_of_the_next_request() -> None:
    api = ScriptedApi([Reply(content="I will not.", stop_reason="refusal"), "Hi."])
    async with (
        api.async_client() as client,
        create_session(model=MODEL, session_storage=in_memory(), client=client) as c,
    ):
        parts = await talk(c, "Something bad")
        assert isinstance(parts[-1], Stop)
        assert parts[-1].stop_reason == "refusal"
        assert c.pending is None
        await talk(c, "Hello")
    assert api.calls[1].json["messages"] == [{"role": "user", "content": "Hello"}]


@in_loop
async def test_a_turn_ends_after_max_turns_answers_and_can_go_on() -> None:
    ask = Reply(content=[calls("nothing", {})])
    api = ScriptedApi([ask, ask, "Done."])
    async with (
        api.async_client() as client,
        create_session(model=MODEL, session_storage=in_memory(), client=client, max_turns=2) as chat,
    ):
        parts = await talk(chat, "Go")
        assert kinds(parts) == [*["tool_use", "message", "tool_result"] * 2, "stop"]
        assert isinstance(parts[-1], Stop)
        assert parts[-1].stop_reason == "max_turns"
        assert shown(await talk(chat)) == "Done."


@in_loop
async def test_a_message_of_blocks_and_one_of_bytes_are_sent_as_they_are() -> None:
    api, exact = ScriptedApi(["One.", "Two."]), b'{ "role":"user", "content":"1.10" }'
    async with (
        api.async_client() as client,
        create_session(model=MODEL, session_storage=in_memory(), client=client) as c,
    ):
        await talk(c, [says("A"), {"type": "from_the_future", "value": 1}])
        await talk(c, exact)
    assert api.calls[0].json["messages"][0]["content"] == [says("A"), {"type": "from_the_future", "value": 1}]
    assert exact in api.calls[1].body


# --- failures ---------------------------------------------------------------------------------------------------------


@in_loop
async def test_a_cut_stream_is_recorded_raises_and_is_asked_again() -> None:
    reply = Reply(content=[says("One."), says("Two is longer.")], cut=Cut(after_events=7))
    api, storage = ScriptedApi([reply, "Whole."]), in_memory()
    async with (
        api.async_client() as client,
        create_session(model=MODEL, session_storage=storage, client=client) as chat,
    ):
        await chat.send("Go")
        with pytest.raises(ResponseCutError, match="asks again"):
            await talk(chat)
        interrupted = (await events_of(storage, chat.id))[-1]
        assert isinstance(interrupted, ResponseInterrupted)
        assert interrupted.reason == "cut"
        assert json.loads(interrupted.partial) == [says("Two is longer.")]
        assert chat.pending is not None
        assert chat.pending.kind == "cut_response"
        assert shown(await talk(chat)) == "Whole."
        assert chat.state.messages[-1]["content"] == [says("Whole.")]
    assert api.calls[0].body == api.calls[1].body


@pytest.mark.parametrize("how", ["end", "close", "reset"])
@in_loop
async def test_a_stream_cut_anywhere_leaves_a_session_that_goes_on(how: Any) -> None:
    content: list[Any] = [thinks("Hm."), says("One."), calls("nothing", {"a": 1}, "toolu_1")]
    api = ScriptedApi(lambda _, number: Reply(content=content, cut=Cut(after_events=number, how=how)))
    async with (
        api.async_client() as client,
        create_session(model=MODEL, session_storage=in_memory(), client=client) as c,
    ):
        await c.send("Go")
        for _ in range(14):
            with pytest.raises(ResponseCutError):
                await talk(c)
            assert c.state.messages == [{"role": "user", "content": "Go"}]
            assert c.state.status == "waiting"


@in_loop
async def test_an_error_in_the_stream_is_recorded_and_raised_as_the_sdk_does() -> None:
    api, storage = ScriptedApi([Reply(content="One.", error=StreamError()), "Two."]), in_memory()
    async with (
        api.async_client() as client,
        create_session(model=MODEL, session_storage=storage, client=client) as chat,
    ):
        with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
            await talk(chat, "Go")
        interrupted = (await events_of(storage, chat.id))[-1]
        assert isinstance(interrupted, ResponseInterrupted)
        assert interrupted.reason == "error"
        assert json.loads(interrupted.error)["error"]["type"] == "overloaded_error"
        assert shown(await talk(chat)) == "Two."


@in_loop
async def test_a_retried_attempt_is_recorded_and_shown() -> None:
    api, storage = ScriptedApi([Failure(status=529), Failure(status=429), "Hi."]), in_memory()
    async with (
        api.async_client(max_retries=2) as client,
        create_session(model=MODEL, session_storage=storage, client=client) as chat,
    ):
        parts = await talk(chat, "Hello")
        retried = [part for part in parts if isinstance(part, Retried)]
        assert [(part.type, part.status, part.attempt) for part in retried] == [("error", 529, 1), ("error", 429, 2)]
        assert retried[0].message == "Overloaded"
        events = await events_of(storage, chat.id)
        sent = [event for event in events if isinstance(event, RequestSent)]
        failed = [event for event in events if isinstance(event, ResponseInterrupted)]
        assert [event.attempt for event in sent] == [1, 2, 3]
        assert len({event.request_id for event in sent} | {event.request_id for event in failed}) == 1
        assert [event.status for event in failed] == [529, 429]


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (Failure(status=500), anthropic.InternalServerError),
        (Failure(status=529), anthropic.APIStatusError),
        (Failure(status=401), anthropic.AuthenticationError),
        (Failure(status=403), anthropic.PermissionDeniedError),
        (Failure(status=404), anthropic.NotFoundError),
        (Cut(how="close"), anthropic.APIConnectionError),
        (Cut(how="reset"), anthropic.APIConnectionError),
    ],
)
@in_loop
async def test_a_failure_keeps_the_message_and_the_session(step: Any, error: type[Exception]) -> None:
    api, storage = ScriptedApi([step, "Hi."]), in_memory()
    async with api.async_client() as client:
        chat = await create_session(model=MODEL, session_storage=storage, client=client)
        with pytest.raises(error):
            await talk(chat, "Hello")
        assert (await types_of(storage, chat.id))[-1] == "response_interrupted"
        again = await resume_session(chat.id, session_storage=storage, client=client)
        assert again.state.messages == [{"role": "user", "content": "Hello"}]
        assert shown(await talk(again)) == "Hi."


@in_loop
async def test_without_an_api_key_receive_raises_and_the_message_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/nonexistent")
    storage, api = in_memory(), ScriptedApi(["Hi."])
    async with create_session(model=MODEL, session_storage=storage) as chat:
        await chat.send("Hello")
        with pytest.raises((anthropic.AnthropicError, TypeError)):
            await talk(chat)
        assert chat.state.messages == [{"role": "user", "content": "Hello"}]
    async with api.async_client() as client, resume_session(chat.id, session_storage=storage, client=client) as again:
        assert shown(await talk(again)) == "Hi."


@pytest.mark.parametrize("status", [400, 413])
@in_loop
async def test_a_message_that_the_api_refuses_is_set_aside_and_the_error_says_so(status: int) -> None:
    api, storage = ScriptedApi(["One.", Failure(status=status, message="No such image."), "Two."]), in_memory()
    async with (
        api.async_client() as client,
        create_session(model=MODEL, session_storage=storage, client=client) as chat,
    ):
        await talk(chat, "Hello")
        before = chat.state.messages
        with pytest.raises(MessageSetAsideError, match=r"refused the request.*No such image.*was set aside") as caught:
            await talk(chat, "Look at this")
        assert caught.value.status == status
        assert isinstance(caught.value.__cause__, anthropic.APIStatusError)
        assert chat.state.messages == before
        assert chat.pending is None
        events = await events_of(storage, chat.id)
        assert isinstance(events[-1], HistoryRewound)
        assert any(isinstance(event, MessageAppended) and b"Look at this" in event.message.raw for event in events)
        assert shown(await talk(chat, "Then not")) == "Two."
    assert [message["content"] for message in api.calls[2].json["messages"] if message["role"] == "user"] == [
        "Hello",
        "Then not",
    ]


NOT_THE_MESSAGE = (
    "max_tokens: 99999 > 64000, which is the maximum allowed number of output tokens for claude-sonnet-5-5",
    "`max_tokens` must be greater than `thinking.budget_tokens`",
    "`temperature` may only be set to 1 when thinking is enabled.",
    "tools.0.custom.input_schema: Field required",
    "tools: Tool names must be unique.",
    "tool_choice may only be specified while providing tools.",
    "Thinking may not be enabled when tool_choice forces tool use.",
    "system: text content blocks must be non-empty",
    "system.0.text: Field required",
    "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024",
    "model: String should have at least 1 character",
    "metadata.user_id: user_id appears to contain an email address",
    "cache_control.ttl: Input should be '5m' or '1h'",
    "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing.",
    "You have reached your specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC.",
    "This organization has been disabled.",
    "Unexpected value(s) `new-2026` for the `anthropic-beta` header.",
)
PERHAPS_THE_MESSAGE = (
    "messages.3.content.0.text: Input should be a valid string",
    "messages: text content blocks must be non-empty",
    "messages.0: use the top-level 'system' parameter for the initial system prompt",
    "messages.1.content.0.image.source.base64: model does not take `system` images of this temperature",
    "prompt is too long: 211180 tokens > 200000 maximum",
    "input length and `max_tokens` exceed context limit: 178959 + 64000 > 200000, decrease input length",
    "Could not process image",
    "Output blocked by content filtering policy",
    "This model does not support the tools that thinking systems are told of",
    "A maximum of 4 blocks with cache_control may be provided. Found 5.",
    "The request body is not valid JSON",
    "",
)


@pytest.mark.parametrize(
    ("text", "perhaps"), [*((text, False) for text in NOT_THE_MESSAGE), *((text, True) for text in PERHAPS_THE_MESSAGE)]
)
def test_a_message_is_blamed_unless_the_api_names_something_else(text: str, perhaps: bool) -> None:
    body = json.dumps({"type": "error", "error": {"type": "invalid_request_error", "message": text}}).encode()
    assert may_be_the_message(400, body) is perhaps
    assert may_be_the_message(422, body) is perhaps
    assert may_be_the_message(413, body)
    assert not may_be_the_message(401, body)
    assert not may_be_the_message(400, body.replace(b"invalid_request_error", b"billing_error"))


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error": 5}', b'{"message": "no"}', b"\xff"])
def test_an_answer_in_another_form_blames_the_message(body: bytes) -> None:
    assert may_be_the_message(400, body)


@in_loop
async def test_a_message_is_kept_if_the_api_blames_something_else() -> None:
    api, storage = ScriptedApi([Failure(status=400, message=NOT_THE_MESSAGE[-4]), "Now."]), in_memory()
    async with (
        api.async_client() as client,
        create_session(model=MODEL, session_storage=storage, client=client) as chat,
    ):
        with pytest.raises(anthropic.BadRequestError, match="credit balance"):
            await talk(chat, "A precious question")
        assert chat.state.messages == [{"role": "user", "content": "A precious question"}]
        assert chat.pending is not None
        assert shown(await talk(chat)) == "Now."


@in_loop
async def test_results_of_tools_are_never_set_aside() -> None:
    api = ScriptedApi([Reply(content=[calls("nothing", {})]), Failure(status=400), "Two."])
    async with (
        api.async_client() as client,
        create_session(model=MODEL, session_storage=in_memory(), client=client) as c,
    ):
        with pytest.raises(anthropic.BadRequestError):
            await talk(c, "Hello")
        assert len(c.state.messages) == 3
        assert shown(await talk(c)) == "Two."


# --- what send refuses ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        "",
        "  \n",
        [],
        {"role": "assistant", "content": "Hi"},
        {"role": "robot", "content": "Hi"},
        {"content": "Hi"},
        {"role": "user"},
        {"role": "user", "content": 7},
        {"role": "user", "content": []},
        {"role": "user", "content": [{"text": "no type"}]},
        {"role": "user", "content": [{"type": 7}]},
        {"role": "user", "content": ["text"]},
        {"role": "user", "content": [{"type": "text"}]},
        {"role": "user", "content": [{"type": "text", "text": ""}]},
        {"role": "user", "content": [{"type": "image", "source": "x"}]},
        {"role": "user", "content": [calls("add", {}, "toolu_1")]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_unknown", "content": "x"}]},
        {"role": "user", "content": "x", "stop_reason": "end_turn"},
        {"role": "user", "content": [{"type": "text", "text": "x", "weight": float("nan")}]},
        b"[1]",
        b"{",
        b'{"role":"user","content":"\xff"}',
        b'{"role":"user","content":NaN}',
        7,
        None,
        {"role": "user", "content": {1, 2}},
        "x" * (32 * 2**20),
    ],
    ids=lambda message: repr(message)[:40],
)
@in_loop
async def test_what_no_api_version_could_take_is_refused_before_it_is_stored(message: Any) -> None:
    storage = in_memory()
    async with create_session(model=MODEL, session_storage=storage) as chat:
        with pytest.raises(InvalidMessageError, match="nothing was written"):
            await chat.send(message)
        assert await types_of(storage, chat.id) == ["session_created", "prompt_changed"]


# --- errors of use ----------------------------------------------------------------------------------------------------


@in_loop
async def test_a_closed_session_says_so() -> None:
    chat = await create_session(model=MODEL, session_storage=in_memory())
    await chat.close()
    await chat.close()
    for use in (lambda: chat.send("x"), lambda: talk(chat), lambda: chat.rewind(1)):
        with pytest.raises(SessionClosedError, match="is closed"):
            await use()
    with pytest.raises(SessionClosedError):
        chat.fork()
    assert chat.state.messages == []


@in_loop
async def test_nothing_to_answer_says_so_and_sends_nothing() -> None:
    api = ScriptedApi(["Hi."])
    async with (
        api.async_client() as client,
        create_session(model=MODEL, session_storage=in_memory(), client=client) as c,
    ):
        with pytest.raises(NothingToAnswerError, match="nothing to answer"):
            await talk(c)
        await talk(c, "Hello")
        with pytest.raises(NothingToAnswerError):
            await talk(c)
    assert len(api.calls) == 1


@pytest.mark.parametrize("before", ["Hello", None])
@pytest.mark.parametrize("system", [{"content": "Be brief."}, {"content": [], "output_config": {"effort": "low"}}])
@in_loop
async def test_what_the_system_says_alone_asks_for_no_answer(system: dict[str, Any], before: str | None) -> None:
    api, storage = ScriptedApi(["One."] * (before is not None) + ["Two."]), in_memory()
    async with (
        api.async_client() as client,
        create_session(model=MODEL, session_storage=storage, client=client) as chat,
    ):
        if before is not None:
            await talk(chat, before)
        await chat.send({"role": "system", **system})
        sent, version = len(api.calls), chat.state.version
        with pytest.raises(NothingToAnswerError):
            await talk(chat)
        assert (len(api.calls), chat.state.version) == (sent, version)
        assert shown(await talk(chat, "And now?")) == "Two."
        assert any(message["role"] == "system" for message in api.calls[-1].json["messages"])


@in_loop
async def test_what_the_system_says_behind_the_user_is_answered() -> None:
    api = ScriptedApi(["One."])
    async with (
        api.async_client() as client,
        create_session(model=MODEL, session_storage=in_memory(), client=client) as chat,
    ):
        await chat.send("Hello")
        await chat.send({"role": "system", "content": "Be brief."})
        assert shown(await talk(chat)) == "One."


@in_loop
async def test_a_second_receive_and_a_send_meanwhile_are_refused_and_disturb_nothing() -> None:
    api, storage = ScriptedApi(["Hello there, how are you today?"]), in_memory()
    async with (
        api.async_client() as client,
        create_session(model=MODEL, session_storage=storage, client=client) as chat,
    ):
        await chat.send("Hello")
        parts = []
        async for part in chat.receive():
            parts.append(part)
            for use in (lambda: talk(chat), lambda: chat.send("x"), lambda: chat.rewind(0)):
                with pytest.raises(AlreadyReceivingError, match="nothing was done"):
                    await use()
        assert shown(parts) == "Hello there, how are you today?"
        assert len(chat.state.messages) == 2


@in_loop
async def test_close_is_refused_while_another_task_receives() -> None:
    api = ScriptedApi([Reply(content="Hello.", delay=Delay(hold_after_events=1))])
    async with api.async_client() as client:
        chat = await create_session(model=MODEL, session_storage=in_memory(), client=client)
        await chat.send("Hello")
        receiving = asyncio.ensure_future(talk(chat))
        while not api.calls:  # noqa: ASYNC110 - until the other task waits for the rest of the answer
            await asyncio.sleep(0)
        with pytest.raises(AlreadyReceivingError):
            await chat.close()
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving
        await chat.close()


@in_loop
async def test_an_answer_left_by_break_is_recorded_as_cancelled_and_asked_again() -> None:
    api, storage = ScriptedApi(["A rather long answer, in several pieces.", "Two."]), in_memory()
    async with (
        api.async_client() as client,
        create_session(model=MODEL, session_storage=storage, client=client) as chat,
    ):
        await chat.send("Hello")
        async for _ in chat.receive():
            break
        assert shown(await talk(chat, "More")) == "Two."
        interrupted = [event for event in await events_of(storage, chat.id) if isinstance(event, ResponseInterrupted)]
        assert [event.reason for event in interrupted] == ["cancelled"]
        assert json.loads(interrupted[0].partial) == [says("A rather long answer, in"[:24])]
    assert [message["content"] for message in api.calls[1].json["messages"]] == ["Hello", "More"]


@in_loop
async def test_an_answer_that_is_left_when_the_session_is_closed_is_recorded_as_cancelled() -> None:
    api, storage = ScriptedApi(["A rather long answer, in several pieces."]), in_memory()
    async with api.async_client() as client:
        async with create_session(model=MODEL, session_storage=storage, client=client) as chat:
            await chat.send("Hello")
            receiving = chat.receive()
            await anext(receiving)
        assert (await types_of(storage, chat.id))[-2:] == ["response_interrupted", "session_closed"]
        with pytest.raises(SessionClosedError):
            await anext(receiving)


@in_loop
async def test_an_answer_can_be_left_with_aclose() -> None:
    api, storage = ScriptedApi(["A rather long answer, in several pieces.", "Two."]), in_memory()
    async with (
        api.async_client() as client,
        create_session(model=MODEL, session_storage=storage, client=client) as chat,
    ):
        await chat.send("Hello")
        async with contextlib.aclosing(chat.receive()) as receiving:
            await anext(receiving)
        assert (await types_of(storage, chat.id))[-1] == "response_interrupted"
        assert [part async for part in receiving] == []
        assert shown(await talk(chat)) == "Two."


# --- opening and closing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"resume": "a", "fork": "b"},
        {"resume": "a", "session_id": "b"},
        {"at": 3},
        {"resume": "a", "at": 3},
        {"max_turns": 0},
        {"parameters": {"messages": []}},
    ],
    ids=str,
)
@in_loop
async def test_options_that_exclude_each_other_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        await create_session(model=MODEL, session_storage=in_memory(), **options)


@in_loop
async def test_an_unknown_option_and_a_synchronous_client_are_refused() -> None:
    with pytest.raises(TypeError, match="no such option: modle"):
        create_session(modle=MODEL)  # type: ignore[call-arg]
    with ScriptedApi([]).client() as client, pytest.raises(TypeError, match="async client"):
        create_session(model=MODEL, client=client)  # type: ignore[arg-type]


@in_loop
async def test_a_session_needs_a_model_and_an_id_that_is_free() -> None:
    storage = in_memory()
    with pytest.raises(NoModelError, match="model="):
        await create_session(session_storage=storage)
    assert await storage.list() == []
    for kind in (storage, MemorySessionStorage()):
        await create_session(model=MODEL, session_id="mine", session_storage=kind)
        with pytest.raises(SessionExistsError):
            await create_session(model=MODEL, session_id="mine", session_storage=kind)


@in_loop
async def test_a_missing_session_says_which() -> None:
    for storage in (in_memory(), MemorySessionStorage()):
        for opening in (resume_session("gone", session_storage=storage), fork_session("gone", session_storage=storage)):
            with pytest.raises(SessionNotFoundError, match=r"^Session not found: gone$"):
                await opening
        with pytest.raises(SessionNotFoundError):
            await create_session(resume="gone", session_storage=storage)


@in_loop
async def test_close_leaves_the_storage_and_a_given_client_open_and_is_an_event() -> None:
    api, storage = ScriptedApi(["Hi.", "Again."]), in_memory()
    async with api.async_client() as client:
        async with create_session(model=MODEL, session_storage=storage, client=client) as chat:
            await talk(chat, "Hello")
        assert (await types_of(storage, chat.id))[-1] == "session_closed"
        assert (await storage.state_at(chat.id, HEAD)).status == "closed"
        async with resume_session(chat.id, session_storage=storage, client=client) as again:
            await talk(again, "More")
            assert again.state.status == "idle"


@in_loop
async def test_looking_at_a_session_leaves_no_trace() -> None:
    storage = in_memory()
    async with create_session(model=MODEL, session_storage=storage) as chat:
        await chat.send("Hello")
    before = await types_of(storage, chat.id)
    async with resume_session(chat.id, session_storage=storage) as again:
        assert again.pending is not None
    assert await types_of(storage, chat.id) == before


@in_loop
async def test_metadata_is_kept_and_added_to() -> None:
    storage = in_memory()
    async with create_session(model=MODEL, session_storage=storage, metadata={"title": "A", "n": 1}) as chat:
        assert chat.state.metadata == {"title": "A", "n": 1}
    async with resume_session(chat.id, session_storage=storage, metadata={"n": 2}) as again:
        assert again.state.metadata == {"title": "A", "n": 2}


@pytest.mark.parametrize(
    ("part", "options"),
    [
        ("model", {"model": "claude-\ud800"}),
        ("system", {"system": "be \ud800 nice"}),
        ("system", {"system": [{"type": "text", "text": "\udfff"}]}),
        ("system", {"system": rb'"\ud83d"'}),
        ("tools", {"tools": [{"name": "x", "description": "\ud800", "input_schema": {"type": "object"}}]}),
        ("tools", {"tools": [{"name": "x", "input_schema": {"type": "object", "default": float("inf")}}]}),
        ("parameters", {"parameters": {"temperature": float("nan")}}),
        ("parameters", {"parameters": {"metadata": {"user_id": "\ud800"}}}),
    ],
)
@in_loop
async def test_a_prompt_that_no_request_can_carry_is_refused_when_the_session_is_opened(
    part: str, options: dict[str, Any]
) -> None:
    """Sent, it would be a 400 for which each message of the user's is set aside."""
    storage = in_memory()
    with pytest.raises(InvalidPromptError, match="nothing was written or sent") as caught:
        await create_session(session_storage=storage, **{"model": MODEL, **options})
    assert caught.value.part == part
    assert await storage.list() == []
    chat = await create_session(model=MODEL, session_storage=storage)
    version = chat.state.version
    for opening in (resume_session, fork_session):
        with pytest.raises(InvalidPromptError):
            await opening(chat.id, session_storage=storage, **options)
    with pytest.raises(InvalidPromptError):
        await chat.fork(**options)
    assert await storage.list() == [chat.id]
    assert (await storage.state_at(chat.id, HEAD)).version == version


@in_loop
async def test_a_prompt_recorded_elsewhere_that_no_request_can_carry_is_told_and_can_be_replaced() -> None:
    storage = in_memory()
    await storage.save(SessionState.new("elsewhere", prompt=Prompt(model=MODEL, system=rb'"\ud83d"')))
    with pytest.raises(InvalidPromptError):
        await resume_session("elsewhere", session_storage=storage)
    async with resume_session("elsewhere", system="Be brief.", session_storage=storage) as chat:
        await chat.send("Hello")


@pytest.mark.parametrize("bad", [[1], [], "title", 7])
@in_loop
async def test_metadata_that_is_no_mapping_is_refused_and_nothing_is_written(bad: Any) -> None:
    storage = in_memory()
    with pytest.raises(InvalidMetadataError, match="nothing was written"):
        await create_session(model=MODEL, session_storage=storage, metadata=bad)
    assert await storage.list() == []
    chat = await create_session(model=MODEL, session_storage=storage)
    with pytest.raises(InvalidMetadataError):
        await resume_session(chat.id, session_storage=storage, metadata=bad)
    with pytest.raises(InvalidMetadataError):
        await fork_session(chat.id, session_storage=storage, metadata=bad)
    with pytest.raises(InvalidMetadataError):
        await storage.update_metadata(chat.id, bad)
    assert await storage.list() == [chat.id]


@in_loop
async def test_a_response_is_recorded_with_its_facts() -> None:
    api, storage = ScriptedApi([Reply(content="Hi.", extra={"container": {"id": "c_1"}})]), in_memory()
    async with (
        api.async_client() as client,
        create_session(model=MODEL, session_storage=storage, client=client) as chat,
    ):
        await talk(chat, "Hello")
        response = (await events_of(storage, chat.id))[-1]
        assert isinstance(response, ResponseReceived)
        assert (response.model, response.stop_reason, response.blocks) == (MODEL, "end_turn", 1)
        assert json.loads(response.rest)["container"] == {"id": "c_1"}
        assert response.message_id.startswith("msg_")
