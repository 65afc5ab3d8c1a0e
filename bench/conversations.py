"""Sessions as agents make them, in real events: the mix of `bench.workload`, with JSON that a fold has to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.workload import Text
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


def agent_events(seed: int) -> Iterator[SessionEvent]:
    """A session without end: 200 B asked, 1.5 KB of answer that calls a tool, its result of 3-30 KB, 300 B usage."""
    text, number = Text(seed), 0
    while True:
        number += 1
        call = f"toolu_{seed:08}{number:016}"
        yield MessageAppended.of(b'{"role":"user","content":"' + text.take(170) + b'"}')
        yield UsageRecorded(USAGE, model=MODEL, cost_picodollars=12_345_678_000, prices="2026-11-01")
        yield _answer(text, number, call)
        yield ToolReturned(call, _result(text, call), duration_ms=12)


def _answer(text: Text, number: int, call: str) -> ResponseReceived:
    used = (
        b'{"type":"tool_use","id":"' + call.encode() + b'","name":"bash","input":{"command":"' + text.take(200) + b'"}}'
    )
    said = b'{"type":"text","text":"' + text.take(1_150) + b'"}'
    return ResponseReceived(
        f"req_{number}",
        f"msg_{number:020}",
        MODEL,
        "tool_use",
        content=b"[" + said + b"," + used + b"]",
        tool_uses=(call,),
    )


def _result(text: Text, call: str) -> bytes:
    shown = text.take(text.between(3_000, 30_000))
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
