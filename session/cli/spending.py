"""`refold stats` and `refold cost`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click
import msgspec

from session.cli._address import SESSION, find_session
from session.cli._options import command
from session.cli._output import Column, bar, compact_number, money, output, progress, say
from session.cli._store import open_store
from session.cli.looking import say_unreadable
from session.spending import Spending, cache_hit_share
from session.storage.feed import EventHappened, Feed, RecordUnreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from session.cli._output import Output
    from session.spending import Line
    from session.storage.blocking import BlockingEventSessionStorage
    from session.storage.feed import Happening

_PAGE_RECORDS: Final = 512
GROUPS: Final = ("day", "model", "tool", "session")


class SpentLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was used under one `key` of the group `by` ("total", "day", "model", "tool", "session"), in so many
    `responses`. `counters` has every counter of the API by its path. `cache_hit_share` is the share of input tokens
    that was read from the cache, null without input. `cost_usd` leaves out as many responses as `unpriced` says.
    `calls`, `errors` and `seconds` are those of tools; a tool's tokens and cost are its share of the responses that
    called it.
    """

    by: str
    key: str
    responses: int
    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    cache_hit_share: float | None
    cost_usd: float
    cost_picodollars: int
    unpriced: int
    calls: int
    errors: int
    seconds: float
    counters: dict[str, int]


def _short(name: str) -> Callable[[SpentLine], str]:
    return lambda line: compact_number(getattr(line, name))


def _percent(line: SpentLine) -> str:
    return "" if line.cache_hit_share is None else f"{line.cache_hit_share:.0%}"


COST: Final = (
    Column[SpentLine]("", lambda line: line.key, whole=True),
    Column[SpentLine](
        "cost",
        lambda line: f"{line.cost_usd:.6f}",
        right=True,
        whole=True,
        shown=lambda line: money(line.cost_usd, line.unpriced),
    ),
    Column[SpentLine]("unpriced", lambda line: line.unpriced, shown=None),
)
TOKENS: Final = (
    Column[SpentLine]("input", lambda line: line.input_tokens, right=True, whole=True, shown=_short("input_tokens")),
    Column[SpentLine](
        "write",
        lambda line: line.cache_creation_input_tokens,
        right=True,
        whole=True,
        shown=_short("cache_creation_input_tokens"),
    ),
    Column[SpentLine](
        "read",
        lambda line: line.cache_read_input_tokens,
        right=True,
        whole=True,
        shown=_short("cache_read_input_tokens"),
    ),
    Column[SpentLine]("output", lambda line: line.output_tokens, right=True, whole=True, shown=_short("output_tokens")),
    Column[SpentLine]("hits", lambda line: line.cache_hit_share, right=True, whole=True, shown=_percent),
)
CALLS: Final = (
    Column[SpentLine]("calls", lambda line: line.calls, right=True, whole=True),
    Column[SpentLine]("errors", lambda line: line.errors, right=True, whole=True),
)


def _columns(out: Output, group: str, lines: Sequence[SpentLine], *, tokens: bool) -> Sequence[Column[SpentLine]]:
    most = max((line.cost_usd for line in lines), default=0.0)
    by = Column[SpentLine]("by", lambda line: line.by, shown=None)
    responses = Column[SpentLine]("responses", lambda line: line.responses, shown=None)
    chart = Column[SpentLine]("", None, style="cyan", whole=True, shown=lambda line: bar(line.cost_usd, most, 10))
    calls = CALLS if group == "tool" or not out.terminal else ()
    return (by, *COST, chart, responses, *TOKENS, *calls) if tokens else (by, *COST, chart)


_by = click.option(
    "--by", type=click.Choice(GROUPS), multiple=True, help="Beside the total, only this; may be repeated."
)
_session = click.argument("session", type=SESSION, required=False)


@command("stats", example="refold stats\nrefold stats sess_4f --by tool", prints=SpentLine)
@_session
@_by
def stats(session: str | None, by: tuple[str, ...]) -> int | None:
    """Tokens, cache hits and cost: in all, by day, model, tool and session; of one session, or of the whole store.

    Of a session: its whole history, what it has from the session it was forked from included. Of the store: each
    response once. A tool's tokens and cost are its share of the responses that called it.

    In a pipe: by, key, cost in dollars, unpriced responses, responses, tokens (input, written to the cache, read from
    the cache, output), cache hit share, calls, errors.
    """
    return _report(session, by or GROUPS, tokens=True)


@command("cost", example="refold cost\nrefold cost --by model", prints=SpentLine)
@_session
@_by
def cost(session: str | None, by: tuple[str, ...]) -> int | None:
    """What it cost: in all, by day, model and session; of one session, or of the whole store.

    In a pipe: by, key, cost in dollars, number of unpriced responses.
    """
    return _report(session, by or tuple(group for group in GROUPS if group != "tool"), tokens=False)


def _report(session: str | None, groups: Iterable[str], *, tokens: bool) -> int | None:
    unreadable: dict[str, str] = {}
    with open_store() as store:
        lines = [_line(line) for line in _spent(store, session, unreadable)]
    out = output()
    for group in ("total", *groups):
        found = [line for line in lines if line.by == group]
        if group not in {"total", "day"}:
            found.sort(key=lambda line: (-line.cost_picodollars, -line.responses, -line.calls, line.key))
        if out.terminal and found:
            out.line()
            out.line("in all" if group == "total" else f"by {group}", style="bold")
        out.rows(found, _columns(out, group, found, tokens=tokens))
    if any(line.unpriced for line in lines if line.by == "total") and not out.json:
        say("refold: some responses have no known price: their cost is left out, what is shown is a lower bound")
    return say_unreadable(unreadable)


def _spent(store: BlockingEventSessionStorage, session: str | None, unreadable: dict[str, str]) -> list[Line]:
    spending = Spending()
    if session is not None:
        session_id = find_session(store, session)
        for event in store.events(session_id):
            spending.add(session_id, event.event, event.recorded_at)
        return spending.lines()
    with progress("Reading") as step:
        for number, happened in enumerate(_everything(store)):
            if isinstance(happened, EventHappened):
                spending.add(happened.session_id, happened.stored.event, happened.stored.recorded_at)
            elif isinstance(happened, RecordUnreadable):
                unreadable[happened.session_id] = happened.reason
            if number % _PAGE_RECORDS == 0:
                step(number, None)
    return spending.lines()


def _everything(store: BlockingEventSessionStorage) -> Iterator[Happening]:
    """What happened in the whole store, each thing once: the shared past of forks where it was recorded."""
    feed = Feed(store.log)
    bookmark, page = None, feed.read(None, _PAGE_RECORDS)
    while page.bookmark != bookmark:
        yield from page.happenings
        bookmark = page.bookmark
        page = feed.read(bookmark, _PAGE_RECORDS)


def _line(line: Line) -> SpentLine:
    usage = line.usage
    return SpentLine(
        by=line.by,
        key=line.key,
        responses=line.responses,
        input_tokens=usage.input_tokens,
        cache_creation_input_tokens=usage.cache_creation_input_tokens,
        cache_read_input_tokens=usage.cache_read_input_tokens,
        output_tokens=usage.output_tokens,
        cache_hit_share=cache_hit_share(usage),
        cost_usd=usage.total_cost_usd,
        cost_picodollars=usage.cost_picodollars,
        unpriced=usage.unpriced,
        calls=line.calls,
        errors=line.errors,
        seconds=line.seconds,
        counters=dict(usage.counters),
    )
