"""Tools of a live session: when they run, what is recorded of them, and what reaches the model."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from anthropic import beta_async_tool, beta_tool

from session.events import ToolRefused, ToolReturned, ToolStarted
from session.live import create_session
from session.testing import Reply, ScriptedApi, calls, says
from session.tools import builtin_tools
from tests.session.live_kit import MODEL, add, events_of, in_loop, in_memory, kinds, multiply, shown, talk, types_of

if TYPE_CHECKING:
    from pathlib import Path


def sent_results(api: ScriptedApi) -> list[dict[str, Any]]:
    """The tool_result blocks of the newest request, which the API accepted."""
    newest = api.calls[-1]
    assert newest.status == 200, newest.error
    content: list[dict[str, Any]] = newest.json["messages"][-1]["content"]
    return content


@in_loop
async def test_sync_and_async_tools_run_and_their_results_are_sent_in_the_order_of_the_calls() -> None:
    asked = Reply(content=[calls("add", {"a": 1, "b": 2}, "toolu_1"), calls("multiply", {"a": 3, "b": 4}, "toolu_2")])
    api, storage = ScriptedApi([asked, "Done."]), in_memory()
    async with (
        api.async_client() as client,
        create_session(model=MODEL, tools=[add, multiply], session_storage=storage, client=client) as chat,
    ):
        parts = await talk(chat, "Go")
        assert kinds(parts) == ["tool_use", "tool_use", "message", "tool_result", "tool_result", "message", "stop"]
        assert [part.content for part in parts if part.type == "tool_result"] == ["3", "12"]
    assert sent_results(api) == [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": "3"},
        {"type": "tool_result", "tool_use_id": "toolu_2", "content": "12"},
    ]


@in_loop
async def test_parallel_calls_run_side_by_side_and_keep_their_order() -> None:
    second_ended = asyncio.Event()

    @beta_async_tool
    async def first() -> str:
        """Waits for the other one."""
        await second_ended.wait()
        return "first"

    @beta_async_tool
    async def second() -> str:
        """Ends at once."""
        second_ended.set()
        return "second"

    asked = Reply(content=[calls("first", {}, "toolu_1"), calls("second", {}, "toolu_2")])
    api, storage = ScriptedApi([asked, "Done."]), in_memory()
    async with (
        api.async_client() as client,
        create_session(model=MODEL, tools=[first, second], session_storage=storage, client=client) as chat,
    ):
        parts = await talk(chat, "Go")
        assert [part.content for part in parts if part.type == "tool_result"] == ["first", "second"]
        returned = [event for event in await events_of(storage, chat.id) if isinstance(event, ToolReturned)]
        assert [event.tool_use_id for event in returned] == ["toolu_2", "toolu_1"]  # as they ended
    assert [result["content"] for result in sent_results(api)] == ["first", "second"]


@in_loop
async def test_a_tool_starts_after_its_message_and_its_start_are_durable() -> None:
    storage = in_memory()
    seen: list[list[str]] = []

    @beta_async_tool
    async def look() -> str:
        """Look into the log."""
        seen.append(await types_of(storage, chat.id))
        return "seen"

    api = ScriptedApi([Reply(content=[says("I look."), calls("look", {})]), "Done."])
    async with (
        api.async_client() as client,
        create_session(model=MODEL, tools=[look], session_storage=storage, client=client) as chat,
    ):
        await talk(chat, "Go")
    assert seen[0][-2:] == ["response_received", "tool_started"]


@in_loop
async def test_a_refusal_is_an_event_and_the_model_reads_it() -> None:
    asked_for: list[tuple[str, Any]] = []

    async def ask(name: str, tool_input: dict[str, Any]) -> bool | str:
        asked_for.append((name, tool_input))
        return True if name == "add" else "Not today."

    asked = Reply(content=[calls("multiply", {"a": 3, "b": 4}, "toolu_1"), calls("add", {"a": 1, "b": 2}, "toolu_2")])
    api, storage = ScriptedApi([asked, "Done."]), in_memory()
    async with (
        api.async_client() as client,
        create_session(
            model=MODEL, tools=[add, multiply], can_use_tool=ask, session_storage=storage, client=client
        ) as chat,
    ):
        await talk(chat, "Go")
        events = await events_of(storage, chat.id)
        refused = [event for event in events if isinstance(event, ToolRefused)]
        started = [event for event in events if isinstance(event, ToolStarted)]
        assert [(event.tool_use_id, event.reason) for event in refused] == [("toolu_1", "Not today.")]
        assert [(event.tool_use_id, event.asked) for event in started] == [("toolu_2", True)]
    assert asked_for == [("multiply", {"a": 3, "b": 4}), ("add", {"a": 1, "b": 2})]
    refusal, result = sent_results(api)
    assert (refusal["is_error"], refusal["content"], result["content"]) == (True, "Not today.", "3")


@in_loop
async def test_permissions_are_asked_for_one_after_the_other() -> None:
    being_asked = 0

    async def ask(_name: str, _input: dict[str, Any]) -> bool | str:
        nonlocal being_asked
        being_asked += 1
        assert being_asked == 1
        await asyncio.sleep(0)
        being_asked -= 1
        return True

    asked = Reply(content=[calls("add", {"a": n, "b": n}) for n in range(5)])
    api = ScriptedApi([asked, "Done."])
    async with (
        api.async_client() as client,
        create_session(model=MODEL, tools=[add], can_use_tool=ask, session_storage=in_memory(), client=client) as chat,
    ):
        await talk(chat, "Go")
    assert [result["content"] for result in sent_results(api)] == ["0", "2", "4", "6", "8"]


@in_loop
async def test_what_can_use_tool_raises_passes_through_and_the_other_results_are_kept() -> None:
    async def ask(name: str, _input: dict[str, Any]) -> bool | str:
        if name == "multiply":
            raise PermissionError("the question was closed")
        return True

    asked = Reply(content=[calls("multiply", {"a": 3, "b": 4}, "toolu_1"), calls("add", {"a": 1, "b": 2}, "toolu_2")])
    api, storage = ScriptedApi([asked, "Done."]), in_memory()
    async with (
        api.async_client() as client,
        create_session(
            model=MODEL, tools=[add, multiply], can_use_tool=ask, session_storage=storage, client=client
        ) as chat,
    ):
        with pytest.raises(PermissionError, match="the question was closed"):
            await talk(chat, "Go")
        assert "tool_started" in await types_of(storage, chat.id)
        assert shown(await talk(chat)) == "Done."
    not_run, result = sent_results(api)
    assert (not_run["is_error"], result["content"]) == (True, "3")
    assert "was not run" in not_run["content"]


def _raises() -> str:
    """Raise."""
    raise RuntimeError("broken pipe")


def _large() -> str:
    """10 MB."""
    return "x" * 10_000_000


def _binary() -> Any:
    """Return bytes."""
    return b"\x00\xff" * 10


@pytest.mark.parametrize(
    ("block", "says_so"),
    [
        (calls("raises", {}), "broken pipe"),
        (calls("large", {}), "x"),
        (calls("binary", {}), "bytes of binary data"),
        (calls("unknown", {}), "no tool 'unknown'"),
        (calls("add", {"a": "one"}), "add"),
        (calls("raises", '{"a": '), "JSON"),
    ],
    ids=["raises", "10 MB", "bytes", "unknown", "wrong arguments", "input that is no JSON"],
)
@in_loop
async def test_whatever_a_tool_does_the_model_gets_a_result_that_the_api_takes(block: Any, says_so: str) -> None:
    tools: list[Any] = [
        add,
        beta_tool(_raises, name="raises"),
        beta_tool(_large, name="large"),
        beta_tool(_binary, name="binary"),
    ]
    api = ScriptedApi([Reply(content=[block]), "Done."])
    async with (
        api.async_client() as client,
        create_session(model=MODEL, tools=tools, session_storage=in_memory(), client=client) as chat,
    ):
        assert shown(await talk(chat, "Go")) == "Done."
    assert says_so in json.dumps(sent_results(api))
    assert len(api.calls[-1].body) < 2_000_000


@pytest.mark.parametrize("text", ["[1]", "7", '"x"', "null"])
@in_loop
async def test_a_tool_input_that_is_no_object_does_not_brick_the_session(text: str) -> None:
    api = ScriptedApi([Reply(content=[says("Look."), calls("add", text, "toolu_1")]), "Done.", "More."])
    async with (
        api.async_client() as client,
        create_session(model=MODEL, tools=[add], session_storage=in_memory(), client=client) as chat,
    ):
        assert shown(await talk(chat, "Go")).endswith("Done.")
        assert shown(await talk(chat, "On")) == "More."
    assert [call.status for call in api.calls] == [200, 200, 200]


@in_loop
async def test_a_tool_that_never_returns_is_given_up_after_its_time() -> None:
    @beta_async_tool
    async def hangs() -> str:
        """Never return."""
        await asyncio.Event().wait()
        return ""

    api = ScriptedApi([Reply(content=[calls("hangs", {})]), "Done."])
    async with (
        api.async_client() as client,
        create_session(
            model=MODEL, tools=[hangs], tool_timeout_seconds=0.01, session_storage=in_memory(), client=client
        ) as chat,
    ):
        assert shown(await talk(chat, "Go")) == "Done."
    assert sent_results(api)[0]["is_error"]


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
@in_loop
async def test_a_time_in_which_no_tool_can_run_is_refused(seconds: float) -> None:
    storage = in_memory()
    with pytest.raises(ValueError, match="tool_timeout_seconds is more than 0"):
        await create_session(model=MODEL, session_storage=storage, tool_timeout_seconds=seconds)
    assert await storage.list() == []
    async with create_session(model=MODEL, session_storage=storage, tool_timeout_seconds=float("inf")) as chat:
        with pytest.raises(ValueError, match="tool_timeout_seconds is more than 0"):
            await chat.fork(tool_timeout_seconds=seconds)


@in_loop
async def test_calls_of_a_message_that_was_cut_by_max_tokens_are_not_run() -> None:
    asked = Reply(content=[calls("add", {"a": 1, "b": 2}, "toolu_1")], stop_reason="max_tokens")
    api, storage = ScriptedApi([asked, "Done."]), in_memory()
    async with (
        api.async_client() as client,
        create_session(model=MODEL, tools=[add], session_storage=storage, client=client) as chat,
    ):
        assert kinds(await talk(chat, "Go")) == ["tool_use", "message", "stop"]
        assert chat.pending is not None
        assert chat.pending.tool_use_ids == ("toolu_1",)
        assert shown(await talk(chat, "Go on")) == "Done."
        assert "tool_started" not in await types_of(storage, chat.id)
    contents = [message["content"] for message in api.calls[1].json["messages"]]
    assert "was not run" in contents[2][0]["content"]
    assert contents[3] == "Go on"


@in_loop
async def test_a_call_can_be_answered_by_the_caller() -> None:
    asked = Reply(
        content=[calls("add", {"a": 1, "b": 2}, "toolu_1"), calls("add", {}, "toolu_2")], stop_reason="max_tokens"
    )
    api = ScriptedApi([asked, "Done."])
    async with (
        api.async_client() as client,
        create_session(model=MODEL, tools=[add], session_storage=in_memory(), client=client) as chat,
    ):
        await talk(chat, "Go")
        await talk(chat, [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "three"}])
    results = [block for message in api.calls[1].json["messages"][2:] for block in message["content"]]
    assert {result["tool_use_id"]: result["content"][:8] for result in results} == {
        "toolu_1": "three",
        "toolu_2": "This too",
    }


@in_loop
async def test_the_builtin_shell_works_and_is_closed_with_the_session(tmp_path: Path) -> None:
    tools = builtin_tools(workdir=tmp_path)
    api = ScriptedApi([Reply(content=[calls("bash", {"command": "echo $$; exec 2>&1"})]), "Done."])
    async with (
        api.async_client() as client,
        create_session(model=MODEL, tools=tools, session_storage=in_memory(), client=client) as chat,
    ):
        parts = await talk(chat, "Go")
        result = next(part for part in parts if part.type == "tool_result")
        text = result.content if isinstance(result.content, str) else result.content[0]["text"]
        shell = int(text.split()[0])
        os.kill(shell, 0)  # it runs
    with pytest.raises(ProcessLookupError):
        os.kill(shell, 0)


@in_loop
async def test_a_fork_shares_the_tools_and_the_last_one_closes_them() -> None:
    closed: list[str] = []

    class Greeter:
        name = "greet"

        def to_dict(self) -> dict[str, Any]:
            return {"name": "greet", "description": "Greet.", "input_schema": {"type": "object", "properties": {}}}

        async def call(self, input: object) -> str:  # noqa: A002 - as the SDK has it
            del input
            return "Hi."

        def close(self) -> None:
            closed.append("greet")

    asked = Reply(content=[calls("greet", {})])
    api = ScriptedApi([asked, "One.", asked, "Two."])
    async with api.async_client() as client:
        chat = await create_session(model=MODEL, tools=[Greeter()], session_storage=in_memory(), client=client)
        await talk(chat, "Go")
        other = await chat.fork()
        await chat.close()
        assert closed == []
        parts = await talk(other, "Again")
        assert [part.content for part in parts if part.type == "tool_result"] == ["Hi."]
        await other.close()
    assert closed == ["greet"]
