"""Sessions as agents make them, in real events: the mix of `bench.workload`, with JSON that a fold has to look at.

An agent's text is random letters in which stand, at random places, the characters that JSON escapes, as often as in 126
real turns of coding agents (325 KB of SWE-agent transcripts, counted once): a newline for every 41 characters of a tool
result, a quote for every 113, an ESC for every 139 (colours), few tabs, backslashes and letters beyond ASCII; a newline
for every 62 characters of what is said, and a quote for every 250. Sizes are those before escaping.
"""

from __future__ import annotations

import functools
import json
import random
import string
from typing import TYPE_CHECKING

from bench.workload import TEXT_BYTES, Text
from session.events import MessageAppended, RequestSent, ResponseReceived, ToolReturned, UsageRecorded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from session.events import SessionEvent

USAGE = (
    b'{"input_tokens":1523,"cache_creation_input_tokens":2048,"cache_read_input_tokens":18432,'
    b'"cache_creation":{"ephemeral_5m_input_tokens":2048,"ephemeral_1h_input_tokens":0},"output_tokens":431,'
    b'"server_tool_use":{"web_search_requests":0},"service_tier":"standard","inference_geo":"global"}'
)
MODEL = "claude-sonnet-5-5"
SHOWN = (("\n", 0.0245), ('"', 0.0088), ("\x1b", 0.0072), ("\t", 0.0002), ("\\", 0.00004), ("\N{EM DASH}", 0.00006))
SAID = (("\n", 0.0162), ('"', 0.0040))


class Escaped:
    """The inside of JSON strings, of any length: *rates* says how often which character stands among the letters."""

    def __init__(self, seed: int, rates: tuple[tuple[str, float], ...]) -> None:
        self._random = random.Random(seed)
        self._text = _letters_with(rates)

    def take(self, size: int) -> bytes:
        """The next *size* characters, escaped."""
        start = self._random.randrange(TEXT_BYTES - size)
        return json.dumps(self._text[start : start + size], ensure_ascii=False)[1:-1].encode()


@functools.cache
def _letters_with(rates: tuple[tuple[str, float], ...]) -> str:
    letters = string.ascii_letters + string.digits + " "
    share = (1 - sum(rate for _, rate in rates)) / len(letters)
    population = [*letters, *(character for character, _ in rates)]
    weights = [*[share] * len(letters), *(rate for _, rate in rates)]
    return "".join(random.Random(0).choices(population, weights, k=TEXT_BYTES))


def agent_events(seed: int) -> Iterator[SessionEvent]:
    """A session without end: 200 B asked, 1.5 KB of answer that calls a tool, its result of 3-30 KB, 300 B usage."""
    said, shown, sizes, number = Escaped(seed, SAID), Escaped(seed, SHOWN), Text(seed), 0
    while True:
        number += 1
        call = f"toolu_{seed:08}{number:016}"
        yield MessageAppended.of(b'{"role":"user","content":"' + said.take(170) + b'"}')
        yield UsageRecorded(USAGE, model=MODEL, cost_picodollars=12_345_678_000, prices="2026-11-01")
        yield _answer(said, number, call)
        yield ToolReturned(call, _result(shown.take(sizes.between(3_000, 30_000)), call), duration_ms=12)


def _answer(said: Escaped, number: int, call: str) -> ResponseReceived:
    command = said.take(200)
    used = b'{"type":"tool_use","id":"' + call.encode() + b'","name":"bash","input":{"command":"' + command + b'"}}'
    text = b'{"type":"text","text":"' + said.take(1_150) + b'"}'
    return ResponseReceived(
        f"req_{number}",
        f"msg_{number:020}",
        MODEL,
        "tool_use",
        content=b"[" + text + b"," + used + b"]",
        tool_uses=(call,),
    )


def _result(shown: bytes, call: str) -> bytes:
    return b'{"type":"tool_result","tool_use_id":"' + call.encode() + b'","content":"' + shown + b'"}'


def chat_turn(text: Text, number: int) -> list[list[SessionEvent]]:
    """The commits of a turn of a chat: an ask of 250 B, its request, an answer of 900 B with response and usage."""
    request, ask, answer = f"req_{number}", text.take(250 - 29), text.take(900 - 27)
    return [
        [MessageAppended.of(b'{"role":"user","content":"' + ask + b'"}')],
        [RequestSent(request, 2 * number + 1, stream=True)],
        [
            UsageRecorded(USAGE, model=MODEL, cost_picodollars=12_345_678_000, prices="2026-11-01", request_id=request),
            ResponseReceived(
                request,
                f"msg_{number:020}",
                MODEL,
                "end_turn",
                content=b'[{"type":"text","text":"' + answer + b'"}]',
                duration_ms=1_234,
            ),
        ],
    ]
