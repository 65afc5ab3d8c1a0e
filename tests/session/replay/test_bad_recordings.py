"""What cannot be replayed is told of: never a silent call, never a wait without an end."""

from __future__ import annotations

import asyncio
import pickle
from typing import TYPE_CHECKING, Any

import anthropic
import pytest

import session
from session.events import BlockReceived, RequestSent, ResponseInterrupted, ResponseReceived, UnknownEvent
from session.recording import Recorder
from session.replay import (
    NothingToReplayError,
    ReplayDivergedError,
    Replayer,
    ReplayOverError,
    ResponseNotRecordedError,
)
from session.state import SessionState
from session.storage import BlockingEventSessionStorage
from session.storage._now import run_now
from session.testing import Delay, Reply, ScriptedApi, says
from tests.session.recording.kit import ASK, events_of, in_memory, stored_of, user
from tests.session.replay.kit import diverges, record, replay

if TYPE_CHECKING:
    from pathlib import Path

    from session.events import AnyEvent
    from session.storage import EventSessionStorage


def plain(client: anthropic.Anthropic) -> str:
    return str(client.messages.create(messages=[user("Go")], **ASK).to_json())


def streamed(client: anthropic.Anthropic) -> list[str]:
    return [event.to_json() for event in client.messages.create(messages=[user("Go")], stream=True, **ASK)]


def left(client: anthropic.Anthropic) -> list[str]:
    seen: list[str] = []
    with client.messages.stream(messages=[user("Go")], **ASK) as stream:
        for event in stream:
            seen.append(event.type)
            if event.type == "content_block_stop":
                break
    return seen


def nothing(_client: anthropic.Anthropic) -> None:
    """Sends nothing."""


def altered(program: Any, script: Any, alter: Any) -> tuple[EventSessionStorage, str]:
    """A recording of *program* with other events: those that *alter* makes of each."""
    storage, root, _ = record(program, script)
    other = in_memory()
    events: list[AnyEvent] = [found for event in events_of(storage, root) for found in alter(event)]
    run_now(other.append(root, events, expected=0))
    return other, root


def without_end(event: AnyEvent) -> list[AnyEvent]:
    return [] if isinstance(event, ResponseReceived | ResponseInterrupted) else [event]


def lost(event: AnyEvent) -> list[AnyEvent]:
    return [ResponseInterrupted(event.request_id, "lost")] if isinstance(event, ResponseReceived) else [event]


def of_another_format(event: AnyEvent) -> list[AnyEvent]:
    if not isinstance(event, ResponseReceived):
        return [event]
    return [ResponseReceived(event.request_id, content=event.content, chunks=b"\x09" + event.chunks)]


@pytest.mark.parametrize(
    ("alter", "reason"),
    [(without_end, "still being received"), (lost, "died"), (of_another_format, "account of chunks")],
)
@pytest.mark.parametrize("program", [plain, streamed])
def test_a_request_without_a_readable_response_is_an_error_when_it_is_made(
    alter: Any, reason: str, program: Any
) -> None:
    storage, root = altered(program, ["Well."], alter)
    with pytest.raises(ResponseNotRecordedError, match=reason) as raised:
        replay(program, storage, root)
    (version,) = [each.version for each in stored_of(storage, root) if isinstance(each.event, RequestSent)]
    assert (raised.value.session_id, raised.value.version) == (root, version)
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


def test_a_recording_without_its_last_response_can_be_gone_on_with_live(caplog: pytest.LogCaptureFixture) -> None:
    storage, root = altered(plain, ["Well."], without_end)
    api = ScriptedApi(["Better."])
    with Replayer(storage, root, on_divergence="live") as replayer, api.client(middleware=[replayer]) as client:
        assert "Better." in plain(client)
        assert replayer.live is not None
        assert len(replayer.live.sessions) == 1
    assert f"going on live: {root}@" in caplog.text
    assert "nothing was sent" not in caplog.text


def test_events_of_a_later_version_are_passed_over() -> None:
    later = UnknownEvent("later", b"\x80")
    storage, root = altered(plain, ["Well."], lambda event: [event, later])
    assert "Well." in replay(plain, storage, root)


def test_another_version_of_the_sdk_is_mentioned_where_requests_differ() -> None:
    def older(event: AnyEvent) -> list[AnyEvent]:
        if isinstance(event, RequestSent):
            headers = b'{"anthropic-version":"2023-01-01"}'
            return [RequestSent(event.request_id, event.messages, digest=b"?" * 32, headers=headers)]
        return [event]

    storage, root = altered(plain, ["Well."], older)
    error = diverges(plain, storage, root)
    assert "anthropic-version was 2023-01-01" in str(error)


def test_a_program_that_sends_nothing_is_told_what_it_did_not_call() -> None:
    storage, root, _ = record(plain, ["Well."])
    error = diverges(nothing, storage, root)
    assert (error.cause, error.session_id, error.frame != "") == ("missing call", root, True)


def test_more_calls_than_recorded_are_refused_in_every_way() -> None:
    def twice(client: anthropic.Anthropic) -> None:
        plain(client)
        plain(client)

    storage, root, _ = record(plain, ["Well."])
    error = diverges(twice, storage, root)
    assert (error.cause, error.version) == ("extra call", len(stored_of(storage, root)))
    assert "equals" in str(error)


def test_a_stream_that_the_program_left_ends_there() -> None:
    storage, root, recorded = record(left, [Reply(content=[says("One."), says("Two.")])])
    assert replay(left, storage, root) == recorded

    def further(client: anthropic.Anthropic) -> list[str]:
        with client.messages.stream(messages=[user("Go")], **ASK) as stream:
            return [event.type for event in stream]

    with pytest.raises(ResponseNotRecordedError, match="left this stream here"):
        replay(further, storage, root)


def test_a_stream_that_was_left_before_its_first_event_is_left_again() -> None:
    def looks_away(client: anthropic.Anthropic) -> str:
        with client.messages.stream(messages=[user("Go")], **ASK):
            pass
        return str(client.messages.create(messages=[user("Well?")], **ASK).to_json())

    storage, root, recorded = record(looks_away, ["One.", "Two."])
    assert replay(looks_away, storage, root) == recorded
    with pytest.raises(ResponseNotRecordedError, match="left this stream here"):
        replay(streamed, storage, root)


def test_a_stream_that_was_left_is_no_answer_to_one_who_asks_for_a_whole_response() -> None:
    storage, root, _ = record(left, [Reply(content=[says("One."), says("Two.")])])
    with pytest.raises(ResponseNotRecordedError, match="only be asked for as a stream"):
        replay(plain, storage, root)


def test_a_fork_is_replayed_when_what_it_was_forked_from_is_deleted() -> None:
    storage, root, recorded = record(plain, ["Well."])
    fork = run_now(storage.fork(root))
    run_now(storage.delete(root))
    assert replay(plain, storage, fork) == recorded
    with pytest.raises(session.SessionDeletedError):
        Replayer(storage, root)


def test_calls_that_go_live_without_being_recorded_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    storage, root, recorded = record(plain, ["Well."])
    api = ScriptedApi([])
    with Replayer(storage, root, on_divergence="live") as replayer, api.client(middleware=[replayer]) as client:
        with pytest.raises(anthropic.NotFoundError):
            client.messages.count_tokens(model="claude-sonnet-5-5", messages=[user("How long?")])
        assert plain(client) == recorded
    assert "sent live, and not recorded: POST /v1/messages/count_tokens" in caplog.text


def test_a_call_that_was_cancelled_before_its_answer_does_not_hang() -> None:
    storage = in_memory()
    recorder = Recorder(storage)

    async def main() -> None:
        api = ScriptedApi([Reply(content="Late.", delay=Delay(before_seconds=30))])
        async with api.async_client(middleware=[recorder]) as client:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.messages.create(messages=[user("Go")], **ASK), 0.05)

    asyncio.run(main())

    async def again(client: anthropic.AsyncAnthropic) -> None:
        await client.messages.create(messages=[user("Go")], **ASK)

    with pytest.raises(ResponseNotRecordedError, match="cancelled"):
        replay(again, storage, recorder.sessions[0])


def test_other_endpoints_are_refused() -> None:
    def counting(client: anthropic.Anthropic) -> None:
        client.messages.count_tokens(model="claude-sonnet-5-5", messages=[user("How long?")])

    storage, root, _ = record(plain, ["Well."])
    error = diverges(counting, storage, root)
    assert "/v1/messages/count_tokens: only calls of the Messages API are recorded" in str(error)


def test_a_replay_that_is_over_serves_nothing() -> None:
    storage, root, _ = record(plain, ["Well."])
    with Replayer(storage, root) as replayer, anthropic.Anthropic(api_key="none", middleware=[replayer]) as client:
        plain(client)
        replayer.close()
        with pytest.raises(ReplayOverError):
            plain(client)


def test_an_exception_of_the_program_is_not_covered_by_what_it_did_not_call() -> None:
    storage, root, _ = record(plain, ["Well."])
    with pytest.raises(ZeroDivisionError), Replayer(storage, root):
        _ = 1 // 0


def test_what_is_no_recording_is_refused_at_once(tmp_path: Path) -> None:
    storage = in_memory()
    run_now(storage.save(SessionState.new("saved", messages=[user("Hello")])))
    with pytest.raises(NothingToReplayError):
        Replayer(storage, "saved")
    with pytest.raises(session.SessionNotFoundError):
        Replayer(storage, "none")
    with pytest.raises(Exception, match=r"(?i)no log"):
        Replayer(tmp_path / "none", "any")
    storage, root, _ = record(plain, ["Well."])
    for options in ({"speed": 0}, {"speed": "fast"}, {"on_divergence": "guess"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            Replayer(storage, root, **options)
    with pytest.raises(TypeError, match="event-sourced"):
        Replayer(session.MemorySessionStorage(), root)  # type: ignore[arg-type]
    with pytest.raises(session.PlaceNotFoundError):
        Replayer(storage, root, after=999)
    with pytest.raises(NothingToReplayError, match="behind version"):
        Replayer(storage, root, after=-1)


def test_a_redacted_recording_is_replayed_with_the_same_redaction() -> None:
    def redact(text: str) -> str:
        return text.replace("secret", "XXX")

    def program(client: anthropic.Anthropic) -> Any:
        first = client.messages.create(messages=[user("the secret")], **ASK)
        history = [user("the secret"), {"role": "assistant", "content": first.content}, user("More")]
        with client.messages.stream(messages=history, **ASK) as stream:
            return stream.get_final_text()

    storage, root, _ = record(program, ["A secret too.", "No secret here."], redact=redact)
    assert replay(program, storage, root, redact=redact) == "No XXX here."
    assert diverges(program, storage, root).cause == "message edited"


def test_a_path_is_opened_and_closed(tmp_path: Path) -> None:
    with Recorder(tmp_path / "log", session="agent") as recorder:
        plain(ScriptedApi(["Well."]).client(middleware=[recorder]))
    for _ in range(2):
        assert "Well." in replay(plain, tmp_path / "log", "agent")  # type: ignore[arg-type]
    with BlockingEventSessionStorage(tmp_path / "log") as storage:
        assert "Well." in replay(plain, storage, "agent")  # type: ignore[arg-type]


def test_a_divergence_is_an_error_of_this_package() -> None:
    assert issubclass(ReplayDivergedError, session.SessionError)
    assert BlockReceived.type == "block_received"
