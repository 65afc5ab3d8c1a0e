"""However a program reads its responses, or fails to, each call has its end in the log and the next one its place."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from anthropic import Anthropic, APIStatusError, AsyncAnthropic

from session.errors import RecordingFailedError
from session.events import BlockReceived, ResponseInterrupted, ResponseReceived
from session.recording import Recorder, _journal, chunks_of
from session.recording._server_sent import Splitter
from session.storage import BlockingEventSessionStorage, EventSessionStorage
from session.testing import Exact, Failure, Reply, ScriptedApi, says, wire
from tests.session.recording.kit import ASK, body_of, events_of, in_memory, state_of, user

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
    from pathlib import Path

    from session.events import AnyEvent

LONG = Reply(content="Some text. " * 30)
GO: Any = {"messages": [user("Go")], **ASK}


def ends(events: list[AnyEvent]) -> list[str]:
    """What became of each call."""
    return [
        "answer" if isinstance(event, ResponseReceived) else event.reason
        for event in events
        if isinstance(event, ResponseReceived | ResponseInterrupted)
    ]


# --- ways to read -----------------------------------------------------------------------------------------------------


def _raw(client: Anthropic) -> Any:
    return client.messages.with_raw_response.create(**GO).parse()


def _raw_stream(client: Anthropic) -> Any:
    return list(client.messages.with_raw_response.create(stream=True, **GO).parse())


def _lines(client: Anthropic) -> Any:
    with client.messages.with_streaming_response.create(stream=True, **GO) as response:
        return list(response.iter_lines())


def _read_at_once(client: Anthropic) -> Any:
    with client.messages.with_streaming_response.create(**GO) as response:
        return response.read()


def _not_read(client: Anthropic) -> Any:
    with client.messages.with_streaming_response.create(**GO) as response:
        return response.status_code


def _final_text(client: Anthropic) -> Any:
    with client.with_options(max_retries=0).beta.messages.stream(**GO) as stream:
        return stream.get_final_text()


@pytest.mark.parametrize("read", [_raw, _raw_stream, _lines, _read_at_once, _not_read, _final_text])
def test_every_way_to_read_an_answer_records_it(read: Callable[[Anthropic], Any]) -> None:
    expected = read(ScriptedApi([LONG]).client())
    storage = in_memory()
    recorder = Recorder(storage)
    assert read(ScriptedApi([LONG]).client(middleware=[recorder])) == expected
    assert ends(events_of(storage, recorder.sessions[0])) == ["answer"]


# --- ways to stop reading ---------------------------------------------------------------------------------------------


def _closed_unread(client: Anthropic) -> None:
    client.messages.create(stream=True, **GO).close()


def _closed_in_between(client: Anthropic) -> None:
    with client.messages.create(stream=True, **GO) as stream:
        next(iter(stream))


def _an_error_of_the_program(client: Anthropic) -> None:
    with pytest.raises(ZeroDivisionError):
        _fail_at_first(client)


def _fail_at_first(client: Anthropic) -> None:
    with client.messages.create(stream=True, **GO) as stream:
        for number, _ in enumerate(stream):
            print(1 // number)


def _text_left(client: Anthropic) -> None:
    with client.messages.stream(**GO) as stream:
        next(iter(stream.text_stream))


def _left_to_the_collector(client: Anthropic) -> None:
    next(iter(client.messages.create(stream=True, **GO)))
    gc.collect()


def _never_read(client: Anthropic) -> None:
    client.messages.create(stream=True, **GO)
    gc.collect()


@pytest.mark.parametrize(
    "leave",
    [_closed_unread, _closed_in_between, _an_error_of_the_program, _text_left, _left_to_the_collector, _never_read],
)
def test_a_stream_that_is_left_in_any_way_is_over_when_the_next_call_begins(
    leave: Callable[[Anthropic], None],
) -> None:
    storage = in_memory()
    recorder = Recorder(storage)
    client = ScriptedApi([LONG, "Again."]).client(middleware=[recorder])
    leave(client)
    client.messages.create(**GO)
    (session_id,) = recorder.sessions
    assert ends(events_of(storage, session_id)) == ["cancelled", "answer"]
    assert len(state_of(storage, session_id).messages) == 2


def test_an_asynchronous_stream_that_nobody_reads_is_over_when_the_recorder_is_closed(tmp_path: Path) -> None:
    async def main(client: AsyncAnthropic) -> None:
        async with client:
            await client.messages.create(stream=True, **GO)
            gc.collect()

    with BlockingEventSessionStorage(tmp_path / "log") as storage:
        with Recorder(storage) as recorder:
            asyncio.run(main(ScriptedApi([LONG]).async_client(middleware=[recorder])))
        assert ends([stored.event for stored in storage.events(recorder.sessions[0])]) == ["cancelled"]


# --- a `redact` that fails --------------------------------------------------------------------------------------------


def _fails_on(word: str) -> Callable[[str], str]:
    def redact(text: str) -> str:
        if word in text:
            raise ZeroDivisionError(text)
        return text

    return redact


@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_redacted_is_neither_stored_nor_lost_by_a_program_that_goes_on(stream: bool) -> None:
    for word, sent in (("Go", False), ("Some text", True), ("req_", True)):  # the last in a header
        storage = in_memory()
        recorder = Recorder(storage, redact=_fails_on(word), on_failure="go_on")
        answer: Any = ScriptedApi([LONG]).client(middleware=[recorder]).messages.create(stream=stream, **GO)
        whole: Any = ScriptedApi([LONG]).client().messages.create(stream=stream, **GO)
        assert (list(answer) if stream else answer) == (list(whole) if stream else whole)
        assert [failure.sent for failure in recorder.failures] == [sent]
        for session_id in recorder.sessions:
            events = events_of(storage, session_id)
            assert ends(events) == ["cancelled"]
            assert word not in repr(events)


@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_redacted_is_an_error_and_the_session_goes_on(stream: bool) -> None:
    storage = in_memory()
    recorder = Recorder(storage, redact=_fails_on("Some text"))
    client = ScriptedApi([LONG, "Again."]).client(middleware=[recorder])
    with pytest.raises(RecordingFailedError) as raised:
        list(client.messages.create(stream=stream, **GO))
    assert raised.value.sent
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    client.messages.create(**GO)
    (session_id,) = recorder.sessions
    assert ends(events_of(storage, session_id)) == ["cancelled", "answer"]


def test_an_error_whose_headers_cannot_be_redacted_is_what_it_was() -> None:
    storage = in_memory()
    recorder = Recorder(storage, redact=_fails_on("req_"), on_failure="go_on")
    client = ScriptedApi([Failure(status=529)]).client(max_retries=0, middleware=[recorder])
    with pytest.raises(APIStatusError, match="529"):
        client.messages.create(**GO)
    assert [failure.sent for failure in recorder.failures] == [True]
    assert ends(events_of(storage, recorder.sessions[0])) == ["cancelled"]


def test_a_request_that_cannot_be_redacted_is_not_sent() -> None:
    api = ScriptedApi(["Never."])
    recorder = Recorder(in_memory(), redact=_fails_on("Go"))
    with pytest.raises(RecordingFailedError, match="nothing was sent"):
        api.client(middleware=[recorder]).messages.create(**GO)
    assert (api.calls, recorder.sessions) == ([], [])


# --- many at once -----------------------------------------------------------------------------------------------------


def _answers(recorder: Recorder, storage: Any) -> int:
    return sum(ends([each.event for each in storage.events(name)]).count("answer") for name in recorder.sessions)


def test_threads_with_one_recorder_each_have_their_own_session(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def converse(client: Anthropic, number: int) -> None:
        history: list[Any] = []
        try:
            for ask in range(4):
                history.append(user(f"{number}.{ask}"))
                answer = client.messages.create(messages=history, **ASK)
                history.append({"role": "assistant", "content": answer.content})
        except BaseException as error:  # noqa: BLE001 - shown below
            errors.append(error)

    with BlockingEventSessionStorage(tmp_path / "log", durability="os") as storage:
        recorder = Recorder(storage)
        client = ScriptedApi(lambda _body, number: f"Answer {number}").client(middleware=[recorder])
        threads = [threading.Thread(target=converse, args=(client, number)) for number in range(8)]
        _run(threads)
        assert errors == []
        assert (len(recorder.sessions), _answers(recorder, storage)) == (8, 32)


def test_one_recorder_serves_two_event_loops_at_once(tmp_path: Path) -> None:
    async def ask(client: AsyncAnthropic) -> None:
        async with client:
            await asyncio.gather(*(client.messages.create(messages=[user(f"{n % 3}")], **ASK) for n in range(12)))

    def loop() -> None:
        asyncio.run(ask(ScriptedApi(lambda _body, number: f"Answer {number}").async_client(middleware=[recorder])))

    storage = EventSessionStorage(tmp_path / "log", durability="os")
    recorder = Recorder(storage)
    _run([threading.Thread(target=loop) for _ in range(2)])
    asyncio.run(storage.aclose())
    with BlockingEventSessionStorage(tmp_path / "log") as reopened:
        assert (len(recorder.sessions), _answers(recorder, reopened)) == (24, 24)


def _run(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def test_two_recorders_of_one_name_do_not_write_into_each_others_sessions(tmp_path: Path) -> None:
    with BlockingEventSessionStorage(tmp_path / "log", durability="os") as storage:
        recorders = [Recorder(storage, session="agent") for _ in range(2)]
        clients = [ScriptedApi(["One.", "Two."]).client(middleware=[recorder]) for recorder in recorders]
        for ask in ("first", "second"):
            for number, client in enumerate(clients):
                client.messages.create(messages=[user(f"{number} {ask}")], **ASK)
        first, second = (recorder.sessions for recorder in recorders)
        assert (len(first), len(second), set(first) & set(second)) == (2, 2, set())
        assert all(len(storage.load(name).messages) == 2 for name in [*first, *second])  # type: ignore[union-attr]


# --- programs that wait -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["path", "awaited"])
def test_a_program_that_fills_the_threads_of_its_loop_is_recorded_all_the_same(storage: str, tmp_path: Path) -> None:
    """Each thread waits for a call that must be recorded first."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(2))
        async with contextlib.AsyncExitStack() as stack:
            given: Any = tmp_path / "log"
            if storage == "awaited":
                given = await stack.enter_async_context(EventSessionStorage(given, durability="os"))
            recorder = stack.enter_context(Recorder(given))
            client = ScriptedApi(lambda _body, _number: "Yes.").async_client(middleware=[recorder])
            await client.messages.create(
                messages=[user("Begin")], **ASK
            )  # for the first one the SDK takes a thread, too

            def tool(number: int) -> Any:
                call = client.messages.create(messages=[user(f"Ask {number}")], **ASK)
                return asyncio.run_coroutine_threadsafe(call, loop).result(20)

            answers = await asyncio.gather(*[asyncio.to_thread(tool, number) for number in range(8)])
            assert [answer.content[0].text for answer in answers] == ["Yes."] * 8
            assert len(recorder.sessions) == 9

    asyncio.run(main())


def test_a_call_waits_once_for_one_that_begins_and_cannot_go_on_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A synchronous call on the loop keeps an asynchronous one of the same beginning from its end."""
    monkeypatch.setattr(_journal, "_PATIENCE_SECONDS", 0.05)

    async def main() -> list[str]:
        with Recorder(tmp_path / "log") as recorder:
            api = ScriptedApi(lambda _body, _number: "Yes.")
            beginning = asyncio.create_task(api.async_client(middleware=[recorder]).messages.create(**GO))
            while not recorder._calls._beginning:  # noqa: ASYNC110 - no event of ours
                await asyncio.sleep(0)
            api.client(middleware=[recorder]).messages.create(**GO)
            await beginning
            return recorder.sessions

    assert len(asyncio.run(main())) == 2


# --- streams that are none --------------------------------------------------------------------------------------------


def test_a_stream_that_breaks_the_rules_is_kept_to_its_end_as_the_program_saw_it() -> None:
    storage = in_memory()
    recorder = Recorder(storage)
    first = wire.events(wire.message(Reply(content="One."), model="m", key=b"1", usage=wire.usage(1, 0, 0, 0, 1)))
    body = b"".join([*first[:4], first[-3], first[3], *first[-3:-1]])  # a delta behind its block's end
    client = ScriptedApi([Exact(body=body)]).client(middleware=[recorder])
    with client.messages.with_streaming_response.create(stream=True, **GO) as response:
        seen = b"".join(response.iter_bytes())
    events = events_of(storage, recorder.sessions[0])
    (cut,) = [event for event in events if isinstance(event, ResponseInterrupted)]
    assert cut.reason == "cut"
    assert b"fault" in cut.error
    assert b"".join(body_of(cut, events)) == seen == body


def test_a_stream_with_two_blocks_of_one_index_can_be_read_back() -> None:
    storage = in_memory()
    recorder = Recorder(storage)
    blocks: list[Any] = [says("The first one, which is longer."), says("The second.")]
    events = wire.events(wire.message(Reply(content=blocks), model="m", key=b"1", usage=wire.usage(1, 0, 0, 0, 1)))
    body = b"".join(events).replace(b'"index":1', b'"index":0')
    client = ScriptedApi([Exact(body=body)]).client(middleware=[recorder])
    with client.messages.with_streaming_response.create(stream=True, **GO) as response:
        seen = b"".join(response.iter_bytes())
    recorded = events_of(storage, recorder.sessions[0])
    (cut,) = [event for event in recorded if isinstance(event, ResponseInterrupted)]
    kept = {event.index: event.block for event in recorded if isinstance(event, BlockReceived)}
    chunks = chunks_of(cut, list(kept.values()))
    assert chunks is not None
    assert b"".join(chunk.data for chunk in chunks) == seen == body


def test_a_line_that_comes_in_many_pieces_is_put_together_once() -> None:
    """To look through all of it at each piece would take minutes."""
    whole = b"data: " + b"x" * 2**24 + b"\n\n"
    splitter = Splitter()
    began = time.process_time()
    found = [event for place in range(0, len(whole), 4096) for event in splitter.feed(whole[place : place + 4096])]
    assert [event.data for event in found] == [whole[6:-2]]
    assert time.process_time() - began < 5


@pytest.mark.parametrize("read", ["to the end", "closed"])
def test_a_response_that_is_over_does_not_wait_for_the_garbage_collector(read: str) -> None:
    client = ScriptedApi([LONG]).client(middleware=[Recorder(in_memory())])
    gc.collect()
    gc.disable()
    try:
        with client.messages.with_streaming_response.create(stream=True, **GO) as response:
            seen = weakref.ref(response.http_response)
            if read == "to the end":
                assert list(response.iter_bytes())
        del response
        assert seen() is None
    finally:
        gc.enable()


class _Pieces(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    def __init__(self, body: bytes) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        return iter([self._body[place : place + 50] for place in range(0, len(self._body), 50)])

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece


STREAM = b"".join(wire.events(wire.message(LONG, model="m", key=b"1", usage=wire.usage(1, 0, 0, 0, 1))))


def _compressed(_: object) -> httpx2.Response:
    headers = {"content-type": "text/event-stream", "content-encoding": "gzip"}
    return httpx2.Response(200, headers=headers, stream=_Pieces(gzip.compress(STREAM)))


async def _ask(transport: httpx2.MockTransport, recorder: Recorder, *, loop: bool) -> None:
    """For a stream, of which everything is read."""
    options: Any = {"api_key": "k", "max_retries": 0, "middleware": [recorder]}
    if loop:
        client = AsyncAnthropic(http_client=httpx2.AsyncClient(transport=transport), **options)
        async for _ in await client.messages.create(stream=True, **GO):
            pass
    else:
        blocking = Anthropic(http_client=httpx2.Client(transport=transport), **options)
        for _ in blocking.messages.create(stream=True, **GO):
            pass


@pytest.mark.parametrize("loop", [False, True])
def test_a_compressed_stream_is_recorded_as_the_program_reads_it(loop: bool) -> None:
    recorder = Recorder(storage := in_memory())
    asyncio.run(_ask(httpx2.MockTransport(_compressed), recorder, loop=loop))
    events = events_of(storage, recorder.sessions[0])
    (answer,) = [event for event in events if isinstance(event, ResponseReceived)]
    assert b"".join(body_of(answer, events)) == STREAM


@pytest.mark.parametrize("loop", [False, True])
def test_who_reads_a_stream_before_the_recorder_does_still_reads_it(loop: bool) -> None:
    """Another middleware, or a transport with responses of its own."""
    read: list[bytes] = []

    class Response(httpx2.Response):
        def iter_bytes(self, chunk_size: int | None = None) -> Iterator[bytes]:
            for chunk in super().iter_bytes(chunk_size):
                read.append(chunk)
                yield chunk.replace(b"Some text", b"A text")

        async def aiter_bytes(self, chunk_size: int | None = None) -> AsyncGenerator[bytes, None]:
            async for chunk in super().aiter_bytes(chunk_size):
                read.append(chunk)
                yield chunk.replace(b"Some text", b"A text")

    def answer(_: object) -> httpx2.Response:
        return Response(200, headers={"content-type": "text/event-stream"}, stream=_Pieces(STREAM))

    recorder = Recorder(storage := in_memory())
    asyncio.run(_ask(httpx2.MockTransport(answer), recorder, loop=loop))
    events = events_of(storage, recorder.sessions[0])
    (received,) = [event for event in events if isinstance(event, ResponseReceived)]
    assert b"".join(read) == STREAM
    assert b"".join(body_of(received, events)) == b"".join(chunk.replace(b"Some text", b"A text") for chunk in read)


def test_who_traces_all_responses_still_sees_them(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    method = httpx2.Response.iter_bytes

    def traced(response: httpx2.Response, chunk_size: int | None = None) -> Iterator[bytes]:
        for chunk in method(response, chunk_size):
            seen.append(chunk)
            yield chunk

    monkeypatch.setattr(httpx2.Response, "iter_bytes", traced)
    client = ScriptedApi([LONG]).client(middleware=[Recorder(in_memory())])
    with client.messages.with_streaming_response.create(stream=True, **GO) as response:
        assert list(response.iter_bytes()) == seen


def test_two_recorders_of_one_response_do_not_take_each_other_away() -> None:
    storages = [in_memory(), in_memory()]
    recorders = [Recorder(storage) for storage in storages]
    client = ScriptedApi([LONG]).client(middleware=[*recorders])
    with client.messages.stream(**GO) as stream:
        stream.until_done()
    for storage, recorder in zip(storages, recorders, strict=True):
        assert ends(events_of(storage, recorder.sessions[0])) == ["answer"]
