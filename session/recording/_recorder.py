"""`Recorder`: the middleware. Reads the request, lets the rest of the chain send it, and shows us what comes back."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
from anthropic import APIConnectionError, Middleware

from session import jsontext
from session._finishing import finished
from session.errors import RecordingFailedError
from session.events import NO_META, Meta, ResponseInterrupted
from session.pricing import load_prices
from session.recording._asked import asked
from session.recording._calls import Call, Calls
from session.recording._failures import named
from session.recording._journal import Journals
from session.recording._kinds import JSON, OTHER, is_json, likely
from session.recording._reading import PlainReading, StreamReading, Terms, interrupted, may_wait
from session.recording._redaction import redacted_bytes
from session.recording._resuming import resumed
from session.recording._tee import show, show_async
from session.sdk import kept_headers
from session.storage import check_session_id, new_session_id
from session.storage._now import run_now

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable, Coroutine
    from types import TracebackType
    from typing import Self, TypeAlias

    from anthropic import APIRequest, APIResponse, AsyncAPIResponse

    from session.events import SessionEvent
    from session.recording._journal import Journal
    from session.recording._reading import Reading
    from session.recording._tee import Piece
    from session.storage import BlockingEventSessionStorage, EventSessionStorage

    _Response: TypeAlias = APIResponse[Any] | AsyncAPIResponse[Any]
    _Whole: TypeAlias = Callable[[Coroutine[Any, Any, bool]], Awaitable[bool]]

_log: Final = logging.getLogger("session.recording")
_EVENT_STREAM: Final = "text/event-stream"
_SUCCESS: Final = 2  # the first digit of a status


class Recorder(Middleware):
    """Records what a program says to the Messages API, as sessions: `Anthropic(middleware=[recorder])`, asynchronous
    clients too, or `client.with_middleware(recorder)`. Put it last, so that it sees what is sent and what comes.

    One recorder is one run. A call that extends the newest state of one of its sessions continues it; one that extends
    an earlier point, or runs beside another, is a fork there; any other starts a session, linked to its cause.
    `sessions` lists them. *session* names the first one; if it exists already, the run goes on with it.

    When the program can act on something, it is durable: the request before it is sent, each content block before its
    end is handed over, the response before its end. A call costs at most two durable appends and one per block.

    *redact* is given every text of requests and answers before it is written (content, names, ids, errors) and returns
    what is to be written instead. Without it the content is kept as it was sent. Keys are never seen; of the headers a
    few are kept that say what a body means.

    *on_failure* is what happens when something cannot be written, or *redact* fails: "raise" a `RecordingFailedError`
    (before the call is sent, so nothing is lost; for a response, it says so), or "go_on" without recording that call;
    `failures` has the errors, and they are logged.

    *storage* is a path, or an `EventSessionStorage` or `BlockingEventSessionStorage`, which stays open. Thread-safe;
    use it in `with`, or `close` it.
    """

    def __init__(
        self,
        storage: str | os.PathLike[str] | EventSessionStorage | BlockingEventSessionStorage,
        *,
        session: str | None = None,
        redact: Callable[[str], str] | None = None,
        on_failure: Literal["raise", "go_on"] = "raise",
        meta: Meta = NO_META,
    ) -> None:
        if on_failure not in {"raise", "go_on"}:
            raise ValueError(f"on_failure is 'raise' or 'go_on', not {on_failure!r}")
        self._root = new_session_id() if session is None else check_session_id(session)
        self._journals = Journals(storage)
        self._calls = Calls(self._root, meta, self._failed)
        self._redact = redact
        self._on_failure = on_failure
        self._prices = load_prices()
        self._abandoned: deque[_Recording] = deque()  # streams that the garbage collector found
        self.failures: list[RecordingFailedError] = []
        if session is not None and (line := run_now(resumed(self._journals.now, session))):
            self._calls.resume(line)

    def __repr__(self) -> str:
        return f"<Recorder {self._root}: {len(self.sessions)} sessions>"

    @property
    def sessions(self) -> list[str]:
        """The sessions of this run so far, in the order in which they began."""
        return list(self._calls.sessions)

    def extend(self, session_id: str, version: int) -> None:
        """Record calls that go on with an existing session, as it was at *version*, in forks of it. Nothing is written
        to the session itself.
        """
        if line := run_now(resumed(self._journals.now, session_id, version)):
            self._calls.extend(line)

    def close(self) -> None:
        """Close the log, if it was opened here. Calls that are still running can no longer be recorded. What an earlier
        run left open in the session that this one was to go on with is marked as lost, if nobody went on there.
        """
        try:
            if self._journals.has_now:
                run_now(self._look_after(self._journals.now, _at_once))
                run_now(self._end())
        finally:
            self._journals.close()

    async def _end(self) -> None:
        try:
            await self._calls.close(self._journals.now)
        except Exception as error:  # noqa: BLE001 - of the storage; nothing of this run is lost
            self.failures.append(RecordingFailedError(self._root, f"{type(error).__name__}: {error}", sent=True))
            _log.error("what an earlier run left open is not marked as lost", exc_info=error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- the middleware -----------------------------------------------------------------------------------------------

    def handle(self, request: APIRequest, call_next: Callable[[APIRequest], APIResponse[Any]]) -> APIResponse[Any]:
        """One attempt of a synchronous client."""
        said = asked(request, self._redact)
        if said is None:
            return call_next(request)
        journal = self._journals.now
        recording = _Recording(self, self._calls, Call(said), journal, _at_once)
        if self._abandoned:
            run_now(self._look_after(journal, _at_once))
        if not run_now(recording.begin()):
            return call_next(request)
        try:
            response = call_next(request)
        except BaseException as error:
            run_now(recording.failed(error))
            raise
        if _streams(request, response):
            show(response.http_response, recording.streamed(response))
            return response
        try:
            body = response.read()
        except Exception as error:
            run_now(recording.failed(error, response))
            if instead := _instead_of(error, response):
                raise instead from error
            raise
        run_now(recording.came(response, body))
        return response

    async def handle_async(
        self, request: APIRequest, call_next: Callable[[APIRequest], Awaitable[AsyncAPIResponse[Any]]]
    ) -> AsyncAPIResponse[Any]:
        """One attempt of an asynchronous client."""
        said = asked(request, self._redact)
        if said is None:
            return await call_next(request)
        journal = self._journals.awaited
        recording = _Recording(self, self._calls, Call(said), journal, finished)
        if self._abandoned:
            await self._look_after(journal, finished)
        try:
            if not await recording.begin():
                return await call_next(request)
            response = await call_next(request)
        except BaseException as error:
            await recording.failed(error)
            raise
        if _streams(request, response):
            show_async(response.http_response, recording.streamed(response))
            return response
        try:
            body = await response.read()
        except BaseException as error:
            await recording.failed(error, response)
            if instead := _instead_of(error, response):
                raise instead from error
            raise
        await recording.came(response, body)
        return response

    # --- for one attempt ----------------------------------------------------------------------------------------------

    def terms(self, call: Call, response: _Response) -> Terms:
        """What is known of *response* before its body."""
        return Terms(
            call.request_id,
            call.model,
            call.sent_at,
            time.monotonic,
            _now_ms,
            self._prices,
            self._redact,
            response.status_code,
            kept_headers(response.headers, failed=not _succeeded(response)),
        )

    def abandoned(self, recording: _Recording) -> None:
        """See `Witness`. It is looked after when the next call begins, or when this is closed."""
        self._abandoned.append(recording)

    async def _look_after(self, journal: Journal, whole: _Whole) -> None:
        while self._abandoned:
            try:
                recording = self._abandoned.popleft()
            except IndexError:  # another thread took the last one
                return
            await recording.forget(journal, whole)

    def _failed(self, session_id: str, error: Exception, *, sent: bool) -> Literal[False]:
        """See `Failed`: raises, unless the program is to go on without recording that call."""
        failure = RecordingFailedError(session_id, f"{type(error).__name__}: {error}", sent=sent)
        if self._on_failure == "raise":
            raise failure from error
        failure.__cause__ = error
        self.failures.append(failure)
        _log.error("a call is not recorded", exc_info=failure)
        return False


class _Recording:
    """One attempt, as it goes, and the `Witness` of a streamed body. *whole* runs a step that must not be cut short."""

    def __init__(self, recorder: Recorder, calls: Calls, call: Call, journal: Journal, whole: _Whole) -> None:
        self._recorder = recorder
        self._calls = calls
        self._call = call
        self._journal = journal
        self._whole = whole
        self._reading: StreamReading | None = None
        self.note: Callable[[Piece], None] = _nothing
        self.passes: Callable[[bytes], object] = _nothing
        self.is_over = False

    async def begin(self) -> bool:
        """See `Calls.begin`. Cancelled, it may have begun all the same: `failed` knows."""
        begun = await self._whole(self._calls.begin(self._call, self._journal))
        self._call.sent_at = time.monotonic()
        return begun

    async def failed(self, error: BaseException, response: _Response | None = None) -> None:
        """The attempt brought no answer, or only a part of one."""
        if self._call.line is None or isinstance(error, RecordingFailedError):
            return
        reason = "error" if isinstance(error, Exception) else "cancelled"
        told = named(error) if reason == "error" else b""
        if response is None:
            duration_ms = self._call.milliseconds()
            await self._write([ResponseInterrupted(self._call.request_id, reason, error=told, duration_ms=duration_ms)])
            return
        terms = self._recorder.terms(self._call, response)
        try:
            event: SessionEvent = interrupted(terms, reason, told)
            if self._call.asked.streams:
                event = _of_kind(event, response)
        except Exception as fault:  # noqa: BLE001 - of `redact`, most likely
            await self._unreadable(terms, fault)
        else:
            await self._write([event])

    async def came(self, response: _Response, body: bytes) -> None:
        """A response came whole: an answer, or an error of the API."""
        terms, reading = self._recorder.terms(self._call, response), None
        try:
            if _succeeded(response):
                reading = PlainReading(terms)
                events = reading.whole(body)
            else:
                events = [interrupted(terms, "error", redacted_bytes(body, terms.redact))]
            if reading is None or reading.answered is None:
                events = [_of_kind(each, response, body) for each in events]
        except Exception as error:  # noqa: BLE001 - of `redact`, most likely
            await self._unreadable(terms, error)
        else:
            await self._write(events, reading)

    def streamed(self, response: _Response) -> _Recording:
        """A stream begins, of which this is the witness."""
        self._reading = StreamReading(self._recorder.terms(self._call, response))
        self.note, self.passes = self._reading.note, may_wait
        return self

    def takes(self) -> Coroutine[Any, Any, None] | None:
        """See `Witness`."""
        reading = self._reading
        if reading is None:
            return None
        try:
            events = reading.take()
        except Exception as error:  # noqa: BLE001 - of `redact`, most likely
            return self._unreadable(reading.terms, error)
        self.passes = may_wait if reading.is_patient else _nothing
        self.is_over = reading.is_over
        return self._write(events, reading) if events else None

    async def ended(self) -> None:
        """See `Witness`."""
        await self._end("cut")

    async def broke(self, error: Exception) -> None:
        """See `Witness`."""
        await self._end("cut", named(error))

    async def left(self) -> None:
        """See `Witness`."""
        await self._end("cancelled")

    def abandoned(self) -> None:
        """See `Witness`."""
        self._recorder.abandoned(self)

    async def forget(self, journal: Journal, whole: _Whole) -> None:
        """The stream was abandoned, perhaps in another thread or loop than this one. Fails nobody's call."""
        self._journal, self._whole = journal, whole
        try:
            await self.left()
        except RecordingFailedError as error:
            self._recorder.failures.append(error)

    async def _end(self, reason: str, error: bytes = b"") -> None:
        if self._reading is None:
            return
        try:
            events = self._reading.end(error, reason=reason)
        except Exception as fault:  # noqa: BLE001 - of `redact`, most likely
            await self._unreadable(self._reading.terms, fault)
        else:
            if events:
                await self._write(events, self._reading)

    async def _unreadable(self, terms: Terms, error: Exception) -> None:
        """What came cannot be recorded: the log has that the call is over, without content."""
        self._stop_reading()
        fault = jsontext.encode({"fault": f"not recorded: {type(error).__name__}"})
        plain = msgspec.structs.replace(terms, headers=b"", redact=None)
        await self._write([interrupted(plain, "cancelled", fault)])
        assert self._call.line is not None, "it has begun"
        self._calls.failed(self._call.line.session_id, error, sent=True)

    async def _write(self, events: list[SessionEvent], reading: Reading | None = None) -> None:
        writing = self._calls.record(self._call, events, self._journal, reading)
        try:
            kept = await self._whole(writing)
        except RecordingFailedError:
            self._stop_reading()
            raise
        if not kept:
            self._stop_reading()

    def _stop_reading(self) -> None:
        """Nothing more of the body is recorded."""
        self._reading, self.is_over = None, True


def _nothing(_of: object) -> None:
    return None


def _at_once(work: Coroutine[Any, Any, bool]) -> Coroutine[Any, Any, bool]:
    return work


def _streams(request: APIRequest, response: _Response) -> bool:
    kind = response.headers.get("content-type", "")
    return bool(request.stream and _succeeded(response) and kind.startswith(_EVENT_STREAM))


def _of_kind(event: SessionEvent, response: _Response, body: bytes = b"") -> SessionEvent:
    """*event* with the content type of what came, where *body* looks like another: one of two, never the header's own
    text, which can be anything.
    """
    kind = JSON if is_json(response.headers.get("content-type", "")) else OTHER
    if not isinstance(event, ResponseInterrupted) or kind == likely(body):
        return event
    headers = {**jsontext.members(event.headers or b"{}"), "content-type": jsontext.encode(kind)}
    return msgspec.structs.replace(event, headers=jsontext.joined_members(headers))


def _succeeded(response: _Response) -> bool:
    return response.status_code // 100 == _SUCCESS


def _instead_of(error: BaseException, response: _Response) -> Exception | None:
    """What is raised where the body of *response* breaks with *error*, None for that: the SDK cannot make an error of a
    failure without its body, and would not try again.
    """
    if _succeeded(response) or not isinstance(error, Exception):
        return None
    return APIConnectionError(request=response.http_request)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
