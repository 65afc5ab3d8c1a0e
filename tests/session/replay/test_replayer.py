"""A program run against its recording does what it did, and nothing leaves the process."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from anthropic import Anthropic, AsyncAnthropic, beta_async_tool, beta_tool

from session.testing import Reply, calls, says, thinks
from tests.session.recording.kit import ASK, user
from tests.session.replay.kit import record, replay

RAN: list[str] = []


@beta_tool
def add(a: int, b: int) -> str:
    """Add two numbers."""
    RAN.append("add")
    return str(a + b)


@beta_async_tool
async def multiply(a: int, b: int) -> str:
    """Multiply two numbers."""
    RAN.append("multiply")
    return str(a * b)


def conversation(client: Anthropic) -> list[str]:
    """Asks one thing after the other, streamed and not, through both kinds of resource."""
    history: list[Any] = []
    seen: list[str] = []
    for number, ask in enumerate(("One?", "Two?", "Three?", "Four?")):
        history.append(user(ask))
        messages: Any = client.messages if number < 2 else client.beta.messages
        if number % 2:
            with messages.stream(messages=history, system="Be brief.", **ASK) as stream:
                seen += [event.to_json() for event in stream if event.type.startswith("content_block")]
                answer = stream.get_final_message()
        else:
            answer = messages.create(messages=history, system="Be brief.", **ASK)
        seen.append(answer.to_json())
        history.append({"role": "assistant", "content": answer.content})
    return seen


async def conversation_async(client: AsyncAnthropic) -> list[str]:
    history: list[Any] = []
    seen: list[str] = []
    for number, ask in enumerate(("One?", "Two?", "Three?", "Four?")):
        history.append(user(ask))
        messages: Any = client.messages if number < 2 else client.beta.messages
        if number % 2:
            async with messages.stream(messages=history, **ASK) as stream:
                seen += [event.to_json() async for event in stream if event.type.startswith("content_block")]
                answer = await stream.get_final_message()
        else:
            answer = await messages.create(messages=history, **ASK)
        seen.append(answer.to_json())
        history.append({"role": "assistant", "content": answer.content})
    return seen


def runner(client: Anthropic) -> list[str]:
    found = client.beta.messages.tool_runner(messages=[user("What is 2 + 3?")], tools=[add], **ASK)
    return [message.to_json() for message in found]


def streaming_runner(client: Anthropic) -> list[str]:
    found = client.beta.messages.tool_runner(messages=[user("2 + 3?")], tools=[add], stream=True, **ASK)
    return [event.to_json() for stream in found for event in stream if event.type.startswith("content_block")]


async def runner_async(client: AsyncAnthropic) -> list[str]:
    found = client.beta.messages.tool_runner(messages=[user("What is 2 * 3?")], tools=[multiply], **ASK)
    return [message.to_json() async for message in found]


async def parallel(client: AsyncAnthropic) -> list[str]:
    """Agents side by side, of which some ask the same."""
    first = await client.messages.create(messages=[user("Begin")], **ASK)
    history: list[Any] = [user("Begin"), {"role": "assistant", "content": first.content}]

    async def agent(name: str) -> str:
        mine = [*history, user(name)]
        answer = await client.messages.create(messages=mine, **ASK)
        mine += [{"role": "assistant", "content": answer.content}, user("More")]
        last = await client.messages.create(messages=mine, **ASK)
        return str(last.to_json())

    return sorted(await asyncio.gather(*(agent(name) for name in "aabc")))


TALK = ["One.", Reply(content=[thinks("Hm"), says("Two."), says("Two and a half.")], chunk_seed=3), "3.", "4."]
LOOP = [*[Reply(content=[says("So:"), calls(name, {"a": 2, "b": 3})]) for name in ["add"] * 3], "Five."]
LOOP_ASYNC = [*[Reply(content=[says("So:"), calls(name, {"a": 2, "b": 3})]) for name in ["multiply"] * 3], "Six."]
PROGRAMS: list[tuple[Any, Any]] = [
    (conversation, TALK),
    (conversation_async, TALK),
    (runner, LOOP),
    (streaming_runner, LOOP),
    (runner_async, LOOP_ASYNC),
    (parallel, lambda _body, number: f"answer {number}"),
]


@pytest.mark.parametrize(("program", "script"), PROGRAMS, ids=[program.__name__ for program, _ in PROGRAMS])
def test_a_program_comes_to_the_same_on_its_recording(program: Any, script: Any) -> None:
    storage, root, recorded = record(program, script)
    assert replay(program, storage, root) == recorded
    assert replay(program, storage, root, speed=1000) == recorded
