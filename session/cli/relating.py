"""`refold tree` and `refold diff`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from session.cli._address import PLACE, SESSION, find_place, find_session
from session.cli._failures import Exit
from session.cli._options import command
from session.cli._output import money, output
from session.cli._store import open_store
from session.cli._visible import shortened
from session.cli.looking import ListedSession, listed, say_unreadable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from session.cli._output import Output
    from session.places import Place
    from session.state import SessionState
    from session.storage.blocking import BlockingEventSessionStorage
    from session.usage import Usage

# --- tree -------------------------------------------------------------------------------------------------------------


class TreeSession(ListedSession, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A session in a family of forks, as `refold list` shows it, `depth` forks below the first one."""

    depth: int


@command("tree", example="refold tree sess_4f\nrefold tree sess_4f --all --json", prints=TreeSession)
@click.argument("session", type=SESSION)
@click.option("--all", "everyone", is_flag=True, help="Draw every fork; otherwise many alike become one line.")
def tree(session: str, *, everyone: bool) -> int | None:
    """A session, what it was forked from, and all their forks: with the versions, own cost and status of each.

    In a pipe: depth, id, version it was forked at, version, own cost in dollars, status and title.
    """
    with open_store() as store:
        members, unreadable = store.family(find_session(store, session))
        out = output()
        _print_tree(out, [listed(member) for member in members], everyone=everyone or not out.terminal)
    return say_unreadable(unreadable)


def _print_tree(out: Output, members: Sequence[ListedSession], *, everyone: bool) -> None:
    from session.family import SHOWN_FORKS, draw  # noqa: PLC0415 - for this command only

    for line in draw(members, most=None if everyone else SHOWN_FORKS):
        if line.place is None:
            out.line(f"{line.branches}… {line.hidden} more forks (--all)", style="dim")
            continue
        member = members[line.place]
        if out.json:
            out.object(TreeSession(**msgspec.structs.asdict(member), depth=line.depth))
        elif out.terminal:
            out.line(f"{line.branches}{_in_tree(member)}", style="" if line.depth else "bold")
        else:
            cost = f"{member.own_cost_usd:.6f}"
            out.cells(line.depth, member.id, member.forked_at, member.version, cost, member.status, member.title)


def _in_tree(member: ListedSession) -> str:
    begun = f" @{member.forked_at}" if member.parent_id else ""
    cost = money(member.own_cost_usd, member.unpriced)
    return f"{member.id}{begun} → {member.version}  {cost}  {member.status}  {member.title}"


# --- diff -------------------------------------------------------------------------------------------------------------


class AddedMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A message behind the common ones."""

    index: int
    role: str
    content: Any


class Side(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of the two: what it added behind the common messages, and what it used. `added_cost_usd` is what it cost
    since the events that both share; `added_unpriced` responses since then have no known price, `unpriced` in all.
    """

    session: str
    version: int
    messages: int
    turns: int
    usage: dict[str, Any]
    cost_usd: float
    added_cost_usd: float
    unpriced: int
    added_unpriced: int
    added: list[AddedMessage]


class FirstDifference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where they part: the message with this `index`, at the JSON pointer `pointer` in it. `kind` is "changed",
    "only_a", "only_b" or "bytes" (equal values, written otherwise). `a` and `b` are what stands there, as JSON text.
    """

    index: int
    kind: str
    pointer: str
    a: str
    b: str


class Diff(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Two sessions. The first `common_messages` are the same, byte for byte; `shared_events` events are those of both,
    by a fork or by equal digests. `difference` is null where all messages are the same.
    """

    common_messages: int
    shared_events: int
    difference: FirstDifference | None
    a: Side
    b: Side


@command("diff", example="refold diff sess_4f sess_9c\nrefold diff sess_4f@turn:3 sess_4f --json", prints=Diff)
@click.argument("a", type=PLACE)
@click.argument("b", type=PLACE)
def diff(a: str, b: str) -> int:
    """Where two sessions part, and what each said, used and paid from there. Exit code 2 if they differ."""
    with open_store() as store:
        found = _compared(store, find_place(store, a), find_place(store, b))
    out = output()
    if out.json:
        out.object(found)
    else:
        _print_diff(out, found)
    return Exit.FOUND if found.difference else Exit.OK


def _compared(store: BlockingEventSessionStorage, a: Place, b: Place) -> Diff:
    from session.compare import compare  # noqa: PLC0415 - for this command only

    one, other = store.state_at(a.session_id, a.at), store.state_at(b.session_id, b.at)
    shared = _shared_events(store, (a.session_id, one.version), (b.session_id, other.version))
    common_usage = store.state_at(a.session_id, shared).usage
    found = compare(one.messages.raw, other.messages.raw)
    difference = FirstDifference(**msgspec.structs.asdict(found.difference)) if found.difference else None
    return Diff(
        common_messages=found.common,
        shared_events=shared,
        difference=difference,
        a=_side(a.session_id, one, found.common, common_usage),
        b=_side(b.session_id, other, found.common, common_usage),
    )


def _shared_events(store: BlockingEventSessionStorage, a: tuple[str, int], b: tuple[str, int]) -> int:
    """The last version at which both have the same digest: it commits to all events before it."""
    same, differ = 0, min(a[1], b[1]) + 1
    while differ - same > 1:
        middle = (same + differ) // 2
        if _digest(store, a[0], middle) == _digest(store, b[0], middle):
            same = middle
        else:
            differ = middle
    return same


def _digest(store: BlockingEventSessionStorage, session_id: str, version: int) -> bytes:
    return next(store.events(session_id, after=version - 1, upto=version)).digest


def _side(session_id: str, state: SessionState, common: int, common_usage: Usage) -> Side:
    entries = list(enumerate(state.messages.entries))[common:]
    parsed = ((number, entry.role, entry.parsed()) for number, entry in entries)
    since = state.usage - common_usage
    return Side(
        session=session_id,
        version=state.version,
        messages=len(state.messages),
        turns=state.turns[-1].number if state.turns else 0,
        usage=state.usage.to_dict(),
        cost_usd=state.usage.total_cost_usd,
        added_cost_usd=since.total_cost_usd,
        unpriced=state.usage.unpriced,
        added_unpriced=since.unpriced,
        added=[AddedMessage(number, role or "unreadable", message.get("content")) for number, role, message in parsed],
    )


def _print_diff(out: Output, found: Diff) -> None:
    out.line(f"common: {found.common_messages} messages ({found.shared_events} events shared)")
    if found.difference is None:
        out.line("no difference in the messages", style="green")
    else:
        out.line(f"first difference: {_place(found.difference)}", style="bold")
        for name, text in (("a", found.difference.a), ("b", found.difference.b)):
            if text:
                out.line(f"  {name}: {_abridged(text)}")
    for name, side, style in (("a", found.a, "red"), ("b", found.b, "green")):
        _print_side(out, name, side, style)


def _print_side(out: Output, name: str, side: Side, style: str) -> None:
    cost, added = money(side.cost_usd, side.unpriced), money(side.added_cost_usd, side.added_unpriced)
    out.line()
    out.line(
        f"{name}: {side.session}@{side.version}: {side.messages} messages, {cost}, {added} of it since", style="bold"
    )
    mark = "-" if name == "a" else "+"
    for message in side.added:
        out.line(f"{mark} {message.index} {message.role}: {_abridged(_text(message))}", style=style)


def _place(difference: FirstDifference) -> str:
    pointer = f" at {difference.pointer}" if difference.pointer else ""
    kinds: Final = {
        "changed": "changed",
        "only_a": "only in a",
        "only_b": "only in b",
        "bytes": "equal in value, written otherwise",
    }
    return f"message {difference.index}{pointer}: {kinds[difference.kind]}"


def _text(message: AddedMessage) -> str:
    from session.cli._content import preview  # noqa: PLC0415 - for this command only

    return preview({"content": message.content})


def _abridged(text: str) -> str:
    return shortened(text, 300)
