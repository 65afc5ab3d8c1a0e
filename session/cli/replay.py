"""`refold replay` and `refold debug`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from session.cli._address import PLACE, find_place
from session.cli._failures import CommandError, Exit, NotFoundError
from session.cli._options import command
from session.cli._output import Column, money, output, say, when
from session.cli._store import open_store
from session.cli._visible import shortened

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from session.cli._output import Output
    from session.cli._stepping import Moment, Stepper
    from session.places import Place
    from session.replay._lanes import Exchange, Lane
    from session.replay._requests import Difference, LogicalRequest
    from session.storage.blocking import BlockingEventSessionStorage

_CHANGE_CHARACTERS: Final = 160

# --- replay -----------------------------------------------------------------------------------------------------------


class CallDifference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first difference of a request from the recorded one: `pointer` (RFC 6901) leads to it in the body, `before`
    is what was recorded there, `after` what the request has, as JSON; "" is nothing.
    """

    cause: str
    pointer: str
    before: str
    after: str
    notes: list[str]


class ReplayedCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A recorded attempt: the request at `version` of `session`, and what a replay serves for it. `call` counts from 1
    in its session, `status` is 0 where no response came, `served` is false where none was recorded. With `--request`,
    `difference` is how that request differs, or null if this is what it would be answered with.
    """

    session: str
    version: int
    call: int
    attempt: int
    model: str
    messages: int
    stream: bool
    served: bool
    status: int
    outcome: str
    chunks: int
    bytes: int
    duration_ms: int
    digest: str
    difference: CallDifference | None = None


COLUMNS: Final = (
    Column[ReplayedCall]("request", lambda call: f"{call.session}@{call.version}", whole=True),
    Column[ReplayedCall]("call", lambda call: call.call, right=True),
    Column[ReplayedCall]("attempt", lambda call: call.attempt, right=True),
    Column[ReplayedCall]("model", lambda call: call.model),
    Column[ReplayedCall]("messages", lambda call: call.messages, right=True),
    Column[ReplayedCall]("asked for", lambda call: "stream" if call.stream else "whole"),
    Column[ReplayedCall]("status", lambda call: call.status, right=True),
    Column[ReplayedCall]("served", lambda call: call.outcome),
    Column[ReplayedCall]("chunks", lambda call: call.chunks, right=True),
    Column[ReplayedCall]("bytes", lambda call: call.bytes, right=True),
    Column[ReplayedCall]("ms", lambda call: call.duration_ms, right=True),
)


@command(
    "replay",
    example="refold replay sess_4f\nrefold replay sess_4f --request body.json || echo it differs",
    prints=ReplayedCall,
)
@click.argument("place", type=PLACE)
@click.option(
    "--request",
    "body",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A Messages API body (JSON): where does it differ from the call at PLACE, or from the nearest one?",
)
def replay(place: str, body: Path | None) -> int | None:
    """What a replay of a recording serves: each call of the run up to PLACE, and how it was answered.

    Nothing is sent. To run a program against the recording: `with Replayer(store, "ID") as replay:` in Python. With
    --request the exit code is 2 if it differs. In a pipe: the place of the request, call, attempt, model, messages,
    kind, status, outcome, chunks, bytes and milliseconds.
    """
    with open_store() as store:
        found = find_place(store, place)
        version = store.version_at(found.session_id, found.at)
        calls = list(_calls(store, found.session_id, version))
        if body is None:
            output().rows((_shown(lane, exchange) for lane, exchange in calls), COLUMNS)
            return None
        return _compare(store, found, version, calls, _request_in(body, store, calls))


def _calls(store: BlockingEventSessionStorage, session_id: str, version: int) -> Iterator[tuple[Lane, Exchange]]:
    """All attempts of the run, in the order in which they were made, up to that of the session behind *version*."""
    from session.replay._lanes import in_order  # noqa: PLC0415 - takes long to import
    from session.replay._run import read_lanes  # noqa: PLC0415
    from session.storage._now import run_now  # noqa: PLC0415

    lanes = {lane.session_id: lane for lane in run_now(read_lanes(store.sessions, session_id)) if lane.required}
    made = in_order(lanes.values())
    until = next((each.sent_place for each in made if each.session_id == session_id and each.version > version), None)
    for exchange in made:
        if until is None or exchange.sent_place < until:
            yield lanes[exchange.session_id], exchange


def _shown(lane: Lane, exchange: Exchange, difference: Difference | None = None) -> ReplayedCall:
    served, status, outcome, chunks, size, duration_ms = _served(exchange)
    differs = None
    if difference is not None:
        differs = CallDifference(
            difference.cause, difference.pointer, difference.before, difference.after, list(difference.notes)
        )
    return ReplayedCall(
        session=lane.session_id,
        version=exchange.version,
        call=exchange.number + 1,
        attempt=exchange.request.attempt,
        model=exchange.model,
        messages=exchange.request.messages,
        stream=exchange.request.stream,
        served=served,
        status=status,
        outcome=outcome,
        chunks=chunks,
        bytes=size,
        duration_ms=duration_ms,
        digest=exchange.digest.hex(),
        difference=differs,
    )


def _served(exchange: Exchange) -> tuple[bool, int, str, int, int, int]:
    """Whether it can be served, status, outcome, chunks, bytes and milliseconds."""
    from session.replay._bodies import answer_of  # noqa: PLC0415 - takes long to import
    from session.replay.errors import ResponseNotRecordedError  # noqa: PLC0415

    duration_ms = exchange.end.duration_ms if exchange.end else 0
    try:
        answer = answer_of(exchange, stream=exchange.request.stream)
    except ResponseNotRecordedError as error:
        return False, 0, f"no response: {error.reason}", 0, 0, duration_ms
    reason = getattr(exchange.end, "stop_reason", None) or getattr(exchange.end, "reason", "") or "complete"
    if answer.broken is not None:
        reason = f"{reason}: {answer.broken.name} {answer.broken.cause}".rstrip()
    return True, answer.status, reason, len(answer.chunks), len(answer.body), duration_ms


def _request_in(
    path: Path, store: BlockingEventSessionStorage, calls: Iterable[tuple[Lane, Exchange]]
) -> LogicalRequest:
    """That of the body in *path*; of one that goes on with a message thread of *calls*, with all messages of it."""
    from session import jsontext  # noqa: PLC0415 - with the store
    from session.errors import UnreadableJsonError  # noqa: PLC0415
    from session.replay._requests import LogicalRequest  # noqa: PLC0415

    try:
        body = jsontext.parse(path.read_bytes())
    except UnreadableJsonError as error:
        raise CommandError(f"{path}: {error}") from error
    if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
        raise CommandError(f"{path}: not the body of a Messages API request: it has no list of messages")
    if not isinstance(body.get("model"), str):
        raise CommandError(f"{path}: not the body of a Messages API request: it names no model")
    asked, thread = LogicalRequest.of_body(body), body.get("thread")
    if not isinstance(thread, dict) or thread.get("type") != "continue":
        return asked
    known = next(
        (lane.threads[each] for lane, _ in calls if (each := str(thread.get("previous_message_id"))) in lane.threads),
        None,
    )
    if known is None:
        raise CommandError(f"{path}: it goes on with a message thread that is not in this recording")
    return asked.behind(store.state_at(known.session_id, known.version))


def _compare(
    store: BlockingEventSessionStorage,
    place: Place,
    version: int,
    calls: list[tuple[Lane, Exchange]],
    asked: LogicalRequest,
) -> int | None:
    from session.places import HEAD  # noqa: PLC0415 - with the store

    candidates = calls if place.at == HEAD else _newest_at(place.session_id, version, calls)
    if not candidates:
        raise NotFoundError(f"{place}: no call was recorded up to there")
    lane, exchange, difference = _nearest(store, candidates, asked)
    _print_comparison(output(), _shown(lane, exchange, difference))
    return Exit.FOUND if difference else None


def _newest_at(session_id: str, version: int, calls: Iterable[tuple[Lane, Exchange]]) -> list[tuple[Lane, Exchange]]:
    own = [call for call in calls if call[1].session_id == session_id and call[1].version <= version]
    return own[-1:]


def _nearest(
    store: BlockingEventSessionStorage, calls: Sequence[tuple[Lane, Exchange]], asked: LogicalRequest
) -> tuple[Lane, Exchange, Difference | None]:
    """The recorded call that *asked* was meant to be, and where it differs from it."""
    from session.replay._nearest import nearest_attempt  # noqa: PLC0415 - with the store
    from session.replay._requests import LogicalRequest as Logical  # noqa: PLC0415
    from session.replay._requests import explain  # noqa: PLC0415
    from session.storage._now import run_now  # noqa: PLC0415

    lanes = {exchange.place: lane for lane, exchange in calls}
    attempt, same = run_now(nearest_attempt(store.sessions, [exchange for _, exchange in calls], asked))
    if same:
        return lanes[attempt.place], attempt, None
    state = store.state_at(attempt.session_id, attempt.version)
    return lanes[attempt.place], attempt, explain(Logical.recorded(state, attempt.request.messages), asked)


def _print_comparison(out: Output, call: ReplayedCall) -> None:
    if out.json:
        out.object(call)
        return
    place, difference = f"{call.session}@{call.version}", call.difference
    if difference is None:
        out.line(f"{place}: the request that was recorded; served: {call.status} {call.outcome}", style="green")
        return
    out.line(f"{place}: differs from the request that was recorded: {difference.cause}", style="bold red")
    for name, text in (("where", difference.pointer), ("recorded", difference.before), ("request", difference.after)):
        out.line(f"  {name:<9} {shortened(text, _CHANGE_CHARACTERS) or '(nothing)'}")
    for note in difference.notes:
        out.line(f"  {'note':<9} {note}")


# --- debug ------------------------------------------------------------------------------------------------------------


class DebugStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A session behind its event `version`, of `head`: what happened, what that changed, and what the state is then.
    `request` is the exact body that would be sent from there, where it was asked for.
    """

    session: str
    version: int
    head: int
    recorded_at: int
    type: str
    what: str
    changed: list[str]
    turn: int
    messages: int
    status: str
    pending: str | None
    cost_usd: float
    unpriced: int
    request: str | None = None


_HELP: Final = "n next, p previous, N next turn, P turn before, g PLACE go there, r the request from here, q quit"


@command(
    "debug",
    example="refold debug sess_4f\nrefold debug sess_4f --steps\nprintf 'N\\nr\\n' | refold debug sess_4f",
    prints=DebugStep,
)
@click.argument("place", type=PLACE)
@click.option("--steps", is_flag=True, help="Print every event behind PLACE (all of them without @), ask for nothing.")
def debug(place: str, *, steps: bool) -> int | None:
    """Step through a session, forwards and backwards: the state at each event, what changed, the exact request.

    Commands, one a line, from the terminal or a pipe: n and p go an event on or back, N and P a turn, `g 412` (-3,
    msg_01..., turn:7) goes to a place, r prints the exact request that would be sent from there, q ends. An empty line
    does the last one again. It begins at PLACE, or before the first event.
    """
    from session.cli._stepping import Stepper  # noqa: PLC0415 - with the store
    from session.places import HEAD  # noqa: PLC0415

    with open_store() as store:
        found = find_place(store, place)
        stepper = Stepper(store, found.session_id)
        if found.at != HEAD:
            stepper.version = store.version_at(found.session_id, found.at)
        out = output()
        if steps:
            for moment in stepper.moments():
                _print_step(out, stepper, moment)
            return None
        return _Walk(store, stepper, out).run()


class _Walk:
    """A dialogue about a session."""

    def __init__(self, store: BlockingEventSessionStorage, stepper: Stepper, out: Output) -> None:
        self._store = store
        self._stepper = stepper
        self._out = out
        self._misunderstood = 0

    def run(self) -> int | None:
        """Until `q` or the end of what is typed; 1 if something in a pipe was no command."""
        asks = sys.stdin.isatty()
        if asks:
            say(_HELP)
            self._print()
        last = "n"
        while True:
            if asks:
                sys.stderr.write(f"{self._stepper.version}/{self._stepper.head}> ")
                sys.stderr.flush()
            line = sys.stdin.readline()
            if not line or line.strip() in {"q", "quit"}:
                return Exit.ERROR if self._misunderstood and not asks else None
            last = line.strip() or last
            self._follow(last)

    def _follow(self, typed: str) -> None:
        name, _, argument = typed.partition(" ")
        stepper = self._stepper
        match name:
            case "n" | "p":
                self._moved(stepper.move(1 if name == "n" else -1))
            case "N" | "P":
                self._moved(stepper.move_turn(forwards=name == "N"))
            case "g":
                self._go(argument.strip())
            case "r":
                self._print_request()
            case "h" | "?":
                say(_HELP)
            case _:
                self._misunderstood += 1
                say(f"refold: no command {shortened(typed, 40)}: {_HELP}")

    def _go(self, place: str) -> None:
        from session.errors import InvalidPlaceError, PlaceNotFoundError  # noqa: PLC0415 - with the store

        try:
            self._stepper.version = self._store.version_at(self._stepper.session_id, place)
        except (InvalidPlaceError, PlaceNotFoundError) as error:
            self._misunderstood += 1
            say(f"refold: {error}")
        else:
            self._print()

    def _moved(self, moved: bool) -> None:
        if moved:
            self._print()
        else:
            say("refold: there is nothing more in that direction")

    def _print(self) -> None:
        _print_step(self._out, self._stepper, self._stepper.moment())

    def _print_request(self) -> None:
        moment = self._stepper.moment()
        text = moment.request.decode("utf-8", "surrogateescape")
        if self._out.json:
            self._out.object(_step(self._stepper, moment, text), flush=True)
        elif self._out.terminal:
            self._out.line(text)
        else:
            sys.stdout.flush()
            sys.stdout.buffer.write(moment.request + b"\n")
            sys.stdout.flush()


def _step(stepper: Stepper, moment: Moment, request: str | None = None) -> DebugStep:
    state = moment.state
    return DebugStep(
        session=stepper.session_id,
        version=moment.version,
        head=stepper.head,
        recorded_at=moment.stored.recorded_at if moment.stored else 0,
        type=moment.stored.type if moment.stored else "",
        what=moment.what,
        changed=moment.changed,
        turn=state.turns[-1].number if state.turns else 0,
        messages=len(state.messages),
        status=state.status,
        pending=state.pending.kind if state.pending else None,
        cost_usd=state.usage.total_cost_usd,
        unpriced=state.usage.unpriced,
        request=request,
    )


def _print_step(out: Output, stepper: Stepper, moment: Moment) -> None:
    step: Any = _step(stepper, moment)
    if out.json:
        out.object(step, flush=True)
    elif out.terminal:
        _print_for_people(out, step)
    else:
        cells = (when(step.recorded_at), step.type, step.turn, step.messages, step.status)
        changed = "; ".join(shortened(change, _CHANGE_CHARACTERS) for change in step.changed)
        out.cells(step.version, *cells, f"{step.cost_usd:.6f}", changed, flush=True)


def _print_for_people(out: Output, step: DebugStep) -> None:
    happened = f"{step.type}: {shortened(step.what, _CHANGE_CHARACTERS)}" if step.type else "before the first event"
    out.line(f"{step.version} of {step.head}  {when(step.recorded_at)}  {happened}", style="bold")
    for change in step.changed:
        out.line(f"  {shortened(change, _CHANGE_CHARACTERS)}", style="yellow")
    pending = f", pending {step.pending}" if step.pending else ""
    cost = money(step.cost_usd, step.unpriced)
    out.line(f"  turn {step.turn}, {step.messages} messages, {step.status}{pending}, {cost}", style="dim")
