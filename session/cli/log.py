"""`refold log` and `refold tail`: the events of a session."""

from __future__ import annotations

import contextlib
from itertools import islice
from typing import TYPE_CHECKING, Final

import click
import msgspec

from session.cli._address import PLACE, SESSION, find_place, find_session
from session.cli._events import outline
from session.cli._options import COUNT, command
from session.cli._output import Column, output, when
from session.cli._store import open_store
from session.cli._visible import shortened
from session.places import HEAD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from session.cli._output import Output
    from session.events import StoredEvent
    from session.storage.blocking import BlockingEventSessionStorage

_DIGEST_CHARACTERS: Final = 8
_OUTLINE_CHARACTERS: Final = 200


class LoggedEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An event. `recorded_at` is in Unix milliseconds, `digest` is hexadecimal and commits to all events before it."""

    session: str
    version: int
    recorded_at: int
    type: str
    outline: str
    digest: str
    actor: str
    correlation_id: str
    causation_id: str
    more: dict[str, str]


COLUMNS: Final = (
    Column[LoggedEvent]("version", lambda event: event.version, right=True, whole=True),
    Column[LoggedEvent](
        "recorded", lambda event: when(event.recorded_at), shown=lambda event: when(event.recorded_at)[:19], whole=True
    ),
    Column[LoggedEvent](
        "digest", lambda event: event.digest, shown=lambda event: event.digest[:_DIGEST_CHARACTERS], whole=True
    ),
    Column[LoggedEvent]("type", lambda event: event.type, whole=True),
    Column[LoggedEvent]("actor", lambda event: event.actor),
    Column[LoggedEvent]("what", lambda event: event.outline),
)


@command("log", example="refold log sess_4f --limit 20\nrefold log sess_4f@turn:3 | cut -f1,4", prints=LoggedEvent)
@click.argument("place", type=PLACE)
@click.option("--after", metavar="VERSION", default=0, type=COUNT, help="Only those behind this version.")
@click.option("--limit", metavar="N", type=COUNT, help="At most so many.")
@click.option("--newest", is_flag=True, help="Newest first.")
def log(place: str, after: int, limit: int | None, *, newest: bool) -> None:
    """The events of a session up to PLACE, with their times and digests: the audit trail.

    In a pipe: version, time, digest, type, actor and what happened, separated by tabs.
    """
    with open_store() as store:
        found = find_place(store, place)
        upto = store.version_at(found.session_id, found.at)
        events = store.events(found.session_id, after=after, upto=upto, reverse=newest)
        output().rows((_logged(found.session_id, event) for event in islice(events, limit)), COLUMNS)


@command("tail", example="refold tail sess_4f -n 5\nrefold tail -f sess_4f", prints=LoggedEvent)
@click.argument("session", type=SESSION)
@click.option("-n", "--lines", default=10, show_default=True, type=COUNT, help="So many events.")
@click.option("-f", "--follow", is_flag=True, help="Wait for more, until Ctrl-C or the session is deleted.")
def tail(session: str, lines: int, *, follow: bool) -> None:
    """The newest events of a session; with -f also each new one, by any process, as it is recorded.

    In a pipe: as `refold log`.
    """
    with open_store() as store:
        session_id = find_session(store, session)
        out = output()
        events = (_logged(session_id, event) for event in _tail(store, session_id, lines, follow=follow))
        if not follow:
            out.rows(events, COLUMNS)
            return
        with contextlib.suppress(KeyboardInterrupt):
            for event in events:
                _print_at_once(out, event)


def _print_at_once(out: Output, event: LoggedEvent) -> None:
    if out.json:
        out.object(event, flush=True)
    else:
        out.cells(*(column.cell(event) for column in COLUMNS if column.cell), flush=True)


def _tail(store: BlockingEventSessionStorage, session_id: str, lines: int, *, follow: bool) -> Iterator[StoredEvent]:
    newest = list(islice(store.events(session_id, reverse=True), lines))[::-1]
    yield from newest
    if follow:
        after = newest[-1].version if newest else store.version_at(session_id, HEAD)
        yield from store.follow(session_id, after=after)


def _logged(session_id: str, stored: StoredEvent) -> LoggedEvent:
    return LoggedEvent(
        session=session_id,
        version=stored.version,
        recorded_at=stored.recorded_at,
        type=stored.type,
        outline=shortened(outline(stored.event), _OUTLINE_CHARACTERS),
        digest=stored.digest.hex(),
        actor=stored.meta.actor,
        correlation_id=stored.meta.correlation_id,
        causation_id=stored.meta.causation_id,
        more=stored.meta.more,
    )
