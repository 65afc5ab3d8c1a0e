"""A Messages API that answers from a script, on this machine: over HTTP, or as a transport of the SDK's HTTP client.

It judges every request as the API would (`rules`, `thinking`), charges it (prompt cache), records it, and answers with
the bytes the API sends (`wire`). It asserts nothing: what a client got wrong, it is told in the API's words.

As a process, for tests that kill the client:

    python -m session.testing.api --script FILE --port-file FILE [--calls-file FILE]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import runpy
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, assert_never

from session.testing import _answers, wire
from session.testing._prompt_cache import PromptCache, count_tokens
from session.testing.rules import check_request
from session.testing.script import Cut, Exact, Failure, Reply, Script, Step, steps_from_json
from session.testing.thinking import ThinkingLedger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import anthropic

    from session.testing._server import LoopbackServer
    from session.testing._transport import ScriptedTransport

__all__ = ["Call", "ScriptedApi", "main"]

API_URL: Final = "https://api.anthropic.com"
_MAX_BODY_BYTES: Final = 32 * 1024 * 1024
Headers: TypeAlias = tuple[tuple[str, str], ...]


@dataclass
class Call:
    """A request as it arrived, and what became of it. *number* counts from 1.

    *accepted*: the script was asked for its answer. *answer*: None until there is one.
    """

    number: int
    method: str
    target: str
    headers: Headers
    body: bytes
    accepted: bool = False
    answer: _answers.Answer | _answers.NoAnswer | None = None

    @property
    def json(self) -> Any:  # noqa: ANN401 - any JSON
        """The body, parsed."""
        return json.loads(self.body)

    @property
    def status(self) -> int | None:
        """The status it was answered with, if it was."""
        return self.answer.status if isinstance(self.answer, _answers.Answer) else None

    @property
    def error(self) -> str | None:
        """The message of the error it was answered with, if it was."""
        if not isinstance(self.answer, _answers.Answer) or self.answer.status < 400:
            return None
        try:
            return str(json.loads(self.answer.body)["error"]["message"])
        except (ValueError, KeyError, TypeError):  # an `Exact` answer, or a cut one
            return self.answer.body.decode("utf-8", "replace")

    def header(self, name: str) -> str | None:
        """The first header of this name."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


class ScriptedApi:
    """A Messages API that answers from *script*: a list of steps, one per accepted request, or a function.

    The function gets the request's body, parsed, and which accepted request it is (from 1). It runs outside of all
    locks, possibly in several threads at once. A text is short for a `Reply` of that text. A request that the API would
    refuse is answered 400 and takes no step. When the script has ended, or fails, the answer is a 500 that says so and
    is not retried.

    - *seed*: of everything made up. Ids and signatures depend on it, on the call's number and on the request's bytes.
    - *clock*: seconds since the epoch.
    - *min_cache_tokens*: shorter prefixes are not cached; the real API's is 1024 or more, by model.
    - *ledger*: the thinking blocks that are known; share it to let another `ScriptedApi` go on from this one's answers.
      *check_thinking*: False accepts any thinking anywhere.
    - *on_call*: called with every call when its answer is known and nothing of it is sent.

    Thread-safe.
    """

    def __init__(
        self,
        script: Script,
        *,
        seed: int = 0,
        clock: Callable[[], float] = time.time,
        min_cache_tokens: int = 0,
        ledger: ThinkingLedger | None = None,
        check_thinking: bool = True,
        on_call: Callable[[Call], None] | None = None,
    ) -> None:
        self._script = script if callable(script) else list(script)
        self._seed = seed
        self._clock = clock
        self._cache = PromptCache(min_tokens=min_cache_tokens)
        self.ledger = ThinkingLedger() if ledger is None else ledger
        self._check_thinking = check_thinking
        self._on_call = on_call
        self._lock = threading.Lock()
        self._calls: list[Call] = []
        self._accepted = 0
        self._threads: dict[str, dict[str, Any]] = {}
        self._released = threading.Semaphore(0)

    def __repr__(self) -> str:
        return f"<ScriptedApi: {len(self._calls)} calls, {self._accepted} accepted>"

    @property
    def calls(self) -> list[Call]:
        """Every request so far, in order of arrival."""
        with self._lock:
            return list(self._calls)

    def serve(self) -> LoopbackServer:
        """A running HTTP server on a free port of 127.0.0.1; use it in `with`, or close it."""
        from session.testing._server import LoopbackServer  # noqa: PLC0415

        return LoopbackServer(self)

    def transport(self) -> ScriptedTransport:
        """A transport for the SDK's HTTP client, sync and async: `DefaultHttpxClient(transport=...)`."""
        from session.testing._transport import ScriptedTransport  # noqa: PLC0415

        return ScriptedTransport(self)

    def client(self, **options: Any) -> anthropic.Anthropic:  # noqa: ANN401 - the SDK's own options
        """The real client on `transport()`, without retries unless told otherwise. The caller closes it."""
        from session.testing import _transport  # noqa: PLC0415

        return _transport.client(self.transport(), base_url=API_URL, **options)

    def async_client(self, **options: Any) -> anthropic.AsyncAnthropic:  # noqa: ANN401 - the SDK's own options
        """The real asynchronous client on `transport()`, as `client`."""
        from session.testing import _transport  # noqa: PLC0415

        return _transport.async_client(self.transport(), base_url=API_URL, **options)

    def release(self, times: int = 1) -> None:
        """Let as many held answers (`Delay.hold_after_events`) go on, now or when they come to it."""
        self._released.release(times)

    def held(self, timeout_seconds: float) -> bool:
        """Wait so long to be released; False: still held."""
        if timeout_seconds:
            return not self._released.acquire(timeout=timeout_seconds)
        return not self._released.acquire(blocking=False)

    # --- answering ----------------------------------------------------------------------------------------------------

    def respond(self, method: str, target: str, headers: Headers, body: bytes) -> _answers.Answer | _answers.NoAnswer:
        """Record, judge and answer one request. What calls it sends the answer."""
        with self._lock:
            call = Call(len(self._calls) + 1, method, target, headers, body)
            self._calls.append(call)
        key = hashlib.sha256(f"{self._seed}:{call.number}:".encode() + body).digest()
        call.answer = self._answer(call, key)
        if self._on_call is not None:
            self._on_call(call)
        return call.answer

    def _answer(self, call: Call, key: bytes) -> _answers.Answer | _answers.NoAnswer:
        judged = self._judge(call)
        if isinstance(judged, Failure):
            return _answers.of_failure(judged, key=key, now=self._clock())
        call.accepted = True
        step = self._next_step(call.json)
        try:
            return self._perform(step, judged, key)
        except (wire.ScriptError, KeyError, TypeError, ValueError) as error:
            return _answers.of_failure(_script_failure(f"cannot be sent: {error!r}"), key=key, now=self._clock())

    def _perform(self, step: Step, body: dict[str, Any], key: bytes) -> _answers.Answer | _answers.NoAnswer:
        now = self._clock()
        match step:
            case Reply():
                return _answers.of_reply(
                    step, self._message(step, body, key, now), stream=bool(body.get("stream")), key=key, now=now
                )
            case Failure():
                return _answers.of_failure(step, key=key, now=now)
            case Exact():
                return _answers.of_exact(step, key=key, now=now)
            case Cut():
                return _answers.NoAnswer(step.how)
        assert_never(step)

    def _message(self, reply: Reply, body: dict[str, Any], key: bytes, now: float) -> wire.Message:
        """The message, charged and remembered."""
        with self._lock:
            charge = self._cache.charge(body, now)
            output = count_tokens(wire.dumps(reply.content))
            counted = wire.usage(charge.read, charge.written_5m, charge.written_1h, charge.rest, output)
            whole = wire.message(reply, model=body["model"], key=key, usage=counted)
            content = [wire.parsed_block(block) for block in whole.content]
            self.ledger.record(body, content)
            if body.get("thread"):
                answered = [*body["messages"], {"role": "assistant", "content": content}]
                self._threads[whole.id] = {**body, "messages": answered}
        return whole

    def _next_step(self, body: dict[str, Any]) -> Step:
        with self._lock:
            self._accepted += 1
            number = self._accepted
        if callable(self._script):
            try:
                step = self._script(body, number)
            except Exception as error:  # noqa: BLE001 - the caller's function may raise anything
                return _script_failure(f"raised {error!r}")
        elif number > len(self._script):
            return _script_failure(f"has ended: it has {len(self._script)} steps")
        else:
            step = self._script[number - 1]
        return Reply(content=step) if isinstance(step, str) else step

    # --- judging ------------------------------------------------------------------------------------------------------

    def _judge(self, call: Call) -> dict[str, Any] | Failure:
        """The whole request (what a thread left out put back), or how it is refused."""
        fault = _fault_of_envelope(call)
        if fault is not None:
            return fault
        try:
            body = json.loads(call.body)
        except (ValueError, RecursionError) as error:
            return Failure(status=400, message=f"The request body is not valid JSON: {error}")
        refused = check_request(body)
        whole = body if refused else self._with_thread(body)
        if isinstance(whole, Failure):
            return whole
        if refused is None and whole is not body:
            refused = check_request({key: value for key, value in whole.items() if key != "thread"})
        if refused is None and self._check_thinking:
            with self._lock:
                refused = self.ledger.check(whole)
        if refused is not None:
            return Failure(status=refused.status, type=refused.type, message=refused.message)
        return whole

    def _with_thread(self, body: dict[str, Any]) -> dict[str, Any] | Failure:
        """*body* with the messages, tools and system of the thread it continues."""
        thread = body.get("thread")
        if not isinstance(thread, dict) or thread.get("type") != "continue":
            return body
        with self._lock:
            before = self._threads.get(str(thread.get("previous_message_id")))
        if before is None:
            details = {"error_code": "thread_not_found"}
            return Failure(status=404, message="No usable Thread state was found.", details=details)
        kept: dict[str, Any] = {key: before[key] for key in ("system", "tools") if key in before}
        return {**kept, **body, "messages": [*before["messages"], *body["messages"]]}


def _fault_of_envelope(call: Call) -> Failure | None:
    if call.target.partition("?")[0] != "/v1/messages":
        return Failure(status=404, message="Not found")
    if call.method != "POST":
        return Failure(status=405, type="invalid_request_error", message="Method Not Allowed")
    if not call.header("x-api-key") and not call.header("authorization"):
        return Failure(status=401, message="x-api-key header is required")
    if not call.header("anthropic-version"):
        return Failure(status=400, message="anthropic-version: header is required")
    if len(call.body) > _MAX_BODY_BYTES:
        return Failure(status=413)
    return None


def _script_failure(what: str) -> Failure:
    return Failure(status=500, message=f"The script {what}", headers={"x-should-retry": "false"})


# --- as a process -----------------------------------------------------------------------------------------------------


def load_script(path: Path) -> Script:
    """The script in a file: `.json` is a list of steps, `.py` a module that defines `script`."""
    if path.suffix == ".json":
        return steps_from_json(path.read_bytes())
    script: Script = runpy.run_path(str(path))["script"]
    return script


@contextmanager
def _terminated() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set."""
    told = threading.Event()
    before = {number: signal.signal(number, lambda *_: told.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(arguments: list[str] | None = None) -> int:
    """Serve a script until SIGTERM or SIGINT.

    The port file appears, whole, when the server can be reached. The calls file gets a line of JSON per call (number,
    status, error, accepted, headers, body as text) before anything of its answer is sent.
    """
    parser = argparse.ArgumentParser(prog="python -m session.testing.api", description="Serve a scripted Messages API.")
    parser.add_argument("--script", type=Path, required=True, help=".json: a list of steps; .py: defines `script`")
    parser.add_argument("--port-file", type=Path, required=True, help="where to write the port")
    parser.add_argument("--calls-file", type=Path, help="where to add a line of JSON for each call")
    options = parser.parse_args(arguments)
    record = None if options.calls_file is None else _recorder(options.calls_file)
    api = ScriptedApi(load_script(options.script), on_call=record)
    with _terminated() as told, api.serve() as server:
        waiting = options.port_file.with_suffix(".new")
        waiting.write_text(str(server.port))
        waiting.replace(options.port_file)
        told.wait()
    return 0


def _recorder(path: Path) -> Callable[[Call], None]:
    lock = threading.Lock()

    def record(call: Call) -> None:
        line = {
            "number": call.number,
            "status": call.status,
            "error": call.error,
            "accepted": call.accepted,
            "headers": dict(call.headers),
            "body": call.body.decode("utf-8", "surrogateescape"),
        }
        with lock, path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    return record


if __name__ == "__main__":
    raise SystemExit(main())
