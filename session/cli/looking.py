"""`refold list` and `refold show`."""

from __future__ import annotations

import sys
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from session.cli._address import PLACE, find_place
from session.cli._content import described
from session.cli._failures import Exit
from session.cli._options import COUNT, MOST, command
from session.cli._output import Column, money, output, say, when, when_shown
from session.cli._store import open_store
from session.cli._visible import visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from session.cli._output import Output
    from session.messages import Message
    from session.places import Place
    from session.storage.blocking import BlockingEventSessionStorage
    from session.summary import Summary

PAGE: Final = 200


class ListedSession(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A session. Times are Unix milliseconds. `cost_usd` and the numbers of messages and turns count what a fork has
    from its parent, `own_cost_usd` does not; both leave out as many responses as `unpriced` says.
    """

    id: str
    title: str
    tags: list[str]
    model: str
    status: str
    messages: int
    turns: int
    version: int
    cost_usd: float
    own_cost_usd: float
    unpriced: int
    created_at: int
    updated_at: int
    parent_id: str | None
    forked_at: int


COLUMNS: Final = (
    Column[ListedSession]("id", lambda found: found.id, whole=True),
    Column[ListedSession](
        "updated", lambda found: when(found.updated_at), shown=lambda found: when_shown(found.updated_at), whole=True
    ),
    Column[ListedSession]("status", lambda found: found.status, whole=True),
    Column[ListedSession]("msgs", lambda found: found.messages, right=True, whole=True),
    Column[ListedSession](
        "cost",
        lambda found: f"{found.cost_usd:.6f}",
        shown=lambda found: money(found.cost_usd, found.unpriced),
        right=True,
        whole=True,
    ),
    Column[ListedSession]("model", lambda found: found.model, shown=None),
    Column[ListedSession]("title", lambda found: found.title),
)


@command("list", example="refold list --limit 20\nrefold list --json | jq -r .title", prints=ListedSession)
@click.option("--limit", default=50, show_default=True, type=COUNT, help="At most so many sessions; 0: all.")
@click.option("--tag", metavar="TAG", help="Only those with this tag.")
def list_sessions(limit: int, tag: str | None) -> int | None:
    """The sessions, newest activity first.

    In a pipe: id, time of the last event, status, number of messages, cost in dollars, model and title, separated by
    tabs. A session that cannot be read is named on stderr, and makes the exit code 4.
    """
    unreadable: dict[str, str] = {}
    with open_store() as store:
        size = PAGE if tag or not limit else min(limit, PAGE)
        found = (listed(summary) for summary in _summaries(store, size, unreadable))
        tagged = found if tag is None else (session for session in found if tag in session.tags)
        output().rows(islice(tagged, limit or None), COLUMNS)
    return say_unreadable(unreadable)


def say_unreadable(unreadable: Mapping[str, str]) -> int | None:
    """Name the sessions that cannot be read; the exit code."""
    for session_id, reason in unreadable.items():
        say(f"refold: {session_id} cannot be read: {reason}")
    return Exit.STORE if unreadable else None


def listed(found: Summary) -> ListedSession:
    """What a list shows of a session."""
    return ListedSession(
        id=found.id,
        title=found.title,
        tags=list(found.tags),
        model=found.model,
        status=found.status,
        messages=found.messages,
        turns=found.turns,
        version=found.version,
        cost_usd=found.usage.total_cost_usd,
        own_cost_usd=found.own_usage.total_cost_usd,
        unpriced=found.usage.unpriced,
        created_at=found.created_at,
        updated_at=found.updated_at,
        parent_id=found.parent_id,
        forked_at=found.forked_at,
    )


def _summaries(store: BlockingEventSessionStorage, size: int, unreadable: dict[str, str]) -> Iterator[Summary]:
    page = store.summaries(size)
    while True:
        unreadable |= page.unreadable
        yield from page.items
        if page.cursor is None:
            return
        page = store.summaries(size, page.cursor)


class ShownMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A message, the one with this `index` (from 0) in the session. `content` is as it was sent; where no parser takes
    the message, it stands as one block of type "unreadable" that shows its bytes.
    """

    session: str
    version: int
    index: int
    role: str
    content: Any


@command("show", example="refold show sess_4f --last 20\nrefold show sess_4f@turn:3 --raw", prints=ShownMessage)
@click.argument("place", type=PLACE)
@click.option("--at", "at", metavar="PLACE", help="The place in the session: 412, -3, msg_01... or turn:7.")
@click.option("--last", metavar="N", type=click.IntRange(1, MOST), help="Only the newest N messages.")
@click.option("--raw", is_flag=True, help="The exact bytes of each message, one in a line.")
def show(place: str, at: str | None, last: int | None, *, raw: bool) -> None:
    """The messages of a session, as they are now or were at PLACE.

    In a pipe: index, role and text, separated by tabs. With --raw: the bytes that were sent or received.
    """
    with open_store() as store:
        found = find_place(store, f"{place}@{at}" if at is not None else place)
        version, first, messages = _messages(store, found, last)
        out = output()
        if raw:
            _print_raw(out, messages)
        elif out.terminal:
            for number, message in enumerate(messages, first):
                _print_message(out, number, message)
        else:
            _print_rows(out, found.session_id, version, first, messages)


def _messages(store: BlockingEventSessionStorage, place: Place, last: int | None) -> tuple[int, int, Sequence[Message]]:
    """The version, the index of the first message, and the messages."""
    from session.places import HEAD  # noqa: PLC0415 - with the store

    if last is not None and place.at == HEAD:
        newest = store.newest_messages(place.session_id, last)
        return newest.version, newest.first, newest.messages
    state = store.state_at(place.session_id, place.at)
    entries = state.messages.entries
    first = 0 if last is None else max(0, len(entries) - last)
    return state.version, first, entries[first:]


def _print_raw(out: Output, messages: Sequence[Message]) -> None:
    for message in messages:
        if out.terminal:
            out.line(message.raw.decode("utf-8", "surrogateescape"))
        else:
            sys.stdout.flush()
            sys.stdout.buffer.write(message.raw + b"\n")


def _print_rows(out: Output, session_id: str, version: int, first: int, messages: Sequence[Message]) -> None:
    for number, message in enumerate(messages, first):
        parsed = message.parsed()
        role = message.role or str(parsed.get("role", ""))
        if out.json:
            out.object(ShownMessage(session_id, version, number, role, parsed.get("content")))
        else:
            out.cells(number, role, "\n".join(described(parsed)))


def _print_message(out: Output, number: int, message: Message) -> None:
    """A header, and the text between bars: a line of the content cannot look like one of ours."""
    style = {"user": "bold cyan", "assistant": "bold green"}.get(message.role, "bold")
    out.line(f"{number} {message.role or 'unreadable'}", style=style)
    for part in described(message.parsed()):
        for line in part.splitlines(keepends=True) or [""]:
            out.line(f"│ {visible(line)}")
    out.line()
