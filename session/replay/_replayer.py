"""`Replayer`: the middleware. Digests the request, takes what was recorded for it, and hands it over as it came."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Literal

import anyio
import msgspec
from anthropic import Middleware

from session import sdk
from session.places import parse_at
from session.recording import Recorder
from session.recording._asked import asked
from session.replay import _reporting
from session.replay._bodies import answer_of
from session.replay._reading import Digester
from session.replay._run import read_lanes
from session.replay._script import Script, Taken
from session.replay._store import opened
from session.replay._tools import Outcomes, wrapped
from session.replay.errors import ReplayDivergedError, ReplayOverError, ResponseNotRecordedError
from session.storage._now import run_now

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from types import TracebackType
    from typing import Self, TypeAlias

    from anthropic import APIRequest, APIResponse, AsyncAPIResponse

    from session.places import At
    from session.recording._asked import Asked
    from session.replay._bodies import Answer
    from session.replay._lanes import Exchange
    from session.replay.errors import Divergence
    from session.state import SessionState
    from session.storage import BlockingEventSessionStorage, EventSessionStorage

    Speed: TypeAlias = float | Literal["max"]

_log: Final = logging.getLogger("session.replay")
_LONGEST_WAIT_SECONDS: Final = 60.0  # between two attempts, where no header says how long


class Replayer(Middleware):
    """Answers a program from its recording, sent nowhere: `Anthropic(middleware=[replay])`, asynchronous clients too.
    Put it last, where the recorder was.

        with Replayer(store, "agent-7") as replay:
            main(client=Anthropic(api_key="none", middleware=[replay]))

    *session_id* is a session of a run that a `Recorder` kept (all sessions of the run are replayed), or one of
    `create_session`. Each call is matched with the next recorded one of its conversation, by the digest of the whole
    request. The first that is another raises `ReplayDivergedError`, here and in every later call; so does leaving the
    `with` without an exception while recorded calls were not made. What was recorded without an answer raises
    `ResponseNotRecordedError`.

    *speed*: 1 hands everything over when it came, 10 ten times as fast, "max" at once. The waits between attempts
    too: those that a header asked for, and those that the SDK chose, as they were recorded (up to a minute).

    *on_divergence*: "raise", or "live": then the call that differs and all that follow go to the real API, and are
    recorded in a fork of the session at that point. `live` is the recorder, `divergence` says what differed.

    *after* (a version, "turn:3", ...): only what *session_id* has behind it is replayed, for a program that goes on
    with a conversation; of the run's other sessions, what was not over by then. *redact*: the function that
    the recorder had.

    *storage* is a path, an `EventSessionStorage` or a `BlockingEventSessionStorage`. Thread-safe. Calls of anything but
    the Messages API are refused ("live": sent, not recorded, and logged). A tool that is not wrapped by `tool` is the
    program's own, and runs.
    """

    def __init__(
        self,
        storage: str | os.PathLike[str] | EventSessionStorage | BlockingEventSessionStorage,
        session_id: str,
        *,
        speed: Speed = "max",
        on_divergence: Literal["raise", "live"] = "raise",
        after: int | str | At = 0,
        redact: Callable[[str], str] | None = None,
    ) -> None:
        if on_divergence not in {"raise", "live"}:
            raise ValueError(f"on_divergence is 'raise' or 'live', not {on_divergence!r}")
        if speed != "max" and not (isinstance(speed, int | float) and speed > 0):
            raise ValueError(f"speed is 'max' or a number above 0, not {speed!r}")
        self.session_id = session_id
        self._speed = None if speed == "max" else float(speed)
        self._goes_live = on_divergence == "live"
        self._redact = redact
        self._store = opened(storage)
        try:
            version = run_now(self._store.now.version_at(session_id, parse_at(after)))
            lanes = run_now(read_lanes(self._store.now, session_id, version))
        except BaseException:
            self._store.close()
            raise
        self._script = Script(lanes)
        self._outcomes = Outcomes(lanes)
        self._digester = Digester(lanes, redact)
        self._lock = threading.Lock()
        self._over = False
        self.divergence: Divergence | None = None
        self.live: Recorder | None = None
        self._stop: ReplayDivergedError | ResponseNotRecordedError | None = None

    def __repr__(self) -> str:
        lanes = self._script.lanes.values()
        return f"<Replayer {self.session_id}: {sum(len(lane.exchanges) for lane in lanes)} recorded calls>"

    # --- lifetime -----------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Raise what the replay came to: the first divergence, if the program swallowed it, or `ReplayDivergedError` if
        recorded calls were not made.
        """
        with self._lock:
            if self._stop is not None:
                raise type(self._stop)(*self._stop.args)
            for each in self._script.not_asked_for():
                _log.info("%s was not made: the tools that were called before it did not run", each.place)
            missing = self._script.not_made()
            if missing and self.live is None:
                raise self._diverged(_reporting.of_missing(self._script, missing[0], len(missing)))

    def close(self) -> None:
        """End the replay; calls that come later raise `ReplayOverError`."""
        self._over = True
        try:
            if self.live is not None:
                self.live.close()
        finally:
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    # --- tools --------------------------------------------------------------------------------------------------------

    def tool(
        self,
        tool: Any,  # noqa: ANN401 - a function, or what @beta_tool makes of one
        *,
        run: bool = False,
        decode: Callable[[str], Any] | None = None,
        name: str | None = None,
    ) -> Any:  # noqa: ANN401 - the same kind of thing
        """*tool* (a function, synchronous or not, or a tool of `@beta_tool`) that says what it said when recorded,
        found by its name and arguments, and does not run. Where none of the tools runs that a response called,
        conversations that began there, as a sub-agent's do, need not be had again. *run*: let it run all the same.

        What is known is the content of its tool_result: a function that returned anything but text or blocks needs
        *decode* (such as `json.loads`). A recorded error is raised as the SDK's `ToolError`. *name*: what the model
        calls it, if not by the function's name. Once a replay has gone live, tools run; if it may go live, so does one
        that was not called like this.

        Asynchronous is what is defined so: an `async def`, an object with an asynchronous `__call__`, a `partial` of
        either. What only returns an awaitable (`lambda city: weather(city)`) does not tell before it runs, and becomes
        synchronous: give the `async def` itself.
        """
        return tool if run else wrapped(tool, self._outcome, decode, name)

    def _outcome(self, name: str, inputs: list[bytes]) -> bytes | None:
        with self._lock:
            if self.live is not None:
                return None
            if self._over:
                raise ReplayOverError(self.session_id)
            outcome = self._outcomes.take(name, inputs)
            if outcome is None:
                arguments = inputs[0].decode("utf-8", "backslashreplace")
                self._differs(_reporting.of_tool(self._script, name, arguments))
                return None
            if self._outcomes.none_runs(outcome.place):
                self._script.excuse(outcome.place)
            return outcome.block

    # --- the middleware -----------------------------------------------------------------------------------------------

    def handle(self, request: APIRequest, call_next: Callable[[APIRequest], APIResponse[Any]]) -> APIResponse[Any]:
        """One attempt of a synchronous client."""
        began = time.monotonic()
        served = self._serve(request)
        if isinstance(served, Recorder):
            return served.handle(request, call_next)
        if served is None:
            return call_next(request)
        taken, answer = served
        if answer.status == 0:
            self._sleep(began, answer)
            raise self._broken(answer, request, self._pause(taken, answer) if taken.retry else None)
        if answer.failed or not request.stream:
            self._sleep(began, answer)
            if answer.broken is not None:
                raise self._broken(answer, request)
            return sdk.made_response(request, answer.status, self._headers(taken, answer), answer.body)
        return sdk.made_response(request, answer.status, answer.headers, self._pieces(taken, answer, began, request))

    async def handle_async(
        self, request: APIRequest, call_next: Callable[[APIRequest], Awaitable[AsyncAPIResponse[Any]]]
    ) -> AsyncAPIResponse[Any]:
        """One attempt of an asynchronous client."""
        began = time.monotonic()
        served = self._serve(request)
        if isinstance(served, Recorder):
            return await served.handle_async(request, call_next)
        if served is None:
            return await call_next(request)
        taken, answer = served
        if answer.status == 0:
            await self._asleep(began, answer)
            raise self._broken(answer, request, self._pause(taken, answer) if taken.retry else None)
        if answer.failed or not request.stream:
            await self._asleep(began, answer)
            if answer.broken is not None:
                raise self._broken(answer, request)
            return await sdk.made_async_response(request, answer.status, self._headers(taken, answer), answer.body)
        pieces = self._async_pieces(taken, answer, began, request)
        return await sdk.made_async_response(request, answer.status, answer.headers, pieces)

    # --- what to serve ------------------------------------------------------------------------------------------------

    def _serve(self, request: APIRequest) -> tuple[Taken, Answer] | Recorder | None:
        """What to serve; where the call is recorded from now on; None: it is none of ours, and may pass."""
        said = asked(request, self._redact)
        with self._lock:
            if self._over:
                raise ReplayOverError(self.session_id)
            if self.live is not None:
                return self.live
            if self._stop is not None:
                raise type(self._stop)(*self._stop.args)
            if said is None:
                self._other_endpoint(request)
                return None
            served = self._look_up(said, request)
            return served if isinstance(served, tuple) else self._go_live(served)

    def _look_up(self, said: Asked, request: APIRequest) -> tuple[Taken, Answer] | Exchange | None:
        """What to serve. To go live with: the attempt that was taken already, if one was."""
        strand = _strand()
        digest = self._digester.digest(said)
        found = self._script.take(digest, key=said.key, attempt=request.retries_taken + 1, strand=strand)
        if not isinstance(found, Taken):
            logical = self._digester.logical(said, self._state_at)
            self._differs(_reporting.of_request(self._script, said, logical, found, self._state_at))
            return None
        if found.overtaken_by is not None:
            self._differs(_reporting.of_order(self._script, found.exchange, found.overtaken_by))
            return found.exchange
        try:
            answer = answer_of(found.exchange, stream=said.streams)
        except ResponseNotRecordedError as error:
            if not self._goes_live:
                self._stop = error
                raise
            _log.warning("going on live: %s", error.what)
            return found.exchange
        self._outcomes.called(found.exchange.content(), f"{found.exchange.session_id}@{found.exchange.ended}")
        return found, answer

    def _other_endpoint(self, request: APIRequest) -> None:
        divergence = _reporting.of_endpoint(self._script, request.method, request.url)
        if not self._goes_live:
            raise self._diverged(divergence)
        _log.warning("sent live, and not recorded: %s", divergence.notes[0])

    def _differs(self, divergence: Divergence) -> None:
        error = self._diverged(divergence)
        if not self._goes_live:
            raise error
        _log.warning("going on live: %s", error.divergence)

    def _diverged(self, divergence: Divergence) -> ReplayDivergedError:
        found = msgspec.structs.replace(divergence, frame=_reporting.caller())
        error = ReplayDivergedError(found)
        if self.divergence is None:
            self.divergence = found
            if not self._goes_live:
                self._stop = error
        return error

    def _go_live(self, taken: Exchange | None) -> Recorder:
        recorder = Recorder(self._store.given, redact=self._redact)
        for name in self._script.lanes:
            last = self._script.last_of(name)
            if last is not None and (version := last.after if last is taken else last.ended or last.after):
                recorder.extend(name, version)
        self.live = recorder
        return recorder

    def _state_at(self, session_id: str, version: int) -> SessionState:
        return run_now(self._store.now.state_at(session_id, version))

    # --- as it came ---------------------------------------------------------------------------------------------------

    def _headers(self, taken: Taken, answer: Answer) -> dict[str, str]:
        pause = self._pause(taken, answer) if answer.failed else None
        return answer.headers if pause is None else sdk.retried_after(answer.headers, pause)

    def _pause(self, taken: Taken, answer: Answer) -> float | None:
        """The seconds that the SDK is to wait before its next attempt; None: as it sees fit."""
        if self._speed is None:
            return 0.0
        waited = sdk.seconds_to_wait(answer.headers)
        if (
            waited is None and taken.retry is not None
        ):  # it was the SDK that chose; a clock that was set may say anything
            between = (taken.retry.sent_at - taken.exchange.ended_at) / 1000
            waited = min(max(between, 0.0), _LONGEST_WAIT_SECONDS)
        return None if waited is None else waited / self._speed

    def _broken(self, answer: Answer, request: APIRequest, pause: float | None = None) -> Exception:
        assert answer.broken is not None, "who asks has looked"
        return sdk.made_error(answer.broken, request, pause=pause)

    def _pieces(self, taken: Taken, answer: Answer, began: float, request: APIRequest) -> Iterator[bytes]:
        for chunk in answer.chunks:
            if seconds := self._wait(began, chunk.at_ms):
                time.sleep(seconds)
            yield chunk.data
        self._end(taken, answer, request)

    async def _async_pieces(
        self, taken: Taken, answer: Answer, began: float, request: APIRequest
    ) -> AsyncIterator[bytes]:
        for chunk in answer.chunks:
            if seconds := self._wait(began, chunk.at_ms):
                await anyio.sleep(seconds)
            yield chunk.data
        self._end(taken, answer, request)

    def _end(self, taken: Taken, answer: Answer, request: APIRequest) -> None:
        if answer.left:
            exchange = taken.exchange
            raise ResponseNotRecordedError(
                exchange.session_id, exchange.version, "the program left this stream here when it was recorded"
            )
        if answer.broken is not None:
            raise self._broken(answer, request)

    def _sleep(self, began: float, answer: Answer) -> None:
        if seconds := self._wait(began, answer.chunks[-1].at_ms if answer.chunks else 0):
            time.sleep(seconds)

    async def _asleep(self, began: float, answer: Answer) -> None:
        if seconds := self._wait(began, answer.chunks[-1].at_ms if answer.chunks else 0):
            await anyio.sleep(seconds)

    def _wait(self, began: float, at_ms: int) -> float:
        if self._speed is None:
            return 0.0
        return max(0.0, began + at_ms / 1000 / self._speed - time.monotonic())


def _strand() -> object:
    """What runs now: a thread, and a task in it. By names too: numbers are used again."""
    thread = threading.current_thread()
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return thread.name, thread.ident, task.get_name() if task else "", id(task) if task else 0
