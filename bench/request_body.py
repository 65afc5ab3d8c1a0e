"""What does it cost to build the request of a session of 10,000 messages and to hand it over to the wire?

Bar: at most 0.5x the SDK's own path, `client.messages.create(messages=...)` with the messages as dicts that are parsed
already. Both go through the real client, down to a transport that takes the request and answers at once.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import anthropic
import httpx2

from bench.conversations import MODEL
from bench.harness import Contestant, Finding, Result, Size, content_hash, interleave, ratio
from bench.report import run_alone
from bench.workload import Text
from session.request import build_body, prompt_of
from session.sdk import send_exact

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

QUESTION = "what does it cost to send the request of a long session?"
PARAMETERS: dict[str, Any] = {
    "model": MODEL,
    "max_tokens": 4096,
    "system": "Be brief.",
    "tools": [{"name": "bash", "description": "Runs a command.", "input_schema": {"type": "object"}}],
}
ANSWER = (
    b'{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[],"stop_reason":"end_turn",'
    b'"usage":{"input_tokens":1,"output_tokens":1}}'
)


def run(size: Size) -> Result:
    """A round is one request of each, warm. What arrived is compared by its values: the bytes are not the same."""
    count = size.pick(full=10_000, small=200)
    messages = _messages(count)
    parsed = [json.loads(message) for message in messages]
    prompt = prompt_of(cache_control=None, **PARAMETERS)
    arrived: dict[str, bytes] = {}

    async def exact(client: anthropic.AsyncAnthropic) -> None:
        async with send_exact(client, build_body(prompt, messages, stream=False), stream=False) as reply:
            await reply.read()

    async def by_dicts(client: anthropic.AsyncAnthropic) -> None:
        await client.messages.create(messages=parsed, **PARAMETERS)

    series = interleave(
        size,
        [
            Contestant("messages.create(messages=[{...}])", "-", _timed(by_dicts, arrived, "the SDK")),
            Contestant("refold, exact bytes", "-", _timed(exact, arrived, "refold")),
        ],
    )
    dicts, ours = series.values()
    findings = [Finding("exact bytes / the SDK's dicts", ratio(ours, dicts), at_most=0.5)]
    hashes = {name: content_hash([_canonical(body)]) for name, body in arrived.items()}
    notes = [f"{sum(map(len, messages)):,} bytes of messages"]
    return Result(QUESTION, list(series.values()), findings, {f"{count:,} messages": hashes}, notes)


def _messages(count: int) -> list[bytes]:
    """An agent's session as it is stored: 900 B of answer that calls a tool, and its result of 250 B, in turns."""
    text = Text(0)
    return [_ask(text, number) if number % 2 == 0 else _answer(text, number) for number in range(count)]


def _ask(text: Text, number: int) -> bytes:
    if number == 0:
        return b'{"role":"user","content":"%b"}' % text.take(220)
    result = b'{"type":"tool_result","tool_use_id":"toolu_%024d","content":"%b"}' % (number - 1, text.take(220))
    return b'{"role":"user","content":[%b]}' % result


def _answer(text: Text, number: int) -> bytes:
    said = b'{"type":"text","text":"%b"}' % text.take(800)
    call = b'{"type":"tool_use","id":"toolu_%024d","name":"bash","input":{"command":"%b"}}' % (number, text.take(60))
    return b'{"role":"assistant","content":[%b,%b]}' % (said, call)


def _timed(
    send: Callable[[anthropic.AsyncAnthropic], Awaitable[None]], arrived: dict[str, bytes], name: str
) -> Callable[[int], float]:
    def respond(request: httpx2.Request) -> httpx2.Response:
        arrived[name] = request.content
        return httpx2.Response(200, content=ANSWER, headers={"content-type": "application/json"})

    async def once() -> float:
        http = httpx2.AsyncClient(transport=httpx2.MockTransport(respond), trust_env=False)
        async with anthropic.AsyncAnthropic(api_key="sk-none", http_client=http, max_retries=0) as client:
            await client.messages.create(model=MODEL, max_tokens=1, messages=[])  # what is done once is done
            began = time.perf_counter()
            await send(client)
            return time.perf_counter() - began

    return lambda _: asyncio.run(once())


def _canonical(body: bytes) -> bytes:
    return json.dumps(json.loads(body), sort_keys=True).encode()


if __name__ == "__main__":
    run_alone(__file__, run)
