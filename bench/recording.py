"""What does recording cost a program: time per call, bytes per turn, and does any of it grow with the history?

1. A call: the real client asks a server in another process over a loopback socket, which answers 900 B in one block,
   streamed in 40 pieces or whole. A bare call is that call without a recorder. In the third contestant somebody makes
   the appends of the recorded call at the same moments, knowing what to write; the fourth is the same without them: so
   an append has a price. Recording may cost a call as much as its blocks + 2 of them, and 10 % of a bare call. A stream
   makes exactly as many; what comes whole makes two, and beyond these the bar is 10 % too. In turns; the median of each
   round; CPU time beside it.

   Twice. Of an API that takes no time at all, where a call is nothing but the client's own work, with a log that costs
   as little ("os"): that is the share of recording in what a program computes. And of one that thinks for a twentieth
   of a second and then needs 2 ms a piece, so that 900 characters are there after 0.14 s, with a durable log ("disk").
2. Bytes: an agent's loop (asks of 200 B, answers of 1.5 KB, tool results of 3 to 30 KB). Bar: the file has at most 1.5
   times the bytes of the messages, tools and system, each once.
3. Growth: a chat of 5,000 turns (250 B and 900 B), each request with the whole history. Bars: a turn costs the same
   bytes at the end as early on; there recording adds at most 20 % to the CPU time of the SDK's own call.

To fill the long chat the middleware is called without the SDK around it, which would take an hour of copying; what is
measured is a client's call.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Final, Literal

import httpx2
import msgspec
from anthropic import Anthropic, APIResponse, Middleware
from anthropic._models import FinalRequestOptions
from anthropic.types import Message

from bench.harness import Contestant, Durability, Finding, Result, Series, Size, content_hash, file_bytes, interleave
from bench.report import run_alone
from bench.workload import Text
from session.recording import Recorder
from session.storage import BlockingEventSessionStorage
from session.testing import Reply, calls, says, wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from anthropic import APIRequest

    from session.events import AnyEvent

QUESTION = "what does recording cost a program, and does it grow with the history?"
MODEL: Final = "claude-sonnet-5-5"
ASK: Final[dict[str, Any]] = {"model": MODEL, "max_tokens": 1000}
USAGE: Final = wire.usage(12, 840, 21504, 0, 310)
_MAY_APPEND: Final = 1 + 2  # blocks + 2
_ORDERS: Final = ((0, 1, 3, 2), (1, 2, 0, 3), (2, 3, 1, 0), (3, 0, 2, 1))
_APPENDING: Final = 2
BARS: Final = 40  # characters of the longest bar of the plot


def run(size: Size) -> Result:
    """All three parts."""
    costs: list[_CallCost] = []
    with size.scratch() as directory:
        for api in _APIS:
            with _server(directory / api.name, api) as address:
                costs += [_call_cost(size, directory / api.name, address, api, kind) for kind in _ASKED]
        loop = _loop_bytes(size, directory)
        growth = _growth(size, directory)
    series = [each for cost in costs for each in cost.series] + [loop.series, *growth.series]
    findings = [each for cost in costs for each in cost.findings] + [loop.finding, *growth.findings]
    return Result(QUESTION, series, findings, {f"every event, {cost.what}": cost.hashes for cost in costs}, growth.plot)


# --- 1: a call --------------------------------------------------------------------------------------------------------


class _Api(msgspec.Struct, frozen=True, kw_only=True):
    """How long it takes, and what its calls are recorded in."""

    name: str
    seconds_to_think: float
    seconds_per_piece: float
    durability: Literal["disk", "os"]
    calls: int


_APIS: Final = (
    _Api(name="fast", seconds_to_think=0.05, seconds_per_piece=0.002, durability="disk", calls=12),
    _Api(name="instant", seconds_to_think=0, seconds_per_piece=0, durability="os", calls=120),
)


class _CallCost(msgspec.Struct):
    what: str
    series: list[Series]
    findings: list[Finding]
    hashes: dict[str, str]


def _call_cost(size: Size, directory: Path, address: str, api: _Api, kind: str) -> _CallCost:
    what = f"{kind}, {api.name} API"
    with contextlib.ExitStack() as stack:
        recorded_in, again = [
            stack.enter_context(BlockingEventSessionStorage(directory / f"{kind} {name}", durability=api.durability))
            for name in ("recorded", "again")
        ]
        recorder = Recorder(recorded_in)
        appends = _Appends(recorded_in, again, recorder)
        bare, recorded, appended, watched = [
            stack.enter_context(_client(address, middleware=middleware))
            for middleware in ((), [recorder], [appends], [_Watching()])
        ]
        _ASKED[kind](recorded, -1)  # so that there is always one whose appends can be made again
        calls_made = size.pick(full=api.calls, small=3)
        turns = _InTurns((bare, recorded, appended, watched), appends, calls_made, _ASKED[kind])
        series = list(interleave(size, _contestants(turns, what, api.durability)).values())
        return _CallCost(what, series, _added(series, what, appends.made), appends.hashes())


def _contestants(turns: _InTurns, what: str, durability: Durability) -> list[Contestant]:
    def first(number: int) -> float:
        turns.play(number)
        return turns.median(0, 0)

    names = ["bare call", "recorded call", "watched call and the appends", "watched call"]
    modes: list[Durability] = ["-", durability, durability, "-"]

    def of(client: int, clock: int) -> Callable[[int], float]:
        return lambda _: turns.median(client, clock)

    walls = [Contestant(f"{what}: {names[client]}", modes[client], of(client, 0)) for client in (1, 2, 3)]
    cpus = [Contestant(f"{what}: {names[client]}, CPU", modes[client], of(client, 1)) for client in range(4)]
    return [Contestant(f"{what}: {names[0]}", modes[0], first), *walls, *cpus]


def _added(series: Sequence[Series], what: str, made: int) -> list[Finding]:
    """Beyond the appends that a call may make; and beyond those *made*, if they are fewer."""
    rounds: list[tuple[float, ...]] = list(zip(*[each.values for each in series[:4]], strict=True))

    def beyond(appends: int, name: str) -> Finding:
        added = [recorded - bare - appends * (more - less) / made for bare, recorded, more, less in rounds]
        share = statistics.median(100 * more / times[0] for more, times in zip(added, rounds, strict=True))
        return Finding(f"{what}: added beyond {name} appends / bare call", share, "%", at_most=10)

    found = [beyond(_MAY_APPEND, f"blocks + 2 = {_MAY_APPEND}")]
    return found if made == _MAY_APPEND else [*found, beyond(made, f"its {made}")]


@contextlib.contextmanager
def _server(directory: Path, api: _Api) -> Iterator[str]:
    """A scripted API in a process of its own."""
    directory.mkdir()
    script, port = directory / "script.py", directory / "port"
    text = Text(1).take(900).decode()
    delay = f"Delay(before_seconds={api.seconds_to_think}, between_seconds={api.seconds_per_piece})"
    script.write_text(
        "from session.testing import Delay, Reply\n"
        f"def script(_body, _number):\n    return Reply(content={text!r}, id='msg_1', delay={delay})\n"
    )
    command = [sys.executable, "-m", "session.testing.api", "--script", str(script), "--port-file", str(port)]
    with subprocess.Popen(command) as process:
        try:
            while not port.exists():
                time.sleep(0.01)
            yield f"http://127.0.0.1:{port.read_text()}"
        finally:
            process.terminate()


def _client(address: str, **options: Any) -> Anthropic:  # noqa: ANN401 - the SDK's own options
    return Anthropic(api_key="none", base_url=address, max_retries=0, **options)


def _ask_for_a_stream(client: Anthropic, number: int) -> None:
    with client.messages.stream(messages=_messages(number), **ASK) as stream:
        stream.until_done()


def _ask_for_all_at_once(client: Anthropic, number: int) -> None:
    client.messages.create(messages=_messages(number), **ASK)


def _messages(number: int) -> Any:  # noqa: ANN401 - the SDK's own
    return [{"role": "user", "content": f"Ask {number} " + "x" * 240}]


_ASKED: Final = {"streamed": _ask_for_a_stream, "whole": _ask_for_all_at_once}


class _InTurns:
    """Makes a call with each of four clients, in orders in which each follows each other once: the moods of the
    machine, threads that have gone to sleep meanwhile, and what the call before has left in the processor's caches, hit
    all alike.
    """

    def __init__(
        self, clients: Sequence[Anthropic], appends: _Appends, count: int, ask: Callable[[Anthropic, int], None]
    ) -> None:
        self._clients = clients
        self._appends = appends
        self._count = count
        self._ask = ask
        self._times: list[list[tuple[float, float]]] = []

    def play(self, number: int) -> None:
        """All calls of a round."""
        self._times = [[] for _ in self._clients]
        for call in range(number * 1000, number * 1000 + self._count):
            for which in _ORDERS[call % len(_ORDERS)]:
                client = self._clients[which]
                if which == _APPENDING:
                    self._appends.look()
                self._times[which].append(_seconds_and_cpu(lambda: self._ask(client, call)))  # noqa: B023 - now

    def median(self, client: int, clock: int) -> float:
        """Of the calls of a client in this round: seconds (0), or seconds of CPU time (1)."""
        return statistics.median(times[clock] for times in self._times[client])


class _Watching(Middleware):
    """Is there at the moments at which a recorder appends."""

    def handle(self, request: APIRequest, call_next: Callable[[APIRequest], APIResponse[Any]]) -> APIResponse[Any]:
        """See `Recorder.handle`."""
        self.append()
        response = call_next(request)
        if not request.stream:
            response.read()
            self.append()
            return response
        read = response.http_response.iter_bytes

        def body(chunk_size: int | None = None) -> Iterator[bytes]:
            return self._body(read(chunk_size), response)

        response.http_response.iter_bytes = body  # type: ignore[method-assign]
        return response

    def _body(self, chunks: Iterator[bytes], response: APIResponse[Any]) -> Iterator[bytes]:
        for chunk in chunks:
            if b"_stop\n" in chunk:  # of a block, of the message
                self.append()
            yield chunk
        del response.http_response.iter_bytes  # else it would wait for the garbage collector

    def append(self) -> None:
        """Now."""


class _Appends(_Watching):
    """Writes what a recorder wrote once more, commit by commit and at the same moments, into another log."""

    def __init__(
        self, recorded: BlockingEventSessionStorage, again: BlockingEventSessionStorage, recorder: Recorder
    ) -> None:
        self._recorded = recorded
        self._again = again
        self._recorder = recorder
        self._done = 0
        self._session_id = ""
        self._version = 0
        self._left: list[list[AnyEvent]] = []
        self.made = 0

    def look(self) -> None:
        """The next call writes what the next recorded one has written."""
        self._session_id = self._recorder.sessions[self._done]
        self._done += 1
        self._version, self._left = 0, list(self._commits(self._session_id))
        self.made = len(self._left)

    def append(self) -> None:
        """The next commit."""
        appended = self._again.append(self._session_id, self._left.pop(0), expected=self._version)
        self._version = appended.version

    def hashes(self) -> dict[str, str]:
        """Of the two logs, if they are equal."""
        names = self._recorder.sessions[: self._done]
        return {
            name: content_hash(repr(stored.event).encode() for each in names for stored in storage.events(each))
            for name, storage in (("recorded", self._recorded), ("again", self._again))
        }

    def _commits(self, session_id: str) -> Iterator[list[AnyEvent]]:
        commit: list[AnyEvent] = []
        newest = b""
        for event, stored in zip(self._recorded.log.read(session_id), self._recorded.events(session_id), strict=True):
            if event.commit_id != newest and commit:
                yield commit
                commit = []
            newest = event.commit_id
            commit.append(stored.event)
        yield commit


# --- 2: an agent's loop -----------------------------------------------------------------------------------------------


class _Measured(msgspec.Struct):
    series: Series
    finding: Finding


def _loop_bytes(size: Size, directory: Path) -> _Measured:
    turns, text = size.pick(full=300, small=20), Text(2)
    path = directory / "loop"
    tools = [{"name": "read", "description": text.take(900).decode(), "input_schema": {"type": "object"}}]
    with Recorder(path) as recorder:
        program = _Program(recorder, tools=tools, system=text.take(2_000).decode())
        for number in range(turns):
            answer = [says(text.take(1_400).decode()), calls("read", {"path": f"{number}.md"}, f"toolu_{number}")]
            program.turn(answer, _result(number, text) if number % 2 else text.take(200).decode())
    history = len(json.dumps([tools, program.system, program.history], separators=(",", ":")))
    stored = file_bytes(path)
    series = Series(f"agent's loop of {turns:,} answers", "disk", "bytes", [stored])
    return _Measured(series, Finding("stored / messages, tools and system once", stored / history, at_most=1.5))


def _result(number: int, text: Text) -> list[dict[str, Any]]:
    content = text.take(text.between(3_000, 30_000)).decode()
    return [{"type": "tool_result", "tool_use_id": f"toolu_{number - 1}", "content": content}]


class _Program:
    """A program that calls the middleware itself, in place of the SDK."""

    def __init__(self, recorder: Recorder, **around: Any) -> None:  # noqa: ANN401 - parameters of the API
        self._recorder = recorder
        self._around = around
        self._client = Anthropic(api_key="none", base_url="http://127.0.0.1:1")
        self.history: list[Any] = []
        self.system = around.get("system", "")

    def turn(self, answer: list[Any], ask: Any) -> None:  # noqa: ANN401 - a text or blocks
        """One ask and its answer, streamed."""
        self.history.append({"role": "user", "content": ask})
        whole = wire.message(Reply(content=answer), model=MODEL, key=str(len(self.history)).encode(), usage=USAGE)
        body = {**ASK, **self._around, "stream": True, "messages": self.history}
        options = FinalRequestOptions(method="post", url="/v1/messages", json_data=body)
        response = self._recorder.handle(_request(options), lambda _: self._response(wire.events(whole), options))
        for _ in response.iter_bytes():
            pass
        self.history.append({"role": "assistant", "content": whole.content})

    def _response(self, events: list[bytes], options: FinalRequestOptions) -> APIResponse[Any]:
        return APIResponse(
            raw=_http_response(events),
            cast_to=Message,
            client=self._client,
            stream=True,
            stream_cls=None,
            options=options,
        )


def _request(options: FinalRequestOptions) -> APIRequest:
    from anthropic import APIRequest  # noqa: PLC0415 - only the type is imported above

    return APIRequest(options=options, cast_to=Message, stream=True)


def _http_response(events: list[bytes]) -> httpx2.Response:
    class Body(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield from events

    headers = {"content-type": "text/event-stream; charset=utf-8", "request-id": "req_1"}
    request = httpx2.Request("POST", "http://127.0.0.1:1/v1/messages")
    return httpx2.Response(200, headers=headers, stream=Body(), request=request)


# --- 3: a long chat ---------------------------------------------------------------------------------------------------


class _Grown(msgspec.Struct):
    series: list[Series]
    findings: list[Finding]
    plot: list[str]


def _growth(size: Size, directory: Path) -> _Grown:
    marks = [100, 300, 1_000, 3_000, 5_000] if not size.small else [5, 10, 50]
    path, text = directory / "chat", Text(3)
    stored: dict[int, float] = {}
    costs: dict[int, tuple[list[float], list[float]]] = {}
    with BlockingEventSessionStorage(path, durability="os") as storage:
        recorder = Recorder(storage)
        program = _Program(recorder)
        for turns in marks:
            while len(program.history) < 2 * turns:
                program.turn([says(text.take(900).decode())], text.take(250).decode())
            stored[turns] = _event_bytes(storage, recorder.sessions[0])
            costs[turns] = _cpu(recorder, program.history, size)  # goes on with the chat
    tenth = marks[-1] // 10 if marks[-1] // 10 in stored else marks[0]
    growth = (stored[marks[-1]] / stored[tenth]) / (marks[-1] / tenth)
    added = [100 * (recorded - bare) / bare for bare, recorded in zip(*costs[marks[-1]], strict=True)]
    findings = [
        Finding(f"bytes per turn, {marks[-1]:,} turns / {tenth:,}", growth, at_most=1.05),
        Finding(f"CPU time added to a call at {marks[-1]:,} turns", sorted(added)[len(added) // 2], "%", at_most=20),
    ]
    series = [
        Series(f"SDK's own CPU at {marks[-1]:,} turns", "-", "s", costs[marks[-1]][0]),
        Series(f"recorded, CPU at {marks[-1]:,} turns", "os", "s", costs[marks[-1]][1]),
    ]
    return _Grown(series, findings, _plot(stored, costs))


def _event_bytes(storage: BlockingEventSessionStorage, session_id: str) -> float:
    return float(sum(len(event.data) + len(event.meta) for page in storage.log.pages(session_id) for event in page))


def _cpu(recorder: Recorder, history: list[Any], size: Size) -> tuple[list[float], list[float]]:
    """CPU seconds of a client's call with one more ask: bare, and recorded, which goes on with the *history*."""
    whole = wire.message(Reply(content="Yes."), model=MODEL, key=b"k", usage=USAGE)
    transport = httpx2.MockTransport(lambda _: _http_response(wire.events(whole)))
    options: dict[str, Any] = {"api_key": "none", "max_retries": 0}
    bare, recorded = [
        Anthropic(http_client=httpx2.Client(transport=transport), middleware=middleware, **options)
        for middleware in ((), [recorder])
    ]
    costs: tuple[list[float], list[float]] = ([], [])
    for number in range(size.rounds + 1):
        history.append({"role": "user", "content": f"Measured {number}"})
        for client, values in zip((bare, recorded), costs, strict=True):
            began = time.process_time()
            for _ in client.messages.create(messages=history, stream=True, **ASK):
                pass
            values.append(time.process_time() - began)
        history.append({"role": "assistant", "content": whole.content})
    return costs[0][1:], costs[1][1:]


def _plot(stored: dict[int, float], costs: dict[int, tuple[list[float], list[float]]]) -> list[str]:
    """Bytes, and CPU time of a call, over the turns."""
    lines = ["turns      bytes stored"]
    most = max(stored.values())
    lines += [
        f"{turns:>6,} {'#' * round(BARS * found / most):<{BARS}} {found:>12,.0f}" for turns, found in stored.items()
    ]
    lines.append("turns      CPU of a call (.: the SDK's own, #: added by recording)")
    medians = {turns: [sorted(values)[len(values) // 2] for values in each] for turns, each in costs.items()}
    slowest = max(max(pair) for pair in medians.values())
    for turns, (bare, recorded) in medians.items():
        bar = "." * round(BARS * bare / slowest) + "#" * round(BARS * max(recorded - bare, 0) / slowest)
        lines.append(f"{turns:>6,} {bar:<{BARS}} {1000 * bare:>7.1f} ms + {1000 * (recorded - bare):.1f} ms")
    return lines


def _seconds_and_cpu(work: Callable[[], object]) -> tuple[float, float]:
    began, began_cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - began_cpu


if __name__ == "__main__":
    run_alone(__file__, run)
