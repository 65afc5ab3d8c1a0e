"""Whatever went wrong with a call goes wrong again in a replay, in the same way, and without its waiting times."""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Any

import anthropic
import httpx2
import pytest
from anthropic._base_client import BaseClient

from eventstore import MemoryEventLog
from session.events import RequestSent, ResponseInterrupted
from session.recording import Recorder
from session.replay import Replayer
from session.storage import EventSessionStorage
from session.storage._now import run_now
from session.testing import Cut, Exact, Failure, Reply, ScriptedApi, StreamError, calls, says, thinks
from tests.session.recording.kit import ASK, in_memory, stored_of, user
from tests.session.replay.kit import record, replay, run

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCKS: Any = [thinks("Hm."), says("Some text."), calls("add", {"a": 1}, "toolu_1")]

FAILURES: dict[str, Any] = {
    "429 then well": [Failure(status=429, retry_after_seconds=0.01), Reply(content=BLOCKS)],
    "529 to the end": [Failure(status=529)] * 3,
    "500 with a body that breaks": [Failure(status=500, cut=Cut(after_bytes=9, how="reset"))] * 3,
    "400": [Failure(status=400, message="No.")],
    "401": [Failure(status=401)],
    "no answer": [Cut(how="close")] * 3,
    "reset, then well": [Cut(how="reset"), Reply(content=BLOCKS)],
    "an error event": [Reply(content=BLOCKS, error=StreamError(after_events=6))],
    "an error event at the end": [Reply(content=BLOCKS, error=StreamError())],
    "cut in good order": [Reply(content=BLOCKS, cut=Cut(after_events=7))],
    "cut in good order in the middle of an event": [Reply(content=BLOCKS, cut=Cut(after_bytes=400))],
    "502 with a page of a proxy": [Exact(body=b"<html>Bad Gateway</html>", status=502, content_type="text/html")] * 3,
    "401 with a word": [Exact(body=b"Unauthorized", status=401, content_type="text/plain")],
    "404 with text like a live session's": [Exact(body=b"NotFound: no such thing", status=404)],
    "429 with another JSON, then well": [Exact(body=b'{"type":"rate_limited","message":"slow"}', status=429), "Well."],
    "400 with next to an exception's name": [Exact(body=b'{"type":"bad_request"}', status=400)],
    "503 without a body": [Exact(body=b"", status=503)] * 3,
    "an error event in another form": [Exact(body=b'event: error\ndata: {"type":"Overloaded"}\n\n')],
    "an error event of a word": [Exact(body=b"event: error\ndata: Overloaded\n\n")],
    "a page of a proxy": [Exact(body=b"<html>", content_type="text/html")],
    "a word that says it is JSON": [Exact(body=b"not json", content_type="application/json")],
    "nothing that says it is JSON": [Exact(body=b"", content_type="application/json")],
    "JSON that says it is a page": [Exact(body=b'{"type":"oops"', content_type="text/html")],
    "no content": [Exact(body=b"", status=204, content_type="application/json")],
    "a redirect": [Exact(body=b"It moved.", status=302, content_type="text/plain")],
    "a body that cannot be decompressed": [
        Exact(body=b"junk", headers={"content-encoding": "gzip"}, content_type="application/json")
    ],
    "closed": [Reply(content=BLOCKS, cut=Cut(after_events=7, how="close"))],
    "reset": [Reply(content=BLOCKS, cut=Cut(after_events=9, how="reset"))],
    "nothing at all": [Exact(body=b"")],
}


def outcome(call: Callable[[], Any]) -> tuple[str, Any]:
    """A value, or the error's kind and text and what a program can read in it."""
    try:
        return "value", call()
    except (anthropic.APIError, httpx2.HTTPError, ValueError) as error:
        return type(error).__name__, getattr(error, "body", None)


def plain(client: anthropic.Anthropic) -> Any:
    def call() -> Any:
        answer: Any = client.messages.create(messages=[user("Go")], **ASK)
        return answer if isinstance(answer, str) else answer.to_json()

    return outcome(call)


def streamed(client: anthropic.Anthropic) -> Any:
    seen: list[str] = []

    def call() -> None:
        for event in client.messages.create(messages=[user("Go")], stream=True, **ASK):
            seen.append(event.to_json())  # noqa: PERF401 - what came before the error counts

    return outcome(call), seen


async def streamed_async(client: anthropic.AsyncAnthropic) -> Any:
    seen: list[str] = []
    try:
        async for event in await client.messages.create(messages=[user("Go")], stream=True, **ASK):
            seen.append(event.to_json())  # noqa: PERF401 - what came before the error counts
    except (anthropic.APIError, httpx2.HTTPError, UnicodeDecodeError) as error:
        return (type(error).__name__, getattr(error, "body", None)), seen
    return ("value", None), seen


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the SDK means to wait between attempts, which it then does not."""
    calculate = BaseClient._calculate_retry_timeout
    found: list[float] = []

    def spy(client: Any, *arguments: Any) -> float:
        found.append(calculate(client, *arguments))
        return 0

    monkeypatch.setattr(BaseClient, "_calculate_retry_timeout", spy)
    return found


@pytest.mark.parametrize("program", [plain, streamed, streamed_async])
@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_happens_again(name: str, program: Any, waits: list[float]) -> None:
    storage, root, recorded = record(program, FAILURES[name])
    recorded_waits = waits.copy()
    waits.clear()
    replayed = replay(program, storage, root)
    if "Retried" in str(replayed):
        pytest.fail("the SDK gave up where it had gone on")
    assert replayed == recorded
    assert len(waits) == len(recorded_waits)
    assert sum(waits) < 0.01, "the SDK's own wait is half a second and more"


WAITS: dict[str, tuple[Any, float]] = {
    "a header says how long": (Failure(status=429, retry_after_seconds=3), 3.0),
    "a header says it in milliseconds": (Exact(body=b"{}", status=429, headers={"retry-after-ms": "2500"}), 2.5),
    "the SDK chose": (Exact(body=b"{}", status=529), 1.0),
    "the SDK chose, without an answer": (Cut(how="reset"), 1.0),
}


@pytest.mark.parametrize("speed", [1, 10, "max"])
@pytest.mark.parametrize("name", WAITS)
def test_the_wait_between_two_attempts_is_as_much_shorter_as_the_rest(
    name: str, speed: Any, waits: list[float]
) -> None:
    failure, waited = WAITS[name]
    seconds = itertools.count(1_000)
    storage = EventSessionStorage(MemoryEventLog(clock=lambda: next(seconds) * 10**9))
    api = ScriptedApi([failure, "Well."])
    recorder = Recorder(storage, session="r")
    recorded = run(plain, api.client, recorder)
    waits.clear()
    assert replay(plain, storage, "r", speed=speed) == recorded
    assert waits == [pytest.approx(0 if speed == "max" else waited / speed, abs=0.001)]


@pytest.mark.parametrize("step", [23, pytest.param(1, marks=pytest.mark.slow)])
def test_a_stream_cut_at_any_byte_is_cut_there_again(step: int) -> None:
    whole: Any = ScriptedApi([Reply(content=[says("Hé")])])
    streamed(whole.client())
    body = whole.calls[0].answer.body
    places = range(0, len(body), step)

    def program(client: anthropic.Anthropic) -> list[Any]:
        found = []
        for cut in places:
            seen: list[str] = []
            with contextlib.suppress(UnicodeDecodeError):
                for event in client.messages.create(messages=[user(f"Ask {cut}")], stream=True, **ASK):
                    seen.append(event.to_json())  # noqa: PERF401
            found.append(seen)
        return found

    storage, root, recorded = record(program, [Exact(body=body, cut=Cut(after_bytes=cut)) for cut in places])
    assert replay(program, storage, root) == recorded


def test_a_refused_connection_and_a_timeout_are_raised_again_with_what_caused_them() -> None:
    errors = [
        b'{"type":"APIConnectionError","cause":"ConnectError","errno":111}',
        b'{"type":"APITimeoutError","cause":"ReadTimeout"}',
        b"APITimeoutError: as a live session writes it",
    ]
    for error, kind in zip(errors, ("APIConnectionError", "APITimeoutError", "APITimeoutError"), strict=True):
        storage, root, _ = record(plain, ["Well."])
        ((version, sent),) = [
            (stored.version, stored.event)
            for stored in stored_of(storage, root)
            if isinstance(stored.event, RequestSent)
        ]
        failed = run_now(storage.fork(root, at=version))
        run_now(storage.append(failed, [ResponseInterrupted(sent.request_id, "error", error=error)]))
        assert replay(plain, storage, failed, options={"max_retries": 0})[0] == kind
        with Replayer(storage, failed) as replayer:
            client = anthropic.Anthropic(api_key="none", max_retries=0, middleware=[replayer])
            with client, pytest.raises(anthropic.APIConnectionError) as raised:
                client.messages.create(messages=[user("Go")], **ASK)
        if b"cause" in error:
            cause = raised.value.__cause__
            assert type(cause).__name__ in {"ConnectError", "ReadTimeout"}
            assert cause is not None
            assert b"errno" not in error or getattr(cause.__cause__, "errno", None) == 111


@pytest.mark.parametrize("wrong", ["\ud800", float("nan")])
def test_a_request_that_cannot_be_written_fails_again(wrong: Any) -> None:
    def program(client: anthropic.Anthropic) -> Any:
        with pytest.raises(ValueError) as raised:  # noqa: PT011 - its kind is what counts
            client.messages.create(messages=[user("Go")], metadata={"user_id": wrong}, **ASK)
        return type(raised.value)

    storage, root, recorded = record(program, [])
    assert replay(program, storage, root) == recorded


def test_the_pieces_of_a_stream_and_their_times_are_the_recorded_ones() -> None:
    storage = in_memory()
    recorder = Recorder(storage)
    api = ScriptedApi([Reply(content=[says("Some text, in pieces. " * 5)], chunk_seed=5)])
    with api.client(middleware=[recorder]) as client:
        recorded = _chunks(client)
    with (
        Replayer(storage, recorder.sessions[0], speed=1) as replayer,
        anthropic.Anthropic(api_key="none", middleware=[replayer]) as client,
    ):
        assert _chunks(client) == recorded
    assert len(recorded) > 5


def _chunks(client: anthropic.Anthropic) -> list[bytes]:
    with client.messages.with_streaming_response.create(messages=[user("Go")], stream=True, **ASK) as response:
        return list(response.http_response.iter_bytes())
