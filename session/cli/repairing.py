"""`refold lint` and `refold resume`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import click
import msgspec

from session.cli._address import PLACE, find_place
from session.cli._failures import Exit
from session.cli._options import command
from session.cli._output import Column, output, say
from session.cli._store import open_store

if TYPE_CHECKING:
    from session.lint import Plan, Problem
    from session.state import SessionState


class LintProblem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something the Messages API would refuse, in the message with this index (from 0); `block` is null where it is the
    message as a whole. `repairable`: `refold resume` makes it go away.
    """

    code: str
    message: int
    block: int | None
    text: str
    repairable: bool


COLUMNS: Final = (
    Column[LintProblem]("message", lambda found: found.message, right=True, whole=True),
    Column[LintProblem]("block", lambda found: found.block, right=True, whole=True),
    Column[LintProblem]("problem", lambda found: found.code, style="red", whole=True),
    Column[LintProblem]("repairable", lambda found: "yes" if found.repairable else "no", whole=True),
    Column[LintProblem]("what", lambda found: found.text, wraps=True),
)


@command("lint", example="refold lint sess_4f\nrefold lint sess_4f@turn:3 --sending", prints=LintProblem)
@click.argument("place", type=PLACE)
@click.option("--sending", is_flag=True, help="Judge it as the request that it would be now.")
def lint(place: str, *, sending: bool) -> int | None:
    """What the Messages API would refuse in the messages of a session. Exit code 2 if there is something.

    In a pipe: message, block, code, whether `refold resume` repairs it, and what it is.
    """
    from session.lint import lint as find_problems  # noqa: PLC0415 - with the store

    with open_store() as store:
        found = find_place(store, place)
        messages = list(store.state_at(found.session_id, found.at).messages)
    problems = find_problems(messages, sending=sending)
    out = output()
    out.rows(map(_shown, problems), COLUMNS)
    if out.terminal and not problems:
        out.line(f"nothing to refuse in {len(messages)} messages", style="green")
    return Exit.FOUND if problems else None


class RepairedRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The request with which the session would go on: `body` is its exact text. `pending` says what is unanswered:
    "request", "tool_use", "cut_response", "pause_turn", "message" or null. `added` are the ids of the tool calls that
    got a result, `problems` what was wrong.
    """

    session: str
    version: int
    pending: str | None
    problems: list[LintProblem]
    added: list[str]
    body: str


@command("resume", example="refold resume sess_4f > request.json\nrefold resume sess_4f@turn:3", prints=RepairedRequest)
@click.argument("place", type=PLACE)
def resume(place: str) -> None:
    """Print the request with which a session would go on, repaired so that the Messages API takes it.

    Nothing is sent and nothing is written. Messages that need no repair are there byte for byte; a tool call without a
    result gets one that says so. What was repaired is said on stderr.
    """
    from session._doubt import doubting, records_starts  # noqa: PLC0415 - with the store

    with open_store() as store:
        found = find_place(store, place)
        state = store.state_at(found.session_id, found.at)
        first = next((stored.event for stored in store.events(found.session_id, upto=1)), None)
    plan, body = _repaired(state if records_starts(first) else doubting(state))
    added = [addition.tool_use_id for addition in plan.additions]
    out = output()
    if out.json:
        problems = [_shown(problem) for problem in plan.problems]
        pending = state.pending.kind if state.pending else None
        text = body.decode("utf-8", "surrogateescape")
        out.object(RepairedRequest(found.session_id, state.version, pending, problems, added, text))
        return
    if out.terminal:
        out.line(body.decode("utf-8", "surrogateescape"))
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(body + b"\n")
    _say_what(state, plan)


def _repaired(state: SessionState) -> tuple[Plan, bytes]:
    from session import jsontext  # noqa: PLC0415 - with the store
    from session.lint import plan  # noqa: PLC0415
    from session.request import build_body  # noqa: PLC0415

    in_doubt = [run.tool_use_id for run in state.tools if run.result is None]
    planned = plan(list(state.messages), in_doubt=in_doubt)
    raw = state.messages.raw
    messages = (
        raw[viewed.origin] if viewed.origin is not None else jsontext.encode(viewed.message) for viewed in planned.view
    )
    return planned, build_body(state.prompt, messages, stream=False)


def _say_what(state: SessionState, plan: Plan) -> None:
    said = [f"problems: {len(plan.problems)}", f"results added: {len(plan.additions)}"]
    said.append(f"unanswered: {state.pending.kind if state.pending else 'nothing'}")
    if not state.prompt.model:
        said.append("the session has no model")
    say(f"refold: {', '.join(said)}")


def _shown(problem: Problem) -> LintProblem:
    repairable = problem.remedy != "none"
    return LintProblem(problem.code, problem.message_index, problem.block_index, problem.text, repairable)
