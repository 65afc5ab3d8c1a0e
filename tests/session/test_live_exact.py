"""Bytes: what came from the API goes back as it came, and every fork begins as its parent did."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from anthropic import BadRequestError

from session.events import BlockReceived
from session.live import create_session, resume_session
from session.storage import EventSessionStorage
from session.testing import Reply, ScriptedApi, calls, says, thinks, tool_using_model
from tests.session.live_kit import MODEL, add, events_of, in_loop, in_memory, multiply, shown, streamed, talk

REPOSITORY = Path(__file__).parents[2]

ODD_BLOCKS = [
    '{"type":"text","text":"1.10 and 😀","citations":null}',
    '{"type":"from_the_future","b":1.10,"a":1e300,"big":'
    + "9" * 400
    + ',"null":null,"deep":'
    + "[" * 90
    + "]" * 90
    + "}",
    '{"type":"redacted_thinking","data":"AbC+/=="}',
    '{"text":"key order","type":"text"}',
]
ODD_INPUT = '{"b": 1.10, "a":-0.0,"b":2E+2,"\\u00e9":"\\ud83d\\ude00"}'


@pytest.mark.parametrize("delta_chars", [1, 7, 1000])
@in_loop
async def test_odd_bytes_survive_api_store_resume_api(delta_chars: int, tmp_path: Path) -> None:
    content: list[Any] = [*ODD_BLOCKS[:2], ODD_BLOCKS[3], calls("odd", ODD_INPUT, "toolu_1")]
    api = ScriptedApi([Reply(content=content, delta_chars=delta_chars), "Fine.", "Still fine."])
    async with api.async_client() as client:
        async with EventSessionStorage(tmp_path / "log") as storage:
            chat = await create_session(model=MODEL, session_storage=storage, client=client)
            assert shown(await talk(chat, "Go")).endswith("Fine.")
            await chat.close()
        async with EventSessionStorage(tmp_path / "log") as storage:
            again = await resume_session(chat.id, session_storage=storage, client=client)
            await talk(again, "More")
            await storage.verify(chat.id)
    for call in api.calls[1:]:
        assert call.status == 200, call.error
        for block in (*ODD_BLOCKS[:2], ODD_BLOCKS[3]):
            assert block.encode() in call.body
        assert ODD_INPUT.encode() in call.body


@in_loop
async def test_signatures_and_redacted_thinking_survive_and_the_api_accepts_them() -> None:
    content: list[Any] = [thinks("Let me see.", "sIg/+=="), ODD_BLOCKS[2], says("One.")]
    api, storage = ScriptedApi([Reply(content=content, stop_reason="end_turn"), "Two.", "Three."]), in_memory()
    async with api.async_client() as client:
        async with create_session(model=MODEL, session_storage=storage, client=client) as chat:
            await talk(chat, "Go")
            await talk(chat, "More")
        async with resume_session(chat.id, session_storage=storage, client=client) as again:
            await talk(again, "On")
    for call in api.calls[1:]:
        assert call.json["messages"][1]["content"] == [content[0], json.loads(ODD_BLOCKS[2]), says("One.")]
        assert ODD_BLOCKS[2].encode() in call.body


@in_loop
async def test_odd_bytes_of_the_caller_are_sent_as_they_are() -> None:
    exact = b'{"content":[{"text":"\\ud83d\\ude00","type":"text","n":1.10,"n":' + b"7" * 400 + b'}],"role":"user"}'
    api = ScriptedApi(["One.", "Two."])
    async with (
        api.async_client() as client,
        create_session(model=MODEL, session_storage=in_memory(), client=client) as chat,
    ):
        await talk(chat, exact)
        await talk(chat, "More")
    assert exact in api.calls[0].body
    assert exact in api.calls[1].body


@pytest.mark.parametrize(
    "odd",
    ['{"type":"text","text":"half: \\ud83d"}', '{"type":"x","n":1e400}', '{"type":"x","n":' + "7" * 5_000 + "}"],
)
@pytest.mark.parametrize("looked_at", [False, True])
@in_loop
async def test_what_no_request_can_carry_stays_in_the_log_and_out_of_the_requests(odd: str, *, looked_at: bool) -> None:
    async def looking(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    api, storage = ScriptedApi([streamed('{"type":"text","text":"One."}', odd), "Two.", "Three."]), in_memory()
    async with api.async_client(middleware=[looking] if looked_at else []) as client:
        chat = await create_session(model=MODEL, session_storage=storage, client=client)
        await talk(chat, "Go")
        await talk(chat, "On")
        await talk(await resume_session(chat.id, session_storage=storage, client=client), "More")
        assert [call.error for call in api.calls] == [None] * 3
        blocks = [event.block for event in await events_of(storage, chat.id) if isinstance(event, BlockReceived)]
        assert blocks[1] == odd.encode()


@in_loop
async def test_a_tool_is_not_run_with_an_input_that_could_not_be_sent_back() -> None:
    inputs = ['{"a":1,"b":"\\ud83d"}', "[1]", '{"a":', '{"a":1e400,"b":2}']
    uses: list[Any] = [calls("add", text, f"toolu_{number}") for number, text in enumerate(inputs)]
    api, storage = ScriptedApi([Reply(content=uses, stop_reason="tool_use"), "Two.", "Three."]), in_memory()
    async with api.async_client() as client:
        chat = await create_session(model=MODEL, tools=[add], session_storage=storage, client=client)
        results = [part for part in await talk(chat, "Go") if part.type == "tool_result"]
        assert [(part.is_error, "no valid JSON" in part.content) for part in results] == [(True, True)] * 4
        await talk(await resume_session(chat.id, session_storage=storage, client=client), "More")
    assert [call.error for call in api.calls] == [None] * 3


# --- forks ------------------------------------------------------------------------------------------------------------

FORKS = """
import asyncio, sys
from anthropic import AsyncAnthropic
from session.live import fork_session
from session.storage import EventSessionStorage
from tests.session.live_kit import add, multiply, talk

async def main(path, session_id, port, head):
    async with (
        AsyncAnthropic(api_key="none", base_url=f"http://127.0.0.1:{port}", max_retries=0) as client,
        EventSessionStorage(path, durability="os") as storage,
    ):
        for version in range(int(head) + 1):
            async with fork_session(
                session_id, at=version, tools=[add, multiply], session_storage=storage, client=client, max_turns=1
            ) as fork:
                await talk(fork, None if fork.pending else "Another way")

asyncio.run(main(*sys.argv[1:]))
"""


@in_loop
async def test_a_fork_at_every_version_from_another_process_begins_as_its_parent_did(tmp_path: Path) -> None:
    path, api = tmp_path / "log", ScriptedApi(tool_using_model(rounds=2, parallel=2))
    async with api.async_client() as client, EventSessionStorage(path, durability="os") as storage:
        options: dict[str, Any] = {"tools": [add, multiply], "session_storage": storage, "client": client}
        async with create_session(model=MODEL, system="Be brief.", **options) as chat:
            await talk(chat, "First")
            await talk(chat, "Second")
        states = [await storage.state_at(chat.id, version) for version in range(chat.state.version + 1)]
        head = chat.state.version
    parents = list(api.calls)
    with api.serve() as server:
        command = [sys.executable, "-c", FORKS, str(path), chat.id, str(server.port), str(head)]
        await asyncio.to_thread(subprocess.run, command, check=True, cwd=REPOSITORY)
    forks = api.calls[len(parents) :]
    assert len(forks) == len(states) > 50
    for version, (fork, state) in enumerate(zip(forks, states, strict=True)):
        assert fork.status == 200, (version, fork.error)
        # What the parent said up to there, as it was first sent: a result that has not got its siblings yet apart.
        said = state.messages.raw[: -1 if state.results_open else None]
        shared = [call.body for call in parents if len(call.json["messages"]) <= len(said)]
        expected = shared[-1] if shared else _without_messages(parents[0].body) + b"]}"
        assert fork.body.startswith(expected.removesuffix(b"]}")), version
        assert fork.body.startswith(_without_messages(parents[0].body) + b",".join(said)), version


def _without_messages(body: bytes) -> bytes:
    return body[: body.index(b'"messages":[') + len(b'"messages":[')]


@in_loop
async def test_a_fork_reads_the_prompt_cache_that_its_parent_wrote() -> None:
    api, storage = ScriptedApi(tool_using_model(rounds=1, parallel=1)), in_memory()
    async with (
        api.async_client() as client,
        create_session(model=MODEL, tools=[add], session_storage=storage, client=client) as chat,
    ):
        parts = await talk(chat, "First")
        written = parts[-1].usage.cache_creation_input_tokens if parts[-1].type == "stop" else 0
        async with chat.fork(max_turns=1) as fork:
            await talk(fork, "Second")
            assert fork.state.own_usage.cache_read_input_tokens == written > 0


@in_loop
async def test_the_scripted_api_refuses_what_a_session_refuses_to_send() -> None:
    """The control: the same change, made behind the session's back, is a 400."""
    api = ScriptedApi([Reply(content=[thinks("Hm."), says("One.")])])
    async with (
        api.async_client() as client,
        create_session(model=MODEL, system="Be brief.", session_storage=in_memory(), client=client) as chat,
    ):
        await talk(chat, "Go")
        with pytest.raises(BadRequestError, match="bound to a different conversation"):
            await client.messages.create(
                model=MODEL,
                max_tokens=9,
                system="Be long.",
                messages=[*chat.state.messages, {"role": "user", "content": "More"}],
            )
