"""How many small calls a second does a replay serve?

A program asks short questions, one after the other, each a conversation of its own; then it holds one conversation of
as many turns as a tenth of that. It runs on its recording, plain and streamed, and for comparison over a transport in
the process that answers with the same bodies without looking at the request: the SDK's own work, with no network.

Another program holds thousands of conversations, of a call each; and one asks the same thing as often. What a call
costs must not grow with the number of the others.

Bars: at least 500 plain calls a second, among many conversations too, and streamed ones, of which the SDK alone may not
manage as many, at most 1.5 times what they cost it. A second is one of the processor's time: nothing here waits, and a
busy neighbour does not count. Reading the recording is not in it, and printed beside.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import time
from typing import TYPE_CHECKING, Any

import anthropic
import httpx2

from bench.harness import Contestant, Finding, Result, Size, content_hash, interleave, ratio
from bench.report import run_alone
from session.recording import Recorder
from session.replay import Replayer
from session.storage import BlockingEventSessionStorage
from session.testing import Reply, ScriptedApi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

QUESTION = "how many small calls a second does a replay serve?"
ASK: dict[str, Any] = {"model": "claude-sonnet-5-5", "max_tokens": 100}
KINDS = {"plain": False, "streamed": True}
MANY = {"many conversations": ("Which is {}?", 3_000), "one request many times": ("Which is it?", 1_000)}


def run(size: Size) -> Result:
    """Each round is the whole program once."""
    calls = size.pick(full=400, small=10)
    hashes: dict[str, dict[str, str]] = {kind: {} for kind in (*KINDS, *MANY)}
    loading: list[float] = []
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(size.scratch())
        contestants = []
        for kind, stream in KINDS.items():
            path = directory / kind
            bodies = _record(path, calls, stream=stream)
            storage = stack.enter_context(BlockingEventSessionStorage(path, durability="os"))
            contestants += [
                _contestant(kind, "replay", calls, hashes, _replayed(storage, calls, loading, stream=stream)),
                _contestant(kind, "SDK alone", calls, hashes, _alone(bodies, calls, stream=stream)),
            ]
        for kind, (question, full) in MANY.items():
            path, many = directory / kind, size.pick(full=full, small=30)
            _record_many(path, many, question)
            storage = stack.enter_context(BlockingEventSessionStorage(path, durability="os"))
            contestants.append(_many(kind, many, question, storage, hashes))
        series = interleave(size, contestants)
    plain, streamed = (ratio(series[f"{kind}, SDK alone"], series[f"{kind}, replay"]) for kind in KINDS)
    findings = [
        Finding("plain calls served a second", series["plain, replay"].median, "1/s", at_least=500),
        *(
            Finding(f"calls served a second, {kind}", series[f"{kind}, replay"].median, "1/s", at_least=500)
            for kind in MANY
        ),
        Finding("a plain call / one of the SDK alone", plain),
        Finding("a streamed call / one of the SDK alone", streamed, at_most=1.5),
        Finding("reading the recording", statistics.median(loading), "s"),
    ]
    return Result(QUESTION, list(series.values()), findings, hashes)


def _contestant(
    kind: str, name: str, calls: int, hashes: dict[str, dict[str, str]], play: Callable[[], tuple[float, str]]
) -> Contestant:
    def round_(_number: int) -> float:
        seconds, hashes[kind][name] = play()
        return _calls_in(calls) / seconds

    return Contestant(f"{kind}, {name}", "-", round_, "1/s")


def _many(
    kind: str, calls: int, question: str, storage: BlockingEventSessionStorage, hashes: dict[str, dict[str, str]]
) -> Contestant:
    def round_(_number: int) -> float:
        with (
            Replayer(storage, "bench") as replay,
            anthropic.Anthropic(api_key="none", middleware=[replay]) as client,
        ):
            began = time.process_time()
            seen = _ask_many(client, calls, question)
            seconds = time.process_time() - began
        hashes[kind]["replay"] = content_hash(seen)
        return calls / seconds

    return Contestant(f"{kind}, replay", "-", round_, "1/s")


def _record_many(path: Path, calls: int, question: str) -> None:
    api = ScriptedApi(lambda _body, number: Reply(content=f"It is number {number}."))
    with (
        BlockingEventSessionStorage(path, durability="os") as storage,
        Recorder(storage, session="bench") as recorder,
        api.client(middleware=[recorder]) as client,
    ):
        _ask_many(client, calls, question)


def _ask_many(client: anthropic.Anthropic, calls: int, question: str) -> list[bytes]:
    messages = ([{"role": "user", "content": question.format(number)}] for number in range(calls))
    return [_ask(client, each, stream=False) for each in messages]


def _replayed(
    storage: BlockingEventSessionStorage, calls: int, loading: list[float], *, stream: bool
) -> Callable[[], tuple[float, str]]:
    def play() -> tuple[float, str]:
        began = time.process_time()
        with Replayer(storage, "bench") as replay:
            loading.append(time.process_time() - began)
            with anthropic.Anthropic(api_key="none", middleware=[replay]) as client:
                return _timed(client, calls, stream=stream)

    return play


def _alone(bodies: list[tuple[bytes, str]], calls: int, *, stream: bool) -> Callable[[], tuple[float, str]]:
    def play() -> tuple[float, str]:
        answers: Iterator[tuple[bytes, str]] = iter(bodies)

        def answer(_request: httpx2.Request) -> httpx2.Response:
            body, kind = next(answers)
            return httpx2.Response(200, content=body, headers={"content-type": kind})

        own = anthropic.DefaultHttpxClient(transport=httpx2.MockTransport(answer), trust_env=False)
        with anthropic.Anthropic(api_key="none", http_client=own) as client:
            return _timed(client, calls, stream=stream)

    return play


def _record(path: Path, calls: int, *, stream: bool) -> list[tuple[bytes, str]]:
    """The bodies of the recorded program, with their content types."""
    numbers = itertools.count(1)
    api = ScriptedApi(lambda _body, _number: Reply(content=f"It is number {next(numbers)}."))
    with (
        BlockingEventSessionStorage(path, durability="os") as storage,
        Recorder(storage, session="bench") as recorder,
        api.client(middleware=[recorder]) as client,
    ):
        _program(client, calls, stream=stream)
    kind = "text/event-stream" if stream else "application/json"
    return [(getattr(call.answer, "body", b""), kind) for call in api.calls]


def _timed(client: anthropic.Anthropic, calls: int, *, stream: bool) -> tuple[float, str]:
    began = time.process_time()
    seen = _program(client, calls, stream=stream)
    return time.process_time() - began, content_hash(seen)


def _calls_in(calls: int) -> int:
    return calls + calls // 10


def _program(client: anthropic.Anthropic, calls: int, *, stream: bool) -> list[bytes]:
    seen = [_ask(client, [{"role": "user", "content": f"Which is {n}?"}], stream=stream) for n in range(calls)]
    history: list[Any] = []
    for number in range(calls // 10):
        history.append({"role": "user", "content": f"And then, {number}?"})
        seen.append(_ask(client, history, stream=stream))
        history.append({"role": "assistant", "content": seen[-1].decode()})
    return seen


def _ask(client: anthropic.Anthropic, messages: list[Any], *, stream: bool) -> bytes:
    if stream:
        with client.messages.stream(messages=messages, **ASK) as events:
            return str(events.get_final_text()).encode()
    (block,) = client.messages.create(messages=messages, **ASK).content
    assert block.type == "text", "that is what was scripted"
    return str(block.text).encode()


if __name__ == "__main__":
    run_alone("replay", run)
