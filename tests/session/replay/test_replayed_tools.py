"""Tools in a replay: wrapped ones say what they said, without running; others run, and are found out if they differ."""

from __future__ import annotations

import asyncio
import functools
import json
from typing import TYPE_CHECKING, Any

import anthropic
import pytest
from anthropic import beta_async_tool, beta_tool
from anthropic.lib.tools import ToolError

from session.live import create_session
from session.recording import Recorder
from session.replay import ReplayDivergedError, Replayer
from session.testing import Failure, Reply, ScriptedApi, calls, says, thinks
from tests.session.recording.kit import ASK, in_memory, state_of, user
from tests.session.replay.kit import diverges, record

if TYPE_CHECKING:
    from collections.abc import Callable

    from anthropic import Anthropic

WEATHER: dict[str, Any] = {"name": "weather", "input_schema": {"type": "object"}}


class World:
    """What tools look at, and how often they did."""

    def __init__(self) -> None:
        self.degrees = 21
        self.looks = 0

    def look(self, city: str) -> int:
        self.looks += 1
        if city == "Atlantis":
            raise ToolError("there is no such city")
        self.degrees += 1
        return self.degrees


def agent(client: Anthropic, tool: Callable[..., Any]) -> list[str]:
    """A loop of one's own around a function."""
    history: list[Any] = [user("How warm is it?")]
    seen = []
    while history[-1]["role"] == "user":
        answer = client.messages.create(messages=history, tools=[WEATHER], **ASK)  # type: ignore[list-item]
        seen.append(str(answer.to_json()))
        history.append({"role": "assistant", "content": answer.content})
        results = []
        for block in answer.content:
            if block.type == "tool_use":
                given: Any = block.input
                try:
                    result: dict[str, Any] = {"content": json.dumps(tool(**given))}
                except ToolError as error:
                    result = {"content": str(error), "is_error": True}
                results.append({"type": "tool_result", "tool_use_id": block.id, **result})
        if results:
            history.append({"role": "user", "content": results})
    return seen


SCRIPT: list[Any] = [
    Reply(content=[calls("weather", {"city": "Rome"}), calls("weather", {"city": "Oslo"})]),
    Reply(content=[calls("weather", {"city": "Rome"}), calls("weather", {"city": "Atlantis"})]),
    "Warm.",
]


@pytest.fixture
def recording() -> Any:
    world = World()

    def weather(city: str) -> dict[str, int]:
        return {"degrees": world.look(city)}

    storage, root, recorded = record(lambda client: agent(client, weather), SCRIPT)
    assert world.looks == 4
    return storage, root, recorded, world, weather


def test_a_wrapped_function_says_what_it_said_and_does_not_run(recording: Any) -> None:
    storage, root, recorded, world, weather = recording
    with Replayer(storage, root) as replay, anthropic.Anthropic(api_key="none", middleware=[replay]) as client:
        assert agent(client, replay.tool(weather, decode=json.loads)) == recorded
    assert world.looks == 4


def test_a_tool_that_runs_and_says_something_else_is_found_out(recording: Any) -> None:
    storage, root, _, world, weather = recording

    def replayed(wrap: bool) -> None:
        with Replayer(storage, root) as replay, anthropic.Anthropic(api_key="none", middleware=[replay]) as client:
            agent(client, replay.tool(weather, run=True) if wrap else weather)

    for wrap in (False, True):
        with pytest.raises(ReplayDivergedError) as raised:
            replayed(wrap)
        assert raised.value.cause == "tool result changed"
        assert raised.value.pointer == "/messages/2/content/0/content"
        assert "replay.tool" in str(raised.value)
    assert world.looks > 4


def test_a_wrapped_tool_that_was_not_called_so_is_a_divergence(recording: Any) -> None:
    storage, root, _, world, weather = recording
    with pytest.raises(ReplayDivergedError) as raised, Replayer(storage, root) as replay:
        replay.tool(weather)(city="Paris")
    assert (raised.value.cause, raised.value.after) == ("extra call", '{"city":"Paris"}')
    assert "tool weather" in str(raised.value)
    assert world.looks == 4
    with pytest.raises(TypeError, match="no name"):
        Replayer(storage, root).tool(3)


def test_tools_run_again_once_a_replay_is_live(recording: Any) -> None:
    storage, root, _, world, weather = recording
    api = ScriptedApi(SCRIPT)
    with Replayer(storage, root, on_divergence="live") as replay, api.client(middleware=[replay]) as client:
        tool = replay.tool(weather, decode=json.loads)
        client.messages.create(messages=[user("Something else")], **ASK)
        assert tool("Rome")["degrees"] == world.degrees
    assert world.looks == 5


def test_a_tool_that_was_not_called_so_runs_where_a_replay_may_go_live(recording: Any) -> None:
    storage, root, recorded, world, weather = recording
    with (
        Replayer(storage, root, on_divergence="live") as replay,
        anthropic.Anthropic(api_key="none", middleware=[replay]) as client,
    ):
        tool = replay.tool(weather, decode=json.loads)
        assert tool(city="Paris")["degrees"] == world.degrees
        assert replay.divergence is not None
        assert agent(client, tool) == recorded
        assert replay.live is None
    assert world.looks == 5


@beta_tool
def add(a: int, b: int) -> str:
    """Add two numbers."""
    if a > 2:
        raise ToolError("too much")
    return str(a + b)


@beta_async_tool
async def add_async(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


def test_tools_of_the_sdk_are_wrapped_in_a_runner_too() -> None:
    ran: list[object] = []

    def runner(client: Anthropic, tool: Any = add) -> list[str]:
        found = client.beta.messages.tool_runner(messages=[user("2 + 3?")], tools=[tool], **ASK)
        return [str(message.to_json()) for message in found]

    script = [Reply(content=[says("So:"), calls("add", {"a": number, "b": 3})]) for number in (2, 3)]
    storage, root, recorded = record(runner, [*script, "Done."])
    original = add.func

    def spy(a: int, b: int) -> str:
        ran.append(a)
        return original(a, b)

    with Replayer(storage, root) as replay, anthropic.Anthropic(api_key="none", middleware=[replay]) as client:
        spied = beta_tool(name="add", description="Add two numbers.", input_schema=add.input_schema)(spy)
        assert runner(client, replay.tool(spied)) == recorded
    assert ran == []


def test_asynchronous_tools_stay_asynchronous() -> None:
    async def runner(client: anthropic.AsyncAnthropic, tool: Any = add_async) -> list[str]:
        found = client.beta.messages.tool_runner(messages=[user("2 + 3?")], tools=[tool], **ASK)
        return [str(message.to_json()) async for message in found]

    storage, root, recorded = record(runner, [Reply(content=[calls("add_async", {"a": 2, "b": 3})]), "Five."])

    async def main() -> None:
        async with (
            Replayer(storage, root) as replay,
            anthropic.AsyncAnthropic(api_key="none", middleware=[replay]) as client,
        ):
            assert await runner(client, replay.tool(add_async)) == recorded

    asyncio.run(main())


class Weather:
    """A tool that is an object."""

    async def __call__(self, city: str) -> str:
        return f"warm in {city}"


async def weather_of(prefix: str, city: str) -> str:
    return f"{prefix} in {city}"


@pytest.mark.parametrize("tool", [Weather(), functools.partial(Weather()), functools.partial(weather_of, "warm")])
def test_what_is_asynchronous_in_another_way_stays_so_too(tool: Any) -> None:
    async def program(client: anthropic.AsyncAnthropic, tool: Any = tool) -> list[str]:
        ask: Any = {**ASK, "tools": [WEATHER]}
        answer = await client.messages.create(messages=[user("How warm is it?")], **ask)
        (block,) = answer.content
        result: Any = {"type": "tool_result", "tool_use_id": block.id, "content": await tool(**block.input)}
        history: list[Any] = [user("How warm is it?"), {"role": "assistant", "content": answer.content}]
        last = await client.messages.create(messages=[*history, {"role": "user", "content": [result]}], **ask)
        return [str(answer.to_json()), str(last.to_json())]

    storage, root, recorded = record(program, [Reply(content=[calls("weather", {"city": "Rome"})]), "Warm."])

    async def main() -> None:
        async with (
            Replayer(storage, root) as replay,
            anthropic.AsyncAnthropic(api_key="none", middleware=[replay]) as client,
        ):
            assert await program(client, replay.tool(tool, name="weather")) == recorded

    asyncio.run(main())


# --- live sessions ----------------------------------------------------------------------------------------------------


def test_a_live_session_is_replayed_by_itself_from_its_blocks() -> None:
    script: list[Any] = [
        Failure(status=529),
        Reply(content=[thinks("Add.", "c2ln"), says('Let "me"\nsee.'), calls("add", '{"a": 2, "b":3}', "toolu_1")]),
        "Five.",
        "Welcome.",
    ]

    async def chat(storage: Any, client: anthropic.AsyncAnthropic, tool: Any) -> tuple[str, list[Any]]:
        options: dict[str, Any] = {"model": "claude-sonnet-5-5", "tools": [tool], "max_tokens": 200}
        seen: list[Any] = []
        async with client, create_session(session_storage=storage, client=client, **options) as talk:
            for ask in ("What is 2 + 3?", "Thanks"):
                await talk.send(ask)
                seen += [
                    event.type async for event in talk.receive() if event.type not in {"text", "thinking", "error"}
                ]
        return talk.id, seen

    async def main() -> None:
        storage, other = in_memory(), in_memory()
        api = ScriptedApi(script, check_thinking=False)
        session_id, recorded = await chat(storage, api.async_client(max_retries=1), add)
        with Replayer(storage, session_id) as replay:
            client = anthropic.AsyncAnthropic(api_key="none", max_retries=1, middleware=[replay])
            again, seen = await chat(other, client, replay.tool(add))
        assert seen == recorded
        assert state_of(other, again).messages.raw == state_of(storage, session_id).messages.raw
        assert state_of(other, again).usage.counters == state_of(storage, session_id).usage.counters

    asyncio.run(main())


def test_only_what_comes_behind_a_place_is_replayed_if_that_is_asked_for() -> None:
    storage = in_memory()
    recorder = Recorder(storage)
    api = ScriptedApi(["One.", "Two."])
    history: list[Any] = [user("Ask 1")]
    with api.client(middleware=[recorder]) as client:
        history.append({"role": "assistant", "content": client.messages.create(messages=history, **ASK).content})
        history.append(user("Ask 2"))
        client.messages.create(messages=history, **ASK)
    (root,) = recorder.sessions

    def second(client: Anthropic) -> str:
        return str(client.messages.create(messages=history, **ASK).to_json())

    assert diverges(second, storage, root).cause == "missing call"
    with (
        Replayer(storage, root, after="turn:1") as replay,
        anthropic.Anthropic(api_key="none", middleware=[replay]) as client,
    ):
        assert "Two." in second(client)


def test_what_other_sessions_of_the_run_did_before_that_place_is_not_asked_for() -> None:
    storage, api = in_memory(), ScriptedApi(lambda _body, number: f"answer {number}")
    talk: list[Any] = []
    critic: list[Any] = []

    def ask(client: Anthropic, history: list[Any], text: str) -> str:
        history.append(user(text))
        answer = client.messages.create(messages=history, **ASK)
        history.append({"role": "assistant", "content": answer.content})
        return str(answer.to_json())

    def turn(client: Anthropic, number: int) -> list[str]:
        return [
            ask(client, critic, f"Criticise {number}"),
            ask(client, talk, f"Ask {number}"),
            ask(client, [], f"A title for {number}"),
        ]

    with Recorder(storage, session="critic") as recorder, api.client(middleware=[recorder]) as client:
        turn(client, 1)
        before = list(talk), list(critic)
        recorded = turn(client, 2)
    talk[:], critic[:] = before
    with (
        Replayer(storage, "critic.2", after="turn:1") as replay,
        anthropic.Anthropic(api_key="none", middleware=[replay]) as client,
    ):
        assert turn(client, 2) == recorded


def test_a_changed_result_is_found_in_a_message_thread_too() -> None:
    said = ["5", "6"]

    @beta_tool
    def guess(a: int) -> str:
        """Guess."""
        return said[0] + str(a)

    def runner(client: Anthropic) -> int:
        found = client.beta.messages.tool_runner(messages=[user("Guess")], tools=[guess], system="Be brief.", **ASK)
        return len(list(found))

    storage, root, count = record(
        runner, [*(Reply(content=[calls("guess", {"a": number})]) for number in (1, 2)), "Right."]
    )
    assert count == 3
    said.pop(0)
    error = diverges(runner, storage, root)
    assert (error.cause, error.pointer) == ("tool result changed", "/messages/2/content/0/content")
    assert (error.before, error.after) == ('"51"', '"61"')
    assert f"{__file__}:" in error.frame
