"""The search itself: the index brought up to date, and asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, get_args

import msgspec

from session.errors import StorageUnavailableError
from session.messages import escaped
from session.search._file import IndexFile
from session.search._parts import Role
from session.search._tables import DamagedIndexError, Tables, facts_of
from session.search._words import FOUND, FOUND_END, Fragment, fragments, match_expression, terms
from session.storage.feed import Feed

if TYPE_CHECKING:
    import os
    import sqlite3
    from collections.abc import Callable
    from typing import Self

    from session.storage.blocking import BlockingEventSessionStorage

ROLES: Final[tuple[str, ...]] = get_args(Role)
DIRECTORY_SUFFIX: Final = ".search"
PAGE_RECORDS: Final = 256
BATCH_PAGES: Final = 16  # written in one transaction, which other processes wait for
SNIPPET_WORDS: Final = 24

_FOREVER: Final = 2**63 - 1

Progress: TypeAlias = "Callable[[int], None]"

_FIELDS: Final = "p.id, p.session, p.version, p.place, p.role, p.tool, p.model, p.said_at, p.is_error"
_SNIPPET: Final = f"snippet(words, 0, '{FOUND}', '{FOUND_END}', '…', {SNIPPET_WORDS})"


class Updated(msgspec.Struct, frozen=True):
    """The index was brought up to date with *records* of the log. *rebuilt*: why it had to be made from the beginning;
    "" if it had not. *unreadable* events are damaged, and cannot be found.
    """

    records: int
    rebuilt: str = ""
    unreadable: int = 0


class Hit(msgspec.Struct, frozen=True):
    """A part of a conversation that was found: what a message says, a call of a tool, a result, an error of the API.

    It is in the session at *version* (see `place`), said at *said_at* (Unix milliseconds). *tool* and *model* are ""
    where they are not known. What a fork shares with its parent is found in the parent, once; if that was deleted, in
    its oldest fork that still has it.
    """

    session_id: str
    version: int
    role: Role
    tool: str
    model: str
    said_at: int
    is_error: bool
    snippet: tuple[Fragment, ...]

    @property
    def place(self) -> str:
        """Where it is, as it is typed: `id@version`."""
        return f"{self.session_id}@{self.version}"

    @property
    def text(self) -> str:
        """The snippet as text."""
        return "".join(fragment.text for fragment in self.snippet)


class Hits(msgspec.Struct, frozen=True):
    """Some hits, newest first, and the cursor that asks for the next ones; None: there are no more. *rebuilt*: why the
    index had to be made from the beginning to find them.
    """

    items: list[Hit]
    cursor: int | None = None
    rebuilt: str = ""


class Filters(msgspec.Struct, frozen=True):
    """What a hit must be, besides having the words. Times are Unix milliseconds: *since* <= said_at < *before*.

    *model* is that of what an assistant said, of the tools it called and of their results. What others said has none.
    """

    role: str = ""
    tool: str = ""
    model: str = ""
    since: int | None = None
    before: int | None = None
    errors: bool = False


EVERYTHING: Final = Filters()


class SearchIndex:
    """A full-text index over all sessions of a store, kept in the directory *directory*, by default `<store>.search`
    beside the store: never in the log, and safe to remove, for it can be made from the log at any time.

    Several processes may use it at once; an object belongs to one thread. Everything that was said is found, what was
    rewound too, until its session is deleted. Raises `StorageUnavailableError` where the directory cannot be used.
    """

    def __init__(self, storage: BlockingEventSessionStorage, directory: str | os.PathLike[str] | None = None) -> None:
        path = storage.log.path
        self.directory: Final = Path(directory) if directory else path.with_name(path.name + DIRECTORY_SUFFIX)
        self._feed = Feed(storage.log)
        self._file = IndexFile(self.directory)

    def update(self, progress: Progress | None = None) -> Updated:
        """Take in what has happened in the log since; *progress* is told how many records were taken in so far.

        What is done stays done if it is interrupted or killed. An index that is missing, damaged, of another version of
        this package or of another log is made from the beginning.
        """
        try:
            return self._update(progress)
        except DamagedIndexError as error:
            self._file.remake(error.reason)
        try:
            return self._update(progress)
        except DamagedIndexError as error:
            raise StorageUnavailableError(str(self.directory), error.reason) from error

    def rebuild(self, progress: Progress | None = None) -> Updated:
        """Make the index from the beginning."""
        self._file.remake("it was asked for")
        return self.update(progress)

    def search(self, query: str, filters: Filters = EVERYTHING, *, limit: int = 20, cursor: int | None = None) -> Hits:
        """The newest hits, as far as `update` has got: those that have all words, "phrases" and beginnings (`exec*`) of
        *query*, and pass *filters*. A blank query finds whatever passes; one with nothing but punctuation, nothing.

        Any text is a query: nothing in it is a syntax error. *cursor* is that of the hits before. Raises `ValueError`
        for a role that is none of `ROLES`.
        """
        if filters.role and filters.role not in ROLES:
            raise ValueError(f"no role: {filters.role!r:.40}; one of {', '.join(ROLES)}")
        asked = terms(query)
        if (query.strip() and not asked) or limit < 1:
            return Hits([])
        expression = match_expression(asked, facts_of(filters.role, filters.tool, is_error=filters.errors))
        statement, values = _selection(expression, filters, cursor)
        values.append(limit + 1)
        try:
            return self._file.run(lambda connection: _hits(connection, statement, values, limit))
        except DamagedIndexError as error:
            self._file.remake(error.reason)
        rebuilt = self.update().rebuilt
        try:
            found = self._file.run(lambda connection: _hits(connection, statement, values, limit))
        except DamagedIndexError as error:
            raise StorageUnavailableError(str(self.directory), error.reason) from error
        return msgspec.structs.replace(found, rebuilt=rebuilt)

    def close(self) -> None:
        """Let go of the index. Closing twice is fine."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {str(self.directory)!r}>"

    # --- keeping it current -------------------------------------------------------------------------------------------

    def _update(self, progress: Progress | None) -> Updated:
        if not self._is_of_this_log():
            self._file.remake("it belonged to another log, or to a later state of this one")
        records = 0
        while (taken := self._take_in()) is not None:
            records += taken
            if progress:
                progress(records)
        unreadable = self._file.run(lambda connection: Tables(connection).unreadable())
        rebuilt, self._file.made_because = self._file.made_because, ""
        return Updated(records, rebuilt, unreadable)

    def _is_of_this_log(self) -> bool:
        bookmark = self._file.run(lambda connection: Tables(connection).bookmark())
        return bookmark is None or self._feed.holds(bookmark)

    def _take_in(self) -> int | None:
        """How many records were taken in, in one transaction; None: there are no more."""
        bookmark = self._file.run(lambda connection: Tables(connection).bookmark())
        if self._feed.read(bookmark, 1).bookmark == bookmark:
            return None  # known without a writer's lock
        return self._file.run(self._take_in_batch, write=True)

    def _take_in_batch(self, connection: sqlite3.Connection) -> int:
        tables, taken = Tables(connection), 0
        bookmark = tables.bookmark()  # somebody else may have been here meanwhile
        for _ in range(BATCH_PAGES):
            page = self._feed.read(bookmark, PAGE_RECORDS)
            if page.bookmark is None or page.bookmark == bookmark:
                break
            for happening in page.happenings:
                tables.apply(happening)
            bookmark, taken = page.bookmark, taken + len(page.happenings)
            tables.set_bookmark(bookmark)
        return taken


def _selection(expression: str, filters: Filters, cursor: int | None) -> tuple[str, list[object]]:
    conditions: dict[str, object] = {
        "words match ?": expression or None,
        "p.id < ?": cursor,
        "p.model = ?": escaped(filters.model) or None,
        "p.said_at >= ?": _bounded(filters.since),
        "p.said_at < ?": _bounded(filters.before),
    }
    chosen = {condition: value for condition, value in conditions.items() if value is not None}
    where = f"where {' and '.join(chosen)}" if chosen else ""
    # In this order: a plan that begins with the parts would look each of them up in the words.
    source, newest = ("words cross join parts p", "words.rowid") if expression else ("parts p cross join words", "p.id")
    return (
        f"select {_FIELDS}, {_SNIPPET} from {source} on words.rowid = p.id {where}"  # noqa: S608 - our own texts
        f" order by {newest} desc limit ?"
    ), [*chosen.values()]


def _bounded(milliseconds: int | None) -> int | None:
    """A time as SQLite takes it: what lies beyond its integers lies beyond every time."""
    return None if milliseconds is None else max(-_FOREVER, min(milliseconds, _FOREVER))


def _hits(connection: sqlite3.Connection, statement: str, values: list[object], limit: int) -> Hits:
    tables, rows = Tables(connection), connection.execute(statement, values).fetchall()
    items = [_hit(tables, row) for row in rows[:limit]]
    return Hits(items, rows[limit - 1][0] if len(rows) > limit else None)


def _hit(tables: Tables, row: tuple[Any, ...]) -> Hit:
    _, session, version, place, role, tool, model, said_at, is_error, snippet = row
    holder = tables.living(session, version)
    return Hit(holder, place, role, tool, model, said_at, bool(is_error), fragments(snippet))
