"""Whatever goes wrong with a call is recorded as it was, and the program sees what it would have seen without us."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from typing import TYPE_CHECKING, Any

import anthropic
import httpx2
import pytest
from anthropic._base_client import BaseClient

import eventstore
from session import jsontext
from session.errors import RecordingFailedError, SessionDeletedError
from session.events import BlockReceived, RequestSent, ResponseInterrupted, ResponseReceived
from session.recording import Recorder
from session.response import Assembly
from session.storage import BlockingEventSessionStorage, EventSessionStorage
from session.storage._now import run_now
from session.testing import Cut, Delay, Exact, Failure, Reply, ScriptedApi, StreamError, calls, says, thinks
from tests.session.recording.kit import ASK, body_of, events_of, in_memory, state_of, types_of, user

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from session.events import AnyEvent
    from session.testing.script import Step


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between attempts the SDK waits half a second and more."""
    monkeypatch.setattr(BaseClient, "_calculate_retry_timeout", lambda *_: 0)


BLOCKS: Any = [thinks("Hm."), says("Some text."), calls("add", {"a": 1}, "toolu_1")]


def outcome(call: Callable[[], Any]) -> tuple[str, Any]:
    """What a program gets: a value or the error's kind and text."""
    try:
        return "value", call()
    except (anthropic.APIError, httpx2.HTTPError) as error:
        return type(error).__name__, str(error)


def plain(client: anthropic.Anthropic) -> Any:
    answer: Any = client.messages.create(messages=[user("Go")], **ASK)
    return answer if isinstance(answer, str) else answer.to_json()


def streamed(client: anthropic.Anthropic) -> Any:
    return [event.to_json() for event in client.messages.create(messages=[user("Go")], stream=True, **ASK)]


def streamed_async(client: anthropic.AsyncAnthropic) -> Any:
    async def main() -> Any:
        async with client:
            stream = await client.messages.create(messages=[user("Go")], stream=True, **ASK)
            return [event.to_json() async for event in stream]

    return asyncio.run(main())


FAILURES: list[tuple[str, Step | list[Step], list[str]]] = [
    ("429 then well", [Failure(status=429), Reply(content=BLOCKS)], ["error 429", "answer"]),
    ("529 to the end", [Failure(status=529)] * 3, ["error 529"] * 3),
    ("500 with a body that breaks", [Failure(status=500, cut=Cut(after_bytes=9, how="reset"))] * 3, ["error 500"] * 3),
    ("400", Failure(status=400, message="No."), ["error 400"]),
    ("401", Failure(status=401), ["error 401"]),
    ("no answer", [Cut(how="close")] * 3, ["error 0"] * 3),
    ("reset, then well", [Cut(how="reset"), Reply(content=BLOCKS)], ["error 0", "answer"]),
    ("an error event", Reply(content=BLOCKS, error=StreamError(after_events=6)), ["error 200"]),
    ("an error event at the end", Reply(content=BLOCKS, error=StreamError()), ["error 200"]),
    ("cut in good order", Reply(content=BLOCKS, cut=Cut(after_events=7)), ["cut 200"]),
    ("cut in a character", Reply(content="größer", cut=Cut(after_bytes=700)), ["cut 200"]),
    ("closed", Reply(content=BLOCKS, cut=Cut(after_events=7, how="close")), ["cut 200"]),
    ("reset", Reply(content=BLOCKS, cut=Cut(after_events=9, how="reset")), ["cut 200"]),
    ("nothing at all", Exact(body=b""), ["cut 200"]),
]


def told(events: list[AnyEvent]) -> list[str]:
    """What became of each attempt."""
    found = []
    for event in events:
        if isinstance(event, ResponseInterrupted):
            found.append(f"{event.reason} {event.status}")
        elif isinstance(event, ResponseReceived):
            found.append("answer")
    return found


@pytest.mark.parametrize(("name", "script", "recorded"), FAILURES, ids=[name for name, _, _ in FAILURES])
def test_a_failure_is_recorded_as_it_was_and_seen_as_it_would_have_been(
    name: str, script: Any, recorded: list[str]
) -> None:
    steps = script if isinstance(script, list) else [script]
    expected = outcome(lambda: streamed(ScriptedApi(steps).client(max_retries=2)))
    for run in (streamed, streamed_async):
        storage, api = in_memory(), ScriptedApi(steps)
        recorder = Recorder(storage)
        make: Any = api.client if run is streamed else api.async_client
        client = make(middleware=[recorder], max_retries=2)
        seen = outcome(lambda run=run, client=client: run(client))  # type: ignore[misc]
        if "body that breaks" in name:  # the SDK alone retries on the status; so it does here
            assert seen[0] == "APIConnectionError"
        else:
            assert seen == expected
        (session_id,) = recorder.sessions
        events = events_of(storage, session_id)
        assert told(events) == recorded
        requests = [event for event in events if isinstance(event, RequestSent)]
        assert [request.attempt for request in requests] == list(range(1, len(recorded) + 1))
        assert len({request.request_id for request in requests}) == 1
        state = state_of(storage, session_id)
        assert len(state.messages) == (2 if recorded[-1] == "answer" else 1)
        assert state.status != "running"


@pytest.mark.parametrize("step", [Failure(status=429), Cut(how="close"), Reply(content="Well."), Exact(body=b"<html>")])
def test_failures_of_plain_calls_are_recorded_too(step: Any) -> None:
    expected = outcome(lambda: plain(ScriptedApi([step]).client()))
    storage, api = in_memory(), ScriptedApi([step])
    recorder = Recorder(storage)
    assert outcome(lambda: plain(api.client(middleware=[recorder]))) == expected
    assert state_of(storage, recorder.sessions[0]).status != "running"


def test_an_error_is_never_its_own_cause() -> None:
    step = Exact(body=b'{"type":"message"', content_type="application/json", cut=Cut(after_bytes=9, how="reset"))
    client = ScriptedApi([step]).client(middleware=[Recorder(in_memory())])
    with pytest.raises(httpx2.HTTPError) as raised:
        list(client.messages.create(messages=[user("Go")], stream=True, **ASK))
    error: BaseException | None = raised.value
    causes = []
    while error is not None and error not in causes:
        causes.append(error)
        error = error.__cause__
    assert error is None


@pytest.mark.parametrize("status", [200, 502])
def test_of_a_content_type_nothing_is_kept_but_whether_it_is_json(status: int) -> None:
    storage, api = (
        in_memory(),
        ScriptedApi([Exact(body=b"No.", status=status, content_type="application/x-SECRET+json")]),
    )
    recorder = Recorder(storage)
    with contextlib.suppress(anthropic.APIError, ValueError):
        plain(api.client(middleware=[recorder], max_retries=0))
    (cut,) = [event for event in events_of(storage, recorder.sessions[0]) if isinstance(event, ResponseInterrupted)]
    assert jsontext.parse(cut.headers)["content-type"] == "application/json"
    assert b"SECRET" not in repr(cut).encode()


def test_the_exact_body_of_an_error_is_kept_with_the_headers_that_say_when_to_try_again() -> None:
    storage = in_memory()
    api = ScriptedApi([Failure(status=429, message="Slow down, größer", retry_after_seconds=7)])
    recorder = Recorder(storage)
    with pytest.raises(anthropic.RateLimitError):
        plain(api.client(middleware=[recorder]))
    interrupted = events_of(storage, recorder.sessions[0])[-1]
    assert isinstance(interrupted, ResponseInterrupted)
    answer: Any = api.calls[0].answer
    assert interrupted.error == answer.body
    kept = jsontext.parse(interrupted.headers)
    assert (kept["retry-after"], "request-id" in kept) == ("7", True)
    assert {name.split("-")[0] for name in kept} <= {"retry", "request", "x", "anthropic"}


@pytest.mark.parametrize("step", [17, pytest.param(1, marks=pytest.mark.slow)])
def test_a_stream_cut_at_any_byte_keeps_every_whole_block_and_every_chunk(step: int) -> None:
    content: Any = [says("Hé"), calls("add", {"a": 1}, "toolu_1")]
    whole: Any = ScriptedApi([Reply(content=content)])
    streamed(whole.client())
    body = whole.calls[0].answer.body
    storage = in_memory()
    recorder = Recorder(storage)
    cuts = [Exact(body=body, cut=Cut(after_bytes=cut)) for cut in range(0, len(body), step)]
    client = ScriptedApi(cuts).client(middleware=[recorder])
    for cut in range(0, len(body), step):
        seen = []
        with contextlib.suppress(UnicodeDecodeError):  # of the SDK, if half a character is what came last
            for event in client.messages.create(messages=[user(f"Ask {cut}")], stream=True, **ASK):
                seen.append(event.to_json())  # noqa: PERF401 - what came before the error counts
        events = events_of(storage, recorder.sessions[-1])
        interrupted = events[-1]
        stopped = sum('"content_block_stop"' in event.replace(" ", "") for event in seen)
        assert isinstance(interrupted, ResponseInterrupted | ResponseReceived), cut
        assert len([event for event in events if isinstance(event, BlockReceived)]) == stopped
        assert isinstance(interrupted, ResponseReceived) == any('"message_stop"' in event for event in seen)
        assert b"".join(body_of(interrupted, events)) == body[:cut]
        assembly = Assembly()
        for event in body[:cut].split(b"\n\n")[:-1]:
            assembly.feed(event.partition(b"data: ")[2])
        if isinstance(interrupted, ResponseInterrupted):
            assert interrupted.partial == assembly.partial


def test_a_connection_that_is_refused_and_a_time_out_are_named_without_their_texts() -> None:
    storage = in_memory()
    recorder = Recorder(storage)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://user:secret@127.0.0.1:{taken.getsockname()[1]}"
        client = anthropic.Anthropic(api_key="k", base_url=address, max_retries=0, middleware=[recorder])
        with client, pytest.raises(anthropic.APIConnectionError):
            plain(client)
    with ScriptedApi([Reply(content="Late.", delay=Delay(before_seconds=5))]).serve() as server:
        client = server.client(middleware=[recorder], timeout=0.05)
        with client, pytest.raises(anthropic.APITimeoutError):
            client.messages.create(messages=[user("Other")], **ASK)
    failed = [events_of(storage, each)[-1] for each in recorder.sessions]
    assert [jsontext.parse(each.error) for each in failed if isinstance(each, ResponseInterrupted)] == [
        {"type": "APIConnectionError", "cause": "ConnectError", "errno": 111},
        {"type": "APITimeoutError", "cause": "ReadTimeout"},
    ]


def test_a_stream_that_the_program_leaves_is_recorded_as_far_as_it_was_seen() -> None:
    storage = in_memory()
    recorder = Recorder(storage)
    client = ScriptedApi([Reply(content=BLOCKS), "Again."]).client(middleware=[recorder])
    with client.messages.stream(messages=[user("Go")], **ASK) as stream:
        for event in stream:
            if event.type == "content_block_stop":
                break
    (session_id,) = recorder.sessions
    assert told(events_of(storage, session_id)) == ["cancelled 200"]
    assert types_of(storage, session_id).count("block_received") == 1
    client.messages.create(messages=[user("Go")], **ASK)
    assert recorder.sessions == [session_id]
    assert [message["content"] for message in state_of(storage, session_id).messages] == ["Go", [says("Again.")]]


def test_a_cancelled_task_leaves_its_call_closed_in_the_log(tmp_path: Path) -> None:
    async def main() -> None:
        async with EventSessionStorage(tmp_path / "log") as storage:
            recorder = Recorder(storage)
            held = Reply(content=BLOCKS, delay=Delay(hold_after_events=8))
            late = Reply(content="Late.", delay=Delay(before_seconds=30))
            came, called = asyncio.Event(), asyncio.Event()
            api = ScriptedApi([held, late], on_call=lambda call: called.set() if call.number > 1 else None)
            async with api.async_client(middleware=[recorder]) as client:

                async def read(ask: str) -> None:
                    stream = await client.messages.create(messages=[user(ask)], stream=True, **ASK)
                    async for event in stream:
                        if event.type == "content_block_stop":
                            came.set()

                reading = asyncio.create_task(read("Go"))
                await came.wait()
                reading.cancel()
                waiting = asyncio.create_task(read("Other"))
                await called.wait()
                waiting.cancel()
                await asyncio.gather(reading, waiting, return_exceptions=True)
            for session_id in recorder.sessions:
                last = [stored.event async for stored in storage.events(session_id)][-1]
                assert isinstance(last, ResponseInterrupted)
                assert last.reason == "cancelled"

    asyncio.run(main())


# --- our own failures -------------------------------------------------------------------------------------------------


def test_what_cannot_be_recorded_is_not_sent(tmp_path: Path) -> None:
    api = ScriptedApi(["One.", "Two."])
    recorder = Recorder(tmp_path / "log")
    recorder.close()
    with pytest.raises(RecordingFailedError, match="nothing was sent") as raised:
        plain(api.client(middleware=[recorder], max_retries=2))
    assert not raised.value.sent
    assert isinstance(raised.value.__cause__, eventstore.EventStoreError)
    assert api.calls == []


def test_a_recorder_that_goes_on_says_what_it_could_not_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    api = ScriptedApi([Reply(content=BLOCKS)] * 3)
    recorder = Recorder(tmp_path / "log", on_failure="go_on")
    client = api.client(middleware=[recorder])
    stream = client.messages.create(messages=[user("Go")], stream=True, **ASK)
    recorder.close()
    assert len(list(stream)) > 9
    plain(client)
    assert [failure.sent for failure in recorder.failures] == [True, False]
    assert "not recorded" in caplog.text


def test_a_response_that_cannot_be_recorded_is_not_shown_as_if_it_were(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "log")
    stream = (
        ScriptedApi([Reply(content=BLOCKS)])
        .client(middleware=[recorder])
        .messages.create(messages=[user("Go")], stream=True, **ASK)
    )
    recorder.close()
    seen: list[str] = []
    with pytest.raises(RecordingFailedError, match="had been sent"):
        seen.extend(event.type for event in stream)
    assert "content_block_stop" not in seen


def test_a_session_that_was_deleted_meanwhile_is_an_error_and_then_another_session() -> None:
    storage = in_memory()
    recorder = Recorder(storage)
    client = ScriptedApi(["One.", "Two.", "Three."]).client(middleware=[recorder])
    plain(client)
    run_now(storage.delete(recorder.sessions[0]))
    history = [user("Go"), {"role": "assistant", "content": "One."}, user("Next")]
    with pytest.raises(RecordingFailedError) as raised:
        client.messages.create(messages=history, **ASK)
    assert isinstance(raised.value.__cause__, SessionDeletedError)
    client.messages.create(messages=history, **ASK)
    assert len(state_of(storage, recorder.sessions[-1]).messages) == 4


def test_a_call_costs_two_durable_appends_and_one_per_block(tmp_path: Path) -> None:
    with BlockingEventSessionStorage(tmp_path / "log") as storage:
        recorder = Recorder(storage)
        script = [Reply(content=BLOCKS, chunk_bytes=size) for size in (10, 300, 9000)]
        client = ScriptedApi(script).client(middleware=[recorder])
        commits = [0]
        for _ in script:
            streamed(client)
            written = [event for event in storage.log.read_all(limit=1000) if isinstance(event, eventstore.Event)]
            commits.append(len({event.commit_id for event in written}))
        costs = [after - before for before, after in itertools.pairwise(commits)]
        assert costs[0] == len(BLOCKS) + 2, "each block ended in a chunk of its own"
        assert costs[1] <= len(BLOCKS) + 2, "a fork, in one commit with its request"
        assert costs[2] == 2, "all came in one chunk"
