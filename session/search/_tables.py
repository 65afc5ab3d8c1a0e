"""The tables of the index, and how each happening in the log changes them. Whoever calls holds the transaction.

1. `sessions`: a row per session that was seen, in log order. `needed`: up to which version of its lineage the living
   need it, once it is deleted (NULL: it lives). `reach`: up to which version of its parent.
2. `parts`: a row per part (see `_parts`), under the session to which its event was appended. What nobody living needs
   is deleted: the rule is the one by which the log erases.
3. `words`: the full text, `rowid` the part's id. `facts` are words too: role, tool, error.
4. `request` holds the blocks of a running response together, until it is complete: then `place` is the version at which
   they are in the conversation, and `model` known.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final, assert_never

import msgspec

from session.events import (
    BlockReceived,
    HistoryRewound,
    MessageAppended,
    PromptChanged,
    RequestSent,
    ResponseInterrupted,
    ResponseReceived,
    UsageRecorded,
)
from session.messages import escaped
from session.search._parts import Part, parts_of
from session.search._words import as_indexed, pieces
from session.storage.feed import Bookmark, EventHappened, ForkMade, RecordUnreadable, SessionDeleted

if TYPE_CHECKING:
    import sqlite3

    from session.events import StoredEvent
    from session.storage.feed import Happening

REVISION: Final = 1
"""Raised by one whenever the same log would give other tables: older files are then rebuilt."""

_MAX_INTEGER: Final = 2**63 - 1  # of SQLite

SCHEMA: Final = (
    "create table bookmark (only integer primary key check (only = 1), value blob not null)",
    """create table sessions (
        id integer primary key, name text not null unique, parent integer, forked_at integer not null default 0,
        needed integer, reach integer not null default 0, model text not null default '',
        unreadable integer not null default 0)""",
    "create index forks on sessions (parent, reach) where parent is not null",
    """create table parts (
        id integer primary key, session integer not null, version integer not null, place integer not null,
        request text, role text not null, tool text not null, call text, model text not null, said_at integer not null,
        is_error integer not null)""",
    "create index of_session on parts (session, version)",
    "create index calls on parts (call, session) where call is not null",
    "create index running on parts (session, request) where request is not null",
    "create virtual table words using fts5(text, facts, tokenize = 'unicode61 remove_diacritics 2')",
)


class DamagedIndexError(Exception):
    """The file is no index of ours, or is damaged: it has to be made anew. Never leaves this package."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Tables:
    """The tables behind a connection, which is in a transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._execute = connection.execute

    def bookmark(self) -> Bookmark | None:
        """How far the log was read."""
        row = self._row("select value from bookmark")
        try:
            return msgspec.msgpack.decode(row[0], type=Bookmark) if row else None
        except (TypeError, msgspec.MsgspecError) as error:
            raise DamagedIndexError("its bookmark was damaged") from error

    def set_bookmark(self, bookmark: Bookmark) -> None:
        """The log was read up to here."""
        self._execute("insert or replace into bookmark values (1, ?)", (msgspec.msgpack.encode(bookmark),))

    def apply(self, happening: Happening) -> None:
        """*happening* came next in the log."""
        match happening:
            case EventHappened(session_id, stored):
                self._event(self._session(session_id), stored)
            case ForkMade(session_id, parent_id, at):
                child, parent = self._session(session_id), self._session(parent_id)
                self._execute(
                    "update sessions set parent = ?, forked_at = ?, reach = ? where id = ?", (parent, at, at, child)
                )
            case SessionDeleted(session_id):
                self._deleted(self._session(session_id))
            case RecordUnreadable(session_id):
                session = self._session(session_id)  # "" where the damage hides whose it is
                self._execute("update sessions set unreadable = unreadable + 1 where id = ?", (session,))
            case _:
                assert_never(happening)

    def unreadable(self) -> int:
        """How many events of living sessions could not be read."""
        return int(self._value("select coalesce(sum(unreadable), 0) from sessions where needed is null") or 0)

    def living(self, session: int, version: int) -> str:
        """The session in whose lineage this part is: the one it was said in or, if that was deleted, the oldest of its
        forks that still have it.
        """
        while True:
            name, needed = self._row("select name, needed from sessions where id = ?", session) or ("", None)
            if needed is None:
                return str(name)
            heir = self._value(
                "select id from sessions where parent = ? and reach >= ? order by id limit 1", session, version
            )
            if heir is None:  # what nobody needs was deleted
                raise DamagedIndexError("it was damaged (a part that belongs to no session)")
            session = heir

    # --- events -------------------------------------------------------------------------------------------------------

    def _event(self, session: int, stored: StoredEvent) -> None:
        event = stored.event
        self._learn_model(session, stored)
        match event:
            case RequestSent() | ResponseInterrupted():
                self._settle(session, event.request_id)
            case HistoryRewound():
                self._execute("update parts set request = null where session = ? and request is not null", (session,))
            case ResponseReceived():
                self._complete(session, stored.version, event)
        for part in parts_of(event):
            self._add(session, stored, part)

    def _learn_model(self, session: int, stored: StoredEvent) -> None:
        match stored.event:
            case PromptChanged(model=str(model)) | UsageRecorded(model=model) | ResponseReceived(model=model):
                if model:
                    self._execute(
                        "update sessions set model = ? where id = ? and model <> ?", (escaped(model), session, model)
                    )

    def _settle(self, session: int, request_id: str) -> None:
        """The blocks of this attempt will not become a message."""
        self._execute("update parts set request = null where session = ? and request = ?", (session, request_id))

    def _complete(self, session: int, version: int, event: ResponseReceived) -> None:
        self._execute(
            "update parts set place = ?, model = ?, request = null where session = ? and request = ?",
            (version, event.model, session, event.request_id),
        )

    def _add(self, session: int, stored: StoredEvent, part: Part) -> None:
        event = stored.event
        tool, model = part.tool, self._model(session) if part.role == "assistant" else ""
        if part.answers:
            tool, model = self._caller(session, stored.version, escaped(part.answers))
        request = event.request_id if isinstance(event, BlockReceived) else None
        call = escaped(part.call) or None
        facts = " ".join(facts_of(part.role, tool, is_error=part.is_error))
        for piece in list(pieces(part.text)) or [""]:
            number = self._execute(
                "insert into parts values (null, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (session, stored.version, stored.version, request, part.role, escaped(tool), call, model,
                 _said_at(stored), part.is_error),
            ).lastrowid  # fmt: skip
            self._execute("insert into words (rowid, text, facts) values (?, ?, ?)", (number, as_indexed(piece), facts))

    def _model(self, session: int) -> str:
        return str(self._value("select model from sessions where id = ?", session))

    def _caller(self, session: int, version: int, call: str) -> tuple[str, str]:
        """Tool and model of the call with this id, the newest before *version* in the lineage."""
        at: int | None = session
        while at is not None and call:
            row = self._row(
                "select tool, model from parts where call = ? and session = ? and version <= ?"
                " order by id desc limit 1",
                call, at, version,
            )  # fmt: skip
            if row:
                return str(row[0]), str(row[1])
            above = self._row("select parent, forked_at from sessions where id = ?", at)
            at, version = (above[0], min(version, above[1])) if above else (None, 0)
        return "", ""

    # --- sessions -----------------------------------------------------------------------------------------------------

    def _session(self, name: str) -> int:
        found = self._value("select id from sessions where name = ?", name)
        if found is None:
            return int(self._execute("insert into sessions (name) values (?)", (name,)).lastrowid or 0)
        return int(found)

    def _deleted(self, session: int | None) -> None:
        """Forget what nobody living needs, here and in the deleted sessions it came from."""
        while session is not None:
            needed = int(self._value("select coalesce(max(reach), 0) from sessions where parent = ?", session) or 0)
            self._forget(session, needed)
            self._execute(
                "update sessions set needed = ?, reach = min(forked_at, ?) where id = ?", (needed, needed, session)
            )
            session = self._value(
                "select above.id from sessions own join sessions above on above.id = own.parent"
                " where own.id = ? and above.needed is not null",
                session,
            )

    def _forget(self, session: int, needed: int) -> None:
        gone = "select id from parts where session = ? and version > ?"
        self._execute(f"delete from words where rowid in ({gone})", (session, needed))  # noqa: S608 - our own text
        self._execute("delete from parts where session = ? and version > ?", (session, needed))

    # --- rows ---------------------------------------------------------------------------------------------------------

    def _row(self, statement: str, *values: object) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self._execute(statement, values).fetchone()
        return row

    def _value(self, statement: str, *values: object) -> Any:  # noqa: ANN401 - a column of any type
        row = self._row(statement, *values)
        return row[0] if row else None


def _said_at(stored: StoredEvent) -> int:
    event = stored.event
    said_at = event.said_at if isinstance(event, MessageAppended) else 0
    return said_at if 0 < said_at <= _MAX_INTEGER else stored.recorded_at


def facts_of(role: str = "", tool: str = "", *, is_error: bool = False) -> list[str]:
    """The words that stand for these facts: a name of any characters is one word."""
    found = [f"role{role}"] if role else []
    if tool:
        found.append("tool" + hashlib.sha256(escaped(tool).encode()).hexdigest()[:32])
    return [*found, "iserror"] if is_error else found
